//! Cross-origin requests (<https://fetch.spec.whatwg.org/#http-cors-protocol>): pages of any origin may broadcast,
//! since the token is what admits, not where a page came from.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderValue, Method, StatusCode};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, OPTIONS");
/// What clients send, for a preflight that does not say.
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, apikey, content-type, x-client-info");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("x-request-id, x-rate-rolling, x-rate-limit, x-rate-limit-remaining");
/// A day, in seconds; browsers keep it for less.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// Answers preflights, and lets pages read the other answers, refusals included.
pub(super) async fn allow(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_preflight = request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight {
        let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(HEADERS);
        let answer = [
            (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (ACCESS_CONTROL_ALLOW_HEADERS, asked),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
            (VARY, HeaderValue::from_static("access-control-request-headers")),
        ];
        (StatusCode::NO_CONTENT, answer).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    response
}
