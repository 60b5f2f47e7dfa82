//! Cases 123, 165 and 226: more than a project allows.

use std::num::NonZeroU32;

use anyhow::{Result, ensure};
use serde_json::json;
use walcast::serve::ServeSettings;
use walcast_tests::{World, binding, person};

use crate::scene::{acknowledged, connect, end_of, is_joined, join, member, next_broadcast, on_both, room};

#[tokio::test(flavor = "multi_thread")]
async fn case_123_too_many_messages_close_the_channel_of_their_sender_and_not_those_of_its_receivers()
-> Result<()> {
    const LIMIT: u32 = 5;
    let few = |settings: &mut ServeSettings| {
        settings.project.engine.max_client_events_per_second = NonZeroU32::new(LIMIT);
    };
    let world = World::with_settings("conformance_123", "", few).await?;
    on_both(async |version| {
        let (topic, other) = (room(), room());
        let config = json!({ "broadcast": { "ack": true } });
        let mut receiver = member(&world, version, &topic, &config).await?;
        let mut sender = member(&world, version, &topic, &json!({})).await?;
        join(&mut sender, &other, &json!({})).await?;
        // As fast as it goes: one more is allowed every 200 ms.
        for number in 0..20 * LIMIT {
            sender.broadcast(&topic, "e", &json!(number)).await?;
        }
        let message = end_of(&mut sender, &topic).await?;
        ensure!(message.starts_with("Too many messages per second"), "{message}");
        ensure!(is_joined(&mut sender, &other).await?, "its other channel lives");
        for number in 0..LIMIT {
            ensure!(next_broadcast(&mut receiver).await?.payload["payload"] == number);
        }
        acknowledged(&mut receiver, &topic).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_165_too_many_presence_events_of_the_project_close_the_channel_that_tracks_or_wants_the_state()
-> Result<()> {
    const MESSAGE: &str = "Too many presence messages per second";
    let one = |settings: &mut ServeSettings| {
        settings.project.engine.max_presence_events_per_second = NonZeroU32::new(1);
    };
    let world = World::with_settings("conformance_165", "", one).await?;
    on_both(async |version| {
        let topic = room();
        let mut tracking = member(&world, version, &topic, &json!({})).await?;
        for number in 0..10 {
            tracking
                .send(&topic, "presence", &json!({ "event": "track", "payload": { "n": number } }))
                .await?;
        }
        let message = end_of(&mut tracking, &topic).await?;
        ensure!(message.starts_with(MESSAGE), "{message}");
        let mut joining = connect(&world, version).await?;
        let payload = json!({ "config": { "presence": { "enabled": true } } });
        for _ in 0..10 {
            joining.send(&room(), "phx_join", &payload).await?;
        }
        let told = joining.expect(|message| message.event == "system").await?;
        let message = end_of_told(&told)?;
        ensure!(message.starts_with(MESSAGE), "{message}");
        joining.expect(|message| message.is(&told.topic, "phx_close")).await?;
        ensure!(!is_joined(&mut joining, &told.topic).await?);
        Ok(())
    })
    .await
}

/// The message of a `system` error.
fn end_of_told(told: &walcast_testkit::Received) -> Result<String> {
    match told.system("system") {
        Some(("error", message)) => Ok(message.to_owned()),
        _ => anyhow::bail!("{:?}", told.raw),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_226_rows_are_not_counted_so_that_none_is_dropped_and_the_channel_stays() -> Result<()> {
    const ROWS: i32 = 200;
    let table = "create table numbers (id int primary key); grant select on numbers to authenticated;
        create publication supabase_realtime for table numbers";
    let one = |settings: &mut ServeSettings| {
        settings.project.engine.max_events_per_second = NonZeroU32::new(1);
        settings.project.engine.max_client_events_per_second = NonZeroU32::new(1);
    };
    let world = World::with_settings("conformance_226", table, one).await?;
    on_both(async |version| {
        let topic = room();
        let mut client = world.connect_as(&person("ana"), version).await?;
        client.join_changes(&topic, &[binding("INSERT", "numbers")]).await?;
        world.sql("truncate numbers").await?;
        for id in 0..ROWS {
            world.sql(&format!("insert into numbers values ({id})")).await?;
        }
        for id in 0..ROWS {
            let change = client.expect(|message| message.event == "postgres_changes").await?;
            ensure!(change.payload["data"]["record"]["id"] == id, "{:?}", change.raw);
        }
        ensure!(is_joined(&mut client, &topic).await?);
        Ok(())
    })
    .await
}
