//! What a turn of a shard has queued, how it is written, and for how long the shard waits for those who read but are
//! behind.
//!
//! A reader that is as fast as it can be must not be closed by a burst, and nobody may be kept waiting by one that is
//! not. So a shard that has filled half of a queue waits until there is room again, as long as the socket goes on taking
//! bytes: a quarter of a second at most, after which it is not waited for any more before it has taken everything. And
//! all waiting together has a budget.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use walcast_pgoutput::PgTimestamp;
use walcast_wire::Frame;

use super::Shard;
use crate::ids::SessionId;
use crate::outbound::PATIENCE;
use crate::session::Queued;
use crate::settings::Counters;

/// Close code 1013, "Try Again Later" (IANA WebSocket close codes): the client may reconnect.
const TRY_AGAIN_LATER: u16 = 1013;
/// For how long a shard may be held up at once by all who are behind.
const HELD_UP_MAX: Duration = Duration::from_secs(5);
/// And in the long run: one part of so many of the time.
const HELD_UP_SHARE: u32 = 4;

/// What has been queued since the queues were last written.
pub(crate) struct Turn {
    pub(crate) counters: Arc<Counters>,
    /// Sessions whose queue has grown.
    pub(crate) dirty: Vec<SessionId>,
    /// Sessions whose queue has passed its bound.
    pub(crate) overflowed: Vec<SessionId>,
    /// Bytes of all frames, each counted once: no queue has grown by more.
    pub(super) bytes: usize,
    /// The commits that have brought some of them.
    pub(super) commits: Vec<PgTimestamp>,
    /// Sessions that have more than half of their bound queued after writing, and read.
    crowded: Vec<SessionId>,
    budget: Budget,
}

/// For how long the shard may still be held up.
struct Budget {
    left: Duration,
    as_of: Instant,
}

impl Turn {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        let budget = Budget { left: HELD_UP_MAX, as_of: Instant::now() };
        Turn {
            counters,
            dirty: Vec::new(),
            overflowed: Vec::new(),
            bytes: 0,
            commits: Vec::new(),
            crowded: Vec::new(),
            budget,
        }
    }
}

impl Budget {
    /// What there is at this moment.
    fn available(&mut self, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.as_of) / HELD_UP_SHARE;
        self.left = (self.left + earned).min(HELD_UP_MAX);
        self.as_of = now;
        self.left
    }

    /// It was held up until this moment, since the last call.
    fn spend_until(&mut self, now: Instant) {
        self.left = self.left.saturating_sub(now.saturating_duration_since(self.as_of));
        self.as_of = now;
    }
}

impl Shard {
    /// Makes room where so many bytes more could take a queue over half of its bound.
    pub(super) async fn make_room_for(&mut self, bytes: usize) {
        if self.turn.bytes > 0 && self.turn.bytes + bytes > self.settings.outbound_bytes_max / 2 {
            self.write_and_make_room().await;
        }
    }

    /// Writes what is queued, and waits a moment for those who read and have no room.
    pub(super) async fn write_and_make_room(&mut self) {
        self.write_out();
        if !self.turn.crowded.is_empty() {
            self.make_room().await;
        }
    }

    pub(super) fn write_out(&mut self) {
        while let Some(session) = self.turn.overflowed.pop() {
            let limit = self.settings.outbound_bytes_max;
            let reason = format!("slow consumer: more than {limit} bytes queued (outbound_bytes_max)");
            // A session is listed for every frame that it had no room for.
            if self.close(session, &Frame::close(TRY_AGAIN_LATER, &reason), true) {
                self.counters.slow_closes.fetch_add(1, Relaxed);
            }
        }
        self.turn.bytes = 0;
        let first_commit = self.turn.commits.first().copied();
        let mut growth = 0;
        let mut written = false;
        while let Some(session) = self.turn.dirty.pop() {
            let Some(found) = self.sessions.get_mut(&session) else { continue };
            let queued = std::mem::take(&mut found.queued);
            found.outbound.flush(&self.counters);
            growth += found.outbound.take_growth();
            if queued == Queued::FromLog {
                match first_commit {
                    Some(committed) if found.outbound.is_behind() => found.outbound.note_change(committed),
                    _ => written |= !found.outbound.is_over(),
                }
            }
            if found.outbound.worth_waiting().is_some() {
                self.turn.crowded.push(session);
            }
        }
        for committed in self.turn.commits.drain(..) {
            // Those who are behind count on their own.
            if written {
                self.counters.commit_to_write.observe_since(committed);
            }
        }
        self.count_queued(growth);
    }

    /// Waits for those who read and have no room, as long as they are worth it.
    async fn make_room(&mut self) {
        let start = Instant::now();
        let latest = start + self.turn.budget.available(start).min(PATIENCE);
        let mut crowded = std::mem::take(&mut self.turn.crowded);
        let mut writable = FuturesUnordered::new();
        let mut waits_for = crowded.clone();
        let mut growth = 0;
        loop {
            for session in waits_for.drain(..) {
                if let Some(found) = self.sessions.get(&session) {
                    let socket = Arc::clone(found.outbound.socket());
                    writable.push(async move {
                        socket.writable().await;
                        session
                    });
                }
            }
            let until = |session: &SessionId| self.sessions.get(session)?.outbound.worth_waiting();
            let Some(until) = crowded.iter().filter_map(until).max() else { break };
            tokio::select! {
                biased;
                Some(session) = writable.next() => {
                    let Some(found) = self.sessions.get_mut(&session) else { continue };
                    found.outbound.writable();
                    found.outbound.flush(&self.counters);
                    growth += found.outbound.take_growth();
                    if found.outbound.worth_waiting().is_some() {
                        waits_for.push(session);
                    }
                }
                () = tokio::time::sleep_until(until.min(latest)) => break,
            }
        }
        for session in &crowded {
            if let Some(found) = self.sessions.get_mut(session)
                && found.outbound.worth_waiting().is_some()
            {
                found.outbound.give_up();
            }
        }
        self.turn.budget.spend_until(Instant::now());
        self.count_queued(growth);
        crowded.clear();
        self.turn.crowded = crowded;
    }

    /// So many bytes more, or less, wait for sockets.
    pub(super) fn count_queued(&self, growth: i64) {
        if growth != 0 {
            // Two's complement: adding a negative number subtracts.
            self.counters.queued_bytes.fetch_add(growth.cast_unsigned(), Relaxed);
        }
    }
}
