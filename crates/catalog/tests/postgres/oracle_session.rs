//! What a question leaves behind: nothing.

use std::time::Duration;

use walcast_catalog::{Catalog, CatalogSettings};
use walcast_policy::{Datum, Oracle as _, OracleError};
use walcast_testkit::Cluster;

use crate::support::{Fixture, SOON, ask, ask_one, raised};

const SCHEMA: &str = "
    CREATE TABLE messages (id int PRIMARY KEY);
    ALTER PUBLICATION supabase_realtime ADD TABLE messages;
";

const ROW: [Datum<'static>; 1] = [Datum::Text("1")];

/// A catalog with one connection, so that every question meets what the one before has left.
async fn narrow(fixture: &Fixture, timeout: Duration) -> std::sync::Arc<Catalog> {
    let mut settings = fixture.settings();
    settings.pool_size = 1;
    settings.statement_timeout = timeout;
    Catalog::connect(settings).await.unwrap()
}

/// Fails unless the connection speaks for itself again.
async fn assert_clean(catalog: &Catalog) {
    let clean = "1 / (current_user = session_user AND current_setting('search_path') <> 'elsewhere')::int";
    assert_eq!(catalog.check_expression(clean).await, Ok(()));
}

#[tokio::test]
async fn roles_that_do_not_exist_are_refused_and_the_connection_goes_on() {
    let fixture = Fixture::new("bad_roles", SCHEMA).await;
    let catalog = narrow(&fixture, SOON).await;
    for role in ["nobody", "none", "x\"; RESET ROLE; --", ""] {
        let outcome = ask(&catalog, role, "messages", &ROW, "true", &["{}", "{}"]).await;
        assert_eq!(raised(outcome).1, format!("role \"{role}\" does not exist"));
        let outcome = catalog.constants(role, "{}", &["1".to_owned()]).await;
        assert_eq!(raised(outcome).1, format!("role \"{role}\" does not exist"));
        assert_clean(&catalog).await;
    }
}

#[tokio::test]
async fn an_expression_that_cannot_be_parsed_is_an_error_of_the_question() {
    let fixture = Fixture::new("unparsable", SCHEMA).await;
    let catalog = narrow(&fixture, SOON).await;
    for (expression, code) in [("no_such_column", "42703"), ("id = ", "42601"), ("id", "42804")] {
        let outcome = ask(&catalog, &fixture.role, "messages", &ROW, expression, &["{}"]).await;
        assert_eq!(raised(outcome).0, code, "{expression}");
        assert_clean(&catalog).await;
    }
}

#[tokio::test]
async fn what_an_expression_sets_in_its_session_is_gone_for_the_next() {
    let fixture = Fixture::new("setting", SCHEMA).await;
    let catalog = narrow(&fixture, SOON).await;
    let sets = "set_config('search_path', 'elsewhere', false) = 'elsewhere' \
                AND set_config('request.jwt.claim.sub', 'root', false) = 'root'";
    let claims = [r#"{"sub":"a"}"#, r#"{"sub":"b"}"#];
    let answers = ask(&catalog, &fixture.role, "messages", &ROW, sets, &claims).await;
    assert_eq!(answers, Ok(vec![Ok(true), Ok(true)]));
    assert_clean(&catalog).await;
    let expression = "current_setting('request.jwt.claim.sub') = 'c'";
    let answer = ask_one(&catalog, &fixture.role, "messages", &ROW, expression, r#"{"sub":"c"}"#).await;
    assert_eq!(answer, Ok(true));
}

#[tokio::test]
async fn an_expression_that_is_too_slow_for_one_of_the_claims_fails_for_that_one() {
    let fixture = Fixture::new("slow", SCHEMA).await;
    let catalog = narrow(&fixture, Duration::from_millis(300)).await;
    let expression = "pg_sleep((current_setting('request.jwt.claim.sub'))::float) IS NOT NULL";
    let claims = [r#"{"sub":"0"}"#, r#"{"sub":"60"}"#, r#"{"sub":"0"}"#];
    let answers = ask(&catalog, &fixture.role, "messages", &ROW, expression, &claims).await.unwrap();
    assert_eq!((&answers[0], &answers[2]), (&Ok(true), &Ok(true)));
    let Err(OracleError::Unavailable(why)) = &answers[1] else {
        panic!("{answers:?}");
    };
    assert!(why.contains("statement timeout"), "{why}");
    assert_clean(&catalog).await;
}

#[tokio::test]
async fn a_question_that_is_no_longer_awaited_takes_its_connection_with_it() {
    let fixture = Fixture::new("dropped", SCHEMA).await;
    let catalog = narrow(&fixture, SOON).await;
    let claims = ["{}"];
    let question = ask(&catalog, &fixture.role, "messages", &ROW, "pg_sleep(60) IS NULL", &claims);
    let given_up = tokio::time::timeout(Duration::from_millis(200), question).await;
    assert!(given_up.is_err());
    assert_clean(&catalog).await;
}

#[tokio::test]
async fn a_pool_that_stays_busy_is_said_to_be() {
    let fixture = Fixture::new("busy", SCHEMA).await;
    let catalog = narrow(&fixture, Duration::from_secs(1)).await;
    let claims = ["{}"; 4];
    let slow = ask(&catalog, &fixture.role, "messages", &ROW, "pg_sleep(60) IS NULL", &claims);
    let waiting = async {
        // Asked for only after the slow question has the one connection.
        tokio::task::yield_now().await;
        catalog.check_expression("true").await
    };
    let (_, waited) = futures_util::future::join(slow, waiting).await;
    let Err(OracleError::Unavailable(why)) = waited else {
        panic!("{waited:?}");
    };
    assert!(why.contains("pool size"), "{why}");
}

#[tokio::test]
async fn a_type_that_changes_below_a_prepared_question_is_noticed() {
    let fixture = Fixture::new("retyped", SCHEMA).await;
    let catalog = narrow(&fixture, SOON).await;
    let decide = || ask_one(&catalog, &fixture.role, "messages", &ROW, "messages.id = 1", "{}");
    assert_eq!(decide().await, Ok(true));
    fixture.run("ALTER TABLE messages ALTER COLUMN id TYPE text").await;
    assert_eq!(raised(decide().await).0, "42883", "text = integer does not exist");
    fixture.run("ALTER TABLE messages ALTER COLUMN id TYPE bigint USING id::bigint").await;
    assert_eq!(decide().await, Ok(true));
}

#[tokio::test]
async fn after_postgres_was_restarted_questions_are_answered_again() {
    let cluster = Cluster::start(walcast_testkit::database::test_settings()).await.unwrap();
    let admin = cluster.client("postgres").await.unwrap();
    admin.batch_execute(&format!("CREATE PUBLICATION supabase_realtime; {SCHEMA}")).await.unwrap();
    let settings = CatalogSettings::new(cluster.url("postgres").parse().unwrap());
    let catalog = Catalog::connect(settings).await.unwrap();
    // Several connections, each of which will be found dead.
    let asking = (0..5).map(|_| ask_one(&catalog, "postgres", "messages", &ROW, "id = 1", "{}"));
    for answer in futures_util::future::join_all(asking).await {
        assert_eq!(answer, Ok(true));
    }
    cluster.restart().await.unwrap();
    let answer = ask_one(&catalog, "postgres", "messages", &ROW, "id = 1", "{}").await;
    assert_eq!(answer, Ok(true));
    assert_eq!(catalog.refresh().await.unwrap().version, 1);
}
