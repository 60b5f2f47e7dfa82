//! Why a broadcast was refused, as HTTP says it (docs/protocol.md §6.2, §6.3).

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use walcast_auth::TokenError;
use walcast_engine::EventRateExceeded;
use walcast_policy::channel::ChannelPolicyError;

use super::body::{BODY_BYTES_MAX, BODY_TIMEOUT};

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("send the token as `Authorization: Bearer <token>`, or in the header `apikey`")]
    Authorization,
    /// The caller may not send on this private topic.
    #[error("no policy on realtime.messages allows this role to send on the topic")]
    NotPermitted,
    #[error("{0}")]
    Policy(#[from] ChannelPolicyError),
    #[error("Tenant is suspended")]
    Suspended,
    #[error("This project only allows private channels")]
    PrivateOnly,
    #[error("the body has more than {BODY_BYTES_MAX} bytes")]
    BodyTooLarge,
    #[error("the body did not come within {} seconds", BODY_TIMEOUT.as_secs())]
    BodyTooSlow,
    #[error("the body broke off")]
    BodyBroken,
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    #[error("Unsupported Media Type. Use application/json or application/octet-stream")]
    MediaType,
    /// The parts that are wrong, each under its name.
    #[error("{0}")]
    Invalid(Value),
    #[error("{told}")]
    Rate { told: &'static str, exceeded: EventRateExceeded },
}

impl Refusal {
    /// One thing is wrong.
    pub(super) fn invalid(part: &str, problem: &str) -> Self {
        Self::Invalid(json!({ part: [problem] }))
    }

    /// The code under which it is logged (docs/protocol.md §10.3).
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Token(error) => error.handshake_code(),
            Self::Policy(error) => policy_code(error),
            Self::Rate { .. } => "MessagePerSecondRateLimitReached",
            Self::Suspended => "RealtimeDisabledForTenant",
            Self::PrivateOnly => "PrivateOnly",
            Self::Authorization | Self::NotPermitted => "Unauthorized",
            _ => "UnprocessableEntity",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Token(_) | Self::Authorization => StatusCode::UNAUTHORIZED,
            Self::NotPermitted | Self::Suspended | Self::PrivateOnly => StatusCode::FORBIDDEN,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyBroken | Self::NotJson(_) => StatusCode::BAD_REQUEST,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Rate { .. } | Self::Policy(ChannelPolicyError::PoolExhausted(_)) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Policy(ChannelPolicyError::NotInstalled(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Invalid(_) | Self::Policy(_) => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    fn body(&self) -> Value {
        match self {
            Self::Token(_) | Self::Authorization | Self::NotPermitted => json!({ "message": "Unauthorized" }),
            Self::MediaType => json!({ "error": self.to_string() }),
            Self::Invalid(errors) => json!({ "errors": errors }),
            Self::Rate { told, exceeded } => json!({ "message": told, "detail": exceeded.to_string() }),
            Self::Policy(error @ ChannelPolicyError::NotInstalled(_)) => {
                json!({ "message": policy_words(error), "detail": error.to_string() })
            }
            Self::Policy(error) => json!({ "message": policy_words(error) }),
            Self::Suspended
            | Self::PrivateOnly
            | Self::BodyTooLarge
            | Self::BodyTooSlow
            | Self::BodyBroken
            | Self::NotJson(_) => json!({ "message": self.to_string() }),
        }
    }

    /// What the body, which clients compare, has no place for (RFC 6750 §3).
    fn challenge(&self) -> Option<HeaderValue> {
        let described = match self {
            Self::Token(error) => format!(r#"error="invalid_token", error_description="{}""#, plain(error)),
            Self::Authorization => format!(r#"error="invalid_request", error_description="{self}""#),
            _ => return None,
        };
        HeaderValue::from_str(&format!("Bearer {described}")).ok()
    }
}

/// The error's words for a client, in the characters that a quoted string of a header may have.
fn plain(error: &TokenError) -> String {
    let words = error.handshake().1;
    words.chars().filter(|character| matches!(character, ' '..='~') && !"\"\\".contains(*character)).collect()
}

fn policy_words(error: &ChannelPolicyError) -> &'static str {
    match error {
        ChannelPolicyError::Policy(_) => "RLS policy error",
        ChannelPolicyError::Canceled(_) => "Query canceled",
        ChannelPolicyError::MissingPartition(_) => "Missing messages partition",
        ChannelPolicyError::PoolExhausted(_) => "Connection pool exhausted",
        ChannelPolicyError::TooManyConnections(_) => "Tenant database has too many connections",
        ChannelPolicyError::Unreachable(_) => "Tenant database unavailable",
        ChannelPolicyError::NotInstalled(_) => "Unable to authorize broadcast",
    }
}

fn policy_code(error: &ChannelPolicyError) -> &'static str {
    match error {
        ChannelPolicyError::Policy(_) => "RlsPolicyError",
        ChannelPolicyError::Canceled(_) => "QueryCanceled",
        ChannelPolicyError::MissingPartition(_) => "MissingPartition",
        ChannelPolicyError::PoolExhausted(_) => "IncreaseConnectionPool",
        ChannelPolicyError::TooManyConnections(_) => "DatabaseLackOfConnections",
        ChannelPolicyError::Unreachable(_) => "UnableToConnectToProject",
        ChannelPolicyError::NotInstalled(_) => "UnableToSetPolicies",
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if let Self::Policy(error) = &self {
            tracing::warn!(code = self.code(), %error, "a broadcast could not be authorized");
        } else {
            tracing::info!(code = self.code(), reason = %self, "broadcast refused");
        }
        let mut response = (self.status(), Json(self.body())).into_response();
        if let Some(challenge) = self.challenge() {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
