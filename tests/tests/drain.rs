//! The end of a server: sockets are sent away a few at a time, and each gets first what was on its way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use walcast::serve::Drain;
use walcast_tests::watching::{Watcher, watched_with};
use walcast_tests::{World, binding, person};

const SOCKETS: usize = 40;
const SPREAD: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_spreads_the_closes_and_every_socket_gets_first_what_was_on_its_way() -> Result<()>
{
    let sql = "create table rows (id bigint primary key); grant select on rows to authenticated;
               create publication supabase_realtime for table rows;";
    let world = watched_with("drain", sql, |settings| {
        settings.drain = Drain { spread: SPREAD, ..Drain::default() };
    })
    .await?;
    let mut watchers = Vec::new();
    for _ in 0..SOCKETS {
        watchers.push(Watcher::join(&world, &person("ana"), &[binding("INSERT", "rows")]).await?);
    }
    world.sql("insert into rows select generate_series(1, 500)").await?;
    // All of it is in the sockets' queues or behind them, and nobody has read anything.
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.metric("walcast_ws_messages_sent_total").await? < 500 * u64::try_from(SOCKETS)? {
        anyhow::ensure!(Instant::now() < deadline, "the rows are not handed to the sockets");
    }
    let World { server, .. } = world;
    let stopping = Instant::now();
    let stopped = tokio::spawn(server.stop());
    let mut reading = JoinSet::new();
    for mut watcher in watchers {
        reading.spawn(async move {
            watcher.client.set_deadline(Duration::from_secs(30));
            for id in 1..=500 {
                let change = watcher.next().await.with_context(|| format!("row {id}"))?;
                anyhow::ensure!(change.payload["data"]["record"]["id"] == id, "{:?}", change.payload);
            }
            let closed = watcher.client.closed().await?;
            anyhow::ensure!(closed == Some((1012, String::new())), "{closed:?}");
            anyhow::Ok(stopping.elapsed())
        });
    }
    let mut closes = Vec::new();
    while let Some(closed) = reading.join_next().await {
        closes.push(closed??);
    }
    stopped.await??;
    closes.sort_unstable();
    let (first, last) = (closes[0], closes[SOCKETS - 1]);
    assert!(last > SPREAD * 3 / 4, "the last one is told at the end: {closes:?}");
    assert!(last > first + SPREAD / 2, "one after another: {closes:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_sockets_does_not_wait_for_any() -> Result<()> {
    let sql = "create publication supabase_realtime";
    let hour = Duration::from_hours(1);
    let world = World::with_settings("drain_empty", sql, |settings| settings.drain.spread = hour).await?;
    tokio::time::timeout(Duration::from_secs(30), world.server.stop()).await.context("it waits")??;
    Ok(())
}
