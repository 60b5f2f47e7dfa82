//! Who comes back without saying up to where it had come, and who only looks like it (docs/protocol.md §5.7). The stock
//! clients themselves are in `tickets.rs`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::ProtocolVersion;
use walcast_tests::watching::{Watcher, mark_binding, watched, watched_with};
use walcast_tests::{World, binding, person, role, token};

const NOTES: &str = "
    create table notes (id int primary key, body text);
    grant select on notes to authenticated;
    create publication supabase_realtime for table notes;
";
const TOPIC: &str = "realtime:watched";

fn notes() -> Value {
    binding("INSERT", "notes")
}

/// A client that has counted its messages so far in earlier connections, and joins now.
async fn counting(world: &World, claims: &Value, count: u64) -> Result<Watcher> {
    let mut client = world.connect_as(claims, ProtocolVersion::V2).await?;
    client.count_on_from(count);
    Watcher::join_on(client, TOPIC, &[notes()]).await
}

/// Writes, and waits until that has been handled.
async fn write(world: &World, sql: &str) -> Result<()> {
    world.sql(sql).await?;
    let mut somebody = Watcher::join(world, &person("somebody"), &[]).await?;
    somebody.ids(world).await?;
    somebody.client.close().await
}

/// Each row behind the first in order, and before them none but some of those that were seen already.
fn ensure_all(ids: &[i64], seen: i64, last: i64) -> Result<()> {
    let first = *ids.first().context("nothing came")?;
    let expected: Vec<i64> = (first..=last).collect();
    ensure!(first <= seen + 1 && ids == expected, "rows behind {seen} up to {last}: {ids:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_counts_on_gets_what_it_has_missed_and_a_fresh_page_of_the_same_person_does_not() -> Result<()> {
    let world = watched("returning_lost", NOTES).await?;
    let mut ana = Watcher::join(&world, &person("ana"), &[notes()]).await?;
    write(&world, "insert into notes values (1)").await?;
    ensure!(ana.ids(&world).await? == [1]);
    drop(ana);
    world.until_metric("walcast_resume_tickets_left_total", 1).await?;
    write(&world, "insert into notes values (2), (3)").await?;
    for (who, count) in [("ana", 0), ("bo", 9)] {
        let mut fresh = counting(&world, &person(who), count).await?;
        ensure!(fresh.ids(&world).await?.is_empty(), "{who}, who counts from {count}");
        fresh.client.close().await?;
    }
    let mut back = counting(&world, &person("ana"), 9).await?;
    write(&world, "insert into notes values (4)").await?;
    ensure_all(&back.ids(&world).await?, 1, 4)?;
    ensure!(world.metric("walcast_resume_tickets_redeemed_total").await? == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_left_or_said_goodbye_gets_what_is_new_and_who_gives_up_a_connection_gets_all() -> Result<()>
{
    let world = watched("returning_clean", NOTES).await?;
    let mut ana = counting(&world, &person("ana"), 0).await?;
    ana.client.leave(TOPIC).await?;
    drop(ana);
    let ana = counting(&world, &person("ana"), 10).await?;
    ana.client.close().await?;
    write(&world, "insert into notes values (1)").await?;
    let mut ana = counting(&world, &person("ana"), 20).await?;
    ensure!(ana.ids(&world).await?.is_empty());
    // As the clients of the Phoenix framework and for Python say that nobody answers them.
    for (place, (code, reason)) in
        [(1000_u16, "heartbeat timeout"), (1011, "keepalive ping timeout")].iter().enumerate()
    {
        ana.client.close_with(*code, reason).await?;
        let id = i64::try_from(place)? + 2;
        write(&world, &format!("insert into notes values ({id})")).await?;
        ana = counting(&world, &person("ana"), 100 * (place as u64 + 1)).await?;
        ensure_all(&ana.ids(&world).await?, id - 1, id)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_nobody_reads_any_more_is_gone_on_from_before_the_server_knows_that_it_is_lost()
-> Result<()> {
    let world = watched("returning_silent", NOTES).await?;
    let mut dead = counting(&world, &person("ana"), 0).await?;
    write(&world, "insert into notes values (1)").await?;
    ensure!(dead.ids(&world).await? == [1]);
    // From here on it answers nothing.
    write(&world, "insert into notes values (2), (3)").await?;
    let mut back = counting(&world, &person("ana"), 5).await?;
    write(&world, "insert into notes values (4)").await?;
    ensure_all(&back.ids(&world).await?, 1, 4)?;
    drop(dead);
    drop(back);
    write(&world, "insert into notes values (5)").await?;
    let mut again = counting(&world, &person("ana"), 15).await?;
    ensure_all(&again.ids(&world).await?, 4, 5)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sub_the_same_token_is_the_same_person() -> Result<()> {
    let world = watched("returning_anonymous", NOTES).await?;
    let claims = role("authenticated");
    let ana = counting(&world, &claims, 0).await?;
    drop(ana);
    world.until_metric("walcast_resume_tickets_left_total", 1).await?;
    write(&world, "insert into notes values (1)").await?;
    let mut another = claims.clone();
    another["exp"] = (claims["exp"].as_i64().context("a number")? + 1).into();
    let mut other = counting(&world, &another, 5).await?;
    ensure!(other.ids(&world).await?.is_empty());
    let mut back = counting(&world, &claims, 5).await?;
    ensure_all(&back.ids(&world).await?, 0, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_the_journal_does_not_reach_is_told_of_the_gap_and_goes_on_live() -> Result<()> {
    let world = watched_with("returning_gap", NOTES, |settings| {
        settings.project.engine.journal_bytes_max = 50_000;
    })
    .await?;
    let mut ana = counting(&world, &person("ana"), 0).await?;
    write(&world, "insert into notes values (1)").await?;
    ensure!(ana.ids(&world).await? == [1]);
    drop(ana);
    world.until_metric("walcast_resume_tickets_left_total", 1).await?;
    write(&world, "insert into notes select id, repeat('x', 1000) from generate_series(2, 500) id").await?;
    let mut back = counting(&world, &person("ana"), 5).await?;
    let told = back.client.expect(|message| message.system("resume").is_some()).await?;
    let (status, text) = told.system("resume").context("checked above")?;
    ensure!(status == "error" && text.starts_with("gap: refetch"), "{text}");
    world.sql("insert into notes values (501)").await?;
    ensure!(back.ids(&world).await? == [501]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_turned_off_nobody_is_brought_up_to_date() -> Result<()> {
    let world = watched_with("returning_off", NOTES, |settings| {
        settings.project.engine.resume.ticket_validity = Duration::ZERO;
    })
    .await?;
    let ana = counting(&world, &person("ana"), 0).await?;
    drop(ana);
    world.until_metric("walcast_ws_connections_active", 0).await?;
    write(&world, "insert into notes values (1)").await?;
    let mut back = counting(&world, &person("ana"), 5).await?;
    ensure!(back.ids(&world).await?.is_empty());
    ensure!(world.metric("walcast_resume_tickets_left_total").await? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_closed_as_too_slow_goes_on_behind_what_it_has_read() -> Result<()> {
    const ROWS: i64 = 3_000;
    let world = watched_with("returning_slow", NOTES, |settings| {
        settings.project.engine.outbound_bytes_max = 256 << 10;
    })
    .await?;
    let mut slow = counting(&world, &person("ana"), 0).await?;
    write(&world, "insert into notes values (1)").await?;
    ensure!(slow.ids(&world).await? == [1]);
    let big = format!("insert into notes select id, repeat('x', 10000) from generate_series(2, {ROWS}) id");
    world.sql(&big).await?;
    world.until_metric("walcast_ws_slow_closes_total", 1).await?;
    world.until_metric("walcast_resume_tickets_left_total", 1).await?;
    let mut back = counting(&world, &person("ana"), 5).await?;
    ensure_all(&back.ids(&world).await?, 1, ROWS)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_joins_again_while_it_is_caught_up_misses_nothing() -> Result<()> {
    const ROWS: i64 = 1_000;
    let world = watched_with("returning_again", NOTES, |settings| {
        settings.project.engine.outbound_bytes_max = 256 << 10;
    })
    .await?;
    let mut ana = counting(&world, &person("ana"), 0).await?;
    world.sql("insert into notes values (1)").await?;
    ensure!(ana.ids(&world).await? == [1]);
    drop(ana);
    world.until_metric("walcast_resume_tickets_left_total", 1).await?;
    let big = format!("insert into notes select id, repeat('x', 10000) from generate_series(2, {ROWS}) id");
    write(&world, &big).await?;
    // Most of it waits for room when the client gives up the join, and joins once more on the same connection.
    let back = counting(&world, &person("ana"), 5).await?;
    let mut again = Watcher::join_on(back.client, TOPIC, &[notes()]).await?;
    let ids: BTreeSet<i64> = again.ids(&world).await?.into_iter().collect();
    let missing: Vec<i64> = (2..=ROWS).filter(|id| !ids.contains(id)).collect();
    ensure!(missing.is_empty(), "{} rows are missing: {:?} …", missing.len(), missing.first());
    Ok(())
}

/// A client that polls.
struct Poller {
    http: reqwest::Client,
    url: String,
}

impl Poller {
    async fn open(world: &World, claims: &Value) -> Result<Poller> {
        let http = reqwest::Client::new();
        let base = format!("{}/socket/longpoll", world.http());
        let opened: Value =
            http.get(format!("{base}?vsn=2.0.0&apikey={}", token(claims))).send().await?.json().await?;
        let token = opened["token"].as_str().context("a token")?;
        Ok(Poller { http, url: format!("{base}?token={token}") })
    }

    /// Joins with this number, and gives what has come with the word that it is subscribed.
    async fn join(&self, reference: &str) -> Result<Vec<Value>> {
        let config = json!({ "postgres_changes": [notes(), mark_binding()] });
        let join = json!([reference, reference, TOPIC, "phx_join", { "config": config }]).to_string();
        let answer = self.http.post(&self.url).header("content-type", "application/json").body(join);
        ensure!(answer.send().await?.json::<Value>().await? == json!({ "status": 200 }));
        loop {
            let messages = self.poll().await?;
            if messages.iter().any(|message| message[3] == "system") {
                return Ok(messages);
            }
        }
    }

    /// The messages that have come.
    async fn poll(&self) -> Result<Vec<Value>> {
        let answer: Value = self.http.get(&self.url).send().await?.json().await?;
        let texts = answer["messages"].as_array().with_context(|| answer.to_string())?;
        texts.iter().map(|text| Ok(serde_json::from_str(text.as_str().context("a text")?)?)).collect()
    }

    /// Polls until the row with this id has come, and gives all that came behind these messages.
    async fn ids_until(&self, mut messages: Vec<Value>, last: i64) -> Result<Vec<i64>> {
        let mut ids = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        while ids.last() != Some(&last) {
            ensure!(Instant::now() < deadline, "{ids:?}, and not {last}");
            for message in &messages {
                let data = &message[4]["data"];
                if data["table"] == "notes" {
                    ids.push(data["record"]["id"].as_i64().context("an id")?);
                }
            }
            if ids.last() != Some(&last) {
                messages = self.poll().await?;
            }
        }
        Ok(ids)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_polls_has_got_what_it_was_given_when_it_asks_for_more() -> Result<()> {
    let world = watched("returning_poll", NOTES).await?;
    let poller = Poller::open(&world, &person("ana")).await?;
    let joined = poller.join("1").await?;
    write(&world, "insert into notes values (1)").await?;
    poller.ids_until(joined, 1).await?;
    write(&world, "insert into notes values (2)").await?;
    poller.ids_until(Vec::new(), 2).await?;
    // It has not been said that row 2 has arrived, and row 3 is never fetched.
    write(&world, "insert into notes values (3)").await?;
    let back = Poller::open(&world, &person("ana")).await?;
    let joined = back.join("7").await?;
    write(&world, "insert into notes values (4)").await?;
    ensure_all(&back.ids_until(joined, 4).await?, 1, 4)
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_keep_no_socket_alive_whose_application_says_nothing() -> Result<()> {
    let world = watched_with("returning_idle", NOTES, |settings| {
        settings.project.limits.idle_timeout = Duration::from_secs(2);
    })
    .await?;
    let mut ana = counting(&world, &person("ana"), 0).await?;
    let started = Instant::now();
    let mut writing = tokio::time::interval(Duration::from_millis(100));
    let mut id = 0;
    let closed = loop {
        tokio::select! {
            // Reading answers the pings.
            message = ana.client.next() => if let Err(error) = message { break format!("{error:#}") },
            _ = writing.tick() => {
                id += 1;
                world.sql(&format!("insert into notes values ({id})")).await?;
            }
        }
        ensure!(started.elapsed() < Duration::from_secs(20), "it lives on");
    };
    ensure!(closed.contains("nothing heard"), "{closed}");
    Ok(())
}
