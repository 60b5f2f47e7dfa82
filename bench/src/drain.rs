//! walcast's side: reader, decoder, matcher and shards drain a slot for N subscribers.
//!
//! Each drain is a process of its own, as `pg_recvlogical` is, so that none inherits memory from another: the
//! [`Order`] comes in on standard input, the [`Outcome`] goes out on standard output.

use std::process::Stdio;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use walcast::pipeline::{Backlog, Pipeline};
use walcast_catalog::{Catalog, CatalogSettings};
use walcast_engine::{Engine, EngineSettings, LogSender};
use walcast_load::process::Process;
use walcast_pgoutput::Lsn;
use walcast_replication::{ConnectionSettings, Progress, StreamSettings, StreamStatus};

use crate::relay::Relay;
use crate::scenario::Scenario;
use crate::subscribers::Subscribers;
use crate::written_log::PUBLICATION;

/// How long the shards may take for what the matcher has handed to them.
const SETTLING_DEADLINE: Duration = Duration::from_mins(1);

/// What to drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The database.
    pub url: String,
    /// A slot that stands before the first row.
    pub slot: String,
    /// Behind the commit of the last row.
    pub end: u64,
    /// What the subscribers ask for.
    pub scenario: Scenario,
    /// How many there are.
    pub subscribers: u64,
    /// Rows in the log.
    pub rows: u64,
    /// Rows per transaction.
    pub batch: u64,
    /// Stop after this time, whatever is left.
    pub limit: Duration,
    /// Count the round trips of questions to PostgreSQL, which costs speed.
    pub count_round_trips: bool,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// From the begin of the stream until all is delivered, or until the limit.
    pub elapsed: Duration,
    /// Rows handled in this time.
    pub rows: u64,
    /// Whether these are all rows.
    pub complete: bool,
    /// Frames handed to the sinks.
    pub deliveries: u64,
    /// Their bytes, with those of the answers to the joins.
    pub bytes: u64,
    /// CPU time of the process in this time.
    pub cpu: Option<Duration>,
    /// Questions put to PostgreSQL.
    pub questions: u64,
    /// Round trips of these questions, where they were to be counted.
    pub round_trips: Option<u64>,
    /// Rows that were withheld because a policy or filter failed.
    pub failures: u64,
    /// Resident bytes of the first join, with what is made once for all.
    pub first_join_bytes: Option<i64>,
    /// Resident bytes of each join after the first thousand.
    pub subscription_bytes: Option<f64>,
}

impl Outcome {
    /// Rows per second.
    pub fn rate(&self) -> f64 {
        self.rows as f64 / self.elapsed.as_secs_f64()
    }
}

/// Drains in a new process.
pub async fn in_new_process(order: &Order) -> Result<Outcome> {
    let program = std::env::current_exe().context("this program does not know where it is")?;
    let mut child = Command::new(program)
        .arg("drain")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the drain's process can not be started")?;
    let mut stdin = child.stdin.take().context("the drain's process has no standard input")?;
    stdin.write_all(&serde_json::to_vec(order)?).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "walcast's drain failed; its message stands above");
    serde_json::from_slice(&output.stdout).context("walcast's drain answered something else than an outcome")
}

/// Drains in this process.
pub async fn run(order: &Order) -> Result<Outcome> {
    let connection = ConnectionSettings::parse(&format!("{}?sslmode=disable", order.url))?;
    let mut catalog_config: tokio_postgres::Config = order.url.parse()?;
    let mut relay = None;
    if order.count_round_trips {
        let port = connection.hosts.first().context("a URL without a host")?.port;
        let started = Relay::to(([127, 0, 0, 1], port).into()).await?;
        catalog_config = through(&started, &catalog_config);
        relay = Some(started);
    }
    let people = people(&order.url, order.subscribers).await?;
    let catalog = Catalog::connect(CatalogSettings {
        publications: vec![PUBLICATION.to_owned()],
        ..CatalogSettings::new(catalog_config)
    })
    .await?;
    let progress = Arc::new(Progress::default());
    let finish = Arc::new(Finish { end: Lsn(order.end), at: OnceLock::new(), reached: Notify::new() });
    let settings = EngineSettings {
        shards: std::thread::available_parallelism().map_or(1, usize::from),
        ..EngineSettings::default()
    };
    let (confirmed, finishing) = (Arc::clone(&progress), Arc::clone(&finish));
    let (engine, batches) =
        Engine::start(settings, Arc::clone(&catalog) as _, catalog.subscribe(), move |lsn| {
            confirmed.confirm(lsn);
            finishing.confirmed(lsn);
        });
    let subscribers = Subscribers::join(&engine, order.scenario, &people, order.rows).await?;
    let drain = Drain { order, engine, subscribers, finish, relay };
    let stream = StreamSettings::new(connection, &order.slot, vec![PUBLICATION.to_owned()]);
    drain.measure(stream, progress, batches).await
}

/// The moment at which the end of the rows was confirmed.
struct Finish {
    end: Lsn,
    at: OnceLock<Instant>,
    reached: Notify,
}

impl Finish {
    fn confirmed(&self, lsn: Lsn) {
        if lsn >= self.end && self.at.set(Instant::now()).is_ok() {
            self.reached.notify_one();
        }
    }
}

