//! Broadcasts that a client has missed while its connection was lost, with `resume.broadcasts` (docs/protocol.md §5.7).

use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion};
use walcast_tests::{World, binding, person, token};

const TOPIC: &str = "realtime:room";

/// Everybody may do everything in private rooms, but to hear takes a claim.
const SETTING: &str = "
    create policy hear on realtime.messages for select to authenticated
      using (extension = 'presence' or auth.jwt() ->> 'hear' = 'yes');
    create policy speak on realtime.messages for insert to authenticated with check (true);
    create table notes (id int primary key);
    grant select on notes to authenticated;
    alter publication supabase_realtime add table notes;
";

async fn world(name: &str) -> Result<World> {
    World::installed(name, SETTING, on).await
}

fn on(settings: &mut ServeSettings) {
    settings.project.engine.resume.broadcast_bytes_max = NonZeroUsize::new(1 << 20);
}

fn hearing(subject: &str) -> Value {
    let mut claims = person(subject);
    claims["hear"] = "yes".into();
    claims
}

fn public() -> Value {
    json!({ "config": { "broadcast": { "ack": true } } })
}

fn private() -> Value {
    json!({ "config": { "private": true, "broadcast": { "ack": true }, "presence": { "enabled": true } } })
}

/// A client that has counted its messages so far in earlier connections, and joins now.
async fn counting(world: &World, claims: &Value, count: u64, join: &Value) -> Result<ProtocolClient> {
    joined(world, claims, count, join, ProtocolVersion::V2).await
}

async fn joined(
    world: &World,
    claims: &Value,
    count: u64,
    join: &Value,
    version: ProtocolVersion,
) -> Result<ProtocolClient> {
    let mut client = world.connect_as(claims, version).await?;
    client.count_on_from(count);
    let reply = client.join(TOPIC, join).await?;
    ensure!(reply.is_ok(), "{reply:?}");
    Ok(client)
}

/// Sends a numbered broadcast, which is acknowledged once it is on its way to all.
async fn send(client: &mut ProtocolClient, number: i64) -> Result<()> {
    let payload = json!({ "type": "broadcast", "event": "e", "payload": { "n": number } });
    let reference = client.send(TOPIC, "broadcast", &payload).await?;
    ensure!(client.reply(&reference).await?.is_ok(), "broadcast {number}");
    Ok(())
}

/// The numbers of the broadcasts up to this one, which comes last.
async fn numbers_until(client: &mut ProtocolClient, last: i64) -> Result<Vec<i64>> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let message = client.expect(|message| message.is(TOPIC, "broadcast")).await;
        let message = message.with_context(|| format!("{numbers:?}, and not {last}"))?;
        numbers.push(message.payload["payload"]["n"].as_i64().context("a number")?);
    }
    Ok(numbers)
}

/// How many broadcasts have come up to now: what a join brings is there before anything that is answered later.
async fn so_far(client: &mut ProtocolClient) -> Result<usize> {
    client.heartbeat().await?;
    Ok(client.unclaimed().filter(|message| message.event == "broadcast").count())
}

/// Each once and in order, and before them none but some of those that had come already.
fn ensure_all(numbers: &[i64], seen: i64, last: i64) -> Result<()> {
    let first = *numbers.first().context("nothing came")?;
    let expected: Vec<i64> = (first..=last).collect();
    ensure!(first <= seen + 1 && numbers == expected, "those behind {seen} up to {last}: {numbers:?}");
    Ok(())
}

