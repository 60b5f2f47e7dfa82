//! Questions about channels that wait for a connection at the same moment are asked together, and none of them notices.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, poll_fn};
use futures_util::{FutureExt as _, poll};
use serde_json::json;
use walcast_catalog::channels::ChannelAction::{self, Read, Write};
use walcast_catalog::{Catalog, CatalogSettings};
use walcast_policy::Oracle as _;
use walcast_policy::channel::{ChannelPolicyError, ChannelRequest, ChannelRights};

use crate::channels::{BOTH, EVERYTHING, NOTHING, installed, request};
use crate::support::Fixture;

type Answer = Result<ChannelRights, ChannelPolicyError>;

/// A policy that does what the topic says, and counts in `asked` how often it was asked. An advisory lock of the
/// session remembers each transaction.
const POLICY: &str = "
    CREATE SEQUENCE asked;
    GRANT USAGE ON SEQUENCE asked TO PUBLIC;
    CREATE FUNCTION end_session() RETURNS void LANGUAGE sql SECURITY DEFINER AS
        'SELECT pg_terminate_backend(pg_backend_pid())';
    CREATE FUNCTION rows_there() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM realtime.messages';
    CREATE FUNCTION does_as_the_topic_says() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
        PERFORM nextval('asked'), pg_advisory_lock_shared(pg_current_xact_id()::text::bigint);
        CASE split_part(realtime.topic(), ':', 1)
            WHEN 'raise' THEN RAISE 'as told';
            WHEN 'sleep' THEN PERFORM pg_sleep(30);
            WHEN 'end' THEN PERFORM end_session();
            WHEN 'rows' THEN RETURN rows_there() <= 2;
            WHEN 'leave' THEN PERFORM set_config('test.left', 'behind', false);
            WHEN 'find' THEN RETURN coalesce(current_setting('test.left', true), '') = '';
            WHEN 'sub' THEN
                RETURN current_setting('request.jwt.claim.sub') = split_part(realtime.topic(), ':', 2)
                    AND current_setting('request.jwt.claims')::json ->> 'sub' = split_part(realtime.topic(), ':', 2)
                    AND current_setting('request.headers')::json ->> 'x-sub' = split_part(realtime.topic(), ':', 2);
            ELSE RETURN realtime.topic() LIKE 'yes%';
        END CASE;
        RETURN true;
    END $$;
    CREATE POLICY p ON realtime.messages TO :role USING (does_as_the_topic_says())";

const ADVISORY_LOCKS: &str = "SELECT * FROM pg_locks WHERE locktype = 'advisory' \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// With one connection, so that all but the first wait.
async fn with_one_connection(fixture: &Fixture, statement_timeout: Duration) -> Arc<Catalog> {
    let settings = CatalogSettings { pool_size: 1, statement_timeout, ..fixture.settings() };
    let catalog = Catalog::connect(settings).await.unwrap();
    catalog.role(&fixture.role).await.unwrap();
    catalog
}

/// Asks all of it while the one connection is busy with something else.
async fn ask_at_once(
    fixture: &Fixture,
    catalog: &Arc<Catalog>,
    questions: &[(ChannelAction, ChannelRequest)],
) -> Vec<Answer> {
    fixture.run("SELECT pg_advisory_lock(7)").await;
    let busy = tokio::spawn({
        let (catalog, role) = (Arc::clone(catalog), fixture.role.clone());
        let expression = ["(SELECT pg_advisory_xact_lock_shared(7)) IS NULL".to_owned()];
        async move { catalog.constants(&role, "{}", &expression).await }
    });
    let taken = format!("SELECT true FROM ({ADVISORY_LOCKS}) AS locks WHERE objid = 7 AND NOT granted");
    while fixture.admin.query_opt(&taken, &[]).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let asked =
        questions.iter().map(|(action, request)| catalog.channel_rights_by_asking(*action, request, &BOTH));
    let mut answers = Box::pin(join_all(asked));
    assert!(poll!(&mut answers).is_pending(), "all of them wait");
    fixture.run("SELECT pg_advisory_unlock(7)").await;
    busy.await.unwrap().unwrap();
    answers.await
}

fn topic(fixture: &Fixture, topic: &str) -> ChannelRequest {
    request(&fixture.role, &json!({"sub": "ana"}), topic, &json!({}))
}

/// How many transactions the open connection has asked in.
async fn transactions(fixture: &Fixture) -> i64 {
    let sql = format!("SELECT count(DISTINCT (classid, objid)) FROM ({ADVISORY_LOCKS}) AS locks");
    fixture.admin.query_one(&sql, &[]).await.unwrap().get(0)
}

