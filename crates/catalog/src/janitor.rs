//! The janitor of `realtime.messages`: makes the partitions of the days to come and drops those of days past, so that
//! messages are kept for 72 hours at least (docs/protocol.md §13).
//!
//! The statements are functions of `sql/install/05_message_partitions.sql`. Each runs in a transaction of its own and
//! waits for its locks for a moment only: whoever writes must not queue behind it. What could not be done is tried
//! again the next time; partitions are made days ahead.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::MissedTickBehavior;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::install::message_partitions_sql;
use crate::pool::{Connection, milliseconds, within};

/// How many days ahead partitions are made, and for how many past ones they are kept, today apart.
const DAYS: i64 = 3;

/// How long a statement may wait for its locks. Others wait behind it meanwhile.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a statement is tried that did not get its locks.
const ATTEMPTS: u32 = 5;

/// How long is waited between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// How long one statement may run.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// `lock_not_available`.
const LOCKED: &str = "55P03";

/// When the janitor works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JanitorSettings {
    /// `None`: where walcast's role owns the table.
    pub enabled: Option<bool>,
    /// How long after the start it works for the first time.
    pub first_after: Duration,
    /// How long after that it works again.
    pub every: Duration,
}

impl Default for JanitorSettings {
    fn default() -> Self {
        JanitorSettings { enabled: None, first_after: Duration::ZERO, every: Duration::from_hours(4) }
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The days whose partitions were made, as `YYYY-MM-DD`.
    pub made: Vec<String>,
    /// The days that remain in the default partition, since rows of them are in it.
    pub in_default: Vec<String>,
    /// The partitions that were dropped.
    pub dropped: Vec<String>,
    /// The rows that were deleted from the default partition.
    pub deleted: i64,
    /// What failed, in the words of the log.
    pub failed: Vec<Failed>,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// `PartitionCreationFailed` or `JanitorFailedToDeleteOldMessages`.
    pub code: &'static str,
    /// What was to be done.
    pub step: String,
    /// Why it was not.
    pub error: CatalogError,
}

/// Why the janitor has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// There is no `realtime.messages`, or it is not partitioned.
    NoTable,
    /// The table is somebody else's, and the settings do not say to try all the same.
    NotOwned,
    /// The settings turn it off.
    Disabled,
}

impl Catalog {
    /// Does what is due at the moment `now`.
    ///
    /// # Errors
    /// No connection, or it can not be found out what there is to do. What fails after that is in [`Done::failed`].
    pub async fn tidy_messages(
        &self,
        now: SystemTime,
        enabled: Option<bool>,
    ) -> Result<Result<Done, Idle>, CatalogError> {
        if enabled == Some(false) {
            return Ok(Err(Idle::Disabled));
        }
        let work = async {
            // One of its own: it may wait for locks, and nobody is to wait for it.
            let connection = Connection::open(self.pool.settings()).await?;
            // No function of somebody else's is taken for one of PostgreSQL's.
            connection.client.batch_execute("SET search_path = ''").await?;
            tidy(&connection.client, today(now), enabled).await
        };
        Box::pin(within(PATIENCE, work)).await
    }

    /// Works until cancelled, and says in the log what it did.
    pub async fn keep_messages_tidy(self: Arc<Self>, settings: JanitorSettings, cancel: CancellationToken) {
        if settings.enabled == Some(false) {
            return;
        }
        let first = tokio::time::Instant::now() + settings.first_after;
        let mut ticks = tokio::time::interval_at(first, settings.every.max(Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            let work = Box::pin(self.tidy_messages(SystemTime::now(), settings.enabled));
            match cancel.run_until_cancelled(work).await {
                None => return,
                Some(Ok(Ok(done))) => tell(&done),
                Some(Ok(Err(idle))) => {
                    tracing::debug!(?idle, "the janitor of realtime.messages has nothing to do");
                }
                Some(Err(error)) => {
                    tracing::error!(code = "PartitionCreationFailed", %error, "the janitor could not begin");
                }
            }
        }
    }
}

fn tell(done: &Done) {
    for Failed { code, step, error } in &done.failed {
        tracing::error!(code, step, %error, "the janitor of realtime.messages failed; it will try again");
    }
    for day in &done.in_default {
        tracing::info!(day, "messages of this day are in the default partition, which keeps the whole day");
    }
    if !done.made.is_empty() || !done.dropped.is_empty() || done.deleted > 0 {
        tracing::info!(made = ?done.made, dropped = ?done.dropped, deleted = done.deleted, "realtime.messages is tidy");
    }
}

/// The day of a moment in UTC, as days since 1970-01-01.
fn today(now: SystemTime) -> i64 {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds / 86_400).unwrap_or_default()
}

