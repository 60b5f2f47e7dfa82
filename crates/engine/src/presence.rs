//! Who is present on one topic: keys, their metas, and the diffs between two moments. Pure.
//!
//! Shapes and rules: docs/protocol.md §7.

use std::fmt::Write as _;

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
    /// Its connection was lost a moment ago.
    absent: bool,
}

/// The presences of one topic.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// In the order in which keys and metas appeared, which clients show.
    keys: Vec<(String, Vec<Meta>)>,
    key_of: FxHashMap<ChannelId, String>,
}

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
        self.keys.is_empty()
    }

    /// How many keys are present.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Tracks or updates a channel's payload. `None` when it is what was tracked already. A channel that has not tracked
    /// yet takes over what one of the same key has left behind whose connection was lost.
    pub(crate) fn track(
        &mut self,
        channel: ChannelId,
        key: &str,
        members: String,
        reference: String,
    ) -> Option<Diff> {
        if let Some(tracked_key) = self.key_of.get(&channel).cloned() {
            return self.update(channel, &tracked_key, members, reference);
        }
        if self.take_over(channel, key) {
            return self.update(channel, key, members, reference);
        }
        let meta = Meta { channel, members, reference, previous: None, absent: false };
        let mut joins = String::new();
        append_entry(&mut joins, key, [&meta]);
        self.key_of.insert(channel, key.to_owned());
        match self.keys.iter_mut().find(|(known, _)| known == key) {
            Some((_, metas)) => metas.push(meta),
            None => self.keys.push((key.to_owned(), vec![meta])),
        }
        Some(Diff::new(&joins, ""))
    }

    /// Forgets a channel's payload. `None` when there was none.
    pub(crate) fn untrack(&mut self, channel: ChannelId) -> Option<Diff> {
        let key = self.key_of.remove(&channel)?;
        let place = self.keys.iter().position(|(known, _)| *known == key)?;
        let metas = &mut self.keys[place].1;
        let meta = metas.remove(metas.iter().position(|meta| meta.channel == channel)?);
        if metas.is_empty() {
            self.keys.remove(place);
        }
        let mut leaves = String::new();
        append_entry(&mut leaves, &key, [&meta]);
        Some(Diff::new("", &leaves))
    }

    /// A channel's connection was lost: its payload stays for another channel of its key to take over. False where it has
    /// none.
    pub(crate) fn lose(&mut self, channel: ChannelId) -> bool {
        let Some(key) = self.key_of.get(&channel) else { return false };
        let metas = self.keys.iter_mut().find(|(known, _)| known == key).map(|(_, metas)| metas);
        let meta = metas.and_then(|metas| metas.iter_mut().find(|meta| meta.channel == channel));
        meta.map(|meta| meta.absent = true).is_some()
    }

    /// The payload of `presence_state`.
    pub(crate) fn state(&self) -> String {
        let mut entries = String::new();
        for (key, metas) in &self.keys {
            append_entry(&mut entries, key, metas);
        }
        format!("{{{entries}}}")
    }

    /// Makes the first payload under this key whose connection was lost the channel's own.
    fn take_over(&mut self, channel: ChannelId, key: &str) -> bool {
        let metas = self.keys.iter_mut().find(|(known, _)| known == key).map(|(_, metas)| metas);
        let Some(meta) = metas.and_then(|metas| metas.iter_mut().find(|meta| meta.absent)) else {
            return false;
        };
        self.key_of.remove(&meta.channel);
        meta.channel = channel;
        meta.absent = false;
        self.key_of.insert(channel, key.to_owned());
        true
    }

    fn update(&mut self, channel: ChannelId, key: &str, members: String, reference: String) -> Option<Diff> {
        let (_, metas) = self.keys.iter_mut().find(|(known, _)| known == key)?;
        let meta = metas.iter_mut().find(|meta| meta.channel == channel)?;
        if meta.members == members {
            return None;
        }
        let mut leaves = String::new();
        append_entry(&mut leaves, key, [&*meta]);
        let previous = Some(meta.reference.clone());
        *meta = Meta { channel, members, previous, reference, absent: false };
        let mut joins = String::new();
        append_entry(&mut joins, key, [&*meta]);
        Some(Diff::new(&joins, &leaves))
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

    fn members(json: &str) -> String {
        meta_members(json).unwrap()
    }

    fn json(text: &str) -> serde_json::Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_track_joins_an_update_joins_and_leaves_an_untrack_leaves() {
        let mut presence = Presence::default();
        let first = presence.track(ChannelId(1), "ana", members(r#"{"on":1}"#), "r1".into()).unwrap();
        assert_eq!(
            json(&first.payload),
            json(r#"{"joins":{"ana":{"metas":[{"on":1,"phx_ref":"r1"}]}},"leaves":{}}"#)
        );
        let second = presence.track(ChannelId(1), "ana", members(r#"{"on":2}"#), "r2".into()).unwrap();
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
        presence.track(ChannelId(1), "a", members(r#"{"x":1,"y":2}"#), "r1".into());
        assert_eq!(presence.track(ChannelId(1), "a", members(r#"{"y":2, "x":1}"#), "r2".into()), None);
    }

    #[test]
    fn two_channels_under_one_key_are_two_metas_and_one_may_leave() {
        let mut presence = Presence::default();
        presence.track(ChannelId(1), "a", String::new(), "r1".into());
        presence.track(ChannelId(2), "a", String::new(), "r2".into());
        assert_eq!(json(&presence.state())["a"]["metas"].as_array().unwrap().len(), 2);
        presence.untrack(ChannelId(1));
        assert_eq!(json(&presence.state()), json(r#"{"a":{"metas":[{"phx_ref":"r2"}]}}"#));
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
