//! Copies of tables, read between two transactions of the log.
//!
//! What a copy holds is not to be seen from here, so it is compared with a copy made by hand.

use std::sync::Arc;
use std::time::Duration;

use walcast_catalog::Catalog;
use walcast_pgoutput::{Lsn, Xid};
use walcast_policy::schema::Table;
use walcast_policy::{CopyRequest, Datum, LoadedCopy, Oracle as _, OracleError, TableCopy};

use crate::support::{Fixture, SOON, raised};

const SCHEMA: &str = r#"
    CREATE TABLE "odd ""members""" (id int PRIMARY KEY, gone int, "the person" text, since timestamptz, unread text);
    ALTER TABLE "odd ""members""" DROP COLUMN gone;
    CREATE TABLE messages (id int PRIMARY KEY);
    CREATE POLICY member ON messages USING (EXISTS (SELECT FROM "odd ""members""" AS m WHERE m.id = messages.id));
    ALTER PUBLICATION supabase_realtime ADD TABLE messages;
"#;

fn request(catalog: &Catalog) -> CopyRequest {
    let snapshot = catalog.snapshot();
    let lookup = snapshot.lookups.values().next().unwrap();
    CopyRequest {
        table: Arc::new(lookup.table.clone()),
        types: Arc::clone(&snapshot.types),
        columns: vec![3, 4],
        bytes_max: 1 << 20,
    }
}

async fn load(catalog: &Arc<Catalog>, request: CopyRequest) -> Result<LoadedCopy, OracleError> {
    tokio::time::timeout(SOON, Arc::clone(catalog).load(request)).await.unwrap()
}

