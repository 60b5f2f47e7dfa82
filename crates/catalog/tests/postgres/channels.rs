//! What the policies of `realtime.messages` allow, compiled and asked of PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use walcast_catalog::channels::ChannelAction::{self, Read, Write};
use walcast_catalog::{Catalog, CatalogSettings, install};
use walcast_policy::Oracle as _;
use walcast_policy::channel::ChannelExtension::{self, Broadcast, Presence};
use walcast_policy::channel::{
    ChannelPolicies as _, ChannelPolicyError, ChannelRequest, ChannelRights, ReplayRequest, StoredMessage,
    StoredPayload,
};

use crate::support::Fixture;

pub(crate) const BOTH: [ChannelExtension; 2] = [Broadcast, Presence];
pub(crate) const NOTHING: ChannelRights = ChannelRights { broadcast: false, presence: false };
pub(crate) const EVERYTHING: ChannelRights = ChannelRights { broadcast: true, presence: true };

/// A database in which walcast is installed, with the test's role as a role of tokens.
pub(crate) async fn installed(name: &str, sql: &str) -> (Fixture, Arc<Catalog>) {
    let fixture = Fixture::new(name, "").await;
    install::apply(&fixture.settings()).await.unwrap();
    fixture
        .run("GRANT USAGE ON SCHEMA realtime TO :role; GRANT SELECT, INSERT ON realtime.messages TO :role")
        .await;
    fixture.run(sql).await;
    let catalog = fixture.catalog().await;
    (fixture, catalog)
}

pub(crate) fn request(role: &str, claims: &Value, topic: &str, headers: &Value) -> ChannelRequest {
    ChannelRequest {
        role: role.into(),
        claims: Arc::new(claims.clone()),
        claims_json: claims.to_string().into(),
        topic: topic.into(),
        headers: headers.to_string().into(),
    }
}

fn plain(fixture: &Fixture, topic: &str) -> ChannelRequest {
    request(&fixture.role, &json!({"sub": "ana", "role": fixture.role}), topic, &json!({}))
}

/// The rights both ways, which must be the same.
async fn rights(catalog: &Catalog, action: ChannelAction, request: &ChannelRequest) -> ChannelRights {
    let compiled = catalog.channel_rights_in_process(action, request, &BOTH).await.unwrap();
    let asked = catalog.channel_rights_by_asking(action, request, &BOTH).await.unwrap();
    assert_eq!(compiled, Some(asked), "{action:?} of {request:?}");
    asked
}

/// The rights, which only PostgreSQL can tell.
async fn asked(catalog: &Catalog, action: ChannelAction, request: &ChannelRequest) -> ChannelRights {
    assert_eq!(catalog.channel_rights_in_process(action, request, &BOTH).await.unwrap(), None);
    match action {
        Read => catalog.read(request, &BOTH).await.unwrap(),
        Write => catalog.write(request, &BOTH).await.unwrap(),
    }
}

