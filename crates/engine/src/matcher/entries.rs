//! The channels with bindings, as the matcher holds them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustc_hash::FxHashMap;

use super::audience::Place;
use super::slots::Slots;
use crate::ids::ChannelId;
use crate::membership::Membership;
use crate::subscription::Identity;

/// The bindings of one channel.
pub(super) struct Entry {
    pub(super) membership: Arc<Membership>,
    pub(super) identity: Arc<Identity>,
    pub(super) standing: Standing,
}

/// Whether a channel's bindings are matched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// They are: it is one on one table, as of most channels.
    One(Place),
    /// They are.
    Several(Box<Places>),
    /// They are subscribed, and will be once what they have missed has been gone through.
    Behind,
    /// They can not be subscribed, and the client has been told this.
    Refused(Box<Refusal>),
    /// PostgreSQL could not be asked.
    Undecided,
}

/// Where the bindings of a channel stand, in the order of the bindings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Places(Vec<Place>);

/// What the client has been told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) message: String,
}

impl Standing {
    pub(super) fn live(places: Vec<Place>) -> Self {
        match places[..] {
            [place] => Standing::One(place),
            _ => Standing::Several(Box::new(Places(places))),
        }
    }

    pub(super) fn refused(message: String) -> Self {
        Standing::Refused(Box::new(Refusal { message }))
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self, Standing::One(_) | Standing::Several(_) | Standing::Behind)
    }

    /// Whether a client that has been told of the one need not be told of the other.
    pub(super) fn tells_as(&self, other: &Standing) -> bool {
        self.is_live() && other.is_live() || self == other
    }

    pub(super) fn places(&self) -> &[Place] {
        match self {
            Standing::One(place) => std::slice::from_ref(place),
            Standing::Several(places) => &places.0,
            Standing::Behind | Standing::Refused(_) | Standing::Undecided => &[],
        }
    }
}

/// All entries.
#[derive(Default)]
pub(super) struct Entries {
    /// Of channels with one binding, live on one table, as of most: the membership knows which one is its own.
    lone: Slots<Lone>,
    others: FxHashMap<ChannelId, Entry>,
}

/// An entry with [`Standing::One`]. There is one for most subscriptions, so it has nothing that its audience has.
struct Lone {
    membership: Arc<Membership>,
    identity: Arc<Identity>,
    place: Place,
}

impl Entries {
    /// The channels whose bindings stand so.
    pub(super) fn standing(&self, so: impl Fn(&Standing) -> bool) -> Vec<Arc<Membership>> {
        let lone = self.lone.all().filter_map(|slot| self.lone.get(slot));
        let lone = lone.filter(|lone| so(&Standing::One(lone.place))).map(|lone| &lone.membership);
        let others = self.others.values().filter(|entry| so(&entry.standing)).map(|entry| &entry.membership);
        lone.chain(others).cloned().collect()
    }

    /// Whether some are undecided.
    pub(super) fn has_undecided(&self) -> bool {
        self.others.values().any(|entry| entry.standing == Standing::Undecided)
    }

    pub(super) fn contains(&self, membership: &Membership) -> bool {
        self.is_lone(membership) || self.others.contains_key(&membership.channel)
    }

    /// Who a channel is that is [behind](Standing::Behind).
    pub(super) fn identity(&self, channel: ChannelId) -> Option<Arc<Identity>> {
        self.others.get(&channel).map(|entry| Arc::clone(&entry.identity))
    }

    /// Adds the entry of a channel that has none.
    pub(super) fn insert(&mut self, entry: Entry) {
        let Entry { membership, identity, standing } = entry;
        if let Standing::One(place) = standing {
            let slot = self.lone.add(Lone { membership: Arc::clone(&membership), identity, place });
            membership.entry.store(slot, Relaxed);
        } else {
            self.others.insert(membership.channel, Entry { membership, identity, standing });
        }
    }

    pub(super) fn remove(&mut self, membership: &Membership) -> Option<Entry> {
        if !self.is_lone(membership) {
            return self.others.remove(&membership.channel);
        }
        let Lone { membership, identity, place } = self.lone.take(membership.entry.load(Relaxed))?;
        Some(Entry { membership, identity, standing: Standing::One(place) })
    }

    /// A membership that has no entry there may name that of another.
    fn is_lone(&self, membership: &Membership) -> bool {
        let found = self.lone.get(membership.entry.load(Relaxed));
        found.is_some_and(|lone| lone.membership.channel == membership.channel)
    }
}
