//! Every failure is one sentence with what mends it.

use walcast_catalog::CatalogSettings;
use walcast_catalog::preflight::{self, Failure, Findings, PreflightError, Warning};
use walcast_testkit::{Cluster, ClusterSettings};

use crate::support::Fixture;

async fn check(fixture: &Fixture, settings: &CatalogSettings) -> Result<Findings, PreflightError> {
    preflight::check(settings, &fixture.database.slot_name()).await
}

/// The one failure, and its sentence.
fn only(outcome: Result<Findings, PreflightError>) -> (Failure, String) {
    let PreflightError(mut failures) = outcome.unwrap_err();
    assert_eq!(failures.len(), 1, "{failures:?}");
    let failure = failures.remove(0);
    let sentence = failure.to_string();
    assert!(!sentence.contains('\n') && !sentence.contains("  "), "{sentence}");
    (failure, sentence)
}

#[tokio::test]
async fn a_database_that_is_ready_is_found_ready() {
    let fixture = Fixture::new(
        "ready",
        "CREATE TABLE notes (id int PRIMARY KEY); ALTER PUBLICATION supabase_realtime ADD TABLE notes",
    )
    .await;
    let findings = check(&fixture, &fixture.settings()).await.unwrap();
    assert!(findings.server_version.starts_with(|first: char| first.is_ascii_digit()));
    assert!(findings.created_publications.is_empty() && findings.warnings.is_empty());
}

#[tokio::test]
async fn a_missing_publication_is_created_and_that_is_said() {
    let fixture = Fixture::new("create_publication", "DROP PUBLICATION supabase_realtime").await;
    let findings = check(&fixture, &fixture.settings()).await.unwrap();
    assert_eq!(findings.created_publications, ["supabase_realtime"]);
    let publication = "supabase_realtime".to_owned();
    assert_eq!(findings.warnings, [Warning::PublicationEmpty { publication }]);
    assert!(findings.warnings[0].to_string().contains("ALTER PUBLICATION \"supabase_realtime\" ADD TABLE"));
    let findings = check(&fixture, &fixture.settings()).await.unwrap();
    assert!(findings.created_publications.is_empty());
}

#[tokio::test]
async fn tables_whose_rows_cannot_be_told_apart_are_warned_about() {
    let fixture = Fixture::new(
        "warnings",
        "CREATE TABLE keyless (a int); CREATE TABLE \"full\" (a int); ALTER TABLE \"full\" REPLICA IDENTITY FULL;
         ALTER PUBLICATION supabase_realtime ADD TABLE keyless, \"full\"",
    )
    .await;
    let findings = check(&fixture, &fixture.settings()).await.unwrap();
    let table = |name: &str| format!("\"public\".\"{name}\"");
    assert_eq!(
        findings.warnings,
        [
            Warning::NoPrimaryKey { table: table("full") },
            Warning::NoPrimaryKey { table: table("keyless") },
            Warning::NoReplicaIdentity { table: table("keyless") },
        ]
    );
    assert!(
        findings.warnings[2].to_string().contains("ALTER TABLE \"public\".\"keyless\" REPLICA IDENTITY FULL")
    );
}

#[tokio::test]
async fn a_role_that_may_neither_replicate_nor_publish_is_told_both() {
    let fixture = Fixture::new("weak_role", "DROP PUBLICATION supabase_realtime").await;
    let error = check(&fixture, &fixture.settings_of_role()).await.unwrap_err();
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains(&format!("ALTER ROLE \"{}\" REPLICATION", fixture.role)), "{text}");
    assert!(lines[1].contains("CREATE PUBLICATION \"supabase_realtime\""), "{text}");
    assert!(lines[1].contains("permission denied for database"), "{text}");
}

#[tokio::test]
async fn wrong_addresses_passwords_and_databases_are_told_apart() {
    let fixture = Fixture::new("addresses", "").await;
    let mut settings = fixture.settings();
    settings.config.password("wrong");
    let (failure, sentence) = only(check(&fixture, &settings).await);
    assert!(matches!(failure, Failure::Refused { .. }), "{failure:?}");
    assert!(sentence.contains("password authentication failed"), "{sentence}");

    let mut settings = fixture.settings();
    settings.config.dbname("no such database");
    let (failure, sentence) = only(check(&fixture, &settings).await);
    assert!(matches!(failure, Failure::NoDatabase { .. }), "{failure:?}");
    assert!(sentence.contains("CREATE DATABASE \"no such database\""), "{sentence}");

    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let settings = CatalogSettings::new(format!("postgres://postgres@{address}/x").parse().unwrap());
    let (failure, sentence) = only(check(&fixture, &settings).await);
    assert!(matches!(failure, Failure::Unreachable { .. }), "{failure:?}");
    assert!(sentence.contains(&address) && sentence.contains("refused"), "{sentence}");
}

#[tokio::test]
async fn a_slot_that_cannot_be_used_is_named_with_the_reason() {
    let fixture = Fixture::new("slots", "").await;
    let slot = fixture.database.slot_name();
    let create = async |arguments: &str| {
        fixture.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', {arguments})")).await;
    };
    let drop_slot = async || fixture.run(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;

    create("'pgoutput'").await;
    check(&fixture, &fixture.settings()).await.unwrap();
    let elsewhere = Fixture::new("slots_elsewhere", "").await;
    let (failure, sentence) = only(preflight::check(&elsewhere.settings(), &slot).await);
    assert!(matches!(failure, Failure::SlotOfAnotherDatabase { .. }), "{failure:?}");
    assert!(sentence.contains(fixture.database.name()), "{sentence}");
    drop_slot().await;

    // A temporary slot is held by the session that made it.
    create("'pgoutput', true").await;
    let (failure, sentence) = only(check(&fixture, &fixture.settings()).await);
    assert!(matches!(failure, Failure::SlotInUse { .. }), "{failure:?}");
    assert!(sentence.contains("pg_terminate_backend("), "{sentence}");
    drop_slot().await;

    fixture.run(&format!("SELECT pg_create_physical_replication_slot('{slot}')")).await;
    let (_, sentence) = only(check(&fixture, &fixture.settings()).await);
    assert!(sentence.contains("is of 'physical', not of pgoutput"), "{sentence}");
    drop_slot().await;

    let (failure, _) = only(preflight::check(&fixture.settings(), "Not-A-Slot").await);
    assert!(matches!(failure, Failure::SlotName { .. }), "{failure:?}");
}

#[tokio::test]
async fn a_server_that_is_not_set_up_for_logical_replication_is_told_how() {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let cluster = Cluster::start(ClusterSettings {
        settings: vec![
            setting("wal_level", "replica"),
            setting("max_replication_slots", "0"),
            setting("max_wal_senders", "0"),
        ],
        ..walcast_testkit::database::test_settings()
    })
    .await
    .unwrap();
    let settings = CatalogSettings::new(cluster.url("postgres").parse().unwrap());
    let error = preflight::check(&settings, "walcast").await.unwrap_err();
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].contains("ALTER SYSTEM SET wal_level = 'logical'"), "{text}");
    assert!(lines[1].contains("max_wal_senders"), "{text}");
    assert!(lines[2].contains("max_replication_slots"), "{text}");
}
