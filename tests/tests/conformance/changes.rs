//! Cases 173 to 244: row changes.

mod bindings;
mod composition;
mod lifecycle;
mod operators;
mod payloads;
mod refusals;
mod rights;

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::ProtocolVersion;
use walcast_tests::watching::{MARKS, Watcher, refusal};
use walcast_tests::{World, binding, person};

use crate::scene::{connect, room, world};

/// What filters are tried on: four rows, one of them without values.
pub(crate) const ROWS: &str = "(1, 5, 'apple pie', true), (2, 10, 'Banana', false), (3, 15, 'cherry, red', null), (4, null, null, true)";

/// A table for each case that needs one, with the whole old row in the log and for everybody to read, and the tables of
/// cases that need another.
pub(crate) fn schema() -> String {
    let mut sql = "create publication supabase_realtime;".to_owned();
    for number in [25, 32, 37, 38, 40, 79].into_iter().chain(173..=243).chain(295..=300) {
        let _ = write!(
            sql,
            "create table case_{number:03} (id int primary key, n int, t text, b bool);
             alter table case_{number:03} replica identity full;
             grant select on case_{number:03} to anon, authenticated, service_role;
             alter publication supabase_realtime add table case_{number:03};"
        );
    }
    for more in [bindings::SCHEMA, payloads::SCHEMA, rights::SCHEMA, MARKS] {
        sql.push_str(more);
    }
    sql
}

/// A channel of Ana that is subscribed, on the shared server.
pub(crate) async fn watch(world: &World, bindings: &[Value]) -> Result<Watcher> {
    watch_as(world, &person("ana"), bindings).await
}

/// A channel of these claims that is subscribed.
pub(crate) async fn watch_as(world: &World, claims: &Value, bindings: &[Value]) -> Result<Watcher> {
    let client = world.connect_as(claims, ProtocolVersion::V2).await?;
    Watcher::join_on(client, &room(), bindings).await
}

/// Fails unless the bindings are refused behind the join, in these words or ones that begin with them.
pub(crate) async fn refused(bindings: &[Value], beginning: &str) -> Result<String> {
    let world = world().await?;
    let mut client = connect(&world, ProtocolVersion::V2).await?;
    let text = refusal(&mut client, &room(), bindings).await.with_context(|| json!(bindings).to_string())?;
    ensure!(text.starts_with(beginning), "{}: {text}", json!(bindings));
    Ok(text)
}

/// A binding of all events of a table with one more key.
pub(crate) fn with(table: &str, key: &str, value: impl Into<Value>) -> Value {
    let mut with = binding("*", table);
    with[key] = value.into();
    with
}
