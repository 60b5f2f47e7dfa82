//! What gateway, shard and matcher all have to know of a channel: each holds the same one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use walcast_wire::{Binding, Ref, Serializer};

use crate::command::Target;
use crate::ids::{ChannelId, SessionId, ShardId};
use crate::topic::{Privacy, TopicRef};

/// A session's membership of a topic, from its join on. There is one for each channel, and there may be
/// hundreds of thousands of channels: what others have just the same is in [`Asked`].
#[derive(Debug)]
pub struct Membership {
    pub(crate) session: SessionId,
    pub(crate) channel: ChannelId,
    pub(crate) asked: Arc<Asked>,
    pub(crate) shard: ShardId,
    pub(crate) serializer: Serializer,
    /// Own broadcasts come back.
    pub(crate) receive_own: bool,
    /// Broadcasts are acknowledged.
    pub(crate) acknowledge: bool,
    /// False when the channel has ended, by whomever.
    pub(crate) open: AtomicBool,
}

/// What was joined. Joins that are alike share one, but those who join a topic of their own have one each, so that all
/// of its text is one.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    form: Arc<Form>,
    /// The topic, the join's `join_ref` as JSON, and the values of the bindings' filters with a NUL between two.
    text: Box<str>,
    /// Where the topic ends in the text. Frames are shorter than 4 GiB.
    topic_end: u32,
    /// Where the `join_ref` ends.
    join_ref_end: u32,
}

/// What was joined, but for topic, `join_ref` and the values of filters: many have that alike who join a topic of their
/// own.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// What is left of each binding; see [`Binding::into_parts`]. They are read again when the catalog changes.
    bindings: Box<[Arc<str>]>,
    privacy: Privacy,
    /// Changes are pushed in the old form (docs/protocol.md §3.8).
    legacy: bool,
}

impl Form {
    /// What others may have alike, and the values of the bindings' filters, for [`Asked::new`].
    pub(crate) fn new(bindings: Vec<Binding>, privacy: Privacy, legacy: bool) -> (Self, String) {
        let (bindings, values): (Vec<_>, Vec<_>) = bindings.into_iter().map(Binding::into_parts).unzip();
        (Form { bindings: bindings.into(), privacy, legacy }, values.join("\0"))
    }
}

impl Asked {
    pub(crate) fn new(form: Arc<Form>, topic: &str, join_ref: &Ref, values: &str) -> Self {
        let join_ref = join_ref.as_json();
        let end = |length| u32::try_from(length).unwrap_or(u32::MAX);
        let (topic_end, join_ref_end) = (end(topic.len()), end(topic.len() + join_ref.len()));
        Asked { form, text: [topic, join_ref, values].concat().into(), topic_end, join_ref_end }
    }

    fn topic(&self) -> &str {
        self.text.get(..self.topic_end as usize).unwrap_or_default()
    }

    fn join_ref(&self) -> Ref {
        let json = self.text.get(self.topic_end as usize..self.join_ref_end as usize);
        Ref::from_json(json.unwrap_or("null"))
    }

    fn values(&self) -> impl Iterator<Item = &str> {
        self.text.get(self.join_ref_end as usize..).unwrap_or_default().split('\0')
    }
}

impl Membership {
    /// Where frames go.
    pub(crate) fn target(&self) -> Target {
        Target { session: self.session, channel: self.channel }
    }

    /// The whole topic, `realtime:…`.
    pub(crate) fn topic(&self) -> &str {
        self.asked.topic()
    }

    /// Which of the topics of this name.
    pub(crate) fn key(&self) -> TopicRef<'_> {
        TopicRef { topic: self.topic(), privacy: self.asked.form.privacy }
    }

    /// The join's `join_ref`, which the channel keeps.
    pub(crate) fn join_ref(&self) -> Ref {
        self.asked.join_ref()
    }

    /// Whether changes are pushed in the old form.
    pub(crate) fn is_legacy(&self) -> bool {
        self.asked.form.legacy
    }

    /// The bindings that were asked for.
    pub(crate) fn bindings(&self) -> Vec<Binding> {
        let parts = self.asked.form.bindings.iter().zip(self.asked.values());
        // These are parts of what has been read already.
        parts.filter_map(|(common, value)| Binding::of_parts(common, value).ok()).collect()
    }

    /// How many they are.
    pub(crate) fn binding_count(&self) -> usize {
        self.asked.form.bindings.len()
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
