//! From the bytes of the log to transactions: decodes, remembers relations, keeps commit order.
//!
//! A transaction is handed on in batches as it arrives: with protocol version 1 PostgreSQL sends it only
//! after its commit, so that nothing need be held back, and a million rows take no more memory than one
//! batch.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use walcast_pgoutput::{DecodeError, Decoder, Lsn, Message, Oid, OldTuple, PgTimestamp, Relation, Tuple};

use crate::position::Position;

/// A batch ends at this many changes …
const BATCH_CHANGES_MAX: usize = 1_000;
/// … or at this many bytes of messages, whichever comes first.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The prefix of the logical messages that tell of DDL; `sql/install` writes them.
pub(crate) const DDL_MESSAGE_PREFIX: &str = "walcast.ddl";

/// What the replication stream brings, without its transport.
#[derive(Debug)]
pub enum LogEvent {
    /// A new replication connection: a transaction that was open begins again.
    Restarted,
    /// One `pgoutput` message.
    Data(Bytes),
    /// Nothing more to read up to this LSN.
    KeepAlive(Lsn),
}

/// What the matcher works on, in log order.
#[derive(Debug)]
pub enum LogBatch {
    /// Changes of one transaction.
    Changes(ChangeBatch),
    /// The log holds nothing of interest up to this LSN, and no transaction is open.
    Idle(Lsn),
}

/// Consecutive changes of one transaction.
#[derive(Debug)]
pub struct ChangeBatch {
    /// The position of the first change.
    pub first: Position,
    /// When the transaction committed.
    pub commit_time: PgTimestamp,
    /// The changes, in the order in which they were made.
    pub changes: Vec<Change>,
    /// Whether DDL was part of the transaction: the catalog must be read again after it.
    pub ddl: bool,
    /// The end of the commit record, once the transaction is complete.
    pub end_lsn: Option<Lsn>,
}

/// One row-level change.
#[derive(Debug)]
pub struct Change {
    /// The table as the log describes it at this point.
    pub relation: Arc<Relation>,
    /// What happened to the row.
    pub row: RowChange,
}

/// What happened to a row.
#[derive(Debug)]
pub enum RowChange {
    /// A new row.
    Insert {
        /// The row.
        new: Tuple,
    },
    /// A changed row.
    Update {
        /// The old key or row, where the replica identity makes the log carry one.
        old: Option<OldTuple>,
        /// The row as it is now.
        new: Tuple,
    },
    /// A row that is gone.
    Delete {
        /// The old key or row.
        old: OldTuple,
    },
}

/// The log can not be read on.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// A message does not decode.
    #[error("the replication stream is damaged: {0}")]
    Decode(#[from] DecodeError),
    /// A change of a table that no Relation message announced.
    #[error("the replication stream names table oid {0} before describing it")]
    UnknownRelation(Oid),
    /// A change or commit outside a transaction.
    #[error("the replication stream has a {0} outside a transaction")]
    OutsideTransaction(&'static str),
}

/// Turns log events into batches.
pub struct Ingest {
    decoder: Decoder,
    relations: FxHashMap<Oid, Arc<Relation>>,
    open: Option<OpenTransaction>,
}

struct OpenTransaction {
    batch: ChangeBatch,
    batch_bytes: usize,
}

impl Default for Ingest {
    fn default() -> Self {
        Ingest { decoder: Decoder::new(1), relations: FxHashMap::default(), open: None }
    }
}

impl Ingest {
    /// Takes one event; gives a batch when one is full or its transaction complete.
    pub fn feed(&mut self, event: LogEvent) -> Result<Option<LogBatch>, IngestError> {
        match event {
            LogEvent::Restarted => {
                *self = Ingest::default();
                Ok(None)
            }
            LogEvent::KeepAlive(lsn) => Ok(self.open.is_none().then_some(LogBatch::Idle(lsn))),
            LogEvent::Data(payload) => self.message(payload),
        }
    }

    fn message(&mut self, payload: Bytes) -> Result<Option<LogBatch>, IngestError> {
        let size = payload.len();
        match self.decoder.decode(payload)?.message {
            Message::Begin { final_lsn, commit_time, .. } => {
                self.open = Some(OpenTransaction::new(final_lsn, commit_time));
                Ok(None)
            }
            Message::Commit { end_lsn, .. } => {
                let mut open = self.open.take().ok_or(IngestError::OutsideTransaction("Commit"))?;
                open.batch.end_lsn = Some(end_lsn);
                Ok(Some(LogBatch::Changes(open.batch)))
            }
            Message::Relation(relation) => {
                self.relations.insert(relation.oid, Arc::new(relation));
                Ok(None)
            }
            Message::Insert { relation, new } => self.change(relation, RowChange::Insert { new }, size),
            Message::Update { relation, old, new } => {
                self.change(relation, RowChange::Update { old, new }, size)
            }
            Message::Delete { relation, old } => self.change(relation, RowChange::Delete { old }, size),
            Message::Message { transactional: true, prefix, .. } if prefix == DDL_MESSAGE_PREFIX => {
                let open = self.open.as_mut().ok_or(IngestError::OutsideTransaction("Message"))?;
                open.batch.ddl = true;
                Ok(None)
            }
            // TRUNCATE has no rows to show (docs/protocol.md §4.1); the rest is not asked for or not for us.
            _ => Ok(None),
        }
    }

    fn change(&mut self, oid: Oid, row: RowChange, size: usize) -> Result<Option<LogBatch>, IngestError> {
        let open = self.open.as_mut().ok_or(IngestError::OutsideTransaction("change"))?;
        let relation = self.relations.get(&oid).ok_or(IngestError::UnknownRelation(oid))?;
        open.batch.changes.push(Change { relation: Arc::clone(relation), row });
        open.batch_bytes += size;
        if open.batch.changes.len() < BATCH_CHANGES_MAX && open.batch_bytes < BATCH_BYTES_MAX {
            return Ok(None);
        }
        Ok(Some(LogBatch::Changes(open.cut())))
    }
}

impl OpenTransaction {
    fn new(commit_lsn: Lsn, commit_time: PgTimestamp) -> Self {
        let first = Position { commit_lsn, index: 0 };
        let batch = ChangeBatch { first, commit_time, changes: Vec::new(), ddl: false, end_lsn: None };
        OpenTransaction { batch, batch_bytes: 0 }
    }

    /// Takes what has come so far and goes on with an empty batch.
    fn cut(&mut self) -> ChangeBatch {
        let index = self.batch.first.index + self.batch.changes.len() as u64;
        let next = ChangeBatch {
            first: Position { index, ..self.batch.first },
            commit_time: self.batch.commit_time,
            changes: Vec::new(),
            // What DDL changed is judged when the transaction is complete.
            ddl: self.batch.ddl,
            end_lsn: None,
        };
        self.batch_bytes = 0;
        std::mem::replace(&mut self.batch, next)
    }
}
