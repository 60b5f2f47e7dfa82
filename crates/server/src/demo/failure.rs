//! What can go wrong in an endpoint, as HTTP says it: `{"error": <code>, "detail": <sentence>}`.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use walcast_auth::{SigningError, TokenError};

use super::DemoError;

/// Why a request was not carried out. The page knows a sentence for each code.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("send the token of a demo person as `Authorization: Bearer <token>`")]
    NoToken,
    #[error("{}", .0.handshake().1)]
    Token(TokenError),
    #[error("there is nobody of that name in the demo")]
    UnknownPerson,
    #[error("{0}")]
    Body(#[from] JsonRejection),
    #[error("{0}")]
    Invalid(&'static str),
    /// Nothing was changed: there is no such row, or the caller may not see or change it. Which of these is not told.
    #[error("there is no such row that you may change in this way")]
    NoSuchRow,
    #[error("{0}")]
    Database(#[from] DemoError),
    #[error("{0}")]
    Signing(#[from] SigningError),
}

impl Failure {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoToken => (StatusCode::UNAUTHORIZED, "no_token"),
            Self::Token(_) => (StatusCode::UNAUTHORIZED, "token_refused"),
            Self::UnknownPerson => (StatusCode::NOT_FOUND, "unknown_person"),
            Self::Body(rejection) => (rejection.status(), "invalid"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Self::NoSuchRow => (StatusCode::NOT_FOUND, "no_such_row"),
            Self::Database(DemoError::Refused { sqlstate, .. }) => refused(sqlstate),
            Self::Database(DemoError::Unavailable(_)) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Signing(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }
}

/// By class of the error code: 42501 is a missing privilege or a row that a policy refuses; 22 and 23 are values and
/// constraints; 08, 53 and 57 pass (Postgres documentation, appendix A).
fn refused(sqlstate: &str) -> (StatusCode, &'static str) {
    match (sqlstate, sqlstate.get(..2)) {
        ("42501", _) => (StatusCode::FORBIDDEN, "not_permitted"),
        (_, Some("22" | "23")) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
        (_, Some("08" | "53" | "57")) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        if status.is_server_error() {
            tracing::warn!(error = %self, "a demo endpoint failed");
        }
        (status, Json(json!({ "error": code, "detail": self.to_string() }))).into_response()
    }
}
