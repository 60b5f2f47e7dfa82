//! The `tls-server-end-point` channel binding (RFC 5929 §4.1): a digest of the server's certificate, by the hash
//! function of the certificate's own signature, that both ends put into the SCRAM exchange. Whoever sits in between
//! has another certificate and so another digest.

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::ContextSpecific;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode as _, SliceReader, TagNumber};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// The digest of a certificate, or none where its signature names no hash function (Ed25519) or one we do not have.
pub(crate) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let digest = match hash_of(&parsed.signature_algorithm)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    };
    Some(digest)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

// Raised to SHA-256 by RFC 5929, as MD5 and SHA-1 are no hash functions to rely on.
const RSA_MD5: &str = "1.2.840.113549.1.1.4";
const RSA_SHA1: &str = "1.2.840.113549.1.1.5";
const ECDSA_SHA1: &str = "1.2.840.10045.4.1";
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

fn hash_of(signature: &AlgorithmIdentifierOwned) -> Option<Hash> {
    if signature.oid == RSA_PSS {
        return hash_of_rsa_pss(signature);
    }
    // RFC 3279, 4055 and 5758.
    match signature.oid.to_string().as_str() {
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Some(Hash::Sha224),
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" | RSA_MD5 | RSA_SHA1 | ECDSA_SHA1 => {
            Some(Hash::Sha256)
        }
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Hash::Sha384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Hash::Sha512),
        _ => None,
    }
}

/// RSASSA-PSS names its hash in the parameters, whose first field defaults to SHA-1 (RFC 4055 §3.1).
fn hash_of_rsa_pss(signature: &AlgorithmIdentifierOwned) -> Option<Hash> {
    let parameters = signature.parameters.as_ref()?;
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    let hash: Option<ContextSpecific<AlgorithmIdentifierOwned>> =
        ContextSpecific::decode_explicit(&mut reader, TagNumber::N0).ok()?;
    let Some(hash) = hash else {
        return Some(Hash::Sha256);
    };
    match hash.value.oid.to_string().as_str() {
        "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(Hash::Sha256),
        "2.16.840.1.101.3.4.2.4" => Some(Hash::Sha224),
        "2.16.840.1.101.3.4.2.2" => Some(Hash::Sha384),
        "2.16.840.1.101.3.4.2.3" => Some(Hash::Sha512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn algorithm(der: &[u8]) -> AlgorithmIdentifierOwned {
        AlgorithmIdentifierOwned::from_der(der).unwrap()
    }

    #[test]
    fn the_hash_is_the_one_of_the_signature_with_sha1_raised() {
        let sha1_rsa = algorithm(b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\x00");
        let sha512_rsa = algorithm(b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d\x05\x00");
        let ecdsa_sha384 = algorithm(b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03");
        assert_eq!(hash_of(&sha1_rsa), Some(Hash::Sha256));
        assert_eq!(hash_of(&sha512_rsa), Some(Hash::Sha512));
        assert_eq!(hash_of(&ecdsa_sha384), Some(Hash::Sha384));
    }

    #[test]
    fn ed25519_has_no_hash_and_so_no_binding() {
        assert_eq!(hash_of(&algorithm(b"\x30\x05\x06\x03\x2b\x65\x70")), None);
    }

    #[test]
    fn rsa_pss_names_its_hash_in_the_parameters() {
        let sha384 = b"\x30\x1c\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x0f\
                       \xa0\x0d\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02";
        assert_eq!(hash_of(&algorithm(sha384)), Some(Hash::Sha384));
        let defaults = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x00";
        assert_eq!(hash_of(&algorithm(defaults)), Some(Hash::Sha256));
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_binding() {
        assert_eq!(server_end_point(&CertificateDer::from(&b"junk"[..])), None);
    }
}
