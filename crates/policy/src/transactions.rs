//! Which transactions a snapshot of PostgreSQL's knows of.

use walcast_pgoutput::Xid;

/// What a `pg_snapshot` says; its ids have 64 bits and do not wrap around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionSnapshot {
    /// The oldest id that was still running.
    oldest: u64,
    /// One more than the newest id that is over: what has this id or a later one is running, or to come.
    next: u64,
    running: Vec<u64>,
}

impl TransactionSnapshot {
    /// Reads the text of a `pg_snapshot`: `xmin:xmax:xip_list`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (oldest, next, running) = (parts.next()?, parts.next()?, parts.next()?);
        let running = running.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().ok());
        Some(TransactionSnapshot {
            oldest: oldest.parse().ok()?,
            next: next.parse().ok()?,
            running: running.collect::<Option<_>>()?,
        })
    }

    /// Whether every transaction is over whose id is not later than this one.
    ///
    /// Another snapshot is not what to compare with: it does not know of transactions that are younger than the
    /// newest one that is over.
    pub fn is_past(&self, id: u64) -> bool {
        self.oldest > id
    }

    /// Whether a transaction that has committed had done so already when the snapshot was taken.
    ///
    /// The log has the lower half of an id. No two transactions that matter are 2^31 apart (PostgreSQL docs,
    /// "Preventing Transaction ID Wraparound Failures"), so the half tells which one is meant.
    pub fn shows(&self, Xid(transaction): Xid) -> bool {
        let lower = |id: u64| id & u64::from(u32::MAX);
        let behind_next = lower(self.next.wrapping_sub(u64::from(transaction)));
        let is_older = (1..1 << 31).contains(&behind_next);
        is_older && !self.running.iter().any(|&id| lower(id) == u64::from(transaction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(snapshot: &str, transaction: u32) -> bool {
        TransactionSnapshot::parse(snapshot).unwrap().shows(Xid(transaction))
    }

    #[test]
    fn a_transaction_is_visible_when_it_is_neither_running_nor_to_come() {
        for (snapshot, transaction, expected) in [
            ("10:10:", 9, true),
            ("10:10:", 10, false),
            ("10:10:", 11, false),
            ("10:20:10,14,15", 9, true),
            ("10:20:10,14,15", 10, false),
            ("10:20:10,14,15", 13, true),
            ("10:20:10,14,15", 15, false),
            ("10:20:10,14,15", 19, true),
            ("10:20:10,14,15", 20, false),
        ] {
            assert_eq!(shows(snapshot, transaction), expected, "{transaction} in {snapshot}");
        }
    }

    #[test]
    fn a_snapshot_is_past_an_id_when_that_and_all_before_are_over() {
        let is_past = |text: &str, id| TransactionSnapshot::parse(text).unwrap().is_past(id);
        assert!(is_past("20:20:", 19) && is_past("25:30:25", 24));
        assert!(!is_past("20:20:", 20) && !is_past("10:30:10", 19) && !is_past("25:30:25", 25));
    }

    #[test]
    fn ids_of_the_log_wrap_around_and_those_of_snapshots_do_not() {
        // 4294967296 is the lower half 0 of the second round.
        let snapshot = "4294967290:4294967300:4294967294,4294967298";
        for (transaction, expected) in [
            (u32::MAX, true),
            (u32::MAX - 1, false),
            (u32::MAX - 100, true),
            (0, true),
            (2, false),
            (3, true),
            (4, false),
            (5, false),
        ] {
            assert_eq!(shows(snapshot, transaction), expected, "{transaction}");
        }
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for text in ["", "10", "10:20", "10:x:", "10:20:a"] {
            assert_eq!(TransactionSnapshot::parse(text), None, "{text}");
        }
    }
}
