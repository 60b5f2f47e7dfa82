//! Rows whose policies look their readers up in another table are told as Postgres would show them at their place in
//! the log, without asking it (docs/row-level-security.md, "Membership").

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;
use walcast::database::catalog_settings;
use walcast::serve::ServeSettings;
use walcast_replication::StreamStatus;
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database};
use walcast_tests::log::{lines, log};
use walcast_tests::story::{Random, Story, TABLES};
use walcast_tests::watching::{MARKS, Watcher, refusal, watched, watched_with};
use walcast_tests::{World, binding, person, role};

/// What is awaited comes within this time.
const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_and_go_among_rows_are_told_what_postgres_shows_them_and_it_is_not_asked()
-> Result<()> {
    for seed in [1, 2] {
        let world = watched("memberships_story", TABLES).await?;
        let mut story = Story::begin(&world, 10, seed).await?;
        let questions = world.questions().await?;
        story.go_on(300).await?;
        story.end(&world).await?;
        assert_eq!(world.questions().await?, questions, "seed {seed}: the copies decide");
    }
    Ok(())
}

/// One of several writers who do not wait for each other. Every transaction ends with a line in the journal.
async fn storm(client: tokio_postgres::Client, number: u64, transactions: u64) -> Result<()> {
    let mut random = Random(number);
    for transaction in 0..transactions {
        let id = number * 10_000 + transaction;
        let (room, other, who) = (random.below(4), random.below(4), random.below(6));
        let older = id - random.below(transaction.min(10) + 1);
        let members = match random.below(4) {
            0 | 1 => format!("insert into members values ({room}, 'person {who}') on conflict do nothing"),
            2 => format!("delete from members where room = {room} and who = 'person {who}'"),
            _ => format!(
                "update members set room = {other} where room = {room} and who = 'person {who}'
                     and not exists (select from members where room = {other} and who = 'person {who}')"
            ),
        };
        let rows = match random.below(4) {
            0 | 1 => format!("insert into messages values ({id}, {room}, 'of {number}')"),
            2 => format!("update messages set room = {other}, body = 'again' where id = {older}"),
            _ => format!("delete from messages where id = {older}"),
        };
        let (first, second) = if random.below(2) == 0 { (&members, &rows) } else { (&rows, &members) };
        let sql = format!("begin; {first}; {second}; insert into journal default values; commit");
        // Two of them may want the same row.
        if client.batch_execute(&sql).await.is_err() {
            client.batch_execute("rollback").await?;
        }
    }
    Ok(())
}

/// What somebody is to be told of messages, by the whole log as someone sees it whom nothing is hidden from.
fn expected(log: &[Value], who: &str) -> Vec<Value> {
    let (mut members, mut before, mut told) = (HashSet::new(), HashSet::new(), Vec::new());
    // A DELETE shows the key alone, to everybody.
    let mut rooms = HashMap::new();
    let room = |row: &Value| row["room"].as_i64().filter(|_| row["who"].is_null() || row["who"] == who);
    for transaction in log.split_inclusive(|change| change["table"] == "journal") {
        for change in transaction.iter().filter(|change| change["table"] == "members") {
            if let Some(gone) = room(&change["old_record"]) {
                members.remove(&gone);
            }
            members.extend(room(&change["record"]));
        }
        for change in transaction.iter().filter(|change| change["table"] == "messages") {
            let (old, new) = (&change["old_record"], &change["record"]);
            let id = old["id"].as_i64().or(new["id"].as_i64());
            let was = rooms.insert(id, room(new)).flatten();
            let sees_old = was.is_some_and(|room| before.contains(&room));
            let sees = room(new).map_or(sees_old, |room| members.contains(&room));
            let whole = sees_old && !new.is_null() || old.is_null();
            let old = if whole { old.clone() } else { json!({ "id": old["id"] }) };
            if sees {
                told.push(json!({ "table": "messages", "record": new, "old_record": old }));
            }
        }
        before.clone_from(&members);
    }
    told
}

