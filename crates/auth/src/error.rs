//! What can be wrong with a token or with the configured keys.
//!
//! `Display` is for the log of the operator; the words for a client come from the methods of [`TokenError`].

/// Why a token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There was no token at all.
    #[error("no token was given")]
    Missing,
    /// The text is not a JSON Web Token: not three parts, not base64url, or its header or payload is no JSON object.
    #[error("the token is not a JSON Web Token: {reason}")]
    Malformed {
        /// Which part is wrong, and how.
        reason: &'static str,
    },
    /// The token can not be verified with any key: its algorithm is not accepted, or it names no key.
    #[error("no key can verify the token: {reason}")]
    NoSigner {
        /// What is not acceptable about the header.
        reason: String,
    },
    /// The key that the token names is not known, or is not of the kind the token's algorithm needs.
    #[error("no usable key has the key ID {kid:?}")]
    UnknownKey {
        /// The `kid` of the token's header.
        kid: String,
    },
    /// The signature does not belong to this text and key.
    #[error("the signature does not verify")]
    BadSignature,
    /// `exp` is not in the future.
    #[error("the token expired {seconds_ago} seconds ago")]
    Expired {
        /// Whole seconds since `exp`.
        seconds_ago: u64,
    },
    /// `role` or `exp` is missing.
    #[error("the token lacks the claim `role` or `exp`")]
    MissingClaims,
    /// The token is on the list of those that are no longer good.
    #[error("the token is on the block list")]
    Blocked,
    /// A claim is there but can not be accepted.
    #[error("the claim `{claim}` {problem}")]
    InvalidClaim {
        /// Name of the claim.
        claim: String,
        /// What is wrong with it, as the end of a sentence.
        problem: &'static str,
    },
}

const EXPIRED_AT_HANDSHAKE: &str = "Token has expired";
const CLAIMS_REQUIRED: &str = "Fields `role` and `exp` are required in JWT";
const NOT_A_JWT: &str = "The token provided is not a valid JWT";
const SIGNATURE: &str = "Failed to validate JWT signature";
const SIGNER: &str = "Failed to generate JWT signer, check your JWT secret or JWKS configuration";

impl TokenError {
    /// The HTTP status and the `error` text that refuse a handshake (docs/protocol.md §1.4).
    pub fn handshake(&self) -> (u16, String) {
        match self {
            Self::Missing => (401, "API key is missing".to_owned()),
            Self::Expired { .. } => (401, EXPIRED_AT_HANDSHAKE.to_owned()),
            Self::InvalidClaim { .. } | Self::Blocked => (500, "Error connecting to Realtime".to_owned()),
            Self::Malformed { .. }
            | Self::NoSigner { .. }
            | Self::UnknownKey { .. }
            | Self::BadSignature
            | Self::MissingClaims => (401, self.close_message()),
        }
    }

    /// The `reason` that refuses a join, with the code that clients parse before the colon (docs/protocol.md §3.4).
    pub fn join_reason(&self) -> String {
        match self {
            Self::InvalidClaim { .. } | Self::Blocked => "Unknown Error on Channel".to_owned(),
            _ => format!("{}: {}", self.code(), self.close_message()),
        }
    }

    /// The message of the `system` event that precedes the close of an open channel (docs/protocol.md §8.3).
    pub fn close_message(&self) -> String {
        match self {
            Self::Missing | Self::Malformed { .. } => NOT_A_JWT.to_owned(),
            Self::Expired { seconds_ago } => format!("Token has expired {seconds_ago} seconds ago"),
            Self::MissingClaims => CLAIMS_REQUIRED.to_owned(),
            Self::BadSignature => SIGNATURE.to_owned(),
            Self::NoSigner { .. } => SIGNER.to_owned(),
            Self::UnknownKey { kid } => format!(
                "Failed to generate JWT signer for key ID (kid) \"{kid}\", \
                 check your JWT secret or JWKS configuration"
            ),
            Self::Blocked => "The token is no longer accepted".to_owned(),
            Self::InvalidClaim { claim, problem } => format!("The claim `{claim}` {problem}"),
        }
    }

