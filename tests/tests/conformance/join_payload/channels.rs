//! Cases 41 to 43: how many channels, joins and users there may be.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use walcast::serve::ServeSettings;
use walcast_testkit::ProtocolVersion;
use walcast_tests::http;
use walcast_tests::{World, person, token};

use crate::scene::{acknowledged, connect, join, on_both, room, world};

#[tokio::test(flavor = "multi_thread")]
async fn case_041_the_channel_after_the_hundredth_is_refused() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        let topics: Vec<_> = (0..100).map(|_| room()).collect();
        for topic in &topics {
            join(&mut client, topic, &json!({ "broadcast": { "ack": true } })).await?;
        }
        let one_more = room();
        let reply = client.join(&one_more, &json!({ "config": {} })).await?;
        let reason = reply.reason().context("refused")?;
        ensure!(reason.starts_with("ChannelRateLimitReached: Too many channels"), "{reason}");
        acknowledged(&mut client, &topics[0]).await?;
        ensure!(client.leave(&topics[1]).await?.is_ok());
        join(&mut client, &one_more, &json!({})).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_042_joins_over_the_rate_are_refused_and_the_socket_stays_open() -> Result<()> {
    on_both(async |version| {
        // A world for each: the rate is that of all sockets, and refuses handshakes as well (case 12).
        let one = |settings: &mut ServeSettings| settings.project.limits.max_joins_per_second = 1;
        let world = World::with_settings("conformance_042", "", one).await?;
        let mut client = connect(&world, version).await?;
        let mut references = Vec::new();
        for _ in 0..50 {
            references.push(client.send(&room(), "phx_join", &json!({ "config": {} })).await?);
        }
        let mut refused = 0;
        for reference in references {
            let reply = client.reply(&reference).await?;
            if let Some(reason) = reply.reason() {
                let beginning = "ClientJoinRateLimitReached: Too many joins per second";
                ensure!(reason.starts_with(beginning), "{reason}");
                refused += 1;
            }
        }
        ensure!(refused > 0, "fifty joins at once, and one a second allowed");
        client.heartbeat().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_043_the_limit_of_users_counts_at_the_handshake_and_whoever_is_in_may_join() -> Result<()> {
    let two = |settings: &mut ServeSettings| settings.project.limits.max_concurrent_users = 2;
    let world = World::with_settings("conformance_043", "", two).await?;
    // Not reached.
    let mut first = connect(&world, ProtocolVersion::V2).await?;
    join(&mut first, &room(), &json!({})).await?;
    // Reached by a socket that has joined nothing.
    let mut second = connect(&world, ProtocolVersion::V1).await?;
    let refused = http::handshake(world.server.address(), &token(&person("ana"))).await?;
    ensure!(refused.status == 429, "{refused:?}");
    // Reached, and both are in: the one that has channels and the one that has none yet.
    join(&mut first, &room(), &json!({})).await?;
    join(&mut second, &room(), &json!({})).await?;
    Ok(())
}
