//! After a start PostgreSQL sends again what the slot has kept for the journal, and what was written while nobody read.
//!
//! All of it was committed before anybody could join, so nobody is shown it as new: it goes into the journal. Joins need
//! not wait for that. A channel is placed behind it, where the log ended at the start, and gets everything from there
//! on; only who wants to be told what it has missed waits until that is here.

use std::sync::atomic::Ordering::Relaxed;

use walcast_pgoutput::Lsn;

use super::journal::Tables;
use super::{Resume, State, Subscribing};
use crate::ingest::IngestError;
use crate::transaction::Transaction;

/// What there was of the log before the start.
#[derive(Default)]
pub(super) struct Refill {
    stage: Stage,
    /// A transaction has announced DDL: the catalog that was read at the start may be older than that.
    schema_changed: bool,
    /// Joins that want what they have missed, in their order.
    waiting: Vec<Subscribing>,
}

/// How far it has come.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// The log has not begun.
    #[default]
    NotBegun,
    /// What commits before this LSN was there already.
    Until(Lsn),
    /// Everything that comes is new.
    Over,
}

impl State {
    /// The log is about to begin, and what commits before `until` was there already.
    pub(super) fn refill_until(&mut self, until: Lsn) {
        self.refill.stage = Stage::Until(until);
        // Nobody is shown what stands before.
        self.matcher.tickets.pass(until);
    }

    /// Whether a transaction that commits there was in the log before the start.
    pub(super) fn was_there_before(&self, commit_lsn: Lsn) -> bool {
        matches!(self.refill.stage, Stage::Until(until) if commit_lsn < until)
    }

    /// From where on a channel that joins now gets everything.
    pub(super) fn place(&self) -> Lsn {
        match self.refill.stage {
            Stage::Until(until) => self.handled.max(until),
            Stage::NotBegun | Stage::Over => self.handled,
        }
    }

    /// Keeps a join that wants what it has missed until that is here; gives back any other.
    pub(super) fn wait_for_refill(&mut self, subscribing: Subscribing) -> Option<Subscribing> {
        let resume = subscribing.resume.as_ref().filter(|_| subscribing.joining.is_some());
        let waits = match self.refill.stage {
            // Nothing is known of any position yet.
            Stage::NotBegun => resume.is_some(),
            Stage::Until(_) => resume.is_some_and(Resume::wants_changes),
            Stage::Over => false,
        };
        if waits {
            self.refill.waiting.push(subscribing);
            return None;
        }
        Some(subscribing)
    }

    /// Takes in a transaction that was there before the start.
    pub(super) async fn refill(&mut self, transaction: Transaction) -> Result<(), IngestError> {
        self.judge.begin(transaction.xid);
        if transaction.ddl {
            self.refill.schema_changed = true;
            self.judge.will_ask();
        }
        self.copies.apply(&transaction).await?;
        let mut tables = Tables::new();
        let (mut position, mut last) = (transaction.first, transaction.first);
        let mut changes = transaction.changes.reader();
        while let Some(chunk) = changes.next().await? {
            for change in &chunk.changes {
                let table = change.relation.oid;
                if tables.last() != Some(&table) && !tables.contains(&table) {
                    tables.push(table);
                }
                last = position;
                position = last.next();
            }
            self.matcher.counters.changes.fetch_add(chunk.changes.len() as u64, Relaxed);
        }
        drop(changes);
        if !tables.is_empty() {
            self.journal.keep(transaction, tables, last);
        }
        Ok(())
    }

    /// A connection has begun to bring the log. After a gap nothing of what there was before it comes.
    pub(super) async fn log_begins(&mut self, after_gap: bool) {
        match self.refill.stage {
            Stage::Until(until) if !after_gap && self.handled < until => {
                tracing::info!(since = %self.handled, %until, "reading the log from before the start");
                // Those that want to know no more than where they are placed.
                self.subscribe_waiting().await;
            }
            Stage::NotBegun | Stage::Until(_) => self.end_refill().await,
            Stage::Over => {}
        }
    }

    /// The log has been handled up to here, or goes on there.
    pub(super) async fn refilled_up_to(&mut self, lsn: Lsn) {
        if matches!(self.refill.stage, Stage::Until(until) if until <= lsn) {
            self.end_refill().await;
        }
    }

    async fn end_refill(&mut self) {
        if let Stage::Until(until) = std::mem::replace(&mut self.refill.stage, Stage::Over) {
            tracing::info!(%until, "everything in the log from before the start has been read");
        }
        if std::mem::take(&mut self.refill.schema_changed) {
            self.refresh().await;
        }
        self.subscribe_waiting().await;
    }

    async fn subscribe_waiting(&mut self) {
        for subscribing in std::mem::take(&mut self.refill.waiting) {
            self.subscribe(subscribing).await;
        }
    }
}
