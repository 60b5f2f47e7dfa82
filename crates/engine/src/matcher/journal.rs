//! The journal: transactions of the last minutes, in memory, so that who comes back can be told what it has missed
//! (docs/protocol.md §5.7).
//!
//! It holds the very transactions that were matched, once, and none of what was decided about them. What does not fit
//! any longer is forgotten from the oldest on. A gap is a matter of tables: whoever asks for a quiet table is not told of
//! one because others were written to. Who comes back finds its rows by the values that they have: [`segments`].

mod segments;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio::time::Instant;
use walcast_pgoutput::{Lsn, Oid, Xid};
use walcast_policy::TransactionSnapshot;
use walcast_wire::Position;

use self::segments::Segments;
pub(super) use self::segments::{Described, Place, Places, Sought};
use crate::ingest::LogStart;
use crate::settings::Counters;
use crate::transaction::{Chunk, Transaction};

/// What a transaction takes beside its changes, about.
const TRANSACTION_OVERHEAD: usize = 256;

/// So many of the transactions that have been forgotten are known by their ids. Those that PostgreSQL does not show to
/// everybody yet, although they are in the log, are as many as it has connections at most, and the last ones.
const FORGOTTEN_LATELY_MAX: usize = 1 << 16;

/// The tables that a transaction changes, each once.
pub(super) type Tables = SmallVec<[Oid; 2]>;

/// Recent transactions, oldest first.
pub(super) struct Journal {
    counters: Arc<Counters>,
    bytes_max: usize,
    age_max: Duration,
    kept: Transactions,
    /// Of the transactions.
    bytes: usize,
    segments: Segments,
    /// Nothing is known of what stands up to here; `None` before the log has begun.
    begins_behind: Option<Position>,
    /// By table: the last of its changes that are not kept.
    forgotten: FxHashMap<Oid, Position>,
    /// The transactions that have been forgotten lately.
    forgotten_lately: VecDeque<Xid>,
}

/// Transactions with consecutive numbers, oldest first.
#[derive(Default)]
struct Transactions {
    first: u64,
    kept: VecDeque<Kept>,
}

/// A transaction of the journal.
pub(super) struct Kept {
    pub(super) transaction: Arc<Transaction>,
    pub(super) tables: Tables,
    /// The position of its last change.
    pub(super) last: Position,
    bytes: usize,
    since: Instant,
}

impl Journal {
    pub(super) fn new(counters: Arc<Counters>, bytes_max: usize, age_max: Duration) -> Self {
        Journal {
            counters,
            bytes_max,
            age_max,
            kept: Transactions::default(),
            bytes: 0,
            segments: Segments::default(),
            begins_behind: None,
            forgotten: FxHashMap::default(),
            forgotten_lately: VecDeque::new(),
        }
    }

    /// A connection begins to bring the log, which has been handled up to `handled`.
    pub(super) fn restarted(&mut self, start: &LogStart, handled: Position) {
        let behind = Position::before(start.since);
        if self.begins_behind.is_some() && start.gap.is_none() && behind <= handled {
            return;
        }
        if self.begins_behind.is_some() {
            self.counters.journal_gaps.fetch_add(1, Relaxed);
        }
        while let Some(gone) = self.kept.pop() {
            self.remember_forgotten(gone.transaction.xid);
        }
        self.segments.forget_before(self.kept.first());
        self.forgotten.clear();
        self.bytes = 0;
        self.counters.journal_crowded_out.store(0, Relaxed);
        self.begins_behind = Some(behind);
        self.count();
    }

    /// Takes in a transaction that has been handled, with the tables that it changes and the position of its last
    /// change.
    pub(super) fn keep(&mut self, transaction: Transaction, tables: Tables, last: Position) {
        self.begins_behind.get_or_insert(Position::before(last.commit_lsn));
        let bytes = TRANSACTION_OVERHEAD + transaction.changes.bytes() + transaction.changes.spilled_bytes();
        if bytes > self.bytes_max {
            if self.bytes_max > 0 {
                self.counters.journal_gaps.fetch_add(1, Relaxed);
            }
            self.forget(&tables, last, transaction.xid);
            return;
        }
        self.bytes += bytes;
        self.segments.add(self.kept.next(), &transaction, bytes);
        let transaction = Arc::new(transaction);
        self.kept.push(Kept { transaction, tables, last, bytes, since: Instant::now() });
        self.shrink();
    }

    /// Changes of a table up to here may have been made while the log did not carry them.
    pub(super) fn unknown(&mut self, table: Oid, up_to: Position) {
        let known = self.forgotten.entry(table).or_default();
        *known = up_to.max(*known);
    }

    /// Forgets what has become too old, or too much.
    pub(super) fn shrink(&mut self) {
        let now = Instant::now();
        while let Some(oldest) = self.kept.oldest() {
            let is_crowded = self.all_bytes() > self.bytes_max;
            if !is_crowded && now.duration_since(oldest.since) <= self.age_max {
                break;
            }
            if is_crowded {
                self.counters.journal_crowded_out.store(oldest.transaction.end_lsn.0, Relaxed);
            }
            self.bytes -= oldest.bytes;
            if let Some(Kept { tables, last, transaction, .. }) = self.kept.pop() {
                self.forget(&tables, last, transaction.xid);
            }
            self.segments.forget_before(self.kept.first());
        }
        self.count();
    }

