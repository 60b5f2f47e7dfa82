//! Which tables a binding means, and what a publication sends of them (docs/protocol.md §4.6 and §5.1).

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};
use walcast_testkit::database::major;
use walcast_tests::watching::{Watcher, refusal, watched};
use walcast_tests::{binding, person};

#[tokio::test(flavor = "multi_thread")]
async fn schema_alone_table_alone_and_stars_mean_the_published_tables_they_fit() -> Result<()> {
    // §15 cases 183 and 184.
    let world = watched(
        "tables_wildcards",
        "create schema shop;
         create table public.items (id int primary key);
         create table shop.items (id int primary key);
         create table shop.orders (id int primary key);
         create table shop.unpublished (id int primary key);
         grant usage on schema shop to authenticated;
         grant select on all tables in schema public, shop to authenticated;
         create publication supabase_realtime for table public.items, shop.items, shop.orders;",
    )
    .await?;
    let cases = [
        (json!({"schema": "shop"}), "shop.items shop.orders"),
        (json!({"schema": "shop", "table": "*"}), "shop.items shop.orders"),
        (json!({"schema": "shop", "table": "orders"}), "shop.orders"),
        (json!({"table": "items"}), "public.items"),
        (json!({"schema": "*", "table": "items"}), "public.items shop.items"),
        (json!({"schema": "*"}), "public.items shop.items shop.orders"),
        (json!({"schema": "*", "table": "*"}), "public.items shop.items shop.orders"),
        (json!({"schema": "*", "table": "items", "filter": "id=gt.0"}), "public.items shop.items"),
    ];
    let mut watchers = Vec::new();
    for (binding, _) in &cases {
        watchers.push(Watcher::join(&world, &person("ana"), std::slice::from_ref(binding)).await?);
    }
    world
        .sql(
            "insert into shop.unpublished values (1); insert into public.items values (1);
             insert into shop.items values (1); insert into shop.orders values (1)",
        )
        .await?;
    for (watcher, (binding, expected)) in watchers.iter_mut().zip(&cases) {
        let seen: Vec<_> = watcher
            .seen(&world)
            .await?
            .iter()
            .map(|data| format!("{}.{}", data["schema"], data["table"]).replace('"', ""))
            .collect();
        assert_eq!(seen.join(" "), *expected, "{binding}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_characters_are_matched_exactly() -> Result<()> {
    // §15 case 185.
    let names = [
        "with space",
        "comma,dot.colon:",
        "tab\there",
        "quo\"te's",
        "back\\slash",
        "emoji 🦜",
        "UPPER",
        "user_data",
        "userXdata",
        "per%cent",
        "[brackets]{}",
    ];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut sql = "create publication supabase_realtime;".to_owned();
    for name in names {
        let name = quoted(name);
        write!(
            sql,
            "create schema {name}; create table {name}.{name} (id int primary key, {name} int);
             grant usage on schema {name} to authenticated; grant select on {name}.{name} to authenticated;
             alter publication supabase_realtime add table {name}.{name};"
        )?;
    }
    let world = watched("tables_names", &sql).await?;
    let mut watchers = Vec::new();
    for name in names {
        let binding = json!({"event": "*", "schema": name, "table": name, "select": [name]});
        watchers.push(Watcher::join(&world, &person("ana"), &[binding]).await?);
    }
    for name in names {
        let name = quoted(name);
        world.sql(&format!("insert into {name}.{name} values (1, 2)")).await?;
    }
    for (name, watcher) in names.iter().zip(&mut watchers) {
        let changes = watcher.seen(&world).await?;
        let seen: Vec<_> =
            changes.iter().map(|data| (&data["schema"], &data["table"], &data["record"])).collect();
        assert_eq!(seen, [(&json!(name), &json!(name), &json!({"id": 1, *name: 2}))]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_subscribed_under_its_own_name_and_the_root_is_not() -> Result<()> {
    // §15 case 242.
    let world = watched("tables_leaves", &partitioned("")).await?;
    let bindings = [json!({"event": "*", "schema": "public", "table": "readings_1"})];
    let mut watcher = Watcher::join(&world, &person("ana"), &bindings).await?;
    world.sql("insert into readings values (1, 'a'), (101, 'b')").await?;
    let changes = watcher.seen(&world).await?;
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (&changes[0]["table"], &changes[0]["record"]),
        (&json!("readings_1"), &json!({"id": 1, "body": "a"}))
    );
    let text = refusal(&mut watcher.client, "realtime:root", &[binding("*", "readings")]).await?;
    assert_eq!(
        text,
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given \
         connect parameters: [event: *, schema: public, table: readings, filters: [], select: nil]"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_publish_via_partition_root_the_root_is_subscribed_and_has_the_changes_of_all_leaves()
-> Result<()> {
    let world = watched("tables_root", &partitioned("with (publish_via_partition_root = true)")).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "readings")]).await?;
    world
        .sql(
            "insert into readings values (1, 'a'), (101, 'b');
             insert into readings_2 values (102, 'c');
             update readings set body = 'd' where id = 1;
             delete from readings where id = 101;
             alter table readings detach partition readings_2;
             insert into readings_2 values (103, 'detached');
             create table readings_3 (id int primary key, body text);
             alter table readings attach partition readings_3 for values from (200) to (300);
             insert into readings values (201, 'attached')",
        )
        .await?;
    let changes = watcher.seen(&world).await?;
    assert!(changes.iter().all(|data| data["table"] == "readings"), "{changes:?}");
    let seen: Vec<_> = changes.iter().map(|data| (&data["type"], &data["record"])).collect();
    let row = |kind: &str, id: i32, body: &str| (json!(kind), json!({"id": id, "body": body}));
    let mut expected = vec![
        row("INSERT", 1, "a"),
        row("INSERT", 101, "b"),
        row("INSERT", 102, "c"),
        row("UPDATE", 1, "d"),
        (json!("DELETE"), Value::Null),
    ];
    if major().await == 14 {
        // PostgreSQL 14 goes on to publish a partition that was detached as the root's, until the stream begins anew.
        expected.push(row("INSERT", 103, "detached"));
    }
    expected.push(row("INSERT", 201, "attached"));
    let expected: Vec<_> = expected.iter().map(|(kind, record)| (kind, record)).collect();
    assert_eq!(seen, expected);
    Ok(())
}

fn partitioned(options: &str) -> String {
    format!(
        "create table readings (id int primary key, body text) partition by range (id);
         create table readings_1 partition of readings for values from (0) to (100);
         create table readings_2 partition of readings for values from (100) to (200);
         grant select on readings, readings_1, readings_2 to authenticated;
         create publication supabase_realtime for table readings {options};"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publication_publishes_its_row_filter_and_its_column_list_hold() -> Result<()> {
    // PostgreSQL 14 has neither row filters nor column lists.
    let filtered = major().await >= 15;
    let parts = if filtered { "(id, title) where (id > 10)" } else { "" };
    let world = watched(
        "tables_publication",
        &format!(
            "create table notes (id int primary key, title text, secret text);
             grant select on notes to authenticated;
             create publication supabase_realtime for table notes {parts} with (publish = 'insert, delete');"
        ),
    )
    .await?;
    let by_secret = json!({"event": "*", "schema": "public", "table": "notes", "filter": "secret=eq.s"});
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "notes")]).await?;
    let mut curious = Watcher::join(&world, &person("ana"), &[by_secret]).await?;
    world
        .sql(
            "insert into notes values (1, 'a', 's'), (11, 'b', 's');
             update notes set title = 'c';
             delete from notes",
        )
        .await?;
    let changes = watcher.seen(&world).await?;
    let seen: Vec<_> =
        changes.iter().map(|data| (&data["type"], &data["record"], &data["old_record"])).collect();
    let null = &Value::Null;
    if !filtered {
        let kinds: Vec<_> = seen.iter().map(|(kind, _, old)| (*kind, &old["id"])).collect();
        let (insert, delete) = (&json!("INSERT"), &json!("DELETE"));
        let (one, eleven) = (&json!(1), &json!(11));
        assert_eq!(kinds, [(insert, null), (insert, null), (delete, one), (delete, eleven)]);
        return Ok(());
    }
    assert_eq!(
        seen,
        [
            (&json!("INSERT"), &json!({"id": 11, "title": "b"}), null),
            (&json!("DELETE"), null, &json!({"id": 11})),
        ]
    );
    assert!(curious.ids(&world).await?.is_empty(), "what is not in the log is no match");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_of_a_transaction_come_in_their_order_across_tables() -> Result<()> {
    let world = watched(
        "tables_order",
        "create table a (id int primary key); create table b (id int primary key);
         grant select on a, b to authenticated;
         create publication supabase_realtime for table a, b;",
    )
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[json!({"schema": "public"})]).await?;
    let mut other = world.database.client().await;
    let first = other.transaction().await?;
    first.batch_execute("insert into a values (3); insert into b values (4), (5)").await?;
    world.sql("begin; insert into b values (1); insert into a values (2); commit").await?;
    first.batch_execute("insert into a values (6)").await?;
    first.commit().await?;
    let ids: Vec<_> = watcher.ids(&world).await?;
    assert_eq!(ids, [1, 2, 3, 4, 5, 6], "in the order of commits, and of statements inside one");
    Ok(())
}
