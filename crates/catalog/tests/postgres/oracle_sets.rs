//! Many rows for many claims at once are answered as each would be on its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use walcast_catalog::{Catalog, CatalogSettings};
use walcast_policy::{Answers, Datum, Oracle as _, OracleError, Question, RowImage};

use crate::support::{Fixture, SOON, ask_one, raised, table};

const MESSAGES: &str = "
    CREATE TABLE messages (id int PRIMARY KEY, author text, body text);
    ALTER PUBLICATION supabase_realtime ADD TABLE messages;
";

/// The claim that most expressions here look at.
const SUB: &str = "current_setting('request.jwt.claim.sub')";

type Row<'a> = Vec<Datum<'a>>;

async fn ask_rows(
    fixture: &Fixture,
    catalog: &Catalog,
    name: &str,
    rows: &[Row<'_>],
    expression: &str,
    claims: &[Arc<str>],
) -> Vec<Answers> {
    let table = table(&catalog.snapshot(), name);
    let rows: Vec<RowImage<'_>> = rows.iter().map(|row| RowImage { values: row.clone() }).collect();
    let question = Question { role: &fixture.role, table: &table, rows: &rows, expression };
    catalog.decide(question, claims).await.unwrap()
}

/// Settings with which every question has the one connection.
fn narrow(fixture: &Fixture) -> CatalogSettings {
    let mut settings = fixture.settings();
    settings.pool_size = 1;
    settings
}

fn subjects(subjects: impl IntoIterator<Item = impl std::fmt::Display>) -> Vec<Arc<str>> {
    subjects.into_iter().map(|subject| Arc::from(format!(r#"{{"sub":"{subject}"}}"#))).collect()
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// Rows of `messages` with these ids, which are the authors, too.
fn messages(ids: &[String]) -> Vec<Row<'_>> {
    ids.iter().map(|id| vec![Datum::Text(id), Datum::Text(id), Datum::Null]).collect()
}

fn all_of(answers: &[Answers], expected: impl Fn(usize, usize) -> bool) {
    for (claims, rows) in answers.iter().enumerate() {
        for (row, answer) in rows.iter().enumerate() {
            assert_eq!(*answer, Ok(expected(claims, row)), "claims {claims}, row {row}");
        }
    }
}

#[tokio::test]
async fn rows_of_every_kind_are_answered_as_each_would_be_alone() {
    let fixture = Fixture::new(
        "sets_kinds",
        "CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0);
         CREATE TYPE pair AS (x int, y text);
         CREATE TABLE things (id int PRIMARY KEY, level positive, details jsonb, names text[], pair pair, note text);
         ALTER PUBLICATION supabase_realtime ADD TABLE things;",
    )
    .await;
    let catalog = fixture.catalog().await;
    let text = |text: &'static str| Datum::Text(text);
    let (null, missing) = (Datum::Null, Datum::Missing);
    let rows: Vec<Row<'_>> = vec![
        vec![text("1"), text("2"), text(r#"{"to": "ana"}"#), text("{ana,bea}"), text("(3,ana)"), null],
        vec![text("2"), text("1"), null, null, null, text("ana, \"bea\" \\ '\n🐘")],
        vec![text("3"), missing, missing, missing, missing, missing],
        vec![text("4"), text("7"), text(r#"["bea"]"#), text("{}"), text("(,)"), missing],
        vec![text("5"), text("5"), text("\"ana\""), text(r#"{"b,\"c",NULL}"#), text("(5,bea)"), text("")],
        vec![text("6"), missing, text("null"), missing, text("(6,ana)"), text("bea")],
        vec![missing; 6],
        vec![text("no number"), text("1"), null, null, null, null],
        vec![text("9"), text("-1"), null, null, null, null],
        vec![text("10"), text("1"), text("{no json}"), null, null, null],
        vec![text("11"), text("1"), text(r#"{"to": "bea"}"#), text("{bea}"), text("(11,bea)"), text("bea")],
    ];
    let claims = subjects(["ana", "bea", "", "7"]);
    for expression in [
        "id > 3".to_owned(),
        format!("details ->> 'to' = {SUB}"),
        format!("{SUB} = ANY (names) OR (pair).y = {SUB}"),
        format!("level = nullif({SUB}, '')::int"),
        format!("note LIKE '%' || {SUB} || '%'"),
        format!("{SUB} = 'bea'"),
        "things IS NOT NULL".to_owned(),
    ] {
        let together = ask_rows(&fixture, &catalog, "things", &rows, &expression, &claims).await;
        assert_eq!(together.len(), claims.len());
        for (claims, together) in claims.iter().zip(together) {
            assert_eq!(together.len(), rows.len());
            for (row, answer) in rows.iter().zip(together) {
                let alone = ask_one(&catalog, &fixture.role, "things", row, &expression, claims).await;
                // A column that no row alone carries is an error of the whole question there.
                assert_eq!(answer, alone, "{expression} of {row:?} for {claims}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_remembered_from_one_of_the_claims_to_the_next() {
    let fixture = Fixture::new(
        "sets_leaks",
        "CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO :role;
         CREATE FUNCTION auth.uid() RETURNS text LANGUAGE sql STABLE
             AS $$ SELECT current_setting('request.jwt.claim.sub', true) $$;
         CREATE FUNCTION auth.slow_uid() RETURNS text LANGUAGE plpgsql STABLE
             AS $$ BEGIN RETURN current_setting('request.jwt.claim.sub', true); END $$;
         -- The declaration lies, as some do.
         CREATE FUNCTION auth.constant_uid() RETURNS text LANGUAGE plpgsql IMMUTABLE
             AS $$ BEGIN RETURN current_setting('request.jwt.claim.sub', true); END $$;
         CREATE FUNCTION auth.cached_uid() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
             IF coalesce(current_setting('cache.uid', true), '') = '' THEN
                 PERFORM set_config('cache.uid', current_setting('request.jwt.claim.sub'), false);
             END IF;
             RETURN current_setting('cache.uid');
         END $$;
         CREATE TABLE members (room text, person text);
         INSERT INTO members SELECT n, n FROM generate_series(0, 99) n;
         ALTER TABLE members ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON members USING (person = auth.uid());
         GRANT SELECT ON members TO :role;
         CREATE TABLE messages (id int PRIMARY KEY, author text, body text);
         ALTER PUBLICATION supabase_realtime ADD TABLE messages;",
    )
    .await;
    let catalog = Catalog::connect(narrow(&fixture)).await.unwrap();
    let ids = texts(100);
    let rows = messages(&ids);
    let claims = subjects(&ids);
    for expression in [
        "author = (SELECT auth.uid())",
        "author = (SELECT auth.slow_uid())",
        "author = auth.slow_uid()",
        "author = auth.constant_uid()",
        "author = auth.cached_uid()",
        "author IN (SELECT room FROM public.members)",
        "author IN (SELECT room FROM public.members WHERE person = auth.uid())",
        "EXISTS (SELECT FROM public.members WHERE room = author AND person = (SELECT auth.slow_uid()))",
    ] {
        // More than once: PostgreSQL plans for good only at the sixth execution.
        for _ in 0..2 {
            let answers = ask_rows(&fixture, &catalog, "messages", &rows, expression, &claims).await;
            println!("{expression}");
            all_of(&answers, |claims, row| claims == row);
        }
    }
    let clean =
        "1 / (current_user = session_user AND coalesce(current_setting('cache.uid', true), '') = '')::int";
    assert_eq!(catalog.check_expression(clean).await, Ok(()));
}

#[tokio::test]
async fn what_an_expression_sets_does_not_reach_the_next_claims() {
    let fixture = Fixture::new("sets_settings", MESSAGES).await;
    let catalog = Catalog::connect(narrow(&fixture)).await.unwrap();
    let ids = texts(20);
    let claims = subjects(&ids);
    // Becomes somebody else who may more, for the rows after the first.
    let sets = format!(
        "author = {SUB} AND current_user = '{}' AND set_config('request.jwt.claim.sub', '0', false) = '0' \
         AND set_config('role', 'postgres', false) = 'postgres' AND set_config('search_path', 'x', false) = 'x'",
        fixture.role
    );
    let answers = ask_rows(&fixture, &catalog, "messages", &messages(&ids), &sets, &claims).await;
    all_of(&answers, |claims, row| claims == row);
    let clean = "1 / (current_user = session_user AND current_setting('search_path') <> 'x')::int";
    assert_eq!(catalog.check_expression(clean).await, Ok(()));
}

#[tokio::test]
async fn only_the_row_that_raises_has_an_error_and_only_for_the_claims_it_raises_for() {
    let fixture = Fixture::new("sets_raises", MESSAGES).await;
    let catalog = fixture.catalog().await;
    let ids = texts(300);
    let rows = messages(&ids);
    let claims: Vec<Arc<str>> =
        ["0", "17", "299", "no number", ""].iter().map(|n| Arc::from(format!(r#"{{"n":"{n}"}}"#))).collect();
    let expression = "1 / (id - nullif(current_setting('request.jwt.claims')::json ->> 'n', '')::int) >= 0";
    let answers = ask_rows(&fixture, &catalog, "messages", &rows, expression, &claims).await;
    for (claims, bad) in [(0, 0), (1, 17), (2, 299)] {
        for (row, answer) in answers[claims].iter().enumerate() {
            if row == bad {
                assert_eq!(raised(answer.clone()).0, "22012");
            } else {
                assert_eq!(*answer, Ok(row > bad || bad - row > 1), "claims {claims}, row {row}");
            }
        }
    }
    for answer in &answers[3] {
        assert_eq!(raised(answer.clone()).1, "invalid input syntax for type integer: \"no number\"");
    }
    assert!(answers[4].iter().all(|answer| *answer == Ok(false)), "NULL is not a yes");
}

#[tokio::test]
async fn a_privilege_that_is_missing_is_found_out_without_trying_every_row() {
    let fixture = Fixture::new(
        "sets_privilege",
        "CREATE TABLE messages (id int PRIMARY KEY, author text, body text);
         CREATE TABLE calls (id int); CREATE SEQUENCE counter;
         ALTER PUBLICATION supabase_realtime ADD TABLE messages;",
    )
    .await;
    let catalog = Catalog::connect(narrow(&fixture)).await.unwrap();
    let ids = texts(5_000);
    let claims = subjects(0..200);
    let expression = "EXISTS (SELECT FROM public.calls)";
    let start = Instant::now();
    let answers = ask_rows(&fixture, &catalog, "messages", &messages(&ids), expression, &claims).await;
    for answer in answers.iter().flatten() {
        assert_eq!(raised(answer.clone()).1, "permission denied for table calls");
    }
    // Two million statements would be needed to ask for each row.
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_function_of_the_whole_row_has_the_whole_row() {
    let fixture = Fixture::new(
        "sets_whole_row",
        "CREATE TABLE messages (id int PRIMARY KEY, author text, body text);
         CREATE FUNCTION is_own(messages) RETURNS boolean LANGUAGE plpgsql STABLE
             AS $$ BEGIN RETURN $1.author = current_setting('request.jwt.claim.sub'); END $$;
         ALTER PUBLICATION supabase_realtime ADD TABLE messages;",
    )
    .await;
    let catalog = fixture.catalog().await;
    let ids = texts(50);
    for expression in ["public.is_own(messages.*)", "public.is_own(messages)"] {
        let answers =
            ask_rows(&fixture, &catalog, "messages", &messages(&ids), expression, &subjects(&ids)).await;
        all_of(&answers, |claims, row| claims == row);
    }
}

#[tokio::test]
async fn answers_stand_where_they_belong_however_many_connections_find_them() {
    let fixture = Fixture::new("sets_order", MESSAGES).await;
    let catalog = fixture.catalog().await;
    // More rows than one statement takes, of two kinds that take turns, for more claims than one connection
    // takes on.
    let ids = texts(10_500);
    let mut rows = messages(&ids);
    for row in rows.iter_mut().step_by(3) {
        row[2] = Datum::Missing;
    }
    let claims = subjects((0..40).map(|n| n * 7 + 1));
    let expression = format!("id % {SUB}::int = 1");
    let answers = ask_rows(&fixture, &catalog, "messages", &rows, &expression, &claims).await;
    all_of(&answers, |claims, row| row % (claims * 7 + 1) == 1);
}

#[tokio::test]
async fn many_questions_at_once_do_not_keep_each_other_from_the_pool() {
    let fixture = Fixture::new("sets_crowd", MESSAGES).await;
    let catalog = fixture.catalog().await;
    let ids = texts(400);
    let rows = messages(&ids);
    let claims = subjects(&ids);
    let expression = format!("author = {SUB}");
    let questions = (0..12).map(|_| ask_rows(&fixture, &catalog, "messages", &rows, &expression, &claims));
    for answers in futures_util::future::join_all(questions).await {
        all_of(&answers, |claims, row| claims == row);
    }
}

#[tokio::test]
async fn what_is_slow_for_many_rows_is_asked_for_fewer_at_once() {
    let fixture = Fixture::new("sets_slow", MESSAGES).await;
    let mut settings = narrow(&fixture);
    settings.statement_timeout = Duration::from_millis(400);
    let catalog = Catalog::connect(settings).await.unwrap();
    let ids = texts(500);
    // Two seconds for each of the claims: more than one statement may take, and more than patience lasts.
    let expression = format!("pg_sleep(0.004) IS NOT NULL AND author = {SUB}");
    let claims = subjects([1, 2, 3]);
    let answers = ask_rows(&fixture, &catalog, "messages", &messages(&ids), &expression, &claims).await;
    all_of(&answers, |claims, row| claims + 1 == row);
}

#[tokio::test]
async fn a_row_that_takes_too_long_costs_its_own_answer_only() {
    let fixture = Fixture::new("sets_stuck", MESSAGES).await;
    let mut settings = narrow(&fixture);
    settings.statement_timeout = Duration::from_millis(200);
    let catalog = Catalog::connect(settings).await.unwrap();
    let ids = texts(60);
    let expression = format!("pg_sleep(CASE WHEN author = {SUB} THEN 60 ELSE 0 END) IS NOT NULL");
    let claims = subjects(["nobody", "33", "nobody"]);
    let answers = ask_rows(&fixture, &catalog, "messages", &messages(&ids), &expression, &claims).await;
    for (claims, rows) in answers.iter().enumerate() {
        for (row, answer) in rows.iter().enumerate() {
            if (claims, row) == (1, 33) {
                assert!(matches!(answer, Err(OracleError::Unavailable(_))), "{answer:?}");
            } else {
                assert_eq!(*answer, Ok(true), "claims {claims}, row {row}");
            }
        }
    }
}

#[tokio::test]
async fn patience_with_claims_that_are_too_slow_ends() {
    let fixture = Fixture::new("sets_impatient", MESSAGES).await;
    let mut settings = narrow(&fixture);
    // Long enough for the quick ones on a busy machine.
    settings.statement_timeout = Duration::from_secs(2);
    let catalog = Catalog::connect(settings).await.unwrap();
    let ids = texts(400);
    let expression = format!("{SUB} <> 'slow' OR pg_sleep(60) IS NOT NULL");
    let claims = subjects(["quick", "slow", "slow", "slow"]);
    let start = Instant::now();
    let answers = ask_rows(&fixture, &catalog, "messages", &messages(&ids), &expression, &claims).await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(answers[0].iter().all(|answer| *answer == Ok(true)));
    for answer in answers[1..].iter().flatten() {
        assert!(matches!(answer, Err(OracleError::Unavailable(_))), "{answer:?}");
    }
}
