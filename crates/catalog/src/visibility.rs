//! When a transaction that the log has told of is visible to queries.
//!
//! A commit is written to the log, and from there on its way to us, before the transaction leaves the list of
//! those that are running: a query that is sent at once may still see the state before it.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;
use walcast_pgoutput::Xid;

use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::pool::{Lease, within};

/// PostgreSQL docs, "Transaction ID and Snapshot Information Functions": `xmin:xmax:xip_list`.
const SNAPSHOT: &str = "SELECT pg_catalog.pg_current_snapshot()";

/// Pauses between looks: the first one, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

impl Catalog {
    /// Waits until the transaction is visible to queries that begin from now on.
    pub(crate) async fn wait_for(&self, transaction: Xid) -> Result<(), CatalogError> {
        let talk = async {
            let mut retries = self.pool.retries();
            let (mut pause, pause_max) = PAUSE;
            loop {
                let lease = self.pool.lease().await?;
                let snapshot = current_snapshot(&lease).await;
                let Some(snapshot) = retries.settle(lease, snapshot) else { continue };
                if snapshot?.shows(transaction) {
                    return Ok(());
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(pause_max);
            }
        };
        within(self.pool.patience(), talk).await
    }
}

async fn current_snapshot(lease: &Lease) -> Result<VisibleTransactions, CatalogError> {
    let answer = lease.simple_query(SNAPSHOT).await?;
    let text = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    text.and_then(VisibleTransactions::parse)
        .ok_or_else(|| CatalogError::Unexpected(format!("a snapshot reads {text:?}")))
}

/// What a `pg_snapshot` says; its ids have 64 bits and do not wrap around.
#[derive(Debug, PartialEq, Eq)]
struct VisibleTransactions {
    /// The first id that has not been given away.
    next: u64,
    running: Vec<u64>,
}

impl VisibleTransactions {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (_oldest, next, running) = (parts.next()?, parts.next()?, parts.next()?);
        let running = running.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().ok());
        Some(VisibleTransactions { next: next.parse().ok()?, running: running.collect::<Option<_>>()? })
    }

    /// The log has the lower half of an id. No two transactions that matter are 2^31 apart (PostgreSQL docs,
    /// "Preventing Transaction ID Wraparound Failures"), so the half tells which one is meant.
    fn shows(&self, Xid(transaction): Xid) -> bool {
        let lower = |id: u64| id & u64::from(u32::MAX);
        let behind_next = lower(self.next.wrapping_sub(u64::from(transaction)));
        let was_given_away = (1..1 << 31).contains(&behind_next);
        was_given_away && !self.running.iter().any(|&id| lower(id) == u64::from(transaction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(snapshot: &str, transaction: u32) -> bool {
        VisibleTransactions::parse(snapshot).unwrap().shows(Xid(transaction))
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
            assert_eq!(VisibleTransactions::parse(text), None, "{text}");
        }
    }
}
