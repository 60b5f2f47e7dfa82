//! What a socket may be sent, byte for byte, and how it ends: docs/protocol.md §1.5, §1.6, §2.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion, RawFrame};
use walcast_tests::{World, person, token};

const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V1, ProtocolVersion::V2];

/// RFC 6455 §11.8.
mod opcode {
    pub(crate) const CONTINUATION: u8 = 0x0;
    pub(crate) const TEXT: u8 = 0x1;
    pub(crate) const BINARY: u8 = 0x2;
    pub(crate) const CLOSE: u8 = 0x8;
    pub(crate) const PING: u8 = 0x9;
    pub(crate) const PONG: u8 = 0xA;
}

const FINAL: u8 = 0x80;

/// A WebSocket by hand (RFC 6455 §5.2), for what no client library would send.
struct RawSocket(TcpStream);

impl RawSocket {
    async fn connect(world: &World, vsn: &str) -> Result<RawSocket> {
        let mut stream = TcpStream::connect(world.server.address()).await?;
        let request = format!(
            "GET /socket/websocket?vsn={vsn}&apikey={} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            token(&person("ana"))
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(in_time(stream.read_u8()).await?);
        }
        ensure!(head.starts_with(b"HTTP/1.1 101 "), "not admitted: {}", String::from_utf8_lossy(&head));
        // RFC 6455 §1.3 has this very key and its answer.
        let head = String::from_utf8(head)?;
        ensure!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "the wrong answer to the key: {head}");
        Ok(RawSocket(stream))
    }

    /// Sends a frame: the first byte as given, masked with zeroes.
    async fn send(&mut self, first: u8, payload: &[u8]) -> Result<()> {
        let mut frame = header(first, payload.len());
        frame.extend_from_slice(payload);
        self.send_bytes(&frame).await
    }

    async fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        in_time(self.0.write_all(bytes)).await
    }

    /// The next frame of the server, which must be a whole message: its opcode and its payload.
    async fn frame(&mut self) -> Result<(u8, Vec<u8>)> {
        in_time(async {
            let (first, length) = (self.0.read_u8().await?, self.0.read_u8().await?);
            ensure!(first & 0xF0 == FINAL, "a first byte of {first:#x}");
            let length = match length {
                127 => self.0.read_u64().await?,
                126 => self.0.read_u16().await?.into(),
                short => short.into(),
            };
            let mut payload = vec![0; usize::try_from(length)?];
            self.0.read_exact(&mut payload).await?;
            Ok((first & 0x0F, payload))
        })
        .await
    }

    /// Fails unless the next frame closes with this code and reason, and the connection then ends.
    async fn closed(mut self, code: u16, reason: &str) -> Result<()> {
        let (opcode, payload) = self.frame().await?;
        let expected = [&code.to_be_bytes(), reason.as_bytes()].concat();
        ensure!(
            (opcode, &payload) == (opcode::CLOSE, &expected),
            "{opcode} {payload:?}, not {code} {reason}"
        );
        self.ended().await
    }

    async fn ended(mut self) -> Result<()> {
        let count = in_time(self.0.read(&mut [0; 16])).await.context("the server does not hang up")?;
        ensure!(count == 0, "something follows the close frame");
        Ok(())
    }

    async fn heartbeat(&mut self) -> Result<()> {
        self.send(FINAL | opcode::TEXT, br#"[null,"hb","phoenix","heartbeat",{}]"#).await?;
        let (_, payload) = self.frame().await?;
        let reply = r#"[null,"hb","phoenix","phx_reply",{"status":"ok","response":{}}]"#;
        ensure!(payload == reply.as_bytes(), "instead of a heartbeat: {payload:?}");
        Ok(())
    }
}

