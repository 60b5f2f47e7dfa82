//! A server that ends, however it does, and another one in its place: who comes back with a position misses nothing and
//! gets nothing twice (docs/guarantees.md).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use walcast_testkit::{Database, ProtocolClient, ProtocolVersion};
use walcast_wire::Position;

mod support;

use support::{DEADLINE, Walcast};

const SECRET: &str = "restarts 9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI";

const ROLES: &str =
    concat!(include_str!("../../../sql/demo/10-roles.sql"), include_str!("../../../sql/demo/20-auth.sql"));

/// Rooms, and who may read which.
const ROOMS: &str = "
    create table members (room text, person text, primary key (room, person));
    create table notes (id bigint primary key, room text not null, body text);
    alter table notes enable row level security;
    create policy of_members on notes for select to authenticated using (exists (
        select from members m where m.room = notes.room and m.person = (select auth.jwt() ->> 'sub')));
    grant select on notes, members to authenticated;
    create publication supabase_realtime for table notes;
    insert into members values ('a', 'ana'), ('b', 'bruno');
";

/// The id of the row that is written last.
const LAST: i64 = i64::MAX;

/// A database, and the configuration of the servers in front of it, one after another.
struct Scene {
    database: Database,
    client: tokio_postgres::Client,
    folder: TempDir,
}

impl Scene {
    async fn new(name: &str) -> Result<Scene> {
        let database = walcast_testkit::database(name).await;
        let client = database.client().await;
        client.batch_execute(ROLES).await?;
        client.batch_execute(ROOMS).await?;
        let folder = tempfile::tempdir()?;
        let configuration = format!(
            "[server]\nhost = \"127.0.0.1\"\nport = 0\n[database]\nurl = \"{}\"\n[auth]\njwt_secret = \"{SECRET}\"\n\
             [limits]\nmax_handshakes_per_second_per_address = 0\n[replication]\nslot = \"{}\"\n",
            database.url(),
            database.slot_name()
        );
        std::fs::write(folder.path().join("walcast.toml"), configuration)?;
        Ok(Scene { database, client, folder })
    }

    /// A server, and where it is.
    async fn serve(&self) -> Result<(Walcast, SocketAddr)> {
        let mut walcast = Walcast::serve(&self.folder.path().join("walcast.toml"))?;
        let address = walcast.up().await?;
        Ok((walcast, address))
    }

    async fn sql(&self, sql: &str) -> Result<()> {
        Ok(self.client.batch_execute(sql).await?)
    }

