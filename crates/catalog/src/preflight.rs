//! What must hold before walcast serves, and the SQL or setting that mends what does not.

mod failure;

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::error::CatalogError;
use crate::pool::Connection;
use crate::quoting::{identifier, qualified};
use crate::settings::CatalogSettings;
use crate::slot;

pub use failure::{Failure, PreflightError, Warning};

/// The oldest server that is served, as `server_version_num`.
const VERSION_MIN: i32 = 140_000;

/// What was found where nothing stands in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// `server_version`, for people: `15.8`.
    pub server_version: String,
    /// PostgreSQL had invalidated the slot, and it was dropped just now: changes that it had not delivered are lost.
    pub lost_slot_dropped: bool,
    /// The publications that did not exist and were created just now.
    pub created_publications: Vec<String>,
    /// What will not work as people expect, though walcast can serve.
    pub warnings: Vec<Warning>,
}

/// Checks the server, the role, the publications and the slot, and creates the publications that are
/// missing where the role may. A slot that PostgreSQL has invalidated is dropped, so that a new one can take its place.
///
/// # Errors
/// Everything that stands in the way, each in one sentence with what mends it.
pub async fn check(settings: &CatalogSettings, slot: &str) -> Result<Findings, PreflightError> {
    let connection = Connection::open(settings)
        .await
        .map_err(|error| PreflightError(vec![Failure::connecting(settings, error)]))?;
    examine(&connection.client, settings, slot)
        .await
        .unwrap_or_else(|error| Err(PreflightError(vec![Failure::Unreadable(error)])))
}

async fn examine(
    client: &Client,
    settings: &CatalogSettings,
    slot: &str,
) -> Result<Result<Findings, PreflightError>, CatalogError> {
    let (server_version, mut failures) = obstacles(client, slot).await?;
    if failures.iter().any(|failure| matches!(failure, Failure::ServerTooOld { .. })) {
        return Ok(Err(PreflightError(failures)));
    }
    let mut findings = Findings { server_version, ..Findings::default() };
    if failures.is_empty() {
        findings.lost_slot_dropped = slot::drop_lost(client, slot).await?;
    }
    for publication in &settings.publications {
        match ensure_publication(client, publication, "").await? {
            Publication::Exists => {}
            Publication::Created => findings.created_publications.push(publication.clone()),
            Publication::Refused(reason) => {
                failures.push(Failure::PublicationMissing { publication: publication.clone(), reason });
            }
        }
    }
    if !failures.is_empty() {
        return Ok(Err(PreflightError(failures)));
    }
    findings.warnings = warnings(client, &settings.publications).await?;
    Ok(Ok(findings))
}

/// The server's version, and what stands in the way of it, its role and its slots.
pub(crate) async fn obstacles(client: &Client, slot: &str) -> Result<(String, Vec<Failure>), CatalogError> {
    let server = Server::ask(client).await?;
    if server.version_number < VERSION_MIN {
        let failure = Failure::ServerTooOld { version: server.version.clone() };
        return Ok((server.version, vec![failure]));
    }
    let mut failures = server.failures();
    failures.extend(slot_failure(client, slot).await?);
    Ok((server.version, failures))
}

/// The server's settings and the role's attributes.
struct Server {
    version: String,
    version_number: i32,
    wal_level: String,
    role: String,
    may_replicate: bool,
    senders: i64,
    senders_max: i64,
}

impl Server {
    async fn ask(client: &Client) -> Result<Self, CatalogError> {
        // Hosted databases give the right to replicate through a role of their own.
        let row = client
            .query_one(
                "SELECT current_setting('server_version'), current_setting('server_version_num')::int, \
                    current_setting('wal_level'), r.rolname::text, \
                    r.rolsuper OR r.rolreplication OR EXISTS ( \
                        SELECT FROM pg_catalog.pg_roles AS granted \
                        WHERE granted.rolname = 'rds_replication' AND pg_has_role(r.oid, granted.oid, 'MEMBER')), \
                    (SELECT count(*) FROM pg_catalog.pg_stat_get_wal_senders()), \
                    current_setting('max_wal_senders')::bigint \
                 FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user",
                &[],
            )
            .await?;
        Ok(Server {
            version: row.try_get(0)?,
            version_number: row.try_get(1)?,
            wal_level: row.try_get(2)?,
            role: row.try_get(3)?,
            may_replicate: row.try_get(4)?,
            senders: row.try_get(5)?,
            senders_max: row.try_get(6)?,
        })
    }