struct Drain<'a> {
    order: &'a Order,
    engine: Engine,
    subscribers: Subscribers,
    finish: Arc<Finish>,
    relay: Option<Relay>,
}

/// Where the counters stood.
struct Reading {
    at: Instant,
    rows: u64,
    cpu: Option<Duration>,
    questions: u64,
    round_trips: u64,
}

impl Drain<'_> {
    async fn measure(
        self,
        stream: StreamSettings,
        progress: Arc<Progress>,
        batches: LogSender,
    ) -> Result<Outcome> {
        let cancel = CancellationToken::new();
        let mut pipeline = Pipeline::start(stream, progress, Backlog::New, batches, cancel).await?;
        let began = self.read();
        let complete = tokio::select! {
            () = self.finish.reached.notified() => true,
            () = tokio::time::sleep(self.order.limit) => false,
            ended = pipeline.ended() => bail!("the stream ended: {ended:?}"),
        };
        let mut over = self.read();
        // What a transaction brings is handed on at its end.
        let mut handed_on = over.rows / self.order.batch * self.order.batch;
        if complete {
            over.at = self.finish.at.get().copied().unwrap_or(over.at);
            // The one row of the last transaction, which is nobody's, may have been handled too.
            let rows = self.order.rows;
            ensure!((rows..=rows + 1).contains(&over.rows), "WRONG ROWS: {} instead of {rows}", over.rows);
            over.rows = rows;
            handed_on = rows;
        }
        let receivers = self.order.scenario.receivers_per_row(self.order.subscribers);
        let later = self.delivered(handed_on * receivers, complete).await?;
        if complete {
            // Where the shards were behind the matcher, they count too.
            over.at = later.unwrap_or(over.at);
        }
        self.check(complete).await?;
        let status = pipeline.status.borrow().clone();
        ensure!(matches!(status, StreamStatus::Streaming { .. }), "the stream broke: {status:?}");
        Ok(self.outcome(&began, &over, complete))
    }

    fn read(&self) -> Reading {
        let counters = self.engine.counters();
        Reading {
            at: Instant::now(),
            rows: counters.changes.load(Relaxed),
            cpu: Process::this().usage().map(|usage| usage.cpu),
            questions: counters.oracle_questions.load(Relaxed),
            round_trips: self.relay.as_ref().map_or(0, Relay::round_trips),
        }
    }

    /// Waits until the shards have counted `expected` deliveries; tells when, unless they had already. Where decisions
    /// have failed before the limit, nothing can be expected: the report says so.
    async fn delivered(&self, expected: u64, complete: bool) -> Result<Option<Instant>> {
        let delivered = || self.engine.counters().deliveries.load(Relaxed);
        let deadline = Instant::now() + SETTLING_DEADLINE;
        let mut waited = None;
        while delivered() < expected {
            let now = Instant::now();
            let failures = self.engine.counters().failures.load(Relaxed);
            if failures > 0 && !complete {
                return Ok(None);
            }
            ensure!(
                now < deadline,
                "WRONG DELIVERIES: {} instead of {expected}; {failures} decisions failed",
                delivered()
            );
            tokio::time::sleep(Duration::from_micros(100)).await;
            waited = Some(Instant::now());
        }
        Ok(waited)
    }

    async fn check(&self, complete: bool) -> Result<()> {
        let slow = self.engine.counters().slow_closes.load(Relaxed);
        ensure!(slow == 0, "{slow} sinks were closed as too slow, which they can not be");
        if !complete {
            return self.subscribers.check_not_more();
        }
        // A delivery is counted a moment before its frame is written.
        let deadline = Instant::now() + SETTLING_DEADLINE;
        while let Err(error) = self.subscribers.check_complete() {
            if Instant::now() > deadline {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn outcome(&self, began: &Reading, over: &Reading, complete: bool) -> Outcome {
        let memory = self.subscribers.memory;
        Outcome {
            elapsed: over.at - began.at,
            rows: over.rows - began.rows,
            complete,
            deliveries: self.subscribers.delivered(),
            bytes: self.subscribers.bytes(),
            cpu: over.cpu.zip(began.cpu).map(|(over, began)| over.saturating_sub(began)),
            questions: over.questions - began.questions,
            round_trips: self.relay.as_ref().map(|_| over.round_trips - began.round_trips),
            failures: self.engine.counters().failures.load(Relaxed),
            first_join_bytes: memory.first_join,
            subscription_bytes: memory.later_join,
        }
    }
}

/// The ids of the first `count` people.
async fn people(url: &str, count: u64) -> Result<Vec<String>> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let last = i64::try_from(count)? - 1;
    let sql = "select person(number)::text from generate_series(0, $1::bigint) number order by number";
    let rows = client.query(sql, &[&last]).await?;
    drop(client);
    connection.await??;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The same database, reached through the relay.
fn through(relay: &Relay, direct: &tokio_postgres::Config) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(relay.address().port());
    config.user(direct.get_user().unwrap_or_default());
    config.password(direct.get_password().unwrap_or_default());
    config.dbname(direct.get_dbname().unwrap_or_default());
    config
}
