//! Cases 136 to 146 and 266 to 272: messages from the database, what stores them, and their replay.

mod readiness;
mod replay;
mod sending;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::{ProtocolClient, ProtocolVersion, RawFrame, Received};
use walcast_tests::World;
use walcast_tests::shared::{Shared, SharedWorld};

use crate::scene::{member, next_broadcast, sub_topic};

/// Topics by what their first word says: `open` for everybody, `read` to listen only, `asked` for whom PostgreSQL lets in
/// when it is asked, `broken` with a policy that raises when something is sent.
pub(crate) const POLICIES: &str = "
    create policy reading on realtime.messages for select to authenticated
        using (split_part(realtime.topic(), ':', 1) in ('open', 'read', 'asked', 'broken'));
    create policy writing on realtime.messages for insert to authenticated
        with check (split_part(realtime.topic(), ':', 1) = 'open');
    create sequence times_asked;
    grant usage on sequence times_asked to authenticated;
    create function counted() returns boolean language plpgsql as
        $$ begin perform nextval('public.times_asked'); return true; end $$;
    create policy asking on realtime.messages for insert to authenticated
        with check (split_part(realtime.topic(), ':', 1) = 'asked' and counted());
    create policy breaking on realtime.messages for insert to authenticated with check (
        case when split_part(realtime.topic(), ':', 1) = 'broken' then 1 / (length(realtime.topic()) * 0) = 1 else false end);
";

/// The table that case 139 has a trigger on.
const NOTES: &str = "
    create table notes (id int primary key, body text);
    create function tell() returns trigger language plpgsql as $$ begin
        perform realtime.broadcast_changes('open:notes', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
        return null;
    end $$;
    create trigger tell after insert or update or delete on notes for each row execute function tell();
";

/// The server of all cases that need no settings of their own, in a database with `realtime.messages`.
static SHARED: Shared =
    Shared::new("conformance_stored", || World::installation(&format!("{POLICIES}{NOTES}")), |_| {});

pub(crate) async fn world() -> Result<Arc<SharedWorld>> {
    SHARED.world().await
}

/// A topic that no other test uses, with this first word.
pub(crate) fn private_room(kind: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("realtime:{kind}:{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A member of a private channel.
async fn inside(world: &World, version: ProtocolVersion, topic: &str) -> Result<ProtocolClient> {
    member(world, version, topic, &json!({ "private": true })).await
}

/// `realtime.send` of a payload `{ "n": … }`, which is private.
async fn send(world: &World, topic: &str, n: i32) -> Result<()> {
    let topic = sub_topic(topic);
    world
        .client
        .execute("select realtime.send(jsonb_build_object('n', $1::int), 'e', $2)", &[&n, &topic])
        .await?;
    Ok(())
}

/// The id of the only message of this event that is stored under a topic.
async fn stored_id(world: &World, topic: &str, event: &str) -> Result<String> {
    let sql = "select id::text from realtime.messages where topic = $1 and event = $2";
    Ok(world.client.query_one(sql, &[&sub_topic(topic), &event]).await?.get(0))
}

/// A broadcast that carries metadata.
struct WithMeta {
    event: String,
    /// JSON, or null where there are bytes.
    payload: Value,
    bytes: Option<Vec<u8>>,
    meta: Value,
}

/// The next broadcast, in whichever serializer it came.
async fn next(client: &mut ProtocolClient) -> Result<WithMeta> {
    let got = next_broadcast(client).await?;
    match &got.raw {
        RawFrame::Text(_) => Ok(WithMeta {
            event: got.payload["event"].as_str().context("an event")?.to_owned(),
            payload: got.payload["payload"].clone(),
            bytes: None,
            meta: got.payload["meta"].clone(),
        }),
        RawFrame::Binary(bytes) => parts(bytes, &got),
    }
}

/// A frame of kind 4 (docs/protocol.md §2.3).
fn parts(frame: &[u8], got: &Received) -> Result<WithMeta> {
    ensure!(frame[0] == 4, "{:?}", got.raw);
    let [topic, event, meta] = [frame[1], frame[2], frame[3]].map(usize::from);
    let rest = &frame[5 + topic..];
    let content = &rest[event + meta..];
    let is_json = frame[4] == 1;
    let payload = if is_json { serde_json::from_slice(content)? } else { Value::Null };
    Ok(WithMeta {
        event: String::from_utf8(rest[..event].to_vec())?,
        payload,
        bytes: (!is_json).then(|| content.to_vec()),
        meta: serde_json::from_slice(&rest[event..event + meta])?,
    })
}
