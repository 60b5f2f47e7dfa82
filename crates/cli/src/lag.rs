//! For how long log has waited that PostgreSQL has sent and we have not handled.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use walcast_pgoutput::Lsn;

/// How often the position is looked at, and so how exact the answer is.
const INTERVAL: Duration = Duration::from_secs(1);
/// An hour of marks; what comes later counts as if it had come with the last of them.
const MARKS_MAX: usize = 3_600;

/// Remembers when which position had come.
pub(crate) struct Lag {
    positions: Box<dyn Fn() -> Positions + Send + Sync>,
    /// Positions that are not handled, oldest first.
    marks: Mutex<VecDeque<Mark>>,
}

/// How far the stream has come.
pub(crate) struct Positions {
    pub(crate) received: Lsn,
    pub(crate) handled: Lsn,
}

struct Mark {
    position: Lsn,
    seen: Instant,
}

impl Lag {
    pub(crate) fn new(positions: impl Fn() -> Positions + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Lag { positions: Box::new(positions), marks: Mutex::default() })
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

    /// For how long the oldest unhandled log has been here; `None` before the first byte.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        let Positions { received, handled } = (self.positions)();
        let age =
            |marks: &mut VecDeque<Mark>| marks.front().map(|mark| now.saturating_duration_since(mark.seen));
        (received.0 > 0).then(|| self.with_marks_after(handled, age).unwrap_or_default())
    }

    fn mark(&self, now: Instant) {
        let Positions { received, handled } = (self.positions)();
        self.with_marks_after(handled, |marks| {
            let is_full = marks.len() >= MARKS_MAX;
            match marks.back_mut() {
                None if received <= handled => {}
                Some(last) if received <= last.position => {}
                Some(last) if is_full => last.position = received,
                _ => marks.push_back(Mark { position: received, seen: now }),
            }
        });
    }

    /// The marks that are not handled.
    fn with_marks_after<T>(&self, handled: Lsn, look: impl FnOnce(&mut VecDeque<Mark>) -> T) -> T {
        // Plain data: a panic elsewhere can not have left it half changed.
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        while marks.front().is_some_and(|mark| mark.position <= handled) {
            marks.pop_front();
        }
        look(&mut marks)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn the_oldest_log_that_is_not_handled_has_its_age() {
        let (received, handled) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let lag = Lag::new({
            let (received, handled) = (Arc::clone(&received), Arc::clone(&handled));
            move || Positions { received: Lsn(received.load(Relaxed)), handled: Lsn(handled.load(Relaxed)) }
        });
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lag.age(at(0)), None, "nothing has come");
        received.store(10, Relaxed);
        lag.mark(at(1));
        received.store(20, Relaxed);
        lag.mark(at(4));
        assert_eq!(lag.age(at(6)), Some(Duration::from_secs(5)));
        handled.store(10, Relaxed);
        assert_eq!(lag.age(at(6)), Some(Duration::from_secs(2)), "what came later is younger");
        handled.store(20, Relaxed);
        lag.mark(at(7));
        assert_eq!(lag.age(at(9)), Some(Duration::ZERO), "nothing waits");
    }
}
