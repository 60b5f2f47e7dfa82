//! Leaving, joining again, references of an earlier join: docs/protocol.md §3.7.

use anyhow::Result;
use serde_json::{Value, json};
use walcast_testkit::{ProtocolClient, ProtocolVersion};
use walcast_tests::{World, person};

use crate::{BOTH, NOTES, ROOM, acknowledged, acknowledging, assert_not_joined, open_config, raw};

// Case 48.
#[tokio::test(flavor = "multi_thread")]
async fn a_leave_is_answered_and_then_the_channel_is_closed_and_silent() -> Result<()> {
    let world = World::with_sql("joins_leave", NOTES).await?;
    let mut other = world.connect(&person("bruno")).await?;
    let mut with_changes = acknowledging();
    let notes = json!({ "event": "*", "schema": "public", "table": "notes" });
    with_changes["config"]["postgres_changes"] = json!([notes]);
    other.join(ROOM, &with_changes).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        client.join_changes(ROOM, std::slice::from_ref(&notes)).await?;
        let reference = client.send(ROOM, "phx_leave", &json!({ "ignored": true })).await?;
        let reply = client.next().await?;
        assert_eq!((&reply.reference, reply.payload["status"].as_str()), (&reference.into(), Some("ok")));
        let close = client.next().await?;
        assert_eq!(
            (close.event.as_str(), &close.reference, &close.payload),
            ("phx_close", &"1".into(), &json!({}))
        );
        if version == ProtocolVersion::V2 {
            assert_eq!((&reply.join_ref, &close.join_ref), (&"1".into(), &"1".into()));
        }
        world.sql("insert into notes values (1, 'x'); delete from notes").await?;
        other.expect(|message| message.payload["data"]["type"] == "DELETE").await?;
        acknowledged(&mut other, ROOM).await?;
        let after = client.join(ROOM, &acknowledging()).await?;
        assert!(after.is_ok());
        acknowledged(&mut client, ROOM).await?;
        let events: Vec<_> = client.unclaimed().map(|message| message.event.as_str()).collect();
        assert_eq!(events, ["broadcast"], "only the own one after the second join");
    }
    Ok(())
}

