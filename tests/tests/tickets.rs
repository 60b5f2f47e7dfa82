//! Stock clients lose their connections, and the server is replaced: nobody misses a row (docs/protocol.md §5.7).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use walcast_testkit::fault_proxy::{Cut, FaultProxy};
use walcast_testkit::{Database, Program};
use walcast_tests::{FOUNDATION, SECRET, World, script};

const STREAM: &str = "
    create table stream (seq bigint primary key, body text not null);
    grant select on stream to authenticated;
    create publication supabase_realtime for table stream;
";

const ROWS_PER_SECOND: u32 = 1_000;

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Writes rows in transactions of one to ten, numbered from 1 on, until it is told to stop. The last one says so.
struct Writer {
    stopping: Arc<AtomicBool>,
    task: JoinHandle<Result<i64>>,
}

impl Writer {
    fn start(database: &Database) -> Writer {
        let stopping = Arc::new(AtomicBool::new(false));
        let (told, url) = (Arc::clone(&stopping), database.url().to_owned());
        let task = tokio::spawn(async move {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            let insert = client
                .prepare("insert into stream select i, 'row' from generate_series($1::bigint, $2::bigint) i")
                .await?;
            let mut dice = Dice(42);
            let mut last = 0_i64;
            let start = Instant::now();
            while !told.load(Ordering::Relaxed) {
                let next = last + 1 + i64::try_from(dice.below(10))?;
                client.execute(&insert, &[&(last + 1), &next]).await?;
                last = next;
                let due = start + Duration::from_secs(1) * u32::try_from(last)? / ROWS_PER_SECOND;
                tokio::time::sleep_until(due).await;
            }
            client.execute("insert into stream values ($1, 'last')", &[&(last + 1)]).await?;
            Ok(last + 1)
        });
        Writer { stopping, task }
    }

