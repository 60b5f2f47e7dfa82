//! From the bytes of the log to transactions: decodes, remembers relations, keeps commit order.
//!
//! A transaction is handed on as a whole, since what it did to policies and to the tables that policies read counts
//! for its first row already. With protocol version 1 PostgreSQL sends it only after its commit. A large one goes
//! through a temporary file, so that a million rows take no more memory than a few thousand.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use walcast_pgoutput::{DecodeError, Decoder, Lsn, Message, Oid, PgTimestamp, Relation, Xid};
use walcast_wire::Position;

use crate::spill::SpillWriter;
use crate::tickets::TICKETS_MESSAGE_PREFIX;
use crate::transaction::{Change, Changes, Chunk, RowChange, Transaction};

/// Bytes of one transaction that are kept in memory; the rest goes to a temporary file.
const HELD_BYTES_MAX: usize = 8 << 20;

/// The prefix of the logical messages that tell of DDL; `sql/install` writes them.
pub(crate) const DDL_MESSAGE_PREFIX: &str = "walcast.ddl";

/// The prefix of the messages that are sent through the log to see whether they come back; see [`crate::Canary`].
pub const CANARY_MESSAGE_PREFIX: &str = "walcast.canary";

/// What the replication stream brings, without its transport.
#[derive(Debug)]
pub enum LogEvent {
    /// The log is about to begin for the first time. What commits before this LSN was there before the process started.
    Refill(Lsn),
    /// Another server has taken the place of the one that was read, as a standby that was promoted.
    Promoted,
    /// A new replication connection: a transaction that was open begins again.
    Restarted(LogStart),
    /// One `pgoutput` message.
    Data(Bytes),
    /// Nothing more to read up to this LSN.
    KeepAlive(Lsn),
}

/// Where a replication connection begins in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStart {
    /// Whatever commits behind this LSN comes.
    pub since: Lsn,
    /// What has happened where something that committed before it is lost.
    pub gap: Option<Arc<str>>,
}

/// What the matcher works on, in log order.
#[derive(Debug)]
pub enum LogBatch {
    /// A transaction, be it one without a change: the log has passed it.
    Transaction(Transaction),
    /// The log holds nothing of interest up to this LSN.
    Idle(Lsn),
    /// What follows for the first time was there, up to this LSN, before the process started.
    Refill(Lsn),
    /// What follows comes from another server, which may lack the end of what was read.
    Promoted,
    /// What follows comes over a new connection, and may have come before.
    Restarted(LogStart),
    /// A message that was sent to see whether it comes back.
    Canary(Bytes),
    /// What an earlier process has handed over, or this one has asked for; and where it stands.
    Tickets(Lsn, Bytes),
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
    /// The file of a large transaction.
    #[error(
        "a transaction too large for memory can not be kept in a temporary file (TMPDIR names the directory): {0}"
    )]
    Spill(io::Error),
}

/// Turns log events into transactions.
pub struct Ingest {
    decoder: Decoder,
    relations: Relations,
    open: Option<OpenTransaction>,
    held_bytes_max: usize,
}

/// The tables as the log has described them so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relations(FxHashMap<Oid, Arc<Relation>>);

struct OpenTransaction {
    first: Position,
    xid: Xid,
    commit_time: PgTimestamp,
    ddl: bool,
    changes: Changes,
    /// The last changes, not yet among `changes`; those of one message where there is a spill.
    chunk: Chunk,
    spill: Option<SpillWriter>,
}

impl Default for Ingest {
    fn default() -> Self {
        Ingest::holding(HELD_BYTES_MAX)
    }
}

impl Ingest {
    fn holding(held_bytes_max: usize) -> Self {
        Ingest { decoder: Decoder::new(1), relations: Relations::default(), open: None, held_bytes_max }
    }

    /// Takes one event; gives a transaction when one is complete.
    pub async fn feed(&mut self, event: LogEvent) -> Result<Option<LogBatch>, IngestError> {
        match event {
            LogEvent::Promoted => Ok(Some(LogBatch::Promoted)),
            LogEvent::Refill(until) => Ok(Some(LogBatch::Refill(until))),
            LogEvent::Restarted(start) => {
                *self = Ingest::holding(self.held_bytes_max);
                Ok(Some(LogBatch::Restarted(start)))
            }
            LogEvent::KeepAlive(lsn) => Ok(self.open.is_none().then_some(LogBatch::Idle(lsn))),
            LogEvent::Data(payload) => self.message(payload).await,
        }
    }

