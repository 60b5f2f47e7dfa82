//! A socket that comes, does what sockets do, and goes; then it comes again.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use walcast_testkit::{Handshake, ProtocolClient, ProtocolVersion, Received};

use super::world::ROOMS;
use crate::story::Random;
use crate::{person, token};

/// What all visitors have met.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Stays that ended as the visitor wanted.
    ended: AtomicU64,
    /// Stays that ended otherwise.
    lost: AtomicU64,
    /// Why, for the first few.
    reasons: Mutex<Vec<String>>,
    waits: Mutex<Waits>,
}

/// How long visitors have waited, in milliseconds.
#[derive(Debug, Default)]
struct Waits {
    /// For the reply to a join.
    joins: Vec<u64>,
    /// From a join to the end of what it had missed.
    resumes: Vec<u64>,
}

/// What all visitors have met for a while.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    /// Stays that ended as the visitor wanted.
    pub(super) ended: u64,
    /// Stays that ended otherwise.
    pub(super) lost: u64,
    /// From a join to its reply.
    pub(super) join: Wait,
    /// From a join to the end of what it had missed.
    pub(super) resume: Wait,
}

/// How long many have waited, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wait {
    /// What half of them do not exceed.
    half: u64,
    /// What 99 of a hundred do not exceed.
    nearly_all: u64,
}

/// Joins that wait for longer are not served.
const JOIN_MS_MAX: u64 = 2_000;

impl Met {
    /// The heads of [`Display`](fmt::Display), for a table.
    pub(super) const HEADS: &str = "join p50, p99 ms | resume p50, p99 ms | sessions ended | sockets lost";

    /// Whether joins wait.
    pub(super) fn served(&self) -> Option<String> {
        let Wait { nearly_all, .. } = self.join;
        (nearly_all > JOIN_MS_MAX).then(|| format!("joins: one in a hundred waits {nearly_all} ms or longer"))
    }
}

impl Wait {
    fn of(mut waits: Vec<u64>) -> Wait {
        waits.sort_unstable();
        let not_exceeded_by = |part: usize| {
            let last = (waits.len() * part).div_ceil(100).saturating_sub(1);
            waits.get(last).copied().unwrap_or_default()
        };
        Wait { half: not_exceeded_by(50), nearly_all: not_exceeded_by(99) }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, {}", self.half, self.nearly_all)
    }
}

impl fmt::Display for Met {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Met { ended, lost, join, resume } = self;
        write!(out, "{join} | {resume} | {ended} | {lost}")
    }
}

impl Tally {
    /// What they have met since the last time.
    pub(super) fn take(&self) -> Met {
        let Waits { joins, resumes } = std::mem::take(&mut *self.waits());
        Met {
            ended: self.ended.swap(0, Ordering::Relaxed),
            lost: self.lost.swap(0, Ordering::Relaxed),
            join: Wait::of(joins),
            resume: Wait::of(resumes),
        }
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What must not happen, and did.
    pub(super) fn strange(&self) -> Vec<String> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, outcome: Result<()>) {
        let Err(error) = outcome else {
            self.ended.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.lost.fetch_add(1, Ordering::Relaxed);
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.len() < 10 {
            reasons.push(format!("a visitor was lost: {error:#}"));
        }
    }
}

/// Somebody who comes and goes.
pub(super) struct Visitor {
    number: u32,
    url: String,
    random: Random,
    tally: Arc<Tally>,
    /// Where it was when it went.
    since: Option<String>,
    /// The messages that it has sent: client libraries count on over reconnects, too.
    references: u64,
}

impl Visitor {
    pub(super) fn new(number: u32, url: &str, tally: Arc<Tally>) -> Visitor {
        let random = Random(u64::from(number) << 20);
        Visitor { number, url: url.to_owned(), random, tally, since: None, references: 0 }
    }

    /// Comes and goes for good.
    pub(super) async fn stay(mut self) {
        loop {
            let outcome = self.visit().await;
            self.tally.note(outcome);
            sleep(Duration::from_millis(self.random.below(1_000))).await;
        }
    }

    async fn visit(&mut self) -> Result<()> {
        let claims = person(&format!("person {}", self.number));
        let client = Handshake::new(&self.url, &token(&claims), ProtocolVersion::V2).connect().await?;
        let room = self.number as usize % ROOMS;
        let (topic, resumes) = (format!("realtime:room {room}"), self.number.is_multiple_of(4));
        let references = self.references;
        let mut stay = Stay { client, resumes, topic, room, joins: 0, references, asked: None, behind: None };
        let until = Instant::now() + Duration::from_secs(5 + self.random.below(60));
        let outcome = self.talk(&mut stay, until).await;
        self.references = stay.references;
        outcome?;
        // A third says good-bye; of the others nothing is heard any more.
        if self.random.below(3) == 0 { stay.client.close().await } else { Ok(()) }
    }

