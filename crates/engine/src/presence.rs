//! Who is present on one topic: keys, their metas, and the diffs between two moments. Pure.
//!
//! Followers are told of changes now and then: [`Presence::publish`] has the diff of all since the last one. A state shows
//! what has been published, so that whoever is sent it and then every later diff misses nothing and gets nothing twice.
//!
//! Shapes and rules: docs/protocol.md §7.

pub(crate) mod pace;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::value::RawValue;

use crate::ids::ChannelId;

/// One tracked payload of one channel.
#[derive(Debug)]
struct Meta {
    channel: ChannelId,
    payload: Payload,
}

/// What followers are shown of a meta.
#[derive(Debug)]
struct Payload {
    /// Its members as they stand in JSON, without the braces; may be empty.
    members: String,
    reference: String,
    /// The reference that followers have been shown before.
    previous: Option<String>,
}

/// What stands in one place of a key: what followers have been shown there, and what there is now.
#[derive(Debug)]
enum Slot {
    /// Followers have been shown what there is.
    Shown(Meta),
    /// It came since the last diff.
    Joined(Meta),
    /// It changed since the last diff.
    Updated { shown: Box<Payload>, now: Meta },
    /// It went since the last diff.
    Left(Payload),
}

/// The places of one key.
#[derive(Debug)]
struct Entry {
    /// When the key came; see [`Presence::next`].
    since: u64,
    /// In the order in which they came.
    slots: BTreeMap<u64, Slot>,
    /// Those whose connection was lost a moment ago.
    absent: BTreeSet<u64>,
}

/// The presences of one topic. Nothing takes longer because many are present, but to tell of all of them.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// By keys, which are the clients' to choose.
    entries: ahash::HashMap<Arc<str>, Entry>,
    /// The keys in the order in which they came, which clients show.
    order: BTreeMap<u64, Arc<str>>,
    /// Where a channel's meta is.
    places: FxHashMap<ChannelId, (Arc<str>, u64)>,
    /// The places of which followers have yet to be told, after [`Entry::since`] so that those of a key stand together.
    changed: BTreeMap<(u64, u64), Arc<str>>,
    /// Counts what comes.
    next: u64,
    /// Bytes of all metas, each with its key.
    bytes: usize,
    /// The payload of `presence_state`, once it has been asked for, until the next diff.
    state: Option<Arc<str>>,
}

/// The topic has no room for so many bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TopicFull;

/// What changed, as the payload of `presence_diff`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Diff {
    /// JSON text.
    pub(crate) payload: String,
}

/// The payload of a track that is not an object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotAnObject;

/// The members of a tracked object, ready to be put before `phx_ref`.
///
/// Keys that presence itself writes are left out, so that a client can not forge them.
pub(crate) fn meta_members(payload: &str) -> Result<String, NotAnObject> {
    let object: BTreeMap<String, &RawValue> = serde_json::from_str(payload).map_err(|_| NotAnObject)?;
    let mut members = String::new();
    for (key, value) in object {
        if key == "phx_ref" || key == "phx_ref_prev" {
            continue;
        }
        let _ = write!(members, "{}:{},", json_string(&key), value.get());
    }
    members.pop();
    Ok(members)
}

impl Presence {
    /// Nobody is present, and followers know that.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// There is something of which followers have yet to be told.
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// How many keys are present.
    pub(crate) fn keys(&self) -> usize {
        let is_present = |entry: &&Entry| entry.slots.values().any(|slot| slot.now().is_some());
        self.entries.values().filter(is_present).count()
    }

