//! Cases 294 to 296 and 299: what clients rely on and the reference server's own tests do not ask.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::ProtocolVersion;
use walcast_tests::{World, binding, role};

use crate::changes::with;
use crate::private_channels::{Door, world_with_door};
use crate::scene::{
    acknowledged, connect, member, next_broadcast, nothing_else, on_both, refused, room, world,
};

#[tokio::test(flavor = "multi_thread")]
async fn case_294_no_late_close_ends_the_channel_that_a_second_join_has_made() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut other = member(&world, version, &topic, &json!({ "broadcast": { "ack": true } })).await?;
        let mut client = member(&world, version, &topic, &json!({})).await?;
        let (second, config) = (Value::from("second"), json!({ "config": { "broadcast": { "ack": true } } }));
        client.send_text(&version.encode(&second, &second, &topic, "phx_join", &config)).await?;
        let reply = client.next().await?;
        ensure!(reply.reference == "second" && reply.payload["status"] == "ok", "{:?}", reply.raw);
        if version == ProtocolVersion::V2 {
            // These clients compare: the close is that of the first join, right behind the reply.
            let close = client.next().await?;
            ensure!(close.event == "phx_close" && close.reference == "1" && close.join_ref == "1");
        }
        acknowledged(&mut other, &topic).await?;
        // Version 1 hears of no close, before or after.
        ensure!(client.next().await?.is(&topic, "broadcast"), "the channel lives");
        client.heartbeat().await?;
        nothing_else(&client)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_295_the_join_reply_has_no_key_that_was_not_sent_but_the_id() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        let bindings = [
            json!({ "event": "*", "schema": "public", "table": "case_295" }),
            json!({ "event": "INSERT", "schema": "public" }),
            json!({ "event": "UPDATE", "schema": "public", "table": "case_295", "filter": "id=eq.1" }),
        ];
        let payload = json!({ "config": { "postgres_changes": bindings } });
        let reply = client.join(&room(), &payload).await?;
        let keys: Vec<_> = reply.response.as_object().context("an object")?.keys().collect();
        ensure!(keys == ["postgres_changes"], "{keys:?}");
        let listed = reply.response["postgres_changes"].as_array().context("a list")?;
        for (sent, got) in bindings.iter().zip(listed) {
            for (key, value) in got.as_object().context("an object")? {
                let known = ["event", "schema", "table", "filter", "id"].contains(&key.as_str());
                ensure!(known && !value.is_null(), "Kotlin does not read {key}: {value}");
                ensure!(key == "id" || sent.get(key) == Some(value), "{key} was not sent");
            }
            let length = |entry: &Value| entry.as_object().map_or(0, serde_json::Map::len);
            ensure!(got["id"].is_i64() && length(got) == length(sent) + 1, "{got}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_296_a_heartbeat_is_answered_while_another_join_waits() -> Result<()> {
    let never = |settings: &mut ServeSettings| {
        settings.project.limits.channel_error_backoff = Duration::from_mins(10);
    };
    let world = World::with_settings("conformance_296", "", never).await?;
    on_both(async |version| {
        let (slow, topic) = (room(), room());
        let mut client = connect(&world, version).await?;
        // Refused, and the answer waits for the backoff.
        client.send(&slow, "phx_join", &json!([])).await?;
        for _ in 0..3 {
            client.heartbeat().await?;
        }
        let reply =
            client.join(&topic, &json!({ "config": { "broadcast": { "ack": true, "self": true } } })).await?;
        ensure!(reply.is_ok(), "another topic is joined meanwhile");
        acknowledged(&mut client, &topic).await?;
        next_broadcast(&mut client).await?;
        nothing_else(&client).context("the slow join has been answered")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_299_a_waiting_join_is_answered_when_its_bindings_stand_or_with_what_is_wrong_with_them()
-> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let waiting = |bindings: Value| {
            json!({ "config": { "postgres_changes": bindings,
                "postgres_changes_options": { "wait": true, "timeout": 5_000 } } })
        };
        let mut client = connect(&world, version).await?;
        let topic = room();
        let reply = client.join(&topic, &waiting(json!([binding("INSERT", "case_299")]))).await?;
        ensure!(reply.is_ok(), "{}", reply.response);
        // The reply alone is enough: no other message is waited for.
        world.sql("insert into case_299 values (1); delete from case_299").await?;
        let change = client.expect(|message| message.event == "postgres_changes").await?;
        ensure!(change.payload["data"]["record"]["id"] == 1);
        let told = client.expect(|message| message.system("postgres_changes").is_some()).await?;
        ensure!(
            told.system("postgres_changes") == Some(("ok", "Subscribed to PostgreSQL")),
            "{:?}",
            told.raw
        );
        let wrong = waiting(json!([with("case_299", "filter", "nope=eq.1")]));
        let reason = refused(&mut client, &room(), &wrong).await?;
        ensure!(reason.starts_with("RealtimeDisabledForConfiguration: Unable to subscribe"), "{reason}");
        ensure!(reason.contains("invalid column for filter nope"), "{reason}");
        // Without bindings there is nothing to wait for.
        let reply = client.join(&room(), &waiting(json!([]))).await?;
        ensure!(reply.is_ok(), "{}", reply.response);
        Ok(())
    })
    .await?;
    timed_out().await
}

/// A join whose bindings do not stand in time, because the only connection to the database is taken.
async fn timed_out() -> Result<()> {
    let world = world_with_door("conformance_299", Duration::from_secs(5), |settings| {
        settings.project.database.pool_size = 1;
        settings.project.catalog_poll = Duration::from_mins(10);
        settings.project.janitor.enabled = Some(false);
    })
    .await?;
    for (version, unknown_yet) in
        [(ProtocolVersion::V1, "authenticated"), (ProtocolVersion::V2, "service_role")]
    {
        let mut taking = world.connect_as(&role("anon"), version).await?;
        let door = Door::shut(&world).await?;
        let (topic, payload) = (room(), json!({ "config": { "private": true } }));
        let reference = taking.send(&topic, "phx_join", &payload).await?;
        door.somebody_waits().await?;
        // A role that is not known has to be asked for.
        let mut client = world.connect_as(&role(unknown_yet), version).await?;
        let payload = json!({ "config": { "postgres_changes": [binding("*", "door")],
            "postgres_changes_options": { "wait": true, "timeout": 150 } } });
        let started = Instant::now();
        let reason = refused(&mut client, &room(), &payload).await?;
        ensure!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());
        let expected = "PostgresChangesSubscribeTimeout: Timed out after 150ms waiting for the postgres_changes subscription";
        ensure!(reason == expected, "{reason}");
        door.open().await?;
        ensure!(taking.reply(&reference).await?.is_ok());
    }
    Ok(())
}
