//! Changes of policies, grants, tables and publications take effect on subscriptions that are open
//! (docs/protocol.md §9.1): at their place in the log where `walcast install` was applied, else at the next poll.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio_postgres::SimpleQueryMessage;
use walcast::database::catalog_settings;
use walcast_tests::watching::{Watcher, role_name, watched, watched_with};
use walcast_tests::{World, binding, person, role};

/// How the server learns of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Learns {
    /// From messages in the log: the next row is judged by the new state.
    FromTheLog,
    /// By looking: some row soon is.
    ByPolling,
}

const NOTES: &str = "
    create table notes (id int generated always as identity primary key, owner text, body text default 'x');
    alter table notes enable row level security;
    create policy own on notes using (owner = 'ana');
    grant select on notes to authenticated;
    create publication supabase_realtime for table notes;
";

async fn world(learns: Learns, name: &str, sql: &str) -> Result<World> {
    let world = watched_with(name, sql, |settings| {
        settings.project.catalog_poll = match learns {
            Learns::FromTheLog => Duration::from_hours(1),
            Learns::ByPolling => Duration::from_millis(50),
        };
    })
    .await?;
    if learns == Learns::FromTheLog {
        install(&world).await?;
    }
    Ok(world)
}

/// Makes the log tell of changes.
async fn install(world: &World) -> Result<()> {
    let (database, replication) = (&world.settings.project.database, &world.settings.project.replication);
    let settings = catalog_settings(database, &replication.publications)?;
    let installed = walcast_catalog::install::apply(&settings).await?;
    ensure!(installed.announces_catalog_changes);
    Ok(())
}

/// What a change shows, in short: `ana: id,owner,body`, or its error.
fn summary(data: &Value) -> String {
    if let Some(error) = data["errors"][0].as_str() {
        return error.to_owned();
    }
    let record = &data["record"];
    // A column that the publication leaves out is named all the same.
    let sent: Vec<_> = data["columns"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|column| column["name"].as_str())
        .filter(|name| record.get(name).is_some())
        .collect();
    format!("{}: {}", record["owner"].as_str().unwrap_or("-"), sent.join(","))
}

/// Runs `ddl`, then writes rows until they are shown as expected: at once where the log tells.
async fn check(world: &World, watcher: &mut Watcher, learns: Learns, step: (&str, &[&str])) -> Result<()> {
    let (ddl, expected) = step;
    world.sql(ddl).await?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        world
            .sql("insert into notes (owner) values ('ana'); insert into notes (owner) values ('bea')")
            .await?;
        let shown: Vec<_> = watcher.seen(world).await?.iter().map(summary).collect();
        if shown == expected {
            return Ok(());
        }
        let again = learns == Learns::ByPolling && Instant::now() < deadline;
        ensure!(again, "after `{ddl}` ({learns:?}) these were shown: {shown:?}, not {expected:?}");
    }
}

