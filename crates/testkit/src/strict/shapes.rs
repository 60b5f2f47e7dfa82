//! The shapes of payloads, as the strictest clients read them.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

/// Fails unless the object has exactly these keys.
pub(super) fn exact(value: &Value, keys: &[&str]) -> Result<()> {
    let object = value.as_object().with_context(|| format!("{value} is no object"))?;
    let got: BTreeSet<&str> = object.keys().map(String::as_str).collect();
    let expected: BTreeSet<&str> = keys.iter().copied().collect();
    ensure!(got == expected, "the keys are {got:?}, not {expected:?}");
    Ok(())
}

/// A `system` message (docs/protocol.md §3.5).
pub(super) fn system(topic: &str, payload: &Value) -> Result<()> {
    exact(payload, &["extension", "status", "message", "channel"]).context("P2, Kotlin: a system message")?;
    for (key, value) in payload.as_object().into_iter().flatten() {
        ensure!(value.is_string(), "P2: {key} is no string");
    }
    let status = &payload["status"];
    ensure!(status == "ok" || status == "error", "P2: the status is {status}");
    let channel = &payload["channel"];
    ensure!(topic.strip_prefix("realtime:") == channel.as_str(), "P2, Kotlin: the channel is {channel}");
    Ok(())
}

/// An entry of a join reply: what was sent, and an id, which is returned.
pub(super) fn binding(sent: &Value, got: &Value) -> Result<i64> {
    let id = binding_id(got)?;
    let (mut sent, mut got) = (sent.clone(), got.clone());
    // Whatever id the client sent is replaced.
    for entry in [&mut sent, &mut got] {
        entry.as_object_mut().context("an entry is no object")?.remove("id");
    }
    ensure!(sent == got, "J3, P4, Kotlin: sent {sent}, answered {got}");
    Ok(id)
}

/// The entry of a join without `config`, whose id is returned.
pub(super) fn legacy_binding(entry: &Value) -> Result<i64> {
    for (key, value) in entry.as_object().context("an entry is no object")? {
        let known = matches!(key.as_str(), "schema" | "table" | "filter" | "id");
        ensure!(known, "Kotlin: an entry has a key {key}");
        ensure!(key == "id" || value.is_string(), "J3: {key} is {value}");
    }
    ensure!(entry["schema"].is_string(), "Swift: an entry has no schema");
    binding_id(entry)
}

/// J4, P4, Swift: an integer that is not taken for a missing one.
fn binding_id(entry: &Value) -> Result<i64> {
    let id = entry["id"].as_i64().with_context(|| format!("P4, Swift: the id of {entry}"))?;
    ensure!((1..1 << 27).contains(&id), "J4, P4: the id is {id}");
    Ok(id)
}

/// The payload of `postgres_changes` for bindings with these ids.
pub(super) fn changes(payload: &Value, known: &BTreeSet<i64>) -> Result<Position> {
    exact(payload, &["ids", "data"]).context("J5: a change")?;
    let ids = payload["ids"].as_array().context("P5: ids is no list")?;
    ensure!(!ids.is_empty(), "J4: a change for no binding");
    for id in ids {
        let number = id.as_i64().with_context(|| format!("P5, Swift, Dart: the id {id}"))?;
        ensure!(known.contains(&number), "J4: no binding has the id {id}");
    }
    change(&payload["data"])
}

/// Where a change stands in the log: both halves of the commit LSN, and the index in the transaction.
pub(super) type Position = (u32, u32, u64);

/// The `data` of a change (docs/protocol.md §4.1), whose position is returned.
pub(super) fn change(data: &Value) -> Result<Position> {
    // Upstream has all but `position` and, for rows of a snapshot, `snapshot`. No client minds: JavaScript, Dart and Swift take the keys that they know, Python
    // and Kotlin decode models that pass over others (Kotlin's has no `schema` either).
    const ALWAYS: [&str; 7] =
        ["schema", "table", "type", "commit_timestamp", "position", "columns", "errors"];
    let rows: &[&str] = match data["type"].as_str() {
        Some("INSERT") => &["record"],
        Some("UPDATE") => &["record", "old_record"],
        Some("DELETE") => &["old_record"],
        other => anyhow::bail!("P5: the type is {other:?}"),
    };
    let mark: &[&str] =
        if data["type"] == "INSERT" && data["snapshot"] == true { &["snapshot"] } else { &[] };
    exact(data, &[&ALWAYS[..], rows, mark].concat()).context("P5, Kotlin: the data of a change")?;
    ensure!(data["schema"].is_string() && data["table"].is_string(), "P5: schema and table are strings");
    let timestamp = data["commit_timestamp"].as_str().context("P5, Kotlin, Swift: commit_timestamp")?;
    let form: String =
        timestamp.chars().map(|letter| if letter.is_ascii_digit() { '9' } else { letter }).collect();
    ensure!(form == "9999-99-99T99:99:99.999Z", "Kotlin, Swift: commit_timestamp is {timestamp}");
    let errors = &data["errors"];
    let listed = errors.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    ensure!(errors.is_null() || listed, "errors is null or a list of strings, not {errors}");
    let mut names = BTreeSet::new();
    for column in data["columns"].as_array().context("J7, P5: columns is no list")? {
        exact(column, &["name", "type"]).context("J7: a column")?;
        ensure!(column["type"].is_string(), "J7: the type of a column is {}", column["type"]);
        names.insert(column["name"].as_str().context("J7: the name of a column")?);
    }
    for row in rows {
        for name in data[*row].as_object().with_context(|| format!("J7: {row} is no object"))?.keys() {
            ensure!(names.contains(name.as_str()), "J7: {row} has {name}, which is no column");
        }
    }
    let position = data["position"].as_str().and_then(position);
    position.with_context(|| format!("the position is {}", data["position"]))
}

/// `0/16B3748:3`.
fn position(text: &str) -> Option<Position> {
    let (lsn, index) = text.split_once(':')?;
    let (high, low) = lsn.split_once('/')?;
    let half = |digits| u32::from_str_radix(digits, 16).ok();
    Some((half(high)?, half(low)?, index.parse().ok()?))
}

/// A state or a half of a diff: each key with the `phx_ref` of each of its metas.
pub(super) fn people(part: &Value) -> Result<BTreeSet<(String, String)>> {
    let mut people = BTreeSet::new();
    for (key, entry) in part.as_object().context("P6: presence is an object")? {
        exact(entry, &["metas"]).context("P6: a presence entry")?;
        let metas = entry["metas"].as_array().context("P6: metas is no list")?;
        ensure!(!metas.is_empty(), "Swift: {key} has no metas");
        for meta in metas {
            let reference = meta.as_object().and_then(|meta: &Map<_, _>| meta.get("phx_ref")?.as_str());
            let reference = reference.with_context(|| format!("J14, P6, Swift: no phx_ref in {meta}"))?;
            ensure!(people.insert((key.clone(), reference.to_owned())), "J14: {key} {reference} twice");
        }
    }
    Ok(people)
}
