//! What the strictest of the stock clients demand of every frame (docs/protocol.md §14).
//!
//! Each check names the demand that it stands for: J of the JavaScript client, P of the Python client, and Kotlin,
//! Swift and Dart where they are stricter. A frame that one of them would drop, misread or throw on is an error here.
//! The demands that time and the handshake are about (J9, J10, J16 to J20) are tests of their own.

mod shapes;

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::protocol_message::{ProtocolVersion, RawFrame, Received};

/// Reads along with one connection: what the client asks for, and what it is sent.
#[derive(Debug)]
pub struct StrictReader {
    version: ProtocolVersion,
    /// How many messages with each reference have had no reply yet.
    unanswered: HashMap<String, u64>,
    /// Joins that are not answered yet.
    asked: Vec<Asked>,
    joined: HashMap<String, Joined>,
    /// Channels that another join of their topic has replaced: the topic and the `join_ref`.
    replaced: Vec<(String, Value)>,
}

#[derive(Debug)]
struct Asked {
    topic: String,
    join_ref: Value,
    reference: Value,
    bindings: Bindings,
}

/// What a join asks for.
#[derive(Debug)]
enum Bindings {
    /// Without `config`: the topic is the binding (docs/protocol.md §3.8).
    Legacy,
    Listed(Vec<Value>),
}

#[derive(Debug)]
struct Joined {
    /// What the channel's own messages carry: the `join_ref`, or without one the `ref` of the join (docs/protocol.md
    /// §2.2).
    join_ref: Value,
    /// What its `phx_close` carries: the `join_ref` as it was sent.
    close_reference: Value,
    /// The ids that the reply gave the bindings.
    ids: BTreeSet<i64>,
    legacy: bool,
    /// Who is present, as key and `phx_ref`; nobody knows before the first `presence_state`.
    present: Option<BTreeSet<(String, String)>>,
    /// Where the last change stood in the log.
    last_change: Option<shapes::Position>,
}

