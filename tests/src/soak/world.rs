//! Database and server of a soak.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep};
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database, Program};

use super::readings::Reading;
use crate::faults::{free_address, walcast_binary};
use crate::http::get;
use crate::story::Random;
use crate::{FOUNDATION, SECRET, World};

/// Rooms, each with a few members and a hundred rows that are updated.
pub(super) const ROOMS: usize = 1_000;
const ROWS: u32 = 100_000;
const BATCH: u32 = 100;

const TABLES: &str = "
    create table members (room int, person text, primary key (room, person));
    create table rows (id int primary key, room int not null, number bigint not null, body text);
    alter table rows enable row level security;
    create policy of_members on rows for select to authenticated using (exists (
        select from members m where m.room = rows.room and m.person = (select auth.jwt() ->> 'sub')));
    grant select on members, rows to authenticated;
    alter publication supabase_realtime add table rows;
";

/// What a soak plays in.
pub(super) struct SoakWorld {
    server: Program,
    address: SocketAddr,
    rows: Arc<AtomicU64>,
    database: Database,
    _cluster: Cluster,
    _directory: tempfile::TempDir,
}

impl SoakWorld {
    pub(super) async fn start() -> Result<SoakWorld> {
        let mut settings = test_settings();
        settings.settings.push(("max_wal_size".to_owned(), "512MB".to_owned()));
        settings.settings.push(("checkpoint_timeout".to_owned(), "1min".to_owned()));
        let cluster = Cluster::start(settings).await?;
        let database = Database::create(&cluster, "soak").await?;
        let client = database.client().await;
        client.batch_execute(FOUNDATION).await?;
        client.batch_execute(&World::installation(TABLES)).await?;
        let fill = format!(
            "insert into rows select id, id % {ROOMS}, 0, repeat('x', 100) from generate_series(0, {ROWS} - 1) id;
             insert into members select number % {ROOMS}, 'person ' || number from generate_series(0, 9999) number"
        );
        client.batch_execute(&fill).await?;
        let directory = tempfile::tempdir()?;
        let address = free_address()?;
        let mut server = Program::new(&walcast_binary()?, &["serve"], &directory.path().join("walcast.log"));
        for (name, value) in [
            ("DATABASE_URL", database.url()),
            ("JWT_SECRET", SECRET),
            ("WALCAST_HOST", "127.0.0.1"),
            ("PORT", &address.port().to_string()),
            ("LOG_LEVEL", "warn"),
        ] {
            server.set(name, value);
        }
        server.start()?;
        let world = SoakWorld {
            server,
            address,
            rows: Arc::default(),
            database,
            _cluster: cluster,
            _directory: directory,
        };
        let deadline = Instant::now() + Duration::from_mins(1);
        while !get(address, "/readyz", "").await.is_ok_and(|answer| answer.status == 200) {
            ensure!(Instant::now() < deadline, "the server is not ready; its log:\n{}", world.server.log());
            sleep(Duration::from_millis(50)).await;
        }
        Ok(world)
    }

    /// `ws://…` of the server.
    pub(super) fn url(&self) -> String {
        format!("ws://{}/socket/websocket", self.address)
    }

    /// How many rows have been written.
    pub(super) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Updates so many rows a second, takes somebody into a room, and somebody out of one, with each hundred.
    pub(super) fn write(&self, rows_per_second: u32) -> JoinHandle<Result<()>> {
        let (url, rows) = (self.database.url().to_owned(), Arc::clone(&self.rows));
        tokio::spawn(async move {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            let mut ticks = interval(Duration::from_secs(1) * BATCH / rows_per_second.max(1));
            let mut random = Random(1);
            for batch in 0_u64.. {
                ticks.tick().await;
                let first = batch * u64::from(BATCH) % u64::from(ROWS);
                let (room, person) = (random.index(ROOMS), random.index(2_000));
                let sql = format!(
                    "update rows set number = {batch} where id >= {first} and id < {first} + {BATCH};
                     with gone as (delete from members where room = {room} and person = 'person {person}' returning 1)
                     insert into members select {room}, 'person {person}' where not exists (select from gone)"
                );
                client.batch_execute(&sql).await?;
                rows.fetch_add(u64::from(BATCH), Ordering::Relaxed);
            }
            Ok(())
        })
    }

    /// What the server holds now.
    pub(super) async fn read(&self) -> Result<Reading> {
        let metrics = get(self.address, "/metrics", "connection: close\r\n").await;
        let metrics =
            metrics.with_context(|| format!("no metrics; the server's log:\n{}", self.server.log()))?;
        Reading::of(self.server.usage()?, &metrics.body)
    }

    /// What it holds when everybody is gone, and the grace of presence is over.
    pub(super) async fn emptied(&mut self, before: &Reading) -> Result<Reading> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let reading = self.read().await?;
            if reading.left_behind(before).is_empty() || Instant::now() > deadline {
                if !self.server.is_running()? {
                    bail!("the server has ended; its log:\n{}", self.server.log());
                }
                return Ok(reading);
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}
