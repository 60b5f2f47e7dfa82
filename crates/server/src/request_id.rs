//! One name for each HTTP request, in every log line and in its answer (docs/protocol.md §11.1), and the headers that
//! every answer has.
//!
//! The name comes from the `baggage` header (W3C Baggage, §3) or from `x-request-id`, so that a request can be followed
//! from one service to the next, and is made up where neither has a usable one.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::percent_decode_str;
use tracing::Instrument;
use uuid::Uuid;

/// The header that carries a request's name.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// Bytes of a name that a client may give.
const ID_BYTES: std::ops::RangeInclusive<usize> = 10..=200;

/// Names every request, and adds to every answer its name and the headers that keep browsers from guessing and
/// telling: `X-Content-Type-Options` and `Referrer-Policy`. `baggage_key` is the key to look for in `baggage`.
pub fn identified(app: Router, baggage_key: &str) -> Router {
    app.layer(from_fn_with_state(Arc::<str>::from(baggage_key), identify))
}

async fn identify(State(key): State<Arc<str>>, request: Request, next: Next) -> Response {
    let id = given(request.headers(), &key).unwrap_or_else(|| Uuid::new_v4().simple().to_string());
    // At the level of errors, so that no filter takes the name from a line that is shown.
    let span = tracing::error_span!("request", request_id = %id);
    let mut response = next.run(request).instrument(span).await;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(const { HeaderValue::from_static("nosniff") });
    headers.entry(header::REFERRER_POLICY).or_insert(const { HeaderValue::from_static("no-referrer") });
    response
}

/// The name that the request came with, if it is a usable one.
fn given(headers: &HeaderMap, key: &str) -> Option<String> {
    let of_baggage = headers
        .get_all(BAGGAGE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .find_map(|member| {
            let (name, rest) = member.split_once('=')?;
            let value = rest.split(';').next().unwrap_or_default().trim();
            (name.trim() == key).then(|| percent_decode_str(value).decode_utf8().map(String::from).ok())?
        });
    let of_header = || Some(headers.get(REQUEST_ID)?.to_str().ok()?.to_owned());
    of_baggage.filter(|id| is_usable(id)).or_else(|| of_header().filter(|id| is_usable(id)))
}

/// Graphic ASCII of a bounded length: no control character, and nothing that changes the direction or the look of a
/// log line. It also goes into a header, which has no other characters.
fn is_usable(id: &str) -> bool {
    ID_BYTES.contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn answered(name: &str, value: &[u8]) -> HeaderMap {
        let app = identified(Router::new().route("/", get(|| async { "here" })), "request-id");
        let request = Request::builder().uri("/").header(name, value).body(Body::empty()).unwrap();
        app.oneshot(request).await.unwrap().headers().clone()
    }

    #[tokio::test]
    async fn the_name_in_the_baggage_comes_back() {
        for baggage in [
            "request-id=abc-123_456/x",
            "sb-other=1, request-id = abc-123_456/x ;propagate=1,last=2",
            "request-id=abc%2D123_456/x",
        ] {
            assert_eq!(
                answered("baggage", baggage.as_bytes()).await[REQUEST_ID],
                "abc-123_456/x",
                "{baggage}"
            );
        }
        assert_eq!(answered("x-request-id", b"from a proxy".as_slice()).await[REQUEST_ID].len(), 32);
        assert_eq!(answered("x-request-id", b"from-a-proxy").await[REQUEST_ID], "from-a-proxy");
    }

    #[tokio::test]
    async fn a_name_that_could_forge_or_flood_a_log_is_replaced_by_a_new_one() {
        let long = format!("request-id={}", "a".repeat(201));
        for baggage in [
            b"request-id=nine-char".as_slice(),
            long.as_bytes(),
            b"request-id=line%0Abreak-and-more",
            b"request-id=right%E2%80%AEto-left-mark",
            b"request-id=broken%FFutf8-text",
            b"request-id=with blanks in it",
            b"request-id=\xff\xfe-not-a-text",
            b"other=abc-123_456/x",
            b"request-id",
            b"",
        ] {
            let headers = answered("baggage", baggage).await;
            let id = headers[REQUEST_ID].to_str().unwrap();
            assert!(
                id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{id} for {baggage:?}"
            );
        }
    }

    #[tokio::test]
    async fn every_answer_forbids_guessing_types_and_telling_where_one_came_from() {
        let headers = answered("accept", b"*/*").await;
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
    }
}
