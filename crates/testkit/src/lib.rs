//! Private PostgreSQL clusters and a protocol client, for tests, benchmarks and `walcast dev`.
//!
//! Read in this order:
//!
//! - [`binaries`]: where the server programs are, and which of several versions is taken.
//! - `account`: the unprivileged account that Postgres runs under when we are root.
//! - `home`: the directory of one cluster: data, log, password, socket; the removal of what dead processes left.
//! - `spawn`: starting a process that dies with us, however we die.
//! - [`cluster`]: [`Cluster`], one running server: start, stop, crash, restart.
//! - [`database`](mod@database): [`shared_cluster()`] and [`database()`], one empty database for every test.

mod account;
pub mod binaries;
pub mod cluster;
pub mod database;
mod home;
mod spawn;

pub use binaries::Binaries;
pub use cluster::{Cluster, ClusterSettings, DataDirectory};
pub use database::{Database, database, shared_cluster};
