//! Row changes reach those who subscribed and may see them, as docs/protocol.md §4 shapes them.

use anyhow::Result;
use serde_json::{Value, json};
use walcast_testkit::ProtocolVersion;
use walcast_tests::watching::{Watcher, watched, watched_with, without_timestamp};
use walcast_tests::{World, binding, person, role};

const NOTES: &str = "
    create table notes (id int primary key, details text, done boolean default false);
    grant select on notes to anon, authenticated, service_role;
    create publication supabase_realtime for table notes;
";

#[tokio::test(flavor = "multi_thread")]
async fn insert_update_and_delete_arrive_with_the_exact_payload_in_both_serializers() -> Result<()> {
    // §15 cases 173 to 176, 178 and 229.
    let world = World::with_sql("changes_exact", NOTES).await?;
    let columns = json!([
        {"name": "id", "type": "int4"}, {"name": "details", "type": "text"}, {"name": "done", "type": "bool"}
    ]);
    for version in [ProtocolVersion::V1, ProtocolVersion::V2] {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let joined = client.join_changes("realtime:room", &[binding("*", "notes")]).await?;
        let id = joined[0]["id"].clone();
        world
            .sql(
                "insert into notes values (1, 'first');
                 update notes set details = 'second';
                 delete from notes",
            )
            .await?;
        for expected in [
            json!({"schema": "public", "table": "notes", "type": "INSERT", "columns": columns,
                "record": {"id": 1, "details": "first", "done": false}, "errors": null}),
            json!({"schema": "public", "table": "notes", "type": "UPDATE", "columns": columns,
                "record": {"id": 1, "details": "second", "done": false}, "old_record": {"id": 1},
                "errors": null}),
            json!({"schema": "public", "table": "notes", "type": "DELETE", "columns": columns,
                "old_record": {"id": 1}, "errors": null}),
        ] {
            let message = client.expect(|message| message.event == "postgres_changes").await?;
            assert_eq!((&message.join_ref, &message.reference), (&Value::Null, &Value::Null));
            let mut payload = message.payload;
            let data = without_timestamp(payload["data"].take())?;
            assert_eq!((payload, data), (json!({"ids": [id], "data": null}), expected));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_person_gets_only_the_rows_that_the_policy_lets_them_see() -> Result<()> {
    // §15 case 225.
    let world = watched(
        "changes_policy",
        "create table letters (id int primary key, reader text, body text);
         alter table letters enable row level security;
         create policy own on letters for select to authenticated
             using (reader = (select auth.jwt() ->> 'sub'));
         grant select on letters to anon, authenticated, service_role;
         create publication supabase_realtime for table letters;",
    )
    .await?;
    let letters = [binding("INSERT", "letters")];
    let mut ana = Watcher::join(&world, &person("ana"), &letters).await?;
    let mut bruno = Watcher::join(&world, &person("bruno"), &letters).await?;
    let mut nobody = Watcher::join(&world, &role("anon"), &letters).await?;
    let mut admin = Watcher::join(&world, &role("service_role"), &letters).await?;
    world.sql("insert into letters values (1, 'ana', 'a'), (2, 'bruno', 'b'), (3, 'ana', 'c')").await?;
    world.sql("insert into letters values (4, 'ana', 'end'), (5, 'bruno', 'end')").await?;
    assert_eq!(ana.ids(&world).await?, [1, 3, 4]);
    assert_eq!(bruno.ids(&world).await?, [2, 5]);
    assert!(nobody.ids(&world).await?.is_empty());
    assert_eq!(admin.ids(&world).await?, [1, 2, 3, 4, 5]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_gets_its_event_only_however_it_is_written_and_all_without_one() -> Result<()> {
    let world = watched("changes_events", NOTES).await?;
    let mut watchers = Vec::new();
    for event in [json!("insert"), json!("Update"), json!("DELETE"), json!("*"), json!("drop"), json!(7)] {
        let binding = json!({"event": event, "schema": "public", "table": "notes"});
        watchers.push(Watcher::join(&world, &person("ana"), &[binding]).await?);
    }
    let unnamed = json!({"schema": "public", "table": "notes"});
    watchers.push(Watcher::join(&world, &person("ana"), &[unnamed]).await?);
    world.sql("insert into notes values (1); update notes set done = true; delete from notes").await?;
    let mut kinds = Vec::new();
    for watcher in &mut watchers {
        let changes = watcher.seen(&world).await?;
        kinds.push(
            changes.iter().filter_map(|data| data["type"].as_str()?.chars().next()).collect::<String>(),
        );
    }
    assert_eq!(kinds, ["I", "U", "D", "IUD", "IUD", "IUD", "IUD"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn old_record_holds_what_the_replica_identity_carries() -> Result<()> {
    let world = watched(
        "changes_identity",
        "create table keyed (id int primary key, code text not null, body text);
         create table whole (like keyed including all);
         alter table whole replica identity full;
         create table indexed (like keyed including all);
         create unique index by_code on indexed (code);
         alter table indexed replica identity using index by_code;
         grant select on keyed, whole, indexed to authenticated;
         create publication supabase_realtime for table keyed, whole, indexed;",
    )
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[json!({"schema": "public"})]).await?;
    let first = json!({"id": 1, "code": "a", "body": "x"});
    let second = json!({"id": 1, "code": "a", "body": "y"});
    let third = json!({"id": 2, "code": "a", "body": "y"});
    let last = json!({"id": 2, "code": "b", "body": "y"});
    for (table, old_records) in [
        ("keyed", [json!({"id": 1}), json!({"id": 1}), json!({"id": 2}), json!({"id": 2})]),
        ("whole", [first, second.clone(), third.clone(), last.clone()]),
        ("indexed", [json!({"code": "a"}), json!({"code": "a"}), json!({"code": "a"}), json!({"code": "b"})]),
    ] {
        world
            .sql(&format!(
                "insert into {table} values (1, 'a', 'x');
                 update {table} set body = 'y'; update {table} set id = 2; update {table} set code = 'b';
                 delete from {table}"
            ))
            .await?;
        let changes: Vec<_> =
            watcher.seen(&world).await?.into_iter().filter(|data| data["table"] == table).collect();
        let seen: Vec<_> = changes.iter().map(|data| data["old_record"].clone()).collect();
        assert_eq!((seen[0].clone(), &seen[1..]), (Value::Null, &old_records[..]), "{table}");
        let records: Vec<_> = changes[1..4].iter().map(|data| data["record"].clone()).collect();
        assert_eq!(records, [second.clone(), third.clone(), last.clone()], "{table}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_under_row_security_shows_the_primary_key_alone_whatever_the_identity() -> Result<()> {
    // §15 case 240.
    let world = watched(
        "changes_delete_key",
        "create table whole (id int primary key, code text not null, body text);
         alter table whole replica identity full;
         create table indexed (like whole including all);
         create unique index by_code on indexed (code);
         alter table indexed replica identity using index by_code;
         alter table whole enable row level security;
         alter table indexed enable row level security;
         create policy everybody on whole for select using (true);
         create policy everybody on indexed for select using (true);
         grant select on whole, indexed to authenticated, service_role;
         create publication supabase_realtime for table whole, indexed;",
    )
    .await?;
    let deletes = [binding("DELETE", "whole"), binding("DELETE", "indexed")];
    let mut ana = Watcher::join(&world, &person("ana"), &deletes).await?;
    let mut admin = Watcher::join(&world, &role("service_role"), &deletes).await?;
    world.sql("insert into whole values (1, 'a', 'x'); insert into indexed values (1, 'a', 'x')").await?;
    world.sql("delete from whole; delete from indexed").await?;
    for watcher in [&mut ana, &mut admin] {
        let old: Vec<_> = watcher.seen(&world).await?.iter().map(|data| data["old_record"].clone()).collect();
        assert_eq!(old, [json!({"id": 1}), json!({})]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_value_stored_out_of_line_is_absent_and_under_full_it_is_filled_in() -> Result<()> {
    // §15 case 241.
    let world = watched(
        "changes_toast",
        "create table articles (id int primary key, title text, body text);
         alter table articles alter column body set storage external;
         create table whole (like articles including all);
         alter table whole replica identity full;
         grant select on articles, whole to authenticated;
         create publication supabase_realtime for table articles, whole;",
    )
    .await?;
    let updates = [binding("UPDATE", "articles"), binding("UPDATE", "whole")];
    let mut watcher = Watcher::join(&world, &person("ana"), &updates).await?;
    world
        .sql(
            "insert into articles values (1, 'a', repeat('x', 10000));
             insert into whole select * from articles;
             update articles set title = 'b'; update whole set title = 'b'",
        )
        .await?;
    let changes = watcher.seen(&world).await?;
    assert_eq!(changes[0]["record"], json!({"id": 1, "title": "b"}));
    assert_eq!(changes[0]["columns"].as_array().map(Vec::len), Some(3), "the column is still named");
    let body = "x".repeat(10_000);
    assert_eq!(changes[1]["record"], json!({"id": 1, "title": "b", "body": body}));
    assert_eq!(changes[1]["old_record"], json!({"id": 1, "title": "a", "body": body}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_lists_the_ids_of_all_bindings_that_fit_last_first() -> Result<()> {
    // §15 case 177.
    let world = watched("changes_ids", NOTES).await?;
    let filtered = json!({"event": "INSERT", "schema": "public", "table": "notes", "filter": "id=eq.1"});
    let bindings = [binding("*", "notes"), filtered, binding("UPDATE", "notes"), binding("*", "notes")];
    let mut watcher = Watcher::join(&world, &person("ana"), &bindings).await?;
    let ids: Vec<_> = watcher.bindings.iter().map(|binding| binding["id"].clone()).collect();
    let [all, first, updates, again] = ids.as_slice() else { panic!("four bindings, four ids: {ids:?}") };
    assert_eq!(all, again, "equal bindings have equal ids");
    world.sql("insert into notes values (1), (2); update notes set done = true where id = 2").await?;
    let payloads = watcher.payloads(&world).await?;
    let listed: Vec<_> = payloads.iter().map(|payload| payload["ids"].clone()).collect();
    assert_eq!(listed, [json!([again, first, all]), json!([again, all]), json!([again, updates, all])]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn select_sends_the_chosen_columns_and_always_the_primary_key() -> Result<()> {
    // §15 cases 187 to 190 and 194.
    let world = watched(
        "changes_select",
        "create table notes (a text, id int primary key, b text, c text);
         alter table notes replica identity full;
         grant select on notes to authenticated;
         create publication supabase_realtime for table notes;",
    )
    .await?;
    let whole = json!({"a": "1", "id": 1, "b": "2", "c": "3"});
    let some = json!({"id": 1, "c": "3"});
    for (select, filter, expected) in [
        (json!(["c"]), None, &some),
        (json!(["c", "id", "c", 7, null]), None, &some),
        (json!(["c"]), Some("b=eq.2"), &some),
        (json!([]), None, &whole),
        (Value::Null, None, &whole),
    ] {
        let mut wanted = json!({"event": "*", "schema": "public", "table": "notes", "select": select});
        if let Some(filter) = filter {
            wanted["filter"] = filter.into();
        }
        let mut watcher = Watcher::join(&world, &person("ana"), &[wanted]).await?;
        world
            .sql("insert into notes values ('1', 1, '2', '3'); update notes set id = 1; delete from notes")
            .await?;
        let changes = watcher.seen(&world).await?;
        let rows: Vec<_> = changes.iter().map(|data| (&data["record"], &data["old_record"])).collect();
        let null = &Value::Null;
        assert_eq!(rows, [(expected, null), (expected, expected), (null, expected)], "{select}");
        let names: Vec<_> =
            changes[0]["columns"].as_array().into_iter().flatten().map(|c| &c["name"]).collect();
        let members: Vec<_> =
            ["a", "id", "b", "c"].into_iter().filter(|name| expected.get(name).is_some()).collect();
        assert_eq!(names, members, "in the order of the table");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_with_different_selects_get_a_message_each() -> Result<()> {
    // §15 case 195.
    let world = watched("changes_selects", NOTES).await?;
    let with =
        |select: &[&str]| json!({"event": "*", "schema": "public", "table": "notes", "select": select});
    let bindings = [with(&["details"]), with(&["done"]), with(&["id", "details"])];
    let mut watcher = Watcher::join(&world, &person("ana"), &bindings).await?;
    let ids: Vec<_> = watcher.bindings.iter().map(|binding| binding["id"].clone()).collect();
    world.sql("insert into notes values (1, 'a')").await?;
    let mut got: Vec<_> = watcher
        .payloads(&world)
        .await?
        .into_iter()
        .map(|payload| (payload["data"]["record"].clone(), payload["ids"].clone()))
        .collect();
    got.sort_by_key(|(record, _)| record.get("done").is_some());
    assert_eq!(
        got,
        [
            (json!({"id": 1, "details": "a"}), json!([ids[2], ids[0]])),
            (json!({"id": 1, "done": false}), json!([ids[1]])),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shown_is_an_error_row_of_the_promised_form() -> Result<()> {
    // §15 case 227: 400 and 401.
    let world = watched(
        "changes_errors",
        "create table keyless (id int, body text);
         alter table keyless replica identity full;
         create table locked (id int primary key, body text);
         grant select on keyless to authenticated;
         grant select (body) on locked to authenticated;
         create publication supabase_realtime for table keyless, locked;",
    )
    .await?;
    let filtered = json!({"event": "*", "schema": "public", "table": "keyless", "filter": "body=eq.z"});
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "*")]).await?;
    let mut picky = Watcher::join(&world, &person("ana"), &[filtered]).await?;
    for (table, error) in
        [("keyless", "Error 400: Bad Request, no primary key"), ("locked", "Error 401: Unauthorized")]
    {
        world.sql(&format!("insert into {table} values (1, 'x'); update {table} set body = 'y'")).await?;
        let mut expected = json!({"schema": "public", "table": table, "type": "INSERT", "columns": [],
            "record": {}, "errors": [error]});
        let changes: Vec<_> =
            watcher.seen(&world).await?.into_iter().filter(|data| data["table"] == table).collect();
        assert_eq!(changes[0], expected);
        expected["type"] = "UPDATE".into();
        expected["old_record"] = json!({});
        assert_eq!(changes[1..], [expected]);
    }
    assert_eq!(picky.seen(&world).await?.len(), 2, "error rows go to all, whatever their filter");
    world.sql("delete from keyless; delete from locked").await?;
    let deletes: Vec<_> = watcher.seen(&world).await?.iter().map(|data| data["old_record"].clone()).collect();
    assert_eq!(deletes, [json!({"id": 1, "body": "y"}), json!({})], "deletes are delivered like any other");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_too_large_keeps_its_small_columns() -> Result<()> {
    // §15 cases 227 (413) and 228.
    let world = watched_with(
        "changes_large",
        "create table notes (id int primary key, fits text, too_long text, nothing text, body text);
         alter table notes replica identity full;
         grant select on notes to authenticated;
         create publication supabase_realtime for table notes;",
        |settings| settings.project.engine.record_bytes_max = 4_000,
    )
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "notes")]).await?;
    world
        .sql(
            "insert into notes values (1, repeat('a', 62), repeat('b', 63), null, repeat('c', 5000));
             update notes set body = 'short';
             delete from notes",
        )
        .await?;
    let changes = watcher.seen(&world).await?;
    let small = json!({"id": 1, "fits": "a".repeat(62)});
    let with_body = json!({"id": 1, "fits": "a".repeat(62), "body": "short"});
    let errors: Vec<_> = changes.iter().map(|data| data["errors"].clone()).collect();
    let too_large = json!(["Error 413: Payload Too Large"]);
    assert_eq!(errors, [too_large.clone(), too_large, Value::Null]);
    assert_eq!(changes[0]["record"], small);
    assert_eq!(changes[0]["columns"].as_array().map(Vec::len), Some(5));
    assert_eq!((&changes[1]["record"], &changes[1]["old_record"]), (&with_body, &small));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn truncate_is_passed_over_and_changes_go_on() -> Result<()> {
    let world = watched("changes_truncate", NOTES).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "notes")]).await?;
    world.sql("insert into notes values (1); truncate notes; insert into notes values (2)").await?;
    world
        .sql("truncate notes, watching.marks restart identity cascade; insert into notes values (3)")
        .await?;
    assert_eq!(watcher.ids(&world).await?, [1, 2, 3]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_gone_a_moment_after_its_insert_is_delivered_as_inserted() -> Result<()> {
    let world = watched(
        "changes_gone",
        "create table notes (id int primary key, reader text, body text);
         alter table notes enable row level security;
         create policy own on notes for select using (reader = (auth.jwt() ->> 'sub'));
         create policy long on notes for select using (reader = 'oracle' and length(body) between 1 and (select 5));
         grant select on notes to authenticated;
         create publication supabase_realtime for table notes;",
    )
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("INSERT", "notes")]).await?;
    world
        .sql(
            "begin; insert into notes values (1, 'ana', 'a'), (2, 'oracle', 'b'); delete from notes; commit;
             insert into notes values (3, 'ana', 'a'), (4, 'bruno', 'a');
             update notes set reader = 'bruno';
             update notes set reader = 'ana';
             delete from notes",
        )
        .await?;
    let changes = watcher.seen(&world).await?;
    let rows: Vec<_> = changes.iter().map(|data| data["record"].clone()).collect();
    assert_eq!(
        rows,
        [
            json!({"id": 1, "reader": "ana", "body": "a"}),
            json!({"id": 2, "reader": "oracle", "body": "b"}),
            json!({"id": 3, "reader": "ana", "body": "a"}),
        ]
    );
    Ok(())
}