    /// Tracks or updates a channel's payload, or leaves it as it is where the same is tracked already. A channel that has
    /// not tracked yet takes over what one of the same key has left behind whose connection was lost. Nothing is tracked
    /// that would take the topic over `bytes_max`, unless it takes less than what it stands for.
    pub(crate) fn track(
        &mut self,
        channel: ChannelId,
        key: &str,
        members: String,
        reference: String,
        bytes_max: usize,
    ) -> Result<(), TopicFull> {
        if self.places.contains_key(&channel) || self.take_over(channel, key) {
            return self.update(channel, members, reference, bytes_max);
        }
        let meta = Meta { channel, payload: Payload { members, reference, previous: None } };
        let bytes = self.bytes + meta.payload.bytes(key);
        if bytes > bytes_max {
            return Err(TopicFull);
        }
        self.bytes = bytes;
        let place = self.next;
        self.next += 1;
        let key: Arc<str> = key.into();
        let order = &mut self.order;
        let entry = self.entries.entry(Arc::clone(&key)).or_insert_with(|| {
            order.insert(place, Arc::clone(&key));
            Entry { since: place, slots: BTreeMap::new(), absent: BTreeSet::new() }
        });
        entry.slots.insert(place, Slot::Joined(meta));
        self.changed.insert((entry.since, place), Arc::clone(&key));
        self.places.insert(channel, (key, place));
        Ok(())
    }

    /// Forgets a channel's payload, if it has one.
    pub(crate) fn untrack(&mut self, channel: ChannelId) {
        let Some((key, place)) = self.places.remove(&channel) else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.absent.remove(&place);
        let Some(slot) = entry.slots.remove(&place) else { return };
        self.bytes -= slot.now().map_or(0, |now| now.payload.bytes(&key));
        let since = entry.since;
        match slot {
            Slot::Shown(Meta { payload: shown, .. }) | Slot::Left(shown) => {
                entry.slots.insert(place, Slot::Left(shown));
                self.changed.insert((since, place), key);
            }
            Slot::Updated { shown, .. } => drop(entry.slots.insert(place, Slot::Left(*shown))),
            // Followers never hear of it.
            Slot::Joined(_) => {
                self.changed.remove(&(since, place));
                self.drop_empty(&key);
            }
        }
    }

    /// A channel's connection was lost: its payload stays for another channel of its key to take over. False where it has
    /// none.
    pub(crate) fn lose(&mut self, channel: ChannelId) -> bool {
        let Some((key, place)) = self.places.get(&channel) else { return false };
        self.entries.get_mut(key).is_some_and(|entry| entry.absent.insert(*place))
    }

    /// The payload of `presence_state`: what the diffs so far have told.
    pub(crate) fn state(&mut self) -> Arc<str> {
        if let Some(state) = &self.state {
            return Arc::clone(state);
        }
        let mut keys = Keys::default();
        for (since, key) in &self.order {
            let slots = self.entries.get(key).into_iter().flat_map(|entry| entry.slots.values());
            slots.filter_map(Slot::shown).for_each(|shown| keys.add(*since, key, shown));
        }
        let state: Arc<str> = keys.into_json().into();
        self.state = Some(Arc::clone(&state));
        state
    }

    /// The diff of what has changed since the last one, `None` where in the end nothing has. When it has got so many bytes
    /// it ends, and the next one goes on.
    pub(crate) fn publish(&mut self, bytes_max: usize) -> Option<Diff> {
        let (mut joins, mut leaves) = (Keys::default(), Keys::default());
        while joins.bytes() + leaves.bytes() < bytes_max
            && let Some(((since, place), key)) = self.changed.pop_first()
        {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let Some(slot) = entry.slots.remove(&place) else { continue };
            let shown = match slot {
                Slot::Left(shown) => {
                    leaves.add(since, &key, &shown);
                    self.drop_empty(&key);
                    continue;
                }
                Slot::Updated { shown, now } => {
                    leaves.add(since, &key, &shown);
                    joins.add(since, &key, &now.payload);
                    now
                }
                Slot::Joined(now) => {
                    joins.add(since, &key, &now.payload);
                    now
                }
                Slot::Shown(shown) => shown,
            };
            entry.slots.insert(place, Slot::Shown(shown));
        }
        if joins.bytes() + leaves.bytes() == 0 {
            return None;
        }
        self.state = None;
        let payload = format!(r#"{{"joins":{},"leaves":{}}}"#, joins.into_json(), leaves.into_json());
        Some(Diff { payload })
    }

    /// Makes the first payload under this key whose connection was lost the channel's own.
    fn take_over(&mut self, channel: ChannelId, key: &str) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        let Some(place) = entry.absent.pop_first() else { return false };
        let Some(meta) = entry.slots.get_mut(&place).and_then(Slot::now_mut) else { return false };
        let lost = std::mem::replace(&mut meta.channel, channel);
        if let Some(place) = self.places.remove(&lost) {
            self.places.insert(channel, place);
        }
        true
    }

