//! From TCP connections, with or without TLS, to HTTP requests: the accept loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::{AddressLimits, Network};
use crate::edge::{Edge, Peer, Refusal};
use crate::tls::Tls;

/// How HTTP connections are treated. Each has a setting.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Open TCP connections; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Bytes of a request's first line, where tokens travel.
    pub request_line_bytes_max: usize,
    /// Header lines of a request.
    pub headers_max: usize,
    /// How long a client may take to send a request's head.
    pub head_timeout: Duration,
    /// How long a client may take for the TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// What one address may take.
    pub addresses: AddressLimits,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        ListenerSettings {
            connections_max: 100_000,
            head_bytes_max: 32 * 1024,
            request_line_bytes_max: 16 * 1024,
            headers_max: 100,
            head_timeout: Duration::from_secs(30),
            tls_handshake_timeout: Duration::from_secs(10),
            addresses: AddressLimits::default(),
            trusted_proxies: Vec::new(),
        }
    }
}

/// Pause after an accept that failed, for example because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// hyper's least for a head, and the room above the limit in which a request is still told which limit it is.
const HEAD_ROOM_BYTES: usize = 8 * 1024;
/// How long somebody who is turned away at once may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);
/// The first byte of every TLS connection: a handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What all connections share.
struct Listening {
    app: Router,
    tls: Option<Arc<Tls>>,
    edge: Edge,
    settings: ListenerSettings,
    log: RefusalLog,
}

/// Serves `app` until `cancel`, then lets requests in flight finish. With `tls`, nothing else is spoken.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    tls: Option<Arc<Tls>>,
    settings: ListenerSettings,
    cancel: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let places = Arc::new(tokio::sync::Semaphore::new(settings.connections_max));
    let edge = Edge::new(&settings);
    let listening = Arc::new(Listening { app, tls, edge, settings, log: RefusalLog::new() });
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = cancel.cancelled() => break,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => break,
        };
        match accepted {
            Ok((stream, from)) => {
                let peer = listening.edge.peer(from.ip());
                let (listening, cancel) = (Arc::clone(&listening), cancel.clone());
                tasks.spawn(async move {
                    match peer {
                        Ok(peer) => listening.connection(stream, peer, cancel).await,
                        Err(refusal) => listening.turn_away(stream, &refusal).await,
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

impl Listening {
    async fn connection(&self, stream: TcpStream, peer: Peer, cancel: CancellationToken) {
        let Some(tls) = &self.tls else {
            return self.http(stream, peer, cancel).await;
        };
        let handshake = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
                answer(stream, 400, "this port speaks TLS: use https:// or wss:// (tls.certificate)").await;
                return Ok(None);
            }
            tls.acceptor().accept(stream).await.map(Some)
        };
        match timeout(self.settings.tls_handshake_timeout, handshake).await {
            Ok(Ok(Some(stream))) => self.http(stream, peer, cancel).await,
            Ok(Ok(None)) => {}
            // The client's doing: scanners and clients that do not trust the certificate.
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took longer than tls.handshake_timeout_ms"),
        }
    }

    async fn http<S>(&self, stream: S, peer: Peer, cancel: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let app = TowerToHyperService::new(self.app.clone());
        let service = service_fn(|mut request: http::Request<Incoming>| {
            let admitted = self.edge.admit(&peer, &mut request);
            let answer = admitted.map(|()| app.call(request));
            async {
                match answer {
                    Ok(answer) => answer.await,
                    Err(refusal) => {
                        self.log.note(&refusal);
                        Ok(refusal.into_response())
                    }
                }
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.settings.head_timeout)
            .max_headers(self.settings.headers_max)
            .max_buf_size(self.settings.head_bytes_max + HEAD_ROOM_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        // An error here is the client's: a broken request or a connection that it gave up.
        tokio::select! {
            _ = connection.as_mut() => {}
            () = cancel.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }

    /// An address has more connections than it may have: it is told so without waiting for its request. With TLS that
    /// would cost a handshake, and the connection is just closed.
    async fn turn_away(&self, stream: TcpStream, refusal: &Refusal) {
        self.log.note(refusal);
        if self.tls.is_none() {
            let _ = timeout(FAREWELL, answer(stream, refusal.status().as_u16(), &refusal.to_string())).await;
        }
    }
}

/// Writes an answer whatever was asked, and waits for the client to hang up: what is closed with unread bytes is reset,
/// and a reset can overtake the answer.
async fn answer(mut stream: TcpStream, status: u16, error: &str) {
    let body = serde_json::json!({ "error": error }).to_string();
    let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let head = format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        reason.unwrap_or_default(),
        body.len()
    );
    if stream.write_all((head + &body).as_bytes()).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let mut unread = [0; 4096];
    while stream.read(&mut unread).await.is_ok_and(|count| count > 0) {}
}

/// Refusals in the log: one line a second, however many there are.
struct RefusalLog {
    started: Instant,
    /// The second in which there was a line; counted from 1.
    said: AtomicU64,
    unsaid: AtomicU64,
}

impl RefusalLog {
    fn new() -> Self {
        RefusalLog { started: Instant::now(), said: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    fn note(&self, refusal: &Refusal) {
        let second = self.started.elapsed().as_secs() + 1;
        if self.said.swap(second, Ordering::Relaxed) == second {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let unsaid = self.unsaid.swap(0, Ordering::Relaxed);
        tracing::warn!(%refusal, further_since_the_last_line = unsaid, "a client was turned away");
    }
}
