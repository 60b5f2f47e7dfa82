//! Cases 44, 82, 85 to 108, 115, 121, 122, 166 and 169 to 172: channels that policies on `realtime.messages` guard.
//!
//! What a token may do is in its claims `read` and `write`: `broadcast`, `presence` or `all`. The role `authenticated`
//! has a policy that walcast decides itself, `anon` one that only PostgreSQL can.

mod joining;
mod presence;
mod renewing;
mod sending;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::{ProtocolClient, ProtocolVersion, Reply};
use walcast_tests::shared::{Shared, SharedWorld};
use walcast_tests::{World, role, token};

use crate::scene::{on_both, room};

/// The server of the cases that need no settings of their own.
static SHARED: Shared = Shared::new("conformance_private", schema, |_| {});

pub(crate) async fn world() -> Result<Arc<SharedWorld>> {
    SHARED.world().await
}

const POLICIES: &str = "
    create policy by_claims_read on realtime.messages for select to authenticated
      using (auth.jwt() ->> 'read' in (extension, 'all'));
    create policy by_claims_write on realtime.messages for insert to authenticated
      with check (auth.jwt() ->> 'write' in (extension, 'all'));
    create policy by_role on realtime.messages for select to anon, authenticated
      using (realtime.topic() like 'by role %' and auth.role() = 'authenticated');
    create policy by_user on realtime.messages for select to authenticated
      using (realtime.topic() = 'of ' || auth.uid()::text);
    create policy by_header on realtime.messages for select to authenticated
      using (realtime.topic() like 'door %'
        and current_setting('request.headers', true)::json ->> 'x-door' = 'open');
    create policy by_topic on realtime.messages for select to authenticated using (realtime.topic() = 'lobby');
    create policy members on realtime.messages for select to authenticated
      using (realtime.topic() like 'members %');

    -- Sequences are not rolled back: they count how often a policy was asked on topics of a case.
    create function asked(action text, extension text) returns boolean
    language plpgsql security definer set search_path = public as $$
    declare
      word text := split_part(realtime.topic(), ' ', 1);
    begin
      if word like 'case%' then
        perform nextval(format('%s_%s_%s', word, action, extension));
      end if;
      if auth.jwt() ->> 'raises' = action then
        raise exception 'the policy fails on %', realtime.topic();
      end if;
      return auth.jwt() ->> action in (extension, 'all');
    end $$;
    create policy asked_read on realtime.messages for select to anon using (asked('read', extension));
    create policy asked_write on realtime.messages for insert to anon with check (asked('write', extension));
";

fn schema() -> String {
    let mut sql = World::installation(POLICIES);
    for case in [96, 101, 106, 171] {
        for asked in ["read_broadcast", "read_presence", "write_broadcast", "write_presence"] {
            let _ = write!(sql, "create sequence case{case}_{asked};");
        }
    }
    sql
}

/// How often a policy was asked: `case96_write_broadcast`.
async fn asked(world: &World, sequence: &str) -> Result<i64> {
    let sql = format!("select case when is_called then last_value else 0 end from {sequence}");
    Ok(world.client.query_one(&sql, &[]).await?.get(0))
}

/// Claims of a role that may do this.
pub(crate) fn may(name: &str, read: &str, write: &str) -> Value {
    let mut claims = role(name);
    (claims["read"], claims["write"]) = (read.into(), write.into());
    claims
}

/// Runs a case with both serializers, and with policies that walcast decides and those that PostgreSQL does.
async fn on_all(case: impl AsyncFn(ProtocolVersion, &str) -> Result<()>) -> Result<()> {
    on_both(async |version| {
        for name in ["authenticated", "anon"] {
            case(version, name).await.with_context(|| format!("as {name}"))?;
        }
        Ok(())
    })
    .await
}

/// A topic of this kind that no other test uses.
fn room_of(kind: &str) -> String {
    room().replacen("room", kind, 1)
}

