//! From the join to the restart: what a subscription is promised while everything around it comes and goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::task::JoinHandle;
use walcast::serve::Server;
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database};
use walcast_tests::watching::{MARKS, Watcher, role_name, watched, watched_with};
use walcast_tests::{World, binding, person, role};

const ROWS: &str = "
    create table rows (id bigint primary key, owner text default 'ana');
    create table readers (sub text);
    insert into readers values ('ana');
    create table asked (id bigint primary key);
    create table other (id bigint primary key);
    alter table rows enable row level security;
    alter table asked enable row level security;
    create policy own on rows using (owner = (auth.jwt() ->> 'sub'));
    create policy readers on asked using (exists (select from readers where sub = (auth.jwt() ->> 'sub')));
    grant select on rows, readers, asked, other to authenticated, service_role;
    create publication supabase_realtime for table rows, asked, other;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_change_made_in_reaction_to_subscribed_is_delivered_two_hundred_times() -> Result<()> {
    const TIMES: i64 = 200;
    let world = watched("lifecycle_subscribed", ROWS).await?;
    let mut client = world.connect(&person("ana")).await?;
    for id in 0..TIMES {
        let topic = format!("realtime:room {id}");
        let bindings = [binding("INSERT", "rows")];
        // The log is not idle while the join is on its way.
        let noise = format!("insert into other values ({id}); insert into rows values ({})", id + TIMES);
        let (joined, written) = tokio::join!(client.join_changes(&topic, &bindings), world.sql(&noise));
        joined?;
        written?;
        world.sql(&format!("insert into rows values ({id})")).await?;
        let change = client
            .expect(|message| {
                message.is(&topic, "postgres_changes") && message.payload["data"]["record"]["id"] == id
            })
            .await;
        change.with_context(|| format!("the change after join {id}"))?;
        client.leave(&topic).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_join_of_a_role_waits_for_it_and_misses_nothing() -> Result<()> {
    let world = watched("lifecycle_roles", ROWS).await?;
    let roles: Vec<_> = (0..20).map(|_| role_name("fresh")).collect();
    for (id, name) in roles.iter().enumerate() {
        world
            .sql(&format!("create role {name} in role service_role; grant select on rows to {name}"))
            .await?;
        world.sql(&format!("create policy {name} on rows to {name} using (true)")).await?;
        let mut watcher = Watcher::join(&world, &role(name), &[binding("INSERT", "rows")]).await?;
        world.sql(&format!("insert into rows values ({id})")).await?;
        assert_eq!(watcher.ids(&world).await?, [i64::try_from(id)?], "role {id}");
    }
    Ok(())
}

/// Writes rows one after another, each in a transaction of its own, and goes on when Postgres is back.
struct Writer {
    done: Arc<AtomicBool>,
    /// The last id that was surely committed.
    committed: Arc<AtomicI64>,
    task: JoinHandle<Result<()>>,
}

impl Writer {
    fn start(url: &str) -> Writer {
        let (done, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let task = tokio::spawn(write(url.to_owned(), Arc::clone(&done), Arc::clone(&committed)));
        Writer { done, committed, task }
    }

    /// Waits until so many more rows are committed.
    async fn more(&self, rows: i64) -> Result<()> {
        let target = self.committed.load(Ordering::Relaxed) + rows;
        let deadline = Instant::now() + Duration::from_secs(30);
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

async fn write(url: String, done: Arc<AtomicBool>, committed: Arc<AtomicI64>) -> Result<()> {
    let mut id = 0_i64;
    while !done.load(Ordering::Relaxed) {
        let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let connection = tokio::spawn(connection);
        while !done.load(Ordering::Relaxed) {
            id += 1;
            let statement =
                format!("begin; insert into rows values ({id}); insert into asked values ({id}); commit");
            if client.batch_execute(&statement).await.is_err() {
                break;
            }
            committed.store(id, Ordering::Relaxed);
        }
        connection.abort();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_outlive_a_restart_and_a_crash_of_postgres_under_load_and_miss_nothing() -> Result<()> {
    // §15 case 237.
    let cluster = Cluster::start(test_settings()).await?;
    let database = Database::create(&cluster, "lifecycle_restart").await?;
    let mut world = World::in_database(database, &format!("{ROWS};{MARKS}"), |_| {}).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "rows")]).await?;
    let mut asking = Watcher::join(&world, &person("ana"), &[binding("*", "asked")]).await?;
    let mut stranger =
        Watcher::join(&world, &person("bea"), &[binding("*", "rows"), binding("*", "asked")]).await?;
    for watcher in [&mut watcher, &mut asking, &mut stranger] {
        watcher.client.set_deadline(Duration::from_mins(1));
    }
    let writer = Writer::start(world.database.url());
    writer.more(200).await?;
    cluster.restart().await?;
    writer.more(200).await?;
    cluster.stop_immediately().await?;
    watcher.client.heartbeat().await.context("the socket stays up while Postgres is down")?;
    cluster.start_again().await?;
    let back = writer.committed.load(Ordering::Relaxed) + 1;
    writer.more(200).await?;
    writer.stop().await?;

    world.client = world.database.client().await;
    let seen = watcher.ids(&world).await?;
    let written: Vec<i64> = ids(&world, "rows").await?;
    ensure!(seen == written, "{}", difference(&seen, &written));
    // What Postgres must be asked about is not shown while it can not be asked.
    let seen: Vec<_> = asking.ids(&world).await?;
    let asked: Vec<i64> = ids(&world, "asked").await?.into_iter().filter(|id| *id > back).collect();
    let after: Vec<_> = seen.iter().copied().filter(|id| *id > back).collect();
    ensure!(after == asked, "{}", difference(&after, &asked));
    ensure!(seen.is_sorted_by(|one, next| one < next), "in order, and none twice");
    assert!(stranger.ids(&world).await?.is_empty());
    Ok(())
}

async fn ids(world: &World, table: &str) -> Result<Vec<i64>> {
    let rows = world.client.query(&format!("select id from {table} order by id"), &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn difference(seen: &[i64], written: &[i64]) -> String {
    let missing: Vec<_> = written.iter().filter(|id| !seen.contains(id)).take(20).collect();
    let strange: Vec<_> = seen.iter().filter(|id| !written.contains(id)).take(20).collect();
    let (seen, written) = (seen.len(), written.len());
    format!(
        "{seen} seen of {written} written; missing {missing:?}; never written {strange:?}; or in another order"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgres_is_down_a_join_is_refused_or_good_for_when_it_is_back() -> Result<()> {
    // §15 case 182.
    let cluster = Cluster::start(test_settings()).await?;
    let database = Database::create(&cluster, "lifecycle_down").await?;
    let mut world = World::in_database(database, &format!("{ROWS};{MARKS}"), |_| {}).await?;
    Watcher::join(&world, &person("ana"), &[binding("*", "rows")]).await?;
    cluster.stop().await?;
    let mut client = world.connect(&role("never_seen")).await?;
    client.set_deadline(Duration::from_mins(1));
    let config = json!({"config": {"postgres_changes": [binding("*", "rows")]}});
    let reply = client.join("realtime:asking", &config).await?;
    assert_eq!(
        reply.reason(),
        Some("UnableToConnectToProject: Realtime was unable to connect to the project database")
    );
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "rows")]).await?;
    watcher.client.set_deadline(Duration::from_mins(1));
    cluster.start_again().await?;
    world.client = world.database.client().await;
    world.sql("insert into rows values (1)").await?;
    assert_eq!(watcher.ids(&world).await?, [1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_journal_goes_on_with_its_slot_where_the_last_one_stopped() -> Result<()> {
    let world = watched_with("lifecycle_server", ROWS, |settings| {
        settings.project.engine.journal_bytes_max = 0;
    })
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "rows")]).await?;
    world.sql("insert into rows values (1)").await?;
    assert_eq!(watcher.ids(&world).await?, [1]);
    let World { database, client, settings, server } = world;
    server.stop().await?;
    assert_eq!(watcher.client.closed().await?.map(|(code, _)| code), Some(1012));
    let left = "select count(*) from pg_logical_slot_peek_binary_changes($1, null, null,
        'proto_version', '1', 'publication_names', 'supabase_realtime')";
    let left: i64 = client.query_one(left, &[&settings.project.replication.slot]).await?.get(0);
    assert_eq!(left, 0, "the slot is let go, and what was delivered is not sent again");
    client.batch_execute("insert into rows values (2)").await?;
    let server = Server::start(settings.clone()).await?;
    let world = World { database, client, settings, server };
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "rows")]).await?;
    world.sql("insert into rows values (3)").await?;
    let seen = watcher.ids(&world).await?;
    assert_eq!(seen, [3], "what was written before the join is not new");
    let slots = "select from pg_replication_slots where database = $1";
    assert_eq!(world.client.query(slots, &[&world.database.name()]).await?.len(), 1);
    Ok(())
}
