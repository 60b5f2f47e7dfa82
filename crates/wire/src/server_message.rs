//! Messages of the server as frames: replies, pushes, system messages, broadcasts (docs/protocol.md §2.1, §2.2, §3.5).
//!
//! JSON that is passed in (`response_json`, `payload_json`, …) goes out as it is; the caller vouches that it is valid.

use crate::binary;
use crate::binary::Encoding;
use crate::frame::{Frame, FrameBuffer, Opcode};
use crate::json_text;
use crate::reference::Ref;
use crate::serializer::Serializer;
use crate::value::encode_string;

/// The outcome in a reply or a `system` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It worked.
    Ok,
    /// It did not; the rest of the message says why.
    Error,
}

impl Status {
    /// `ok` or `error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Error => "error",
        }
    }
}

/// The answer to a push: `phx_reply` with `{"status", "response"}`. The response should be an object, since typed
/// clients drop anything else (docs/protocol.md §14.2).
pub fn reply(
    serializer: Serializer,
    join_ref: &Ref,
    reference: &Ref,
    topic: &str,
    status: Status,
    response_json: &str,
) -> Frame {
    let envelope = Envelope { serializer, join_ref, reference, topic, event: "phx_reply" };
    envelope.frame(response_json.len() + 32, |out| {
        out.extend_from_slice(b"{\"status\":\"");
        out.extend_from_slice(status.as_str().as_bytes());
        out.extend_from_slice(b"\",\"response\":");
        out.extend_from_slice(response_json.as_bytes());
        out.push(b'}');
    })
}

/// The `response` of a refusal: `{"reason": …}`.
pub fn reason_response(reason: &str) -> String {
    format!("{{\"reason\":{}}}", json_text::quoted(reason))
}

/// An event the server sends unasked; its `ref` is null.
pub fn push(serializer: Serializer, join_ref: &Ref, topic: &str, event: &str, payload_json: &str) -> Frame {
    let envelope = Envelope { serializer, join_ref, reference: &Ref::NULL, topic, event };
    envelope.frame(payload_json.len(), |out| {
        out.extend_from_slice(payload_json.as_bytes());
    })
}

/// `phx_close`: the channel has ended. Both references are the channel's (docs/protocol.md §2.2).
pub fn channel_close(serializer: Serializer, join_ref: &Ref, topic: &str) -> Frame {
    let envelope = Envelope { serializer, join_ref, reference: join_ref, topic, event: "phx_close" };
    envelope.frame(2, |out| out.extend_from_slice(b"{}"))
}

/// `phx_error`: the channel has failed and the client is to join again. Both references are the channel's.
pub fn channel_error(serializer: Serializer, join_ref: &Ref, topic: &str) -> Frame {
    let payload = br#"{"reason":"channel_crash"}"#;
    let envelope = Envelope { serializer, join_ref, reference: join_ref, topic, event: "phx_error" };
    envelope.frame(payload.len(), |out| out.extend_from_slice(payload))
}

/// A `system` message with the four keys clients demand; `channel` is the sub-topic (docs/protocol.md §3.5).
pub fn system(
    serializer: Serializer,
    join_ref: &Ref,
    topic: &str,
    extension: &str,
    status: Status,
    message: &str,
) -> Frame {
    let envelope = Envelope { serializer, join_ref, reference: &Ref::NULL, topic, event: "system" };
    envelope.frame(message.len() + topic.len() + 80, |out| {
        out.extend_from_slice(b"{\"extension\":");
        encode_string(extension, out);
        out.extend_from_slice(b",\"status\":\"");
        out.extend_from_slice(status.as_str().as_bytes());
        out.extend_from_slice(b"\",\"message\":");
        encode_string(message, out);
        out.extend_from_slice(b",\"channel\":");
        encode_string(sub_topic(topic).unwrap_or(topic), out);
        out.push(b'}');
    })
}

/// A broadcast that came as a text message: its payload goes out verbatim (docs/protocol.md §6.1).
pub fn broadcast(serializer: Serializer, topic: &str, payload_json: &str) -> Frame {
    push(serializer, &Ref::NULL, topic, "broadcast", payload_json)
}

/// A broadcast that came as a binary frame, over HTTP or from the database, for receivers of this serializer
/// (docs/protocol.md §2.4).
///
/// `metadata` is a JSON object; a payload with [`Encoding::Json`] must be valid JSON. `None` when a receiver of this
/// serializer gets nothing: bytes that only a binary frame could carry. What the one-byte lengths of a binary frame
/// can not hold goes out as a text message instead.
pub fn user_broadcast(
    serializer: Serializer,
    topic: &str,
    event: &str,
    metadata: Option<&str>,
    encoding: Encoding,
    payload: &[u8],
) -> Option<Frame> {
    if serializer == Serializer::V2 {
        let frame = binary::user_broadcast(topic, event, metadata.unwrap_or(""), encoding, payload);
        if frame.is_some() {
            return frame;
        }
    }
    if encoding == Encoding::Binary {
        return None;
    }
    user_broadcast_text(serializer, topic, event, metadata, payload)
}

