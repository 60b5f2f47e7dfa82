//! Private PostgreSQL clusters and a protocol client, for tests, benchmarks and `walcast dev`.
//!
//! Read in this order:
//!
//! - [`binaries`]: where the server programs are, and which of several versions is taken.
//! - [`embedded`]: programs unpacked into the project's own directory, for machines that have none and no root.
//! - `account`: the unprivileged account that Postgres runs under when we are root.
//! - `home`: the directory of one cluster: data, log, password, socket; the removal of what dead processes left.
//! - `spawn`: starting a process that dies with us, however we die.
//! - `server`: the server process: making its data directory, starting, signalling, waiting.
//! - [`cluster`]: [`Cluster`], one running server: start, stop, crash, restart.
//! - [`database`](mod@database): [`shared_cluster()`] and [`database()`], one empty database for every test.
//! - [`program`]: [`Program`], a process that can be killed, paused and started again.
//! - [`fault_proxy`]: [`FaultProxy`], a network that can be cut, delayed, narrowed and black-holed.
//! - [`small_disk`]: [`SmallDisk`](small_disk::SmallDisk), a file system that can be filled.
//! - [`demo`]: the demo schema and the three people in it.
//! - [`protocol_message`]: what a client sends and gets, in the forms of both serializers.
//! - [`strict`]: what the strictest of the stock clients demand of every frame.
//! - [`protocol_client`]: [`ProtocolClient`], a client that waits for what it expects and tells what came instead.

mod account;
pub mod binaries;
pub mod cluster;
pub mod database;
pub mod demo;
pub mod embedded;
pub mod fault_proxy;
mod home;
pub mod program;
pub mod protocol_client;
pub mod protocol_message;
mod server;
pub mod small_disk;
mod spawn;
pub mod strict;

pub use binaries::Binaries;
pub use cluster::{Cluster, ClusterSettings, DataDirectory};
pub use database::{Database, database, shared_cluster};
pub use fault_proxy::FaultProxy;
pub use program::Program;
pub use protocol_client::{Handshake, HandshakeRefused, ProtocolClient};
pub use protocol_message::{ProtocolVersion, RawFrame, Received, Reply};
