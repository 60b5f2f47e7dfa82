//! Messages of a client, read from text and binary frames and borrowed from them (docs/protocol.md §1.6, §2).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::binary;
use crate::binary::UserBroadcast;
use crate::object::Text;
use crate::reference::Ref;
use crate::serializer::Serializer;

/// One message of a client.
#[derive(Clone, Debug)]
pub struct ClientMessage<'a> {
    /// The reference of the join this message belongs to; null in most messages of serializer 1.0.0.
    pub join_ref: Ref,
    /// What the reply to this message repeats.
    pub reference: Ref,
    /// The whole topic, such as `realtime:room1` or `phoenix`.
    pub topic: Cow<'a, str>,
    /// The event; `broadcast` for a binary user broadcast, whose own event is in the payload.
    pub event: Cow<'a, str>,
    /// What the message carries.
    pub payload: ClientPayload<'a>,
}

/// What a message of a client carries.
#[derive(Clone, Debug)]
pub enum ClientPayload<'a> {
    /// The JSON payload of a text message, of any JSON type, not parsed any further.
    Json(&'a RawValue),
    /// A binary frame of kind 3.
    UserBroadcast(UserBroadcast<'a>),
    /// The data of a binary frame of kind 0.
    Binary(&'a [u8]),
}

/// A frame that is not a message. It is logged and dropped without a reply, and the connection stays open
/// (docs/protocol.md §1.6).
#[derive(Debug, thiserror::Error)]
pub enum MalformedMessage {
    /// The frame has no bytes.
    #[error("the frame is empty")]
    Empty,
    /// The text is not JSON or not the shape of this serializer.
    #[error("the text is not a message of serializer {serializer}: {source}")]
    Text {
        /// The serializer of the socket.
        serializer: Serializer,
        /// What was wrong, with line and column.
        source: serde_json::Error,
    },
    /// `ref` or `join_ref` is longer than [`Ref::BYTES_MAX`].
    #[error("ref or join_ref has {0} bytes of JSON text, more than the {max} allowed", max = Ref::BYTES_MAX)]
    ReferenceTooLong(usize),
    /// Serializer 1.0.0 has no binary frames.
    #[error("a binary frame on serializer 1.0.0, which has none: connect with vsn=2.0.0")]
    BinaryOnTextSerializer,
    /// The first byte of a binary frame is no kind a client may send.
    #[error("binary frame of kind {0}: a client may send kind 0 or 3")]
    UnknownKind(u8),
    /// A binary frame ends before the lengths in its header are used up.
    #[error("binary frame of kind {kind} is cut off: {needed} bytes expected next, {left} left")]
    Truncated {
        /// The first byte of the frame.
        kind: u8,
        /// How many bytes the header promises next.
        needed: usize,
        /// How many there are.
        left: usize,
    },
    /// A user broadcast says that its payload is JSON, but it is not even UTF-8.
    #[error("the payload of a user broadcast is marked as JSON but is not UTF-8")]
    PayloadNotUtf8,
    /// A user broadcast says that its payload is JSON, but it does not parse.
    #[error("the payload of a user broadcast is marked as JSON but is not: {0}")]
    PayloadNotJson(serde_json::Error),
}

impl<'a> ClientMessage<'a> {
    /// Reads a text frame. Only the envelope is taken apart; the payload is checked to be JSON and borrowed.
    pub fn parse_text(serializer: Serializer, text: &'a str) -> Result<Self, MalformedMessage> {
        let malformed = |source| MalformedMessage::Text { serializer, source };
        let envelope: Envelope<'a> = match serializer {
            Serializer::V1 => serde_json::from_str::<ObjectEnvelope<'a>>(text).map_err(malformed)?.0,
            Serializer::V2 => serde_json::from_str::<ArrayEnvelope<'a>>(text).map_err(malformed)?.0,
        };
        Ok(ClientMessage {
            join_ref: reference(envelope.join_ref)?,
            reference: reference(envelope.reference)?,
            topic: envelope.topic,
            event: envelope.event,
            payload: ClientPayload::Json(envelope.payload),
        })
    }

    /// Reads a binary frame: kind 0 (push) or 3 (user broadcast). Text in it that is not UTF-8 is read as Latin-1.
    pub fn parse_binary(serializer: Serializer, bytes: &'a [u8]) -> Result<Self, MalformedMessage> {
        match serializer {
            Serializer::V1 => Err(MalformedMessage::BinaryOnTextSerializer),
            Serializer::V2 => binary::parse(bytes),
        }
    }
}

fn reference(value: Option<&RawValue>) -> Result<Ref, MalformedMessage> {
    let Some(value) = value else { return Ok(Ref::NULL) };
    let json = value.get();
    if json.len() > Ref::BYTES_MAX {
        return Err(MalformedMessage::ReferenceTooLong(json.len()));
    }
    Ok(Ref::from_json(json))
}

struct Envelope<'a> {
    join_ref: Option<&'a RawValue>,
    reference: Option<&'a RawValue>,
    topic: Cow<'a, str>,
    event: Cow<'a, str>,
    payload: &'a RawValue,
}

