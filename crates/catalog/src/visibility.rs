//! When a transaction that the log has told of is visible to queries.
//!
//! A commit is written to the log, and from there on its way to us, before the transaction leaves the list of
//! those that are running: a query that is sent at once may still see the state before it.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;
use walcast_pgoutput::Xid;
use walcast_policy::TransactionSnapshot;

use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::pool::{Lease, within};

/// PostgreSQL docs, "Transaction ID and Snapshot Information Functions": `xmin:xmax:xip_list`.
const SNAPSHOT: &str = "SELECT pg_catalog.pg_current_snapshot()";

/// Pauses between looks: the first one, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

impl Catalog {
    /// Waits until the transactions are visible to queries that begin from now on.
    pub(crate) async fn wait_for(&self, transactions: &[Xid]) -> Result<(), CatalogError> {
        let talk = async {
            let mut retries = self.pool.retries();
            let (mut pause, pause_max) = PAUSE;
            loop {
                let lease = self.pool.lease().await?;
                let snapshot = current_snapshot(&lease).await;
                let Some(snapshot) = retries.settle(lease, snapshot) else { continue };
                let snapshot = snapshot?;
                if transactions.iter().all(|transaction| snapshot.shows(*transaction)) {
                    return Ok(());
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(pause_max);
            }
        };
        within(self.pool.patience(), talk).await
    }
}

/// The snapshot of a statement at this moment.
pub(crate) async fn current_snapshot(lease: &Lease) -> Result<TransactionSnapshot, CatalogError> {
    let answer = lease.simple_query(SNAPSHOT).await?;
    let text = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    text.and_then(TransactionSnapshot::parse)
        .ok_or_else(|| CatalogError::Unexpected(format!("a snapshot reads {text:?}")))
}
