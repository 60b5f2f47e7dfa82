//! Changes that are decided but not shown yet, because one of them waits for PostgreSQL: what comes behind it is
//! decided meanwhile, so that everything is asked at once, and shown in the order of the log.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use walcast_pgoutput::{Lsn, PgTimestamp};
use walcast_policy::{RowImage, Verdict};

use super::audience::Audiences;
use super::docket::{Docket, Matter, Ticket};
use super::image::{BoundRelation, ChangeImages};
use super::ruling::Rulings;
use super::show::Commit;
use crate::command::Fanout;
use crate::transaction::Chunk;

/// A window is closed at so many changes, be they shown to anybody or not, …
const CHANGES_MAX: usize = 10_000;
/// … at so many audiences of all that are, …
const RULINGS_MAX: usize = 1_000_000;
/// … or at so many bytes of the log.
const BYTES_MAX: usize = 32 << 20;

#[derive(Default)]
pub(super) struct Window {
    pub(super) changes: Vec<HeldChange>,
    pub(super) rulings: Vec<Rulings>,
    pub(super) messages: HeldMessages,
    /// The log has been handed on up to here, once the changes are.
    pub(super) passed: Option<Lsn>,
    /// The room in the inbox that the changes take.
    rooms: Vec<OwnedSemaphorePermit>,
    decided: usize,
    rulings_held: usize,
    bytes: usize,
}

/// Messages for topics that stand between changes.
#[derive(Default)]
pub(super) struct HeldMessages(VecDeque<HeldMessage>);

struct HeldMessage {
    /// So many changes stand before it.
    behind: usize,
    message: Arc<Fanout>,
    commit_time: PgTimestamp,
}

/// A change that is not shown yet.
pub(super) struct HeldChange {
    pub(super) relation: Arc<BoundRelation>,
    pub(super) commit: Commit,
    pub(super) chunk: Arc<Chunk>,
    /// Its place in the chunk.
    pub(super) index: usize,
}

impl Window {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.decided >= CHANGES_MAX || self.rulings_held >= RULINGS_MAX || self.bytes >= BYTES_MAX
    }

    pub(super) fn hold(&mut self, change: HeldChange, rulings: Rulings) {
        let last = self.changes.last();
        if last.is_none_or(|last| !Arc::ptr_eq(&last.chunk, &change.chunk)) {
            self.bytes += change.chunk.bytes;
        }
        self.rulings_held += rulings.len();
        self.changes.push(change);
        self.rulings.push(rulings);
    }

    /// Keeps a message in its place behind the changes.
    pub(super) fn hold_message(&mut self, message: Arc<Fanout>, commit_time: PgTimestamp) {
        self.bytes += message.bytes();
        self.messages.0.push_back(HeldMessage { behind: self.changes.len(), message, commit_time });
    }

    /// So many changes, or transactions, more have been decided while there was something to wait for.
    pub(super) fn count(&mut self, decided: usize) {
        self.decided += decided;
    }

    /// Keeps the inbox's room for as long as there are changes.
    pub(super) fn occupy(&mut self, room: OwnedSemaphorePermit) {
        self.rooms.push(room);
    }
}

impl HeldMessages {
    /// Takes the next one that stands behind no more than so many changes.
    pub(super) fn take(&mut self, changes: usize) -> Option<(Arc<Fanout>, PgTimestamp)> {
        self.0.front().filter(|held| held.behind <= changes)?;
        self.0.pop_front().map(|held| (held.message, held.commit_time))
    }
}

impl HeldChange {
    pub(super) fn images(&self) -> Option<ChangeImages<'_>> {
        ChangeImages::new(&self.relation, &self.chunk.changes[self.index].row)
    }
}

/// Everything that is to be asked of a window, and a ticket for each open verdict, in the order of
/// [`super::ruling::Opinion::answered`].
pub(super) fn docket<'a>(
    window: &'a Window,
    images: &'a [Option<ChangeImages<'a>>],
    audiences: &'a Audiences,
) -> (Docket<'a>, Vec<Ticket>) {
    let mut docket = Docket::default();
    let mut tickets = Vec::new();
    for ((change, images), rulings) in window.changes.iter().zip(images).zip(&window.rulings) {
        let (Some(images), Some(table)) = (images, audiences.of(change.relation.table.oid)) else { continue };
        for opinion in &rulings.open {
            let Some(key) = table.get(opinion.slot).map(|audience| &audience.key) else { continue };
            let matter = |expression: Option<&'a str>, row: &'a RowImage<'a>| Matter {
                role: key.plan.role(),
                claims: key.plan.claims_json(),
                // A verdict is open only where there is a question.
                expression: expression.unwrap_or("false"),
                table: &change.relation.table,
                row,
            };
            let judged = [(&opinion.after, Some(images.judged())), (&opinion.before, images.logged_before())];
            for (judgement, row) in judged {
                let Some(row) = row else { continue };
                if judgement.filter == Verdict::Ask {
                    let matter = matter(key.filter.question(), row);
                    tickets.push(docket.enter(&matter, key.filter.asked_columns()));
                }
                if judgement.policies == Verdict::Ask {
                    let columns = key.plan.asked_columns().iter().copied();
                    tickets.push(docket.enter(&matter(key.plan.question(), row), columns));
                }
            }
        }
    }
    (docket, tickets)
}
