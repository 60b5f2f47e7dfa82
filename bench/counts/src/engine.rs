//! An engine on one thread, with sinks in place of sockets.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use walcast_engine::{
    BroadcastPayload, Claimant, Command, Engine, EngineSettings, Identity, Ingest, JoinRequest,
    JoinedChannel, LogEvent, LogSender, Push, PushKind, ReadRights, SessionHandle, Socket,
};
use walcast_policy::schema::Snapshot;
use walcast_wire::{Encoding, JoinPayload, Ref, Serializer, sub_topic};

use crate::{count_instructions_of, fixture, log};

const SUBSCRIBERS: usize = 10_000;
const ROWS: usize = 2_000;
const MEMBERS: usize = 1_000;
const BROADCASTS: u64 = 50;
const TOPIC: &str = "realtime:notes";
const ROLE: &str = "reader";
const POLICY: &str = "(owner = current_setting('request.jwt.claim.sub'::text, true))";

/// Takes everything, and counts the frames: each slice is a whole one.
struct Sink(Arc<AtomicU64>);

impl Socket for Sink {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.fetch_add(buffers.len() as u64, Relaxed);
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }

    fn notify_writable(&self) {}

    fn finish(&self) {}

    fn closing(&self) {}
}

/// An engine with its sessions.
struct Scene {
    runtime: Runtime,
    engine: Engine,
    log: LogSender,
    sessions: Vec<SessionHandle>,
    written: Arc<AtomicU64>,
    /// Frames that were written before the work.
    answers: u64,
    /// Kept as a server keeps them.
    _channels: Vec<JoinedChannel>,
    _snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Scene {
    /// With so many sessions, each of a person of its own, joined with this configuration.
    fn start(count: usize, config: &str) -> Result<Scene> {
        // Its clock stands still: how long callgrind takes must not decide what is due meanwhile.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
        let written = Arc::new(AtomicU64::new(0));
        let catalog = fixture::snapshot(1, &log::COLUMNS, Some(POLICY));
        let (snapshots, seen) = watch::channel(Arc::clone(&catalog));
        let (engine, log, sessions, channels) = runtime.block_on(async {
            let settings = EngineSettings { shards: 1, ..EngineSettings::default() };
            let (engine, log) = Engine::start(settings, Arc::new(fixture::Catalog(catalog)), seen, |_| {});
            let (mut sessions, mut channels) = (Vec::new(), Vec::new());
            for number in 0..count {
                let session =
                    engine.connect(Arc::new(Sink(Arc::clone(&written))), Serializer::V2, None).await;
                channels.push(engine.join(&session, request(number, config)?).await?);
                sessions.push(session);
            }
            until(|| engine.counters().joins.load(Relaxed) >= count as u64).await;
            anyhow::Ok((engine, log, sessions, channels))
        })?;
        let answers = written.load(Relaxed);
        Ok(Scene {
            runtime,
            engine,
            log,
            sessions,
            written,
            answers,
            _channels: channels,
            _snapshots: snapshots,
        })
    }

    /// Waits until so many deliveries are counted, and checks that their frames were written.
    async fn delivered(&self, count: u64) -> Result<()> {
        until(|| self.engine.counters().deliveries.load(Relaxed) >= count).await;
        let written = self.written.load(Relaxed) - self.answers;
        ensure!(written == count, "{written} frames were written instead of {count}");
        Ok(())
    }
}

/// Lets the other tasks run until something holds.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

fn request(number: usize, config: &str) -> Result<JoinRequest> {
    let payload = RawValue::from_string(config.to_owned())?;
    let claims = json!({ "role": ROLE, "sub": log::person(number) });
    let claims_json = claims.to_string().into();
    Ok(JoinRequest {
        payload: JoinPayload::parse(sub_topic(TOPIC).context("a topic that is none")?, &payload)?,
        topic: TOPIC.into(),
        join_ref: Ref::from_text("1"),
        reference: Ref::from_text("1"),
        identity: Arc::new(Identity { role: ROLE.into(), claims: Arc::new(claims), claims_json }),
        claimant: Claimant::of(None, "token"),
        rejoins: false,
        rights: ReadRights::ALL,
        replay: None,
        replication_ready: true,
        resume_from: None,
    })
}

/// Rows in transactions of their own, each for one of the subscribers: from the bytes of the log to the sink.
pub(crate) fn decide_and_encode() -> Result<()> {
    let config = r#"{"config":{"postgres_changes":[{"event":"*","schema":"public","table":"notes"}]}}"#;
    let scene = Scene::start(SUBSCRIBERS, config)?;
    let messages = log::transactions(ROWS, 1);
    count_instructions_of(&mut || {
        scene.runtime.block_on(async {
            let mut ingest = Ingest::default();
            for message in &messages {
                if let Some(batch) = ingest.feed(LogEvent::Data(message.clone())).await? {
                    ensure!(scene.log.send(batch).await, "the matcher has ended");
                }
            }
            scene.delivered(ROWS as u64).await
        })
    })
}

/// Broadcasts of one session to all others.
pub(crate) fn fan_out() -> Result<()> {
    let scene = Scene::start(MEMBERS + 1, r#"{"config":{}}"#)?;
    let sender = &scene.sessions[0];
    let payload = Bytes::from(vec![b'x'; 200]);
    count_instructions_of(&mut || {
        scene.runtime.block_on(async {
            for round in 1..=BROADCASTS {
                let push = Push {
                    session: sender.id,
                    topic: TOPIC.into(),
                    join_ref: Ref::from_text("1"),
                    reference: Ref::null(),
                    kind: PushKind::Broadcast(BroadcastPayload::User {
                        event: "cursor".into(),
                        encoding: Encoding::Binary,
                        payload: payload.clone(),
                        options: None,
                    }),
                };
                sender.send(Command::Push(push)).await;
                scene.delivered(round * MEMBERS as u64).await?;
            }
            Ok(())
        })
    })
}
