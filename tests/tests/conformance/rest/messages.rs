//! Cases 124 to 127, 132 and 133: what is delivered.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::{ProtocolVersion, RawFrame};
use walcast_tests::World;

use super::{accepted, answered, batch, nothing_but_a_mark, path_of, single};
use crate::scene::{member, next_broadcast, nothing_else, on_both, room, sub_topic, world};
use crate::stored;

#[tokio::test(flavor = "multi_thread")]
async fn case_124_a_batch_is_accepted_and_reaches_the_members_of_its_public_topics() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let (first, second) = (room(), room());
        let mut at_first = member(&world, version, &first, &json!({})).await?;
        let mut at_second = member(&world, version, &second, &json!({})).await?;
        let answer = batch(
            &world,
            &json!([{ "topic": sub_topic(&first), "event": "one", "payload": { "n": 1 } },
                    { "topic": sub_topic(&second), "event": "two", "payload": {}, "private": false },
                    { "topic": sub_topic(&first), "event": "three", "payload": { "x": [null] }, "id": "mine" }]),
        )
        .await?;
        accepted(&answer)?;
        let expected = [
            json!({ "type": "broadcast", "event": "one", "payload": { "n": 1 } }),
            json!({ "type": "broadcast", "event": "three", "payload": { "x": [null] }, "meta": { "id": "mine" } }),
        ];
        for payload in expected {
            let got = next_broadcast(&mut at_first).await?;
            ensure!(got.is(&first, "broadcast") && got.payload == payload, "{:?}", got.raw);
            ensure!(got.reference.is_null() && got.join_ref.is_null());
        }
        let got = next_broadcast(&mut at_second).await?;
        ensure!(got.payload == json!({ "type": "broadcast", "event": "two", "payload": {} }), "{:?}", got.raw);
        for client in [&mut at_first, &mut at_second] {
            client.heartbeat().await?;
            nothing_else(client)?;
        }
        Ok(())
    })
    .await
}

fn private(topic: &str, event: &str) -> Value {
    json!({ "topic": sub_topic(topic), "event": event, "payload": {}, "private": true })
}

