//! Sessions of a shard: how they begin and end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use walcast_wire::{Frame, Serializer};

use super::Shard;
use crate::command::Departure;
use crate::ids::SessionId;
use crate::outbound::{Outbound, Socket};
use crate::session::Session;

impl Shard {
    pub(super) fn open(
        &mut self,
        session: SessionId,
        socket: Arc<dyn Socket>,
        serializer: Serializer,
        subject: Option<Arc<str>>,
    ) {
        let mut outbound = Outbound::new(socket, self.settings.outbound_bytes_max);
        if let Some(frame) = &self.shutdown {
            outbound.close(frame, false);
            outbound.flush(&self.counters);
        }
        self.counters.sessions.fetch_add(1, Relaxed);
        self.sessions.insert(session, Session::new(serializer, outbound, subject));
    }

    pub(super) fn gone(&mut self, session: SessionId, departure: Departure) {
        let Some(mut found) = self.sessions.swap_remove(&session) else {
            return;
        };
        self.counters.sessions.fetch_sub(1, Relaxed);
        self.counters.session_gone.notify_waiters();
        self.forget_receipts(session, &mut found);
        // Where a write has failed first, the gateway was told that the session is closing.
        let departure = if found.outbound.is_cut() { Departure::Lost } else { departure };
        found.outbound.abandon();
        self.count_queued(found.outbound.take_growth());
        for (channel, key) in found.take_holds() {
            self.drop_hold(channel, key.as_ref());
        }
        for channel in std::mem::take(&mut found.channels) {
            self.forget(channel, departure);
        }
    }

    /// False when the session is closing already, or gone.
    pub(super) fn close(&mut self, session: SessionId, frame: &Frame, discard: bool) -> bool {
        let Some(found) = self.sessions.get_mut(&session) else { return false };
        self.turn.dirty.push(session);
        found.outbound.close(frame, discard)
    }

    /// Closes every `share`-th of the sessions that are open, rounded to the nearest number, so that a falling share
    /// spreads few sessions as evenly as many.
    pub(super) fn close_share(&mut self, frame: &Frame, share: usize) {
        let open = |found: &Session| !found.outbound.is_over();
        let share = share.max(1);
        let count = (self.sessions.values().filter(|found| open(found)).count() + share / 2) / share;
        let chosen = self.sessions.iter_mut().filter(|(_, found)| open(found)).take(count);
        for (&session, found) in chosen {
            found.outbound.close(frame, false);
            self.turn.dirty.push(session);
        }
    }

    pub(super) fn shut_down(&mut self, frame: Frame) {
        for (&session, found) in &mut self.sessions {
            found.outbound.close(&frame, false);
            self.turn.dirty.push(session);
        }
        self.shutdown = Some(frame);
    }

    pub(super) fn cut_all(&mut self) {
        let left: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in left {
            self.gone(session, Departure::Closed);
        }
    }
}
