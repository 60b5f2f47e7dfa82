//! Who is on a topic, as far as its shard has them: those who get broadcasts, and those who are told who is present.
//!
//! Every channel knows its place in each list, so that one can be taken out of 100,000 without looking for it. A topic
//! that one channel has for itself, as many are, takes no more than a pointer to that channel.

use std::cell::RefCell;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::holds::Replays;
use super::walk::Walk;
use super::{Sessions, Shard};
use crate::command::Target;
use crate::ids::ChannelId;
use crate::membership::Membership;
use crate::session::{Channel, Place};
use crate::topic::{TopicKey, TopicRef};

/// The topics that a channel is on, or is about to join with a replay.
#[derive(Default)]
pub(super) struct Topics {
    table: HashTable<Topic>,
    /// With a secret: clients choose topics.
    hasher: ahash::RandomState,
}

/// The members of a topic.
pub(super) enum Topic {
    /// One channel, and no replay.
    One(One),
    Many(Box<Many>),
}

pub(super) struct One {
    membership: Arc<Membership>,
    listens: bool,
    follows: bool,
}

pub(super) struct Many {
    key: TopicKey,
    /// Joined channels, be they on a list or not.
    channels: usize,
    listeners: Vec<Target>,
    /// Where the sessions of the listeners lay when the last broadcast came.
    places: RefCell<Vec<u32>>,
    followers: Vec<Target>,
    /// What replays need here; most topics have none.
    replays: Option<Box<Replays>>,
}

/// One of a topic's lists.
#[derive(Clone, Copy)]
enum List {
    /// Those who get broadcasts.
    Listeners,
    /// Those who have been sent the presences and get their diffs.
    Followers,
}

impl Topics {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.table.iter()
    }

    pub(super) fn get(&self, key: TopicRef<'_>) -> Option<&Topic> {
        self.table.find(self.hasher.hash_one(key), |topic| topic.key() == key)
    }

    pub(super) fn get_mut(&mut self, key: TopicRef<'_>) -> Option<&mut Topic> {
        self.table.find_mut(self.hasher.hash_one(key), |topic| topic.key() == key)
    }

    /// The topic, be it that nobody has joined it yet.
    pub(super) fn get_or_insert(&mut self, key: TopicRef<'_>) -> &mut Topic {
        self.entry(key).or_insert_with(|| Topic::Many(Box::new(Many::new(key.to_owned())))).into_mut()
    }

    /// Forgets a topic that nothing is left of.
    pub(super) fn drop_empty(&mut self, key: TopicRef<'_>) {
        if let Entry::Occupied(found) = self.entry(key)
            && found.get().is_empty()
        {
            found.remove();
        }
    }

    /// A channel has joined; it is on no list yet.
    fn enter(&mut self, membership: &Arc<Membership>) {
        match self.entry(membership.key()) {
            Entry::Occupied(found) => found.into_mut().as_many(|many| many.channels += 1),
            Entry::Vacant(place) => {
                let membership = Arc::clone(membership);
                place.insert(Topic::One(One { membership, listens: false, follows: false }));
            }
        }
    }

    /// A channel that is on no list any more has ended.
    fn leave(&mut self, membership: &Membership) {
        let Entry::Occupied(mut found) = self.entry(membership.key()) else { return };
        if found.get_mut().is_emptied_by(membership.channel) {
            found.remove();
        }
    }

    fn entry(&mut self, key: TopicRef<'_>) -> Entry<'_, Topic> {
        let hasher = &self.hasher;
        let is_it = |topic: &Topic| topic.key() == key;
        self.table.entry(hasher.hash_one(key), is_it, |topic| hasher.hash_one(topic.key()))
    }
}

