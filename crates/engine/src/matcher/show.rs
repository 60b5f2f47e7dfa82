//! What those who get a change are sent: its JSON, encoded once for each set of columns that subscribers are shown, in
//! frames that are made once for all who get the same.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use walcast_pgoutput::PgTimestamp;
use walcast_policy::Datum;
use walcast_wire::change::{NO_PRIMARY_KEY, UNAUTHORIZED};
use walcast_wire::{BindingId, ChangeBody, ChangeKind, ColumnHead, Field, Frame, Position, Serializer};

use super::State;
use super::column_sets::{ColumnSet, ColumnSets};
use super::image::{BoundRelation, ChangeImages};
use super::receivers::{Form, SharedBinding};
use super::ruling::Receiver;
use crate::command::{Delivery, FromLog, Targets};
use crate::ids::ChannelId;
use crate::membership::Membership;

impl State {
    /// Makes the frames of a change for those who get it.
    pub(super) fn show(
        &mut self,
        relation: &BoundRelation,
        images: &ChangeImages<'_>,
        commit: Commit,
        receivers: &[Receiver],
    ) {
        let Some(audiences) = self.audiences.of(relation.table.oid) else {
            return;
        };
        self.outgoing_since.get_or_insert(self.replayed_at.unwrap_or(commit.time));
        let (record_bytes_max, column_sets) =
            (self.matcher.settings.record_bytes_max, audiences.column_sets());
        let mut bodies = Bodies::new(relation, images, commit, record_bytes_max, column_sets);
        let mut shared = SharedFrames::default();
        // Audiences of one person each mostly get the same bytes, and then one delivery is for all of them.
        let mut last: Option<(Form<&str>, View, Frame)> = None;
        for receiver in receivers {
            let Some(audience) = audiences.get(receiver.slot) else {
                continue;
            };
            let kind = receiver.kind;
            let error = error(relation, kind, audience.key.reads_key);
            let old = bodies.old_record(*receiver);
            for group in audience.receivers.groups() {
                let form = group.form();
                let view = View { kind, columns: form.columns, old, error, is_followed: false };
                let same = last.take().filter(|(known, of, _)| *known == form && *of == view);
                let frame = same.map_or_else(
                    || {
                        let Form { topic, id, serializer, legacy, .. } = form;
                        frame(serializer, legacy, topic, &[id], kind, bodies.of(view))
                    },
                    |(_, _, frame)| frame,
                );
                group.each_target(|shard, targets| {
                    add(&mut self.outgoing[shard.index()], &frame, targets);
                });
                last = Some((form, view, frame));
            }
            for SharedBinding { binding, member } in audience.receivers.shared() {
                let view = View { kind, columns: member.columns, old, error, is_followed: false };
                shared.add(&member.membership, view, *binding, member.id);
            }
        }
        for (membership, view, ids) in shared.into_frames() {
            let Membership { serializer, shard, .. } = &*membership;
            let data = bodies.of(view);
            let frame =
                frame(*serializer, membership.options().legacy, membership.topic(), &ids, view.kind, data);
            let targets = Targets::One(membership.target());
            self.outgoing[shard.index()].push(FromLog::Change(Delivery::new(frame, targets)));
        }
    }
}

/// When and where a change was committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commit {
    pub(super) time: PgTimestamp,
    pub(super) position: Position,
}

/// What a subscriber is shown of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// The kind of change that it is told as.
    pub(super) kind: ChangeKind,
    pub(super) columns: ColumnSet,
    pub(super) old: OldRecord,
    pub(super) error: Option<&'static str>,
    /// Whether another message of the same change comes to the channel behind this one: whoever has this one alone has
    /// not got the change yet (docs/protocol.md §4.1).
    pub(super) is_followed: bool,
}

/// How much of the old row is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum OldRecord {
    /// What the replica identity carries (docs/protocol.md §4.2).
    Identity,
    /// The primary key alone: of a row that went, or of one that could be seen but was not in the log as a whole.
    Key,
    /// The primary key as the new row has it: the subscriber could not see the old one, and is not to learn its key.
    NewKey,
}

/// Encodes a change's `data` for each view of it, once.
pub(super) struct Bodies<'a> {
    pub(super) relation: &'a BoundRelation,
    pub(super) images: &'a ChangeImages<'a>,
    pub(super) commit: Commit,
    pub(super) record_bytes_max: usize,
    column_sets: &'a ColumnSets,
    encoded: Vec<(View, Vec<u8>)>,
}

impl<'a> Bodies<'a> {
    pub(super) fn new(
        relation: &'a BoundRelation,
        images: &'a ChangeImages<'a>,
        commit: Commit,
        record_bytes_max: usize,
        column_sets: &'a ColumnSets,
    ) -> Self {
        Bodies { relation, images, commit, record_bytes_max, column_sets, encoded: Vec::new() }
    }

    /// The JSON of `data` for a view.
    pub(super) fn of(&mut self, view: View) -> &[u8] {
        let place = self.encoded.iter().position(|(known, _)| *known == view).unwrap_or_else(|| {
            let body = self.encode(view);
            self.encoded.push((view, body));
            self.encoded.len() - 1
        });
        &self.encoded[place].1
    }

