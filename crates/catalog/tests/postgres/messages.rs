//! The schema `realtime` as `walcast install` makes it: the table, its functions, and what is left alone.

use walcast_catalog::install;

use crate::support::Fixture;

/// A database in which walcast is installed, with the test's role as a role of tokens.
async fn installed(name: &str) -> Fixture {
    let fixture = Fixture::new(name, "").await;
    install::apply(&fixture.settings()).await.unwrap();
    fixture
        .run("GRANT USAGE ON SCHEMA realtime TO :role; GRANT SELECT, INSERT ON realtime.messages TO :role")
        .await;
    fixture
}

/// One text.
async fn text(fixture: &Fixture, sql: &str) -> Option<String> {
    fixture.admin.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{error:?} in {sql}")).get(0)
}

async fn count(fixture: &Fixture) -> i64 {
    fixture.admin.query_one("SELECT count(*) FROM realtime.messages", &[]).await.unwrap().get(0)
}

/// Makes warnings readable: the next one that `sql` raises, or none.
async fn warning(fixture: &Fixture, sql: &str) -> Option<String> {
    let (client, mut connection) =
        tokio_postgres::connect(fixture.database.url(), tokio_postgres::NoTls).await.unwrap();
    let (heard, mut notices) = tokio::sync::mpsc::unbounded_channel();
    let driver = tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                let _ = heard.send(format!("{}: {}", notice.severity(), notice.message()));
            }
        }
    });
    client.batch_execute(&sql.replace(":role", &fixture.role)).await.unwrap();
    // Notices come before the statement's end.
    let first = notices.try_recv().ok();
    drop(client);
    driver.await.unwrap();
    first
}

#[tokio::test]
async fn the_table_is_partitioned_by_days_of_utc_and_guarded() {
    let fixture = installed("messages_table").await;
    let columns = text(
        &fixture,
        "SELECT string_agg(attname || ' ' || format_type(atttypid, NULL) || CASE WHEN attnotnull THEN '!' ELSE '' END, \
             ', ' ORDER BY attnum) \
         FROM pg_attribute WHERE attrelid = 'realtime.messages'::regclass AND attnum > 0",
    )
    .await;
    assert_eq!(
        columns.as_deref(),
        Some(
            "topic text!, extension text!, payload jsonb, event text, private boolean, \
             updated_at timestamp without time zone!, inserted_at timestamp without time zone!, id uuid!, \
             binary_payload bytea"
        )
    );
    let partitions = text(
        &fixture,
        "SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid \
         WHERE inhparent = 'realtime.messages'::regclass",
    )
    .await;
    let expected = text(
        &fixture,
        "SELECT string_agg(to_char((now() AT TIME ZONE 'UTC')::date + n, '\"messages_\"YYYY_MM_DD'), ' ' ORDER BY n) \
             || ' messages_9999_12_31' FROM generate_series(-1, 3) AS n",
    )
    .await;
    assert_eq!(partitions, expected);
    let guarded = text(
        &fixture,
        "SELECT bool_and(relrowsecurity)::text FROM pg_class \
         WHERE relname LIKE 'messages%' AND relnamespace = 'realtime'::regnamespace AND relkind IN ('r', 'p')",
    )
    .await;
    assert_eq!(guarded.as_deref(), Some("true"));
    // Years away from every day's partition, and in it all the same.
    fixture
        .run("INSERT INTO realtime.messages (topic, extension, inserted_at) VALUES ('t', 'broadcast', '2001-01-01')")
        .await;
    let both = fixture
        .admin
        .batch_execute("INSERT INTO realtime.messages (topic, extension, payload, binary_payload) VALUES ('t', 'b', '{}', '')")
        .await;
    assert_eq!(both.unwrap_err().code().unwrap().code(), "23514");
}

