//! How much of joining there may be: docs/protocol.md §1.5, §3.4, §10.1.

use anyhow::{Context, Result};
use serde_json::json;
use walcast::serve::ServeSettings;
use walcast_tests::{World, person};

use crate::{ROOM, acknowledged, acknowledging, open_config, refusals_never_come};

// Case 41.
#[tokio::test(flavor = "multi_thread")]
async fn one_channel_too_many_is_refused_until_another_is_left() -> Result<()> {
    let hundred = |settings: &mut ServeSettings| settings.project.limits.max_channels_per_client = 100;
    let world = World::with_settings("joins_channels", "", hundred).await?;
    let mut client = world.connect(&person("ana")).await?;
    let mut another = world.connect(&person("ana")).await?;
    for number in 0..100 {
        assert!(client.join(&format!("realtime:{number}"), &acknowledging()).await?.is_ok(), "{number}");
    }
    let too_many = Some("ChannelRateLimitReached: Too many channels (limits.max_channels_per_client = 100)");
    assert_eq!(client.join("realtime:100", &open_config()).await?.reason(), too_many);
    assert!(
        client.join("realtime:7", &acknowledging()).await?.is_ok(),
        "joined anew, it is no more than before"
    );
    assert!(another.join("realtime:100", &open_config()).await?.is_ok(), "the limit is each socket's own");
    assert!(client.leave("realtime:99").await?.is_ok());
    assert!(client.join("realtime:100", &open_config()).await?.is_ok());
    assert_eq!(client.join("realtime:101", &open_config()).await?.reason(), too_many);
    acknowledged(&mut client, "realtime:0").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_server_has_closed_does_not_count() -> Result<()> {
    let one = |settings: &mut ServeSettings| {
        settings.project.limits.max_channels_per_client = 1;
        settings.project.engine.presence_calls.calls = 0;
    };
    let world = World::with_settings("joins_closed", "", one).await?;
    let mut client = world.connect(&person("ana")).await?;
    for number in 0..3 {
        let topic = format!("realtime:{number}");
        let reply = client.join(&topic, &open_config()).await?;
        assert!(reply.is_ok(), "{number}: {reply:?}");
        client.send(&topic, "presence", &json!({ "event": "track" })).await?;
        client.expect(|message| message.is(&topic, "phx_close")).await?;
    }
    Ok(())
}

// Case 42.
#[tokio::test(flavor = "multi_thread")]
async fn joins_over_the_rate_are_refused_and_the_socket_lives() -> Result<()> {
    let one = |settings: &mut ServeSettings| settings.project.limits.max_joins_per_second = 1;
    let world = World::with_settings("joins_rate", "", one).await?;
    let mut client = world.connect(&person("ana")).await?;
    let mut references = Vec::new();
    for number in 0..100 {
        references.push(client.send(&format!("realtime:{number}"), "phx_join", &open_config()).await?);
    }
    let (mut granted, mut refused) = (0, 0);
    for reference in references {
        let reply = client.reply(&reference).await?;
        match reply.reason() {
            None => granted += 1,
            Some(reason) => {
                let limit = "Too many joins per second (limits.max_joins_per_second = 1)";
                assert_eq!(reason, format!("ClientJoinRateLimitReached: {limit}"));
                refused += 1;
            }
        }
    }
    assert!(granted >= 1 && refused >= 1, "{granted} granted, {refused} refused");
    client.heartbeat().await
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_that_pile_up_while_they_are_refused_close_the_socket() -> Result<()> {
    let world = World::with_settings("joins_pile", "", refusals_never_come).await?;
    let mut client = world.connect(&person("ana")).await?;
    for number in 0..3_000 {
        // Once the server has closed the connection, sending fails.
        if client.send(&format!("realtime:{number}"), "phx_join", &json!([])).await.is_err() {
            break;
        }
    }
    let end = client.closed().await?.context("no close frame")?;
    assert_eq!(end, (1008, "too many joins are waiting for their answer".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_messages_than_can_wait_for_a_join_close_the_socket() -> Result<()> {
    let world = World::with_settings("joins_deferred", "", refusals_never_come).await?;
    let mut client = world.connect(&person("ana")).await?;
    client.send(ROOM, "phx_join", &json!([])).await?;
    for _ in 0..1_000 {
        client.send(ROOM, "broadcast", &json!({})).await?;
    }
    client.heartbeat().await?;
    client.send(ROOM, "broadcast", &json!({})).await?;
    let end = client.closed().await?;
    assert_eq!(end, Some((1008, "too many messages before the join was answered".to_owned())));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_wait_for_a_join_may_not_be_as_large_as_they_like() -> Result<()> {
    let world = World::with_settings("joins_deferred_bytes", "", refusals_never_come).await?;
    let mut client = world.connect(&person("ana")).await?;
    let large = json!({ "x": "y".repeat(4_900_000) });
    for topic in ["realtime:a", "realtime:b"] {
        client.send(topic, "phx_join", &json!([])).await?;
        client.send(topic, "broadcast", &large).await?;
    }
    client.heartbeat().await?;
    client.send("realtime:a", "broadcast", &large).await?;
    let end = client.closed().await?;
    assert_eq!(end, Some((1008, "too many messages before the join was answered".to_owned())));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_message_would_have_to_carry_is_bounded() -> Result<()> {
    let world = World::with_sql("joins_sizes", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    let many = json!({ "config": { "postgres_changes": vec![json!({ "schema": "public" }); 101] } });
    let reply = client.join("realtime:many", &many).await?;
    let reason = reply.reason().context("refused")?;
    assert!(reason.contains("101 postgres_changes bindings, at most 100"), "{reason}");
    assert!(reason.contains("limits.max_bindings_per_channel"), "{reason}");
    let long_name = "x".repeat(4_097);
    let reply = client.join(&format!("realtime:{long_name}"), &json!({ "config": {} })).await?;
    assert_eq!(reply.reason(), Some("NameTooLong: the topic has 4097 bytes, at most 4096 are allowed"));
    let long_key = json!({ "config": { "presence": { "key": long_name } } });
    let reply = client.join("realtime:key", &long_key).await?;
    let reason = "NameTooLong: config.presence.key has 4097 bytes, at most 4096 are allowed";
    assert_eq!(reply.reason(), Some(reason));
    assert!(client.join("realtime:key", &open_config()).await?.is_ok());
    Ok(())
}
