//! The rows that a subscriber may see, read by PostgreSQL itself as the subscriber: its role, its claims, its
//! policies. All tables of a request are read in one transaction, and so from one snapshot, of which is told what the
//! log has to be aligned with.

use walcast_pgoutput::Lsn;
use walcast_policy::schema::Table;
use walcast_policy::{
    OracleError, RowsError, RowsRead, RowsRequest, TableRead, TableRows, TransactionSnapshot,
};

use crate::catalog::Catalog;
use crate::copies::{move_the_log_along, names, snapshot_and_position, unescaped};
use crate::copy_lines::CopyLines;
use crate::error::CatalogError;
use crate::impersonation::{self, ClaimSettings};
use crate::pool::{Lease, milliseconds, within};
use crate::quoting::{RoleName, identifier, qualified};

/// How often a table that is written anew or emptied while it is read is read again.
const ATTEMPTS: usize = 3;

/// By table: the files that it is in, whether it has partitions, the columns that the publications have the log carry
/// (all where that is NULL), and the rows (likewise). What not every version has is read through `to_jsonb`.
const TABLES: &str = "SELECT \
    (SELECT string_agg(coalesce(pg_catalog.pg_relation_filenode(part.oid), 0)::text, ',' ORDER BY part.oid) \
     FROM (SELECT c.oid UNION SELECT relid FROM pg_catalog.pg_partition_tree(c.oid)) AS part (oid)), \
    c.relkind = 'p', \
    (SELECT array_agg(DISTINCT name) FROM pg_catalog.pg_publication_tables AS t, \
        jsonb_array_elements_text(to_jsonb(t) -> 'attnames') AS name \
     WHERE t.pubname = ANY ($2) AND t.schemaname = n.nspname AND t.tablename = c.relname), \
    (SELECT string_agg('(' || (to_jsonb(t) ->> 'rowfilter') || ')', ' OR ') \
        FILTER (WHERE to_jsonb(t) ->> 'rowfilter' IS NOT NULL) \
     FROM pg_catalog.pg_publication_tables AS t \
     WHERE t.pubname = ANY ($2) AND t.schemaname = n.nspname AND t.tablename = c.relname \
     HAVING bool_and(to_jsonb(t) ->> 'rowfilter' IS NOT NULL)) \
    FROM unnest($1::oid[]) WITH ORDINALITY AS wanted (oid, place) \
    JOIN pg_catalog.pg_class AS c ON c.oid = wanted.oid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
    ORDER BY wanted.place";

/// What a table is read with.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    files: Option<String>,
    has_partitions: bool,
    published: Option<Vec<String>>,
    row_filter: Option<String>,
}

/// What came of an attempt. The outer error leaves the connection in doubt.
type Outcome<T> = Result<Result<T, RowsError>, CatalogError>;

impl Catalog {
    pub(crate) async fn read_rows(&self, request: &RowsRequest) -> Result<RowsRead, RowsError> {
        let role = RoleName::new(&request.role).map_err(OracleError::from)?;
        let mut retries = self.pool.retries();
        let mut attempts = 0;
        loop {
            let mut lease = self.pool.lease().await.map_err(OracleError::from)?;
            let talk = self.read_rows_over(&mut lease, &role, request);
            let outcome = within(self.pool.patience(), talk).await;
            attempts += 1;
            match retries.settle(lease, outcome) {
                None => {}
                Some(Err(error)) => return Err(OracleError::from(error).into()),
                Some(Ok(Err(error))) => return Err(error),
                Some(Ok(Ok(Some(read)))) => return Ok(read),
                Some(Ok(Ok(None))) if attempts < ATTEMPTS => {}
                Some(Ok(Ok(None))) => {
                    let reason = "a table was written anew or emptied again and again while it was read";
                    return Err(OracleError::Unavailable(reason.to_owned()).into());
                }
            }
        }
    }

    /// `None`: what is in the files is not what the snapshot shows.
    async fn read_rows_over(
        &self,
        lease: &mut Lease,
        role: &RoleName,
        request: &RowsRequest,
    ) -> Outcome<Option<RowsRead>> {
        let set_claims = impersonation::claims_statement(lease).await?;
        let before = self.stored(lease, request).await?;
        let (snapshot, reached) = begin(lease).await?;
        let read = async {
            for read in &request.reads {
                let numbers = read.columns.iter().map(|&column| read.table.columns[column].number);
                names(lease, &read.table, &numbers.collect::<Vec<_>>()).await?;
            }
            let set_role = format!("SET LOCAL ROLE {}", role.quoted());
            lease.batch_execute(&set_role).await.map_err(CatalogError::from)?;
            ClaimSettings::new(&request.claims).apply(lease, &set_claims).await?;
            let mut tables = Vec::with_capacity(request.reads.len());
            let (mut rows, mut bytes) = (0, 0);
            for (read, stored) in request.reads.iter().zip(&before) {
                let found = rows_of(lease, read, stored, request, (rows, bytes)).await?;
                rows += found.len();
                bytes += found.bytes();
                tables.push(found);
            }
            lease.batch_execute("RESET ROLE").await.map_err(CatalogError::from)?;
            Ok(tables)
        };
        let tables = match read.await {
            Ok(tables) => tables,
            Err(error) => {
                // Rows that are still coming pass by unread.
                lease.batch_execute("ROLLBACK").await?;
                return Ok(Err(error));
            }
        };
        // What rewrites or empties a table keeps nothing for older snapshots (PostgreSQL docs, "Serialization and MVCC
        // caveats"). Until the reading has locked it that may have happened; it shows in the table's files.
        let after = self.stored(lease, request).await?;
        lease.batch_execute("ROLLBACK").await?;
        move_the_log_along(lease).await?;
        let is_whole = before.len() == request.reads.len() && before == after;
        Ok(Ok(is_whole.then_some(RowsRead { tables, snapshot, reached })))
    }

