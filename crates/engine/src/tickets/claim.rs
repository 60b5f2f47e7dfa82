//! A join that goes on where its client was.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walcast_pgoutput::Lsn;
use walcast_wire::Position;

use super::handover::Past;
use super::{Heard, Reference, Standing, Tickets};
use crate::ids::ChannelId;
use crate::membership::Membership;

/// For so long a join waits to hear what the process before has handed over.
const PATIENCE: Duration = Duration::from_secs(10);

/// From where on a channel goes on, on its way to its shard. Dropped before it has arrived there, it gives back the
/// ticket.
pub(crate) struct Claim {
    tickets: Arc<Tickets>,
    channel: ChannelId,
    from: Lsn,
    heard: Option<Heard>,
    arrived: bool,
}

impl Claim {
    /// The client is known to have got everything up to here.
    pub(crate) fn position(&self) -> Position {
        Position::before(self.from)
    }

    /// The same, of a client that was told at this moment that it may be one that has been here: if nothing is known of
    /// it, it gets the broadcasts that come from then on.
    pub(crate) fn with_broadcasts_from(mut self, moment: Instant) -> Claim {
        self.heard.get_or_insert(Heard { until: moment, line: None });
        self
    }

    /// How far the client has come with broadcasts, where these are kept.
    pub(crate) fn heard(&self) -> Option<Heard> {
        self.heard
    }

    /// The channel is there, and so is what it has claimed; tells from where on it goes on.
    pub(crate) fn arrive(mut self) -> Lsn {
        self.arrived = true;
        self.from
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.arrived {
            self.tickets.give_back(self.channel);
        }
    }
}

impl Tickets {
    /// Waits until it is known what an earlier process has handed over, or for long enough.
    pub(crate) async fn known(&self) {
        let mut past = self.past.subscribe();
        let known = past.wait_for(|past| !matches!(past, Past::Awaited { .. }));
        // The sender is this one's.
        let _ = tokio::time::timeout(PATIENCE, known).await;
    }

    /// From where on a join of a client that may have come back goes on.
    ///
    /// `handled` is how far the log was in the shards' inboxes before they were asked what is `standing`: whoever had
    /// nothing unacknowledged then has got everything up to there. `rejoins` says that the join's number is one that a
    /// client that has just been started does not have.
    pub(crate) fn claim(
        self: &Arc<Self>,
        membership: &Arc<Membership>,
        reference: Reference,
        rejoins: bool,
        standing: Option<(Lsn, Standing)>,
        handled: Lsn,
    ) -> Option<Claim> {
        if handled == Lsn::ZERO {
            // The log has not begun: nobody has been told anything of it.
            return None;
        }
        let (lowest, heard) = self.redeem(membership, reference, standing);
        let unknown = self.past.borrow().unknown().filter(|_| rejoins);
        let from = [lowest, unknown].into_iter().flatten().fold(handled, Lsn::min);
        Some(Claim { tickets: Arc::clone(self), channel: membership.channel, from, heard, arrived: false })
    }
}
