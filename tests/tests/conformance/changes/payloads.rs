//! Cases 173 to 178, 186, 227 to 229 and 239 to 242: what a change looks like.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_tests::watching::{watched_with, without_timestamp};
use walcast_tests::{binding, person};

use super::{watch, with};
use crate::scene::{connect, on_both, room, world};

pub(crate) const SCHEMA: &str = "
    create table inserted (id int primary key, details text, done boolean default false);
    create table updated (like inserted including all);
    create table deleted (like inserted including all);
    create table blobs (id int primary key, raw bytea, list bytea[]);
    create table keyless (id int, body text);
    alter table keyless replica identity full;
    create table locked (id int primary key, body text);
    create table granted (id int primary key, open text, secret text);
    alter table granted replica identity full;
    create table guarded (id int primary key, body text);
    alter table guarded replica identity full;
    alter table guarded enable row level security;
    create policy everybody on guarded for select using (true);
    create table articles (id int primary key, title text, body text);
    alter table articles alter column body set storage external;
    create table parted (id int primary key, body text) partition by range (id);
    create table parted_low partition of parted for values from (0) to (100);
    create table parted_high partition of parted for values from (100) to (200);
    grant select on inserted, updated, deleted, blobs, keyless, guarded, articles, parted, parted_low, parted_high
        to authenticated;
    grant select (body) on locked to authenticated;
    grant select (id, open) on granted to authenticated;
    alter publication supabase_realtime add table inserted, updated, deleted, blobs, keyless, locked, granted, guarded,
        articles, parted;
";

