//! What tells topics apart, and what a member of one may receive.

use std::sync::Arc;

/// Public and private channels of one name are two topics (docs/protocol.md §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Privacy {
    /// Whoever has a valid token may join and send.
    Public,
    /// Guarded by policies on `realtime.messages` (docs/protocol.md §8.4).
    Private,
}

impl Privacy {
    /// As the flag `private` of joins and messages has it.
    pub fn of(private: bool) -> Self {
        if private { Privacy::Private } else { Privacy::Public }
    }
}

/// What a channel may receive of Broadcast and Presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRights {
    /// Broadcasts.
    pub broadcast: bool,
    /// Presence.
    pub presence: bool,
}

impl ReadRights {
    /// Everything, as on every public channel.
    pub const ALL: ReadRights = ReadRights { broadcast: true, presence: true };
}

/// A topic: those who joined it get one another's broadcasts and see one another's presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TopicKey<T = Arc<str>> {
    /// The whole name, `realtime:…`.
    pub(crate) topic: T,
    pub(crate) privacy: Privacy,
}

/// A topic whose name is kept elsewhere. It has the hash of its [`TopicKey`].
pub(crate) type TopicRef<'a> = TopicKey<&'a str>;

impl TopicKey {
    pub(crate) fn new(topic: Arc<str>, privacy: Privacy) -> Self {
        TopicKey { topic, privacy }
    }

    pub(crate) fn as_ref(&self) -> TopicRef<'_> {
        TopicKey { topic: &self.topic, privacy: self.privacy }
    }
}

impl TopicRef<'_> {
    /// With a copy of the name.
    pub(crate) fn to_owned(self) -> TopicKey {
        TopicKey::new(self.topic.into(), self.privacy)
    }
}
