//! What a request must pass before any project looks at it: the size of its head, and what its address has taken.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::response::{IntoResponse, Response};
use http::{Method, Request, StatusCode, Uri, header};

use crate::addresses::{AddressLimitReached, Addresses, Network, Seat, client_of};
use crate::gateway::names_session;
use crate::listener::ListenerSettings;
use crate::origins::is_socket_path;

/// The version, and what is between the parts of a head's lines (RFC 9112 §2).
const LINE_OVERHEAD_BYTES: usize = 12;
const FIELD_OVERHEAD_BYTES: usize = 4;

/// The place of a connection among those of its address. A WebSocket keeps it until it ends.
#[derive(Clone)]
pub(crate) struct AddressSeat(#[expect(dead_code, reason = "held for its end")] Arc<Seat>);

/// Who is at the other end of a TCP connection.
pub(crate) enum Peer {
    /// A client, whose connection is counted.
    Client {
        address: IpAddr,
        seat: AddressSeat,
        /// The connection itself was counted as a handshake, and there was no request for a socket yet.
        first: AtomicBool,
    },
    /// A trusted proxy, whose clients are counted by what it says of them.
    Proxy(IpAddr),
}

/// A request that is not looked at further. The text names the limit, its value and its setting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the request line has {bytes} bytes, and at most {max} are read (server.request_line_bytes_max = {max})"
    )]
    RequestLine { bytes: usize, max: usize },
    #[error(
        "the request's head has {bytes} bytes, and at most {max} are read (server.header_bytes_max = {max})"
    )]
    Head { bytes: usize, max: usize },
    #[error(transparent)]
    Address(#[from] AddressLimitReached),
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Refusal::RequestLine { .. } => StatusCode::URI_TOO_LONG,
            Refusal::Head { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::Address(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub(crate) fn body(&self) -> String {
        serde_json::json!({ "error": self.to_string() }).to_string()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let headers =
            [(header::CONTENT_TYPE, "application/json; charset=utf-8"), (header::CONNECTION, "close")];
        (self.status(), headers, self.body()).into_response()
    }
}

/// The checks and what they count.
pub(crate) struct Edge {
    addresses: Arc<Addresses>,
    trusted_proxies: Vec<Network>,
    head_bytes_max: usize,
    request_line_bytes_max: usize,
}

impl Edge {
    pub(crate) fn new(settings: &ListenerSettings) -> Self {
        Edge {
            addresses: Addresses::new(settings.addresses),
            trusted_proxies: settings.trusted_proxies.clone(),
            head_bytes_max: settings.head_bytes_max,
            request_line_bytes_max: settings.request_line_bytes_max,
        }
    }

    /// A TCP connection that was accepted.
    pub(crate) fn peer(&self, address: IpAddr) -> Result<Peer, Refusal> {
        let address = address.to_canonical();
        if self.trusted_proxies.iter().any(|network| network.contains(address)) {
            return Ok(Peer::Proxy(address));
        }
        let seat = AddressSeat(Arc::new(self.addresses.connect(address, Instant::now())?));
        Ok(Peer::Client { address, seat, first: AtomicBool::new(true) })
    }

    /// A request on it. One that opens a socket gets the place that the socket will hold.
    pub(crate) fn admit<B>(&self, peer: &Peer, request: &mut Request<B>) -> Result<(), Refusal> {
        let line = request.method().as_str().len() + target_bytes(request.uri()) + LINE_OVERHEAD_BYTES;
        if line > self.request_line_bytes_max {
            return Err(Refusal::RequestLine { bytes: line, max: self.request_line_bytes_max });
        }
        let field = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
            name.as_str().len() + value.len() + FIELD_OVERHEAD_BYTES
        };
        let head = line + request.headers().iter().map(field).sum::<usize>();
        if head > self.head_bytes_max {
            return Err(Refusal::Head { bytes: head, max: self.head_bytes_max });
        }
        let Some(opening) = opening(request) else { return Ok(()) };
        let connect = |address| {
            let seat = self.addresses.connect(address, Instant::now()).map_err(Refusal::Address)?;
            Ok::<_, Refusal>(AddressSeat(Arc::new(seat)))
        };
        let seat = match (peer, opening) {
            (Peer::Client { address, seat, first }, Opening::WebSocket) => {
                if !first.swap(false, Ordering::Relaxed) {
                    self.addresses.handshake(*address, Instant::now()).map_err(Refusal::Address)?;
                }
                seat.clone()
            }
            // One connection may open any number of sessions, each of which outlives it.
            (Peer::Client { address, .. }, Opening::LongPoll) => connect(*address)?,
            (Peer::Proxy(proxy), _) => connect(client_of(*proxy, request.headers(), &self.trusted_proxies))?,
        };
        request.extensions_mut().insert(seat);
        Ok(())
    }
}

/// What a request opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    WebSocket,
    LongPoll,
}

/// What a request opens: a WebSocket, or a long-polling session if it has no session's token (docs/protocol.md §1.7).
fn opening<B>(request: &Request<B>) -> Option<Opening> {
    let path = request.uri().path();
    // The router takes HEAD where it takes GET.
    if !is_socket_path(path) || !(request.method() == Method::GET || request.method() == Method::HEAD) {
        return None;
    }
    if path.ends_with("/websocket") {
        return Some(Opening::WebSocket);
    }
    (!names_session(request.uri(), request.headers())).then_some(Opening::LongPoll)
}

