//! Who broadcasts: the verified claims of a request's token.

use std::sync::Arc;

use http::{HeaderMap, header};
use serde_json::{Map, Value};
use walcast_auth::{Claims, TokenError, Verifier};
use walcast_policy::channel::ChannelRequest;

use super::refusal::Refusal;
use crate::clock::unix_seconds;

/// A caller whose token was verified.
pub(super) struct Caller {
    claims: Claims,
    /// The headers of the request that policies may read.
    headers: Arc<str>,
}

impl Caller {
    /// Verifies the token of a request.
    pub(super) async fn of(verifier: &Verifier, headers: &HeaderMap) -> Result<Self, Refusal> {
        let token = token_of(headers)?;
        let claims = verifier.verify(token, unix_seconds()).await?;
        Ok(Caller { claims, headers: as_json(headers).into() })
    }

    /// What a policy is asked about a topic, which comes without `realtime:`.
    pub(super) fn request(&self, topic: &str) -> ChannelRequest {
        ChannelRequest {
            role: Arc::clone(&self.claims.role),
            claims: Arc::clone(&self.claims.value),
            claims_json: Arc::clone(&self.claims.json),
            topic: topic.into(),
            headers: Arc::clone(&self.headers),
        }
    }

    /// The role that the token names.
    pub(super) fn role(&self) -> &str {
        &self.claims.role
    }
}

/// `Authorization: Bearer <token>`, else `apikey: <token>`. An empty `Authorization` is none: `supabase-js` sends one
/// where nobody has logged in.
fn token_of(headers: &HeaderMap) -> Result<&str, Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?").trim());
    match text(header::AUTHORIZATION.as_str()) {
        None | Some("") => {
            text("apikey").filter(|key| !key.is_empty()).ok_or(Refusal::Token(TokenError::Missing))
        }
        Some(value) => {
            let mut words = value.split_ascii_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some(scheme), Some(token), None) if scheme.eq_ignore_ascii_case("bearer") => Ok(token),
                _ => Err(Refusal::Authorization),
            }
        }
    }
}

/// Headers that carry keys and tokens. A policy, and whatever logs its statement, has the claims instead.
const SECRET_HEADERS: [&str; 4] = ["authorization", "apikey", "cookie", "x-api-key"];

/// A JSON object of header names and values, without those that are secret; values of one name are joined
/// (RFC 9110 §5.3).
fn as_json(headers: &HeaderMap) -> String {
    let mut object = Map::new();
    for name in headers.keys().filter(|name| !SECRET_HEADERS.contains(&name.as_str())) {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let joined = values.collect::<Vec<_>>().join(", ");
        object.insert(name.as_str().to_owned(), Value::String(joined));
    }
    Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_token_is_in_authorization_or_else_in_apikey() {
        for pairs in [
            vec![("authorization", "Bearer a.b.c"), ("apikey", "x")],
            vec![("authorization", "bEARER   a.b.c ")],
            vec![("apikey", "a.b.c")],
            vec![("authorization", ""), ("apikey", "a.b.c")],
        ] {
            assert_eq!(token_of(&headers(&pairs)).unwrap(), "a.b.c", "{pairs:?}");
        }
    }

    #[test]
    fn an_authorization_that_is_not_two_words_is_refused_and_no_other_header_is_tried() {
        for value in ["Bearer", "a.b.c", "Bearer a.b.c d", "Basic a.b.c"] {
            let headers = headers(&[("authorization", value), ("apikey", "a.b.c")]);
            assert!(matches!(token_of(&headers), Err(Refusal::Authorization)), "{value}");
        }
        assert!(matches!(token_of(&headers(&[])), Err(Refusal::Token(TokenError::Missing))));
    }

    #[test]
    fn policies_get_every_header_but_keys_and_tokens() {
        let found = as_json(&headers(&[
            ("x-room", "7"),
            ("Authorization", "Bearer a.b.c"),
            ("apikey", "a.b.c"),
            ("cookie", "session=1"),
            ("X-Api-Key", "a.b.c"),
            ("accept", "a"),
            ("accept", "b"),
        ]));
        assert_eq!(found, r#"{"accept":"a, b","x-room":"7"}"#);
    }
}
