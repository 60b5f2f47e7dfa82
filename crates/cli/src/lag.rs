//! For how long log has waited that PostgreSQL has sent and we have not confirmed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use walcast_pgoutput::Lsn;
use walcast_replication::Progress;

/// How often the position is looked at, and so how exact the answer is.
const INTERVAL: Duration = Duration::from_secs(1);
/// An hour of marks; what comes later counts as if it had come with the last of them.
const MARKS_MAX: usize = 3_600;

/// Remembers when which position had come.
pub(crate) struct Lag {
    progress: Arc<Progress>,
    /// Positions that are not confirmed, oldest first.
    marks: Mutex<VecDeque<Mark>>,
}

struct Mark {
    position: Lsn,
    seen: Instant,
}

impl Lag {
    pub(crate) fn new(progress: Arc<Progress>) -> Arc<Self> {
        Arc::new(Lag { progress, marks: Mutex::default() })
    }

    /// Looks at the position again and again, until `cancel`.
    pub(crate) async fn watch(self: Arc<Self>, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                now = ticks.tick() => self.mark(now),
            }
        }
    }

    /// For how long the oldest unconfirmed log has been here; `None` before the first byte.
    pub(crate) fn age(&self) -> Option<Duration> {
        (self.progress.received().0 > 0).then(|| {
            self.with_marks(|marks| marks.front().map(|mark| mark.seen.elapsed()).unwrap_or_default())
        })
    }

    fn mark(&self, now: Instant) {
        let (received, confirmed) = (self.progress.received(), self.progress.confirmed());
        self.with_marks(|marks| {
            let is_full = marks.len() >= MARKS_MAX;
            match marks.back_mut() {
                None if received <= confirmed => {}
                Some(last) if received <= last.position => {}
                Some(last) if is_full => last.position = received,
                _ => marks.push_back(Mark { position: received, seen: now }),
            }
        });
    }

    /// The marks that are not confirmed.
    fn with_marks<T>(&self, look: impl FnOnce(&mut VecDeque<Mark>) -> T) -> T {
        let confirmed = self.progress.confirmed();
        // Plain data: a panic elsewhere can not have left it half changed.
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        while marks.front().is_some_and(|mark| mark.position <= confirmed) {
            marks.pop_front();
        }
        look(&mut marks)
    }
}
