//! Everything that can be set, typed.
//!
//! One order holds for every setting: flag, environment variable, TOML file, default. In reading order:
//!
//! * `setting` — what one setting is;
//! * `definitions` — all of them; `docs/configuration.md` is made of this file;
//! * `parse` — texts into values;
//! * `flags`, `file` — the command line and the TOML file;
//! * `layers` — the order;
//! * `database` — the connection, from one URL or from parts;
//! * `projects` — one project or several, and whether they can be told apart;
//! * `error` — what can be wrong, one sentence each;
//! * `nearest` — what a mistyped name was meant to be;
//! * `serving` — from these settings to those of a server;
//! * `reference` — the page of documentation.

mod database;
mod definitions;
mod error;
mod file;
mod flags;
mod layers;
mod nearest;
mod parse;
mod projects;
#[cfg(test)]
mod reference;
mod serving;
mod setting;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};
use walcast_auth::{JwksSource, Secret, refuse_sample_secret};
use walcast_catalog::janitor::JanitorSettings;
use walcast_engine::{BroadcastRules, Deletes, RateLimit};
use walcast_replication::ConnectionSettings;
use walcast_server::front::{Address, ProjectId};
use walcast_server::origins::AllowedOrigin;
use walcast_server::{AddressLimits, Network, TlsFiles};

use layers::Layers;

pub use error::SettingsError;
pub use file::ConfigurationFile;
pub use flags::Flags;
pub use layers::Environment;
pub use setting::Origin;
use setting::Setting;

/// The variable that names the configuration file.
const FILE_VARIABLE: &str = "WALCAST_CONFIG";

/// What the settings are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `walcast serve`: weak secrets are refused.
    Serve,
    /// `walcast dev`: any secret will do.
    Develop,
}

/// All settings of one process.
#[derive(Debug)]
pub struct Settings {
    /// Sockets and HTTP.
    pub server: ServerSettings,
    /// The project that is served, or the first of several.
    pub project: ProjectConfiguration,
    /// The other projects.
    pub others: Vec<ProjectConfiguration>,
    /// The log.
    pub log: LogSettings,
    /// Sentences for the log: settings that were given and mean nothing, and what is less safe than it could be.
    pub warnings: Vec<String>,
}

/// What one project has of its own.
#[derive(Debug)]
pub struct ProjectConfiguration {
    /// Its name.
    pub id: ProjectId,
    /// How it is told apart from the others.
    pub address: Address,
    /// The database that is followed.
    pub database: DatabaseSettings,
    /// What tokens are verified with.
    pub auth: AuthSettings,
    /// Slot and publications.
    pub replication: ReplicationSettings,
    /// The partitions of `realtime.messages`.
    pub janitor: JanitorSettings,
    /// Row changes.
    pub changes: ChangeSettings,
    /// What clients may do.
    pub limits: Limits,
    /// How broadcasts of some events spare slow sockets.
    pub broadcast: BroadcastRules,
    /// Presence.
    pub presence: PresenceSettings,
}

/// The database that is followed.
#[derive(Clone, Debug)]
pub struct DatabaseSettings {
    /// Where it is and who we are there.
    pub connection: ConnectionSettings,
    /// SQL for each new connection of the pool.
    pub after_connect: Option<String>,
    /// Connections of the pool.
    pub pool_size: usize,
    /// How long Postgres may take to decide a policy.
    pub statement_timeout: Duration,
}

/// What tokens are verified with; at least one of secret and key set is there.
#[derive(Debug)]
pub struct AuthSettings {
    /// Shared secret of the HS algorithms.
    pub jwt_secret: Option<Secret>,
    /// The issuer's key set.
    pub jwks: Option<JwksSource>,
    /// Claims that must have these values where they are present.
    pub claim_validators: Map<String, Value>,
    /// How long before its token expires a channel is told so.
    pub expiry_notice: Duration,
    /// How often tokens of joined channels are looked at again.
    pub token_recheck: Duration,
    /// Pages that may open a socket; empty stands for all.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Public channels and broadcasts are refused.
    pub private_only: bool,
    /// Every handshake is refused.
    pub suspended: bool,
}

