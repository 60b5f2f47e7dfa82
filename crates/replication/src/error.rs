//! Everything that can stop a replication session: one sentence each, with the SQL or the setting that mends it.

use std::io;

use crate::frame::FrameError;
use crate::server_error::ServerError;
use crate::settings::{SettingsError, SslMode};

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The settings, or a file they name, can not be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),

    /// The name is unknown, or nobody listens, or the network refuses.
    #[error("PostgreSQL can not be reached at {address}: {source}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// No session within `connect_timeout`.
    #[error(
        "PostgreSQL at {address} did not answer within {seconds} s: check the host, port and firewall, or raise \
         connect_timeout in the database URL"
    )]
    ConnectTimeout {
        /// Host and port.
        address: String,
        /// The limit.
        seconds: u64,
    },
    /// The server is a standby and the URL asks for a primary.
    #[error(
        "PostgreSQL at {address} is a standby, and target_session_attrs in the database URL asks for a primary"
    )]
    NotPrimary {
        /// Host and port.
        address: String,
    },

    /// The server has no TLS and the mode demands it.
    #[error(
        "PostgreSQL at {address} does not offer TLS, which sslmode={mode} demands: set ssl = on in postgresql.conf, \
         or sslmode=prefer in the database URL"
    )]
    TlsNotOffered {
        /// Host and port.
        address: String,
        /// The mode that demands it.
        mode: SslMode,
    },
    /// The handshake failed, most often because the certificate is not acceptable.
    #[error(
        "TLS with PostgreSQL at {address} failed: {source}; give the authority's certificate as sslrootcert, and \
         with sslmode=verify-full connect by a name in the server certificate's subjectAltName"
    )]
    TlsHandshake {
        /// Host and port.
        address: String,
        /// What rustls found wrong.
        source: io::Error,
    },

    /// The password is wrong, or the role has none.
    #[error(
        "PostgreSQL refuses the password of role \"{user}\": correct it in the database URL, or set it with \
         ALTER ROLE {identifier} PASSWORD '…'"
    )]
    WrongPassword {
        /// The role.
        user: String,
        /// The role as SQL writes it.
        identifier: String,
    },
    /// The server asks for a password and none was given.
    #[error("PostgreSQL asks for the password of role \"{user}\", and the database URL has none: add it")]
    MissingPassword {
        /// The role.
        user: String,
    },
    /// A way of logging in that we do not speak.
    #[error(
        "PostgreSQL asks role \"{user}\" for {method} authentication, which walcast does not support: use \
         scram-sha-256 for it in pg_hba.conf"
    )]
    UnsupportedAuthentication {
        /// The role.
        user: String,
        /// What was asked for.
        method: String,
    },
    /// `channel_binding=require` and the exchange was not bound.
    #[error(
        "channel_binding=require, but {reason}: use TLS and scram-sha-256 on the server, or channel_binding=prefer \
         in the database URL"
    )]
    ChannelBinding {
        /// What is missing.
        reason: &'static str,
    },
    /// The SCRAM exchange broke a rule, for example the server could not prove that it knows the password.
    #[error("the password exchange with PostgreSQL failed: {0}")]
    Scram(io::Error),
    /// No line of `pg_hba.conf` lets us in.
    #[error(
        "{error}: add the line 'host {database} {user} <address of walcast>/32 scram-sha-256' to pg_hba.conf and \
         run SELECT pg_reload_conf()"
    )]
    HostRefused {
        /// The database asked for.
        database: String,
        /// The role.
        user: String,
        /// What the server said.
        error: Box<ServerError>,
    },
    /// The role does not exist or may not log in.
    #[error(
        "{error}: run CREATE ROLE {identifier} LOGIN REPLICATION PASSWORD '…', or ALTER ROLE {identifier} LOGIN"
    )]
    RoleRefused {
        /// The role as SQL writes it.
        identifier: String,
        /// What the server said.
        error: Box<ServerError>,
    },
    /// The database does not exist.
    #[error(
        "database \"{database}\" does not exist: run CREATE DATABASE {identifier}, or correct the database URL"
    )]
    MissingDatabase {
        /// The database.
        database: String,
        /// The database as SQL writes it.
        identifier: String,
    },
    /// The role may not connect to the database.
    #[error("{error}: run GRANT CONNECT ON DATABASE {database} TO {user}")]
    NoConnectPrivilege {
        /// The database as SQL writes it.
        database: String,
        /// The role as SQL writes it.
        user: String,
        /// What the server said.
        error: Box<ServerError>,
    },
    /// The role may not replicate.
    #[error(
        "role \"{user}\" may not use replication: run ALTER ROLE {identifier} REPLICATION (on Amazon RDS: GRANT \
         rds_replication TO {identifier})"
    )]
    NoReplicationPrivilege {
        /// The role.
        user: String,
        /// The role as SQL writes it.
        identifier: String,
    },
    /// No free walsender.
    #[error(
        "PostgreSQL has no free WAL sender ({error}): run ALTER SYSTEM SET max_wal_senders = <more> and restart \
         PostgreSQL"
    )]
    NoFreeWalSender {
        /// What the server said.
        error: Box<ServerError>,
    },
    /// No free connection.
    #[error(
        "PostgreSQL takes no more connections ({error}): run ALTER SYSTEM SET max_connections = <more> and restart \
         PostgreSQL, or end idle ones"
    )]
    NoFreeConnection {
        /// What the server said.
        error: Box<ServerError>,
    },

    /// The log does not carry what logical decoding needs.
    #[error(
        "PostgreSQL runs with wal_level = {current}, and walcast needs logical: run ALTER SYSTEM SET wal_level = \
         logical and restart PostgreSQL"
    )]
    WalLevel {
        /// The present value.
        current: String,
    },
    /// Publications that are not in the database.
    #[error(
        "publication {} does not exist in database \"{database}\": run CREATE PUBLICATION {} FOR TABLE <your tables>",
        names.join(", "), names[0]
    )]
    MissingPublications {
        /// The missing ones as SQL writes them. Never empty.
        names: Vec<String>,
        /// The database.
        database: String,
    },
    /// The log to be read is older than the publication, or the publication was dropped.
    #[error(
        "{error}: if it was dropped, create it again; if it was created after slot \"{slot}\", the slot's old changes \
         can not be read any more, and the slot is made anew (SELECT pg_drop_replication_slot('{slot}') does so at once)"
    )]
    PublicationNotInLog {
        /// The slot.
        slot: String,
        /// What the server said.
        error: Box<ServerError>,
    },
    /// Every slot is taken.
    #[error(
        "PostgreSQL has no free replication slot for \"{slot}\": drop one that SELECT slot_name FROM \
         pg_replication_slots WHERE NOT active shows with SELECT pg_drop_replication_slot('<name>'), or run ALTER \
         SYSTEM SET max_replication_slots = <more> and restart PostgreSQL"
    )]
    NoFreeSlot {
        /// The slot that was to be created.
        slot: String,
    },
    /// Somebody else reads from the slot.
    #[error(
        "replication slot \"{slot}\" is in use by process {} of PostgreSQL: stop that consumer, run SELECT \
         pg_terminate_backend({}), or give this walcast another slot name",
        pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string()),
        pid.map_or_else(|| "<its pid>".to_owned(), |pid| pid.to_string())
    )]
    SlotInUse {
        /// The slot.
        slot: String,
        /// The server process that streams it, where it could be found out.
        pid: Option<i32>,
    },
    /// A slot of this name exists and is not ours to use.
    #[error(
        "replication slot \"{slot}\" is {found}, and walcast needs {expected}: give walcast another slot name, or \
         run SELECT pg_drop_replication_slot('{slot}') if nobody needs it"
    )]
    SlotMismatch {
        /// The slot.
        slot: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// PostgreSQL has invalidated the slot, for example because the log that it needs was removed. The next try makes a
    /// new one.
    #[error(
        "replication slot \"{slot}\" has lost the log it needs (it went beyond max_slot_wal_keep_size or was \
         invalidated): walcast makes a new one, and changes since the loss are not delivered; raise \
         max_slot_wal_keep_size if that happens again"
    )]
    SlotLost {
        /// The slot.
        slot: String,
    },
    /// A reconnect arrived at another cluster, or at one that was set back in time.
    #[error(
        "PostgreSQL at the database URL is not the one walcast started with ({reason}): positions of the old log \
         mean nothing there; restart walcast"
    )]
    OtherCluster {
        /// How that was seen.
        reason: String,
    },

    /// Any other refusal of the server.
    #[error("PostgreSQL refuses to {action}: {error}")]
    Server {
        /// What we wanted.
        action: &'static str,
        /// What the server said.
        error: Box<ServerError>,
    },
    /// The server ends the session while streaming, for example because it shuts down.
    #[error("PostgreSQL ended the stream: {0}")]
    Ended(String),
    /// The connection broke.
    #[error("the connection to PostgreSQL broke: {0}")]
    Connection(io::Error),
    /// Nothing was heard for too long, although we asked.
    #[error("PostgreSQL was not heard of for {seconds} s, so the connection was given up")]
    Silent {
        /// The limit.
        seconds: u64,
    },
    /// A message larger than we accept.
    #[error(
        "PostgreSQL sent a message of {bytes} bytes, and the limit is {limit}: raise the limit on replication \
         messages; until then the slot can not go past that row"
    )]
    MessageTooLarge {
        /// Its size with the header.
        bytes: u64,
        /// The limit.
        limit: usize,
    },
    /// Bytes that are not the protocol.
    #[error("PostgreSQL sent what the replication protocol does not allow: {0}")]
    Protocol(String),
}

