//! Cases 147 to 172: who is there.

mod cycle;
mod limits;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::{ProtocolClient, ProtocolVersion, Received, Reply};
use walcast_tests::World;

use crate::scene::member;

/// A member that follows who is there, and the state it was sent.
pub(crate) async fn follower(
    world: &World,
    version: ProtocolVersion,
    topic: &str,
    key: &str,
) -> Result<(ProtocolClient, Value)> {
    let config = json!({ "presence": { "key": key, "enabled": true }, "broadcast": { "ack": true } });
    let mut client = member(world, version, topic, &config).await?;
    let state = client.next().await?;
    ensure!(state.is(topic, "presence_state"), "the state comes right behind the reply: {:?}", state.raw);
    Ok((client, state.payload))
}

/// Sends a presence message and waits for its reply.
pub(crate) async fn push(client: &mut ProtocolClient, topic: &str, payload: &Value) -> Result<Reply> {
    let reference = client.send(topic, "presence", payload).await?;
    client.reply(&reference).await
}

pub(crate) async fn track(client: &mut ProtocolClient, topic: &str, meta: &Value) -> Result<()> {
    let reply =
        push(client, topic, &json!({ "type": "presence", "event": "track", "payload": meta })).await?;
    ensure!(reply.is_ok() && reply.response == json!({}), "{reply:?}");
    Ok(())
}

pub(crate) async fn untrack(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let reply = push(client, topic, &json!({ "type": "presence", "event": "untrack" })).await?;
    ensure!(reply.is_ok() && reply.response == json!({}), "{reply:?}");
    Ok(())
}

/// The next diff, on any channel of the client.
pub(crate) async fn diff(client: &mut ProtocolClient) -> Result<Received> {
    client.expect(|message| message.event == "presence_diff").await
}

/// The metas of a key without their references.
pub(crate) fn metas(part: &Value, key: &str) -> Result<Vec<Value>> {
    let metas = part[key]["metas"].as_array().with_context(|| format!("no {key} in {part}"))?;
    let mut bare = metas.clone();
    for meta in bare.iter_mut().filter_map(Value::as_object_mut) {
        let reference = meta.remove("phx_ref").context("a phx_ref")?;
        ensure!(reference.as_str().is_some_and(|text| text.len() == 16), "{reference}");
        meta.remove("phx_ref_prev");
    }
    Ok(bare)
}

/// How many keys join and leave in a diff.
pub(crate) fn counts(diff: &Value) -> (usize, usize) {
    let count = |part: &str| diff[part].as_object().map_or(0, serde_json::Map::len);
    (count("joins"), count("leaves"))
}