async fn times_asked(fixture: &Fixture) -> i64 {
    let sql = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM asked";
    fixture.admin.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn those_who_wait_are_asked_in_one_transaction() {
    let (fixture, _) = installed("together_one", POLICY).await;
    let catalog = with_one_connection(&fixture, Duration::from_secs(30)).await;
    let questions: Vec<_> = (0..20)
        .map(|number| {
            let name = if number % 3 == 0 { "no" } else { "yes" };
            ([Read, Write][number % 2], topic(&fixture, &format!("{name}:{number}")))
        })
        .collect();
    let answers = ask_at_once(&fixture, &catalog, &questions).await;
    for (number, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), if number % 3 == 0 { NOTHING } else { EVERYTHING }, "{number}");
    }
    assert_eq!(transactions(&fixture).await, 1);
    let rows: i64 =
        fixture.admin.query_one("SELECT count(*) FROM realtime.messages", &[]).await.unwrap().get(0);
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn what_raises_sleeps_or_ends_its_session_fails_alone() {
    let (fixture, _) = installed("together_fails", POLICY).await;
    let topics =
        ["yes:1", "raise:1", "yes:2", "no:1", "sleep:1", "yes:3", "raise:2", "end:1", "yes:4", "no:2"];
    for action in [Read, Write] {
        let catalog = with_one_connection(&fixture, Duration::from_secs(2)).await;
        let questions = topics.map(|name| (action, topic(&fixture, name)));
        let answers = ask_at_once(&fixture, &catalog, &questions).await;
        for (name, answer) in topics.iter().zip(answers) {
            match name.split(':').next().unwrap() {
                "yes" => assert_eq!(answer, Ok(EVERYTHING), "{action:?} {name}"),
                "no" => assert_eq!(answer, Ok(NOTHING), "{action:?} {name}"),
                "raise" => {
                    let raised = ChannelPolicyError::Policy("ERROR P0001 as told".to_owned());
                    assert_eq!(answer, Err(raised), "{action:?} {name}");
                }
                "sleep" => assert!(matches!(answer, Err(ChannelPolicyError::Canceled(_))), "{answer:?}"),
                _ => assert!(matches!(answer, Err(ChannelPolicyError::Unreachable(_))), "{answer:?}"),
            }
        }
    }
}

#[tokio::test]
async fn whoever_waits_behind_a_slow_policy_is_asked_over_another_connection() {
    let (fixture, _) = installed("together_slow", POLICY).await;
    let settings =
        CatalogSettings { pool_size: 2, statement_timeout: Duration::from_secs(30), ..fixture.settings() };
    let catalog = Catalog::connect(settings).await.unwrap();
    catalog.role(&fixture.role).await.unwrap();
    let slow = tokio::spawn({
        let (catalog, sleeps) = (Arc::clone(&catalog), topic(&fixture, "sleep:1"));
        let others = ["yes:1", "yes:2", "no:1"].map(|name| topic(&fixture, name));
        async move {
            let mut slow = catalog.channel_rights_by_asking(Read, &sleeps, &BOTH).boxed();
            let others = others.iter().map(|asks| catalog.channel_rights_by_asking(Read, asks, &BOTH));
            // In this order, at the same moment.
            assert!(poll!(&mut slow).is_pending());
            let answers = join_all(others).await;
            assert!(poll!(&mut slow).is_pending(), "the slow one is asked until it has an answer");
            answers
        }
    });
    assert_eq!(slow.await.unwrap(), [Ok(EVERYTHING), Ok(EVERYTHING), Ok(NOTHING)]);
}

#[tokio::test]
async fn nobody_finds_what_another_has_set_or_written() {
    let (fixture, _) = installed("together_apart", POLICY).await;
    let catalog = with_one_connection(&fixture, Duration::from_secs(30)).await;
    let mut questions = Vec::new();
    for number in 0..4 {
        for name in ["rows", "leave", "find"] {
            questions.push((Read, topic(&fixture, &format!("{name}:{number}"))));
        }
        let (sub, other) = (format!("user {number}"), format!("user {}", number + 1));
        let claims = json!({"sub": sub});
        let headers = json!({"x-sub": sub});
        questions.push((Read, request(&fixture.role, &claims, &format!("sub:{sub}"), &headers)));
        questions.push((Write, request(&fixture.role, &claims, &format!("sub:{sub}"), &headers)));
        questions.push((Read, request(&fixture.role, &claims, &format!("sub:{other}"), &headers)));
    }
    let answers = ask_at_once(&fixture, &catalog, &questions).await;
    for (number, answer) in answers.into_iter().enumerate() {
        let expected = if number % 6 == 5 { NOTHING } else { EVERYTHING };
        assert_eq!(answer.unwrap(), expected, "{:?}", questions[number]);
    }
    assert_eq!(transactions(&fixture).await, 1);
}

