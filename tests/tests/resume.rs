//! Nothing is lost on the way back: positions (docs/protocol.md §4.1, §5.7).

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use walcast_testkit::{ProtocolClient, ProtocolVersion};
use walcast_tests::watching::{Watcher, watched, watched_with};
use walcast_tests::{World, person};
use walcast_wire::Position;

const NOTES: &str = "
    create table notes (id int primary key, room text not null default 'a', body text);
    grant select on notes to authenticated;
    create publication supabase_realtime for table notes;
";

/// A binding for the table of notes that asks for positions.
fn resumable() -> Value {
    json!({ "event": "*", "schema": "public", "table": "notes", "resume": true })
}

/// The next message about resuming on a topic: its status and its text.
async fn resume_message(client: &mut ProtocolClient, topic: &str) -> Result<(String, String)> {
    let message =
        client.expect(|message| message.topic == topic && message.system("resume").is_some()).await?;
    let (status, text) = message.system("resume").context("checked above")?;
    Ok((status.to_owned(), text.to_owned()))
}

/// The position from which on a channel that has just joined gets everything.
async fn joined_at(client: &mut ProtocolClient, topic: &str) -> Result<Position> {
    let (status, text) = resume_message(client, topic).await?;
    ensure!(status == "ok", "{text}");
    Ok(text.strip_prefix("position ").with_context(|| text.clone())?.parse()?)
}

