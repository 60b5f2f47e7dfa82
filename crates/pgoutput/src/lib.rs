//! Typed, zero-copy decoding of PostgreSQL's logical replication stream (`pgoutput`). No I/O.
//!
//! In reading order: [`lsn`] (the numbers that name things), [`tuple`] (rows), [`relation`] (what the
//! log says of tables), [`message`] (one message of the stream), [`decode`] (bytes to messages).

mod lsn;
mod tuple;

pub use lsn::{Lsn, Oid, ParseLsnError, PgTimestamp, Xid};
pub use tuple::{Cell, Tuple};
