//! What holds for any input: nothing panics, and whatever goes out as text is JSON.

use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;
use walcast_wire::{
    AccessTokenPush, Binding, BindingId, ChangeBody, ChangeKind, ClientMessage, ClientPayload, ColumnHead,
    Encoding, Field, Frame, JoinPayload, Opcode, Position, PresencePush, Ref, Serializer, Shape, Status,
    broadcast, change_frame, channel_close, channel_error, join_reply, json_text, legacy_change_frame,
    parse_filter, push, reply, system, user_broadcast,
};

/// JSON of any kind, as text, with words of the protocol among its strings and keys.
fn any_json() -> impl Strategy<Value = String> {
    any_value().prop_map(|value| value.to_string())
}

fn any_word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "config",
        "broadcast",
        "presence",
        "postgres_changes",
        "private",
        "self",
        "ack",
        "replay",
        "since",
        "limit",
        "key",
        "enabled",
        "event",
        "schema",
        "table",
        "filter",
        "select",
        "id",
        "access_token",
        "user_token",
        "payload",
        "track",
        "wait",
        "timeout",
        "postgres_changes_options",
        "*",
        "INSERT",
        "true",
        "id=eq.1",
        "topic",
        "ref",
        "sb_x",
    ]);
    prop_oneof![known.prop_map(str::to_owned), any::<String>()]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any_word().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any_word(), inner), 0..6)
                .prop_map(|entries| entries.into_iter().collect()),
        ]
    })
}

/// Texts near the grammar of filters.
fn any_filter() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a", "=", "eq", ".", "not", "in", "(", ")", ",", "\"", "\\", " ", "é", "is", "null", "1",
    ]);
    prop_oneof![prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat()), any::<String>()]
}

fn serializer() -> impl Strategy<Value = Serializer> {
    prop::sample::select(vec![Serializer::V1, Serializer::V2])
}

fn raw(json: &str) -> &RawValue {
    serde_json::from_str(json).expect("valid JSON")
}

/// The message in a text frame, whose header must be right.
fn json_of(frame: &Frame) -> Value {
    assert_eq!(frame.opcode(), Opcode::Text);
    let text = std::str::from_utf8(&frame.bytes()[frame.len() - frame.payload().len()..]).expect("UTF-8");
    serde_json::from_str(text).expect("JSON")
}

/// The payload of a message that must be about this topic and event.
fn payload_of(version: Serializer, frame: &Frame, topic: &str, event: &str) -> Value {
    let mut message = json_of(frame);
    let (topic_at, event_at, payload_at) = match version {
        Serializer::V1 => (&message["topic"], &message["event"], message["payload"].clone()),
        Serializer::V2 => (&message[2], &message[3], message[4].clone()),
    };
    assert_eq!((topic_at.as_str(), event_at.as_str()), (Some(topic), Some(event)));
    let members = match version {
        Serializer::V1 => message.as_object_mut().map(|object| object.len()),
        Serializer::V2 => message.as_array().map(|array| array.len() - 1),
    };
    assert_eq!(members, Some(4));
    payload_at
}