impl Topic {
    pub(super) fn key(&self) -> TopicRef<'_> {
        match self {
            Topic::One(one) => one.membership.key(),
            Topic::Many(many) => many.key.as_ref(),
        }
    }

    /// Joined channels, be they on a list or not.
    pub(super) fn channels(&self) -> usize {
        match self {
            Topic::One(_) => 1,
            Topic::Many(many) => many.channels,
        }
    }

    /// Those who get broadcasts.
    pub(super) fn listeners(&self) -> impl Iterator<Item = Target> {
        self.members(List::Listeners)
    }

    /// The sessions of those who get broadcasts, one after another.
    pub(super) fn walk(&self) -> Walk<'_> {
        match self {
            Topic::One(one) => Walk::to_one(one.listens.then(|| one.membership.target())),
            Topic::Many(many) => Walk::through(&many.listeners, many.places.borrow_mut()),
        }
    }

    /// Those who have been sent the presences and get their diffs.
    pub(super) fn followers(&self) -> impl Iterator<Item = Target> {
        self.members(List::Followers)
    }

    /// What replays need here, if there are any.
    pub(super) fn replays(&self) -> Option<&Replays> {
        match self {
            Topic::One(_) => None,
            Topic::Many(many) => many.replays.as_deref(),
        }
    }

    /// What replays need here, if there are any, to change it.
    pub(super) fn replays_mut(&mut self) -> Option<&mut Replays> {
        match self {
            Topic::One(_) => None,
            Topic::Many(many) => many.replays.as_deref_mut(),
        }
    }

    /// Adds to what replays need here.
    pub(super) fn add_replay(&mut self, add: impl FnOnce(&mut Replays)) {
        self.as_many(|many| add(many.replays.get_or_insert_default()));
    }

    pub(super) fn drop_empty_replays(&mut self) {
        if let Topic::Many(many) = self
            && many.replays.as_deref().is_some_and(Replays::is_empty)
        {
            many.replays = None;
        }
    }

    fn is_empty(&self) -> bool {
        self.channels() == 0 && self.replays().is_none()
    }

    /// Whether nothing is left, now that a channel has ended.
    fn is_emptied_by(&mut self, channel: ChannelId) -> bool {
        self.forget_replay(channel);
        match self {
            Topic::One(one) => one.membership.channel == channel,
            Topic::Many(many) => {
                many.channels = many.channels.saturating_sub(1);
                self.is_empty()
            }
        }
    }

    fn members(&self, list: List) -> impl Iterator<Item = Target> {
        let (one, many) = match (self, list) {
            (Topic::One(one), List::Listeners) => (one.listens.then(|| one.membership.target()), &[][..]),
            (Topic::One(one), List::Followers) => (one.follows.then(|| one.membership.target()), &[][..]),
            (Topic::Many(many), List::Listeners) => (None, &many.listeners[..]),
            (Topic::Many(many), List::Followers) => (None, &many.followers[..]),
        };
        one.into_iter().chain(many.iter().copied())
    }

    /// Puts one of the topic's channels on a list.
    fn add(&mut self, list: List, target: Target) -> Place {
        match self {
            Topic::One(one) => {
                *one.is_on(list) = true;
                Place::new(0)
            }
            Topic::Many(many) => {
                let members = many.list(list);
                members.push(target);
                Place::new(members.len() - 1)
            }
        }
    }

    /// Takes out whoever has this place; the one that gets it.
    fn remove(&mut self, list: List, place: Place) -> Option<Target> {
        match self {
            Topic::One(one) => {
                *one.is_on(list) = false;
                None
            }
            Topic::Many(many) => {
                let members = many.list(list);
                members.swap_remove(place.index());
                let moved = members.get(place.index()).copied();
                if members.capacity() > 64 && members.len() < members.capacity() / 4 {
                    members.shrink_to(2 * members.len());
                    // The next broadcast finds them again.
                    many.places = RefCell::default();
                }
                moved
            }
        }
    }

    /// Changes what a topic of one channel has no room for.
    fn as_many(&mut self, change: impl FnOnce(&mut Many)) {
        match self {
            Topic::One(one) => {
                let mut many = Box::new(Many::of(one));
                change(&mut many);
                *self = Topic::Many(many);
            }
            Topic::Many(many) => change(many),
        }
    }
}

impl One {
    fn is_on(&mut self, list: List) -> &mut bool {
        match list {
            List::Listeners => &mut self.listens,
            List::Followers => &mut self.follows,
        }
    }
}

impl Many {
    fn new(key: TopicKey) -> Self {
        let (listeners, followers) = (Vec::new(), Vec::new());
        Many { key, channels: 0, listeners, places: RefCell::default(), followers, replays: None }
    }

    /// With the one channel at the places that it has.
    fn of(one: &One) -> Self {
        let list = |is_on: bool| is_on.then(|| one.membership.target()).into_iter().collect();
        let (listeners, followers) = (list(one.listens), list(one.follows));
        Many { channels: 1, listeners, followers, ..Many::new(one.membership.key().to_owned()) }
    }

    fn list(&mut self, list: List) -> &mut Vec<Target> {
        match list {
            List::Listeners => &mut self.listeners,
            List::Followers => &mut self.followers,
        }
    }
}

impl Shard {
    /// A channel is on its topic, and gets what its rights allow.
    pub(super) fn enter_topic(&mut self, membership: &Arc<Membership>) {
        self.topics.enter(membership);
        self.listen(membership.target());
    }

    /// A channel that its session has given up is on no list any more.
    pub(super) fn leave_topic(&mut self, channel: &mut Channel) {
        self.unlisten(channel);
        self.unfollow(channel);
        self.topics.leave(&channel.membership);
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
        if let Some(place) = channel.listening.take() {
            self.vacate(channel.key(), List::Listeners, place);
        }
    }

    /// No more presence diffs for a channel that is out of its session's list at the moment.
    pub(super) fn unfollow(&mut self, channel: &mut Channel) {
        if channel.presence().is_none() {
            return;
        }
        let presence = channel.presence_mut();
        presence.follows = false;
        if let Some(place) = presence.following.take() {
            self.vacate(channel.key(), List::Followers, place);
        }
    }