    async fn talk(&mut self, stay: &mut Stay, until: Instant) -> Result<()> {
        stay.join(self.since.as_deref()).await?;
        let mut heartbeat = Instant::now() + Duration::from_secs(25);
        loop {
            let next = Instant::now() + Duration::from_millis(1_000 + self.random.below(4_000));
            while Instant::now() < next {
                tokio::select! {
                    message = stay.client.receive() => {
                        self.note(stay, &message?.context("the server has hung up")?)?;
                    }
                    () = sleep_until(next) => {}
                }
            }
            if heartbeat < Instant::now() {
                heartbeat += Duration::from_secs(25);
                stay.send_on("phoenix", None, "heartbeat", &json!({})).await?;
            }
            if until < Instant::now() {
                return Ok(());
            }
            match self.random.below(5) {
                // Away and back within 10 ms.
                0 => {
                    stay.send("phx_leave", &json!({})).await?;
                    sleep(Duration::from_millis(self.random.below(10))).await;
                    stay.join(self.since.as_deref()).await?;
                }
                1 => {
                    let mut claims = person(&format!("person {}", self.number));
                    // Another token each time.
                    claims["nonce"] = self.random.below(u64::MAX).into();
                    stay.send("access_token", &json!({ "access_token": token(&claims) })).await?;
                }
                2 => stay.presence("track", self.random.below(1_000)).await?,
                3 => stay.presence("untrack", 0).await?,
                _ => {
                    let payload =
                        json!({ "type": "broadcast", "event": "hello", "payload": { "from": self.number } });
                    stay.send("broadcast", &payload).await?;
                }
            }
        }
    }

    fn note(&mut self, stay: &mut Stay, message: &Received) -> Result<()> {
        if let Some((_, asked)) = stay.asked.take_if(|(join, _)| message.reference == join.as_str()) {
            self.tally.waits().joins.push(milliseconds(asked.elapsed()));
        }
        if let Some(data) = message.change() {
            ensure!(data["record"]["room"] == stay.room, "a row of another room: {data}");
            if let Some(position) = data["position"].as_str() {
                self.since = Some(position.to_owned());
            }
        } else if let Some((status, text)) = message.system("resume") {
            if status == "ok" {
                if let Some(behind) = stay.behind.take() {
                    self.tally.waits().resumes.push(milliseconds(behind.elapsed()));
                }
                self.since = text.strip_prefix("position ").map(str::to_owned);
            } else {
                // Away for longer than the journal reaches, or before it began: it goes on from now.
                self.since = None;
            }
        } else if message.event == "phx_error"
            || message.system("system").is_some_and(|(status, _)| status == "error")
        {
            ensure!(false, "the channel was closed: {}", message.payload);
        } else if let Some(reply) = message.reply() {
            ensure!(reply.is_ok(), "refused: {}", reply.response);
        }
        Ok(())
    }
}

struct Stay {
    client: ProtocolClient,
    /// Whether it wants what it has missed; one in four does.
    resumes: bool,
    topic: String,
    room: usize,
    joins: u64,
    references: u64,
    /// The last join, and when it was sent, until it is answered.
    asked: Option<(String, Instant)>,
    /// When it asked for what it has missed, until it has that.
    behind: Option<Instant>,
}

impl Stay {
    async fn join(&mut self, since: Option<&str>) -> Result<()> {
        let mut binding = json!({
            "event": "*", "schema": "public", "table": "rows", "filter": format!("room=eq.{}", self.room),
        });
        if self.resumes {
            binding["resume"] = true.into();
            since.inspect(|since| binding["since"] = (*since).into());
        }
        self.joins += 1;
        let config = json!({ "config": {
            "postgres_changes": [binding], "presence": { "enabled": true }, "broadcast": { "self": false },
        }});
        self.send("phx_join", &config).await?;
        self.asked = Some((self.references.to_string(), Instant::now()));
        self.behind = since.filter(|_| self.resumes).map(|_| Instant::now());
        Ok(())
    }

    async fn presence(&mut self, event: &str, mood: u64) -> Result<()> {
        self.send("presence", &json!({ "type": "presence", "event": event, "payload": { "mood": mood } }))
            .await
    }

    async fn send(&mut self, event: &str, payload: &Value) -> Result<()> {
        let topic = self.topic.clone();
        self.send_on(&topic, Some(self.joins), event, payload).await
    }

    async fn send_on(&mut self, topic: &str, join: Option<u64>, event: &str, payload: &Value) -> Result<()> {
        self.references += 1;
        let join = join.map(|join| format!("join {join}"));
        let text = json!([join, self.references.to_string(), topic, event, payload]).to_string();
        self.client.send_text(&text).await
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_in_a_hundred_exceeds_is_told_and_joins_that_wait_for_it_are_not_served() {
        assert_eq!(Wait::of(Vec::new()), Wait::default());
        assert_eq!(Wait::of(vec![7]), Wait { half: 7, nearly_all: 7 });
        assert_eq!(Wait::of((1..=1_000).rev().collect()), Wait { half: 500, nearly_all: 990 });
        let served = |nearly_all| Met { join: Wait { half: 0, nearly_all }, ..Met::default() }.served();
        assert_eq!(served(JOIN_MS_MAX), None);
        assert!(served(JOIN_MS_MAX + 1).is_some());
    }
}
