//! Bindings that begin with the rows that are there (docs/protocol.md §5.8).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use walcast_testkit::{ProtocolClient, ProtocolVersion};
use walcast_tests::watching::{Watcher, mark_binding, watched, watched_with};
use walcast_tests::{World, person};
use walcast_wire::Position;

/// Notes of persons, each of whom sees their own.
const OWNED: &str = "
    create table notes (id int primary key, owner text not null, body int not null);
    alter table notes replica identity full;
    alter table notes enable row level security;
    create policy own on notes for select to authenticated
        using (owner = (select auth.jwt() ->> 'sub'));
    grant select on notes to authenticated;
    create publication supabase_realtime for table notes;
";

fn snapshot_of(table: &str) -> Value {
    json!({ "event": "*", "schema": "public", "table": table, "snapshot": true })
}

fn position(data: &Value) -> Result<Position> {
    Ok(data["position"].as_str().with_context(|| format!("no position in {data}"))?.parse()?)
}

/// Rows of a snapshot as they arrived, and how its end was told: status and text.
struct Begun {
    rows: Vec<Value>,
    status: String,
    text: String,
}

impl Begun {
    /// Takes in everything up to the end of a topic's snapshot; nothing live may come before.
    async fn take(client: &mut ProtocolClient, topic: &str) -> Result<Begun> {
        let mut rows = Vec::new();
        loop {
            let message = client
                .expect(|message| {
                    message.topic == topic
                        && (message.event == "postgres_changes" || message.system("snapshot").is_some())
                })
                .await?;
            if let Some((status, text)) = message.system("snapshot") {
                return Ok(Begun { rows, status: status.to_owned(), text: text.to_owned() });
            }
            let data = message.payload["data"].clone();
            ensure!(
                data["snapshot"] == true && data["type"] == "INSERT",
                "before the end of the snapshot: {data}"
            );
            rows.push(data);
        }
    }

    /// The number of rows, checked, and the position.
    fn end(&self) -> Result<Position> {
        ensure!(self.status == "ok", "{}", self.text);
        let (count, position) = self.text.split_once(" rows, position ").context(self.text.clone())?;
        ensure!(count.parse::<usize>()? == self.rows.len(), "{} rows came: {}", self.rows.len(), self.text);
        let position = position.parse()?;
        for row in &self.rows {
            ensure!(self::position(row)? == position, "{row}");
        }
        Ok(position)
    }

    fn ids(&self) -> Vec<i64> {
        self.rows.iter().filter_map(|row| row["record"]["id"].as_i64()).collect()
    }
}

/// A list that is kept by what is told, and that finds out when something is told twice, too early or not at all.
#[derive(Default)]
struct List(BTreeMap<i64, i64>);

