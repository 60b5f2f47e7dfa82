//! The channels with bindings, by name, as the matcher holds them.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use super::audience::Place;
use crate::ids::ChannelId;
use crate::membership::Membership;
use crate::subscription::Identity;

/// The bindings of one channel. There is one for every subscription, so it has nothing that its audience has.
pub(super) enum Entry {
    /// One binding, live on one table, as of most channels.
    One(Arc<Membership>, Arc<Identity>, Place),
    Other(Box<(Arc<Membership>, Arc<Identity>, Standing)>),
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

impl Entry {
    pub(super) fn new(membership: Arc<Membership>, identity: Arc<Identity>, standing: Standing) -> Self {
        match standing {
            Standing::One(place) => Entry::One(membership, identity, place),
            other => Entry::Other(Box::new((membership, identity, other))),
        }
    }

    pub(super) fn into_parts(self) -> (Arc<Membership>, Arc<Identity>, Standing) {
        match self {
            Entry::One(membership, identity, place) => (membership, identity, Standing::One(place)),
            Entry::Other(parts) => *parts,
        }
    }

    pub(super) fn channel(&self) -> ChannelId {
        match self {
            Entry::One(membership, ..) => membership.channel,
            Entry::Other(parts) => parts.0.channel,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        match self {
            Entry::One(..) => true,
            Entry::Other(parts) => parts.2.is_live(),
        }
    }

    pub(super) fn is_undecided(&self) -> bool {
        matches!(self, Entry::Other(parts) if parts.2 == Standing::Undecided)
    }
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
pub(super) struct Entries(HashTable<Entry>);

impl Entries {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    pub(super) fn contains(&self, channel: ChannelId) -> bool {
        self.0.find(hash(channel), |entry| entry.channel() == channel).is_some()
    }

    /// Who a channel is.
    pub(super) fn identity(&self, channel: ChannelId) -> Option<Arc<Identity>> {
        let found = self.0.find(hash(channel), |entry| entry.channel() == channel)?;
        Some(Arc::clone(match found {
            Entry::One(_, identity, _) => identity,
            Entry::Other(parts) => &parts.1,
        }))
    }

    /// Adds the entry of a channel that has none.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.0.insert_unique(hash(entry.channel()), entry, |entry| hash(entry.channel()));
    }

    pub(super) fn remove(&mut self, channel: ChannelId) -> Option<Entry> {
        let found = self.0.find_entry(hash(channel), |entry| entry.channel() == channel).ok()?;
        Some(found.remove().0)
    }
}

fn hash(channel: ChannelId) -> u64 {
    FxBuildHasher.hash_one(channel)
}
