//! `visibility: true`: rows that an UPDATE takes out of sight go, those that it brings in come
//! (docs/row-level-security.md, "Leaving and entering").

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walcast_tests::watching::{Watcher, refusal, row_id, watched};
use walcast_tests::{World, binding, person, role};

/// Rows with a state and an owner, and the whole old row in the log.
const TASKS: &str = "
    create table tasks (id int primary key, owner text, state text);
    alter table tasks replica identity full;
    grant select on tasks to anon, authenticated, service_role;
    create publication supabase_realtime for table tasks;
";

const OWN: &str = "
    alter table tasks enable row level security;
    create policy own on tasks using (owner = (auth.jwt() ->> 'sub'));
";

/// A binding for tasks that asks for visibility.
fn tasks(event: &str, filter: Option<&str>) -> Value {
    let mut wanted = binding(event, "tasks");
    wanted["visibility"] = true.into();
    if let Some(filter) = filter {
        wanted["filter"] = filter.into();
    }
    wanted
}

/// Each change as the first letter of its kind and the row's id, such as `I1 U1 D1`.
fn story(changes: &[Value]) -> Result<String> {
    let word = |data: &Value| {
        let kind = data["type"].as_str().and_then(|kind| kind.chars().next()).context("no type")?;
        Ok(format!("{kind}{}", row_id(data).context("no id")?))
    };
    Ok(changes.iter().map(word).collect::<Result<Vec<_>>>()?.join(" "))
}

