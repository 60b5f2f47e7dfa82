//! Tokens of operations: who may look after projects and users, and who may read metrics (docs/protocol.md §11.2).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde_json::Value;

use crate::error::{KeyError, TokenError};
use crate::secret::Secret;
use crate::verifier::{Verifier, VerifierSettings};

/// The role whose tokens are an operator's where operators and users share a secret.
const SERVICE_ROLE: &str = "service_role";

/// What tokens of operations are verified with.
#[derive(Debug, Clone, Default)]
pub struct OperatorSettings {
    /// Secrets of the HS algorithms; a token of any of them is good, so that one can be replaced by the next.
    pub secrets: Vec<Secret>,
    /// Tokens that are refused although they verify.
    pub blocked: Vec<Secret>,
    /// Secrets that also sign the tokens of users. Whoever shows a token of one of these is an operator only with
    /// the role `service_role`: upstream's stock stack has one secret for both.
    pub shared_with_users: Vec<Secret>,
}

/// Verifies tokens of operations. Without a secret no token is good.
pub struct OperatorKeys {
    keys: Vec<OperatorKey>,
    blocked: Vec<Vec<u8>>,
}

struct OperatorKey {
    verifier: Verifier,
    shared: bool,
}

/// What the bearer of a verified token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything.
    Operator,
    /// The token may be a user's: nothing but what is no secret, such as whether a project is well.
    User,
}

impl OperatorKeys {
    /// Takes the settings apart.
    ///
    /// # Errors
    /// A secret is empty.
    pub fn new(settings: &OperatorSettings) -> Result<Self, KeyError> {
        let key = |secret: &Secret| {
            let verifier =
                Verifier::new(VerifierSettings { secret: Some(secret.clone()), ..Default::default() })?;
            Ok(OperatorKey { verifier, shared: settings.shared_with_users.contains(secret) })
        };
        let keys = settings.secrets.iter().map(key).collect::<Result<_, KeyError>>()?;
        let blocked = settings.blocked.iter().map(|token| signed_part(token.expose())).collect();
        Ok(Self { keys, blocked })
    }

    /// Verifies a token, which needs neither `role` nor `exp`; `exp` counts where it is there.
    pub async fn verify(&self, token: &str, now_unix_seconds: f64) -> Result<Standing, TokenError> {
        let signed = signed_part(token);
        // All of them, so that the time tells nothing about which.
        let is_blocked = self.blocked.iter().fold(false, |found, blocked| {
            found | (!blocked.is_empty() && verify_slices_are_equal(blocked, &signed).is_ok())
        });
        if is_blocked {
            return Err(TokenError::Blocked);
        }
        let mut refused = TokenError::NoSigner { reason: "no secret is set for it".to_owned() };
        for key in &self.keys {
            match key.verifier.verify_operator(token, now_unix_seconds).await {
                Ok(claims) => {
                    let serves = claims.get("role").and_then(Value::as_str) == Some(SERVICE_ROLE);
                    return Ok(if key.shared && !serves { Standing::User } else { Standing::Operator });
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

/// Header and payload without white space: what is said, however its signature is written.
fn signed_part(token: &str) -> Vec<u8> {
    let dense: String = token.chars().filter(|character| !character.is_whitespace()).collect();
    dense.rsplit_once('.').map_or("", |(signed, _)| signed).as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sign;

    const NOW: f64 = 1_700_000_000.0;
    const SECRET: &str = "the secret of operators, long enough";
    const NEXT: &str = "the secret that comes after it, long";

    fn keys(blocked: &[&str], shared: &[&str]) -> OperatorKeys {
        let secrets = |texts: &[&str]| texts.iter().map(|text| Secret::new(*text)).collect();
        OperatorKeys::new(&OperatorSettings {
            secrets: secrets(&[SECRET, NEXT]),
            blocked: secrets(blocked),
            shared_with_users: secrets(shared),
        })
        .unwrap()
    }

    #[tokio::test]
    async fn a_token_of_the_secret_or_the_next_one_is_an_operators_without_any_claim() {
        for secret in [SECRET, NEXT] {
            let token = sign(&json!({}), secret).unwrap();
            assert_eq!(keys(&[], &[]).verify(&token, NOW).await, Ok(Standing::Operator));
        }
        let foreign = sign(&json!({}), "another secret of sufficient length").unwrap();
        assert_eq!(keys(&[], &[]).verify(&foreign, NOW).await, Err(TokenError::BadSignature));
        let late = sign(&json!({ "exp": 1_699_999_990 }), NEXT).unwrap();
        assert!(matches!(keys(&[], &[]).verify(&late, NOW).await, Err(TokenError::Expired { .. })));
    }

    #[tokio::test]
    async fn without_a_secret_no_token_is_good() {
        let keys = OperatorKeys::new(&OperatorSettings::default()).unwrap();
        let token = sign(&json!({}), SECRET).unwrap();
        assert!(matches!(keys.verify(&token, NOW).await, Err(TokenError::NoSigner { .. })));
    }

    #[tokio::test]
    async fn a_blocked_token_is_refused_however_it_is_written() {
        let token = sign(&json!({ "name": "lost" }), SECRET).unwrap();
        let other = sign(&json!({ "name": "kept" }), SECRET).unwrap();
        let keys = keys(&["", &token], &[]);
        for written in [token.clone(), format!(" {token} "), token.replace('.', " .")] {
            assert_eq!(keys.verify(&written, NOW).await, Err(TokenError::Blocked), "{written}");
        }
        assert_eq!(keys.verify(&other, NOW).await, Ok(Standing::Operator));
        assert!(matches!(keys.verify("", NOW).await, Err(TokenError::Malformed { .. })));
    }

    #[tokio::test]
    async fn where_users_share_the_secret_only_the_service_role_is_an_operator() {
        let keys = keys(&[], &[SECRET]);
        for (claims, secret, standing) in [
            (json!({ "role": "anon" }), SECRET, Standing::User),
            (json!({}), SECRET, Standing::User),
            (json!({ "role": "service_role" }), SECRET, Standing::Operator),
            (json!({ "role": "anon" }), NEXT, Standing::Operator),
        ] {
            let token = sign(&claims, secret).unwrap();
            assert_eq!(keys.verify(&token, NOW).await, Ok(standing), "{claims}");
        }
    }
}
