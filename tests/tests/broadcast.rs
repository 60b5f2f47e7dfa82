//! Broadcast between sockets, over both serializers and both shards of the server: docs/protocol.md §2.3, §2.4, §6.1.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion, RawFrame, Received};
use walcast_tests::{World, person};

const ROOM: &str = "realtime:room";

fn config(receive_own: bool, acknowledge: bool) -> Value {
    json!({ "config": { "broadcast": { "self": receive_own, "ack": acknowledge } } })
}

/// A member of a topic; the server spreads its connections over its shards in turn.
async fn member(
    world: &World,
    version: ProtocolVersion,
    topic: &str,
    config: &Value,
) -> Result<ProtocolClient> {
    let mut client = world.connect_as(&person("ana"), version).await?;
    let reply = client.join(topic, config).await?;
    ensure!(reply.is_ok(), "{reply:?}");
    Ok(client)
}

/// Two members of each serializer, so that there is one of each on both shards.
async fn members(
    world: &World,
    topic: &str,
    config: &Value,
) -> Result<Vec<(ProtocolVersion, ProtocolClient)>> {
    let mut members = Vec::new();
    for version in [ProtocolVersion::V1, ProtocolVersion::V1, ProtocolVersion::V2, ProtocolVersion::V2] {
        members.push((version, member(world, version, topic, config).await?));
    }
    Ok(members)
}

fn raw(message: &Received) -> &str {
    match &message.raw {
        RawFrame::Text(text) => text,
        RawFrame::Binary(_) => "a binary frame",
    }
}

/// A binary push (kind 3) by hand, docs/protocol.md §2.3.
fn push(
    reference: &[u8],
    topic: &[u8],
    event: &[u8],
    metadata: &[u8],
    encoding: u8,
    payload: &[u8],
) -> Vec<u8> {
    let strings = [b"1", reference, topic, event, metadata];
    let mut frame = vec![3];
    frame.extend(strings.iter().map(|string| u8::try_from(string.len()).expect("short enough")));
    frame.push(encoding);
    frame.extend(strings.concat());
    frame.extend_from_slice(payload);
    frame
}

/// Sends a text broadcast and waits for its acknowledgement: what the server sent before has arrived then.
async fn acknowledged(client: &mut ProtocolClient, payload: &Value) -> Result<()> {
    let reference = client.send(ROOM, "broadcast", payload).await?;
    let reply = client.reply(&reference).await?;
    ensure!(reply.is_ok(), "{reply:?}");
    Ok(())
}

async fn next_broadcast(client: &mut ProtocolClient) -> Result<Received> {
    client.expect(|message| message.event == "broadcast").await
}

// Cases 109, 112.
#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_reaches_every_other_member_on_every_shard_and_not_the_sender() -> Result<()> {
    let world = World::with_sql("broadcast_members", "").await?;
    let mut members = members(&world, ROOM, &config(false, false)).await?;
    let mut outsider = member(&world, ProtocolVersion::V2, "realtime:room2", &config(false, false)).await?;
    for sender in 0..members.len() {
        let payload = json!({ "type": "broadcast", "event": "cursor", "payload": { "from": sender } });
        members[sender].1.send(ROOM, "broadcast", &payload).await?;
        for (receiver, (version, client)) in members.iter_mut().enumerate() {
            if receiver == sender {
                continue;
            }
            let message = client.next().await?;
            assert!(message.is(ROOM, "broadcast"), "{message:?}");
            assert_eq!(message.payload, payload);
            assert_eq!((message.join_ref, message.reference), (Value::Null, Value::Null), "{version:?}");
        }
        members[sender].1.heartbeat().await?;
        assert_eq!(members[sender].1.unclaimed().count(), 0, "no copy, and no reply without ack");
    }
    outsider.heartbeat().await?;
    assert_eq!(outsider.unclaimed().count(), 0);
    Ok(())
}