    /// Takes out whoever has this place, and tells the one that gets it.
    fn vacate(&mut self, key: TopicRef<'_>, list: List, place: Place) {
        let moved = self.topics.get_mut(key).and_then(|topic| topic.remove(list, place));
        let Some(channel) = moved.and_then(|moved| channel_of(&mut self.sessions, moved)) else { return };
        match list {
            List::Listeners => channel.listening = Some(place),
            List::Followers => channel.presence_mut().following = Some(place),
        }
    }
}

fn channel_of(sessions: &mut Sessions, target: Target) -> Option<&mut Channel> {
    sessions.get_mut(&target.session)?.channel_by_id_mut(target.channel)
}

#[cfg(test)]
mod tests {
    use walcast_wire::{Ref, Serializer};

    use super::*;
    use crate::ids::{SessionId, ShardId};
    use crate::membership::{Asked, Form, Options};
    use crate::topic::Privacy;

    fn key(topic: &str) -> TopicKey {
        TopicKey::new(topic.into(), Privacy::Public)
    }

    fn membership(key: &TopicKey) -> Arc<Membership> {
        let (form, values) = Form::new(Vec::new(), key.privacy, Options::default());
        let asked = Arc::new(Asked::new(Arc::new(form), &key.topic, &Ref::NULL, &values));
        Arc::new(Membership::new(SessionId::fresh(), ShardId::new(0), Serializer::V2, asked))
    }

    /// Joins and puts on both lists.
    fn join(topics: &mut Topics, membership: &Arc<Membership>) -> [Place; 2] {
        topics.enter(membership);
        let topic = topics.get_mut(membership.key()).unwrap();
        [List::Listeners, List::Followers].map(|list| topic.add(list, membership.target()))
    }

    /// Takes from both lists and ends; the one that gets its place on them.
    fn leave(
        topics: &mut Topics,
        membership: &Arc<Membership>,
        [listening, following]: [Place; 2],
    ) -> Option<Target> {
        let topic = topics.get_mut(membership.key()).unwrap();
        let moved = topic.remove(List::Listeners, listening);
        assert_eq!(topic.remove(List::Followers, following), moved);
        topics.leave(membership);
        moved
    }

    fn members(topics: &Topics, topic: &str) -> Vec<Target> {
        let Some(topic) = topics.get(key(topic).as_ref()) else { return Vec::new() };
        let listeners: Vec<Target> = topic.listeners().collect();
        assert_eq!(topic.followers().collect::<Vec<_>>(), listeners);
        assert_eq!(topic.channels(), listeners.len());
        listeners
    }

    #[test]
    fn a_topic_has_whoever_joined_it_and_did_not_leave() {
        let mut topics = Topics::default();
        let [first, second, third, other] = ["a", "a", "a", "b"].map(|topic| membership(&key(topic)));
        let of_first = join(&mut topics, &first);
        let of_other = join(&mut topics, &other);
        topics.leave(&membership(&key("a")));
        assert_eq!(members(&topics, "a"), [first.target()], "another never was on it");
        let of_second = join(&mut topics, &second);
        join(&mut topics, &third);
        assert_eq!(members(&topics, "a"), [&first, &second, &third].map(|member| member.target()));
        assert_eq!(leave(&mut topics, &first, of_first), Some(third.target()), "the last takes its place");
        assert_eq!(members(&topics, "a"), [third.target(), second.target()]);
        assert_eq!(members(&topics, "b"), [other.target()]);
        assert_eq!(leave(&mut topics, &second, of_second), None);
        assert_eq!(leave(&mut topics, &third, of_first), None);
        assert_eq!(leave(&mut topics, &other, of_other), None);
        assert_eq!(topics.iter().count(), 0);
    }

    #[test]
    fn a_channel_that_has_its_topic_for_itself_is_on_the_lists_it_was_put_on() {
        let mut topics = Topics::default();
        let member = membership(&key("a"));
        topics.enter(&member);
        let lists = |topics: &Topics| {
            let topic = topics.get(key("a").as_ref()).unwrap();
            [topic.listeners().collect::<Vec<_>>(), topic.followers().collect()]
        };
        assert_eq!(lists(&topics), [vec![], vec![]]);
        let place = topics.get_mut(key("a").as_ref()).unwrap().add(List::Followers, member.target());
        assert_eq!(lists(&topics), [vec![], vec![member.target()]]);
        topics.enter(&membership(&key("a")));
        assert_eq!(
            lists(&topics),
            [vec![], vec![member.target()]],
            "it stays where it is when another joins"
        );
        assert_eq!(topics.get_mut(key("a").as_ref()).unwrap().remove(List::Followers, place), None);
        assert_eq!(lists(&topics), [vec![], vec![]]);
    }

    #[test]
    fn public_and_private_topics_of_one_name_are_two() {
        let mut topics = Topics::default();
        let private = membership(&TopicKey::new("a".into(), Privacy::Private));
        join(&mut topics, &private);
        assert_eq!(members(&topics, "a"), []);
    }

    #[test]
    fn a_topic_that_a_channel_has_for_itself_takes_no_more_than_a_pointer_and_its_lists() {
        assert_eq!(size_of::<Topic>(), 2 * size_of::<usize>());
    }
}