async fn tidy(
    client: &Client,
    today: i64,
    enabled: Option<bool>,
) -> Result<Result<Done, Idle>, CatalogError> {
    let table = client
        .query_opt(
            "SELECT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE'), \
                (SELECT pg_catalog.count(*) = 3 \
                 FROM pg_catalog.pg_proc AS f JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace \
                 WHERE n.nspname = 'walcast' AND f.proname IN \
                    ('make_messages_partition', 'drop_messages_partition', 'delete_default_messages')) \
             FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
             WHERE n.nspname = 'realtime' AND c.relname = 'messages' AND c.relkind = 'p'",
            &[],
        )
        .await?;
    let Some(row) = table else { return Ok(Err(Idle::NoTable)) };
    let (owned, installed): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if !owned && enabled.is_none() {
        return Ok(Err(Idle::NotOwned));
    }
    let mut done = Done::default();
    if !installed {
        // A table that was there before walcast: its functions alone are missing.
        if let Err(error) = settled(client, client.batch_execute(&message_partitions_sql()).await).await? {
            let step = "make the functions of the schema walcast".to_owned();
            done.failed.push(Failed { code: "PartitionCreationFailed", step, error });
            return Ok(Ok(done));
        }
    }
    let (first_kept, first_made, last_made) = (today - DAYS, today - 1, today + DAYS);
    for day in days(client, first_made, last_made).await? {
        make(client, day, &mut done).await?;
    }
    for day in days(client, first_kept, first_kept).await? {
        clear(client, &day, &mut done).await?;
    }
    Ok(Ok(done))
}

/// Days as PostgreSQL writes them, from days since 1970-01-01; both ends are in.
async fn days(client: &Client, first: i64, last: i64) -> Result<Vec<String>, CatalogError> {
    let sql = "SELECT pg_catalog.to_char(timestamp '1970-01-01' + n * interval '1 day', 'YYYY-MM-DD') \
               FROM pg_catalog.generate_series($1::int8, $2::int8) AS n";
    let rows = client.query(sql, &[&first, &last]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Makes the partition of a day.
async fn make(client: &Client, day: String, done: &mut Done) -> Result<(), CatalogError> {
    match step(client, "SELECT walcast.make_messages_partition($1::text::date)", &day).await? {
        Ok(row) => match row.try_get(0)? {
            "made" => done.made.push(day),
            "default" => done.in_default.push(day),
            _ => {}
        },
        Err(error) => {
            let step = format!("make the partition of {day}");
            done.failed.push(Failed { code: "PartitionCreationFailed", step, error });
        }
    }
    Ok(())
}

/// Drops what is older than a day.
async fn clear(client: &Client, day: &str, done: &mut Done) -> Result<(), CatalogError> {
    let failed = |error| Failed {
        code: "JanitorFailedToDeleteOldMessages",
        step: format!("drop what is older than {day}"),
        error,
    };
    loop {
        let sql = "SELECT walcast.drop_messages_partition($1::text::date)";
        match step(client, sql, day).await? {
            Ok(row) => match row.try_get(0)? {
                Some(dropped) => done.dropped.push(dropped),
                None => break,
            },
            Err(error) => {
                done.failed.push(failed(error));
                break;
            }
        }
    }
    loop {
        let sql = "SELECT walcast.delete_default_messages($1::text::date)";
        match step(client, sql, day).await? {
            Ok(row) => match row.try_get(0)? {
                0 => return Ok(()),
                deleted => done.deleted += deleted,
            },
            Err(error) => {
                done.failed.push(failed(error));
                return Ok(());
            }
        }
    }
}

/// One statement in a transaction of its own, tried again where it did not get its locks.
async fn step(
    client: &Client,
    sql: &str,
    day: &str,
) -> Result<Result<tokio_postgres::Row, CatalogError>, CatalogError> {
    let begin = format!(
        "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
        milliseconds(LOCK_TIMEOUT),
        milliseconds(STATEMENT_TIMEOUT)
    );
    let mut attempt = 1;
    loop {
        client.batch_execute(&begin).await?;
        let outcome = client.query_typed(sql, &[(&day, Type::TEXT)]).await;
        match settled(client, outcome).await? {
            Err(error) if error.code() == Some(LOCKED) && attempt < ATTEMPTS => attempt += 1,
            outcome => {
                let row = outcome.map(|rows| rows.into_iter().next());
                let none = || CatalogError::Unexpected("no row".to_owned());
                return Ok(row.and_then(|row| row.ok_or_else(none)));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends the transaction: what went well is kept. The outer error leaves the connection in doubt.
async fn settled<T>(
    client: &Client,
    outcome: Result<T, tokio_postgres::Error>,
) -> Result<Result<T, CatalogError>, CatalogError> {
    match outcome.map_err(CatalogError::from) {
        Ok(done) => match client.batch_execute("COMMIT").await.map_err(CatalogError::from) {
            Ok(()) => Ok(Ok(done)),
            Err(error) if error.is_broken() => Err(error),
            Err(error) => Ok(Err(error)),
        },
        Err(error) if error.is_broken() => Err(error),
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            Ok(Err(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_is_that_of_utc() {
        let at = |seconds| today(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!((at(0), at(86_399), at(86_400)), (0, 0, 1));
    }
}
