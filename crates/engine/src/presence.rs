//! Who is present on one topic: keys, their metas, and the diffs between two moments. Pure.
//!
//! Shapes and rules: docs/protocol.md §7.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::value::RawValue;

use crate::ids::ChannelId;

/// One tracked payload of one channel.
#[derive(Clone, Debug)]
struct Meta {
    channel: ChannelId,
    /// The payload's members as they stand in JSON, without the braces; may be empty.
    members: String,
    reference: String,
    previous: Option<String>,
}

/// The metas of one key.
#[derive(Debug, Default)]
struct Entry {
    /// When the key came; see [`Presence::next`].
    since: u64,
    /// In the order in which they came.
    metas: BTreeMap<u64, Meta>,
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
    /// Counts what comes.
    next: u64,
    /// Bytes of all metas, each with its key.
    bytes: usize,
    /// The payload of `presence_state`, once it has been asked for, until something changes.
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
    let object: std::collections::BTreeMap<String, &RawValue> =
        serde_json::from_str(payload).map_err(|_| NotAnObject)?;
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
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many keys are present.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tracks or updates a channel's payload. `None` when it is what was tracked already. A channel that has not tracked
    /// yet takes over what one of the same key has left behind whose connection was lost. Nothing is tracked that would
    /// take the topic over `bytes_max`, unless it takes less than what it stands for.
    pub(crate) fn track(
        &mut self,
        channel: ChannelId,
        key: &str,
        members: String,
        reference: String,
        bytes_max: usize,
    ) -> Result<Option<Diff>, TopicFull> {
        if self.places.contains_key(&channel) || self.take_over(channel, key) {
            return self.update(channel, members, reference, bytes_max);
        }
        let meta = Meta { channel, members, reference, previous: None };
        let mut joins = String::new();
        append_entry(&mut joins, key, [&meta]);
        if self.bytes + joins.len() > bytes_max {
            return Err(TopicFull);
        }
        self.bytes += joins.len();
        self.state = None;
        let place = self.next;
        self.next += 1;
        let key: Arc<str> = key.into();
        let order = &mut self.order;
        let entry = self.entries.entry(Arc::clone(&key)).or_insert_with(|| {
            order.insert(place, Arc::clone(&key));
            Entry { since: place, ..Entry::default() }
        });
        entry.metas.insert(place, meta);
        self.places.insert(channel, (key, place));
        Ok(Some(Diff::new(&joins, "")))
    }

    /// Forgets a channel's payload. `None` when there was none.
    pub(crate) fn untrack(&mut self, channel: ChannelId) -> Option<Diff> {
        let (key, place) = self.places.remove(&channel)?;
        let entry = self.entries.get_mut(&key)?;
        let meta = entry.metas.remove(&place)?;
        entry.absent.remove(&place);
        if entry.metas.is_empty() {
            self.order.remove(&entry.since);
            self.entries.remove(&key);
        }
        let mut leaves = String::new();
        append_entry(&mut leaves, &key, [&meta]);
        self.bytes -= leaves.len();
        self.state = None;
        Some(Diff::new("", &leaves))
    }

    /// A channel's connection was lost: its payload stays for another channel of its key to take over. False where it has
    /// none.
    pub(crate) fn lose(&mut self, channel: ChannelId) -> bool {
        let Some((key, place)) = self.places.get(&channel) else { return false };
        self.entries.get_mut(key).is_some_and(|entry| entry.absent.insert(*place))
    }

    /// The payload of `presence_state`.
    pub(crate) fn state(&mut self) -> Arc<str> {
        if let Some(state) = &self.state {
            return Arc::clone(state);
        }
        let state: Arc<str> = self.written_state().into();
        self.state = Some(Arc::clone(&state));
        state
    }

    fn written_state(&self) -> String {
        let mut entries = String::new();
        for key in self.order.values() {
            if let Some(entry) = self.entries.get(key) {
                append_entry(&mut entries, key, entry.metas.values());
            }
        }
        format!("{{{entries}}}")
    }

