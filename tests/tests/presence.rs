//! Who is there, over both serializers and both shards of the server: docs/protocol.md §7.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion, Received, Reply};
use walcast_tests::{World, person};

const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V1, ProtocolVersion::V2];
const ROOM: &str = "realtime:room";

fn config(key: &str, enabled: bool) -> Value {
    json!({ "config": { "presence": { "key": key, "enabled": enabled }, "broadcast": { "ack": true } } })
}

/// A member of the room that follows who is there, and the state it was sent.
async fn follower(world: &World, version: ProtocolVersion, key: &str) -> Result<(ProtocolClient, Value)> {
    let mut client = world.connect_as(&person("ana"), version).await?;
    let reply = client.join(ROOM, &config(key, true)).await?;
    ensure!(reply.is_ok(), "{reply:?}");
    let state = client.next().await?;
    ensure!(state.is(ROOM, "presence_state"), "the state comes right behind the reply, not {state:?}");
    Ok((client, state.payload))
}

async fn push(client: &mut ProtocolClient, payload: &Value) -> Result<Reply> {
    let reference = client.send(ROOM, "presence", payload).await?;
    client.reply(&reference).await
}

async fn track(client: &mut ProtocolClient, meta: &Value) -> Result<()> {
    let reply = push(client, &json!({ "type": "presence", "event": "track", "payload": meta })).await?;
    ensure!((reply.is_ok(), &reply.response) == (true, &json!({})), "{reply:?}");
    Ok(())
}

async fn untrack(client: &mut ProtocolClient) -> Result<()> {
    let reply = push(client, &json!({ "type": "presence", "event": "untrack" })).await?;
    ensure!((reply.is_ok(), &reply.response) == (true, &json!({})), "{reply:?}");
    Ok(())
}

async fn diff(client: &mut ProtocolClient) -> Result<Received> {
    client.expect(|message| message.event == "presence_diff").await
}

/// Waits for the acknowledgement of a broadcast: whatever the server sent before has arrived then.
async fn acknowledged(client: &mut ProtocolClient) -> Result<()> {
    let reference = client.send(ROOM, "broadcast", &json!({ "event": "mark" })).await?;
    let reply = client.reply(&reference).await?;
    ensure!(reply.is_ok(), "{reply:?}");
    Ok(())
}

/// Takes the `phx_ref` (and `phx_ref_prev`) out of the one meta of `key`, so that the rest can be compared.
fn references(part: &Value, key: &str) -> Result<(Value, String, Option<String>)> {
    let mut metas = part[key]["metas"].as_array().with_context(|| format!("no {key} in {part}"))?.clone();
    ensure!(metas.len() == 1, "{part}");
    let meta = metas[0].as_object_mut().context("an object")?;
    let text = |value: Value| value.as_str().map(str::to_owned);
    let reference = meta.remove("phx_ref").and_then(text).context("a phx_ref")?;
    ensure!(reference.len() == 16, "{reference}");
    let previous = meta.remove("phx_ref_prev").and_then(text);
    Ok((Value::Object(meta.clone()), reference, previous))
}

