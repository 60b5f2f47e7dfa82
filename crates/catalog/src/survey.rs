//! What a database says of itself to whoever wants to know how walcast would serve it: `walcast doctor`.
//!
//! Nothing is changed and nothing is judged here beyond what [`preflight`] refuses. The SQL is in `survey/`,
//! one file for each question, all of it in one transaction with the look that makes the snapshot.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio_postgres::{Client, Row};
use walcast_pgoutput::Oid;
use walcast_policy::schema::{Snapshot, Table};

use crate::channels::{self, report::ChannelReport};
use crate::error::CatalogError;
use crate::pool::{Connection, within};
use crate::preflight::{self, Failure, PreflightError};
use crate::read::{self, Scope};
use crate::settings::CatalogSettings;

/// The roles that tokens usually name (`docs/row-level-security.md`).
const USUAL_ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];

/// `pg_has_role(…, 'SET')` begins here, as `server_version_num`.
const SET_PRIVILEGE_SINCE: i32 = 160_000;

/// How many times the time-out of one statement the whole survey may take.
const PATIENCE: u32 = 12;

/// What was found.
#[derive(Debug)]
pub struct Survey {
    /// The server and the role of the connection.
    pub server: Server,
    /// The replication slot, where it exists.
    pub slot: Option<Slot>,
    /// The publications that were asked for, in their order.
    pub publications: Vec<Publication>,
    /// What stands in the way of serving; a slot that is read by somebody is among it.
    pub failures: Vec<Failure>,
    /// Tables, policies and privileges, with every role of [`Survey::roles`].
    pub snapshot: Arc<Snapshot>,
    /// `anon`, `authenticated` and `service_role` where they exist, then the roles that policies name.
    pub roles: Vec<TokenRole>,
    /// More about the tables of the snapshot.
    pub tables: FxHashMap<Oid, TableFacts>,
    /// How large the tables of [`Snapshot::lookups`] are.
    pub lookups: FxHashMap<Oid, LookupSize>,
    /// Private channels; `None` where there is no `realtime.messages`.
    pub channels: Option<ChannelReport>,
    /// Tables with policies for reading that are not published, schema and name; those of
    /// [`Snapshot::lookups`] are not among them.
    pub unpublished: Vec<(String, String)>,
}

/// How large a table is, by the statistics that PostgreSQL keeps.
#[derive(Clone, Debug, Default)]
pub struct LookupSize {
    /// Its rows; `None` where they were never counted (ANALYZE).
    pub rows: Option<i64>,
    /// The bytes of an average value, by column number.
    pub widths: FxHashMap<i16, i32>,
}

/// The server and the role of the connection.
#[derive(Clone, Debug)]
pub struct Server {
    /// `server_version`, for people: `15.8`.
    pub version: String,
    /// `server_version_num`.
    pub version_number: i32,
    /// `wal_level`.
    pub wal_level: String,
    /// The database's name.
    pub database: String,
    /// Whether the server is a standby.
    pub standby: bool,
    /// The role's name.
    pub role: String,
    /// Whether it is a superuser.
    pub superuser: bool,
    /// Whether it may replicate, by attribute or by membership.
    pub replicates: bool,
    /// Whether it has BYPASSRLS.
    pub bypasses_row_security: bool,
    /// Whether it may create publications.
    pub creates_publications: bool,
    /// Whether the event triggers of [`crate::install`] are there.
    pub announces_catalog_changes: bool,
    /// `max_slot_wal_keep_size` as it is set; `-1` is no limit.
    pub slot_keeps_at_most: String,
}

/// A replication slot.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The process that reads from it.
    pub active_pid: Option<i32>,
    /// `wal_status`: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of log that PostgreSQL keeps for it; `None` where it has not reserved any.
    pub retained_bytes: Option<i64>,
}

/// A publication that was asked for.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Its name.
    pub name: String,
    /// Whether it exists.
    pub exists: bool,
    /// How many tables it has.
    pub tables: i64,
    /// The statements it publishes, of `insert`, `update`, `delete`, `truncate`.
    pub publishes: Vec<&'static str>,
}

/// A role that tokens may name.
#[derive(Clone, Debug)]
pub struct TokenRole {
    /// Its name.
    pub name: String,
    /// Whether row-level security does not bind it.
    pub bypasses_row_security: bool,
    /// Whether the role of the connection may become it, which is needed to ask PostgreSQL on its behalf.
    pub assumable: bool,
}

