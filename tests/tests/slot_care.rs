//! The slot while something is wrong with it: too much log, lost, and whether the way through the log works at all.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use walcast::settings::{SlotLag, SlotLagAction};
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database};
use walcast_tests::http::get;
use walcast_tests::watching::{MARKS, Watcher};
use walcast_tests::{World, binding, person};

const SQL: &str = "
    create table rows (id bigint primary key, body text);
    create table readers (sub text primary key);
    insert into readers values ('ana'), ('bea');
    create table asked (id bigint primary key);
    alter table asked enable row level security;
    create policy readers on asked using (exists (select from readers where sub = (auth.jwt() ->> 'sub')));
    grant select on rows, readers, asked to authenticated;
    create publication supabase_realtime for table rows, asked;
";

/// A cluster with a slot of one server in it, which nothing else writes to.
struct Scene {
    world: World,
    /// In a transaction that keeps the slot where it is.
    holding: tokio_postgres::Client,
    _cluster: Cluster,
}

impl Scene {
    async fn with(limits: &[(&str, &str)], action: Option<SlotLagAction>) -> Result<Scene> {
        let limits = limits.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let cluster =
            Cluster::start(walcast_testkit::ClusterSettings { settings: limits, ..test_settings() }).await?;
        let database = Database::create(&cluster, "slot_care").await?;
        let bytes_max = NonZeroU64::new(20 << 20).context("not zero")?;
        let world = World::in_database(database, &format!("{SQL};{MARKS}"), |settings| {
            // The metrics are asked for as fast as they come.
            settings.listener.addresses.handshakes_per_second_max = 0;
            settings.project.replication.slot_lag = action.map(|action| SlotLag { bytes_max, action });
            settings.project.replication.canary = Some(Duration::from_millis(100));
        })
        .await?;
        let holding = world.database.client().await;
        Ok(Scene { world, holding, _cluster: cluster })
    }

    /// Makes PostgreSQL keep more than 20 MiB of log for the slot.
    async fn hold_back(&self) -> Result<()> {
        self.holding.batch_execute("begin; insert into rows values (0)").await?;
        for id in 1..=3 {
            self.world.sql(&format!("insert into readers values ('{id}')")).await?;
            self.world.sql("select pg_switch_wal()").await?;
        }
        Ok(())
    }

    async fn readiness(&self) -> Result<(u16, Value)> {
        let answer = get(self.world.server.address(), "/readyz", "").await?;
        Ok((answer.status, answer.json()?))
    }