#[tokio::test]
async fn policies_for_reading_and_writing_are_found_by_role_topic_subject_and_header() {
    let (fixture, catalog) = installed(
        "channel_rights",
        "CREATE POLICY topic ON realtime.messages FOR SELECT TO :role
             USING (realtime.topic() = 'lobby' AND extension = 'broadcast');
         CREATE POLICY subject ON realtime.messages FOR SELECT TO :role
             USING ((SELECT realtime.topic()) = 'user:' || (current_setting('request.jwt.claims', true)::jsonb ->> 'sub'));
         CREATE POLICY header ON realtime.messages FOR SELECT TO :role
             USING ((current_setting('request.headers', true)::json ->> 'x-key') = 'open');
         CREATE POLICY sends ON realtime.messages FOR INSERT TO :role
             WITH CHECK (topic LIKE 'lobby%' AND realtime.messages.extension IN ('broadcast', 'presence')
                 AND event IS NULL AND payload IS NULL AND NOT private);
         CREATE POLICY all_of_it ON realtime.messages TO :role USING (realtime.topic() = 'whole')",
    )
    .await;
    let broadcast = ChannelRights { broadcast: true, presence: false };
    for (topic, headers, read, write) in [
        ("lobby", json!({}), broadcast, EVERYTHING),
        ("lobby 2", json!({}), NOTHING, EVERYTHING),
        ("user:ana", json!({}), EVERYTHING, NOTHING),
        ("user:eva", json!({}), NOTHING, NOTHING),
        ("user:eva", json!({"x-key": "open"}), EVERYTHING, NOTHING),
        ("user:eva", json!({"x-key": "shut"}), NOTHING, NOTHING),
        ("whole", json!({}), EVERYTHING, EVERYTHING),
    ] {
        let asks = request(&fixture.role, &json!({"sub": "ana"}), topic, &headers);
        assert_eq!(rights(&catalog, Read, &asks).await, read, "{topic} {headers}");
        assert_eq!(rights(&catalog, Write, &asks).await, write, "{topic} {headers}");
    }
    let only = catalog.read(&plain(&fixture, "whole"), &[Presence]).await.unwrap();
    assert_eq!(only, ChannelRights { broadcast: false, presence: true }, "what is not asked is not granted");
}

#[tokio::test]
async fn grants_ownership_and_bypassrls_count() {
    let (fixture, catalog) =
        installed("channel_grants", "CREATE POLICY all_of_it ON realtime.messages TO :role USING (true)")
            .await;
    let asks = plain(&fixture, "t");
    assert_eq!(rights(&catalog, Read, &asks).await, EVERYTHING);
    let postgres = request("postgres", &json!({}), "t", &json!({}));
    assert_eq!(rights(&catalog, Read, &postgres).await, EVERYTHING, "policies do not bind a superuser");
    assert_eq!(rights(&catalog, Write, &postgres).await, EVERYTHING);

    fixture.run("REVOKE INSERT ON realtime.messages FROM :role").await;
    catalog.refresh().await.unwrap();
    assert_eq!(rights(&catalog, Write, &asks).await, NOTHING);
    fixture.run("REVOKE SELECT ON realtime.messages FROM :role").await;
    catalog.refresh().await.unwrap();
    let refused = catalog.read(&asks, &BOTH).await.unwrap_err();
    assert_eq!(
        refused,
        ChannelPolicyError::Policy("ERROR 42501 permission denied for table messages".to_owned())
    );
    fixture.run("GRANT SELECT, INSERT ON realtime.messages TO :role; ALTER ROLE :role BYPASSRLS").await;
    fixture.run("DROP POLICY all_of_it ON realtime.messages").await;
    catalog.refresh().await.unwrap();
    assert_eq!(rights(&catalog, Read, &asks).await, EVERYTHING);
    fixture.run("ALTER ROLE :role NOBYPASSRLS").await;
    catalog.refresh().await.unwrap();
    assert_eq!(rights(&catalog, Read, &asks).await, NOTHING);
    assert_eq!(rights(&catalog, Write, &asks).await, NOTHING);
}

