//! Sockets that do not read, on real connections: what they cost, and that nobody else notices.
//!
//! `make slow-sockets` runs the large form, 100 among 5,000, and prints what it measures: latencies of those who read, with
//! the others reading and not reading, and the memory that those take. A busy machine makes them differ by itself; none of
//! them is asserted.

#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::task::JoinSet;
use walcast::serve::ServeSettings;
use walcast_engine::Alike;
use walcast_testkit::ProtocolClient;
use walcast_tests::light::LightClient;
use walcast_tests::{World, binding, person, token};

const LIGHT: &str = "realtime:light";
const HEAVY: &str = "realtime:heavy";
/// Less than this the kernel does not take.
const KERNEL_BYTES: u32 = 4_096;
const HEAVY_BYTES: usize = 96 << 10;
const LIGHT_BYTES: usize = 100;
const BOUND: usize = 1 << 20;
/// For so long the server waits for a socket to take its last frame.
const FAREWELL: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_mins(2);

/// So many sockets, and how fast they are sent to.
#[derive(Clone, Copy)]
struct Form {
    sockets: usize,
    stalled: usize,
    ticks: u32,
    every: Duration,
}

/// What those do that take much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    /// They are not there.
    Absent,
    Read,
    Stall,
}

/// What was measured.
struct Outcome {
    p50: Duration,
    p99: Duration,
    longest: Duration,
    queued_bytes_max: u64,
    resident_growth: i64,
}

fn large() -> Form {
    let number =
        |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    Form {
        sockets: number("SOCKETS", 5_000),
        stalled: number("STALLED", 100),
        ticks: 80,
        every: Duration::from_millis(250),
    }
}

async fn world(name: &str) -> Result<World> {
    let change = |settings: &mut ServeSettings| {
        assert_eq!(settings.project.engine.outbound_bytes_max, BOUND, "the default");
        settings.listener.addresses.handshakes_per_second_max = 0;
    };
    World::with_settings(name, "create table public.rows (id int primary key);
        create publication supabase_realtime for table public.rows; grant select on public.rows to authenticated;", change)
        .await
}

/// Connects many, some at a time.
async fn connect(
    world: &World,
    count: usize,
    topics: &[&str],
    kernel_bytes: Option<u32>,
) -> Result<Vec<LightClient>> {
    let (address, token) = (world.server.address(), token(&person("ana")));
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let mut some = JoinSet::new();
        for _ in 0..(count - clients.len()).min(64) {
            let (token, topics) =
                (token.clone(), topics.iter().map(|topic| (*topic).to_owned()).collect::<Vec<_>>());
            some.spawn(async move {
                let mut client = LightClient::connect(address, &token, kernel_bytes).await?;
                for topic in topics {
                    client.join(&topic, &[]).await?;
                }
                anyhow::Ok(client)
            });
        }
        while let Some(client) = some.join_next().await {
            clients.push(client??);
        }
    }
    Ok(clients)
}

