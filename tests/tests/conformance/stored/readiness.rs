//! Case 146: when messages from the database arrive.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database, ProtocolClient};
use walcast_tests::{World, person, token, unix_seconds};

use super::{POLICIES, world};
use crate::scene::{acknowledged, end_of, member, next_broadcast, nothing_else, on_both, room, sub_topic};

fn wanting() -> Value {
    json!({ "broadcast": { "replication_ready": true, "ack": true } })
}

async fn told(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let told = client.expect(|message| message.topic == topic && message.event == "system").await?;
    let expected = json!({ "extension": "system", "status": "ok", "channel": sub_topic(topic),
        "message": "Replication connection established" });
    ensure!(told.payload == expected, "{:?}", told.raw);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_146_who_asks_is_told_once_that_messages_arrive_or_that_they_did_not_in_time() -> Result<()> {
    at_once_if_they_do().await?;
    Box::pin(as_soon_as_they_do()).await?;
    an_error_if_they_never_will().await
}

async fn at_once_if_they_do() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut asking = member(&world, version, &topic, &wanting()).await?;
        let mut silent = member(&world, version, &topic, &json!({ "broadcast": { "ack": true } })).await?;
        let next = asking.next().await?;
        ensure!(next.system("system").is_some_and(|(status, _)| status == "ok"), "{:?}", next.raw);
        // To its word: a message that is stored now arrives.
        let sql = "select realtime.send('{}', 'e', $1, false)";
        world.client.execute(sql, &[&sub_topic(&topic)]).await?;
        for client in [&mut asking, &mut silent] {
            ensure!(next_broadcast(client).await?.payload["event"] == "e");
            client.heartbeat().await?;
            nothing_else(client)?;
        }
        Ok(())
    })
    .await
}

async fn as_soon_as_they_do() -> Result<()> {
    let cluster = Cluster::start(test_settings()).await?;
    let database = Database::create(&cluster, "conformance_146").await?;
    let world = World::in_database(database, &World::installation(POLICIES), |_| {}).await?;
    let mut replication = world.server.replication().expect("the project is up");
    cluster.stop().await?;
    let streams = |status: &walcast_replication::StreamStatus| {
        matches!(status, walcast_replication::StreamStatus::Streaming { .. })
    };
    replication.wait_for(|status| !streams(status)).await?;
    let mut waiting = Vec::new();
    for version in crate::scene::BOTH {
        let topic = room();
        let mut client = member(&world, version, &topic, &wanting()).await?;
        client.set_deadline(Duration::from_mins(1));
        // A new token is no answer.
        let mut renewed = person("ana");
        renewed["exp"] = (unix_seconds() + 7_200).into();
        client.access_token(&topic, &token(&renewed)).await?;
        acknowledged(&mut client, &topic).await?;
        nothing_else(&client)?;
        waiting.push((client, topic));
    }
    cluster.start_again().await?;
    let database = world.database.client().await;
    for (mut client, topic) in waiting {
        told(&mut client, &topic).await?;
        let sql = "select realtime.send('{}', 'e', $1, false)";
        database.execute(sql, &[&sub_topic(&topic)]).await?;
        ensure!(next_broadcast(&mut client).await?.payload["event"] == "e");
        nothing_else(&client)?;
    }
    Ok(())
}

async fn an_error_if_they_never_will() -> Result<()> {
    let impatient = |settings: &mut ServeSettings| {
        settings.project.limits.replication_ready_timeout = Duration::from_millis(500);
    };
    let world = World::with_settings("conformance_146_bare", "", impatient).await?;
    on_both(async |version| {
        let topic = room();
        let mut client = member(&world, version, &topic, &wanting()).await?;
        acknowledged(&mut client, &topic).await?;
        let message = end_of(&mut client, &topic).await?;
        let (told, why) = message.split_once(": ").unwrap_or_default();
        ensure!(told == "Replication connection was not established in time", "{message}");
        ensure!(why.contains("realtime.messages") && why.contains("walcast install"), "{message}");
        nothing_else(&client)
    })
    .await?;
    // A table that is installed meanwhile is heard of, and its messages too.
    let patient = World::with_sql("conformance_146_later", "").await?;
    let topic = room();
    let mut client = member(&patient, walcast_testkit::ProtocolVersion::V2, &topic, &wanting()).await?;
    patient.sql(&World::installation("")).await?;
    told(&mut client, &topic).await?;
    patient.client.execute("select realtime.send('{}', 'e', $1, false)", &[&sub_topic(&topic)]).await?;
    ensure!(next_broadcast(&mut client).await?.payload["event"] == "e");
    Ok(())
}