/// What a snapshot does not know of a table.
#[derive(Clone, Debug, Default)]
pub struct TableFacts {
    /// The owner's name.
    pub owner: String,
    /// Whether there is a usable replica identity: without one PostgreSQL refuses UPDATE and DELETE.
    pub identified: bool,
    /// By column index: does the log carry it?
    pub logged: Vec<bool>,
    /// By column index: is it a generated column?
    pub generated: Vec<bool>,
    /// What the policies for reading look into.
    pub relations_read: Vec<RelationRead>,
    /// What the policies for reading call.
    pub functions_called: Vec<FunctionCalled>,
}

/// Another table (or view) that a policy reads.
#[derive(Clone, Debug)]
pub struct RelationRead {
    /// The policy's name.
    pub policy: String,
    /// The schema of what is read.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether it is published, too.
    pub published: bool,
    /// Roles of the policy that may not SELECT what it reads: PostgreSQL raises an error for them.
    pub unreadable_to: Vec<String>,
    /// Roles of the policy that row-level security shows no row of it.
    pub hidden_from: Vec<String>,
}

/// A function that a policy calls, built-in ones apart.
#[derive(Clone, Debug)]
pub struct FunctionCalled {
    /// The policy's name.
    pub policy: String,
    /// The function's schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its arguments, as ALTER FUNCTION wants them.
    pub arguments: String,
    /// Whether it is VOLATILE.
    pub volatile: bool,
}

/// Looks at the database of `settings`. Changes nothing.
///
/// # Errors
/// No connection, a server too old to be asked, or one whose state can not be read.
pub async fn take(settings: &CatalogSettings, slot: &str) -> Result<Survey, PreflightError> {
    let connection = Connection::open(settings)
        .await
        .map_err(|error| PreflightError(vec![Failure::connecting(settings, error)]))?;
    let client = &connection.client;
    let patience = settings.statement_timeout.saturating_mul(PATIENCE);
    within(patience, async {
        let (_, failures) = preflight::obstacles(client, slot).await?;
        if failures.iter().any(|failure| matches!(failure, Failure::ServerTooOld { .. })) {
            return Ok(Err(PreflightError(failures)));
        }
        client.batch_execute(read::BEGIN).await?;
        Ok(Ok(Box::pin(look(client, settings, slot, failures)).await?))
    })
    .await
    .unwrap_or_else(|error| Err(PreflightError(vec![Failure::Unreadable(error)])))
}

async fn look(
    client: &Client,
    settings: &CatalogSettings,
    slot: &str,
    mut failures: Vec<Failure>,
) -> Result<Survey, CatalogError> {
    let publications = &settings.publications;
    let server = server(&client.query_one(include_str!("survey/server.sql"), &[]).await?)?;
    let slot = client.query_opt(include_str!("survey/slot.sql"), &[&slot]).await?;
    let found = client.query(include_str!("survey/publications.sql"), &[&publications]).await?;
    let found = found.iter().map(publication).collect::<Result<Vec<_>, _>>()?;
    if !server.creates_publications {
        failures.extend(found.iter().filter(|one| !one.exists).map(|one| Failure::PublicationMissing {
            publication: one.name.clone(),
            reason: format!("no right to CREATE in database {}", server.database),
        }));
    }
    let roles = token_roles(client, publications, server.version_number).await?;
    let names: Vec<String> = roles.iter().map(|role| role.name.clone()).collect();
    let own = settings.lookup_publication.as_deref();
    let streamed: Vec<String> =
        publications.iter().map(String::as_str).chain(own).map(str::to_owned).collect();
    let scope = Scope { publications, streamed: &streamed, own, roles: &names };
    let snapshot = Box::pin(read::look(client, scope)).await?.after(&Arc::default());
    let messages = settings.messages_publication.as_deref();
    let mut channels = Box::pin(read::look_at_channels(client, scope, messages)).await?;
    let due = channels.due.take();
    let channels = channels.after(None);
    let tables = facts(client, scope, &snapshot).await?;
    let mut lookups: Vec<u32> = snapshot.lookups.keys().map(|oid| oid.0).collect();
    let sizes = client.query(include_str!("survey/lookups.sql"), &[&lookups]).await?;
    lookups.extend(channels.iter().flat_map(|messages| messages.snapshot.lookups.keys()).map(|oid| oid.0));
    let unpublished =
        client.query(include_str!("survey/unpublished.sql"), &[&publications, &lookups]).await?;
    let slot = slot.as_ref().map(self::slot).transpose()?;
    Ok(Survey {
        server,
        slot,
        publications: found,
        failures,
        snapshot,
        roles,
        tables,
        lookups: sizes.iter().map(lookup_size).collect::<Result<_, _>>()?,
        channels: channels.map(|messages| channels::report::report(&messages, &names, due)),
        unpublished: unpublished
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, CatalogError>>()?,
    })
}