    fn update(
        &mut self,
        channel: ChannelId,
        members: String,
        reference: String,
        bytes_max: usize,
    ) -> Result<(), TopicFull> {
        let Some((key, place)) = self.places.get(&channel) else { return Ok(()) };
        let Some(entry) = self.entries.get_mut(key) else { return Ok(()) };
        let Some(slot) = entry.slots.get_mut(place) else { return Ok(()) };
        let Some(now) = slot.now().filter(|now| now.payload.members != members) else { return Ok(()) };
        let previous = slot.shown().map(|shown| shown.reference.clone());
        let payload = Payload { members, reference, previous };
        let bytes = self.bytes - now.payload.bytes(key) + payload.bytes(key);
        if bytes > bytes_max && bytes > self.bytes {
            return Err(TopicFull);
        }
        self.bytes = bytes;
        let now = Meta { channel, payload };
        let changed = match entry.slots.remove(place) {
            Some(Slot::Shown(Meta { payload: shown, .. }) | Slot::Left(shown)) => {
                Slot::Updated { shown: Box::new(shown), now }
            }
            Some(Slot::Updated { shown, .. }) => Slot::Updated { shown, now },
            Some(Slot::Joined(_)) | None => Slot::Joined(now),
        };
        entry.slots.insert(*place, changed);
        self.changed.insert((entry.since, *place), Arc::clone(key));
        Ok(())
    }

    /// Forgets a key that has no places.
    fn drop_empty(&mut self, key: &str) {
        if let Some(entry) = self.entries.get(key)
            && entry.slots.is_empty()
        {
            self.order.remove(&entry.since);
            self.entries.remove(key);
        }
    }
}

impl Slot {
    /// What followers have been shown.
    fn shown(&self) -> Option<&Payload> {
        match self {
            Slot::Shown(meta) => Some(&meta.payload),
            Slot::Updated { shown, .. } => Some(shown),
            Slot::Left(shown) => Some(shown),
            Slot::Joined(_) => None,
        }
    }

    /// What there is.
    fn now(&self) -> Option<&Meta> {
        match self {
            Slot::Shown(now) | Slot::Joined(now) | Slot::Updated { now, .. } => Some(now),
            Slot::Left(_) => None,
        }
    }

    fn now_mut(&mut self) -> Option<&mut Meta> {
        match self {
            Slot::Shown(now) | Slot::Joined(now) | Slot::Updated { now, .. } => Some(now),
            Slot::Left(_) => None,
        }
    }
}

impl Payload {
    /// Bytes of its JSON with a key of its own.
    fn bytes(&self, key: &str) -> usize {
        let mut keys = Keys::default();
        keys.add(0, key, self);
        keys.into_json().len() - "{}".len()
    }

    fn append_to(&self, out: &mut String) {
        out.push('{');
        if !self.members.is_empty() {
            let _ = write!(out, "{},", self.members);
        }
        let _ = write!(out, "\"phx_ref\":\"{}\"", self.reference);
        if let Some(previous) = &self.previous {
            let _ = write!(out, ",\"phx_ref_prev\":\"{previous}\"");
        }
        out.push('}');
    }
}

/// Keys with their metas, as they are being written.
#[derive(Default)]
struct Keys {
    json: String,
    /// The key whose metas stand last; see [`Entry::since`].
    last: Option<u64>,
}

impl Keys {
    /// Adds a meta; those of a key come one after the other.
    fn add(&mut self, since: u64, key: &str, payload: &Payload) {
        if self.last == Some(since) {
            self.json.push(',');
        } else {
            self.json.push_str(if self.last.is_some() { "]}," } else { "{" });
            let _ = write!(self.json, "{}:{{\"metas\":[", json_string(key));
            self.last = Some(since);
        }
        payload.append_to(&mut self.json);
    }

    fn bytes(&self) -> usize {
        self.json.len()
    }

    fn into_json(mut self) -> String {
        self.json.push_str(if self.last.is_some() { "]}}" } else { "{}" });
        self.json
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}
