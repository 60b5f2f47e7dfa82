//! A broadcast as its receivers get it, encoded once for each serializer (docs/protocol.md §2.4).

use std::sync::Arc;

use uuid::Uuid;
use walcast_wire::{Encoding, Serializer, json_text};

use crate::command::{BroadcastPayload, Fanout};
use crate::relief::{BroadcastRules, Relief};
use crate::topic::TopicKey;

/// Encodes a broadcast for the members of `topic`. What has an `id` carries it as its metadata.
pub(crate) fn fanout_of(
    topic: TopicKey,
    payload: &BroadcastPayload,
    id: Option<&str>,
    rules: &BroadcastRules,
) -> Fanout {
    let relief = Relief::of(rules, &topic, payload);
    let text = match payload {
        BroadcastPayload::Text(text) => text,
        BroadcastPayload::User { event, encoding, payload, .. } => {
            return user_fanout(topic, event, id, *encoding, payload, relief);
        }
    };
    let with_metadata = id.map(|id| json_text::with_members(text, &[("meta", metadata_of(id).as_str())]));
    let text = with_metadata.as_deref().unwrap_or(text);
    let encode = |serializer| Some(walcast_wire::broadcast(serializer, &topic.topic, text));
    let (v1, v2) = (encode(Serializer::V1), encode(Serializer::V2));
    Fanout { topic, id: replayable(id), relief, v1, v2 }
}

/// Encodes a broadcast whose event and payload are apart.
pub(crate) fn user_fanout(
    topic: TopicKey,
    event: &str,
    id: Option<&str>,
    encoding: Encoding,
    payload: &[u8],
    relief: Option<Arc<Relief>>,
) -> Fanout {
    let metadata = id.map(metadata_of);
    let encode = |serializer| {
        walcast_wire::user_broadcast(serializer, &topic.topic, event, metadata.as_deref(), encoding, payload)
    };
    let (v1, v2) = (encode(Serializer::V1), encode(Serializer::V2));
    Fanout { topic, id: replayable(id), relief, v1, v2 }
}

fn metadata_of(id: &str) -> String {
    format!("{{\"id\":{}}}", json_text::quoted(id))
}

/// Stored messages have UUIDs; nothing else can have been replayed.
fn replayable(id: Option<&str>) -> Option<Uuid> {
    id.and_then(|id| id.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Privacy;

    fn payload_of(payload: &BroadcastPayload, id: Option<&str>, serializer: Serializer) -> Option<String> {
        let topic = TopicKey::new("realtime:a".into(), Privacy::Public);
        let fanout = fanout_of(topic, payload, id, &BroadcastRules::default());
        let text = |frame: &walcast_wire::Frame| String::from_utf8_lossy(&frame.payload()).into_owned();
        fanout.frame(serializer).map(text)
    }

    #[test]
    fn an_id_is_the_metadata_of_a_binary_frame_and_a_member_of_an_object() {
        let encoding = Encoding::Json;
        let user = BroadcastPayload::User {
            event: "e".into(),
            encoding,
            payload: bytes::Bytes::from_static(b"{}"),
            options: None,
        };
        assert_eq!(
            payload_of(&user, Some("7"), Serializer::V2).as_deref(),
            Some("\u{4}\u{a}\u{1}\u{a}\u{1}realtime:ae{\"id\":\"7\"}{}")
        );
        let object = r#"{"event":"e","payload":{},"type":"broadcast","meta":{"id":"7"}}"#;
        assert!(payload_of(&user, Some("7"), Serializer::V1).unwrap().contains(object));
        let text = BroadcastPayload::Text(r#"{"event":"e","payload":{},"type":"broadcast"}"#.into());
        for serializer in [Serializer::V1, Serializer::V2] {
            assert!(payload_of(&text, Some("7"), serializer).unwrap().contains(object));
        }
    }

    #[test]
    fn only_the_id_of_a_stored_message_is_looked_for_among_replays() {
        let text = BroadcastPayload::Text("{}".into());
        let topic = TopicKey::new("realtime:a".into(), Privacy::Private);
        let of = |id| fanout_of(topic.clone(), &text, id, &BroadcastRules::default()).id;
        assert_eq!(of(Some("mine")), None);
        assert_eq!(of(None), None);
        assert!(of(Some("7b0f2c52-7a52-4b8b-9a5e-0d1e2f3a4b5c")).is_some());
    }
}