/// Bytes of a request's target as it was sent; most have no authority.
fn target_bytes(uri: &Uri) -> usize {
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    authority + uri.path_and_query().map_or(0, |target| target.as_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::AddressLimits;

    fn edge(connections_max: u32) -> Edge {
        Edge::new(&ListenerSettings {
            addresses: AddressLimits { connections_max, handshakes_per_second_max: 2 },
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            request_line_bytes_max: 100,
            head_bytes_max: 200,
            ..ListenerSettings::default()
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn socket_request(client: &str) -> Request<()> {
        let request = Request::builder().uri("/socket/websocket").header("x-forwarded-for", client);
        request.body(()).unwrap()
    }

    #[test]
    fn clients_of_a_trusted_proxy_are_counted_each_for_itself_while_their_sockets_live() {
        let edge = edge(1);
        let proxy = edge.peer(ip("10.1.1.1")).ok().unwrap();
        let mut first = socket_request("192.0.2.1");
        edge.admit(&proxy, &mut first).unwrap();
        edge.admit(&proxy, &mut socket_request("192.0.2.2")).unwrap();
        let refused = edge.admit(&proxy, &mut socket_request("192.0.2.1")).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(refused.body().contains("limits.max_connections_per_address = 1"), "{}", refused.body());
        drop(first);
    }

    #[test]
    fn a_socket_takes_its_place_whatever_its_query_says_and_a_session_of_long_polling_one_of_its_own() {
        let opened = |method: &str, target: &str| {
            opening(&Request::builder().method(method).uri(target).body(()).unwrap())
        };
        for target in ["/socket/websocket", "/socket/websocket?token=x", "/blue/realtime/v1/websocket"] {
            assert_eq!(opened("GET", target), Some(Opening::WebSocket), "{target}");
            assert_eq!(opened("HEAD", target), Some(Opening::WebSocket), "{target}");
        }
        for target in ["/socket/longpoll", "/socket/longpoll?token=", "/socket/longpoll?token=null"] {
            assert_eq!(opened("GET", target), Some(Opening::LongPoll), "{target}");
        }
        assert_eq!(opened("GET", "/socket/longpoll?token=x"), None);
        assert_eq!(opened("POST", "/socket/longpoll"), None);

        let edge = edge(2);
        let client = edge.peer(ip("192.0.2.1")).ok().unwrap();
        let mut sessions = [(), ()].map(|()| Request::builder().uri("/socket/longpoll").body(()).unwrap());
        let [first, second] = &mut sessions;
        edge.admit(&client, first).unwrap();
        assert!(edge.admit(&client, second).is_err(), "the connection and the first session are two");
    }

    #[test]
    fn a_stranger_is_not_believed_who_it_comes_for() {
        let edge = edge(1);
        let stranger = edge.peer(ip("192.0.2.1")).ok().unwrap();
        let mut request = socket_request("198.51.100.1");
        edge.admit(&stranger, &mut request).unwrap();
        assert!(edge.peer(ip("192.0.2.1")).is_err());
        drop(stranger);
        assert!(edge.peer(ip("192.0.2.1")).is_err(), "the socket keeps the place");
    }

    #[test]
    fn each_further_handshake_on_a_connection_counts() {
        let edge = edge(0);
        let client = edge.peer(ip("192.0.2.1")).ok().unwrap();
        edge.admit(&client, &mut socket_request("")).unwrap();
        edge.admit(&client, &mut socket_request("")).unwrap();
        assert!(edge.admit(&client, &mut socket_request("")).is_err());
        let mut other = Request::builder().uri("/api/ping").body(()).unwrap();
        edge.admit(&client, &mut other).unwrap();
    }

    #[test]
    fn only_the_first_request_of_a_long_polling_session_counts() {
        let edge = edge(0);
        let client = edge.peer(ip("192.0.2.1")).ok().unwrap();
        let request = |method: &str, uri: &str| Request::builder().method(method).uri(uri).body(()).unwrap();
        for _ in 0..5 {
            edge.admit(&client, &mut request("GET", "/socket/longpoll?vsn=2.0.0&token=t")).unwrap();
            edge.admit(&client, &mut request("POST", "/socket/longpoll?token=t")).unwrap();
        }
        let mut opening = request("GET", "/socket/longpoll?vsn=2.0.0");
        edge.admit(&client, &mut opening).unwrap();
        assert!(opening.extensions().get::<AddressSeat>().is_some());
        let third = edge.admit(&client, &mut request("GET", "/socket/longpoll?vsn=2.0.0"));
        assert!(third.is_err(), "after the connection and the first session");
    }

    #[test]
    fn long_lines_and_heads_are_refused_with_limit_value_and_setting() {
        let edge = edge(0);
        let client = edge.peer(ip("192.0.2.1")).ok().unwrap();
        let mut long = Request::builder().uri(format!("/?{}", "a".repeat(100))).body(()).unwrap();
        let refused = edge.admit(&client, &mut long).unwrap_err();
        assert_eq!(refused.status(), StatusCode::URI_TOO_LONG);
        assert!(refused.to_string().contains("server.request_line_bytes_max = 100"), "{refused}");
        let mut large = Request::builder().uri("/").header("x", "a".repeat(200)).body(()).unwrap();
        let refused = edge.admit(&client, &mut large).unwrap_err();
        assert_eq!(refused.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert!(refused.to_string().contains("server.header_bytes_max = 200"), "{refused}");
    }
}
