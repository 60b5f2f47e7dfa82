//! The receivers of the same bytes within an audience.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use walcast_wire::{BindingId, Serializer};

use super::audience::Address;
use crate::command::Target;
use crate::subscription::Placement;

/// Up to so many groups are searched one by one: most audiences are one person with one group, and a
/// hash table for each would outweigh everything else that is kept of a subscription.
const SEARCHED_MAX: usize = 8;

/// What the receivers of one frame share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    pub(super) topic: Arc<str>,
    pub(super) id: BindingId,
    pub(super) columns: Arc<[usize]>,
    pub(super) serializer: Serializer,
    pub(super) legacy: bool,
}

/// Targets by shard. Shared with deliveries in flight, copied on change.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) by_shard: Vec<Arc<Vec<Target>>>,
}

/// The groups of an audience.
#[derive(Debug, Default)]
pub(super) struct Groups {
    list: Vec<(GroupKey, Group)>,
    /// Places in the list, once it is long.
    places: Option<Box<FxHashMap<GroupKey, usize>>>,
}

impl Groups {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(GroupKey, Group)> {
        self.list.iter()
    }

    pub(super) fn insert(&mut self, address: &Address, placement: &Placement) {
        let key = group_key(address, placement);
        let place = self.place(&key).unwrap_or_else(|| self.add(key));
        self.list[place].1.insert(address);
    }

    pub(super) fn remove(&mut self, address: &Address, placement: &Placement) {
        let Some(place) = self.place(&group_key(address, placement)) else { return };
        let group = &mut self.list[place].1;
        group.remove(address);
        if group.by_shard.iter().all(|targets| targets.is_empty()) {
            self.discard(place);
        }
    }

    fn place(&self, key: &GroupKey) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(key).copied(),
            None => self.list.iter().position(|(known, _)| known == key),
        }
    }

    fn add(&mut self, key: GroupKey) -> usize {
        let place = self.list.len();
        self.list.push((key, Group::default()));
        if let Some(places) = &mut self.places {
            places.insert(self.list[place].0.clone(), place);
        } else if self.list.len() > SEARCHED_MAX {
            let places = self.list.iter().enumerate().map(|(place, (key, _))| (key.clone(), place)).collect();
            self.places = Some(Box::new(places));
        }
        place
    }

    fn discard(&mut self, place: usize) {
        let (key, _) = self.list.swap_remove(place);
        if let Some(places) = &mut self.places {
            places.remove(&key);
            if let Some((moved, _)) = self.list.get(place) {
                places.insert(moved.clone(), place);
            }
        }
    }
}

impl Group {
    fn insert(&mut self, address: &Address) {
        if self.by_shard.len() <= address.shard.0 {
            self.by_shard.resize_with(address.shard.0 + 1, Arc::default);
        }
        Arc::make_mut(&mut self.by_shard[address.shard.0]).push(address.target);
    }

    fn remove(&mut self, address: &Address) {
        let Some(targets) = self.by_shard.get_mut(address.shard.0) else { return };
        if let Some(place) = targets.iter().position(|target| *target == address.target) {
            Arc::make_mut(targets).swap_remove(place);
        }
    }
}

fn group_key(address: &Address, placement: &Placement) -> GroupKey {
    GroupKey {
        topic: Arc::clone(&address.topic),
        id: placement.id,
        columns: Arc::clone(&placement.columns),
        serializer: address.serializer,
        legacy: address.legacy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(topic: &str) -> GroupKey {
        let binding = walcast_wire::Binding::parse(r#"{"event":"*","schema":"public"}"#).unwrap();
        GroupKey {
            topic: topic.into(),
            id: binding.id,
            columns: Arc::new([0]),
            serializer: Serializer::V2,
            legacy: false,
        }
    }

    #[test]
    fn groups_are_found_whether_they_are_few_or_many() {
        let mut groups = Groups::default();
        let topics: Vec<String> = (0..3 * SEARCHED_MAX).map(|number| number.to_string()).collect();
        for (count, topic) in topics.iter().enumerate() {
            assert_eq!(groups.place(&key(topic)), None);
            assert_eq!(groups.add(key(topic)), count);
        }
        for topic in topics.iter().step_by(2) {
            let place = groups.place(&key(topic)).unwrap();
            groups.discard(place);
        }
        for (count, topic) in topics.iter().enumerate() {
            let found = groups.place(&key(topic)).map(|place| groups.list[place].0.topic.to_string());
            assert_eq!(found.as_deref(), (count % 2 == 1).then_some(topic.as_str()));
        }
    }
}
