//! What is said over the sockets: walcast's protocol in both serializers, and those of the servers it is compared with.
//! One client for all of them, so that what it costs is the same for each.

use clap::ValueEnum;
use memchr::memmem;
use serde_json::json;

use crate::frame::{Opcode, write};
use crate::stamp;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// walcast with arrays and binary broadcasts (`vsn=2.0.0`).
    #[value(name = "v2")]
    WalcastV2,
    /// walcast with objects (`vsn=1.0.0`).
    #[value(name = "v1")]
    WalcastV1,
    /// `s<topic>` subscribes and is answered with `ok`; `p<topic> <payload>` publishes the payload as it is.
    Plain,
    /// Socket.IO 4: the events `subscribe` (acknowledged) and `publish`; receivers get `message`.
    SocketIo,
}

/// A channel to join.
#[derive(Clone, Debug, Default)]
pub struct Join {
    /// Without the prefix that a protocol may want.
    pub topic: String,
    /// Its own messages come back.
    pub echo: bool,
    /// Policies decide.
    pub private: bool,
    /// The key that it tracks itself under.
    pub presence: Option<String>,
    /// The table whose inserts it subscribes to.
    pub table: Option<String>,
}

/// The answer to a join.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is joined.
    Joined,
    /// It is not.
    Refused,
    /// Its subscription to row changes stands.
    Subscribed,
}

impl Protocol {
    /// Path and query of the handshake.
    pub fn path(self, base: &str, token: Option<&str>) -> String {
        let query = |version: &str| match token {
            Some(token) => format!("?vsn={version}&apikey={token}"),
            None => format!("?vsn={version}"),
        };
        match self {
            Protocol::WalcastV2 => format!("{base}/websocket{}", query("2.0.0")),
            Protocol::WalcastV1 => format!("{base}/websocket{}", query("1.0.0")),
            Protocol::Plain => format!("{base}/"),
            Protocol::SocketIo => format!("{base}/socket.io/?EIO=4&transport=websocket"),
        }
    }

