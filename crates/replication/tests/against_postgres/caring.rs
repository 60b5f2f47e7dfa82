//! What becomes of the slot: lost, given up, let alone, ready for a failover.

use walcast_replication::{Gap, StreamStatus};
use walcast_testkit::{Cluster, ClusterSettings};

use crate::consumer::{Consumer, database_with_notes, make_notes, settings, until_true, within_deadline};

/// A cluster that keeps next to no log for slots.
async fn forgetful() -> (Cluster, tokio_postgres::Client) {
    let limits = [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    let limits = limits.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings =
        ClusterSettings { settings: limits.to_vec(), ..walcast_testkit::database::test_settings() };
    let cluster = Cluster::start(settings).await.unwrap();
    let client = cluster.client("postgres").await.unwrap();
    make_notes(&client).await;
    (cluster, client)
}

/// Writes until PostgreSQL has removed the log that the slot needs.
async fn lose(client: &tokio_postgres::Client, slot: &str) {
    let mut lost = false;
    while !lost {
        for _ in 0..4 {
            client.batch_execute("INSERT INTO notes VALUES ('lost')").await.unwrap();
            client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        }
        client.batch_execute("CHECKPOINT").await.unwrap();
        let sql = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1";
        // The slot may have been made anew in the meantime.
        let found = client.query_one(sql, &[&slot]).await.unwrap();
        lost = found.get(0);
    }
}

#[tokio::test]
async fn a_slot_that_was_lost_before_the_start_is_made_anew() {
    let (cluster, client) = forgetful().await;
    client.batch_execute("SELECT pg_create_logical_replication_slot('old', 'pgoutput')").await.unwrap();
    lose(&client, "old").await;
    let mut consumer = Consumer::start(settings(&cluster.url("postgres"), "old")).await;
    client.batch_execute("INSERT INTO notes VALUES ('seen')").await.unwrap();
    assert_eq!(consumer.next_text().await, "seen");
    assert_eq!(consumer.restarts, [None], "nobody was here who could have missed something");
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_slot_that_is_invalidated_while_its_reader_is_away_is_made_anew_and_the_gap_is_told() {
    let (cluster, client) = forgetful().await;
    let settings = settings(&cluster.url("postgres"), "held");
    let control = std::sync::Arc::clone(&settings.control);
    let mut consumer = Consumer::start(settings).await;
    client.batch_execute("INSERT INTO notes VALUES ('before')").await.unwrap();
    assert_eq!(consumer.next_text().await, "before");
    control.pause("to be away");
    consumer.until_paused().await;
    lose(&client, "held").await;
    control.resume();
    consumer.until_streaming().await;
    client.batch_execute("INSERT INTO notes VALUES ('after')").await.unwrap();
    assert_eq!(consumer.next_text().await, "after");
    assert_eq!(consumer.restarts, [None, Some(Gap::SlotInvalidated)]);
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn why_a_slot_is_made_anew_is_told_though_that_takes_two_connections() {
    let (cluster, client) = forgetful().await;
    let settings = settings(&cluster.url("postgres"), "twice");
    let control = std::sync::Arc::clone(&settings.control);
    let mut consumer = Consumer::start(settings).await;
    control.pause("to be away");
    consumer.until_paused().await;
    lose(&client, "twice").await;
    // PostgreSQL waits for this transaction before it makes a slot.
    client.batch_execute("BEGIN; INSERT INTO notes VALUES ('long')").await.unwrap();
    let other = cluster.client("postgres").await.unwrap();
    control.resume();
    let creating = "FROM pg_stat_activity WHERE backend_type = 'walsender' \
                    AND query LIKE 'CREATE_REPLICATION_SLOT%' AND state = 'active'";
    until_true(&other, &format!("SELECT EXISTS (SELECT {creating})")).await;
    other.batch_execute(&format!("SELECT pg_terminate_backend(pid) {creating}")).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    consumer.until_streaming().await;
    client.batch_execute("INSERT INTO notes VALUES ('after')").await.unwrap();
    while consumer.next_text().await != "after" {}
    assert_eq!(consumer.restarts, [None, Some(Gap::SlotInvalidated)]);
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_reader_whose_slot_is_invalidated_under_it_goes_on_with_a_new_one() {
    let (cluster, client) = forgetful().await;
    let mut consumer = Consumer::start(settings(&cluster.url("postgres"), "slow")).await;
    // It reads, but confirms nothing, so the slot holds its log back until the checkpointer ends that.
    consumer.confirming = false;
    let writer = tokio::spawn(async move {
        loop {
            client.batch_execute("INSERT INTO notes VALUES ('x')").await.unwrap();
            client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
            client.batch_execute("CHECKPOINT").await.unwrap();
        }
    });
    let told = within_deadline("the gap", async {
        while consumer.restarts.iter().all(Option::is_none) {
            consumer.next_event().await;
        }
    });
    told.await;
    writer.abort();
    assert_eq!(consumer.restarts.last(), Some(&Some(Gap::SlotInvalidated)));
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_slot_that_is_given_up_is_dropped_with_its_log_and_the_reason_is_told() {
    let database = database_with_notes("given_up").await;
    let client = database.client().await;
    let slot = database.slot_name();
    let settings = settings(database.url(), &slot);
    let control = std::sync::Arc::clone(&settings.control);
    let mut consumer = Consumer::start(settings).await;
    control.pause("to write something");
    consumer.until_paused().await;
    client.batch_execute("INSERT INTO notes VALUES ('given up')").await.unwrap();
    let before: String = restart_position(&client, &slot).await;
    control.resume();
    control.renew("it is too far behind");
    let renewed = format!(
        "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND active \
         AND restart_lsn > '{before}'"
    );
    until_true(&client, &renewed).await;
    client.batch_execute("INSERT INTO notes VALUES ('after')").await.unwrap();
    while consumer.next_text().await != "after" {}
    assert_eq!(
        consumer.restarts.last(),
        Some(&Some(Gap::SlotGivenUp("it is too far behind".to_owned()))),
        "{:?}",
        consumer.restarts
    );
    assert!(!control.is_renewing());
    consumer.stop().await.unwrap();
}

async fn restart_position(client: &tokio_postgres::Client, slot: &str) -> String {
    let sql = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    client.query_one(sql, &[&slot]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_paused_stream_leaves_its_slot_free_and_goes_on_where_it_was() {
    let database = database_with_notes("paused").await;
    let client = database.client().await;
    let slot = database.slot_name();
    let settings = settings(database.url(), &slot);
    let control = std::sync::Arc::clone(&settings.control);
    let mut consumer = Consumer::start(settings).await;
    control.pause("somebody has a reason");
    let StreamStatus::Paused { reason } = consumer.until_paused().await else { unreachable!() };
    assert_eq!(reason, "somebody has a reason");
    until_true(&client, &format!("SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{slot}'"))
        .await;
    client.batch_execute("INSERT INTO notes VALUES ('meanwhile')").await.unwrap();
    control.resume();
    assert_eq!(consumer.next_text().await, "meanwhile");
    assert_eq!(consumer.restarts, [None, None]);
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_slot_can_follow_a_failover_where_postgresql_knows_that() {
    let database = database_with_notes("failover").await;
    let client = database.client().await;
    let slot = database.slot_name();
    let consumer = Consumer::start(settings(database.url(), &slot)).await;
    let version = "SELECT current_setting('server_version_num')::int";
    let version: i32 = client.query_one(version, &[]).await.unwrap().get(0);
    if version >= 170_000 {
        let sql = "SELECT failover FROM pg_replication_slots WHERE slot_name = $1";
        assert!(client.query_one(sql, &[&slot]).await.unwrap().get::<_, bool>(0));
    }
    consumer.stop().await.unwrap();
}