// Case 48.
#[tokio::test(flavor = "multi_thread")]
async fn a_leave_of_an_earlier_join_is_ignored_and_a_channel_without_join_ref_takes_any() -> Result<()> {
    let world = World::with_sql("joins_stale_leave", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    client.join(ROOM, &acknowledging()).await?;
    for stale in [r#""0""#, "null", "1", r#""2""#] {
        client.send_text(&format!(r#"[{stale},"stale","realtime:room","phx_leave",{{}}]"#)).await?;
    }
    acknowledged(&mut client, ROOM).await?;
    client
        .expect_before(
            |message| message.is(ROOM, "broadcast"),
            |message| message.reference == "stale" || message.event == "phx_close",
        )
        .await?;
    client.send_text(r#"[null,"a","realtime:free","phx_join",{"config":{}}]"#).await?;
    assert!(client.reply("a").await?.is_ok());
    client.send_text(r#"["other","b","realtime:free","phx_leave",{}]"#).await?;
    assert!(client.reply("b").await?.is_ok());
    let close = client.expect(|message| message.is("realtime:free", "phx_close")).await?;
    assert_eq!((close.join_ref, close.reference), (Value::Null, Value::Null));
    Ok(())
}

// Cases 46, 47.
#[tokio::test(flavor = "multi_thread")]
async fn other_pushes_are_handled_whatever_their_join_ref_and_unknown_events_are_ignored() -> Result<()> {
    let world = World::with_sql("joins_stale_push", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    client.join(ROOM, &acknowledging()).await?;
    for stale in [r#""0""#, "null", "7"] {
        client.send_text(&format!(r#"[{stale},"u","realtime:room","unknown",{{"x":1}}]"#)).await?;
        client.send_text(&format!(r#"[{stale},"b","realtime:room","broadcast",{{"event":"e"}}]"#)).await?;
        let own = client.next().await?;
        assert_eq!(raw(&own), r#"[null,null,"realtime:room","broadcast",{"event":"e"}]"#);
        let ack = r#"["1","b","realtime:room","phx_reply",{"status":"ok","response":{}}]"#;
        assert_eq!(raw(&client.next().await?), ack);
        client.send_text(&format!(r#"[{stale},"p","realtime:room","presence",{{"event":"track"}}]"#)).await?;
        let reply = client.expect(|message| message.event == "phx_reply").await?;
        assert_eq!((reply.join_ref, reply.reference), ("1".into(), "p".into()));
        client.expect(|message| message.event.starts_with("presence_")).await?;
        client
            .send_text(&format!(r#"[{stale},"q","realtime:room","presence",{{"event":"untrack"}}]"#))
            .await?;
        assert!(client.reply("q").await?.is_ok());
        client
            .expect(|message| message.payload["leaves"].as_object().is_some_and(|leaves| leaves.len() == 1))
            .await?;
        client.heartbeat().await?;
        while client.unclaimed().count() > 0 {
            client.next().await?;
        }
    }
    let mut old = world.connect_as(&person("ana"), ProtocolVersion::V1).await?;
    old.join(ROOM, &acknowledging()).await?;
    old.send_text(r#"{"topic":"realtime:room","event":"unknown","payload":{},"ref":"u"}"#).await?;
    old.send_text(r#"{"topic":"realtime:room","event":"broadcast","payload":{},"ref":"b"}"#).await?;
    old.expect_before(|message| message.reference == "b", |message| message.reference == "u").await?;
    Ok(())
}

/// Joins `ROOM` a second time, with this payload, under the `join_ref` `second`.
async fn join_again(client: &mut ProtocolClient, version: ProtocolVersion, payload: &Value) -> Result<()> {
    let second = Value::from("second");
    client.send_text(&version.encode(&second, &second, ROOM, "phx_join", payload)).await
}

// Cases 48, 294.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_join_replaces_the_channel_and_version_1_hears_nothing_of_the_old_one() -> Result<()> {
    let world = World::with_sql("joins_again", "").await?;
    let mut other = world.connect(&person("bruno")).await?;
    other.join(ROOM, &acknowledging()).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        client.join(ROOM, &acknowledging()).await?;
        join_again(&mut client, version, &open_config()).await?;
        let reply = client.next().await?;
        assert_eq!((&reply.reference, reply.payload["status"].as_str()), (&"second".into(), Some("ok")));
        if version == ProtocolVersion::V2 {
            let close = r#"["1","1","realtime:room","phx_close",{}]"#;
            assert_eq!(raw(&client.next().await?), close);
        }
        // Twice, so that a second copy of the first would be there with the second.
        acknowledged(&mut other, ROOM).await?;
        acknowledged(&mut other, ROOM).await?;
        client.send(ROOM, "broadcast", &json!({ "event": "mine" })).await?;
        client.heartbeat().await?;
        for _ in 0..2 {
            let message = client
                .expect_before(|message| message.event == "broadcast", |message| message.event == "phx_close")
                .await?;
            assert_eq!(message.payload["event"], "mark");
        }
        client.heartbeat().await?;
        assert_eq!(client.unclaimed().count(), 0, "the options are those of the second join");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_join_that_is_refused_ends_the_channel_all_the_same() -> Result<()> {
    let world = World::with_sql("joins_again_refused", "").await?;
    let mut other = world.connect(&person("bruno")).await?;
    other.join(ROOM, &acknowledging()).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        client.join(ROOM, &json!({ "config": { "presence": { "enabled": true, "key": "ana" } } })).await?;
        client.expect(|message| message.is(ROOM, "presence_state")).await?;
        let reference = client.send(ROOM, "presence", &json!({ "event": "track" })).await?;
        assert!(client.reply(&reference).await?.is_ok());
        client.expect(|message| message.is(ROOM, "presence_diff")).await?;
        join_again(&mut client, version, &json!({ "config": { "private": "yes" } })).await?;
        let reply = client.next().await?;
        assert_eq!((&reply.reference, reply.payload["status"].as_str()), (&"second".into(), Some("error")));
        if version == ProtocolVersion::V2 {
            assert_eq!(raw(&client.next().await?), r#"["1","1","realtime:room","phx_close",{}]"#);
        }
        assert_not_joined(&mut client, ROOM).await?;
        acknowledged(&mut other, ROOM).await?;
        client.heartbeat().await?;
        assert_eq!(client.unclaimed().count(), 0, "nothing comes for a channel that is over");
        let reply = client.join(ROOM, &json!({ "config": { "presence": { "enabled": true } } })).await?;
        assert!(reply.is_ok());
        let state = client.expect(|message| message.is(ROOM, "presence_state")).await?;
        assert_eq!(state.payload, json!({}), "and nobody is present through it");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_channels_on_one_socket_are_two_channels() -> Result<()> {
    let world = World::with_sql("joins_two", "").await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let mut other = world.connect_as(&person("bruno"), version).await?;
        for topic in ["realtime:a", "realtime:b"] {
            client.join(topic, &acknowledging()).await?;
        }
        other.join("realtime:b", &acknowledging()).await?;
        acknowledged(&mut other, "realtime:b").await?;
        client
            .expect_before(|message| message.is("realtime:b", "broadcast"), |m| m.topic == "realtime:a")
            .await?;
        let left = client.leave("realtime:b").await?;
        assert!(left.is_ok());
        acknowledged(&mut client, "realtime:a").await?;
        assert_not_joined(&mut client, "realtime:b").await?;
    }
    Ok(())
}