impl ReplicationError {
    /// Whether trying again without a human's help is in vain. What is not permanent is retried, even at the start.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::ConnectTimeout { .. }
            | Self::NotPrimary { .. }
            | Self::SlotLost { .. }
            | Self::Ended(_)
            | Self::Connection(_)
            | Self::Silent { .. } => false,
            Self::Server { error, .. } => !is_transient(&error.code),
            _ => true,
        }
    }

    /// Whether the log has changes from a time at which one of the publications did not exist.
    pub(crate) fn is_of_unreadable_log(&self) -> bool {
        matches!(self, Self::PublicationNotInLog { .. })
    }

    /// The session broke in a way that neither side could say more about.
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }
}

/// SQLSTATE classes that pass by themselves: connection trouble, resources, an operator's intervention (the server
/// starts up or shuts down), a system or internal error.
fn is_transient(code: &str) -> bool {
    ["08", "53", "57", "58", "XX"].iter().any(|class| code.starts_with(class)) || code == "55006"
}

impl From<FrameError> for ReplicationError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Read(error) => Self::Connection(error),
            FrameError::Closed => Self::Connection(io::ErrorKind::UnexpectedEof.into()),
            FrameError::TooLarge { bytes, limit } => Self::MessageTooLarge { bytes, limit },
            FrameError::Length(_) => Self::protocol(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> ReplicationError {
        let error = ServerError { code: code.to_owned(), ..ServerError::default() };
        ReplicationError::Server { action: "log in", error: Box::new(error) }
    }

    #[test]
    fn a_server_that_starts_up_is_waited_for_and_a_syntax_error_is_not() {
        assert!(!server("57P03").is_permanent());
        assert!(server("42601").is_permanent());
    }

    #[test]
    fn a_slot_in_use_names_the_process_and_the_sql() {
        let message = ReplicationError::SlotInUse { slot: "s".to_owned(), pid: Some(42) }.to_string();
        assert!(message.contains("process 42") && message.contains("pg_terminate_backend(42)"), "{message}");
    }
}
