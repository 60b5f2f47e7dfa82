//! The engine with sessions that the test plays, a log that it writes, and no database.

mod channels;
mod limits;
mod messages;
mod operations;
mod presence;
mod replays;
mod side_by_side;
mod slow_sockets;

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use walcast_pgoutput::Xid;
use walcast_wire::{Encoding, sub_topic};

use super::*;
use crate::command::{Departure, Push, PushKind};
use crate::fixture::Catalog;
use crate::recorder::Recorder;
use crate::relief::BroadcastRules;

const ROOM: &str = "realtime:room";

/// A running engine.
struct Scene {
    engine: Engine,
    log: LogSender,
    _snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Scene {
    /// With two shards, so that neighbours are on different ones.
    fn start() -> Scene {
        Scene::with(EngineSettings { shards: 2, ..EngineSettings::default() })
    }

    fn with(settings: EngineSettings) -> Scene {
        let (snapshots, seen) = watch::channel(Arc::default());
        let (engine, log) = Engine::start(settings, Arc::new(Catalog::default()), seen, |_| {});
        Scene { engine, log, _snapshots: snapshots }
    }

    async fn connect(&self) -> Client {
        self.connect_as(Serializer::V2, None).await
    }

    async fn connect_as(&self, serializer: Serializer, subject: Option<&str>) -> Client {
        let (told, written) = mpsc::unbounded_channel();
        let socket = Arc::new(Recorder(told));
        let session = self.engine.connect(socket, serializer, subject.map(Arc::from)).await;
        Client { engine: self.engine.clone(), session, written, frames: VecDeque::new(), bytes: Vec::new() }
    }

    /// A client that has joined the public room.
    async fn member(&self) -> Client {
        let mut client = self.connect().await;
        client.join(public(ROOM)).await.unwrap();
        client
    }
}

/// What is to be joined, as whom, and how.
struct Join {
    topic: &'static str,
    config: Value,
    rights: ReadRights,
    subject: Option<&'static str>,
    replay: Option<BoxFuture<'static, Result<Vec<StoredMessage>, String>>>,
}

fn public(topic: &'static str) -> Join {
    let config = json!({ "broadcast": { "ack": true } });
    Join { topic, config, rights: ReadRights::ALL, subject: None, replay: None }
}

fn private(topic: &'static str) -> Join {
    let config = json!({ "broadcast": { "ack": true }, "private": true });
    Join { config, ..public(topic) }
}

impl Join {
    fn rights(mut self, broadcast: bool, presence: bool) -> Join {
        self.rights = ReadRights { broadcast, presence };
        self
    }

    fn subject(mut self, subject: &'static str) -> Join {
        self.subject = Some(subject);
        self
    }

    /// Asks for presence under a key.
    fn present_as(mut self, key: &str) -> Join {
        self.config["presence"] = json!({ "key": key, "enabled": true });
        self
    }

    fn replay(
        mut self,
        replay: impl Future<Output = Result<Vec<StoredMessage>, String>> + Send + 'static,
    ) -> Join {
        self.replay = Some(replay.boxed());
        self
    }

    fn request(self) -> JoinRequest {
        let config = json!({ "config": self.config }).to_string();
        let config = RawValue::from_string(config).unwrap();
        JoinRequest {
            topic: self.topic.into(),
            join_ref: Ref::from_text("j"),
            reference: Ref::from_text("j"),
            identity: identity(self.subject),
            claimant: Claimant::of(self.subject, "token"),
            rejoins: false,
            payload: JoinPayload::parse(sub_topic(self.topic).unwrap(), &config).unwrap(),
            rights: self.rights,
            replay: self.replay,
            replication_ready: true,
            resume_from: None,
        }
    }
}

fn identity(subject: Option<&str>) -> Arc<Identity> {
    let claims = subject.map_or_else(|| json!({}), |subject| json!({ "sub": subject }));
    let claims_json = claims.to_string().into();
    Arc::new(Identity { role: "someone".into(), claims: Arc::new(claims), claims_json })
}

/// A connection, and what it is sent.
struct Client {
    engine: Engine,
    session: SessionHandle,
    written: mpsc::UnboundedReceiver<Vec<u8>>,
    frames: VecDeque<Received>,
    bytes: Vec<u8>,
}

/// One frame.
#[derive(Debug, PartialEq)]
enum Received {
    /// A text message: `join_ref`, event and payload.
    Text(Value, String, Value),
    Binary(Vec<u8>),
    Close(u16, String),
}

impl Received {
    fn event(&self) -> &str {
        match self {
            Received::Text(_, event, _) => event,
            Received::Binary(_) => "(binary)",
            Received::Close(..) => "(close)",
        }
    }

    fn payload(&self) -> &Value {
        match self {
            Received::Text(_, _, payload) => payload,
            other => panic!("no text: {other:?}"),
        }
    }