    /// The code under which a channel's refusal is logged (docs/protocol.md §10.3).
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing | Self::Malformed { .. } => "MalformedJWT",
            Self::Expired { .. } | Self::MissingClaims => "InvalidJWTToken",
            Self::BadSignature => "JwtSignatureError",
            Self::NoSigner { .. } | Self::UnknownKey { .. } => "JwtSignerError",
            Self::InvalidClaim { .. } | Self::Blocked => "UnknownErrorOnChannel",
        }
    }

    /// The code under which a refused handshake is logged; it differs from [`Self::code`] (docs/protocol.md §1.4).
    pub fn handshake_code(&self) -> &'static str {
        match self {
            Self::Missing => "MissingAPIKey",
            Self::Malformed { .. } => "MalformedJWT",
            Self::Expired { .. } | Self::MissingClaims => "InvalidJWTToken",
            Self::BadSignature
            | Self::NoSigner { .. }
            | Self::UnknownKey { .. }
            | Self::InvalidClaim { .. }
            | Self::Blocked => "ErrorConnectingToWebsocket",
        }
    }
}

/// Why the configured keys can not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Neither a secret nor a key set was given.
    #[error("no key verifies tokens: set a JWT secret or a JSON Web Key Set")]
    NoKey,
    /// The secret is empty.
    #[error("the JWT secret is empty")]
    EmptySecret,
    /// The key set's text is not what RFC 7517 §5 asks for.
    #[error("the JSON Web Key Set {origin} can not be read: {problem}")]
    Unreadable {
        /// Where the key set comes from, without credentials.
        origin: String,
        /// What was wrong, and what was expected.
        problem: String,
    },
    /// The key set has no key that could verify a token, and there is no secret either.
    #[error("the JSON Web Key Set {origin} has no usable key: {problems}")]
    NoUsableKey {
        /// Where the key set comes from, without credentials.
        origin: String,
        /// One reason per key.
        problems: String,
    },
    /// The URL of the key set is not an `http` or `https` URL.
    #[error("the URL of the JSON Web Key Set is not usable: {problem}")]
    Url {
        /// What is wrong with it.
        problem: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_token_is_refused_as_a_missing_api_key() {
        assert_eq!(TokenError::Missing.handshake(), (401, "API key is missing".to_owned()));
        assert_eq!(TokenError::Missing.handshake_code(), "MissingAPIKey");
    }

    #[test]
    fn expiry_is_told_with_seconds_on_a_channel_and_without_at_the_handshake() {
        let expired = TokenError::Expired { seconds_ago: 1000 };
        assert_eq!(expired.handshake(), (401, "Token has expired".to_owned()));
        assert_eq!(expired.join_reason(), "InvalidJWTToken: Token has expired 1000 seconds ago");
        assert_eq!(expired.close_message(), "Token has expired 1000 seconds ago");
    }

    #[test]
    fn required_claims_are_named_in_every_place() {
        let text = "Fields `role` and `exp` are required in JWT";
        assert_eq!(TokenError::MissingClaims.handshake(), (401, text.to_owned()));
        assert_eq!(TokenError::MissingClaims.join_reason(), format!("InvalidJWTToken: {text}"));
        assert_eq!(TokenError::MissingClaims.close_message(), text);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let unknown = TokenError::UnknownKey { kid: "K".to_owned() };
        let text = "Failed to generate JWT signer for key ID (kid) \"K\", check your JWT secret or JWKS configuration";
        assert_eq!(unknown.handshake(), (401, text.to_owned()));
        assert_eq!(unknown.join_reason(), format!("JwtSignerError: {text}"));
        assert_eq!(unknown.close_message(), text);
        assert_eq!(unknown.handshake_code(), "ErrorConnectingToWebsocket");
    }

    #[test]
    fn an_unusable_algorithm_a_bad_signature_and_a_malformed_token_have_their_words() {
        let no_signer = TokenError::NoSigner { reason: "alg".to_owned() };
        assert_eq!(
            no_signer.join_reason(),
            "JwtSignerError: Failed to generate JWT signer, check your JWT secret or JWKS configuration"
        );
        assert_eq!(
            TokenError::BadSignature.join_reason(),
            "JwtSignatureError: Failed to validate JWT signature"
        );
        let malformed = TokenError::Malformed { reason: "parts" };
        assert_eq!(malformed.join_reason(), "MalformedJWT: The token provided is not a valid JWT");
        assert_eq!(malformed.handshake(), (401, "The token provided is not a valid JWT".to_owned()));
    }

    #[test]
    fn a_claim_that_can_not_be_accepted_is_the_unmapped_error() {
        let invalid = TokenError::InvalidClaim { claim: "exp".to_owned(), problem: "is not a number" };
        assert_eq!(invalid.handshake(), (500, "Error connecting to Realtime".to_owned()));
        assert_eq!(invalid.join_reason(), "Unknown Error on Channel");
    }
}