impl StrictReader {
    /// For a connection that has been opened this moment.
    pub fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            unanswered: HashMap::new(),
            asked: Vec::new(),
            joined: HashMap::new(),
            replaced: Vec::new(),
        }
    }

    /// Takes note of a text frame of the client: of its reference, and of a join.
    pub fn sent(&mut self, text: &str) {
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return };
        let version = self.version;
        let field = |name: &str, place: usize| match version {
            ProtocolVersion::V1 => frame[name].clone(),
            ProtocolVersion::V2 => frame[place].clone(),
        };
        self.expect_reply(&field("ref", 1));
        let topic = field("topic", 2);
        if field("event", 3) != "phx_join" {
            return;
        }
        let config = field("payload", 4).get("config").cloned();
        let bindings = config.map_or(Bindings::Legacy, |config| {
            let listed = config["postgres_changes"].as_array().cloned().unwrap_or_default();
            Bindings::Listed(listed.into_iter().filter(|binding| !binding.is_null()).collect())
        });
        self.asked.push(Asked {
            topic: topic.as_str().unwrap_or_default().to_owned(),
            join_ref: field("join_ref", 0),
            reference: field("ref", 1),
            bindings,
        });
    }

    /// Takes note of a binary frame of the client: of its reference, which every kind has behind the `join_ref`
    /// (docs/protocol.md §2.3).
    pub fn sent_binary(&mut self, frame: &[u8]) {
        let (strings, join_ref, reference) = match *frame {
            [3, join_ref, reference, _, _, _, _, ..] => (7, join_ref, reference),
            [0, join_ref, reference, _, _, ..] => (5, join_ref, reference),
            _ => return,
        };
        let start = strings + usize::from(join_ref);
        let Some(bytes) = frame.get(start..start + usize::from(reference)) else { return };
        self.expect_reply(&String::from_utf8_lossy(bytes).into());
    }

    fn expect_reply(&mut self, reference: &Value) {
        *self.unanswered.entry(reference.to_string()).or_default() += 1;
    }

    /// Checks a frame of the server.
    pub fn received(&mut self, message: &Received) -> Result<()> {
        self.check(message).with_context(|| match &message.raw {
            RawFrame::Text(text) => format!("the strictest clients refuse this frame: {text}"),
            RawFrame::Binary(bytes) => format!("the strictest clients refuse this frame: {bytes:?}"),
        })
    }

    fn check(&mut self, message: &Received) -> Result<()> {
        let Received { topic, event, payload, reference, .. } = message;
        // J13, and what `Received::parse` has seen to: kind 4, a known encoding, UTF-8 without a byte order mark,
        // V1 with exactly `event`, `payload`, `ref` and `topic` (P1), V2 with five elements.
        if let RawFrame::Binary(_) = message.raw {
            ensure!(self.joined.contains_key(topic), "J13: bytes for a channel that is not joined");
            let meta = payload.get("meta");
            ensure!(meta.is_none_or(Value::is_object), "J13: metadata is empty or an object");
            return Ok(());
        }
        ensure!(!payload.is_null(), "J6: the payload is null");
        if event == "phx_reply" {
            return self.reply(message);
        }
        if event == "phx_close" {
            return self.close(message);
        }
        let Some(channel) = self.joined.get_mut(topic) else {
            bail!("J2: {event} for a channel that is not joined, or is over (docs/protocol.md §14.4)");
        };
        ensure!(reference.is_null(), "P1: the ref of {event} must be null");
        let join_ref = &message.join_ref;
        ensure!(
            join_ref.is_null() || *join_ref == channel.join_ref,
            "J2: the join_ref is {join_ref}, the channel's is {}",
            channel.join_ref
        );
        ensure!(event == "broadcast" || payload.is_object(), "Swift: the payload is no object");
        match event.as_str() {
            // The payload is its sender's own (J15, P6 are the sender's business).
            "broadcast" => Ok(()),
            "system" => shapes::system(topic, payload),
            "postgres_changes" => {
                ensure!(!channel.legacy, "a join without config gets its changes bare");
                let position = shapes::changes(payload, &channel.ids)?;
                channel.change(position)
            }
            "INSERT" | "UPDATE" | "DELETE" => {
                ensure!(channel.legacy, "{event} is an event of joins without config");
                ensure!(payload["type"] == *event, "the type is {}", payload["type"]);
                channel.change(shapes::change(payload)?)
            }
            "presence_state" => {
                channel.present = Some(shapes::people(payload)?);
                Ok(())
            }
            "presence_diff" => channel.diff(payload),
            _ => bail!("no client knows the event {event}"),
        }
    }

    fn reply(&mut self, message: &Received) -> Result<()> {
        let Received { topic, join_ref, reference, payload, .. } = message;
        shapes::exact(payload, &["status", "response"]).context("P3: a reply")?;
        let (status, response) = (&payload["status"], &payload["response"]);
        ensure!(status == "ok" || status == "error", "P3: the status is {status}");
        let response = response.as_object().context("P3, J8, Kotlin, Dart: the response is no object")?;
        if status == "error" {
            let readable = response.len() <= 1 && response.values().all(Value::is_string);
            ensure!(readable, "J8: an error's response has one string");
        }
        let unanswered = self.unanswered.get_mut(&reference.to_string()).filter(|count| **count > 0);
        *unanswered.with_context(|| format!("J1, J17: nothing waits for a reply to {reference}"))? -= 1;
        let asked =
            self.asked.iter().position(|asked| asked.topic == *topic && asked.reference == *reference);
        let Some(asked) = asked else {
            let channel = self.joined.get(topic).map_or(&Value::Null, |channel| &channel.join_ref);
            // A leave of a topic that is not joined repeats what it was sent.
            let matches = join_ref.is_null() || join_ref == channel || channel.is_null();
            ensure!(matches, "J1: the join_ref is {join_ref}, the channel's is {channel}");
            return Ok(());
        };
        let asked = self.asked.remove(asked);
        if response.get("reason").is_some_and(|reason| reason == "unmatched topic") {
            return Ok(());
        }
        if self.version == ProtocolVersion::V2 {
            ensure!(*join_ref == asked.join_ref, "J1: a join sent with join_ref {}", asked.join_ref);
        }
        if let Some(before) = self.joined.remove(topic) {
            self.replaced.push((topic.clone(), before.close_reference));
        }
        if status == "ok" {
            self.joined.insert(topic.clone(), Joined::new(asked, payload)?);
        }
        Ok(())
    }

    fn close(&mut self, message: &Received) -> Result<()> {
        let Received { topic, join_ref, reference, payload, .. } = message;
        ensure!(
            payload.as_object().is_some_and(serde_json::Map::is_empty),
            "the payload of phx_close is {{}}"
        );
        if self.version == ProtocolVersion::V2 {
            ensure!(join_ref == reference, "J12: ref and join_ref of phx_close are the join's");
        }
        let late = self.replaced.iter().position(|(of, by)| of == topic && by == reference);
        if let Some(late) = late {
            self.replaced.remove(late);
            let compares = self.version == ProtocolVersion::V2;
            ensure!(compares, "P7: a late phx_close ends the channel that replaced it");
            return Ok(());
        }
        let channel = self.joined.remove(topic).context("phx_close of a channel that is not joined")?;
        ensure!(*reference == channel.close_reference, "J12: the ref of phx_close is {reference}");
        Ok(())
    }
}

