//! Users and topics, for operators: who is connected, what is joined, and the end of either.
//!
//! A user is the claim `sub` of the tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use walcast_engine::{ChannelInfo, ConnectionInfo, Privacy, TopicSummary};
use walcast_wire::Serializer;

use super::ProjectApi;
use super::operator::Operator;

pub(super) fn routes() -> OpenApiRouter<Arc<ProjectApi>> {
    OpenApiRouter::default()
        .routes(routes!(get_user))
        .routes(routes!(list_connections, disconnect_user))
        .routes(routes!(unsubscribe_user))
        .routes(routes!(list_topics))
        .routes(routes!(get_topic))
}

/// Whether a user is here.
#[derive(Serialize, ToSchema)]
struct WhetherConnected {
    /// The claim `sub`.
    user: String,
    /// Whether a socket of theirs is open.
    connected: bool,
    /// How many are.
    connections: usize,
}

/// A user's sockets.
#[derive(Serialize, ToSchema)]
struct Connections {
    connections: Vec<Connection>,
}

/// An open socket.
#[derive(Serialize, ToSchema)]
struct Connection {
    /// Unique in this process.
    id: String,
    /// Version of the serializer.
    serializer: &'static str,
    /// Seconds since it was opened.
    open_seconds: u64,
    /// Bytes that wait for it.
    queued_bytes: usize,
    channels: Vec<Channel>,
}

/// A joined channel.
#[derive(Serialize, ToSchema)]
struct Channel {
    /// Without `realtime:`.
    topic: String,
    private: bool,
    /// The `sub` of the channel's own token.
    user: Option<String>,
}

/// How much was ended.
#[derive(Serialize, ToSchema)]
struct Disconnected {
    /// Sockets that were closed.
    disconnected: usize,
}

/// How much was ended.
#[derive(Serialize, ToSchema)]
struct Unsubscribed {
    /// Channels that were closed.
    unsubscribed: usize,
}

/// All topics.
#[derive(Serialize, ToSchema)]
struct Topics {
    topics: Vec<JoinedTopic>,
}

/// A joined topic.
#[derive(Serialize, ToSchema)]
struct JoinedTopic {
    /// Without `realtime:`.
    topic: String,
    private: bool,
    /// Joined channels.
    channels: usize,
}

/// How many are on a topic.
#[derive(Serialize, ToSchema)]
struct TopicOccupancy {
    /// Without `realtime:`.
    topic: String,
    private: bool,
    /// Joined channels.
    channels: usize,
    /// Those of them that get broadcasts.
    listeners: usize,
    /// Those of them that are told who is present.
    followers: usize,
    /// Presence keys.
    present: usize,
}

/// Which of the two topics of a name is meant.
#[derive(Deserialize, IntoParams)]
struct Which {
    /// The private one.
    #[serde(default)]
    private: bool,
}

/// Whether a user is connected.
#[utoipa::path(get, path = "/api/users/{user}", tag = "Users and topics", security(("operator" = [])),
    params(("user" = String, Path, description = "The claim `sub`")),
    responses((status = 200, body = WhetherConnected), (status = 403, description = "No token of an operator")))]
async fn get_user(
    _operator: Operator,
    State(project): State<Arc<ProjectApi>>,
    Path(user): Path<String>,
) -> Json<WhetherConnected> {
    let connections = project.engine.connections_of(&user).await.len();
    Json(WhetherConnected { user, connected: connections > 0, connections })
}

/// A user's open sockets and their channels.
#[utoipa::path(get, path = "/api/users/{user}/connections", tag = "Users and topics", security(("operator" = [])),
    params(("user" = String, Path, description = "The claim `sub`")),
    responses((status = 200, body = Connections), (status = 403, description = "No token of an operator")))]
async fn list_connections(
    _operator: Operator,
    State(project): State<Arc<ProjectApi>>,
    Path(user): Path<String>,
) -> Json<Connections> {
    let found = project.engine.connections_of(&user).await;
    Json(Connections { connections: found.into_iter().map(Connection::from).collect() })
}

