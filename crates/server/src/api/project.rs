//! Projects as the tenants API shows them, and what has them.

use futures_util::future::BoxFuture;

use crate::health::HealthReport;

/// The projects of this process. They come from its configuration; nothing here makes or changes one.
pub trait ProjectDirectory: Send + Sync + 'static {
    /// All of them.
    fn list(&self) -> Vec<ProjectDescription>;

    /// The one with this id.
    fn get(&self, id: &str) -> Option<ProjectDescription>;

    /// Reads its keys again, then closes its sockets with 1012, so that everybody comes back under the new ones.
    /// Where the keys can not be read, the old ones and the sockets stay.
    fn reload<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ProjectError>>;

    /// Closes its sockets with 1012.
    fn shutdown<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ProjectError>>;
}

/// Why a project was not reloaded or shut down.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// There is none with this id.
    #[error("not found")]
    NotFound,
    /// Its keys can not be read; the text says why.
    #[error("{0}")]
    Keys(String),
}

/// A project, without its secrets.
#[derive(Clone, Debug)]
pub struct ProjectDescription {
    /// What it is called in addresses; upstream's `external_id`.
    pub id: String,
    /// The database that is followed.
    pub database: DatabaseDescription,
    /// What its clients may do.
    pub limits: ProjectLimits,
    /// Every channel is told who is present, as if its join had asked for that.
    pub presence_enabled: bool,
    /// Public channels are refused.
    pub private_only: bool,
    /// Nobody is let in.
    pub suspended: bool,
    /// Sockets open now.
    pub connections: u64,
    /// How its database's side stands.
    pub health: HealthReport,
    /// Where this process runs, as its settings say.
    pub region: Option<String>,
}

/// Where a project's database is and how it is followed.
#[derive(Clone, Debug)]
pub struct DatabaseDescription {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name of the database.
    pub name: String,
    /// Role of the connections.
    pub user: String,
    /// Whether TLS is insisted on.
    pub tls_required: bool,
    /// Connections of the pool.
    pub pool_size: usize,
    /// Publications whose tables are followed.
    pub publications: Vec<String>,
    /// The replication slot.
    pub slot: String,
}

/// What a project's clients may do; `None` is no limit.
#[derive(Clone, Debug)]
pub struct ProjectLimits {
    /// Open sockets.
    pub max_concurrent_users: usize,
    /// Channels of one socket.
    pub max_channels_per_client: usize,
    /// Joins per second, of all sockets.
    pub max_joins_per_second: u32,
    /// Messages per second, of all sockets and requests.
    pub max_events_per_second: Option<u32>,
    /// Presence events per second, of all sockets.
    pub max_presence_events_per_second: Option<u32>,
    /// Bytes of one payload.
    pub payload_bytes_max: usize,
    /// Bytes of one row change as JSON.
    pub record_bytes_max: usize,
    /// Presence calls of one channel in one window.
    pub presence_calls_max: u32,
    /// That window, in milliseconds.
    pub presence_window_ms: u64,
}
