//! Channels that policies on `realtime.messages` guard: docs/protocol.md §8.3, §8.4.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::{Handshake, ProtocolClient, ProtocolVersion, Received, Reply};
use walcast_tests::{World, person, role, token, unix_seconds};

const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V1, ProtocolVersion::V2];

/// Topics `room:*` for whoever has the claim; `listen` for reading only; `who` for presence only.
const POLICIES: &str = "
    create policy rooms_read on realtime.messages for select to authenticated
      using (realtime.topic() = 'room:' || (auth.jwt() ->> 'room'));
    create policy rooms_write on realtime.messages for insert to authenticated
      with check (realtime.topic() = 'room:' || (auth.jwt() ->> 'room'));
    create policy listen on realtime.messages for select to authenticated
      using (realtime.topic() = 'listen' and extension in ('broadcast', 'presence'));
    create policy who_read on realtime.messages for select to authenticated
      using (realtime.topic() = 'who' and extension = 'presence');
    create policy who_write on realtime.messages for insert to authenticated
      with check (realtime.topic() = 'who' and extension = 'presence');
    create policy header on realtime.messages for select to authenticated
      using (realtime.topic() = 'header' and current_setting('request.headers', true)::json ->> 'x-door' = 'open');
    create function slow() returns boolean language plpgsql as
      $$ begin return current_setting('realtime.topic', true) = 'asked'; end $$;
    create policy asked on realtime.messages for all to authenticated using (slow());
    create policy broken on realtime.messages for select to anon using (1 / length(realtime.topic()) > length('') / 0);
";

fn member_of(subject: &str, room: &str) -> Value {
    let mut claims = person(subject);
    claims["room"] = room.into();
    claims
}

fn private(presence: bool) -> Value {
    json!({ "config": { "private": true, "broadcast": { "ack": true }, "presence": { "enabled": presence } } })
}

async fn joined(client: &mut ProtocolClient, topic: &str, payload: &Value) -> Result<()> {
    let reply = client.join(topic, payload).await?;
    ensure!(reply.is_ok(), "{topic}: {reply:?}");
    Ok(())
}

async fn refused(client: &mut ProtocolClient, topic: &str) -> Result<String> {
    let reply = client.join(topic, &private(false)).await?;
    ensure!(reply.status == "error", "{topic}: {reply:?}");
    Ok(reply.response["reason"].as_str().unwrap_or_default().to_owned())
}

async fn send(client: &mut ProtocolClient, topic: &str, event: &str) -> Result<Reply> {
    let payload = json!({ "type": "broadcast", "event": event, "payload": { "n": 1 } });
    let reference = client.send(topic, "broadcast", &payload).await?;
    client.reply(&reference).await
}

async fn track(client: &mut ProtocolClient, topic: &str) -> Result<Reply> {
    let payload = json!({ "type": "presence", "event": "track", "payload": { "on": true } });
    let reference = client.send(topic, "presence", &payload).await?;
    client.reply(&reference).await
}

async fn broadcast(client: &mut ProtocolClient, topic: &str) -> Result<Value> {
    Ok(client.expect(|message| message.is(topic, "broadcast")).await?.payload["event"].clone())
}

/// What has arrived of an event and was not expected yet.
fn so_far(client: &ProtocolClient, event: &str) -> Vec<Received> {
    client.unclaimed().filter(|message| message.event == event).cloned().collect()
}

