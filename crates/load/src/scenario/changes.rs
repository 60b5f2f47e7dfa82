//! From an INSERT to the clients that may see its row. The moment of a row is that at which its INSERT was due, so that
//! what the database takes for it counts too.

#![expect(clippy::doc_markdown, reason = "the comments on arguments are help texts, which show backticks")]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use tokio::sync::{Semaphore, mpsc};
use tokio_postgres::{Client, NoTls};

use crate::bench::{ARRIVAL_DEADLINE, Bench, JoinOn};
use crate::figures::{DELIVERIES, Figures, Latencies, Watch, whole};
use crate::options::seconds;
use crate::protocol::Join;
use crate::search;
use crate::stamp;

const TABLE: &str = "walcast_bench";
/// A new table is known to the server at its next look at the catalog.
const CATALOG_DEADLINE: Duration = Duration::from_secs(20);
/// INSERTs under way at a time on each connection.
const PIPELINE: usize = 32;
/// Rows that are due within so long are written together: waking up for each takes as long as writing it.
const STEP: Duration = Duration::from_micros(250);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Subscribers; several numbers are measured one after another.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    pub(crate) sockets: Vec<usize>,
    /// The database, in which the table walcast_bench is made anew, published and written.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database: String,
    /// The publication that the table is added to.
    #[arg(long, default_value = "supabase_realtime")]
    publication: String,
    /// Rows per second, each in a transaction of its own.
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Connections that write.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
    writers: u8,
    /// How long to measure.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    duration: Duration,
    /// Without row-level security: everybody gets every row, instead of each their own.
    #[arg(long)]
    public: bool,
    /// Search for the highest rate whose 99th percentile stays below so many milliseconds, from --rate upwards.
    #[arg(long, value_name = "MILLISECONDS")]
    search_p99: Option<f64>,
}

impl Options {
    pub(crate) fn run(&self, bench: &mut Bench<'_>, sockets: usize) -> Result<Figures> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.prepare())?;
        bench.open_as(sockets, &user)?;
        let join =
            || Join { topic: "bench-changes".to_owned(), table: Some(TABLE.to_owned()), ..Join::default() };
        join_once_known(bench, &(0, join()))?;
        bench.join((1..sockets).map(|socket| (socket, join())))?;
        match self.search_p99 {
            None => self.measure(bench, sockets, self.rate),
            Some(limit) => search::highest(self.rate, limit, |rate| self.measure(bench, sockets, rate)),
        }
    }

    async fn prepare(&self) -> Result<()> {
        let client = connect(&self.database).await?;
        let policy = if self.public {
            String::new()
        } else {
            format!(
                "alter table {TABLE} enable row level security;
                 create policy own on {TABLE} for select to authenticated using (user_id = auth.uid());"
            )
        };
        let publication = format!("\"{}\"", self.publication.replace('"', "\"\""));
        let sql = format!(
            "drop table if exists {TABLE};
             create table {TABLE} (id bigint generated always as identity primary key, user_id uuid not null, sent text not null);
             grant select on {TABLE} to authenticated;
             {policy}
             alter publication {publication} add table {TABLE};"
        );
        client.batch_execute(&sql).await.with_context(|| {
            format!("the table {TABLE} can not be made and added to the publication {}", self.publication)
        })
    }

