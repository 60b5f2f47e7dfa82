//! The Phoenix gateway: WebSockets in the protocol of docs/protocol.md, translated to the engine's
//! sessions. In reading order: [`handshake`], [`connection`] (one socket), [`channel`]
//! (one topic of it), [`push`] (its messages), [`socket`] (its bytes), [`farewell`] (its end).

mod channel;
mod connection;
mod farewell;
mod handshake;
mod limits;
mod push;
mod socket;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::routing::get;
use walcast_auth::Verifier;
use walcast_engine::Engine;

pub(crate) use self::limits::Admission;
pub use self::limits::Limits;

/// What every connection shares.
pub struct Gateway {
    pub(crate) engine: Engine,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) limits: Limits,
    pub(crate) admission: Arc<Admission>,
}

impl Gateway {
    /// A gateway in front of an engine.
    pub fn new(engine: Engine, verifier: Arc<Verifier>, limits: Limits) -> Arc<Self> {
        Arc::new(Gateway { engine, verifier, limits, admission: Arc::default() })
    }
}

impl Gateway {
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
}
