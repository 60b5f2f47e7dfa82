//! Messages of the server as frames: replies, pushes, system messages, broadcasts (docs/protocol.md §2.1, §2.2, §3.5).
//!
//! JSON that is passed in (`response_json`, `payload_json`, …) goes out as it is; the caller vouches that it is valid.

use crate::binary;
use crate::binary::Encoding;
use crate::frame::{Frame, FrameBuffer, Opcode};
use crate::json_text;
use crate::reference::Ref;
use crate::serializer::Serializer;

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
    let envelope = Envelope {
        serializer,
        join_ref,
        reference,
        topic,
        event: "phx_reply",
    };
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
    let envelope = Envelope {
        serializer,
        join_ref,
        reference: &Ref::NULL,
        topic,
        event,
    };
    envelope.frame(payload_json.len(), |out| {
        out.extend_from_slice(payload_json.as_bytes())
    })
}

/// `phx_close`: the channel has ended. Both references are the channel's (docs/protocol.md §2.2).
pub fn channel_close(serializer: Serializer, join_ref: &Ref, topic: &str) -> Frame {
    let envelope = Envelope {
        serializer,
        join_ref,
        reference: join_ref,
        topic,
        event: "phx_close",
    };
    envelope.frame(2, |out| out.extend_from_slice(b"{}"))
}

/// `phx_error`: the channel has failed and the client is to join again. Both references are the channel's.
pub fn channel_error(serializer: Serializer, join_ref: &Ref, topic: &str) -> Frame {
    let payload = br#"{"reason":"channel_crash"}"#;
    let envelope = Envelope {
        serializer,
        join_ref,
        reference: join_ref,
        topic,
        event: "phx_error",
    };
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
    let envelope = Envelope {
        serializer,
        join_ref,
        reference: &Ref::NULL,
        topic,
        event: "system",
    };
    envelope.frame(message.len() + topic.len() + 80, |out| {
        out.extend_from_slice(b"{\"extension\":");
        json_text::write_string(extension, out);
        out.extend_from_slice(b",\"status\":\"");
        out.extend_from_slice(status.as_str().as_bytes());
        out.extend_from_slice(b"\",\"message\":");
        json_text::write_string(message, out);
        out.extend_from_slice(b",\"channel\":");
        json_text::write_string(sub_topic(topic).unwrap_or(topic), out);
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
    let payload = std::str::from_utf8(payload).ok()?;
    let envelope = Envelope {
        serializer,
        join_ref: &Ref::NULL,
        reference: &Ref::NULL,
        topic,
        event: "broadcast",
    };
    let capacity = event.len() + payload.len() + metadata.map_or(0, str::len) + 64;
    Some(envelope.frame(capacity, |out| {
        out.extend_from_slice(b"{\"event\":");
        json_text::write_string(event, out);
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
        json_text::write_string(self.event, out);
        out.extend_from_slice(b",\"payload\":");
        write_payload(out);
        out.extend_from_slice(b",\"ref\":");
        out.extend_from_slice(self.reference.as_json().as_bytes());
        out.extend_from_slice(b",\"topic\":");
        json_text::write_string(self.topic, out);
        out.push(b'}');
    }

    fn write_array(&self, out: &mut Vec<u8>, write_payload: impl FnOnce(&mut Vec<u8>)) {
        out.push(b'[');
        out.extend_from_slice(self.join_ref.as_json().as_bytes());
        out.push(b',');
        out.extend_from_slice(self.reference.as_json().as_bytes());
        out.push(b',');
        json_text::write_string(self.topic, out);
        out.push(b',');
        json_text::write_string(self.event, out);
        out.push(b',');
        write_payload(out);
        out.push(b']');
    }
}