    /// The text of a `system` message.
    fn message(&self) -> &str {
        assert_eq!(self.event(), "system", "{self:?}");
        self.payload()["message"].as_str().unwrap()
    }
}

impl Client {
    /// Joins, and takes the reply.
    async fn join(&mut self, join: Join) -> Result<JoinedChannel, JoinRefused> {
        let joined = self.engine.join(&self.session, join.request()).await?;
        let reply = self.next().await;
        assert_eq!((reply.event(), &reply.payload()["status"]), ("phx_reply", &json!("ok")));
        Ok(joined)
    }

    async fn push(&self, kind: PushKind) {
        self.push_on(ROOM, kind).await;
    }

    async fn push_on(&self, topic: &str, kind: PushKind) {
        let (join_ref, reference) = (Ref::from_text("j"), Ref::from_text("p"));
        let push = Push { session: self.session.id, topic: topic.into(), join_ref, reference, kind };
        self.session.send(Command::Push(push)).await;
    }

    async fn broadcast(&self, text: &str) {
        self.push(PushKind::Broadcast(BroadcastPayload::Text(json!({ "event": text }).to_string().into())))
            .await;
    }

    /// Tracks, and takes the reply.
    async fn track(&mut self, meta: Value) {
        self.push(PushKind::Track(meta.to_string().into())).await;
        assert_eq!(
            self.next_but(&["presence_state", "presence_diff", "broadcast"]).await.event(),
            "phx_reply"
        );
    }

    async fn gone(&self, departure: Departure) {
        self.session.send(Command::Gone(self.session.id, departure)).await;
    }

    /// The next frame.
    async fn next(&mut self) -> Received {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return frame;
            }
            let bytes = self.written.recv().await.expect("the socket is written to");
            self.bytes.extend(bytes);
            self.decode();
        }
    }

    /// The next frame with another event; those before it wait their turn.
    async fn next_but(&mut self, events: &[&str]) -> Received {
        let mut passed = VecDeque::new();
        loop {
            let frame = self.next().await;
            if events.contains(&frame.event()) {
                passed.push_back(frame);
                continue;
            }
            passed.append(&mut self.frames);
            self.frames = passed;
            return frame;
        }
    }

    /// The event names of the broadcasts that come before a mark which the client itself is sent now.
    async fn heard(&mut self) -> Vec<String> {
        let mark = Frame::text(br#"[null,null,"t","mark",{}]"#);
        self.session.send(Command::Write(self.session.id, mark.bytes().clone())).await;
        let mut heard = Vec::new();
        loop {
            let frame = self.next().await;
            match frame.event() {
                "mark" => return heard,
                "broadcast" => heard.push(frame.payload()["event"].as_str().unwrap().to_owned()),
                other => heard.push(other.to_owned()),
            }
        }
    }

    fn decode(&mut self) {
        while self.bytes.len() >= 2 {
            let (header, length) = match self.bytes[1] {
                126 if self.bytes.len() < 4 => return,
                126 => (4, usize::from(u16::from_be_bytes([self.bytes[2], self.bytes[3]]))),
                127 if self.bytes.len() < 10 => return,
                127 => {
                    (10, usize::try_from(u64::from_be_bytes(self.bytes[2..10].try_into().unwrap())).unwrap())
                }
                short => (2, usize::from(short)),
            };
            if self.bytes.len() < header + length {
                return;
            }
            let frame: Vec<u8> = self.bytes.drain(..header + length).collect();
            let payload = &frame[header..];
            self.frames.push_back(match frame[0] & 0x0F {
                1 => self.text(payload),
                2 => Received::Binary(payload.to_vec()),
                8 => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    Received::Close(code, String::from_utf8(payload[2..].to_vec()).unwrap())
                }
                other => panic!("no frame of kind {other} is sent"),
            });
        }
    }

    fn text(&self, payload: &[u8]) -> Received {
        let message: Value = serde_json::from_slice(payload).unwrap();
        let event = |event: &Value| event.as_str().unwrap().to_owned();
        match self.session.serializer() {
            Serializer::V2 => Received::Text(message[0].clone(), event(&message[3]), message[4].clone()),
            Serializer::V1 if message.is_array() => {
                Received::Text(Value::Null, event(&message[3]), Value::Null)
            }
            Serializer::V1 => {
                Received::Text(Value::Null, event(&message["event"]), message["payload"].clone())
            }
        }
    }
}

/// A payload that a client sends in a binary frame.
fn user(event: &str, encoding: Encoding, payload: &'static [u8]) -> BroadcastPayload {
    BroadcastPayload::User {
        event: event.into(),
        encoding,
        payload: bytes::Bytes::from_static(payload),
        options: None,
    }
}
