use std::time::Duration;

use walcast_pgoutput::Lsn;
use walcast_replication::ConnectionSettings;

use crate::consumer::{Consumer, database_with_notes, settings, until_true};

#[tokio::test]
async fn what_is_committed_after_the_start_arrives_in_commit_order_from_every_publication() {
    let database = database_with_notes("streaming").await;
    let client = database.client().await;
    client
        .batch_execute("CREATE TABLE o (body text); CREATE PUBLICATION \"Other's \"\"one\"\"\" FOR TABLE o")
        .await
        .unwrap();
    let mut settings = settings(database.url(), &database.slot_name());
    settings.publications.push("Other's \"one\"".to_owned());
    let mut consumer = Consumer::start(settings).await;

    client
        .batch_execute("INSERT INTO notes VALUES ('first'); INSERT INTO o VALUES ('second')")
        .await
        .unwrap();
    client.batch_execute("SELECT pg_logical_emit_message(true, 'walcast.ddl', 'third')").await.unwrap();
    client.batch_execute("INSERT INTO notes SELECT repeat('x', 5000000)").await.unwrap();
    assert_eq!(consumer.next_text().await, "first");
    assert_eq!(consumer.next_text().await, "second");
    assert_eq!(consumer.next_text().await, "walcast.ddl: third");
    assert_eq!(consumer.next_text().await.len(), 5_000_000);
    assert_eq!(consumer.restarts.len(), 1);
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_role_with_replication_alone_is_enough() {
    let database = database_with_notes("plain role").await;
    let client = database.client().await;
    let role = format!("r_{}", database.name());
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'geheim'")).await.unwrap();
    let url = database.url_as(&role, "geheim");
    let mut consumer = Consumer::start(settings(&url, &database.slot_name())).await;
    client.batch_execute("INSERT INTO notes VALUES ('hello')").await.unwrap();
    assert_eq!(consumer.next_text().await, "hello");
    consumer.stop().await.unwrap();
    client.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn an_idle_slot_advances_while_others_write() {
    let database = database_with_notes("idle").await;
    let client = database.client().await;
    let mut settings = settings(database.url(), &database.slot_name());
    settings.feedback_interval = Duration::from_millis(20);
    let mut consumer = Consumer::start(settings).await;
    let sql = "CREATE TABLE unrelated AS SELECT generate_series(1, 10000); SELECT pg_current_wal_lsn()::text";
    client.batch_execute(sql).await.unwrap();
    let written: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);

    consumer.until_reported(written.parse().unwrap()).await;
    consumer.stop().await.unwrap();
    let moved = format!(
        "SELECT confirmed_flush_lsn >= '{written}' FROM pg_replication_slots WHERE slot_name = '{}'",
        database.slot_name()
    );
    assert!(client.query_one(&moved, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_slow_consumer_keeps_its_connection_and_misses_nothing() {
    const ROWS: usize = 10_000;
    let database = database_with_notes("slow").await;
    let client = database.client().await;
    let mut settings = settings(database.url(), &database.slot_name());
    // While it decodes the transaction the server hears nobody, which takes its time on a busy machine.
    settings.connection.options = Some("-c wal_sender_timeout=3s".to_owned());
    let mut consumer = Consumer::start(settings).await;
    // More than a batch, the channel and the kernel's buffers hold.
    let insert = format!("INSERT INTO notes SELECT n || repeat('x', 3000) FROM generate_series(1, {ROWS}) n");
    client.batch_execute(&insert).await.unwrap();

    // The server hears from us for more than twice as long as it would wait, while we take nothing.
    let heard = format!(
        "SELECT reply_time > backend_start + interval '8s' FROM pg_stat_replication r JOIN pg_replication_slots s \
         ON s.active_pid = r.pid WHERE s.slot_name = '{}'",
        database.slot_name()
    );
    until_true(&client, &heard).await;
    assert_eq!(consumer.waiting_batches(), 1);
    for row in 1..=ROWS {
        assert_eq!(consumer.next_text().await.trim_end_matches('x'), row.to_string());
    }
    assert_eq!(consumer.restarts.len(), 1, "one connection has carried it all");
    consumer.stop().await.unwrap();
}

#[tokio::test]
async fn a_stopped_stream_leaves_its_position_and_the_next_goes_on_there() {
    let database = database_with_notes("resume").await;
    let client = database.client().await;
    let settings = settings(database.url(), &database.slot_name());
    let mut first = Consumer::start(settings.clone()).await;
    client.batch_execute("INSERT INTO notes VALUES ('before')").await.unwrap();
    assert_eq!(first.next_text().await, "before");
    let written: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let written: Lsn = written.parse().unwrap();
    while first.progress.confirmed() < written {
        first.next_event().await;
    }
    let confirmed = first.progress.confirmed();
    first.stop().await.unwrap();

    client.batch_execute("INSERT INTO notes VALUES ('between')").await.unwrap();
    let mut second = Consumer::spawn(settings);
    assert!(second.until_streaming().await >= confirmed);
    assert_eq!(second.next_text().await, "between");
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_unix_socket_and_several_hosts_lead_to_the_same_server() {
    let database = database_with_notes("socket").await;
    let client = database.client().await;
    let directory: String = client.query_one("SHOW unix_socket_directories", &[]).await.unwrap().get(0);
    let tcp = ConnectionSettings::parse(database.url()).unwrap();
    let password = tcp.password.as_ref().unwrap().reveal();
    let text = format!(
        "host='/nowhere,{directory}' port={port},{port} user={} password={password} dbname={}",
        tcp.user,
        database.name(),
        port = tcp.hosts[0].port
    );
    let mut consumer = Consumer::start(settings(&text, &database.slot_name())).await;
    client.batch_execute("INSERT INTO notes VALUES ('through the socket')").await.unwrap();
    assert_eq!(consumer.next_text().await, "through the socket");
    consumer.stop().await.unwrap();
}
