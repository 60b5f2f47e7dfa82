//! Who is subscribed to a table: subscriptions that one evaluation decides for stand together, and within
//! them those that get the very same bytes. Audiences whose rows must have a certain value in a column are
//! found by that value, so that a change costs as much as it has receivers.
//!
//! Most audiences are one person, and there is one for each: everything of it but the plan's constants is in its slot,
//! and indexes have no more than the slot.

use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::FxHashMap;
use walcast_pgoutput::{Oid, PgTimestamp};
use walcast_policy::{BoundPlan, Filter, Found, Key, MembersAt, RowImage};
use walcast_wire::{BindingEvent, ChangeKind};

use super::column_sets::ColumnSets;
use super::index::Index;
use super::receivers::{Member, Receivers, Removed};
use super::slots::{Slot, Slots};
use crate::membership::Membership;
use crate::subscription::Placement;

/// What all members of an audience share: one evaluation decides for them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AudienceKey {
    pub(super) event: BindingEvent,
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
    pub(super) receivers: Receivers,
}

/// Where a binding of a channel is subscribed to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    table: Oid,
    slot: Slot,
}

/// The audiences of every table.
#[derive(Default)]
pub(super) struct Audiences {
    tables: FxHashMap<Oid, TableAudiences>,
}

/// The audiences of one table.
#[derive(Default)]
pub(super) struct TableAudiences {
    slots: Slots<Audience>,
    by_key: HashTable<Slot>,
    /// With a secret: clients choose what is in a key.
    hasher: ahash::RandomState,
    /// How many audiences have `visibility`.
    with_visibility: usize,
    index: Index,
    column_sets: ColumnSets,
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

    /// Subscribes a channel to tables, and tells where.
    pub(super) fn insert(&mut self, membership: &Arc<Membership>, placements: Vec<Placement>) -> Vec<Place> {
        let tables: Vec<Oid> = placements.iter().map(|placement| placement.table).collect();
        let subscribe = |(binding, placement): (usize, Placement)| {
            let Placement { table, .. } = placement;
            let is_only_one = tables.iter().filter(|other| **other == table).count() == 1;
            let shared = (!is_only_one).then_some(binding);
            let slot = self.tables.entry(table).or_default().insert(membership, placement, shared);
            Place { table, slot }
        };
        placements.into_iter().enumerate().map(subscribe).collect()
    }

    /// Ends what [`Audiences::insert`] began.
    pub(super) fn remove(&mut self, membership: &Membership, places: &[Place]) {
        for place in places {
            let Some(table) = self.tables.get_mut(&place.table) else { continue };
            table.remove(membership, place.slot);
            if table.by_key.is_empty() {
                self.tables.remove(&place.table);
            }
        }
    }
}

impl TableAudiences {
    pub(super) fn get(&self, slot: Slot) -> Option<&Audience> {
        self.slots.get(slot)
    }

    /// The sets of columns that subscribers are shown.
    pub(super) fn column_sets(&self) -> &ColumnSets {
        &self.column_sets
    }

    /// The values one of which a new row must have in its column to be for anybody; `None` where that is not all there is
    /// to say of it.
    pub(super) fn wanted_values(&self) -> Option<Vec<(usize, Box<str>)>> {
        if self.has_visibility() {
            return None;
        }
        let mut wanted = Vec::new();
        for slot in self.slots.all() {
            for key in self.get(slot)?.key.keys()? {
                let Key::Column { column, value } = key else { return None };
                wanted.push((column, value));
            }
        }
        Some(wanted)
    }

    /// Whether an audience is to be told of rows that leave and enter.
    pub(super) fn has_visibility(&self) -> bool {
        self.with_visibility > 0
    }

    /// The audiences that a change with this image may be for, each once.
    pub(super) fn candidates(&self, kind: ChangeKind, sight: &Sight<'_>) -> Vec<Slot> {
        let mut slots = self.index.found(sight);
        slots.retain(|slot| self.asks_for(*slot, kind));
        slots
    }

    /// The audiences that an UPDATE may be for, each once: those with `visibility` by the row that it found as well as
    /// by the one that it left, and whatever kind they ask for.
    pub(super) fn candidates_by_both(&self, before: &Sight<'_>, after: &Sight<'_>) -> Vec<Slot> {
        let with_visibility = |slot: Slot| self.get(slot).is_some_and(|audience| audience.key.visibility);
        let mut slots = self.index.found(before);
        slots.retain(|slot| with_visibility(*slot));
        slots.extend(self.index.found(after));
        slots.sort_unstable();
        slots.dedup();
        slots.retain(|slot| with_visibility(*slot) || self.asks_for(*slot, ChangeKind::Update));
        slots
    }

    /// Every audience that asks for this kind of change.
    pub(super) fn all(&self, kind: ChangeKind) -> Vec<Slot> {
        self.slots.all().filter(|slot| self.asks_for(*slot, kind)).collect()
    }

    fn asks_for(&self, slot: Slot, kind: ChangeKind) -> bool {
        self.get(slot).is_some_and(|audience| audience.key.event.includes(kind))
    }

    fn insert(&mut self, membership: &Arc<Membership>, placement: Placement, shared: Option<usize>) -> Slot {
        let columns = self.column_sets.take(&placement.columns);
        let member = Member { membership: Arc::clone(membership), id: placement.id, columns };
        let key = AudienceKey::of(placement);
        let hash = self.hasher.hash_one(&key);
        let slots = &self.slots;
        let is_it = |slot: &Slot| slots.get(*slot).is_some_and(|audience| audience.key == key);
        if let Some(&slot) = self.by_key.find(hash, is_it)
            && let Some(audience) = self.slots.get_mut(slot)
        {
            audience.receivers.insert(member, shared);
            return slot;
        }
        self.add(hash, Audience { key, receivers: Receivers::new(member, shared) })
    }

    fn add(&mut self, hash: u64, audience: Audience) -> Slot {
        let keys = audience.key.keys();
        self.with_visibility += usize::from(audience.key.visibility);
        let slot = self.slots.add(audience);
        self.index.insert(slot, keys.as_deref());
        let (slots, hasher) = (&self.slots, &self.hasher);
        let rehash = |slot: &Slot| slots.get(*slot).map_or(0, |audience| hasher.hash_one(&audience.key));
        self.by_key.insert_unique(hash, slot, rehash);
        slot
    }

    fn remove(&mut self, membership: &Membership, slot: Slot) {
        let Some(audience) = self.slots.get_mut(slot) else { return };
        let Some(Removed { columns, was_last }) = audience.receivers.remove(membership) else { return };
        self.column_sets.release(columns);
        if was_last {
            self.discard(slot);
        }
    }

    fn discard(&mut self, slot: Slot) {
        let Some(Audience { key, .. }) = self.slots.take(slot) else { return };
        if let Ok(found) = self.by_key.find_entry(self.hasher.hash_one(&key), |other| *other == slot) {
            found.remove();
        }
        self.with_visibility -= usize::from(key.visibility);
        self.index.remove(slot, key.keys().as_deref());
    }
}

impl AudienceKey {
    fn of(placement: Placement) -> Self {
        let Placement { event, filter, plan, reads_key, visibility, .. } = placement;
        AudienceKey { event, filter, plan, reads_key, visibility }
    }

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
