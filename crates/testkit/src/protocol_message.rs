//! What a client sends and gets, in the forms of both serializers (docs/protocol.md §2).
//!
//! Written independently of the server's own crates, so that a mistake there does not agree with itself here.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};

/// The serializer that a client asks for with the query parameter `vsn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolVersion {
    /// Serializer 1.0.0: JSON objects in text frames.
    V1,
    /// Serializer 2.0.0: JSON arrays in text frames, and binary frames.
    V2,
}

impl ProtocolVersion {
    /// The value of `vsn`.
    pub fn vsn(self) -> &'static str {
        match self {
            Self::V1 => "1.0.0",
            Self::V2 => "2.0.0",
        }
    }

    /// A text frame from the client.
    pub fn encode(
        self,
        join_ref: &Value,
        reference: &Value,
        topic: &str,
        event: &str,
        payload: &Value,
    ) -> String {
        match self {
            Self::V1 => json!({
                "topic": topic, "event": event, "payload": payload, "ref": reference, "join_ref": join_ref,
            }),
            Self::V2 => json!([join_ref, reference, topic, event, payload]),
        }
        .to_string()
    }
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawFrame {
    /// A text frame.
    Text(String),
    /// A binary frame.
    Binary(Bytes),
}

/// A message from the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The join reference; always null with serializer 1.0.0 and in user broadcasts.
    pub join_ref: Value,
    /// The reference of the message that this one answers.
    pub reference: Value,
    /// The topic, `realtime:` included.
    pub topic: String,
    /// The event; `broadcast` for user broadcasts.
    pub event: String,
    /// The payload. A binary user broadcast is shown in the form that serializer 1.0.0 gives it:
    /// `{"type":"broadcast","event":…,"payload":…}` with `meta` when it had metadata; `payload` is null when the
    /// content is opaque, see [`bytes`](Self::bytes).
    pub payload: Value,
    /// The content of a user broadcast (JSON text or opaque bytes), exactly as sent.
    pub bytes: Option<Bytes>,
    /// The frame it came in.
    pub raw: RawFrame,
}

/// The answer to a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// `ok` or `error`.
    pub status: String,
    /// The body; for errors it has the `reason`.
    pub response: Value,
}

impl Reply {
    /// Whether the server agreed.
    pub fn is_ok(&self) -> bool {
        self.status == "ok"
    }

    /// The reason of a refusal.
    pub fn reason(&self) -> Option<&str> {
        self.response.get("reason")?.as_str()
    }
}

impl Received {
    /// Reads a frame, strictly: the keys and positions that clients rely on must be there.
    pub fn parse(version: ProtocolVersion, raw: &RawFrame) -> Result<Self> {
        let context = || format!("the server sent what no client understands: {raw:?}");
        match (raw, version) {
            (RawFrame::Text(text), ProtocolVersion::V1) => parse_object(text, raw.clone()),
            (RawFrame::Text(text), ProtocolVersion::V2) => parse_array(text, raw.clone()),
            (RawFrame::Binary(bytes), ProtocolVersion::V2) => parse_user_broadcast(bytes, raw.clone()),
            (RawFrame::Binary(_), ProtocolVersion::V1) => {
                Err(anyhow::anyhow!("serializer 1.0.0 has no binary frames"))
            }
        }
        .with_context(context)
    }

    /// Whether it is `event` on `topic`.
    pub fn is(&self, topic: &str, event: &str) -> bool {
        self.topic == topic && self.event == event
    }

    /// The reply in this message, if it is one.
    pub fn reply(&self) -> Option<Reply> {
        (self.event == "phx_reply").then(|| Reply {
            status: self.payload["status"].as_str().unwrap_or_default().to_owned(),
            response: self.payload["response"].clone(),
        })
    }

    /// The `data` of a row change (docs/protocol.md §4), if it is one.
    pub fn change(&self) -> Option<&Value> {
        (self.event == "postgres_changes").then(|| &self.payload["data"])
    }

    /// The status and the message of a `system` message of `extension` (docs/protocol.md §3.5), if it is one.
    pub fn system(&self, extension: &str) -> Option<(&str, &str)> {
        let matches = self.event == "system" && self.payload["extension"] == extension;
        if !matches {
            return None;
        }
        Some((self.payload["status"].as_str()?, self.payload["message"].as_str()?))
    }
}

fn parse_object(text: &str, raw: RawFrame) -> Result<Received> {
    let value: Value = serde_json::from_str(text)?;
    let object = value.as_object().context("not an object")?;
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    ensure!(keys == ["event", "payload", "ref", "topic"], "the keys must be event, payload, ref and topic");
    Ok(Received {
        join_ref: Value::Null,
        reference: value["ref"].clone(),
        topic: text_of(&value["topic"])?,
        event: text_of(&value["event"])?,
        payload: value["payload"].clone(),
        bytes: None,
        raw,
    })
}

fn parse_array(text: &str, raw: RawFrame) -> Result<Received> {
    let value: Value = serde_json::from_str(text)?;
    let [join_ref, reference, topic, event, payload] = value.as_array().context("not an array")?.as_slice()
    else {
        bail!("the array must have five elements");
    };
    Ok(Received {
        join_ref: join_ref.clone(),
        reference: reference.clone(),
        topic: text_of(topic)?,
        event: text_of(event)?,
        payload: payload.clone(),
        bytes: None,
        raw,
    })
}

