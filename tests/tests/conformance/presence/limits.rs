//! Cases 159 to 164: how much presence there may be.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use walcast::serve::ServeSettings;
use walcast_testkit::ProtocolClient;
use walcast_tests::World;

use super::{diff, follower, push, track, untrack};
use crate::scene::{end_of, is_joined, on_both, room};

const TOO_MANY: &str = "Client presence rate limit exceeded";

async fn with_calls(name: &str, calls: u32, window: Duration) -> Result<World> {
    let limited = move |settings: &mut ServeSettings| {
        settings.project.engine.presence_calls.calls = calls;
        settings.project.engine.presence_calls.window = window;
    };
    World::with_settings(name, "", limited).await
}

/// Fails unless a call that is one too many closes the channel without a reply.
async fn one_too_many(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let reference = client.send(topic, "presence", &json!({ "event": "track" })).await?;
    let message = end_of(client, topic).await?;
    ensure!(message.starts_with(TOO_MANY), "{message}");
    ensure!(client.unclaimed().all(|message| message.reference != reference), "no reply");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_159_a_payload_over_the_limit_closes_the_channel() -> Result<()> {
    let small = |settings: &mut ServeSettings| settings.project.engine.presence_payload_bytes_max = 1_000;
    let world = World::with_settings("conformance_159", "", small).await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        // `{"x":"…"}` is eight bytes more than its text.
        track(&mut ana, &topic, &json!({ "x": "y".repeat(992) })).await?;
        diff(&mut ana).await?;
        let payload = json!({ "event": "track", "payload": { "x": "y".repeat(993) } });
        let reference = ana.send(&topic, "presence", &payload).await?;
        let message = end_of(&mut ana, &topic).await?;
        ensure!(message.starts_with("Track message size exceeded"), "{message}");
        ensure!(ana.unclaimed().all(|message| message.reference != reference), "no reply");
        let (_, state) = follower(&world, version, &topic, "later").await?;
        ensure!(state == json!({}), "who is closed is gone: {state}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_160_the_sixth_call_of_five_closes_the_channel_whatever_they_were() -> Result<()> {
    let world = with_calls("conformance_160", 5, Duration::from_secs(30)).await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        // Without an event it is no call.
        ensure!(push(&mut ana, &topic, &json!({})).await?.is_ok());
        track(&mut ana, &topic, &json!({})).await?;
        track(&mut ana, &topic, &json!({})).await?;
        untrack(&mut ana, &topic).await?;
        ensure!(!push(&mut ana, &topic, &json!({ "event": "unknown" })).await?.is_ok());
        untrack(&mut ana, &topic).await?;
        one_too_many(&mut ana, &topic).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_161_the_calls_of_each_channel_are_counted_by_themselves() -> Result<()> {
    let world = with_calls("conformance_161", 2, Duration::from_secs(30)).await?;
    on_both(async |version| {
        let (topic, other) = (room(), room());
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        let config = json!({ "config": { "presence": { "enabled": true } } });
        ensure!(ana.join(&other, &config).await?.is_ok());
        for _ in 0..2 {
            track(&mut ana, &topic, &json!({})).await?;
            track(&mut ana, &other, &json!({})).await?;
        }
        one_too_many(&mut ana, &topic).await?;
        ensure!(is_joined(&mut ana, &other).await?);
        one_too_many(&mut ana, &other).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_162_the_number_of_calls_is_a_setting() -> Result<()> {
    for calls in [1, 12] {
        let world = with_calls(&format!("conformance_162_{calls}"), calls, Duration::from_secs(30)).await?;
        on_both(async |version| {
            let topic = room();
            let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
            for _ in 0..calls {
                track(&mut ana, &topic, &json!({})).await?;
            }
            one_too_many(&mut ana, &topic).await
        })
        .await?;
    }
    Ok(())
}

/// Tracks as often as it may in windows of this length; gives the time until a call was allowed in a second window.
async fn second_window(world: &World, calls: u32, window: Duration) -> Result<Duration> {
    let version = walcast_testkit::ProtocolVersion::V2;
    let topic = room();
    let (mut ana, _) = follower(world, version, &topic, "ana").await?;
    let first = Instant::now();
    for _ in 0..calls {
        track(&mut ana, &topic, &json!({})).await?;
    }
    // One call too many would close the channel, so it is not made before the window has surely ended.
    while first.elapsed() < window + Duration::from_millis(100) {
        ana.heartbeat().await?;
    }
    for _ in 0..calls {
        track(&mut ana, &topic, &json!({})).await?;
    }
    let passed = first.elapsed();
    one_too_many(&mut ana, &topic).await?;
    Ok(passed)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_163_the_length_of_the_window_is_a_setting() -> Result<()> {
    let short = Duration::from_secs(2);
    let world = with_calls("conformance_163", 3, short).await?;
    let passed = second_window(&world, 3, short).await?;
    ensure!(passed < Duration::from_secs(30), "before a window of the usual length had ended: {passed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_164_a_new_window_begins_from_nothing() -> Result<()> {
    let window = Duration::from_secs(2);
    let world = with_calls("conformance_164", 5, window).await?;
    second_window(&world, 5, window).await?;
    Ok(())
}
