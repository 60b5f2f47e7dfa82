//! The catalog against a real PostgreSQL. One test program, so that there is one cluster.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests do")]

mod changes;
mod channel_differential;
mod channel_together;
mod channels;
mod copies;
mod install;
mod janitor;
mod lookups;
mod messages;
mod oracle;
mod oracle_session;
mod oracle_sets;
mod preflight;
mod publication;
mod run_as;
mod snapshot;
mod support;
mod tls;
