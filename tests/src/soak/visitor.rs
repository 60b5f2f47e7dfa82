//! A socket that comes, does what sockets do, and goes; then it comes again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
}

impl Tally {
    /// How many stays have ended as they should, and otherwise, since the last time.
    pub(super) fn take(&self) -> (u64, u64) {
        (self.ended.swap(0, Ordering::Relaxed), self.lost.swap(0, Ordering::Relaxed))
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
}

impl Visitor {
    pub(super) fn new(number: u32, url: &str, tally: Arc<Tally>) -> Visitor {
        let random = Random(u64::from(number) << 20);
        Visitor { number, url: url.to_owned(), random, tally, since: None }
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
        let stay = Stay { client, resumes, topic, room, joins: 0, references: 0 };
        let until = Instant::now() + Duration::from_secs(5 + self.random.below(60));
        self.talk(stay, until).await
    }

    async fn talk(&mut self, mut stay: Stay, until: Instant) -> Result<()> {
        stay.join(self.since.as_deref()).await?;
        let mut heartbeat = Instant::now() + Duration::from_secs(25);
        loop {
            let next = Instant::now() + Duration::from_millis(1_000 + self.random.below(4_000));
            while Instant::now() < next {
                tokio::select! {
                    message = stay.client.receive() => {
                        self.note(&stay, &message?.context("the server has hung up")?)?;
                    }
                    () = sleep_until(next) => {}
                }
            }
            if heartbeat < Instant::now() {
                heartbeat += Duration::from_secs(25);
                stay.send_on("phoenix", None, "heartbeat", &json!({})).await?;
            }
            if until < Instant::now() {
                // A third says good-bye; of the others nothing is heard any more.
                return if self.random.below(3) == 0 { stay.client.close().await } else { Ok(()) };
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

    fn note(&mut self, stay: &Stay, message: &Received) -> Result<()> {
        if let Some(data) = message.change() {
            ensure!(data["record"]["room"] == stay.room, "a row of another room: {data}");
            if let Some(position) = data["position"].as_str() {
                self.since = Some(position.to_owned());
            }
        } else if let Some((status, text)) = message.system("resume") {
            if status == "ok" {
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
        self.send("phx_join", &config).await
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