impl Joined {
    fn new(asked: Asked, payload: &Value) -> Result<Joined> {
        let listed = payload["response"]["postgres_changes"]
            .as_array()
            .context("J3, P4: response.postgres_changes is a list")?;
        let ids = match &asked.bindings {
            Bindings::Legacy => listed.iter().map(shapes::legacy_binding).collect::<Result<_>>()?,
            Bindings::Listed(bindings) => {
                ensure!(listed.len() == bindings.len(), "P4: {} bindings were asked for", bindings.len());
                let pairs = bindings.iter().zip(listed);
                pairs.map(|(sent, got)| shapes::binding(sent, got)).collect::<Result<_>>()?
            }
        };
        let legacy = matches!(asked.bindings, Bindings::Legacy);
        let join_ref = if asked.join_ref.is_null() { asked.reference } else { asked.join_ref.clone() };
        let (present, last_change) = (None, None);
        Ok(Joined { join_ref, close_reference: asked.join_ref, ids, legacy, present, last_change })
    }

    /// Changes come in the order of the log, and one of several `select` lists comes more than once.
    fn change(&mut self, position: shapes::Position) -> Result<()> {
        let last = self.last_change.replace(position);
        ensure!(last.is_none_or(|last| last <= position), "a change is behind {last:?} in the log");
        Ok(())
    }