/// Kind 4, the only kind that clients accept: lengths of topic, event and metadata, the encoding, then these three
/// and the content (docs/protocol.md §2.3).
fn parse_user_broadcast(frame: &Bytes, raw: RawFrame) -> Result<Received> {
    let [4, topic, event, metadata, encoding, ..] = frame[..] else {
        bail!("not a user broadcast (kind 4)");
    };
    let mut rest = frame.slice(5..);
    let mut take = |length: u8| -> Result<Bytes> {
        ensure!(rest.len() >= usize::from(length), "the frame is shorter than its lengths say");
        Ok(rest.split_to(usize::from(length)))
    };
    let (topic, event, metadata) = (take(topic)?, take(event)?, take(metadata)?);
    let content = match encoding {
        0 => Value::Null,
        1 => serde_json::from_slice(&rest).context("the content is not JSON")?,
        other => bail!("unknown encoding {other}"),
    };
    let mut payload = json!({ "type": "broadcast", "event": str::from_utf8(&event)?, "payload": content });
    if !metadata.is_empty() {
        payload["meta"] = serde_json::from_slice(&metadata).context("the metadata is not JSON")?;
    }
    Ok(Received {
        join_ref: Value::Null,
        reference: Value::Null,
        topic: str::from_utf8(&topic)?.to_owned(),
        event: "broadcast".to_owned(),
        payload,
        bytes: Some(rest),
        raw,
    })
}

/// A user broadcast from the client (kind 3). Fails for a string of more than 255 bytes.
pub(crate) fn user_broadcast(
    join_ref: &str,
    reference: &str,
    topic: &str,
    event: &str,
    metadata: &str,
    json: bool,
    content: &[u8],
) -> Result<Vec<u8>> {
    let strings = [join_ref, reference, topic, event, metadata];
    let mut frame = vec![3];
    for string in strings {
        frame.push(u8::try_from(string.len()).with_context(|| format!("longer than 255 bytes: {string}"))?);
    }
    frame.push(u8::from(json));
    for string in strings {
        frame.extend_from_slice(string.as_bytes());
    }
    frame.extend_from_slice(content);
    Ok(frame)
}

fn text_of(value: &Value) -> Result<String> {
    Ok(value.as_str().with_context(|| format!("{value} must be a string"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_broadcast_has_the_bytes_of_the_specification() {
        let frame = user_broadcast("1", "2", "realtime:a", "e", "", true, br#"{"x":1}"#).expect("it fits");
        assert_eq!(frame, b"\x03\x01\x01\x0a\x01\x00\x0112realtime:ae{\"x\":1}");
    }

    #[test]
    fn a_user_broadcast_of_the_server_is_read_with_and_without_metadata() {
        let frame = Bytes::from_static(b"\x04\x0a\x01\x00\x01realtime:ae{\"x\":1}");
        let message = Received::parse(ProtocolVersion::V2, &RawFrame::Binary(frame)).expect("well formed");
        assert!(message.is("realtime:a", "broadcast"));
        assert_eq!(message.payload, json!({"type": "broadcast", "event": "e", "payload": {"x": 1}}));
        let frame = Bytes::from_static(b"\x04\x0a\x01\x08\x00realtime:ae{\"id\":1}\xff\x00");
        let message = Received::parse(ProtocolVersion::V2, &RawFrame::Binary(frame)).expect("well formed");
        assert_eq!(message.payload["meta"], json!({"id": 1}));
        assert_eq!(message.bytes.as_deref(), Some(&b"\xff\x00"[..]));
    }

    #[test]
    fn frames_that_clients_would_choke_on_are_refused() {
        let text = |text: &str| RawFrame::Text(text.to_owned());
        for (version, frame) in [
            (ProtocolVersion::V1, text(r#"{"topic":"a","event":"b","payload":{}}"#)),
            (
                ProtocolVersion::V1,
                text(r#"{"topic":"a","event":"b","payload":{},"ref":null,"join_ref":"1"}"#),
            ),
            (ProtocolVersion::V1, text(r#"[null,null,"a","b",{}]"#)),
            (ProtocolVersion::V2, text(r#"[null,null,"a","b"]"#)),
            (ProtocolVersion::V2, text(r#"[null,null,7,"b",{}]"#)),
            (ProtocolVersion::V2, RawFrame::Binary(Bytes::from_static(b"\x02\x01\x01ab{}"))),
            (ProtocolVersion::V2, RawFrame::Binary(Bytes::from_static(b"\x04\x09\x01\x00\x01ab"))),
            (ProtocolVersion::V1, RawFrame::Binary(Bytes::from_static(b"\x04\x01\x01\x00\x01ab1"))),
        ] {
            Received::parse(version, &frame).expect_err(&format!("{frame:?}"));
        }
    }

    #[test]
    fn a_reply_and_a_system_message_are_recognised() {
        let text = r#"["1","1","realtime:a","phx_reply",{"status":"error","response":{"reason":"no"}}]"#;
        let message =
            Received::parse(ProtocolVersion::V2, &RawFrame::Text(text.into())).expect("well formed");
        let reply = message.reply().expect("a reply");
        assert_eq!((reply.is_ok(), reply.reason()), (false, Some("no")));
        let text = r#"{"topic":"realtime:a","event":"system","ref":null,
            "payload":{"extension":"postgres_changes","status":"ok","message":"m","channel":"a"}}"#;
        let message =
            Received::parse(ProtocolVersion::V1, &RawFrame::Text(text.into())).expect("well formed");
        assert_eq!(message.system("postgres_changes"), Some(("ok", "m")));
        assert_eq!(message.system("presence"), None);
    }
}
