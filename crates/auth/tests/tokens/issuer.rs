//! Signs tokens with keys made for the test, independently of the code that verifies them.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use walcast_auth::{JwksSource, Verifier, VerifierSettings};

/// The time of every test, in Unix seconds.
pub(crate) const NOW: f64 = 1_700_000_000.0;

pub(crate) enum Key {
    Octets(Vec<u8>),
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    pub(crate) fn octets() -> Self {
        let mut bytes = vec![0; 64];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        Self::Octets(bytes)
    }

    pub(crate) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    /// The public key, or the shared secret, as a JSON Web Key.
    pub(crate) fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Octets(bytes) => json!({"kid": id, "kty": "oct", "k": text(bytes)}),
            Self::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kid": id, "kty": "RSA", "n": text(&public.n), "e": text(&public.e)})
            }
            Self::P256(pair) => point(id, "P-256", pair.public_key().as_ref()),
            Self::P384(pair) => point(id, "P-384", pair.public_key().as_ref()),
            Self::Ed25519(pair) => {
                json!({"kid": id, "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
        }
    }

    /// A token with this header and payload, signed as its `alg` says.
    pub(crate) fn sign(&self, header: &Value, payload: &Value) -> String {
        let algorithm = header["alg"].as_str().unwrap();
        let message = format!("{}.{}", text(header.to_string()), text(payload.to_string()));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Octets(bytes) => return sign_with_secret(bytes, header, payload),
            Self::Rsa(pair) => {
                let encoding: &'static dyn signature::RsaEncoding = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    other => panic!("no RSA algorithm: {other}"),
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Self::P256(pair) | Self::P384(pair) => {
                pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec()
            }
            Self::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", text(signature))
    }

    /// The public key in DER, for the attack that uses it as an HMAC secret.
    pub(crate) fn public_der(&self) -> Vec<u8> {
        let Self::Rsa(pair) = self else { panic!("an RSA key") };
        pair.public_key().as_der().unwrap().as_ref().to_vec()
    }
}

/// Signs with HS256, HS384 or HS512 under any bytes.
pub(crate) fn sign_with_secret(secret: &[u8], header: &Value, payload: &Value) -> String {
    let algorithm = match header["alg"].as_str().unwrap() {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        other => panic!("no HMAC algorithm: {other}"),
    };
    let message = format!("{}.{}", text(header.to_string()), text(payload.to_string()));
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes());
    format!("{message}.{}", text(tag))
}

/// The key set of these keys as JSON text.
pub(crate) fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A verifier with an optional secret and the key set of these keys.
pub(crate) fn verifier(secret: Option<&str>, keys: &[Value]) -> Verifier {
    let settings = VerifierSettings {
        secret: secret.map(Into::into),
        jwks: Some(JwksSource::Inline(key_set(keys))),
        ..VerifierSettings::default()
    };
    Verifier::new(settings).unwrap()
}

/// Claims that pass.
pub(crate) fn payload() -> Value {
    json!({"role": "authenticated", "sub": "u1", "exp": 1_700_000_600})
}

pub(crate) fn text(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn point(id: &str, curve: &str, uncompressed: &[u8]) -> Value {
    let (x, y) = uncompressed[1..].split_at(uncompressed.len() / 2);
    json!({"kid": id, "kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
}
