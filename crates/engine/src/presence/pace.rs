//! When the diffs of a topic leave. Pure.
//!
//! A diff to n followers is n messages. Where changes come one after the other, each would be told to everybody by itself:
//! 1,000 who join at a time are 500,500 messages. So a diff is followed by a window in which changes are collected. One
//! that comes behind the window, as most do, leaves at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// Below so many followers each change leaves at once: they are few messages, and a small room is where people look at
/// each other.
const FEW: usize = 10;
/// The window's length for each follower, up to the setting: as long as it grows a topic has 1,000 messages of diffs in a
/// second, however many follow.
const EACH: Duration = Duration::from_millis(1);

/// How many followers a diff has reached so far; the shards add theirs as it comes to them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach(Arc<AtomicUsize>);

impl Reach {
    pub(crate) fn add(&self, followers: usize) {
        self.0.fetch_add(followers, Relaxed);
    }

    fn followers(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// When the last diff of a topic left, and how far it went.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<(Instant, Reach)>,
    /// How many followers the one before has reached: the last one may be on its way.
    before: usize,
    /// The topic will be looked at when the window is over.
    pub(crate) waits: bool,
}

impl Pace {
    /// When the next diff may leave, with windows of at most `window_max`; `None` at once.
    pub(crate) fn not_before(&self, window_max: Duration, now: Instant) -> Option<Instant> {
        let (last, reach) = self.last.as_ref()?;
        let followers = self.before.max(reach.followers());
        if followers < FEW {
            return None;
        }
        let window = EACH.saturating_mul(u32::try_from(followers).unwrap_or(u32::MAX)).min(window_max);
        Some(*last + window).filter(|until| *until > now)
    }

    /// A diff leaves; where its followers are counted.
    pub(crate) fn leaves(&mut self, now: Instant) -> Reach {
        let reach = Reach::default();
        let last = self.last.replace((now, reach.clone()));
        self.before = last.map_or(0, |(_, last)| last.followers());
        reach
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(250);

    #[test]
    fn a_window_is_as_long_as_there_are_followers_up_to_its_longest() {
        let now = Instant::now();
        for (followers, window) in [(0, 0), (9, 0), (10, 10), (100, 100), (1_000, 250)] {
            let mut pace = Pace::default();
            assert_eq!(pace.not_before(MAX, now), None, "the first leaves at once");
            pace.leaves(now).add(followers);
            let window = Duration::from_millis(window);
            assert_eq!(pace.not_before(MAX, now), (!window.is_zero()).then(|| now + window), "{followers}");
            assert_eq!(pace.not_before(MAX, now + window), None, "behind it at once");
            assert_eq!(pace.not_before(Duration::ZERO, now), None, "off");
        }
    }

    #[test]
    fn a_diff_that_is_on_its_way_is_thought_to_go_as_far_as_the_one_before() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.leaves(now).add(100);
        let reach = pace.leaves(now);
        assert_eq!(pace.not_before(MAX, now), Some(now + Duration::from_millis(100)));
        reach.add(60);
        reach.add(60);
        assert_eq!(pace.not_before(MAX, now), Some(now + Duration::from_millis(120)), "both shards have it");
    }
}