/// A copy with these rows, made by hand.
fn by_hand(request: &CopyRequest, rows: &[&[Datum<'_>]]) -> TableCopy {
    let mut copy = TableCopy::new(&request.table, &request.types, &request.columns);
    for row in rows {
        copy.insert(row);
    }
    copy
}

/// The rows as they lie in memory, without the indexes, whose order differs from copy to copy.
fn stored(copy: &TableCopy) -> String {
    let text = format!("{copy:?}");
    text.split_once("indexes").map(|(rows, _)| rows.to_owned()).unwrap()
}

#[tokio::test]
async fn a_copy_has_the_columns_that_were_asked_for_and_those_of_the_identity() {
    let fixture = Fixture::new("copy_values", SCHEMA).await;
    fixture
        .run(
            r#"INSERT INTO "odd ""members""" VALUES
                (1, NULL, '2024-05-06 07:08:09.5+02', 'unread'),
                (2, '', NULL, NULL),
                (3, E'tab\tnew line\nback\\slash \\N é🐘', 'infinity', NULL);
               SET synchronous_commit = on"#,
        )
        .await;
    let catalog = fixture.catalog().await;
    let request = request(&catalog);
    let before = now(&fixture).await;
    let copy = load(&catalog, request.clone()).await.unwrap();
    assert_eq!(copy.rows.columns(), [1, 3, 4]);
    let expected = by_hand(
        &request,
        &[
            &[Datum::Text("1"), Datum::Null, Datum::Text("2024-05-06 05:08:09.5+00")],
            &[Datum::Text("2"), Datum::Text(""), Datum::Null],
            &[Datum::Text("3"), Datum::Text("tab\tnew line\nback\\slash \\N é🐘"), Datum::Text("infinity")],
        ],
    );
    assert_eq!(copy.rows.bytes(), expected.bytes());
    assert_eq!(stored(&copy.rows), stored(&expected));
    // The mark makes the log pass the position.
    assert!(before <= copy.reached && copy.reached < now(&fixture).await);
}

async fn now(fixture: &Fixture) -> Lsn {
    let row = fixture.admin.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
    row.get::<_, &str>(0).parse().unwrap()
}

#[tokio::test]
async fn a_copy_waits_for_transactions_that_are_open() {
    let fixture = Fixture::new("copy_waits", SCHEMA).await;
    let catalog = fixture.catalog().await;
    let other = fixture.database.client().await;
    other.batch_execute(r#"BEGIN; INSERT INTO "odd ""members""" VALUES (1, 'late')"#).await.unwrap();
    let row = other.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap();
    let late = Xid(u32::try_from(row.get::<_, &str>(0).parse::<u64>().unwrap() & 0xffff_ffff).unwrap());

    let loading = tokio::spawn(Arc::clone(&catalog).load(request(&catalog)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!loading.is_finished());
    // What begins later is not waited for.
    let later = fixture.database.client().await;
    later.batch_execute(r#"BEGIN; INSERT INTO "odd ""members""" VALUES (2, 'later')"#).await.unwrap();
    let row = later.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap();
    let latest = Xid(u32::try_from(row.get::<_, &str>(0).parse::<u64>().unwrap() & 0xffff_ffff).unwrap());
    other.batch_execute("COMMIT").await.unwrap();

    let copy = tokio::time::timeout(SOON, loading).await.unwrap().unwrap().unwrap();
    let expected = by_hand(&request(&catalog), &[&[Datum::Text("1"), Datum::Text("late"), Datum::Null]]);
    assert_eq!(copy.rows.bytes(), expected.bytes());
    assert!(copy.snapshot.shows(late) && !copy.snapshot.shows(latest));
}

#[tokio::test]
async fn a_copy_that_takes_too_much_memory_is_refused() {
    let fixture = Fixture::new("copy_budget", SCHEMA).await;
    fixture
        .run(r#"INSERT INTO "odd ""members""" SELECT n, 'someone' FROM generate_series(1, 1000) AS n"#)
        .await;
    let catalog = fixture.catalog().await;
    let full = load(&catalog, request(&catalog)).await.unwrap();
    let request = CopyRequest { bytes_max: full.rows.bytes() - 1, ..request(&catalog) };
    let bytes = request.bytes_max;
    let expected = format!(
        "the copy of public.odd \"members\" takes more than the {bytes} bytes that changes.copy_bytes_max leaves for it"
    );
    assert_eq!(load(&catalog, request).await.unwrap_err(), OracleError::Unavailable(expected));
}

#[tokio::test]
async fn row_security_and_privileges_refuse_a_copy_rather_than_thin_it_out() {
    let fixture = Fixture::new("copy_forbidden", SCHEMA).await;
    let as_role = Catalog::connect(fixture.settings_of_role()).await.unwrap();
    let refusal = raised(load(&as_role, request(&as_role)).await);
    assert_eq!(refusal.0, "42501", "{refusal:?}");

    fixture.run(r#"GRANT SELECT ON "odd ""members""" TO :role"#).await;
    assert!(load(&as_role, request(&as_role)).await.is_ok());
    fixture.run(r#"ALTER TABLE "odd ""members""" ENABLE ROW LEVEL SECURITY"#).await;
    let (code, message) = raised(load(&as_role, request(&as_role)).await);
    assert_eq!(code, "42501");
    assert!(message.contains("row-level security"), "{message}");

    fixture.run(r#"ALTER TABLE "odd ""members""" OWNER TO :role"#).await;
    assert!(load(&as_role, request(&as_role)).await.is_ok());
    fixture.run(r#"ALTER TABLE "odd ""members""" FORCE ROW LEVEL SECURITY"#).await;
    assert_eq!(raised(load(&as_role, request(&as_role)).await).0, "42501");
    let as_admin = fixture.catalog().await;
    assert!(load(&as_admin, request(&as_admin)).await.is_ok());
}

#[tokio::test]
async fn a_table_that_is_another_one_by_now_is_not_copied() {
    let fixture = Fixture::new("copy_changed", SCHEMA).await;
    let catalog = fixture.catalog().await;
    let request = request(&catalog);
    for change in [
        r#"ALTER TABLE "odd ""members""" RENAME COLUMN "the person" TO who"#,
        r#"ALTER TABLE "odd ""members""" RENAME COLUMN who TO "the person";
           ALTER TABLE "odd ""members""" ALTER COLUMN since TYPE text"#,
        r#"ALTER TABLE "odd ""members""" RENAME TO others;
           CREATE TABLE "odd ""members""" (id int PRIMARY KEY, gone int, "the person" text, since timestamptz)"#,
    ] {
        fixture.run(change).await;
        let error = load(&catalog, request.clone()).await.unwrap_err();
        assert!(
            matches!(&error, OracleError::Unavailable(why) if why.ends_with("has changed just now")),
            "{error}"
        );
    }
    fixture.run(r#"DROP TABLE "odd ""members""""#).await;
    assert_eq!(raised(load(&catalog, request).await).0, "42P01");
}

#[tokio::test]
async fn a_table_without_columns_to_keep_is_counted_by_its_rows() {
    let fixture = Fixture::new("copy_nothing", SCHEMA).await;
    fixture.run(r#"INSERT INTO "odd ""members""" VALUES (1, 'a'), (2, 'b')"#).await;
    let catalog = fixture.catalog().await;
    let mut request = request(&catalog);
    let mut bare = Table::clone(&request.table);
    for column in &mut bare.columns {
        column.identity = false;
    }
    (request.table, request.columns) = (Arc::new(bare), Vec::new());
    let copy = load(&catalog, request.clone()).await.unwrap();
    assert_eq!(copy.rows.bytes(), by_hand(&request, &[&[], &[]]).bytes());
}
