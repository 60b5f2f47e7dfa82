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
        /// Where the server's log ended when the connection began.
        log_end: Lsn,
        /// Another server has taken the place of the one that was read before, as a standby that was promoted.
        promoted: bool,
        /// Why changes between the last handled position and `since` are lost to us, if they are. Never set on the
        /// first connection.
        gap: Option<Gap>,
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
    /// The server has nothing for us up to here. A consumer that holds nothing back and is not inside a transaction has
    /// handled it, so that an idle slot holds no log.
    KeepAlive {
        /// Everything before this position has been sent, or was not for us.
        wal_end: Lsn,
    },
}

/// Why changes are lost to a consumer that was connected before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// The slot was not there any more, as after a drop by hand, or on a standby that was promoted without it.
    #[error("the replication slot was gone")]
    SlotVanished,
    /// PostgreSQL had invalidated the slot, most often because it held back more log than `max_slot_wal_keep_size`.
    #[error("PostgreSQL invalidated the replication slot")]
    SlotInvalidated,
    /// Another consumer, or an operator, has moved the slot on.
    #[error("the replication slot was moved on by somebody else")]
    SlotMoved,
    /// Another server has taken the place of the one that was read, as a standby that was promoted, and what was read
    /// behind this position is not in its log.
    #[error("a standby was promoted that has the log only up to {0}")]
    LogCutOff(Lsn),
    /// [`SlotControl::renew`](crate::SlotControl::renew) was called, with this reason.
    #[error("the replication slot was given up: {0}")]
    SlotGivenUp(String),
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
    /// Nothing is read, because [`SlotControl::pause`](crate::SlotControl::pause) was called.
    Paused {
        /// Its reason.
        reason: String,
    },
    /// Cancelled, or ended for good.
    Stopped,
}