    /// Transactions, and what they are found by.
    fn all_bytes(&self) -> usize {
        self.bytes + self.segments.bytes()
    }

    /// From where on every change of a table is here. `None` before the log has begun.
    pub(super) fn begins_behind(&self, table: Oid) -> Option<Position> {
        self.begins_behind.max(self.forgotten.get(&table).copied())
    }

    /// The first transaction with a change behind a position, if it begins before another.
    pub(super) fn next_between(&self, position: Position, until: Position) -> Option<&Kept> {
        let next = self.kept.get(self.kept.number_behind(position));
        next.filter(|kept| kept.transaction.first < until)
    }

    /// How the log described the tables of the first transaction with a change behind a position, and of those around it.
    /// `None` where rows are not found by their values there.
    pub(super) fn described_behind(&mut self, position: Position) -> Option<Described> {
        self.segments.described(self.kept.number_behind(position), &self.kept)
    }

    /// The first changes between two positions that may be sought, at most so many. `None` where each change of the
    /// first transaction has to be looked at.
    pub(super) fn places(
        &mut self,
        sought: &[Sought<'_>],
        between: Range<Position>,
        count_max: usize,
    ) -> Option<Places> {
        let number = self.kept.number_behind(between.start);
        self.segments.places(number, &self.kept, sought, between, count_max)
    }

    /// The transaction and the chunk of a change that has just been found.
    pub(super) fn find(&self, place: &Place) -> Option<(Arc<Transaction>, Arc<Chunk>)> {
        place.find(&self.kept)
    }

    /// Whether the log has brought nothing yet that somebody could have missed.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.oldest().is_none() && self.forgotten.is_empty()
    }

    /// The place before the first transaction that a snapshot does not show; the log has been handled up to `handled`.
    /// The error are transactions that it does not show and that are not here.
    pub(super) fn aligned(&self, snapshot: &TransactionSnapshot, handled: Lsn) -> Result<Position, Vec<Xid>> {
        let unseen = |transaction: &Xid| !snapshot.shows(*transaction);
        let lost: Vec<Xid> = self.forgotten_lately.iter().copied().filter(unseen).collect();
        if !lost.is_empty() {
            return Err(lost);
        }
        let first = self.kept.kept.iter().find(|kept| unseen(&kept.transaction.xid));
        Ok(Position::before(first.map_or(handled, |kept| kept.transaction.first.commit_lsn)))
    }

    fn forget(&mut self, tables: &Tables, last: Position, transaction: Xid) {
        self.remember_forgotten(transaction);
        for table in tables {
            let known = self.forgotten.entry(*table).or_default();
            *known = last.max(*known);
        }
    }

    fn remember_forgotten(&mut self, transaction: Xid) {
        self.forgotten_lately.push_back(transaction);
        if self.forgotten_lately.len() > FORGOTTEN_LATELY_MAX {
            self.forgotten_lately.pop_front();
        }
    }

    fn count(&self) {
        self.counters.journal_bytes.store(self.all_bytes() as u64, Relaxed);
        let oldest = self.kept.oldest().map_or(0, |oldest| oldest.transaction.first.commit_lsn.0);
        self.counters.journal_oldest.store(oldest, Relaxed);
    }
}

impl Transactions {
    fn first(&self) -> u64 {
        self.first
    }