/// Fails unless the statement gives this one change, with all of its payload, to a subscriber of this event.
async fn exact(table: &str, event: &str, statements: [&str; 2], expected: Value) -> Result<()> {
    let world = world().await?;
    let [before, statement] = statements;
    on_both(async |version| {
        let topic = room();
        let mut client = connect(&world, version).await?;
        world.sql(&format!("delete from {table}; {before}")).await?;
        let joined = client.join_changes(&topic, &[binding(event, table)]).await?;
        world.sql(statement).await?;
        let message = client.expect(|message| message.event == "postgres_changes").await?;
        ensure!(message.topic == topic && message.join_ref.is_null() && message.reference.is_null());
        let mut payload = message.payload;
        let data = without_timestamp(payload["data"].take())?;
        ensure!(payload == json!({ "ids": [joined[0]["id"]], "data": null }), "{payload}");
        let columns = json!([{ "name": "id", "type": "int4" }, { "name": "details", "type": "text" },
            { "name": "done", "type": "bool" }]);
        let mut whole = json!({ "schema": "public", "table": table, "columns": columns, "errors": null });
        for (key, value) in expected.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        ensure!(data == whole, "{data}, not {whole}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_173_an_insert_arrives_with_its_exact_payload() -> Result<()> {
    let expected = json!({ "type": "INSERT", "record": { "id": 1, "details": "one", "done": false } });
    exact("inserted", "INSERT", ["", "insert into inserted values (1, 'one')"], expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_174_an_update_arrives_with_its_exact_payload() -> Result<()> {
    let record = json!({ "id": 1, "details": "two", "done": true });
    let expected = json!({ "type": "UPDATE", "record": record, "old_record": { "id": 1 } });
    let statements =
        ["insert into updated values (1, 'one')", "update updated set details = 'two', done = true"];
    exact("updated", "UPDATE", statements, expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_175_a_delete_arrives_with_its_exact_payload() -> Result<()> {
    let expected = json!({ "type": "DELETE", "old_record": { "id": 1 } });
    exact("deleted", "DELETE", ["insert into deleted values (1, 'one')", "delete from deleted"], expected)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_176_a_wildcard_gets_all_three_events() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        client.join_changes(&room(), &[binding("*", "case_176")]).await?;
        world
            .sql("insert into case_176 values (1, 1); update case_176 set n = 2; delete from case_176")
            .await?;
        let row = |n: i32| json!({ "id": 1, "n": n, "t": null, "b": null });
        for (kind, record, old_record) in
            [("INSERT", row(1), Value::Null), ("UPDATE", row(2), row(1)), ("DELETE", Value::Null, row(2))]
        {
            let message = client.expect(|message| message.event == "postgres_changes").await?;
            let data = message.change().context("a change")?;
            ensure!(data["type"] == kind, "{data}");
            ensure!(data["record"] == record && data["old_record"] == old_record, "{data}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_177_one_message_lists_the_ids_of_the_bindings_that_match_and_no_others() -> Result<()> {
    let world = world().await?;
    let first = json!({ "event": "INSERT", "schema": "public", "table": "case_177", "filter": "id=eq.1" });
    let bindings = [binding("*", "case_177"), first, binding("UPDATE", "case_177"), binding("*", "case_178")];
    let mut watcher = watch(&world, &bindings).await?;
    let ids: Vec<_> = watcher.bindings.iter().map(|binding| binding["id"].clone()).collect();
    world.sql("insert into case_177 values (1), (2); update case_177 set n = 1 where id = 2").await?;
    let listed: Vec<_> =
        watcher.payloads(&world).await?.into_iter().map(|payload| payload["ids"].clone()).collect();
    ensure!(listed == [json!([ids[1], ids[0]]), json!([ids[0]]), json!([ids[2], ids[0]])], "{listed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_178_who_has_bindings_is_told_subscribed_to_postgresql() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut client = connect(&world, version).await?;
        let payload = json!({ "config": { "postgres_changes": [binding("*", "case_178")] } });
        ensure!(client.join(&topic, &payload).await?.is_ok());
        let system = client.next().await?;
        ensure!(system.is(&topic, "system"), "{:?}", system.raw);
        let expected = json!({ "extension": "postgres_changes", "status": "ok",
            "message": "Subscribed to PostgreSQL", "channel": crate::scene::sub_topic(&topic) });
        ensure!(system.payload == expected, "{}", system.payload);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_186_bytea_is_not_encoded_twice() -> Result<()> {
    let world = world().await?;
    let mut watcher = watch(&world, &[binding("INSERT", "blobs")]).await?;
    world.sql(r"insert into blobs values (1, '\xdeadbeef', array['\xdead'::bytea]), (2, '\x', '{}')").await?;
    let records: Vec<_> = watcher.seen(&world).await?.iter().map(|data| data["record"].clone()).collect();
    let expected = [
        json!({ "id": 1, "raw": "deadbeef", "list": ["\\xdead"] }),
        json!({ "id": 2, "raw": "", "list": [] }),
    ];
    ensure!(records == expected, "{records:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_227_what_can_not_be_shown_is_an_error_row_of_400_401_or_413() -> Result<()> {
    let world = world().await?;
    let mut watcher = watch(&world, &[binding("*", "keyless"), binding("*", "locked")]).await?;
    for (table, error) in
        [("keyless", "Error 400: Bad Request, no primary key"), ("locked", "Error 401: Unauthorized")]
    {
        world.sql(&format!("insert into {table} values (1, 'x'); update {table} set body = 'y'")).await?;
        // Each has a commit_timestamp, where upstream has null.
        let changes = watcher.seen(&world).await?;
        let mut expected = json!({ "schema": "public", "table": table, "type": "INSERT", "columns": [],
            "record": {}, "errors": [error] });
        ensure!(changes[0] == expected, "{}", changes[0]);
        expected["type"] = "UPDATE".into();
        expected["old_record"] = json!({});
        ensure!(changes[1..] == [expected], "{changes:?}");
    }
    let mut large = watch(&world, &[binding("INSERT", "case_227")]).await?;
    world.sql("insert into case_227 (id, t) values (1, repeat('x', 1200000))").await?;
    let changes = large.seen(&world).await?;
    ensure!(changes[0]["errors"] == json!(["Error 413: Payload Too Large"]), "{}", changes[0]);
    ensure!(changes[0]["columns"].as_array().is_some_and(|columns| columns.len() == 4));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_228_a_change_that_is_too_large_keeps_its_small_columns_only() -> Result<()> {
    let table = "create table notes (id int primary key, fits text, too_long text, nothing text, body text);
        grant select on notes to authenticated; create publication supabase_realtime for table notes;";
    let small =
        |settings: &mut walcast::serve::ServeSettings| settings.project.engine.record_bytes_max = 4_000;
    let world = watched_with("conformance_228", table, small).await?;
    let mut watcher = super::watch_as(&world, &person("ana"), &[binding("*", "notes")]).await?;
    world
        .sql(
            "insert into notes values (1, repeat('a', 62), repeat('b', 63), null, repeat('c', 5000));
              insert into notes values (2, '', '', null, '')",
        )
        .await?;
    let records: Vec<_> = watcher.seen(&world).await?.iter().map(|data| data["record"].clone()).collect();
    let whole = json!({ "id": 2, "fits": "", "too_long": "", "nothing": null, "body": "" });
    ensure!(records == [json!({ "id": 1, "fits": "a".repeat(62) }), whole], "{records:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_229_nothing_of_the_subscription_leaks_into_the_payload() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        client.join_changes(&room(), &[with("case_229", "filter", "id=gt.0")]).await?;
        world.sql("insert into case_229 values (1); delete from case_229").await?;
        for _ in 0..2 {
            let message = client.expect(|message| message.event == "postgres_changes").await?;
            let keys: Vec<_> = message.payload.as_object().context("an object")?.keys().collect();
            ensure!(keys == ["data", "ids"] || keys == ["ids", "data"], "{keys:?}");
            let text = message.payload.to_string();
            for internal in ["subscription", "claims", "filter", "is_rls_enabled", "wal"] {
                ensure!(!text.contains(internal), "{text}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_239_column_grants_reduce_the_payload() -> Result<()> {
    let world = world().await?;
    let mut watcher = watch(&world, &[binding("*", "granted")]).await?;
    world
        .sql(
            "insert into granted values (1, 'open', 'secret'); update granted set open = 'new';
              delete from granted",
        )
        .await?;
    let changes = watcher.seen(&world).await?;
    let rows: Vec<_> =
        changes.iter().map(|data| (data["record"].clone(), data["old_record"].clone())).collect();
    let row = |open: &str| json!({ "id": 1, "open": open });
    let expected = [(row("open"), Value::Null), (row("new"), row("open")), (Value::Null, row("new"))];
    ensure!(rows == expected, "{rows:?}");
    ensure!(changes.iter().all(|data| !data.to_string().contains("secret")), "{changes:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_240_a_delete_under_row_security_shows_the_primary_key_only() -> Result<()> {
    let world = world().await?;
    let mut watcher = watch(&world, &[binding("DELETE", "guarded")]).await?;
    world.sql("insert into guarded values (1, 'x'); delete from guarded").await?;
    let old: Vec<_> = watcher.seen(&world).await?.iter().map(|data| data["old_record"].clone()).collect();
    ensure!(old == [json!({ "id": 1 })], "{old:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_241_an_unchanged_value_stored_out_of_line_is_absent() -> Result<()> {
    let world = world().await?;
    let mut watcher = watch(&world, &[binding("UPDATE", "articles")]).await?;
    world
        .sql(
            "insert into articles values (1, 'a', repeat('x', 10000)); update articles set title = 'b';
              update articles set body = 'short'",
        )
        .await?;
    let changes = watcher.seen(&world).await?;
    ensure!(changes[0]["record"] == json!({ "id": 1, "title": "b" }), "{}", changes[0]);
    ensure!(changes[0]["columns"].as_array().is_some_and(|columns| columns.len() == 3));
    ensure!(changes[1]["record"] == json!({ "id": 1, "title": "b", "body": "short" }), "{}", changes[1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_242_a_partition_is_subscribed_to_by_its_own_name() -> Result<()> {
    let world = world().await?;
    let mut low = watch(&world, &[binding("*", "parted_low")]).await?;
    world.sql("insert into parted values (1, 'a'), (150, 'b'); update parted set body = 'c'").await?;
    let changes = low.seen(&world).await?;
    let seen: Vec<_> = changes.iter().map(|data| (&data["table"], &data["record"]["id"])).collect();
    let leaf = (&json!("parted_low"), &json!(1));
    ensure!(seen == [leaf, leaf], "{seen:?}");
    super::refused(&[binding("*", "parted")], "Unable to subscribe to changes with given parameters").await?;
    Ok(())
}
