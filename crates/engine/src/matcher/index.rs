//! Audiences by what a row must have to be for them. Only a hash of it is kept: who is found is judged anyway, so
//! that two values with the same hash cost an evaluation, no more.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use walcast_policy::{Datum, Finder, Key};

use super::audience::Sight;
use super::slots::Slot;

/// Members that a row is looked up for at most, for each audience that may be among them, and in any case.
const MEMBERS_PER_AUDIENCE: usize = 4;
const MEMBERS_MIN: usize = 64;

/// The audiences of one table by their keys.
#[derive(Default)]
pub(super) struct Index {
    /// Audiences that any row may be for.
    unindexed: BTreeSet<Slot>,
    /// By column: audiences whose rows have a certain value there.
    by_column: FxHashMap<usize, ByValue>,
    /// By look-up: audiences for whom a row is only where the look-up finds a certain value for it.
    by_finder: FxHashMap<Arc<Finder>, ByValue>,
    /// With a secret: clients choose values.
    hasher: ahash::RandomState,
}

/// Audiences by a value's hash.
#[derive(Default)]
struct ByValue {
    /// One for each hash: mostly there is no other.
    first: FxHashMap<u32, Slot>,
    others: FxHashMap<u32, BTreeSet<Slot>>,
}

impl Index {
    /// Adds an audience; without keys any row may be for it.
    pub(super) fn insert(&mut self, slot: Slot, keys: Option<&[Key]>) {
        let Some(keys) = keys else {
            self.unindexed.insert(slot);
            return;
        };
        for key in keys {
            match key {
                Key::Column { column, value } => {
                    let hash = hash(&self.hasher, &**value);
                    self.by_column.entry(*column).or_default().insert(hash, slot);
                }
                Key::Member { finder, value } => {
                    let hash = hash(&self.hasher, &**value);
                    self.by_finder.entry(Arc::clone(finder)).or_default().insert(hash, slot);
                }
            }
        }
    }

    /// Removes an audience that was added with these keys.
    pub(super) fn remove(&mut self, slot: Slot, keys: Option<&[Key]>) {
        let Some(keys) = keys else {
            self.unindexed.remove(&slot);
            return;
        };
        for key in keys {
            match key {
                Key::Column { column, value } => {
                    remove(&mut self.by_column, column, hash(&self.hasher, &**value), slot);
                }
                Key::Member { finder, value } => {
                    remove(&mut self.by_finder, finder, hash(&self.hasher, &**value), slot);
                }
            }
        }
    }

    /// The audiences that a row may be for, each once.
    pub(super) fn found(&self, sight: &Sight<'_>) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.unindexed.iter().copied().collect();
        for (&column, values) in &self.by_column {
            if let Datum::Text(text) = sight.row.get(column) {
                values.find(hash(&self.hasher, text), &mut slots);
            }
        }
        for (finder, values) in &self.by_finder {
            // Where a row is for more people than are here, it is cheaper to go through those who are.
            let limit = MEMBERS_PER_AUDIENCE * values.first.len() + MEMBERS_MIN;
            let mut hashes: SmallVec<[u32; 32]> = SmallVec::new();
            let found = sight.found.values(finder, sight.row, sight.now, sight.members, limit, |value| {
                hashes.push(hash(&self.hasher, value));
            });
            if found {
                slots.reserve(hashes.len());
                // Behind the walk, so that the processor fetches the memory of several at a time.
                hashes.iter().for_each(|hash| values.find(*hash, &mut slots));
            } else {
                slots.extend(values.first.values().chain(values.others.values().flatten()));
            }
        }
        if self.by_column.len() > 1 || !self.by_finder.is_empty() {
            slots.sort_unstable();
            slots.dedup();
        }
        slots
    }
}

impl ByValue {
    fn find(&self, hash: u32, slots: &mut Vec<Slot>) {
        slots.extend(self.first.get(&hash));
        if !self.others.is_empty() {
            slots.extend(self.others.get(&hash).into_iter().flatten());
        }
    }

    /// An audience may have two values with the same hash, and is to be found once.
    fn insert(&mut self, hash: u32, slot: Slot) {
        if *self.first.entry(hash).or_insert(slot) != slot {
            self.others.entry(hash).or_default().insert(slot);
        }
    }

    fn remove(&mut self, hash: u32, slot: Slot) {
        let others = self.others.get_mut(&hash);
        if self.first.get(&hash) != Some(&slot) {
            others.map(|others| others.remove(&slot));
        } else if let Some(next) = others.and_then(BTreeSet::pop_first) {
            self.first.insert(hash, next);
        } else {
            self.first.remove(&hash);
        }
        if self.others.get(&hash).is_some_and(BTreeSet::is_empty) {
            self.others.remove(&hash);
        }
    }
}

fn remove<P: Eq + Hash>(index: &mut FxHashMap<P, ByValue>, place: &P, hash: u32, slot: Slot) {
    if let Some(values) = index.get_mut(place) {
        values.remove(hash, slot);
        if values.first.is_empty() {
            index.remove(place);
        }
    }
}

fn hash<V: Hash + ?Sized>(hasher: &ahash::RandomState, value: &V) -> u32 {
    let [a, b, c, d, ..] = hasher.hash_one(value).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(values: &ByValue, hash: u32) -> Vec<Slot> {
        let mut slots = Vec::new();
        values.find(hash, &mut slots);
        slots.sort_unstable();
        slots
    }

    #[test]
    fn audiences_with_the_same_hash_are_all_found_and_each_once() {
        let mut values = ByValue::default();
        for slot in [3, 1, 2, 1, 3] {
            values.insert(7, slot);
        }
        values.insert(8, 1);
        assert_eq!(found(&values, 7), [1, 2, 3]);
        assert_eq!(found(&values, 8), [1]);
        for (gone, left) in [(3, &[1, 2][..]), (3, &[1, 2]), (1, &[2]), (2, &[])] {
            values.remove(7, gone);
            assert_eq!(found(&values, 7), left);
        }
        assert!(!values.first.contains_key(&7) && values.others.is_empty());
        assert_eq!(found(&values, 8), [1]);
    }
}