/// A binary user broadcast as the text message that it would be where there are no binary ones, such as over
/// long polling; `payload` is a frame's payload. `None` for one that carries bytes, or is none.
pub fn user_broadcast_as_text(payload: &[u8]) -> Option<Frame> {
    let sent = binary::parse_sent_user_broadcast(payload)?;
    if sent.encoding == Encoding::Binary {
        return None;
    }
    user_broadcast_text(Serializer::V2, sent.topic, sent.event, Some(sent.metadata), sent.payload)
}

fn user_broadcast_text(
    serializer: Serializer,
    topic: &str,
    event: &str,
    metadata: Option<&str>,
    payload: &[u8],
) -> Option<Frame> {
    let payload = std::str::from_utf8(payload).ok()?;
    let envelope =
        Envelope { serializer, join_ref: &Ref::NULL, reference: &Ref::NULL, topic, event: "broadcast" };
    let capacity = event.len() + payload.len() + metadata.map_or(0, str::len) + 64;
    Some(envelope.frame(capacity, |out| {
        out.extend_from_slice(b"{\"event\":");
        encode_string(event, out);
        out.extend_from_slice(b",\"payload\":");
        out.extend_from_slice(payload.as_bytes());
        out.extend_from_slice(b",\"type\":\"broadcast\"");
        if let Some(metadata) = metadata.filter(|metadata| !metadata.is_empty()) {
            out.extend_from_slice(b",\"meta\":");
            out.extend_from_slice(metadata.as_bytes());
        }
        out.push(b'}');
    }))
}

/// What a stored message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayedPayload<'a> {
    /// JSON text.
    Json(&'a str),
    /// Opaque bytes.
    Binary(&'a [u8]),
}

/// A stored message, sent to a channel that has just joined (docs/protocol.md §6.4): JSON as a text message with the
/// channel's `join_ref`, bytes as a binary frame. `None` when a receiver of this serializer gets nothing.
pub fn replayed_broadcast(
    serializer: Serializer,
    join_ref: &Ref,
    topic: &str,
    event: &str,
    id: &str,
    payload: ReplayedPayload<'_>,
) -> Option<Frame> {
    let metadata = format!("{{\"replayed\":true,\"id\":{}}}", json_text::quoted(id));
    let json = match payload {
        ReplayedPayload::Binary(bytes) => {
            return user_broadcast(serializer, topic, event, Some(&metadata), Encoding::Binary, bytes);
        }
        ReplayedPayload::Json(json) => json,
    };
    let envelope = Envelope { serializer, join_ref, reference: &Ref::NULL, topic, event: "broadcast" };
    Some(envelope.frame(event.len() + json.len() + metadata.len() + 64, |out| {
        out.extend_from_slice(b"{\"payload\":");
        out.extend_from_slice(json.as_bytes());
        out.extend_from_slice(b",\"event\":");
        encode_string(event, out);
        out.extend_from_slice(b",\"type\":\"broadcast\",\"meta\":");
        out.extend_from_slice(metadata.as_bytes());
        out.push(b'}');
    }))
}

/// The part of a topic after `realtime:`, which may be empty; `None` for any other topic (docs/protocol.md §3.1).
pub fn sub_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix("realtime:")
}

/// Everything of a text message but its payload.
pub(crate) struct Envelope<'a> {
    pub(crate) serializer: Serializer,
    pub(crate) join_ref: &'a Ref,
    pub(crate) reference: &'a Ref,
    pub(crate) topic: &'a str,
    pub(crate) event: &'a str,
}

