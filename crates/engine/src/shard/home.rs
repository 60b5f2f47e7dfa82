//! The presences of the topics whose home this shard is.
//!
//! A topic's home is one shard, so that its states and diffs have one order. A change leaves at once where the topic has been
//! quiet; those that follow are collected and leave in one diff when the topic's [`Pace`] lets them. A state shows what has
//! left so far, so that it and the diffs behind it add up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;
use walcast_wire::{Ref, Serializer};

use super::Shard;
use crate::command::{Fanout, PeerCommand, PresenceDiff, Target, Tracking};
use crate::ids::{ChannelId, ShardId};
use crate::presence::pace::Pace;
use crate::presence::{Diff, Presence};
use crate::topic::TopicKey;

/// A diff ends when it has got this share of what a socket's queue takes, so that a few of them can stand in it.
const DIFF_SHARE: usize = 8;

/// A topic at its home.
#[derive(Default)]
pub(super) struct HomeTopic {
    presence: Presence,
    pace: Pace,
}

impl HomeTopic {
    /// How many keys are present.
    pub(super) fn present_keys(&self) -> usize {
        self.presence.keys()
    }
}

impl Shard {
    /// The state goes out first where it is wanted, then the diff.
    pub(super) fn track_at_home(&mut self, tracking: Tracking) {
        let Tracking { target, shard, topic, key, members, wants_state } = tracking;
        let limit = self.settings.presence_topic_bytes_max;
        let reference = self.references.next();
        let presence = &mut self.home_topics.entry(topic.clone()).or_default().presence;
        let state = wants_state.then(|| presence.state());
        let tracked = presence.track(target.channel, &key, members, reference, limit);
        if let Some(payload) = state {
            self.tell(shard, PeerCommand::State { target, payload });
        }
        if tracked.is_err() {
            let reason = no_room(limit);
            self.tell(shard, PeerCommand::TrackRefused { target, reason });
        }
        self.publish_when_due(topic);
    }

    pub(super) fn untrack_at_home(&mut self, topic: TopicKey, channel: ChannelId) {
        let Some(found) = self.home_topics.get_mut(&topic) else { return };
        found.presence.untrack(channel);
        self.publish_when_due(topic);
    }

    /// The presence of a lost connection stays for the grace, so that a client that comes back was never away.
    pub(super) fn lost_at_home(&mut self, topic: TopicKey, channel: ChannelId) {
        let grace = self.settings.presence_grace;
        if grace.is_zero() {
            return self.untrack_at_home(topic, channel);
        }
        if self.home_topics.get_mut(&topic).is_some_and(|found| found.presence.lose(channel)) {
            self.absences.add(Instant::now() + grace, topic, channel);
        }
    }

    /// Those whose grace is over have left, unless another channel has taken their presence over.
    pub(super) fn end_absences(&mut self) {
        if self.absences.next().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some((topic, channel)) = self.absences.take_due(now) {
            self.untrack_at_home(topic, channel);
        }
    }

    pub(super) fn state_at_home(&mut self, topic: &TopicKey, target: Target, shard: ShardId) {
        let found = self.home_topics.get_mut(topic);
        let payload = found.map_or_else(|| "{}".into(), |found| found.presence.state());
        self.tell(shard, PeerCommand::State { target, payload });
    }

    /// Tells the followers of topics what has been collected for them, where it is time.
    pub(super) async fn publish_due(&mut self) {
        if self.windows.next().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some(topic) = self.windows.take_due(now) {
            let Some(found) = self.home_topics.get_mut(&topic) else { continue };
            found.pace.waits = false;
            while let Some(diff) = self.next_diff(&topic, now) {
                self.make_room_for(diff.fanout.frame_bytes_max()).await;
                self.tell_all(&diff);
            }
            self.publish_when_due(topic);
        }
    }

    /// After a change: tells the topic's followers of it, or sees to it that they are told when the window is over. Nothing is
    /// kept of a topic where nobody is present, once its window is over.
    fn publish_when_due(&mut self, topic: TopicKey) {
        let (now, window_max) = (Instant::now(), self.settings.presence_diff);
        let Some(found) = self.home_topics.get(&topic).filter(|found| !found.pace.waits) else { return };
        if found.presence.has_changed() && found.pace.not_before(window_max, now).is_none() {
            while let Some(diff) = self.next_diff(&topic, now) {
                self.tell_all(&diff);
            }
        }
        let Some(found) = self.home_topics.get_mut(&topic) else { return };
        if !found.presence.has_changed() && !found.presence.is_empty() {
            return;
        }
        match found.pace.not_before(window_max, now) {
            Some(until) => {
                found.pace.waits = true;
                self.windows.add(until, topic);
            }
            None => drop(self.home_topics.remove(&topic)),
        }
    }

