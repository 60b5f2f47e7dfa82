//! What walcast puts into a database.

use walcast_catalog::install;

use crate::support::Fixture;

/// The command tags that were announced in the log since the last call.
async fn announced(fixture: &Fixture) -> Vec<String> {
    let rows = fixture
        .admin
        .query(
            "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', \
             'publication_names', 'supabase_realtime', 'messages', 'true')",
            &[&fixture.database.slot_name()],
        )
        .await
        .unwrap();
    let prefix = install::MESSAGE_PREFIX.as_bytes();
    rows.iter()
        .map(|row| row.get::<_, &[u8]>(0))
        .filter(|data| data.first() == Some(&b'M'))
        .map(|data| {
            // Flags and position, the prefix with its zero, the length of the content (PostgreSQL docs,
            // "Logical Replication Message Formats", Message).
            let (name, rest) = data[10..].split_at(prefix.len());
            assert_eq!(name, prefix);
            String::from_utf8(rest[5..].to_vec()).unwrap()
        })
        .collect()
}

async fn installed(name: &str) -> Fixture {
    let fixture = Fixture::new(name, "").await;
    install::apply(&fixture.settings()).await.unwrap();
    // A slot shows only what is flushed, and test clusters are in no hurry to do so.
    fixture.run("SET synchronous_commit = on").await;
    fixture
        .admin
        .execute(
            "SELECT pg_create_logical_replication_slot($1, 'pgoutput')",
            &[&fixture.database.slot_name()],
        )
        .await
        .unwrap();
    fixture
}

#[tokio::test]
async fn installing_twice_is_as_good_as_once() {
    let fixture = Fixture::new("install_twice", "DROP PUBLICATION supabase_realtime").await;
    for _ in 0..2 {
        let installed = install::apply(&fixture.settings()).await.unwrap();
        assert!(installed.announces_catalog_changes && installed.publishes_messages);
        assert_eq!(installed.left, [""; 0]);
    }
    let counts = fixture
        .admin
        .query_one(
            "SELECT (SELECT count(*) FROM pg_event_trigger), (SELECT count(*) FROM pg_publication)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((counts.get::<_, i64>(0), counts.get::<_, i64>(1)), (2, 3));
}

#[tokio::test]
async fn the_printed_sql_installs_by_itself_and_names_the_publications() {
    let fixture = Fixture::new("install_printed", "").await;
    let publications = ["it's \"odd\" $publication$".to_owned(), "other".to_owned()];
    fixture.run(&install::sql(&publications)).await;
    fixture.run(&install::sql(&publications)).await;
    let names =
        fixture.admin.query("SELECT pubname::text FROM pg_publication ORDER BY pubname", &[]).await.unwrap();
    let names: Vec<&str> = names.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        names,
        ["it's \"odd\" $publication$", "other", "supabase_realtime", "walcast_lookups", "walcast_messages"]
    );
}

