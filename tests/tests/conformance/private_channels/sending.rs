//! Cases 95, 96, 98, 102, 107, 115, 121 and 122: who may send, and whom it reaches.

use anyhow::{Result, ensure};
use serde_json::json;
use walcast_testkit::ProtocolVersion;
use walcast_tests::World;

use super::{
    asked, asked_raising, following, heard, may, may_not_write, member, on_all, private, renew, room_of, say,
    world,
};
use crate::presence::{diff, track};
use crate::scene::{nothing_else, on_both, room, sub_topic};

/// Stores a message for a private channel, which reaches whoever may read it.
async fn store(world: &World, topic: &str, event: &str) -> Result<()> {
    let sql = "select realtime.send('{}', $1, $2, true)";
    world.client.execute(sql, &[&event, &sub_topic(topic)]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_095_who_may_only_read_receives_and_what_it_sends_is_dropped_which_an_ack_tells() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let reading = may(name, "broadcast", "");
        let mut writer = member(&world, version, &may(name, "all", "all"), &topic, &private()).await?;
        let mut asking = member(&world, version, &reading, &topic, &private()).await?;
        let without_ack = json!({ "config": { "private": true } });
        let mut silent = member(&world, version, &reading, &topic, &without_ack).await?;
        for _ in 0..2 {
            silent.send(&topic, "broadcast", &json!({ "event": "dropped" })).await?;
            silent.heartbeat().await?;
            let reply = say(&mut asking, &topic, "dropped").await?;
            ensure!(reply.status == "error", "{reply:?}");
            ensure!(reply.response == json!({ "reason": may_not_write(&topic) }), "{reply:?}");
        }
        ensure!(say(&mut writer, &topic, "sent").await?.is_ok());
        store(&world, &topic, "stored").await?;
        ensure!(heard(&mut writer).await? == "stored", "nothing of the others, and not its own");
        for reader in [&mut asking, &mut silent] {
            ensure!(heard(reader).await? == "sent");
            ensure!(heard(reader).await? == "stored");
            reader.heartbeat().await?;
            nothing_else(reader)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_096_whether_it_may_send_is_asked_at_the_first_message_and_remembered() -> Result<()> {
    const ASKED: &str = "case96_write_broadcast";
    let world = world().await?;
    on_both(async |version| {
        for (write, allowed) in [("all", true), ("", false)] {
            let topic = room_of("case96");
            let claims = may("anon", "all", write);
            let before = asked(&world, ASKED).await?;
            let mut client = member(&world, version, &claims, &topic, &private()).await?;
            ensure!(asked(&world, ASKED).await? == before, "not at the join");
            for _ in 0..3 {
                ensure!(say(&mut client, &topic, "e").await?.is_ok() == allowed, "{write}");
            }
            let times = asked(&world, ASKED).await? - before;
            ensure!(times == 1, "asked {times} times for {write:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_098_a_new_token_has_the_right_to_send_asked_anew() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let (reading, writing) = (may(name, "all", ""), may(name, "all", "broadcast"));
        let mut client = member(&world, version, &reading, &topic, &private()).await?;
        ensure!(!say(&mut client, &topic, "e").await?.is_ok());
        renew(&mut client, &topic, &writing).await?;
        ensure!(say(&mut client, &topic, "e").await?.is_ok(), "what was denied is allowed");
        renew(&mut client, &topic, &reading).await?;
        ensure!(!say(&mut client, &topic, "e").await?.is_ok(), "what was allowed is denied");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_102_a_member_of_presence_alone_joins_and_tracks_and_never_sees_a_broadcast() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let all = may(name, "all", "all");
        let mut writer = member(&world, version, &all, &topic, &following("writer")).await?;
        let claims = may(name, "presence", "presence");
        let mut present = member(&world, version, &claims, &topic, &following("present")).await?;
        track(&mut present, &topic, &json!({})).await?;
        ensure!(diff(&mut writer).await?.payload["joins"].get("present").is_some());
        ensure!(!say(&mut present, &topic, "e").await?.is_ok(), "nor sends one");
        ensure!(say(&mut writer, &topic, "sent").await?.is_ok());
        store(&world, &topic, "stored").await?;
        ensure!(heard(&mut writer).await? == "stored");
        // A presence behind them.
        track(&mut writer, &topic, &json!({})).await?;
        while diff(&mut present).await?.payload["joins"].get("writer").is_none() {}
        ensure!(present.unclaimed().all(|message| message.event != "broadcast"), "it saw a broadcast");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_107_what_policies_are_asked_with_is_not_stored_and_reaches_nobody() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let all = may(name, "all", "all");
        let mut listener = member(&world, version, &all, &topic, &private()).await?;
        let public = json!({ "config": {} });
        let mut outside = member(&world, version, &all, &topic, &public).await?;
        let mut client = member(&world, version, &all, &topic, &following("client")).await?;
        track(&mut client, &topic, &json!({})).await?;
        ensure!(say(&mut client, &topic, "said").await?.is_ok());
        let sql = "select count(*) from realtime.messages where topic = $1";
        let rows: i64 = world.client.query_one(sql, &[&sub_topic(&topic)]).await?.get(0);
        ensure!(rows == 0, "{rows} rows were left");
        // A row that is stored comes through the log behind them.
        store(&world, &topic, "stored").await?;
        ensure!(heard(&mut listener).await? == "said");
        for member in [&mut listener, &mut client] {
            ensure!(heard(member).await? == "stored");
        }
        world.client.execute("select realtime.send('{}', 'open', $1, false)", &[&sub_topic(&topic)]).await?;
        ensure!(heard(&mut outside).await? == "open");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_115_a_private_and_a_public_channel_of_one_name_know_nothing_of_each_other() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        for topic in [room(), room_of("a:b::c:")] {
            let all = may(name, "all", "all");
            let mut public = private();
            public["config"]["private"] = false.into();
            let mut inside = member(&world, version, &all, &topic, &private()).await?;
            let mut secret = member(&world, version, &all, &topic, &private()).await?;
            let mut outside = member(&world, version, &all, &topic, &public).await?;
            let mut open = member(&world, version, &all, &topic, &public).await?;
            ensure!(say(&mut inside, &topic, "secret").await?.is_ok());
            ensure!(say(&mut outside, &topic, "open").await?.is_ok());
            ensure!(heard(&mut secret).await? == "secret");
            ensure!(heard(&mut open).await? == "open");
            // Each hears the answer of its neighbour next, and nothing in between.
            ensure!(say(&mut secret, &topic, "answer").await?.is_ok());
            ensure!(say(&mut open, &topic, "answer").await?.is_ok());
            for client in [&mut inside, &mut outside] {
                ensure!(heard(client).await? == "answer", "{topic}");
            }
            for client in [&mut inside, &mut secret, &mut outside, &mut open] {
                client.heartbeat().await?;
                nothing_else(client)?;
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_121_what_may_not_be_sent_is_delivered_to_nobody() -> Result<()> {
    let world = world().await?;
    on_all(async |version, name| {
        let topic = room();
        let all = may(name, "all", "all");
        let mut listeners = Vec::new();
        for version in crate::scene::BOTH {
            listeners.push(member(&world, version, &all, &topic, &private()).await?);
        }
        // To be present is no right to broadcast.
        for write in ["", "presence"] {
            let claims = may(name, "all", write);
            let mut denied = member(&world, version, &claims, &topic, &private()).await?;
            ensure!(!say(&mut denied, &topic, "denied").await?.is_ok());
            if version == ProtocolVersion::V2 {
                for (is_json, content) in [(true, &b"{}"[..]), (false, b"\x00\xff")] {
                    let reference = denied.user_broadcast(&topic, "denied", is_json, content).await?;
                    ensure!(!denied.reply(&reference).await?.is_ok());
                }
            }
        }
        let mut writer = member(&world, version, &all, &topic, &private()).await?;
        ensure!(say(&mut writer, &topic, "allowed").await?.is_ok());
        for listener in &mut listeners {
            ensure!(heard(listener).await? == "allowed");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_122_an_error_of_the_database_drops_what_was_to_be_sent_and_the_channel_lives() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let all = may("anon", "all", "all");
        let mut writer = member(&world, version, &all, &topic, &private()).await?;
        let mut client = member(&world, version, &asked_raising("write"), &topic, &private()).await?;
        for _ in 0..2 {
            let reply = say(&mut client, &topic, "failed").await?;
            ensure!(reply.status == "error", "{reply:?}");
            ensure!(reply.response == json!({ "reason": may_not_write(&topic) }), "{reply:?}");
        }
        ensure!(say(&mut writer, &topic, "sent").await?.is_ok());
        ensure!(heard(&mut client).await? == "sent");
        renew(&mut client, &topic, &all).await?;
        ensure!(say(&mut client, &topic, "later").await?.is_ok());
        ensure!(heard(&mut writer).await? == "later", "what failed was not delivered");
        Ok(())
    })
    .await
}
