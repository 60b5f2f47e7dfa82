//! Sockets and HTTP in front of the engine; the one crate that names axum and tungstenite.
//!
//! In reading order: [`gateway`] (WebSockets in the Phoenix protocol), [`listener`] (TCP connections to
//! HTTP requests), [`demo`] (the page of `walcast dev`).

mod clock;
pub mod demo;
mod gateway;
mod listener;

pub use gateway::{Gateway, Limits, router as gateway_router};
pub use listener::{ListenerSettings, serve};
