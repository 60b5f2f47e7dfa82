//! A JSON Web Key Set (RFC 7517 §5) made into usable keys.
//!
//! Only what verifies is read: a private key's secret numbers are never looked at. A key that can not be used is left
//! out with a reason; the others work.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use crate::algorithm::{KeyKind, SignatureAlgorithm};
use crate::secret::SECRET_BYTES_MIN;

/// The cryptography library verifies RSA from this size on: 2048 bits.
const RSA_BYTES_MIN: usize = 256;

/// The keys of a set that can verify tokens, in the order of the set.
#[derive(Default)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// Why the other keys were left out, one sentence part per key. Contains no key material.
    pub(crate) unusable: Vec<String>,
}

struct Key {
    id: String,
    kind: KeyKind,
    /// `alg`: where it is given, the key serves no other algorithm (RFC 7517 §4.4).
    algorithm: Option<SignatureAlgorithm>,
    verifying: DecodingKey,
}

impl KeySet {
    /// Reads `{"keys":[…]}`. The error says what was expected instead of what is there.
    pub(crate) fn parse(json: &str) -> Result<Self, String> {
        let document: Value =
            serde_json::from_str(json).map_err(|error| format!("it is not JSON ({error})"))?;
        let Some(Value::Array(entries)) = document.get("keys") else {
            return Err("it is not an object with a list `keys`".to_owned());
        };
        let mut set = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            match key(entry) {
                Ok(key) => set.keys.push(key),
                Err(reason) => set.unusable.push(describe(index, entry, &reason)),
            }
        }
        Ok(set)
    }

    /// The keys with this id that may be used with this algorithm. Ids are not always unique.
    pub(crate) fn matching(
        &self,
        id: &str,
        algorithm: SignatureAlgorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        self.keys
            .iter()
            .filter(move |key| {
                key.id == id
                    && key.kind == algorithm.key_kind
                    && key.algorithm.is_none_or(|declared| declared == algorithm)
            })
            .map(|key| &key.verifying)
    }

    /// No key of the set can verify anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

fn describe(index: usize, entry: &Value, reason: &str) -> String {
    match entry.get("kid").and_then(Value::as_str) {
        Some(id) => format!("key {id:?} {reason}"),
        None => format!("key number {} {reason}", index + 1),
    }
}

fn key(entry: &Value) -> Result<Key, String> {
    let fields = entry.as_object().ok_or("is not a JSON object")?;
    let id = text(fields, "kid")?.to_owned();
    if fields.get("use").is_some_and(|purpose| purpose != "sig") {
        return Err("is not for signatures (`use`)".to_owned());
    }
    let (kind, verifying) = match text(fields, "kty")? {
        "oct" => octets(fields)?,
        "RSA" => rsa(fields)?,
        "EC" => elliptic_curve(fields)?,
        "OKP" => octet_key_pair(fields)?,
        other => return Err(format!("has the unknown type {other:?} (`kty`)")),
    };
    let algorithm = match fields.get("alg") {
        None => None,
        Some(name) => Some(
            name.as_str()
                .and_then(SignatureAlgorithm::named)
                .filter(|algorithm| algorithm.key_kind == kind)
                .ok_or("declares an algorithm (`alg`) that is not accepted for its type")?,
        ),
    };
    Ok(Key { id, kind, algorithm, verifying })
}

fn octets(fields: &Map<String, Value>) -> Result<(KeyKind, DecodingKey), String> {
    let secret = bytes(fields, "k")?;
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!("has {} secret bytes (`k`) where at least 32 are needed", secret.len()));
    }
    Ok((KeyKind::Octets, DecodingKey::from_secret(&secret)))
}

fn rsa(fields: &Map<String, Value>) -> Result<(KeyKind, DecodingKey), String> {
    let (modulus, exponent) = (bytes(fields, "n")?, bytes(fields, "e")?);
    let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
    if significant < RSA_BYTES_MIN || exponent.is_empty() {
        return Err(format!("has an RSA modulus of {} bits where at least 2048 are needed", significant * 8));
    }
    Ok((KeyKind::Rsa, DecodingKey::from_rsa_raw_components(&modulus, &exponent)))
}

fn elliptic_curve(fields: &Map<String, Value>) -> Result<(KeyKind, DecodingKey), String> {
    let (kind, length) = match text(fields, "crv")? {
        "P-256" => (KeyKind::P256, 32),
        "P-384" => (KeyKind::P384, 48),
        other => return Err(format!("has the unsupported curve {other:?} (`crv`)")),
    };
    for coordinate in ["x", "y"] {
        exactly(&bytes(fields, coordinate)?, length, coordinate)?;
    }
    let verifying = DecodingKey::from_ec_components(text(fields, "x")?, text(fields, "y")?)
        .map_err(|error| format!("is not a point on its curve ({error})"))?;
    Ok((kind, verifying))
}