async fn token_roles(
    client: &Client,
    publications: &[String],
    version_number: i32,
) -> Result<Vec<TokenRole>, CatalogError> {
    let privilege = if version_number >= SET_PRIVILEGE_SINCE { "SET" } else { "MEMBER" };
    let usual: Vec<&str> = USUAL_ROLES.to_vec();
    let rows = client.query(include_str!("survey/roles.sql"), &[&usual, &publications, &privilege]).await?;
    rows.iter()
        .map(|row| {
            Ok(TokenRole {
                name: row.try_get(0)?,
                bypasses_row_security: row.try_get(1)?,
                assumable: row.try_get(2)?,
            })
        })
        .collect()
}

async fn facts(
    client: &Client,
    scope: Scope<'_>,
    snapshot: &Snapshot,
) -> Result<FxHashMap<Oid, TableFacts>, CatalogError> {
    let oids: Vec<u32> = snapshot.tables.keys().map(|oid| oid.0).collect();
    let Scope { publications, roles, .. } = scope;
    let mut tables = FxHashMap::default();
    for row in client.query(include_str!("survey/tables.sql"), &[&oids, &publications]).await? {
        let oid = Oid(row.try_get(0)?);
        if let Some(table) = snapshot.tables.get(&oid) {
            tables.insert(oid, table_facts(table, &row)?);
        }
    }
    for row in
        client.query(include_str!("survey/relations_read.sql"), &[&oids, &publications, &roles]).await?
    {
        if let Some(facts) = tables.get_mut(&Oid(row.try_get(0)?)) {
            facts.relations_read.push(relation_read(&row)?);
        }
    }
    for row in client.query(include_str!("survey/functions_called.sql"), &[&oids]).await? {
        if let Some(facts) = tables.get_mut(&Oid(row.try_get(0)?)) {
            facts.functions_called.push(function_called(&row)?);
        }
    }
    Ok(tables)
}

fn server(row: &Row) -> Result<Server, CatalogError> {
    Ok(Server {
        version: row.try_get(0)?,
        version_number: row.try_get(1)?,
        wal_level: row.try_get(2)?,
        database: row.try_get(3)?,
        standby: row.try_get(4)?,
        role: row.try_get(5)?,
        superuser: row.try_get(6)?,
        replicates: row.try_get(7)?,
        bypasses_row_security: row.try_get(8)?,
        creates_publications: row.try_get(9)?,
        announces_catalog_changes: row.try_get(10)?,
        slot_keeps_at_most: row.try_get(11)?,
    })
}

fn slot(row: &Row) -> Result<Slot, CatalogError> {
    Ok(Slot { active_pid: row.try_get(0)?, wal_status: row.try_get(1)?, retained_bytes: row.try_get(2)? })
}

fn publication(row: &Row) -> Result<Publication, CatalogError> {
    let mut publishes = Vec::new();
    for (column, statement) in [(3, "insert"), (4, "update"), (5, "delete"), (6, "truncate")] {
        if row.try_get(column)? {
            publishes.push(statement);
        }
    }
    Ok(Publication { name: row.try_get(0)?, exists: row.try_get(1)?, tables: row.try_get(2)?, publishes })
}

fn table_facts(table: &Table, row: &Row) -> Result<TableFacts, CatalogError> {
    let by_column = |numbers: &[i16]| -> Vec<bool> {
        table.columns.iter().map(|column| numbers.contains(&column.number)).collect()
    };
    Ok(TableFacts {
        owner: row.try_get(1)?,
        identified: row.try_get(2)?,
        logged: by_column(&row.try_get::<_, Vec<i16>>(3)?),
        generated: by_column(&row.try_get::<_, Vec<i16>>(4)?),
        ..TableFacts::default()
    })
}

fn relation_read(row: &Row) -> Result<RelationRead, CatalogError> {
    Ok(RelationRead {
        policy: row.try_get(1)?,
        schema: row.try_get(2)?,
        name: row.try_get(3)?,
        published: row.try_get(4)?,
        unreadable_to: row.try_get(5)?,
        hidden_from: row.try_get(6)?,
    })
}

fn lookup_size(row: &Row) -> Result<(Oid, LookupSize), CatalogError> {
    let (numbers, widths): (Vec<i16>, Vec<i32>) = (row.try_get(2)?, row.try_get(3)?);
    let widths = numbers.into_iter().zip(widths).collect();
    Ok((Oid(row.try_get(0)?), LookupSize { rows: row.try_get(1)?, widths }))
}

fn function_called(row: &Row) -> Result<FunctionCalled, CatalogError> {
    Ok(FunctionCalled {
        policy: row.try_get(1)?,
        schema: row.try_get(2)?,
        name: row.try_get(3)?,
        arguments: row.try_get(4)?,
        volatile: row.try_get(5)?,
    })
}