/// The header of a client's frame with a mask of zeroes.
fn header(first: u8, length: usize) -> Vec<u8> {
    let mut header = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => header.push(0x80 | short),
        (_, Ok(medium)) => {
            header.push(0x80 | 0x7E);
            header.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            header.push(0x80 | 0x7F);
            header.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    header.extend_from_slice(&[0; 4]);
    header
}

async fn in_time<T, E>(step: impl Future<Output = std::result::Result<T, E>>) -> Result<T>
where
    anyhow::Error: From<E>,
{
    Ok(timeout(Duration::from_secs(10), step).await.context("nothing for 10 s")??)
}

fn text(frame: &RawFrame) -> &str {
    match frame {
        RawFrame::Text(text) => text,
        RawFrame::Binary(_) => "a binary frame",
    }
}

// Case 15.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_answered_with_its_own_ref_whatever_json_that_is_in_both_serializers() -> Result<()> {
    let world = World::with_sql("frames_heartbeat", "").await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        for reference in ["null", "\"7\"", "7", "7.50", "\"\\u00e9\"", "{\"a\": 1}", "[]", "true"] {
            let (sent, expected) = match version {
                ProtocolVersion::V1 => (
                    format!(r#"{{"topic":"phoenix","event":"heartbeat","payload":{{}},"ref":{reference}}}"#),
                    format!(
                        r#"{{"event":"phx_reply","payload":{{"status":"ok","response":{{}}}},"ref":{reference},"topic":"phoenix"}}"#
                    ),
                ),
                ProtocolVersion::V2 => (
                    format!(r#"[null,{reference},"phoenix","heartbeat",{{}}]"#),
                    format!(r#"[null,{reference},"phoenix","phx_reply",{{"status":"ok","response":{{}}}}]"#),
                ),
            };
            client.send_text(&sent).await?;
            assert_eq!(text(&client.next().await?.raw), expected);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_event_on_the_topic_phoenix_is_unmatched() -> Result<()> {
    let world = World::with_sql("frames_phoenix", "").await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        for event in ["phx_join", "phx_leave", "broadcast", "heartbeats"] {
            let reference = client.send("phoenix", event, &json!({})).await?;
            let reply = client.reply(&reference).await?;
            assert_eq!((reply.is_ok(), reply.reason()), (false, Some("unmatched topic")), "{event}");
        }
    }
    Ok(())
}

// Cases 16 to 19.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_text_frame_is_ignored_and_the_socket_lives() -> Result<()> {
    let world = World::with_sql("frames_malformed", "").await?;
    let long_reference = "9".repeat(1_025);
    let shared = ["", " ", "{", "nonsense", "null", "7", "\"text\"", "\u{feff}{}", "[[[["];
    let v1 = [
        r#"[null,"1","phoenix","heartbeat",{}]"#,
        r#"{"event":"heartbeat","payload":{},"ref":"1"}"#,
        r#"{"topic":"phoenix","payload":{},"ref":"1"}"#,
        r#"{"topic":"phoenix","event":"heartbeat","ref":"1"}"#,
        r#"{"topic":"phoenix","event":"heartbeat","payload":{}}"#,
        r#"{"topic":null,"event":"heartbeat","payload":{},"ref":"1"}"#,
        r#"{"topic":"phoenix","event":7,"payload":{},"ref":"1"}"#,
        r#"{"topic":"phoenix","event":"heartbeat","payload":{,"ref":"1"}"#,
        r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"} x"#,
        &format!(r#"{{"topic":"phoenix","event":"heartbeat","payload":{{}},"ref":{long_reference}}}"#),
    ];
    let v2 = [
        r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}"#,
        "[]",
        r#"[null,"1","phoenix","heartbeat"]"#,
        r#"[null,"1",null,"heartbeat",{}]"#,
        r#"[null,"1","phoenix",["heartbeat"],{}]"#,
        r#"[null,"1","phoenix","heartbeat",{}"#,
        r#"[null,"1","phoenix","heartbeat",{}] x"#,
        r#"[null,"1","phoenix","heart\ud800beat",{}]"#,
        &format!(r#"[null,{long_reference},"phoenix","heartbeat",{{}}]"#),
    ];
    for (version, own) in [(ProtocolVersion::V1, v1.as_slice()), (ProtocolVersion::V2, v2.as_slice())] {
        let mut client = world.connect_as(&person("ana"), version).await?;
        for frame in shared.iter().chain(own) {
            client.send_text(frame).await?;
            client.heartbeat().await.with_context(|| format!("after {frame}"))?;
            assert_eq!(client.unclaimed().count(), 0, "{frame} was answered");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_binary_frame_is_ignored_and_the_socket_lives() -> Result<()> {
    let world = World::with_sql("frames_binary", "").await?;
    let push = b"\x03\x01\x01\x0a\x01\x00\x0112realtime:ae{\"x\":1}";
    let header_bytes = push.len() - br#"{"x":1}"#.len();
    let mut client = world.connect(&person("ana")).await?;
    for length in 0..header_bytes {
        client.send_binary(&push[..length]).await?;
    }
    for kind in [1, 2, 4, 5, 255] {
        let mut frame = push.to_vec();
        frame[0] = kind;
        client.send_binary(&frame).await?;
    }
    // Marked as JSON, and is none.
    client.send_binary(&push[..header_bytes]).await?;
    client.send_binary(&[&push[..], b"}"].concat()).await?;
    client.send_binary(&[&push[..header_bytes], b"\"\xff\""].concat()).await?;
    client.heartbeat().await?;
    assert_eq!(client.unclaimed().count(), 0);

    let mut old = world.connect_as(&person("ana"), ProtocolVersion::V1).await?;
    old.send_binary(push).await?;
    old.heartbeat().await?;
    assert_eq!(old.unclaimed().count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_elements_and_more_keys_than_there_are_do_not_matter() -> Result<()> {
    let world = World::with_sql("frames_lenient", "").await?;
    let mut v2 = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    v2.send_text(" [ null , \"a\" , \"phoenix\" , \"heartbeat\" , {} , 7 , {\"more\":[]} ] ").await?;
    assert!(v2.reply("a").await?.is_ok());
    let mut v1 = world.connect_as(&person("ana"), ProtocolVersion::V1).await?;
    v1.send_text(
        r#"{"more":[],"ref":"a","payload":null,"version":"1","event":"heartbeat","topic":"phoenix"}"#,
    )
    .await?;
    assert!(v1.reply("a").await?.is_ok());
    v1.send_text(r#"{"topic":"pho\u0065nix","event":"heart\u0062eat","payload":{},"ref":"b"}"#).await?;
    assert!(v1.reply("b").await?.is_ok());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_answered_with_its_bytes_also_in_the_middle_of_a_message_in_pieces() -> Result<()> {
    let world = World::with_sql("frames_ping", "").await?;
    let mut socket = RawSocket::connect(&world, "2.0.0").await?;
    for payload in [b"".as_slice(), b"are you there", &[0xFF; 125]] {
        socket.send(FINAL | opcode::PING, payload).await?;
        assert_eq!(socket.frame().await?, (opcode::PONG, payload.to_vec()));
    }
    socket.send(opcode::TEXT, br#"[null,"hb","pho"#).await?;
    socket.send(FINAL | opcode::PING, b"between").await?;
    assert_eq!(socket.frame().await?, (opcode::PONG, b"between".to_vec()));
    socket.send(opcode::CONTINUATION, br#"enix","heart"#).await?;
    socket.send(FINAL | opcode::PONG, b"unasked").await?;
    socket.send(FINAL | opcode::CONTINUATION, br#"beat",{}]"#).await?;
    let (opcode, reply) = socket.frame().await?;
    assert_eq!((opcode, reply.starts_with(br#"[null,"hb","phoenix","phx_reply""#)), (opcode::TEXT, true));
    socket.heartbeat().await
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_arrive_byte_by_byte_are_read_like_any_other() -> Result<()> {
    let world = World::with_sql("frames_bytes", "").await?;
    let mut socket = RawSocket::connect(&world, "2.0.0").await?;
    let message = br#"[null,"hb","phoenix","heartbeat",{}]"#;
    let frame = [header(FINAL | opcode::TEXT, message.len()), message.to_vec()].concat();
    for byte in &frame {
        socket.send_bytes(&[*byte]).await?;
    }
    let (_, reply) = socket.frame().await?;
    assert!(reply.starts_with(br#"[null,"hb""#));
    socket.send_bytes(&frame.repeat(3)).await?;
    for _ in 0..3 {
        assert_eq!(socket.frame().await?.1, reply);
    }
    Ok(())
}

// Case 24.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_closes_with_1009_and_one_just_below_does_not() -> Result<()> {
    let world = World::with_sql("frames_oversize", "").await?;
    let too_big = Some((1009, "the message is larger than the server accepts".to_owned()));
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        client.send_text(&" ".repeat(5_000_000)).await?;
        client.heartbeat().await?;
        // What a client has sent meanwhile must not keep it from reading why it is closed.
        client.send_text(&" ".repeat(5_000_001)).await?;
        assert_eq!(client.closed().await?, too_big);
    }
    let mut client = world.connect(&person("ana")).await?;
    client.send_binary(&vec![0; 20_000_000]).await?;
    assert_eq!(client.closed().await?, too_big);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_pieces_that_is_too_large_in_sum_closes_with_1009() -> Result<()> {
    let small = |settings: &mut ServeSettings| settings.project.limits.message_bytes_max = 10_000;
    let world = World::with_settings("frames_pieces", "", small).await?;
    let mut socket = RawSocket::connect(&world, "2.0.0").await?;
    socket.send(opcode::BINARY, &[0; 4_000]).await?;
    socket.send(opcode::CONTINUATION, &[0; 4_000]).await?;
    socket.send(opcode::CONTINUATION, &[0; 4_000]).await?;
    socket.closed(1009, "the message is larger than the server accepts").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_websocket_frame_closes_with_1002() -> Result<()> {
    let world = World::with_sql("frames_protocol", "").await?;
    let unmasked = [FINAL | opcode::TEXT, 2, b'{', b'}'];
    let reserved_bits = header(FINAL | 0x40 | opcode::TEXT, 0);
    let reserved_opcode = header(FINAL | 0x3, 0);
    let ping_in_pieces = header(opcode::PING, 0);
    let long_ping = [header(FINAL | opcode::PING, 126), vec![0; 126]].concat();
    let continuation_of_nothing = header(FINAL | opcode::CONTINUATION, 0);
    for bytes in [
        &unmasked[..],
        &reserved_bits,
        &reserved_opcode,
        &ping_in_pieces,
        &long_ping,
        &continuation_of_nothing,
    ] {
        let mut socket = RawSocket::connect(&world, "2.0.0").await?;
        socket.send_bytes(bytes).await?;
        socket.closed(1002, "not a valid WebSocket frame").await.with_context(|| format!("{bytes:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_message_that_is_no_utf_8_closes_with_1007() -> Result<()> {
    let world = World::with_sql("frames_utf8", "").await?;
    let mut socket = RawSocket::connect(&world, "1.0.0").await?;
    socket.send(FINAL | opcode::TEXT, b"{\"topic\":\"\xff\"}").await?;
    socket.closed(1007, "a text message must be UTF-8").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_frame_is_answered_with_its_code_behind_all_that_was_asked_before_it() -> Result<()> {
    let world = World::with_sql("frames_close", "").await?;
    for code in [1000_u16, 1001, 3000, 4999] {
        let mut socket = RawSocket::connect(&world, "2.0.0").await?;
        let heartbeat = br#"[null,"hb","phoenix","heartbeat",{}]"#;
        let mut bytes =
            [header(FINAL | opcode::TEXT, heartbeat.len()), heartbeat.to_vec()].concat().repeat(20);
        bytes.extend(header(FINAL | opcode::CLOSE, 2));
        bytes.extend(code.to_be_bytes());
        socket.send_bytes(&bytes).await?;
        for _ in 0..20 {
            assert_eq!(socket.frame().await?.0, opcode::TEXT);
        }
        let (opcode, payload) = socket.frame().await.with_context(|| format!("no answer to {code}"))?;
        assert_eq!((opcode, payload.get(..2)), (opcode::CLOSE, Some(&code.to_be_bytes()[..])));
        socket.ended().await?;
    }
    let mut socket = RawSocket::connect(&world, "2.0.0").await?;
    socket.send(FINAL | opcode::CLOSE, &[]).await?;
    assert_eq!(socket.frame().await?.0, opcode::CLOSE);
    socket.ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_closes_with_1000() -> Result<()> {
    let soon =
        |settings: &mut ServeSettings| settings.project.limits.idle_timeout = Duration::from_millis(200);
    let world = World::with_settings("frames_silence", "", soon).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let expected = Some((1000, "nothing heard: send a heartbeat".to_owned()));
        assert_eq!(client.closed().await?, expected);
    }
    Ok(())
}

// Case 274.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_closes_every_socket_with_1012_also_those_that_are_sending() -> Result<()> {
    let world = World::with_sql("frames_stop", "").await?;
    let mut clients = Vec::new();
    for index in 0..12 {
        let mut client = world.connect_as(&person("ana"), BOTH[index % 2]).await?;
        if index % 3 > 0 {
            client.join("realtime:room", &json!({ "config": {} })).await?;
        }
        clients.push(client);
    }
    let mut busy = world.connect(&person("bruno")).await?;
    busy.join("realtime:room", &json!({ "config": {} })).await?;
    let (first_sent, sending) = tokio::sync::oneshot::channel();
    let busy = tokio::spawn(async move {
        let mut first_sent = Some(first_sent);
        while busy.broadcast("realtime:room", "e", &json!({ "x": "y".repeat(500) })).await.is_ok() {
            first_sent.take().map(|sender| sender.send(()));
        }
        busy.closed().await
    });
    sending.await?;
    let World { server, database: _database, .. } = world;
    let stopped = tokio::spawn(server.stop());
    for client in &mut clients {
        assert_eq!(client.closed().await?, Some((1012, String::new())));
    }
    timeout(Duration::from_secs(20), stopped).await.context("the server does not stop")???;
    // A socket that was written to until the end may have been cut, but never left open.
    let end = busy.await??;
    assert!(end.is_none() || end == Some((1012, String::new())), "{end:?}");
    Ok(())
}

/// Sends broadcasts until `reader` has got the last of them.
async fn flood(sender: &mut ProtocolClient, reader: &mut ProtocolClient, count: u32) -> Result<()> {
    let filler = vec![b'x'; 64 * 1024];
    for number in 0..count {
        let content = [&number.to_be_bytes()[..], &filler].concat();
        sender.user_broadcast("realtime:flood", "e", false, &content).await?;
        // Reading along: this one is fast.
        let message = reader.expect(|message| message.event == "broadcast").await?;
        let bytes = message.bytes.context("a binary broadcast")?;
        if bytes.get(..4) != Some(&number.to_be_bytes()[..]) {
            bail!("message {number} is out of order or missing");
        }
    }
    Ok(())
}

// Case 276.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_closed_with_1013_and_nobody_else_is_harmed() -> Result<()> {
    let tight = |settings: &mut ServeSettings| settings.project.engine.outbound_bytes_max = 256 * 1024;
    let world = World::with_settings("frames_slow", "", tight).await?;
    let mut connected = Vec::new();
    for _ in 0..4 {
        let mut client = world.connect(&person("ana")).await?;
        client.join("realtime:flood", &json!({ "config": {} })).await?;
        connected.push(client);
    }
    let [mut slow, mut other_slow, mut fast, mut sender] =
        <[ProtocolClient; 4]>::try_from(connected).map_err(|_| anyhow::anyhow!("four"))?;
    // 13 MB: more than the kernel's buffers of a connection take.
    flood(&mut sender, &mut fast, 200).await?;
    for slow in [&mut slow, &mut other_slow] {
        let end = slow.closed().await?;
        let reason = "slow consumer: more than 262144 bytes queued (outbound_bytes_max)";
        assert_eq!(end, Some((1013, reason.to_owned())));
    }
    for client in [&mut fast, &mut sender] {
        client.heartbeat().await?;
    }
    assert_eq!(world.metric("walcast_ws_slow_closes_total").await?, 2, "each counts once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_without_reading_the_answers_costs_only_itself() -> Result<()> {
    let tight = |settings: &mut ServeSettings| settings.project.engine.outbound_bytes_max = 64 * 1024;
    let world = World::with_settings("frames_deaf", "", tight).await?;
    let mut others = Vec::new();
    for version in BOTH {
        others.push(world.connect_as(&person("bruno"), version).await?);
    }
    let mut deaf = RawSocket::connect(&world, "2.0.0").await?;
    // The reply repeats the reference, so that answers are as large as questions.
    let reference: Value = "r".repeat(1_000).into();
    let heartbeat = json!([null, reference, "phoenix", "heartbeat", {}]).to_string();
    let frames =
        [header(FINAL | opcode::TEXT, heartbeat.len()), heartbeat.into_bytes()].concat().repeat(1_000);
    let mut sent = 0;
    while deaf.send_bytes(&frames).await.is_ok() {
        sent += frames.len();
        ensure!(sent < 500_000_000, "the server takes any amount of questions");
        for other in &mut others {
            other.heartbeat().await?;
        }
    }
    for other in &mut others {
        other.heartbeat().await?;
    }
    Ok(())
}