/// Sockets and HTTP.
#[derive(Debug)]
pub struct ServerSettings {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Shared secret of the tokens for `/metrics`; `None` leaves it open.
    pub metrics_jwt_secret: Option<Secret>,
    /// Tokens for `/metrics` that are refused.
    pub metrics_token_blocklist: Vec<Secret>,
    /// Shared secrets of operators' tokens, this one and the next; without one operations are closed.
    pub api_jwt_secrets: Vec<Secret>,
    /// Operators' tokens that are refused.
    pub api_token_blocklist: Vec<Secret>,
    /// Certificate and key; `None` is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// How often certificate and key are looked at.
    pub tls_reload: Duration,
    /// How long a TLS handshake may take.
    pub tls_handshake_timeout: Duration,
    /// Open TCP connections.
    pub max_connections: usize,
    /// Bytes of a request's head.
    pub header_bytes_max: usize,
    /// Bytes of a request's first line.
    pub request_line_bytes_max: usize,
    /// Header lines of a request.
    pub headers_max: usize,
    /// How long a request's head may take.
    pub header_timeout: Duration,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// What one address may take.
    pub addresses: AddressLimits,
    /// Open files to ask the operating system for; `None` asks for as many as allowed.
    pub open_files: Option<u64>,
    /// Shards; `None` is one per processor core.
    pub shards: Option<usize>,
    /// Bytes that may wait for one socket.
    pub outbound_bytes_max: usize,
    /// Over how long sockets are sent away when the server stops.
    pub drain: Duration,
    /// Delay of the answer to a refused handshake.
    pub connect_error_backoff: Duration,
    /// Delay of the answer to a refused join.
    pub channel_error_backoff: Duration,
    /// How long a channel waits for messages from the database to arrive.
    pub replication_ready_timeout: Duration,
    /// Where the process runs.
    pub region: Option<String>,
    /// The key of the `baggage` header under which a request has its name.
    pub request_id_baggage_key: String,
}

/// Slot and publications.
#[derive(Clone, Debug)]
pub struct ReplicationSettings {
    /// Name of the slot, suffix included.
    pub slot: String,
    /// Publications whose tables are followed, at least one.
    pub publications: Vec<String>,
    /// What happens when the slot holds back too much log; `None` is nothing.
    pub slot_lag: Option<SlotLag>,
    /// Bytes of handled log that the slot keeps for the journal of a server that starts again.
    pub trail_bytes_max: u64,
    /// How often a message is sent through the log to see whether it comes back; `None` is never.
    pub canary: Option<Duration>,
}

/// How much log the slot may hold back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLag {
    /// Bytes.
    pub bytes_max: NonZeroU64,
    /// What happens above that.
    pub action: SlotLagAction,
}

/// What happens when the slot holds back too much log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotLagAction {
    /// Nothing is read any more, and the server is not ready; the slot stays.
    Stop,
    /// The slot is dropped and made anew, and every subscriber is told that it has to fetch.
    DropAndTell,
}

/// Row changes.
#[derive(Debug)]
pub struct ChangeSettings {
    /// What happens with deletes that can not be judged.
    pub deletes: Deletes,
    /// How often the catalog is compared with what is known.
    pub catalog_poll: Duration,
    /// Bytes of one change as JSON.
    pub record_bytes_max: usize,
    /// Bytes of all copies of tables that policies look things up in.
    pub copy_bytes_max: usize,
    /// Bytes of recent transactions that are kept for subscriptions that resume.
    pub journal_bytes_max: usize,
    /// For how long they are kept.
    pub journal_age: Duration,
    /// For how long a lost socket's tickets are honoured; zero leaves none.
    pub ticket_validity: Duration,
    /// How many are kept.
    pub tickets_max: usize,
    /// Whether broadcasts are kept for those who come back.
    pub resume_broadcasts: bool,
    /// Bytes of these.
    pub resume_broadcasts_bytes_max: usize,
    /// Rows that a channel begins with at most.
    pub snapshot_rows_max: usize,
    /// Bytes of these.
    pub snapshot_bytes_max: usize,
}