impl Envelope<'_> {
    /// The text frame around a payload of about so many bytes, which `write_payload` appends as JSON.
    pub(crate) fn frame(&self, payload_bytes: usize, write_payload: impl FnOnce(&mut Vec<u8>)) -> Frame {
        let references = self.join_ref.as_json().len() + self.reference.as_json().len();
        let mut buffer =
            FrameBuffer::with_capacity(payload_bytes + references + self.topic.len() + self.event.len() + 48);
        let out = buffer.out();
        match self.serializer {
            Serializer::V1 => self.write_object(out, write_payload),
            Serializer::V2 => self.write_array(out, write_payload),
        }
        buffer.finish(Opcode::Text)
    }

    /// Version 1 has exactly these four keys, `ref` also when it is null.
    fn write_object(&self, out: &mut Vec<u8>, write_payload: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(b"{\"event\":");
        encode_string(self.event, out);
        out.extend_from_slice(b",\"payload\":");
        write_payload(out);
        out.extend_from_slice(b",\"ref\":");
        out.extend_from_slice(self.reference.as_json().as_bytes());
        out.extend_from_slice(b",\"topic\":");
        encode_string(self.topic, out);
        out.push(b'}');
    }

    fn write_array(&self, out: &mut Vec<u8>, write_payload: impl FnOnce(&mut Vec<u8>)) {
        out.push(b'[');
        out.extend_from_slice(self.join_ref.as_json().as_bytes());
        out.push(b',');
        out.extend_from_slice(self.reference.as_json().as_bytes());
        out.push(b',');
        encode_string(self.topic, out);
        out.push(b',');
        encode_string(self.event, out);
        out.push(b',');
        write_payload(out);
        out.push(b']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "realtime:room1";

    fn text(frame: &Frame) -> String {
        String::from_utf8(frame.payload().to_vec()).unwrap()
    }

    /// The message for both serializers.
    fn both(frame: impl Fn(Serializer) -> Frame) -> [String; 2] {
        [text(&frame(Serializer::V1)), text(&frame(Serializer::V2))]
    }

    #[test]
    fn a_reply_echoes_the_references() {
        let (join_ref, reference) = (Ref::from_text("1"), Ref::from_json("[ 5 ]"));
        let made = both(|version| reply(version, &join_ref, &reference, TOPIC, Status::Ok, "{}"));
        let expected = [
            r#"{"event":"phx_reply","payload":{"status":"ok","response":{}},"ref":[ 5 ],"topic":"realtime:room1"}"#,
            r#"["1",[ 5 ],"realtime:room1","phx_reply",{"status":"ok","response":{}}]"#,
        ];
        assert_eq!(made, expected);
    }

    #[test]
    fn the_reply_to_a_heartbeat_may_have_a_null_reference() {
        let made = both(|version| reply(version, &Ref::NULL, &Ref::NULL, "phoenix", Status::Ok, "{}"));
        let expected = [
            r#"{"event":"phx_reply","payload":{"status":"ok","response":{}},"ref":null,"topic":"phoenix"}"#,
            r#"[null,null,"phoenix","phx_reply",{"status":"ok","response":{}}]"#,
        ];
        assert_eq!(made, expected);
    }

    #[test]
    fn a_refusal_names_its_reason() {
        let response = reason_response("no \"room\"");
        let made = reply(Serializer::V2, &Ref::NULL, &Ref::from_text("3"), "x", Status::Error, &response);
        let expected = r#"[null,"3","x","phx_reply",{"status":"error","response":{"reason":"no \"room\""}}]"#;
        assert_eq!(text(&made), expected);
    }

    #[test]
    fn a_push_has_a_null_reference() {
        let made = both(|version| push(version, &Ref::from_text("1"), TOPIC, "presence_state", "{}"));
        let expected = [
            r#"{"event":"presence_state","payload":{},"ref":null,"topic":"realtime:room1"}"#,
            r#"["1",null,"realtime:room1","presence_state",{}]"#,
        ];
        assert_eq!(made, expected);
    }

    #[test]
    fn the_end_of_a_channel_carries_its_join_reference_twice() {
        let join_ref = Ref::from_text("1");
        let expected = [
            r#"{"event":"phx_close","payload":{},"ref":"1","topic":"realtime:room1"}"#,
            r#"["1","1","realtime:room1","phx_close",{}]"#,
        ];
        assert_eq!(both(|version| channel_close(version, &join_ref, TOPIC)), expected);
        let expected = [
            r#"{"event":"phx_error","payload":{"reason":"channel_crash"},"ref":"1","topic":"realtime:room1"}"#,
            r#"["1","1","realtime:room1","phx_error",{"reason":"channel_crash"}]"#,
        ];
        assert_eq!(both(|version| channel_error(version, &join_ref, TOPIC)), expected);
    }

    #[test]
    fn a_system_message_has_four_keys_and_the_sub_topic_as_channel() {
        let message = "Error parsing `filter` params: [\"wrong\"]";
        let frame =
            system(Serializer::V2, &Ref::from_text("1"), TOPIC, "postgres_changes", Status::Error, message);
        let expected = r#"["1",null,"realtime:room1","system",{"extension":"postgres_changes","status":"error","message":"Error parsing `filter` params: [\"wrong\"]","channel":"room1"}]"#;
        assert_eq!(text(&frame), expected);
    }

    #[test]
    fn a_broadcast_payload_goes_out_verbatim_whatever_json_it_is() {
        for payload in [r#"{ "event" : "e", "x": 1.0 }"#, "[1, 2]", "\"\\u00e9\"", "null"] {
            let made = both(|version| broadcast(version, TOPIC, payload));
            let expected = [
                format!(r#"{{"event":"broadcast","payload":{payload},"ref":null,"topic":"realtime:room1"}}"#),
                format!(r#"[null,null,"realtime:room1","broadcast",{payload}]"#),
            ];
            assert_eq!(made, expected);
        }
    }

    #[test]
    fn a_user_broadcast_is_a_binary_frame_for_version_2_and_an_object_for_version_1() {
        let made = |version, metadata, encoding| {
            user_broadcast(version, TOPIC, "e", metadata, encoding, b"{\"x\":1}")
        };
        let frame = made(Serializer::V2, None, Encoding::Json).unwrap();
        assert_eq!(frame.opcode(), Opcode::Binary);
        assert_eq!(frame.payload()[..], *b"\x04\x0e\x01\x00\x01realtime:room1e{\"x\":1}");
        let plain = made(Serializer::V1, None, Encoding::Json).unwrap();
        let expected = r#"{"event":"broadcast","payload":{"event":"e","payload":{"x":1},"type":"broadcast"},"ref":null,"topic":"realtime:room1"}"#;
        assert_eq!(text(&plain), expected);
        let with_metadata = made(Serializer::V1, Some(r#"{"id":"7"}"#), Encoding::Json).unwrap();
        assert!(text(&with_metadata).contains(r#""type":"broadcast","meta":{"id":"7"}}"#));
    }

    #[test]
    fn version_1_gets_nothing_of_opaque_bytes() {
        let made = |version| user_broadcast(version, TOPIC, "e", None, Encoding::Binary, &[0xFF]);
        assert_eq!(made(Serializer::V1), None);
        assert_eq!(made(Serializer::V2).unwrap().payload()[..5], [4, 14, 1, 0, 0]);
    }

    #[test]
    fn what_a_binary_frame_can_not_hold_goes_out_as_text() {
        let long = "e".repeat(256);
        let made = |topic, event, metadata, encoding| {
            user_broadcast(Serializer::V2, topic, event, metadata, encoding, b"1")
        };
        for (topic, event, metadata) in
            [(long.as_str(), "e", None), (TOPIC, long.as_str(), None), (TOPIC, "e", Some(long.as_str()))]
        {
            let frame = made(topic, event, metadata, Encoding::Json).unwrap();
            assert_eq!(frame.opcode(), Opcode::Text);
            assert!(text(&frame).contains(r#""payload":1,"type":"broadcast""#));
            assert_eq!(made(topic, event, metadata, Encoding::Binary), None);
        }
        let limit = "e".repeat(255);
        assert_eq!(made(&limit, &limit, None, Encoding::Json).unwrap().opcode(), Opcode::Binary);
    }

    #[test]
    fn a_stored_message_is_text_with_the_join_reference_or_a_binary_frame() {
        let join_ref = Ref::from_text("1");
        let made = |version, payload| replayed_broadcast(version, &join_ref, TOPIC, "e", "7", payload);
        let json = ReplayedPayload::Json(r#"{"x": 1}"#);
        let payload =
            r#"{"payload":{"x": 1},"event":"e","type":"broadcast","meta":{"replayed":true,"id":"7"}}"#;
        let expected = [
            format!(r#"{{"event":"broadcast","payload":{payload},"ref":null,"topic":"realtime:room1"}}"#),
            format!(r#"["1",null,"realtime:room1","broadcast",{payload}]"#),
        ];
        assert_eq!(both(|version| made(version, json).unwrap()), expected);
        let bytes = ReplayedPayload::Binary(&[0xFF, 0]);
        let frame = made(Serializer::V2, bytes).unwrap();
        assert_eq!(frame.payload()[..5], [4, 14, 1, 26, 0]);
        assert!(frame.payload().ends_with(b"{\"replayed\":true,\"id\":\"7\"}\xff\0"));
        assert_eq!(made(Serializer::V1, bytes), None);
    }

    #[test]
    fn the_sub_topic_is_what_stands_behind_the_prefix() {
        assert_eq!(sub_topic("realtime:a:b"), Some("a:b"));
        assert_eq!(sub_topic("realtime:"), Some(""));
        assert_eq!(sub_topic("phoenix"), None);
    }
}
