//! The body of a batch of broadcasts (docs/protocol.md §6.2), checked message by message. Payloads are never taken
//! apart: they go out as the text that came in.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use walcast_wire::BroadcastOptions;

use super::refusal::Refusal;

/// One message of a batch.
#[derive(Debug)]
pub(super) struct Message<'a> {
    /// Without `realtime:`.
    pub(super) topic: Cow<'a, str>,
    pub(super) event: Cow<'a, str>,
    /// The text of a JSON object.
    pub(super) payload: &'a RawValue,
    pub(super) private: bool,
    pub(super) id: Option<Cow<'a, str>>,
    /// Members that receivers get too, as JSON: what holds for those that are behind (docs/protocol.md §6.6).
    options: Vec<(&'static str, &'a RawValue)>,
}

/// How much one batch may be.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Messages.
    pub messages_max: usize,
    /// Bytes of one payload.
    pub payload_bytes_max: usize,
}

/// How many private topics one batch may name: the policies are asked about each, one after the other.
const PRIVATE_TOPICS_MAX: usize = 100;

/// Checks the body of a batch as the server does before it sends any of it, and tells how many messages it has, or
/// the body of the refusal.
pub fn check_batch(body: &[u8], limits: BatchLimits) -> Result<usize, String> {
    let messages = Message::parse_all(body, limits);
    messages.map(|messages| messages.len()).map_err(|refusal| refusal.to_string())
}

/// A text of JSON, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// What clients know as a part that is missing or empty.
pub(super) const BLANK: &str = "can't be blank";
const WRONG: &str = "is invalid";
/// What clients know as an oversized payload.
pub(super) const OVERSIZED: &str = "Payload size exceeds tenant limit";