/// What clients may do (docs/protocol.md §10.1).
#[derive(Debug)]
pub struct Limits {
    /// Open sockets.
    pub max_concurrent_users: usize,
    /// Channels of one socket.
    pub max_channels_per_client: usize,
    /// `postgres_changes` bindings of one channel.
    pub max_bindings_per_channel: usize,
    /// Joins per second, of all sockets.
    pub max_joins_per_second: u32,
    /// Bytes of one broadcast's payload.
    pub payload_bytes_max: usize,
    /// Presence calls of one channel.
    pub presence_calls: RateLimit,
    /// Messages of one batch over HTTP.
    pub max_batch_messages: usize,
    /// Messages per second, of all clients.
    pub max_events_per_second: Option<NonZeroU32>,
    /// Messages per second of one socket.
    pub max_client_events_per_second: Option<NonZeroU32>,
    /// Presence events per second, of all channels.
    pub max_presence_events_per_second: Option<NonZeroU32>,
}

/// Presence (docs/protocol.md §7).
#[derive(Debug)]
pub struct PresenceSettings {
    /// Every channel is told who is present.
    pub enabled: bool,
    /// How long the presence of a lost socket stays.
    pub grace: Duration,
    /// For how long the changes of a topic are collected at most.
    pub diff: Duration,
    /// Bytes of one tracked payload.
    pub payload_bytes_max: usize,
    /// Bytes of all that is tracked on one topic.
    pub topic_bytes_max: usize,
}

/// The log.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// A filter in the grammar of tracing-subscriber's `EnvFilter`.
    pub filter: String,
    /// Form of the lines.
    pub format: LogFormat,
    /// Whether requests of the health endpoints are logged.
    pub health_checks: bool,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

impl Settings {
    /// Reads the configuration file that `--config` or `WALCAST_CONFIG` names, and puts everything together.
    pub fn load(flags: &Flags, environment: &Environment, purpose: Purpose) -> Result<Self, SettingsError> {
        Self::resolve(flags, environment, &configuration_file(flags, environment)?, purpose)
    }

    /// Puts together what was given. Touches nothing outside its arguments.
    pub fn resolve(
        flags: &Flags,
        environment: &Environment,
        file: &ConfigurationFile,
        purpose: Purpose,
    ) -> Result<Self, SettingsError> {
        let layers = Layers { flags, environment, file, project: None };
        let mut projects = projects::all(&layers, purpose)?.into_iter();
        let project = projects.next().ok_or(SettingsError::MissingDatabase)?;
        let others: Vec<_> = projects.collect();
        let mut warnings = layers::mistyped_variables(environment);
        if purpose == Purpose::Serve {
            warnings.extend(projects::warnings(&project, &others));
        }
        Ok(Self {
            server: server_settings(&layers, purpose)?,
            project,
            others,
            log: log_settings(&layers)?,
            warnings,
        })
    }
}

impl DatabaseSettings {
    /// The database alone, for commands that need no keys.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Self, SettingsError> {
        let file = configuration_file(flags, environment)?;
        database_settings(&Layers {
            flags,
            environment,
            file: &file,
            project: projects::chosen(flags, &file)?,
        })
    }
}

impl ReplicationSettings {
    /// Slot and publications alone, for commands that need no database.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Self, SettingsError> {
        let file = configuration_file(flags, environment)?;
        replication_settings(&Layers {
            flags,
            environment,
            file: &file,
            project: projects::chosen(flags, &file)?,
        })
    }
}

/// Bytes of all copies of tables that policies look things up in, alone.
pub fn copy_bytes_max(flags: &Flags, environment: &Environment) -> Result<usize, SettingsError> {
    let file = configuration_file(flags, environment)?;
    let layers = Layers { flags, environment, file: &file, project: projects::chosen(flags, &file)? };
    layers.get(&definitions::COPY_BYTES_MAX)
}

