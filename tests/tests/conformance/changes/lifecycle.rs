//! Cases 230, 232 to 237 and 243: publications, slots and connections that come and go.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use walcast::serve::Server;
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database, ProtocolVersion};
use walcast_tests::watching::{MARKS, Watcher, refusal, watched};
use walcast_tests::{World, binding, person};

use super::watch_as;
use crate::scene::{connect, room};

const NOTES: &str = "create table notes (id int generated always as identity primary key, body text);
    grant select on notes to authenticated; create publication supabase_realtime for table notes;";
const MISSING: &str = "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the \
    given connect parameters: [event: *, schema: public, table: notes, filters: [], select: nil]";

async fn notes(world: &World) -> Result<Watcher> {
    watch_as(world, &person("ana"), &[binding("*", "notes")]).await
}

/// Waits until the metric has this value.
async fn until(world: &World, metric: &str, value: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    while world.metric(metric).await? != value {
        ensure!(Instant::now() < deadline, "{metric} is {}, not {value}", world.metric(metric).await?);
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_230_nothing_of_a_subscription_is_left_when_its_channel_or_socket_is_gone() -> Result<()> {
    let world = watched("conformance_230", NOTES).await?;
    let metric = "walcast_subscriptions_active";
    // The table of marks is subscribed to as well.
    let mut leaving = notes(&world).await?;
    let closing = notes(&world).await?;
    let cut = notes(&world).await?;
    until(&world, metric, 6).await?;
    ensure!(leaving.client.leave(&leaving.topic).await?.is_ok());
    until(&world, metric, 4).await?;
    closing.client.close().await?;
    until(&world, metric, 2).await?;
    drop(cut);
    until(&world, metric, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_232_changes_of_a_table_that_joins_the_publication_flow_without_a_new_join() -> Result<()> {
    let world = watched("conformance_232", NOTES).await?;
    let mut watcher = watch_as(&world, &person("ana"), &[json!({ "schema": "public" })]).await?;
    world
        .sql(
            "create table fresh (id int generated always as identity primary key);
              grant select on fresh to authenticated; alter publication supabase_realtime add table fresh",
        )
        .await?;
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        world.sql("insert into fresh default values; insert into notes default values").await?;
        let changes = watcher.seen(&world).await?;
        let tables: Vec<_> = changes.iter().filter_map(|data| data["table"].as_str()).collect();
        ensure!(tables.contains(&"notes"), "the other table goes on: {tables:?}");
        if tables.contains(&"fresh") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing of the new table arrives");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_233_an_emptied_publication_is_told_and_changes_resume_when_it_is_filled_again() -> Result<()> {
    let world = watched("conformance_233", NOTES).await?;
    let mut watcher = notes(&world).await?;
    world.sql("alter publication supabase_realtime drop table notes, watching.marks").await?;
    // One of the notes and one of the marks.
    let (status, text) = watcher.system().await?;
    ensure!((status.as_str(), text.as_str()) == ("error", MISSING), "{text}");
    world.sql("insert into notes (body) values ('meanwhile')").await?;
    world.sql("alter publication supabase_realtime add table notes, watching.marks").await?;
    let topic = watcher.topic.clone();
    let subscribed = Some(("ok", "Subscribed to PostgreSQL"));
    watcher
        .client
        .expect(|message| message.topic == topic && message.system("postgres_changes") == subscribed)
        .await?;
    world.sql("insert into notes (body) values ('again')").await?;
    let change = watcher.next().await?;
    ensure!(change.payload["data"]["record"]["body"] == "again", "{:?}", change.raw);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_234_without_a_publication_one_is_made_and_bindings_are_told_that_it_has_no_tables() -> Result<()>
{
    let table = "create table notes (id int generated always as identity primary key, body text);
        grant select on notes to authenticated;";
    let world = World::with_sql("conformance_234", table).await?;
    let mut client = connect(&world, ProtocolVersion::V2).await?;
    let topic = room();
    let text = refusal(&mut client, &topic, &[binding("*", "notes")]).await?;
    ensure!(text == MISSING, "{text}");
    world.sql("alter publication supabase_realtime add table notes").await?;
    let told = client.expect(|message| message.system("postgres_changes").is_some()).await?;
    ensure!(told.system("postgres_changes") == Some(("ok", "Subscribed to PostgreSQL")), "{:?}", told.raw);
    world.sql("insert into notes (body) values ('first')").await?;
    let change = client.expect(|message| message.event == "postgres_changes").await?;
    ensure!(change.payload["data"]["record"]["body"] == "first", "{:?}", change.raw);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_235_a_slot_that_another_process_uses_is_left_to_it_and_the_reason_told() -> Result<()> {
    let world = watched("conformance_235", NOTES).await?;
    let mut watcher = notes(&world).await?;
    let second = world.settings.clone();
    let error = Box::pin(Server::start(second)).await.err().context("two servers on one slot")?;
    let error = format!("{error:#}");
    ensure!(
        error.contains(&world.settings.project.replication.slot) && error.contains("is read by process"),
        "{error}"
    );
    world.sql("insert into notes (body) values ('undisturbed')").await?;
    ensure!(watcher.ids(&world).await? == [1]);
    Ok(())
}

/// Ends the connection that reads the log, from the side of Postgres.
async fn cut(world: &World) -> Result<()> {
    let sql = "select pg_terminate_backend(active_pid) from pg_replication_slots
        where slot_name = $1 and active_pid is not null";
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.client.execute(sql, &[&world.settings.project.replication.slot]).await? == 0 {
        ensure!(Instant::now() < deadline, "the log is not read any more");
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_236_a_connection_that_fails_again_and_again_is_made_anew_each_time() -> Result<()> {
    let world = watched("conformance_236", NOTES).await?;
    let mut watcher = notes(&world).await?;
    watcher.client.set_deadline(Duration::from_mins(1));
    for time in 1..=7 {
        cut(&world).await?;
        world.sql("insert into notes default values").await?;
        ensure!(watcher.ids(&world).await? == [time], "after the connection was cut {time} times");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_237_after_a_restart_of_the_database_changes_go_on() -> Result<()> {
    let cluster = Cluster::start(test_settings()).await?;
    let database = Database::create(&cluster, "conformance_237").await?;
    let mut world = World::in_database(database, &format!("{NOTES}{MARKS}"), |_| {}).await?;
    let mut watcher = notes(&world).await?;
    watcher.client.set_deadline(Duration::from_mins(1));
    world.sql("insert into notes default values").await?;
    cluster.restart().await?;
    world.client = world.database.client().await;
    world.sql("insert into notes default values").await?;
    ensure!(watcher.ids(&world).await? == [1, 2], "what was written before and after");
    let mut newcomer = notes(&world).await?;
    world.sql("insert into notes default values").await?;
    ensure!(newcomer.ids(&world).await? == [3]);
    ensure!(watcher.ids(&world).await? == [3]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_243_a_new_connection_to_the_log_keeps_the_subscribers_that_are_left() -> Result<()> {
    let world = watched("conformance_243", NOTES).await?;
    let (mut staying, mut leaving) = (notes(&world).await?, notes(&world).await?);
    cut(&world).await?;
    ensure!(leaving.client.leave(&leaving.topic).await?.is_ok());
    world.sql("insert into notes default values").await?;
    staying.client.set_deadline(Duration::from_mins(1));
    ensure!(staying.ids(&world).await? == [1]);
    leaving.client.heartbeat().await?;
    let stray = leaving.client.unclaimed().find(|message| message.event == "postgres_changes");
    ensure!(stray.is_none(), "{stray:?}");
    Ok(())
}
