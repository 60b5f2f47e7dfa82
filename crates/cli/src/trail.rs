//! What of the handled log PostgreSQL is asked to keep: as much as the journal holds, so that a server that starts again
//! is sent it once more and can bring everybody up to date (docs/protocol.md §5.7).
//!
//! The slot's confirmed position trails behind what is handled. It goes on when the journal's age has passed, be
//! anything written or not; earlier where the journal has no room for what is older, or where PostgreSQL would have to
//! keep more log than it may for that.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use walcast_pgoutput::Lsn;
use walcast_replication::Progress;

/// So many looks at the position in one age, at least: it goes on in steps of this part of the age.
const STEPS: u32 = 20;
/// No longer between two looks.
const STEP_MAX: Duration = Duration::from_secs(1);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrailSettings {
    /// For how long; zero confirms everything at once.
    pub(crate) age: Duration,
    /// Bytes of log.
    pub(crate) log_bytes_max: u64,
}

/// The log between the confirmed position and the handled one.
pub(crate) struct Trail {
    progress: Arc<Progress>,
    settings: TrailSettings,
    /// What PostgreSQL itself allows of it.
    server_bytes_max: AtomicU64,
    /// What was handled when, oldest first.
    marks: Mutex<VecDeque<Mark>>,
}

struct Mark {
    handled: Lsn,
    at: Instant,
}

impl Trail {
    pub(crate) fn new(progress: Arc<Progress>, settings: TrailSettings) -> Arc<Self> {
        let server_bytes_max = AtomicU64::new(u64::MAX);
        Arc::new(Trail { progress, settings, server_bytes_max, marks: Mutex::default() })
    }

    /// The log has been handled up to here.
    pub(crate) fn handled(&self, lsn: Lsn) {
        if self.settings.age.is_zero() {
            self.progress.confirm(lsn);
        } else {
            self.progress.handle(lsn);
        }
    }

    /// PostgreSQL keeps so many bytes for a slot and no more. `None`: as many as it has to.
    pub(crate) fn limit(&self, slot_bytes_max: Option<u64>) {
        // The other half is for what the slot needs besides: open transactions, and what has not been read yet.
        self.server_bytes_max.store(slot_bytes_max.map_or(u64::MAX, |bytes| bytes / 2), Relaxed);
    }

    /// Bytes of handled log that are not confirmed.
    pub(crate) fn bytes(&self) -> u64 {
        let confirmed = self.progress.confirmed();
        self.progress.handled().0.saturating_sub(confirmed.0)
    }

    /// Moves the confirmed position on as time passes, until `cancel`. `crowded_out` tells up to where the journal had
    /// no room.
    pub(crate) async fn watch(
        self: Arc<Self>,
        crowded_out: impl Fn() -> Lsn + Send + Sync,
        cancel: CancellationToken,
    ) {
        if self.settings.age.is_zero() {
            return;
        }
        let step = (self.settings.age / STEPS).clamp(Duration::from_millis(10), STEP_MAX);
        let mut ticks = tokio::time::interval(step);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(now) = cancel.run_until_cancelled(ticks.tick()).await {
            self.pass(now, crowded_out());
        }
    }

    fn pass(&self, now: Instant, crowded_out: Lsn) {
        let handled = self.progress.handled();
        let bytes_max = self.settings.log_bytes_max.min(self.server_bytes_max.load(Relaxed));
        let aged = self.aged(now, handled);
        let begins = aged.max(crowded_out).max(Lsn(handled.0.saturating_sub(bytes_max)));
        self.progress.confirm(begins.min(handled));
    }

    /// What was handled a whole age ago.
    fn aged(&self, now: Instant, handled: Lsn) -> Lsn {
        // Plain data: a panic elsewhere can not have left it half changed.
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.back().is_none_or(|last| last.handled < handled) {
            marks.push_back(Mark { handled, at: now });
        }
        let mut aged = Lsn::ZERO;
        while let Some(mark) = marks.front()
            && now.saturating_duration_since(mark.at) >= self.settings.age
        {
            aged = mark.handled;
            marks.pop_front();
        }
        aged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(age: u64, log_bytes_max: u64) -> Arc<Trail> {
        let settings = TrailSettings { age: Duration::from_secs(age), log_bytes_max };
        Trail::new(Arc::default(), settings)
    }

    fn confirmed(trail: &Trail) -> u64 {
        trail.progress.confirmed().0
    }

    #[test]
    fn what_is_handled_is_confirmed_an_age_later_be_anything_written_or_not() {
        let trail = trail(10, u64::MAX);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        trail.handled(Lsn(100));
        trail.pass(at(0), Lsn::ZERO);
        trail.handled(Lsn(200));
        trail.pass(at(5), Lsn::ZERO);
        assert_eq!((confirmed(&trail), trail.bytes()), (0, 200));
        trail.pass(at(10), Lsn::ZERO);
        assert_eq!((confirmed(&trail), trail.bytes()), (100, 100));
        trail.pass(at(15), Lsn::ZERO);
        assert_eq!((confirmed(&trail), trail.bytes()), (200, 0));
    }

    #[test]
    fn what_the_journal_has_no_room_for_is_not_kept_in_the_log_either() {
        let trail = trail(10, u64::MAX);
        trail.handled(Lsn(200));
        trail.pass(Instant::now(), Lsn(150));
        assert_eq!(confirmed(&trail), 150);
    }

    #[test]
    fn more_log_than_may_be_kept_is_not_kept() {
        let trail = trail(10, 1_000);
        trail.handled(Lsn(5_000));
        trail.pass(Instant::now(), Lsn::ZERO);
        assert_eq!(confirmed(&trail), 4_000);
        trail.limit(Some(600));
        trail.pass(Instant::now(), Lsn::ZERO);
        assert_eq!(confirmed(&trail), 4_700, "half of what PostgreSQL keeps for a slot at most");
        trail.limit(None);
        trail.handled(Lsn(5_800));
        trail.pass(Instant::now(), Lsn::ZERO);
        assert_eq!(confirmed(&trail), 4_800);
    }

    #[test]
    fn without_an_age_everything_is_confirmed_at_once() {
        let trail = trail(0, 1_000);
        trail.handled(Lsn(200));
        assert_eq!(confirmed(&trail), 200);
    }
}