    /// Asks `/readyz` until the answer is as wanted.
    async fn until(&self, wanted: impl Fn(u16, &Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (status, body) = self.readiness().await?;
            if wanted(status, &body) {
                return Ok(body);
            }
            if Instant::now() > deadline {
                bail!("/readyz stays {status} {body}");
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The text of the next message about what was missed.
async fn told(watcher: &mut Watcher) -> Result<String> {
    let message = watcher.client.expect(|message| message.system("resume").is_some()).await?;
    let (status, text) = message.system("resume").context("checked above")?;
    assert_eq!(status, "error");
    Ok(text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_over_its_limit_is_read_no_further_until_somebody_has_decided() -> Result<()> {
    let scene = Scene::with(&[], Some(SlotLagAction::Stop)).await?;
    let mut watcher = Watcher::join(&scene.world, &person("ana"), &[binding("*", "rows")]).await?;
    let retained =
        scene.until(|status, body| status == 200 && body["replication"]["retained_bytes"].is_u64());
    retained.await?;
    scene.hold_back().await?;
    let body = scene.until(|status, body| status == 503 && body["replication"]["status"] == "paused").await?;
    assert!(body["problems"].to_string().contains("replication.max_slot_lag"), "{body}");
    assert_eq!(scene.world.metric("walcast_replication_paused").await?, 1);
    // What is written into a log that nobody reads does not come back.
    scene
        .until(|_, body| body["warnings"][0].as_str().is_some_and(|text| text.contains("not come back")))
        .await?;
    watcher.client.heartbeat().await.context("sockets stay up")?;

    scene.holding.batch_execute("commit").await?;
    let slot = &scene.world.settings.project.replication.slot;
    scene.world.sql(&format!("select pg_drop_replication_slot('{slot}')")).await?;
    scene.until(|status, body| status == 200 && body["warnings"] == json!([])).await?;
    let text = told(&mut watcher).await?;
    assert!(text.starts_with("gap: refetch") && text.contains("the replication slot was gone"), "{text}");
    scene.world.sql("insert into rows values (1)").await?;
    assert_eq!(watcher.ids(&scene.world).await?, [1]);
    assert_eq!(scene.world.metric("walcast_gaps_total").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_given_up_tells_every_subscriber_and_trusts_no_copy_from_before() -> Result<()> {
    let scene = Scene::with(&[], Some(SlotLagAction::DropAndTell)).await?;
    let world = &scene.world;
    let mut ana = Watcher::join(world, &person("ana"), &[binding("*", "asked")]).await?;
    let mut bea = Watcher::join(world, &person("bea"), &[binding("*", "asked")]).await?;
    let mut nothing = world.connect(&person("ana")).await?;
    nothing.join("realtime:nothing", &json!({"config": {"broadcast": {"self": true}}})).await?;
    world.sql("insert into asked values (1)").await?;
    assert_eq!((ana.ids(world).await?, bea.ids(world).await?), (vec![1], vec![1]));

    scene.hold_back().await?;
    // The new slot waits for the transaction that was kept open; what is written meanwhile is in no log that is read.
    scene.until(|status, _| status == 503).await?;
    let none = "select count(*) = 0 from pg_replication_slots where confirmed_flush_lsn is not null";
    let deadline = Instant::now() + Duration::from_secs(30);
    while !world.client.query_one(none, &[]).await?.get::<_, bool>(0) {
        anyhow::ensure!(Instant::now() < deadline, "the slot is not dropped");
    }
    world.sql("delete from readers where sub = 'ana'; insert into asked values (2)").await?;
    scene.holding.batch_execute("rollback").await?;
    for watcher in [&mut ana, &mut bea] {
        let text = told(watcher).await?;
        assert!(text.starts_with("gap: refetch") && text.contains("replication.max_slot_lag"), "{text}");
    }
    world.sql("insert into asked values (3)").await?;
    assert_eq!(bea.ids(world).await?, [3]);
    assert!(ana.ids(world).await?.is_empty(), "her membership ended inside the gap");
    nothing.heartbeat().await?;
    assert!(nothing.unclaimed().all(|message| message.system("resume").is_none()), "it has no bindings");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_postgresql_invalidates_is_made_anew_and_every_subscriber_is_told() -> Result<()> {
    let limits = [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    let scene = Scene::with(&limits, None).await?;
    let mut watcher = Watcher::join(&scene.world, &person("ana"), &[binding("*", "rows")]).await?;
    scene.hold_back().await?;
    scene.world.sql("checkpoint").await?;
    scene.holding.batch_execute("rollback").await?;
    let text = told(&mut watcher).await?;
    assert!(text.contains("PostgreSQL invalidated the replication slot"), "{text}");
    scene.world.sql("insert into rows values (7)").await?;
    assert_eq!(watcher.ids(&scene.world).await?, [7]);
    scene.until(|status, _| status == 200).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_goes_through_the_log_and_its_latency_is_measured() -> Result<()> {
    let scene = Scene::with(&[], None).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.world.metric("walcast_canary_seconds_count").await? < 3 {
        anyhow::ensure!(Instant::now() < deadline, "no canary comes back");
    }
    let page = scene.world.metrics().await?;
    let last = page.lines().find_map(|line| line.strip_prefix("walcast_canary_last_seconds "));
    let last: f64 = last.context("the last one")?.parse()?;
    assert!((0.0..30.0).contains(&last), "{last}");
    // On a machine that is busy it may be late for a while.
    scene.until(|_, body| body["warnings"] == json!([])).await?;
    Ok(())
}

/// A binding on the rows that is told positions, and what it has missed behind `since`.
fn resumable(since: Option<&str>) -> Value {
    let mut wanted = binding("INSERT", "rows");
    wanted["resume"] = true.into();
    wanted["select"] = json!(["id"]);
    if let Some(since) = since {
        wanted["since"] = since.into();
    }
    wanted
}

/// Joins the rows and says at which position.
async fn placed(world: &World) -> Result<(Watcher, String)> {
    let mut watcher = Watcher::join(world, &person("ana"), &[resumable(None)]).await?;
    let message = watcher.client.expect(|message| message.system("resume").is_some()).await?;
    let (status, text) = message.system("resume").context("checked above")?;
    let position = text.strip_prefix("position ").filter(|_| status == "ok");
    let position = position.with_context(|| text.to_owned())?.to_owned();
    Ok((watcher, position))
}

/// Ends the connection that brings the log, as a cut of the network would, and waits for the next one.
async fn cut_replication(world: &World) -> Result<()> {
    let slot = &world.settings.project.replication.slot;
    let reader = format!("select active_pid from pg_replication_slots where slot_name = '{slot}'");
    let before: i32 = world.client.query_one(&reader, &[]).await?.get(0);
    world.sql(&format!("select pg_terminate_backend({before})")).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.client.query_one(&reader, &[]).await?.get::<_, Option<i32>>(0).is_none_or(|now| now == before)
    {
        anyhow::ensure!(Instant::now() < deadline, "no new connection");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_replication_connection_is_cut_nothing_comes_twice_be_it_live_or_from_the_journal()
-> Result<()> {
    const LARGE: i64 = 10_000;
    let world = walcast_tests::watching::watched("slot_care_cut", SQL).await?;
    let (mut live, position) = placed(&world).await?;
    world.sql("insert into rows values (1)").await?;
    // More than is kept of a transaction in memory.
    world
        .sql(&format!("insert into rows select id, repeat('x', 1000) from generate_series(2, {LARGE}) id"))
        .await?;
    assert_eq!(live.ids(&world).await?.last(), Some(&LARGE));
    cut_replication(&world).await?;
    world.sql(&format!("insert into rows values ({})", LARGE + 1)).await?;
    assert_eq!(live.ids(&world).await?, [LARGE + 1]);

    let bindings = [resumable(Some(&position))];
    let mut back = Watcher::join(&world, &person("bea"), &bindings).await?;
    let expected: Vec<i64> = (1..=LARGE + 1).collect();
    assert!(back.ids(&world).await? == expected, "each once, in order");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_is_written_the_slot_lets_go_of_the_log_when_the_journals_time_has_passed() -> Result<()>
{
    let world = walcast_tests::watching::watched_with("slot_care_idle", SQL, |settings| {
        settings.project.engine.journal_age = Duration::from_millis(1_500);
        settings.project.replication.canary = None;
    })
    .await?;
    let (mut watcher, _) = placed(&world).await?;
    world.sql("insert into rows values (1)").await?;
    assert_eq!(watcher.ids(&world).await?, [1]);
    let written: String = world.client.query_one("select pg_current_wal_lsn()::text", &[]).await?.get(0);
    assert!(world.metric("walcast_slot_trail_bytes").await? > 0, "it is kept at first");
    let slot = &world.settings.project.replication.slot;
    let let_go = format!(
        "select confirmed_flush_lsn >= '{written}'::pg_lsn from pg_replication_slots where slot_name = '{slot}'"
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    while !world.client.query_one(&let_go, &[]).await?.get::<_, bool>(0) {
        anyhow::ensure!(Instant::now() < deadline, "the slot stays where it was");
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_slot_keeps_for_the_journal_is_neither_lag_nor_too_much_of_it() -> Result<()> {
    let scene = Scene::with(&[], Some(SlotLagAction::Stop)).await?;
    let world = &scene.world;
    world.sql("create table unwatched (body text)").await?;
    // Less than the 20 MiB that are too much, and more than the half of them that may be kept.
    for _ in 0..14 {
        world.sql("insert into unwatched select repeat('x', 1000) from generate_series(1, 1000)").await?;
    }
    scene
        .until(|status, body| {
            let handled = body["replication"]["lag_bytes"] == 0;
            let kept = body["replication"]["trail_bytes"].as_u64();
            status == 200 && handled && kept.is_some_and(|bytes| bytes == 10 << 20)
        })
        .await?;
    assert_eq!(world.metric("walcast_replication_paused").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_the_database_from_before_the_start_are_not_broadcast_again() -> Result<()> {
    let world = World::installed("slot_care_messages", "", |_| {}).await?;
    let send = async |world: &World, text: &str| {
        let statement = "select realtime.send(jsonb_build_object('text', $1::text), 'said', 'room', false)";
        world.client.query_one(statement, &[&text]).await.map(drop)
    };
    let join = async |world: &World| {
        let mut client = world.connect(&person("ana")).await?;
        client.join("realtime:room", &json!({"config": {"broadcast": {"self": true}}})).await?;
        anyhow::Ok(client)
    };
    let mut client = join(&world).await?;
    send(&world, "before").await?;
    client.expect(|message| message.event == "broadcast").await?;
    let world = world.restart().await?;
    let mut client = join(&world).await?;
    send(&world, "after").await?;
    let message = client.expect(|message| message.event == "broadcast").await?;
    assert_eq!(message.payload["payload"]["text"], "after");
    Ok(())
}