    /// The number of the one that comes next.
    fn next(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    fn push(&mut self, kept: Kept) {
        self.kept.push_back(kept);
    }

    /// Removes the oldest one.
    fn pop(&mut self) -> Option<Kept> {
        let oldest = self.kept.pop_front()?;
        self.first += 1;
        Some(oldest)
    }

    fn oldest(&self) -> Option<&Kept> {
        self.kept.front()
    }

    fn get(&self, number: u64) -> Option<&Kept> {
        self.kept.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The number of the first one with a change behind a position.
    fn number_behind(&self, position: Position) -> u64 {
        self.first + self.kept.partition_point(|kept| kept.last <= position) as u64
    }
}

#[cfg(test)]
mod tests {
    use walcast_pgoutput::{Lsn, PgTimestamp, Xid};

    use super::*;
    use crate::transaction::{Changes, Chunk};

    const NOTES: Oid = Oid(1);
    const OTHER: Oid = Oid(2);
    /// What a transaction of a test takes.
    const BYTES: usize = 1_000 + TRANSACTION_OVERHEAD;

    fn journal(bytes_max: usize) -> Journal {
        let mut journal = Journal::new(Arc::default(), bytes_max, Duration::from_mins(2));
        journal.restarted(&LogStart { since: Lsn(50), gap: None }, Position::default());
        journal
    }

    fn last(commit_lsn: u64) -> Position {
        Position { commit_lsn: Lsn(commit_lsn), index: 2 }
    }

    fn keep(journal: &mut Journal, commit_lsn: u64, table: Oid, bytes: usize) {
        let mut changes = Changes::default();
        changes.hold(Chunk { changes: Vec::new(), bytes });
        let transaction = Transaction {
            first: Position { commit_lsn: Lsn(commit_lsn), index: 0 },
            xid: Xid(1),
            commit_time: PgTimestamp(0),
            ddl: false,
            changes,
            end_lsn: Lsn(commit_lsn + 8),
        };
        journal.keep(transaction, [table].into_iter().collect(), last(commit_lsn));
    }

    fn found(journal: &Journal, position: Position) -> Vec<u64> {
        let first = journal.next_between(position, Position::MAX);
        let all = std::iter::successors(first, |kept| journal.next_between(kept.last, Position::MAX));
        all.map(|kept| kept.transaction.first.commit_lsn.0).collect()
    }

    #[tokio::test]
    async fn it_has_everything_behind_a_position_the_rest_of_its_transaction_too() {
        let mut journal = journal(10 * BYTES);
        for commit_lsn in [100, 200, 300] {
            keep(&mut journal, commit_lsn, NOTES, 1_000);
        }
        assert_eq!(found(&journal, Position::before(Lsn(50))), [100, 200, 300]);
        assert_eq!(found(&journal, Position { index: 1, ..last(200) }), [200, 300]);
        assert_eq!(found(&journal, last(200)), [300]);
        assert_eq!(found(&journal, last(300)), [0; 0]);
        assert_eq!(journal.begins_behind(NOTES), Some(Position::before(Lsn(50))));
    }

    #[tokio::test]
    async fn what_is_too_much_is_forgotten_from_the_oldest_on_and_only_its_tables_have_a_gap() {
        let mut journal = journal(2 * BYTES);
        keep(&mut journal, 100, NOTES, 1_000);
        keep(&mut journal, 200, OTHER, 1_000);
        keep(&mut journal, 300, OTHER, 1_000);
        assert_eq!(found(&journal, Position::default()), [200, 300]);
        assert_eq!(journal.begins_behind(NOTES), Some(last(100)));
        assert_eq!(journal.begins_behind(OTHER), Some(Position::before(Lsn(50))));
        assert_eq!(journal.counters.journal_bytes.load(Relaxed), 2 * BYTES as u64);
        assert_eq!(journal.counters.journal_oldest.load(Relaxed), 200);
        assert_eq!(journal.counters.journal_crowded_out.load(Relaxed), 108);
    }

    #[tokio::test]
    async fn a_transaction_over_the_limit_leaves_a_gap_and_everything_else_stays() {
        let mut journal = journal(2 * BYTES);
        keep(&mut journal, 100, OTHER, 1_000);
        keep(&mut journal, 200, NOTES, 3_000);
        keep(&mut journal, 300, NOTES, 1_000);
        assert_eq!(found(&journal, Position::default()), [100, 300]);
        assert_eq!(journal.begins_behind(NOTES), Some(last(200)));
        assert_eq!(journal.begins_behind(OTHER), Some(Position::before(Lsn(50))));
        assert_eq!(journal.counters.journal_gaps.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_is_forgotten() {
        let mut journal = journal(10 * BYTES);
        keep(&mut journal, 100, NOTES, 1_000);
        tokio::time::advance(Duration::from_secs(80)).await;
        keep(&mut journal, 200, NOTES, 1_000);
        tokio::time::advance(Duration::from_secs(80)).await;
        journal.shrink();
        assert_eq!(found(&journal, Position::default()), [200]);
        assert_eq!(journal.begins_behind(NOTES), Some(last(100)));
    }

    #[tokio::test]
    async fn without_a_limit_nothing_is_kept() {
        let mut journal = journal(0);
        keep(&mut journal, 100, NOTES, 1_000);
        assert_eq!(found(&journal, Position::default()), [0; 0]);
        assert_eq!(journal.begins_behind(NOTES), Some(last(100)));
        assert_eq!(journal.counters.journal_gaps.load(Relaxed), 0, "nobody expects anything");
    }

    #[tokio::test]
    async fn a_new_connection_changes_nothing_unless_something_was_lost() {
        let mut journal = journal(10 * BYTES);
        keep(&mut journal, 100, NOTES, 1_000);
        journal.restarted(&LogStart { since: Lsn(60), gap: None }, Position::before(Lsn(108)));
        assert_eq!(found(&journal, Position::default()), [100]);
        for (since, gap) in [(500, true), (900, false)] {
            keep(&mut journal, 200, NOTES, 1_000);
            journal.restarted(
                &LogStart { since: Lsn(since), gap: gap.then(|| "lost".into()) },
                Position::before(Lsn(208)),
            );
            assert_eq!(found(&journal, Position::default()), [0; 0]);
            assert_eq!(journal.begins_behind(NOTES), Some(Position::before(Lsn(since))));
        }
        assert_eq!(journal.counters.journal_gaps.load(Relaxed), 2);
    }
}
