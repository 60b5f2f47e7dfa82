//! How many events there may be in a second: token buckets, which hold what one second allows.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use crate::settings::{Counters, EngineSettings};

const SECOND: u64 = 1_000_000_000;

/// There have been more messages in this second than a limit allows. The text names the limit, its value and its
/// setting, behind the words that clients know (docs/protocol.md §10.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Too many messages per second ({setting} = {limit})")]
pub struct EventRateExceeded {
    /// The setting's name.
    pub setting: &'static str,
    /// Its value.
    pub limit: NonZeroU32,
}

/// Whose rate refuses a client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientEventRefused {
    /// The session's own: it sends too much.
    Sender(EventRateExceeded),
    /// The project's, which others may have used up.
    Project(EventRateExceeded),
}

/// How much of a rate is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventBudget {
    /// Messages that a second allows.
    pub limit: NonZeroU32,
    /// Messages that may come at once now.
    pub left: u32,
}

/// The rates that all sessions share, and the clock of every bucket.
#[derive(Debug)]
pub(crate) struct Rates {
    started: Instant,
    events: SharedBucket,
    presence: SharedBucket,
    client_events: Option<NonZeroU32>,
}

/// The bucket of one session: when it is full again, in nanoseconds since the engine started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket(u64);

#[derive(Debug)]
struct SharedBucket {
    limit: Option<NonZeroU32>,
    full_at: AtomicU64,
}

impl Rates {
    pub(crate) fn new(settings: &EngineSettings) -> Self {
        Rates {
            started: Instant::now(),
            events: SharedBucket::new(settings.max_events_per_second),
            presence: SharedBucket::new(settings.max_presence_events_per_second),
            client_events: settings.max_client_events_per_second,
        }
    }

    /// Takes from the project's budget of messages.
    pub(crate) fn admit_events(&self, count: u32, counters: &Counters) -> Result<(), EventRateExceeded> {
        self.events.take(self.now(), count).map_err(|limit| {
            counters.events_refused.fetch_add(u64::from(count), Relaxed);
            EventRateExceeded { setting: "limits.max_events_per_second", limit }
        })
    }

    /// What is left of the project's budget of messages; `None` where there is no limit.
    pub(crate) fn event_budget(&self) -> Option<EventBudget> {
        let limit = self.events.limit?;
        let spent = self.events.full_at.load(Relaxed).saturating_sub(self.now()).min(SECOND);
        let left = (SECOND - spent) * u64::from(limit.get()) / SECOND;
        Some(EventBudget { limit, left: u32::try_from(left).unwrap_or(u32::MAX) })
    }

    /// Takes a client's message from its session's budget and from the project's.
    pub(crate) fn admit_client_event(
        &self,
        bucket: &mut Bucket,
        counters: &Counters,
    ) -> Result<(), ClientEventRefused> {
        if let Some(limit) = self.client_events {
            let Some(full_at) = take(bucket.0, self.now(), 1, limit) else {
                counters.client_events_refused.fetch_add(1, Relaxed);
                let setting = "limits.max_client_events_per_second";
                return Err(ClientEventRefused::Sender(EventRateExceeded { setting, limit }));
            };
            bucket.0 = full_at;
        }
        self.admit_events(1, counters).map_err(ClientEventRefused::Project)
    }

    /// Takes one from the project's budget of presence events; the error is what the client is told
    /// (docs/protocol.md §7.2).
    pub(crate) fn admit_presence(&self, counters: &Counters) -> Result<(), String> {
        self.presence.take(self.now(), 1).map_err(|limit| {
            counters.presence_refused.fetch_add(1, Relaxed);
            format!("Too many presence messages per second (limits.max_presence_events_per_second = {limit})")
        })
    }

