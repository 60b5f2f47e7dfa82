//! One line per HTTP request, without what must not stand in a log: no query string, no token.

use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;

use crate::health::is_health_path;
use crate::redact::redact_text;

/// Whether requests of the health endpoints are logged too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthRequests {
    /// They are.
    Logged,
    /// They are not (`DISABLE_HEALTHCHECK_LOGGING`).
    LeftOut,
}

/// Adds the log to every route of `app`. A WebSocket is logged when its handshake is answered.
pub fn logged(app: Router, health: HealthRequests) -> Router {
    app.layer(from_fn_with_state(health, log))
}

async fn log(State(health): State<HealthRequests>, request: Request, next: Next) -> Response {
    if health == HealthRequests::LeftOut && is_health_path(request.uri().path()) {
        return next.run(request).await;
    }
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    tracing::info!(
        %method,
        path = ?redact_text(&path),
        status = response.status().as_u16(),
        duration_ms = started.elapsed().as_millis(),
        "request"
    );
    response
}
