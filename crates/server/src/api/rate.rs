//! How much of the project's message rate is left, on every answer of the routes that take from it
//! (docs/protocol.md §6.2).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue};

use super::ProjectApi;

/// Messages of the last second.
const ROLLING: HeaderName = HeaderName::from_static("x-rate-rolling");
/// Messages that a second allows.
const LIMIT: HeaderName = HeaderName::from_static("x-rate-limit");
/// What is left of these.
const REMAINING: HeaderName = HeaderName::from_static("x-rate-limit-remaining");

/// Adds the three headers, where there is a limit.
pub(super) async fn announce(
    State(project): State<Arc<ProjectApi>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if let Some(budget) = project.engine.event_budget() {
        let limit = budget.limit.get();
        let headers = response.headers_mut();
        headers.insert(ROLLING, HeaderValue::from(limit.saturating_sub(budget.left)));
        headers.insert(LIMIT, HeaderValue::from(limit));
        headers.insert(REMAINING, HeaderValue::from(budget.left));
    }
    response
}