#[tokio::test]
async fn each_is_asked_as_its_own_role() {
    let (fixture, _) = installed(
        "together_roles",
        "CREATE ROLE :role_shut; CREATE ROLE :role_blind; CREATE ROLE :role_boss BYPASSRLS;
         GRANT SELECT, INSERT ON realtime.messages TO :role_shut, :role_boss;
         GRANT USAGE ON SCHEMA realtime TO :role_blind, :role_boss;
         CREATE FUNCTION who() RETURNS name LANGUAGE plpgsql AS 'BEGIN RETURN current_user; END';
         CREATE POLICY p ON realtime.messages USING (who() = ':role')",
    )
    .await;
    let role = |suffix: &str| format!("{}{suffix}", fixture.role);
    let catalog = with_one_connection(&fixture, Duration::from_secs(30)).await;
    let denied =
        |of: &str| Err(ChannelPolicyError::Policy(format!("ERROR 42501 permission denied for {of}")));
    let unknown =
        ChannelPolicyError::Policy("ERROR 22023 role \"nobody of this name\" does not exist".to_owned());
    let expected = [
        (role(""), Ok(EVERYTHING), Ok(EVERYTHING)),
        (role("_shut"), denied("schema realtime"), Ok(NOTHING)),
        (role("_boss"), Ok(EVERYTHING), Ok(EVERYTHING)),
        (role("_blind"), denied("table messages"), Ok(NOTHING)),
        ("nobody of this name".to_owned(), Err(unknown.clone()), Err(unknown)),
        ("postgres".to_owned(), Ok(EVERYTHING), Ok(EVERYTHING)),
        (role(""), Ok(EVERYTHING), Ok(EVERYTHING)),
    ];
    let of =
        |action| expected.iter().map(move |(role, ..)| (action, request(role, &json!({}), "t", &json!({}))));
    let questions: Vec<_> = of(Read).chain(of(Write)).collect();
    let answers = ask_at_once(&fixture, &catalog, &questions).await;
    let (read, write) = answers.split_at(expected.len());
    for (number, (role, may_read, may_write)) in expected.iter().enumerate() {
        assert_eq!(&read[number], may_read, "{role} reads");
        assert_eq!(&write[number], may_write, "{role} writes");
    }
    let roles =
        "DROP OWNED BY :role_shut, :role_blind, :role_boss; DROP ROLE :role_shut, :role_blind, :role_boss";
    fixture.run(roles).await;
}

#[tokio::test]
async fn whoever_has_gone_is_not_asked_about() {
    let (fixture, _) = installed("together_gone", POLICY).await;
    let catalog = with_one_connection(&fixture, Duration::from_secs(30)).await;
    let (gone, stays) = (topic(&fixture, "yes:gone"), topic(&fixture, "yes:stays"));
    let mut staying = catalog.channel_rights_by_asking(Write, &stays, &BOTH).boxed();
    {
        let mut leaving = catalog.channel_rights_by_asking(Write, &gone, &BOTH).boxed();
        // Without a pause in between, so that nothing has been asked yet.
        poll_fn(|context| {
            assert!(leaving.poll_unpin(context).is_pending() && staying.poll_unpin(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    }
    assert_eq!(staying.await, Ok(EVERYTHING));
    assert_eq!(times_asked(&fixture).await, 2, "once for each extension of the one who stays");
}

#[tokio::test]
async fn a_row_that_is_stored_with_another_moment_is_found_all_the_same() {
    let (fixture, catalog) = installed(
        "together_moment",
        "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             new.inserted_at := new.inserted_at + interval '1 microsecond'; RETURN new; END $$;
         CREATE TRIGGER later BEFORE INSERT ON realtime.messages FOR EACH ROW EXECUTE FUNCTION later();
         CREATE POLICY p ON realtime.messages TO :role USING (true)",
    )
    .await;
    assert_eq!(catalog.channel_rights_by_asking(Read, &topic(&fixture, "t"), &BOTH).await, Ok(EVERYTHING));
}

#[tokio::test]
async fn a_probe_whose_transaction_did_not_begin_could_not_be_written() {
    let (fixture, catalog) = installed(
        "together_read_only",
        "CREATE FUNCTION usually() RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN RETURN current_setting('default_transaction_read_only'); END $$;
         CREATE POLICY p ON realtime.messages TO :role USING (usually() = 'on')",
    )
    .await;
    for action in [Read, Write] {
        let answer = catalog.channel_rights_by_asking(action, &topic(&fixture, "t"), &BOTH).await;
        assert_eq!(answer, Ok(EVERYTHING));
    }
}