// Cases 147, 149, 150, 152.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_comes_changes_and_goes_before_the_eyes_of_everybody() -> Result<()> {
    let world = World::with_sql("presence_cycle", "").await?;
    for version in BOTH {
        let mut clients = Vec::new();
        for (key, watcher_version) in
            [("ana", version), ("b", ProtocolVersion::V1), ("c", ProtocolVersion::V2), ("d", version)]
        {
            let (client, state) = follower(&world, watcher_version, key).await?;
            assert_eq!(state, json!({}), "an empty state is sent too");
            clients.push(client);
        }
        track(&mut clients[0], &json!({ "name": "Ana" })).await?;
        let mut first = BTreeSet::new();
        for client in &mut clients {
            let message = diff(client).await?;
            assert_eq!((message.join_ref, message.reference), (Value::Null, Value::Null));
            assert_eq!(message.payload["leaves"], json!({}));
            assert_eq!(message.payload.as_object().map(serde_json::Map::len), Some(2));
            let (meta, reference, previous) = references(&message.payload["joins"], "ana")?;
            assert_eq!((meta, previous), (json!({ "name": "Ana" }), None));
            first.insert(reference);
        }
        assert_eq!(first.len(), 1, "one phx_ref for everybody");
        let (_latecomer, state) = follower(&world, version, "late").await?;
        let (meta, reference, _) = references(&state, "ana")?;
        assert_eq!((meta, first.contains(&reference)), (json!({ "name": "Ana" }), true));

        track(&mut clients[0], &json!({ "name": "Ana", "typing": true })).await?;
        let mut second = BTreeSet::new();
        for client in &mut clients {
            let message = diff(client).await?;
            let (joined, reference, previous) = references(&message.payload["joins"], "ana")?;
            assert_eq!(joined, json!({ "name": "Ana", "typing": true }));
            let (left, left_reference, _) = references(&message.payload["leaves"], "ana")?;
            assert_eq!(left, json!({ "name": "Ana" }));
            assert!(first.contains(&left_reference) && previous.as_ref() == Some(&left_reference));
            second.insert(reference);
        }
        assert!(second.len() == 1 && second.is_disjoint(&first));

        untrack(&mut clients[0]).await?;
        for client in &mut clients {
            let message = diff(client).await?;
            assert_eq!(message.payload["joins"], json!({}));
            let (left, reference, _) = references(&message.payload["leaves"], "ana")?;
            assert_eq!((left, second.contains(&reference)), (json!({ "name": "Ana", "typing": true }), true));
            client.heartbeat().await?;
            assert_eq!(client.unclaimed().count(), 0, "one diff for each step");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_messages_have_the_references_of_the_protocol() -> Result<()> {
    let world = World::with_sql("presence_references", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    client
        .send_text(r#"["j","r","realtime:room","phx_join",{"config":{"presence":{"enabled":true}}}]"#)
        .await?;
    assert!(client.reply("r").await?.is_ok());
    let state = client.next().await?;
    assert_eq!((state.join_ref, state.reference), ("j".into(), Value::Null));
    client.send_text(r#"["j","t","realtime:room","presence",{"event":"track"}]"#).await?;
    let reply = client.expect(|message| message.event == "phx_reply").await?;
    assert_eq!((reply.join_ref, reply.reference), ("j".into(), "t".into()));
    Ok(())
}

// Case 151.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_payload_again_is_answered_and_changes_nothing() -> Result<()> {
    let world = World::with_sql("presence_same", "").await?;
    let (mut client, _) = follower(&world, ProtocolVersion::V2, "ana").await?;
    for payload in [r#"{"a":1,"b":[2]}"#, r#"{"b":[2],"a":1}"#, r#" { "a" : 1 , "b" : [2] } "#] {
        let frame = format!(r#"["1","t","{ROOM}","presence",{{"event":"track","payload":{payload}}}]"#);
        client.send_text(&frame).await?;
        assert!(client.reply("t").await?.is_ok(), "{payload}");
    }
    untrack(&mut client).await?;
    let joined = diff(&mut client).await?;
    assert_eq!(joined.payload["leaves"], json!({}));
    let left = diff(&mut client).await?;
    assert_eq!(left.payload["joins"], json!({}), "one join, one leave");
    Ok(())
}

// Case 153.
#[tokio::test(flavor = "multi_thread")]
async fn track_untrack_track_is_three_diffs_in_that_order() -> Result<()> {
    let world = World::with_sql("presence_three", "").await?;
    let (mut client, _) = follower(&world, ProtocolVersion::V2, "ana").await?;
    let (mut other, _) = follower(&world, ProtocolVersion::V1, "other").await?;
    for payload in [json!({ "event": "track" }), json!({ "event": "untrack" }), json!({ "event": "track" })] {
        client.send(ROOM, "presence", &payload).await?;
    }
    for client in [&mut client, &mut other] {
        for (joins, leaves) in [(1, 0), (0, 1), (1, 0)] {
            let payload = diff(client).await?.payload;
            let count = |part: &str| payload[part].as_object().map(serde_json::Map::len);
            assert_eq!((count("joins"), count("leaves")), (Some(joins), Some(leaves)), "{payload}");
        }
    }
    Ok(())
}

// Case 154.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_closes_or_is_cut_off_is_gone_for_everybody() -> Result<()> {
    let world = World::with_sql("presence_gone", "").await?;
    let (mut here, _) = follower(&world, ProtocolVersion::V2, "here").await?;
    let (mut there, _) = follower(&world, ProtocolVersion::V1, "there").await?;
    for version in BOTH {
        for way in ["leaves", "closes", "is cut off", "joins again"] {
            let (mut client, _) = follower(&world, version, "ana").await?;
            track(&mut client, &json!({ "way": way })).await?;
            for watcher in [&mut here, &mut there] {
                let joined = diff(watcher).await?;
                ensure!(joined.payload["joins"]["ana"]["metas"][0]["way"] == way, "{joined:?}");
            }
            match way {
                "leaves" => assert!(client.leave(ROOM).await?.is_ok()),
                "closes" => client.close().await?,
                "is cut off" => drop(client),
                _ => assert!(client.join(ROOM, &config("ana", true)).await?.is_ok()),
            }
            for watcher in [&mut here, &mut there] {
                let left = diff(watcher).await.with_context(|| way.to_owned())?;
                assert_eq!(left.payload["joins"], json!({}));
                assert_eq!(left.payload["leaves"]["ana"]["metas"][0]["way"], way);
            }
        }
    }
    Ok(())
}

// Case 154, across a reconnect.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_cut_off_and_comes_back_was_never_away() -> Result<()> {
    let patient =
        |settings: &mut ServeSettings| settings.project.engine.presence_grace = Duration::from_mins(1);
    let world = World::with_settings("presence_back", "", patient).await?;
    let (mut watcher, _) = follower(&world, ProtocolVersion::V1, "watcher").await?;
    for version in BOTH {
        let (mut client, _) = follower(&world, version, "ana").await?;
        track(&mut client, &json!({ "n": 1 })).await?;
        diff(&mut watcher).await?;
        drop(client);
        while world.metric("walcast_ws_connections_active").await? > 1 {}
        let (mut again, state) = follower(&world, version, "ana").await?;
        let (meta, before, _) = references(&state, "ana")?;
        assert_eq!(meta, json!({ "n": 1 }), "it is still there");
        track(&mut again, &json!({ "n": 1 })).await?;
        track(&mut again, &json!({ "n": 2 })).await?;
        let update = diff(&mut watcher).await?;
        let (meta, _, previous) = references(&update.payload["joins"], "ana")?;
        assert_eq!(
            (meta, previous),
            (json!({ "n": 2 }), Some(before)),
            "the first diff since it was cut off"
        );
        again.close().await?;
        let left = diff(&mut watcher).await?;
        assert_eq!(left.payload["leaves"]["ana"]["metas"][0]["n"], 2);
    }
    Ok(())
}

// Case 155.
#[tokio::test(flavor = "multi_thread")]
async fn two_sockets_under_one_key_are_two_metas_of_one_person() -> Result<()> {
    let world = World::with_sql("presence_key", "").await?;
    let (mut phone, _) = follower(&world, ProtocolVersion::V2, "ana").await?;
    let (mut laptop, _) = follower(&world, ProtocolVersion::V1, "ana").await?;
    track(&mut phone, &json!({ "device": "phone" })).await?;
    diff(&mut laptop).await?;
    track(&mut laptop, &json!({ "device": "laptop" })).await?;
    let joined = diff(&mut laptop).await?;
    let (meta, ..) = references(&joined.payload["joins"], "ana")?;
    assert_eq!(meta, json!({ "device": "laptop" }), "the diff has only what is new");
    let (mut watcher, state) = follower(&world, ProtocolVersion::V2, "watcher").await?;
    let metas = state["ana"]["metas"].as_array().context("metas")?;
    let devices: Vec<_> = metas.iter().map(|meta| &meta["device"]).collect();
    assert_eq!(devices, ["phone", "laptop"]);
    assert_ne!(metas[0]["phx_ref"], metas[1]["phx_ref"]);
    drop(phone);
    let left = diff(&mut watcher).await?;
    let (meta, reference, _) = references(&left.payload["leaves"], "ana")?;
    assert_eq!(
        (meta, reference),
        (json!({ "device": "phone" }), metas[0]["phx_ref"].as_str().unwrap_or("").into())
    );
    let (_, state) = follower(&world, ProtocolVersion::V2, "later").await?;
    assert_eq!(references(&state, "ana")?.0, json!({ "device": "laptop" }));
    Ok(())
}

// Cases 26, 27.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_without_a_key_gets_a_fresh_uuid_and_a_number_is_a_key() -> Result<()> {
    let world = World::with_sql("presence_keys", "").await?;
    let mut keys = BTreeSet::new();
    let given = [Value::Null, json!(""), json!({}), json!(7), json!(7.5), json!("é 🦀")];
    for (index, key) in given.iter().enumerate() {
        let mut client = world.connect(&person("ana")).await?;
        let topic = format!("realtime:{index}");
        let config = json!({ "config": { "presence": { "key": key, "enabled": true } } });
        client.join(&topic, &config).await?;
        client.send(&topic, "presence", &json!({ "event": "track" })).await?;
        let joined = diff(&mut client).await?;
        let joins = joined.payload["joins"].as_object().context("an object")?;
        let name = joins.keys().next().context("a key")?.clone();
        match key {
            Value::String(text) if !text.is_empty() => assert_eq!(&name, text),
            Value::Number(number) => assert_eq!(name, number.to_string()),
            _ => assert_eq!((name.len(), name.as_bytes()[14]), (36, b'1'), "a version 1 UUID: {name}"),
        }
        keys.insert(name);
    }
    assert_eq!(keys.len(), given.len());
    Ok(())
}

// Case 156.
#[tokio::test(flavor = "multi_thread")]
async fn the_event_is_read_in_any_letter_case_and_a_payload_may_be_missing() -> Result<()> {
    let world = World::with_sql("presence_case", "").await?;
    let (mut client, _) = follower(&world, ProtocolVersion::V2, "ana").await?;
    for (come, go) in [("TRACK", "UNTRACK"), ("Track", "unTrack")] {
        assert!(push(&mut client, &json!({ "event": come })).await?.is_ok());
        let joined = diff(&mut client).await?;
        assert_eq!(references(&joined.payload["joins"], "ana")?.0, json!({}));
        assert!(push(&mut client, &json!({ "event": go, "payload": "ignored" })).await?.is_ok());
        assert!(diff(&mut client).await?.payload["leaves"]["ana"].is_object());
    }
    Ok(())
}

// Cases 157, 158.
#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_answered_and_the_channel_lives() -> Result<()> {
    let world = World::with_sql("presence_nonsense", "").await?;
    for version in BOTH {
        let (mut client, _) = follower(&world, version, "ana").await?;
        let reason = "Presence track payload must be a map";
        for payload in [json!([]), json!("text"), json!(7), json!(null), json!([{}])] {
            let reply = push(&mut client, &json!({ "event": "track", "payload": payload })).await?;
            assert_eq!((reply.is_ok(), reply.response), (false, json!({ "reason": reason })), "{payload}");
        }
        for event in [json!("tracks"), json!(""), json!(7), json!({})] {
            let reply = push(&mut client, &json!({ "event": event })).await?;
            assert_eq!((reply.status.as_str(), reply.response), ("error", json!({})), "{event}");
        }
        for payload in [json!({}), json!({ "event": null }), json!([]), json!("track"), json!(null)] {
            let reply = push(&mut client, &payload).await?;
            assert_eq!((reply.is_ok(), reply.response), (true, json!({})), "{payload}");
        }
        acknowledged(&mut client).await?;
        assert_eq!(client.unclaimed().count(), 0, "and nobody is present");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrack_without_a_track_is_answered_and_changes_nothing() -> Result<()> {
    let world = World::with_sql("presence_untrack", "").await?;
    let (mut client, _) = follower(&world, ProtocolVersion::V2, "ana").await?;
    untrack(&mut client).await?;
    track(&mut client, &json!({})).await?;
    untrack(&mut client).await?;
    untrack(&mut client).await?;
    track(&mut client, &json!({})).await?;
    // In the order of the topic: had an untrack more than it should have told, it would come before the last one.
    for (joins, leaves) in [(1, 0), (0, 1), (1, 0)] {
        let payload = diff(&mut client).await?.payload;
        let count = |part: &str| payload[part].as_object().map(serde_json::Map::len);
        assert_eq!((count("joins"), count("leaves")), (Some(joins), Some(leaves)), "{payload}");
    }
    Ok(())
}

// Cases 148, 166, 167.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_asked_for_no_presence_gets_none_until_it_tracks() -> Result<()> {
    let world = World::with_sql("presence_later", "").await?;
    let (mut ana, _) = follower(&world, ProtocolVersion::V2, "ana").await?;
    track(&mut ana, &json!({ "n": 1 })).await?;
    for version in BOTH {
        for start in [json!({ "key": "b" }), json!({ "key": "b", "enabled": false })] {
            let mut client = world.connect_as(&person("bruno"), version).await?;
            let payload = json!({ "config": { "presence": start, "broadcast": { "ack": true } } });
            assert!(client.join(ROOM, &payload).await?.is_ok());
            // Neither of these turns presence on.
            untrack(&mut client).await?;
            assert!(!push(&mut client, &json!({ "event": "unknown" })).await?.is_ok());
            assert!(!push(&mut client, &json!({ "event": "track", "payload": 7 })).await?.is_ok());
            untrack(&mut ana).await?;
            track(&mut ana, &json!({ "n": 1 })).await?;
            // A member on the same shard has the diff before its acknowledgement; one on the other when it
            // has the broadcast that follows it.
            acknowledged(&mut ana).await?;
            client
                .expect_before(
                    |message| message.event == "broadcast",
                    |message| message.event.starts_with("presence_"),
                )
                .await?;
            track(&mut client, &json!({ "n": 2 })).await?;
            let state = client.expect(|message| message.event.starts_with("presence_")).await?;
            assert_eq!(state.event, "presence_state", "the state comes before diffs");
            assert_eq!(references(&state.payload, "ana")?.0, json!({ "n": 1 }));
            let own = diff(&mut client).await?;
            assert_eq!(references(&own.payload["joins"], "b")?.0, json!({ "n": 2 }));
            client.close().await?;
            ana.expect(|message| message.payload["leaves"]["b"].is_object()).await?;
        }
    }
    Ok(())
}

// Case 159.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_over_the_limit_closes_the_channel_and_not_the_socket() -> Result<()> {
    let small = |settings: &mut ServeSettings| settings.project.engine.presence_payload_bytes_max = 1_000;
    let world = World::with_settings("presence_oversize", "", small).await?;
    for version in BOTH {
        let (mut client, _) = follower(&world, version, "ana").await?;
        track(&mut client, &json!({ "x": "y".repeat(992) })).await?;
        diff(&mut client).await?;
        let reference = client
            .send(ROOM, "presence", &json!({ "event": "track", "payload": { "x": "y".repeat(993) } }))
            .await?;
        assert_closed(
            &mut client,
            "Track message size exceeded (presence.payload_bytes_max = 1000)",
            &reference,
        )
        .await?;
        let (_, state) = follower(&world, version, "later").await?;
        assert_eq!(state, json!({}), "whose channel is closed is gone");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_track_for_which_its_topic_has_no_room_is_refused_and_the_others_stay() -> Result<()> {
    let small = |settings: &mut ServeSettings| {
        settings.project.engine.presence_topic_bytes_max = 1_000;
        // So that a topic's home is another shard than its members'.
        settings.project.engine.shards = 2;
    };
    let world = World::with_settings("presence_topic_full", "", small).await?;
    for version in BOTH {
        let (mut ana, _) = follower(&world, version, "ana").await?;
        let (mut ben, _) = follower(&world, version, "ben").await?;
        track(&mut ana, &json!({ "x": "y".repeat(600) })).await?;
        diff(&mut ben).await?;
        let long = json!({ "event": "track", "payload": { "x": "y".repeat(600) } });
        ensure!(push(&mut ben, &long).await?.is_ok());
        let reason =
            "The presence of this topic has no room for the payload (presence.topic_bytes_max = 1000)";
        let refused = ben.expect(|message| message.system("system").is_some()).await?;
        ensure!(refused.system("system") == Some(("error", reason)), "{refused:?}");
        track(&mut ben, &json!({ "x": "y" })).await?;
        let joined = diff(&mut ben).await?;
        ensure!(joined.payload["joins"]["ben"].is_object(), "{joined:?}");
        for client in [ana, ben] {
            client.close().await?;
        }
    }
    Ok(())
}

/// Waits for the end of the room's channel: the `system` error, then `phx_close`, no reply, and the socket lives.
async fn assert_closed(client: &mut ProtocolClient, message: &str, reference: &str) -> Result<()> {
    let system = client
        .expect_before(|message| message.event == "system", |message| message.reference == reference)
        .await?;
    ensure!(system.system("system") == Some(("error", message)), "{system:?}");
    let close = client.expect(|message| message.event == "phx_close").await?;
    ensure!(close.topic == ROOM, "{close:?}");
    let reference = client.send(ROOM, "presence", &json!({ "event": "track" })).await?;
    ensure!(client.reply(&reference).await?.reason() == Some("unmatched topic"));
    client.heartbeat().await
}

// Cases 160, 162.
#[tokio::test(flavor = "multi_thread")]
async fn one_call_too_many_closes_the_channel_whatever_the_calls_were() -> Result<()> {
    let few = |settings: &mut ServeSettings| settings.project.engine.presence_calls.calls = 5;
    let world = World::with_settings("presence_calls", "", few).await?;
    for version in BOTH {
        let (mut client, _) = follower(&world, version, "ana").await?;
        for _ in 0..10 {
            // Without an event it is no call.
            assert!(push(&mut client, &json!({})).await?.is_ok());
        }
        track(&mut client, &json!({})).await?;
        track(&mut client, &json!({})).await?;
        untrack(&mut client).await?;
        assert!(!push(&mut client, &json!({ "event": "unknown" })).await?.is_ok());
        assert!(!push(&mut client, &json!({ "event": "track", "payload": 7 })).await?.is_ok());
        let reference = client.send(ROOM, "presence", &json!({ "event": "untrack" })).await?;
        assert_closed(
            &mut client,
            "Client presence rate limit exceeded (limits.presence_calls_max = 5, limits.presence_window_ms = 30000)",
            &reference,
        ).await?;
    }
    Ok(())
}

// Case 161.
#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_for_each_channel_by_itself() -> Result<()> {
    let few = |settings: &mut ServeSettings| settings.project.engine.presence_calls.calls = 2;
    let world = World::with_settings("presence_channels", "", few).await?;
    let mut client = world.connect(&person("ana")).await?;
    for topic in ["realtime:a", "realtime:b"] {
        client.join(topic, &config("ana", true)).await?;
    }
    for _ in 0..2 {
        for topic in ["realtime:a", "realtime:b"] {
            let reference = client.send(topic, "presence", &json!({ "event": "track" })).await?;
            assert!(client.reply(&reference).await?.is_ok());
        }
    }
    client.send("realtime:a", "presence", &json!({ "event": "track" })).await?;
    client.expect(|message| message.is("realtime:a", "phx_close")).await?;
    let reference = client.send("realtime:b", "broadcast", &json!({})).await?;
    assert!(client.reply(&reference).await?.is_ok(), "the other channel lives");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_forges_a_reference() -> Result<()> {
    let world = World::with_sql("presence_forged", "").await?;
    let (mut client, _) = follower(&world, ProtocolVersion::V2, "ana").await?;
    let forged = json!({ "phx_ref": "0000000000000000", "phx_ref_prev": "1111111111111111", "name": "a" });
    track(&mut client, &forged).await?;
    let joined = diff(&mut client).await?;
    let (meta, reference, previous) = references(&joined.payload["joins"], "ana")?;
    assert_eq!((meta, previous), (json!({ "name": "a" }), None));
    assert_ne!(reference, "0000000000000000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_has_its_own_people() -> Result<()> {
    let world = World::with_sql("presence_topics", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    for topic in ["realtime:a", "realtime:b"] {
        client.join(topic, &config("ana", true)).await?;
        client.expect(|message| message.is(topic, "presence_state")).await?;
    }
    client.send("realtime:a", "presence", &json!({ "event": "track" })).await?;
    assert!(diff(&mut client).await?.is("realtime:a", "presence_diff"));
    let mut other = world.connect(&person("bruno")).await?;
    other.join("realtime:b", &config("bruno", true)).await?;
    let state = other.expect(|message| message.event == "presence_state").await?;
    assert_eq!(state.payload, json!({}));
    client.heartbeat().await?;
    assert!(client.unclaimed().all(|message| message.event != "presence_diff"));
    Ok(())
}

/// Who is there as a client sees it: the `phx_ref`s of each key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen(BTreeMap<String, BTreeSet<String>>);

impl Seen {
    fn add(&mut self, part: &Value) -> Result<()> {
        for (key, reference) in listed(part)? {
            ensure!(
                self.0.entry(key.clone()).or_default().insert(reference.clone()),
                "{key} {reference} twice"
            );
        }
        Ok(())
    }

    /// Applies a diff as the stock clients do; a leave of somebody who is not there is an error here.
    fn apply(&mut self, diff: &Value) -> Result<()> {
        self.add(&diff["joins"])?;
        for (key, reference) in listed(&diff["leaves"])? {
            let metas = self.0.get_mut(&key).with_context(|| format!("{key} was not there"))?;
            ensure!(metas.remove(&reference), "{key} {reference} was not there");
            if metas.is_empty() {
                self.0.remove(&key);
            }
        }
        Ok(())
    }
}

fn listed(part: &Value) -> Result<Vec<(String, String)>> {
    let mut listed = Vec::new();
    for (key, entry) in part.as_object().context("an object")? {
        for meta in entry["metas"].as_array().context("metas")? {
            listed.push((key.clone(), meta["phx_ref"].as_str().context("a phx_ref")?.to_owned()));
        }
    }
    Ok(listed)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_many_come_at_a_time_everybody_sees_everybody_in_few_diffs() -> Result<()> {
    let slow = |settings: &mut ServeSettings| {
        settings.project.engine.shards = 2;
        settings.project.engine.presence_diff = Duration::from_millis(40);
    };
    let world = World::with_settings("presence_many", "", slow).await?;
    let mut clients = Vec::new();
    for number in 0..40 {
        let (client, state) = follower(&world, BOTH[number % 2], &format!("member {number}")).await?;
        assert_eq!(state, json!({}));
        clients.push(client);
    }
    for client in &mut clients {
        client.send(ROOM, "presence", &json!({ "event": "track" })).await?;
    }
    for client in &mut clients {
        let (mut seen, mut diffs) = (Seen::default(), 0);
        while seen.0.len() < 40 {
            seen.apply(&diff(client).await?.payload)?;
            diffs += 1;
        }
        ensure!(diffs < 20, "{diffs} diffs for 40 joins");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_one_joins_the_state_and_the_diffs_after_it_add_up_to_who_is_there() -> Result<()> {
    let many = |settings: &mut ServeSettings| settings.project.engine.presence_calls.calls = 10_000;
    let world = World::with_settings("presence_adds_up", "", many).await?;
    let mut busy = Vec::new();
    for number in 0..4 {
        let key = format!("busy {}", number % 3);
        busy.push(follower(&world, BOTH[number % 2], &key).await?.0);
    }
    let mut watchers = Vec::new();
    for round in 0..40_usize {
        for (number, client) in busy.iter_mut().enumerate() {
            let payload = match (round + number) % 3 {
                0 => json!({ "event": "untrack" }),
                step => json!({ "event": "track", "payload": { "round": round / 2, "step": step } }),
            };
            client.send(ROOM, "presence", &payload).await?;
        }
        // Their turn comes somewhere among the others' calls.
        let mut watcher = world.connect_as(&person("watcher"), BOTH[round % 2]).await?;
        watcher.send(ROOM, "phx_join", &config("watcher", true)).await?;
        watchers.push(watcher);
    }
    for client in &mut busy {
        untrack(client).await?;
    }
    track(&mut busy[0], &json!({ "last": true })).await?;
    for (number, watcher) in watchers.iter_mut().enumerate() {
        let first = watcher.expect(|message| message.event.starts_with("presence_")).await?;
        assert_eq!(first.event, "presence_state", "watcher {number} got a diff before the state");
        let mut seen = Seen::default();
        let mut last =
            first.payload["busy 0"]["metas"].as_array().is_some_and(|metas| metas[0]["last"] == true);
        seen.add(&first.payload)?;
        while !last {
            let message = diff(watcher).await.with_context(|| format!("watcher {number} sees {seen:?}"))?;
            seen.apply(&message.payload).with_context(|| format!("watcher {number}: {message:?}"))?;
            last = message.payload["joins"]["busy 0"]["metas"][0]["last"] == true;
        }
        let keys: Vec<_> = seen.0.iter().map(|(key, metas)| (key.as_str(), metas.len())).collect();
        assert_eq!(keys, [("busy 0", 1)], "watcher {number}");
    }
    Ok(())
}