    fn encode(&self, view: View) -> Vec<u8> {
        let table = &self.relation.table;
        let shown = if view.error.is_some() { &[] } else { self.column_sets.get(view.columns) };
        let columns: Vec<_> = shown
            .iter()
            .map(|&index| ColumnHead {
                name: &table.columns[index].name,
                type_name: &self.relation.type_names[index],
            })
            .collect();
        let field = |index: usize, value: Datum<'a>| {
            let text = match value {
                Datum::Missing => return None,
                Datum::Null => None,
                Datum::Text(text) => Some(text),
            };
            let name = table.columns[index].name.as_str();
            Some(Field { name, shape: &self.relation.shapes[index], text })
        };
        let record: Option<Vec<_>> = self
            .images
            .new
            .as_ref()
            .filter(|_| view.kind != ChangeKind::Delete)
            .map(|row| shown.iter().filter_map(|&index| field(index, row.get(index))).collect());
        let old_record: Option<Vec<_>> = self.images.old.as_ref().map(|row| {
            // The old image has no more than the identity.
            let kept = |index: &usize| view.old == OldRecord::Identity || table.columns[*index].primary_key;
            let value = |index: usize| match (view.old, row.get(index), &self.images.new) {
                (OldRecord::NewKey, Datum::Null | Datum::Text(_), Some(new)) => new.get(index),
                (_, value, _) => value,
            };
            shown.iter().copied().filter(kept).filter_map(|index| field(index, value(index))).collect()
        });
        let position = self.commit.position;
        let body = ChangeBody {
            schema: &table.schema,
            table: &table.name,
            kind: view.kind,
            commit_time_unix_us: self.commit.time.unix_microseconds(),
            position: if view.is_followed { position.preceding() } else { position },
            snapshot: false,
            columns: &columns,
            record: record.as_deref(),
            old_record: old_record.as_deref(),
            errors: view.error,
        };
        body.encode(self.record_bytes_max)
    }

    /// How much of the old row goes out. Under row security more than the key does only where the whole old
    /// row is known and was visible: what an index identity carries may be another person's. Of a row that went out of
    /// sight it is the key alone.
    pub(super) fn old_record(&self, receiver: Receiver) -> OldRecord {
        let judged = self.images.row_before().is_some();
        if !receiver.old_visible {
            OldRecord::NewKey
        } else if self.relation.table.row_security && !judged || receiver.kind != self.images.kind {
            OldRecord::Key
        } else {
            OldRecord::Identity
        }
    }
}

/// Whether a change of this kind is shown as an error (docs/protocol.md §4.4): then it carries nothing of the row.
pub(super) fn error(relation: &BoundRelation, kind: ChangeKind, reads_key: bool) -> Option<&'static str> {
    if kind == ChangeKind::Delete {
        None
    } else if !relation.table.has_primary_key() {
        Some(NO_PRIMARY_KEY)
    } else if !reads_key {
        Some(UNAUTHORIZED)
    } else {
        None
    }
}

/// Frames of channels with several bindings on a table: one frame per channel and view, with all ids.
#[derive(Default)]
pub(super) struct SharedFrames {
    frames: Vec<SharedFrame>,
    /// By channel: the places of its frames, one for each view.
    places: FxHashMap<ChannelId, SmallVec<[usize; 2]>>,
}

struct SharedFrame {
    membership: Arc<Membership>,
    view: View,
    /// With the places of the bindings among the channel's.
    ids: Vec<(usize, BindingId)>,
}

impl SharedFrames {
    pub(super) fn add(&mut self, membership: &Arc<Membership>, view: View, binding: usize, id: BindingId) {
        let places = self.places.entry(membership.channel).or_default();
        if let Some(&place) = places.iter().find(|&&place| self.frames[place].view == view) {
            self.frames[place].ids.push((binding, id));
        } else {
            places.push(self.frames.len());
            let membership = Arc::clone(membership);
            self.frames.push(SharedFrame { membership, view, ids: vec![(binding, id)] });
        }
    }

    /// Ids in the reverse of the bindings' order (docs/protocol.md §4.1).
    pub(super) fn into_frames(mut self) -> impl Iterator<Item = (Arc<Membership>, View, Vec<BindingId>)> {
        for places in self.places.values() {
            let followed = places.len().saturating_sub(1);
            places.iter().take(followed).for_each(|&place| self.frames[place].view.is_followed = true);
        }
        self.frames.into_iter().map(|SharedFrame { membership, view, mut ids }| {
            ids.sort_by_key(|&(binding, _)| std::cmp::Reverse(binding));
            (membership, view, ids.into_iter().map(|(_, id)| id).collect())
        })
    }
}

/// The push of a change to one channel.
pub(super) fn frame(
    serializer: Serializer,
    legacy: bool,
    topic: &str,
    ids: &[BindingId],
    kind: ChangeKind,
    data: &[u8],
) -> Frame {
    if legacy {
        walcast_wire::legacy_change_frame(serializer, topic, kind, data)
    } else {
        walcast_wire::change_frame(serializer, topic, ids, data)
    }
}

/// Adds a frame for some to what is on its way to their shard: to the delivery of the same frame, where that is the last.
pub(super) fn add(outgoing: &mut Vec<FromLog>, frame: &Frame, targets: Targets) {
    match outgoing.last_mut() {
        Some(FromLog::Change(last)) if last.frame.is(frame) => last.targets.push(targets),
        _ => outgoing.push(FromLog::Change(Delivery::new(frame.clone(), targets))),
    }
}