// Cases 110, 111, 118.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_wants_its_own_gets_it_once_and_before_the_acknowledgement() -> Result<()> {
    let world = World::with_sql("broadcast_self", "").await?;
    for version in [ProtocolVersion::V1, ProtocolVersion::V2, ProtocolVersion::V2, ProtocolVersion::V1] {
        let mut client = member(&world, version, ROOM, &config(true, true)).await?;
        let reference = client.send(ROOM, "broadcast", &json!({ "event": "e" })).await?;
        let own = client.next().await?;
        assert_eq!((own.event.as_str(), &own.payload), ("broadcast", &json!({ "event": "e" })));
        let acknowledgement = client.next().await?;
        let reply = acknowledgement.reply().context("a reply")?;
        assert_eq!((acknowledgement.reference, reply.is_ok()), (reference.into(), true));
        assert_eq!(reply.response, json!({}));
        if version == ProtocolVersion::V1 {
            continue;
        }
        let reference = client.user_broadcast(ROOM, "bytes", false, b"\x00\xff").await?;
        let own = client.next().await?;
        assert_eq!(own.bytes.as_deref(), Some(&b"\x00\xff"[..]));
        let expected =
            format!(r#"["1","{reference}","realtime:room","phx_reply",{{"status":"ok","response":{{}}}}]"#);
        assert_eq!(raw(&client.next().await?), expected, "also bytes are acknowledged in text");
    }
    Ok(())
}

