//! Sockets and HTTP in front of the engine; the one crate that names axum and tungstenite.
//!
//! In reading order: [`listener`] (TCP connections to HTTP requests), [`tls`] (their certificate), [`edge`] and
//! [`addresses`] (what is refused before it is looked at), [`front`] (which project a request is for), [`origins`]
//! (which pages may open a socket), [`gateway`] (WebSockets in the Phoenix protocol), [`api`] (HTTP for
//! users and operators), [`request_id`], [`demo`] (the page of
//! `walcast dev`), [`health`], [`metrics`], [`request_log`] and [`redact`] (what must not stand in it).

mod addresses;
pub mod api;
mod clock;
pub mod demo;
mod edge;
pub mod front;
mod gateway;
pub mod health;
mod listener;
pub mod metrics;
pub mod origins;
pub mod redact;
pub mod request_id;
mod request_log;
mod tls;

pub use axum::Router;

pub use addresses::{AddressLimits, Network, NotANetwork};
pub use gateway::{DatabaseMessages, Gateway, Limits, check_long_poll_body, router as gateway_router};
pub use listener::{ListenerSettings, serve};
pub use request_log::{HealthRequests, logged};
pub use tls::{Tls, TlsError, TlsFiles};
