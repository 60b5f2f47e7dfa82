//! The janitor of `realtime.messages`, with the time passed in.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;
use walcast_catalog::janitor::{Done, Idle, JanitorSettings};
use walcast_catalog::{Catalog, CatalogSettings, install};

use crate::support::{Fixture, SOON};

/// Noon of a day of June 2031.
fn june(day: u64) -> SystemTime {
    // 2031-06-01 00:00 UTC.
    UNIX_EPOCH + Duration::from_secs(1_938_038_400 + (day - 1) * 86_400 + 43_200)
}

async fn tidy(catalog: &Catalog, now: SystemTime) -> Done {
    catalog.tidy_messages(now, None).await.unwrap().unwrap()
}

async fn partitions(fixture: &Fixture) -> Vec<String> {
    let sql = "SELECT c.relname::text FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid \
               WHERE inhparent = 'realtime.messages'::regclass AND c.relname ~ '_2031_' ORDER BY 1";
    fixture.admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn installed(name: &str) -> (Fixture, Arc<Catalog>) {
    let fixture = Fixture::new(name, "").await;
    install::apply(&fixture.settings()).await.unwrap();
    let catalog = fixture.catalog().await;
    (fixture, catalog)
}

fn days(from: u64, to: u64) -> Vec<String> {
    (from..=to).map(|day| format!("2031-06-{day:02}")).collect()
}

fn names(from: u64, to: u64) -> Vec<String> {
    (from..=to).map(|day| format!("messages_2031_06_{day:02}")).collect()
}

#[tokio::test]
async fn partitions_are_made_ahead_and_dropped_after_three_days() {
    let (fixture, catalog) = installed("janitor_days").await;
    let done = tidy(&catalog, june(10)).await;
    assert_eq!(done.made, days(9, 13));
    assert!(done.failed.is_empty(), "{:?}", done.failed);
    // The partitions of today are of the past then.
    assert_eq!(done.dropped.len(), 5);
    assert_eq!(partitions(&fixture).await, names(9, 13));
    assert_eq!(tidy(&catalog, june(10)).await, Done::default());

    for day in ["09", "10"] {
        fixture
            .run(&format!(
                "INSERT INTO realtime.messages (topic, extension, inserted_at) VALUES ('t', 'broadcast', '2031-06-{day}')"
            ))
            .await;
    }
    let done = tidy(&catalog, june(13)).await;
    assert_eq!((done.made, done.dropped), (days(14, 16), names(9, 9)));
    assert_eq!(partitions(&fixture).await, names(10, 16));
    let left: i64 =
        fixture.admin.query_one("SELECT count(*) FROM realtime.messages", &[]).await.unwrap().get(0);
    assert_eq!(left, 1, "72 hours are kept");
}

#[tokio::test]
async fn a_day_that_is_in_the_default_partition_stays_there_until_it_is_old() {
    let (fixture, catalog) = installed("janitor_default").await;
    fixture
        .run(
            "INSERT INTO realtime.messages (topic, extension, inserted_at)
             SELECT 't', 'broadcast', timestamp '2031-06-10' + n * interval '1 second' FROM generate_series(1, 2500) AS n",
        )
        .await;
    let done = tidy(&catalog, june(10)).await;
    assert_eq!(done.in_default, days(10, 10));
    assert!(done.failed.is_empty(), "{:?}", done.failed);
    assert_eq!(partitions(&fixture).await, [names(9, 9), names(11, 13)].concat());
    fixture
        .run("INSERT INTO realtime.messages (topic, extension, inserted_at) VALUES ('t', 'b', '2031-06-10 20:00')")
        .await;
    assert_eq!(tidy(&catalog, june(13)).await.deleted, 0);
    assert_eq!(tidy(&catalog, june(14)).await.deleted, 2501);
}

#[tokio::test]
async fn a_reader_in_the_way_is_not_waited_for_for_long_and_is_named_in_the_failure() {
    let (fixture, catalog) = installed("janitor_locked").await;
    tidy(&catalog, june(10)).await;
    let reader = fixture.database.client().await;
    reader.batch_execute("BEGIN; SELECT FROM realtime.messages").await.unwrap();
    let working = tokio::spawn({
        let catalog = Arc::clone(&catalog);
        async move { tidy(&catalog, june(14)).await }
    });
    // Writers are kept waiting for half a second at most, also while the janitor waits for its locks.
    fixture.run("SET lock_timeout = '3s'").await;
    while !working.is_finished() {
        fixture.run("INSERT INTO realtime.messages (topic, extension) VALUES ('t', 'broadcast')").await;
        tokio::task::yield_now().await;
    }
    let done = working.await.unwrap();
    let codes: Vec<&str> = done.failed.iter().map(|failed| failed.code).collect();
    assert!(codes.contains(&"JanitorFailedToDeleteOldMessages"), "{done:?}");
    assert!(done.failed.iter().all(|failed| failed.error.code() == Some("55P03")), "{done:?}");
    reader.batch_execute("COMMIT").await.unwrap();
    let done = tidy(&catalog, june(14)).await;
    assert!(done.failed.is_empty() && done.dropped == names(9, 10), "{done:?}");
}

#[tokio::test]
async fn only_the_owner_is_the_janitor_unless_told() {
    let (fixture, catalog) = installed("janitor_owner").await;
    let weak =
        Catalog::connect(CatalogSettings { read_only: true, ..fixture.settings_of_role() }).await.unwrap();
    assert_eq!(weak.tidy_messages(june(10), None).await.unwrap(), Err(Idle::NotOwned));
    let done = weak.tidy_messages(june(10), Some(true)).await.unwrap().unwrap();
    assert_eq!(done.failed[0].code, "PartitionCreationFailed");
    assert!(done.failed[0].step.contains("2031-06-09"), "{done:?}");
    assert_eq!(catalog.tidy_messages(june(10), Some(false)).await.unwrap(), Err(Idle::Disabled));
    fixture.run("DROP TABLE realtime.messages").await;
    assert_eq!(catalog.tidy_messages(june(10), None).await.unwrap(), Err(Idle::NoTable));
}

#[tokio::test]
async fn a_table_that_was_there_before_walcast_gets_its_partitions_without_an_installation() {
    let fixture = Fixture::new(
        "janitor_upstream",
        "CREATE SCHEMA realtime;
         CREATE TABLE realtime.messages (topic text NOT NULL, extension text NOT NULL,
             inserted_at timestamp NOT NULL DEFAULT now()) PARTITION BY RANGE (inserted_at);
         CREATE TABLE realtime.messages_2031_06_01 PARTITION OF realtime.messages
             FOR VALUES FROM ('2031-06-01') TO ('2031-06-02')",
    )
    .await;
    let catalog = fixture.catalog().await;
    let done = tidy(&catalog, june(10)).await;
    assert_eq!((done.made, done.dropped), (days(9, 13), names(1, 1)));
    assert!(done.failed.is_empty(), "{:?}", done.failed);
}

#[tokio::test]
async fn it_works_from_the_start_on_until_it_is_cancelled() {
    let (fixture, catalog) = installed("janitor_runs").await;
    // The partitions of the clock's own days; the default one is not among them.
    let count = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid \
                   WHERE inhparent = 'realtime.messages'::regclass AND c.relname ~ '_2[0-9]{3}_'";
        fixture.admin.query_one(sql, &[]).await.unwrap().get(0)
    };
    let drop_last = "DO $$ BEGIN EXECUTE (SELECT format('DROP TABLE %s', max(inhrelid::regclass::text)) FROM pg_inherits
        WHERE inhparent = 'realtime.messages'::regclass AND inhrelid::regclass::text ~ '_2[0-9]{3}_'); END $$";
    let cancel = CancellationToken::new();
    let settings = JanitorSettings { every: Duration::from_secs(1), ..JanitorSettings::default() };
    fixture.run(drop_last).await;
    assert_eq!(count().await, 4);
    let janitor = tokio::spawn(Arc::clone(&catalog).keep_messages_tidy(settings, cancel.clone()));
    let made = async |wanted: i64| {
        let waiting = async {
            while count().await != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("the partition is made");
    };
    made(5).await;
    fixture.run(drop_last).await;
    made(5).await;
    cancel.cancel();
    tokio::time::timeout(SOON, janitor).await.expect("it ends").unwrap();
}