    fn measure(&self, bench: &mut Bench<'_>, sockets: usize, rate: f64) -> Result<Figures> {
        let rows = whole(rate * self.duration.as_secs_f64());
        let receivers = if self.public { sockets as u64 } else { 1 };
        let mut latencies = Latencies::new()?;
        let stamps = stamp::Reader::default();
        let watch = Watch::begin(bench.server);
        let writer =
            Writer::start(&self.database, usize::from(self.writers), Schedule { rows, rate, sockets });
        let mut moved = Instant::now();
        while latencies.count() < rows * receivers {
            let before = latencies.count();
            bench.swarm.poll(Duration::from_millis(50), &mut |message| {
                if let Some(at) = stamps.read(message.payload) {
                    latencies.record(message.at.saturating_sub(at));
                }
            })?;
            if latencies.count() > before || !writer.is_finished() {
                moved = Instant::now();
            } else if moved.elapsed() > ARRIVAL_DEADLINE {
                writer.end()?;
                bail!(
                    "of {} deliveries only {} came, and no other for {ARRIVAL_DEADLINE:?}",
                    rows * receivers,
                    latencies.count()
                );
            }
            let count = latencies.count();
            bench.progress.say(|| format!("changes at {rate:.0} rows/s: {count} deliveries"));
        }
        let seen = watch.end();
        writer.end()?;
        let mut figures = Figures::default();
        figures.add("rows_per_second_wanted", rate);
        figures.add("rows_per_second", rows as f64 / seen.elapsed.as_secs_f64());
        seen.add_to(&mut figures, &DELIVERIES, latencies.count());
        latencies.add_to(&mut figures);
        Ok(figures)
    }
}

/// The `sub` claim of a socket's token.
fn user(socket: usize) -> String {
    format!("00000000-0000-4000-8000-{socket:012x}")
}

/// Joins the first channel as soon as the server knows the new table.
fn join_once_known(bench: &mut Bench<'_>, join: &JoinOn) -> Result<()> {
    let deadline = Instant::now() + CATALOG_DEADLINE;
    loop {
        match bench.join([join.clone()]) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => bench.swarm.poll(Duration::from_millis(500), &mut |_| {})?,
        }
    }
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.context("the database can not be reached")?;
    tokio::spawn(connection);
    Ok(client)
}

#[derive(Clone, Copy)]
struct Schedule {
    rows: u64,
    rate: f64,
    sockets: usize,
}

/// Writes rows on a thread of its own, at the moments of a schedule.
struct Writer(thread::JoinHandle<Result<()>>);

impl Writer {
    fn start(url: &str, connections: usize, schedule: Schedule) -> Self {
        let url = url.to_owned();
        Writer(thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(write(&url, connections, schedule))
        }))
    }

    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    fn end(self) -> Result<()> {
        self.0.join().map_err(|_| anyhow!("the writer has panicked"))?
    }
}

async fn write(url: &str, connections: usize, schedule: Schedule) -> Result<()> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        let client = connect(url).await?;
        let insert = client
            .prepare(&format!("insert into {TABLE} (user_id, sent) values ($1::text::uuid, $2)"))
            .await?;
        clients.push(Arc::new((client, insert)));
    }
    let mut due = paced(schedule);
    let free = Arc::new(Semaphore::new(connections * PIPELINE));
    let mut inserts = tokio::task::JoinSet::new();
    let mut row = 0;
    while let Some(at) = due.recv().await {
        let permit = Arc::clone(&free).acquire_owned().await?;
        let writer = Arc::clone(&clients[row % connections]);
        let user = user(row % schedule.sockets);
        row += 1;
        inserts.spawn(async move {
            let (client, insert) = &*writer;
            let outcome = client.execute(insert, &[&user, &stamp::text(at)]).await;
            drop(permit);
            outcome
        });
        while let Some(outcome) = inserts.try_join_next() {
            outcome?.context("a row can not be written")?;
        }
    }
    while let Some(outcome) = inserts.join_next().await {
        outcome?.context("a row can not be written")?;
    }
    Ok(())
}

/// The moments of a schedule, each when it has come. A thread sleeps more exactly than a timer of the runtime, whose
/// steps are milliseconds.
fn paced(schedule: Schedule) -> mpsc::UnboundedReceiver<u64> {
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let began = Instant::now();
        for row in 0..schedule.rows {
            let due = began + Duration::from_secs_f64(row as f64 / schedule.rate);
            if let Some(wait) = due.checked_duration_since(Instant::now()) {
                thread::sleep(wait.max(STEP));
            }
            if sender.send(stamp::at(due)).is_err() {
                return;
            }
        }
    });
    receiver
}