/// Closes all sockets of a user with 1008. Clients may come back, as far as their tokens allow.
#[utoipa::path(delete, path = "/api/users/{user}/connections", tag = "Users and topics", security(("operator" = [])),
    params(("user" = String, Path, description = "The claim `sub`")),
    responses((status = 200, body = Disconnected), (status = 403, description = "No token of an operator")))]
async fn disconnect_user(
    _operator: Operator,
    State(project): State<Arc<ProjectApi>>,
    Path(user): Path<String>,
) -> Json<Disconnected> {
    Json(Disconnected { disconnected: project.engine.disconnect(&user).await })
}

/// Closes a user's channels of a topic, public and private.
#[utoipa::path(delete, path = "/api/users/{user}/topics/{topic}", tag = "Users and topics", security(("operator" = [])),
    params(("user" = String, Path, description = "The claim `sub`"),
           ("topic" = String, Path, description = "Without `realtime:`, percent-encoded")),
    responses((status = 200, body = Unsubscribed), (status = 403, description = "No token of an operator")))]
async fn unsubscribe_user(
    _operator: Operator,
    State(project): State<Arc<ProjectApi>>,
    Path((user, topic)): Path<(String, String)>,
) -> Json<Unsubscribed> {
    let unsubscribed = project.engine.unsubscribe(&user, &whole(&topic)).await;
    Json(Unsubscribed { unsubscribed })
}

/// Every joined topic.
#[utoipa::path(get, path = "/api/topics", tag = "Users and topics", security(("operator" = [])),
    responses((status = 200, body = Topics), (status = 403, description = "No token of an operator")))]
async fn list_topics(_operator: Operator, State(project): State<Arc<ProjectApi>>) -> Json<Topics> {
    Json(Topics { topics: project.engine.topics().await.into_iter().map(JoinedTopic::from).collect() })
}

/// How many are on a topic. One that nobody has joined has no channels.
#[utoipa::path(get, path = "/api/topics/{topic}", tag = "Users and topics", security(("operator" = [])),
    params(("topic" = String, Path, description = "Without `realtime:`, percent-encoded"), Which),
    responses((status = 200, body = TopicOccupancy), (status = 400, description = "`private` is neither true nor false"),
              (status = 403, description = "No token of an operator")))]
async fn get_topic(
    _operator: Operator,
    State(project): State<Arc<ProjectApi>>,
    Path(topic): Path<String>,
    Query(Which { private }): Query<Which>,
) -> Json<TopicOccupancy> {
    let found = project.engine.occupancy(&whole(&topic), Privacy::of(private)).await;
    Json(TopicOccupancy {
        topic,
        private,
        channels: found.channels,
        listeners: found.listeners,
        followers: found.followers,
        present: found.present_keys,
    })
}

impl From<ConnectionInfo> for Connection {
    fn from(found: ConnectionInfo) -> Self {
        let serializer = match found.serializer {
            Serializer::V1 => "1.0.0",
            Serializer::V2 => "2.0.0",
        };
        Connection {
            id: found.session.0.to_string(),
            serializer,
            open_seconds: found.open_seconds,
            queued_bytes: found.queued_bytes,
            channels: found.channels.into_iter().map(Channel::from).collect(),
        }
    }
}

impl From<ChannelInfo> for Channel {
    fn from(found: ChannelInfo) -> Self {
        let user = found.subject.map(|subject| subject.to_string());
        Channel { topic: bare(&found.topic), private: found.privacy == Privacy::Private, user }
    }
}

impl From<TopicSummary> for JoinedTopic {
    fn from(found: TopicSummary) -> Self {
        let private = found.privacy == Privacy::Private;
        JoinedTopic { topic: bare(&found.topic), private, channels: found.channels }
    }
}

fn whole(topic: &str) -> Arc<str> {
    format!("realtime:{topic}").into()
}

fn bare(topic: &str) -> String {
    walcast_wire::sub_topic(topic).unwrap_or(topic).to_owned()
}
