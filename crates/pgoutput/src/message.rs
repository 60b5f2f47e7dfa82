//! One message of the stream (PostgreSQL docs, "Logical Replication Message Formats").

use bytes::Bytes;

use crate::lsn::{Lsn, Oid, PgTimestamp, Xid};
use crate::relation::Relation;
use crate::tuple::Tuple;

/// What one `CopyData` of the stream says. Times are those of the server that wrote them.
///
/// An ordinary transaction is `Begin … Commit`. Since protocol version 2 a large one may come in pieces
/// while it runs, `StreamStart … StreamStop`, and ends in `StreamCommit` or `StreamAbort`; since version 3
/// two-phase ones are `BeginPrepare … Prepare` and later `CommitPrepared` or `RollbackPrepared`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `B`: a transaction starts. It has committed already.
    Begin {
        /// Where its commit record stands.
        final_lsn: Lsn,
        /// When it committed.
        commit_time: PgTimestamp,
        /// Its id.
        xid: Xid,
    },
    /// `C`: the transaction of the last `Begin` is complete.
    Commit {
        /// Where its commit record stands; equals `final_lsn` of its `Begin`.
        commit_lsn: Lsn,
        /// Behind its commit record: what may be confirmed once the transaction is handled.
        end_lsn: Lsn,
        /// When it committed.
        commit_time: PgTimestamp,
    },
    /// `O`: the transaction was replicated from elsewhere.
    Origin {
        /// Where it committed on the server it comes from.
        commit_lsn: Lsn,
        /// `pg_replication_origin.roname`.
        name: String,
    },
    /// `R`: what a table looks like from here on.
    Relation(Relation),
    /// `Y`: the name of a type that is not built in, before the relation that uses it.
    Type {
        /// `pg_type.oid`.
        oid: Oid,
        /// Its schema's name, unquoted.
        namespace: String,
        /// `pg_type.typname`.
        name: String,
    },
    /// `I`: a row was inserted.
    Insert {
        /// The table.
        relation: Oid,
        /// The row.
        new: Tuple,
    },
    /// `U`: a row was updated.
    Update {
        /// The table.
        relation: Oid,
        /// What the log has of the row before; absent where the identity is the key and it did not change.
        old: Option<OldTuple>,
        /// The row after.
        new: Tuple,
    },
    /// `D`: a row was deleted.
    Delete {
        /// The table.
        relation: Oid,
        /// What the log has of it.
        old: OldTuple,
    },
    /// `T`: tables were emptied.
    Truncate {
        /// The tables, those reached through CASCADE included.
        relations: Vec<Oid>,
        /// TRUNCATE … CASCADE.
        cascade: bool,
        /// TRUNCATE … RESTART IDENTITY.
        restart_identity: bool,
    },
    /// `M`: what somebody wrote into the log with `pg_logical_emit_message`.
    Message {
        /// Part of a transaction, delivered when that commits; else delivered at once.
        transactional: bool,
        /// Where it stands.
        lsn: Lsn,
        /// Whom it is for.
        prefix: String,
        /// What it says.
        content: Bytes,
    },
    /// `S`: the following messages belong to a transaction that still runs.
    StreamStart {
        /// The top-level transaction.
        xid: Xid,
        /// Whether this is its first piece.
        first_segment: bool,
    },
    /// `E`: the piece ends.
    StreamStop,
    /// `c`: the streamed transaction committed.
    StreamCommit {
        /// The top-level transaction.
        xid: Xid,
        /// Where its commit record stands.
        commit_lsn: Lsn,
        /// Behind its commit record.
        end_lsn: Lsn,
        /// When it committed.
        commit_time: PgTimestamp,
    },
    /// `A`: the streamed transaction, or one of its subtransactions, was rolled back.
    StreamAbort {
        /// The top-level transaction.
        xid: Xid,
        /// What was rolled back; equals `xid` when all of it was.
        subtransaction: Xid,
        /// Where and when; only with `streaming 'parallel'` (protocol version 4).
        aborted: Option<AbortPoint>,
    },
    /// `b`: a two-phase transaction starts. It has been prepared already.
    BeginPrepare {
        /// Where its prepare record stands.
        prepare_lsn: Lsn,
        /// Behind its prepare record.
        end_lsn: Lsn,
        /// When it was prepared.
        prepare_time: PgTimestamp,
        /// Its id.
        xid: Xid,
        /// The identifier that PREPARE TRANSACTION gave it.
        global_id: String,
    },
    /// `P`: the transaction of the last `BeginPrepare` is complete, and waits.
    Prepare {
        /// Where its prepare record stands.
        prepare_lsn: Lsn,
        /// Behind its prepare record.
        end_lsn: Lsn,
        /// When it was prepared.
        prepare_time: PgTimestamp,
        /// Its id.
        xid: Xid,
        /// The identifier that PREPARE TRANSACTION gave it.
        global_id: String,
    },
    /// `K`: COMMIT PREPARED.
    CommitPrepared {
        /// Where the commit record stands.
        commit_lsn: Lsn,
        /// Behind the commit record.
        end_lsn: Lsn,
        /// When it committed.
        commit_time: PgTimestamp,
        /// Its id.
        xid: Xid,
        /// The identifier that PREPARE TRANSACTION gave it.
        global_id: String,
    },
    /// `r`: ROLLBACK PREPARED.
    RollbackPrepared {
        /// Behind its prepare record.
        prepare_end_lsn: Lsn,
        /// Behind the rollback record.
        rollback_end_lsn: Lsn,
        /// When it was prepared.
        prepare_time: PgTimestamp,
        /// When it was rolled back.
        rollback_time: PgTimestamp,
        /// Its id.
        xid: Xid,
        /// The identifier that PREPARE TRANSACTION gave it.
        global_id: String,
    },
    /// `p`: the streamed transaction was prepared.
    StreamPrepare {
        /// Where its prepare record stands.
        prepare_lsn: Lsn,
        /// Behind its prepare record.
        end_lsn: Lsn,
        /// When it was prepared.
        prepare_time: PgTimestamp,
        /// Its id.
        xid: Xid,
        /// The identifier that PREPARE TRANSACTION gave it.
        global_id: String,
    },
}

/// What UPDATE and DELETE carry of the old row. Both have a cell for every column of the relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldTuple {
    /// `K`: only the columns of the replica identity; the others are NULL here whatever they were.
    Key(Tuple),
    /// `O`: the whole row, under REPLICA IDENTITY FULL.
    Full(Tuple),
}

impl OldTuple {
    /// The cells, whichever of the two it is.
    pub fn tuple(&self) -> &Tuple {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

/// Where and when a streamed transaction was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortPoint {
    /// Where the abort record stands.
    pub lsn: Lsn,
    /// When it was written.
    pub time: PgTimestamp,
}
