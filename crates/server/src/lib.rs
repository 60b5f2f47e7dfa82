//! Sockets and HTTP in front of the engine; the one crate that names axum and tungstenite.
//!
//! In reading order: [`gateway`] (WebSockets in the Phoenix protocol), [`api`] (HTTP for users and
//! operators), [`listener`] (TCP connections to HTTP requests), [`request_id`], [`demo`] (the page of `walcast dev`), [`health`], [`metrics`],
//! [`request_log`] and [`redact`] (what must not stand in it).

pub mod api;
mod clock;
pub mod demo;
mod gateway;
pub mod health;
mod listener;
pub mod metrics;
pub mod redact;
pub mod request_id;
mod request_log;

pub use gateway::{Gateway, Limits, router as gateway_router};
pub use listener::{ListenerSettings, serve};
pub use request_log::{HealthRequests, logged};
