//! Making tokens, for `walcast dev`, `walcast token` and tests. Production tokens come from the project's own issuer.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::Value;

/// A token could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the token can not be signed: {0}")]
pub struct SigningError(#[from] jsonwebtoken::errors::Error);

/// Signs claims with HS256 under the bytes of `secret`, as the verifier reads it. The claims are taken as they are:
/// a token without `role` and `exp` will be refused by [`crate::Verifier`].
pub fn sign(claims: &Value, secret: &str) -> Result<String, SigningError> {
    let key = EncodingKey::from_secret(secret.as_bytes());
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key)?)
}
