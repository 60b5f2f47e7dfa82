//! Watching row changes: all that a channel got up to a mark, which is a row written after them.
//!
//! Changes arrive in commit order, so whoever has got the mark has got everything before it: that is how a
//! test proves that something was *not* sent, without waiting.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion, Received};
use walcast_wire::Position;

use crate::World;

/// The table of marks, for everybody to see; [`watched`] makes it.
pub const MARKS: &str = "
    create schema watching;
    grant usage on schema watching to public;
    create table watching.marks (id int generated always as identity primary key);
    grant select on watching.marks to public;
    alter publication supabase_realtime add table watching.marks;
";

/// A world whose row changes can be watched. `sql` makes the publication `supabase_realtime`.
pub async fn watched(name: &str, sql: &str) -> Result<World> {
    watched_with(name, sql, |_| {}).await
}

/// The same, with other settings.
pub async fn watched_with(name: &str, sql: &str, change: impl FnOnce(&mut ServeSettings)) -> Result<World> {
    World::with_settings(name, &format!("{sql}\n;{MARKS}"), change).await
}

/// A role's name that no other test of the cluster uses.
pub fn role_name(hint: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{hint}_{}_{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A channel that is subscribed, to the marks too.
pub struct Watcher {
    /// Its connection.
    pub client: ProtocolClient,
    /// Its topic.
    pub topic: String,
    /// Its bindings as the join reply has them, without that of the marks.
    pub bindings: Vec<Value>,
}

impl Watcher {
    /// Connects with these claims and subscribes.
    pub async fn join(world: &World, claims: &Value, bindings: &[Value]) -> Result<Watcher> {
        let client = world.connect_as(claims, ProtocolVersion::V2).await?;
        Watcher::join_on(client, "realtime:watched", bindings).await
    }

    /// Subscribes on a connection that there is.
    pub async fn join_on(mut client: ProtocolClient, topic: &str, bindings: &[Value]) -> Result<Watcher> {
        let mut wanted = bindings.to_vec();
        wanted.push(mark_binding());
        let mut bindings = client.join_changes(topic, &wanted).await?;
        bindings.pop();
        Ok(Watcher { client, topic: topic.to_owned(), bindings })
    }

    /// The payloads of all changes up to now, in the order of their arrival.
    pub async fn payloads(&mut self, world: &World) -> Result<Vec<Value>> {
        let mark = world.mark().await?;
        self.payloads_until(mark).await
    }

    /// The payloads of all changes up to this mark.
    pub async fn payloads_until(&mut self, mark: i32) -> Result<Vec<Value>> {
        let mut payloads = Vec::new();
        loop {
            let message = self.next().await?;
            let data = &message.payload["data"];
            if data["table"] != "marks" {
                payloads.push(message.payload);
            } else if data["record"]["id"] == mark {
                return Ok(payloads);
            }
        }
    }

    /// The `data` of all changes up to now, `commit_timestamp` and `position` checked and taken out.
    pub async fn seen(&mut self, world: &World) -> Result<Vec<Value>> {
        let payloads = self.payloads(world).await?;
        payloads.into_iter().map(|mut payload| without_timestamp(payload["data"].take())).collect()
    }

    /// The column `id` of the new rows of all changes up to now; of the old ones for DELETE.
    pub async fn ids(&mut self, world: &World) -> Result<Vec<i64>> {
        let changes = self.seen(world).await?;
        changes.iter().map(|data| row_id(data).with_context(|| format!("no id in {data}"))).collect()
    }

    /// The next change, a mark or not.
    pub async fn next(&mut self) -> Result<Received> {
        let Watcher { client, topic, .. } = self;
        client.expect(|message| message.is(topic, "postgres_changes")).await
    }

    /// Status and text of the next `system` message about bindings.
    pub async fn system(&mut self) -> Result<(String, String)> {
        let Watcher { client, topic, .. } = self;
        let message = client
            .expect(|message| message.topic == *topic && message.system("postgres_changes").is_some())
            .await?;
        let (status, text) = message.system("postgres_changes").context("checked above")?;
        Ok((status.to_owned(), text.to_owned()))
    }
}

impl World {
    /// Writes a mark and says which.
    pub async fn mark(&self) -> Result<i32> {
        let row =
            self.client.query_one("insert into watching.marks default values returning id", &[]).await?;
        Ok(row.try_get(0)?)
    }
}

/// A binding for the marks.
pub fn mark_binding() -> Value {
    json!({ "event": "INSERT", "schema": "watching", "table": "marks" })
}

/// Joins `topic`, which must succeed, with bindings that must not, and gives the text that says why.
pub async fn refusal(client: &mut ProtocolClient, topic: &str, bindings: &[Value]) -> Result<String> {
    let reply = client.join(topic, &json!({ "config": { "postgres_changes": bindings } })).await?;
    ensure!(reply.is_ok(), "the join must be ok: {}", reply.response);
    let message = client
        .expect(|message| message.topic == topic && message.system("postgres_changes").is_some())
        .await?;
    let (status, text) = message.system("postgres_changes").context("checked above")?;
    ensure!(status == "error", "the bindings were accepted: {}", json!(bindings));
    ensure!(
        message.payload.as_object().is_some_and(|payload| payload.len() == 4),
        "four keys are promised: {}",
        message.payload
    );
    Ok(text.to_owned())
}

/// The `id` of the row that a change is about.
pub fn row_id(data: &Value) -> Option<i64> {
    data.get("record").or_else(|| data.get("old_record"))?.get("id")?.as_i64()
}

/// Checks the form of `commit_timestamp` and `position` (docs/protocol.md §4.1) and takes both out.
pub fn without_timestamp(mut data: Value) -> Result<Value> {
    let position = data.as_object_mut().and_then(|data| data.remove("position"));
    let position = position.as_ref().and_then(Value::as_str).map(str::parse::<Position>);
    ensure!(matches!(position, Some(Ok(_))), "the position is {position:?}");
    let timestamp = data.as_object_mut().and_then(|data| data.remove("commit_timestamp"));
    let form: String = timestamp
        .as_ref()
        .and_then(Value::as_str)
        .with_context(|| format!("no commit_timestamp in {data}"))?
        .chars()
        .map(|character| if character.is_ascii_digit() { '9' } else { character })
        .collect();
    ensure!(form == "9999-99-99T99:99:99.999Z", "commit_timestamp is {timestamp:?}");
    Ok(data)
}