    fn next_diff(&mut self, topic: &TopicKey, now: Instant) -> Option<Arc<PresenceDiff>> {
        let found = self.home_topics.get_mut(topic)?;
        let Diff { payload } = found.presence.publish(self.settings.outbound_bytes_max / DIFF_SHARE)?;
        let reach = found.pace.leaves(now);
        let frame = |serializer| {
            let name = &topic.topic;
            Some(walcast_wire::push(serializer, &Ref::null(), name, "presence_diff", &payload))
        };
        let (v1, v2) = (frame(Serializer::V1), frame(Serializer::V2));
        let fanout = Fanout { topic: topic.clone(), id: None, relief: None, v1, v2 };
        Some(Arc::new(PresenceDiff { fanout, reach }))
    }

    fn tell_all(&mut self, diff: &Arc<PresenceDiff>) {
        for index in 0..self.shards.len() {
            self.tell(ShardId::new(index), PeerCommand::PresenceDiff(Arc::clone(diff)));
        }
    }
}

/// What a track is told for which its topic has no room.
fn no_room(limit: usize) -> String {
    format!("The presence of this topic has no room for the payload (presence.topic_bytes_max = {limit})")
}

/// Presences whose connection was lost, in the order in which their grace ends: it is the same for all.
#[derive(Default)]
pub(super) struct Absences(VecDeque<(Instant, TopicKey, ChannelId)>);

impl Absences {
    fn add(&mut self, until: Instant, topic: TopicKey, channel: ChannelId) {
        self.0.push_back((until, topic, channel));
    }

    /// When the next one is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().map(|&(until, ..)| until)
    }

    fn take_due(&mut self, now: Instant) -> Option<(TopicKey, ChannelId)> {
        self.next().filter(|until| *until <= now)?;
        self.0.pop_front().map(|(_, topic, channel)| (topic, channel))
    }
}

/// Topics whose window is to be over at some time, the next one first.
#[derive(Default)]
pub(super) struct Windows {
    /// The number tells those apart that end together.
    ends: BTreeMap<(Instant, u64), TopicKey>,
    number: u64,
}

impl Windows {
    fn add(&mut self, until: Instant, topic: TopicKey) {
        self.number += 1;
        self.ends.insert((until, self.number), topic);
    }

    /// When the next one is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.ends.first_key_value().map(|(&(until, _), _)| until)
    }

    fn take_due(&mut self, now: Instant) -> Option<TopicKey> {
        self.next().filter(|until| *until <= now)?;
        self.ends.pop_first().map(|(_, topic)| topic)
    }
}

/// Makes `phx_ref`s: 16 characters, unique in the cluster by a random prefix.
pub(super) struct PresenceReferences {
    prefix: u64,
    next: u64,
}

impl PresenceReferences {
    pub(super) fn new() -> Self {
        let random = uuid::Uuid::new_v4().as_u64_pair().1;
        PresenceReferences { prefix: random & 0xFFFF_FFFF, next: 0 }
    }

    pub(super) fn next(&mut self) -> String {
        self.next += 1;
        format!("{:08x}{:08x}", self.prefix, self.next & 0xFFFF_FFFF)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::SessionId;
    use crate::shard::tests::{alone, public_topic};

    fn track(shard: &mut Shard, channel: ChannelId, members: &str) {
        let target = Target { session: SessionId::fresh(), channel };
        let (topic, key, members) = (public_topic(), "k".to_owned(), members.to_owned());
        let tracking = Tracking { target, shard: shard.id, topic, key, members, wants_state: false };
        shard.track_at_home(tracking);
    }

    /// As if so many had got the last diff.
    fn followed_by(shard: &mut Shard, followers: usize) {
        let topic = shard.home_topics.get_mut(&public_topic()).expect("somebody is present");
        topic.pace.leaves(Instant::now()).add(followers);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_wakes_a_shard_for_a_quiet_topic_and_nothing_is_left_of_an_empty_one() {
        let mut shard = alone();
        let [first, second] = [ChannelId::fresh(), ChannelId::fresh()];
        track(&mut shard, first, "");
        assert_eq!(shard.windows.next(), None);
        followed_by(&mut shard, 100);
        track(&mut shard, first, "");
        assert_eq!(shard.windows.next(), None, "the same again");
        track(&mut shard, second, "");
        shard.untrack_at_home(public_topic(), second);
        shard.untrack_at_home(public_topic(), first);
        let window = Duration::from_millis(100);
        assert_eq!(shard.windows.next(), Some(Instant::now() + window));
        assert_eq!(shard.windows.ends.len(), 1, "it waits once");
        tokio::time::advance(window).await;
        shard.publish_due().await;
        assert_eq!(shard.home_topics.len(), 1, "its window is not over");
        tokio::time::advance(window).await;
        shard.publish_due().await;
        assert_eq!((shard.home_topics.len(), shard.windows.next()), (0, None));
    }
}
