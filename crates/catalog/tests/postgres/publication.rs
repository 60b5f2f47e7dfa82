//! What makes the log carry the tables that policies look things up in, and what stands in the way.

use std::time::{Duration, Instant};

use walcast_catalog::{Catalog, CatalogSettings};
use walcast_policy::Oracle as _;
use walcast_policy::schema::Snapshot;
use walcast_testkit::database::major;

use crate::support::Fixture;

/// The obstacle of the look-up table of this name.
fn obstacle<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a str> {
    let found = snapshot.lookups.values().find(|lookup| lookup.table.name == name);
    found.unwrap_or_else(|| panic!("no look-up in {name}")).obstacle.as_deref()
}

/// SQL that publishes a table whose policy reads all of `tables`.
fn messages_that_read(tables: &[&str]) -> String {
    let reads: Vec<String> = tables.iter().map(|table| format!("EXISTS (SELECT FROM {table})")).collect();
    format!(
        "CREATE TABLE messages (id int PRIMARY KEY);
         CREATE POLICY reads ON messages USING ({});
         ALTER PUBLICATION supabase_realtime ADD TABLE messages;",
        reads.join(" AND ")
    )
}

/// The tables of walcast's own publication.
async fn own(fixture: &Fixture) -> Vec<String> {
    let sql =
        "SELECT tablename::text FROM pg_publication_tables WHERE pubname = 'walcast_lookups' ORDER BY 1";
    fixture.admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn what_can_not_be_copied_is_said_and_left_alone() {
    let tables = [
        "a_view",
        "materialized",
        "parted",
        "leaf",
        "parent",
        "child",
        "scratch",
        "keyless",
        "deferred",
        "by_nothing",
        "derived",
        "information_schema.tables",
    ];
    let fixture = Fixture::new(
        "obstacles",
        &format!(
            "CREATE VIEW a_view AS SELECT 1 AS id;
             CREATE MATERIALIZED VIEW materialized AS SELECT 1 AS id;
             CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE leaf PARTITION OF parted FOR VALUES FROM (0) TO (10);
             CREATE TABLE parent (id int PRIMARY KEY);
             CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
             CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
             CREATE TABLE keyless (id int);
             CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE);
             CREATE TABLE by_nothing (id int PRIMARY KEY); ALTER TABLE by_nothing REPLICA IDENTITY NOTHING;
             CREATE TABLE derived (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
             {}",
            messages_that_read(&tables)
        ),
    )
    .await;
    let snapshot = fixture.catalog().await.snapshot();
    for (name, expected) in [
        ("a_view", Some("it is a view")),
        ("materialized", Some("it is a materialized view")),
        ("parted", Some("it is partitioned")),
        ("leaf", Some("it is a partition")),
        ("parent", Some("it has child tables")),
        ("child", None),
        ("scratch", Some("it is unlogged")),
        ("keyless", Some("it has no replica identity")),
        ("deferred", Some("it has no replica identity")),
        ("by_nothing", Some("it has no replica identity")),
        ("derived", Some("it has generated columns, which the log leaves out")),
        ("tables", Some("it belongs to PostgreSQL")),
    ] {
        assert_eq!(obstacle(&snapshot, name), expected, "{name}");
    }
    assert_eq!(own(&fixture).await, ["child"]);
    fixture.run("UPDATE keyless SET id = 1; DELETE FROM by_nothing").await;
}

#[tokio::test]
async fn tables_join_walcasts_own_publication_when_a_policy_first_reads_them() {
    let fixture = Fixture::new(
        "join_publication",
        &format!(
            "CREATE TABLE \"odd Table\" (id int PRIMARY KEY); CREATE TABLE whole (id int);
             ALTER TABLE whole REPLICA IDENTITY FULL; CREATE TABLE later (id int PRIMARY KEY);
             {}",
            messages_that_read(&["\"odd Table\"", "whole"])
        ),
    )
    .await;
    let catalog = fixture.catalog().await;
    let streamed = ["supabase_realtime", "walcast_lookups", "walcast_messages"];
    assert_eq!(catalog.streamed_publications(), streamed);
    assert_eq!(own(&fixture).await, ["odd Table", "whole"]);
    let first = catalog.snapshot();
    assert_eq!((first.version, first.tables.len(), first.lookups.len()), (1, 1, 2));
    assert_eq!((obstacle(&first, "odd Table"), obstacle(&first, "whole")), (None, None));

    fixture.run("CREATE POLICY more ON messages USING (id IN (SELECT id FROM later))").await;
    let second = catalog.refresh().await.unwrap();
    assert_eq!((second.version, obstacle(&second, "later")), (2, None));
    assert_eq!(own(&fixture).await, ["later", "odd Table", "whole"]);

    // Walcast must not be why PostgreSQL refuses an update.
    fixture.run("ALTER TABLE later DROP CONSTRAINT later_pkey").await;
    let third = catalog.refresh().await.unwrap();
    assert_eq!(obstacle(&third, "later"), Some("it has no replica identity"));
    fixture.run("UPDATE later SET id = 1").await;
}

#[tokio::test]
async fn a_schema_that_was_out_of_a_publication_between_two_looks_is_noticed() {
    // PostgreSQL 14 has none.
    if major().await < 15 {
        return;
    }
    let fixture = Fixture::new(
        "schema_out_and_in",
        &format!(
            "CREATE SCHEMA app; CREATE TABLE app.members (id int PRIMARY KEY);
             CREATE PUBLICATION schemas FOR TABLES IN SCHEMA app; {}",
            messages_that_read(&["app.members"])
        ),
    )
    .await;
    let mut settings = fixture.settings();
    settings.publications.push("schemas".to_owned());
    let catalog = Catalog::connect(settings).await.unwrap();
    let publication = |snapshot: &Snapshot| {
        let found = snapshot.lookups.values().find(|lookup| lookup.table.name == "members").unwrap();
        (found.obstacle.clone(), found.publication)
    };
    let (obstacle, before) = publication(&catalog.snapshot());
    assert_eq!(obstacle, None);
    // What is written between the two is in no log that is read.
    fixture
        .run("ALTER PUBLICATION schemas DROP TABLES IN SCHEMA app; ALTER PUBLICATION schemas ADD TABLES IN SCHEMA app")
        .await;
    let (_, after) = publication(&catalog.refresh().await.unwrap());
    assert_ne!(before, after, "its copy has to be had anew");
}

#[tokio::test]
async fn what_the_users_publications_carry_whole_needs_no_other() {
    let fixture = Fixture::new(
        "carried",
        &format!(
            "CREATE SCHEMA app; CREATE TABLE app.by_schema (id int PRIMARY KEY);
             CREATE TABLE whole (id int PRIMARY KEY); CREATE TABLE halves (id int PRIMARY KEY);
             CREATE TABLE inserted (id int PRIMARY KEY); CREATE TABLE filtered (id int PRIMARY KEY);
             CREATE TABLE trimmed (id int PRIMARY KEY, more int);
             CREATE PUBLICATION one FOR TABLE halves, inserted WITH (publish = 'insert, update');
             CREATE PUBLICATION two FOR TABLE halves WITH (publish = 'delete, truncate');
             ALTER PUBLICATION supabase_realtime ADD TABLE whole;
             {}",
            messages_that_read(&["app.by_schema", "whole", "halves", "inserted", "filtered", "trimmed"])
        ),
    )
    .await;
    let mut settings = fixture.settings();
    settings.publications.extend(["one", "two", "three", "schemas"].map(str::to_owned));
    let partly = Some("the publications leave out some of its rows or statements");
    let mut expected = vec![("whole", None), ("halves", None), ("inserted", partly)];
    // PostgreSQL 14 publishes tables, and those whole.
    if major().await >= 15 {
        fixture
            .run(
                "CREATE PUBLICATION three FOR TABLE filtered WHERE (id > 5), trimmed (id);
                 CREATE PUBLICATION schemas FOR TABLES IN SCHEMA app;",
            )
            .await;
        let trimmed = Some("a publication leaves out some of its columns");
        expected.extend([("by_schema", None), ("filtered", partly), ("trimmed", trimmed)]);
    } else {
        fixture.run("ALTER PUBLICATION supabase_realtime ADD TABLE filtered, trimmed, app.by_schema").await;
    }
    let snapshot = Catalog::connect(settings).await.unwrap().snapshot();
    for (name, expected) in expected {
        assert_eq!(obstacle(&snapshot, name), expected, "{name}");
    }
    assert_eq!(own(&fixture).await, [""; 0]);
}

#[tokio::test]
async fn a_role_that_may_not_publish_is_told_the_sql() {
    let fixture = Fixture::new(
        "poor_publisher",
        &format!("CREATE TABLE members (id int PRIMARY KEY); {}", messages_that_read(&["members"])),
    )
    .await;
    let catalog = Catalog::connect(fixture.settings_of_role()).await.unwrap();
    assert_eq!(catalog.streamed_publications(), ["supabase_realtime"]);
    let expected = "the log does not carry it: CREATE PUBLICATION walcast_lookups; and restart walcast";
    assert_eq!(obstacle(&catalog.snapshot(), "members"), Some(expected));

    fixture.run("CREATE PUBLICATION walcast_lookups").await;
    let catalog = Catalog::connect(fixture.settings_of_role()).await.unwrap();
    assert_eq!(catalog.streamed_publications(), ["supabase_realtime", "walcast_lookups"]);
    let expected = "the log does not carry it: ALTER PUBLICATION walcast_lookups ADD TABLE public.members;";
    assert_eq!(obstacle(&catalog.snapshot(), "members"), Some(expected));
    fixture.run("ALTER PUBLICATION walcast_lookups ADD TABLE public.members").await;
    assert_eq!(obstacle(&catalog.refresh().await.unwrap(), "members"), None);
}

#[tokio::test]
async fn whoever_is_given_the_right_adds_the_table_then() {
    let fixture = Fixture::new(
        "given_right",
        &format!(
            "CREATE TABLE members (id int PRIMARY KEY); CREATE PUBLICATION walcast_lookups;
            ALTER PUBLICATION walcast_lookups OWNER TO postgres; {}",
            messages_that_read(&["members"])
        ),
    )
    .await;
    let database = fixture.database.name().to_owned();
    let catalog = Catalog::connect(fixture.settings_of_role()).await.unwrap();
    assert!(obstacle(&catalog.snapshot(), "members").is_some());
    fixture.run(&format!("GRANT CREATE ON DATABASE {database} TO :role")).await;
    fixture.run("ALTER PUBLICATION walcast_lookups OWNER TO :role; ALTER TABLE members OWNER TO :role").await;
    assert_eq!(obstacle(&catalog.refresh().await.unwrap(), "members"), None);
    assert_eq!(own(&fixture).await, ["members"]);
}

#[tokio::test]
async fn commands_that_only_tell_and_those_without_a_publication_change_nothing() {
    let fixture = Fixture::new(
        "only_tells",
        &format!("CREATE TABLE members (id int PRIMARY KEY); {}", messages_that_read(&["members"])),
    )
    .await;
    let telling = CatalogSettings { read_only: true, ..fixture.settings() };
    let without =
        CatalogSettings { lookup_publication: None, messages_publication: None, ..fixture.settings() };
    let expected = "the log does not carry it: CREATE PUBLICATION walcast_lookups; and restart walcast";
    for (settings, expected) in [(telling, expected), (without, "the log does not carry it")] {
        let catalog = Catalog::connect(settings).await.unwrap();
        assert_eq!(catalog.streamed_publications(), ["supabase_realtime"]);
        assert_eq!(obstacle(&catalog.snapshot(), "members"), Some(expected));
    }
    let count = fixture.admin.query_one("SELECT count(*) FROM pg_publication", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_publication_younger_than_what_waits_in_the_slot_is_not_streamed() {
    let fixture = Fixture::new(
        "young_publication",
        &format!("CREATE TABLE members (id int PRIMARY KEY); {}", messages_that_read(&["members"])),
    )
    .await;
    let slot = fixture.database.slot_name();
    let settings = CatalogSettings { slot: Some(slot.clone()), ..fixture.settings() };
    let streamed = async || {
        let catalog = Catalog::connect(settings.clone()).await.unwrap();
        (catalog.streamed_publications().len(), obstacle(&catalog.snapshot(), "members").map(str::to_owned))
    };
    fixture
        .admin
        .execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot])
        .await
        .unwrap();
    fixture.run("SET synchronous_commit = on; INSERT INTO messages VALUES (1)").await;
    let (count, why) = streamed().await;
    // From PostgreSQL 18 on the stream passes over a publication that the log does not know yet.
    if major().await >= 18 {
        assert_eq!((count, why), (3, None));
        return;
    }
    assert_eq!(count, 1);
    let why = why.unwrap();
    assert!(
        why.ends_with("younger than what the replication slot has yet to deliver; restart walcast"),
        "{why}"
    );

    // This is what would befall the stream, again and again.
    let read = |publications: &str| {
        format!(
            "SELECT count(*) FROM pg_logical_slot_get_binary_changes('{slot}', NULL, NULL, 'proto_version', '1', \
             'publication_names', '{publications}')"
        )
    };
    let error = fixture.admin.query_one(&read("supabase_realtime,walcast_lookups"), &[]).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("\"walcast_lookups\" does not exist"));

    // What the slot has delivered moves on as soon as nobody's transaction of before is open, of whichever database.
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        fixture.run("CHECKPOINT").await;
        fixture.admin.query_one(&read("supabase_realtime"), &[]).await.unwrap();
        fixture.run("INSERT INTO messages SELECT max(id) + 1 FROM messages").await;
        let streamed = streamed().await;
        if streamed == (3, None) {
            break;
        }
        assert!(Instant::now() < deadline, "{streamed:?}");
    }
    fixture.admin.query_one(&read("supabase_realtime,walcast_lookups,walcast_messages"), &[]).await.unwrap();
}
