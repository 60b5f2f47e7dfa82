//! Who calls an endpoint: the verified claims of the bearer token.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use serde_json::Value;
use walcast_auth::Claims;

use super::Demo;
use super::failure::Failure;
use crate::clock::unix_seconds;

/// A caller whose token was verified.
pub(super) struct Caller {
    claims: Claims,
    demo: Arc<Demo>,
}

impl Caller {
    /// Runs one statement under the caller's role and claims and returns its rows.
    pub(super) async fn run(&self, sql: &str, parameters: &[Option<String>]) -> Result<Vec<Value>, Failure> {
        let database = &self.demo.database;
        let rows = database.run_as(&self.claims.role, &self.claims.json, sql, parameters).await?;
        match rows {
            Value::Array(rows) => Ok(rows),
            other => Ok(vec![other]),
        }
    }
}

impl FromRequestParts<Arc<Demo>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, demo: &Arc<Demo>) -> Result<Self, Failure> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(bearer).ok_or(Failure::NoToken)?;
        let claims = demo.verifier.verify(token, unix_seconds()).await.map_err(Failure::Token)?;
        Ok(Self { claims, demo: Arc::clone(demo) })
    }
}

/// The token of `Bearer <token>`; the scheme's letter case does not matter (RFC 9110 §11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
