//! What operators can ask of the engine, over all shards: who is connected, what is joined, and the end of either.

use std::sync::Arc;

use tokio::sync::oneshot;
use walcast_wire::Serializer;

use crate::ids::SessionId;
use crate::topic::{Privacy, TopicKey};

/// One connection of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The connection's name, unique in this process.
    pub session: SessionId,
    /// The `sub` claim of the socket's own token.
    pub subject: Option<Arc<str>>,
    /// The serializer that it negotiated.
    pub serializer: Serializer,
    /// How long it has been open, in seconds.
    pub open_seconds: u64,
    /// Bytes that wait for the socket.
    pub queued_bytes: usize,
    /// Its joined channels, in the order of their joins.
    pub channels: Vec<ChannelInfo>,
}

/// A joined channel of a [`ConnectionInfo`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelInfo {
    /// The whole topic, `realtime:…`.
    pub topic: Arc<str>,
    /// Which of the two topics of this name.
    pub privacy: Privacy,
    /// The `sub` claim of the channel's token, which may differ from the socket's.
    pub subject: Option<Arc<str>>,
}

/// How many are on a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Joined channels.
    pub channels: usize,
    /// Those of them that get broadcasts.
    pub listeners: usize,
    /// Those of them that are told who is present.
    pub followers: usize,
    /// Keys that are present, with those whose connection was lost a moment ago.
    pub present_keys: usize,
    /// Joins that wait for the stored messages they asked for; they are no channels yet.
    pub replaying: usize,
}

/// A topic that somebody has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSummary {
    /// The whole topic, `realtime:…`.
    pub topic: Arc<str>,
    /// Which of the two topics of this name.
    pub privacy: Privacy,
    /// Joined channels.
    pub channels: usize,
}

/// An operation, as each shard is told of it.
pub enum Operation {
    /// [`crate::Engine::connections_of`].
    ConnectionsOf(Arc<str>, oneshot::Sender<Vec<ConnectionInfo>>),
    /// [`crate::Engine::disconnect`].
    Disconnect(Arc<str>, oneshot::Sender<usize>),
    /// [`crate::Engine::unsubscribe`]: the user and the topic.
    Unsubscribe(Arc<str>, Arc<str>, oneshot::Sender<usize>),
    /// [`crate::Engine::occupancy`].
    Occupancy(Arc<str>, Privacy, oneshot::Sender<Occupancy>),
    /// [`crate::Engine::topics`].
    Topics(oneshot::Sender<Vec<TopicSummary>>),
    /// [`crate::Engine::disconnect_all`].
    DisconnectAll(oneshot::Sender<usize>),
}

impl Occupancy {
    pub(crate) fn add(self, other: Occupancy) -> Occupancy {
        Occupancy {
            channels: self.channels + other.channels,
            listeners: self.listeners + other.listeners,
            followers: self.followers + other.followers,
            present_keys: self.present_keys + other.present_keys,
            replaying: self.replaying + other.replaying,
        }
    }
}

impl TopicSummary {
    /// Those of all shards: each topic once, with its channels everywhere, in the order of their names.
    pub(crate) fn merged(summaries: impl IntoIterator<Item = TopicSummary>) -> Vec<TopicSummary> {
        let mut channels = ahash::HashMap::<TopicKey, usize>::default();
        for summary in summaries {
            *channels.entry(TopicKey::new(summary.topic, summary.privacy)).or_default() += summary.channels;
        }
        let summary = |(TopicKey { topic, privacy }, channels)| TopicSummary { topic, privacy, channels };
        let mut merged: Vec<TopicSummary> = channels.into_iter().map(summary).collect();
        merged.sort_by(|one, other| (&one.topic, one.privacy).cmp(&(&other.topic, other.privacy)));
        merged
    }
}