    /// How the tables are stored and published at this moment, whatever the transaction's snapshot shows.
    async fn stored(&self, lease: &Lease, request: &RowsRequest) -> Result<Vec<Stored>, CatalogError> {
        let oids: Vec<u32> = request.reads.iter().map(|read| read.table.oid.0).collect();
        let rows = lease.query(TABLES, &[&oids, &self.streamed_publications()]).await?;
        let stored = |row: &tokio_postgres::Row| {
            Ok(Stored {
                files: row.try_get(0)?,
                has_partitions: row.try_get(1)?,
                published: row.try_get(2)?,
                row_filter: row.try_get(3)?,
            })
        };
        rows.iter().map(stored).collect()
    }
}

/// Opens the transaction; answers with what it shows, and with a position of the log behind all that.
async fn begin(lease: &Lease) -> Result<(TransactionSnapshot, Lsn), CatalogError> {
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {0}; \
         SET LOCAL lock_timeout = {0}; \
         SELECT pg_catalog.pg_current_snapshot(), CASE \
            WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
            ELSE pg_catalog.pg_current_wal_insert_lsn() END",
        milliseconds(lease.statement_timeout())
    );
    snapshot_and_position(&lease.simple_query(&sql).await?)
}

/// Reads one table where so many rows and bytes have been read of others.
async fn rows_of(
    lease: &Lease,
    read: &TableRead,
    stored: &Stored,
    request: &RowsRequest,
    (rows, bytes): (usize, usize),
) -> Result<TableRows, RowsError> {
    let is_published = |name: &String| stored.published.as_ref().is_none_or(|names| names.contains(name));
    let columns: Box<[usize]> = read
        .columns
        .iter()
        .copied()
        .filter(|&column| is_published(&read.table.columns[column].name))
        .collect();
    let left = request.rows_max.saturating_sub(rows);
    let sql = query(read, stored, &columns, left + 1);
    let mut found = TableRows::new(columns);
    let mut data = CopyLines::of(lease, &sql).await?;
    while let Some(lines) = data.next().await? {
        for line in lines.split_terminator('\n') {
            let fields: Vec<_> = line.split('\t').map(unescaped).collect();
            if fields.len() != found.columns().len() {
                return Err(CatalogError::Unexpected(format!("a row of {} fields", fields.len())).into());
            }
            found.push(fields.iter().map(Option::as_deref));
        }
        if bytes + found.bytes() + data.begun_bytes() > request.bytes_max {
            return Err(RowsError::TooLarge(request.bytes_max));
        }
    }
    if found.len() > left {
        return Err(RowsError::TooMany(request.rows_max));
    }
    Ok(found)
}

fn query(read: &TableRead, stored: &Stored, columns: &[usize], rows_max: usize) -> String {
    let table = &read.table;
    let named = |columns: &[usize]| {
        let names: Vec<_> = columns.iter().map(|&column| identifier(&table.columns[column].name)).collect();
        names.join(", ")
    };
    let key: Vec<usize> =
        (0..table.columns.len()).filter(|&index| table.columns[index].primary_key).collect();
    // On lines of their own, whatever they end in.
    let conditions: Vec<String> =
        [&read.filter, &stored.row_filter].into_iter().flatten().map(|sql| format!("(\n{sql}\n)")).collect();
    let filter =
        if conditions.is_empty() { String::new() } else { format!("WHERE {} ", conditions.join(" AND ")) };
    let order = if key.is_empty() { String::new() } else { format!("ORDER BY {} ", named(&key)) };
    let only = if stored.has_partitions { "" } else { "ONLY " };
    let Table { schema, name, .. } = &**table;
    format!(
        "COPY (SELECT {} FROM {only}{} {filter}{order}LIMIT {rows_max}) TO STDOUT",
        named(columns),
        qualified(schema, name)
    )
}

impl From<CatalogError> for RowsError {
    fn from(error: CatalogError) -> Self {
        RowsError::Oracle(error.into())
    }
}
