//! Cases 140 to 145: stored messages at a join.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database, ProtocolClient, ProtocolVersion};
use walcast_tests::{World, binding, person, unix_seconds};

use super::{POLICIES, inside, next, private_room, send, world};
use crate::scene::{connect, join, member, nothing_else, on_both, refused, room, sub_topic};

fn minutes_ago(minutes: i64) -> i64 {
    (unix_seconds() - 60 * minutes) * 1_000
}

fn replaying(replay: &Value) -> Value {
    json!({ "private": true, "broadcast": { "replay": replay } })
}

/// A connection on which nothing that is stored by now will arrive as a live message.
async fn up_to_date(world: &World, version: ProtocolVersion) -> Result<ProtocolClient> {
    let topic = private_room("open");
    let mut client = inside(world, version, &topic).await?;
    send(world, &topic, 0).await?;
    next(&mut client).await?;
    client.leave(&topic).await?;
    client.expect(|message| message.is(&topic, "phx_close")).await?;
    Ok(client)
}

/// Joins with a replay, and takes so many messages; nothing else must come.
async fn replayed(
    world: &World,
    version: ProtocolVersion,
    topic: &str,
    replay: &Value,
    count: usize,
) -> Result<Vec<Value>> {
    let mut client = up_to_date(world, version).await?;
    join(&mut client, topic, &replaying(replay)).await?;
    let mut numbers = Vec::new();
    for _ in 0..count {
        let got = next(&mut client).await.with_context(|| format!("{replay}: only {numbers:?}"))?;
        ensure!(got.meta["replayed"] == true && got.meta["id"].is_string(), "{}", got.meta);
        numbers.push(got.payload["n"].clone());
    }
    client.heartbeat().await?;
    nothing_else(&client).with_context(|| format!("{replay}: more than {count}"))?;
    Ok(numbers)
}

