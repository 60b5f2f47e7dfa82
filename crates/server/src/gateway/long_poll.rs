//! Phoenix long polling: the same messages over plain HTTP requests, for networks that break WebSockets
//! (docs/protocol.md §1.7).
//!
//! A GET without a token opens a session; further ones wait for messages; a POST sends some. Binary messages do
//! not exist here: a broadcast that is one elsewhere comes as text, and one of bytes does not come.
//! In reading order: [`mailbox`] (what waits to be fetched), [`session`] (the client behind it).

mod mailbox;
mod session;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode, header};
use walcast_wire::Serializer;

pub(crate) use self::session::Sessions;
use self::session::{Delivered, PollSession};
use super::handshake::{self, Parameters};
use super::{Gateway, Incoming};
use crate::api::body;
use crate::edge::AddressSeat;

/// How long a request waits for messages before it is answered without any.
const WINDOW: Duration = Duration::from_secs(10);
/// Messages that one request may send.
const LINES_MAX: usize = 100;
/// The header that may carry the token in place of the query.
const TOKEN_HEADER: &str = "x-phoenix-longpoll-token";
/// What stands in the answer in place of an HTTP status, which is always 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PollStatus {
    /// Messages.
    Ok = 200,
    /// None within the window.
    NoContent = 204,
    /// The request is not acceptable.
    BadRequest = 400,
    /// Not allowed in.
    Forbidden = 403,
    /// The client's messages could not be taken in time.
    Timeout = 408,
    /// No such session, or a fresh one.
    Gone = 410,
    /// Too many bytes or lines.
    TooLarge = 413,
    /// Not now; the client tries again.
    Unavailable = 500,
}

/// The routes of one address.
pub(super) fn routes() -> MethodRouter<Arc<Gateway>> {
    axum::routing::get(poll).post(send).options(preflight)
}

/// `GET`: opens a session, or waits for its messages.
async fn poll(State(gateway): State<Arc<Gateway>>, mut request: Request) -> Response {
    let address_seat = request.extensions_mut().remove::<AddressSeat>();
    let parameters = Parameters::of(request.uri().query().unwrap_or_default());
    let Some(token) = token_of(&parameters, request.headers()) else {
        return open(&gateway, &parameters, request.headers(), address_seat).await;
    };
    let Some(session) = gateway.polls.find(&token) else {
        return answer(PollStatus::Gone, None, &[]);
    };
    match session.messages(WINDOW).await {
        Some(messages) if messages.is_empty() => answer(PollStatus::NoContent, Some(&token), &[]),
        Some(messages) => answer(PollStatus::Ok, Some(&token), &messages),
        None => answer(PollStatus::Gone, None, &[]),
    }
}

async fn open(
    gateway: &Arc<Gateway>,
    parameters: &Parameters,
    headers: &HeaderMap,
    address_seat: Option<AddressSeat>,
) -> Response {
    let Ok(serializer) = Serializer::negotiate(parameters.vsn.as_deref()) else {
        return refusal(PollStatus::Forbidden, "vsn must be 1.0.0 or 2.0.0");
    };
    match handshake::admit(gateway, headers, parameters.apikey.clone(), serializer).await {
        Ok((admitted, seat)) => {
            let token = PollSession::start(gateway, admitted, (seat, address_seat)).await;
            answer(PollStatus::Gone, Some(&token), &[])
        }
        Err(refused) => {
            refused.wait(gateway).await;
            // After the one a client gives up, after the other it tries again.
            let status = if refused.is_final() { PollStatus::Forbidden } else { PollStatus::Unavailable };
            refusal(status, &refused.message)
        }
    }
}

