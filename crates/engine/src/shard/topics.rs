//! Who of a shard's channels is on which topic.

use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::command::Target;
use crate::membership::Membership;

/// The channels of each topic that has any.
#[derive(Default)]
pub(super) struct Topics {
    table: HashTable<Members>,
    /// With a secret: clients choose topics.
    hasher: ahash::RandomState,
}

/// There may be a topic for each channel: then it takes no more than a pointer to that one.
enum Members {
    One(Arc<Membership>),
    Many(Box<Many>),
}

struct Many {
    topic: Arc<str>,
    targets: Vec<Target>,
}

impl Topics {
    /// The channels on a topic.
    pub(super) fn members(&self, topic: &str) -> impl Iterator<Item = Target> {
        let found = self.table.find(self.hasher.hash_one(topic), |members| members.topic() == topic);
        let (one, many) = match found {
            None => (None, &[][..]),
            Some(Members::One(membership)) => (Some(membership.target()), &[][..]),
            Some(Members::Many(many)) => (None, &many.targets[..]),
        };
        one.into_iter().chain(many.iter().copied())
    }

    /// Adds a channel.
    pub(super) fn insert(&mut self, membership: &Arc<Membership>) {
        let hasher = &self.hasher;
        let hash = hasher.hash_one(&**membership.topic());
        let is_it = |members: &Members| members.topic() == &**membership.topic();
        match self.table.entry(hash, is_it, |members| hasher.hash_one(members.topic())) {
            Entry::Occupied(mut found) => found.get_mut().push(membership.target()),
            Entry::Vacant(place) => {
                place.insert(Members::One(Arc::clone(membership)));
            }
        }
    }

    /// Removes a channel.
    pub(super) fn remove(&mut self, membership: &Membership) {
        let hash = self.hasher.hash_one(&**membership.topic());
        let is_it = |members: &Members| members.topic() == &**membership.topic();
        let Ok(mut found) = self.table.find_entry(hash, is_it) else { return };
        let target = membership.target();
        let is_last = match found.get_mut() {
            Members::One(last) => last.target() == target,
            Members::Many(many) => {
                many.targets.retain(|member| *member != target);
                many.targets.is_empty()
            }
        };
        if is_last {
            found.remove();
        }
    }
}

impl Members {
    fn topic(&self) -> &str {
        match self {
            Members::One(membership) => membership.topic(),
            Members::Many(many) => &many.topic,
        }
    }

    fn push(&mut self, target: Target) {
        match self {
            Members::One(first) => {
                let (topic, targets) = (Arc::clone(first.topic()), vec![first.target(), target]);
                *self = Members::Many(Box::new(Many { topic, targets }));
            }
            Members::Many(many) => many.targets.push(target),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use walcast_wire::{Ref, Serializer};

    use super::*;
    use crate::ids::{ChannelId, SessionId, ShardId};
    use crate::membership::Asked;

    fn membership(topic: &str) -> Arc<Membership> {
        Arc::new(Membership {
            session: SessionId::fresh(),
            channel: ChannelId::fresh(),
            asked: Arc::new(Asked { topic: topic.into(), ..Asked::default() }),
            join_ref: Ref::null(),
            shard: ShardId::new(0),
            serializer: Serializer::V2,
            receive_own: false,
            acknowledge: false,
            open: AtomicBool::new(true),
        })
    }

    #[test]
    fn a_topic_has_whoever_joined_it_and_did_not_leave() {
        let mut topics = Topics::default();
        let [first, second, third, other] = ["a", "a", "a", "b"].map(membership);
        let members = |topics: &Topics, topic| topics.members(topic).collect::<Vec<_>>();
        topics.insert(&first);
        topics.insert(&other);
        topics.remove(&second);
        assert_eq!(members(&topics, "a"), [first.target()]);
        topics.insert(&second);
        topics.insert(&third);
        topics.remove(&first);
        assert_eq!(members(&topics, "a"), [second.target(), third.target()]);
        assert_eq!(members(&topics, "b"), [other.target()]);
        for gone in [&second, &third, &other] {
            topics.remove(gone);
        }
        assert!(members(&topics, "a").is_empty() && members(&topics, "b").is_empty());
        assert!(topics.table.is_empty());
    }
}
