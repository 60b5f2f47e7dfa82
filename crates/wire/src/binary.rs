//! Binary frames of serializer 2.0.0: pushes of a client in, user broadcasts out (docs/protocol.md §2.3).
//!
//! Every length is one unsigned byte and counts bytes; strings follow each other without separators; the payload is
//! the rest of the frame.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::client_message::{ClientMessage, ClientPayload, MalformedMessage};
use crate::frame::{Frame, FrameBuffer, Opcode};
use crate::reference::Ref;

/// How the payload of a user broadcast is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Opaque bytes.
    Binary,
    /// JSON text.
    Json,
}

/// A broadcast that a client sent as a binary frame of kind 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserBroadcast<'a> {
    /// The user's own event name.
    pub event: Cow<'a, str>,
    /// Empty or a JSON object, as sent; not checked, and not forwarded to receivers.
    pub metadata: &'a [u8],
    /// How `payload` is to be read.
    pub encoding: Encoding,
    /// The payload; valid JSON when the encoding says so.
    pub payload: &'a [u8],
}

const PUSH: u8 = 0;
const USER_BROADCAST_PUSH: u8 = 3;
const USER_BROADCAST: u8 = 4;

/// Reads a binary frame of a client: kind 0 or kind 3.
pub(crate) fn parse(frame: &[u8]) -> Result<ClientMessage<'_>, MalformedMessage> {
    let (&kind, rest) = frame.split_first().ok_or(MalformedMessage::Empty)?;
    match kind {
        PUSH => parse_push(rest),
        USER_BROADCAST_PUSH => parse_user_broadcast(rest),
        kind => Err(MalformedMessage::UnknownKind(kind)),
    }
}

/// A frame of kind 4, or `None` when topic, event or metadata are longer than the 255 bytes it can say.
pub(crate) fn user_broadcast(
    topic: &str,
    event: &str,
    metadata: &str,
    encoding: Encoding,
    payload: &[u8],
) -> Option<Frame> {
    let lengths = [u8::try_from(topic.len()), u8::try_from(event.len()), u8::try_from(metadata.len())];
    let [Ok(topic_length), Ok(event_length), Ok(metadata_length)] = lengths else {
        return None;
    };
    let encoding = match encoding {
        Encoding::Binary => 0,
        Encoding::Json => 1,
    };
    let mut buffer =
        FrameBuffer::with_capacity(5 + topic.len() + event.len() + metadata.len() + payload.len());
    let out = buffer.out();
    out.extend_from_slice(&[USER_BROADCAST, topic_length, event_length, metadata_length, encoding]);
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(metadata.as_bytes());
    out.extend_from_slice(payload);
    Some(buffer.finish(Opcode::Binary))
}

/// A frame of kind 4, taken apart again.
pub(crate) struct SentUserBroadcast<'a> {
    pub(crate) topic: &'a str,
    pub(crate) event: &'a str,
    pub(crate) metadata: &'a str,
    pub(crate) encoding: Encoding,
    pub(crate) payload: &'a [u8],
}

/// Takes apart what [`user_broadcast`] has put together; `None` for anything else.
pub(crate) fn parse_sent_user_broadcast(frame: &[u8]) -> Option<SentUserBroadcast<'_>> {
    let (&[USER_BROADCAST, topic, event, metadata, encoding], rest) = frame.split_first_chunk()? else {
        return None;
    };
    let (topic, rest) = rest.split_at_checked(usize::from(topic))?;
    let (event, rest) = rest.split_at_checked(usize::from(event))?;
    let (metadata, payload) = rest.split_at_checked(usize::from(metadata))?;
    Some(SentUserBroadcast {
        topic: std::str::from_utf8(topic).ok()?,
        event: std::str::from_utf8(event).ok()?,
        metadata: std::str::from_utf8(metadata).ok()?,
        encoding: if encoding == 0 { Encoding::Binary } else { Encoding::Json },
        payload,
    })
}

/// Kind 0: `join_ref`, ref, topic, event, data.
fn parse_push(rest: &[u8]) -> Result<ClientMessage<'_>, MalformedMessage> {
    let mut reader = Reader { kind: PUSH, rest };
    let [join_ref, reference, topic, event] = reader.header()?;
    Ok(ClientMessage {
        join_ref: Ref::from_text(&text(reader.take(join_ref)?)),
        reference: Ref::from_text(&text(reader.take(reference)?)),
        topic: text(reader.take(topic)?),
        event: text(reader.take(event)?),
        payload: ClientPayload::Binary(reader.rest),
    })
}

