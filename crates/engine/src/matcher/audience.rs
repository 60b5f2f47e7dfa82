//! Who is subscribed to a table: subscriptions that one evaluation decides for stand together, and within
//! them those that get the very same bytes. Audiences whose rows must have a certain value in a column are
//! found by that value, so that a change costs as much as it has receivers.

use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use walcast_pgoutput::{Oid, PgTimestamp};
use walcast_policy::{BoundPlan, Datum, Filter, Finder, Found, Key, MembersAt, RowImage};
use walcast_wire::{BindingEvent, ChangeKind, Serializer};

use super::groups::Groups;
use crate::command::Target;
use crate::ids::{ChannelId, ShardId};
use crate::subscription::Placement;

/// Members that a row is looked up for at most, for each audience that may be among them, and in any case.
const MEMBERS_PER_AUDIENCE: usize = 4;
const MEMBERS_MIN: usize = 64;

/// What all members of an audience share: one evaluation decides for them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AudienceKey {
    pub(super) event: BindingEvent,
    pub(super) role: Arc<str>,
    pub(super) filter: Filter,
    pub(super) plan: BoundPlan,
    pub(super) reads_key: bool,
    /// Whether UPDATEs are told as the INSERT of a row that comes into sight, and as the DELETE of one that goes.
    pub(super) visibility: bool,
}

/// Subscriptions that one evaluation decides for.
#[derive(Debug)]
pub(super) struct Audience {
    pub(super) key: AudienceKey,
    /// Channels whose only binding on the table is in this audience.
    pub(super) groups: Groups,
    /// Bindings of channels that have several on the table: their ids go out in one frame.
    pub(super) shared: Vec<SharedBinding>,
}

/// One of several bindings that a channel has on a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SharedBinding {
    pub(super) channel: ChannelId,
    /// Index into the channel's placements.
    pub(super) placement: usize,
}

/// Where a channel's frames go and how they are written.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) shard: ShardId,
    pub(super) target: Target,
    pub(super) topic: Arc<str>,
    pub(super) serializer: Serializer,
    pub(super) legacy: bool,
}

/// The audiences of every table.
#[derive(Default)]
pub(super) struct Audiences {
    tables: FxHashMap<Oid, TableAudiences>,
}

/// An audience of a table, by its place in [`TableAudiences::slots`]. It holds until a subscription comes or goes.
pub(super) type Slot = usize;

/// The audiences of one table.
#[derive(Default)]
pub(super) struct TableAudiences {
    slots: Vec<Option<Box<Audience>>>,
    free: Vec<Slot>,
    by_key: FxHashMap<AudienceKey, Slot>,
    /// How many audiences have `visibility`.
    with_visibility: usize,
    /// Audiences that any row may be for.
    unindexed: Vec<Slot>,
    /// By column and value: audiences whose rows have that value there.
    by_column: FxHashMap<usize, FxHashMap<Box<str>, Vec<Slot>>>,
    /// By look-up and value: audiences for whom a row is only where the look-up finds that value for it.
    by_finder: FxHashMap<Arc<Finder>, FxHashMap<Box<[u8]>, Vec<Slot>>>,
}

/// What an audience is found from.
pub(super) struct Sight<'a> {
    pub(super) row: &'a RowImage<'a>,
    /// The transaction's commit time.
    pub(super) now: PgTimestamp,
    pub(super) members: MembersAt<'a>,
    /// What the index found by look-ups.
    pub(super) found: &'a Found,
}

impl Audiences {
    /// The audiences of a table; `None` where nobody is subscribed.
    pub(super) fn of(&self, table: Oid) -> Option<&TableAudiences> {
        self.tables.get(&table)
    }

    pub(super) fn clear(&mut self) {
        self.tables.clear();
    }

    pub(super) fn insert(&mut self, address: &Address, placements: &[Placement]) {
        for (index, placement) in placements.iter().enumerate() {
            let audience = self.tables.entry(placement.table.oid).or_default().audience(placement);
            if is_only_one(placements, placement) {
                audience.groups.insert(address, placement);
            } else {
                audience.shared.push(SharedBinding { channel: address.target.channel, placement: index });
            }
        }
    }

    pub(super) fn remove(&mut self, address: &Address, placements: &[Placement]) {
        for placement in placements {
            let Some(table) = self.tables.get_mut(&placement.table.oid) else { continue };
            table.remove(address, placement, is_only_one(placements, placement));
            if table.by_key.is_empty() {
                self.tables.remove(&placement.table.oid);
            }
        }
    }
}

impl TableAudiences {
    pub(super) fn get(&self, slot: Slot) -> Option<&Audience> {
        self.slots.get(slot)?.as_deref()
    }

    /// Whether an audience is to be told of rows that leave and enter.
    pub(super) fn has_visibility(&self) -> bool {
        self.with_visibility > 0
    }

    /// The audiences that a change with this image may be for, each once.
    pub(super) fn candidates(&self, kind: ChangeKind, sight: &Sight<'_>) -> Vec<Slot> {
        let mut slots = self.found(sight);
        slots.retain(|slot| self.asks_for(*slot, kind));
        slots
    }

    /// The audiences that an UPDATE may be for, each once: those with `visibility` by the row that it found as well as
    /// by the one that it left, and whatever kind they ask for.
    pub(super) fn candidates_by_both(&self, before: &Sight<'_>, after: &Sight<'_>) -> Vec<Slot> {
        let with_visibility = |slot: Slot| self.get(slot).is_some_and(|audience| audience.key.visibility);
        let mut slots = self.found(before);
        slots.retain(|slot| with_visibility(*slot));
        slots.extend(self.found(after));
        slots.sort_unstable();
        slots.dedup();
        slots.retain(|slot| with_visibility(*slot) || self.asks_for(*slot, ChangeKind::Update));
        slots
    }

