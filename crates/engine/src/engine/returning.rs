//! Clients that come back without saying up to where they had come: whether a join may be one of theirs, and what goes to
//! the next process (docs/protocol.md §5.7).

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;
use walcast_wire::{Binding, Ref};

use super::Engine;
use crate::command::{Command, Search};
use crate::membership::Membership;
use crate::tickets::{Claim, Heard, Standing};

/// Whether a client asks for positions or names one: then it keeps them, and neither leaves a ticket nor takes one.
pub(super) fn keeps_positions(bindings: &[Binding]) -> bool {
    bindings
        .iter()
        .filter_map(|binding| binding.target.as_ref().ok())
        .any(|target| target.resume || target.since.is_some())
}

impl Engine {
    /// From where on a join goes on, where its client may have come back: it counts its messages, and this is not the
    /// first.
    pub(super) async fn claim(
        &self,
        membership: &Arc<Membership>,
        bindings: &[Binding],
        reference: &Ref,
        rejoins: bool,
    ) -> Option<Claim> {
        let reference = reference.number().filter(|number| number.get() > 1)?.get();
        if !self.tickets.are_kept() || membership.options().keeps_positions {
            return None;
        }
        if !bindings.is_empty() {
            self.tickets.known().await;
        }
        let began = Instant::now();
        // Asked first: a socket that nobody finds below has got everything up to here.
        let handled = self.tickets.handled();
        let mut answers = Vec::with_capacity(self.shards.len());
        for shard in self.shards.iter() {
            let (answer, answered) = oneshot::channel();
            let search = Search { membership: Arc::clone(membership), reference, answer };
            let _ = shard.commands.send(Command::Search(Box::new(search))).await;
            answers.push(answered);
        }
        let mut standing = None;
        for answered in answers {
            // One that has ended has no sockets.
            let Some((lowest, newest)) = answered.await.ok().flatten() else { continue };
            let heard =
                Heard::either(newest.heard, standing.and_then(|(_, known): (_, Standing)| known.heard));
            let newest = Standing { heard, ..newest };
            standing = match standing {
                None => Some((lowest, newest)),
                Some((other, known)) if known.reference >= newest.reference => {
                    Some((lowest.min(other), Standing { heard, ..known }))
                }
                Some((other, _)) => Some((lowest.min(other), newest)),
            };
        }
        let claim = self.tickets.claim(membership, reference, rejoins, standing, handled)?;
        Some(if self.keeps_broadcasts() { claim.with_broadcasts_from(began) } else { claim })
    }

    /// Whether who comes back is sent the broadcasts that it has missed.
    pub(super) fn keeps_broadcasts(&self) -> bool {
        self.settings.resume.kept_broadcast_bytes().is_some()
    }

    /// From now on clients that may have come back wait until it is known what the process before has handed over. What is
    /// given back is to be written into the log once that is read, with [`crate::TICKETS_MESSAGE_PREFIX`].
    pub fn begin_handover(&self) -> Option<String> {
        self.tickets.are_kept().then(|| self.tickets.begin())
    }

    /// Nothing can be written into the log, so nobody waits for what was handed over.
    pub fn give_up_handover(&self) {
        self.tickets.give_up();
    }

    /// What an engine whose sockets are gone has for the next process, to be written into the log in this order.
    pub fn hand_over(&self) -> Vec<String> {
        if self.tickets.are_kept() { self.tickets.hand_over() } else { Vec::new() }
    }
}
