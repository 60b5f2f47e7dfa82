//! The replication client against a real PostgreSQL: what it delivers, how it logs in, how it refuses and recovers.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail like the test itself")]

mod caring;
mod consumer;
mod logging_in;
mod recovering;
mod refusals;
mod streaming;
mod tls;
