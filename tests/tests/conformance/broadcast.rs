//! Cases 109 to 120 and 297, 298: broadcasts from socket to socket on public channels.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion, RawFrame, Received};
use walcast_tests::World;

use crate::scene::{BOTH, acknowledged, member, next_broadcast, nothing_else, on_both, room, world};

/// A member of each serializer.
async fn listeners(world: &World, topic: &str) -> Result<[ProtocolClient; 2]> {
    Ok([
        member(world, ProtocolVersion::V1, topic, &json!({})).await?,
        member(world, ProtocolVersion::V2, topic, &json!({})).await?,
    ])
}

fn text(message: &Received) -> Result<&str> {
    match &message.raw {
        RawFrame::Text(text) => Ok(text),
        RawFrame::Binary(bytes) => anyhow::bail!("a text frame, not {bytes:?}"),
    }
}

/// A binary push (kind 3) by hand, docs/protocol.md §2.3; its reference is `9`.
fn push(topic: &[u8], event: &[u8], metadata: &[u8], encoding: u8, payload: &[u8]) -> Vec<u8> {
    let strings = [b"1", b"9", topic, event, metadata];
    let mut frame = vec![3];
    frame.extend(strings.iter().map(|string| u8::try_from(string.len()).expect("short enough")));
    frame.push(encoding);
    frame.extend(strings.concat());
    frame.extend_from_slice(payload);
    frame
}