impl List {
    fn tell(&mut self, data: &Value) -> Result<()> {
        let row = if data["type"] == "DELETE" { &data["old_record"] } else { &data["record"] };
        let id = row["id"].as_i64().with_context(|| format!("no id in {data}"))?;
        let before = match data["type"].as_str() {
            Some("DELETE") => self.0.remove(&id),
            _ => self.0.insert(id, row["body"].as_i64().with_context(|| format!("no body in {data}"))?),
        };
        ensure!(before.is_none() == (data["type"] == "INSERT"), "the list had {before:?} for {data}");
        Ok(())
    }
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A row comes, changes, goes or is handed over.
fn statement(numbers: &mut Numbers) -> String {
    let (id, body, other) = (numbers.below(40), numbers.below(1_000_000), numbers.below(2));
    let owner = ["ana", "bruno"][usize::from(other == 1)];
    match numbers.below(5) {
        0 | 1 => format!(
            "insert into notes values ({id}, '{owner}', {body}) on conflict (id) do update set body = {body}"
        ),
        2 => format!("delete from notes where id = {id}"),
        3 => format!("update notes set body = {body} where id = {id}"),
        _ => format!("update notes set owner = '{owner}' where id = {id}"),
    }
}

/// Writes until it is told to stop, in transactions of one to three statements, some of which are rolled back. Several
/// writers do it to the same rows.
async fn write(world: &World, seed: u64, stop: &AtomicBool, written: &AtomicUsize) -> Result<()> {
    let client = world.database.client().await;
    let mut numbers = Numbers(seed);
    while !stop.load(Ordering::Relaxed) {
        let statements = numbers.below(3) + 1;
        let mut sql: Vec<String> = (0..statements).map(|_| statement(&mut numbers)).collect();
        sql.insert(0, "begin".to_owned());
        sql.push(if numbers.below(8) == 0 { "rollback" } else { "commit" }.to_owned());
        match client.batch_execute(&sql.join("; ")).await {
            Ok(()) => drop(written.fetch_add(1, Ordering::Relaxed)),
            // Writers that have locked each other's rows: PostgreSQL ends one of them.
            Err(error) if error.code().is_some_and(|code| code.code() == "40P01") => {
                client.batch_execute("rollback").await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_rows_and_changes_is_what_select_says_four_hundred_times_under_four_writers() -> Result<()>
{
    const ROUNDS: usize = 50;
    const LISTS: usize = 8;
    let world = watched_with("snapshots_race", OWNED, |settings| {
        settings.project.limits.max_joins_per_second = u32::MAX;
        // Those whose list has begun do not read until the last one has.
        settings.project.engine.outbound_bytes_max = 64 << 20;
    })
    .await?;
    let world = Arc::new(world);
    let mut clients = Vec::new();
    for list in 0..LISTS {
        let name = ["ana", "bruno"][list % 2];
        clients.push((name, world.connect_as(&person(name), ProtocolVersion::V2).await?));
    }
    let written = Arc::new(AtomicUsize::new(0));
    let (mut rows, mut changes) = (0, 0);
    for round in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..4 {
            let (world, stop, written) = (Arc::clone(&world), Arc::clone(&stop), Arc::clone(&written));
            let seed = (round * 4 + writer) as u64;
            writers.spawn(async move { write(&world, seed, &stop, &written).await });
        }
        let mut lists = JoinSet::new();
        for (name, mut client) in clients.drain(..) {
            lists.spawn(async move {
                let topic = format!("realtime:round{round}");
                let mut binding = snapshot_of("notes");
                binding["visibility"] = true.into();
                client.join_changes(&topic, &[binding, mark_binding()]).await?;
                let begun =
                    Begun::take(&mut client, &topic).await.with_context(|| format!("round {round}"))?;
                let position = begun.end()?;
                let mut list = List::default();
                begun.rows.iter().try_for_each(|row| list.tell(row))?;
                anyhow::Ok((name, client, topic, list, position, begun.rows.len()))
            });
        }
        let mut begun = Vec::new();
        while let Some(list) = lists.join_next().await {
            begun.push(list??);
        }
        // They write on for a while after the last list has begun.
        let enough = written.load(Ordering::Relaxed) + 20;
        while written.load(Ordering::Relaxed) < enough {
            tokio::task::yield_now().await;
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(writer) = writers.join_next().await {
            writer??;
        }
        let mark = world.mark().await?;
        for (name, mut client, topic, mut list, mut last, count) in begun {
            rows += count;
            loop {
                let message = client.expect(|message| message.is(&topic, "postgres_changes")).await?;
                let data = &message.payload["data"];
                if data["table"] == "marks" {
                    ensure!(data["record"]["id"] == mark, "{data}");
                    break;
                }
                ensure!(data.get("snapshot").is_none(), "{data}");
                let position = position(data)?;
                ensure!(last < position, "{data} behind {last}");
                last = position;
                list.tell(data).with_context(|| format!("round {round}, {name}"))?;
                changes += 1;
            }
            let sql = "select id, body from notes where owner = $1";
            let selected = world.client.query(sql, &[&name]).await?;
            let selected: BTreeMap<i64, i64> = selected
                .iter()
                .map(|row| (row.get::<_, i32>(0).into(), row.get::<_, i32>(1).into()))
                .collect();
            ensure!(
                list.0 == selected,
                "round {round}, {name}: the list has {:?}, SELECT {selected:?}",
                list.0
            );
            client.leave(&topic).await?;
            clients.push((name, client));
        }
    }
    let transactions = written.load(Ordering::Relaxed);
    println!("{} lists: {rows} rows, {changes} changes of {transactions} transactions", ROUNDS * LISTS);
    ensure!(rows > ROUNDS * LISTS && changes > ROUNDS * LISTS, "{rows} rows, {changes} changes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_select_and_policies_decide_which_rows_come_and_they_are_in_the_order_of_the_key() -> Result<()>
{
    let world = watched("snapshots_filter", OWNED).await?;
    world
        .sql("insert into notes values (3, 'ana', 3), (1, 'ana', 1), (2, 'bruno', 2), (4, 'ana', 4)")
        .await?;
    let mut binding = snapshot_of("notes");
    binding["filter"] = "body=gt.2".into();
    binding["select"] = json!(["body"]);
    for version in [ProtocolVersion::V1, ProtocolVersion::V2] {
        let mut client = world.connect_as(&person("ana"), version).await?;
        client.join_changes("realtime:notes", &[binding.clone()]).await?;
        let begun = Begun::take(&mut client, "realtime:notes").await?;
        begun.end()?;
        let records: Vec<_> = begun.rows.iter().map(|row| row["record"].clone()).collect();
        ensure!(records == [json!({ "id": 3, "body": 3 }), json!({ "id": 4, "body": 4 })], "{records:?}");
        let columns = &begun.rows[0]["columns"];
        ensure!(*columns == json!([{"name":"id","type":"int4"},{"name":"body","type":"int4"}]), "{columns}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_look_up_in_another_table_grants_are_among_them_and_what_publications_leave_out_is_not()
-> Result<()> {
    let sql = "
        create table members (room text, person text, primary key (room, person));
        create table notes (id int, room text, body text, primary key (room, id)) partition by list (room);
        create table notes_a partition of notes for values in ('a');
        create table notes_b partition of notes for values in ('b', 'c');
        alter table notes enable row level security;
        create policy of_members on notes for select to authenticated using (exists (
            select from members m where m.room = notes.room and m.person = (select auth.jwt() ->> 'sub')));
        grant select on notes, members to authenticated;
        create publication supabase_realtime for table notes with (publish_via_partition_root = true);
        insert into members values ('a', 'ana'), ('c', 'ana'), ('b', 'bruno');
        insert into notes values (1, 'a', 'é\t\\'), (2, 'b', 'two'), (3, 'c', null), (4, 'a', '');
    ";
    let world = watched("snapshots_rooms", sql).await?;
    let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    client.join_changes("realtime:notes", &[snapshot_of("notes")]).await?;
    let begun = Begun::take(&mut client, "realtime:notes").await?;
    begun.end()?;
    let records: Vec<_> = begun.rows.iter().map(|row| row["record"].clone()).collect();
    let expected = [
        json!({ "id": 1, "room": "a", "body": "é\t\\" }),
        json!({ "id": 3, "room": "c", "body": null }),
        json!({ "id": 4, "room": "a", "body": "" }),
    ];
    ensure!(records == expected, "{records:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn row_filters_and_column_lists_of_the_publication_hold() -> Result<()> {
    let sql = "
        create table notes (id int primary key, kept boolean not null, body text, hidden text);
        grant select on notes to authenticated;
        create publication supabase_realtime;
        insert into notes values (1, true, 'a', 'x'), (2, false, 'b', 'y');
    ";
    let world = watched("snapshots_publication", sql).await?;
    let version: i32 =
        world.client.query_one("select current_setting('server_version_num')::int", &[]).await?.get(0);
    if version < 150_000 {
        // PostgreSQL 14 has neither.
        return Ok(());
    }
    world.sql("alter publication supabase_realtime add table notes (id, kept, body) where (kept)").await?;
    let world = world.restart().await?;
    let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    client.join_changes("realtime:notes", &[snapshot_of("notes")]).await?;
    let begun = Begun::take(&mut client, "realtime:notes").await?;
    begun.end()?;
    let records: Vec<_> = begun.rows.iter().map(|row| row["record"].clone()).collect();
    ensure!(records == [json!({ "id": 1, "kept": true, "body": "a" })], "{records:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_without_a_snapshot_is_told_why_and_goes_on_live() -> Result<()> {
    let sql = "
        create table notes (id int primary key);
        create table keyless (id int);
        create table secrets (id int primary key, body text);
        create table refusing (id int primary key);
        alter table refusing enable row level security;
        create policy raises on refusing for select to authenticated using (1 / (id - id) = 1);
        grant select on notes, keyless, refusing to authenticated;
        grant select (body) on secrets to authenticated;
        create publication supabase_realtime for table notes, keyless, secrets, refusing;
        insert into notes select generate_series(1, 4);
        insert into refusing values (1);
    ";
    let world = watched_with("snapshots_refused", sql, |settings| {
        settings.project.engine.snapshot_rows_max = 3;
    })
    .await?;
    for (table, expected) in [
        (
            "notes",
            "no snapshot: more than 3 rows fit (changes.snapshot_rows_max); narrow the filter, or fetch them by pages; changes are sent all the same",
        ),
        ("keyless", "no snapshot: public.keyless has no primary key, by which its rows would be told apart"),
        ("secrets", "no snapshot: the role may not SELECT the primary key of public.secrets"),
        ("refusing", "no snapshot: ERROR 22012 division by zero; changes are sent all the same"),
    ] {
        let client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
        let topic = format!("realtime:{table}");
        let mut watcher = Watcher::join_on(client, &topic, &[snapshot_of(table)]).await?;
        let begun = Begun::take(&mut watcher.client, &topic).await?;
        ensure!((begun.rows.len(), &*begun.status, &*begun.text) == (0, "error", expected), "{}", begun.text);
        if table == "notes" {
            world.sql("insert into notes values (5)").await?;
            ensure!(watcher.ids(&world).await? == [5]);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_pass_through_a_small_queue_and_changes_made_meanwhile_come_behind_them() -> Result<()> {
    const ROWS: i64 = 9_000;
    let sql = "
        create table notes (id int primary key, body text);
        grant select on notes to authenticated;
        create publication supabase_realtime for table notes;
        insert into notes select id, repeat('x', 1000) from generate_series(1, 9000) id;
    ";
    let world = watched_with("snapshots_large", sql, |settings| {
        settings.project.engine.outbound_bytes_max = 64 << 10;
    })
    .await?;
    let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    client.join_changes("realtime:notes", &[snapshot_of("notes")]).await?;
    // The client does not read; others are served, and what is written is kept for it.
    for id in ROWS + 1..=ROWS + 50 {
        world.sql(&format!("insert into notes values ({id})")).await?;
    }
    Watcher::join(&world, &person("bruno"), &[]).await?.ids(&world).await?;
    let begun = Begun::take(&mut client, "realtime:notes").await?;
    begun.end()?;
    let mut ids = begun.ids();
    while ids.last() < Some(&(ROWS + 50)) {
        let message = client.expect(|message| message.event == "postgres_changes").await?;
        ids.push(message.payload["data"]["record"]["id"].as_i64().context("an id")?);
    }
    ensure!(ids == (1..=ROWS + 50).collect::<Vec<_>>(), "{} rows", ids.len());
    ensure!(world.metric("walcast_ws_slow_closes_total").await? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_with_the_position_of_a_snapshot_gets_what_came_behind_it() -> Result<()> {
    let world = watched("snapshots_resume", OWNED).await?;
    world.sql("insert into notes values (1, 'ana', 1)").await?;
    let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    client.join_changes("realtime:notes", &[snapshot_of("notes")]).await?;
    let begun = Begun::take(&mut client, "realtime:notes").await?;
    let since = begun.end()?;
    ensure!(begun.ids() == [1]);
    drop(client);
    world.sql("insert into notes values (2, 'ana', 2), (3, 'bruno', 3)").await?;
    Watcher::join(&world, &person("bruno"), &[]).await?.ids(&world).await?;
    let mut binding = snapshot_of("notes");
    binding["snapshot"] = false.into();
    binding["since"] = since.to_string().into();
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding]).await?;
    ensure!(watcher.ids(&world).await? == [2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_written_anew_just_then_is_read_as_it_is_behind_that() -> Result<()> {
    let world = watched("snapshots_rewritten", OWNED).await?;
    world.sql("insert into notes values (1, 'ana', 1), (2, 'ana', 2)").await?;
    let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    // The first join of a role has its privileges read, for which nothing may be locked.
    client.join_changes("realtime:before", &[mark_binding()]).await?;
    // What rewrites a table keeps none of its rows for snapshots that were taken before it was over.
    let rewriting = world.database.client().await;
    rewriting.batch_execute("begin; alter table notes alter body type int using body + 10").await?;
    client.join_changes("realtime:notes", &[snapshot_of("notes")]).await?;
    let waiting = "select exists (select from pg_locks where relation = 'notes'::regclass and not granted)";
    while !rewriting.query_one(waiting, &[]).await?.get::<_, bool>(0) {
        tokio::task::yield_now().await;
    }
    rewriting.batch_execute("commit").await?;
    let begun = Begun::take(&mut client, "realtime:notes").await?;
    begun.end()?;
    let bodies: Vec<_> = begun.rows.iter().map(|row| row["record"]["body"].clone()).collect();
    ensure!(bodies == [json!(11), json!(12)], "{bodies:?}");
    Ok(())
}
