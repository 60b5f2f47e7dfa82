//! Who reads while things break: comes back with `since` whenever the connection ends, and notes down what it is told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use walcast_testkit::{Handshake, ProtocolClient, ProtocolVersion, Received};
use walcast_wire::Position;

use super::schema::Reader;
use super::truth::{Key, Kind};
use crate::story::Random;
use crate::token;

const TOPIC: &str = "realtime:faults";
/// How long a connection or a join may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// After so much silence a heartbeat is sent, and after as much again the connection is given up.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// One connection, from its join to its end.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// What the join asked for; `None` for the first one.
    pub(super) since: Option<Position>,
    /// From where on it was live, once it was told.
    pub(super) live_from: Option<Position>,
    /// When that was (microseconds since 1970).
    pub(super) live_at: i64,
    /// Changes, in the order of their arrival.
    pub(super) got: Vec<Got>,
    /// Where it was told that something may be missing.
    pub(super) gaps: Vec<Gap>,
}

/// A told gap.
#[derive(Debug)]
pub(super) struct Gap {
    /// Before which of the session's changes.
    pub(super) before: usize,
    /// Whether the session was live already; else it is one of what it had missed.
    pub(super) live: bool,
    pub(super) text: String,
}

/// A change as it was told.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) position: Position,
    /// When it came (microseconds since 1970).
    pub(super) at: i64,
    pub(super) key: Key,
    /// `record`, where there is one.
    pub(super) record: Option<Value>,
}

/// Everything that one subscriber was told.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) reader: Reader,
    pub(super) sessions: Vec<Session>,
}

/// Somebody who reads until a mark has come.
pub(super) struct Subscriber {
    reader: Reader,
    handshake: Handshake,
    /// Ends its own connections, too.
    restless: bool,
    random: Random,
    /// The mark that ends it, once it is known.
    last_mark: watch::Receiver<Option<i64>>,
    /// Tells whoever waits that it is subscribed.
    subscribed: watch::Sender<usize>,
    sessions: Vec<Session>,
    mark_seen: i64,
}

/// Why a connection is over.
enum End {
    /// The last mark was seen.
    Done,
    /// It has to connect again.
    Lost,
}

impl Subscriber {
    pub(super) fn new(
        reader: Reader,
        url: &str,
        restless: bool,
        seed: u64,
        last_mark: watch::Receiver<Option<i64>>,
        subscribed: watch::Sender<usize>,
    ) -> Subscriber {
        let handshake = Handshake::new(url, &token(&reader.claims()), ProtocolVersion::V2);
        Subscriber {
            reader,
            handshake,
            restless,
            random: Random(seed),
            last_mark,
            subscribed,
            sessions: Vec::new(),
            mark_seen: -1,
        }
    }

    /// Reads until the last mark. An error is a message that no client would understand.
    pub(super) async fn run(mut self) -> Result<Notes> {
        loop {
            let connected = timeout(PATIENCE, self.handshake.connect()).await;
            if let Ok(Ok(client)) = connected
                && let End::Done = self.session(client).await.with_context(|| format!("{:?}", self.reader))?
            {
                return Ok(Notes { reader: self.reader, sessions: self.sessions });
            }
            sleep(Duration::from_millis(100 + self.random.below(200))).await;
        }
    }

    /// One connection.
    async fn session(&mut self, mut client: ProtocolClient) -> Result<End> {
        client.set_deadline(PATIENCE);
        let since = self.sessions.iter().filter_map(Session::last).max();
        let mut bindings = self.reader.bindings();
        if let Some(since) = since {
            for binding in &mut bindings {
                binding["since"] = since.to_string().into();
            }
        }
        let payload = json!({ "config": { "postgres_changes": bindings } });
        match client.join(TOPIC, &payload).await {
            Ok(reply) if reply.is_ok() => {}
            // Refused, as while the database is away, or the connection broke.
            Ok(_) | Err(_) => return Ok(End::Lost),
        }
        self.sessions.push(Session { since, ..Session::default() });
        let leaves = Instant::now() + Duration::from_millis(300 + self.random.below(4_000));
        let mut silent_since = Instant::now();
        let mut asked = false;
        loop {
            if self.last_mark.borrow_and_update().is_some_and(|mark| self.mark_seen >= mark) {
                return Ok(End::Done);
            }
            tokio::select! {
                message = client.receive() => {
                    let Some(message) = message? else { return Ok(End::Lost) };
                    (silent_since, asked) = (Instant::now(), false);
                    if !self.note(&message)? {
                        return Ok(End::Lost);
                    }
                }
                changed = self.last_mark.changed() => changed?,
                () = sleep_until(silent_since + HEARTBEAT) => {
                    if asked || client.send("phoenix", "heartbeat", &json!({})).await.is_err() {
                        return Ok(End::Lost);
                    }
                    (silent_since, asked) = (Instant::now(), true);
                }
                () = sleep_until(leaves), if self.restless && self.last_mark.borrow().is_none() => {
                    return Ok(End::Lost);
                }
            }
        }
    }

    /// Writes down what the message says. Whether the subscription still stands.
    fn note(&mut self, message: &Received) -> Result<bool> {
        let session = self.sessions.last_mut().context("a session has begun")?;
        if let Some((status, text)) = message.system("resume") {
            if status == "ok" {
                let position = text.strip_prefix("position ").with_context(|| text.to_owned())?.parse()?;
                session.live_from = Some(position);
                session.live_at = now()?;
                self.subscribed.send_modify(|sessions| *sessions += 1);
            } else {
                ensure!(text.starts_with("gap: "), "{text}");
                let (before, live) = (session.got.len(), session.live_from.is_some());
                session.gaps.push(Gap { before, live, text: text.to_owned() });
            }
        } else if let Some(("error", _)) = message.system("postgres_changes") {
            return Ok(false);
        } else if message.event == "phx_close" || message.event == "phx_error" {
            return Ok(false);
        } else if let Some(data) = message.change() {
            ensure!(data["errors"].is_null(), "{data}");
            if data["table"] == "marks" {
                let id = data["record"]["id"].as_i64().context("a mark has an id")?;
                self.mark_seen = self.mark_seen.max(id);
            } else {
                session.got.push(got(data)?);
            }
        }
        Ok(true)
    }
}

impl Session {
    /// The position that the next join has to name, if this session was told one.
    fn last(&self) -> Option<Position> {
        self.got.iter().map(|got| got.position).max().max(self.live_from)
    }
}

fn got(data: &Value) -> Result<Got> {
    let context = || format!("{data}");
    let kind = match data["type"].as_str() {
        Some("INSERT") => Kind::Insert,
        Some("UPDATE") => Kind::Update,
        Some("DELETE") => Kind::Delete,
        _ => bail!("a change of no kind: {data}"),
    };
    let record = data.get("record").cloned();
    let row = record.as_ref().or_else(|| data.get("old_record")).with_context(context)?;
    let seq = if kind == Kind::Delete { None } else { Some(row["seq"].as_i64().with_context(context)?) };
    let id = row["id"].as_i64().with_context(context)?;
    let table = data["table"].as_str().with_context(context)?.to_owned();
    let position = data["position"].as_str().with_context(context)?.parse()?;
    Ok(Got { position, at: now()?, key: Key { table, kind, id, seq }, record })
}

/// Microseconds since 1970.
fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}