/// A user broadcast of the server (kind 4) without metadata.
fn kind_4(topic: &str, event: &str, encoding: u8, payload: &[u8]) -> RawFrame {
    let lengths = [topic.len(), event.len()].map(|length| u8::try_from(length).expect("short enough"));
    let head = [4, lengths[0], lengths[1], 0, encoding];
    RawFrame::Binary([&head[..], topic.as_bytes(), event.as_bytes(), payload].concat().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_109_a_broadcast_reaches_the_other_members_and_not_its_sender() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut others = listeners(&world, &topic).await?;
        let mut outsider = member(&world, version, &room(), &json!({})).await?;
        let mut sender = member(&world, version, &topic, &json!({ "broadcast": { "self": false } })).await?;
        let payload = json!({ "type": "broadcast", "event": "cursor", "payload": { "x": 1 } });
        sender.send(&topic, "broadcast", &payload).await?;
        for other in &mut others {
            let got = other.next().await?;
            ensure!(got.is(&topic, "broadcast") && got.payload == payload, "{:?}", got.raw);
            ensure!(got.reference.is_null() && got.join_ref.is_null());
        }
        for quiet in [&mut sender, &mut outsider] {
            quiet.heartbeat().await?;
            nothing_else(quiet)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_110_with_self_the_sender_gets_its_own() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut sender = member(&world, version, &topic, &json!({ "broadcast": { "self": true } })).await?;
        sender.send(&topic, "broadcast", &json!({ "event": "e", "payload": {} })).await?;
        ensure!(sender.next().await?.payload == json!({ "event": "e", "payload": {} }));
        sender.heartbeat().await?;
        nothing_else(&sender).context("once")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_111_with_ack_the_reply_is_ok() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut sender =
            member(&world, version, &topic, &json!({ "broadcast": { "self": true, "ack": true } })).await?;
        let reference = sender.send(&topic, "broadcast", &json!({ "event": "e" })).await?;
        ensure!(sender.next().await?.event == "broadcast", "the own copy comes first");
        let reply = sender.next().await?;
        ensure!(reply.is(&topic, "phx_reply") && reply.reference == reference, "{:?}", reply.raw);
        ensure!(reply.payload == json!({ "status": "ok", "response": {} }), "{}", reply.payload);
        ensure!(version == ProtocolVersion::V1 || reply.join_ref == "1", "{:?}", reply.raw);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_112_without_ack_there_is_no_reply() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        for config in [json!({}), json!({ "broadcast": { "ack": false } })] {
            let topic = room();
            let mut listener = member(&world, version, &topic, &json!({})).await?;
            let mut sender = member(&world, version, &topic, &config).await?;
            sender.send(&topic, "broadcast", &json!({ "event": "e" })).await?;
            sender.broadcast(&topic, "f", &json!({})).await?;
            for event in ["e", "f"] {
                ensure!(next_broadcast(&mut listener).await?.payload["event"] == event);
            }
            sender.heartbeat().await?;
            nothing_else(&sender)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_113_the_payload_may_be_any_json_and_arrives_as_it_was_sent() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut others = listeners(&world, &topic).await?;
        let mut sender = member(&world, version, &topic, &json!({})).await?;
        for payload in [
            "[1, [2,[3]] ]",
            r#""text""#,
            "-0.10",
            "12345678901234567890123",
            "true",
            "{}",
            r#"{"b": 1.0,"a":1e2, "a":"twice"}"#,
            r#"{"raw":"é🦀","\u0065vent":"\u00e9"}"#,
        ] {
            let frame = match version {
                ProtocolVersion::V1 => {
                    format!(r#"{{"topic":"{topic}","event":"broadcast","payload":{payload},"ref":"7"}}"#)
                }
                ProtocolVersion::V2 => format!(r#"["1","7","{topic}","broadcast",{payload}]"#),
            };
            sender.send_text(&frame).await?;
            let [v1, v2] = &mut others;
            let expected =
                format!(r#"{{"event":"broadcast","payload":{payload},"ref":null,"topic":"{topic}"}}"#);
            let got = v1.next().await?;
            ensure!(text(&got)? == expected, "{}", text(&got)?);
            let got = v2.next().await?;
            ensure!(
                text(&got)? == format!(r#"[null,null,"{topic}","broadcast",{payload}]"#),
                "{}",
                text(&got)?
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_116_a_binary_push_of_json_is_kind_4_for_version_2_and_an_object_for_version_1() -> Result<()> {
    let world = world().await?;
    let topic = room();
    let [mut v1, mut v2] = listeners(&world, &topic).await?;
    let mut sender =
        member(&world, ProtocolVersion::V2, &topic, &json!({ "broadcast": { "ack": true } })).await?;
    for payload in [r#"{"x":1}"#, "[1, 2]", "\"é\"", "7", "{}"] {
        sender.send_binary(&push(topic.as_bytes(), b"cursor", b"", 1, payload.as_bytes())).await?;
        ensure!(sender.reply("9").await?.is_ok());
        let value: Value = serde_json::from_str(payload)?;
        let got = v1.next().await?;
        let object = json!({ "type": "broadcast", "event": "cursor", "payload": value });
        ensure!(got.payload == object, "{payload}: {:?}", got.raw);
        let got = v2.next().await?;
        ensure!(got.raw == kind_4(&topic, "cursor", 1, payload.as_bytes()), "{payload}: {:?}", got.raw);
    }
    // And from version 1 to both.
    let mut old = member(&world, ProtocolVersion::V1, &topic, &json!({})).await?;
    let payload = json!({ "type": "broadcast", "event": "from v1", "payload": { "x": 1 } });
    old.send(&topic, "broadcast", &payload).await?;
    for listener in [&mut v1, &mut v2] {
        ensure!(listener.next().await?.payload == payload);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_117_a_binary_push_of_bytes_is_kind_4_for_version_2_and_nothing_for_version_1() -> Result<()> {
    let world = world().await?;
    let topic = room();
    let [mut v1, mut v2] = listeners(&world, &topic).await?;
    let mut sender =
        member(&world, ProtocolVersion::V2, &topic, &json!({ "broadcast": { "ack": true } })).await?;
    let all_bytes: Vec<u8> = (0..=255).collect();
    for payload in [&b""[..], b"{not json", &all_bytes] {
        sender.user_broadcast(&topic, "blob", false, payload).await?;
        let got = v2.next().await?;
        ensure!(got.raw == kind_4(&topic, "blob", 0, payload), "{:?}", got.raw);
    }
    acknowledged(&mut sender, &topic).await?;
    let first = v1.next().await?;
    ensure!(first.payload == json!({ "event": "mark" }), "version 1 got {:?}", first.raw);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_118_a_binary_push_has_its_ack_in_text_and_its_own_copy() -> Result<()> {
    let world = world().await?;
    let topic = room();
    let config = json!({ "broadcast": { "self": true, "ack": true } });
    let mut sender = member(&world, ProtocolVersion::V2, &topic, &config).await?;
    for (is_json, content) in [(true, &b"{\"x\":1}"[..]), (false, b"\x00\xff")] {
        let reference = sender.user_broadcast(&topic, "e", is_json, content).await?;
        let own = sender.next().await?;
        ensure!(own.raw == kind_4(&topic, "e", u8::from(is_json), content), "{:?}", own.raw);
        let reply = sender.next().await?;
        let expected =
            format!(r#"["1","{reference}","{topic}","phx_reply",{{"status":"ok","response":{{}}}}]"#);
        ensure!(text(&reply)? == expected, "{}", text(&reply)?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_119_the_metadata_of_a_push_is_read_past_and_not_passed_on() -> Result<()> {
    let world = world().await?;
    let topic = room();
    let [mut v1, mut v2] = listeners(&world, &topic).await?;
    let mut sender = member(&world, ProtocolVersion::V2, &topic, &json!({})).await?;
    for metadata in [&b""[..], br#"{"persist":true}"#, br#"{"id":"forged","replayed":true}"#, b"no json"] {
        sender.send_binary(&push(topic.as_bytes(), b"e", metadata, 1, b"{}")).await?;
        ensure!(v2.next().await?.raw == kind_4(&topic, "e", 1, b"{}"));
        ensure!(v1.next().await?.payload == json!({ "type": "broadcast", "event": "e", "payload": {} }));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_120_what_is_too_large_is_dropped_and_with_ack_an_error() -> Result<()> {
    let small = |settings: &mut ServeSettings| settings.project.engine.payload_bytes_max = 1_000;
    let policy = "create policy open on realtime.messages for all to authenticated using (true)";
    let world = World::installed("conformance_120", policy, small).await?;
    for private in [false, true] {
        too_large(&world, private).await.with_context(|| format!("private: {private}"))?;
    }
    Ok(())
}

async fn too_large(world: &World, private: bool) -> Result<()> {
    on_both(async |version| {
        let topic = room();
        let with = |ack: bool| json!({ "private": private, "broadcast": { "ack": ack } });
        let mut listener = member(world, version, &topic, &with(false)).await?;
        let mut asking = member(world, version, &topic, &with(true)).await?;
        let mut silent = member(world, version, &topic, &with(false)).await?;
        // `{"x":"…"}` is eight bytes more than its text.
        let (fits, too_much) = (json!({ "x": "y".repeat(992) }), json!({ "x": "y".repeat(993) }));
        let reference = asking.send(&topic, "broadcast", &too_much).await?;
        let reply = asking.reply(&reference).await?;
        let reason = reply.reason().context("a reason: typed clients read objects only")?;
        ensure!(reply.status == "error" && reason.starts_with("payload_size_exceeded"), "{reason}");
        silent.send(&topic, "broadcast", &too_much).await?;
        silent.heartbeat().await?;
        let reference = asking.send(&topic, "broadcast", &fits).await?;
        ensure!(asking.reply(&reference).await?.is_ok());
        ensure!(next_broadcast(&mut listener).await?.payload == fits, "the first that arrives");
        ensure!(next_broadcast(&mut silent).await?.payload == fits);
        nothing_else(&silent)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_297_a_topic_that_is_no_ascii_is_found_from_utf_8_and_from_latin_1() -> Result<()> {
    let world = world().await?;
    let topic = format!("{} café ñandú", room());
    let mut others = listeners(&world, &topic).await?;
    let mut sender =
        member(&world, ProtocolVersion::V2, &topic, &json!({ "broadcast": { "ack": true } })).await?;
    let as_latin_1 = |text: &str| -> Result<Vec<u8>> {
        text.chars().map(|letter| Ok(u8::try_from(u32::from(letter))?)).collect()
    };
    for (topic_bytes, event) in
        [(topic.as_bytes().to_vec(), "año".as_bytes().to_vec()), (as_latin_1(&topic)?, as_latin_1("año")?)]
    {
        sender.send_binary(&push(&topic_bytes, &event, b"", 1, b"{}")).await?;
        let reply = sender.reply("9").await?;
        ensure!(reply.is_ok(), "{}", reply.response);
        for other in &mut others {
            let got = other.next().await?;
            ensure!(got.topic == topic && got.payload["event"] == "año", "{:?}", got.raw);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_298_a_topic_or_event_of_more_than_255_bytes_goes_out_as_text() -> Result<()> {
    let world = world().await?;
    let topic = format!("{} {}", room(), "é".repeat(200));
    let mut others = listeners(&world, &topic).await?;
    for version in BOTH {
        let mut sender = member(&world, version, &topic, &json!({ "broadcast": { "ack": true } })).await?;
        let payload = json!({ "type": "broadcast", "event": "e".repeat(1_000), "payload": { "x": 1 } });
        let reference = sender.send(&topic, "broadcast", &payload).await?;
        ensure!(sender.reply(&reference).await?.is_ok());
        for other in &mut others {
            let got = other.next().await?;
            ensure!(text(&got).is_ok() && got.payload == payload, "{:?}", got.raw);
        }
    }
    // In Latin-1 the topic fits a binary push, and in UTF-8 it does not fit the one that goes out.
    let latin_1: Vec<u8> =
        topic.chars().map(|letter| u8::try_from(u32::from(letter))).collect::<Result<_, _>>()?;
    let mut sender =
        member(&world, ProtocolVersion::V2, &topic, &json!({ "broadcast": { "ack": true } })).await?;
    sender.send_binary(&push(&latin_1, b"e", b"", 1, br#"{"x":2}"#)).await?;
    ensure!(sender.reply("9").await?.is_ok(), "the sender's channel lives");
    for other in &mut others {
        let got = other.next().await?;
        let expected = json!({ "type": "broadcast", "event": "e", "payload": { "x": 2 } });
        ensure!(text(&got).is_ok() && got.payload == expected, "{:?}", got.raw);
    }
    Ok(())
}
