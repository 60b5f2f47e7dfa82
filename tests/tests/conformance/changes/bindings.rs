//! Cases 183 to 185, 187 to 190, 194, 195 and 223 to 225: which tables and columns a binding means.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{watch, with};
use crate::scene::world;

pub(crate) const SCHEMA: &str = "
    create schema shop;
    create schema mall;
    create table shop.items (id int primary key);
    create table shop.orders (id int primary key);
    create table mall.items (id int primary key);
    create table only_public (id int primary key);
    grant usage on schema shop, mall to authenticated;
    grant select on all tables in schema shop, mall to authenticated;
    grant select on only_public to authenticated;
    alter publication supabase_realtime add table shop.items, shop.orders, mall.items, only_public;
";

/// Names that other systems stumble over.
const NAMES: [&str; 10] = [
    "with space",
    "comma,comma",
    "dot.dot",
    "tab\there",
    "quote\"'s",
    "back\\slash",
    "emoji 🦜",
    "UPPER",
    "user_data",
    "per%cent",
];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Fails unless the binding gets the row with this id of these tables, as `schema.table`, of all that it is written to.
async fn tables(id: i32, binding: Value, expected: &[&str]) -> Result<()> {
    let world = world().await?;
    let mut watcher = watch(&world, std::slice::from_ref(&binding)).await?;
    for table in ["shop.items", "shop.orders", "mall.items", "public.only_public"] {
        world.sql(&format!("insert into {table} values ({id})")).await?;
    }
    let seen = watcher.seen(&world).await?;
    // Other tests write at the same time.
    let own = seen.iter().filter(|data| data["record"]["id"] == id);
    let seen: Vec<_> =
        own.map(|data| format!("{}.{}", data["schema"], data["table"]).replace('"', "")).collect();
    ensure!(seen == expected, "{binding}: {seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_183_a_schema_alone_means_its_tables_and_a_table_alone_the_one_in_public() -> Result<()> {
    tables(1831, json!({ "schema": "shop" }), &["shop.items", "shop.orders"]).await?;
    tables(1832, json!({ "schema": "shop", "event": "UPDATE" }), &[]).await?;
    tables(1833, json!({ "table": "only_public" }), &["public.only_public"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_184_a_star_for_schema_or_table_means_all_of_them() -> Result<()> {
    let all = ["shop.items", "shop.orders", "mall.items", "public.only_public"];
    tables(1841, json!({ "schema": "*", "table": "items" }), &["shop.items", "mall.items"]).await?;
    tables(1842, json!({ "schema": "shop", "table": "*" }), &all[..2]).await?;
    tables(1843, json!({ "schema": "*" }), &all).await?;
    tables(1844, json!({ "schema": "*", "table": "*" }), &all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_185_names_of_schemas_and_tables_may_have_any_characters() -> Result<()> {
    let mut sql = "create publication supabase_realtime;".to_owned();
    for name in NAMES {
        let name = quoted(name);
        write!(
            sql,
            "create schema {name}; create table {name}.{name} (id int primary key);
             grant usage on schema {name} to authenticated; grant select on {name}.{name} to authenticated;
             alter publication supabase_realtime add table {name}.{name};"
        )?;
    }
    // What `user_data` would mean if names were patterns.
    sql.push_str(
        "create table \"userXdata\" (id int primary key); grant select on \"userXdata\" to authenticated;
        alter publication supabase_realtime add table \"userXdata\";",
    );
    let world = walcast_tests::watching::watched("conformance_185", &sql).await?;
    let mut watchers = Vec::new();
    for name in NAMES {
        watchers.push(watch(&world, &[json!({ "event": "*", "schema": name, "table": name })]).await?);
    }
    world.sql("insert into \"userXdata\" values (1)").await?;
    for name in NAMES {
        let name = quoted(name);
        world.sql(&format!("insert into {name}.{name} values (1)")).await?;
    }
    for (name, watcher) in NAMES.iter().zip(&mut watchers) {
        let changes = watcher.seen(&world).await?;
        let seen: Vec<_> = changes.iter().map(|data| (&data["schema"], &data["table"])).collect();
        ensure!(seen == [(&json!(name), &json!(name))], "{name}: {seen:?}");
    }
    Ok(())
}

/// What a `select` of column `t` shows of one row's insert, update and delete: new and old row of each.
async fn selected(table: &str, select: Value, filter: Option<&str>) -> Result<Vec<(Value, Value)>> {
    let world = world().await?;
    let mut wanted = with(table, "select", select);
    if let Some(filter) = filter {
        wanted["filter"] = filter.into();
    }
    let mut watcher = watch(&world, &[wanted]).await?;
    world
        .sql(&format!(
            "insert into {table} values (1, 5, 'one', true); update {table} set t = 'two' where id = 1;
              delete from {table} where id = 1; insert into {table} values (2, 6, 'no'); delete from {table}"
        ))
        .await?;
    let changes = watcher.seen(&world).await?;
    let mut rows = Vec::new();
    for data in changes {
        let named = data["columns"].as_array().map_or(0, Vec::len);
        let row = data.get("record").or_else(|| data.get("old_record"));
        ensure!(
            row.and_then(Value::as_object).is_some_and(|row| row.len() == named),
            "columns and row agree: {data}"
        );
        rows.push((data["record"].clone(), data["old_record"].clone()));
    }
    Ok(rows)
}

fn short(t: &str) -> Value {
    json!({ "id": 1, "t": t })
}

#[tokio::test(flavor = "multi_thread")]
async fn case_187_select_restricts_an_insert_to_its_columns_and_the_primary_key() -> Result<()> {
    let rows = selected("case_187", json!(["t"]), Some("id=eq.1")).await?;
    ensure!(rows[0] == (short("one"), Value::Null), "{rows:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_188_select_restricts_an_update_in_both_its_rows() -> Result<()> {
    let rows = selected("case_188", json!(["t", "t", "id"]), Some("id=eq.1")).await?;
    ensure!(rows[1] == (short("two"), short("one")), "{rows:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_189_select_restricts_the_old_row_of_a_delete() -> Result<()> {
    let rows = selected("case_189", json!(["t"]), Some("id=eq.1")).await?;
    ensure!(rows[2] == (Value::Null, short("two")), "{rows:?}");
    // The primary key alone where nothing else is asked for.
    let rows = selected("case_189", json!(["id"]), Some("id=eq.1")).await?;
    ensure!(rows[2] == (Value::Null, json!({ "id": 1 })), "{rows:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_190_no_select_and_an_empty_one_give_the_whole_row() -> Result<()> {
    let whole = json!({ "id": 1, "n": 5, "t": "one", "b": true });
    for select in [json!([]), Value::Null, json!([null, 7])] {
        let rows = selected("case_190", select.clone(), None).await?;
        ensure!(rows[0].0 == whole, "{select}: {rows:?}");
        ensure!(rows.len() == 5, "{select}: {rows:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_194_select_and_filter_hold_together() -> Result<()> {
    let rows = selected("case_194", json!(["t"]), Some("n=eq.5")).await?;
    let expected = [(short("one"), Value::Null), (short("two"), short("one")), (Value::Null, short("two"))];
    ensure!(rows == expected, "{rows:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_195_bindings_with_different_selects_get_a_message_each() -> Result<()> {
    let world = world().await?;
    let select = |columns: &[&str]| with("case_195", "select", columns);
    let mut watcher = watch(&world, &[select(&["t"]), select(&["n"]), select(&["id", "t"])]).await?;
    let ids: Vec<_> = watcher.bindings.iter().map(|binding| binding["id"].clone()).collect();
    world.sql("insert into case_195 values (1, 5, 'one')").await?;
    let mut got: Vec<_> = watcher
        .payloads(&world)
        .await?
        .into_iter()
        .map(|payload| (payload["data"]["record"].clone(), payload["ids"].clone()))
        .collect();
    got.sort_by_key(|(record, _)| record.get("n").is_some());
    let expected = [(short("one"), json!([ids[2], ids[0]])), (json!({ "id": 1, "n": 5 }), json!([ids[1]]))];
    ensure!(got == expected, "{got:?}");
    Ok(())
}