/// Serializer 2.0.0: `[join_ref, ref, topic, event, payload]`, further elements ignored.
struct ArrayEnvelope<'a>(Envelope<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for ArrayEnvelope<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ArrayVisitor).map(ArrayEnvelope)
    }
}

struct ArrayVisitor;

impl<'de> Visitor<'de> for ArrayVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[join_ref, ref, topic, event, payload]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let join_ref = elements.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let reference = elements.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
        let Text(topic) = elements.next_element()?.ok_or_else(|| A::Error::invalid_length(2, &self))?;
        let Text(event) = elements.next_element()?.ok_or_else(|| A::Error::invalid_length(3, &self))?;
        let payload = elements.next_element()?.ok_or_else(|| A::Error::invalid_length(4, &self))?;
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Envelope { join_ref: Some(join_ref), reference: Some(reference), topic, event, payload })
    }
}

/// Serializer 1.0.0: `{"topic", "event", "payload", "ref"}` and perhaps `join_ref`, other keys ignored.
struct ObjectEnvelope<'a>(Envelope<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for ObjectEnvelope<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor).map(ObjectEnvelope)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object with topic, event, payload and ref")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut join_ref, mut reference, mut payload) = (None, None, None);
        let (mut topic, mut event) = (None, None);
        while let Some(Text(key)) = map.next_key()? {
            match key.as_ref() {
                "topic" => topic = Some(map.next_value::<Text<'de>>()?.0),
                "event" => event = Some(map.next_value::<Text<'de>>()?.0),
                // Not `Option`: its null would be taken for a missing key.
                "payload" => payload = Some(map.next_value::<&'de RawValue>()?),
                "ref" => reference = Some(map.next_value::<&'de RawValue>()?),
                "join_ref" => join_ref = Some(map.next_value::<&'de RawValue>()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Envelope {
            join_ref,
            reference: Some(reference.ok_or_else(|| A::Error::missing_field("ref"))?),
            topic: topic.ok_or_else(|| A::Error::missing_field("topic"))?,
            event: event.ok_or_else(|| A::Error::missing_field("event"))?,
            payload: payload.ok_or_else(|| A::Error::missing_field("payload"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json<'a>(message: &ClientMessage<'a>) -> &'a str {
        match message.payload {
            ClientPayload::Json(payload) => payload.get(),
            ref other => panic!("not a text message: {other:?}"),
        }
    }

    #[test]
    fn an_array_of_version_2_is_read_and_further_elements_are_ignored() {
        for text in [
            r#"["1","5","realtime:a","broadcast",{"x": 1.0}]"#,
            r#" [ "1" , "5" , "realtime:a" , "broadcast" , {"x": 1.0} , 6 , [] ] "#,
        ] {
            let message = ClientMessage::parse_text(Serializer::V2, text).unwrap();
            assert_eq!((message.join_ref.as_json(), message.reference.as_json()), ("\"1\"", "\"5\""));
            assert_eq!((message.topic.as_ref(), message.event.as_ref()), ("realtime:a", "broadcast"));
            assert_eq!(json(&message), r#"{"x": 1.0}"#);
        }
    }

    #[test]
    fn an_object_of_version_1_is_read_in_any_order_with_unknown_keys() {
        let text = r#"{"version":[1],"ref":7,"payload":null,"event":"heartbeat","topic":"phoenix"}"#;
        let message = ClientMessage::parse_text(Serializer::V1, text).unwrap();
        assert_eq!((message.join_ref.as_json(), message.reference.as_json()), ("null", "7"));
        assert_eq!((message.topic.as_ref(), message.event.as_ref()), ("phoenix", "heartbeat"));
        assert_eq!(json(&message), "null");
        let text = r#"{"topic":"a","topic":"b","event":"e","payload":[],"ref":null,"join_ref":"1"}"#;
        let message = ClientMessage::parse_text(Serializer::V1, text).unwrap();
        assert_eq!((message.topic.as_ref(), message.join_ref.as_json()), ("b", "\"1\""));
    }

    #[test]
    fn texts_are_borrowed_unless_they_have_escapes() {
        let text = r#"[null,null,"realtime:a","br\u006fadcast",1]"#;
        let message = ClientMessage::parse_text(Serializer::V2, text).unwrap();
        assert!(matches!(message.topic, Cow::Borrowed(_)));
        assert_eq!(message.event, "broadcast");
    }

    #[test]
    fn what_is_no_message_of_version_2_is_refused() {
        for text in [
            "",
            " ",
            "{}",
            "null",
            "7",
            "[]",
            "[null]",
            r#"[null,"1","t","e"]"#,
            r#"[null,"1",7,"e",{}]"#,
            r#"[null,"1","t",null,{}]"#,
            r#"[null,"1","t","e",{}"#,
            r#"[null,"1","t","e",{}]]"#,
            r#"[null,"1","t","e",{"x":01}]"#,
            r#"[null,"1","\ud800","e",{}]"#,
            r#"{"topic":"t","event":"e","payload":{},"ref":"1"}"#,
            "\u{feff}[null,\"1\",\"t\",\"e\",{}]",
        ] {
            let error = ClientMessage::parse_text(Serializer::V2, text).unwrap_err();
            assert!(
                error.to_string().starts_with("the text is not a message of serializer 2.0.0: "),
                "{text}"
            );
        }
    }

    #[test]
    fn an_object_of_version_1_without_a_key_is_refused_and_the_key_named() {
        let members = [
            ("topic", "\"t\""),
            ("event", "\"e\""),
            ("payload", "{}"),
            ("ref", "null"),
            ("join_ref", "null"),
        ];
        for (missing, _) in &members[..4] {
            let rest = members.iter().filter(|(name, _)| name != missing);
            let rest: Vec<_> = rest.map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let text = format!("{{{}}}", rest.join(","));
            let error = ClientMessage::parse_text(Serializer::V1, &text).unwrap_err();
            assert!(error.to_string().contains(&format!("missing field `{missing}`")), "{error}");
        }
        for text in
            ["", "[]", r#"[null,"1","t","e",{}]"#, r#"{"topic":null,"event":"e","payload":{},"ref":null}"#]
        {
            assert!(ClientMessage::parse_text(Serializer::V1, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_reference_the_server_would_have_to_keep_has_a_limit() {
        let message = |length: usize| format!(r#"["{}",null,"t","e",{{}}]"#, "1".repeat(length - 2));
        assert!(ClientMessage::parse_text(Serializer::V2, &message(Ref::BYTES_MAX)).is_ok());
        let long = message(Ref::BYTES_MAX + 1);
        let error = ClientMessage::parse_text(Serializer::V2, &long).unwrap_err();
        assert!(matches!(error, MalformedMessage::ReferenceTooLong(1025)));
    }

    #[test]
    fn deep_nesting_is_neither_followed_nor_fatal() {
        let deep = "[".repeat(200_000);
        assert!(ClientMessage::parse_text(Serializer::V2, &deep).is_err());
        let closed = format!(r#"[null,null,"t","e",{deep}{}]"#, "]".repeat(200_000));
        assert!(ClientMessage::parse_text(Serializer::V2, &closed).is_ok());
    }
}
