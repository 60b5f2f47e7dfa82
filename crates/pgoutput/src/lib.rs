//! Typed, zero-copy decoding of PostgreSQL's logical replication stream (`pgoutput`). No I/O.
//!
//! In reading order: `lsn` (the numbers that name things), `tuple` (rows), `relation` (what the
//! log says of tables), `message` (one message of the stream), `decode` (bytes to messages, on the
//! `cursor` that knows where it stands), and behind the feature `encode` the way back.
//! Tests: `literals` and `literals_of_streams` (each message by its bytes), `refusals` (what is no message), `properties`.

mod cursor;
mod decode;
#[cfg(any(test, feature = "encode"))]
pub mod encode;
#[cfg(test)]
mod literals;
#[cfg(test)]
mod literals_of_streams;
mod lsn;
mod message;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod refusals;
mod relation;
mod tuple;

pub use cursor::{DecodeError, Fault};
pub use decode::{Decoded, Decoder};
pub use lsn::{Lsn, Oid, ParseLsnError, PgTimestamp, Xid};
pub use message::{AbortPoint, Message, OldTuple};
pub use relation::{Relation, RelationColumn, ReplicaIdentity};
pub use tuple::{Cell, Tuple};