impl Default for ReplicationSettings {
    fn default() -> Self {
        ReplicationSettings {
            slot: "walcast".to_owned(),
            publications: vec!["supabase_realtime".to_owned()],
            slot_lag: None,
            trail_bytes_max: 1 << 30,
            canary: Some(Duration::from_secs(10)),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { filter: "info".to_owned(), format: LogFormat::Text, health_checks: true }
    }
}

fn configuration_file(flags: &Flags, environment: &Environment) -> Result<ConfigurationFile, SettingsError> {
    let variable = environment.get(FILE_VARIABLE).filter(|path| !path.is_empty()).map(Path::new);
    match flags.file().or(variable) {
        Some(path) => ConfigurationFile::read(path),
        None => Ok(ConfigurationFile::default()),
    }
}

fn database_settings(layers: &Layers<'_>) -> Result<DatabaseSettings, SettingsError> {
    Ok(DatabaseSettings {
        connection: database::connection(layers)?,
        after_connect: layers.find(&definitions::DATABASE_AFTER_CONNECT)?,
        pool_size: layers.get(&definitions::DATABASE_POOL_SIZE)?,
        statement_timeout: layers.get(&definitions::DATABASE_STATEMENT_TIMEOUT)?,
    })
}

fn auth_settings(layers: &Layers<'_>, purpose: Purpose) -> Result<AuthSettings, SettingsError> {
    let jwt_secret = layers.find(&definitions::JWT_SECRET)?;
    let jwks = layers.find(&definitions::JWKS)?;
    if jwt_secret.is_none() && jwks.is_none() {
        return Err(SettingsError::MissingTokenKey);
    }
    if let Some(secret) = &jwt_secret {
        refuse_weak(layers, purpose, secret, &definitions::JWT_SECRET)?;
    }
    Ok(AuthSettings {
        jwt_secret,
        jwks,
        claim_validators: layers.get(&definitions::CLAIM_VALIDATORS)?,
        expiry_notice: layers.get(&definitions::EXPIRY_NOTICE)?,
        token_recheck: layers.get(&definitions::TOKEN_RECHECK)?,
        allowed_origins: layers.find(&definitions::ALLOWED_ORIGINS)?.unwrap_or_default(),
        private_only: layers.get(&definitions::PRIVATE_ONLY)?,
        suspended: layers.get(&definitions::SUSPENDED)?,
    })
}

fn tls_files(layers: &Layers<'_>) -> Result<Option<TlsFiles>, SettingsError> {
    let (certificate, key) = (&definitions::TLS_CERTIFICATE, &definitions::TLS_KEY);
    match (layers.find(certificate)?, layers.find(key)?) {
        (Some(certificate), Some(key)) => {
            Ok(Some(TlsFiles { certificate: certificate.into(), key: key.into() }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => {
            Err(SettingsError::HalfTls { given: certificate.about.key, missing: key.about.key })
        }
        (None, Some(_)) => {
            Err(SettingsError::HalfTls { given: key.about.key, missing: certificate.about.key })
        }
    }
}

/// Outside development, a secret that everybody knows is no secret.
fn refuse_weak(
    layers: &Layers<'_>,
    purpose: Purpose,
    secret: &Secret,
    setting: &Setting<Secret>,
) -> Result<(), SettingsError> {
    match (purpose, layers.origin(&setting.about)) {
        (Purpose::Serve, Some(origin)) => refuse_sample_secret(secret.expose())
            .map_err(|problem| SettingsError::WeakSecret { origin, problem }),
        _ => Ok(()),
    }
}

fn api_jwt_secrets(layers: &Layers<'_>, purpose: Purpose) -> Result<Vec<Secret>, SettingsError> {
    let mut secrets = Vec::new();
    for setting in [&definitions::API_JWT_SECRET, &definitions::API_JWT_SECRET_NEXT] {
        if let Some(secret) = layers.find(setting)? {
            refuse_weak(layers, purpose, &secret, setting)?;
            secrets.push(secret);
        }
    }
    Ok(secrets)
}

fn server_settings(layers: &Layers<'_>, purpose: Purpose) -> Result<ServerSettings, SettingsError> {
    let host: IpAddr = layers.get(&definitions::LISTEN_HOST)?;
    Ok(ServerSettings {
        listen: SocketAddr::new(host, layers.get(&definitions::LISTEN_PORT)?),
        metrics_jwt_secret: layers.find(&definitions::METRICS_JWT_SECRET)?,
        metrics_token_blocklist: layers.find(&definitions::METRICS_TOKEN_BLOCKLIST)?.unwrap_or_default(),
        api_jwt_secrets: api_jwt_secrets(layers, purpose)?,
        api_token_blocklist: layers.find(&definitions::API_TOKEN_BLOCKLIST)?.unwrap_or_default(),
        tls: tls_files(layers)?,
        tls_reload: layers.get(&definitions::TLS_RELOAD)?,
        tls_handshake_timeout: layers.get(&definitions::TLS_HANDSHAKE_TIMEOUT)?,
        max_connections: layers.get(&definitions::MAX_CONNECTIONS)?,
        header_bytes_max: layers.get(&definitions::HEADER_BYTES_MAX)?,
        request_line_bytes_max: layers.get(&definitions::REQUEST_LINE_BYTES_MAX)?,
        headers_max: layers.get(&definitions::HEADERS_MAX)?,
        header_timeout: layers.get(&definitions::HEADER_TIMEOUT)?,
        trusted_proxies: layers.find(&definitions::TRUSTED_PROXIES)?.unwrap_or_default(),
        addresses: AddressLimits {
            connections_max: layers.get(&definitions::ADDRESS_CONNECTIONS)?,
            handshakes_per_second_max: layers.get(&definitions::ADDRESS_HANDSHAKES)?,
        },
        open_files: layers.find(&definitions::OPEN_FILES)?,
        shards: layers.find(&definitions::SHARDS)?,
        outbound_bytes_max: layers.get(&definitions::OUTBOUND_BYTES_MAX)?,
        drain: layers.get(&definitions::DRAIN)?,
        connect_error_backoff: layers.get(&definitions::CONNECT_ERROR_BACKOFF)?,
        channel_error_backoff: layers.get(&definitions::CHANNEL_ERROR_BACKOFF)?,
        replication_ready_timeout: layers.get(&definitions::REPLICATION_READY_TIMEOUT)?,
        region: layers.find(&definitions::REGION)?,
        request_id_baggage_key: layers.get(&definitions::REQUEST_ID_BAGGAGE_KEY)?,
    })
}

fn replication_settings(layers: &Layers<'_>) -> Result<ReplicationSettings, SettingsError> {
    let mut slot = layers.get(&definitions::SLOT)?;
    if let (Some(project), None) = (layers.project, layers.own(&definitions::SLOT.about)) {
        // Slots are of the whole database server, so projects need different ones also in different databases.
        slot = format!("{slot}_{}", project.id.as_str().replace('-', "_"));
    }
    if let Some(suffix) = layers.find(&definitions::SLOT_SUFFIX)? {
        slot = format!("{slot}_{suffix}");
        if let (Err(expected), Some(origin)) =
            (parse::slot(&slot), layers.origin(&definitions::SLOT_SUFFIX.about))
        {
            let found = format!("{slot:?} as the whole name of the slot");
            return Err(SettingsError::Invalid { origin, expected, found });
        }
    }
    let action = layers.get(&definitions::SLOT_LAG_ACTION)?;
    let bytes_max = NonZeroU64::new(layers.get(&definitions::MAX_SLOT_LAG)?);
    Ok(ReplicationSettings {
        slot,
        publications: layers.get(&definitions::PUBLICATIONS)?,
        slot_lag: bytes_max.map(|bytes_max| SlotLag { bytes_max, action }),
        trail_bytes_max: layers.get(&definitions::TRAIL_BYTES_MAX)?,
        canary: Some(layers.get(&definitions::CANARY)?).filter(|every| !every.is_zero()),
    })
}

fn limits(layers: &Layers<'_>) -> Result<Limits, SettingsError> {
    Ok(Limits {
        max_concurrent_users: layers.get(&definitions::MAX_USERS)?,
        max_channels_per_client: layers.get(&definitions::MAX_CHANNELS)?,
        max_bindings_per_channel: layers.get(&definitions::MAX_BINDINGS)?,
        max_joins_per_second: layers.get(&definitions::MAX_JOINS)?,
        payload_bytes_max: layers.get(&definitions::PAYLOAD_BYTES_MAX)?,
        max_batch_messages: layers.get(&definitions::MAX_BATCH_MESSAGES)?,
        presence_calls: RateLimit {
            calls: layers.get(&definitions::PRESENCE_CALLS)?,
            window: layers.get(&definitions::PRESENCE_WINDOW)?,
        },
        max_events_per_second: layers.get(&definitions::MAX_EVENTS)?,
        max_client_events_per_second: layers.get(&definitions::MAX_CLIENT_EVENTS)?,
        max_presence_events_per_second: layers.get(&definitions::MAX_PRESENCE_EVENTS)?,
    })
}

fn log_settings(layers: &Layers<'_>) -> Result<LogSettings, SettingsError> {
    Ok(LogSettings {
        filter: layers.get(&definitions::LOG_LEVEL)?,
        format: layers.get(&definitions::LOG_FORMAT)?,
        health_checks: !layers.get(&definitions::DISABLE_HEALTH_LOGGING)?,
    })
}