    async fn message(&mut self, payload: Bytes) -> Result<Option<LogBatch>, IngestError> {
        let (size, held_bytes_max) = (payload.len(), self.held_bytes_max);
        if let Some(open) = &mut self.open
            && open.spill.is_none()
            && open.changes.bytes() >= held_bytes_max
        {
            open.spill = Some(SpillWriter::create(self.relations.clone()).await.map_err(IngestError::Spill)?);
        }
        let spilling = self.open.as_ref().is_some_and(|open| open.spill.is_some());
        let spilled = spilling.then(|| payload.clone());
        match self.decoder.decode(payload)?.message {
            Message::Begin { final_lsn, commit_time, xid } => {
                self.open = Some(OpenTransaction::new(final_lsn, commit_time, xid));
            }
            Message::Commit { end_lsn, .. } => {
                let open = self.open.take().ok_or(IngestError::OutsideTransaction("Commit"))?;
                return Ok(Some(LogBatch::Transaction(open.complete(end_lsn).await?)));
            }
            Message::Message { transactional: true, prefix, .. } if prefix == DDL_MESSAGE_PREFIX => {
                let open = self.open.as_mut().ok_or(IngestError::OutsideTransaction("Message"))?;
                open.ddl = true;
            }
            Message::Message { transactional: false, prefix, content, .. }
                if prefix == CANARY_MESSAGE_PREFIX =>
            {
                return Ok(Some(LogBatch::Canary(content)));
            }
            Message::Message { transactional: false, prefix, content, lsn }
                if prefix == TICKETS_MESSAGE_PREFIX =>
            {
                return Ok(Some(LogBatch::Tickets(lsn, content)));
            }
            message @ Message::Relation(_) => {
                self.relations.take(message, &mut Vec::new())?;
                if let (Some(open), Some(payload)) = (&mut self.open, spilled) {
                    open.spill(&payload, 0).await?;
                }
            }
            message @ (Message::Insert { .. }
            | Message::Update { .. }
            | Message::Delete { .. }
            | Message::Truncate { .. }) => {
                let open = self.open.as_mut().ok_or(IngestError::OutsideTransaction("change"))?;
                let before = open.chunk.changes.len();
                self.relations.take(message, &mut open.chunk.changes)?;
                let changes = open.chunk.changes.len() - before;
                if let Some(payload) = spilled {
                    // It was decoded only to see that it can be.
                    open.chunk.changes.clear();
                    open.spill(&payload, changes).await?;
                } else {
                    open.chunk.weigh(size, changes);
                    if open.chunk.is_full() {
                        open.hold();
                    }
                }
            }
            // The rest is not asked for or not for us.
            _ => {}
        }
        Ok(None)
    }
}

impl Relations {
    /// Takes a message from inside a transaction, and adds the changes that it stands for.
    pub(crate) fn take(&mut self, message: Message, changes: &mut Vec<Change>) -> Result<(), IngestError> {
        let (oid, row) = match message {
            Message::Relation(relation) => {
                self.0.insert(relation.oid, Arc::new(relation));
                return Ok(());
            }
            Message::Truncate { relations, .. } => {
                for oid in relations {
                    changes.push(self.change(oid, RowChange::Truncate)?);
                }
                return Ok(());
            }
            Message::Insert { relation, new } => (relation, RowChange::Insert { new }),
            Message::Update { relation, old, new } => (relation, RowChange::Update { old, new }),
            Message::Delete { relation, old } => (relation, RowChange::Delete { old }),
            _ => return Ok(()),
        };
        changes.push(self.change(oid, row)?);
        Ok(())
    }

    fn change(&self, oid: Oid, row: RowChange) -> Result<Change, IngestError> {
        let relation = self.0.get(&oid).ok_or(IngestError::UnknownRelation(oid))?;
        Ok(Change { relation: Arc::clone(relation), row })
    }
}

impl OpenTransaction {
    fn new(commit_lsn: Lsn, commit_time: PgTimestamp, xid: Xid) -> Self {
        OpenTransaction {
            first: Position { commit_lsn, index: 0 },
            xid,
            commit_time,
            ddl: false,
            changes: Changes::default(),
            chunk: Chunk::default(),
            spill: None,
        }
    }

