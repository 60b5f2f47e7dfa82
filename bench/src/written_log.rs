//! A database with the rows of a case written to its log, and a slot that stands before them.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;
use walcast_pgoutput::Lsn;
use walcast_testkit::{Cluster, Database};

use crate::scenario::Scenario;

/// The publication of every scenario's tables.
pub const PUBLICATION: &str = "bench";

/// How long a slot may stay in use after its reader is gone.
const RELEASE_DEADLINE: Duration = Duration::from_mins(1);

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Writing {
    /// The schema.
    pub scenario: Scenario,
    /// How many people the rows are for.
    pub people: u64,
    /// Rows in all.
    pub rows: u64,
    /// Rows per transaction.
    pub batch: u64,
}

/// The log of one case. Every drain reads it whole, through a copy of one slot.
pub struct WrittenLog {
    database: Database,
    client: Client,
    slot: String,
    copies: u32,
    /// Behind the commit of the last row.
    pub end: Lsn,
}

impl WrittenLog {
    /// Makes the schema, then the slot, then the rows.
    pub async fn write(cluster: &Cluster, writing: Writing) -> Result<WrittenLog> {
        let Writing { scenario, people, rows, batch } = writing;
        let database = Database::create(cluster, "policies").await?;
        let client = database.client().await;
        client.batch_execute(&scenario.schema()).await.context("the schema can not be made")?;
        if let Some(sql) = scenario.prefill(people) {
            client.batch_execute(&sql).await.context("the members can not be written")?;
        }
        // So that none happens while anything is measured.
        client.batch_execute("checkpoint").await?;
        let slot = database.slot_name();
        client.execute("select pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await?;
        client
            .batch_execute(&format!("call write_rows({rows}, {batch}, {people})"))
            .await
            .context("the rows can not be written")?;
        let row = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await?;
        let end = row.get::<_, &str>(0).parse().context("an LSN that is none")?;
        // The last transaction flushes the log, and neither side has to wait for the server to say that it is idle.
        client.batch_execute("set synchronous_commit = on; insert into finish values (1)").await?;
        Ok(WrittenLog { database, client, slot, copies: 0, end })
    }

    /// The database's URL.
    pub fn url(&self) -> &str {
        self.database.url()
    }

    /// A slot of its own for one drain, which stands before the first row.
    pub async fn fresh_slot(&mut self) -> Result<String> {
        self.copies += 1;
        let mut copy = self.slot.clone();
        let _ = write!(copy, "_{}", self.copies);
        self.client
            .execute("select pg_copy_logical_replication_slot($1, $2)", &[&self.slot, &copy])
            .await
            .context("the slot can not be copied")?;
        Ok(copy)
    }

    /// Removes a slot whose reader is gone, once the server has noticed that it is.
    pub async fn drop_slot(&self, slot: &str) -> Result<()> {
        let deadline = Instant::now() + RELEASE_DEADLINE;
        loop {
            let dropped = self
                .client
                .query_opt(
                    "select pg_drop_replication_slot(slot_name) from pg_replication_slots
                     where slot_name = $1 and not active",
                    &[&slot],
                )
                .await?;
            if dropped.is_some() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the replication slot {slot} is still in use");
            self.client
                .execute(
                    "select pg_terminate_backend(active_pid) from pg_replication_slots
                     where slot_name = $1 and active",
                    &[&slot],
                )
                .await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
