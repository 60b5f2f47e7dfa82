//! Statements as a role.

use serde_json::json;
use walcast_catalog::CatalogError;

use crate::support::Fixture;

const SCHEMA: &str = "
    CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner text NOT NULL, body text, stars int);
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON notes USING (owner = current_setting('request.jwt.claim.sub'));
    GRANT ALL ON notes TO :role;
";

const WRITE: &str =
    "INSERT INTO notes (owner, body, stars) VALUES ($1, $2, $3::int) RETURNING id, owner, body, stars";

fn texts<const N: usize>(values: [Option<&str>; N]) -> [Option<String>; N] {
    values.map(|value| value.map(str::to_owned))
}

#[tokio::test]
async fn rows_are_written_and_read_under_row_security() {
    let fixture = Fixture::new("run_as", SCHEMA).await;
    let catalog = fixture.catalog().await;
    let (ana, bea) = (r#"{"sub":"ana"}"#, r#"{"sub":"bea"}"#);
    let parameters = texts([Some("ana"), Some("it's; DROP TABLE notes"), None]);
    let rows = catalog.run_as(&fixture.role, ana, WRITE, &parameters).await.unwrap();
    assert_eq!(rows, json!([{"id": 1, "owner": "ana", "body": "it's; DROP TABLE notes", "stars": null}]));
    let parameters = texts([Some("bea"), None, Some("5")]);
    catalog.run_as(&fixture.role, bea, WRITE, &parameters).await.unwrap();

    let read = "SELECT owner, stars FROM notes ORDER BY id";
    let rows = catalog.run_as(&fixture.role, bea, read, &[]).await.unwrap();
    assert_eq!(rows, json!([{"owner": "bea", "stars": 5}]));
    let update = "UPDATE notes SET stars = 1 RETURNING owner";
    let rows = catalog.run_as(&fixture.role, ana, update, &[]).await.unwrap();
    assert_eq!(rows, json!([{"owner": "ana"}]));
    let rows = catalog.run_as("postgres", "{}", read, &[]).await.unwrap();
    assert_eq!(rows, json!([{"owner": "ana", "stars": 1}, {"owner": "bea", "stars": 5}]));
}

#[tokio::test]
async fn a_refusal_has_postgres_code_and_words_and_writes_nothing() {
    let fixture = Fixture::new("run_as_refused", SCHEMA).await;
    let catalog = fixture.catalog().await;
    let refused = async |sub: &str, parameters: [Option<String>; 3]| {
        let claims = json!({ "sub": sub }).to_string();
        let outcome = catalog.run_as(&fixture.role, &claims, WRITE, &parameters).await;
        match outcome {
            Err(CatalogError::Statement { code, message }) => (code, message),
            other => panic!("{other:?}"),
        }
    };
    let (code, message) = refused("ana", texts([Some("bea"), None, None])).await;
    assert_eq!(code, "42501");
    assert!(message.contains("row-level security policy for table \"notes\""), "{message}");
    let (code, _) = refused("ana", texts([Some("ana"), None, Some("many")])).await;
    assert_eq!(code, "22P02");
    let count = fixture.admin.query_one("SELECT count(*) FROM notes", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn what_a_statement_sets_in_its_session_does_not_outlive_it() {
    let fixture = Fixture::new("run_as_session", SCHEMA).await;
    let mut settings = fixture.settings();
    settings.pool_size = 1;
    let catalog = walcast_catalog::Catalog::connect(settings).await.unwrap();
    let sets = "SELECT set_config('TimeZone', 'Asia/Tokyo', false), set_config('search_path', 'nowhere', false), \
                set_config('request.jwt.claims', 'leak', false), pg_advisory_lock(7)::text";
    catalog.run_as(&fixture.role, "{}", sets, &[]).await.unwrap();
    let asks = "SELECT current_setting('TimeZone') AS zone, current_user::text AS role, \
                (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks, \
                current_setting('search_path') AS path, current_setting('request.jwt.claims') AS claims";
    let rows = catalog.run_as("postgres", "{}", asks, &[]).await.unwrap();
    assert_eq!(
        rows,
        json!([{"zone": "UTC", "role": "postgres", "locks": 0, "path": "\"$user\", public", "claims": "{}"}])
    );
}
