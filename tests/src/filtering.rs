//! Which rows filters let through, all of them asked at once.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::ProtocolVersion;

use crate::watching::{mark_binding, row_id};
use crate::{World, person};

/// A binding of all events of a table, with a filter.
pub fn filtered(table: &str, filter: &str) -> Value {
    json!({"event": "*", "schema": "public", "table": table, "filter": filter})
}

/// Subscribes one channel for each filter, runs `sql`, and gives for each filter the first letter of the kind of
/// change and the row's id, such as `I1 U1`.
pub async fn matches(world: &World, table: &str, filters: &[&str], sql: &str) -> Result<Vec<String>> {
    let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    for (index, filter) in filters.iter().enumerate() {
        let bindings = [filtered(table, filter), mark_binding()];
        client
            .join_changes(&format!("realtime:{index}"), &bindings)
            .await
            .with_context(|| (*filter).to_owned())?;
    }
    world.sql(sql).await?;
    let mark = world.mark().await?;
    let mut seen: HashMap<String, Vec<String>> = HashMap::new();
    let mut open = filters.len();
    while open > 0 {
        let message = client.expect(|message| message.event == "postgres_changes").await?;
        let data = &message.payload["data"];
        if data["table"] == "marks" {
            open -= usize::from(data["record"]["id"] == mark);
            continue;
        }
        let kind = data["type"].as_str().and_then(|kind| kind.chars().next()).context("no type")?;
        let id = row_id(data).context("no id")?;
        seen.entry(message.topic).or_default().push(format!("{kind}{id}"));
    }
    Ok((0..filters.len())
        .map(|index| seen.remove(&format!("realtime:{index}")).unwrap_or_default().join(" "))
        .collect())
}

/// What a filter that fits these rows gives for an INSERT, UPDATE and DELETE of each row.
fn thrice(ids: &[i64]) -> String {
    let each = |kind: char| ids.iter().map(move |id| format!("{kind}{id}"));
    each('I').chain(each('U')).chain(each('D')).collect::<Vec<_>>().join(" ")
}

/// Checks on INSERT, UPDATE and DELETE, with the whole old row in the log, which rows filters fit.
pub async fn check(world: &World, table: &str, rows: &str, cases: &[(&str, &[i64])]) -> Result<()> {
    let filters: Vec<_> = cases.iter().map(|case| case.0).collect();
    let sql = format!("insert into {table} values {rows}; update {table} set id = id; delete from {table}");
    let seen = matches(world, table, &filters, &sql).await?;
    for ((filter, ids), seen) in cases.iter().zip(seen) {
        ensure!(seen == thrice(ids), "{filter}: {seen}, not {}", thrice(ids));
    }
    Ok(())
}