#[tokio::test]
async fn a_role_of_tokens_may_not_create_in_the_schema_and_writes_only_by_policy() {
    let fixture = installed("messages_rights").await;
    let refused = |sql: &'static str| {
        let sql = format!("BEGIN; SET LOCAL ROLE {}; {sql}", fixture.role);
        let admin = &fixture.admin;
        async move {
            let error = admin.batch_execute(&sql).await.unwrap_err();
            admin.batch_execute("ROLLBACK").await.unwrap();
            error.code().unwrap().code().to_owned()
        }
    };
    assert_eq!(refused("CREATE TABLE realtime.mine ()").await, "42501");
    assert_eq!(refused("SELECT walcast.drop_messages_partition('2100-01-01')").await, "42501");
    let insert = "INSERT INTO realtime.messages (topic, extension) VALUES ('t', 'broadcast')";
    assert_eq!(refused(insert).await, "42501");
    fixture.run("CREATE POLICY w ON realtime.messages FOR INSERT TO :role WITH CHECK (true)").await;
    fixture.run(&format!("BEGIN; SET LOCAL ROLE :role; {insert}; COMMIT")).await;
    assert_eq!(count(&fixture).await, 1);
}

#[tokio::test]
async fn send_stores_a_private_message_in_utc_and_gives_it_its_id() {
    let fixture = installed("send").await;
    fixture
        .run(
            "SET TimeZone = 'Asia/Tokyo';
             SELECT realtime.send('{\"a\":1}', 'greeting', 'room:1');
             SELECT realtime.send('{\"id\":\"mine\"}', 'greeting', 'room:1', false);
             SELECT realtime.send_binary('\\x0102', 'bytes', 'room:1')",
        )
        .await;
    let rows = fixture
        .admin
        .query(
            "SELECT topic, extension, event, private, payload ->> 'id', id::text, payload ->> 'a', \
                 encode(binary_payload, 'hex'), \
                 abs(extract(epoch FROM inserted_at - now() AT TIME ZONE 'UTC')) < 60 \
             FROM realtime.messages ORDER BY inserted_at",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), 3);
    for row in &rows {
        assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("room:1", "broadcast"));
        assert!(row.get::<_, bool>(8), "inserted_at is in UTC");
    }
    let first = &rows[0];
    assert!(first.get::<_, bool>(3));
    assert_eq!(
        first.get::<_, Option<&str>>(4),
        Some(first.get::<_, &str>(5)),
        "the payload has the row's id"
    );
    assert_eq!(first.get::<_, Option<&str>>(6), Some("1"));
    assert!(!rows[1].get::<_, bool>(3));
    assert_eq!(rows[1].get::<_, Option<&str>>(4), Some("mine"), "an id of one's own is kept");
    assert_eq!(rows[2].get::<_, Option<&str>>(7), Some("0102"));
    assert_eq!(rows[2].get::<_, &str>(2), "bytes");
}

#[tokio::test]
async fn what_goes_wrong_with_a_message_is_a_warning_and_the_transaction_goes_on() {
    let fixture = installed("send_warns").await;
    for (sql, expected) in [
        ("SELECT realtime.send('[1]', 'e', 't')", "the payload must be a JSON object, not array"),
        ("SELECT realtime.send('{}', 'e', NULL)", "null value in column \"topic\""),
        ("SELECT realtime.send_binary('', 'e', NULL)", "null value in column \"topic\""),
        (
            "SET LOCAL ROLE :role; SELECT realtime.send('{}', 'e', 't')",
            "new row violates row-level security policy",
        ),
    ] {
        let warning = warning(&fixture, &format!("BEGIN; {sql}; COMMIT")).await.unwrap();
        assert!(warning.starts_with("WARNING: WarnSendingBroadcastMessage: "), "{warning}");
        assert!(warning.contains(expected), "{warning}");
    }
    assert_eq!(count(&fixture).await, 0);
    let sends = "BEGIN; SET LOCAL ROLE :role; SELECT realtime.send('{}', 'e', 'mine'); COMMIT";
    fixture
        .run(
            "CREATE POLICY w ON realtime.messages FOR INSERT TO :role WITH CHECK (realtime.topic() = 'mine')",
        )
        .await;
    assert_eq!(warning(&fixture, sends).await, None, "the policy finds the topic");
    assert_eq!(count(&fixture).await, 1);
    let topic = text(&fixture, "SELECT realtime.topic()").await;
    assert_eq!(topic, None, "outside a message there is no topic");
}

