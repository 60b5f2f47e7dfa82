//! The rules for `exp`, `iat`, `role` and configured claims (docs/protocol.md §8.1).

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::TokenError;

/// The payload of a verified token. Cheap to clone.
#[derive(Clone)]
pub struct Claims {
    /// The payload's JSON text, as it was signed. This is what policies read as `request.jwt.claims`.
    pub json: Arc<str>,
    /// The same, parsed; always an object.
    pub value: Arc<Value>,
    /// `role`: the Postgres role that the token's bearer acts as.
    pub role: Arc<str>,
    /// `sub`, when it is a string.
    pub subject: Option<Arc<str>>,
    /// `exp`: the token ends here. Unix time in seconds, rounded.
    pub expires_at: i64,
}

/// Prints who and until when, never the payload: it holds what a person told about themselves.
impl fmt::Debug for Claims {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Claims")
            .field("role", &self.role)
            .field("subject", &self.subject)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Checks the claims that are there: `exp` and `iat` are numbers, `exp` is in the future, and the configured claims
/// have the configured values. A claim that is absent passes.
pub(crate) fn check_present(
    payload: &Map<String, Value>,
    validators: &Map<String, Value>,
    now_unix_seconds: f64,
) -> Result<(), TokenError> {
    if let Some(expiry) = number(payload, "exp")?
        && expiry <= now_unix_seconds
    {
        return Err(TokenError::Expired { seconds_ago: whole_seconds(now_unix_seconds - expiry) });
    }
    number(payload, "iat")?;
    for (claim, wanted) in validators {
        if payload.get(claim).is_some_and(|found| found != wanted) {
            return Err(invalid(claim, "does not have the value that JWT_CLAIM_VALIDATORS asks for"));
        }
    }
    Ok(())
}

/// Makes claims of a payload that has passed [`check_present`]: `role` and `exp` must be there.
pub(crate) fn require(payload: Map<String, Value>, json: String) -> Result<Claims, TokenError> {
    let (Some(role), Some(expiry)) = (payload.get("role"), number(&payload, "exp")?) else {
        return Err(TokenError::MissingClaims);
    };
    let role: Arc<str> = role.as_str().ok_or_else(|| invalid("role", "is not a string"))?.into();
    // No role can have these names. Postgres reads the role setting `none` as "whoever is connected", which is us
    // (PostgreSQL documentation, SET ROLE).
    if matches!(&*role, "" | "none") || role.contains('\0') {
        return Err(invalid("role", "is not a name that a Postgres role can have"));
    }
    let subject = payload.get("sub").and_then(Value::as_str).map(Arc::from);
    Ok(Claims {
        json: json.into(),
        role,
        subject,
        expires_at: round_to_seconds(expiry),
        value: Arc::new(Value::Object(payload)),
    })
}

fn number(payload: &Map<String, Value>, claim: &str) -> Result<Option<f64>, TokenError> {
    match payload.get(claim) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| invalid(claim, "is not a number")),
    }
}

fn invalid(claim: &str, problem: &'static str) -> TokenError {
    TokenError::InvalidClaim { claim: claim.to_owned(), problem }
}

