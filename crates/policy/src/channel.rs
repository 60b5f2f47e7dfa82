//! What policies on `realtime.messages` allow on a private channel, asked through a trait so that neither the
//! engine nor the gateway needs SQL (docs/protocol.md §8.4).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use walcast_pgoutput::PgTimestamp;

use crate::datetime::timestamp_text;
use crate::row::{Datum, RowImage};
use crate::schema::Table;

/// What a message on a channel is; the column `extension` of `realtime.messages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelExtension {
    /// Broadcast.
    Broadcast,
    /// Presence.
    Presence,
}

impl ChannelExtension {
    /// As the column has it.
    pub fn as_str(self) -> &'static str {
        match self {
            ChannelExtension::Broadcast => "broadcast",
            ChannelExtension::Presence => "presence",
        }
    }
}

/// Who asks for what topic.
#[derive(Clone, Debug)]
pub struct ChannelRequest {
    /// The PostgreSQL role that the token names.
    pub role: Arc<str>,
    /// The claims.
    pub claims: Arc<serde_json::Value>,
    /// The claims as JSON text, as they were signed.
    pub claims_json: Arc<str>,
    /// The topic without `realtime:`, which policies find as `realtime.topic()`.
    pub topic: Arc<str>,
    /// A JSON object of header names in lower case and their values, which policies find as
    /// `current_setting('request.headers')`.
    pub headers: Arc<str>,
}

/// What was granted of what was asked; what was not asked is not granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelRights {
    /// Broadcasts.
    pub broadcast: bool,
    /// Presence.
    pub presence: bool,
}

/// The policies could not be asked, or one of them raised. Nothing is granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelPolicyError {
    /// A policy raised, or the role does not exist: `RlsPolicyError`.
    #[error("{0}")]
    Policy(String),
    /// The statement ran into its time limit: `QueryCanceled`. The text is PostgreSQL's.
    #[error("{0}")]
    Canceled(String),
    /// There is no partition for today's messages: `MissingPartition`.
    #[error("{0}")]
    MissingPartition(String),
    /// No connection became free in time: `IncreaseConnectionPool`.
    #[error("{0}")]
    PoolExhausted(String),
    /// PostgreSQL takes no more connections: `DatabaseLackOfConnections`.
    #[error("{0}")]
    TooManyConnections(String),
    /// The database can not be reached: `UnableToConnectToProject`.
    #[error("{0}")]
    Unreachable(String),
    /// `realtime.messages` does not exist or is not what it should be. The text says how to install it.
    #[error("{0}")]
    NotInstalled(String),
}

/// The row by which a channel is judged: what is known of a message before there is one (docs/protocol.md §8.4).
#[derive(Clone, Debug)]
pub struct ProbeRow<'a> {
    topic: &'a str,
    extension: ChannelExtension,
    /// In UTC.
    moment: String,
}

impl<'a> ProbeRow<'a> {
    /// A message of this kind in this topic at the moment `now`.
    pub fn new(topic: &'a str, extension: ChannelExtension, now: PgTimestamp) -> Self {
        ProbeRow { topic, extension, moment: timestamp_text(now.0, false) }
    }

    /// As a row of `realtime.messages`. The id is random, and of columns of somebody's own nothing is known.
    pub fn image(&self, table: &Table) -> RowImage<'_> {
        let values = table.columns.iter().map(|column| match column.name.as_str() {
            "topic" => Datum::Text(self.topic),
            "extension" => Datum::Text(self.extension.as_str()),
            "inserted_at" | "updated_at" => Datum::Text(&self.moment),
            "private" => Datum::Text("f"),
            "event" | "payload" | "binary_payload" => Datum::Null,
            _ => Datum::Missing,
        });
        RowImage { values: values.collect() }
    }
}

/// Which stored messages are wanted (docs/protocol.md §6.4).
#[derive(Clone, Debug)]
pub struct ReplayRequest {
    /// The topic without `realtime:`.
    pub topic: Arc<str>,
    /// Not older than this, in milliseconds since 1970-01-01 00:00 UTC.
    pub since_unix_ms: i64,
    /// The newest so many, 1 to 25.
    pub limit: u8,
}

/// A row of `realtime.messages`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The row's id, a UUID in its text form.
    pub id: Arc<str>,
    /// The event.
    pub event: Arc<str>,
    /// What it carries.
    pub payload: StoredPayload,
}

/// `payload` or `binary_payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredPayload {
    /// JSON text.
    Json(Box<str>),
    /// Bytes.
    Binary(Box<[u8]>),
}

/// Decides what a private channel allows. `walcast-catalog` implements it: by compiled plans where the policies
/// compile, else by PostgreSQL, without ever leaving a row behind.
pub trait ChannelPolicies: Send + Sync + 'static {
    /// Which of `extensions` may be received.
    fn read<'a>(
        &'a self,
        request: &'a ChannelRequest,
        extensions: &'a [ChannelExtension],
    ) -> BoxFuture<'a, Result<ChannelRights, ChannelPolicyError>>;

    /// Which of `extensions` may be sent.
    fn write<'a>(
        &'a self,
        request: &'a ChannelRequest,
        extensions: &'a [ChannelExtension],
    ) -> BoxFuture<'a, Result<ChannelRights, ChannelPolicyError>>;

    /// The stored messages that a replay sends, oldest first.
    fn replay<'a>(
        &'a self,
        request: &'a ReplayRequest,
    ) -> BoxFuture<'a, Result<Vec<StoredMessage>, ChannelPolicyError>>;
}
