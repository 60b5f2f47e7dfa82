//! Every refusal at the start: one sentence, and what mends it.

use walcast_replication::ReplicationError;
use walcast_testkit::{Cluster, ClusterSettings, Database};

use crate::consumer::{Consumer, database_with_notes, make_notes, refusal, settings, until_true};

fn cluster_settings(pairs: &[(&str, &str)]) -> ClusterSettings {
    let settings = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ClusterSettings { settings, ..walcast_testkit::database::test_settings() }
}

async fn role(database: &Database, name: &str, attributes: &str) -> String {
    let role = format!("{name}_{}", database.name());
    let sql = format!("CREATE ROLE {role} {attributes} PASSWORD 'geheim'");
    database.client().await.batch_execute(&sql).await.unwrap();
    role
}

#[tokio::test]
async fn a_second_consumer_is_refused_with_the_pid_of_the_first() {
    let database = database_with_notes("second").await;
    let first = Consumer::start(settings(database.url(), &database.slot_name())).await;
    let pid: i32 = database
        .client()
        .await
        .query_one(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1",
            &[&database.slot_name()],
        )
        .await
        .unwrap()
        .get(0);
    let error = refusal(settings(database.url(), &database.slot_name())).await.to_string();
    assert!(error.contains(&format!("pg_terminate_backend({pid})")), "{error}");
    first.stop().await.unwrap();
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_refused() {
    let database = database_with_notes("password").await;
    let role = role(&database, "w", "LOGIN REPLICATION").await;
    let error = refusal(settings(&database.url_as(&role, "guessed"), "s")).await.to_string();
    assert!(
        error.contains(&format!("ALTER ROLE \"{role}\" PASSWORD")) && !error.contains("guessed"),
        "{error}"
    );
    let error = refusal(settings(&database.url_as(&role, ""), "s")).await;
    assert!(matches!(error, ReplicationError::MissingPassword { .. }), "{error}");
}

#[tokio::test]
async fn a_missing_database_is_refused() {
    let database = database_with_notes("missing").await;
    let url = database.url().replace(database.name(), "nowhere");
    let error = refusal(settings(&url, "s")).await.to_string();
    assert!(error.contains("CREATE DATABASE \"nowhere\""), "{error}");
}

#[tokio::test]
async fn a_role_without_replication_or_without_connect_is_refused() {
    let database = database_with_notes("privileges").await;
    let plain = role(&database, "p", "LOGIN").await;
    let error = refusal(settings(&database.url_as(&plain, "geheim"), "s")).await.to_string();
    assert!(error.contains(&format!("ALTER ROLE \"{plain}\" REPLICATION")), "{error}");

    let stranger = role(&database, "c", "LOGIN REPLICATION").await;
    let revoke = format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", database.name());
    database.client().await.batch_execute(&revoke).await.unwrap();
    let error = refusal(settings(&database.url_as(&stranger, "geheim"), "s")).await.to_string();
    assert!(error.contains("GRANT CONNECT ON DATABASE"), "{error}");
}

#[tokio::test]
async fn a_missing_publication_is_named_and_nothing_is_created() {
    let database = database_with_notes("publication").await;
    let mut wrong = settings(database.url(), &database.slot_name());
    wrong.publications.push("not'there".to_owned());
    let error = refusal(wrong).await.to_string();
    assert!(error.contains("CREATE PUBLICATION \"not'there\"") && !error.contains("live"), "{error}");
    let none = format!(
        "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{}')",
        database.slot_name()
    );
    until_true(&database.client().await, &none).await;
}

#[tokio::test]
async fn a_slot_that_is_not_ours_is_left_alone() {
    let database = database_with_notes("mismatch").await;
    let other = database_with_notes("mismatch other").await;
    let slot = database.slot_name();
    let client = other.client().await;
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    client.batch_execute(&create).await.unwrap();
    let error = refusal(settings(database.url(), &slot)).await.to_string();
    assert!(error.contains(&format!("a slot of database \"{}\"", other.name())), "{error}");

    let physical = format!("{slot}_p");
    client.batch_execute(&format!("SELECT pg_create_physical_replication_slot('{physical}')")).await.unwrap();
    let error = refusal(settings(database.url(), &physical)).await.to_string();
    client.batch_execute(&format!("SELECT pg_drop_replication_slot('{physical}')")).await.unwrap();
    assert!(error.contains("is a physical slot"), "{error}");
}

#[tokio::test]
async fn a_slot_name_postgres_does_not_allow_is_refused_with_its_words() {
    let database = database_with_notes("name").await;
    let error = refusal(settings(database.url(), "Not-Allowed")).await.to_string();
    assert!(error.contains("\"Not-Allowed\"") && error.contains("42602"), "{error}");
}

#[tokio::test]
async fn a_log_that_is_not_logical_is_refused() {
    let cluster = Cluster::start(cluster_settings(&[("wal_level", "replica")])).await.unwrap();
    make_notes(&cluster.client("postgres").await.unwrap()).await;
    let error = refusal(settings(&cluster.url("postgres"), "s")).await.to_string();
    assert!(error.contains("ALTER SYSTEM SET wal_level = logical"), "{error}");
}

#[tokio::test]
async fn exhausted_walsenders_and_slots_are_told_apart() {
    let limits = [("max_wal_senders", "2"), ("max_replication_slots", "2")];
    let cluster = Cluster::start(cluster_settings(&limits)).await.unwrap();
    let client = cluster.client("postgres").await.unwrap();
    make_notes(&client).await;
    let url = cluster.url("postgres");
    let first = Consumer::start(settings(&url, "first")).await;
    let second = Consumer::start(settings(&url, "second")).await;
    let error = refusal(settings(&url, "third")).await.to_string();
    assert!(error.contains("max_wal_senders"), "{error}");

    second.stop().await.unwrap();
    until_true(&client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'walsender'").await;
    let error = refusal(settings(&url, "third")).await.to_string();
    assert!(error.contains("max_replication_slots"), "{error}");
    first.stop().await.unwrap();
}
