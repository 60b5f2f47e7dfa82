//! Phoenix long polling: docs/protocol.md §1.7. The Phoenix framework's own client is run in `clients.rs`.

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use walcast_testkit::ProtocolVersion;
use walcast_tests::{World, person, token};

const ROOM: &str = "realtime:room";

/// A client that polls.
struct Poller {
    http: Client,
    url: String,
    token: String,
}

impl Poller {
    async fn open(world: &World, subject: &str, vsn: &str) -> Result<Poller> {
        let http = Client::new();
        let url = format!("{}/socket/longpoll", world.http());
        let opened = get(&http, &format!("{url}?vsn={vsn}&apikey={}", token(&person(subject)))).await?;
        ensure!(opened["status"] == 410 && opened["messages"] == json!([]), "{opened}");
        let token = opened["token"].as_str().context("a session has a token")?.to_owned();
        Ok(Poller { http, url, token })
    }

    async fn poll(&self) -> Result<Value> {
        get(&self.http, &format!("{}?token={}", self.url, self.token)).await
    }

    /// Polls until `count` messages have come.
    async fn messages(&self, count: usize) -> Result<Vec<Value>> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let answer = self.poll().await?;
            ensure!(answer["status"] == 200, "after {messages:?} came {answer}");
            for message in answer["messages"].as_array().context("messages are a list")? {
                messages.push(serde_json::from_str(message.as_str().context("a message is a text")?)?);
            }
        }
        Ok(messages)
    }

    async fn send(&self, body: String, content_type: &str) -> Result<Value> {
        let request = self.http.post(format!("{}?token={}", self.url, self.token));
        let response = request.header("content-type", content_type).body(body).send().await?;
        ensure!(response.status() == 200, "{response:?}");
        Ok(response.json().await?)
    }
}

async fn get(http: &Client, url: &str) -> Result<Value> {
    let response = http.get(url).send().await?;
    ensure!(response.status() == 200, "{response:?}");
    ensure!(response.headers()["access-control-allow-origin"] == "*");
    Ok(response.json().await?)
}

fn join(config: &Value) -> String {
    json!(["1", "1", ROOM, "phx_join", { "config": config }]).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_broadcasts_and_presence_work_over_plain_requests_with_both_serializers() -> Result<()> {
    let world = World::with_sql("poll_messages", "create publication supabase_realtime").await?;
    let poller = Poller::open(&world, "ana", "2.0.0").await?;
    let config = json!({ "broadcast": { "ack": true }, "presence": { "key": "ana", "enabled": true } });
    ensure!(poller.send(join(&config), "application/json").await? == json!({ "status": 200 }));
    let answers = poller.messages(2).await?;
    ensure!(
        answers[0]
            == json!(["1", "1", ROOM, "phx_reply", { "status": "ok", "response": { "postgres_changes": [] } }])
    );
    ensure!(answers[1] == json!(["1", null, ROOM, "presence_state", {}]));

    let mut other = world.connect_as(&person("eva"), ProtocolVersion::V1).await?;
    ensure!(other.join(ROOM, &json!({ "config": { "broadcast": { "ack": true } } })).await?.is_ok());
    let lines: Vec<String> = (0..3)
        .map(|n| json!(["1", format!("b{n}"), ROOM, "broadcast", { "event": "n", "payload": n }]).to_string())
        .collect();
    ensure!(poller.send(lines.join("\n"), "application/x-ndjson").await?["status"] == 200);
    for n in 0..3 {
        let message = other.expect(|message| message.event == "broadcast").await?;
        ensure!(message.payload["payload"] == n, "{message:?}");
    }
    ensure!(poller.messages(3).await?[2][1] == "b2");

    let old = Poller::open(&world, "iker", "1.0.0").await?;
    let message = json!({ "topic": ROOM, "event": "phx_join", "payload": { "config": {} }, "ref": "1" });
    ensure!(old.send(message.to_string(), "application/json").await?["status"] == 200);
    ensure!(old.messages(1).await?[0]["event"] == "phx_reply");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_broadcast_comes_as_text_and_one_of_bytes_does_not_come() -> Result<()> {
    let world = World::with_sql("poll_binary", "create publication supabase_realtime").await?;
    let poller = Poller::open(&world, "ana", "2.0.0").await?;
    poller.send(join(&json!({})), "application/json").await?;
    poller.messages(1).await?;
    let mut other = world.connect(&person("eva")).await?;
    ensure!(other.join(ROOM, &json!({ "config": {} })).await?.is_ok());
    other.user_broadcast(ROOM, "bytes", false, &[0, 1, 2]).await?;
    other.user_broadcast(ROOM, "json", true, br#"{"x":1}"#).await?;
    let message = &poller.messages(1).await?[0];
    let expected = json!([null, null, ROOM, "broadcast", { "event": "json", "payload": { "x": 1 }, "type": "broadcast" }]);
    ensure!(*message == expected, "{message}");

    // The same the other way: a line in base64 is a binary message.
    let frame = b"\x03\x01\x00\x0d\x04\x00\x011realtime:roomback{\"y\":2}";
    let line = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, frame);
    ensure!(poller.send(line, "application/x-ndjson").await?["status"] == 200);
    let message = other.expect(|message| message.event == "broadcast").await?;
    ensure!(
        message.payload["event"] == "back" && message.payload["payload"] == json!({ "y": 2 }),
        "{message:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_key_a_lost_session_and_a_bad_body_are_told_in_the_answer() -> Result<()> {
    let world = World::with_sql("poll_refused", "create publication supabase_realtime").await?;
    let (http, url) = (Client::new(), format!("{}/realtime/v1/longpoll", world.http()));
    for (query, status) in
        [("", 403), ("?apikey=nonsense", 403), ("?vsn=3.0.0&apikey=x", 403), ("?token=unknown", 410)]
    {
        let answer = get(&http, &format!("{url}{query}")).await?;
        ensure!(answer["status"] == status, "{query}: {answer}");
    }
    let poller = Poller::open(&world, "ana", "2.0.0").await?;
    for (body, status) in [("?".to_owned(), 400), ("[]\n".repeat(101), 413)] {
        let answer = poller.send(body, "application/x-ndjson").await?;
        ensure!(answer["status"] == status && answer["error"].is_string(), "{answer}");
    }
    ensure!(
        poller.send("not a message".to_owned(), "application/json").await?["status"] == 200,
        "dropped as on a socket"
    );
    let lost = Poller { http: Client::new(), url: poller.url.clone(), token: "gone".to_owned() };
    ensure!(lost.send("[]".to_owned(), "application/json").await?["status"] == 410);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_the_server_and_a_full_house_lets_none_in() -> Result<()> {
    let world = World::with_settings("poll_limits", "create publication supabase_realtime", |settings| {
        settings.project.limits.max_concurrent_users = 1;
    })
    .await?;
    let poller = Poller::open(&world, "ana", "2.0.0").await?;
    let full =
        get(&poller.http, &format!("{}?vsn=2.0.0&apikey={}", poller.url, token(&person("eva")))).await?;
    ensure!(full["status"] == 500, "the client tries again: {full}");
    ensure!(full["error"] == "Too many connected users (limits.max_concurrent_users = 1)", "{full}");
    let polling = tokio::spawn({
        let (http, url) = (poller.http.clone(), format!("{}?token={}", poller.url, poller.token));
        async move { get(&http, &url).await }
    });
    poller.send(join(&json!({})), "application/json").await?;
    ensure!(polling.await??["status"] == 200, "what came is handed out at once");
    let _world = world.restart().await?;
    ensure!(poller.poll().await?["status"] == 410, "the new server does not know the session");
    Ok(())
}