async fn told(world: &World, watcher: &mut Watcher) -> Result<String> {
    story(&watcher.seen(world).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_leave_and_enter_by_the_filter_in_the_shape_of_their_delete_and_insert() -> Result<()> {
    let world = watched("visibility_filter", TASKS).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[tasks("*", Some("state=eq.open"))]).await?;
    let mut plain = binding("*", "tasks");
    plain["filter"] = "state=eq.open".into();
    let mut stock = Watcher::join(&world, &person("ana"), &[plain]).await?;
    world
        .sql(
            "insert into tasks values (1, 'a', 'open'), (2, 'b', 'done');
             update tasks set state = 'done' where id = 1; update tasks set state = 'open' where id = 2;
             update tasks set owner = 'c' where id = 1; update tasks set owner = 'd' where id = 2;
             update tasks set state = null where id = 2; update tasks set state = null where id = 1;
             update tasks set state = 'open' where id = 2; delete from tasks",
        )
        .await?;
    let changes = ana.seen(&world).await?;
    assert_eq!(story(&changes)?, "I1 D1 I2 U2 D2 I2 D2", "NULL is no match");
    assert_eq!(told(&world, &mut stock).await?, "I1 U2 U2 U2 D2", "nothing is different without the key");
    let columns = json!([{"name": "id", "type": "int4"}, {"name": "owner", "type": "text"}, {"name": "state", "type": "text"}]);
    let shape = |kind: &str, record: &str, row: Value| {
        let mut data =
            json!({"schema": "public", "table": "tasks", "type": kind, "columns": columns, "errors": null});
        data[record] = row;
        data
    };
    assert_eq!(changes[1], shape("DELETE", "old_record", json!({"id": 1})));
    assert_eq!(changes[2], shape("INSERT", "record", json!({"id": 2, "owner": "b", "state": "open"})));
    assert_eq!(changes[3]["old_record"], json!({"id": 2, "owner": "b", "state": "open"}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_handed_over_goes_here_and_comes_there_and_neither_learns_of_the_other() -> Result<()> {
    let world = watched("visibility_policy", &format!("{TASKS}{OWN}")).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[tasks("*", None)]).await?;
    let mut bea = Watcher::join(&world, &person("bea"), &[tasks("*", None)]).await?;
    let mut admin = Watcher::join(&world, &role("service_role"), &[tasks("*", None)]).await?;
    world
        .sql(
            "insert into tasks values (1, 'ana', 'x');
             update tasks set id = 2, owner = 'bea', state = 'y';
             update tasks set owner = null; update tasks set owner = 'ana'; update tasks set id = 3",
        )
        .await?;
    let (to_ana, to_bea) = (ana.seen(&world).await?, bea.seen(&world).await?);
    assert_eq!(story(&to_ana)?, "I1 D1 I2 U3");
    assert_eq!(to_ana[1]["old_record"], json!({"id": 1}));
    assert_eq!(to_ana[1].get("record"), None);
    assert_eq!(to_ana[3]["old_record"], json!({"id": 2, "owner": "ana", "state": "y"}));
    assert_eq!(story(&to_bea)?, "I2 D2");
    assert_eq!(to_bea[0].get("old_record"), None);
    assert_eq!(told(&world, &mut admin).await?, "I1 U2 U2 U2 U3", "nothing leaves who sees everything");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_and_policy_must_hold_together_before_and_after() -> Result<()> {
    let world = watched("visibility_both", &format!("{TASKS}{OWN}")).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[tasks("*", Some("state=eq.open"))]).await?;
    world
        .sql(
            "insert into tasks values (1, 'ana', 'open'), (2, 'bea', 'open'), (3, 'ana', 'done'), (4, 'bea', 'done');
             update tasks set owner = 'bea', state = 'done' where id = 1;
             update tasks set owner = 'ana' where id = 2; update tasks set state = 'open' where id = 3;
             update tasks set state = 'open' where id = 4; update tasks set owner = 'ana' where id = 4;
             update tasks set owner = 'bea', state = 'open' where id = 1;
             update tasks set owner = 'bea' where id = 2; update tasks set state = 'done' where id = 3;
             update tasks set id = 5 where id = 4",
        )
        .await?;
    assert_eq!(told(&world, &mut ana).await?, "I1 D1 I2 I3 I4 D2 D3 U5");
    Ok(())
}

const MOVES: &str = "
    insert into tasks values (1, 'ana', 'open'), (2, 'ana', 'done');
    update tasks set state = 'done' where id = 1; update tasks set state = 'open' where id = 2;
    update tasks set owner = 'bea' where id = 2; delete from tasks;
";

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_event_has_its_own_bindings() -> Result<()> {
    let world = watched("visibility_kinds", TASKS).await?;
    let (mut told_of, kinds) = (Vec::new(), ["INSERT", "UPDATE", "DELETE", "*"]);
    for kind in kinds {
        told_of.push(Watcher::join(&world, &person("ana"), &[tasks(kind, Some("state=eq.open"))]).await?);
    }
    world.sql(MOVES).await?;
    let mut stories = Vec::new();
    for watcher in &mut told_of {
        stories.push(told(&world, watcher).await?);
    }
    assert_eq!(stories, ["I1 I2", "U2", "D1 D2", "I1 D1 I2 U2 D2"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_of_one_channel_get_one_frame_for_each_kind() -> Result<()> {
    let world = watched("visibility_shared", TASKS).await?;
    let mut plain = binding("*", "tasks");
    plain["filter"] = "state=eq.open".into();
    let bindings = [
        tasks("*", Some("state=eq.open")),
        tasks("*", Some("state=eq.done")),
        plain,
        tasks("INSERT", Some("state=eq.open")),
        binding("UPDATE", "tasks"),
    ];
    let mut ana = Watcher::join(&world, &person("ana"), &bindings).await?;
    world.sql("insert into tasks values (1, 'ana', 'done'); update tasks set state = 'open'").await?;
    let id = |index: usize| ana.bindings[index]["id"].clone();
    let expected = [
        ("INSERT", vec![id(1)]),
        ("INSERT", vec![id(3), id(0)]),
        ("DELETE", vec![id(1)]),
        ("UPDATE", vec![id(4), id(2)]),
    ];
    let mut frames: Vec<(String, Value)> = Vec::new();
    for payload in ana.payloads(&world).await? {
        frames
            .push((payload["data"]["type"].as_str().context("no type")?.to_owned(), payload["ids"].clone()));
    }
    assert_eq!(frames.len(), expected.len(), "{frames:?}");
    assert_eq!(frames[0].0, "INSERT");
    for (kind, ids) in expected {
        assert!(
            frames.contains(&(kind.to_owned(), Value::from(ids.clone()))),
            "{kind} {ids:?} in {frames:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_asked_about_both_rows_where_it_must_be() -> Result<()> {
    // Neither a function in PL/pgSQL nor the order of text under such a collation is decided in process.
    let world = watched(
        "visibility_oracle",
        "create table tasks (id int primary key, owner text, state text collate \"und-x-icu\");
         alter table tasks replica identity full;
         create function may_see(owner text) returns boolean language plpgsql stable
             as $$ begin return owner = auth.jwt() ->> 'sub'; end $$;
         alter table tasks enable row level security;
         create policy seen on tasks using (may_see(owner));
         grant select on tasks to authenticated;
         create publication supabase_realtime for table tasks;",
    )
    .await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[tasks("*", None)]).await?;
    let mut bea = Watcher::join(&world, &person("bea"), &[tasks("*", Some("state=gt.m"))]).await?;
    world
        .sql(
            "insert into tasks values (1, 'ana', 'z');
             update tasks set owner = 'bea'; update tasks set state = 'a'; update tasks set state = 'x';
             update tasks set state = 'y'; update tasks set owner = 'ana'; update tasks set state = 'b'",
        )
        .await?;
    assert_eq!(told(&world, &mut ana).await?, "I1 D1 I1 U1");
    assert_eq!(told(&world, &mut bea).await?, "I1 D1 I1 U1 D1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_looked_up_is_looked_up_as_it_was_before_the_transaction() -> Result<()> {
    let world = watched(
        "visibility_members",
        "create table members (task int, who text, primary key (task, who));
         create table tasks (id int primary key, owner text, state text);
         alter table tasks replica identity full;
         alter table tasks enable row level security;
         create policy members on tasks using (exists (
             select from members where members.task = tasks.id and members.who = auth.jwt() ->> 'sub'));
         grant select on members, tasks to authenticated;
         insert into tasks values (1, null, null); insert into members values (1, 'ana');
         create publication supabase_realtime for table members, tasks;",
    )
    .await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[tasks("*", None)]).await?;
    let mut bea = Watcher::join(&world, &person("bea"), &[tasks("*", None)]).await?;
    world.sql("begin; update members set who = 'bea'; update tasks set state = 'x'; commit").await?;
    assert_eq!((&*told(&world, &mut ana).await?, &*told(&world, &mut bea).await?), ("D1", "I1"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_old_row_in_the_log_the_join_says_what_is_missing() -> Result<()> {
    let world = watched(
        "visibility_identity",
        "create table tasks (id int primary key, owner text, state text);
         grant select on tasks to authenticated;
         create publication supabase_realtime for table tasks;",
    )
    .await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[tasks("*", Some("state=eq.open"))]).await?;
    let (status, text) = ana.system().await?;
    assert_eq!(status, "ok");
    assert!(text.starts_with("visibility on \"public\".\"tasks\" has no effect"), "{text}");
    let mend = "ALTER TABLE \"public\".\"tasks\" REPLICA IDENTITY FULL;";
    assert!(text.ends_with(mend), "{text}");
    let mut bea = Watcher::join(&world, &person("bea"), &[tasks("DELETE", Some("state=eq.open"))]).await?;
    let mut all = Watcher::join(&world, &person("ana"), &[tasks("*", None)]).await?;
    world.sql(MOVES).await?;
    assert_eq!(told(&world, &mut ana).await?, "I1 U2 U2", "as without visibility");
    assert_eq!(told(&world, &mut bea).await?, "");
    assert_eq!(told(&world, &mut all).await?, "I1 I2 U1 U2 U2 D1 D2");
    assert!(all.client.unclaimed().all(|message| message.event != "system"), "no row can leave");
    world.sql(mend).await?;
    world.sql(MOVES).await?;
    assert_eq!(told(&world, &mut ana).await?, "I1 D1 I2 U2 D2", "as soon as the log has it");
    let mut later = Watcher::join(&world, &person("ana"), &[tasks("*", Some("state=eq.open"))]).await?;
    assert_eq!(told(&world, &mut later).await?, "");
    let wrong = [json!({"schema": "public", "table": "tasks", "visibility": "true"})];
    let refused = refusal(&mut later.client, "realtime:wrong", &wrong).await?;
    assert_eq!(refused, "Error parsing `visibility` params: expected true or false");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_without_a_grant_may_take_a_row_away_and_are_not_shown() -> Result<()> {
    let world = watched(
        "visibility_grants",
        "create table tasks (id int primary key, owner text, state text);
         alter table tasks replica identity full;
         alter table tasks enable row level security;
         create policy own on tasks using (owner = (auth.jwt() ->> 'sub'));
         grant select (id, state) on tasks to authenticated;
         grant select (state) on tasks to anon;
         create publication supabase_realtime for table tasks;",
    )
    .await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[tasks("*", None)]).await?;
    let mut keyless = role("anon");
    keyless["sub"] = "ana".into();
    let mut keyless = Watcher::join(&world, &keyless, &[tasks("INSERT", None)]).await?;
    world.sql("insert into tasks values (1, 'bea', 'x'); update tasks set owner = 'ana'; update tasks set owner = 'bea'").await?;
    let changes = ana.seen(&world).await?;
    assert_eq!(story(&changes)?, "I1 D1");
    assert_eq!(changes[0]["record"], json!({"id": 1, "state": "x"}));
    assert_eq!(changes[1]["old_record"], json!({"id": 1}));
    let errors: Vec<_> = keyless.seen(&world).await?.iter().map(|data| data["errors"].clone()).collect();
    assert_eq!(errors, [json!(["Error 401: Unauthorized"])], "of the INSERT alone");
    Ok(())
}
