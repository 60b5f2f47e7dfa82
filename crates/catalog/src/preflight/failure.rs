//! The sentences: what is wrong, and the SQL or setting that mends it.

use std::fmt;

use tokio_postgres::config::Host;

use crate::error::CatalogError;
use crate::quoting::{identifier, literal};
use crate::settings::CatalogSettings;

/// Everything that stands in the way of serving, one sentence in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightError(
    /// At least one.
    pub Vec<Failure>,
);

impl fmt::Display for PreflightError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            write!(out, "{failure}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PreflightError {}

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server does not answer, or not as a PostgreSQL server would.
    #[error(
        "PostgreSQL at {address} cannot be reached ({reason}): check host, port and sslmode of DATABASE_URL, \
         and listen_addresses of the server"
    )]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the attempt ended with.
        reason: String,
    },
    /// The password is wrong, or `pg_hba.conf` has no line for us.
    #[error(
        "PostgreSQL refuses role \"{role}\" ({reason}): correct the password in DATABASE_URL, or set it with \
         ALTER ROLE {} PASSWORD '…', or allow the connection in pg_hba.conf",
        identifier(.role)
    )]
    Refused {
        /// The role that tried to log in.
        role: String,
        /// PostgreSQL's reason.
        reason: String,
    },
    /// The database does not exist.
    #[error(
        "database \"{database}\" does not exist: correct the name in DATABASE_URL, or CREATE DATABASE {}",
        identifier(.database)
    )]
    NoDatabase {
        /// Its name.
        database: String,
    },
    /// All connections of the server are taken.
    #[error("PostgreSQL has no connection left ({reason}): raise max_connections, or close other clients")]
    TooManyConnections {
        /// PostgreSQL's reason.
        reason: String,
    },
    /// The connection works but the server's state can not be read.
    #[error(
        "the state of the server cannot be read ({0}): the role needs the usual rights on pg_catalog, and \
             DATABASE_URL must lead to PostgreSQL itself, not to a transaction pooler"
    )]
    Unreadable(CatalogError),
    /// PostgreSQL is older than what is supported.
    #[error("PostgreSQL {version} is too old: walcast needs version 14 or newer")]
    ServerTooOld {
        /// `server_version`.
        version: String,
    },
    /// `wal_level` is not `logical`.
    #[error(
        "wal_level is '{wal_level}' but must be 'logical': run ALTER SYSTEM SET wal_level = 'logical' and restart \
         PostgreSQL (hosted: the parameter for logical replication, rds.logical_replication = 1 for one)"
    )]
    WalLevel {
        /// What it is.
        wal_level: String,
    },
    /// The role may not replicate.
    #[error(
        "role \"{role}\" may not replicate: run ALTER ROLE {} REPLICATION as a superuser (on Amazon RDS: \
         GRANT rds_replication TO {})",
        identifier(.role),
        identifier(.role)
    )]
    NoReplication {
        /// The role.
        role: String,
    },
    /// Every sender is busy.
    #[error("all {max} WAL senders are busy: raise max_wal_senders and restart PostgreSQL")]
    NoFreeSender {
        /// `max_wal_senders`.
        max: i64,
    },
    /// The slot's name is none.
    #[error("'{slot}' cannot name a replication slot: use 1 to 63 of a-z, 0-9 and _")]
    SlotName {
        /// What was given.
        slot: String,
    },
    /// There is no slot left to create.
    #[error(
        "all {max} replication slots are taken: drop one that nobody reads (SELECT slot_name FROM \
         pg_replication_slots WHERE NOT active; SELECT pg_drop_replication_slot('…')), or raise \
         max_replication_slots and restart PostgreSQL"
    )]
    NoFreeSlot {
        /// `max_replication_slots`.
        max: i64,
    },
    /// The slot was made for another plugin.
    #[error(
        "replication slot \"{slot}\" is of '{plugin}', not of pgoutput: choose another slot name, or run \
         SELECT pg_drop_replication_slot({})",
        literal(.slot)
    )]
    SlotOfAnotherPlugin {
        /// Its name.
        slot: String,
        /// Its plugin, or `physical`.
        plugin: String,
    },
    /// The slot belongs to another database.
    #[error(
        "replication slot \"{slot}\" belongs to database \"{database}\": choose another slot name, or run \
         SELECT pg_drop_replication_slot({}) there",
        literal(.slot)
    )]
    SlotOfAnotherDatabase {
        /// Its name.
        slot: String,
        /// Where it belongs.
        database: String,
    },
    /// Somebody reads from the slot.
    #[error(
        "replication slot \"{slot}\" is read by process {pid}: stop the other walcast, choose another slot name, \
         or run SELECT pg_terminate_backend({pid})"
    )]
    SlotInUse {
        /// Its name.
        slot: String,
        /// The server process of the other reader.
        pid: i32,
    },
    /// A publication does not exist and could not be created.
    #[error(
        "publication \"{publication}\" does not exist and this role may not create it ({reason}): run \
         CREATE PUBLICATION {} as the owner of the database",
        identifier(.publication)
    )]
    PublicationMissing {
        /// Its name.
        publication: String,
        /// PostgreSQL's reason.
        reason: String,
    },
}

impl Failure {
    /// The sentence for an attempt to connect that failed.
    pub(crate) fn connecting(settings: &CatalogSettings, error: CatalogError) -> Self {
        let config = &settings.config;
        let role = config.get_user().unwrap_or("postgres").to_owned();
        let reason = match &error {
            CatalogError::Connect { message, .. } => message.clone(),
            other => other.to_string(),
        };
        match error.code() {
            Some("3D000") => {
                Failure::NoDatabase { database: config.get_dbname().unwrap_or(&role).to_owned() }
            }
            Some(code) if code.starts_with("28") => Failure::Refused { role, reason },
            Some("53300") => Failure::TooManyConnections { reason },
            // The session began: then it is a statement of ours that failed.
            None | Some("57P03") => Failure::Unreachable { address: address(config), reason },
            Some(_) => Failure::Unreadable(error),
        }
    }
}

/// Host and port as they were given.
fn address(config: &tokio_postgres::Config) -> String {
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            #[cfg(unix)]
            Host::Unix(path) => format!("{} (port {port})", path.display()),
        }
    });
    hosts.collect::<Vec<_>>().join(", ")
}

/// What will not work as people expect, though walcast can serve.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    /// The publication has no tables, so no change will ever arrive.
    PublicationEmpty {
        /// Its name.
        publication: String,
    },
    /// INSERT and UPDATE on the table reach clients as error 400 (`docs/protocol.md §4.4`).
    NoPrimaryKey {
        /// The table, quoted as in SQL.
        table: String,
    },
    /// PostgreSQL itself refuses UPDATE and DELETE on the table while it is published.
    NoReplicaIdentity {
        /// The table, quoted as in SQL.
        table: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::PublicationEmpty { publication } => write!(
                out,
                "publication \"{publication}\" has no tables: add each with ALTER PUBLICATION {} ADD TABLE …",
                identifier(publication)
            ),
            Warning::NoPrimaryKey { table } => write!(
                out,
                "table {table} has no primary key, so its rows reach clients as errors: run ALTER TABLE {table} \
                 ADD PRIMARY KEY (…)"
            ),
            Warning::NoReplicaIdentity { table } => write!(
                out,
                "table {table} has no replica identity, so PostgreSQL refuses UPDATE and DELETE on it while it is \
                 published: add a primary key, or run ALTER TABLE {table} REPLICA IDENTITY FULL"
            ),
        }
    }
}