fn octet_key_pair(fields: &Map<String, Value>) -> Result<(KeyKind, DecodingKey), String> {
    match text(fields, "crv")? {
        "Ed25519" => {}
        other => return Err(format!("has the unsupported curve {other:?} (`crv`)")),
    }
    let public = bytes(fields, "x")?;
    exactly(&public, 32, "x")?;
    // For this family the library's "DER" is the bare public key (RFC 8032 §5.1.5).
    Ok((KeyKind::Ed25519, DecodingKey::from_ed_der(&public)))
}

fn exactly(bytes: &[u8], length: usize, field: &str) -> Result<(), String> {
    if bytes.len() == length {
        return Ok(());
    }
    Err(format!("has {} bytes in `{field}` where its curve has {length}", bytes.len()))
}

fn text<'a>(fields: &'a Map<String, Value>, field: &str) -> Result<&'a str, String> {
    fields.get(field).and_then(Value::as_str).ok_or_else(|| format!("has no text in `{field}`"))
}

fn bytes(fields: &Map<String, Value>, field: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD
        .decode(text(fields, field)?)
        .map_err(|_| format!("has something else than base64url without padding in `{field}`"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reasons(entry: &Value) -> Vec<String> {
        let set = KeySet::parse(&json!({"keys": [entry]}).to_string()).unwrap();
        assert!(set.is_empty(), "{entry}");
        set.unusable
    }

    #[test]
    fn a_text_that_is_no_key_set_is_refused_with_what_was_expected() {
        for json in ["", "[]", "{}", r#"{"keys":{}}"#, "null"] {
            assert!(KeySet::parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn an_unusable_key_is_left_out_with_a_reason_and_the_others_work() {
        let secret = URL_SAFE_NO_PAD.encode([7; 32]);
        let set = KeySet::parse(
            &json!({"keys": [
                {"kid": "curve", "kty": "OKP", "crv": "Ed448", "x": "AAAA"},
                {"kid": "good", "kty": "oct", "k": secret},
            ]})
            .to_string(),
        )
        .unwrap();
        let hs256 = SignatureAlgorithm::named("HS256").unwrap();
        assert_eq!(set.matching("good", hs256).count(), 1);
        assert_eq!(set.unusable, ["key \"curve\" has the unsupported curve \"Ed448\" (`crv`)"]);
    }

    #[test]
    fn every_kind_of_bad_key_has_its_reason() {
        let zeros = URL_SAFE_NO_PAD.encode([0; 300]);
        for (entry, wanted) in [
            (json!(7), "is not a JSON object"),
            (json!({"kty": "oct"}), "has no text in `kid`"),
            (json!({"kid": "a"}), "has no text in `kty`"),
            (json!({"kid": "a", "kty": "dsa"}), "unknown type"),
            (json!({"kid": "a", "kty": "oct", "k": "AAAA"}), "at least 32"),
            (json!({"kid": "a", "kty": "oct", "k": "+++"}), "base64url"),
            (json!({"kid": "a", "kty": "oct", "k": "AAAA", "use": "enc"}), "not for signatures"),
            (json!({"kid": "a", "kty": "RSA", "n": "AAAA", "e": "AQAB"}), "at least 2048"),
            (json!({"kid": "a", "kty": "RSA", "n": zeros, "e": "AQAB"}), "modulus of 0 bits"),
            (json!({"kid": "a", "kty": "EC", "crv": "secp256k1"}), "unsupported curve"),
            (json!({"kid": "a", "kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}), "3 bytes in `x`"),
            (json!({"kid": "a", "kty": "OKP", "crv": "Ed25519", "x": "AAAA"}), "3 bytes in `x`"),
        ] {
            let found = reasons(&entry);
            assert!(found[0].contains(wanted), "{entry}: {found:?}");
        }
    }

    #[test]
    fn a_declared_algorithm_binds_the_key_to_it() {
        let secret = URL_SAFE_NO_PAD.encode([7; 64]);
        let set = KeySet::parse(
            &json!({"keys": [{"kid": "a", "kty": "oct", "k": secret, "alg": "HS512"}]}).to_string(),
        )
        .unwrap();
        let count = |name: &str| set.matching("a", SignatureAlgorithm::named(name).unwrap()).count();
        assert_eq!((count("HS512"), count("HS256"), count("RS256")), (1, 0, 0));
        assert!(
            reasons(&json!({"kid": "a", "kty": "oct", "k": secret, "alg": "RS256"}))[0].contains("`alg`")
        );
    }
}
