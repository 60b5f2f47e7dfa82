//! How the database is reached.

use std::time::Duration;

/// The usual name of walcast's own publication.
pub const LOOKUP_PUBLICATION: &str = "walcast_lookups";

/// The usual name of walcast's publication of `realtime.messages`.
pub const MESSAGES_PUBLICATION: &str = "walcast_messages";

/// Where the database is and how it is spoken to.
#[derive(Clone, Debug)]
pub struct CatalogSettings {
    /// Host, user, password, database. Its `Debug` does not print the password.
    pub config: tokio_postgres::Config,
    /// Whom to trust when speaking TLS; `None` speaks plain text. Whether TLS is demanded or only preferred
    /// is `config`'s `ssl_mode`: set it to `Require` where certificates must be checked.
    pub tls: Option<rustls::ClientConfig>,
    /// The publications whose tables are served.
    pub publications: Vec<String>,
    /// Walcast's own publication, for the tables that policies look things up in; `None`: without one.
    pub lookup_publication: Option<String>,
    /// Walcast's publication of `realtime.messages`; `None`: without messages from the database.
    pub messages_publication: Option<String>,
    /// The replication slot that the log is read from; `None`: a new one, or none at all.
    pub slot: Option<String>,
    /// Change nothing in the database, for commands that only tell.
    pub read_only: bool,
    /// At most so many connections at once; at least 1 is taken.
    pub pool_size: usize,
    /// How long one statement may run, and how long a question waits for a free connection.
    pub statement_timeout: Duration,
    /// SQL to run on every new connection (`docs/protocol.md §12`).
    pub after_connect: Option<String>,
}

impl CatalogSettings {
    /// Settings with the defaults: publication `supabase_realtime`, look-ups in `walcast_lookups`,
    /// messages in `walcast_messages`, 5 connections, 5 seconds.
    pub fn new(config: tokio_postgres::Config) -> Self {
        CatalogSettings {
            config,
            tls: None,
            publications: vec!["supabase_realtime".to_owned()],
            lookup_publication: Some(LOOKUP_PUBLICATION.to_owned()),
            messages_publication: Some(MESSAGES_PUBLICATION.to_owned()),
            slot: None,
            read_only: false,
            pool_size: 5,
            statement_timeout: Duration::from_secs(5),
            after_connect: None,
        }
    }
}