/// The changes up to a mark, in short.
async fn told(watcher: &mut Watcher, mark: i32) -> Result<Vec<Value>> {
    let payloads = watcher.payloads_until(mark).await?;
    let short = |payload: &Value| {
        let data = &payload["data"];
        json!({ "table": data["table"], "record": data["record"], "old_record": data["old_record"] })
    };
    Ok(payloads.iter().map(short).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_while_members_and_rows_are_written_at_once_is_told_all_that_follows_in_order() -> Result<()>
{
    let sql = format!(
        "{TABLES}
         create table journal (id int generated always as identity primary key);
         alter table members replica identity full;
         grant select on members, messages, journal to service_role;
         alter publication supabase_realtime add table members, journal;"
    );
    let world = watched("memberships_storm", &sql).await?;
    let mut admin = Watcher::join(&world, &role("service_role"), &[json!({"schema": "public"})]).await?;
    let mut writers = JoinSet::new();
    for number in 1..=3 {
        writers.spawn(storm(world.database.client().await, number, 400));
    }
    let mut people = Vec::new();
    for who in (0..6).map(|number| format!("person {number}")) {
        people.push((Watcher::join(&world, &person(&who), &[binding("*", "messages")]).await?, who));
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    let mark = world.mark().await?;
    let log = told(&mut admin, mark).await?;
    let mut all = 0;
    for (watcher, who) in &mut people {
        let (told, expected) = (told(watcher, mark).await?, expected(&log, who));
        all += told.len();
        let differs = told.iter().rev().zip(expected.iter().rev()).find(|(told, expected)| told != expected);
        assert!(expected.ends_with(&told), "{who} was told what is not the end of the log: {differs:?}");
    }
    assert!(all > 300, "the storm was over too soon to prove anything: {all}");
    assert_eq!(world.questions().await?, 0, "nobody is asked");
    Ok(())
}

/// Runs the story in three parts with something in between, while transactions are open.
async fn interrupted(world: &World, interruption: impl AsyncFn() -> Result<()>) -> Result<()> {
    let mut story = Story::begin(world, 6, 3).await?;
    for _ in 0..3 {
        story.go_on(60).await?;
        interruption().await?;
    }
    story.go_on(30).await?;
    story.end(world).await
}

fn is_streaming(status: &StreamStatus) -> bool {
    matches!(status, StreamStatus::Streaming { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_amid_changes_of_members_costs_nothing() -> Result<()> {
    let world = watched("memberships_cut", TABLES).await?;
    Watcher::join(&world, &person("person 0"), &[binding("*", "messages")]).await?;
    let questions = world.questions().await?;
    interrupted(&world, async || {
        let slot = world.database.slot_name();
        let cut = "select pg_terminate_backend(active_pid) from pg_replication_slots
                   where slot_name = $1 and active_pid is not null";
        // It may be on its way back from the last time.
        let mut status = world.server.replication().context("the project is up")?;
        timeout(DEADLINE, status.wait_for(is_streaming)).await??;
        ensure!(world.client.execute(cut, &[&slot]).await? == 1, "there was nothing to cut");
        timeout(DEADLINE, status.wait_for(|status| !is_streaming(status))).await??;
        Ok(())
    })
    .await?;
    assert_eq!(world.questions().await?, questions, "the copies go on where the log does");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_written_anew_while_rows_flow_stay_who_they_are() -> Result<()> {
    let world = watched("memberships_vacuum", TABLES).await?;
    Watcher::join(&world, &person("person 0"), &[binding("*", "messages")]).await?;
    let questions = world.questions().await?;
    let mut story = Story::begin(&world, 6, 4).await?;
    for _ in 0..3 {
        story.go_on(40).await?;
        // It waits for nobody: the story's transactions have to end for it.
        story.commit_all().await?;
        world.sql("vacuum full members").await?;
    }
    story.go_on(40).await?;
    story.end(&world).await?;
    assert_eq!(world.questions().await?, questions, "the copies decide");
    Ok(())
}

/// Two people, and what they are told of a table of messages with members who come and go.
struct Pair {
    ana: Watcher,
    bea: Watcher,
    next: i64,
}

impl Pair {
    async fn join(world: &World) -> Result<Pair> {
        let bindings = [binding("*", "messages"), binding("*", "notices")];
        let ana = Watcher::join(world, &person("ana"), &bindings).await?;
        let bea = Watcher::join(world, &person("bea"), &bindings).await?;
        Ok(Pair { ana, bea, next: 1 })
    }

    /// Whether who is added with a row sees it, who is removed with it does not, and others never do.
    async fn is_right(&mut self, world: &World) -> Result<bool> {
        let id = self.next;
        self.next += 1;
        let written = format!(
            "insert into messages values ({id}, {id}, ''); insert into notices values ({id}, {id}, '');
             insert into members (room, who) values ({id}, 'ana');"
        );
        world.sql(&written).await?;
        let added = (self.ana.ids(world).await?, self.bea.ids(world).await?);
        let moved = format!(
            "update members set who = 'bea' where room = {id};
             update messages set body = 'x' where id = {id}; update notices set body = 'x' where id = {id};"
        );
        world.sql(&moved).await?;
        let moved = (self.ana.ids(world).await?, self.bea.ids(world).await?);
        Ok(added == (vec![id, id], vec![]) && moved == (vec![], vec![id, id]))
    }

    /// Goes on until nobody is asked; what is told is right all the time.
    async fn until_nobody_is_asked(&mut self, world: &World) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(45);
        loop {
            let questions = world.questions().await?;
            ensure!(self.is_right(world).await?, "wrong while Postgres may be asked");
            if world.questions().await? == questions {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "Postgres is still asked");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_added_with_a_row_sees_it_and_who_is_removed_with_it_does_not() -> Result<()> {
    let world = watched("memberships_pair", TABLES).await?;
    let mut pair = Pair::join(&world).await?;
    let questions = world.questions().await?;
    for _ in 0..20 {
        assert!(pair.is_right(&world).await?);
    }
    // Whatever the order of the statements.
    world
        .sql(
            "insert into members values (100, 'ana'); insert into messages values (100, 100, '');
             delete from members where room = 100; insert into members values (100, 'bea');",
        )
        .await?;
    assert_eq!((pair.ana.ids(&world).await?, pair.bea.ids(&world).await?), (vec![], vec![100]));
    assert_eq!(world.questions().await?, questions);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_goes_together_with_its_memberships_is_told_to_who_was_a_member() -> Result<()> {
    let sql = format!(
        "{TABLES}
         create table houses (id int primary key);
         alter table members add foreign key (room) references houses on delete cascade;
         alter table messages add foreign key (room) references houses on delete cascade;
         insert into houses values (1), (2);
         insert into members values (1, 'ana', false), (2, 'bea', false), (2, 'ana', true);
         insert into messages values (10, 1, ''), (20, 2, '');"
    );
    let world = watched("memberships_cascade", &sql).await?;
    let mut pair = Pair::join(&world).await?;
    let questions = world.questions().await?;
    world.sql("delete from houses").await?;
    let ana = pair.ana.seen(&world).await?;
    assert_eq!(ana.len(), 1, "her membership of the other house was hidden from herself: {ana:?}");
    assert_eq!((&ana[0]["type"], &ana[0]["old_record"]), (&json!("DELETE"), &json!({"id": 10})));
    assert_eq!(pair.bea.ids(&world).await?, [20]);
    assert_eq!(world.questions().await?, questions);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_two_looked_up_tables_that_take_turns_in_a_transaction_count_once_each() -> Result<()> {
    let world = watched(
        "memberships_turns",
        "create table teams (id int primary key, open boolean not null);
         create table crew (team int, who text);
         -- Its rows may be there twice, and nothing but the count would tell.
         alter table crew replica identity full;
         create table orders (id int primary key, team int not null);
         alter table orders enable row level security;
         create policy crews on orders using (exists (
             select from crew join teams on teams.id = crew.team
             where teams.open and crew.team = orders.team and crew.who = auth.jwt() ->> 'sub'));
         grant select on teams, crew, orders to authenticated;
         create publication supabase_realtime for table orders;",
    )
    .await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[binding("*", "orders")]).await?;
    let questions = world.questions().await?;
    world
        .sql(
            "insert into crew values (1, 'ana'); insert into teams values (1, true);
             insert into crew values (2, 'ana'); insert into teams values (2, true);
             insert into orders values (1, 1), (2, 2);",
        )
        .await?;
    assert_eq!(ana.ids(&world).await?, [1, 2]);
    world.sql("delete from crew where team = 1; insert into orders values (3, 1), (4, 2);").await?;
    assert_eq!(ana.ids(&world).await?, [4], "her row in the crew of team 1 was there once");
    assert_eq!(world.questions().await?, questions);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_walcast_publishes_for_itself_can_not_be_subscribed_to() -> Result<()> {
    let world = watched("memberships_private", TABLES).await?;
    let everything = json!({"event": "*", "schema": "public", "table": "*"});
    let all = json!({"event": "*", "schema": "*"});
    let mut ana = Watcher::join(&world, &person("ana"), &[everything, all]).await?;
    let mut admin = Watcher::join(&world, &role("service_role"), &[json!({"schema": "*"})]).await?;
    let published = "select count(*) from pg_publication_tables
                     where pubname = 'walcast_lookups' and tablename = 'members'";
    assert_eq!(world.client.query_one(published, &[]).await?.get::<_, i64>(0), 1);
    world
        .sql(
            "grant select on members, messages to service_role;
             insert into members values (1, 'ana'); insert into messages values (1, 1, '');
             update members set room = 2; delete from members;",
        )
        .await?;
    for watcher in [&mut ana, &mut admin] {
        let tables: Vec<_> = watcher.seen(&world).await?.iter().map(|data| data["table"].clone()).collect();
        assert!(tables.iter().all(|table| table == "messages"), "{tables:?}");
    }
    let mut client = world.connect(&role("service_role")).await?;
    let text = refusal(&mut client, "realtime:members", &[binding("*", "members")]).await?;
    assert!(text.starts_with("Unable to subscribe to changes"), "{text}");
    Ok(())
}

/// Whether the log says that the members are not copied, and why.
fn is_logged(reason: &str) -> bool {
    lines("LookupNotCopied", "members").iter().any(|line| line.contains(reason))
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_the_budget_has_no_room_for_are_asked_about_and_the_log_says_so() -> Result<()> {
    log();
    let no_room = |settings: &mut ServeSettings| settings.project.engine.copy_bytes_max = 1;
    let sql = format!("{TABLES} insert into members values (0, 'eve')");
    let world = watched_with("memberships_no_room", &sql, no_room).await?;
    let mut pair = Pair::join(&world).await?;
    for _ in 0..5 {
        assert!(pair.is_right(&world).await?);
    }
    assert!(world.questions().await? > 0);
    assert_eq!(world.metric("walcast_copy_bytes").await?, 0);
    assert!(is_logged("takes more than the 1 bytes that changes.copy_bytes_max leaves for it"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_outgrow_the_budget_are_asked_about_from_then_on() -> Result<()> {
    log();
    let little = |settings: &mut ServeSettings| settings.project.engine.copy_bytes_max = 256 << 10;
    let world = watched_with("memberships_outgrow", TABLES, little).await?;
    let mut pair = Pair::join(&world).await?;
    assert!(pair.is_right(&world).await?);
    assert_eq!(world.questions().await?, 0);
    world.sql("insert into members select n, 'eve' from generate_series(10000, 40000) as n").await?;
    for _ in 0..5 {
        assert!(pair.is_right(&world).await?);
    }
    assert!(world.questions().await? > 0);
    assert_eq!(world.metric("walcast_copy_bytes").await?, 0);
    assert!(is_logged("more than the 262144 of changes.copy_bytes_max"));
    Ok(())
}

/// After these there is nothing that the log could keep current.
const WITHOUT_A_COPY: [&str; 2] =
    ["alter table members replica identity nothing", "alter table members add primary key (who, room)"];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_the_member_table_its_rows_are_judged_right_and_soon_by_a_copy() -> Result<()> {
    let world = watched("memberships_schema", TABLES).await?;
    let settings =
        catalog_settings(&world.settings.project.database, &world.settings.project.replication.publications)?;
    ensure!(walcast_catalog::install::apply(&settings).await?.announces_catalog_changes);
    let mut pair = Pair::join(&world).await?;
    pair.until_nobody_is_asked(&world).await?;
    let policies = "create policy members on messages using (exists (
            select from members as m where m.room = messages.room and m.who = auth.jwt() ->> 'sub'));
        create policy members on rooms using (exists (
            select from members as m where m.room = rooms.id and m.who = auth.jwt() ->> 'sub'));
        create policy own on members using (who = auth.jwt() ->> 'sub' and not hidden);";
    let without =
        "drop policy members on messages; drop policy members on rooms; drop policy own on members;";
    let anew = "create table members (who text, room int, hidden boolean not null default false,
            primary key (who, room));
        alter table members enable row level security; grant select on members to authenticated;";
    for change in [
        "truncate members".to_owned(),
        "vacuum full members".to_owned(),
        "cluster members using members_pkey".to_owned(),
        "alter table members add column since timestamptz default clock_timestamp()".to_owned(),
        "alter table members alter column since type text".to_owned(),
        "alter table members drop column since".to_owned(),
        "alter table members add column note text".to_owned(),
        "alter table members rename column note to remark".to_owned(),
        format!("{without} alter table members alter column room type bigint; {policies}"),
        format!("{without} alter table members alter column who type varchar(100); {policies}"),
        "alter table members replica identity full".to_owned(),
        "alter table members drop constraint members_pkey".to_owned(),
        "alter table members replica identity nothing".to_owned(),
        "alter table members add primary key (who, room)".to_owned(),
        "alter table members replica identity default".to_owned(),
        "alter table members rename to companions; alter table companions rename to members".to_owned(),
        "alter publication walcast_lookups drop table members".to_owned(),
        format!("drop table members cascade; {anew} {policies}"),
    ] {
        world.sql(&change).await.with_context(|| change.clone())?;
        // What PostgreSQL does not announce is found by looking.
        let deadline = Instant::now() + DEADLINE;
        while !pair.is_right(&world).await.with_context(|| change.clone())? {
            ensure!(Instant::now() < deadline, "wrong after {change}");
        }
        if !WITHOUT_A_COPY.contains(&change.as_str()) {
            pair.until_nobody_is_asked(&world).await.with_context(|| change.clone())?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_a_rewrite_changes_are_those_that_count() -> Result<()> {
    let world = watched("memberships_rewrite", TABLES).await?;
    world.sql("insert into members values (1, 'bea'), (2, 'ana')").await?;
    let mut pair = Pair::join(&world).await?;
    world
        .sql(
            "drop policy members on messages; drop policy members on rooms; drop policy own on members;
             alter table members alter who type text using case who when 'ana' then 'bea' else 'ana' end;
             create policy members on messages using (exists (
                 select from members as m where m.room = messages.room and m.who = auth.jwt() ->> 'sub'));
             create policy own on members using (who = auth.jwt() ->> 'sub' and not hidden);",
        )
        .await?;
    let deadline = Instant::now() + DEADLINE;
    for id in 100.. {
        world
            .sql(&format!(
                "insert into messages values ({id}, 1, ''); insert into notices values ({id}, 2, '')"
            ))
            .await?;
        let told = (pair.ana.seen(&world).await?, pair.bea.seen(&world).await?);
        if [told.0, told.1].map(|told| told.iter().map(|data| data["table"].clone()).collect::<Vec<_>>())
            == [[json!("messages")], [json!("notices")]]
        {
            break;
        }
        ensure!(Instant::now() < deadline, "the copy has the values of before");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_a_publication_leaves_the_members_out_is_found_when_it_has_them_again()
-> Result<()> {
    let world = watched("memberships_gap", TABLES).await?;
    let mut pair = Pair::join(&world).await?;
    assert!(pair.is_right(&world).await?);
    world
        .sql(
            "alter publication walcast_lookups drop table members; insert into members values (1000, 'ana');
             alter publication walcast_lookups add table members",
        )
        .await?;
    let deadline = Instant::now() + DEADLINE;
    for id in 1_000.. {
        world.sql(&format!("insert into messages values ({id}, 1000, '')")).await?;
        if pair.ana.ids(&world).await? == [id] {
            break;
        }
        ensure!(Instant::now() < deadline, "the copy does not have what the log left out");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_does_not_wait_for_a_long_transaction_and_its_rows_are_right_all_the_time() -> Result<()> {
    // A cluster of its own: those of other tests wait for its transactions, too.
    let cluster = Cluster::start(test_settings()).await?;
    let database = Database::create(&cluster, "memberships_long").await?;
    let world = World::in_database(database, &format!("{TABLES}{MARKS}"), |_| {}).await?;
    let other = world.database.client().await;
    other.batch_execute("begin; insert into members values (1000, 'ana')").await?;
    let begun = Instant::now();
    let mut pair = Pair::join(&world).await?;
    ensure!(begun.elapsed() < Duration::from_secs(8), "the joins took {:?}", begun.elapsed());
    for _ in 0..5 {
        assert!(pair.is_right(&world).await?);
    }
    assert!(world.questions().await? > 0, "there can be no copy yet");
    world.sql("insert into messages values (1000, 1000, '')").await?;
    assert!(pair.ana.ids(&world).await?.is_empty(), "she is not a member yet");
    other.batch_execute("commit").await?;
    pair.until_nobody_is_asked(&world).await?;
    world.sql("update messages set body = 'x' where id = 1000").await?;
    assert_eq!(pair.ana.ids(&world).await?, [1_000]);
    Ok(())
}
