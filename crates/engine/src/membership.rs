//! What gateway, shard and matcher all have to know of a channel: each holds the same one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use walcast_wire::{Binding, Ref, Serializer};

use crate::command::Target;
use crate::ids::{ChannelId, SessionId, ShardId};
use crate::tickets::Claimant;
use crate::topic::{Privacy, TopicKey};

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
    /// Who has it; see [`Claimant`].
    pub(crate) claimant: AtomicU64,
}

/// What was joined. Joins that are alike share one.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    pub(crate) topic: TopicKey,
    pub(crate) form: Arc<Form>,
    /// The values of the bindings' filters, with a NUL between two.
    pub(crate) values: Box<str>,
}

/// What was joined, but for the topic and the values of filters: many have that alike who join a topic of their own.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// What is left of each binding; see [`Binding::into_parts`]. They are read again when the catalog changes.
    bindings: Box<[Arc<str>]>,
    /// Changes are pushed in the old form (docs/protocol.md §3.8).
    pub(crate) legacy: bool,
}

impl Form {
    /// What is kept of bindings: what others may have alike, and [`Asked::values`].
    pub(crate) fn new(bindings: Vec<Binding>, legacy: bool) -> (Self, Box<str>) {
        let (bindings, values): (Vec<_>, Vec<_>) = bindings.into_iter().map(Binding::into_parts).unzip();
        (Form { bindings: bindings.into(), legacy }, values.join("\0").into())
    }
}

impl Asked {
    /// Shows all of what was joined, part by part, always in the same way.
    pub(crate) fn digest(&self, show: &mut dyn FnMut(&[u8])) {
        let Asked { topic, form, values } = self;
        show(topic.topic.as_bytes());
        show(&[u8::from(topic.privacy == Privacy::Private), u8::from(form.legacy)]);
        form.bindings.iter().for_each(|binding| show(binding.as_bytes()));
        show(values.as_bytes());
    }
}

impl Membership {
    /// Who has the channel.
    pub(crate) fn claimant(&self) -> Claimant {
        Claimant(self.claimant.load(Ordering::Relaxed))
    }

    /// The channel has a new token, which may be somebody else's.
    pub(crate) fn set_claimant(&self, claimant: Claimant) {
        self.claimant.store(claimant.0, Ordering::Relaxed);
    }

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

    /// Whether changes are pushed in the old form.
    pub(crate) fn is_legacy(&self) -> bool {
        self.asked.form.legacy
    }

    /// The bindings that were asked for.
    pub(crate) fn bindings(&self) -> Vec<Binding> {
        let Asked { form, values, .. } = &*self.asked;
        let parts = form.bindings.iter().zip(values.split('\0'));
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
