//! Who is on a topic, as far as its shard has them: those who get broadcasts, and those who are told who is present.
//!
//! Every channel knows its place in each list, so that one can be taken out of 100,000 without looking for it.

use rustc_hash::FxHashMap;

use super::Shard;
use super::holds::Replays;
use crate::command::Target;
use crate::ids::SessionId;
use crate::session::{Channel, Place, Session};
use crate::topic::TopicKey;

/// The members of a topic.
#[derive(Default)]
pub(super) struct Topic {
    /// Joined channels, be they on a list or not.
    pub(super) channels: usize,
    /// Those who get broadcasts.
    pub(super) listeners: Vec<Target>,
    /// Those who have been sent the presences and get their diffs.
    pub(super) followers: Vec<Target>,
    /// What replays need here; most topics have none.
    pub(super) replays: Option<Box<Replays>>,
}

/// One of a topic's lists.
#[derive(Clone, Copy)]
enum List {
    Listeners,
    Followers,
}

impl Topic {
    fn is_empty(&self) -> bool {
        self.channels == 0 && self.replays.is_none()
    }

    fn list(&mut self, list: List) -> &mut Vec<Target> {
        match list {
            List::Listeners => &mut self.listeners,
            List::Followers => &mut self.followers,
        }
    }

    fn add(&mut self, list: List, target: Target) -> Place {
        let members = self.list(list);
        if members.is_empty() {
            // Many a topic has one member.
            members.reserve_exact(1);
        }
        members.push(target);
        Place::new(members.len() - 1)
    }

    /// Takes out whoever has this place, and tells the one that gets it.
    fn remove(&mut self, list: List, place: Place, sessions: &mut FxHashMap<SessionId, Session>) {
        let members = self.list(list);
        members.swap_remove(place.index());
        if members.capacity() > 64 && members.len() < members.capacity() / 4 {
            members.shrink_to(2 * members.len());
        }
        let Some(&moved) = members.get(place.index()) else { return };
        let channel =
            sessions.get_mut(&moved.session).and_then(|found| found.channel_by_id_mut(moved.channel));
        if let Some(channel) = channel {
            match list {
                List::Listeners => channel.listening = Some(place),
                List::Followers => channel.presence_mut().following = Some(place),
            }
        }
    }
}

impl Shard {
    /// A channel is on its topic, and gets what its rights allow.
    pub(super) fn enter_topic(&mut self, target: Target, key: &TopicKey) {
        self.topics.entry(key.clone()).or_default().channels += 1;
        self.listen(target);
    }

    /// A channel that its session has given up is on no list any more.
    pub(super) fn leave_topic(&mut self, channel: &mut Channel) {
        self.unlisten(channel);
        self.unfollow(channel);
        let key = channel.key();
        if let Some(topic) = self.topics.get_mut(key) {
            topic.channels = topic.channels.saturating_sub(1);
            topic.forget_replay(channel.id());
            if topic.is_empty() {
                self.topics.remove(key);
            }
        }
    }

    /// Forgets a topic that nothing is left of.
    pub(super) fn drop_empty_topic(&mut self, key: &TopicKey) {
        if self.topics.get(key).is_some_and(Topic::is_empty) {
            self.topics.remove(key);
        }
    }

    /// From now on the channel gets broadcasts, if it may.
    pub(super) fn listen(&mut self, target: Target) {
        let Some(channel) = channel_of(&mut self.sessions, target) else { return };
        if channel.listening.is_some() || !channel.rights.broadcast {
            return;
        }
        if let Some(topic) = self.topics.get_mut(channel.key()) {
            channel.listening = Some(topic.add(List::Listeners, target));
        }
    }

    /// From now on the channel gets presence diffs, if it may.
    pub(super) fn follow(&mut self, target: Target) {
        let Some(channel) = channel_of(&mut self.sessions, target) else { return };
        if channel.presence_mut().following.is_some() || !channel.rights.presence {
            return;
        }
        if let Some(topic) = self.topics.get_mut(channel.key()) {
            let place = topic.add(List::Followers, target);
            channel.presence_mut().following = Some(place);
        }
    }

    /// No more broadcasts for a channel that is out of its session's list at the moment.
    pub(super) fn unlisten(&mut self, channel: &mut Channel) {
        if let Some(place) = channel.listening.take()
            && let Some(topic) = self.topics.get_mut(channel.key())
        {
            topic.remove(List::Listeners, place, &mut self.sessions);
        }
    }

    /// No more presence diffs for a channel that is out of its session's list at the moment.
    pub(super) fn unfollow(&mut self, channel: &mut Channel) {
        if channel.presence().is_none() {
            return;
        }
        let presence = channel.presence_mut();
        presence.follows = false;
        if let Some(place) = presence.following.take()
            && let Some(topic) = self.topics.get_mut(channel.key())
        {
            topic.remove(List::Followers, place, &mut self.sessions);
        }
    }
}

fn channel_of(sessions: &mut FxHashMap<SessionId, Session>, target: Target) -> Option<&mut Channel> {
    sessions.get_mut(&target.session)?.channel_by_id_mut(target.channel)
}
