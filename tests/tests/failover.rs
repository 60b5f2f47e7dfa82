//! The primary is lost and a standby takes its place, while sockets are open.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use walcast::settings::{DatabaseSettings, Flags};
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, ClusterSettings, DataDirectory, Database};
use walcast_tests::watching::{MARKS, Watcher};
use walcast_tests::{World, person};

const SQL: &str = "
    create table rows (id bigint primary key);
    grant select on rows to authenticated;
    create publication supabase_realtime for table rows;
";

/// From this version on a slot can follow a failover.
const SLOTS_FOLLOW_SINCE: i32 = 170_000;

/// A primary, its standby, and a server that knows the addresses of both.
struct Pair {
    world: World,
    primary: Cluster,
    standby: Cluster,
    _directory: TempDir,
}

impl Pair {
    /// `synchronize`: the standby has the primary's slots, too.
    async fn new(name: &str, synchronize: bool) -> Result<Pair> {
        let settings = |more: &[(&str, &str)]| ClusterSettings {
            settings: more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..test_settings()
        };
        let primary = Cluster::start(settings(&[("wal_keep_size", "1GB")])).await?;
        let database = Database::create(&primary, name).await?;
        primary
            .client("postgres")
            .await?
            .batch_execute("select pg_create_physical_replication_slot('standby', true)")
            .await?;
        primary.stop().await?;
        let directory = TempDir::new()?;
        for part in ["data", "password"] {
            let from = primary.directory()?.join(part);
            let copied = Command::new("cp").arg("-a").arg(from).arg(directory.path()).status()?;
            ensure!(copied.success(), "the primary can not be copied");
        }
        std::fs::write(directory.path().join("data/standby.signal"), "")?;
        primary.start_again().await?;
        let password = std::fs::read_to_string(directory.path().join("password"))?;
        let password = password.trim();
        let primary_port = primary.port()?;
        let upstream = format!(
            "host=127.0.0.1 port={primary_port} user=postgres password={password} dbname=postgres application_name=standby"
        );
        let mut more = vec![
            ("primary_conninfo", upstream.as_str()),
            ("primary_slot_name", "standby"),
            ("hot_standby_feedback", "on"),
            ("wal_receiver_status_interval", "1s"),
            ("fsync", "off"),
        ];
        if synchronize {
            more.push(("sync_replication_slots", "on"));
        }
        let kept = DataDirectory::Kept(directory.path().to_owned());
        let standby = Cluster::start(ClusterSettings { data_dir: kept, ..settings(&more) }).await?;
        let url = format!(
            "postgres://postgres:{password}@127.0.0.1:{primary_port},127.0.0.1:{}/{}?target_session_attrs=read-write",
            standby.port()?,
            database.name()
        );
        let environment = [("DATABASE_URL".to_owned(), url)].into();
        let both = DatabaseSettings::load(&Flags::default(), &environment)?;
        let world = World::in_database(database, &format!("{SQL};{MARKS}"), |settings| {
            settings.project.database = both;
            settings.project.engine.journal_age = Duration::from_secs(2);
            settings.project.replication.canary = None;
        })
        .await?;
        Ok(Pair { world, primary, standby, _directory: directory })
    }

    /// Waits until the standby has everything that was written so far.
    async fn standby_has_all(&self) -> Result<()> {
        let here: String =
            self.world.client.query_one("select pg_current_wal_lsn()::text", &[]).await?.get(0);
        until(&self.standby, &format!("select pg_last_wal_replay_lsn() >= '{here}'::pg_lsn")).await
    }

    /// The primary is gone without a farewell, and the standby takes its place.
    async fn fail_over(&mut self) -> Result<()> {
        self.primary.stop_immediately().await?;
        let client = self.standby.client(self.world.database.name()).await?;
        let promoted: bool = client.query_one("select pg_promote()", &[]).await?.get(0);
        ensure!(promoted, "the standby is not promoted");
        self.world.client = client;
        Ok(())
    }
}