proptest! {
    #[test]
    fn reading_any_text_never_panics(text in any::<String>(), json in any_json(), version in serializer()) {
        let _ = ClientMessage::parse_text(version, &text);
        let _ = ClientMessage::parse_text(version, &json);
        let _ = Serializer::negotiate(Some(&text));
        let _ = Binding::parse(&text);
    }

    #[test]
    fn reading_any_bytes_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..64), kind in prop::sample::select(vec![0_u8, 3]),
        version in serializer(),
    ) {
        let _ = ClientMessage::parse_binary(version, &bytes);
        let _ = ClientMessage::parse_binary(version, &[&[kind], bytes.as_slice()].concat());
    }

    #[test]
    fn reading_any_payload_never_panics_and_its_join_reply_is_json(json in any_json(), sub_topic in any::<String>()) {
        let _ = PresencePush::parse(raw(&json));
        let _ = AccessTokenPush::parse(raw(&json));
        for payload in [json.clone(), format!(r#"{{"config":{json}}}"#)] {
            if let Ok(join) = JoinPayload::parse(&sub_topic, raw(&payload)) {
                let reply: Value = serde_json::from_str(&join_reply(&join.bindings)).expect("JSON");
                let entries = reply["postgres_changes"].as_array().expect("a list");
                prop_assert_eq!(entries.len(), join.bindings.len());
            }
        }
    }

    #[test]
    fn reading_any_filter_never_panics(filter in any_filter()) {
        if let Ok(conditions) = parse_filter(&filter) {
            prop_assert_eq!(conditions.is_empty(), filter.trim().is_empty());
            prop_assert!(conditions.iter().all(|condition| !condition.to_string().is_empty()));
        }
    }

    #[test]
    fn a_filter_value_in_quotes_comes_back_whatever_it_is(value in any::<String>(), other in "[a-z]{1,8}") {
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
        let filter = format!("a=eq.\"{quoted}\",b=in.(\"{quoted}\",{other})");
        let conditions = parse_filter(&filter).expect("a filter");
        prop_assert_eq!(&conditions[0].value, &walcast_wire::ConditionValue::One(value.clone()));
        prop_assert_eq!(&conditions[1].value, &walcast_wire::ConditionValue::List(vec![value, other]));
    }

    #[test]
    fn a_binding_is_echoed_with_one_id_and_nothing_else_changed(
        entries in prop::collection::btree_map(any_word(), any_value(), 0..6),
    ) {
        let object: Value = entries.into_iter().collect();
        let binding = Binding::parse(&object.to_string()).expect("an object");
        let mut echoed: Value = serde_json::from_str(&binding.echo()).expect("JSON");
        prop_assert_eq!(echoed["id"].as_u64(), Some(u64::from(binding.id.get())));
        prop_assert_eq!(binding.echo().matches(&format!("\"id\":{}", binding.id)).count(), 1);
        // Only the top level: an `id` further down belongs to the client.
        let mut expected = object;
        expected.as_object_mut().expect("an object").remove("id");
        echoed.as_object_mut().expect("an object").remove("id");
        prop_assert_eq!(&echoed, &serde_json::from_str::<Value>(&expected.to_string()).expect("JSON"));
        let reversed: Vec<String> = expected.as_object().expect("an object").iter().rev()
            .map(|(key, value)| format!("{} : {value}", json_text::quoted(key))).collect();
        let reversed = Binding::parse(&format!("{{ {} }}", reversed.join(" , "))).expect("an object");
        prop_assert_eq!(reversed.id, binding.id);
    }

    #[test]
    fn a_user_broadcast_comes_back_from_its_frame(
        references in (".{0,60}", ".{0,60}"), topic in ".{0,60}", event in ".{0,60}",
        metadata in prop::collection::vec(any::<u8>(), 0..255), payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (join_ref, reference) = references;
        let parts = [join_ref.as_bytes(), reference.as_bytes(), topic.as_bytes(), event.as_bytes(), &metadata];
        let mut frame = vec![3];
        frame.extend(parts.iter().map(|part| u8::try_from(part.len()).expect("short")));
        frame.push(0);
        for part in parts {
            frame.extend_from_slice(part);
        }
        frame.extend_from_slice(&payload);
        let message = ClientMessage::parse_binary(Serializer::V2, &frame).expect("a message");
        prop_assert_eq!(&message.topic, &topic);
        prop_assert_eq!(message.join_ref, Ref::from_text(&join_ref));
        prop_assert_eq!(message.reference, Ref::from_text(&reference));
        let ClientPayload::UserBroadcast(broadcast) = message.payload else { panic!("not a user broadcast") };
        prop_assert_eq!(&broadcast.event, &event);
        prop_assert_eq!((broadcast.metadata, broadcast.payload), (&metadata[..], &payload[..]));
        let sent = user_broadcast(Serializer::V2, &topic, &event, None, Encoding::Binary, &payload).expect("a frame");
        prop_assert_eq!(&sent.payload()[..4], &[4, frame[3], frame[4], 0]);
        prop_assert_eq!(&sent.payload()[5..], [topic.as_bytes(), event.as_bytes(), &payload].concat());
    }

    #[test]
    fn a_text_message_comes_back_from_its_frame(
        references in (any_json(), any_json()), texts in any::<[String; 2]>(), payload in any_json(),
    ) {
        let [topic, event] = &texts;
        let text = format!("[{},{},{},{},{payload}]", references.0, references.1, json_text::quoted(topic),
            json_text::quoted(event));
        let Ok(message) = ClientMessage::parse_text(Serializer::V2, &text) else {
            prop_assert!(references.0.len().max(references.1.len()) > Ref::BYTES_MAX);
            return Ok(());
        };
        prop_assert_eq!((message.join_ref.as_json(), message.reference.as_json()), (&*references.0, &*references.1));
        prop_assert_eq!((&message.topic, &message.event), (&topic.into(), &event.into()));
        let ClientPayload::Json(borrowed) = message.payload else { panic!("not JSON") };
        prop_assert_eq!(borrowed.get(), payload);
    }

    #[test]
    fn every_text_message_of_the_server_is_json_with_its_topic_and_event(
        version in serializer(), texts in any::<[String; 4]>(), json in any_json(), reference in any_json(),
    ) {
        let [topic, event, extension, message] = &texts;
        let value: Value = serde_json::from_str(&json).expect("JSON");
        let reference = Ref::from_json(&reference);
        let of = |frame: &Frame, event: &str| payload_of(version, frame, topic, event);
        let replied = reply(version, &reference, &reference, topic, Status::Error, &json);
        prop_assert_eq!(&of(&replied, "phx_reply")["response"], &value);
        prop_assert_eq!(&of(&push(version, &reference, topic, event, &json), event), &value);
        prop_assert_eq!(&of(&broadcast(version, topic, &json), "broadcast"), &value);
        of(&channel_close(version, &reference, topic), "phx_close");
        of(&channel_error(version, &reference, topic), "phx_error");
        let system = of(&system(version, &reference, topic, extension, Status::Ok, message), "system");
        prop_assert_eq!(system["message"].as_str(), Some(message.as_str()));
        prop_assert_eq!(system.as_object().map(serde_json::Map::len), Some(4));
        let relayed = user_broadcast(Serializer::V1, topic, event, Some("{}"), Encoding::Json, json.as_bytes());
        let relayed = payload_of(Serializer::V1, &relayed.expect("a frame"), topic, "broadcast");
        prop_assert_eq!((&relayed["payload"], relayed["event"].as_str()), (&value, Some(event.as_str())));
    }

    #[test]
    fn every_change_is_json_whatever_the_row_and_the_limit(
        version in serializer(), texts in any::<[String; 4]>(), row in prop::collection::vec(
            (any::<String>(), prop::option::of(".{0,80}")), 0..5), commit_time in any::<i64>(), limit in 0_usize..2000,
        kind in prop::sample::select(vec![ChangeKind::Insert, ChangeKind::Update, ChangeKind::Delete]),
    ) {
        let [topic, schema, table, type_name] = &texts;
        let columns: Vec<_> = row.iter().map(|(name, _)| ColumnHead { name, type_name }).collect();
        let fields: Vec<_> =
            row.iter().map(|(name, text)| Field { name, shape: &Shape::Text, text: text.as_deref() }).collect();
        let body = ChangeBody { schema, table, kind, commit_time_unix_us: commit_time,
            position: Position::default(), snapshot: false, columns: &columns,
            record: Some(&fields), old_record: Some(&fields), errors: None };
        let data = body.encode(limit);
        let ids: [BindingId; 0] = [];
        let pushed = payload_of(version, &change_frame(version, topic, &ids, &data), topic, "postgres_changes");
        prop_assert_eq!(&pushed["data"]["table"], table.as_str());
        prop_assert_eq!(pushed["data"]["errors"].is_null(), data.len() <= limit && body.encode(usize::MAX) == data);
        let old = payload_of(version, &legacy_change_frame(version, topic, kind, &data), topic, kind.as_str());
        prop_assert_eq!(&old, &pushed["data"]);
        prop_assert_eq!(old.get("record").is_some(), kind != ChangeKind::Delete);
        prop_assert_eq!(old.get("old_record").is_some(), kind != ChangeKind::Insert);
    }
}
