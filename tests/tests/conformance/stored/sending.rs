//! Cases 136 to 139: the SQL functions.

use anyhow::{Result, ensure};
use serde_json::json;
use walcast_testkit::ProtocolVersion;

use super::{inside, next, private_room, stored_id, world};
use crate::scene::{member, nothing_else, on_both, sub_topic};

#[tokio::test(flavor = "multi_thread")]
async fn case_136_a_private_message_of_realtime_send_comes_with_the_id_of_its_row() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = private_room("open");
        let mut client = inside(&world, version, &topic).await?;
        let mut outside = member(&world, version, &topic, &json!({})).await?;
        for (event, payload) in [("first", r#"{"x":"ñ"}"#), ("second", r#"{"id":"mine"}"#)] {
            let sql = "select realtime.send($1::text::jsonb, $2, $3, true)";
            world.client.execute(sql, &[&payload, &event, &sub_topic(&topic)]).await?;
        }
        let (got, id) = (next(&mut client).await?, stored_id(&world, &topic, "first").await?);
        ensure!(got.event == "first" && got.meta == json!({ "id": id }), "{} {}", got.event, got.meta);
        ensure!(got.payload == json!({ "x": "ñ", "id": id }), "{}", got.payload);
        let (got, id) = (next(&mut client).await?, stored_id(&world, &topic, "second").await?);
        ensure!(got.meta == json!({ "id": id }) && got.payload == json!({ "id": "mine" }), "{}", got.payload);
        outside.heartbeat().await?;
        nothing_else(&outside)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_137_a_public_message_of_realtime_send_reaches_public_members_only() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = private_room("open");
        let mut private = inside(&world, version, &topic).await?;
        let mut public = member(&world, version, &topic, &json!({})).await?;
        let sql = "select realtime.send('{\"x\":1}', $1, $2, false)";
        world.client.execute(sql, &[&"public", &sub_topic(&topic)]).await?;
        let got = next(&mut public).await?;
        let id = stored_id(&world, &topic, "public").await?;
        ensure!(got.payload == json!({ "x": 1, "id": id }) && got.meta == json!({ "id": id }));
        // Behind it in the log.
        super::send(&world, &topic, 2).await?;
        ensure!(next(&mut private).await?.payload["n"] == 2, "the first that it gets");
        public.heartbeat().await?;
        nothing_else(&public)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_138_a_message_of_send_binary_arrives_as_bytes_with_its_id() -> Result<()> {
    let world = world().await?;
    let topic = private_room("open");
    let mut new = inside(&world, ProtocolVersion::V2, &topic).await?;
    let mut old = inside(&world, ProtocolVersion::V1, &topic).await?;
    for (event, bytes) in [("bytes", &b"\x00\xff{"[..]), ("empty", b"")] {
        let sql = "select realtime.send_binary($1, $2, $3)";
        world.client.execute(sql, &[&bytes, &event, &sub_topic(&topic)]).await?;
        let got = next(&mut new).await?;
        ensure!(got.event == event && got.bytes.as_deref() == Some(bytes), "{} {:?}", got.event, got.bytes);
        ensure!(got.meta == json!({ "id": stored_id(&world, &topic, event).await? }), "{}", got.meta);
    }
    super::send(&world, &topic, 1).await?;
    ensure!(next(&mut old).await?.payload["n"] == 1, "serializer 1.0.0 has no bytes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_139_a_trigger_with_broadcast_changes_tells_of_insert_update_and_delete() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = inside(&world, version, "realtime:open:notes").await?;
        world
            .sql("insert into notes values (1, 'x'); update notes set body = 'y'; delete from notes")
            .await?;
        let (x, y, none) = (json!({ "id": 1, "body": "x" }), json!({ "id": 1, "body": "y" }), json!(null));
        for (operation, record, old) in [("INSERT", &x, &none), ("UPDATE", &y, &x), ("DELETE", &none, &y)] {
            let got = next(&mut client).await?;
            let expected = json!({ "id": got.meta["id"], "record": record, "old_record": old,
                "operation": operation, "table": "notes", "schema": "public" });
            ensure!(got.event == operation && got.payload == expected, "{} {}", got.event, got.payload);
        }
        Ok(())
    })
    .await
}
