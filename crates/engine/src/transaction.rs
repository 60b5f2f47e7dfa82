//! A whole transaction of the log, in memory as far as it is small, and in a temporary file beyond that.

use std::sync::Arc;

use walcast_pgoutput::{Cell, Lsn, OldTuple, PgTimestamp, Relation, Tuple, Xid};
use walcast_wire::Position;

use crate::ingest::IngestError;
use crate::spill::{Spill, SpillMark, SpillReader};

/// What a change takes of memory beside its bytes, about.
const CHANGE_OVERHEAD: usize = 128;

/// A chunk ends at this many changes …
pub(crate) const CHUNK_CHANGES_MAX: usize = 1_000;
/// … or at this many bytes of messages, whichever comes first.
pub(crate) const CHUNK_BYTES_MAX: usize = 1 << 20;

/// A transaction that has committed, with all its changes.
#[derive(Debug)]
pub struct Transaction {
    /// The position of its first change.
    pub first: Position,
    /// Its id.
    pub xid: Xid,
    /// When it committed.
    pub commit_time: PgTimestamp,
    /// Whether it announced DDL: the catalog must be read again before any of its rows is judged.
    pub ddl: bool,
    /// The changes, in the order in which they were made.
    pub changes: Changes,
    /// The end of its commit record: what may be confirmed once all of it is handled.
    pub end_lsn: Lsn,
}

/// One change.
#[derive(Debug)]
pub struct Change {
    /// The table as the log describes it at this point.
    pub relation: Arc<Relation>,
    /// What happened to the row.
    pub row: RowChange,
}

/// What happened to a row, or to all of them.
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
    /// The table was emptied. Nobody is shown that (docs/protocol.md §4.1).
    Truncate,
}

/// What a change leaves in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewValue<'a> {
    Null,
    /// As its type prints it.
    Text(&'a [u8]),
}

/// Consecutive changes of one transaction.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The changes.
    pub changes: Vec<Change>,
    /// What they take of memory, about.
    pub bytes: usize,
}

/// The changes of a transaction: they can be read any number of times.
#[derive(Debug, Default)]
pub struct Changes {
    held: Vec<Arc<Chunk>>,
    bytes: usize,
    spilled: Option<Spill>,
}

/// Reads the changes of a transaction from the first one on.
pub struct ChangesReader<'a> {
    held: std::slice::Iter<'a, Arc<Chunk>>,
    spilled: Option<SpillReader<'a>>,
}

/// A place between two chunks of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct ChunkMark {
    /// Chunks in memory that are behind it.
    held_left: usize,
    spilled: Option<SpillMark>,
}

impl RowChange {
    /// What it leaves in a column of the log's tuples. `None` where it leaves no row, or the log does not say.
    pub(crate) fn new_value(&self, column: usize) -> Option<NewValue<'_>> {
        let (RowChange::Insert { new } | RowChange::Update { new, .. }) = self else { return None };
        match new.cell(column)? {
            Cell::Text(text) => Some(NewValue::Text(text)),
            Cell::Null => Some(NewValue::Null),
            Cell::Unchanged | Cell::Binary(_) => None,
        }
    }
}

impl Chunk {
    pub(crate) fn is_full(&self) -> bool {
        self.changes.len() >= CHUNK_CHANGES_MAX || self.bytes >= CHUNK_BYTES_MAX
    }

    /// Accounts for changes that came in a message of so many bytes.
    pub(crate) fn weigh(&mut self, message_bytes: usize, changes: usize) {
        self.bytes += message_bytes + changes * CHANGE_OVERHEAD;
    }
}

impl Changes {
    /// Starts at the first change.
    pub fn reader(&self) -> ChangesReader<'_> {
        ChangesReader { held: self.held.iter(), spilled: self.spilled.as_ref().map(Spill::reader) }
    }

    /// Starts at a place where [`ChangesReader::mark`] was.
    pub(crate) fn reader_at(&self, mark: &ChunkMark) -> ChangesReader<'_> {
        let passed = self.held.len().saturating_sub(mark.held_left);
        let spilled = self.spilled.as_ref().zip(mark.spilled.as_ref());
        ChangesReader {
            held: self.held.get(passed..).unwrap_or_default().iter(),
            spilled: spilled.map(|(spilled, mark)| spilled.reader_at(mark)),
        }
    }

    /// The chunks that stay in memory.
    pub(crate) fn held(&self) -> &[Arc<Chunk>] {
        &self.held
    }

    /// Bytes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes in the temporary file.
    pub(crate) fn spilled_bytes(&self) -> usize {
        self.spilled.as_ref().map_or(0, Spill::bytes)
    }

    /// Adds a chunk that stays in memory.
    pub(crate) fn hold(&mut self, chunk: Chunk) {
        self.bytes += chunk.bytes;
        self.held.push(Arc::new(chunk));
    }

    /// Adds what follows all chunks in memory.
    pub(crate) fn follow(&mut self, spilled: Spill) {
        self.spilled = Some(spilled);
    }
}

impl ChunkMark {
    /// Blocks of the file that are behind it; `None` where what comes next is in memory, or nothing does.
    pub(crate) fn blocks_left(&self) -> Option<usize> {
        let spilled = self.spilled.as_ref().filter(|_| self.held_left == 0)?;
        Some(spilled.blocks_left()).filter(|left| *left > 0)
    }
}

impl ChangesReader<'_> {
    /// Where it is.
    pub(crate) fn mark(&self) -> ChunkMark {
        ChunkMark { held_left: self.held.len(), spilled: self.spilled.as_ref().map(SpillReader::mark) }
    }

    /// The next changes; `None` behind the last ones.
    pub async fn next(&mut self) -> Result<Option<Arc<Chunk>>, IngestError> {
        if let Some(chunk) = self.held.next() {
            return Ok(Some(Arc::clone(chunk)));
        }
        match &mut self.spilled {
            Some(spilled) => Ok(spilled.next().await?.map(Arc::new)),
            None => Ok(None),
        }
    }
}
