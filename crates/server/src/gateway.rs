//! The Phoenix gateway: WebSockets in the protocol of docs/protocol.md, translated to the engine's
//! sessions. In reading order: [`handshake`], [`client`] (one client and the way of its messages), [`channel`]
//! (one topic of it), [`joins`], [`renewals`] (its tokens), [`private`] and [`sending`] (what policies allow it),
//! [`push`] (its messages), [`readiness`] (messages from the database), [`returning`] (whether it comes back).
//!
//! What carries the messages: [`connection`] (a WebSocket), [`socket`] (its bytes), [`farewell`] (its end);
//! [`long_poll`] (HTTP requests, for networks that break WebSockets).

mod channel;
mod client;
mod connection;
mod farewell;
mod handshake;
mod joins;
mod limits;
mod long_poll;
mod private;
mod push;
mod readiness;
mod renewals;
mod returning;
mod sending;
mod socket;
mod tls_socket;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use walcast_auth::Verifier;
use walcast_engine::Engine;
use walcast_policy::channel::ChannelPolicies;

pub(crate) use self::limits::Admission;
pub use self::limits::Limits;
use self::long_poll::Sessions;
pub use self::long_poll::check_long_poll_body;
pub(crate) use self::long_poll::names_session;
pub use self::readiness::DatabaseMessages;

/// Channels whose rights are asked again at a time.
const RECHECKS_AT_ONCE: usize = 16;

/// What every connection shares.
pub struct Gateway {
    pub(crate) engine: Engine,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) limits: Limits,
    pub(crate) policies: Arc<dyn ChannelPolicies>,
    /// Another number whenever what `policies` answers may have changed by itself.
    pub(crate) policies_changed: watch::Receiver<u64>,
    pub(crate) database_messages: watch::Receiver<DatabaseMessages>,
    pub(crate) admission: Arc<Admission>,
    /// Sessions without a socket.
    polls: Sessions,
    /// Turns of channels that are looked at again, so that thousands of them leave the database to others, too.
    rechecks: Semaphore,
}

/// A client's message as what carries it has it.
pub(crate) enum Incoming {
    Text(Utf8Bytes),
    Binary(Bytes),
}

/// Why a connection ends.
enum End {
    /// The client has said goodbye; it is answered with this code.
    Left(u16),
    /// Close with this code and reason.
    Close(u16, &'static str),
    /// The engine has queued a close frame.
    Closing,
    /// The peer is gone.
    Gone,
}

/// Close codes of RFC 6455 §7.4.1.
mod close_code {
    pub(super) const NORMAL: u16 = 1000;
    pub(super) const PROTOCOL_ERROR: u16 = 1002;
    pub(super) const INVALID_DATA: u16 = 1007;
    pub(super) const POLICY: u16 = 1008;
    pub(super) const TOO_BIG: u16 = 1009;
    pub(super) const INTERNAL_ERROR: u16 = 1011;
}

impl Incoming {
    /// Bytes.
    fn len(&self) -> usize {
        match self {
            Incoming::Text(text) => text.len(),
            Incoming::Binary(bytes) => bytes.len(),
        }
    }
}

impl Gateway {
    /// A gateway in front of an engine. `policies_changed` tells another number whenever what `policies` answers
    /// may have changed by itself, so that open private channels are judged anew; `database_messages` whether what is
    /// inserted into `realtime.messages` arrives.
    pub fn new(
        engine: Engine,
        verifier: Arc<Verifier>,
        limits: Limits,
        policies: Arc<dyn ChannelPolicies>,
        policies_changed: watch::Receiver<u64>,
        database_messages: watch::Receiver<DatabaseMessages>,
    ) -> Arc<Self> {
        let (admission, polls) = (Arc::default(), Sessions::default());
        let rechecks = Semaphore::new(RECHECKS_AT_ONCE);
        Arc::new(Gateway {
            engine,
            verifier,
            limits,
            policies,
            policies_changed,
            database_messages,
            admission,
            polls,
            rechecks,
        })
    }
}

impl Gateway {
    /// The state of what private channels are judged by.
    fn policies_version(&self) -> u64 {
        *self.policies_changed.borrow()
    }

    /// Counts something that a client did wrong or may not do.
    fn count_error(&self) {
        self.engine.counters().errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// The WebSocket's addresses: as the server has them, and as the usual gateway in front of it does.
pub fn router(gateway: Arc<Gateway>) -> Router {
    routes().with_state(gateway)
}

/// The same without their state. Each is described in `api/openapi.rs`.
pub(crate) fn routes() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/socket/websocket", get(handshake::upgrade))
        .route("/realtime/v1/websocket", get(handshake::upgrade))
        .route("/socket/longpoll", long_poll::routes())
        .route("/realtime/v1/longpoll", long_poll::routes())
}