#[tokio::test]
async fn broadcast_changes_tells_of_inserts_updates_and_deletes() {
    let fixture = installed("broadcast_changes").await;
    fixture
        .run(
            "CREATE TABLE notes (id int, body text);
             CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM realtime.broadcast_changes('note:' || coalesce(new.id, old.id), TG_OP, TG_OP, TG_TABLE_NAME,
                     TG_TABLE_SCHEMA, new, old);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON notes FOR EACH ROW EXECUTE FUNCTION tell();
             INSERT INTO notes VALUES (1, 'x'); UPDATE notes SET body = 'y'; DELETE FROM notes",
        )
        .await;
    let rows = fixture
        .admin
        .query("SELECT topic, event, private, (payload - 'id')::text FROM realtime.messages ORDER BY inserted_at", &[])
        .await
        .unwrap();
    let told: Vec<(String, String, bool, String)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    let told_of = |operation: &str, record: &str, old: &str| {
        let payload = format!(
            "{{\"table\": \"notes\", \"record\": {record}, \"schema\": \"public\", \"operation\": \"{operation}\", \
             \"old_record\": {old}}}"
        );
        ("note:1".to_owned(), operation.to_owned(), true, payload)
    };
    let (x, y) = ("{\"id\": 1, \"body\": \"x\"}", "{\"id\": 1, \"body\": \"y\"}");
    assert_eq!(told, [told_of("INSERT", x, "null"), told_of("UPDATE", y, x), told_of("DELETE", "null", y)]);
    for (sql, expected) in [
        (
            "SELECT realtime.broadcast_changes('t', 'e', 'TRUNCATE', 'n', 'public', NULL::notes, NULL::notes)",
            "Failed to process the row: Unexpected operation type: TRUNCATE",
        ),
        (
            "SELECT realtime.broadcast_changes('t', 'e', 'INSERT', 'n', 'public', NULL::notes, NULL::notes, 'STATEMENT')",
            "Failed to process the row: function can only be triggered for each row, not for each statement",
        ),
    ] {
        let error = fixture.admin.batch_execute(sql).await.unwrap_err();
        assert_eq!(error.as_db_error().unwrap().message(), expected);
    }
}

#[tokio::test]
async fn what_upstream_has_made_is_left_as_it_is_and_what_is_missing_is_added() {
    let fixture = Fixture::new(
        "beside_upstream",
        "CREATE ROLE :role_owner;
         CREATE SCHEMA realtime AUTHORIZATION :role_owner;
         CREATE TABLE realtime.messages (topic text NOT NULL, extension text NOT NULL, payload jsonb, event text,
             private boolean DEFAULT false, updated_at timestamp NOT NULL DEFAULT now(),
             inserted_at timestamp NOT NULL DEFAULT now(), id uuid NOT NULL DEFAULT gen_random_uuid(),
             PRIMARY KEY (id, inserted_at)) PARTITION BY RANGE (inserted_at);
         ALTER TABLE realtime.messages OWNER TO :role_owner;
         CREATE FUNCTION realtime.topic() RETURNS text LANGUAGE sql AS $$ SELECT 'theirs'::text $$;
         ALTER FUNCTION realtime.topic() OWNER TO :role_owner",
    )
    .await;
    for _ in 0..2 {
        let installed = install::apply(&fixture.settings()).await.unwrap();
        assert_eq!(installed.left, ["table realtime.messages", "function realtime.topic()"]);
        assert!(installed.publishes_messages);
    }
    assert_eq!(text(&fixture, "SELECT realtime.topic()").await.as_deref(), Some("theirs"));
    let owners = text(
        &fixture,
        "SELECT count(DISTINCT relowner)::text FROM pg_class \
         WHERE relnamespace = 'realtime'::regnamespace AND relname ~ '^messages_2'",
    )
    .await;
    assert_eq!(owners.as_deref(), Some("1"));
    fixture.run("SELECT realtime.send('{}', 'e', 't')").await;
    fixture
        .run("INSERT INTO realtime.messages (topic, extension, inserted_at) VALUES ('t', 'b', '2001-01-01')")
        .await;
    install::remove(&fixture.settings()).await.unwrap();
    assert_eq!(count(&fixture).await, 2, "messages stay");
    assert_eq!(text(&fixture, "SELECT realtime.topic()").await.as_deref(), Some("theirs"));
    assert_eq!(
        text(&fixture, "SELECT to_regprocedure('realtime.send(jsonb,text,text,boolean)')::text").await,
        None
    );
    fixture
        .run("DROP PUBLICATION walcast_messages; DROP SCHEMA realtime CASCADE; DROP OWNED BY :role_owner; DROP ROLE :role_owner")
        .await;
}

