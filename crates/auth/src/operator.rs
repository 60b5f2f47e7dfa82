//! Tokens of operations: who may look after projects and users, and who may read metrics (docs/protocol.md §11.2).

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde_json::Value;

use crate::error::{KeyError, TokenError};
use crate::secret::Secret;
use crate::verifier::{Verifier, VerifierSettings};

/// The role whose tokens are an operator's where a project's users have the same key.
const SERVICE_ROLE: &str = "service_role";

/// What tokens of operations are verified with.
#[derive(Debug, Clone, Default)]
pub struct OperatorSettings {
    /// Secrets of the HS algorithms; a token of any of them is good, so that one can be replaced by the next.
    pub secrets: Vec<Secret>,
    /// Tokens that are refused although they verify.
    pub blocked: Vec<Secret>,
}

/// The users of one project, whose tokens are no operator's.
#[derive(Clone)]
pub struct ProjectUsers {
    /// What the project is called.
    pub project: String,
    /// Verifies their tokens.
    pub verifier: Arc<Verifier>,
}

/// Verifies tokens of operations. Without a secret no token is good.
pub struct OperatorKeys {
    keys: Vec<Verifier>,
    blocked: Vec<Vec<u8>>,
    users: Vec<ProjectUsers>,
}

/// What the bearer of a verified token may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything, to every project.
    Operator,
    /// Everything, to these projects: the token has the role `service_role`, and their users' keys verify it.
    OperatorOf(Vec<String>),
    /// The token may be a user's: nothing but what is no secret, such as whether a project is well.
    User,
}

impl Standing {
    /// Whether it is an operator's of this project.
    pub fn operates(&self, project: &str) -> bool {
        match self {
            Standing::Operator => true,
            Standing::OperatorOf(projects) => projects.iter().any(|own| own == project),
            Standing::User => false,
        }
    }
}