    fn failures(&self) -> Vec<Failure> {
        let mut failures = Vec::new();
        if self.wal_level != "logical" {
            failures.push(Failure::WalLevel { wal_level: self.wal_level.clone() });
        }
        if !self.may_replicate {
            failures.push(Failure::NoReplication { role: self.role.clone() });
        }
        if self.senders >= self.senders_max {
            failures.push(Failure::NoFreeSender { max: self.senders_max });
        }
        failures
    }
}

/// Why the slot could not be used, if so: whose it is where it exists, or that none is left.
async fn slot_failure(client: &Client, slot: &str) -> Result<Option<Failure>, CatalogError> {
    let permitted = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_';
    if slot.is_empty() || slot.len() > 63 || !slot.bytes().all(permitted) {
        return Ok(Some(Failure::SlotName { slot: slot.to_owned() }));
    }
    let found = client
        .query_opt(
            "SELECT coalesce(plugin::text, slot_type), database::text, current_database()::text, active_pid \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text",
            &[&slot],
        )
        .await?;
    let Some(row) = found else {
        let row = client
            .query_one(
                "SELECT count(*), current_setting('max_replication_slots')::bigint \
                 FROM pg_catalog.pg_replication_slots",
                &[],
            )
            .await?;
        let (used, max): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        return Ok((used >= max).then_some(Failure::NoFreeSlot { max }));
    };
    let slot = slot.to_owned();
    let plugin: String = row.try_get(0)?;
    let database: Option<String> = row.try_get(1)?;
    let here: String = row.try_get(2)?;
    let active_pid: Option<i32> = row.try_get(3)?;
    Ok(if plugin != "pgoutput" {
        Some(Failure::SlotOfAnotherPlugin { slot, plugin })
    } else if let Some(database) = database.filter(|database| *database != here) {
        Some(Failure::SlotOfAnotherDatabase { slot, database })
    } else {
        active_pid.map(|pid| Failure::SlotInUse { slot, pid })
    })
}

/// What was done about a publication that must exist.
pub(crate) enum Publication {
    /// Nothing.
    Exists,
    /// It was created, without tables.
    Created,
    /// PostgreSQL's reason.
    Refused(String),
}

/// Creates the publication where it is missing, if the role may; `options` are those of CREATE PUBLICATION.
pub(crate) async fn ensure_publication(
    client: &Client,
    publication: &str,
    options: &str,
) -> Result<Publication, CatalogError> {
    let exists = client
        .query_opt("SELECT true FROM pg_catalog.pg_publication WHERE pubname = $1::text", &[&publication])
        .await?;
    if exists.is_some() {
        return Ok(Publication::Exists);
    }
    let sql = format!("CREATE PUBLICATION {} {options}", identifier(publication));
    match client.batch_execute(&sql).await.map_err(CatalogError::from) {
        Ok(()) => Ok(Publication::Created),
        // Somebody else created it in between (duplicate_object, or the unique index said so).
        Err(error) if matches!(error.code(), Some("42710" | "23505")) => Ok(Publication::Exists),
        Err(CatalogError::Statement { message, .. }) => Ok(Publication::Refused(message)),
        Err(error) => Err(error),
    }
}

/// Publications without tables, tables without a primary key, tables whose rows can not be identified.
async fn warnings(client: &Client, publications: &[String]) -> Result<Vec<Warning>, CatalogError> {
    let rows = client
        .query(
            "SELECT p.pubname::text, n.nspname::text, c.relname::text, \
                EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary), \
                CASE c.relreplident \
                    WHEN 'f' THEN true \
                    WHEN 'n' THEN false \
                    WHEN 'i' THEN EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisreplident) \
                    ELSE EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate) \
                END, \
                p.pubupdate OR p.pubdelete \
             FROM pg_publication AS p \
             LEFT JOIN pg_publication_tables AS listed ON listed.pubname = p.pubname \
             LEFT JOIN pg_namespace AS n ON n.nspname = listed.schemaname \
             LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = listed.tablename \
             WHERE p.pubname = ANY ($1::text[]) \
             ORDER BY p.pubname, n.nspname, c.relname",
            &[&publications],
        )
        .await?;
    let mut warnings = BTreeSet::new();
    for row in rows {
        let publication: String = row.try_get(0)?;
        let (Some(schema), Some(name)) =
            (row.try_get::<_, Option<&str>>(1)?, row.try_get::<_, Option<&str>>(2)?)
        else {
            warnings.insert(Warning::PublicationEmpty { publication });
            continue;
        };
        let table = qualified(schema, name);
        let (primary_key, identified, changes): (bool, bool, bool) =
            (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
        if !identified && changes {
            warnings.insert(Warning::NoReplicaIdentity { table: table.clone() });
        }
        if !primary_key {
            warnings.insert(Warning::NoPrimaryKey { table });
        }
    }
    Ok(warnings.into_iter().collect())
}
