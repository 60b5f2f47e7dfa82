//! The payload of an `access_token` event (docs/protocol.md §8.3).

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use crate::object;

/// What a client asks with `access_token`. Its debug text does not show the token.
#[derive(Clone, PartialEq, Eq)]
pub enum AccessTokenPush<'a> {
    /// Use this token from now on. It may be empty, which is a malformed token, and it may equal the current one, which
    /// the channel is to compare.
    Replace(Cow<'a, str>),
    /// Nothing to do: no token, null, not a string, or an opaque `sb_…` key that stands for the socket's token.
    Ignored,
}

impl fmt::Debug for AccessTokenPush<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            AccessTokenPush::Replace(_) => "Replace(<redacted>)",
            AccessTokenPush::Ignored => "Ignored",
        })
    }
}

impl<'a> AccessTokenPush<'a> {
    /// Reads the payload of an `access_token` event, which is never replied to.
    pub fn parse(payload: &'a RawValue) -> Self {
        let token =
            object::pick(payload, ["access_token"]).and_then(|[token]| token).and_then(object::string);
        match token {
            Some(token) if !is_opaque_key(&token) => AccessTokenPush::Replace(token),
            _ => AccessTokenPush::Ignored,
        }
    }
}

/// Whether a token is one of the platform's opaque keys, which only a gateway can translate.
pub(crate) fn is_opaque_key(token: &str) -> bool {
    token.starts_with("sb_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> AccessTokenPush<'_> {
        AccessTokenPush::parse(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_string_replaces_the_token_even_an_empty_one() {
        assert_eq!(parse(r#"{"access_token":"a.b.c"}"#), AccessTokenPush::Replace("a.b.c".into()));
        assert_eq!(parse(r#"{"access_token":""}"#), AccessTokenPush::Replace("".into()));
    }

    #[test]
    fn anything_else_is_ignored() {
        for json in ["{}", "null", "[]", r#"{"access_token":null}"#, r#"{"access_token":7}"#] {
            assert_eq!(parse(json), AccessTokenPush::Ignored, "{json}");
        }
        assert_eq!(parse(r#"{"access_token":"sb_publishable_x"}"#), AccessTokenPush::Ignored);
    }
}
