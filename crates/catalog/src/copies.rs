//! Copies of the tables that policies look things up in, read so that the log can take over from there.
//!
//! A copy has what its transaction's snapshot shows. Whatever was running when the copy was asked for must be over in
//! it: then every transaction is either in the copy as a whole or in the log from now on as a whole.

use std::borrow::Cow;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::SimpleQueryMessage;
use walcast_pgoutput::Lsn;
use walcast_policy::schema::{Column, Table};
use walcast_policy::{CopyRequest, Datum, LoadedCopy, OracleError, TableCopy, TransactionSnapshot};

use crate::catalog::Catalog;
use crate::copy_lines::CopyLines;
use crate::error::CatalogError;
use crate::pool::{Lease, milliseconds, within};
use crate::quoting::{identifier, qualified};
use crate::visibility::current_snapshot;

/// Pauses between looks at what is running: the first one, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Older transactions may take so long to end.
const OLDER_PATIENCE: Duration = Duration::from_mins(1);

/// Reading a table may take so long. It is bounded by its bytes, too.
const READ_TIMEOUT: Duration = Duration::from_mins(5);

/// The prefix of the logical message that moves the log along after a copy.
const MARK_PREFIX: &str = "walcast.mark";

impl Catalog {
    /// Reads the copy once all is over that is running now.
    pub(crate) async fn copy(&self, request: &CopyRequest) -> Result<LoadedCopy, OracleError> {
        // Younger than all that has begun; a snapshot would not do, see there.
        let newest = self.ask(newest_transaction).await?;
        let deadline = Instant::now() + OLDER_PATIENCE;
        let (mut pause, pause_max) = PAUSE;
        while !self.ask(current_snapshot).await?.is_past(newest) {
            if Instant::now() >= deadline {
                let Table { schema, name, .. } = &*request.table;
                return Err(OracleError::Unavailable(format!(
                    "a transaction that is older than the copy of {schema}.{name} is still running after \
                     {OLDER_PATIENCE:?}; pg_stat_activity and pg_prepared_xacts tell which"
                )));
            }
            // Without a connection, which others may need.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(pause_max);
        }
        let lease = self.pool.lease().await?;
        // No snapshot that is taken later can show less.
        let copy = within(READ_TIMEOUT, async { Ok(read(&lease, request).await) }).await??;
        lease.give_back();
        Ok(copy)
    }

    /// One short question over a connection of its own.
    async fn ask<T>(
        &self,
        question: impl AsyncFn(&Lease) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let talk = async {
            let mut retries = self.pool.retries();
            loop {
                let lease = self.pool.lease().await?;
                let answer = question(&lease).await;
                if let Some(answer) = retries.settle(lease, answer) {
                    return answer;
                }
            }
        };
        within(self.pool.patience(), talk).await
    }
}

/// The id of a transaction that begins and ends now.
async fn newest_transaction(lease: &Lease) -> Result<u64, CatalogError> {
    let row = lease.query_one("SELECT pg_catalog.pg_current_xact_id()::text", &[]).await?;
    let id: &str = row.try_get(0)?;
    id.parse().map_err(|_| CatalogError::Unexpected(format!("a transaction's id reads {id}")))
}

async fn read(lease: &Lease, request: &CopyRequest) -> Result<LoadedCopy, OracleError> {
    let mut rows = TableCopy::new(&request.table, &request.types, &request.columns);
    let (snapshot, reached) = begin(lease, &request.table).await?;
    let names = names(lease, &request.table, rows.columns()).await?;
    let sql = format!(
        "COPY (SELECT {} FROM ONLY {}) TO STDOUT",
        names.join(", "),
        qualified(&request.table.schema, &request.table.name)
    );
    let mut data = CopyLines::of(lease, &sql).await?;
    while let Some(lines) = data.next().await? {
        for line in lines.split_terminator('\n') {
            insert(&mut rows, line)?;
        }
        if rows.bytes() > request.bytes_max {
            return Err(OracleError::Unavailable(format!(
                "the copy of {}.{} takes more than the {} bytes that changes.copy_bytes_max leaves for it",
                request.table.schema, request.table.name, request.bytes_max
            )));
        }
    }
    lease.batch_execute("ROLLBACK").await.map_err(CatalogError::from)?;
    move_the_log_along(lease).await?;
    Ok(LoadedCopy { rows, snapshot, reached })
}

/// Opens the transaction of the copy; answers with what it shows, and with a position of the log behind all that.
///
/// The lock comes before the snapshot: what rewrites or empties the table does not keep its old rows for older
/// snapshots (PostgreSQL docs, "Serialization and MVCC caveats"), so it must be over before, or wait.
async fn begin(lease: &Lease, table: &Table) -> Result<(TransactionSnapshot, Lsn), CatalogError> {
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         SET LOCAL row_security = off; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; \
         LOCK TABLE ONLY {} IN ACCESS SHARE MODE; \
         SELECT pg_catalog.pg_current_snapshot(), CASE \
            WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
            ELSE pg_catalog.pg_current_wal_insert_lsn() END",
        milliseconds(lease.statement_timeout()),
        milliseconds(READ_TIMEOUT),
        qualified(&table.schema, &table.name)
    );
    snapshot_and_position(&lease.simple_query(&sql).await?)
}