/// The number and the moment that a broadcast of this test carries; `None` for anything else.
fn stamp(payload: &[u8], event: &str) -> Option<(u32, u64)> {
    let (&[4, topic, event_length, metadata, 0], rest) = payload.split_first_chunk()? else { return None };
    let rest = rest.get(usize::from(topic)..)?;
    let (found, rest) = rest.split_at_checked(usize::from(event_length))?;
    let rest = rest.get(usize::from(metadata)..)?;
    let (number, rest) = rest.split_first_chunk()?;
    let (sent, _) = rest.split_first_chunk()?;
    (found == event.as_bytes()).then_some((u32::from_be_bytes(*number), u64::from_be_bytes(*sent)))
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Reads everything and notes how long each light message took; an error where one is missing or out of order.
async fn read_all(mut client: LightClient, form: Form, heavy: bool, start: Instant) -> Result<Vec<u64>> {
    let (mut latencies, mut heavy_count) = (Vec::new(), 0);
    let done = |light: usize, heavy_count: u32| {
        light == form.ticks as usize && (!heavy || heavy_count == form.ticks)
    };
    while !done(latencies.len(), heavy_count) {
        let frame = client.next_frame().await?;
        let payload = frame.payload();
        if let Some((number, sent)) = stamp(&payload, "light") {
            ensure!(number as usize == latencies.len(), "message {number} is missing or out of order");
            latencies.push(micros(start).saturating_sub(sent));
        } else if let Some((number, _)) = stamp(&payload, "heavy") {
            ensure!(number == heavy_count, "large message {number} is missing or out of order");
            heavy_count += 1;
        }
    }
    Ok(latencies)
}

async fn send(
    sender: &mut ProtocolClient,
    topic: &str,
    event: &str,
    number: u32,
    start: Instant,
    bytes: usize,
) -> Result<()> {
    let content = [&number.to_be_bytes()[..], &micros(start).to_be_bytes(), &vec![0; bytes]].concat();
    sender.user_broadcast(topic, event, false, &content).await?;
    Ok(())
}

/// Resident memory of this process, server and clients alike.
fn resident() -> Result<i64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<i64>()? * 1024)
}

/// Sends to all, while some that take much read, do not, or are not there.
async fn run(world: &World, form: Form, others: Others) -> Result<Outcome> {
    let light = connect(world, form.sockets - form.stalled, &[LIGHT], None).await?;
    let kernel_bytes = (others == Others::Stall).then_some(KERNEL_BYTES);
    let count = if others == Others::Absent { 0 } else { form.stalled };
    let heavy = connect(world, count, &[LIGHT, HEAVY], kernel_bytes).await?;
    let mut sender = world.connect(&person("bruno")).await?;
    for topic in [LIGHT, HEAVY] {
        sender.join(topic, &json!({ "config": {} })).await?;
    }
    let closes_before = world.metric("walcast_ws_slow_closes_total").await?;
    let before = resident()?;
    let start = Instant::now();
    let mut readers = JoinSet::new();
    for client in light {
        readers.spawn(read_all(client, form, false, start));
    }
    let mut stalled = Vec::new();
    for client in heavy {
        if others == Others::Stall {
            stalled.push(client);
        } else {
            readers.spawn(read_all(client, form, true, start));
        }
    }
    let count = stalled.len() as u64;
    let (mut queued_bytes_max, mut resident_max) = (0, before);
    let mut ends = JoinSet::new();
    let mut tick = tokio::time::interval(form.every);
    for number in 0..form.ticks {
        tick.tick().await;
        send(&mut sender, LIGHT, "light", number, start, LIGHT_BYTES).await?;
        send(&mut sender, HEAVY, "heavy", number, start, HEAVY_BYTES).await?;
        queued_bytes_max = queued_bytes_max.max(world.metric("walcast_ws_queued_bytes").await?);
        resident_max = resident_max.max(resident()?);
        if world.metric("walcast_ws_slow_closes_total").await? - closes_before == count {
            // What was in the kernel's buffers is still there, and the reason behind it, for some seconds.
            for mut client in stalled.drain(..) {
                ends.spawn(async move { client.end().await });
            }
        }
    }
    let mut latencies = Vec::new();
    while let Some(read) = tokio::time::timeout(LONG, readers.join_next()).await? {
        latencies.extend(read?.context("a reader that reads was not sent everything")?);
    }
    let closes = world.metric("walcast_ws_slow_closes_total").await? - closes_before;
    ensure!(closes == count && stalled.is_empty(), "{closes} sockets were closed, {count} do not read");
    let mut told = 0;
    while let Some(end) = tokio::time::timeout(LONG, ends.join_next()).await? {
        // Whom the server has waited for in vain after the close is cut.
        let Ok((_, code, reason)) = end? else { continue };
        let expected = "slow consumer: more than 1048576 bytes queued (outbound_bytes_max)";
        ensure!((code, reason.as_str()) == (1013, expected), "{code} {reason}");
        told += 1;
    }
    ensure!(told == count || form.every * form.ticks > FAREWELL, "{told} of {count} were told why");
    latencies.sort_unstable();
    let at = |percent: usize| Duration::from_micros(latencies[(latencies.len() - 1) * percent / 100]);
    Ok(Outcome {
        p50: at(50),
        p99: at(99),
        longest: at(100),
        queued_bytes_max,
        resident_growth: resident_max - before,
    })
}

