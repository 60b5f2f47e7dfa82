//! Who sends too much is told so, and nobody else suffers: docs/protocol.md §10.2.

use std::num::NonZeroU32;

use anyhow::{Result, ensure};
use serde_json::json;
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion};
use walcast_tests::{World, person};

const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V1, ProtocolVersion::V2];
const ROOM: &str = "realtime:room";

async fn member(world: &World, version: ProtocolVersion) -> Result<ProtocolClient> {
    let mut client = world.connect_as(&person("ana"), version).await?;
    let config = json!({ "config": { "broadcast": { "ack": true } } });
    ensure!(client.join(ROOM, &config).await?.is_ok());
    Ok(client)
}

// Case 123, where we differ: the sender is closed, not its receivers.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_closes_the_senders_channel_and_its_receivers_keep_theirs() -> Result<()> {
    const LIMIT: u32 = 5;
    let few = |settings: &mut ServeSettings| {
        settings.project.engine.max_client_events_per_second = NonZeroU32::new(LIMIT);
    };
    let world = World::with_settings("rate_flood", "", few).await?;
    for version in BOTH {
        let mut receiver = member(&world, version).await?;
        let mut sender = member(&world, version).await?;
        let mut last = String::new();
        // As fast as it goes: the bucket gives one back every 200 ms.
        for number in 0..20 * LIMIT {
            last = sender.broadcast(ROOM, "e", &json!(number)).await?;
        }
        let message = format!("Too many messages per second (limits.max_client_events_per_second = {LIMIT})");
        let told = sender.expect(|message| message.event == "system").await?;
        ensure!(told.system("system") == Some(("error", message.as_str())), "{told:?}");
        sender.expect(|message| message.event == "phx_close").await?;
        ensure!(sender.reply(&last).await?.reason() == Some("unmatched topic"));
        ensure!(sender.join(ROOM, &json!({ "config": {} })).await?.is_ok(), "the socket lives");

        let first = receiver.expect(|message| message.event == "broadcast").await?;
        assert_eq!(first.payload["payload"], 0);
        let reference = receiver.broadcast(ROOM, "e", &json!("mine")).await?;
        assert!(receiver.reply(&reference).await?.is_ok(), "the receiver may go on");
    }
    Ok(())
}

// Case 165, where we differ: nobody's channel is closed for what all together have used up.
#[tokio::test(flavor = "multi_thread")]
async fn more_presence_than_the_project_allows_is_refused_and_the_channel_stays() -> Result<()> {
    let one = |settings: &mut ServeSettings| {
        settings.project.engine.max_presence_events_per_second = NonZeroU32::new(1);
    };
    let world = World::with_settings("rate_presence", "", one).await?;
    let message = "Too many presence messages per second (limits.max_presence_events_per_second = 1)";
    for version in BOTH {
        let mut client = member(&world, version).await?;
        let mut last = String::new();
        for number in 0..5 {
            let track = json!({ "event": "track", "payload": { "n": number } });
            last = client.send(ROOM, "presence", &track).await?;
        }
        ensure!(client.reply(&last).await?.reason() == Some(message));
        let reference = client.broadcast(ROOM, "e", &json!("mine")).await?;
        ensure!(client.reply(&reference).await?.is_ok(), "the channel lives");
    }
    Ok(())
}

// Case 123: a flood of others closes nobody's channel.
#[tokio::test(flavor = "multi_thread")]
async fn who_sends_when_others_have_used_up_the_projects_rate_is_refused_and_keeps_the_channel() -> Result<()>
{
    const LIMIT: u32 = 5;
    let few = |settings: &mut ServeSettings| {
        settings.project.engine.max_events_per_second = NonZeroU32::new(LIMIT);
    };
    let world = World::with_settings("rate_project", "", few).await?;
    let message = format!("Too many messages per second (limits.max_events_per_second = {LIMIT})");
    for version in BOTH {
        let mut innocent = member(&world, version).await?;
        let mut flooder = member(&world, version).await?;
        let mut references = Vec::new();
        for number in 0..20 * LIMIT {
            references.push(flooder.broadcast(ROOM, "e", &json!(number)).await?);
        }
        let last = references.last().map(String::as_str).unwrap_or_default();
        ensure!(flooder.reply(last).await?.reason() == Some(message.as_str()));
        // As soon as the rate allows it, also on the channel that was refused.
        loop {
            let reference = innocent.broadcast(ROOM, "mine", &json!(1)).await?;
            let reply = innocent.reply(&reference).await?;
            if reply.is_ok() {
                break;
            }
            ensure!(reply.reason() == Some(message.as_str()), "{reply:?}");
        }
    }
    Ok(())
}
