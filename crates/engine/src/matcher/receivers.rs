//! The receivers within an audience: those of the same bytes stand together, so that a frame is made once for them.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use walcast_wire::{BindingId, Serializer};

use super::column_sets::ColumnSet;
use crate::command::{Target, Targets};
use crate::ids::{ChannelId, ShardId};
use crate::membership::Membership;

/// A binding of a channel on the table.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) membership: Arc<Membership>,
    pub(super) id: BindingId,
    /// The columns that it is shown.
    pub(super) columns: ColumnSet,
}

/// One of several bindings that a channel has on a table: their ids go out in one frame.
#[derive(Debug)]
pub(super) struct SharedBinding {
    pub(super) member: Member,
    /// Its place among the channel's.
    pub(super) binding: usize,
}

/// The receivers of one audience.
#[derive(Debug)]
pub(super) enum Receivers {
    /// Most audiences are one person with one channel, which has one binding on the table.
    One(Member),
    Many(Box<Many>),
}

/// A binding that is gone.
pub(super) struct Removed {
    /// What it was shown.
    pub(super) columns: ColumnSet,
    /// Whether nobody is left.
    pub(super) was_last: bool,
}

/// How the frames of a group are written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form<T = Arc<str>> {
    pub(super) topic: T,
    pub(super) id: BindingId,
    pub(super) columns: ColumnSet,
    pub(super) serializer: Serializer,
    pub(super) legacy: bool,
}

/// Receivers of the same bytes.
pub(super) enum Group<'a> {
    One(&'a Member),
    Many(&'a Together),
}

/// Whoever is in an audience of more than one.
#[derive(Debug, Default)]
pub(super) struct Many {
    /// Those without targets are free.
    groups: Vec<Together>,
    free: Vec<u32>,
    by_form: FxHashMap<Form, u32>,
    /// Where each channel is, so that it costs the same to leave a large audience as a small one.
    seats: FxHashMap<ChannelId, Seat>,
    /// By channel.
    shared: FxHashMap<ChannelId, Vec<SharedBinding>>,
}

/// A group of [`Many`].
#[derive(Debug)]
pub(super) struct Together {
    form: Form,
    by_shard: SmallVec<[(ShardId, Targets); 1]>,
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    group: u32,
    /// Among the targets of its shard.
    place: u32,
}

impl Receivers {
    /// A binding, alone; `shared` is its place among the channel's where there are several on the table.
    pub(super) fn new(member: Member, shared: Option<usize>) -> Self {
        if shared.is_none() {
            return Receivers::One(member);
        }
        let mut many = Many::default();
        many.insert(member, shared);
        Receivers::Many(Box::new(many))
    }

    /// Adds a binding.
    pub(super) fn insert(&mut self, member: Member, shared: Option<usize>) {
        match self {
            Receivers::One(first) => {
                let mut many = Many::default();
                many.insert(first.clone(), None);
                many.insert(member, shared);
                *self = Receivers::Many(Box::new(many));
            }
            Receivers::Many(many) => many.insert(member, shared),
        }
    }

    /// Removes a binding of a channel. The last one of all stays: it goes with its audience.
    pub(super) fn remove(&mut self, membership: &Membership) -> Option<Removed> {
        match self {
            Receivers::One(member) => {
                let is_it = member.membership.channel == membership.channel;
                is_it.then_some(Removed { columns: member.columns, was_last: true })
            }
            Receivers::Many(many) => {
                let columns = many.remove(membership)?;
                Some(Removed { columns, was_last: many.seats.is_empty() && many.shared.is_empty() })
            }
        }
    }

    /// Channels whose only binding on the table is in this audience.
    pub(super) fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        let (one, many): (_, &[Together]) = match self {
            Receivers::One(member) => (Some(Group::One(member)), &[]),
            Receivers::Many(many) => (None, &many.groups),
        };
        let taken = many.iter().filter(|group| !group.by_shard.is_empty());
        one.into_iter().chain(taken.map(Group::Many))
    }

    /// Bindings of channels that have several on the table.
    pub(super) fn shared(&self) -> impl Iterator<Item = &SharedBinding> {
        let shared = match self {
            Receivers::One(_) => None,
            Receivers::Many(many) => Some(many.shared.values().flatten()),
        };
        shared.into_iter().flatten()
    }
}

impl<'a> Group<'a> {
    pub(super) fn form(&self) -> Form<&'a str> {
        match *self {
            Group::One(member) => form(member, member.membership.topic()),
            Group::Many(Together { form, .. }) => {
                let &Form { ref topic, id, columns, serializer, legacy } = form;
                Form { topic, id, columns, serializer, legacy }
            }
        }
    }

    pub(super) fn each_target(&self, mut each: impl FnMut(ShardId, Targets)) {
        match self {
            Group::One(Member { membership, .. }) => {
                each(membership.shard, Targets::One(membership.target()));
            }
            Group::Many(group) => {
                group.by_shard.iter().for_each(|(shard, targets)| each(*shard, targets.clone()));
            }
        }
    }
}