impl<'a> Message<'a> {
    /// Reads `{"messages": […]}`. Where anything is wrong, all that is wrong is told, and nothing is sent.
    pub(super) fn parse_all(body: &'a [u8], limits: BatchLimits) -> Result<Vec<Message<'a>>, Refusal> {
        let text = std::str::from_utf8(body).map_err(|error| Refusal::NotJson(error.to_string()))?;
        let parts: HashMap<Cow<'a, str>, &'a RawValue> = match serde_json::from_str(text) {
            Ok(parts) => parts,
            // A body that is JSON and no object has no `messages`.
            Err(_) if serde_json::from_str::<&RawValue>(text).is_ok() => HashMap::new(),
            Err(error) => return Err(Refusal::NotJson(error.to_string())),
        };
        let list = parts.get("messages").filter(|list| list.get() != "null");
        let list = list.ok_or_else(|| Refusal::invalid("messages", BLANK))?;
        let invalid = |_| Refusal::invalid("messages", WRONG);
        let list: Vec<HashMap<Cow<'a, str>, &'a RawValue>> =
            serde_json::from_str(list.get()).map_err(invalid)?;
        if list.is_empty() {
            return Err(Refusal::invalid("messages", BLANK));
        }
        let limit = limits.messages_max;
        if list.len() > limit {
            let problem = format!("may have {limit} entries (limits.max_batch_messages)");
            return Err(Refusal::invalid("messages", &problem));
        }
        let mut messages = Vec::with_capacity(list.len());
        let mut problems = Vec::with_capacity(list.len());
        for parts in &list {
            let (message, found) = Message::parse(parts, limits.payload_bytes_max);
            messages.extend(message);
            problems.push(Value::Object(found));
        }
        if messages.len() < list.len() {
            return Err(Refusal::Invalid(json!({ "messages": problems })));
        }
        let private = messages.iter().filter(|message| message.private).map(|message| &*message.topic);
        if private.collect::<HashSet<_>>().len() > PRIVATE_TOPICS_MAX {
            let problem = format!("may name {PRIVATE_TOPICS_MAX} different private topics");
            return Err(Refusal::invalid("messages", &problem));
        }
        Ok(messages)
    }

    /// The message, or what is wrong with which part.
    fn parse(
        parts: &HashMap<Cow<'a, str>, &'a RawValue>,
        payload_bytes_max: usize,
    ) -> (Option<Message<'a>>, Map<String, Value>) {
        let mut problems = Map::new();
        let mut wrong = |part: &str, problem: &str| {
            problems.insert(part.to_owned(), json!([problem]));
        };
        let part = |name: &str| parts.get(name).copied().filter(|value| value.get() != "null");
        let mut text = |name: &str, required: bool| match part(name).map(text_of) {
            Some(Some(text)) if !text.trim().is_empty() => Some(text),
            Some(None) => {
                wrong(name, WRONG);
                None
            }
            None | Some(Some(_)) => {
                if required {
                    wrong(name, BLANK);
                }
                None
            }
        };
        let (topic, event, id) = (text("topic", true), text("event", true), text("id", false));
        let payload = match part("payload") {
            None => {
                wrong("payload", BLANK);
                None
            }
            Some(payload) if !payload.get().starts_with('{') => {
                wrong("payload", WRONG);
                None
            }
            Some(payload) if payload.get().len() > payload_bytes_max => {
                wrong("payload", OVERSIZED);
                None
            }
            Some(payload) => Some(payload),
        };
        let private = match part("private").map_or("false", RawValue::get) {
            "true" | r#""true""# | r#""1""# => true,
            "false" | r#""false""# | r#""0""# => false,
            _ => {
                wrong("private", WRONG);
                false
            }
        };
        let (conflate, ttl) = (part("conflate"), part("ttl_ms"));
        if let Err(error) = BroadcastOptions::new(conflate, ttl) {
            wrong(error.member(), &error.to_string());
        }
        let options = [("conflate", conflate), ("ttl_ms", ttl)];
        let options = options.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let message = match (topic, event, payload) {
            (Some(topic), Some(event), Some(payload)) if problems.is_empty() => {
                Some(Message { topic, event, payload, private, id, options })
            }
            _ => None,
        };
        (message, problems)
    }

    /// What receivers get as the payload of `broadcast`, without the id.
    pub(super) fn envelope(&self) -> Box<str> {
        let mut envelope = String::with_capacity(self.payload.get().len() + self.event.len() + 64);
        let (payload, event) = (self.payload.get(), json!(self.event));
        // Writing to a string does not fail.
        let _ = write!(envelope, r#"{{"payload":{payload},"event":{event},"type":"broadcast""#);
        for (name, value) in &self.options {
            let _ = write!(envelope, r#","{name}":{value}"#);
        }
        envelope.push('}');
        envelope.into()
    }
}

fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(value.get()).ok().map(|Text(text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits { messages_max: 150, payload_bytes_max: 25 };

    fn parse(body: &str) -> Result<Vec<Message<'_>>, Value> {
        Message::parse_all(body.as_bytes(), LIMITS).map_err(|refusal| match refusal {
            Refusal::Invalid(errors) => errors,
            other => json!(other.to_string()),
        })
    }

    fn wrong(message: &str) -> Value {
        parse(&format!(r#"{{"messages":[{message}]}}"#)).unwrap_err()["messages"][0].take()
    }

    #[test]
    fn payloads_go_out_as_the_text_that_came_in() {
        let body = r#" {"messages":[{"topic":"a:b","event":"\u0065\"","payload":{ "n" : 1.50e0,"n":2},"id":"7"},
            {"topic":"t","event":"e","payload":{}, "private":"1"}], "more": 1} "#;
        let messages = parse(body).unwrap();
        assert_eq!((&*messages[0].topic, messages[0].private), ("a:b", false));
        let envelope = r#"{"payload":{ "n" : 1.50e0,"n":2},"event":"e\"","type":"broadcast"}"#;
        assert_eq!((&*messages[0].envelope(), messages[0].id.as_deref()), (envelope, Some("7")));
        assert_eq!(&*messages[1].envelope(), r#"{"payload":{},"event":"e","type":"broadcast"}"#);
        assert!(messages[1].private);
    }

    #[test]
    fn options_for_sockets_that_are_behind_go_out_too_and_wrong_ones_are_named() {
        let message = r#"{"topic":"t","event":"e","payload":{},"ttl_ms":5,"conflate":"k"}"#;
        let messages = format!(r#"{{"messages":[{message}]}}"#);
        let envelope = r#"{"payload":{},"event":"e","type":"broadcast","conflate":"k","ttl_ms":5}"#;
        assert_eq!(&*parse(&messages).unwrap()[0].envelope(), envelope);
        let found = wrong(r#"{"topic":"t","event":"e","payload":{},"ttl_ms":"5"}"#);
        let told = "ttl_ms must be a whole number of milliseconds, 1 to 86400000";
        assert_eq!(found, json!({ "ttl_ms": [told] }));
    }

    #[test]
    fn every_message_that_is_wrong_is_told_what_is_wrong_at_its_place() {
        let good = r#"{"topic":"t","event":"e","payload":{}}"#;
        let found = parse(&format!(r#"{{"messages":[{good},{{}},{good}]}}"#)).unwrap_err();
        let blank = json!(["can't be blank"]);
        let expected = json!({ "messages": [{}, { "payload": blank, "event": blank, "topic": blank }, {}] });
        assert_eq!(found, expected);
    }

    #[test]
    fn parts_of_the_wrong_kind_are_invalid_and_empty_ones_blank() {
        for (message, expected) in [
            (
                r#"{"topic":1,"event":[],"payload":"x"}"#,
                json!({"topic":["is invalid"],"event":["is invalid"],"payload":["is invalid"]}),
            ),
            (
                r#"{"topic":" ","event":null,"payload":{}}"#,
                json!({"topic":["can't be blank"],"event":["can't be blank"]}),
            ),
            (r#"{"topic":"t","event":"e","payload":[]}"#, json!({"payload":["is invalid"]})),
            (
                r#"{"topic":"t","event":"e","payload":{},"private":"maybe","id":4}"#,
                json!({"private":["is invalid"],"id":["is invalid"]}),
            ),
            (
                r#"{"topic":"t","event":"e","payload":{"key":"a value that is long"}}"#,
                json!({"payload":["Payload size exceeds tenant limit"]}),
            ),
        ] {
            assert_eq!(wrong(message), expected, "{message}");
        }
    }

    #[test]
    fn a_list_that_is_missing_or_empty_is_blank_and_anything_else_is_invalid() {
        for body in ["{}", "[]", "7", r#"{"messages":[]}"#, r#"{"messages":null}"#] {
            assert_eq!(parse(body).unwrap_err(), json!({ "messages": ["can't be blank"] }), "{body}");
        }
        for body in [r#"{"messages":{}}"#, r#"{"messages":["x"]}"#, r#"{"messages":"x"}"#] {
            assert_eq!(parse(body).unwrap_err(), json!({ "messages": ["is invalid"] }), "{body}");
        }
        for body in ["", "{", "{\"messages\":[}", "nothing"] {
            let told = parse(body).unwrap_err();
            assert!(told.as_str().unwrap().starts_with("the body is not JSON: "), "{told}");
        }
        assert!(matches!(Message::parse_all(b"\"\xff\"", LIMITS), Err(Refusal::NotJson(_))));
    }

    /// A batch of so many messages, each to a topic of its own.
    fn of_topics(count: usize, private: bool) -> String {
        let message = |number| json!({ "topic": format!("t{number}"), "event": "e", "payload": {}, "private": private });
        json!({ "messages": (0..count).map(message).collect::<Vec<_>>() }).to_string()
    }

    #[test]
    fn a_batch_has_so_many_messages_and_the_setting_is_named() {
        assert_eq!(parse(&of_topics(150, false)).unwrap().len(), 150);
        let told = json!({ "messages": ["may have 150 entries (limits.max_batch_messages)"] });
        assert_eq!(parse(&of_topics(151, false)).unwrap_err(), told);
    }

    #[test]
    fn a_batch_names_a_hundred_private_topics_at_most() {
        assert_eq!(parse(&of_topics(100, true)).unwrap().len(), 100);
        let told = json!({ "messages": ["may name 100 different private topics"] });
        assert_eq!(parse(&of_topics(101, true)).unwrap_err(), told);
        let one_topic = of_topics(101, true).replace("\"t100\"", "\"t7\"");
        assert_eq!(parse(&one_topic).unwrap().len(), 101, "each topic is asked about once");
    }
}