#[tokio::test]
async fn changes_of_the_catalog_are_announced_in_the_log() {
    let fixture = installed("announce").await;
    fixture.run("CREATE TABLE notes (id int PRIMARY KEY, body text)").await;
    assert_eq!(announced(&fixture).await, ["CREATE TABLE"]);
    for (sql, tag) in [
        ("CREATE POLICY own ON notes USING (true)", "CREATE POLICY"),
        ("ALTER POLICY own ON notes USING (false)", "ALTER POLICY"),
        ("ALTER TABLE notes ENABLE ROW LEVEL SECURITY", "ALTER TABLE"),
        ("GRANT SELECT ON notes TO :role", "GRANT"),
        ("REVOKE SELECT ON notes FROM :role", "REVOKE"),
        ("ALTER PUBLICATION supabase_realtime ADD TABLE notes", "ALTER PUBLICATION"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE FUNCTION"),
        ("DROP FUNCTION f()", "DROP FUNCTION"),
        ("DROP POLICY own ON notes", "DROP POLICY"),
        ("DROP TABLE notes", "DROP TABLE"),
    ] {
        fixture.run(sql).await;
        assert_eq!(announced(&fixture).await, [tag], "{sql}");
    }
}

#[tokio::test]
async fn temporary_tables_and_undone_changes_are_not_announced() {
    let fixture = installed("quiet").await;
    fixture.run("CREATE TEMP TABLE scratch (id int)").await;
    fixture.run("CREATE TEMP TABLE copy AS SELECT 1 AS id").await;
    fixture.run("ALTER TABLE scratch ADD COLUMN more int").await;
    fixture.run("DROP TABLE scratch, copy").await;
    fixture.run("BEGIN; CREATE TABLE undone (id int); ROLLBACK").await;
    assert_eq!(announced(&fixture).await, [""; 0]);
}

#[tokio::test]
async fn a_role_that_may_not_announce_installs_the_rest() {
    let fixture = Fixture::new("install_weak", "DROP PUBLICATION supabase_realtime").await;
    let database = fixture.database.name().to_owned();
    fixture.run(&format!("GRANT CREATE ON DATABASE {database} TO :role")).await;
    let installed = install::apply(&fixture.settings_of_role()).await.unwrap();
    assert!(!installed.announces_catalog_changes);
    let count = fixture.admin.query_one("SELECT count(*) FROM pg_publication", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 3);
    assert!(installed.publishes_messages);
}

#[tokio::test]
async fn what_was_installed_can_be_taken_back() {
    let fixture = Fixture::new("uninstall", "").await;
    install::apply(&fixture.settings()).await.unwrap();
    for _ in 0..2 {
        install::remove(&fixture.settings()).await.unwrap();
    }
    let left = fixture
        .admin
        .query_one(
            "SELECT (SELECT count(*) FROM pg_event_trigger), to_regnamespace('walcast') IS NULL, \
             (SELECT count(*) FROM pg_publication)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((left.get::<_, i64>(0), left.get(1), left.get::<_, i64>(2)), (0, true, 3));
}

/// Better fits than PostgreSQL's own for how these functions are called without their schema, and what tells that one
/// of them was called.
const PLANTED: &str = "
    CREATE TABLE public.called (name text);
    CREATE FUNCTION public.format(text, name) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.called VALUES ('format'); RETURN pg_catalog.format($1, $2); END $$;
    CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.called VALUES ('format'); RETURN pg_catalog.format($1, $2, $3); END $$;
    CREATE FUNCTION public.format(text, regprocedure) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.called VALUES ('format'); RETURN pg_catalog.format($1, $2); END $$;
    CREATE FUNCTION public.obj_description(regclass, name) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.called VALUES ('obj_description'); RETURN 'Made by walcast.'; END $$;
    CREATE FUNCTION public.obj_description(regprocedure, name) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.called VALUES ('obj_description'); RETURN 'Made by walcast.'; END $$;
    CREATE FUNCTION public.times(bigint, interval) RETURNS interval LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.called VALUES ('*'); RETURN $1::float8 * $2; END $$;
    CREATE OPERATOR public.* (LEFTARG = bigint, RIGHTARG = interval, FUNCTION = public.times)";

#[tokio::test]
async fn functions_that_somebody_has_planted_in_public_are_not_called() {
    let fixture = Fixture::new("install_planted", PLANTED).await;
    fixture.run("DO $$ BEGIN CREATE ROLE anon; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$").await;
    for _ in 0..2 {
        install::apply(&fixture.settings()).await.unwrap();
        fixture.run(&install::sql(&["supabase_realtime".to_owned()])).await;
    }
    let now = std::time::SystemTime::now();
    let tidied = fixture.catalog().await.tidy_messages(now, None).await.unwrap().unwrap();
    assert_eq!(tidied.failed, []);
    install::remove(&fixture.settings()).await.unwrap();
    let called = fixture.admin.query("SELECT name FROM public.called", &[]).await.unwrap();
    assert_eq!(called.iter().map(|row| row.get(0)).collect::<Vec<String>>(), [""; 0]);
}

#[tokio::test]
async fn who_holds_a_table_is_not_waited_for() {
    let fixture = installed("install_locked").await;
    let holder = fixture.database.client().await;
    holder.batch_execute("BEGIN; LOCK TABLE realtime.messages IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let started = std::time::Instant::now();
    let error = install::remove(&fixture.settings()).await.unwrap_err();
    assert_eq!(error.code(), Some("55P03"), "{error}");
    assert!(started.elapsed() < crate::support::SOON);
}

#[tokio::test]
async fn what_an_administrator_has_revoked_stays_revoked() {
    let fixture = Fixture::new("install_revoked", "").await;
    fixture.run("DO $$ BEGIN CREATE ROLE anon; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$").await;
    let rights = async || {
        let sql = "SELECT has_schema_privilege('anon', 'realtime', 'USAGE'), \
                          has_table_privilege('anon', 'realtime.messages', 'INSERT')";
        let row = fixture.admin.query_one(sql, &[]).await.unwrap();
        (row.get::<_, bool>(0), row.get::<_, bool>(1))
    };
    install::apply(&fixture.settings()).await.unwrap();
    assert_eq!(rights().await, (true, true));
    fixture
        .run("REVOKE USAGE ON SCHEMA realtime FROM anon; REVOKE INSERT ON realtime.messages FROM anon")
        .await;
    install::apply(&fixture.settings()).await.unwrap();
    assert_eq!(rights().await, (false, false));
}