/// `POST`: one message, or several as lines.
async fn send(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let parameters = Parameters::of(head.uri.query().unwrap_or_default());
    let session = token_of(&parameters, &head.headers).and_then(|token| gateway.polls.find(&token));
    let Some(session) = session else {
        return refusal(PollStatus::Gone, "no such session: GET without a token opens one");
    };
    let lines = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim().starts_with("application/x-ndjson"));
    let body = match body::read(&head.headers, body).await {
        Ok(body) => body,
        Err(error) => return refusal(PollStatus::TooLarge, &error.to_string()),
    };
    let messages = match messages_of(&body, lines) {
        Ok(messages) => messages,
        Err((status, reason)) => return refusal(status, reason),
    };
    for message in messages {
        if message.len() > gateway.limits.message_bytes_max {
            return refusal(PollStatus::TooLarge, "a message is larger than the server accepts");
        }
        match session.deliver(message, WINDOW).await {
            Delivered::Yes => {}
            Delivered::Late => return refusal(PollStatus::Timeout, "the server is busy: send it again"),
            Delivered::Gone => return refusal(PollStatus::Gone, "the session has ended"),
        }
    }
    json(&serde_json::json!({ "status": PollStatus::Ok as u16 }))
}

/// What browsers ask before a request to another origin.
async fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type, x-api-key, x-phoenix-longpoll-token"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// How many messages the body of a request that sends has; `None` for one that is refused.
pub fn check_long_poll_body(body: &[u8], lines: bool) -> Option<usize> {
    messages_of(&Bytes::copy_from_slice(body), lines).ok().map(|messages| messages.len())
}

/// The messages of a body. A line that is neither an array nor an object is a binary message in base64, as Phoenix's
/// client sends it.
fn messages_of(body: &Bytes, lines: bool) -> Result<Vec<Incoming>, (PollStatus, &'static str)> {
    let bad = |reason| (PollStatus::BadRequest, reason);
    let text = std::str::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
    if !lines {
        return Ok(vec![Incoming::Text(text.into())]);
    }
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    if lines.len() > LINES_MAX {
        return Err((PollStatus::TooLarge, "at most 100 messages can be sent at once"));
    }
    let message = |line: &str| {
        if line.starts_with(['[', '{']) {
            return Ok(Incoming::Text(line.into()));
        }
        let bytes = STANDARD.decode(line).map_err(|_| bad("a line is neither JSON nor base64"))?;
        Ok(Incoming::Binary(bytes.into()))
    };
    lines.into_iter().map(message).collect()
}

/// Whether a request is one of a session that there is, or was.
pub(crate) fn names_session(uri: &http::Uri, headers: &HeaderMap) -> bool {
    token_of(&Parameters::of(uri.query().unwrap_or_default()), headers).is_some()
}

fn token_of(parameters: &Parameters, headers: &HeaderMap) -> Option<Arc<str>> {
    let header = headers.get(TOKEN_HEADER).and_then(|value| value.to_str().ok());
    let token = header.or(parameters.token.as_deref())?;
    // A client without a session sends an empty one, or the word.
    (!token.is_empty() && token != "null").then(|| Arc::from(token))
}

fn answer(status: PollStatus, token: Option<&str>, messages: &[String]) -> Response {
    json(&serde_json::json!({ "status": status as u16, "token": token, "messages": messages }))
}

fn refusal(status: PollStatus, reason: &str) -> Response {
    json(&serde_json::json!({ "status": status as u16, "error": reason }))
}

fn json(body: &serde_json::Value) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json; charset=utf-8"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_and_those_that_are_no_json_are_base64() {
        let body = Bytes::from_static(b"[1]\r\n\nAAEC\n{}");
        let messages = messages_of(&body, true).unwrap();
        assert!(matches!(&messages[0], Incoming::Text(text) if text.as_str() == "[1]"));
        assert!(matches!(&messages[1], Incoming::Binary(bytes) if bytes[..] == [0, 1, 2]));
        assert!(matches!(&messages[2], Incoming::Text(text) if text.as_str() == "{}"));
        assert_eq!(messages.len(), 3);
    }

    #[test]
    fn a_line_that_is_nothing_and_too_many_lines_are_refused() {
        let refused = |body: String| messages_of(&Bytes::from(body), true).err().map(|(status, _)| status);
        assert_eq!(refused("?".to_owned()), Some(PollStatus::BadRequest));
        assert_eq!(refused("[]\n".repeat(100)), None);
        assert_eq!(refused("[]\n".repeat(101)), Some(PollStatus::TooLarge));
    }
}
