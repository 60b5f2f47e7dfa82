//! The body of a request, with its bounds.

use std::error::Error;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::{HeaderMap, header};

use super::refusal::Refusal;

/// Bytes of a body (docs/protocol.md §10.1).
pub(super) const BODY_BYTES_MAX: usize = 8_000_000;
/// How long a body may take, so that nobody holds a connection by sending it drop by drop.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads the whole body.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > BODY_BYTES_MAX as u64) {
        return Err(Refusal::BodyTooLarge);
    }
    let reading = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX));
    reading.await.map_err(|_| Refusal::BodyTooSlow)?.map_err(|error| {
        if error.source().is_some_and(<dyn Error>::is::<http_body_util::LengthLimitError>) {
            Refusal::BodyTooLarge
        } else {
            Refusal::BodyBroken
        }
    })
}
