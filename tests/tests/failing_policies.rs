//! A policy that fails shows nothing to anybody, harms nobody else, and is reported once for each cause.

use anyhow::Result;
use serde_json::json;
use walcast_tests::log::{lines, log};
use walcast_tests::watching::{Watcher, role_name, watched};
use walcast_tests::{binding, person, role};

/// The lines about failed decisions on a table.
fn reports(table: &str) -> Vec<String> {
    lines("RlsPolicyError", table)
}

/// A policy that fails for all but the rows with body `fine`.
async fn check(table: &str, policy: &str, reason: &str) -> Result<()> {
    check_seen(table, policy, reason, &[100, 11, 101]).await
}

/// Ten rows and one with body `fine` into a table with a policy that fails, next to a table that is well.
async fn check_seen(table: &str, policy: &str, reason: &str, seen: &[i64]) -> Result<()> {
    log();
    let world = watched(
        table,
        &format!(
            "create function refuse() returns boolean language plpgsql stable as
                 $$ begin raise exception 'not today'; end $$;
             create table {table} (id int primary key, zero int default 0, body text default '');
             alter table {table} enable row level security;
             {policy};
             create table healthy (id int primary key);
             grant select on {table}, healthy to authenticated, service_role;
             create publication supabase_realtime for table {table}, healthy;"
        ),
    )
    .await?;
    let bindings = [binding("*", table), binding("*", "healthy")];
    let mut ana = Watcher::join(&world, &person("ana"), &bindings).await?;
    let mut bea = Watcher::join(&world, &person("bea"), &bindings).await?;
    let mut admin = Watcher::join(&world, &role("service_role"), &bindings).await?;
    world
        .sql(&format!(
            "insert into {table} (id) select n from generate_series(1, 5) as n;
             insert into healthy values (100);
             insert into {table} (id) select n from generate_series(6, 10) as n;
             insert into {table} (id, body) values (11, 'fine');
             insert into healthy values (101)"
        ))
        .await?;
    assert_eq!(ana.ids(&world).await?, seen);
    assert_eq!(bea.ids(&world).await?, seen);
    assert_eq!(admin.ids(&world).await?, [1, 2, 3, 4, 5, 100, 6, 7, 8, 9, 10, 11, 101]);
    let reports = reports(table);
    assert_eq!(reports.len(), 1, "once for each cause: {reports:#?}");
    assert!(reports[0].contains(reason), "{reports:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_division_by_zero() -> Result<()> {
    let policy = "create policy p on divided using (case when body = 'fine' then true else 1 / zero = 1 end)";
    check("divided", policy, "division by zero").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cast_that_fails() -> Result<()> {
    let policy = "create policy p on casted using (case when body = 'fine' then true else body::int = 1 end)";
    check("casted", policy, "invalid input syntax for type integer").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_of_a_function() -> Result<()> {
    check("raised", "create policy p on raised using (body = 'fine' or refuse())", "not today").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restrictive_policy_that_fails() -> Result<()> {
    let policy = "create policy p on restricted using (true);
                  create policy q on restricted as restrictive using (body = 'fine' or refuse())";
    check("restricted", policy, "not today").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_the_role_may_not_read() -> Result<()> {
    let policy = "create table private (id int);
                  create policy p on looking using (body = 'fine' or exists (select from private as x where x.id = looking.id))";
    // PostgreSQL checks privileges before the first row, so that no other part of the policy can make up for it.
    check_seen("looking", policy, "permission denied for table private", &[100, 101]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_one_person_that_make_a_policy_fail_do_not_concern_another() -> Result<()> {
    log();
    let custom = role_name("custom");
    let world = watched(
        "policy_claims",
        &format!(
            "create role {custom};
             create table by_claim (id int primary key, level int);
             alter table by_claim enable row level security;
             create policy p on by_claim using (level <= (auth.jwt() ->> 'level')::int);
             grant select on by_claim to {custom};
             create publication supabase_realtime for table by_claim;"
        ),
    )
    .await?;
    let mut claims = role(&custom);
    claims["level"] = json!("high");
    let mut wrong = Watcher::join(&world, &claims, &[binding("*", "by_claim")]).await?;
    claims["level"] = json!(2);
    let mut right = Watcher::join(&world, &claims, &[binding("*", "by_claim")]).await?;
    world.sql("insert into by_claim values (1, 1), (2, 2), (3, 3)").await?;
    assert!(wrong.ids(&world).await?.is_empty());
    assert_eq!(right.ids(&world).await?, [1, 2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_can_not_be_copied_is_slow_and_said_once_in_the_log_alone() -> Result<()> {
    log();
    let world = watched(
        "not_copied",
        "create table members_of (room int, who text, primary key (room, who));
         create view members_seen as select room, who from members_of;
         create table first (id int primary key, room int); create table second (id int primary key, room int);
         alter table first enable row level security; alter table second enable row level security;
         create policy members on first for select using (room in (
             select m.room from members_seen m where m.who = auth.jwt() ->> 'sub'));
         create policy members on second for select using (room in (
             select m.room from members_seen m where m.who = auth.jwt() ->> 'sub'));
         grant select on first, second, members_seen to authenticated, service_role;
         insert into members_of values (1, 'ana');
         create publication supabase_realtime for table first, second;",
    )
    .await?;
    let both = [binding("INSERT", "first"), binding("INSERT", "second")];
    let mut ana = Watcher::join(&world, &person("ana"), &both).await?;
    let mut bruno = Watcher::join(&world, &person("bruno"), &both).await?;
    world.sql("insert into first values (1, 1), (2, 2)").await?;
    assert_eq!((ana.ids(&world).await?, bruno.ids(&world).await?), (vec![1], Vec::new()));
    let said = lines("LookupNotCopied", "members_seen");
    assert!(said.len() == 1 && said[0].contains("it is a view"), "{said:?}");
    Ok(())
}
