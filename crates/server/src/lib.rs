//! Sockets and HTTP in front of the engine; the one crate that names axum and tungstenite.
//!
//! In reading order: [`gateway`] (WebSockets in the Phoenix protocol), [`listener`] (TCP connections to
//! HTTP requests), [`demo`] (the page of `walcast dev`), [`health`], [`metrics`],
//! [`request_log`] and [`redact`] (what must not stand in it).

mod clock;
pub mod demo;
mod gateway;
pub mod health;
mod listener;
pub mod metrics;
pub mod redact;
mod request_log;

pub use gateway::{Gateway, Limits, router as gateway_router};
pub use listener::{ListenerSettings, serve};
pub use request_log::{HealthRequests, logged};