    /// The audiences that the index has for an image, each once.
    fn found(&self, sight: &Sight<'_>) -> Vec<Slot> {
        let mut slots = self.unindexed.clone();
        for (&column, values) in &self.by_column {
            if let Datum::Text(text) = sight.row.get(column)
                && let Some(found) = values.get(text)
            {
                slots.extend_from_slice(found);
            }
        }
        for (finder, values) in &self.by_finder {
            let before = slots.len();
            // Where a row is for more people than are here, it is cheaper to go through those who are.
            let limit = MEMBERS_PER_AUDIENCE * values.len() + MEMBERS_MIN;
            let found = sight.found.values(finder, sight.row, sight.now, sight.members, limit, |value| {
                slots.extend(values.get(value).into_iter().flatten());
            });
            if !found {
                slots.truncate(before);
                slots.extend(values.values().flatten());
            }
        }
        if self.by_column.len() > 1 || !self.by_finder.is_empty() {
            slots.sort_unstable();
            slots.dedup();
        }
        slots
    }

    /// Every audience that asks for this kind of change.
    pub(super) fn all(&self, kind: ChangeKind) -> Vec<Slot> {
        (0..self.slots.len()).filter(|slot| self.asks_for(*slot, kind)).collect()
    }

    fn asks_for(&self, slot: Slot, kind: ChangeKind) -> bool {
        self.get(slot).is_some_and(|audience| audience.key.event.includes(kind))
    }

    fn audience(&mut self, placement: &Placement) -> &mut Audience {
        let key = audience_key(placement);
        let slot = match self.by_key.get(&key) {
            Some(&slot) => slot,
            None => self.add(key),
        };
        self.slots[slot].get_or_insert_with(|| Box::new(Audience::new(audience_key(placement))))
    }

    fn add(&mut self, key: AudienceKey) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        match key.keys() {
            None => self.unindexed.push(slot),
            Some(keys) => keys.into_iter().for_each(|key| self.index(slot, key)),
        }
        self.with_visibility += usize::from(key.visibility);
        self.slots[slot] = Some(Box::new(Audience::new(key.clone())));
        self.by_key.insert(key, slot);
        slot
    }

    fn remove(&mut self, address: &Address, placement: &Placement, only_one: bool) {
        let key = audience_key(placement);
        let Some(&slot) = self.by_key.get(&key) else { return };
        let Some(audience) = self.slots[slot].as_mut() else { return };
        if only_one {
            audience.groups.remove(address, placement);
        } else {
            audience.shared.retain(|binding| binding.channel != address.target.channel);
        }
        if audience.groups.is_empty() && audience.shared.is_empty() {
            self.discard(slot, &key);
        }
    }

    fn discard(&mut self, slot: Slot, key: &AudienceKey) {
        self.by_key.remove(key);
        self.slots[slot] = None;
        self.free.push(slot);
        self.with_visibility -= usize::from(key.visibility);
        match key.keys() {
            None => forget(&mut self.unindexed, slot),
            Some(keys) => keys.into_iter().for_each(|key| self.unindex(slot, key)),
        }
    }

    fn index(&mut self, slot: Slot, key: Key) {
        match key {
            Key::Column { column, value } => {
                self.by_column.entry(column).or_default().entry(value).or_default().push(slot);
            }
            Key::Member { finder, value } => {
                self.by_finder.entry(finder).or_default().entry(value).or_default().push(slot);
            }
        }
    }

    fn unindex(&mut self, slot: Slot, key: Key) {
        match key {
            Key::Column { column, value } => unindex(&mut self.by_column, &column, &value, slot),
            Key::Member { finder, value } => unindex(&mut self.by_finder, &finder, &value, slot),
        }
    }
}

fn unindex<K: Eq + Hash, V: Eq + Hash>(
    index: &mut FxHashMap<K, FxHashMap<V, Vec<Slot>>>,
    place: &K,
    value: &V,
    slot: Slot,
) {
    let Some(values) = index.get_mut(place) else { return };
    if let Some(slots) = values.get_mut(value) {
        forget(slots, slot);
        if slots.is_empty() {
            values.remove(value);
        }
    }
    if values.is_empty() {
        index.remove(place);
    }
}

fn forget(slots: &mut Vec<Slot>, slot: Slot) {
    if let Some(place) = slots.iter().position(|other| *other == slot) {
        slots.swap_remove(place);
    }
}

impl AudienceKey {
    /// Keys one of which a row must have to be for this audience; `None` where nothing of the kind is known. The
    /// cheaper choice of policy and filter.
    fn keys(&self) -> Option<Vec<Key>> {
        if !self.reads_key {
            // Every change is shown to them as an error.
            return None;
        }
        match (self.plan.keys(), self.filter.keys()) {
            (Some(plan), Some(filter)) if Key::cost(&filter) < Key::cost(&plan) => Some(filter),
            (Some(plan), _) => Some(plan),
            (None, filter) => filter,
        }
    }
}

impl Audience {
    fn new(key: AudienceKey) -> Self {
        Audience { key, groups: Groups::default(), shared: Vec::new() }
    }
}

fn is_only_one(placements: &[Placement], placement: &Placement) -> bool {
    placements.iter().filter(|other| other.table.oid == placement.table.oid).count() == 1
}

fn audience_key(placement: &Placement) -> AudienceKey {
    AudienceKey {
        event: placement.event,
        role: Arc::clone(&placement.role),
        filter: placement.filter.clone(),
        plan: placement.plan.clone(),
        reads_key: placement.reads_key,
        visibility: placement.visibility,
    }
}
