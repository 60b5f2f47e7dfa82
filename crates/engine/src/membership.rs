//! What gateway, shard and matcher all have to know of a channel: each holds the same one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use walcast_wire::{Binding, Ref, Serializer};

use crate::command::Target;
use crate::ids::{ChannelId, SessionId, ShardId};
use crate::tickets::Claimant;
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
    /// False when the channel has ended, by whomever.
    open: AtomicBool,
    /// The matcher's: where it has noted the bindings. It saves a look-up table with a line for each channel.
    pub(crate) entry: AtomicU32,
    /// Who has it; see [`Claimant`].
    claimant: AtomicU64,
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
    options: Options,
}

/// What a join asks for beside its bindings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Options {
    /// Changes are pushed in the old form (docs/protocol.md §3.8).
    pub(crate) legacy: bool,
    /// Own broadcasts come back.
    pub(crate) receive_own: bool,
    /// Broadcasts are acknowledged.
    pub(crate) acknowledge: bool,
    /// The client keeps positions and says by itself where it goes on (docs/protocol.md §5.7).
    pub(crate) keeps_positions: bool,
}

impl Form {
    /// What others may have alike, and the values of the bindings' filters, for [`Asked::new`].
    pub(crate) fn new(bindings: Vec<Binding>, privacy: Privacy, options: Options) -> (Self, String) {
        let (bindings, values): (Vec<_>, Vec<_>) = bindings.into_iter().map(Binding::into_parts).unzip();
        (Form { bindings: bindings.into(), privacy, options }, values.join("\0"))
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

impl Asked {
    /// Shows what was joined, and not by whom or how often, part by part and always in the same way.
    pub(crate) fn digest(&self, show: &mut dyn FnMut(&[u8])) {
        let Form { bindings, privacy, options } = &*self.form;
        show(self.topic().as_bytes());
        show(&[u8::from(*privacy == Privacy::Private), u8::from(options.legacy)]);
        bindings.iter().for_each(|binding| show(binding.as_bytes()));
        self.values().for_each(|value| show(value.as_bytes()));
    }

    /// Whether the same was joined, be it with another `join_ref`.
    pub(crate) fn is_alike(&self, other: &Asked) -> bool {
        let Form { bindings, privacy, options } = &*self.form;
        let form = &*other.form;
        self.topic() == other.topic()
            && (bindings, privacy, options.legacy) == (&form.bindings, &form.privacy, form.options.legacy)
            && self.values().eq(other.values())
    }
}

impl Membership {
    /// Of a channel that has not had a name so far.
    pub(crate) fn new(session: SessionId, shard: ShardId, serializer: Serializer, asked: Arc<Asked>) -> Self {
        let (open, entry) = (AtomicBool::new(true), AtomicU32::new(0));
        let (channel, claimant) = (ChannelId::fresh(), AtomicU64::new(0));
        Membership { session, channel, asked, shard, serializer, open, entry, claimant }
    }

    /// Who has the channel.
    pub(crate) fn claimant(&self) -> Claimant {
        Claimant(self.claimant.load(Ordering::Relaxed))
    }

    /// The channel has a token, be it a new one that may be somebody else's.
    pub(crate) fn set_claimant(&self, claimant: Claimant) {
        self.claimant.store(claimant.0, Ordering::Relaxed);
    }

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

    /// What was asked for beside bindings.
    pub(crate) fn options(&self) -> Options {
        self.asked.form.options
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_has_what_was_asked_for_whatever_is_in_the_texts() {
        let bindings = [r#""filter":"owner=eq.Zoë""#, r#""table":"notes""#, r#""filter":"id=in.(1,2)""#];
        let bindings = bindings.map(|member| Binding::parse(&format!(r#"{{"schema":"public",{member}}}"#)));
        let bindings: Vec<_> = bindings.map(Result::unwrap).into();
        let options = Options { acknowledge: true, ..Options::default() };
        for join_ref in [Ref::NULL, Ref::from_text("7"), Ref::from_text(&"é".repeat(400))] {
            for topic in ["realtime:zoë\0null\0", "realtime:a"] {
                let (form, values) = Form::new(bindings.clone(), Privacy::Private, options);
                let asked = Arc::new(Asked::new(Arc::new(form), topic, &join_ref, &values));
                let (session, shard) = (SessionId::fresh(), ShardId::new(0));
                let membership = Membership::new(session, shard, Serializer::V2, asked);
                assert_eq!(membership.key(), TopicRef { topic, privacy: Privacy::Private });
                assert_eq!(membership.join_ref(), join_ref);
                assert_eq!(membership.options(), options);
                let ids = |bindings: Vec<Binding>| bindings.into_iter().map(|binding| binding.id);
                assert!(ids(membership.bindings()).eq(ids(bindings.clone())));
            }
        }
    }
}
