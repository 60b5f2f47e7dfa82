//! From the bytes of the log to transactions: decodes, remembers relations, keeps commit order.
//!
//! A transaction is handed on in batches as it arrives: with protocol version 1 PostgreSQL sends it only
//! after its commit, so that nothing need be held back, and a million rows take no more memory than one
//! batch.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use walcast_pgoutput::{
    DecodeError, Decoder, Lsn, Message, Oid, OldTuple, PgTimestamp, Relation, Tuple, Xid,
};

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
    /// The transaction.
    pub xid: Xid,
    /// When the transaction committed.
    pub commit_time: PgTimestamp,
    /// The changes, in the order in which they were made.
    pub changes: Vec<Change>,
    /// Whether DDL of the transaction was announced among these changes: the catalog must be read again. It
    /// has taken effect already, since a transaction is sent after its commit.
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
            Message::Begin { final_lsn, commit_time, xid } => {
                self.open = Some(OpenTransaction::new(final_lsn, commit_time, xid));
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
    fn new(commit_lsn: Lsn, commit_time: PgTimestamp, xid: Xid) -> Self {
        let first = Position { commit_lsn, index: 0 };
        let batch = ChangeBatch { first, xid, commit_time, changes: Vec::new(), ddl: false, end_lsn: None };
        OpenTransaction { batch, batch_bytes: 0 }
    }

    /// Takes what has come so far and goes on with an empty batch.
    fn cut(&mut self) -> ChangeBatch {
        let index = self.batch.first.index + self.batch.changes.len() as u64;
        let next = ChangeBatch {
            first: Position { index, ..self.batch.first },
            xid: self.batch.xid,
            commit_time: self.batch.commit_time,
            changes: Vec::new(),
            ddl: false,
            end_lsn: None,
        };
        self.batch_bytes = 0;
        std::mem::replace(&mut self.batch, next)
    }
}

#[cfg(test)]
mod tests {
    use walcast_pgoutput::encode::encode;
    use walcast_pgoutput::{Cell, Decoded, RelationColumn, ReplicaIdentity};

    use super::*;

    const TABLE: Oid = Oid(16_384);

    fn data(message: Message) -> LogEvent {
        LogEvent::Data(encode(&Decoded { xid: None, message }, 1))
    }

    fn begin(commit_lsn: u64) -> LogEvent {
        data(Message::Begin { final_lsn: Lsn(commit_lsn), commit_time: PgTimestamp(7), xid: Xid(1) })
    }

    fn commit(commit_lsn: u64) -> LogEvent {
        data(Message::Commit {
            commit_lsn: Lsn(commit_lsn),
            end_lsn: Lsn(commit_lsn + 8),
            commit_time: PgTimestamp(7),
        })
    }

    fn relation() -> LogEvent {
        let column =
            RelationColumn { name: "id".to_owned(), type_oid: Oid(23), type_modifier: -1, key: true };
        data(Message::Relation(Relation {
            oid: TABLE,
            namespace: "public".to_owned(),
            name: "notes".to_owned(),
            identity: ReplicaIdentity::Default,
            columns: vec![column],
        }))
    }

    fn insert(id: &str) -> LogEvent {
        let new = Tuple::from_cells([Cell::Text(id.as_bytes())]);
        data(Message::Insert { relation: TABLE, new })
    }

    fn batches(events: impl IntoIterator<Item = LogEvent>) -> Vec<LogBatch> {
        let mut ingest = Ingest::default();
        events.into_iter().filter_map(|event| ingest.feed(event).unwrap()).collect()
    }

    fn changes(batch: &LogBatch) -> &ChangeBatch {
        match batch {
            LogBatch::Changes(batch) => batch,
            LogBatch::Idle(lsn) => panic!("idle at {lsn}"),
        }
    }

    #[test]
    fn a_transaction_is_one_batch_with_its_commits_position_and_end() {
        let found = batches([begin(100), relation(), insert("1"), insert("2"), commit(100)]);
        assert_eq!(found.len(), 1);
        let batch = changes(&found[0]);
        assert_eq!(batch.first, Position { commit_lsn: Lsn(100), index: 0 });
        assert_eq!((batch.changes.len(), batch.end_lsn, batch.ddl), (2, Some(Lsn(108)), false));
    }

    #[test]
    fn a_large_transaction_is_cut_and_its_positions_go_on() {
        let rows = (0..BATCH_CHANGES_MAX + 5).map(|id| insert(&id.to_string()));
        let found = batches([begin(100), relation()].into_iter().chain(rows).chain([commit(100)]));
        let [first, rest] = &found[..] else { panic!("{} batches", found.len()) };
        assert_eq!(changes(first).end_lsn, None);
        assert_eq!(changes(rest).first.index, BATCH_CHANGES_MAX as u64);
        assert_eq!((changes(rest).changes.len(), changes(rest).end_lsn), (5, Some(Lsn(108))));
    }

    #[test]
    fn a_new_connection_drops_the_transaction_that_was_open() {
        let cut_off = [begin(100), relation(), insert("1"), LogEvent::Restarted];
        let again = [begin(100), relation(), insert("1"), commit(100)];
        let found = batches(cut_off.into_iter().chain(again));
        assert_eq!(found.len(), 1);
        assert_eq!(changes(&found[0]).changes.len(), 1);
    }

    #[test]
    fn a_keep_alive_is_idle_only_between_transactions() {
        let found =
            batches([LogEvent::KeepAlive(Lsn(5)), begin(100), LogEvent::KeepAlive(Lsn(90)), commit(100)]);
        assert!(matches!(found[0], LogBatch::Idle(Lsn(5))));
        assert_eq!((found.len(), changes(&found[1]).end_lsn), (2, Some(Lsn(108))));
    }

    #[test]
    fn a_ddl_message_marks_its_transaction() {
        let message = data(Message::Message {
            transactional: true,
            lsn: Lsn(90),
            prefix: DDL_MESSAGE_PREFIX.to_owned(),
            content: Bytes::from_static(b"ALTER POLICY"),
        });
        assert!(changes(&batches([begin(100), message, commit(100)])[0]).ddl);
    }

    #[test]
    fn what_can_not_be_is_an_error_that_says_what() {
        let mut ingest = Ingest::default();
        let outside = ingest.feed(commit(1)).unwrap_err();
        assert_eq!(outside.to_string(), "the replication stream has a Commit outside a transaction");
        ingest.feed(begin(100)).unwrap();
        let unknown = ingest.feed(insert("1")).unwrap_err();
        assert!(unknown.to_string().contains("table oid 16384 before describing it"), "{unknown}");
        assert!(ingest.feed(LogEvent::Data(Bytes::from_static(b"\xff"))).is_err());
    }
}