    /// Makes the first payload under this key whose connection was lost the channel's own.
    fn take_over(&mut self, channel: ChannelId, key: &str) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        let Some(place) = entry.absent.pop_first() else { return false };
        let Some(meta) = entry.metas.get_mut(&place) else { return false };
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
    ) -> Result<Option<Diff>, TopicFull> {
        let Some((key, place)) = self.places.get(&channel) else { return Ok(None) };
        let meta = self.entries.get_mut(key).and_then(|entry| entry.metas.get_mut(place));
        let Some(meta) = meta.filter(|meta| meta.members != members) else { return Ok(None) };
        let mut leaves = String::new();
        append_entry(&mut leaves, key, [&*meta]);
        let updated = Meta { channel, members, reference, previous: Some(meta.reference.clone()) };
        let mut joins = String::new();
        append_entry(&mut joins, key, [&updated]);
        let bytes = self.bytes - leaves.len() + joins.len();
        if bytes > bytes_max && bytes > self.bytes {
            return Err(TopicFull);
        }
        *meta = updated;
        self.bytes = bytes;
        self.state = None;
        Ok(Some(Diff::new(&joins, &leaves)))
    }
}

impl Diff {
    fn new(joins: &str, leaves: &str) -> Self {
        Diff { payload: format!("{{\"joins\":{{{joins}}},\"leaves\":{{{leaves}}}}}") }
    }
}

fn append_entry<'a>(out: &mut String, key: &str, metas: impl IntoIterator<Item = &'a Meta>) {
    if !out.is_empty() {
        out.push(',');
    }
    let _ = write!(out, "{}:{{\"metas\":[", json_string(key));
    for (index, meta) in metas.into_iter().enumerate() {
        out.push_str(if index == 0 { "{" } else { ",{" });
        if !meta.members.is_empty() {
            let _ = write!(out, "{},", meta.members);
        }
        let _ = write!(out, "\"phx_ref\":\"{}\"", meta.reference);
        if let Some(previous) = &meta.previous {
            let _ = write!(out, ",\"phx_ref_prev\":\"{previous}\"");
        }
        out.push('}');
    }
    out.push_str("]}");
}