// Case 113.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_payload_of_any_json_is_passed_on_byte_for_byte() -> Result<()> {
    let world = World::with_sql("broadcast_verbatim", "").await?;
    let members = members(&world, ROOM, &config(false, false)).await?;
    // Not every client can read null.
    let mut members: Vec<_> =
        members.into_iter().map(|(version, client)| (version, client.leniently())).collect();
    let payloads = [
        r#"{"b": 1.0,"a":1e2, "a":"twice","n":123456789012345678901234567890}"#,
        r#"{"\u0065vent":"\u00e9\ud83e\udd80","raw":"é🦀"}"#,
        "[1, [2,[3]] ]",
        r#""text""#,
        "-0.10",
        "true",
        "null",
        "{}",
    ];
    for sender in [0, 2] {
        for payload in payloads {
            let frame = match members[sender].0 {
                ProtocolVersion::V1 => {
                    format!(r#"{{"topic":"{ROOM}","event":"broadcast","payload":{payload},"ref":"7"}}"#)
                }
                ProtocolVersion::V2 => format!(r#"["1","7","{ROOM}","broadcast",{payload}]"#),
            };
            members[sender].1.send_text(&frame).await?;
            for (receiver, (version, client)) in members.iter_mut().enumerate() {
                if receiver == sender {
                    continue;
                }
                let expected = match version {
                    ProtocolVersion::V1 => {
                        format!(r#"{{"event":"broadcast","payload":{payload},"ref":null,"topic":"{ROOM}"}}"#)
                    }
                    ProtocolVersion::V2 => format!(r#"[null,null,"{ROOM}","broadcast",{payload}]"#),
                };
                assert_eq!(raw(&client.next().await?), expected);
            }
        }
    }
    Ok(())
}

// Cases 116, 119.
#[tokio::test(flavor = "multi_thread")]
async fn a_binary_push_of_json_is_kind_4_for_version_2_and_an_object_for_version_1() -> Result<()> {
    let world = World::with_sql("broadcast_kind_3", "").await?;
    let mut members = members(&world, ROOM, &config(false, false)).await?;
    let mut sender = member(&world, ProtocolVersion::V2, ROOM, &config(false, true)).await?;
    let payloads = [r#"{"x": 1.0}"#, "[1, 2]", "\"é\"", "7", "null", "{}"];
    for (metadata, encoding) in [(&b""[..], 1), (br#"{"persist":true}"#, 1), (b"no json", 255)] {
        for payload in payloads {
            let frame = push(b"9", ROOM.as_bytes(), b"cursor", metadata, encoding, payload.as_bytes());
            sender.send_binary(&frame).await?;
            assert!(sender.reply("9").await?.is_ok());
            for (version, client) in &mut members {
                let message = client.next().await?;
                match version {
                    ProtocolVersion::V1 => {
                        let value: Value = serde_json::from_str(payload)?;
                        let object = json!({ "type": "broadcast", "event": "cursor", "payload": value });
                        assert_eq!(message.payload, object);
                        assert!(raw(&message).contains(payload), "verbatim: {}", raw(&message));
                    }
                    ProtocolVersion::V2 => {
                        let head = [4, 13, 6, 0, 1];
                        let expected = [&head[..], ROOM.as_bytes(), b"cursor", payload.as_bytes()].concat();
                        assert_eq!(message.raw, RawFrame::Binary(expected.into()));
                    }
                }
            }
        }
    }
    Ok(())
}

// Cases 117, 118.
#[tokio::test(flavor = "multi_thread")]
async fn a_binary_push_of_bytes_is_kind_4_for_version_2_and_nothing_for_version_1() -> Result<()> {
    let world = World::with_sql("broadcast_bytes", "").await?;
    let mut members = members(&world, ROOM, &config(false, false)).await?;
    let mut sender = member(&world, ProtocolVersion::V2, ROOM, &config(false, true)).await?;
    let all_bytes: Vec<u8> = (0..=255).collect();
    for payload in [&b""[..], b"{not json", &all_bytes] {
        sender.send_binary(&push(b"9", ROOM.as_bytes(), b"", b"", 0, payload)).await?;
        assert!(sender.reply("9").await?.is_ok());
        for (_, client) in members.iter_mut().filter(|(version, _)| *version == ProtocolVersion::V2) {
            let expected = [&[4, 13, 0, 0, 0][..], ROOM.as_bytes(), payload].concat();
            assert_eq!(client.next().await?.raw, RawFrame::Binary(expected.into()));
        }
    }
    acknowledged(&mut sender, &json!({ "event": "mark" })).await?;
    for (_, client) in &mut members {
        assert_eq!(client.next().await?.payload, json!({ "event": "mark" }), "version 1 got nothing before");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_says_json_and_is_none_reaches_nobody_and_harms_nobody() -> Result<()> {
    let world = World::with_sql("broadcast_broken", "").await?;
    let mut members = members(&world, ROOM, &config(false, false)).await?;
    let mut sender = member(&world, ProtocolVersion::V2, ROOM, &config(true, true)).await?;
    for payload in [&b""[..], b"{", b"{}}", b"nonsense", b"\"\xff\"", b"[1,]", b"{}, \"more\":{}"] {
        sender.send_binary(&push(b"9", ROOM.as_bytes(), b"e", b"", 1, payload)).await?;
    }
    // Kind 0 is read, but no event of a channel takes bytes.
    let kind_0 = [&b"\x00\x01\x01\x0d\x09"[..], b"19", ROOM.as_bytes(), b"broadcast", b"{}"].concat();
    sender.send_binary(&kind_0).await?;
    sender.heartbeat().await?;
    assert_eq!(sender.unclaimed().count(), 0);
    acknowledged(&mut sender, &json!({ "event": "mark" })).await?;
    for (_, client) in &mut members {
        assert_eq!(client.next().await?.payload, json!({ "event": "mark" }));
    }
    Ok(())
}

// Case 120.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_over_the_limit_is_refused_with_ack_and_dropped_without() -> Result<()> {
    let small = |settings: &mut ServeSettings| settings.project.engine.payload_bytes_max = 1_000;
    let world = World::with_settings("broadcast_oversize", "", small).await?;
    let mut listener = member(&world, ProtocolVersion::V2, ROOM, &config(false, false)).await?;
    let mut asking = member(&world, ProtocolVersion::V2, ROOM, &config(true, true)).await?;
    let mut silent = member(&world, ProtocolVersion::V1, ROOM, &config(true, false)).await?;
    // `{"x":"…"}` is eight bytes more than its text.
    let (fits, too_much) = (json!({ "x": "y".repeat(992) }), json!({ "x": "y".repeat(993) }));
    assert_eq!((fits.to_string().len(), too_much.to_string().len()), (1_000, 1_001));
    for client in [&mut asking, &mut silent] {
        client.send(ROOM, "broadcast", &too_much).await?;
    }
    let refused = asking.next().await?.reply().context("a reply")?;
    assert_eq!(refused.status, "error");
    assert_eq!(
        refused.response,
        json!({ "reason": "payload_size_exceeded" }),
        "an object: typed clients read it"
    );
    let reference = asking.user_broadcast(ROOM, "e", false, &[0; 1_001]).await?;
    assert_eq!(asking.reply(&reference).await?.reason(), Some("payload_size_exceeded"));
    silent.heartbeat().await?;
    assert_eq!(silent.unclaimed().count(), 0);
    acknowledged(&mut asking, &fits).await?;
    for client in [&mut listener, &mut asking, &mut silent] {
        assert_eq!(next_broadcast(client).await?.payload, fits, "nothing before");
    }
    let reference = asking.user_broadcast(ROOM, "e", false, &[0; 1_000]).await?;
    assert!(asking.reply(&reference).await?.is_ok());
    assert_eq!(next_broadcast(&mut listener).await?.bytes.map(|bytes| bytes.len()), Some(1_000));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_three_megabytes_arrives_whole() -> Result<()> {
    let world = World::with_sql("broadcast_large", "").await?;
    let mut members = members(&world, ROOM, &config(false, false)).await?;
    let mut sender = member(&world, ProtocolVersion::V2, ROOM, &config(false, true)).await?;
    let payload = json!({ "x": "y".repeat(3_000_400) });
    acknowledged(&mut sender, &payload).await?;
    for (_, client) in &mut members {
        assert_eq!(next_broadcast(client).await?.payload, payload);
    }
    Ok(())
}

// Case 298.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_or_event_of_more_than_255_bytes_goes_out_as_text() -> Result<()> {
    let world = World::with_sql("broadcast_long", "").await?;
    let topic = format!("realtime:{}", "é".repeat(200));
    let mut members = members(&world, &topic, &config(false, false)).await?;
    let mut sender = member(&world, ProtocolVersion::V2, &topic, &config(false, true)).await?;
    let payload = json!({ "type": "broadcast", "event": "e".repeat(1_000), "payload": { "x": 1 } });
    let reference = sender.send(&topic, "broadcast", &payload).await?;
    assert!(sender.reply(&reference).await?.is_ok());
    // In Latin-1 the topic fits a binary push, and in UTF-8 it does not fit the one that goes out.
    let latin_1 = [&b"realtime:"[..], &[0xE9; 200]].concat();
    sender.send_binary(&push(b"9", &latin_1, &[0xFC; 130], b"", 1, br#"{"x":2}"#)).await?;
    assert!(sender.reply("9").await?.is_ok());
    sender.send_binary(&push(b"10", &latin_1, b"bytes", b"", 0, b"reach nobody")).await?;
    assert!(sender.reply("10").await?.is_ok());
    let reference = sender.send(&topic, "broadcast", &json!({ "event": "mark" })).await?;
    assert!(sender.reply(&reference).await?.is_ok());
    for (_, client) in &mut members {
        assert_eq!(next_broadcast(client).await?.payload, payload);
        let converted = json!({ "type": "broadcast", "event": "ü".repeat(130), "payload": { "x": 2 } });
        let message = next_broadcast(client).await?;
        assert_eq!((message.payload, message.topic.as_str()), (converted, topic.as_str()));
        assert_eq!(next_broadcast(client).await?.payload, json!({ "event": "mark" }));
    }
    Ok(())
}

// Case 297.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_no_ascii_is_found_from_utf_8_and_from_latin_1() -> Result<()> {
    let world = World::with_sql("broadcast_latin", "").await?;
    let topic = "realtime:café ñandú";
    let mut members = members(&world, topic, &config(false, false)).await?;
    let mut sender = member(&world, ProtocolVersion::V2, topic, &config(false, true)).await?;
    let as_latin_1 = |text: &str| -> Vec<u8> {
        text.chars().map(|character| u8::try_from(u32::from(character)).expect("Latin-1")).collect()
    };
    for (reference, topic_bytes, event) in [
        ("8", topic.as_bytes().to_vec(), "año".as_bytes().to_vec()),
        ("9", as_latin_1(topic), as_latin_1("año")),
    ] {
        sender.send_binary(&push(reference.as_bytes(), &topic_bytes, &event, b"", 1, b"{}")).await?;
        let reply = sender.reply(reference).await?;
        assert!(reply.is_ok(), "{reference}: {reply:?}");
        for (_, client) in &mut members {
            let message = next_broadcast(client).await?;
            assert_eq!((message.topic.as_str(), &message.payload["event"]), (topic, &"año".into()));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broadcasts_of_one_sender_keep_their_order_for_every_receiver() -> Result<()> {
    const COUNT: i64 = 500;
    let world = World::with_sql("broadcast_order", "").await?;
    let mut members = members(&world, ROOM, &config(true, false)).await?;
    for number in 0..COUNT {
        for (sender, (_, client)) in members.iter_mut().enumerate() {
            client.send(ROOM, "broadcast", &json!({ "sender": sender, "number": number })).await?;
        }
    }
    for (receiver, (_, client)) in members.iter_mut().enumerate() {
        let mut next = [0; 4];
        while next != [COUNT; 4] {
            let message = client.next().await.with_context(|| format!("{receiver} has {next:?}"))?;
            let sender = usize::try_from(message.payload["sender"].as_u64().context("a sender")?)?;
            ensure!(
                message.payload["number"] == next[sender],
                "{receiver} has {next:?} and gets {message:?}"
            );
            next[sender] += 1;
        }
        client.heartbeat().await?;
        assert_eq!(client.unclaimed().count(), 0, "each once");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_left_or_is_gone_costs_the_others_nothing() -> Result<()> {
    let world = World::with_sql("broadcast_left", "").await?;
    let mut members = members(&world, ROOM, &config(false, false)).await?;
    let mut sender = member(&world, ProtocolVersion::V2, ROOM, &config(false, true)).await?;
    assert!(members[0].1.leave(ROOM).await?.is_ok());
    drop(members.remove(1));
    let (_, closed) = members.remove(1);
    closed.close().await?;
    acknowledged(&mut sender, &json!({ "event": "mark" })).await?;
    assert_eq!(next_broadcast(&mut members[1].1).await?.payload, json!({ "event": "mark" }));
    let gone = &mut members[0].1;
    assert!(gone.join(ROOM, &config(false, true)).await?.is_ok());
    acknowledged(gone, &json!({ "event": "back" })).await?;
    assert!(gone.unclaimed().all(|message| message.event != "broadcast"));
    assert_eq!(next_broadcast(&mut sender).await?.payload, json!({ "event": "back" }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_channels_of_one_person_are_two_members() -> Result<()> {
    let world = World::with_sql("broadcast_person", "").await?;
    let mut window = member(&world, ProtocolVersion::V2, ROOM, &config(false, true)).await?;
    let mut other_window = member(&world, ProtocolVersion::V2, ROOM, &config(false, true)).await?;
    acknowledged(&mut window, &json!({ "event": "a" })).await?;
    acknowledged(&mut other_window, &json!({ "event": "b" })).await?;
    assert_eq!(next_broadcast(&mut other_window).await?.payload["event"], "a");
    assert_eq!(next_broadcast(&mut window).await?.payload["event"], "b");
    assert_eq!(window.unclaimed().count() + other_window.unclaimed().count(), 0);
    Ok(())
}