#[tokio::test]
async fn uninstalling_takes_the_schema_away_unless_something_depends_on_it() {
    let fixture = installed("messages_uninstall").await;
    fixture
        .run(
            "CREATE POLICY r ON realtime.messages USING (realtime.topic() = 't');
             CREATE TABLE notes (id int); CREATE POLICY r ON notes USING (realtime.topic() = 't')",
        )
        .await;
    install::remove(&fixture.settings()).await.unwrap();
    let left = "SELECT concat_ws(' ', to_regnamespace('realtime'), to_regclass('realtime.messages'), \
                to_regprocedure('realtime.topic()'), to_regprocedure('realtime.send(jsonb,text,text,boolean)'))";
    assert_eq!(text(&fixture, left).await.as_deref(), Some("realtime realtime.topic()"));
    fixture.run("DROP POLICY r ON notes").await;
    install::remove(&fixture.settings()).await.unwrap();
    assert_eq!(text(&fixture, left).await.as_deref(), Some(""));
}

#[tokio::test]
async fn a_message_is_published_once_under_the_name_of_the_table() {
    let fixture = installed("messages_published").await;
    fixture.run("CREATE PUBLICATION everything FOR ALL TABLES").await;
    fixture.run("SET synchronous_commit = on").await;
    let slot = fixture.database.slot_name();
    fixture
        .admin
        .execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot])
        .await
        .unwrap();
    fixture.run("SELECT realtime.send('{}', 'e', 't'); DELETE FROM realtime.messages").await;
    // For each row change its letter and the name of its relation.
    let changes = async |publications: &str| -> Vec<(char, String)> {
        let rows = fixture
            .admin
            .query(
                "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', \
                 'publication_names', $2)",
                &[&slot, &publications],
            )
            .await
            .unwrap();
        let mut names = std::collections::HashMap::new();
        let mut changes = Vec::new();
        for data in rows.iter().map(|row| row.get::<_, &[u8]>(0)) {
            // Letter and oid, and in a Relation schema and name (PostgreSQL docs, "Logical Replication Message
            // Formats").
            match data[0] {
                b'R' => {
                    let mut parts = data[5..].split(|byte| *byte == 0);
                    let mut part = || String::from_utf8(parts.next().unwrap().to_vec()).unwrap();
                    names.insert(data[1..5].to_vec(), format!("{}.{}", part(), part()));
                }
                b'I' | b'U' | b'D' => changes.push((char::from(data[0]), names[&data[1..5]].clone())),
                _ => {}
            }
        }
        changes
    };
    let change = |letter: char| (letter, "realtime.messages".to_owned());
    assert_eq!(changes("walcast_messages").await, [change('I')]);
    let both = changes("walcast_messages,everything").await;
    assert_eq!(both, [change('I'), change('D')], "another publication changes no name");
}
