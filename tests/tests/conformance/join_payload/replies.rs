//! Cases 38 to 40 and 45 to 48: the reply to a join, and pushes and joins behind it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database, ProtocolClient, ProtocolVersion};
use walcast_tests::{World, binding, role};

use crate::scene::{
    acknowledged, connect, is_joined, join, member, next_broadcast, nothing_else, on_both, refused, room,
    world,
};

#[tokio::test(flavor = "multi_thread")]
async fn case_038_the_reply_lists_each_binding_with_an_id_in_their_order() -> Result<()> {
    let world = world().await?;
    let bindings = [
        json!({ "event": "INSERT", "schema": "public", "table": "case_038" }),
        json!({ "event": "*", "schema": "public" }),
        json!({ "event": "update", "table": "case_038", "filter": "id=eq.1", "extra": [1, null] }),
        json!({ "event": "DELETE", "schema": "public", "table": "case_038", "select": ["id"] }),
    ];
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        let listed = join(&mut client, &room(), &json!({ "postgres_changes": bindings })).await?;
        let mut ids = Vec::new();
        for (sent, mut got) in bindings.iter().zip(listed.clone()) {
            let id = got.as_object_mut().and_then(|entry| entry.remove("id")).context("an id")?;
            ids.push(id.as_i64().context("a number")?);
            ensure!(*sent == got, "sent {sent}, got {got}");
        }
        ensure!(listed.len() == bindings.len());
        ids.sort_unstable();
        ids.dedup();
        ensure!(ids.len() == bindings.len(), "different bindings have different ids");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_039_the_reply_has_an_empty_list_without_bindings() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        for config in [json!({}), json!({ "postgres_changes": [] })] {
            let reply = client.join(&room(), &json!({ "config": config })).await?;
            ensure!(reply.response == json!({ "postgres_changes": [] }), "{}", reply.response);
        }
        client.heartbeat().await?;
        nothing_else(&client)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_040_the_same_binding_twice_has_the_same_id_twice() -> Result<()> {
    let world = world().await?;
    let sent = binding("*", "case_040");
    let mut all = Vec::new();
    for version in crate::scene::BOTH {
        let mut client = connect(&world, version).await?;
        let other_order: Value =
            serde_json::from_str(r#"{"table":"case_040","event":"*","schema":"public"}"#)?;
        let config = json!({ "postgres_changes": [sent, sent, other_order] });
        let listed = join(&mut client, &room(), &config).await?;
        all.extend(listed.iter().map(|entry| entry["id"].clone()));
    }
    ensure!(all.len() == 6 && all.iter().all(|id| *id == all[0]), "{all:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_045_a_join_that_needs_the_database_while_it_is_away_is_refused_and_another_is_not() -> Result<()>
{
    let cluster = Cluster::start(test_settings()).await?;
    let database = Database::create(&cluster, "conformance_045").await?;
    let tables = "create table notes (id int primary key); grant select on notes to authenticated;
        create publication supabase_realtime for table notes";
    let world = World::in_database(database, tables, |_| {}).await?;
    cluster.stop().await?;
    on_both(async |version| {
        // A role whose rights nobody has asked about yet.
        let mut client = world.connect_as(&role("never_seen"), version).await?;
        client.set_deadline(std::time::Duration::from_mins(1));
        let payload = json!({ "config": { "postgres_changes": [binding("*", "notes")] } });
        let reason = refused(&mut client, &room(), &payload).await?;
        let expected = "UnableToConnectToProject: Realtime was unable to connect to the project database";
        ensure!(reason == expected, "{reason}");
        let topic = room();
        join(&mut client, &topic, &json!({ "broadcast": { "ack": true } })).await?;
        acknowledged(&mut client, &topic).await
    })
    .await?;
    // The database goes with its cluster, and is up again to be removed.
    cluster.start_again().await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_046_an_unknown_push_is_ignored() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut client = member(&world, version, &topic, &json!({ "broadcast": { "ack": true } })).await?;
        for event in ["unknown", "phx_close", "postgres_changes", "system", ""] {
            client.send(&topic, event, &json!({ "x": 1 })).await?;
        }
        acknowledged(&mut client, &topic).await?;
        nothing_else(&client)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_047_a_push_with_a_stale_or_null_join_ref_is_still_processed() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let config = json!({ "broadcast": { "ack": true, "self": true }, "presence": { "enabled": true } });
        let mut client = member(&world, version, &topic, &config).await?;
        for (number, stale) in [json!(null), json!("0"), json!("stale")].into_iter().enumerate() {
            let mut push = async |reference: &str, event: &str, payload: Value| {
                let frame = version.encode(&stale, &reference.into(), &topic, event, &payload);
                client.send_text(&frame).await?;
                client.expect(|message| message.event == "phx_reply" && message.reference == reference).await
            };
            let acknowledgement = push("b", "broadcast", json!({ "event": "e", "number": number })).await?;
            let tracked =
                push("t", "presence", json!({ "event": "track", "payload": { "number": number } })).await?;
            for reply in [acknowledgement, tracked] {
                ensure!(reply.payload["status"] == "ok", "{stale}: {:?}", reply.raw);
                // The channel's own, whatever the push had.
                ensure!(version == ProtocolVersion::V1 || reply.join_ref == "1", "{:?}", reply.raw);
            }
            ensure!(next_broadcast(&mut client).await?.payload["number"] == number);
            let diff = client.expect(|message| message.event == "presence_diff").await?;
            ensure!(diff.payload["joins"].as_object().is_some_and(|joins| joins.len() == 1));
        }
        Ok(())
    })
    .await
}

/// Joins a topic a second time, under the `join_ref` `second`.
async fn join_again(client: &mut ProtocolClient, version: ProtocolVersion, topic: &str) -> Result<()> {
    let (second, config) = (Value::from("second"), json!({ "config": { "broadcast": { "ack": true } } }));
    client.send_text(&version.encode(&second, &second, topic, "phx_join", &config)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_048_a_second_join_replaces_the_channel_and_a_leave_of_the_first_is_ignored() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut other = member(&world, version, &topic, &json!({})).await?;
        let mut client =
            member(&world, version, &topic, &json!({ "broadcast": { "self": true, "ack": true } })).await?;
        join_again(&mut client, version, &topic).await?;
        ensure!(client.reply("second").await?.is_ok());
        // Case 294 is about when it comes.
        if version == ProtocolVersion::V2 {
            let close = client.expect(|message| message.event == "phx_close").await?;
            ensure!((close.join_ref, close.reference) == (json!("1"), json!("1")));
        }
        let stale = version.encode(&json!("1"), &json!("stale"), &topic, "phx_leave", &json!({}));
        client.send_text(&stale).await?;
        let send =
            version.encode(&json!("second"), &json!("b"), &topic, "broadcast", &json!({ "event": "mine" }));
        client.send_text(&send).await?;
        let reply =
            client.expect_before(|message| message.reference == "b", |m| m.reference == "stale").await?;
        ensure!(reply.payload["status"] == "ok");
        ensure!(is_joined(&mut client, &topic).await?);
        nothing_else(&client)
            .context("the options are those of the second join, and the leave is not answered")?;
        other.send(&topic, "broadcast", &json!({ "event": "hers" })).await?;
        ensure!(next_broadcast(&mut client).await?.payload["event"] == "hers");
        client.heartbeat().await?;
        nothing_else(&client).context("once, not for each join")
    })
    .await
}