async fn policies_and_grants(learns: Learns, name: &str) -> Result<()> {
    let world = world(learns, name, NOTES).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("INSERT", "notes")]).await?;
    let (ana, bea) = ("ana: id,owner,body", "bea: id,owner,body");
    let unauthorized = "Error 401: Unauthorized";
    for step in [
        ("select 1", &[ana][..]),
        ("alter policy own on notes using (owner = 'bea')", &[bea]),
        ("create policy another on notes using (owner = 'ana')", &[ana, bea]),
        ("create policy not_bea on notes as restrictive using (owner <> 'bea')", &[ana]),
        ("drop policy another on notes", &[]),
        ("drop policy not_bea on notes", &[bea]),
        ("alter policy own on notes to anon", &[]),
        ("alter policy own on notes to public", &[bea]),
        ("alter table notes disable row level security", &[ana, bea]),
        ("revoke select on notes from authenticated", &[unauthorized, unauthorized]),
        ("grant select (id, owner) on notes to authenticated", &["ana: id,owner", "bea: id,owner"]),
        ("grant select on notes to authenticated", &[ana, bea]),
        ("alter table notes enable row level security", &[bea]),
        ("create function chosen() returns text language sql stable as $$ select 'ana' $$", &[bea]),
        ("alter policy own on notes using (owner = chosen())", &[ana]),
        (
            "create or replace function chosen() returns text language sql stable as $$ select 'bea' $$",
            &[bea],
        ),
        ("revoke usage on schema public from public", &[unauthorized, unauthorized]),
        ("grant usage on schema public to authenticated", &[bea]),
    ] {
        check(&world, &mut watcher, learns, step).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_and_grants_take_effect_at_their_place_in_the_log() -> Result<()> {
    policies_and_grants(Learns::FromTheLog, "live_policies_log").await
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_and_grants_take_effect_at_the_next_poll() -> Result<()> {
    policies_and_grants(Learns::ByPolling, "live_policies_poll").await
}

async fn ownership(learns: Learns, name: &str) -> Result<()> {
    let world = world(learns, name, NOTES).await?;
    let owner = role_name("owner");
    world.sql(&format!("create role {owner}; alter table notes owner to {owner}")).await?;
    let mut watcher = Watcher::join(&world, &role(&owner), &[binding("INSERT", "notes")]).await?;
    let (ana, bea) = ("ana: id,owner,body", "bea: id,owner,body");
    let given_away = format!("alter table notes owner to current_user; grant select on notes to {owner}");
    let given_back = format!("alter table notes owner to {owner}");
    for step in [
        ("select 1", &[ana, bea][..]),
        ("alter table notes force row level security", &[ana]),
        ("alter table notes no force row level security", &[ana, bea]),
        (&*given_away, &[ana]),
        (&*given_back, &[ana, bea]),
    ] {
        check(&world, &mut watcher, learns, step).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn force_and_ownership_take_effect_at_their_place_in_the_log() -> Result<()> {
    ownership(Learns::FromTheLog, "live_owner_log").await
}

#[tokio::test(flavor = "multi_thread")]
async fn force_and_ownership_take_effect_at_the_next_poll() -> Result<()> {
    ownership(Learns::ByPolling, "live_owner_poll").await
}

/// No event trigger fires for roles, so it is the next poll that finds them, whatever is installed.
async fn roles(installed: bool, name: &str) -> Result<()> {
    let (staff, clerk) = (role_name("staff"), role_name("clerk"));
    let sql = format!(
        "{NOTES}
         create table members (owner text primary key);
         insert into members values ('ana'), ('bea');
         alter table members enable row level security;
         create role {staff}; create role {clerk};
         grant select on notes, members to {clerk};
         create policy staff on members to {staff} using (owner = 'bea');
         create policy members on notes using (exists (select from members as m where m.owner = notes.owner));
         create policy staff on notes to {staff} using (owner = 'eve');"
    );
    let world = world(Learns::ByPolling, name, &sql).await?;
    if installed {
        install(&world).await?;
    }
    let mut watcher = Watcher::join(&world, &role(&clerk), &[binding("INSERT", "notes")]).await?;
    let (ana, bea) = ("ana: id,owner,body", "bea: id,owner,body");
    let grant = format!("grant {staff} to {clerk}");
    let revoke = format!("revoke {staff} from {clerk}");
    let bypass = format!("alter role {clerk} bypassrls");
    let bound = format!("alter role {clerk} nobypassrls");
    let superuser = format!("alter role {clerk} superuser");
    let no_superuser = format!("alter role {clerk} nosuperuser");
    for step in [
        ("alter policy staff on notes using (owner = 'none')", &[ana][..]),
        (&*grant, &[ana, bea]),
        (&*revoke, &[ana]),
        (&*bypass, &[ana, bea]),
        (&*bound, &[ana]),
        (&*superuser, &[ana, bea]),
        (&*no_superuser, &[ana]),
        ("alter policy own on notes using (false)", &[]),
        (&*grant, &[bea]),
        ("drop policy members on notes", &[]),
        ("alter policy staff on notes using (owner = 'bea')", &[bea]),
        (&*revoke, &[]),
    ] {
        check(&world, &mut watcher, Learns::ByPolling, step).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn memberships_and_attributes_of_roles_take_effect_at_the_next_poll() -> Result<()> {
    roles(false, "live_roles_poll").await
}

#[tokio::test(flavor = "multi_thread")]
async fn memberships_and_attributes_of_roles_take_effect_at_the_next_poll_beside_event_triggers() -> Result<()>
{
    roles(true, "live_roles_log").await
}

/// What Ana can see of the notes by Postgres itself: the owners, or the error.
async fn shown_by_postgres(world: &World) -> Result<Vec<String>> {
    let claims = person("ana");
    let sql = format!(
        "begin; set local role authenticated; set local \"request.jwt.claims\" = '{claims}';
         select distinct owner from notes order by owner"
    );
    let answer = world.client.simple_query(&sql).await;
    world.sql("rollback").await?;
    let rows = answer.unwrap_or_default();
    Ok(rows
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect())
}

/// A function that looks members of this level up.
fn is_member(level: &str) -> String {
    format!(
        "create or replace function is_member(of text) returns boolean language sql stable as $$
             select exists (select from members as m where m.owner = $1 and m.level = {level}
                                                       and m.who = auth.jwt() ->> 'sub') $$"
    )
}

async fn look_ups(learns: Learns, name: &str) -> Result<()> {
    let sql = format!(
        "{NOTES}
         create table members (owner text, who text, level int, primary key (owner, who));
         insert into members values ('ana', 'ana', 1), ('bea', 'ana', 2), ('eve', 'bea', 1);
         grant select on members to authenticated;
         alter policy own on notes using (exists (
             select from members as m where m.owner = notes.owner and m.who = auth.jwt() ->> 'sub'));"
    );
    let world = world(learns, name, &sql).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("INSERT", "notes")]).await?;
    let other = role_name("other");
    let plpgsql =
        "create or replace function is_member(of text) returns boolean language plpgsql stable as $$
        begin
            return exists (select from members as m where m.owner = $1 and m.level = 1
                                                      and m.who = auth.jwt() ->> 'sub');
        end $$";
    let (ana, bea, both, nobody) = (&["ana"][..], &["bea"][..], &["ana", "bea"][..], &[][..]);
    for (ddl, expected) in [
        ("select 1", both),
        ("alter table members enable row level security", nobody),
        ("create policy low on members using (level = 1)", ana),
        ("alter policy low on members using (level = 2)", bea),
        ("create policy also on members for select using (level = 1)", both),
        ("create policy not_high on members as restrictive using (level < 2)", ana),
        ("drop policy not_high on members; drop policy also on members", bea),
        ("alter policy low on members to anon", nobody),
        ("alter policy low on members to public", bea),
        ("revoke select on members from authenticated", nobody),
        ("grant select (owner) on members to authenticated", nobody),
        ("grant select (owner, who) on members to authenticated", bea),
        ("grant select on members to authenticated", bea),
        ("alter table members disable row level security", both),
        ("revoke usage on schema public from public", nobody),
        ("grant usage on schema public to public", both),
        (&format!("{}; alter policy own on notes using (is_member(owner))", is_member("1")), ana),
        (&is_member("2"), bea),
        ("revoke execute on function is_member(text) from public", nobody),
        ("grant execute on function is_member(text) to authenticated", bea),
        ("alter table members enable row level security; alter policy low on members using (level = 1)", nobody),
        ("alter function is_member(text) security definer", bea),
        (&format!("create role {other}; alter function is_member(text) owner to {other}"), nobody),
        (&format!("grant select on members to {other}"), nobody),
        (&format!("alter policy low on members to authenticated; create policy other on members to {other} using (level = 2)"), nobody),
        (&format!("grant usage on schema auth to {other}"), bea),
        (&format!("revoke usage on schema auth from {other}"), nobody),
        (&format!("grant usage on schema auth to {other}"), bea),
        (&format!("drop policy other on members; alter table members owner to {other}"), bea),
        ("alter table members force row level security", nobody),
        ("alter table members no force row level security", bea),
        ("alter function is_member(text) security invoker", nobody),
        (plpgsql, ana),
        (&is_member("1"), ana),
        ("create function wanted() returns int language sql stable as $$ select 1 $$", ana),
        (&is_member("wanted()"), ana),
        ("alter policy low on members using (true)", ana),
        ("create or replace function wanted() returns int language sql stable as $$ select 2 $$", bea),
        ("alter function wanted() rename to unwanted", nobody),
        ("alter function unwanted() rename to wanted", bea),
        ("alter table members rename column level to rank", nobody),
        ("alter table members rename column rank to level", bea),
        ("alter table members rename to companions", nobody),
        ("alter table companions rename to members", bea),
        ("alter function is_member(text) rename to is_in", bea),
        ("create table other_members as select 'ana' as owner, 'ana' as who, 2 as level;
          alter table other_members add primary key (owner, who); grant select on other_members to authenticated;
          create or replace function is_in(of text) returns boolean language sql stable as $$
              select exists (select from other_members as m where m.owner = $1 and m.who = auth.jwt() ->> 'sub') $$", ana),
    ] {
        let shown: Vec<_> = expected.iter().map(|owner| format!("{owner}: id,owner,body")).collect();
        let shown: Vec<_> = shown.iter().map(String::as_str).collect();
        // The notes themselves are out of reach then.
        if ddl == "revoke usage on schema public from public" {
            let unauthorized = ["Error 401: Unauthorized"; 2];
            check(&world, &mut watcher, learns, (ddl, &unauthorized)).await?;
        } else {
            check(&world, &mut watcher, learns, (ddl, &shown)).await?;
        }
        assert_eq!(shown_by_postgres(&world).await?, expected, "by Postgres after `{ddl}`");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_look_ups_depend_on_takes_effect_at_its_place_in_the_log() -> Result<()> {
    Box::pin(look_ups(Learns::FromTheLog, "live_look_ups_log")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_look_ups_depend_on_takes_effect_at_the_next_poll() -> Result<()> {
    Box::pin(look_ups(Learns::ByPolling, "live_look_ups_poll")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_judged_by_the_policies_as_they_stand_when_their_transaction_commits() -> Result<()> {
    let world = world(Learns::FromTheLog, "live_same_transaction", NOTES).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("INSERT", "notes")]).await?;
    for (transaction, expected) in [
        (
            "begin;
             insert into notes (owner) values ('bea');
             alter policy own on notes using (owner = 'bea');
             insert into notes (owner) values ('ana'), ('bea');
             commit",
            &["bea: id,owner,body", "bea: id,owner,body"][..],
        ),
        ("begin; insert into notes (owner) values ('ana'), ('bea'); drop policy own on notes; commit", &[]),
    ] {
        world.sql(transaction).await?;
        let shown: Vec<_> = watcher.seen(&world).await?.iter().map(summary).collect();
        assert_eq!(shown, expected, "{transaction}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_policy_behind_twenty_megabytes_of_rows_counts_for_the_first_of_them() -> Result<()> {
    let world = world(Learns::FromTheLog, "live_large_transaction", NOTES).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("INSERT", "notes")]).await?;
    world
        .sql(
            "begin;
             insert into notes (owner, body)
                select case n when 1 then 'ana' when 2 then 'bea' when 20000 then 'bea' else 'eve' end, repeat('x', 1000)
                from generate_series(1, 20000) as n;
             alter policy own on notes using (owner = 'bea');
             commit",
        )
        .await?;
    assert_eq!(watcher.ids(&world).await?, [2, 20_000]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_row_right_after_a_change_of_policy_is_judged_by_it_each_time() -> Result<()> {
    let world = world(Learns::FromTheLog, "live_policy_again", NOTES).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("INSERT", "notes")]).await?;
    // PostgreSQL sends a transaction a moment before others can see what it did.
    for round in 0..50 {
        let (owner, other) = if round % 2 == 0 { ("bea", "ana") } else { ("ana", "bea") };
        world.sql(&format!("alter policy own on notes using (owner = '{owner}')")).await?;
        let insert = format!("insert into notes (owner) values ('{owner}'), ('{other}')");
        world.sql(&insert).await?;
        let owners: Vec<_> =
            watcher.seen(&world).await?.iter().map(|data| data["record"]["owner"].clone()).collect();
        assert_eq!(owners, [owner], "round {round}");
    }
    Ok(())
}

async fn columns(learns: Learns, name: &str) -> Result<()> {
    let world = world(learns, name, NOTES).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("INSERT", "notes")]).await?;
    for step in [
        ("select 1", &["ana: id,owner,body"][..]),
        ("alter table notes add column extra int default 5", &["ana: id,owner,body,extra"]),
        ("alter table notes rename column body to text", &["ana: id,owner,text,extra"]),
        ("alter table notes drop column text", &["ana: id,owner,extra"]),
        ("alter table notes rename to others; alter table others rename to notes", &["ana: id,owner,extra"]),
        ("alter table notes drop column extra, add column extra text default '5'", &["ana: id,owner,extra"]),
    ] {
        check(&world, &mut watcher, learns, step).await?;
    }
    if has_column_lists(&world).await? {
        let publish = |what: &str| {
            format!("alter publication supabase_realtime set table watching.marks, notes {what}")
        };
        for step in [
            (&*publish("(id, owner)"), &["ana: id,owner"][..]),
            (&*publish("where (id < 0)"), &[]),
            (&*publish(""), &["ana: id,owner,extra"]),
        ] {
            check(&world, &mut watcher, learns, step).await?;
        }
    }
    world.sql("alter table notes alter extra drop default, alter extra type int using extra::int").await?;
    world.sql("insert into notes (owner, extra) values ('ana', 7)").await?;
    let changes = watcher.seen(&world).await?;
    assert_eq!(changes[0]["columns"][2], json!({"name": "extra", "type": "int4"}));
    assert_eq!(changes[0]["record"]["extra"], 7, "the log itself says what the column is");
    Ok(())
}

/// Since PostgreSQL 15.
async fn has_column_lists(world: &World) -> Result<bool> {
    let sql = "select current_setting('server_version_num')::int >= 150000";
    Ok(world.client.query_one(sql, &[]).await?.try_get(0)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_and_go_at_their_place_in_the_log() -> Result<()> {
    columns(Learns::FromTheLog, "live_columns_log").await
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_and_go_with_polling() -> Result<()> {
    columns(Learns::ByPolling, "live_columns_poll").await
}

/// The texts of `system` messages up to now, which the mark proves to be all.
async fn told(world: &World, watcher: &mut Watcher) -> Result<Vec<(String, String)>> {
    let mut told = Vec::new();
    while watcher.client.unclaimed().any(|message| message.event == "system") {
        told.push(watcher.system().await?);
    }
    watcher.seen(world).await?;
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_a_filter_needs_is_dropped_and_comes_back() -> Result<()> {
    let world = watched("live_filter", NOTES).await?;
    let filtered = json!({"event": "INSERT", "schema": "public", "table": "notes", "filter": "body=eq.x"});
    let mut client = world.connect(&person("ana")).await?;
    client.join_changes("realtime:filtered", &[filtered]).await?;
    // The marks are on another channel: this one is to fail.
    let mut watcher = Watcher::join_on(client, "realtime:whole", &[binding("INSERT", "notes")]).await?;
    let system = |message: &walcast_testkit::Received| message.is("realtime:filtered", "system");
    let change = |message: &walcast_testkit::Received| message.is("realtime:filtered", "postgres_changes");
    let insert = "insert into notes (owner) values ('ana')";
    world.sql(insert).await?;
    watcher.client.expect(change).await?;
    world.sql(&format!("alter table notes drop column body; {insert}")).await?;
    let message = watcher.client.expect(system).await?;
    let (status, text) = message.system("postgres_changes").unwrap_or_default();
    assert_eq!(status, "error");
    assert!(text.ends_with("ERROR P0001 (raise_exception) invalid column for filter body"), "{text}");
    watcher.seen(&world).await?;
    world.sql(insert).await?;
    assert_eq!(watcher.seen(&world).await?[0]["record"], json!({"id": 3, "owner": "ana"}));
    assert!(!watcher.client.unclaimed().any(change), "the filter matches no row without its column");
    world.sql("alter table notes add column body text default 'x'").await?;
    let message = watcher.client.expect(system).await?;
    assert_eq!(message.system("postgres_changes"), Some(("ok", "Subscribed to PostgreSQL")));
    world.sql(insert).await?;
    let message = watcher.client.expect(change).await?;
    assert_eq!(message.payload["data"]["record"]["body"], "x");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_joins_the_publication_reaches_those_who_asked_for_all() -> Result<()> {
    // §15 cases 232 and 233.
    for learns in [Learns::FromTheLog, Learns::ByPolling] {
        let world = world(learns, "live_publication", NOTES).await?;
        let everything = json!({"event": "INSERT", "schema": "public", "table": "*"});
        let mut watcher = Watcher::join(&world, &person("ana"), &[everything]).await?;
        for (ddl, expected) in [
            ("create table fresh (id int generated always as identity primary key, owner text);
              grant select on fresh to authenticated; alter publication supabase_realtime add table fresh", 2),
            ("alter publication supabase_realtime drop table fresh", 1),
            ("alter publication supabase_realtime add table fresh", 2),
            ("drop table fresh; create table fresh (id int generated always as identity primary key, owner text);
              grant select on fresh to authenticated; alter publication supabase_realtime add table fresh", 2),
        ] {
            world.sql(ddl).await?;
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                world.sql("insert into fresh (owner) values ('ana'); insert into notes (owner) values ('ana')").await?;
                let tables: Vec<_> =
                    watcher.seen(&world).await?.iter().map(|data| data["table"].clone()).collect();
                if tables.len() == expected {
                    assert_eq!(tables, [json!("fresh"), json!("notes")][2 - expected..]);
                    break;
                }
                let again = learns == Learns::ByPolling && Instant::now() < deadline;
                ensure!(again, "after `{ddl}` ({learns:?}): {tables:?}");
            }
        }
        let told = told(&world, &mut watcher).await?;
        assert!(told.is_empty(), "a wildcard that still fits something has nothing to say: {told:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_whose_table_goes_is_told_and_so_it_is_when_the_table_is_back() -> Result<()> {
    let world = watched("live_table", NOTES).await?;
    let mut client = world.connect(&person("ana")).await?;
    client.join_changes("realtime:notes", &[binding("INSERT", "notes")]).await?;
    for (away, back) in [
        (
            "alter publication supabase_realtime drop table notes",
            "alter publication supabase_realtime add table notes",
        ),
        ("alter table notes rename to old_notes", "alter table old_notes rename to notes"),
        (
            "drop table notes",
            "create table notes (id int generated always as identity primary key, owner text);
             grant select on notes to authenticated; alter publication supabase_realtime add table notes",
        ),
    ] {
        world.sql(away).await?;
        let message = client.expect(|message| message.event == "system").await?;
        assert_eq!(
            message.system("postgres_changes"),
            Some((
                "error",
                "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the \
                 given connect parameters: [event: INSERT, schema: public, table: notes, filters: [], select: nil]"
            )),
            "{away}"
        );
        world.sql(back).await?;
        let message = client.expect(|message| message.event == "system").await?;
        assert_eq!(message.system("postgres_changes"), Some(("ok", "Subscribed to PostgreSQL")), "{back}");
        world.sql("insert into notes (owner) values ('ana')").await?;
        client.expect(|message| message.event == "postgres_changes").await?;
    }
    Ok(())
}