    fn now(&self) -> u64 {
        // Good for 584 years.
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl SharedBucket {
    fn new(limit: Option<NonZeroU32>) -> Self {
        SharedBucket { limit, full_at: AtomicU64::new(0) }
    }

    /// The error is the limit that was passed.
    fn take(&self, now: u64, count: u32) -> Result<(), NonZeroU32> {
        let Some(limit) = self.limit else { return Ok(()) };
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| take(full_at, now, count, limit));
        taken.map(|_| ()).map_err(|_| limit)
    }
}

/// When the bucket is full again once `count` have been taken; `None` where there are not so many in it.
fn take(full_at: u64, now: u64, count: u32, limit: NonZeroU32) -> Option<u64> {
    let cost = u64::from(count) * SECOND / u64::from(limit.get());
    let after = full_at.max(now) + cost;
    (after - now <= SECOND).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(limit: u32) -> NonZeroU32 {
        NonZeroU32::new(limit).unwrap()
    }

    #[test]
    fn a_second_allows_its_number_at_once_and_then_as_many_as_time_gives_back() {
        for per_second in [1, 3, 7, 100_000] {
            let mut full_at = 5 * SECOND;
            let now = 9 * SECOND;
            for _ in 0..per_second {
                full_at = take(full_at, now, 1, limit(per_second)).unwrap();
            }
            assert_eq!(take(full_at, now, 1, limit(per_second)), None, "{per_second}");
            let later = now + SECOND / u64::from(per_second) + 1;
            full_at = take(full_at, later, 1, limit(per_second)).unwrap();
            assert_eq!(take(full_at, later, 1, limit(per_second)), None, "{per_second}");
        }
    }

    #[test]
    fn a_batch_is_taken_as_a_whole_or_not_at_all() {
        let full_at = take(0, 0, 4, limit(10)).unwrap();
        assert_eq!(take(full_at, 0, 7, limit(10)), None);
        assert!(take(full_at, 0, 6, limit(10)).is_some());
        assert_eq!(take(0, 0, 11, limit(10)), None, "more than a second allows");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_told_which_limit_it_has_passed() {
        let settings = EngineSettings {
            max_client_events_per_second: NonZeroU32::new(2),
            max_events_per_second: NonZeroU32::new(3),
            ..EngineSettings::default()
        };
        let (rates, counters) = (Rates::new(&settings), Counters::default());
        let (mut one, mut other) = (Bucket::default(), Bucket::default());
        assert_eq!(rates.admit_client_event(&mut one, &counters), Ok(()));
        assert_eq!(rates.admit_client_event(&mut one, &counters), Ok(()));
        let Err(ClientEventRefused::Sender(refused)) = rates.admit_client_event(&mut one, &counters) else {
            panic!("it is the sender who has sent too much");
        };
        let expected = "Too many messages per second (limits.max_client_events_per_second = 2)";
        assert_eq!(refused.to_string(), expected);
        assert_eq!(rates.admit_client_event(&mut other, &counters), Ok(()));
        let Err(ClientEventRefused::Project(refused)) = rates.admit_client_event(&mut other, &counters)
        else {
            panic!("all of them together have sent too much");
        };
        assert_eq!(refused.to_string(), "Too many messages per second (limits.max_events_per_second = 3)");
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!(rates.admit_client_event(&mut one, &counters), Ok(()));
        assert_eq!(counters.client_events_refused.load(Relaxed), 1);
        assert_eq!(counters.events_refused.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_second_is_told() {
        let settings =
            EngineSettings { max_events_per_second: NonZeroU32::new(10), ..EngineSettings::default() };
        let (rates, counters) = (Rates::new(&settings), Counters::default());
        let left = || rates.event_budget().unwrap().left;
        assert_eq!(left(), 10);
        rates.admit_events(7, &counters).unwrap();
        assert_eq!(left(), 3);
        rates.admit_events(4, &counters).unwrap_err();
        assert_eq!(left(), 3, "what was refused took nothing");
        tokio::time::advance(std::time::Duration::from_millis(500)).await;
        assert_eq!(left(), 8);
        let unlimited = EngineSettings { max_events_per_second: None, ..settings };
        assert_eq!(Rates::new(&unlimited).event_budget(), None);
    }

    #[tokio::test]
    async fn no_limit_admits_everything() {
        let settings = EngineSettings {
            max_client_events_per_second: None,
            max_events_per_second: None,
            ..EngineSettings::default()
        };
        let (rates, counters) = (Rates::new(&settings), Counters::default());
        assert_eq!(rates.admit_events(u32::MAX, &counters), Ok(()));
        assert_eq!(rates.admit_client_event(&mut Bucket::default(), &counters), Ok(()));
    }
}
