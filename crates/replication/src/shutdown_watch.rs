//! Notices that the server is shutting down and waits for us.
//!
//! A walsender that has been told to stop sends everything, then asks for the flushed position again and again, as
//! fast as we answer, until that is the end of its log. A consumer that holds its confirmations back (to keep a window
//! for resuming) would keep the server from stopping; hanging up lets it go, and the slot keeps what is unconfirmed.

use std::time::Duration;

use tokio::time::Instant;
use walcast_pgoutput::Lsn;

/// Counts requests for the flushed position that follow one another closely and are not content with the answer.
#[derive(Debug, Default)]
pub(crate) struct ShutdownWatch {
    wal_end: Lsn,
    previous: Option<Instant>,
    requests: u32,
}

impl ShutdownWatch {
    /// In ordinary running a request comes only after half a `wal_sender_timeout` without feedback, and the feedback's
    /// timer is faster than that; so many in a row never come.
    const REQUESTS: u32 = 10;
    /// Longer than any round trip.
    const APART: Duration = Duration::from_secs(1);

    /// Takes note of a request at `now`; true when it can only mean a shutdown.
    pub(crate) fn sees(&mut self, wal_end: Lsn, confirmed: Lsn, now: Instant) -> bool {
        let goes_on = self
            .previous
            .is_some_and(|previous| self.wal_end == wal_end && now.duration_since(previous) <= Self::APART);
        let requests = if goes_on && confirmed < wal_end { self.requests + 1 } else { 1 };
        *self = ShutdownWatch { wal_end, previous: Some(now), requests };
        requests > Self::REQUESTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of fifty requests gives the shutdown away.
    fn seen(apart_ms: u64, confirmed: Lsn, wal_end: impl Fn(u64) -> Lsn) -> Option<u64> {
        let start = Instant::now();
        let mut watch = ShutdownWatch::default();
        (0..50).find(|index| {
            watch.sees(wal_end(*index), confirmed, start + Duration::from_millis(index * apart_ms))
        })
    }

    #[test]
    fn requests_that_our_answer_does_not_content_mean_a_shutdown() {
        assert_eq!(seen(0, Lsn(3), |_| Lsn(9)), Some(10));
        assert_eq!(seen(300, Lsn(3), |_| Lsn(9)), Some(10), "on a slow line too");
    }

    #[test]
    fn ordinary_requests_mean_nothing() {
        assert_eq!(seen(2000, Lsn(3), |_| Lsn(9)), None, "they are rare");
        assert_eq!(seen(0, Lsn(9), |_| Lsn(9)), None, "our answer contents them");
        assert_eq!(seen(0, Lsn(3), |index| Lsn(9 + index)), None, "the log goes on");
    }
}
