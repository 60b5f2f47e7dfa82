//! How long something takes, counted in buckets.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use walcast_pgoutput::PgTimestamp;

/// 2000-01-01 00:00 UTC, from which PostgreSQL counts, in microseconds since 1970-01-01 00:00 UTC.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A histogram of latencies.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    /// One for each bound, and one for what is above all of them.
    counts: [AtomicU64; LatencyHistogram::BOUNDS.len() + 1],
    sum_micros: AtomicU64,
}

impl LatencyHistogram {
    /// The upper bounds of the buckets, each included.
    pub const BOUNDS: [Duration; 13] = [
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_micros(2_500),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(250),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_secs(5),
        Duration::from_secs(30),
    ];

    /// Counts a latency.
    pub fn observe(&self, latency: Duration) {
        let bucket = Self::BOUNDS.partition_point(|bound| *bound < latency);
        self.counts[bucket].fetch_add(1, Relaxed);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// Counts the time since PostgreSQL's clock showed this. Where that clock is ahead of ours, it is none.
    pub(crate) fn observe_since(&self, moment: PgTimestamp) {
        self.observe(age_of(moment));
    }

    /// How many have been counted in each bucket, in the order of the bounds, and above all of them.
    pub fn counts(&self) -> [u64; LatencyHistogram::BOUNDS.len() + 1] {
        std::array::from_fn(|bucket| self.counts[bucket].load(Relaxed))
    }

    /// The sum of all that have been counted.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros.load(Relaxed))
    }
}

/// The time since PostgreSQL's clock showed this. Where that clock is ahead of ours, it is none.
pub(crate) fn age_of(moment: PgTimestamp) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    let micros = now.saturating_sub(moment.0.saturating_add(POSTGRES_EPOCH));
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_counted_in_the_first_bucket_that_holds_it() {
        let histogram = LatencyHistogram::default();
        for micros in [0, 500, 501, 1_000, 40_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counts = histogram.counts();
        assert_eq!((counts[0], counts[1], counts[13]), (2, 2, 1));
        assert_eq!(counts.iter().sum::<u64>(), 5);
        assert_eq!(histogram.sum(), Duration::from_micros(40_002_001));
    }

    #[test]
    fn the_time_since_a_commit_is_measured_against_the_clock_of_the_day() {
        let histogram = LatencyHistogram::default();
        histogram.observe_since(PgTimestamp(0));
        assert!(histogram.sum() > Duration::from_hours(24 * 365 * 20), "since the year 2000");
        histogram.observe_since(PgTimestamp(i64::MAX));
        assert_eq!(histogram.counts()[0], 1, "a clock that is ahead");
    }
}
