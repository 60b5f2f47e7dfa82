//! How far the client of a lost channel had come with the broadcasts of its topic. They have no positions, so that it is a
//! moment.

use std::time::Duration;

use tokio::time::Instant;

use crate::ids::ChannelId;

/// One shard may hand out a broadcast so much later than another; who comes back to that one must not miss it.
const LAG: Duration = Duration::from_millis(500);

/// What a client that comes back has got of the broadcasts of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Those that were fanned out before this have arrived.
    pub(crate) until: Instant,
    /// The first of its channels, by which its own broadcasts are known. `None` where it is not certain which client it is.
    pub(crate) line: Option<ChannelId>,
}

impl Heard {
    /// Of a channel that was lost, or may be: its socket has proved that everything up to `proven` has arrived.
    pub(crate) fn up_to(proven: Instant, line: ChannelId) -> Self {
        Heard { until: proven.checked_sub(LAG).unwrap_or(proven), line: Some(line) }
    }

    /// Of one of two that may be the same client: the earlier moment, so that nothing is missing for either.
    pub(crate) fn either(one: Option<Heard>, other: Option<Heard>) -> Option<Heard> {
        let (Some(a), Some(b)) = (one, other) else { return one.or(other) };
        Some(Heard { until: a.until.min(b.until), line: a.line.filter(|line| b.line == Some(*line)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_that_it_may_be_the_earliest_counts_and_nobody_is_taken_for_another() {
        let now = Instant::now();
        let one = Heard::up_to(now, ChannelId(1));
        let other = Heard::up_to(now + LAG, ChannelId(2));
        assert_eq!(other.until, now);
        assert_eq!(Heard::either(Some(other), Some(one)), Some(Heard { line: None, ..one }));
        let again = Heard::up_to(now + LAG, ChannelId(1));
        assert_eq!(Heard::either(Some(again), Some(one)), Some(one), "it is the same client");
        assert_eq!(Heard::either(None, Some(one)), Some(one));
        assert_eq!(Heard::either(None, None), None);
    }
}