/// Waits until a question to this cluster is answered with yes.
async fn until(cluster: &Cluster, question: &str) -> Result<()> {
    let client = cluster.client("postgres").await?;
    let deadline = Instant::now() + Duration::from_mins(1);
    while !client.query_one(question, &[]).await?.get::<_, bool>(0) {
        ensure!(Instant::now() < deadline, "it stays no: {question}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn rows(since: Option<&str>) -> Value {
    let mut binding = json!({ "event": "*", "schema": "public", "table": "rows", "resume": true });
    if let Some(since) = since {
        binding["since"] = since.into();
    }
    binding
}

/// Status and text of the next message about resuming.
async fn told(watcher: &mut Watcher) -> Result<(String, String)> {
    let message = watcher.client.expect(|message| message.system("resume").is_some()).await?;
    let (status, text) = message.system("resume").context("checked above")?;
    Ok((status.to_owned(), text.to_owned()))
}

async fn patient(world: &World) -> Result<(Watcher, String)> {
    let mut watcher = Watcher::join(world, &person("ana"), &[rows(None)]).await?;
    watcher.client.set_deadline(Duration::from_mins(1));
    let (status, text) = told(&mut watcher).await?;
    ensure!(status == "ok", "{text}");
    let position = text.strip_prefix("position ").context("a position")?.to_owned();
    Ok((watcher, position))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_without_the_slot_gets_a_new_one_and_every_subscriber_is_told() -> Result<()> {
    let mut pair = Pair::new("failover_no_slot", false).await?;
    let (mut watcher, joined) = patient(&pair.world).await?;
    pair.world.sql("insert into rows values (1)").await?;
    assert_eq!(watcher.ids(&pair.world).await?, [1]);
    pair.standby_has_all().await?;
    pair.fail_over().await?;
    let (status, text) = told(&mut watcher).await?;
    assert!(status == "error" && text.contains("the replication slot was gone"), "{status}: {text}");
    pair.world.sql("insert into rows values (2)").await?;
    assert_eq!(watcher.ids(&pair.world).await?, [2], "it goes on live");
    let mut back = Watcher::join(&pair.world, &person("bea"), &[rows(Some(&joined))]).await?;
    let (status, text) = told(&mut back).await?;
    assert!(status == "error" && text.starts_with("gap: refetch"), "{status}: {text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_lacks_what_was_shown_is_a_gap_and_no_end() -> Result<()> {
    let mut pair = Pair::new("failover_behind", false).await?;
    let (mut watcher, _) = patient(&pair.world).await?;
    pair.standby_has_all().await?;
    // The standby hears of nothing any more.
    let standby = pair.standby.client("postgres").await?;
    standby.batch_execute("alter system set primary_conninfo = ''").await?;
    standby.batch_execute("select pg_reload_conf()").await?;
    until(&pair.standby, "select not exists (select from pg_stat_wal_receiver)").await?;
    pair.world.sql("insert into rows select generate_series(1, 20000)").await?;
    assert_eq!(watcher.ids(&pair.world).await?.len(), 20_000);
    let Watcher { client, topic, bindings } = watcher;
    // Positions go back here, which a strict client takes for an error.
    let mut watcher = Watcher { client: client.leniently(), topic, bindings };
    pair.fail_over().await?;
    let (status, text) = told(&mut watcher).await?;
    assert!(status == "error" && text.starts_with("gap: refetch"), "{status}: {text}");
    for id in [1, 2] {
        pair.world.sql(&format!("insert into rows values ({id})")).await?;
        assert_eq!(
            watcher.ids(&pair.world).await?,
            [id],
            "the new log counts, though its positions are smaller"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_follows_the_failover_goes_on_without_a_gap() -> Result<()> {
    let database = walcast_testkit::database("failover_version").await;
    let version = "select current_setting('server_version_num')::int";
    if database.client().await.query_one(version, &[]).await?.get::<_, i32>(0) < SLOTS_FOLLOW_SINCE {
        return Ok(());
    }
    let mut pair = Pair::new("failover_slot", true).await?;
    let (mut watcher, _) = patient(&pair.world).await?;
    // A slot is ready there once the primary's has moved on behind what the standby has kept.
    let slot = pair.world.settings.project.replication.slot.clone();
    let client = pair.standby.client("postgres").await?;
    let ready = format!(
        "select exists (select from pg_replication_slots where slot_name = '{slot}' and synced and not temporary)"
    );
    let deadline = Instant::now() + Duration::from_secs(100);
    let mut written = Vec::new();
    while !client.query_one(&ready, &[]).await?.get::<_, bool>(0) {
        ensure!(Instant::now() < deadline, "the standby does not get the slot");
        let id = i64::try_from(written.len())?;
        pair.world.sql(&format!("insert into rows values ({id}); checkpoint")).await?;
        written.push(id);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    pair.world.sql("insert into rows values (-1)").await?;
    written.push(-1);
    assert_eq!(watcher.ids(&pair.world).await?, written);
    pair.standby_has_all().await?;
    pair.fail_over().await?;
    pair.world.sql("insert into rows values (-2)").await?;
    assert_eq!(watcher.ids(&pair.world).await?, [-2], "nothing twice");
    let gaps = watcher.client.unclaimed().filter(|message| message.system("resume").is_some()).count();
    assert_eq!((gaps, pair.world.metric("walcast_gaps_total").await?), (0, 0));
    Ok(())
}