/// The payload of a join to a private channel whose broadcasts are acknowledged.
fn private() -> Value {
    json!({ "config": { "private": true, "broadcast": { "ack": true } } })
}

/// The same for one that follows presence under this key.
fn following(key: &str) -> Value {
    let mut payload = private();
    payload["config"]["presence"] = json!({ "enabled": true, "key": key });
    payload
}

/// A connection with these claims that has joined with this payload.
async fn member(
    world: &World,
    version: ProtocolVersion,
    claims: &Value,
    topic: &str,
    payload: &Value,
) -> Result<ProtocolClient> {
    let mut client = world.connect_as(claims, version).await?;
    let reply = client.join(topic, payload).await?;
    ensure!(reply.is_ok(), "{claims} was refused: {}", reply.response);
    Ok(client)
}

/// Broadcasts an event and waits for its acknowledgement.
async fn say(client: &mut ProtocolClient, topic: &str, event: &str) -> Result<Reply> {
    let payload = json!({ "type": "broadcast", "event": event, "payload": {} });
    let reference = client.send(topic, "broadcast", &payload).await?;
    client.reply(&reference).await
}

/// The event of the next broadcast.
async fn heard(client: &mut ProtocolClient) -> Result<String> {
    let message = client.expect(|message| message.event == "broadcast").await?;
    Ok(message.payload["event"].as_str().context("an event")?.to_owned())
}

/// Sends a new token with these claims on a channel.
async fn renew(client: &mut ProtocolClient, topic: &str, claims: &Value) -> Result<()> {
    client.access_token(topic, &token(claims)).await
}

/// Waits until the server has handled what was sent on a channel before, which needs no right.
async fn settled(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let reference = client.send(topic, "presence", &json!({})).await?;
    ensure!(client.reply(&reference).await?.is_ok());
    Ok(())
}

fn may_not_read(topic: &str) -> String {
    format!("You do not have permissions to read from this Channel topic: {}", crate::scene::sub_topic(topic))
}

fn may_not_write(topic: &str) -> String {
    let topic = crate::scene::sub_topic(topic);
    format!("Unauthorized: You do not have permissions to write to this Channel topic: {topic}")
}

/// A server whose policies for `anon` wait while somebody holds the [`Door`] shut, at most for as long as a statement
/// may take.
pub(crate) async fn world_with_door(
    name: &str,
    statement_timeout: Duration,
    change: impl FnOnce(&mut ServeSettings),
) -> Result<World> {
    let policies = "
        create table door (id int);
        create function through_the_door() returns boolean language plpgsql security definer as
          $$ begin perform from public.door; return true; end $$;
        create policy door on realtime.messages for all to anon using (through_the_door());
        create policy open on realtime.messages for all to authenticated using (true);";
    World::installed(name, policies, |settings| {
        settings.project.database.statement_timeout = statement_timeout;
        change(settings);
    })
    .await
}

/// The door, shut until it is opened.
pub(crate) struct Door(tokio_postgres::Client);

impl Door {
    pub(crate) async fn shut(world: &World) -> Result<Door> {
        let client = world.database.client().await;
        client.batch_execute("begin; lock table door in access exclusive mode").await?;
        Ok(Door(client))
    }

    /// Waits until a policy stands before the door.
    pub(crate) async fn somebody_waits(&self) -> Result<()> {
        let sql = "select count(*) from pg_locks where relation = 'door'::regclass and not granted";
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.0.query_one(sql, &[]).await?.get::<_, i64>(0) == 0 {
            ensure!(Instant::now() < deadline, "no policy is asked");
        }
        Ok(())
    }

    pub(crate) async fn open(self) -> Result<()> {
        Ok(self.0.batch_execute("rollback").await?)
    }
}

/// Claims whose policies raise an error for this action, and otherwise allow all.
fn asked_raising(action: &str) -> Value {
    let mut claims = may("anon", "all", "all");
    claims["raises"] = action.into();
    claims
}