    /// The number of the last row.
    async fn stop(self) -> Result<i64> {
        self.stopping.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// Subscribers of one of the client libraries, in a process of their own.
struct Subscribers {
    name: String,
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    count: usize,
}

/// What one of them has seen.
#[derive(Deserialize)]
struct Report {
    index: usize,
    /// `None` is a SUBSCRIBED.
    seen: Vec<Option<i64>>,
    /// What it was told about resuming.
    told: Vec<String>,
}

impl Subscribers {
    async fn start(program: &str, arguments: &[&str], urls: Vec<String>) -> Result<Subscribers> {
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(script::folder("clients"))
            .env("WALCAST_URLS", urls.join(","))
            .env("WALCAST_JWT_SECRET", SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {program}: `make clients` installs what it needs"))?;
        let input = child.stdin.take().context("no standard input")?;
        let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let line = tokio::time::timeout(Duration::from_mins(1), lines.next_line()).await??;
        ensure!(line.as_deref() == Some("SUBSCRIBED"), "{program} {arguments:?}: {line:?}");
        let name = arguments.join(" ");
        Ok(Subscribers { name, child, input, lines, count: urls.len() })
    }

    async fn javascript(package: &str, urls: Vec<String>) -> Result<Subscribers> {
        Subscribers::start("node", &["js/resume.mjs", package], urls).await
    }

    async fn python(urls: Vec<String>) -> Result<Subscribers> {
        Subscribers::start("python/.venv/bin/python", &["python/resume.py"], urls).await
    }

    /// Waits until each has seen the last row, which has been written.
    async fn finish(mut self) -> Result<Vec<(String, Report)>> {
        self.input.write_all(b"LAST\n").await?;
        let mut all = Vec::new();
        while all.len() < self.count {
            let line = tokio::time::timeout(Duration::from_secs(90), self.lines.next_line()).await??;
            let line = line.with_context(|| format!("{} ended early", self.name))?;
            let report: Report = serde_json::from_str(&line).with_context(|| line.clone())?;
            all.push((format!("{} #{}", self.name, report.index), report));
        }
        self.child.wait().await?;
        Ok(all)
    }
}

/// What was found out about the rows that subscribers have seen.
#[derive(Debug, Default)]
struct Account {
    rows: usize,
    subscribed: usize,
    missing: usize,
    out_of_order: usize,
    overlap: usize,
}

impl Account {
    /// Each row once, in order, but that a SUBSCRIBED may go back to some that were seen before.
    fn take(&mut self, name: &str, seen: &[Option<i64>], last: i64) {
        let mut next = 1;
        let mut begins = true;
        let mut before = 0;
        for row in seen {
            let Some(row) = *row else {
                self.subscribed += 1;
                begins = true;
                continue;
            };
            self.rows += 1;
            if begins && row < next {
                self.overlap += usize::try_from(next - row).unwrap_or_default();
            } else if begins || row == before + 1 {
                if row > next {
                    eprintln!("{name}: {} to {} are missing", next, row - 1);
                    self.missing += usize::try_from(row - next).unwrap_or_default();
                }
            } else if row > before {
                eprintln!("{name}: {row} follows {before}");
                self.missing += usize::try_from(row - next.min(row)).unwrap_or_default();
            } else {
                eprintln!("{name}: {row} comes behind {before}");
                self.out_of_order += 1;
            }
            begins = false;
            before = row;
            next = next.max(row + 1);
        }
        if next <= last {
            eprintln!("{name}: {next} to {last}, the end, are missing");
            self.missing += usize::try_from(last + 1 - next).unwrap_or_default();
        }
    }

    fn of(all: &[(String, Report)], last: i64) -> Result<Account> {
        let mut account = Account::default();
        for (name, Report { seen, told, .. }) in all {
            account.take(name, seen, last);
            ensure!(told.is_empty(), "{name} was told: {told:?}");
        }
        eprintln!("{} subscribers of {last} rows: {account:?}", all.len());
        ensure!(account.missing == 0 && account.out_of_order == 0, "{account:?}");
        Ok(account)
    }
}

/// A proxy in front of the server for each of so many clients.
async fn proxies(world: &World, count: usize) -> Result<Vec<FaultProxy>> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(FaultProxy::start(world.server.address().to_string()).await?);
    }
    Ok(all)
}

fn urls(proxies: &[FaultProxy]) -> Vec<String> {
    proxies.iter().map(|proxy| format!("http://{}", proxy.address())).collect()
}

/// Cuts each connection at random moments until there were so many cuts altogether.
async fn cut_at_random(proxies: Vec<FaultProxy>, cuts: usize) -> Result<Vec<FaultProxy>> {
    let done = Arc::new(AtomicUsize::new(0));
    let mut cutting = JoinSet::new();
    for (index, proxy) in (1..).zip(proxies) {
        let done = Arc::clone(&done);
        cutting.spawn(async move {
            let mut dice = Dice(index * 7_919);
            while done.load(Ordering::Relaxed) < cuts {
                tokio::time::sleep(Duration::from_millis(100 + dice.below(1_400))).await;
                let how = if dice.below(2) == 0 { Cut::Reset } else { Cut::Finish };
                done.fetch_add(proxy.cut(how).await, Ordering::Relaxed);
            }
            proxy
        });
    }
    Ok(cutting.join_all().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_whose_connections_are_cut_five_hundred_times_miss_nothing() -> Result<()> {
    const CUTS: usize = 500;
    let world = World::with_sql("tickets_cut", STREAM).await?;
    let proxies = proxies(&world, 9).await?;
    let mut all = urls(&proxies);
    let python = all.split_off(6);
    let javascript = Subscribers::javascript("@supabase/supabase-js", all).await?;
    let python = Subscribers::python(python).await?;
    let writer = Writer::start(&world.database);
    let cutting = tokio::time::timeout(Duration::from_mins(4), cut_at_random(proxies, CUTS)).await;
    let proxies = cutting.context("the cuts take too long")??;
    let last = writer.stop().await?;
    let (javascript, python) = tokio::try_join!(javascript.finish(), python.finish())?;
    drop(proxies);
    let all: Vec<_> = javascript.into_iter().chain(python).collect();
    let account = Account::of(&all, last)?;
    ensure!(account.subscribed > CUTS / 2, "they were cut while they were subscribed: {account:?}");
    let text = world.metrics().await?;
    for line in text.lines().filter(|line| line.starts_with("walcast_resume")) {
        eprintln!("{line}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_loses_nothing_for_stock_clients() -> Result<()> {
    let mut world = World::with_sql("tickets_restart", STREAM).await?;
    let urls = vec![world.http(), world.http()];
    let javascript = Subscribers::javascript("@supabase/supabase-js", urls.clone()).await?;
    let python = Subscribers::python(urls).await?;
    let writer = Writer::start(&world.database);
    let mut every = tokio::time::interval(Duration::from_secs(5));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every.tick().await;
    for _ in 0..3 {
        every.tick().await;
        world = world.restart().await?;
    }
    every.tick().await;
    let last = writer.stop().await?;
    let (javascript, python) = tokio::try_join!(javascript.finish(), python.finish())?;
    let all: Vec<_> = javascript.into_iter().chain(python).collect();
    let account = Account::of(&all, last)?;
    // Who waits longer between two tries may pass over a server.
    if account.subscribed < 3 * all.len() {
        bail!("each has come back: {account:?}");
    }
    Ok(())
}

/// The binary that cargo has built beside this program.
fn walcast_binary() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let found = program.ancestors().map(|folder| folder.join("walcast")).find(|path| path.is_file());
    found.context("the server is not built: cargo build --bin walcast")
}

/// Waits until a server that has just been started serves, and says on which port.
async fn serves(server: &mut Program) -> Result<u16> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let log = server.log();
        let up = log.lines().find(|line| line.contains("walcast is up"));
        let address = up.and_then(|line| line.split_once("address=")?.1.split(' ').next());
        if let Some(address) = address {
            return Ok(address.parse::<SocketAddr>()?.port());
        }
        ensure!(server.is_running()? && Instant::now() < deadline, "it does not serve: {log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_nothing_for_stock_clients_either() -> Result<()> {
    let database = walcast_testkit::database("tickets_killed").await;
    let client = database.client().await;
    client.batch_execute(FOUNDATION).await?;
    client.batch_execute(STREAM).await?;
    let folder = tempfile::tempdir()?;
    let mut server = Program::new(&walcast_binary()?, &["serve"], &folder.path().join("log"));
    for (name, value) in [
        ("DATABASE_URL", database.url()),
        ("JWT_SECRET", SECRET),
        ("PORT", "0"),
        ("WALCAST_SLOT", &database.slot_name()),
    ] {
        server.set(name, value);
    }
    server.start()?;
    let port = serves(&mut server).await?;
    server.set("PORT", &port.to_string());
    let urls = vec![format!("http://127.0.0.1:{port}"); 2];
    let javascript = Subscribers::javascript("@supabase/supabase-js", urls.clone()).await?;
    let python = Subscribers::python(urls).await?;
    let writer = Writer::start(&database);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        server.kill().await?;
        server.clear_log()?;
        server.start()?;
        serves(&mut server).await?;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    let last = writer.stop().await?;
    let (javascript, python) = tokio::try_join!(javascript.finish(), python.finish())?;
    let all: Vec<_> = javascript.into_iter().chain(python).collect();
    let account = Account::of(&all, last)?;
    // Who waits longer between two tries may pass over a server that was killed soon.
    ensure!(account.subscribed >= 2 * all.len(), "each has come back: {account:?}");
    ensure!(server.terminate(Duration::from_secs(30)).await?.success(), "{}", server.log());
    Ok(())
}