fn position(data: &Value) -> Result<Position> {
    Ok(data["position"].as_str().with_context(|| format!("no position in {data}"))?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_written_in_the_moment_of_subscribed_arrives_a_thousand_times() -> Result<()> {
    const SOCKETS: usize = 10;
    const JOINS: usize = 100;
    let world = World::with_settings("resume_moment", NOTES, |settings| {
        settings.project.limits.max_joins_per_second = u32::MAX;
    })
    .await?;
    let world = Arc::new(world);
    let joins = async |world: Arc<World>, socket: usize| {
        let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
        for join in 0..JOINS {
            let (id, topic) = (socket * JOINS + join, format!("realtime:{join}"));
            let mut binding = resumable();
            binding["filter"] = format!("id=eq.{id}").into();
            client.join_changes(&topic, &[binding]).await?;
            world.client.execute(&format!("insert into notes values ({id})"), &[]).await?;
            let change = client.expect(|message| message.is(&topic, "postgres_changes")).await?;
            let data = &change.payload["data"];
            ensure!(data["record"]["id"] == id, "{data}");
            let joined = joined_at(&mut client, &topic).await?;
            ensure!(joined < position(data)?, "joined at {joined}, and then came {data}");
            client.leave(&topic).await?;
        }
        anyhow::Ok(())
    };
    let mut sockets = JoinSet::new();
    for socket in 0..SOCKETS {
        sockets.spawn(joins(Arc::clone(&world), socket));
    }
    sockets.join_all().await.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_says_where_it_stands_and_everybody_is_told_the_same() -> Result<()> {
    let world = watched("resume_positions", NOTES).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[resumable()]).await?;
    let joined = joined_at(&mut ana.client, &ana.topic).await?;
    let client = world.connect_as(&person("bruno"), ProtocolVersion::V1).await?;
    let mut bruno = Watcher::join_on(client, "realtime:other", &[resumable()]).await?;
    world.sql("begin; insert into notes values (1), (2); update notes set body = 'b'; commit").await?;
    world.sql("delete from notes where id = 1").await?;
    let mut seen = Vec::new();
    for watcher in [&mut ana, &mut bruno] {
        let payloads = watcher.payloads(&world).await?;
        seen.push(payloads.iter().map(|payload| position(&payload["data"])).collect::<Result<Vec<_>>>()?);
    }
    let positions = seen[0].clone();
    ensure!(seen[1] == positions, "{seen:?}");
    let commit_lsn = positions[0].commit_lsn;
    let expected: Vec<_> = (0..4).map(|index| Position { commit_lsn, index }).collect();
    ensure!(positions[..4] == expected && joined < expected[0], "{joined}: {positions:?}");
    ensure!(positions[4].commit_lsn > commit_lsn && positions[4].index == 0, "{positions:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_ask_is_told_no_position_of_the_join_and_a_wrong_wish_is_an_error() -> Result<()> {
    let world = watched("resume_unasked", NOTES).await?;
    let mut client = world.connect(&person("ana")).await?;
    let plain = json!({ "event": "*", "schema": "public", "table": "notes" });
    client.join_changes("realtime:plain", &[plain]).await?;
    client.join_changes("realtime:asked", &[resumable()]).await?;
    let asked = |message: &walcast_testkit::Received| {
        message.is("realtime:asked", "system") && message.system("resume").is_some()
    };
    client.expect_before(asked, |message| message.is("realtime:plain", "system")).await?;
    let mut wrong = resumable();
    wrong["resume"] = "yes".into();
    let text = walcast_tests::watching::refusal(&mut client, "realtime:wrong", &[wrong]).await?;
    ensure!(text == "Error parsing `resume` params: expected true or false", "{text}");
    Ok(())
}

/// Rooms, and who may read which.
const ROOMS: &str = "
    create table members (room text, person text, primary key (room, person));
    create table notes (id int primary key, room text not null, body text);
    alter table notes enable row level security;
    create policy of_members on notes for select to authenticated using (exists (
        select from members m where m.room = notes.room and m.person = (select auth.jwt() ->> 'sub')));
    grant select on notes, members to authenticated;
    create publication supabase_realtime for table notes;
    insert into members values ('a', 'ana'), ('b', 'bruno');
";

fn since(position: Position) -> Value {
    let mut binding = resumable();
    binding["since"] = position.to_string().into();
    binding
}

/// A subscriber that comes and goes, and what it has seen.
struct Traveller {
    seen: Vec<i64>,
    last: Position,
}

impl Traveller {
    /// Joins behind the last position and takes in changes until `enough`; then its connection is cut.
    async fn travel(&mut self, world: &World, enough: impl Fn(&Traveller) -> bool) -> Result<()> {
        let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
        client.join_changes("realtime:notes", &[since(self.last)]).await?;
        while !enough(self) {
            let message = client.next().await?;
            if message.event == "postgres_changes" {
                let data = &message.payload["data"];
                let position = position(data)?;
                ensure!(self.last < position, "{data} behind {}", self.last);
                self.last = position;
                self.seen.push(data["record"]["id"].as_i64().context("an id")?);
            } else if let Some((status, text)) = message.system("resume") {
                ensure!(status == "ok", "{text}");
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_cut_again_and_again_gets_every_row_it_may_see_once_and_in_order() -> Result<()> {
    const ROWS: i64 = 3_000;
    let world = Arc::new(World::with_sql("resume_cut", ROOMS).await?);
    let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    client.join_changes("realtime:notes", &[resumable()]).await?;
    let last = joined_at(&mut client, "realtime:notes").await?;
    drop(client);
    let writer = tokio::spawn({
        let world = Arc::clone(&world);
        async move {
            // Transactions of three rows, every third of which is another person's.
            for first in (0..ROWS).step_by(3) {
                let (second, third) = (first + 1, first + 2);
                let rows = format!("({first}, 'a'), ({second}, 'b'), ({third}, 'a')");
                world.sql(&format!("insert into notes (id, room) values {rows}")).await?;
            }
            anyhow::Ok(())
        }
    });
    let expected: Vec<i64> = (0..ROWS).filter(|id| id % 3 != 1).collect();
    let mut traveller = Traveller { seen: Vec::new(), last };
    let mut cuts = 0;
    while traveller.seen.len() < expected.len() {
        // From none to 60 changes, in an order that is the same in every run.
        let until = traveller.seen.len() + (cuts * 37) % 61;
        traveller
            .travel(&world, |now| now.seen.len() >= until.min(expected.len()))
            .await
            .with_context(|| format!("cut {cuts}, until row {until}"))?;
        cuts += 1;
    }
    writer.await??;
    ensure!(cuts > 30, "{cuts} cuts");
    ensure!(traveller.seen == expected, "missing, twice, foreign or out of order: {:?}", traveller.seen);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_been_removed_meanwhile_is_told_nothing_of_what_went_on() -> Result<()> {
    let world = watched("resume_removed", ROOMS).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[resumable()]).await?;
    let last = joined_at(&mut watcher.client, &watcher.topic).await?;
    world.sql("insert into notes values (1, 'a'), (2, 'b')").await?;
    ensure!(watcher.ids(&world).await? == [1]);
    world.sql("insert into members values ('b', 'ana')").await?;
    world.sql("insert into notes values (3, 'a'), (4, 'b')").await?;
    world.sql("delete from members where person = 'ana' and room = 'a'").await?;
    drop(watcher);
    // What another one has been shown lies behind the place in the log at which this one joins again.
    Watcher::join(&world, &person("bruno"), &[]).await?.ids(&world).await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[since(last)]).await?;
    world.sql("insert into notes values (5, 'a'), (6, 'b')").await?;
    let ids = watcher.ids(&world).await?;
    ensure!(ids == [2, 4, 6], "the memberships of now decide: {ids:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_the_journal_has_no_room_for_is_a_told_gap_of_its_table_alone() -> Result<()> {
    let sql = "
        create table notes (id int primary key, body text);
        create table quiet (id int primary key);
        grant select on notes, quiet to authenticated;
        create publication supabase_realtime for table notes, quiet;
    ";
    let world = watched_with("resume_gap", sql, |settings| {
        settings.project.engine.journal_bytes_max = 50_000;
    })
    .await?;
    let mut quiet = since(Position::default());
    quiet["table"] = "quiet".into();
    let mut watcher = Watcher::join(&world, &person("ana"), &[resumable()]).await?;
    let last = joined_at(&mut watcher.client, &watcher.topic).await?;
    quiet["since"] = last.to_string().into();
    world.sql("insert into notes values (1); insert into quiet values (1)").await?;
    world.sql("insert into notes select id, repeat('x', 1000) from generate_series(2, 500) id").await?;
    ensure!(watcher.ids(&world).await?.len() == 500, "those who are connected get all of it");
    ensure!(world.metric("walcast_journal_gaps_total").await? == 1);
    ensure!(world.metric("walcast_journal_bytes").await? < 50_000);

    let mut back = Watcher::join(&world, &person("ana"), &[since(last)]).await?;
    let (status, text) = resume_message(&mut back.client, &back.topic).await?;
    ensure!(status == "error" && text.starts_with("gap: refetch"), "{text}");
    joined_at(&mut back.client, &back.topic).await?;
    world.sql("insert into notes values (501)").await?;
    ensure!(back.ids(&world).await? == [501], "it goes on live");

    let client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    let mut back = Watcher::join_on(client, "realtime:quiet", &[quiet]).await?;
    joined_at(&mut back.client, &back.topic).await?;
    ensure!(back.ids(&world).await? == [1], "what happened to another table is no gap");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_slot_keeps_nothing_for_the_next_tells_of_the_gap() -> Result<()> {
    let world = watched_with("resume_restart", NOTES, |settings| {
        settings.project.replication.trail_bytes_max = 0;
    })
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[resumable()]).await?;
    let last = joined_at(&mut watcher.client, &watcher.topic).await?;
    world.sql("insert into notes values (1)").await?;
    ensure!(watcher.ids(&world).await? == [1]);
    drop(watcher);
    let world = world.restart().await?;
    let mut back = Watcher::join(&world, &person("ana"), &[since(last)]).await?;
    let (status, text) = resume_message(&mut back.client, &back.topic).await?;
    ensure!(status == "error" && text.starts_with("gap: refetch"), "{text}");
    world.sql("insert into notes values (2)").await?;
    ensure!(back.ids(&world).await? == [2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_since_that_is_no_position_is_an_error_that_names_the_binding() -> Result<()> {
    let world = watched("resume_wrong", NOTES).await?;
    let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    let mut wrong = resumable();
    wrong["since"] = "yesterday".into();
    let text = walcast_tests::watching::refusal(&mut client, "realtime:wrong", &[wrong]).await?;
    let expected = "Error parsing `since` params: expected a position as changes carry it, such as \"0/16B3748:3\", in {";
    ensure!(text.starts_with(expected) && text.contains("\"yesterday\""), "{text}");
    Ok(())
}

/// The id of each row that was told, and what else was.
async fn next_id(client: &mut ProtocolClient) -> Result<i64> {
    loop {
        let message = client.next().await?;
        if message.event == "postgres_changes" {
            let data = &message.payload["data"];
            return data["record"]["id"].as_i64().with_context(|| format!("no id in {data}"));
        }
        if let Some((status, text)) = message.system("resume") {
            ensure!(status == "ok", "{text}");
        }
    }
}

/// The outbound queues of the tests of large catch-ups, in bytes.
const SMALL_QUEUE: usize = 64 << 10;
/// Rows of about a kilobyte, together far more than a queue and the buffers of a socket have room for.
const MANY_ROWS: i64 = 20_000;

/// A world with small queues and a journal full of rows, and the position before them.
async fn long_journal(name: &str) -> Result<(World, Position)> {
    let world = watched_with(name, NOTES, |settings| {
        settings.project.engine.outbound_bytes_max = SMALL_QUEUE;
    })
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[resumable()]).await?;
    let last = joined_at(&mut watcher.client, &watcher.topic).await?;
    drop(watcher);
    let insert = async |first: i64, last: i64| {
        let rows = format!("select id, 'a', repeat('x', 1000) from generate_series({first}, {last}) id");
        world.sql(&format!("insert into notes {rows}")).await
    };
    // The first half as one transaction, of which the journal has a part in a file.
    insert(0, MANY_ROWS / 2 - 1).await?;
    for first in (MANY_ROWS / 2..MANY_ROWS).step_by(500) {
        insert(first, first + 499).await?;
    }
    // What is in the journal has been shown to somebody who is there.
    Watcher::join(&world, &person("bruno"), &[]).await?.ids(&world).await?;
    Ok((world, last))
}

#[tokio::test(flavor = "multi_thread")]
async fn catch_ups_of_any_size_pass_through_small_queues_while_others_get_what_is_written_meanwhile()
-> Result<()> {
    const LIVE: i64 = 300;
    const BEHIND: usize = 3;
    let (world, last) = long_journal("resume_large").await?;
    let world = Arc::new(world);
    let mut healthy = world.connect_as(&person("bruno"), ProtocolVersion::V2).await?;
    healthy.join_changes("realtime:healthy", &[resumable()]).await?;
    let catch_up = async |world: Arc<World>, last: Position| {
        let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
        client.join_changes("realtime:notes", &[since(last)]).await?;
        let began = Instant::now();
        for expected in 0..MANY_ROWS + LIVE {
            let id = next_id(&mut client).await?;
            ensure!(id == expected, "{id} instead of {expected}");
        }
        anyhow::Ok(began.elapsed())
    };
    // From INSERT to the client: the median, and the 99th percentile.
    let mut latency = async |first: i64| {
        let mut latencies = Vec::new();
        for id in first..first + LIVE / 2 {
            let began = Instant::now();
            world.sql(&format!("insert into notes values ({id}, 'a', 'live')")).await?;
            ensure!(next_id(&mut healthy).await? == id);
            latencies.push(began.elapsed());
        }
        latencies.sort();
        anyhow::Ok((latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100]))
    };
    let alone = latency(MANY_ROWS).await?;
    let mut behind = JoinSet::new();
    for _ in 0..BEHIND {
        behind.spawn(catch_up(Arc::clone(&world), last));
    }
    let meanwhile = latency(MANY_ROWS + LIVE / 2).await?;
    let times: Vec<_> = behind.join_all().await.into_iter().collect::<Result<_>>()?;
    ensure!(world.metric("walcast_ws_slow_closes_total").await? == 0);
    world.until_metric("walcast_catch_ups", 0).await?;
    println!(
        "{BEHIND} times {MANY_ROWS} rows in {:?} at most; from INSERT to another client (median, p99) {alone:?} \
         before and {meanwhile:?} meanwhile",
        times.iter().max(),
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_what_it_has_missed_holds_nobody_up_and_gets_all_of_it_when_it_does() -> Result<()>
{
    const STALLED: usize = 20;
    let (world, last) = long_journal("resume_stalled").await?;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
        client.join_changes("realtime:notes", &[since(last)]).await?;
        stalled.push(client);
    }
    let mut healthy = Watcher::join(&world, &person("bruno"), &[resumable()]).await?;
    for id in MANY_ROWS..MANY_ROWS + 100 {
        world.sql(&format!("insert into notes values ({id}, 'a', 'live')")).await?;
        ensure!(healthy.ids(&world).await? == [id]);
    }
    ensure!(world.metric("walcast_catch_ups").await? == STALLED as u64);
    let queued = world.metric("walcast_ws_queued_bytes").await?;
    ensure!(queued <= (STALLED * SMALL_QUEUE) as u64, "{queued} bytes are queued");
    for client in stalled.iter_mut().take(3) {
        for expected in 0..MANY_ROWS + 100 {
            let id = next_id(client).await?;
            ensure!(id == expected, "{id} instead of {expected}");
        }
    }
    ensure!(world.metric("walcast_ws_slow_closes_total").await? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_between_two_messages_of_one_change_gets_both_again_and_who_got_both_gets_none()
-> Result<()> {
    let world = World::with_sql("resume_selects", NOTES).await?;
    let bindings = |since: Option<Position>| {
        ["id", "body"].map(|column| {
            let mut binding = resumable();
            binding["select"] = json!([column]);
            binding["since"] = json!(since.map(|since| since.to_string()));
            binding
        })
    };
    let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
    client.join_changes("realtime:notes", &bindings(None)).await?;
    world.sql("insert into notes values (1), (2)").await?;
    let mut told = Vec::new();
    while told.len() < 4 {
        let change = client.expect(|message| message.event == "postgres_changes").await?;
        let data = &change.payload["data"];
        told.push((data["record"]["id"].as_i64().context("an id")?, position(data)?));
    }
    ensure!(told.windows(2).all(|two| two[0].1 <= two[1].1), "{told:?}");
    // Cut behind each of the four messages.
    for (cut, again) in [vec![1, 1, 2, 2], vec![2, 2], vec![2, 2], vec![]].into_iter().enumerate() {
        let mut client = world.connect_as(&person("ana"), ProtocolVersion::V2).await?;
        client.join_changes("realtime:notes", &bindings(Some(told[cut].1))).await?;
        let mut ids = Vec::new();
        loop {
            let message = client.next().await?;
            if message.event == "postgres_changes" {
                ids.push(message.payload["data"]["record"]["id"].as_i64().context("an id")?);
            } else if let Some((status, text)) = message.system("resume") {
                ensure!(status == "ok", "{text}");
                break;
            }
        }
        ensure!(ids == again, "cut behind message {cut}: {ids:?}");
    }
    Ok(())
}