/// Stores a message `{ "n": … }` of so many minutes ago.
async fn store(world: &World, topic: &str, n: i32, minutes: i32) -> Result<()> {
    let sql = "insert into realtime.messages (topic, extension, event, payload, private, inserted_at) values
        ($1, 'broadcast', 'e', jsonb_build_object('n', $2::int), true,
         now() at time zone 'UTC' - make_interval(mins => $3))";
    world.client.execute(sql, &[&sub_topic(topic), &n, &minutes]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_140_a_replay_is_the_last_messages_oldest_first_and_flagged() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = private_room("open");
        for n in 1..=5 {
            send(&world, &topic, n).await?;
        }
        let replay = json!({ "since": minutes_ago(5), "limit": 3 });
        let numbers = replayed(&world, version, &topic, &replay, 3).await?;
        ensure!(numbers == [3, 4, 5], "{numbers:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_141_a_replay_begins_at_since_and_has_at_least_one_and_at_most_25_messages() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = private_room("open");
        for n in 1..=30 {
            store(&world, &topic, n, 60 - n).await?;
        }
        let range = |from: i32, to: i32| (from..=to).map(Value::from).collect::<Vec<_>>();
        let all = minutes_ago(24 * 60);
        for (replay, expected) in [
            (json!({ "since": all }), range(6, 30)),
            (json!({ "since": all, "limit": 26 }), range(6, 30)),
            (json!({ "since": all, "limit": 1_000_000 }), range(6, 30)),
            (json!({ "since": all, "limit": 25 }), range(6, 30)),
            (json!({ "since": all, "limit": 1 }), range(30, 30)),
            (json!({ "since": all, "limit": 0 }), range(30, 30)),
            (json!({ "since": all, "limit": -7 }), range(30, 30)),
            // Half a minute away from any of them.
            (json!({ "since": minutes_ago(33) - 30_000, "limit": 25 }), range(27, 30)),
            (json!({ "since": minutes_ago(0), "limit": 25 }), Vec::new()),
        ] {
            let numbers = replayed(&world, version, &topic, &replay, expected.len()).await?;
            ensure!(numbers == expected, "{replay}: {numbers:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_142_a_replay_has_private_broadcasts_of_its_topic_only() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = private_room("open");
        let sql = "insert into realtime.messages (topic, extension, event, payload, private) values
            ($1, 'broadcast', 'e', '{\"n\":\"public\"}', false), ($1, 'presence', 'e', '{\"n\":\"presence\"}', true),
            ($1, 'broadcast', null, '{\"n\":\"no event\"}', true), ($1, 'broadcast', 'e', null, true),
            ($1 || '0', 'broadcast', 'e', '{\"n\":\"elsewhere\"}', true)";
        world.client.execute(sql, &[&sub_topic(&topic)]).await?;
        send(&world, &topic, 1).await?;
        let replay = json!({ "since": minutes_ago(5), "limit": 25 });
        ensure!(replayed(&world, version, &topic, &replay, 1).await? == [1]);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_143_bytes_and_json_are_replayed_in_their_order_and_version_1_gets_no_bytes() -> Result<()> {
    let world = world().await?;
    let topic = private_room("open");
    send(&world, &topic, 1).await?;
    let sql = "select realtime.send_binary('\\x00ff', 'bytes', $1)";
    world.client.execute(sql, &[&sub_topic(&topic)]).await?;
    send(&world, &topic, 3).await?;
    let config = replaying(&json!({ "since": minutes_ago(5) }));
    let mut new = up_to_date(&world, ProtocolVersion::V2).await?;
    join(&mut new, &topic, &config).await?;
    ensure!(next(&mut new).await?.payload["n"] == 1);
    let bytes = next(&mut new).await?;
    ensure!(bytes.event == "bytes" && bytes.bytes.as_deref() == Some(&[0, 255]), "{:?}", bytes.bytes);
    let id = super::stored_id(&world, &topic, "bytes").await?;
    ensure!(bytes.meta == json!({ "replayed": true, "id": id }), "{}", bytes.meta);
    ensure!(next(&mut new).await?.payload["n"] == 3);
    let numbers =
        replayed(&world, ProtocolVersion::V1, &topic, &json!({ "since": minutes_ago(5) }), 2).await?;
    ensure!(numbers == [1, 3], "{numbers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_144_a_replay_that_is_wrong_or_public_or_fails_refuses_the_join() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        let topic = private_room("open");
        for replay in [
            json!({}),
            json!({ "since": "yesterday" }),
            json!({ "since": 1.5 }),
            json!({ "since": null, "limit": 5 }),
            json!({ "since": minutes_ago(5), "limit": "ten" }),
            json!({ "since": 1e30 }),
        ] {
            let reason = refused(&mut client, &topic, &json!({ "config": replaying(&replay) })).await?;
            ensure!(reason == "UnableToReplayMessages: Replay params are not valid", "{replay}: {reason}");
        }
        let public = json!({ "config": { "broadcast": { "replay": { "since": minutes_ago(5) } } } });
        let reason = refused(&mut client, &room(), &public).await?;
        let expected = "UnableToReplayMessages: Replay is not allowed for public channels";
        ensure!(reason == expected, "{reason}");
        // What is no object is ignored.
        join(&mut client, &topic, &replaying(&json!("yesterday"))).await?;
        Ok(())
    })
    .await?;
    Box::pin(a_replay_that_fails()).await
}

async fn a_replay_that_fails() -> Result<()> {
    let cluster = Cluster::start(test_settings()).await?;
    let database = Database::create(&cluster, "conformance_144").await?;
    let world = World::in_database(database, &World::installation(POLICIES), |_| {}).await?;
    // Who knows the role can decide without the database.
    inside(&world, ProtocolVersion::V2, &private_room("open")).await?;
    cluster.stop().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        client.set_deadline(Duration::from_mins(1));
        let config = replaying(&json!({ "since": minutes_ago(5) }));
        let topic = private_room("open");
        let reason = refused(&mut client, &topic, &json!({ "config": config })).await?;
        let expected = "UnableToReplayMessages: Realtime was unable to replay messages";
        ensure!(reason == expected, "{reason}");
        join(&mut client, &topic, &json!({ "private": true })).await?;
        Ok(())
    })
    .await?;
    cluster.start_again().await
}

/// A row change that PostgreSQL has to decide about, and does not before a lock is free: what is behind it in the log
/// waits.
const HELD_UP: &str = "
    create table slow (id int primary key);
    create function waits() returns boolean language plpgsql as
        $$ begin perform pg_advisory_xact_lock_shared(145); return true; end $$;
    alter table slow enable row level security;
    create policy slow on slow for select to authenticated using (waits());
    grant select on slow to authenticated;
    alter publication supabase_realtime add table slow;
";

/// The numbers of the broadcasts up to this one.
async fn numbers_until(client: &mut ProtocolClient, last: i32) -> Result<Vec<Value>> {
    let mut numbers = Vec::new();
    loop {
        let got = next(client).await.with_context(|| format!("only {numbers:?}"))?;
        numbers.push(got.payload["n"].clone());
        if got.payload["n"] == last {
            return Ok(numbers);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_145_what_was_replayed_does_not_come_again_when_the_log_brings_it() -> Result<()> {
    let patient = |settings: &mut ServeSettings| {
        settings.project.database.statement_timeout = Duration::from_mins(1);
    };
    let world = World::installed("conformance_145", &format!("{POLICIES}{HELD_UP}"), patient).await?;
    let mut watcher = world.connect(&person("ana")).await?;
    watcher.join_changes(&room(), &[binding("*", "slow")]).await?;
    let lock = world.database.client().await;
    on_both(async |version| {
        let topic = private_room("open");
        let mut witness = inside(&world, version, &topic).await?;
        lock.batch_execute("begin; select pg_advisory_xact_lock(145)").await?;
        world.sql("truncate slow; insert into slow values (1)").await?;
        send(&world, &topic, 1).await?;
        let replay = json!({ "since": minutes_ago(5) });
        let mut client = member(&world, version, &topic, &replaying(&replay)).await?;
        let got = next(&mut client).await?;
        ensure!(got.payload["n"] == 1 && got.meta["replayed"] == true, "{}", got.meta);
        witness.heartbeat().await?;
        nothing_else(&witness).context("the log is held up")?;
        lock.batch_execute("rollback").await?;
        send(&world, &topic, 2).await?;
        ensure!(numbers_until(&mut witness, 2).await? == [1, 2]);
        ensure!(numbers_until(&mut client, 2).await? == [2], "once");
        Ok(())
    })
    .await
}
