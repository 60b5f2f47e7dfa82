use std::time::Duration;

use walcast_replication::{Backoff, Gap};
use walcast_testkit::Cluster;
use walcast_testkit::database::{major, test_settings};

use crate::consumer::{Consumer, database_with_notes, make_notes, settings, until_true, within_deadline};

/// From this version on a publication that the log does not know yet, or any more, is passed over with a warning.
const PASSES_OVER_MISSING_PUBLICATIONS: u32 = 18;

/// Pauses long enough to write something before the client is back.
fn patient() -> Backoff {
    Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(1) }
}

#[tokio::test]
async fn a_restarted_cluster_is_found_again_and_nothing_is_missed() {
    let cluster = Cluster::start(test_settings()).await.unwrap();
    let client = cluster.client("postgres").await.unwrap();
    make_notes(&client).await;
    let mut settings = settings(&cluster.url("postgres"), "restart");
    settings.backoff = patient();
    let mut consumer = Consumer::start(settings).await;
    client.batch_execute("INSERT INTO notes VALUES ('before')").await.unwrap();
    assert_eq!(consumer.next_text().await, "before");

    cluster.restart().await.unwrap();
    let client = cluster.client("postgres").await.unwrap();
    client.batch_execute("INSERT INTO notes VALUES ('meanwhile')").await.unwrap();
    assert_eq!(consumer.next_text().await, "meanwhile");

    cluster.stop_immediately().await.unwrap();
    consumer.until_broken().await;
    cluster.start_again().await.unwrap();
    let client = cluster.client("postgres").await.unwrap();
    client.batch_execute("INSERT INTO notes VALUES ('after a crash')").await.unwrap();
    // The crash may have cost the slot its last position, so what was confirmed may come once more.
    while consumer.next_text().await != "after a crash" {}
    assert!(consumer.restarts.len() >= 3 && consumer.restarts.iter().all(Option::is_none));
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_holds_its_confirmations_back_does_not_keep_postgres_from_stopping() {
    let cluster = Cluster::start(test_settings()).await.unwrap();
    let client = cluster.client("postgres").await.unwrap();
    make_notes(&client).await;
    let mut consumer = Consumer::start(settings(&cluster.url("postgres"), "holding")).await;
    consumer.confirming = false;
    client.batch_execute("INSERT INTO notes VALUES ('held')").await.unwrap();
    assert_eq!(consumer.next_text().await, "held");

    // The cluster is ended by force after 15 s, which would not tell on us otherwise.
    let stopped = tokio::time::timeout(Duration::from_secs(12), cluster.stop()).await;
    stopped.expect("PostgreSQL stops in good order").unwrap();
    cluster.start_again().await.unwrap();
    assert_eq!(consumer.next_text().await, "held", "what was not confirmed comes again");
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_walsender_costs_one_reconnect() {
    let database = database_with_notes("killed").await;
    let client = database.client().await;
    let slot = database.slot_name();
    let mut settings = settings(database.url(), &slot);
    settings.backoff = patient();
    let mut consumer = Consumer::start(settings).await;
    terminate(&client, &slot).await;
    let error = consumer.until_broken().await;
    assert!(error.contains("57P01") || error.contains("broke"), "{error}");
    client.batch_execute("INSERT INTO notes VALUES ('meanwhile')").await.unwrap();
    assert_eq!(consumer.next_text().await, "meanwhile");
    assert_eq!(consumer.restarts.len(), 2);
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_handled_and_not_confirmed_comes_again_to_the_next_process_and_not_to_this_one() {
    let database = database_with_notes("handled").await;
    let client = database.client().await;
    let slot = database.slot_name();
    let mut consumer = Consumer::start(settings(database.url(), &slot)).await;
    consumer.confirming = false;
    client.batch_execute("INSERT INTO notes VALUES ('handled')").await.unwrap();
    assert_eq!(consumer.next_text().await, "handled");
    let here = "SELECT pg_current_wal_lsn()::text";
    let here: String = client.query_one(here, &[]).await.unwrap().get(0);
    consumer.progress.handle(here.parse().unwrap());
    terminate(&client, &slot).await;
    client.batch_execute("INSERT INTO notes VALUES ('live')").await.unwrap();
    assert_eq!(consumer.next_text().await, "live");
    assert_eq!(consumer.restarts, [None, None]);
    consumer.stop().await.unwrap();

    let end = "SELECT pg_current_wal_lsn()::text";
    let end: String = client.query_one(end, &[]).await.unwrap().get(0);
    let mut next = Consumer::start(settings(database.url(), &slot)).await;
    assert!(next.progress.behind_start() > 0, "the log had gone on before it came");
    for expected in ["handled", "live"] {
        assert_eq!(next.next_text().await, expected);
    }
    next.until_reported(end.parse().unwrap()).await;
    while next.progress.behind_start() > 0 {
        next.next_event().await;
    }
    next.stop().await.unwrap();
}

#[tokio::test]
async fn a_slot_that_vanished_is_made_again_and_the_gap_is_told() {
    let database = database_with_notes("vanished").await;
    let client = database.client().await;
    let slot = database.slot_name();
    let mut settings = settings(database.url(), &slot);
    settings.backoff = patient();
    let mut consumer = Consumer::start(settings).await;
    terminate(&client, &slot).await;
    client.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await.unwrap();
    client.batch_execute("INSERT INTO notes VALUES ('lost')").await.unwrap();
    consumer.until_broken().await;
    consumer.until_streaming().await;
    client.batch_execute("INSERT INTO notes VALUES ('seen')").await.unwrap();
    assert_eq!(consumer.next_text().await, "seen");
    assert_eq!(consumer.restarts, [None, Some(Gap::SlotVanished)]);
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_slot_taken_by_another_is_told_and_taken_back_when_it_is_free() {
    let database = database_with_notes("taken").await;
    let client = database.client().await;
    let slot = database.slot_name();
    let mut first_settings = settings(database.url(), &slot);
    first_settings.backoff = patient();
    let mut first = Consumer::start(first_settings).await;
    let mut second_settings = settings(database.url(), &slot);
    second_settings.slot_wait = Duration::from_mins(1);
    let mut second = Consumer::spawn(second_settings);
    assert!(second.until_broken().await.contains("is in use by process"));

    terminate(&client, &slot).await;
    second.until_streaming().await;
    loop {
        let error = first.until_broken().await;
        if error.contains("is in use by process") {
            break;
        }
        tokio::task::yield_now().await;
    }
    client.batch_execute("INSERT INTO notes VALUES ('for the second')").await.unwrap();
    assert_eq!(second.next_text().await, "for the second");
    let written: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    second.until_reported(written.parse().unwrap()).await;
    second.stop().await.unwrap();
    first.until_streaming().await;
    client.batch_execute("INSERT INTO notes VALUES ('mine again')").await.unwrap();
    assert_eq!(first.next_text().await, "mine again");
    assert_eq!(first.restarts.last(), Some(&Some(Gap::SlotMoved)), "what the other took is missing here");
    first.stop().await.unwrap();
}

#[tokio::test]
async fn a_publication_dropped_while_streaming_is_named_until_it_is_back() {
    let database = database_with_notes("dropped").await;
    let client = database.client().await;
    let mut consumer = Consumer::start(settings(database.url(), &database.slot_name())).await;
    client.batch_execute("DROP PUBLICATION live; INSERT INTO notes VALUES ('unseen')").await.unwrap();
    if major().await >= PASSES_OVER_MISSING_PUBLICATIONS {
        client.batch_execute("CREATE PUBLICATION live FOR TABLE notes").await.unwrap();
        client.batch_execute("INSERT INTO notes VALUES ('seen')").await.unwrap();
        assert_eq!(consumer.next_text().await, "seen");
        assert_eq!(consumer.restarts, [None]);
        return consumer.stop().await.unwrap();
    }
    let mut error = consumer.until_broken().await;
    within_deadline("the missing publication", async {
        while !error.contains("CREATE PUBLICATION \"live\"") {
            tokio::task::yield_now().await;
            error = consumer.until_broken().await;
        }
    })
    .await;
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_publication_that_was_created_anew_costs_what_the_log_has_from_before_and_no_more() {
    let database = database_with_notes("anew").await;
    let client = database.client().await;
    let mut consumer = Consumer::start(settings(database.url(), &database.slot_name())).await;
    client.batch_execute("DROP PUBLICATION live; INSERT INTO notes VALUES ('unseen')").await.unwrap();
    client.batch_execute("CREATE PUBLICATION live FOR TABLE notes").await.unwrap();
    if major().await >= PASSES_OVER_MISSING_PUBLICATIONS {
        return consumer.stop().await.unwrap();
    }
    within_deadline("the gap", async {
        while !matches!(consumer.restarts.last(), Some(Some(_))) {
            consumer.next_event().await;
        }
    })
    .await;
    client.batch_execute("INSERT INTO notes VALUES ('seen')").await.unwrap();
    assert_eq!(consumer.next_text().await, "seen");
    let Some(Some(Gap::SlotGivenUp(reason))) = consumer.restarts.last() else {
        panic!("no gap is told: {:?}", consumer.restarts)
    };
    assert!(reason.contains("publication"), "{reason}");
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_publication_younger_than_the_slots_log_is_explained() {
    let database = walcast_testkit::database("younger").await;
    let client = database.client().await;
    let slot = database.slot_name();
    client.batch_execute("CREATE TABLE notes (body text)").await.unwrap();
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    client.batch_execute(&create).await.unwrap();
    client.batch_execute("INSERT INTO notes VALUES ('too early')").await.unwrap();
    client.batch_execute("CREATE PUBLICATION live FOR TABLE notes").await.unwrap();
    let mut consumer = Consumer::spawn(settings(database.url(), &slot));
    if major().await >= PASSES_OVER_MISSING_PUBLICATIONS {
        client.batch_execute("INSERT INTO notes VALUES ('in time')").await.unwrap();
        assert_eq!(consumer.next_text().await, "in time");
        return consumer.stop().await.unwrap();
    }
    let error = consumer.until_broken().await;
    assert!(error.contains(&format!("pg_drop_replication_slot('{slot}')")), "{error}");
    consumer.stop().await.unwrap();
}

/// Ends whoever streams the slot and waits until that process is gone.
async fn terminate(client: &tokio_postgres::Client, slot: &str) {
    let sql = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let pid: i32 = client.query_one(&sql, &[]).await.unwrap().get(0);
    client.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).await.unwrap();
    until_true(client, &format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})")).await;
}