async fn compare(name: &str, form: Form) -> Result<()> {
    walcast::open_files::raise(None);
    let world = world(name).await?;
    let absent = run(&world, form, Others::Absent).await?;
    let reading = run(&world, form, Others::Read).await?;
    let stalled = run(&world, form, Others::Stall).await?;
    let Form { sockets, stalled: count, .. } = form;
    println!(
        "{sockets} sockets, {count} of them take 96 KiB with each message, p50, p99, longest, queued, memory grown by:"
    );
    for (what, outcome) in [("without these", &absent), ("they read", &reading), ("they do not", &stalled)] {
        let Outcome { p50, p99, longest, queued_bytes_max, resident_growth } = outcome;
        println!(
            "{what:>14}  {p50:>10.1?}  {p99:>10.1?}  {longest:>10.1?}  {:>5} MiB  {:>5} MiB",
            queued_bytes_max >> 20,
            resident_growth >> 20
        );
    }
    println!("p99 by {:.2} of that without them", stalled.p99.as_secs_f64() / absent.p99.as_secs_f64());
    // Each has its bound and the frame that was one too many; they share the bytes of the frames.
    let bound = (count * (BOUND + HEAVY_BYTES)) as u64;
    ensure!(
        stalled.queued_bytes_max > 0 && stalled.queued_bytes_max <= bound,
        "{} bytes",
        stalled.queued_bytes_max
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_sockets_10_do_not_read_and_the_others_get_everything() -> Result<()> {
    compare("slow_few", Form { sockets: 200, stalled: 10, ticks: 80, every: Duration::from_millis(20) }).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute and the whole machine: make slow-sockets"]
async fn of_5_000_sockets_100_do_not_read_and_the_others_get_everything() -> Result<()> {
    compare("slow_many", large()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_counts_as_written_once_the_kernel_has_taken_it() -> Result<()> {
    let world = world("slow_latency").await?;
    let mut reader =
        LightClient::connect(world.server.address(), &token(&person("ana")), Some(KERNEL_BYTES)).await?;
    reader.join(HEAVY, &[binding("*", "rows")]).await?;
    let mut sender = world.connect(&person("bruno")).await?;
    sender.join(HEAVY, &json!({ "config": {} })).await?;
    // Until the kernel takes nothing more.
    let (start, mut sent) = (Instant::now(), 0);
    while world.metric("walcast_ws_queued_bytes").await? == 0 {
        send(&mut sender, HEAVY, "heavy", sent, start, HEAVY_BYTES).await?;
        sent += 1;
    }
    let messages = world.metric("walcast_ws_messages_sent_total").await?;
    world.sql("insert into public.rows values (1)").await?;
    while world.metric("walcast_ws_messages_sent_total").await? <= messages {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.metric("walcast_ws_latency_seconds_count").await?, 0, "it is queued");
    while !String::from_utf8_lossy(&reader.next_frame().await?.payload()).contains("postgres_changes") {}
    while world.metric("walcast_ws_latency_seconds_count").await? == 0 {
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// A transaction that brings far more than the bound at once, to one that reads as fast as it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_closes_nobody_who_reads() -> Result<()> {
    let world = world("slow_burst").await?;
    let rows: u32 = std::env::var("ROWS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let received = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..2 {
        let mut reader = LightClient::connect(world.server.address(), &token(&person("ana")), None).await?;
        reader.join("realtime:rows", &[binding("*", "rows")]).await?;
        let received = Arc::clone(&received);
        readers.spawn(async move {
            for number in 1..=rows {
                let frame = reader.next_frame().await?;
                let text = String::from_utf8_lossy(&frame.payload()).into_owned();
                ensure!(text.contains(&format!("\"record\":{{\"id\":{number}}}")), "{number}: {text}");
                received.fetch_add(1, Relaxed);
            }
            anyhow::Ok(())
        });
    }
    let start = Instant::now();
    world.sql(&format!("insert into public.rows select generate_series(1, {rows})")).await?;
    while let Some(read) = tokio::time::timeout(LONG, readers.join_next()).await? {
        read?.with_context(|| format!("after {} rows", received.load(Relaxed)))?;
    }
    println!("{rows} rows to two readers in {:.1?}", start.elapsed());
    assert_eq!(world.metric("walcast_ws_slow_closes_total").await?, 0);
    Ok(())
}

/// Each way to send one, with the same key, and the one before it in time.
#[tokio::test(flavor = "multi_thread")]
async fn of_broadcasts_with_one_key_a_slow_socket_gets_the_newest_however_they_were_sent() -> Result<()> {
    let by_event = |settings: &mut ServeSettings| {
        settings.project.engine.broadcast_rules.of_event_mut("cursor").conflate =
            Some(Alike::Member("user".to_owned()));
    };
    let world = World::installed("slow_conflate", "", by_event).await?;
    let address = world.server.address();
    let mut slow = LightClient::connect(address, &token(&person("ana")), Some(KERNEL_BYTES)).await?;
    slow.join(HEAVY, &[]).await?;
    let mut sender = world.connect(&person("bruno")).await?;
    sender.join(HEAVY, &json!({ "config": {} })).await?;
    let (start, mut sent) = (Instant::now(), 0);
    while world.metric("walcast_ws_queued_bytes").await? == 0 {
        send(&mut sender, HEAVY, "heavy", sent, start, HEAVY_BYTES).await?;
        sent += 1;
    }
    let mut binary = LightClient::connect(address, &token(&person("carla")), None).await?;
    binary.join(HEAVY, &[]).await?;
    let mut expected = Vec::new();
    for round in ["old", "new"] {
        let text = json!({ "type": "broadcast", "event": "e", "payload": { "by": "text", "is": round }, "conflate": "k1" });
        sender.send(HEAVY, "broadcast", &text).await?;
        let payload = json!({ "by": "kind 3", "is": round });
        binary.user_broadcast(HEAVY, "e", r#"{"conflate":"k2"}"#, &payload).await?;
        let batch = json!({ "messages": [{
            "topic": "heavy", "event": "e", "payload": { "by": "batch", "is": round }, "conflate": "k3", "ttl_ms": 60_000 }] });
        let path = "/api/broadcast/heavy/events/e?conflate=k4&ttl_ms=60000";
        let one = json!({ "by": "one", "is": round });
        for (path, body) in [("/api/broadcast", &batch), (path, &one)] {
            let answer = world.request_as(&token(&person("dora")), "POST", path, body).await?;
            ensure!(answer.status == 202, "{}: {}", answer.status, answer.body);
        }
        let row = json!({ "user": 7, "by": "database", "is": round });
        world.sql(&format!("select realtime.send('{row}', 'cursor', 'heavy', false)")).await?;
        // Sent over several connections, and in any order: the next round is behind all of them.
        let rounds = if round == "old" { 1 } else { 2 };
        while world.metric("walcast_broadcasts_from_database_total").await? < rounds
            || world.metric("walcast_broadcasts_received_total").await? < u64::from(sent) + 2 * rounds
        {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(world.metric("walcast_broadcasts_conflated_total").await?, 5);
    while expected.len() < 5 {
        let frame = slow.next_frame().await?;
        let text = String::from_utf8_lossy(&frame.payload()).into_owned();
        ensure!(!text.contains("\"old\""), "{text}");
        if text.contains("\"new\"") {
            expected.push(text);
        }
    }
    for way in ["text", "kind 3", "batch", "one", "database"] {
        ensure!(expected.iter().any(|text| text.contains(&format!("\"{way}\""))), "{way} in {expected:?}");
    }
    Ok(())
}
