//! Who is subscribed to a table: subscriptions that one evaluation decides for stand together, and within
//! them those that get the very same bytes.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use walcast_pgoutput::Oid;
use walcast_policy::{BoundPlan, Filter};
use walcast_wire::{BindingEvent, BindingId, Serializer};

use crate::command::Target;
use crate::ids::{ChannelId, ShardId};
use crate::subscription::Placement;

/// What all members of an audience share: one evaluation decides for them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AudienceKey {
    pub(super) event: BindingEvent,
    pub(super) role: Arc<str>,
    pub(super) filter: Filter,
    pub(super) plan: BoundPlan,
    pub(super) reads_key: bool,
}

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

#[derive(Debug, Default)]
pub(super) struct Audience {
    /// Channels whose only binding on the table is in this audience.
    pub(super) groups: FxHashMap<GroupKey, Group>,
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
    tables: FxHashMap<Oid, FxHashMap<AudienceKey, Audience>>,
}

impl Audiences {
    /// The audiences of a table; `None` where nobody is subscribed.
    pub(super) fn of(&self, table: Oid) -> Option<&FxHashMap<AudienceKey, Audience>> {
        self.tables.get(&table)
    }

    pub(super) fn clear(&mut self) {
        self.tables.clear();
    }

    pub(super) fn insert(&mut self, address: &Address, placements: &[Placement]) {
        for (index, placement) in placements.iter().enumerate() {
            let audience = self
                .tables
                .entry(placement.table.oid)
                .or_default()
                .entry(audience_key(placement))
                .or_default();
            if is_only_one(placements, placement) {
                audience.groups.entry(group_key(address, placement)).or_default().insert(address);
            } else {
                audience.shared.push(SharedBinding { channel: address.target.channel, placement: index });
            }
        }
    }

    pub(super) fn remove(&mut self, address: &Address, placements: &[Placement]) {
        for placement in placements {
            let Some(audiences) = self.tables.get_mut(&placement.table.oid) else {
                continue;
            };
            let key = audience_key(placement);
            let Some(audience) = audiences.get_mut(&key) else {
                continue;
            };
            if is_only_one(placements, placement) {
                let group_key = group_key(address, placement);
                if let Some(group) = audience.groups.get_mut(&group_key) {
                    group.remove(address);
                    if group.by_shard.iter().all(|targets| targets.is_empty()) {
                        audience.groups.remove(&group_key);
                    }
                }
            } else {
                audience.shared.retain(|binding| binding.channel != address.target.channel);
            }
            if audience.groups.is_empty() && audience.shared.is_empty() {
                audiences.remove(&key);
            }
            if audiences.is_empty() {
                self.tables.remove(&placement.table.oid);
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
        let Some(targets) = self.by_shard.get_mut(address.shard.0) else {
            return;
        };
        if let Some(place) = targets.iter().position(|target| *target == address.target) {
            Arc::make_mut(targets).swap_remove(place);
        }
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