    /// The path that comes before that, where none is given.
    pub fn usual_base(self) -> &'static str {
        match self {
            Protocol::WalcastV2 | Protocol::WalcastV1 => "/socket",
            Protocol::Plain | Protocol::SocketIo => "",
        }
    }

    /// Whether it is walcast's.
    pub fn is_walcast(self) -> bool {
        matches!(self, Protocol::WalcastV2 | Protocol::WalcastV1)
    }

    /// Whether the socket that publishes must have joined the topic.
    pub fn publishes_as_member(self) -> bool {
        self.is_walcast()
    }

    /// What is said first on every socket.
    pub fn greet(self, out: &mut Vec<u8>) {
        if self == Protocol::SocketIo {
            write(out, Opcode::Text, b"40");
        }
    }

    /// Asks for a channel; the reply brings the timestamp back where the protocol has references.
    pub fn join(self, out: &mut Vec<u8>, join: &Join, at: u64) {
        let text = match self {
            Protocol::WalcastV2 => {
                json!(["1", stamp::text(at), format!("realtime:{}", join.topic), "phx_join", config(join)])
                    .to_string()
            }
            Protocol::WalcastV1 => json!({
                "topic": format!("realtime:{}", join.topic), "event": "phx_join", "payload": config(join),
                "ref": stamp::text(at), "join_ref": "1",
            })
            .to_string(),
            Protocol::Plain => format!("s{}", join.topic),
            Protocol::SocketIo => format!("420{}", json!(["subscribe", join.topic])),
        };
        write(out, Opcode::Text, text.as_bytes());
    }

    /// Reads the answer to [`Protocol::join`].
    pub fn answer(self, message: &[u8]) -> Option<Answer> {
        let has = |part: &str| memmem::find(message, part.as_bytes()).is_some();
        match self {
            Protocol::WalcastV2 | Protocol::WalcastV1 if has(r#""phx_reply""#) => {
                Some(if has(r#""status":"ok""#) { Answer::Joined } else { Answer::Refused })
            }
            Protocol::WalcastV2 | Protocol::WalcastV1 if has(r#""system""#) => {
                Some(if has("Subscribed to PostgreSQL") { Answer::Subscribed } else { Answer::Refused })
            }
            Protocol::WalcastV2 | Protocol::WalcastV1 => None,
            Protocol::Plain => (message == b"ok").then_some(Answer::Joined),
            Protocol::SocketIo => message.starts_with(b"430").then_some(Answer::Joined),
        }
    }

    /// Publishes a payload, which is a JSON object, on a topic.
    pub fn publish(self, out: &mut Vec<u8>, topic: &str, payload: &str) {
        match self {
            Protocol::WalcastV2 => write(out, Opcode::Binary, &user_broadcast_push(topic, payload)),
            Protocol::WalcastV1 => {
                let text = format!(
                    r#"{{"topic":"realtime:{topic}","event":"broadcast","payload":{{"type":"broadcast","event":"b","payload":{payload}}},"ref":"2","join_ref":"1"}}"#
                );
                write(out, Opcode::Text, text.as_bytes());
            }
            Protocol::Plain => write(out, Opcode::Text, format!("p{topic} {payload}").as_bytes()),
            Protocol::SocketIo => {
                write(out, Opcode::Text, format!(r#"42["publish","{topic}",{payload}]"#).as_bytes());
            }
        }
    }

    /// Keeps a socket alive; the others' servers ask themselves.
    pub fn heartbeat(self, out: &mut Vec<u8>) {
        match self {
            Protocol::WalcastV2 => write(out, Opcode::Text, br#"[null,"h","phoenix","heartbeat",{}]"#),
            Protocol::WalcastV1 => {
                write(
                    out,
                    Opcode::Text,
                    br#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"h"}"#,
                );
            }
            Protocol::Plain | Protocol::SocketIo => {}
        }
    }

    /// Tracks a payload under the key that the join named.
    pub fn track(self, out: &mut Vec<u8>, topic: &str, payload: &str) {
        self.presence(out, topic, &format!(r#"{{"type":"presence","event":"track","payload":{payload}}}"#));
    }

    /// Takes it back.
    pub fn untrack(self, out: &mut Vec<u8>, topic: &str) {
        self.presence(out, topic, r#"{"type":"presence","event":"untrack"}"#);
    }

    fn presence(self, out: &mut Vec<u8>, topic: &str, payload: &str) {
        let text = match self {
            Protocol::WalcastV1 => format!(
                r#"{{"topic":"realtime:{topic}","event":"presence","payload":{payload},"ref":"3","join_ref":"1"}}"#
            ),
            _ => format!(r#"["1","3","realtime:{topic}","presence",{payload}]"#),
        };
        write(out, Opcode::Text, text.as_bytes());
    }

    /// What a server wants to hear at once.
    pub fn pong(self, message: &[u8]) -> Option<&'static [u8]> {
        (self == Protocol::SocketIo && message == b"2").then_some(b"3")
    }
}

/// The payload of a `phx_join` (docs/protocol.md §3.2).
fn config(join: &Join) -> serde_json::Value {
    let changes: Vec<_> = join
        .table
        .iter()
        .map(|table| json!({ "event": "INSERT", "schema": "public", "table": table }))
        .collect();
    json!({ "config": {
        "broadcast": { "ack": false, "self": join.echo },
        "presence": { "key": join.presence.as_deref().unwrap_or_default(), "enabled": join.presence.is_some() },
        "postgres_changes": changes,
        "private": join.private,
    } })
}

/// A binary frame of kind 3 with JSON (docs/protocol.md §2.3). The names of this client's topics are short.
fn user_broadcast_push(topic: &str, payload: &str) -> Vec<u8> {
    let topic = format!("realtime:{topic}");
    let length = u8::try_from(topic.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![3, 1, 1, length, 1, 0, 1, b'1', b'2'];
    bytes.extend_from_slice(&topic.as_bytes()[..usize::from(length)]);
    bytes.push(b'b');
    bytes.extend_from_slice(payload.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Protocol; 4] =
        [Protocol::WalcastV2, Protocol::WalcastV1, Protocol::Plain, Protocol::SocketIo];

    #[test]
    fn the_answers_of_every_server_are_told_apart() {
        let answers: [(Protocol, &[u8], Option<Answer>); 8] = [
            (
                Protocol::WalcastV2,
                br#"["1","bench@0","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
                Some(Answer::Joined),
            ),
            (
                Protocol::WalcastV1,
                br#"{"event":"phx_reply","payload":{"status":"error","response":{"reason":"no"}},"ref":"1","topic":"realtime:a"}"#,
                Some(Answer::Refused),
            ),
            (
                Protocol::WalcastV2,
                br#"["1",null,"realtime:a","system",{"extension":"postgres_changes","status":"ok","message":"Subscribed to PostgreSQL","channel":"a"}]"#,
                Some(Answer::Subscribed),
            ),
            (Protocol::WalcastV2, br#"["1",null,"realtime:a","presence_state",{}]"#, None),
            (Protocol::Plain, b"ok", Some(Answer::Joined)),
            (Protocol::Plain, b"{}", None),
            (Protocol::SocketIo, b"430[]", Some(Answer::Joined)),
            (Protocol::SocketIo, b"42[\"message\",{}]", None),
        ];
        for (protocol, message, answer) in answers {
            assert_eq!(protocol.answer(message), answer, "{}", String::from_utf8_lossy(message));
        }
    }

    #[test]
    fn a_published_message_carries_its_payload_unchanged() {
        let payload = stamp::payload(42, 60);
        for protocol in ALL {
            let mut out = Vec::new();
            protocol.publish(&mut out, "room", &payload);
            assert!(memmem::find(&out, payload.as_bytes()).is_some(), "{protocol:?}");
        }
    }
}