/// How often Postgres has been asked about a topic `asked:…`. A check is rolled back, but for this sequence.
async fn times_asked(world: &World) -> Result<i64> {
    Ok(world.client.query_one("select last_value from times_asked", &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn case_125_of_several_private_topics_each_is_asked_about_once_and_the_permitted_get_theirs()
-> Result<()> {
    let world = World::installed("conformance_125", stored::POLICIES, |_| {}).await?;
    on_both(async |version| {
        let [open, asked, shut] = ["open", "asked", "read"].map(stored::private_room);
        let config = json!({ "private": true });
        let mut at_open = member(&world, version, &open, &config).await?;
        let mut at_asked = member(&world, version, &asked, &config).await?;
        let mut at_shut = member(&world, version, &shut, &config).await?;
        accepted(&batch(&world, &json!([private(&asked, "0")])).await?)?;
        ensure!(next_broadcast(&mut at_asked).await?.payload["event"] == "0");
        let before = times_asked(&world).await?;
        accepted(&batch(&world, &json!([private(&asked, "0")])).await?)?;
        ensure!(next_broadcast(&mut at_asked).await?.payload["event"] == "0");
        let for_one = times_asked(&world).await? - before;
        ensure!(for_one > 0, "the policy is asked");
        let events = ["1", "2", "3"];
        let messages: Vec<_> = events
            .iter()
            .flat_map(|event| [private(&open, event), private(&shut, event), private(&asked, event)])
            .collect();
        accepted(&batch(&world, &json!(messages)).await?)?;
        for client in [&mut at_open, &mut at_asked] {
            for event in events {
                ensure!(next_broadcast(client).await?.payload["event"] == event);
            }
        }
        ensure!(times_asked(&world).await? - before == 2 * for_one, "once for three messages");
        at_shut.heartbeat().await?;
        nothing_else(&at_shut)
    })
    .await?;
    let left: i64 = world.client.query_one("select count(*) from realtime.messages", &[]).await?.get(0);
    ensure!(left == 0, "a check leaves nothing behind");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_126_a_batch_without_permission_is_accepted_and_nothing_is_delivered() -> Result<()> {
    let world = stored::world().await?;
    on_both(async |version| {
        let topic = stored::private_room("read");
        let mut inside = member(&world, version, &topic, &json!({ "private": true })).await?;
        let mut outside = member(&world, version, &topic, &json!({})).await?;
        accepted(&batch(&world, &json!([private(&topic, "e"), private(&topic, "f")])).await?)?;
        inside.heartbeat().await?;
        nothing_else(&inside)?;
        nothing_but_a_mark(&world, sub_topic(&topic), &mut outside).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_127_of_a_batch_with_a_wrong_message_each_error_is_named_and_nothing_is_sent() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut client = member(&world, version, &topic, &json!({})).await?;
        let good = json!({ "topic": sub_topic(&topic), "event": "e", "payload": {} });
        let (blank, invalid) = (json!(["can't be blank"]), json!(["is invalid"]));
        for (messages, errors) in [
            (json!([good, {}]), json!([{}, { "payload": blank, "event": blank, "topic": blank }])),
            (
                json!([{ "topic": 7, "event": [], "payload": "text" }, good]),
                json!([{ "topic": invalid, "event": invalid, "payload": invalid }, {}]),
            ),
            (json!([]), blank.clone()),
            (json!(null), blank.clone()),
            (json!("text"), invalid.clone()),
        ] {
            let answer = batch(&world, &messages).await?;
            answered(&answer, 422, &json!({ "errors": { "messages": errors } }))?;
        }
        nothing_but_a_mark(&world, sub_topic(&topic), &mut client).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_132_a_single_json_message_is_accepted_and_delivered_to_the_public_topic() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = format!("{}:with:colons", room());
        let mut client = member(&world, version, &topic, &json!({})).await?;
        let path = path_of(sub_topic(&topic));
        for payload in [json!({ "x": 1.5 }), json!({}), json!([1, "ñ"]), json!({ "private": true })] {
            let body = payload.to_string();
            for path in [path.clone(), format!("{path}?private=false")] {
                accepted(&single(&world, &path, Some("application/json"), body.as_bytes()).await?)?;
                let got = next_broadcast(&mut client).await?;
                let expected = json!({ "type": "broadcast", "event": "e", "payload": payload });
                ensure!(got.is(&topic, "broadcast") && got.payload == expected, "{:?}", got.raw);
                let is_binary = matches!(got.raw, RawFrame::Binary(_));
                ensure!(is_binary == (version == ProtocolVersion::V2), "{:?}", got.raw);
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_133_a_single_binary_message_arrives_as_bytes_also_empty_and_not_oversize() -> Result<()> {
    let world = world().await?;
    let topic = room();
    let mut new = member(&world, ProtocolVersion::V2, &topic, &json!({})).await?;
    let mut old = member(&world, ProtocolVersion::V1, &topic, &json!({})).await?;
    let path = path_of(sub_topic(&topic));
    let bytes = Some("application/octet-stream");
    for body in [&b"\x00\xff{"[..], b""] {
        accepted(&single(&world, &path, bytes, body).await?)?;
        let got = next_broadcast(&mut new).await?;
        ensure!(got.bytes.as_deref() == Some(body), "{:?}", got.raw);
    }
    let refused = single(&world, &path, bytes, &vec![0; 3_000_501]).await?;
    answered(&refused, 422, &json!({ "errors": { "payload": ["Payload size exceeds tenant limit"] } }))?;
    // Version 1 has no bytes.
    for client in [&mut old, &mut new] {
        nothing_but_a_mark(&world, sub_topic(&topic), client).await?;
    }
    Ok(())
}
