//! The replication client against a real PostgreSQL: what it delivers, how it logs in, how it refuses and recovers.

mod consumer;
mod logging_in;
mod recovering;
mod refusals;
mod streaming;
mod tls;
