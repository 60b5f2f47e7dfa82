//! Messages that are sent through the log to see whether they come back, and how soon.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::latency::LatencyHistogram;

/// Canaries that are out at a time; no more are sent until one is back.
const OUT_MAX: usize = 100;

/// The canaries of one engine. Those of others, which come through the same log, are not its own.
#[derive(Debug)]
pub struct Canary {
    /// Tells them from those of others, and of earlier processes.
    origin: Uuid,
    out: Mutex<Out>,
    last_micros: AtomicU64,
    latencies: LatencyHistogram,
}

#[derive(Debug, Default)]
struct Out {
    last: u64,
    /// Those that are not back, oldest first.
    since: VecDeque<(u64, Instant)>,
}

/// One canary on its way out.
#[derive(Debug)]
pub struct Sending<'a> {
    canary: &'a Canary,
    number: u64,
}

impl Default for Canary {
    fn default() -> Self {
        Canary {
            origin: Uuid::new_v4(),
            out: Mutex::default(),
            last_micros: AtomicU64::new(u64::MAX),
            latencies: LatencyHistogram::default(),
        }
    }
}

impl Canary {
    /// Begins to measure; the content of [`Sending`] is to be written into the log now. `None` while too many are out.
    pub fn send(&self, now: Instant) -> Option<Sending<'_>> {
        self.with_out(|out| {
            if out.since.len() >= OUT_MAX {
                return None;
            }
            out.last += 1;
            out.since.push_back((out.last, now));
            Some(Sending { canary: self, number: out.last })
        })
    }

    /// The latency of the last one that came back; `None` before the first.
    pub fn last(&self) -> Option<Duration> {
        let micros = self.last_micros.load(Relaxed);
        (micros != u64::MAX).then(|| Duration::from_micros(micros))
    }

    /// The latencies of all that came back.
    pub fn latencies(&self) -> &LatencyHistogram {
        &self.latencies
    }

    /// For how long the oldest one that is not back has been out.
    pub fn awaited_for(&self, now: Instant) -> Option<Duration> {
        self.with_out(|out| out.since.front().map(|(_, since)| now.saturating_duration_since(*since)))
    }

    /// One has come back. Those before it will not any more: they were lost in a gap.
    pub(crate) fn returned(&self, content: &[u8]) {
        let Some(number) = self.number(content) else { return };
        let since = self.with_out(|out| {
            let place = out.since.iter().position(|(out, _)| *out == number)?;
            out.since.drain(..=place).next_back()
        });
        if let Some((_, since)) = since {
            let latency = since.elapsed();
            self.latencies.observe(latency);
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX - 1);
            self.last_micros.store(micros, Relaxed);
        }
    }

    fn number(&self, content: &[u8]) -> Option<u64> {
        let (origin, number) = std::str::from_utf8(content).ok()?.split_once(' ')?;
        (origin.parse() == Ok(self.origin)).then(|| number.parse().ok())?
    }

    fn with_out<T>(&self, look: impl FnOnce(&mut Out) -> T) -> T {
        // Plain data: a panic elsewhere can not have left it half changed.
        look(&mut self.out.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sending<'_> {
    /// What is to be written into the log.
    pub fn content(&self) -> String {
        format!("{} {}", self.canary.origin, self.number)
    }

    /// It could not be written, so nobody waits for it.
    pub fn failed(self) {
        self.canary.with_out(|out| out.since.retain(|(number, _)| *number != self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_that_comes_back_is_measured_once_and_takes_the_lost_ones_with_it() {
        let canary = Canary::default();
        let start = Instant::now();
        let lost = canary.send(start).unwrap();
        let second = canary.send(start).unwrap();
        assert!(canary.awaited_for(start + Duration::from_secs(7)) >= Some(Duration::from_secs(7)));
        canary.returned(second.content().as_bytes());
        canary.returned(second.content().as_bytes());
        canary.returned(lost.content().as_bytes());
        assert_eq!(canary.latencies().counts().iter().sum::<u64>(), 1);
        assert!(canary.last().is_some());
        assert_eq!(canary.awaited_for(start), None);
    }

    #[test]
    fn those_of_others_and_those_that_were_never_written_are_not_waited_for() {
        let canary = Canary::default();
        let other = Canary::default();
        let own = canary.send(Instant::now()).unwrap();
        canary.returned(other.send(Instant::now()).unwrap().content().as_bytes());
        for garbage in ["", " ", "x 1", "\u{fffd}"] {
            canary.returned(garbage.as_bytes());
        }
        assert!(canary.last().is_none() && canary.awaited_for(Instant::now()).is_some());
        own.failed();
        assert_eq!(canary.awaited_for(Instant::now()), None);
    }

    #[test]
    fn while_too_many_are_out_no_more_are_sent() {
        let canary = Canary::default();
        let sent = (0..2 * OUT_MAX).filter(|_| canary.send(Instant::now()).is_some()).count();
        assert_eq!(sent, OUT_MAX);
    }
}