fn json_string(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM_ENOUGH: usize = 10_000;

    /// Tracks where there is room.
    fn track(
        presence: &mut Presence,
        channel: u64,
        key: &str,
        members: String,
        reference: &str,
    ) -> Option<Diff> {
        presence.track(ChannelId(channel), key, members, reference.to_owned(), ROOM_ENOUGH).unwrap()
    }

    fn members(json: &str) -> String {
        meta_members(json).unwrap()
    }

    fn json(text: &str) -> serde_json::Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_track_joins_an_update_joins_and_leaves_an_untrack_leaves() {
        let mut presence = Presence::default();
        let first = track(&mut presence, 1, "ana", members(r#"{"on":1}"#), "r1").unwrap();
        assert_eq!(
            json(&first.payload),
            json(r#"{"joins":{"ana":{"metas":[{"on":1,"phx_ref":"r1"}]}},"leaves":{}}"#)
        );
        let second = track(&mut presence, 1, "ana", members(r#"{"on":2}"#), "r2").unwrap();
        assert_eq!(
            json(&second.payload),
            json(
                r#"{"joins":{"ana":{"metas":[{"on":2,"phx_ref":"r2","phx_ref_prev":"r1"}]}},
                   "leaves":{"ana":{"metas":[{"on":1,"phx_ref":"r1"}]}}}"#
            )
        );
        let third = presence.untrack(ChannelId(1)).unwrap();
        assert_eq!(json(&third.payload)["leaves"]["ana"]["metas"][0]["on"], 2);
        assert!(presence.is_empty());
    }

    #[test]
    fn the_same_payload_again_is_no_diff() {
        let mut presence = Presence::default();
        track(&mut presence, 1, "a", members(r#"{"x":1,"y":2}"#), "r1");
        assert_eq!(track(&mut presence, 1, "a", members(r#"{"y":2, "x":1}"#), "r2"), None);
    }

    #[test]
    fn two_channels_under_one_key_are_two_metas_and_one_may_leave() {
        let mut presence = Presence::default();
        track(&mut presence, 1, "a", String::new(), "r1");
        track(&mut presence, 2, "a", String::new(), "r2");
        assert_eq!(json(&presence.state())["a"]["metas"].as_array().unwrap().len(), 2);
        presence.untrack(ChannelId(1));
        assert_eq!(json(&presence.state()), json(r#"{"a":{"metas":[{"phx_ref":"r2"}]}}"#));
    }

    #[test]
    fn keys_and_metas_stay_in_the_order_in_which_they_came_whoever_goes_and_changes() {
        let mut presence = Presence::default();
        for (channel, key) in [(1, "b"), (2, "a"), (3, "b"), (4, "c"), (5, "b")] {
            track(&mut presence, channel, key, format!("\"n\":{channel}"), &format!("r{channel}"));
        }
        track(&mut presence, 1, "b", "\"n\":9".to_owned(), "r9");
        presence.untrack(ChannelId(3));
        presence.untrack(ChannelId(2));
        track(&mut presence, 2, "a", String::new(), "r6");
        let expected = concat!(
            r#"{"b":{"metas":[{"n":9,"phx_ref":"r9","phx_ref_prev":"r1"},{"n":5,"phx_ref":"r5"}]},"#,
            r#""c":{"metas":[{"n":4,"phx_ref":"r4"}]},"a":{"metas":[{"phx_ref":"r6"}]}}"#
        );
        assert_eq!(&*presence.state(), expected);
        for channel in [1, 2, 4, 5] {
            assert!(presence.untrack(ChannelId(channel)).is_some());
        }
        assert!(presence.is_empty() && presence.order.is_empty() && presence.places.is_empty());
    }

    #[test]
    fn a_lost_payload_is_taken_over_once_and_only_by_a_channel_that_has_none() {
        let mut presence = Presence::default();
        let track = |presence: &mut Presence, channel, key| {
            track(presence, channel, key, "\"n\":1".to_owned(), &format!("r{channel}"))
        };
        track(&mut presence, 1, "a");
        track(&mut presence, 2, "a");
        assert!(presence.lose(ChannelId(1)) && !presence.lose(ChannelId(9)));
        assert_eq!(track(&mut presence, 2, "a"), None, "it has one of its own");
        assert!(track(&mut presence, 3, "b").is_some(), "another key");
        assert_eq!(track(&mut presence, 4, "a"), None, "taken over");
        assert_eq!(presence.untrack(ChannelId(1)), None, "it is not the lost one's any more");
        assert!(track(&mut presence, 5, "a").is_some(), "there was one");
        assert!(presence.untrack(ChannelId(4)).is_some());
    }

    #[test]
    fn a_topic_takes_so_many_bytes_and_gets_them_back_whoever_goes_and_changes() {
        let mut presence = Presence::default();
        let long = |length: usize| format!("\"n\":\"{}\"", "x".repeat(length));
        let track = |presence: &mut Presence, channel, length| {
            presence.track(ChannelId(channel), "k", long(length), "r".to_owned(), 400)
        };
        assert!(track(&mut presence, 1, 100).is_ok());
        assert!(track(&mut presence, 2, 100).is_ok());
        let before = presence.state();
        assert_eq!(track(&mut presence, 3, 200), Err(TopicFull));
        assert_eq!(track(&mut presence, 1, 300), Err(TopicFull), "an update");
        assert!(Arc::ptr_eq(&before, &presence.state()), "nothing has changed, so it is not written again");
        assert!(track(&mut presence, 1, 20).is_ok(), "less than it was");
        assert_eq!(json(&presence.state())["k"]["metas"][0]["n"], "x".repeat(20), "it is written again");
        assert!(track(&mut presence, 3, 100).is_ok());
        for channel in [1, 2, 3] {
            assert!(presence.untrack(ChannelId(channel)).is_some());
        }
        assert_eq!((presence.bytes, &*presence.state()), (0, "{}"));
    }

    #[test]
    fn a_client_can_not_forge_the_reference() {
        assert_eq!(members(r#"{"phx_ref":"forged","name":"é\n"}"#), r#""name":"é\n""#);
    }

    #[test]
    fn a_payload_that_is_no_object_is_refused() {
        assert_eq!(meta_members("[1]"), Err(NotAnObject));
    }
}
