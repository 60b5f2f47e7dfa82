//! What the cases share: one server, members of topics of their own, and waiting for what comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::{ProtocolClient, ProtocolVersion, Received};
use walcast_tests::shared::{Shared, SharedWorld};
use walcast_tests::{World, person};

use crate::changes;

pub(crate) const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V1, ProtocolVersion::V2];

/// The server of all cases that need no settings of their own.
static SHARED: Shared = Shared::new("conformance", changes::schema, |_| {});

pub(crate) async fn world() -> Result<Arc<SharedWorld>> {
    SHARED.world().await
}

/// Runs a case with both serializers.
pub(crate) async fn on_both(case: impl AsyncFn(ProtocolVersion) -> Result<()>) -> Result<()> {
    for version in BOTH {
        case(version).await.with_context(|| format!("with serializer {}", version.vsn()))?;
    }
    Ok(())
}

/// A topic that no other test uses.
pub(crate) fn room() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("realtime:room {}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// The topic as `system` messages name it.
pub(crate) fn sub_topic(topic: &str) -> &str {
    topic.strip_prefix("realtime:").unwrap_or(topic)
}

/// A connection of Ana.
pub(crate) async fn connect(world: &World, version: ProtocolVersion) -> Result<ProtocolClient> {
    world.connect_as(&person("ana"), version).await
}

/// A connection of Ana that has joined a topic with this `config`.
pub(crate) async fn member(
    world: &World,
    version: ProtocolVersion,
    topic: &str,
    config: &Value,
) -> Result<ProtocolClient> {
    let mut client = connect(world, version).await?;
    join(&mut client, topic, config).await?;
    Ok(client)
}

/// Joins a topic with this `config`, which must succeed; gives the bindings of the reply.
pub(crate) async fn join(client: &mut ProtocolClient, topic: &str, config: &Value) -> Result<Vec<Value>> {
    let reply = client.join(topic, &json!({ "config": config })).await?;
    ensure!(reply.is_ok(), "{config} was refused: {}", reply.response);
    Ok(reply.response["postgres_changes"].as_array().context("the bindings")?.clone())
}

/// Joins a topic with this payload, which must be refused; gives the reason.
pub(crate) async fn refused(client: &mut ProtocolClient, topic: &str, payload: &Value) -> Result<String> {
    let reply = client.join(topic, payload).await?;
    let reason = reply.reason().with_context(|| format!("{payload} was accepted: {}", reply.response))?;
    let reason = reason.to_owned();
    ensure!(!is_joined(client, topic).await?, "a refused channel must not be joined");
    Ok(reason)
}

/// Whether the client is on this channel.
pub(crate) async fn is_joined(client: &mut ProtocolClient, topic: &str) -> Result<bool> {
    // Answered on a channel and off it, in words that differ.
    let reference = client.send(topic, "presence", &json!({})).await?;
    let reply = client.reply(&reference).await?;
    Ok(reply.reason() != Some("unmatched topic"))
}

/// Waits until the server has handled all that the client has sent on this channel, whose broadcasts are acknowledged.
pub(crate) async fn acknowledged(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let reference = client.send(topic, "broadcast", &json!({ "event": "mark" })).await?;
    let reply = client.reply(&reference).await?;
    ensure!(reply.is_ok(), "{}", reply.response);
    Ok(())
}

/// The next broadcast on any channel of the client.
pub(crate) async fn next_broadcast(client: &mut ProtocolClient) -> Result<Received> {
    client.expect(|message| message.event == "broadcast").await
}

/// Waits for the end of a channel: the `system` error, whose message is returned, then `phx_close`, and the socket lives.
pub(crate) async fn end_of(client: &mut ProtocolClient, topic: &str) -> Result<String> {
    let told = client.expect(|message| message.topic == topic && message.system("system").is_some()).await?;
    let (status, message) = told.system("system").context("checked above")?;
    ensure!(status == "error", "{:?}", told.raw);
    client.expect(|message| message.is(topic, "phx_close")).await?;
    ensure!(!is_joined(client, topic).await?, "a closed channel must not be joined");
    client.heartbeat().await?;
    Ok(message.to_owned())
}

/// Fails unless nothing is left that arrived and was not expected.
pub(crate) fn nothing_else(client: &ProtocolClient) -> Result<()> {
    let left: Vec<_> = client.unclaimed().map(|message| &message.raw).collect();
    ensure!(left.is_empty(), "this must not arrive: {left:?}");
    Ok(())
}