/// Float to integer saturates, which is what a date beyond all calendars deserves.
#[allow(clippy::cast_possible_truncation)]
fn round_to_seconds(unix_seconds: f64) -> i64 {
    unix_seconds.round() as i64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, and is never negative here
fn whole_seconds(seconds: f64) -> u64 {
    seconds.floor() as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: f64 = 1_700_000_000.0;

    fn check(payload: &Value, validators: &Value) -> Result<Claims, TokenError> {
        let (Value::Object(payload), Value::Object(validators)) = (payload.clone(), validators.clone())
        else {
            panic!("two objects");
        };
        check_present(&payload, &validators, NOW)?;
        let text = Value::Object(payload.clone()).to_string();
        require(payload, text)
    }

    fn claims(payload: &Value) -> Result<Claims, TokenError> {
        check(payload, &json!({}))
    }

    fn is_invalid(result: Result<Claims, TokenError>, name: &str) -> bool {
        matches!(result, Err(TokenError::InvalidClaim { claim, .. }) if claim == name)
    }

    #[test]
    fn role_subject_and_expiry_are_taken_out() {
        let found = claims(&json!({"role": "authenticated", "sub": "u1", "exp": 1_700_000_060})).unwrap();
        assert_eq!(&*found.role, "authenticated");
        assert_eq!(found.subject.as_deref(), Some("u1"));
        assert_eq!(found.expires_at, 1_700_000_060);
        assert_eq!(found.value["sub"], "u1");
    }

    #[test]
    fn decimal_times_are_accepted_and_rounded() {
        let found =
            claims(&json!({"role": "anon", "exp": 1_700_000_060.5, "iat": 1_699_999_999.25})).unwrap();
        assert_eq!(found.expires_at, 1_700_000_061);
    }

    #[test]
    fn expiry_is_strict_and_counts_whole_seconds() {
        let at = |expiry: Value| claims(&json!({"role": "anon", "exp": expiry})).err();
        assert_eq!(at(json!(1_700_000_000)), Some(TokenError::Expired { seconds_ago: 0 }));
        assert_eq!(at(json!(1_699_999_000)), Some(TokenError::Expired { seconds_ago: 1000 }));
        assert_eq!(at(json!(1_699_999_999.5)), Some(TokenError::Expired { seconds_ago: 0 }));
        assert_eq!(at(json!(1_700_000_000.1)), None);
    }

    #[test]
    fn an_expired_token_without_role_is_expired() {
        assert_eq!(
            claims(&json!({"exp": 1})).err(),
            Some(TokenError::Expired { seconds_ago: 1_699_999_999 })
        );
    }

    #[test]
    fn times_that_are_no_numbers_are_refused() {
        for value in [json!("1"), json!("9999999999"), json!(null), json!([]), json!(true)] {
            assert!(is_invalid(claims(&json!({"role": "anon", "exp": value})), "exp"), "exp {value}");
            let payload = json!({"role": "anon", "exp": 1_800_000_000, "iat": value});
            assert!(is_invalid(claims(&payload), "iat"), "iat {value}");
        }
    }

    #[test]
    fn role_and_expiry_are_required_and_nothing_else_is() {
        assert_eq!(claims(&json!({"role": "anon"})).err(), Some(TokenError::MissingClaims));
        assert_eq!(claims(&json!({"exp": 1_800_000_000})).err(), Some(TokenError::MissingClaims));
        assert_eq!(claims(&json!({})).err(), Some(TokenError::MissingClaims));
        assert!(claims(&json!({"role": "anon", "exp": 1_800_000_000})).is_ok());
    }

    #[test]
    fn a_role_that_postgres_can_not_have_is_refused() {
        for role in [json!(null), json!(7), json!(""), json!("none"), json!("a\0b")] {
            assert!(is_invalid(claims(&json!({"role": role, "exp": 1_800_000_000})), "role"), "{role}");
        }
    }

    #[test]
    fn configured_claims_must_match_where_they_are_present() {
        let validators = json!({"iss": "https://issuer", "aud": "authenticated"});
        let with = |extra: Value| {
            let mut payload = json!({"role": "anon", "exp": 1_800_000_000});
            payload.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            check(&payload, &validators)
        };
        assert!(with(json!({})).is_ok());
        assert!(with(json!({"iss": "https://issuer", "aud": "authenticated"})).is_ok());
        assert!(is_invalid(with(json!({"iss": "https://other"})), "iss"));
        assert!(is_invalid(with(json!({"aud": ["authenticated"]})), "aud"));
        assert!(is_invalid(with(json!({"iss": null})), "iss"));
    }

    #[test]
    fn debug_does_not_print_the_payload() {
        let found = claims(&json!({"role": "anon", "exp": 1_800_000_000, "email": "a@b.c"})).unwrap();
        let printed = format!("{found:?}");
        assert!(printed.contains("anon") && !printed.contains("a@b.c"), "{printed}");
    }
}
