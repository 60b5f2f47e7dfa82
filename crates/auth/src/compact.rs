//! The text of a token taken apart, before anything in it is believed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::algorithm::SignatureAlgorithm;
use crate::error::TokenError;

/// A longer text is not looked at. Tokens travel in headers and query strings, where a few KiB is the rule; the bound
/// keeps an unauthenticated caller from having megabytes hashed.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// A token in JWS compact form (RFC 7515 §3.1) whose parts are well-formed. Nothing is verified yet.
pub(crate) struct CompactToken {
    text: String,
    signature_start: usize,
    /// The payload's JSON text, as it was signed.
    pub(crate) payload_json: String,
    /// The same, parsed.
    pub(crate) payload: Map<String, Value>,
    /// `alg`.
    pub(crate) algorithm: SignatureAlgorithm,
    /// `kid`, when it is a string.
    pub(crate) key_id: Option<String>,
}

impl CompactToken {
    /// Takes a token apart; white space anywhere in it is ignored (docs/protocol.md §8.1).
    pub(crate) fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(malformed("it is longer than 64 KiB"));
        }
        let text: String = text.chars().filter(|character| !character.is_whitespace()).collect();
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("it does not have three parts"));
        };
        let signature_start = text.len() - signature.len();
        let header_json = decode(header).ok_or(malformed("the header is not base64url of UTF-8"))?;
        let header = object(&header_json).ok_or(malformed("the header is not a JSON object"))?;
        let payload_json = decode(payload).ok_or(malformed("the payload is not base64url of UTF-8"))?;
        let payload = object(&payload_json).ok_or(malformed("the payload is not a JSON object"))?;
        let algorithm = algorithm(&header)?;
        let key_id = header.get("kid").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { text, signature_start, payload_json, payload, algorithm, key_id })
    }

    /// What is signed: header and payload as they were sent, with the dot between them.
    pub(crate) fn message(&self) -> &[u8] {
        &self.text.as_bytes()[..self.signature_start - 1]
    }

    /// The signature, in base64url.
    pub(crate) fn signature(&self) -> &str {
        &self.text[self.signature_start..]
    }
}

fn algorithm(header: &Map<String, Value>) -> Result<SignatureAlgorithm, TokenError> {
    // RFC 7515 §4.1.11: extensions named here must be understood, and we know none.
    if header.contains_key("crit") {
        return Err(TokenError::NoSigner { reason: "it demands header extensions (`crit`)".to_owned() });
    }
    let Some(name) = header.get("alg").and_then(Value::as_str) else {
        return Err(TokenError::NoSigner { reason: "its header has no `alg`".to_owned() });
    };
    SignatureAlgorithm::named(name).ok_or_else(|| {
        let shown: String = name.chars().take(32).collect();
        TokenError::NoSigner { reason: format!("the algorithm {shown:?} is not accepted") }
    })
}

fn decode(part: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn object(json: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(json).ok()
}

fn malformed(reason: &'static str) -> TokenError {
    TokenError::Malformed { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    fn refusal(text: &str) -> TokenError {
        CompactToken::parse(text).err().expect("refused")
    }

    #[test]
    fn white_space_anywhere_is_ignored() {
        let text = token(r#"{"alg":"HS256","kid":"one"}"#, r#"{"a":1}"#);
        let spaced: String = text.chars().flat_map(|character| [character, ' ', '\n']).collect();
        let parsed = CompactToken::parse(&spaced).unwrap();
        assert_eq!(parsed.message(), &text.as_bytes()[..text.len() - 5]);
        assert_eq!(parsed.signature(), "c2ln");
        assert_eq!(parsed.key_id.as_deref(), Some("one"));
        assert_eq!(parsed.payload_json, r#"{"a":1}"#);
    }

    #[test]
    fn a_text_that_is_no_token_is_malformed() {
        let oversized = "a".repeat(TOKEN_BYTES_MAX + 1);
        for text in
            ["", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "potato", "\u{1F600}.\u{1F600}.x", &oversized]
        {
            assert!(matches!(refusal(text), TokenError::Malformed { .. }), "{text:.20}");
        }
    }

    #[test]
    fn a_header_or_payload_that_is_no_object_is_malformed() {
        for value in ["[]", "\"text\"", "1", "null", "true", "{"] {
            assert!(matches!(refusal(&token(value, "{}")), TokenError::Malformed { .. }), "{value}");
            let text = token(r#"{"alg":"HS256"}"#, value);
            assert!(matches!(refusal(&text), TokenError::Malformed { .. }), "{value}");
        }
    }

    #[test]
    fn an_algorithm_that_is_not_accepted_has_no_signer() {
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"PS256"}"#,
            r#"{"alg":"ES512"}"#,
            r#"{"alg":"Ed448"}"#,
            r#"{"alg":7}"#,
            r#"{"typ":"JWT"}"#,
            r#"{"alg":"HS256","crit":["exp"]}"#,
        ] {
            assert!(matches!(refusal(&token(header, "{}")), TokenError::NoSigner { .. }), "{header}");
        }
    }

    #[test]
    fn a_key_id_that_is_no_string_counts_as_none() {
        let parsed = CompactToken::parse(&token(r#"{"alg":"HS256","kid":7}"#, "{}")).unwrap();
        assert_eq!(parsed.key_id, None);
    }
}