/// Kind 3: `join_ref`, ref, topic, user event, metadata, payload; the last byte of the header is the encoding.
fn parse_user_broadcast(rest: &[u8]) -> Result<ClientMessage<'_>, MalformedMessage> {
    let mut reader = Reader { kind: USER_BROADCAST_PUSH, rest };
    let [join_ref, reference, topic, event, metadata, encoding] = reader.header()?;
    let join_ref = Ref::from_text(&text(reader.take(join_ref)?));
    let reference = Ref::from_text(&text(reader.take(reference)?));
    let topic = text(reader.take(topic)?);
    let event = text(reader.take(event)?);
    let metadata = reader.take(metadata)?;
    let payload = reader.rest;
    let encoding = if encoding == 0 { Encoding::Binary } else { Encoding::Json };
    if encoding == Encoding::Json {
        check_json(payload)?;
    }
    let broadcast = UserBroadcast { event, metadata, encoding, payload };
    let payload = ClientPayload::UserBroadcast(broadcast);
    Ok(ClientMessage { join_ref, reference, topic, event: Cow::Borrowed("broadcast"), payload })
}

/// The payload is embedded in the text messages of other clients, so it has to be JSON and not just claim to be.
fn check_json(payload: &[u8]) -> Result<(), MalformedMessage> {
    let payload = std::str::from_utf8(payload).map_err(|_| MalformedMessage::PayloadNotUtf8)?;
    serde_json::from_str::<&RawValue>(payload).map(|_| ()).map_err(MalformedMessage::PayloadNotJson)
}

/// UTF-8, or else Latin-1: older JavaScript clients write one byte per UTF-16 unit (docs/protocol.md §2.5).
fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().map(|&byte| char::from(byte)).collect()),
    }
}

struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn header<const N: usize>(&mut self) -> Result<[u8; N], MalformedMessage> {
        let (header, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.truncated(N))?;
        self.rest = rest;
        Ok(*header)
    }

    fn take(&mut self, length: u8) -> Result<&'a [u8], MalformedMessage> {
        let length = usize::from(length);
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.truncated(length))?;
        self.rest = rest;
        Ok(taken)
    }

    fn truncated(&self, needed: usize) -> MalformedMessage {
        MalformedMessage::Truncated { kind: self.kind, needed, left: self.rest.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server_message;
    use crate::{Serializer, Status};

    /// The example of docs/protocol.md §2.3.
    const PUSH_EXAMPLE: &[u8] = b"\x03\x01\x01\x0a\x01\x00\x0112realtime:ae{\"x\":1}";

    fn parse(bytes: &[u8]) -> Result<ClientMessage<'_>, MalformedMessage> {
        ClientMessage::parse_binary(Serializer::V2, bytes)
    }

    fn broadcast_of<'a>(message: &ClientMessage<'a>) -> UserBroadcast<'a> {
        match &message.payload {
            ClientPayload::UserBroadcast(broadcast) => broadcast.clone(),
            other => panic!("not a user broadcast: {other:?}"),
        }
    }

    #[test]
    fn kind_3_is_read_as_the_protocol_has_it() {
        let message = parse(PUSH_EXAMPLE).unwrap();
        assert_eq!(message.join_ref.as_json(), "\"1\"");
        assert_eq!(message.reference.as_json(), "\"2\"");
        assert_eq!(message.topic, "realtime:a");
        assert_eq!(message.event, "broadcast");
        let broadcast = broadcast_of(&message);
        assert_eq!(broadcast.event, "e");
        assert_eq!((broadcast.metadata, broadcast.payload), (&b""[..], &br#"{"x":1}"#[..]));
        assert_eq!(broadcast.encoding, Encoding::Json);
    }

    #[test]
    fn kind_4_is_written_as_the_protocol_has_it() {
        let frame = user_broadcast("realtime:a", "e", "", Encoding::Json, br#"{"x":1}"#).unwrap();
        assert_eq!(frame.bytes()[..], *b"\x82\x17\x04\x0a\x01\x00\x01realtime:ae{\"x\":1}");
        let id = r#"{"id":"7b0f2c52-7a52-4b8b-9a5e-0d1e2f3a4b5c"}"#;
        let frame = user_broadcast("realtime:a", "e", id, Encoding::Binary, &[0xFF, 0]).unwrap();
        assert_eq!(frame.payload()[..5], [0x04, 0x0A, 0x01, 0x2D, 0x00]);
        assert!(frame.payload().ends_with(&[0xFF, 0]));
    }

    #[test]
    fn kind_4_with_json_becomes_the_text_message_it_stands_for_and_bytes_become_nothing() {
        let id = r#"{"id":"7"}"#;
        let frame = user_broadcast("realtime:a", "e", id, Encoding::Json, br#"{"x":1}"#).unwrap();
        let text = server_message::user_broadcast_as_text(&frame.payload()).unwrap();
        let expected = r#"[null,null,"realtime:a","broadcast",{"event":"e","payload":{"x":1},"type":"broadcast","meta":{"id":"7"}}]"#;
        assert_eq!(text.payload(), expected.as_bytes());
        let bytes = user_broadcast("realtime:a", "e", "", Encoding::Binary, &[1]).unwrap();
        assert!(server_message::user_broadcast_as_text(&bytes.payload()).is_none());
        assert!(server_message::user_broadcast_as_text(b"\x04\xff\x01\x00\x01a").is_none());
    }

    #[test]
    fn kind_0_is_read_with_its_own_event() {
        let message = parse(b"\x00\x00\x01\x0a\x04\x37realtime:aecho\xff").unwrap();
        assert_eq!((message.join_ref.as_json(), message.reference.as_json()), ("\"\"", "\"7\""));
        assert_eq!((message.topic.as_ref(), message.event.as_ref()), ("realtime:a", "echo"));
        assert!(matches!(message.payload, ClientPayload::Binary(b"\xff")));
    }

    #[test]
    fn any_encoding_but_zero_is_json_and_is_checked() {
        for encoding in [1, 2, 255] {
            let mut frame = PUSH_EXAMPLE.to_vec();
            frame[6] = encoding;
            assert_eq!(broadcast_of(&parse(&frame).unwrap()).encoding, Encoding::Json);
            frame.push(b'}');
            assert!(matches!(parse(&frame), Err(MalformedMessage::PayloadNotJson(_))));
            frame.push(0xFF);
            assert!(matches!(parse(&frame), Err(MalformedMessage::PayloadNotUtf8)));
            frame[6] = 0;
            assert_eq!(broadcast_of(&parse(&frame).unwrap()).payload, b"{\"x\":1}}\xff");
        }
    }

    #[test]
    fn a_topic_that_is_not_utf_8_is_read_as_latin_1() {
        let message = parse(b"\x03\x00\x00\x0a\x01\x00\x00realtime:\xe9\xfc").unwrap();
        assert_eq!(message.topic, "realtime:é");
        assert_eq!(broadcast_of(&message).event, "ü");
        let message = parse("\x03\0\0\x0b\x01\0\0realtime:ée".as_bytes()).unwrap();
        assert_eq!(message.topic, "realtime:é");
    }

    #[test]
    fn a_frame_cut_off_anywhere_before_its_payload_is_refused() {
        assert!(matches!(parse(b""), Err(MalformedMessage::Empty)));
        for length in 1..PUSH_EXAMPLE.len() - br#"{"x":1}"#.len() {
            let cut = &PUSH_EXAMPLE[..length];
            assert!(matches!(parse(cut), Err(MalformedMessage::Truncated { kind: 3, .. })), "{length}");
        }
        let error = parse(&PUSH_EXAMPLE[..8]).unwrap_err();
        assert_eq!(error.to_string(), "binary frame of kind 3 is cut off: 1 bytes expected next, 0 left");
    }

    #[test]
    fn unknown_kinds_and_binary_on_version_1_are_refused() {
        for kind in [1, 2, 4, 255] {
            assert!(
                matches!(parse(&[kind, 0, 0, 0, 0, 0, 0]), Err(MalformedMessage::UnknownKind(k)) if k == kind)
            );
        }
        let result = ClientMessage::parse_binary(Serializer::V1, PUSH_EXAMPLE);
        assert!(matches!(result, Err(MalformedMessage::BinaryOnTextSerializer)));
    }

    #[test]
    fn the_reply_to_a_binary_push_is_text_with_the_string_from_the_frame() {
        let message = parse(PUSH_EXAMPLE).unwrap();
        let ClientMessage { join_ref, reference, topic, .. } = &message;
        let frame = server_message::reply(Serializer::V2, join_ref, reference, topic, Status::Ok, "{}");
        let expected = br#"["1","2","realtime:a","phx_reply",{"status":"ok","response":{}}]"#;
        assert_eq!(frame.payload()[..], expected[..]);
    }
}