    fn hold(&mut self) {
        self.changes.hold(std::mem::take(&mut self.chunk));
    }

    async fn spill(&mut self, payload: &Bytes, changes: usize) -> Result<(), IngestError> {
        match &mut self.spill {
            Some(spill) => spill.push(payload, changes).await.map_err(IngestError::Spill),
            None => Ok(()),
        }
    }

    async fn complete(mut self, end_lsn: Lsn) -> Result<Transaction, IngestError> {
        if !self.chunk.changes.is_empty() {
            self.hold();
        }
        if let Some(spill) = self.spill {
            self.changes.follow(spill.finish().await.map_err(IngestError::Spill)?);
        }
        let OpenTransaction { first, xid, commit_time, ddl, changes, .. } = self;
        Ok(Transaction { first, xid, commit_time, ddl, changes, end_lsn })
    }
}

#[cfg(test)]
mod tests {
    use walcast_pgoutput::encode::encode;
    use walcast_pgoutput::{Cell, Decoded, RelationColumn, ReplicaIdentity, Tuple};

    use super::*;
    use crate::transaction::CHUNK_CHANGES_MAX;

    const TABLE: Oid = Oid(16_384);
    const START: LogStart = LogStart { since: Lsn(90), gap: None };

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
        relation_with(&["id"])
    }

    fn wider_relation() -> LogEvent {
        relation_with(&["id", "body"])
    }

    fn relation_with(columns: &[&str]) -> LogEvent {
        let column = |name: &&str| RelationColumn {
            name: (*name).to_owned(),
            type_oid: Oid(23),
            type_modifier: -1,
            key: true,
        };
        data(Message::Relation(Relation {
            oid: TABLE,
            namespace: "public".to_owned(),
            name: "notes".to_owned(),
            identity: ReplicaIdentity::Default,
            columns: columns.iter().map(column).collect(),
        }))
    }

    fn truncate() -> LogEvent {
        data(Message::Truncate { relations: vec![TABLE], cascade: false, restart_identity: false })
    }

    fn insert(id: &str) -> LogEvent {
        let new = Tuple::from_cells([Cell::Text(id.as_bytes())]);
        data(Message::Insert { relation: TABLE, new })
    }

    async fn batches(events: impl IntoIterator<Item = LogEvent>) -> Vec<LogBatch> {
        batches_of(Ingest::default(), events).await
    }

    async fn batches_of(mut ingest: Ingest, events: impl IntoIterator<Item = LogEvent>) -> Vec<LogBatch> {
        let mut found = Vec::new();
        for event in events {
            found.extend(ingest.feed(event).await.unwrap());
        }
        found
    }

    fn transaction(batch: &LogBatch) -> &Transaction {
        match batch {
            LogBatch::Transaction(transaction) => transaction,
            other => panic!("no transaction: {other:?}"),
        }
    }

    /// The changes of a batch in words, chunk by chunk.
    async fn read(batch: &LogBatch) -> Vec<Vec<String>> {
        let mut reader = transaction(batch).changes.reader();
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next().await.unwrap() {
            let columns = |change: &Change| change.relation.columns.len();
            let words = |change| format!("{} columns: {:?}", columns(change), change.row);
            chunks.push(chunk.changes.iter().map(words).collect());
        }
        chunks
    }

    #[tokio::test]
    async fn a_transaction_is_one_batch_with_its_commits_position_and_end() {
        let found = batches([begin(100), relation(), insert("1"), insert("2"), commit(100)]).await;
        let [batch] = &found[..] else { panic!("{} batches", found.len()) };
        let transaction = transaction(batch);
        assert_eq!(transaction.first, Position { commit_lsn: Lsn(100), index: 0 });
        assert_eq!((transaction.end_lsn, transaction.ddl), (Lsn(108), false));
        assert_eq!(read(batch).await.concat().len(), 2);
    }

    #[tokio::test]
    async fn a_large_transaction_goes_through_a_file_and_reads_twice_the_same() {
        let rows = || (0..3 * CHUNK_CHANGES_MAX).map(|id| insert(&id.to_string()));
        let events = || {
            let begun = [begin(100), relation()].into_iter().chain(rows());
            begun.chain([wider_relation()]).chain(rows()).chain([
                truncate(),
                commit(100),
                begin(200),
                insert("x"),
            ])
        };
        let whole = batches(events().chain([commit(200)])).await;
        let spilling = Ingest::holding(CHUNK_CHANGES_MAX * 130);
        let found = batches_of(spilling, events().chain([commit(200)])).await;
        assert_eq!((whole.len(), found.len()), (2, 2));
        assert!(transaction(&found[0]).changes.bytes() < transaction(&whole[0]).changes.bytes() / 2);
        let expected = read(&whole[0]).await;
        assert_eq!(expected.concat().len(), 6 * CHUNK_CHANGES_MAX + 1);
        for _ in 0..2 {
            let chunks = read(&found[0]).await;
            assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_CHANGES_MAX));
            assert_eq!(chunks.concat(), expected.concat());
        }
        assert_eq!(read(&found[1]).await, read(&whole[1]).await, "what follows knows the new relation");
    }

    #[tokio::test]
    async fn a_truncate_is_a_change_of_each_table() {
        let found = batches([begin(100), relation(), truncate(), commit(100)]).await;
        assert_eq!(read(&found[0]).await.concat(), ["1 columns: Truncate"]);
    }

    #[tokio::test]
    async fn a_new_connection_drops_the_transaction_that_was_open() {
        let cut_off = [begin(100), relation(), insert("1"), LogEvent::Restarted(START)];
        let again = [begin(100), relation(), insert("1"), commit(100)];
        let found = batches(cut_off.into_iter().chain(again)).await;
        assert_eq!(found.len(), 2);
        assert!(matches!(found[0], LogBatch::Restarted(START)));
        assert_eq!(read(&found[1]).await.concat().len(), 1);
    }

    #[tokio::test]
    async fn a_gap_and_a_canary_come_in_the_order_of_the_log() {
        let canary = |prefix: &str| {
            data(Message::Message {
                transactional: false,
                lsn: Lsn(90),
                prefix: prefix.to_owned(),
                content: Bytes::from_static(b"1"),
            })
        };
        let gap = LogEvent::Restarted(LogStart { gap: Some("gone".into()), ..START });
        let events = [begin(80), commit(80), gap, canary("somebody's"), canary(CANARY_MESSAGE_PREFIX)];
        let found = batches(events).await;
        let [
            LogBatch::Transaction(_),
            LogBatch::Restarted(LogStart { gap: Some(what), .. }),
            LogBatch::Canary(content),
        ] = &found[..]
        else {
            panic!("{found:?}");
        };
        assert_eq!((&**what, &content[..]), ("gone", &b"1"[..]));
    }

    #[tokio::test]
    async fn a_keep_alive_is_idle_only_between_transactions() {
        let events = [LogEvent::KeepAlive(Lsn(5)), begin(100), LogEvent::KeepAlive(Lsn(90)), commit(100)];
        let found = batches(events).await;
        assert!(matches!(found[0], LogBatch::Idle(Lsn(5))));
        assert_eq!((found.len(), transaction(&found[1]).end_lsn), (2, Lsn(108)));
    }

    #[tokio::test]
    async fn a_ddl_message_marks_its_transaction_and_any_other_only_ends_it() {
        for (prefix, ddl) in [(DDL_MESSAGE_PREFIX, true), ("walcast.mark", false)] {
            let message = data(Message::Message {
                transactional: true,
                lsn: Lsn(90),
                prefix: prefix.to_owned(),
                content: Bytes::from_static(b"ALTER POLICY"),
            });
            let found = batches([begin(100), message, commit(100)]).await;
            assert_eq!((transaction(&found[0]).ddl, transaction(&found[0]).end_lsn), (ddl, Lsn(108)));
        }
    }

    #[tokio::test]
    async fn what_can_not_be_is_an_error_that_says_what() {
        let mut ingest = Ingest::default();
        let outside = ingest.feed(commit(1)).await.unwrap_err();
        assert_eq!(outside.to_string(), "the replication stream has a Commit outside a transaction");
        ingest.feed(begin(100)).await.unwrap();
        let unknown = ingest.feed(insert("1")).await.unwrap_err();
        assert!(unknown.to_string().contains("table oid 16384 before describing it"), "{unknown}");
        assert!(ingest.feed(LogEvent::Data(Bytes::from_static(b"\xff"))).await.is_err());
    }
}
