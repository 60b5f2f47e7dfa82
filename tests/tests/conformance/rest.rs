//! Cases 124 to 135: broadcasts over HTTP.

mod messages;
mod refusals;
mod unanswered;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::{ProtocolClient, Received};
use walcast_tests::requests::Answer;
use walcast_tests::{World, person, token};

const ACCEPTED: (u16, &str) = (202, "");

/// Sends a batch as Ana.
async fn batch(world: &World, messages: &Value) -> Result<Answer> {
    let body = json!({ "messages": messages });
    world.request_as(&token(&person("ana")), "POST", "/api/broadcast", &body).await
}

/// Sends one message as Ana.
async fn single(world: &World, path: &str, content_type: Option<&str>, body: &[u8]) -> Result<Answer> {
    let bearer = format!("Bearer {}", token(&person("ana")));
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(content_type.map(|value| ("content-type", value)));
    world.request("POST", path, &headers, body).await
}

/// The path of a message `e` to a topic, whose name needs no encoding but for its spaces.
fn path_of(topic: &str) -> String {
    format!("/api/broadcast/{}/events/e", topic.replace(' ', "%20"))
}

fn accepted(answer: &Answer) -> Result<()> {
    ensure!((answer.status, answer.body.as_str()) == ACCEPTED, "{answer:?}");
    Ok(())
}

fn answered(answer: &Answer, status: u16, body: &Value) -> Result<()> {
    ensure!((answer.status, &answer.json()) == (status, body), "{answer:?}, not {status} {body}");
    Ok(())
}

/// Sends a mark behind all that was sent before, and fails if this client gets something before it.
async fn nothing_but_a_mark(world: &World, topic: &str, client: &mut ProtocolClient) -> Result<()> {
    accepted(&batch(world, &json!([{ "topic": topic, "event": "mark", "payload": {} }])).await?)?;
    let is_broadcast = |message: &Received| message.event == "broadcast";
    let is_mark = |message: &Received| is_broadcast(message) && message.payload["event"] == "mark";
    client.expect_before(is_mark, |message| is_broadcast(message) && !is_mark(message)).await?;
    Ok(())
}
