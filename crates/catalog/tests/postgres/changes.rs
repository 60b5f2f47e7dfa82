//! Changes of the catalog are found, each of them, and nothing else is taken for one.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use walcast_catalog::Catalog;
use walcast_policy::Oracle as _;

use crate::support::{Fixture, SOON, table};

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE TYPE pair AS (x int, y int);
    CREATE FUNCTION mine(text) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT $1 = current_user $$;
    CREATE TABLE members (room int, person text);
    CREATE TABLE messages (id int PRIMARY KEY, author text, body varchar(10), mood mood, pair pair);
    CREATE TABLE rooms (id int PRIMARY KEY);
    CREATE POLICY own ON messages USING (mine(author));
    CREATE POLICY member ON messages USING (EXISTS (SELECT FROM members WHERE members.room = messages.id));
    ALTER PUBLICATION supabase_realtime ADD TABLE messages;
    CREATE ROLE :role_group;
    GRANT :role TO postgres;
";

/// Every kind of change that a snapshot shows.
const CHANGES: [&str; 27] = [
    "ALTER POLICY own ON messages USING (author = 'me')",
    "ALTER POLICY own ON messages TO :role",
    "ALTER POLICY own ON messages RENAME TO aaa",
    "DROP POLICY aaa ON messages",
    "CREATE POLICY own ON messages USING (mine(author))",
    "CREATE OR REPLACE FUNCTION mine(text) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 = 'x' $$",
    "CREATE FUNCTION mine(int) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$",
    "ALTER FUNCTION mine(text) RENAME TO ours",
    "ALTER TABLE members RENAME COLUMN room TO place",
    "ALTER TABLE messages ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE messages FORCE ROW LEVEL SECURITY",
    "GRANT SELECT ON messages TO :role",
    "REVOKE SELECT ON messages FROM :role",
    "GRANT SELECT (id, body) ON messages TO :role_group",
    "GRANT :role_group TO :role",
    "REVOKE USAGE ON SCHEMA public FROM PUBLIC",
    "GRANT USAGE ON SCHEMA public TO :role",
    "ALTER ROLE :role BYPASSRLS",
    "ALTER TABLE messages ADD COLUMN extra int",
    "ALTER TABLE messages RENAME COLUMN extra TO more",
    "ALTER TABLE messages ALTER COLUMN body TYPE varchar(20)",
    "ALTER TABLE messages DROP COLUMN more",
    "ALTER TABLE messages REPLICA IDENTITY FULL",
    "ALTER TYPE mood ADD VALUE 'so so'",
    "ALTER TYPE pair ADD ATTRIBUTE z int",
    "ALTER PUBLICATION supabase_realtime ADD TABLE rooms",
    "ALTER TABLE rooms RENAME TO salas",
];

#[tokio::test]
async fn a_refresh_sees_every_kind_of_change() {
    let fixture = Fixture::new("refresh", SCHEMA).await;
    let catalog = fixture.catalog().await;
    catalog.role(&fixture.role).await.unwrap();
    catalog.role(&format!("{}_group", fixture.role)).await.unwrap();
    for change in CHANGES {
        let before = catalog.snapshot();
        fixture.run(change).await;
        let after = catalog.refresh().await.unwrap();
        assert_eq!(after.version, before.version + 1, "{change}");
        assert!(Arc::ptr_eq(&after, &catalog.snapshot()), "{change}");
        let again = catalog.refresh().await.unwrap();
        assert!(Arc::ptr_eq(&after, &again), "{change}");
    }
    fixture.run("DROP TABLE salas").await;
    let last = catalog.refresh().await.unwrap();
    assert_eq!(last.tables.len(), 1);
    assert_eq!(last.types.get(table(&last, "messages").columns[3].type_oid).unwrap().name, "mood");
}

#[tokio::test]
async fn what_does_not_concern_the_published_tables_is_no_change() {
    let fixture = Fixture::new("no_change", SCHEMA).await;
    let catalog = fixture.catalog().await;
    catalog.role(&fixture.role).await.unwrap();
    let before = catalog.refresh().await.unwrap();
    for sql in [
        "INSERT INTO messages (id) SELECT generate_series(1, 1000)",
        "ANALYZE messages",
        "VACUUM messages",
        "CREATE TABLE unpublished (id int)",
        "CREATE INDEX ON messages (body)",
        "COMMENT ON TABLE messages IS 'so'",
    ] {
        fixture.run(sql).await;
        let after = catalog.refresh().await.unwrap();
        assert!(Arc::ptr_eq(&before, &after), "{sql}");
    }
}

#[tokio::test]
async fn parts_that_did_not_change_are_shared_with_the_snapshot_before() {
    let fixture = Fixture::new("sharing", SCHEMA).await;
    fixture.run("ALTER PUBLICATION supabase_realtime ADD TABLE rooms").await;
    let catalog = fixture.catalog().await;
    let before = catalog.snapshot();
    fixture.run("ALTER TABLE rooms ADD COLUMN name text").await;
    let after = catalog.refresh().await.unwrap();
    assert!(Arc::ptr_eq(&table(&before, "messages"), &table(&after, "messages")));
    assert!(!Arc::ptr_eq(&table(&before, "rooms"), &table(&after, "rooms")));
}

#[tokio::test]
async fn the_poll_tells_watchers_of_changes_and_of_memberships() {
    let fixture = Fixture::new("poll", SCHEMA).await;
    let catalog = fixture.catalog().await;
    catalog.role(&fixture.role).await.unwrap();
    let mut watcher = catalog.subscribe();
    watcher.mark_unchanged();
    let cancel = CancellationToken::new();
    let polling = tokio::spawn(Arc::clone(&catalog).poll(Duration::from_millis(20), cancel.clone()));

    fixture.run("ALTER POLICY own ON messages USING (author = 'me')").await;
    tokio::time::timeout(SOON, watcher.changed()).await.unwrap().unwrap();
    let seen = Arc::clone(&watcher.borrow_and_update());
    let own = &table(&seen, "messages").policies[1];
    assert_eq!(own.using.as_deref(), Some("(author = 'me'::text)"));

    fixture.run("GRANT :role_group TO :role").await;
    tokio::time::timeout(SOON, watcher.changed()).await.unwrap().unwrap();
    let seen = Arc::clone(&watcher.borrow_and_update());
    assert_eq!(seen.roles[&fixture.role].acts_as.len(), 2);

    cancel.cancel();
    tokio::time::timeout(SOON, polling).await.unwrap().unwrap();
}

#[tokio::test]
async fn many_who_name_a_new_role_at_once_cause_one_look() {
    let fixture = Fixture::new("stampede", SCHEMA).await;
    let catalog = fixture.catalog().await;
    let before = catalog.snapshot().version;
    let asking = (0..50).map(|_| catalog.role(&fixture.role));
    for outcome in futures_util::future::join_all(asking).await {
        assert_eq!(outcome.unwrap().version, before + 1);
    }
}

#[tokio::test]
async fn a_catalog_that_cannot_connect_says_why() {
    let fixture = Fixture::new("no_connection", "").await;
    let mut settings = fixture.settings();
    settings.config.password("wrong");
    let error = Catalog::connect(settings).await.err().unwrap();
    assert_eq!(error.code(), Some("28P01"), "{error}");
    assert!(error.to_string().contains("password authentication failed"), "{error}");
}
