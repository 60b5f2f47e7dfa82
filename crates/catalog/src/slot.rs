//! The replication slot as queries see it: how much log it holds back, and messages that are written for its reader.

use tokio_postgres::Client;

use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::pool::within;

/// From this `server_version_num` on a message can be flushed at once; before, a message that is of no transaction waits
/// for the next flush of the log, `wal_writer_delay` (200 ms) at most.
const FLUSHED_MESSAGES_SINCE: i32 = 170_000;

/// How the slot stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// Bytes of log that PostgreSQL keeps for it: from its `restart_lsn` to the end of the log. The open transactions that
    /// began behind that position count, too, so it is more than what has not been confirmed.
    pub retained_bytes: u64,
    /// What PostgreSQL keeps for a slot at most (`max_slot_wal_keep_size`); `None` is whatever it takes.
    pub bytes_max: Option<u64>,
    /// `wal_status`: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
}

impl Catalog {
    /// How the slot stands; `None` where there is none.
    ///
    /// # Errors
    /// PostgreSQL can not be asked.
    pub async fn slot_state(&self, slot: &str) -> Result<Option<SlotState>, CatalogError> {
        let talk = async {
            let mut retries = self.pool.retries();
            loop {
                let lease = self.pool.lease().await?;
                let found = slot_state(&lease, slot).await;
                if let Some(found) = retries.settle(lease, found) {
                    return found;
                }
            }
        };
        within(self.pool.patience(), talk).await
    }

    /// Writes a message into the log that is of no transaction, for every reader of it.
    ///
    /// # Errors
    /// PostgreSQL can not be asked, or is a standby, or the role may not execute `pg_logical_emit_message`.
    pub async fn emit_message(&self, prefix: &str, content: &str) -> Result<(), CatalogError> {
        let talk = async {
            let lease = self.pool.lease().await?;
            let version: i32 = lease
                .query_one("SELECT current_setting('server_version_num')::int", &[])
                .await?
                .try_get(0)?;
            let flush = if version >= FLUSHED_MESSAGES_SINCE { ", true" } else { "" };
            let sql =
                format!("SELECT pg_catalog.pg_logical_emit_message(false, $1::text, $2::text{flush})::text");
            lease.query_one(&sql, &[&prefix, &content]).await?;
            lease.give_back();
            Ok(())
        };
        within(self.pool.patience(), talk).await
    }
}

async fn slot_state(client: &Client, slot: &str) -> Result<Option<SlotState>, CatalogError> {
    let found = client
        .query_opt(
            "SELECT coalesce(pg_catalog.pg_wal_lsn_diff( \
                    CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                         ELSE pg_catalog.pg_current_wal_lsn() END, \
                    restart_lsn), 0)::bigint, \
                coalesce(wal_status, 'lost'), \
                (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size') \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text",
            &[&slot],
        )
        .await?;
    let Some(row) = found else { return Ok(None) };
    let retained: i64 = row.try_get(0)?;
    // Negative on a standby that has not replayed as far as the slot was moved.
    let retained_bytes = u64::try_from(retained).unwrap_or(0);
    // In MB; -1 is no limit.
    let megabytes: Option<i64> = row.try_get(2)?;
    let bytes_max = megabytes.and_then(|megabytes| u64::try_from(megabytes).ok()?.checked_mul(1 << 20));
    Ok(Some(SlotState { retained_bytes, bytes_max, wal_status: row.try_get(1)? }))
}

/// Drops the slot where PostgreSQL has invalidated it: nothing can be read from it any more. Tells whether it did.
pub(crate) async fn drop_lost(client: &Client, slot: &str) -> Result<bool, CatalogError> {
    // Only what is ours by plugin and database.
    let dropped = client
        .query(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
             WHERE slot_name = $1::text AND plugin = 'pgoutput' AND database = current_database() \
                AND wal_status = 'lost' AND NOT active",
            &[&slot],
        )
        .await?;
    Ok(!dropped.is_empty())
}