async fn end_of(client: &mut ProtocolClient, topic: &str) -> Result<String> {
    let system =
        client.expect(|message| message.topic == topic && message.system("system").is_some()).await?;
    client.expect(|message| message.is(topic, "phx_close")).await?;
    let (status, message) = system.system("system").unwrap_or_default();
    ensure!(status == "error", "{system:?}");
    Ok(message.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_private_channel_reach_each_other_and_nobody_else_may_join() -> Result<()> {
    let world = World::installed("private_members", POLICIES, |_| {}).await?;
    for version in BOTH {
        let mut ana = world.connect_as(&member_of("ana", "1"), version).await?;
        let mut eva = world.connect_as(&member_of("eva", "1"), version).await?;
        let mut stranger = world.connect_as(&member_of("iker", "2"), version).await?;
        joined(&mut ana, "realtime:room:1", &private(false)).await?;
        joined(&mut eva, "realtime:room:1", &private(false)).await?;
        let reason = refused(&mut stranger, "realtime:room:1").await?;
        ensure!(
            reason == "Unauthorized: You do not have permissions to read from this Channel topic: room:1",
            "{reason}"
        );
        ensure!(send(&mut ana, "realtime:room:1", "hola").await?.is_ok());
        ensure!(broadcast(&mut eva, "realtime:room:1").await? == "hola");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_and_a_public_channel_of_one_name_know_nothing_of_each_other() -> Result<()> {
    let world = World::installed("private_public", POLICIES, |_| {}).await?;
    let (mut inside, mut outside) =
        (world.connect(&member_of("ana", "1")).await?, world.connect(&member_of("eva", "2")).await?);
    let public = json!({ "config": { "broadcast": { "ack": true }, "presence": { "enabled": true } } });
    joined(&mut inside, "realtime:room:1", &private(true)).await?;
    joined(&mut outside, "realtime:room:1", &public).await?;
    ensure!(track(&mut inside, "realtime:room:1").await?.is_ok());
    ensure!(track(&mut outside, "realtime:room:1").await?.is_ok());
    ensure!(send(&mut inside, "realtime:room:1", "secret").await?.is_ok());
    ensure!(send(&mut outside, "realtime:room:1", "open").await?.is_ok());
    // Each is answered behind what it could have been sent before.
    for client in [&mut inside, &mut outside] {
        ensure!(send(client, "realtime:room:1", "mark").await?.is_ok());
        let diffs = so_far(client, "presence_diff");
        ensure!(diffs.len() <= 1, "only its own presence: {diffs:?}");
        let broadcasts = so_far(client, "broadcast");
        ensure!(broadcasts.is_empty(), "{broadcasts:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_receives_and_is_told_that_it_may_not_send() -> Result<()> {
    let world = World::installed("private_read_only", POLICIES, |_| {}).await?;
    let (mut ana, mut eva) = (world.connect(&person("ana")).await?, world.connect(&person("eva")).await?);
    joined(&mut ana, "realtime:listen", &private(false)).await?;
    joined(&mut eva, "realtime:listen", &private(true)).await?;
    for _ in 0..2 {
        let reply = send(&mut ana, "realtime:listen", "x").await?;
        let reason = "Unauthorized: You do not have permissions to write to this Channel topic: listen";
        ensure!(
            (reply.status.as_str(), &reply.response) == ("error", &json!({ "reason": reason })),
            "{reply:?}"
        );
    }
    let reply = track(&mut ana, "realtime:listen").await?;
    ensure!(reply.status == "error", "{reply:?}");
    world.sql("select realtime.send('{\"x\": 1}', 'from the database', 'listen', true)").await?;
    for client in [&mut ana, &mut eva] {
        ensure!(broadcast(client, "realtime:listen").await? == "from the database");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_see_presence_tracks_and_never_gets_a_broadcast() -> Result<()> {
    let world = World::installed("private_presence", POLICIES, |_| {}).await?;
    let (mut ana, mut eva) = (world.connect(&person("ana")).await?, world.connect(&person("eva")).await?);
    joined(&mut ana, "realtime:who", &private(true)).await?;
    let reason = refused(&mut eva, "realtime:who").await?;
    ensure!(reason.starts_with("Unauthorized: "), "without presence it may not even join: {reason}");
    joined(&mut eva, "realtime:who", &private(true)).await?;
    ensure!(track(&mut ana, "realtime:who").await?.is_ok());
    eva.expect(|message| message.event == "presence_diff").await?;
    ensure!(send(&mut ana, "realtime:who", "x").await?.status == "error");
    world.sql("select realtime.send('{}', 'x', 'who', true)").await?;
    world.sql("select realtime.send('{}', 'mark', 'room:9', true)").await?;
    let mut marked = world.connect(&member_of("eva", "9")).await?;
    joined(&mut marked, "realtime:room:9", &private(false)).await?;
    world.sql("select realtime.send('{}', 'mark', 'room:9', true)").await?;
    broadcast(&mut marked, "realtime:room:9").await?;
    ensure!(track(&mut eva, "realtime:who").await?.is_ok());
    ensure!(so_far(&eva, "broadcast").is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_see_the_headers_of_the_handshake() -> Result<()> {
    let world = World::installed("private_headers", POLICIES, |_| {}).await?;
    for (door, opens) in [("open", true), ("shut", false)] {
        let mut handshake = Handshake::new(&world.websocket(), &token(&person("ana")), ProtocolVersion::V2);
        handshake.headers.push(("X-Door".to_owned(), door.to_owned()));
        let mut client = handshake.connect().await?;
        let reply = client.join("realtime:header", &private(false)).await?;
        ensure!(reply.is_ok() == opens, "{door}: {reply:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_only_postgres_can_decide_decides_and_leaves_no_row() -> Result<()> {
    let world = World::installed("private_asked", POLICIES, |_| {}).await?;
    let mut client = world.connect(&person("ana")).await?;
    joined(&mut client, "realtime:asked", &private(true)).await?;
    ensure!(send(&mut client, "realtime:asked", "x").await?.is_ok());
    ensure!(track(&mut client, "realtime:asked").await?.is_ok());
    let rows: i64 = world.client.query_one("select count(*) from realtime.messages", &[]).await?.get(0);
    ensure!(rows == 0, "{rows} rows were left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_raises_and_a_role_that_does_not_exist_admit_nobody() -> Result<()> {
    let world = World::installed("private_raises", POLICIES, |_| {}).await?;
    for claims in [role("anon"), role("nobody_knows_it")] {
        let mut client = world.connect(&claims).await?;
        let reason = refused(&mut client, "realtime:room:1").await?;
        ensure!(
            reason == "Unauthorized: You do not have permissions to read from this Channel topic: room:1",
            "{claims}: {reason}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_that_may_not_read_any_more_ends_the_channel_and_one_that_may_keeps_it() -> Result<()> {
    let world = World::installed("private_tokens", POLICIES, |_| {}).await?;
    let mut client = world.connect(&member_of("ana", "1")).await?;
    joined(&mut client, "realtime:room:1", &private(false)).await?;
    ensure!(send(&mut client, "realtime:room:1", "x").await?.is_ok());
    let renewed = token(&json!({ "role": "authenticated", "room": "1", "exp": unix_seconds() + 7_200 }));
    client.send("realtime:room:1", "access_token", &json!({ "access_token": renewed })).await?;
    ensure!(send(&mut client, "realtime:room:1", "y").await?.is_ok());
    let moved = token(&member_of("ana", "2"));
    client.send("realtime:room:1", "access_token", &json!({ "access_token": moved })).await?;
    let message = end_of(&mut client, "realtime:room:1").await?;
    ensure!(message == "You do not have permissions to read from this Channel topic: room:1", "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_dropped_ends_the_channels_it_had_opened() -> Result<()> {
    let world = World::installed("private_dropped", POLICIES, |_| {}).await?;
    let mut ana = world.connect(&member_of("ana", "1")).await?;
    let mut eva = world.connect(&person("eva")).await?;
    joined(&mut ana, "realtime:room:1", &private(false)).await?;
    joined(&mut eva, "realtime:listen", &private(true)).await?;
    ensure!(send(&mut ana, "realtime:room:1", "x").await?.is_ok());
    world.sql("drop policy rooms_write on realtime.messages").await?;
    world.sql("drop policy rooms_read on realtime.messages").await?;
    let message = end_of(&mut ana, "realtime:room:1").await?;
    ensure!(message == "You do not have permissions to read from this Channel topic: room:1", "{message}");
    world.sql("alter policy listen on realtime.messages using (realtime.topic() = 'listen' and extension = 'presence')").await?;
    let message = end_of(&mut eva, "realtime:listen").await?;
    ensure!(message == "You no longer have permission to read from this Channel topic: listen", "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_messages_are_replayed_to_whoever_may_read_them() -> Result<()> {
    let world = World::installed("private_replay", POLICIES, |_| {}).await?;
    for n in 1..=5 {
        world.sql(&format!("select realtime.send('{{\"n\": {n}}}', 'stored', 'listen', true)")).await?;
    }
    let mut client = world.connect(&person("ana")).await?;
    let mut payload = private(false);
    payload["config"]["broadcast"]["replay"] = json!({ "since": (unix_seconds() - 60) * 1000, "limit": 3 });
    joined(&mut client, "realtime:listen", &payload).await?;
    for n in 3..=5 {
        let message = client.expect(|message| message.event == "broadcast").await?.payload;
        ensure!(message["payload"]["n"] == n && message["meta"]["replayed"] == true, "{message}");
    }
    let mut presence_only = world.connect(&person("eva")).await?;
    payload["config"]["presence"]["enabled"] = true.into();
    let reply = presence_only.join("realtime:who", &payload).await?;
    ensure!(reply.status == "error", "{reply:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_table_a_private_join_says_what_to_install() -> Result<()> {
    let world = World::with_sql("private_missing", "create publication supabase_realtime").await?;
    let mut client = world.connect(&person("ana")).await?;
    let reason = refused(&mut client, "realtime:room:1").await?;
    ensure!(reason.contains("walcast install"), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_for_private_channels_only_takes_no_public_ones() -> Result<()> {
    let world =
        World::installed("private_only", POLICIES, |settings| settings.project.limits.private_only = true)
            .await?;
    let mut client = world.connect(&person("ana")).await?;
    let reply = client.join("realtime:listen", &json!({ "config": {} })).await?;
    let reason = "PrivateOnly: This project only allows private channels";
    ensure!(reply.response == json!({ "reason": reason }), "{reply:?}");
    joined(&mut client, "realtime:listen", &private(false)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_about_to_expire_is_announced_and_then_ends_the_channel() -> Result<()> {
    let world = World::installed("private_expiry", POLICIES, |settings| {
        settings.project.limits.token_expiry_notice = Duration::from_secs(2);
    })
    .await?;
    let mut claims = member_of("ana", "1");
    claims["exp"] = (unix_seconds() + 4).into();
    let mut client = world.connect(&claims).await?;
    joined(&mut client, "realtime:room:1", &private(false)).await?;
    let notice = client.expect(|message| message.system("system").is_some()).await?;
    let (status, message) = notice.system("system").unwrap_or_default();
    ensure!(status == "ok" && message.starts_with("Token expires in 2 seconds"), "{notice:?}");
    let message = end_of(&mut client, "realtime:room:1").await?;
    ensure!(message.starts_with("Token has expired"), "{message}");
    Ok(())
}