    fn diff(&mut self, payload: &Value) -> Result<()> {
        shapes::exact(payload, &["joins", "leaves"]).context("P6: a diff")?;
        let present = self.present.as_mut().context("J14: a diff before the first state")?;
        for joined in shapes::people(&payload["joins"])? {
            ensure!(present.insert(joined.clone()), "J14: {joined:?} was there already");
        }
        for left in shapes::people(&payload["leaves"])? {
            ensure!(present.remove(&left), "J14: {left:?} leaves and was not there");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(reader: &mut StrictReader, frame: &Value) -> Result<()> {
        let raw = RawFrame::Text(frame.to_string());
        reader.received(&Received::parse(reader.version, &raw)?)
    }

    /// A channel of the topic `realtime:a` with one binding, whose id is 7.
    fn joined() -> StrictReader {
        let mut reader = StrictReader::new(ProtocolVersion::V2);
        let binding = json!({ "event": "*", "schema": "public", "table": "t" });
        let config = json!({ "config": { "postgres_changes": [binding] } });
        reader.sent(&json!(["1", "1", "realtime:a", "phx_join", config]).to_string());
        let mut entry = binding;
        entry["id"] = 7.into();
        let response = json!({ "postgres_changes": [entry] });
        let reply = json!(["1", "1", "realtime:a", "phx_reply", { "status": "ok", "response": response }]);
        read(&mut reader, &reply).expect("a good reply");
        reader.sent_binary(b"\x03\x01\x01\x0a\x01\x00\x0115realtime:ae{}");
        reader
    }

    fn insert() -> Value {
        json!({ "schema": "public", "table": "t", "type": "INSERT", "commit_timestamp": "2026-08-21T10:11:12.345Z",
            "position": "0/16B3748:3",
            "columns": [{ "name": "id", "type": "int4" }], "record": { "id": 1 }, "errors": null })
    }

    fn change(ids: &Value, data: &Value) -> Value {
        json!([null, null, "realtime:a", "postgres_changes", { "ids": ids, "data": data }])
    }

    #[test]
    fn what_clients_can_read_passes() {
        let mut reader = joined();
        let system = json!({ "extension": "system", "status": "ok", "message": "m", "channel": "a" });
        let state = json!({ "ana": { "metas": [{ "phx_ref": "x", "name": "a" }] } });
        for frame in [
            json!(["1", null, "realtime:a", "system", system]),
            change(&json!([7]), &insert()),
            json!([null, null, "realtime:a", "broadcast", [1]]),
            json!(["1", null, "realtime:a", "presence_state", state]),
            json!([null, null, "realtime:a", "presence_diff", { "joins": {}, "leaves": state }]),
            json!(["1", "5", "realtime:a", "phx_reply", { "status": "ok", "response": {} }]),
            json!(["1", "1", "realtime:a", "phx_close", {}]),
        ] {
            read(&mut reader, &frame).expect("readable");
        }
        let frame = json!([null, null, "realtime:a", "broadcast", {}]);
        read(&mut reader, &frame).expect_err("nothing comes behind phx_close");
    }

    #[test]
    fn what_some_client_can_not_read_does_not() {
        let without = |key: &str| {
            let mut data = insert();
            data.as_object_mut().expect("an object").remove(key);
            change(&json!([7]), &data)
        };
        let with = |key: &str, value: Value| {
            let mut data = insert();
            data[key] = value;
            change(&json!([7]), &data)
        };
        let system = |payload: Value| json!(["1", null, "realtime:a", "system", payload]);
        let reply = |payload: Value| json!(["1", "5", "realtime:a", "phx_reply", payload]);
        for frame in [
            json!([null, null, "realtime:b", "broadcast", {}]),
            json!(["0", null, "realtime:a", "broadcast", {}]),
            json!([null, "3", "realtime:a", "broadcast", {}]),
            json!([null, null, "realtime:a", "broadcast", null]),
            json!([null, null, "realtime:a", "news", {}]),
            change(&json!(["7"]), &insert()),
            change(&json!([8]), &insert()),
            change(&json!([]), &insert()),
            without("commit_timestamp"),
            without("position"),
            with("position", "16B3748".into()),
            without("columns"),
            without("record"),
            with("commit_timestamp", Value::Null),
            with("commit_timestamp", "2026-08-21T10:11:12.345".into()),
            with("old_record", json!({})),
            with("record", json!({ "id": 1, "unlisted": 2 })),
            with("errors", "one".into()),
            system(json!({ "extension": "system", "status": "ok", "message": "m" })),
            system(json!({ "extension": "system", "status": "fine", "message": "m", "channel": "a" })),
            reply(json!({ "status": "error", "response": "a string" })),
            reply(json!({ "status": "ok" })),
            json!(["1", "6", "realtime:a", "phx_reply", { "status": "ok", "response": {} }]),
            json!(["1", "1", "realtime:a", "phx_close", { "reason": "x" }]),
            json!(["1", "2", "realtime:a", "phx_close", {}]),
            json!([null, null, "realtime:a", "presence_diff", { "joins": {}, "leaves": {} }]),
            json!(["1", null, "realtime:a", "presence_state", { "ana": { "metas": [{}] } }]),
        ] {
            read(&mut joined(), &frame).expect_err(&frame.to_string());
        }
    }

    #[test]
    fn changes_are_in_the_order_of_the_log() {
        let at = |position: &str| {
            let mut data = insert();
            data["position"] = position.into();
            change(&json!([7]), &data)
        };
        let mut reader = joined();
        for position in ["0/16B3748:3", "0/16B3748:3", "0/16B3748:10", "0/16B4000:0", "1/0:0"] {
            read(&mut reader, &at(position)).expect(position);
        }
        read(&mut reader, &at("0/FFFFFFFF:0")).expect_err("it goes back");
    }

    #[test]
    fn a_join_reply_has_the_entries_as_they_were_sent_and_an_id() {
        let sent = json!({ "event": "INSERT", "schema": "public", "table": "t" });
        for (entries, good) in [
            (json!([{ "event": "INSERT", "schema": "public", "table": "t", "id": 7 }]), true),
            (json!([{ "event": "INSERT", "schema": "public", "table": "t", "id": 0 }]), false),
            (json!([{ "event": "INSERT", "schema": "public", "table": "t", "id": "7" }]), false),
            (
                json!([{ "event": "INSERT", "schema": "public", "table": "t", "filter": null, "id": 7 }]),
                false,
            ),
            (json!([{ "event": "INSERT", "schema": "public", "id": 7 }]), false),
            (json!([]), false),
            (Value::Null, false),
        ] {
            let mut reader = StrictReader::new(ProtocolVersion::V1);
            let config = json!({ "config": { "postgres_changes": [sent, null] } });
            let join = json!({ "topic": "realtime:a", "event": "phx_join", "payload": config, "ref": "1" });
            reader.sent(&join.to_string());
            let payload = json!({ "status": "ok", "response": { "postgres_changes": entries } });
            let reply =
                json!({ "topic": "realtime:a", "event": "phx_reply", "payload": payload, "ref": "1" });
            assert_eq!(read(&mut reader, &reply).is_ok(), good, "{entries}");
        }
    }

    #[test]
    fn a_late_close_is_for_version_2_alone() {
        for (version, good) in [(ProtocolVersion::V1, false), (ProtocolVersion::V2, true)] {
            let mut reader = StrictReader::new(version);
            let frame = |join_ref: &str, event: &str, payload: &Value| match version {
                ProtocolVersion::V1 => {
                    json!({ "topic": "realtime:a", "event": event, "payload": payload, "ref": join_ref })
                }
                ProtocolVersion::V2 => json!([join_ref, join_ref, "realtime:a", event, payload]),
            };
            for join_ref in ["1", "2"] {
                let (join_ref, config) = (Value::from(join_ref), json!({ "config": {} }));
                reader.sent(&version.encode(&join_ref, &join_ref, "realtime:a", "phx_join", &config));
                let reply = json!({ "status": "ok", "response": { "postgres_changes": [] } });
                read(&mut reader, &frame(join_ref.as_str().expect("text"), "phx_reply", &reply))
                    .expect("good");
            }
            assert_eq!(read(&mut reader, &frame("1", "phx_close", &json!({}))).is_ok(), good, "{version:?}");
        }
    }
}