#[tokio::test]
async fn look_ups_and_other_languages_are_asked_of_postgres() {
    let (fixture, catalog) = installed(
        "channel_asked",
        "CREATE TABLE members (room text, who text, PRIMARY KEY (room, who));
         INSERT INTO members VALUES ('room:1', 'ana');
         GRANT SELECT ON members TO :role;
         CREATE POLICY members ON realtime.messages TO :role USING (EXISTS (
             SELECT FROM members WHERE room = realtime.topic() AND who = current_setting('request.jwt.claims')::json ->> 'sub'));
         CREATE FUNCTION odd() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN realtime.topic() = 'odd'; END $$;
         CREATE POLICY odd ON realtime.messages FOR INSERT TO :role WITH CHECK (odd())",
    )
    .await;
    assert_eq!(asked(&catalog, Read, &plain(&fixture, "room:1")).await, EVERYTHING);
    assert_eq!(asked(&catalog, Read, &plain(&fixture, "room:2")).await, NOTHING);
    assert_eq!(asked(&catalog, Write, &plain(&fixture, "odd")).await, EVERYTHING);
    assert_eq!(asked(&catalog, Write, &plain(&fixture, "room:2")).await, NOTHING);
    let own: i64 = fixture
        .admin
        .query_one("SELECT count(*) FROM pg_publication_tables WHERE tablename = 'members'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(own, 0, "nothing is published for what channels look up");
}

#[tokio::test]
async fn a_check_leaves_no_row_and_no_change_in_the_log() {
    let (fixture, catalog) =
        installed("channel_traces", "CREATE POLICY p ON realtime.messages TO :role USING (true)").await;
    fixture.run("SET synchronous_commit = on").await;
    let slot = fixture.database.slot_name();
    fixture
        .admin
        .execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot])
        .await
        .unwrap();
    let asks = plain(&fixture, "t");
    for together in [1, 4] {
        let actions = [Read, Write].into_iter().cycle().take(2 * together);
        let found = actions.map(|action| catalog.channel_rights_by_asking(action, &asks, &BOTH));
        for answer in join_all(found).await {
            assert_eq!(answer.unwrap(), EVERYTHING);
        }
    }
    fixture.run("SELECT realtime.send('{}', 'only', 't')").await;
    let changes: i64 = fixture
        .admin
        .query_one(
            "SELECT count(*) FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', \
             'publication_names', 'walcast_messages') WHERE get_byte(data, 0) = ascii('I')",
            &[&slot],
        )
        .await
        .unwrap()
        .get(0);
    let rows: i64 =
        fixture.admin.query_one("SELECT count(*) FROM realtime.messages", &[]).await.unwrap().get(0);
    assert_eq!((changes, rows), (1, 1), "only the message that was sent");
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_row_counts_for_writing() {
    let (fixture, catalog) = installed(
        "channel_trigger",
        "CREATE POLICY p ON realtime.messages TO :role USING (true);
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.topic = 'shut' THEN RAISE insufficient_privilege; END IF; RETURN new; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON realtime.messages FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    assert_eq!(asked(&catalog, Write, &plain(&fixture, "open")).await, EVERYTHING);
    assert_eq!(asked(&catalog, Write, &plain(&fixture, "shut")).await, NOTHING);
    fixture.run("DROP TRIGGER refuse ON realtime.messages").await;
    catalog.refresh().await.unwrap();
    assert_eq!(rights(&catalog, Write, &plain(&fixture, "shut")).await, EVERYTHING);
}

#[tokio::test]
async fn what_raises_grants_nothing_and_says_why() {
    let (fixture, catalog) = installed(
        "channel_raises",
        "CREATE POLICY p ON realtime.messages TO :role USING (1 / length(replace(topic, 'zero', '')) = 1)",
    )
    .await;
    let error = catalog.read(&plain(&fixture, "zero"), &BOTH).await.unwrap_err();
    assert_eq!(error, ChannelPolicyError::Policy("ERROR 22012 division by zero".to_owned()));
    assert_eq!(catalog.write(&plain(&fixture, "zero"), &BOTH).await.unwrap_err(), error);
    assert_eq!(rights(&catalog, Read, &plain(&fixture, "x")).await, EVERYTHING);

    let nobody = request("no such role", &json!({}), "t", &json!({}));
    let error = catalog.read(&nobody, &BOTH).await.unwrap_err();
    assert_eq!(
        error,
        ChannelPolicyError::Policy("ERROR 42704 role \"no such role\" does not exist".to_owned())
    );
    let none = request("none", &json!({}), "t", &json!({}));
    assert!(matches!(catalog.write(&none, &BOTH).await.unwrap_err(), ChannelPolicyError::Policy(_)));
}

#[tokio::test]
async fn a_slow_policy_is_cut_off_and_a_full_pool_is_said_to_be_full() {
    let (fixture, _) = installed(
        "channel_slow",
        "CREATE FUNCTION slow() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_sleep(CASE realtime.topic() WHEN 'slow' THEN 30 ELSE 1.6 END); RETURN true; END $$;
         CREATE POLICY p ON realtime.messages TO :role USING (slow())",
    )
    .await;
    let settings =
        CatalogSettings { pool_size: 1, statement_timeout: Duration::from_secs(2), ..fixture.settings() };
    let catalog = Catalog::connect(settings).await.unwrap();
    let error = catalog.read(&plain(&fixture, "slow"), &[Broadcast]).await.unwrap_err();
    let expected = "canceling statement due to statement timeout";
    assert_eq!(error, ChannelPolicyError::Canceled(expected.to_owned()));

    // Two statements of 1.6 s each, in one conversation; whoever waits does so for 2 s.
    let busy = tokio::spawn({
        let (catalog, request) = (Arc::clone(&catalog), plain(&fixture, "busy"));
        async move { catalog.write(&request, &BOTH).await }
    });
    let waiting = plain(&fixture, "waiting");
    let taken =
        "SELECT true FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    while fixture.admin.query_opt(taken, &[]).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let refused = catalog.write(&waiting, &[Broadcast]).await.unwrap_err();
    assert!(matches!(refused, ChannelPolicyError::PoolExhausted(_)), "{refused:?}");
    // Had it waited, it would have had its turn.
    let refused = catalog.write(&waiting, &[Broadcast]).await.unwrap_err();
    assert!(
        matches!(refused, ChannelPolicyError::PoolExhausted(_)),
        "right after that nobody waits: {refused:?}"
    );
    assert_eq!(busy.await.unwrap().unwrap(), EVERYTHING);
    let served = catalog.write(&waiting, &[Broadcast]).await.unwrap();
    assert!(served.broadcast, "a connection that is free is used");
}

#[tokio::test]
async fn a_day_without_a_partition_is_told_from_a_policy() {
    let (fixture, catalog) = installed(
        "channel_partition",
        "CREATE FUNCTION yes() RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
         CREATE POLICY p ON realtime.messages TO :role USING (yes());
         DO $$ DECLARE part regclass; BEGIN
             FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'realtime.messages'::regclass LOOP
                 EXECUTE format('DROP TABLE %s', part);
             END LOOP; END $$",
    )
    .await;
    for outcome in
        [catalog.read(&plain(&fixture, "t"), &BOTH).await, catalog.write(&plain(&fixture, "t"), &BOTH).await]
    {
        let Err(ChannelPolicyError::MissingPartition(text)) = outcome else { panic!("{outcome:?}") };
        assert!(text.contains("walcast install"), "{text}");
    }
}

#[tokio::test]
async fn without_the_table_it_is_said_how_to_install_it_and_it_is_found_once_it_is_there() {
    let fixture = Fixture::new("channel_not_installed", "").await;
    let catalog = fixture.catalog().await;
    let streamed = ["supabase_realtime", "walcast_lookups", "walcast_messages"];
    assert_eq!(catalog.streamed_publications(), streamed, "the stream is ready for the table");
    let asks = plain(&fixture, "t");
    let replays = ReplayRequest { topic: "t".into(), since_unix_ms: 0, limit: 25 };
    for error in [
        catalog.read(&asks, &BOTH).await.unwrap_err(),
        catalog.write(&asks, &BOTH).await.unwrap_err(),
        catalog.replay(&replays).await.map(drop).unwrap_err(),
    ] {
        let ChannelPolicyError::NotInstalled(text) = error else { panic!("{error:?}") };
        assert!(text.ends_with("run `walcast install --apply`"), "{text}");
    }
    fixture.run("CREATE SCHEMA realtime; CREATE VIEW realtime.messages AS SELECT 1 AS id").await;
    catalog.refresh().await.unwrap();
    let error = catalog.read(&asks, &BOTH).await.unwrap_err();
    assert!(error.to_string().contains("because it is no table"), "{error}");
    fixture.run("DROP SCHEMA realtime CASCADE").await;
    install::apply(&fixture.settings()).await.unwrap();
    catalog.refresh().await.unwrap();
    fixture.run("GRANT USAGE ON SCHEMA realtime TO :role; GRANT SELECT ON realtime.messages TO :role").await;
    catalog.refresh().await.unwrap();
    assert_eq!(catalog.read(&asks, &BOTH).await.unwrap(), NOTHING);
}

#[tokio::test]
async fn a_table_that_appears_later_joins_the_publication_by_itself() {
    let fixture = Fixture::new("channel_later", "").await;
    let catalog = fixture.catalog().await;
    fixture
        .run(
            "CREATE SCHEMA realtime; CREATE TABLE realtime.messages (topic text, inserted_at timestamp)
              PARTITION BY RANGE (inserted_at)",
        )
        .await;
    catalog.refresh().await.unwrap();
    let published =
        "SELECT pubname || ' ' || tablename FROM pg_publication_tables WHERE schemaname = 'realtime'";
    let found: String = fixture.admin.query_one(published, &[]).await.unwrap().get(0);
    assert_eq!(found, "walcast_messages messages");
    let error = catalog.read(&plain(&fixture, "t"), &BOTH).await.unwrap_err();
    assert!(error.to_string().contains("it lacks the usual extension, payload, event"), "{error}");
}

#[tokio::test]
async fn whoever_may_not_write_probes_is_told_what_it_takes() {
    let (fixture, _) = installed(
        "channel_weak",
        "CREATE POLICY p ON realtime.messages TO :role USING (pg_backend_pid() > 0)",
    )
    .await;
    fixture.run("REVOKE INSERT ON realtime.messages FROM :role").await;
    let settings = CatalogSettings { read_only: true, ..fixture.settings_of_role() };
    let catalog = Catalog::connect(settings).await.unwrap();
    let error = catalog.read(&plain(&fixture, "t"), &BOTH).await.unwrap_err();
    let ChannelPolicyError::NotInstalled(text) = error else { panic!("{error:?}") };
    assert!(text.contains("GRANT SELECT, INSERT"), "{text}");
    let replays = ReplayRequest { topic: "t".into(), since_unix_ms: 0, limit: 25 };
    let error = catalog.replay(&replays).await.unwrap_err();
    let ChannelPolicyError::NotInstalled(text) = error else { panic!("{error:?}") };
    assert!(text.contains("BYPASSRLS"), "{text}");
}

#[tokio::test]
async fn a_channels_settings_never_reach_the_policies_of_tables() {
    let (fixture, _) = installed(
        "channel_settings",
        "CREATE POLICY p ON realtime.messages TO :role USING (pg_backend_pid() > 0)",
    )
    .await;
    let catalog = Catalog::connect(CatalogSettings { pool_size: 1, ..fixture.settings() }).await.unwrap();
    let settings = ["current_setting('realtime.topic', true)", "current_setting('request.headers', true)"]
        .map(str::to_owned);
    for _ in 0..2 {
        assert_eq!(asked(&catalog, Read, &plain(&fixture, "t")).await, EVERYTHING);
        assert_eq!(catalog.constants(&fixture.role, "{}", &settings).await.unwrap(), [None, None]);
    }
    let open: i64 = fixture
        .admin
        .query_one("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()", &[])
        .await
        .unwrap()
        .get(0);
    // The test's own, and one of walcast's whose predecessor may be about to end.
    assert!(open <= 3, "{open} connections are open");
}

#[tokio::test]
async fn a_change_of_a_policy_a_grant_or_a_role_is_announced_and_nothing_else() {
    let (fixture, catalog) = installed(
        "channel_changes",
        "CREATE TABLE notes (id int PRIMARY KEY);
         CREATE FUNCTION mine() RETURNS bool LANGUAGE sql STABLE AS 'SELECT true'",
    )
    .await;
    catalog.read(&plain(&fixture, "t"), &BOTH).await.unwrap();
    let mut changed = catalog.channel_policies_changed();
    changed.mark_unchanged();
    // A role that is named for the first time is news, and no change of what others may.
    catalog.read(&request("postgres", &json!({}), "t", &json!({})), &BOTH).await.unwrap();
    assert!(!changed.has_changed().unwrap());
    for (sql, expected) in [
        ("CREATE POLICY p ON realtime.messages FOR INSERT TO :role WITH CHECK (mine())", true),
        ("ALTER POLICY p ON realtime.messages WITH CHECK (NOT mine())", true),
        ("CREATE OR REPLACE FUNCTION mine() RETURNS bool LANGUAGE sql STABLE AS 'SELECT false'", true),
        ("REVOKE INSERT ON realtime.messages FROM :role", true),
        ("ALTER ROLE :role BYPASSRLS", true),
        ("ALTER PUBLICATION supabase_realtime ADD TABLE notes", false),
        ("SELECT walcast.make_messages_partition('2031-06-01')", false),
        ("DROP POLICY p ON realtime.messages", true),
        ("DROP TABLE realtime.messages", true),
    ] {
        fixture.run(sql).await;
        catalog.refresh().await.unwrap();
        assert_eq!(changed.has_changed().unwrap(), expected, "{sql}");
        changed.mark_unchanged();
    }
}

#[tokio::test]
async fn a_replay_is_the_newest_private_broadcasts_of_the_topic_oldest_first() {
    let (_fixture, catalog) = installed(
        "channel_replay",
        "INSERT INTO realtime.messages (topic, extension, event, payload, private, inserted_at)
         SELECT topic, extension, event, '{\"a\": 1}', private, (now() AT TIME ZONE 'UTC') + shift FROM (VALUES
             ('t', 'broadcast', 'oldest', true, interval '-50 hours'),
             ('t', 'broadcast', 'older', true, interval '-2 hours'),
             ('t', 'broadcast', 'old', true, interval '-1 hour'),
             ('t', 'broadcast', 'public', false, interval '-1 hour'),
             ('t', 'presence', 'presence', true, interval '-1 hour'),
             ('other', 'broadcast', 'other', true, interval '-1 hour'),
             ('t', 'broadcast', NULL, true, interval '-1 hour'),
             ('t', 'broadcast', 'ahead', true, interval '2 minutes')
         ) AS rows(topic, extension, event, private, shift);
         SELECT realtime.send_binary('\\x01ff', 'newest', 't')",
    )
    .await;
    let since = |hours: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        i64::try_from(now.as_millis()).unwrap() - hours * 3_600_000
    };
    let replay = async |since_unix_ms: i64, limit: u8| {
        catalog.replay(&ReplayRequest { topic: "t".into(), since_unix_ms, limit }).await.unwrap()
    };
    let events = |messages: &[StoredMessage]| -> Vec<String> {
        messages.iter().map(|message| message.event.to_string()).collect()
    };
    let all = replay(0, 25).await;
    assert_eq!(events(&all), ["oldest", "older", "old", "newest"]);
    assert_eq!(all[0].payload, StoredPayload::Json("{\"a\": 1}".into()));
    assert_eq!(all[3].payload, StoredPayload::Binary([1, 255].into()));
    assert_eq!(all[0].id.len(), 36);
    assert_eq!(events(&replay(since(3), 25).await), ["older", "old", "newest"]);
    assert_eq!(events(&replay(0, 2).await), ["old", "newest"]);
    assert!(replay(i64::MAX, 25).await.is_empty() && replay(since(-1), 25).await.is_empty());
    assert_eq!(replay(i64::MIN, 25).await.len(), 4);
}