impl OperatorKeys {
    /// Takes the settings apart. A token that the key of one of the `users` verifies, too, may be a user's: upstream's
    /// stock stack has one secret for both. It is an operator's only with the role `service_role`, and of those projects
    /// only.
    ///
    /// # Errors
    /// A secret is empty.
    pub fn new(settings: &OperatorSettings, users: Vec<ProjectUsers>) -> Result<Self, KeyError> {
        let key = |secret: &Secret| {
            Verifier::new(VerifierSettings { secret: Some(secret.clone()), ..Default::default() })
        };
        let keys = settings.secrets.iter().map(key).collect::<Result<_, KeyError>>()?;
        let blocked = settings.blocked.iter().map(|token| signed_part(token.expose())).collect();
        Ok(Self { keys, blocked, users })
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
            match key.verify_operator(token, now_unix_seconds).await {
                Ok(claims) => {
                    let serves = claims.get("role").and_then(Value::as_str) == Some(SERVICE_ROLE);
                    return Ok(self.standing(token, serves, now_unix_seconds).await);
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// What the bearer of a token of operations may do that may be a user's as well.
    async fn standing(&self, token: &str, serves: bool, now_unix_seconds: f64) -> Standing {
        let mut shared_with = Vec::new();
        for ProjectUsers { project, verifier } in &self.users {
            if verifier.may_have_signed(token, now_unix_seconds).await {
                shared_with.push(project.clone());
            }
        }
        match (shared_with.is_empty(), serves) {
            (true, _) => Standing::Operator,
            (false, true) => Standing::OperatorOf(shared_with),
            (false, false) => Standing::User,
        }
    }
}

/// Header and payload without white space: what is said, however its signature is written.
fn signed_part(token: &str) -> Vec<u8> {
    let dense: String = token.chars().filter(|character| !character.is_whitespace()).collect();
    dense.rsplit_once('.').map_or("", |(signed, _)| signed).as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;
    use crate::{JwksSource, sign};

    const NOW: f64 = 1_700_000_000.0;
    const SECRET: &str = "the secret of operators, long enough";
    const NEXT: &str = "the secret that comes after it, long";

    fn keys(blocked: &[&str], users: Vec<ProjectUsers>) -> OperatorKeys {
        let secrets = |texts: &[&str]| texts.iter().map(|text| Secret::new(*text)).collect();
        let settings = OperatorSettings { secrets: secrets(&[SECRET, NEXT]), blocked: secrets(blocked) };
        OperatorKeys::new(&settings, users).unwrap()
    }

    fn users(project: &str, settings: VerifierSettings) -> ProjectUsers {
        ProjectUsers { project: project.to_owned(), verifier: Arc::new(Verifier::new(settings).unwrap()) }
    }

    fn users_of_secret(project: &str, secret: &str) -> ProjectUsers {
        users(project, VerifierSettings { secret: Some(Secret::new(secret)), ..Default::default() })
    }

    /// A token of the operators' secret that names a key.
    fn naming_a_key(role: &str) -> String {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid = Some("shared".to_owned());
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&header, &json!({ "role": role }), &key).unwrap()
    }

    #[tokio::test]
    async fn a_token_of_the_secret_or_the_next_one_is_an_operators_without_any_claim() {
        for secret in [SECRET, NEXT] {
            let token = sign(&json!({}), secret).unwrap();
            assert_eq!(keys(&[], Vec::new()).verify(&token, NOW).await, Ok(Standing::Operator));
        }
        let foreign = sign(&json!({}), "another secret of sufficient length").unwrap();
        assert_eq!(keys(&[], Vec::new()).verify(&foreign, NOW).await, Err(TokenError::BadSignature));
        let late = sign(&json!({ "exp": 1_699_999_990 }), NEXT).unwrap();
        assert!(matches!(keys(&[], Vec::new()).verify(&late, NOW).await, Err(TokenError::Expired { .. })));
    }

    #[tokio::test]
    async fn without_a_secret_no_token_is_good() {
        let keys = OperatorKeys::new(&OperatorSettings::default(), Vec::new()).unwrap();
        let token = sign(&json!({}), SECRET).unwrap();
        assert!(matches!(keys.verify(&token, NOW).await, Err(TokenError::NoSigner { .. })));
    }

    #[tokio::test]
    async fn a_blocked_token_is_refused_however_it_is_written() {
        let token = sign(&json!({ "name": "lost" }), SECRET).unwrap();
        let other = sign(&json!({ "name": "kept" }), SECRET).unwrap();
        let keys = keys(&["", &token], Vec::new());
        for written in [token.clone(), format!(" {token} "), token.replace('.', " .")] {
            assert_eq!(keys.verify(&written, NOW).await, Err(TokenError::Blocked), "{written}");
        }
        assert_eq!(keys.verify(&other, NOW).await, Ok(Standing::Operator));
        assert!(matches!(keys.verify("", NOW).await, Err(TokenError::Malformed { .. })));
    }

    #[tokio::test]
    async fn where_users_share_the_secret_only_the_service_role_is_an_operator_and_of_their_projects_only() {
        let other = "the secret of another project, long";
        let keys = keys(
            &[],
            vec![
                users_of_secret("one", SECRET),
                users_of_secret("two", other),
                users_of_secret("three", SECRET),
            ],
        );
        let of_both = Standing::OperatorOf(vec!["one".to_owned(), "three".to_owned()]);
        for (claims, secret, standing) in [
            (json!({ "role": "anon" }), SECRET, Standing::User),
            (json!({}), SECRET, Standing::User),
            (json!({ "role": "service_role" }), SECRET, of_both),
            (json!({ "role": "service_role" }), NEXT, Standing::Operator),
            (json!({ "role": "anon" }), NEXT, Standing::Operator),
        ] {
            let token = sign(&claims, secret).unwrap();
            assert_eq!(keys.verify(&token, NOW).await, Ok(standing), "{claims}");
        }
    }

    #[tokio::test]
    async fn a_secret_in_the_key_set_of_users_is_shared_with_them_too() {
        let key = json!({ "keys": [{ "kty": "oct", "kid": "shared", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET) }] });
        let jwks = Some(JwksSource::Inline(key.to_string()));
        let keys = keys(&[], vec![users("one", VerifierSettings { jwks, ..Default::default() })]);
        for (role, standing) in
            [("anon", Standing::User), ("service_role", Standing::OperatorOf(vec!["one".to_owned()]))]
        {
            assert_eq!(keys.verify(&naming_a_key(role), NOW).await, Ok(standing), "{role}");
        }
    }

    #[tokio::test]
    async fn while_a_key_set_has_not_been_read_the_key_that_a_token_names_may_be_in_it() {
        let jwks = Some(JwksSource::parse("http://127.0.0.1:1/keys").unwrap());
        let keys = keys(&[], vec![users("one", VerifierSettings { jwks, ..Default::default() })]);
        assert_eq!(keys.verify(&naming_a_key("anon"), NOW).await, Ok(Standing::User));
        let without = sign(&json!({}), SECRET).unwrap();
        assert_eq!(keys.verify(&without, NOW).await, Ok(Standing::Operator), "no set is asked about it");
    }
}
