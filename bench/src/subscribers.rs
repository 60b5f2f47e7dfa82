//! N subscribers in an engine: sinks in place of sockets, joined as a gateway joins real sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use serde_json::value::RawValue;
use walcast_engine::{Claimant, Engine, Identity, JoinRequest, JoinedChannel, ReadRights, SessionHandle};
use walcast_load::process::Process;
use walcast_wire::{JoinPayload, Ref, Serializer, sub_topic};

use crate::scenario::Scenario;
use crate::sink::{JoinWatch, Sink};

/// How long all joins may take.
const JOIN_DEADLINE: Duration = Duration::from_mins(10);
/// After so many joins the allocator has pages of every size for every thread, so that the joins that follow take what
/// they need.
const WARM_UP: usize = 1_000;
/// The allocator gives memory back a moment after it was freed.
const SETTLING: Duration = Duration::from_millis(200);

/// The subscribers, and all that a gateway holds for them.
pub struct Subscribers {
    scenario: Scenario,
    rows: u64,
    sockets: Vec<Socket>,
    /// Kept as a gateway keeps them.
    _channels: Vec<JoinedChannel>,
    /// Frames of each sink before the first row.
    frames_before: Vec<u64>,
    /// What the joins took.
    pub memory: Memory,
}

struct Socket {
    sink: Arc<Sink>,
    session: SessionHandle,
    identity: Arc<Identity>,
}

/// Resident memory that the joins took, in bytes; `None` where the system does not tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Of the first join, with whatever is made once for all of them: plans, copies of tables.
    pub first_join: Option<i64>,
    /// Of each join after the first thousand, on average.
    pub later_join: Option<f64>,
}

impl Subscribers {
    /// Connects and joins one subscriber for each of `people`, given their ids.
    pub async fn join(engine: &Engine, scenario: Scenario, people: &[String], rows: u64) -> Result<Self> {
        let watch = Arc::new(JoinWatch::default());
        let mut sockets = Vec::with_capacity(people.len());
        for person in people {
            let sink = Arc::new(Sink::new(Arc::clone(&watch)));
            let session = engine.connect(Arc::clone(&sink) as _, Serializer::V2, None).await;
            sockets.push(Socket { sink, session, identity: identity(person)? });
        }
        reached(|| engine.counters().sessions.load(Relaxed), people.len()).await?;
        let connected = settled().await;
        let mut channels = Vec::with_capacity(people.len());
        let joined = || engine.counters().joins.load(Relaxed);
        let (mut first_join, mut warm) = (None, None);
        for (number, socket) in sockets.iter().enumerate() {
            channels.push(join_one(engine, scenario, number as u64, socket).await?);
            let count = number + 1;
            if count == 1 {
                reached(joined, count).await?;
                first_join = difference(connected, settled().await);
            }
            if count == WARM_UP {
                reached(joined, count).await?;
                warm = settled().await;
            }
        }
        reached(joined, people.len()).await?;
        let later = people.len().saturating_sub(WARM_UP);
        let later_joins = difference(warm, settled().await).filter(|_| later > 0);
        if let Some(refusal) = watch.end() {
            bail!("a subscription was refused: {refusal}");
        }
        let frames_before = sockets.iter().map(|socket| socket.sink.frames()).collect();
        let memory = Memory { first_join, later_join: later_joins.map(|bytes| bytes as f64 / later as f64) };
        Ok(Subscribers { scenario, rows, sockets, _channels: channels, frames_before, memory })
    }

    /// Rows handed to the sinks so far.
    pub fn delivered(&self) -> u64 {
        self.each().map(|(_, frames)| frames).sum()
    }

    /// Bytes handed to the sinks so far, the answers to the joins included.
    pub fn bytes(&self) -> u64 {
        self.sockets.iter().map(|socket| socket.sink.bytes()).sum()
    }

    /// Whether every subscriber has what it must have of all rows, and not a frame more.
    pub fn check_complete(&self) -> Result<()> {
        self.check(|frames, expected| frames == expected)
    }

    /// Whether no subscriber has more than it may have of all rows.
    pub fn check_not_more(&self) -> Result<()> {
        self.check(|frames, expected| frames <= expected)
    }

    fn check(&self, right: impl Fn(u64, u64) -> bool) -> Result<()> {
        let people = self.sockets.len() as u64;
        let mut wrong = self.each().filter_map(|(person, frames)| {
            let expected = self.scenario.expected(person, people, self.rows);
            (!right(frames, expected))
                .then(|| format!("subscriber {person} got {frames} frames instead of {expected}"))
        });
        match wrong.next() {
            None => Ok(()),
            Some(first) => bail!("WRONG DELIVERIES: {first}, and {} others are wrong too", wrong.count()),
        }
    }

    fn each(&self) -> impl Iterator<Item = (u64, u64)> {
        let frames = self.sockets.iter().zip(&self.frames_before);
        (0..).zip(frames.map(|(socket, before)| socket.sink.frames() - before))
    }
}

/// Claims as Supabase's tokens have them.
fn identity(person: &str) -> Result<Arc<Identity>> {
    let claims = json!({
        "aud": "authenticated",
        "exp": 4_000_000_000_u64,
        "iat": 1_700_000_000,
        "iss": "https://example.com/auth/v1",
        "sub": person,
        "email": format!("{}@example.com", &person[..8]),
        "app_metadata": { "provider": "email" },
        "role": "authenticated",
        "session_id": person,
    });
    let claims_json = serde_json::to_string(&claims)?.into();
    let (role, claims) = ("authenticated".into(), Arc::new(claims));
    Ok(Arc::new(Identity { role, claims, claims_json }))
}

async fn join_one(
    engine: &Engine,
    scenario: Scenario,
    person: u64,
    socket: &Socket,
) -> Result<JoinedChannel> {
    let topic = scenario.topic(person);
    let payload = RawValue::from_string(scenario.join_payload(person))?;
    let sub_topic = sub_topic(&topic).context("a topic that is none")?;
    let request = JoinRequest {
        payload: JoinPayload::parse(sub_topic, &payload)?,
        topic: topic.into(),
        join_ref: Ref::from_text("1"),
        reference: Ref::from_text("1"),
        identity: Arc::clone(&socket.identity),
        rights: ReadRights::ALL,
        claimant: Claimant::of(socket.identity.subject(), "token"),
        rejoins: false,
        replay: None,
        resume_from: None,
        replication_ready: true,
    };
    Ok(engine.join(&socket.session, request).await?)
}

/// Waits until a counter has come to `count`.
async fn reached(counter: impl Fn() -> u64, count: usize) -> Result<()> {
    let deadline = Instant::now() + JOIN_DEADLINE;
    while counter() < count as u64 {
        ensure!(Instant::now() < deadline, "only {} of {count} joins are done", counter());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn settled() -> Option<u64> {
    tokio::time::sleep(SETTLING).await;
    Process::this().usage().map(|usage| usage.resident)
}

fn difference(before: Option<u64>, after: Option<u64>) -> Option<i64> {
    i64::try_from(after?).ok()?.checked_sub_unsigned(before?)
}
