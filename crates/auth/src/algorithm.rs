//! Which signature algorithms are accepted, and the one kind of key each may be used with.
//!
//! A key is chosen by its kind as well as by its id, so a token can never turn a public key into an HMAC secret
//! (RFC 8725 §3.1).

use jsonwebtoken::Algorithm;

/// A kind of key, as narrow as an algorithm needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// Shared secret, `kty` `oct`.
    Octets,
    /// RSA public key.
    Rsa,
    /// Point on the NIST curve P-256.
    P256,
    /// Point on the NIST curve P-384.
    P384,
    /// Ed25519 public key.
    Ed25519,
}

/// An accepted value of the header field `alg` (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignatureAlgorithm {
    /// What the cryptography library calls it.
    pub(crate) library: Algorithm,
    /// The only kind of key it may be used with.
    pub(crate) key_kind: KeyKind,
}

impl SignatureAlgorithm {
    /// The algorithm of this name, or `None` when it is not accepted (`none`, `PS256`, `ES512`, `Ed448`, …).
    pub(crate) fn named(name: &str) -> Option<Self> {
        let (library, key_kind) = match name {
            "HS256" => (Algorithm::HS256, KeyKind::Octets),
            "HS384" => (Algorithm::HS384, KeyKind::Octets),
            "HS512" => (Algorithm::HS512, KeyKind::Octets),
            "RS256" => (Algorithm::RS256, KeyKind::Rsa),
            "RS384" => (Algorithm::RS384, KeyKind::Rsa),
            "RS512" => (Algorithm::RS512, KeyKind::Rsa),
            "ES256" => (Algorithm::ES256, KeyKind::P256),
            "ES384" => (Algorithm::ES384, KeyKind::P384),
            "EdDSA" | "Ed25519" => (Algorithm::EdDSA, KeyKind::Ed25519),
            _ => return None,
        };
        Some(Self { library, key_kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listed_names_are_algorithms() {
        for name in ["none", "None", "", "hs256", "PS256", "ES512", "ES256K", "Ed448", "RSA-OAEP", "dir"] {
            assert_eq!(SignatureAlgorithm::named(name), None, "{name}");
        }
    }

    #[test]
    fn both_names_of_ed25519_mean_the_same() {
        assert_eq!(SignatureAlgorithm::named("EdDSA"), SignatureAlgorithm::named("Ed25519"));
    }
}
