//! Who changes rows while things break: several connections at once, and one that changes memberships.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::Client;

use super::schema::{ACCOUNTED, PEOPLE, ROOMS};
use super::truth::{Key, Kind, Truth};
use crate::story::Random;

const WRITERS: u32 = 4;
/// Changes of a transaction, at most.
const CHANGES_MAX: u64 = 5;
/// How long a writer waits for PostgreSQL before it connects again.
const PATIENCE: Duration = Duration::from_secs(10);

/// All writers. Dropping it ends them.
pub(super) struct Writers {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<Vec<Key>>>,
}

struct Shared {
    url: String,
    stopping: AtomicBool,
    /// Changes that are surely committed.
    committed: AtomicU64,
    /// Between two transactions of a writer.
    pause: Duration,
}

impl Writers {
    /// Begins to write, about so many rows a second.
    pub(super) fn start(url: &str, rows_per_second: u32, seed: u64) -> Writers {
        // A transaction has three changes on average.
        let pause = Duration::from_secs(1) * 3 * WRITERS / rows_per_second.max(1);
        let shared = Arc::new(Shared {
            url: url.to_owned(),
            stopping: AtomicBool::new(false),
            committed: AtomicU64::new(0),
            pause,
        });
        let mut tasks = JoinSet::new();
        for number in 0..WRITERS {
            let writer = Writer {
                number,
                random: Random(seed ^ u64::from(number) << 32),
                last_id: 0,
                last_seq: 0,
                alive: Default::default(),
                committed: Vec::new(),
            };
            tasks.spawn(writer.run(Arc::clone(&shared)));
        }
        tasks.spawn(change_memberships(Arc::clone(&shared), Random(seed)));
        Writers { shared, tasks }
    }

    /// Waits until so many more changes are committed.
    pub(super) async fn more(&self, changes: u64) -> Result<()> {
        let target = self.shared.committed.load(Ordering::Relaxed) + changes;
        let deadline = Instant::now() + Duration::from_mins(1);
        while self.shared.committed.load(Ordering::Relaxed) < target {
            ensure!(Instant::now() < deadline, "the writers do not get on");
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Ends the writers, and gives all changes that were surely committed.
    pub(super) async fn stop(mut self) -> Result<Vec<Key>> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let mut committed = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            committed.extend(ended??);
        }
        Ok(committed)
    }
}

/// Fails where the log lacks a change whose commit PostgreSQL has confirmed: then nothing that follows means anything.
pub(super) fn check(committed: &[Key], truth: &Truth) -> Result<()> {
    let lost: Vec<_> = committed.iter().filter(|key| truth.place(key).is_none()).take(5).collect();
    ensure!(lost.is_empty(), "PostgreSQL has confirmed what its log does not have: {lost:?}");
    Ok(())
}

struct Writer {
    number: u32,
    random: Random,
    last_id: i64,
    last_seq: i64,
    /// Rows that may be updated or deleted, by table. One that a crash took is updated in vain.
    alive: [Vec<i64>; ACCOUNTED.len()],
    committed: Vec<Key>,
}

impl Writer {
    async fn run(mut self, shared: Arc<Shared>) -> Result<Vec<Key>> {
        while !shared.stopping.load(Ordering::Relaxed) {
            let Some(client) = connect(&shared.url).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            // An error: the connection has broken, or PostgreSQL had no room. What became of the transaction, the
            // log says.
            let _ = self.write(&client, &shared).await;
            sleep(Duration::from_millis(20)).await;
        }
        Ok(self.committed)
    }

    async fn write(&mut self, client: &Client, shared: &Shared) -> Result<()> {
        let mut next = Instant::now();
        while !shared.stopping.load(Ordering::Relaxed) {
            let before = self.alive.clone();
            let (sql, keys) = self.transaction();
            let outcome = timeout(PATIENCE, client.batch_execute(&sql)).await;
            if !matches!(outcome, Ok(Ok(()))) {
                self.alive = before;
            }
            outcome.context("PostgreSQL does not answer")??;
            shared.committed.fetch_add(keys.len() as u64, Ordering::Relaxed);
            self.committed.extend(keys);
            next = (next + shared.pause).max(Instant::now());
            sleep_until(next).await;
        }
        Ok(())
    }

    /// The next transaction, and the changes that it makes for sure.
    fn transaction(&mut self) -> (String, Vec<Key>) {
        let mut sql = String::from("begin;");
        let mut keys = Vec::new();
        for _ in 0..=self.random.below(CHANGES_MAX) {
            let table = self.random.index(ACCOUNTED.len());
            self.last_seq += 1;
            let seq = self.last_seq;
            let chosen = self.random.below(100);
            let owner = PEOPLE[self.random.index(PEOPLE.len())];
            let room = self.random.index(ROOMS);
            let (name, writer) = (ACCOUNTED[table], self.number);
            let alive = &mut self.alive[table];
            if chosen < 60 || alive.is_empty() {
                self.last_id += 1;
                let id = i64::from(writer) * 1_000_000_000 + self.last_id;
                alive.push(id);
                let body = "x".repeat(self.random.index(200));
                let _ = write!(
                    sql,
                    "insert into {name} values ({id}, '{owner}', {room}, {writer}, {seq}, '{body}');"
                );
                keys.push(key(name, Kind::Insert, id, Some(seq)));
                continue;
            }
            let place = self.random.index(alive.len());
            if chosen < 85 {
                let id = alive[place];
                let _ = write!(
                    sql,
                    "update {name} set owner = '{owner}', room = {room}, seq = {seq} where id = {id};"
                );
                // A crash may have taken its INSERT with it; then this changes nothing.
            } else {
                let id = alive.swap_remove(place);
                let _ = write!(sql, "delete from {name} where id = {id};");
            }
        }
        (sql + "commit", keys)
    }
}

fn key(table: &str, kind: Kind, id: i64, seq: Option<i64>) -> Key {
    Key { table: table.to_owned(), kind, id, seq }
}

/// Takes people into rooms and out of them, each time together with a row of the room.
async fn change_memberships(shared: Arc<Shared>, mut random: Random) -> Result<Vec<Key>> {
    let mut id = 900_000_000_000_i64;
    let mut committed = Vec::new();
    while !shared.stopping.load(Ordering::Relaxed) {
        let Some(client) = connect(&shared.url).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !shared.stopping.load(Ordering::Relaxed) {
            id += 1;
            let room = random.index(ROOMS);
            let name = PEOPLE[random.index(PEOPLE.len())];
            let sql = format!(
                "begin; with gone as (delete from members where room = {room} and person = '{name}' returning 1)
                 insert into members select {room}, '{name}' where not exists (select from gone);
                 insert into room_rows values ({id}, null, {room}, {WRITERS}, {id}, 'membership'); commit"
            );
            if !matches!(timeout(PATIENCE, client.batch_execute(&sql)).await, Ok(Ok(()))) {
                break;
            }
            committed.push(key("room_rows", Kind::Insert, id, Some(id)));
            sleep(Duration::from_millis(150)).await;
        }
    }
    Ok(committed)
}

async fn connect(url: &str) -> Option<Client> {
    let connecting = tokio_postgres::connect(url, tokio_postgres::NoTls);
    let (client, connection) = timeout(PATIENCE, connecting).await.ok()?.ok()?;
    tokio::spawn(connection);
    Some(client)
}