/// What a transaction shows, and a position behind all that, from the row that has both.
pub(crate) fn snapshot_and_position(
    answer: &[SimpleQueryMessage],
) -> Result<(TransactionSnapshot, Lsn), CatalogError> {
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?, row.get(1)?)),
        _ => None,
    });
    row.and_then(|(snapshot, reached)| Some((TransactionSnapshot::parse(snapshot)?, reached.parse().ok()?)))
        .ok_or_else(|| CatalogError::Unexpected(format!("a snapshot and a position read {row:?}")))
}

/// The quoted names of the columns, if the table is still the one that was asked for.
pub(crate) async fn names(lease: &Lease, table: &Table, numbers: &[i16]) -> Result<Vec<String>, OracleError> {
    let wanted: Vec<&Column> = numbers
        .iter()
        .filter_map(|number| table.columns.iter().find(|column| column.number == *number))
        .collect();
    let names: Vec<&str> = wanted.iter().map(|column| column.name.as_str()).collect();
    let types: Vec<u32> = wanted.iter().map(|column| column.type_oid.0).collect();
    let sql = "SELECT count(*) = cardinality($4::int2[]) \
         FROM unnest($4::int2[], $5::text[], $6::oid[]) AS wanted(number, name, type) \
         JOIN pg_catalog.pg_attribute AS a \
            ON a.attnum = wanted.number AND a.attname = wanted.name AND a.atttypid = wanted.type \
         JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE c.oid = $1 AND n.nspname = $2::text AND c.relname = $3::text";
    let unchanged = lease
        .query_one(sql, &[&table.oid.0, &table.schema, &table.name, &numbers, &names, &types])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(CatalogError::from)?;
    if unchanged && wanted.len() == numbers.len() {
        return Ok(names.into_iter().map(identifier).collect());
    }
    Err(OracleError::Unavailable(format!("the table {}.{} has changed just now", table.schema, table.name)))
}

/// Adds the row of one line in COPY's text format (PostgreSQL docs, COPY, "Text Format").
fn insert(rows: &mut TableCopy, line: &str) -> Result<(), CatalogError> {
    // A line without a field and one with an empty field look the same.
    let fields: Vec<Option<Cow<'_, str>>> =
        if rows.columns().is_empty() { Vec::new() } else { line.split('\t').map(unescaped).collect() };
    if fields.len() != rows.columns().len() {
        return Err(CatalogError::Unexpected(format!("a row of {} fields", fields.len())));
    }
    let values: Vec<Datum<'_>> =
        fields.iter().map(|field| field.as_deref().map_or(Datum::Null, Datum::Text)).collect();
    rows.insert(&values);
    Ok(())
}

/// The value of a field; `None` for NULL.
pub(crate) fn unescaped(field: &str) -> Option<Cow<'_, str>> {
    if field == "\\N" {
        return None;
    }
    if !field.contains('\\') {
        return Some(Cow::Borrowed(field));
    }
    let mut value = String::with_capacity(field.len());
    let mut letters = field.chars();
    while let Some(letter) = letters.next() {
        value.push(match letter {
            // PostgreSQL writes no other escapes than these.
            '\\' => match letters.next() {
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('v') => '\u{b}',
                Some(itself) => itself,
                None => '\\',
            },
            letter => letter,
        });
    }
    Some(Cow::Owned(value))
}

/// Lets something be committed, so that a log in which nothing else happens passes the position of the copy. A server
/// that can not write moves on by itself.
pub(crate) async fn move_the_log_along(lease: &Lease) -> Result<(), CatalogError> {
    let sql = format!("SELECT pg_catalog.pg_logical_emit_message(true, '{MARK_PREFIX}', '')");
    match lease.batch_execute(&sql).await.map_err(CatalogError::from) {
        Err(CatalogError::Statement { message, .. }) => {
            tracing::debug!(message, "no mark in the log");
            Ok(())
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_copy_writes_them() {
        for (field, expected) in [
            ("\\N", None),
            ("", Some("")),
            ("plain 🐘", Some("plain 🐘")),
            ("a\\tb\\nc\\\\N\\r\\b\\f\\v", Some("a\tb\nc\\N\r\u{8}\u{c}\u{b}")),
            ("\\\\N", Some("\\N")),
            ("\\.", Some(".")),
        ] {
            assert_eq!(unescaped(field).as_deref(), expected, "{field}");
        }
    }
}
