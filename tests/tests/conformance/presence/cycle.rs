//! Cases 147 to 158, 167 and 168: coming, changing and going.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use walcast::serve::ServeSettings;
use walcast_testkit::ProtocolVersion;
use walcast_tests::World;

use super::{counts, diff, follower, metas, push, track, untrack};
use crate::scene::{acknowledged, is_joined, member, nothing_else, on_both, room, world};

#[tokio::test(flavor = "multi_thread")]
async fn case_147_the_state_comes_behind_the_reply_also_when_nobody_is_there() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut first, state) = follower(&world, version, &topic, "ana").await?;
        ensure!(state == json!({}), "{state}");
        track(&mut first, &topic, &json!({ "name": "a" })).await?;
        let (_second, state) = follower(&world, version, &topic, "bruno").await?;
        ensure!(metas(&state, "ana")? == [json!({ "name": "a" })], "{state}");
        ensure!(state.as_object().is_some_and(|state| state.len() == 1));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_148_without_presence_enabled_there_is_no_state() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        for presence in [json!({ "key": "ana", "enabled": false }), json!({ "key": "ana" }), json!({})] {
            let config = json!({ "presence": presence, "broadcast": { "ack": true } });
            let topic = room();
            let mut client = member(&world, version, &topic, &config).await?;
            acknowledged(&mut client, &topic).await?;
            nothing_else(&client).with_context(|| presence.to_string())?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_149_a_track_is_ok_and_its_diff_reaches_all_that_follow_itself_included() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        let (mut v1, _) = follower(&world, ProtocolVersion::V1, &topic, "one").await?;
        let (mut v2, _) = follower(&world, ProtocolVersion::V2, &topic, "two").await?;
        track(&mut ana, &topic, &json!({ "name": "a", "deep": { "x": [1] } })).await?;
        let mut references = Vec::new();
        for client in [&mut ana, &mut v1, &mut v2] {
            let diff = diff(client).await?;
            ensure!(diff.topic == topic && diff.reference.is_null() && diff.join_ref.is_null());
            let joined = metas(&diff.payload["joins"], "ana")?;
            ensure!(joined == [json!({ "name": "a", "deep": { "x": [1] } })], "{:?}", diff.raw);
            ensure!(diff.payload["leaves"] == json!({}));
            references.push(diff.payload["joins"]["ana"]["metas"][0]["phx_ref"].clone());
        }
        references.dedup();
        ensure!(references.len() == 1, "one phx_ref for everybody");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_150_a_track_with_another_payload_is_one_diff_with_a_join_and_a_leave() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        let (mut other, _) = follower(&world, version, &topic, "other").await?;
        track(&mut ana, &topic, &json!({ "n": 1 })).await?;
        track(&mut ana, &topic, &json!({ "n": 2 })).await?;
        for client in [&mut ana, &mut other] {
            let first = diff(client).await?.payload;
            let second = diff(client).await?.payload;
            ensure!(counts(&first) == (1, 0) && counts(&second) == (1, 1), "{first} {second}");
            ensure!(metas(&second["joins"], "ana")? == [json!({ "n": 2 })]);
            ensure!(metas(&second["leaves"], "ana")? == [json!({ "n": 1 })]);
            let reference = |part: &serde_json::Value, name: &str| part["ana"]["metas"][0][name].clone();
            let old = reference(&first["joins"], "phx_ref");
            ensure!(reference(&second["leaves"], "phx_ref") == old);
            ensure!(reference(&second["joins"], "phx_ref_prev") == old);
            ensure!(reference(&second["joins"], "phx_ref") != old);
            client.heartbeat().await?;
            nothing_else(client)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_151_a_track_with_the_same_payload_is_ok_and_makes_no_diff() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        for payload in [r#"{"a":1,"b":[2]}"#, r#"{"b":[2],"a":1}"#, r#" { "a" : 1 , "b" : [2] } "#] {
            track(&mut ana, &topic, &serde_json::from_str(payload)?).await?;
        }
        untrack(&mut ana, &topic).await?;
        let joined = diff(&mut ana).await?.payload;
        let left = diff(&mut ana).await?.payload;
        ensure!(counts(&joined) == (1, 0) && counts(&left) == (0, 1), "{joined} {left}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_152_an_untrack_is_a_leave() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        let (mut other, _) = follower(&world, version, &topic, "other").await?;
        untrack(&mut ana, &topic).await.context("who was not there is answered as well")?;
        track(&mut ana, &topic, &json!({ "n": 1 })).await?;
        untrack(&mut ana, &topic).await?;
        for client in [&mut ana, &mut other] {
            ensure!(counts(&diff(client).await?.payload) == (1, 0));
            let left = diff(client).await?.payload;
            ensure!(
                counts(&left) == (0, 1) && metas(&left["leaves"], "ana")? == [json!({ "n": 1 })],
                "{left}"
            );
        }
        let (_, state) = follower(&world, version, &topic, "later").await?;
        ensure!(state == json!({}), "{state}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_153_track_untrack_track_makes_three_diffs() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        let (mut other, _) = follower(&world, version, &topic, "other").await?;
        // Without waiting in between.
        for event in ["track", "untrack", "track"] {
            ana.send(&topic, "presence", &json!({ "type": "presence", "event": event })).await?;
        }
        for client in [&mut ana, &mut other] {
            for expected in [(1, 0), (0, 1), (1, 0)] {
                let got = diff(client).await?.payload;
                ensure!(counts(&got) == expected, "{got}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_154_a_connection_that_ends_is_a_leave() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        for way in ["leaves", "closes", "is cut off"] {
            let topic = room();
            let (mut here, _) = follower(&world, version, &topic, "here").await?;
            let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
            track(&mut ana, &topic, &json!({})).await?;
            ensure!(counts(&diff(&mut here).await?.payload) == (1, 0));
            match way {
                "leaves" => ensure!(ana.leave(&topic).await?.is_ok()),
                "closes" => ana.close().await?,
                _ => drop(ana),
            }
            let left = diff(&mut here).await.with_context(|| way.to_owned())?.payload;
            ensure!(counts(&left) == (0, 1) && left["leaves"].get("ana").is_some(), "{way}: {left}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_155_two_connections_of_one_key_are_two_metas_and_one_stays_when_the_other_goes() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut phone, _) = follower(&world, version, &topic, "ana").await?;
        let (mut laptop, _) = follower(&world, version, &topic, "ana").await?;
        track(&mut phone, &topic, &json!({ "device": "phone" })).await?;
        diff(&mut laptop).await?;
        track(&mut laptop, &topic, &json!({ "device": "laptop" })).await?;
        diff(&mut laptop).await?;
        let (mut watcher, state) = follower(&world, version, &topic, "watcher").await?;
        ensure!(metas(&state, "ana")? == [json!({ "device": "phone" }), json!({ "device": "laptop" })]);
        drop(phone);
        let left = diff(&mut watcher).await?.payload;
        ensure!(metas(&left["leaves"], "ana")? == [json!({ "device": "phone" })], "{left}");
        let (_, state) = follower(&world, version, &topic, "later").await?;
        ensure!(metas(&state, "ana")? == [json!({ "device": "laptop" })], "{state}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_156_the_event_is_read_in_any_letter_case() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        for (come, go) in [("TRACK", "UNTRACK"), ("Track", "unTrack")] {
            ensure!(push(&mut ana, &topic, &json!({ "event": come, "payload": {} })).await?.is_ok());
            ensure!(counts(&diff(&mut ana).await?.payload) == (1, 0));
            ensure!(push(&mut ana, &topic, &json!({ "event": go })).await?.is_ok());
            ensure!(counts(&diff(&mut ana).await?.payload) == (0, 1));
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_157_an_unknown_event_is_an_error_and_none_is_ok() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        for event in [json!("unknown"), json!("tracks"), json!(""), json!(7)] {
            let reply = push(&mut ana, &topic, &json!({ "event": event, "payload": {} })).await?;
            ensure!(reply.status == "error" && reply.response == json!({}), "{event}: {reply:?}");
        }
        ensure!(push(&mut ana, &topic, &json!({ "payload": {} })).await?.is_ok());
        acknowledged(&mut ana, &topic).await?;
        nothing_else(&ana)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_158_a_payload_that_is_no_object_is_an_error_and_the_channel_lives() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        for payload in [json!([]), json!("text"), json!(7), json!(null), json!(true)] {
            let reply = push(&mut ana, &topic, &json!({ "event": "track", "payload": payload })).await?;
            let expected = json!({ "reason": "Presence track payload must be a map" });
            ensure!(reply.status == "error" && reply.response == expected, "{payload}: {reply:?}");
        }
        ensure!(is_joined(&mut ana, &topic).await?);
        nothing_else(&ana)?;
        track(&mut ana, &topic, &json!({})).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_167_an_untrack_or_an_unknown_event_does_not_turn_presence_on() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
        let config =
            json!({ "presence": { "key": "bruno", "enabled": false }, "broadcast": { "ack": true } });
        let mut bruno = member(&world, version, &topic, &config).await?;
        untrack(&mut bruno, &topic).await?;
        ensure!(!push(&mut bruno, &topic, &json!({ "event": "unknown" })).await?.is_ok());
        ensure!(!push(&mut bruno, &topic, &json!({ "event": "track", "payload": 7 })).await?.is_ok());
        track(&mut ana, &topic, &json!({})).await?;
        // A member of the same shard has the diff before this acknowledgement, another before the broadcast.
        acknowledged(&mut ana, &topic).await?;
        let presence = |message: &walcast_testkit::Received| message.event.starts_with("presence_");
        bruno.expect_before(|message| message.event == "broadcast", presence).await?;
        track(&mut bruno, &topic, &json!({})).await.context("a track does")?;
        let state = bruno.expect(presence).await?;
        ensure!(state.event == "presence_state", "{:?}", state.raw);
        ensure!(metas(&state.payload, "ana")? == [json!({})]);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_168_a_setting_turns_presence_on_for_who_does_not_ask_and_off_it_is_on_for_who_does()
-> Result<()> {
    for (enabled, name) in [(true, "conformance_168_on"), (false, "conformance_168_off")] {
        let set = move |settings: &mut ServeSettings| settings.project.engine.presence_enabled = enabled;
        let world = World::with_settings(name, "", set).await?;
        on_both(async |version| {
            for (presence, expected) in [
                (json!({ "enabled": true }), true),
                (json!({ "enabled": false }), enabled),
                (json!({}), enabled),
            ] {
                let topic = room();
                let (mut ana, _) = follower(&world, version, &topic, "ana").await?;
                track(&mut ana, &topic, &json!({})).await?;
                diff(&mut ana).await?;
                let mut client = member(&world, version, &topic, &json!({ "presence": presence })).await?;
                if expected {
                    let state = client.next().await?;
                    ensure!(state.is(&topic, "presence_state"), "{presence}, {enabled}: {:?}", state.raw);
                    ensure!(metas(&state.payload, "ana")? == [json!({})]);
                    continue;
                }
                untrack(&mut ana, &topic).await?;
                diff(&mut ana).await?;
                acknowledged(&mut ana, &topic).await?;
                let presence = |message: &walcast_testkit::Received| message.event.starts_with("presence_");
                client.expect_before(|message| message.event == "broadcast", presence).await?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}
