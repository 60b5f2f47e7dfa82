//! The client against a server that plays a script.

use std::time::Duration;

use anyhow::Result;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use walcast_testkit::{HandshakeRefused, ProtocolClient, ProtocolVersion};

/// A server that waits for one frame and then sends these, then closes with 1012.
async fn scripted(frames: Vec<Message>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a handshake");
        socket.next().await;
        for frame in frames {
            socket.send(frame).await.expect("sent");
        }
        let frame = CloseFrame { code: CloseCode::Restart, reason: "bye".into() };
        socket.send(Message::Close(Some(frame))).await.expect("sent");
        while socket.next().await.is_some() {}
    });
    url
}

fn texts(texts: &[&str]) -> Vec<Message> {
    texts.iter().map(|text| Message::text(*text)).collect()
}

#[tokio::test]
async fn a_join_waits_for_the_reply_and_the_system_message_and_keeps_what_came_between() -> Result<()> {
    let url = scripted(texts(&[
        r#"["1",null,"realtime:a","presence_state",{}]"#,
        r#"["1","1","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[{"id":7}]}}]"#,
        r#"["1",null,"realtime:a","system",
            {"extension":"postgres_changes","status":"ok","message":"Subscribed to PostgreSQL","channel":"a"}]"#,
    ]))
    .await;
    let mut client = ProtocolClient::connect(&url, "t", ProtocolVersion::V2).await?;
    let bindings = client.join_changes("realtime:a", &[json!({"event": "*"})]).await?;
    assert_eq!(bindings, [json!({"id": 7})]);
    assert_eq!(client.next().await?.event, "presence_state");
    assert_eq!(client.closed().await?, Some((1012, "bye".to_owned())));
    Ok(())
}

#[tokio::test]
async fn a_refused_subscription_is_an_error_that_has_the_servers_words() -> Result<()> {
    let url = scripted(texts(&[
        r#"{"topic":"realtime:a","event":"phx_reply","ref":"1","payload":{"status":"ok","response":{"postgres_changes":[]}}}"#,
        r#"{"topic":"realtime:a","event":"system","ref":null,
            "payload":{"extension":"postgres_changes","status":"error","message":"no such table","channel":"a"}}"#,
    ]))
    .await;
    let mut client = ProtocolClient::connect(&url, "t", ProtocolVersion::V1).await?;
    let error = client.join_changes("realtime:a", &[]).await.expect_err("refused");
    assert!(format!("{error:#}").contains("no such table"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn an_expectation_that_fails_shows_what_did_arrive() -> Result<()> {
    let url = scripted(texts(&[r#"[null,null,"realtime:a","broadcast",{"x":1}]"#])).await;
    let mut client = ProtocolClient::connect(&url, "t", ProtocolVersion::V2).await?;
    client.send("realtime:a", "anything", &json!({})).await?;
    let error = client.expect(|message| message.event == "presence_diff").await.expect_err("it never comes");
    let text = format!("{error:#}");
    assert!(text.contains("1012") && text.contains(r#"{"x":1}"#), "{text}");
    Ok(())
}

#[tokio::test]
async fn an_expectation_has_a_deadline() -> Result<()> {
    let url = scripted(Vec::new()).await;
    let mut client = ProtocolClient::connect(&url, "t", ProtocolVersion::V2).await?;
    client.set_deadline(Duration::from_millis(10));
    let error = client.next().await.expect_err("the server waits for us");
    assert!(format!("{error:#}").contains("waited for 10ms; nothing else arrived"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn what_is_forbidden_before_the_mark_is_an_error() -> Result<()> {
    let frames = texts(&[r#"[null,null,"realtime:a","secret",{}]"#, r#"[null,null,"realtime:a","mark",{}]"#]);
    let mut client = ProtocolClient::connect(&scripted(frames).await, "t", ProtocolVersion::V2).await?;
    client.send("realtime:a", "anything", &json!({})).await?;
    client
        .expect_before(|message| message.event == "mark", |message| message.event == "secret")
        .await
        .expect_err("the secret came first");
    client
        .expect_before(|message| message.event == "mark", |message| message.event == "other")
        .await
        .expect("nothing else came");
    Ok(())
}

#[tokio::test]
async fn a_refused_handshake_has_its_status_and_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let answer = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 15\r\n\r\n{\"error\":\"why\"}";
        stream.write_all(answer.as_bytes()).await.expect("sent");
        // Held open: a reset would overtake the answer.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
    });
    let error = ProtocolClient::connect(&url, "t", ProtocolVersion::V2).await.expect_err("refused");
    let refused = error.downcast_ref::<HandshakeRefused>().expect("a refusal");
    assert_eq!((refused.status, refused.body.as_str()), (401, r#"{"error":"why"}"#));
}
