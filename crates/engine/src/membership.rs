//! What gateway, shard and matcher all have to know of a channel: each holds the same one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use walcast_wire::{Binding, Ref, Serializer};

use crate::command::Target;
use crate::ids::{ChannelId, SessionId, ShardId};
use crate::topic::TopicKey;

/// A session's membership of a topic, from its join on. There is one for each channel, and there may be
/// hundreds of thousands of channels: what others have just the same is in [`Asked`].
#[derive(Debug)]
pub struct Membership {
    pub(crate) session: SessionId,
    pub(crate) channel: ChannelId,
    pub(crate) asked: Arc<Asked>,
    /// The join's `join_ref`, which the channel keeps.
    pub(crate) join_ref: Ref,
    pub(crate) shard: ShardId,
    pub(crate) serializer: Serializer,
    /// Own broadcasts come back.
    pub(crate) receive_own: bool,
    /// Broadcasts are acknowledged.
    pub(crate) acknowledge: bool,
    /// False when the channel has ended, by whomever.
    pub(crate) open: AtomicBool,
}

/// What was joined. Joins that are alike share one.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    pub(crate) topic: TopicKey,
    pub(crate) bindings: Arc<[Binding]>,
    /// Changes are pushed in the old form (docs/protocol.md §3.8).
    pub(crate) legacy: bool,
}

impl Membership {
    /// Where frames go.
    pub(crate) fn target(&self) -> Target {
        Target { session: self.session, channel: self.channel }
    }

    /// The whole topic, `realtime:…`.
    pub(crate) fn topic(&self) -> &Arc<str> {
        &self.asked.topic.topic
    }

    /// Which of the topics of this name.
    pub(crate) fn key(&self) -> &TopicKey {
        &self.asked.topic
    }

    /// Whether the channel is still there.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// It has ended.
    pub(crate) fn end(&self) {
        self.open.store(false, Ordering::Relaxed);
    }
}