impl Many {
    fn insert(&mut self, member: Member, shared: Option<usize>) {
        let channel = member.membership.channel;
        if let Some(binding) = shared {
            self.shared.entry(channel).or_default().push(SharedBinding { member, binding });
            return;
        }
        let form = form(&member, Arc::from(member.membership.topic()));
        let group = match self.by_form.get(&form) {
            Some(&group) => group,
            None => self.add(form),
        };
        if let Some(found) = self.groups.get_mut(group as usize) {
            let place = found.insert(&member.membership);
            self.seats.insert(channel, Seat { group, place });
        }
    }

    fn add(&mut self, form: Form) -> u32 {
        let new = Together { form: form.clone(), by_shard: SmallVec::new() };
        let group = self.free.pop().unwrap_or_else(|| u32::try_from(self.groups.len()).unwrap_or(u32::MAX));
        match self.groups.get_mut(group as usize) {
            Some(free) => *free = new,
            None => self.groups.push(new),
        }
        self.by_form.insert(form, group);
        group
    }

    fn remove(&mut self, membership: &Membership) -> Option<ColumnSet> {
        let channel = membership.channel;
        if let Some(bindings) = self.shared.get_mut(&channel) {
            let gone = bindings.pop();
            if bindings.is_empty() {
                self.shared.remove(&channel);
            }
            return Some(gone?.member.columns);
        }
        let Seat { group, place } = self.seats.remove(&channel)?;
        let found = self.groups.get_mut(group as usize)?;
        let moved = found.remove(membership.shard, place);
        if let Some(seat) = moved.and_then(|moved| self.seats.get_mut(&moved.channel)) {
            seat.place = place;
        }
        if found.by_shard.is_empty() {
            self.by_form.remove(&found.form);
            self.free.push(group);
        }
        Some(found.form.columns)
    }
}

impl Together {
    /// Adds a channel and tells its place among the targets of its shard.
    fn insert(&mut self, membership: &Membership) -> u32 {
        let (shard, target) = (membership.shard, membership.target());
        let known = self.by_shard.iter_mut().find(|(known, _)| *known == shard);
        let place = known.map(|(_, targets)| targets.push(target));
        if place.is_none() {
            self.by_shard.push((shard, Targets::One(target)));
        }
        u32::try_from(place.unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Removes the channel in a place; gives the one that is there now.
    fn remove(&mut self, shard: ShardId, place: u32) -> Option<Target> {
        let found = self.by_shard.iter().position(|(known, _)| *known == shard)?;
        let targets = &mut self.by_shard[found].1;
        let moved = targets.swap_remove(place as usize);
        if targets.as_slice().is_empty() {
            self.by_shard.swap_remove(found);
        }
        moved
    }
}

fn form<T>(member: &Member, topic: T) -> Form<T> {
    let Member { membership, id, columns } = member;
    let legacy = membership.options().legacy;
    Form { topic, id: *id, columns: *columns, serializer: membership.serializer, legacy }
}

#[cfg(test)]
mod tests {
    use walcast_wire::{Binding, Ref};

    use super::super::column_sets::ColumnSets;
    use super::*;
    use crate::ids::SessionId;
    use crate::membership::{self, Asked, Options};
    use crate::topic::Privacy;

    fn member(topic: usize, shard: usize) -> Member {
        let binding = Binding::parse(r#"{"event":"*","schema":"public"}"#).unwrap();
        let id = binding.id;
        let (form, values) = membership::Form::new(vec![binding], Privacy::Public, Options::default());
        let asked = Asked::new(Arc::new(form), &topic.to_string(), &Ref::NULL, &values);
        let membership =
            Membership::new(SessionId::fresh(), ShardId::new(shard), Serializer::V2, Arc::new(asked));
        let columns = ColumnSets::default().take(&[0]);
        Member { membership: Arc::new(membership), id, columns }
    }

    fn seat(Member { membership, .. }: &Member) -> (String, usize, ChannelId) {
        (membership.topic().to_string(), membership.shard.index(), membership.channel)
    }

    /// Topic, shard and channel of every target.
    fn seats(receivers: &Receivers) -> Vec<(String, usize, ChannelId)> {
        let mut found = Vec::new();
        for group in receivers.groups() {
            let topic = group.form().topic.to_owned();
            group.each_target(|shard, targets| {
                let targets = targets.as_slice().iter();
                found.extend(targets.map(|target| (topic.clone(), shard.index(), target.channel)));
            });
        }
        found.sort();
        found
    }

    #[test]
    fn whoever_leaves_an_audience_is_gone_and_all_others_stay() {
        let members: Vec<_> = (0..60).map(|number| member(number % 4, number % 3)).collect();
        let mut receivers = Receivers::new(members[0].clone(), None);
        members[1..].iter().for_each(|member| receivers.insert(member.clone(), None));
        assert_eq!(receivers.groups().count(), 4, "a group for each topic");
        let mut left: Vec<_> = members.iter().collect();
        for step in 0..members.len() {
            let gone = left.remove((step * 7) % left.len());
            let removed = receivers.remove(&gone.membership).unwrap();
            assert_eq!(removed.was_last, left.is_empty());
            let mut expected: Vec<_> = left.iter().map(|member| seat(member)).collect();
            expected.sort();
            assert_eq!(seats(&receivers), expected);
            assert!(receivers.remove(&gone.membership).is_none());
        }
        receivers.insert(members[5].clone(), None);
        assert_eq!(seats(&receivers), [seat(&members[5])]);
    }
}