    async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> Result<T> {
        Ok(self.client.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// How many bytes the slot's confirmed position is behind the end of the log.
    async fn trail(&self) -> Result<i64> {
        let slot = self.database.slot_name();
        let sql = format!(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
             from pg_replication_slots where slot_name = '{slot}'"
        );
        self.ask(&sql).await
    }
}

async fn connect(address: SocketAddr, person: &str) -> Result<ProtocolClient> {
    let expires = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 3_600;
    let claims = json!({ "role": "authenticated", "sub": person, "exp": expires });
    let token = walcast_auth::sign(&claims, SECRET)?;
    let mut client =
        ProtocolClient::connect(&format!("ws://{address}"), &token, ProtocolVersion::V2).await?.strictly();
    client.set_deadline(DEADLINE);
    Ok(client)
}

/// A binding on the notes that is told positions, and what it has missed behind `since`.
fn notes(since: Option<Position>) -> Value {
    let mut binding = json!({ "event": "*", "schema": "public", "table": "notes", "resume": true });
    if let Some(since) = since {
        binding["since"] = since.to_string().into();
    }
    binding
}

/// The text of the next message about resuming, which must be no gap.
async fn resumed(client: &mut ProtocolClient) -> Result<Position> {
    let message = client.expect(|message| message.system("resume").is_some()).await?;
    let (status, text) = message.system("resume").context("checked above")?;
    ensure!(status == "ok", "{text}");
    Ok(text.strip_prefix("position ").with_context(|| text.to_owned())?.parse()?)
}

/// The row and the position of the next change.
async fn change(client: &mut ProtocolClient) -> Result<(i64, Position)> {
    let message = client.expect(|message| message.event == "postgres_changes").await?;
    let data = &message.payload["data"];
    let position = data["position"].as_str().context("a position")?.parse()?;
    Ok((data["record"]["id"].as_i64().context("an id")?, position))
}

/// Writes notes one after another: each transaction two into room a and one into b.
struct Writer {
    done: Arc<AtomicBool>,
    committed: Arc<AtomicI64>,
    task: JoinHandle<Result<()>>,
}

impl Writer {
    async fn start(database: &Database) -> Writer {
        let (done, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let client = database.client().await;
        let task = tokio::spawn({
            let (done, committed) = (Arc::clone(&done), Arc::clone(&committed));
            async move {
                let mut id = 0;
                while !done.load(Ordering::Relaxed) {
                    let rows = format!("({}, 'a'), ({}, 'b'), ({}, 'a')", id + 1, id + 2, id + 3);
                    client.batch_execute(&format!("insert into notes (id, room) values {rows}")).await?;
                    id += 3;
                    committed.store(id, Ordering::Relaxed);
                }
                client.batch_execute(&format!("insert into notes (id, room) values ({LAST}, 'a')")).await?;
                Ok(())
            }
        });
        Writer { done, committed, task }
    }

    async fn more(&self, rows: i64) -> Result<()> {
        let target = self.committed.load(Ordering::Relaxed) + rows;
        let deadline = Instant::now() + DEADLINE;
        while self.committed.load(Ordering::Relaxed) < target {
            ensure!(Instant::now() < deadline, "the writer does not get on");
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.done.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// A subscriber that comes back whenever there is a server, behind the last change that it has seen, until it has seen
/// the last row. Gives the rows in the order in which they came, and how often it had to come back.
async fn travel(
    mut server: watch::Receiver<Option<SocketAddr>>,
    joined: Position,
    count: watch::Sender<usize>,
) -> Result<(Vec<i64>, u32)> {
    let (mut last, mut seen, mut returns) = (joined, Vec::new(), 0);
    loop {
        let address = server.wait_for(Option::is_some).await?.context("checked above")?;
        // The server may be gone already.
        let Ok(mut client) = connect(address, "ana").await else { continue };
        if client.join_changes("realtime:notes", &[notes(Some(last))]).await.is_err() {
            continue;
        }
        returns += 1;
        while let Ok(message) = client.next().await {
            if let Some((status, text)) = message.system("resume") {
                ensure!(status == "ok", "{text}");
            }
            if message.event != "postgres_changes" {
                continue;
            }
            let data = &message.payload["data"];
            let position: Position = data["position"].as_str().context("a position")?.parse()?;
            ensure!(last < position, "{data} comes behind {last}");
            last = position;
            match data["record"]["id"].as_i64().context("an id")? {
                LAST => return Ok((seen, returns)),
                id => seen.push(id),
            }
            count.send_replace(seen.len());
        }
    }
}

/// Whether a server ends with its process, or is asked to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Stopped,
}

async fn restarts_under_load(name: &str, end: End) -> Result<()> {
    const RESTARTS: u32 = 3;
    let scene = Scene::new(name).await?;
    let (mut walcast, address) = scene.serve().await?;
    let mut client = connect(address, "ana").await?;
    client.join_changes("realtime:notes", &[notes(None)]).await?;
    let joined = resumed(&mut client).await?;
    drop(client);
    let (told, server) = watch::channel(Some(address));
    let (count, mut counted) = watch::channel(0);
    let traveller = tokio::spawn(travel(server, joined, count));
    let writer = Writer::start(&scene.database).await;
    for _ in 0..RESTARTS {
        writer.more(300).await?;
        let before = *counted.borrow();
        timeout(DEADLINE, counted.wait_for(|seen| *seen > before + 50)).await.context("it sees rows")??;
        match end {
            End::Killed => walcast.kill().await?,
            End::Stopped => walcast.stop().await?,
        }
        told.send_replace(None);
        writer.more(300).await?;
        let (next, address) = scene.serve().await?;
        walcast = next;
        told.send_replace(Some(address));
    }
    writer.more(300).await?;
    writer.stop().await?;
    let (seen, returns) = timeout(DEADLINE, traveller).await.context("it waits for the last row")???;
    let rows = scene.client.query("select id from notes where room = 'a' order by id", &[]).await?;
    let written: Vec<i64> = rows.iter().map(|row| row.get(0)).filter(|id| *id != LAST).collect();
    let missing: Vec<_> = written.iter().filter(|id| !seen.contains(id)).collect();
    ensure!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), written.len());
    ensure!(seen == written, "foreign, or out of order: {seen:?}");
    ensure!(returns > RESTARTS, "it came back {returns} times");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_to_a_server_that_was_killed_misses_nothing_and_gets_nothing_twice() -> Result<()> {
    restarts_under_load("restarts_killed", End::Killed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_to_a_server_that_was_stopped_misses_nothing_and_gets_nothing_twice() -> Result<()> {
    restarts_under_load("restarts_stopped", End::Stopped).await
}

async fn readiness(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nhost: localhost\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_server_catches_up_joins_are_placed_behind_what_there_was_and_those_with_since_wait()
-> Result<()> {
    const ROWS: i64 = 200_000;
    let scene = Scene::new("restarts_catching_up").await?;
    let (walcast, address) = scene.serve().await?;
    let mut client = connect(address, "ana").await?;
    client.join_changes("realtime:notes", &[notes(None)]).await?;
    let joined = resumed(&mut client).await?;
    scene.sql("insert into notes values (1, 'a')").await?;
    ensure!(change(&mut client).await?.0 == 1);
    walcast.kill().await?;
    // Some of it in one transaction that goes through a file, and more than a moment's work for the next server.
    scene
        .sql(&format!(
            "insert into notes select id, 'a', repeat('x', 400) from generate_series(2, 21000) id;
             insert into notes select id, 'b', 'x' from generate_series(21001, {ROWS}) id"
        ))
        .await?;
    let (walcast, address) = scene.serve().await?;
    let caught_up = tokio::spawn(async move {
        let mut answers = Vec::new();
        loop {
            let answer = readiness(address).await?;
            if answer.contains(" 200 ") {
                return anyhow::Ok(answers);
            }
            answers.push(answer);
        }
    });
    let mut plain = connect(address, "ana").await?;
    let mut behind = connect(address, "ana").await?;
    let plain = async {
        plain.join_changes("realtime:notes", &[notes(None)]).await?;
        let placed = resumed(&mut plain).await?;
        scene.sql(&format!("insert into notes values ({}, 'a')", ROWS + 1)).await?;
        let (id, position) = change(&mut plain).await?;
        ensure!(id == ROWS + 1, "{id} was there before");
        ensure!(placed < position, "placed at {placed}, and the first row is at {position}");
        anyhow::Ok(())
    };
    let behind = async {
        behind.join_changes("realtime:notes", &[notes(Some(joined))]).await?;
        for expected in (1..=21_000).chain([ROWS + 1]) {
            let (id, _) = change(&mut behind).await?;
            ensure!(id == expected, "{id} instead of {expected}");
        }
        anyhow::Ok(())
    };
    tokio::try_join!(plain, behind)?;
    let answers = caught_up.await??;
    ensure!(!answers.is_empty(), "it was ready at once");
    for answer in answers {
        ensure!(answer.contains("catching up") && answer.contains(" 503 "), "{answer}");
    }
    walcast.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_keeps_what_the_journal_holds_and_a_clean_stop_changes_nothing_about_that() -> Result<()> {
    let scene = Scene::new("restarts_trail").await?;
    let (walcast, address) = scene.serve().await?;
    let mut client = connect(address, "ana").await?;
    client.join_changes("realtime:notes", &[notes(None)]).await?;
    let joined = resumed(&mut client).await?;
    let before = scene.ask::<String>("select pg_current_wal_lsn()::text").await?;
    scene.sql("insert into notes values (1, 'a')").await?;
    ensure!(change(&mut client).await?.0 == 1);
    drop(client);
    walcast.stop().await?;
    let slot = scene.database.slot_name();
    let behind = format!(
        "select confirmed_flush_lsn <= '{before}'::pg_lsn from pg_replication_slots where slot_name = '{slot}'"
    );
    ensure!(scene.ask::<bool>(&behind).await?, "the slot has let go of what the journal held");
    ensure!(scene.trail().await? > 0);
    for _ in 0..2 {
        let (walcast, address) = scene.serve().await?;
        let mut client = connect(address, "ana").await?;
        client.join_changes("realtime:notes", &[notes(Some(joined))]).await?;
        ensure!(change(&mut client).await?.0 == 1, "each server is sent it");
        resumed(&mut client).await?;
        drop(client);
        walcast.stop().await?;
    }
    Ok(())
}
