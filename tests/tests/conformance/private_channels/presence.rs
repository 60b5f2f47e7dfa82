//! Cases 103 to 106, 166 and 169 to 172: who is there on a private channel.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::{ProtocolClient, Received, Reply};

use super::{
    asked, asked_raising, following, heard, may, may_not_write, member, on_all, private, room_of, say,
    settled, world,
};
use crate::presence::{counts, diff, metas, push, track, untrack};
use crate::scene::{nothing_else, on_both, room};

/// The state that follows a join.
async fn state(client: &mut ProtocolClient) -> Result<Value> {
    Ok(client.expect(|message| message.event == "presence_state").await?.payload)
}

/// Tracks without knowing the answer.
async fn try_track(client: &mut ProtocolClient, topic: &str) -> Result<Reply> {
    push(client, topic, &json!({ "type": "presence", "event": "track", "payload": {} })).await
}

fn of_presence(message: &Received) -> bool {
    message.event.starts_with("presence_")
}

#[tokio::test(flavor = "multi_thread")]
async fn case_103_who_may_only_read_presence_gets_it_and_can_not_track() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let all = may(name, "all", "all");
        let mut writer = member(&world, version, &all, &topic, &following("writer")).await?;
        let reading = may(name, "all", "broadcast");
        let mut reader = member(&world, version, &reading, &topic, &following("reader")).await?;
        ensure!(state(&mut reader).await? == json!({}));
        ensure!(try_track(&mut reader, &topic).await?.status == "error");
        track(&mut writer, &topic, &json!({ "n": 1 })).await?;
        let joined = diff(&mut reader).await?.payload;
        ensure!(metas(&joined["joins"], "writer")? == [json!({ "n": 1 })] && counts(&joined) == (1, 0));
        let mut later = member(&world, version, &all, &topic, &following("later")).await?;
        let now = state(&mut later).await?;
        ensure!(now.get("reader").is_none() && now.get("writer").is_some(), "{now}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_104_who_may_not_read_presence_gets_neither_state_nor_diffs() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let all = may(name, "all", "all");
        let mut writer = member(&world, version, &all, &topic, &following("writer")).await?;
        let blind = may(name, "broadcast", "");
        let mut blind = member(&world, version, &blind, &topic, &following("blind")).await?;
        track(&mut writer, &topic, &json!({})).await?;
        diff(&mut writer).await?;
        ensure!(say(&mut writer, &topic, "mark").await?.is_ok());
        blind.expect_before(|message| message.event == "broadcast", of_presence).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_105_nor_when_a_track_has_turned_presence_on() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let all = may(name, "all", "all");
        let mut writer = member(&world, version, &all, &topic, &following("writer")).await?;
        let blind = may(name, "broadcast", "all");
        let mut blind = member(&world, version, &blind, &topic, &private()).await?;
        track(&mut blind, &topic, &json!({})).await?;
        ensure!(counts(&diff(&mut writer).await?.payload) == (1, 0), "it is seen");
        track(&mut writer, &topic, &json!({})).await?;
        diff(&mut writer).await?;
        ensure!(say(&mut writer, &topic, "mark").await?.is_ok());
        blind.expect_before(|message| message.event == "broadcast", of_presence).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_106_policies_for_presence_are_not_asked_by_who_does_not_want_it() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room_of("case106");
        let all = may("anon", "all", "all");
        let read = async |extension: &str| asked(&world, &format!("case106_read_{extension}")).await;
        let (broadcast, presence) = (read("broadcast").await?, read("presence").await?);
        member(&world, version, &all, &topic, &private()).await?;
        ensure!(read("broadcast").await? > broadcast && read("presence").await? == presence);
        member(&world, version, &all, &topic, &following("key")).await?;
        ensure!(read("presence").await? > presence);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_166_a_track_turns_presence_on_for_a_public_and_for_a_private_channel() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        for is_private in [false, true] {
            let topic = room();
            let all = may(name, "all", "all");
            let with = |mut payload: Value| {
                payload["config"]["private"] = is_private.into();
                payload
            };
            let mut there = member(&world, version, &all, &topic, &with(following("there"))).await?;
            track(&mut there, &topic, &json!({})).await?;
            diff(&mut there).await?;
            let mut client = member(&world, version, &all, &topic, &with(private())).await?;
            settled(&mut client, &topic).await?;
            nothing_else(&client)?;
            track(&mut client, &topic, &json!({})).await?;
            let first = client.expect(of_presence).await?;
            ensure!(first.event == "presence_state", "{:?}", first.raw);
            ensure!(metas(&first.payload, "there")? == [json!({})]);
            ensure!(counts(&diff(&mut there).await?.payload) == (1, 0));
            untrack(&mut there, &topic).await?;
            while diff(&mut client).await?.payload["leaves"].get("there").is_none() {}
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_169_who_may_read_and_write_goes_through_the_whole_cycle_of_presence() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let all = may(name, "all", "all");
        let mut public = following("outside");
        public["config"]["private"] = false.into();
        let mut outside = member(&world, version, &all, &topic, &public).await?;
        ensure!(state(&mut outside).await? == json!({}));
        let mut here = member(&world, version, &all, &topic, &following("here")).await?;
        ensure!(state(&mut here).await? == json!({}));
        let mut ana = member(&world, version, &all, &topic, &following("ana")).await?;
        ensure!(state(&mut ana).await? == json!({}));
        track(&mut ana, &topic, &json!({ "n": 1 })).await?;
        for member in [&mut here, &mut ana] {
            let joined = diff(member).await?.payload;
            ensure!(metas(&joined["joins"], "ana")? == [json!({ "n": 1 })] && counts(&joined) == (1, 0));
        }
        track(&mut ana, &topic, &json!({ "n": 2 })).await?;
        for member in [&mut here, &mut ana] {
            let changed = diff(member).await?.payload;
            ensure!(metas(&changed["joins"], "ana")? == [json!({ "n": 2 })], "{changed}");
            ensure!(metas(&changed["leaves"], "ana")? == [json!({ "n": 1 })], "{changed}");
        }
        untrack(&mut ana, &topic).await?;
        ensure!(counts(&diff(&mut here).await?.payload) == (0, 1));
        track(&mut ana, &topic, &json!({ "n": 3 })).await?;
        ensure!(counts(&diff(&mut here).await?.payload) == (1, 0));
        let mut later = member(&world, version, &all, &topic, &following("later")).await?;
        ensure!(metas(&state(&mut later).await?, "ana")? == [json!({ "n": 3 })]);
        ensure!(ana.leave(&topic).await?.is_ok());
        ensure!(counts(&diff(&mut here).await?.payload) == (0, 1));
        outside.heartbeat().await?;
        nothing_else(&outside)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_170_a_track_of_who_may_only_read_is_an_error_with_the_reason() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let reading = may(name, "all", "");
        for payload in [following("reader"), private()] {
            let mut reader = member(&world, version, &reading, &topic, &payload).await?;
            for _ in 0..2 {
                let reply = try_track(&mut reader, &topic).await?;
                ensure!(reply.status == "error", "{reply:?}");
                ensure!(reply.response == json!({ "reason": may_not_write(&topic) }), "{reply:?}");
            }
            settled(&mut reader, &topic).await?;
        }
        let all = may(name, "all", "all");
        let mut later = member(&world, version, &all, &topic, &following("later")).await?;
        ensure!(state(&mut later).await? == json!({}), "nobody is there");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_171_policies_for_tracking_are_asked_once() -> Result<()> {
    const ASKED: &str = "case171_write_presence";
    let world = world().await?;
    on_both(async |version| {
        for (write, allowed) in [("all", true), ("", false)] {
            let topic = room_of("case171");
            let claims = may("anon", "all", write);
            let before = asked(&world, ASKED).await?;
            let mut client = member(&world, version, &claims, &topic, &following("key")).await?;
            ensure!(asked(&world, ASKED).await? == before, "not at the join");
            for n in 0..3 {
                let payload = json!({ "event": "track", "payload": { "n": n } });
                ensure!(push(&mut client, &topic, &payload).await?.is_ok() == allowed, "{write}");
            }
            untrack(&mut client, &topic).await?;
            let times = asked(&world, ASKED).await? - before;
            ensure!(times == 1, "asked {times} times for {write:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_172_a_policy_that_fails_is_an_error_to_a_track_and_the_channel_lives() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let all = may("anon", "all", "all");
        let mut writer = member(&world, version, &all, &topic, &following("writer")).await?;
        let failing = asked_raising("write");
        let mut client = member(&world, version, &failing, &topic, &following("client")).await?;
        for _ in 0..2 {
            ensure!(try_track(&mut client, &topic).await?.status == "error");
        }
        track(&mut writer, &topic, &json!({})).await?;
        let joined = diff(&mut client).await?.payload;
        ensure!(joined["joins"].get("writer").is_some() && counts(&joined) == (1, 0), "{joined}");
        ensure!(say(&mut writer, &topic, "mark").await?.is_ok());
        ensure!(heard(&mut client).await? == "mark");
        Ok(())
    })
    .await
}