/// Loses a connection, and waits until the server knows it.
async fn lose(world: &World, client: ProtocolClient) -> Result<()> {
    let left = world.metric("walcast_resume_tickets_left_total").await?;
    drop(client);
    world.until_metric("walcast_resume_tickets_left_total", left + 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_gets_what_it_has_missed_once_and_before_what_is_new_and_a_fresh_page_nothing()
-> Result<()> {
    for (name, version) in [("missed_v1", ProtocolVersion::V1), ("missed_v2", ProtocolVersion::V2)] {
        let world = world(name).await?;
        // One on each shard: what both have got has been everywhere.
        let mut ana = counting(&world, &person("ana"), 0, &public()).await?;
        let mut eva = counting(&world, &person("eva"), 0, &public()).await?;
        let mut bo = joined(&world, &person("bo"), 0, &public(), version).await?;
        send(&mut ana, 1).await?;
        numbers_until(&mut bo, 1).await?;
        lose(&world, bo).await?;

        send(&mut ana, 2).await?;
        let batch = json!({ "messages": [{ "topic": "room", "event": "e", "payload": { "n": 3 } }] });
        let sent = world.request_as(&token(&person("ana")), "POST", "/api/broadcast", &batch).await?;
        ensure!(sent.status == 202, "{sent:?}");
        world.sql(r#"select realtime.send('{"n": 4}', 'e', 'room', false)"#).await?;
        numbers_until(&mut ana, 4).await?;
        numbers_until(&mut eva, 4).await?;

        let mut fresh = Vec::new();
        for (who, count) in [("bo", 0), ("iker", 900)] {
            fresh.push((who, counting(&world, &person(who), count, &public()).await?));
        }
        send(&mut ana, 5).await?;
        for (who, mut client) in fresh {
            ensure!(numbers_until(&mut client, 5).await? == [5], "{who}");
            client.close().await?;
        }
        // Only then is it certain who comes back.
        world.until_metric("walcast_ws_connections_active", 2).await?;

        let mut back = joined(&world, &person("bo"), 9, &public(), version).await?;
        send(&mut ana, 6).await?;
        ensure_all(&numbers_until(&mut back, 6).await?, 1, 6)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_channel_gets_them_if_it_may_hear_them_now() -> Result<()> {
    let world = world("missed_private").await?;
    let mut ana = counting(&world, &hearing("ana"), 0, &private()).await?;
    let mut other_room = counting(&world, &hearing("ana"), 0, &public()).await?;
    let bo = counting(&world, &hearing("bo"), 0, &private()).await?;
    lose(&world, bo).await?;
    send(&mut ana, 1).await?;
    send(&mut other_room, 77).await?;
    let mut back = counting(&world, &hearing("bo"), 9, &private()).await?;
    send(&mut ana, 2).await?;
    ensure!(numbers_until(&mut back, 2).await? == [1, 2], "those of the private topic alone");
    lose(&world, back).await?;
    send(&mut ana, 3).await?;
    let mut deaf = counting(&world, &person("bo"), 19, &private()).await?;
    ensure!(so_far(&mut deaf).await? == 0);
    ensure!(world.metric("walcast_resume_tickets_redeemed_total").await? == 2, "it was the same client");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_do_not_come_back_unless_it_asked_for_its_own() -> Result<()> {
    let world = world("missed_own").await?;
    let mut ana = counting(&world, &person("ana"), 0, &public()).await?;
    let own = json!({ "config": { "broadcast": { "ack": true, "self": true } } });
    for (join, who, expected) in [(public(), "bo", vec![3, 4]), (own, "eva", vec![1, 2, 3, 4])] {
        let mut first = counting(&world, &person(who), 0, &join).await?;
        send(&mut first, 1).await?;
        lose(&world, first).await?;
        let mut second = counting(&world, &person(who), 9, &join).await?;
        send(&mut second, 2).await?;
        lose(&world, second).await?;
        send(&mut ana, 3).await?;
        let mut third = counting(&world, &person(who), 19, &join).await?;
        send(&mut ana, 4).await?;
        let numbers = numbers_until(&mut third, 4).await?;
        ensure!(numbers.ends_with(&expected) && (who == "eva" || numbers == expected), "{who}: {numbers:?}");
        third.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_nobody_reads_any_more_is_gone_on_from_before_it_is_known_to_be_lost() -> Result<()> {
    let world = world("missed_silent").await?;
    let mut ana = counting(&world, &person("ana"), 0, &public()).await?;
    let mut dead = counting(&world, &person("bo"), 0, &public()).await?;
    send(&mut ana, 1).await?;
    numbers_until(&mut dead, 1).await?;
    // From here on it answers nothing.
    send(&mut ana, 2).await?;
    send(&mut ana, 3).await?;
    let mut back = counting(&world, &person("bo"), 5, &public()).await?;
    send(&mut ana, 4).await?;
    ensure_all(&numbers_until(&mut back, 4).await?, 1, 4)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_with_bindings_gets_rows_and_broadcasts() -> Result<()> {
    let world = world("missed_both").await?;
    let mut ana = counting(&world, &person("ana"), 0, &public()).await?;
    let insert = [binding("INSERT", "notes")];
    let mut bo = world.connect(&person("bo")).await?;
    bo.join_changes(TOPIC, &insert).await?;
    lose(&world, bo).await?;
    send(&mut ana, 1).await?;
    world.sql("insert into notes values (7)").await?;
    let mut back = world.connect(&person("bo")).await?;
    back.count_on_from(9);
    back.join_changes(TOPIC, &insert).await?;
    let row = back.expect(|message| message.is(TOPIC, "postgres_changes")).await?;
    ensure!(row.payload["data"]["record"]["id"] == 7, "{row:?}");
    send(&mut ana, 2).await?;
    ensure!(numbers_until(&mut back, 2).await? == [1, 2]);
    ensure!(world.metric("walcast_resume_broadcasts_total").await? == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_not_turned_on_nobody_gets_any() -> Result<()> {
    let world = World::installed("missed_off", SETTING, |_| {}).await?;
    let mut ana = counting(&world, &person("ana"), 0, &public()).await?;
    let bo = counting(&world, &person("bo"), 0, &public()).await?;
    drop(bo);
    world.until_metric("walcast_ws_connections_active", 1).await?;
    send(&mut ana, 1).await?;
    let mut back = counting(&world, &person("bo"), 9, &public()).await?;
    ensure!(so_far(&mut back).await? == 0);
    ensure!(world.metric("walcast_resume_tickets_left_total").await? == 0);
    Ok(())
}
