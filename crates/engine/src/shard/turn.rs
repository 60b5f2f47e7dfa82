//! What a turn of a shard has queued, how it is written, and for how long the shard waits for those who read but are
//! behind.
//!
//! A reader that is as fast as it can be must not be closed by a burst, and nobody may be kept waiting by one that is
//! not. So a shard that has filled half of a queue waits until there is room again, as long as the socket goes on taking
//! bytes: a quarter of a second at most, after which it is not waited for any more before it has taken everything. And
//! all waiting together has a budget, a small one where it was in vain.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
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
/// Writing to fewer sockets than this takes less time than another thread needs to wake up.
const SHARED_WRITES_MIN: usize = 32;
/// What writing less than this to a socket takes is waking its reader, which two threads do no faster than one (measured
/// on two cores with the clients on them: 1.25x the deliveries with 4 kB each, 0.9x with 250 bytes).
const SHARED_BYTES_MIN: usize = 1 << 10;
/// Waiting for those who made room: five seconds at once, and in the long run a quarter of the time.
const WORTH_IT: Budget = Budget::new(Duration::from_secs(5), 4);
/// Waiting in vain: half a second at once, and in the long run a twentieth of the time.
const IN_VAIN: Budget = Budget::new(Duration::from_millis(500), 20);

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
    /// Something that a commit has brought was written.
    pub(crate) has_written_from_log: bool,
    /// Other shards have been given something to do.
    pub(super) told_others: bool,
    /// Sessions that have more than half of their bound queued after writing, and read.
    crowded: Vec<SessionId>,
    worth_it: Budget,
    in_vain: Budget,
}

/// For how long the shard may still be held up.
struct Budget {
    max: Duration,
    /// One part of so many of the time comes back.
    share: u32,
    left: Duration,
    as_of: Option<Instant>,
}

impl Turn {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Turn {
            counters,
            dirty: Vec::new(),
            overflowed: Vec::new(),
            bytes: 0,
            commits: Vec::new(),
            has_written_from_log: false,
            told_others: false,
            crowded: Vec::new(),
            worth_it: WORTH_IT,
            in_vain: IN_VAIN,
        }
    }
}

impl Budget {
    const fn new(max: Duration, share: u32) -> Self {
        Budget { max, share, left: max, as_of: None }
    }

    /// What there is at this moment.
    fn available(&mut self, now: Instant) -> Duration {
        if let Some(as_of) = self.as_of {
            let earned = now.saturating_duration_since(as_of) / self.share;
            self.left = (self.left + earned).min(self.max);
        }
        self.as_of = Some(now);
        self.left
    }

    fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

impl Shard {
    /// Makes room where so many bytes more could take a queue over half of its bound.
    pub(super) async fn make_room_for(&mut self, bytes: usize) {
        if self.turn.bytes > 0 && self.turn.bytes + bytes > self.settings.outbound_bytes_max / 2 {
            self.write_and_make_room().await;
        }
    }

    /// Before much is written: a shard that this one has told something would wait for this thread, though others may have
    /// nothing to do, because the runtime keeps a task for the thread that has woken it. So this shard goes behind it, and
    /// goes on on any thread.
    pub(super) async fn let_others_begin(&mut self) {
        let told_others = std::mem::take(&mut self.turn.told_others);
        let mut is_behind = !(told_others && self.has_much_to_write());
        // Not tokio's yield_now, which puts a task behind everything that its thread has to do.
        poll_fn(|context| {
            if is_behind {
                return Poll::Ready(());
            }
            is_behind = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn has_much_to_write(&self) -> bool {
        self.turn.bytes >= SHARED_BYTES_MIN
            && self.turn.dirty.len() + self.run_listeners() >= SHARED_WRITES_MIN
    }

    /// Writes what has come, and waits a moment for those who read and have no room.
    pub(super) async fn write_and_make_room(&mut self) {
        self.write_out();
        if !self.turn.crowded.is_empty() {
            self.make_room().await;
            self.write_out();
        }
    }

    pub(super) fn write_out(&mut self) {
        self.write_run();
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
        while let Some(session) = self.turn.dirty.pop() {
            let Some(found) = self.sessions.get_mut(&session) else {
                self.feed(session);
                continue;
            };
            let queued = std::mem::take(&mut found.queued);
            found.outbound.flush(&self.counters);
            growth += found.outbound.take_growth();
            if queued == Queued::FromLog {
                match first_commit {
                    Some(committed) if found.outbound.is_behind() => found.outbound.note_change(committed),
                    _ => self.turn.has_written_from_log |= !found.outbound.is_over(),
                }
            }
            if found.outbound.worth_waiting().is_some() {
                self.turn.crowded.push(session);
            }
            self.feed(session);
        }
        let has_written = std::mem::take(&mut self.turn.has_written_from_log);
        for committed in self.turn.commits.drain(..) {
            // Those who are behind count on their own.
            if has_written {
                self.counters.commit_to_write.observe_since(committed);
            }
        }
        self.count_queued(growth);
    }

    /// Waits for those who read and have no room, as long as they are worth it.
    async fn make_room(&mut self) {
        let start = Instant::now();
        let worth_it = start + self.turn.worth_it.available(start).min(PATIENCE);
        let in_vain = start + self.turn.in_vain.available(start).min(PATIENCE);
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
            let until = |session: &SessionId| {
                let outbound = &self.sessions.get(session)?.outbound;
                let latest = if outbound.reads() { worth_it } else { in_vain };
                Some(outbound.worth_waiting()?.min(latest))
            };
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
                () = tokio::time::sleep_until(until) => break,
            }
        }
        let mut gave_up = false;
        for session in &crowded {
            if let Some(found) = self.sessions.get_mut(session)
                && found.outbound.worth_waiting().is_some()
            {
                found.outbound.give_up();
                gave_up = true;
            }
            // What it has taken made room.
            self.feed(*session);
        }
        let budget = if gave_up { &mut self.turn.in_vain } else { &mut self.turn.worth_it };
        budget.spend(start.elapsed());
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
