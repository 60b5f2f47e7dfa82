//! Joining and leaving: docs/protocol.md §3.

mod leaving;
mod limits;
mod payloads;
mod waiting;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion, RawFrame, Received};

pub(crate) const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V1, ProtocolVersion::V2];
pub(crate) const ROOM: &str = "realtime:room";

/// Longer than any test may take: what is answered all the same was not delayed.
pub(crate) const NEVER: Duration = Duration::from_mins(10);

pub(crate) const NOTES: &str = "
    create table notes (id int primary key, details text);
    grant select on notes to anon, authenticated, service_role;
    create publication supabase_realtime for table notes;
";

pub(crate) fn open_config() -> Value {
    json!({ "config": {} })
}

pub(crate) fn acknowledging() -> Value {
    json!({ "config": { "broadcast": { "self": true, "ack": true } } })
}

pub(crate) fn refusals_never_come(settings: &mut ServeSettings) {
    settings.project.limits.channel_error_backoff = NEVER;
}

pub(crate) fn raw(message: &Received) -> &str {
    match &message.raw {
        RawFrame::Text(text) => text,
        RawFrame::Binary(_) => "a binary frame",
    }
}

/// Fails unless the client is on no such channel.
pub(crate) async fn assert_not_joined(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let reference = client.send(topic, "anything", &json!({})).await?;
    let reply = client.reply(&reference).await.with_context(|| format!("{topic} is still joined"))?;
    ensure!(reply.reason() == Some("unmatched topic"), "{topic}: {reply:?}");
    Ok(())
}

/// Waits for the acknowledgement of a broadcast: whatever the server sent before has arrived then.
pub(crate) async fn acknowledged(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let reference = client.send(topic, "broadcast", &json!({ "event": "mark" })).await?;
    let reply = client.reply(&reference).await?;
    ensure!(reply.is_ok(), "{reply:?}");
    Ok(())
}
