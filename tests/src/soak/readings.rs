//! What the server holds.

use std::fmt;

use anyhow::{Context, Result};
use walcast_testkit::program::Usage;

/// One look at the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) resident_bytes: u64,
    pub(super) descriptors: u64,
    pub(super) tasks: u64,
    pub(super) sockets: u64,
    pub(super) channels: u64,
    pub(super) subscriptions: u64,
    pub(super) queued_bytes: u64,
    pub(super) journal_bytes: u64,
}

impl Reading {
    /// The heads of [`Display`](fmt::Display), for a table.
    pub(super) const HEADS: &str = "resident MiB | descriptors | tasks | sockets | channels | subscriptions | queued bytes | journal MiB";

    /// From what the system says of the process and the text of `/metrics`.
    pub(super) fn of(usage: Usage, metrics: &str) -> Result<Reading> {
        let number = |name: &str| -> Result<u64> {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.with_context(|| format!("no {name} in /metrics"))?.parse().context("not a number")
        };
        Ok(Reading {
            resident_bytes: usage.resident_bytes,
            descriptors: usage.descriptors,
            tasks: number("walcast_tasks")?,
            sockets: number("walcast_ws_connections_active")?,
            channels: number("walcast_channels_active")?,
            subscriptions: number("walcast_subscriptions_active")?,
            queued_bytes: number("walcast_ws_queued_bytes")?,
            journal_bytes: number("walcast_journal_bytes")?,
        })
    }

    /// The median of each number.
    pub(super) fn middle(readings: &[Reading]) -> Reading {
        let median = |of: fn(&Reading) -> u64| {
            let mut numbers: Vec<u64> = readings.iter().map(of).collect();
            numbers.sort_unstable();
            numbers.get(numbers.len() / 2).copied().unwrap_or_default()
        };
        Reading {
            resident_bytes: median(|reading| reading.resident_bytes),
            descriptors: median(|reading| reading.descriptors),
            tasks: median(|reading| reading.tasks),
            sockets: median(|reading| reading.sockets),
            channels: median(|reading| reading.channels),
            subscriptions: median(|reading| reading.subscriptions),
            queued_bytes: median(|reading| reading.queued_bytes),
            journal_bytes: median(|reading| reading.journal_bytes),
        }
    }

    /// What is more than it was when the server was warm: memory by more than a tenth (what the journal has more of is
    /// its own affair, which has a limit), descriptors and tasks by more than a twentieth.
    pub(super) fn compared(&self, warm: &Reading) -> Vec<String> {
        let beside_journal = |reading: &Reading| reading.resident_bytes.saturating_sub(reading.journal_bytes);
        [
            ("resident bytes beside the journal", beside_journal(self), beside_journal(warm), 10),
            ("descriptors", self.descriptors, warm.descriptors, 20),
            ("tasks", self.tasks, warm.tasks, 20),
        ]
        .into_iter()
        .filter(|(_, now, before, part)| *now > before + before / part)
        .map(|(what, now, before, part)| {
            format!("{what}: {now}, and {before} when warm (1/{part} more is allowed)")
        })
        .collect()
    }

    /// Whether those who are there have what they came for: at most one in five may be without its channel.
    pub(super) fn served(&self) -> Option<String> {
        let Reading { sockets, channels, .. } = *self;
        (channels < sockets - sockets / 5).then(|| {
            format!("channels: {channels} of {sockets} sockets have one; the others wait, since the server has too much to do")
        })
    }

    /// What is still there although everybody has gone.
    pub(super) fn left_behind(&self, before: &Reading) -> Vec<String> {
        [
            ("descriptors", self.descriptors, before.descriptors + 5),
            ("tasks", self.tasks, before.tasks + 5),
            ("sockets", self.sockets, 0),
            ("channels", self.channels, 0),
            ("subscriptions", self.subscriptions, 0),
            ("queued bytes", self.queued_bytes, 0),
        ]
        .into_iter()
        .filter(|(_, now, most)| now > most)
        .map(|(what, now, most)| format!("{what}: {now} although everybody is gone ({most} are allowed)"))
        .collect()
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reading { descriptors, tasks, sockets, channels, subscriptions, queued_bytes, .. } = self;
        let (resident, journal) = (self.resident_bytes >> 20, self.journal_bytes >> 20);
        write!(
            out,
            "{resident} | {descriptors} | {tasks} | {sockets} | {channels} | {subscriptions} | {queued_bytes} | {journal}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARM: Reading = Reading {
        resident_bytes: 200 << 20,
        descriptors: 2_000,
        tasks: 4_000,
        sockets: 2_000,
        channels: 2_000,
        subscriptions: 2_000,
        queued_bytes: 100,
        journal_bytes: 50 << 20,
    };

    #[test]
    fn what_grows_is_named_and_what_stays_is_not() {
        let fuller = Reading { resident_bytes: 210 << 20, journal_bytes: 60 << 20, ..WARM };
        assert!(fuller.compared(&WARM).is_empty(), "the journal alone has grown");
        let grown = Reading { resident_bytes: 230 << 20, descriptors: 2_101, tasks: 4_201, ..WARM };
        assert_eq!(grown.compared(&WARM).len(), 3, "{:?}", grown.compared(&WARM));
    }

    #[test]
    fn a_server_that_lets_joins_wait_is_not_sound_whatever_it_holds() {
        assert_eq!(Reading { channels: 1_600, ..WARM }.served(), None);
        assert!(Reading { channels: 1_599, ..WARM }.served().is_some());
    }

    #[test]
    fn what_is_left_behind_is_named() {
        let before = Reading { descriptors: 30, tasks: 40, ..Reading::default() };
        assert!(Reading { resident_bytes: 1 << 30, ..before }.left_behind(&before).is_empty());
        let after = Reading { descriptors: 36, tasks: 40, sockets: 1, subscriptions: 1, ..before };
        assert_eq!(after.left_behind(&before).len(), 3);
    }
}
