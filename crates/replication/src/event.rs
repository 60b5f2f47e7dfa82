//! What the consumer of a stream is told, and how it is told that the stream stands.

use bytes::Bytes;
use walcast_pgoutput::Lsn;

/// One thing that arrived, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection has begun to stream. A transaction that was half received comes again from its start, so what
    /// there is of it must be dropped.
    Restarted {
        /// Changes committed after this position come.
        since: Lsn,
        /// The slot had vanished and was made anew, or another consumer moved it on: changes between the last
        /// confirmed position and `since` are lost to us. Never set on the first connection.
        gap: bool,
    },
    /// One message of the `pgoutput` plugin.
    Data {
        /// Where the record stands that it was made from; zero for messages that stand for no record.
        wal_start: Lsn,
        /// The end of the log as the server knew it.
        wal_end: Lsn,
        /// The message, to be decoded by `walcast-pgoutput`. It shares the read buffer.
        payload: Bytes,
    },
    /// The server has nothing for us up to here. A consumer that holds nothing back and is not inside a transaction
    /// confirms it, so that an idle slot holds no log.
    KeepAlive {
        /// Everything before this position has been sent, or was not for us.
        wal_end: Lsn,
    },
}

/// How the stream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamStatus {
    /// Opening a connection.
    Connecting,
    /// Changes flow.
    Streaming {
        /// Those committed after this position.
        since_lsn: Lsn,
    },
    /// The connection is lost or could not be had; another try follows by itself.
    Broken {
        /// One sentence, with what mends it.
        error: String,
        /// How many tries in a row have failed.
        attempt: u32,
    },
    /// Cancelled, or ended for good.
    Stopped,
}
