//! What the catalog finds.

use std::collections::BTreeSet;

use walcast_catalog::Catalog;
use walcast_pgoutput::Oid;
use walcast_policy::Oracle as _;
use walcast_policy::schema::{
    Collation, Column, Identity, PolicyCommand, Snapshot, Table, TypeKind, Volatility,
};
use walcast_testkit::database::major;

use crate::support::{Fixture, raised, table};

fn column<'a>(table: &'a Table, name: &str) -> &'a Column {
    &table.columns[table.column_index(name).unwrap_or_else(|| panic!("no column {name}"))]
}

fn kind(snapshot: &Snapshot, oid: Oid) -> &TypeKind {
    &snapshot.types.get(oid).unwrap_or_else(|| panic!("no type {oid}")).kind
}

const VARIED: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    ALTER TYPE mood ADD VALUE 'so so' BEFORE 'ok';
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN very_positive AS positive;
    CREATE TYPE pair AS (x int, gone int, "y z" text);
    ALTER TYPE pair DROP ATTRIBUTE gone;
    CREATE COLLATION ignoring_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE "odd ""table"", 🐘" (
        id bigint PRIMARY KEY, gone text, mood mood, moods mood[], level very_positive, pairs pair[],
        boxes box[], span int4range, spans int4multirange, amount numeric(10,2), vector int2vector,
        "the ""name"" 🐘" varchar(20) COLLATE "C", plain text COLLATE "en-US-x-icu", folded text COLLATE ignoring_case,
        twice bigint GENERATED ALWAYS AS (id * 2) STORED
    );
    ALTER TABLE "odd ""table"", 🐘" DROP COLUMN gone;
    ALTER PUBLICATION supabase_realtime ADD TABLE "odd ""table"", 🐘";
"#;

#[tokio::test]
async fn columns_are_found_with_types_keys_and_collations() {
    let fixture = Fixture::new("columns", VARIED).await;
    let snapshot = fixture.catalog().await.snapshot();
    let table = table(&snapshot, "odd \"table\", 🐘");

    let numbers: Vec<i16> = table.columns.iter().map(|column| column.number).collect();
    assert_eq!(numbers, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert!(table.column_index("gone").is_none());
    assert!(column(&table, "id").primary_key && column(&table, "id").identity);
    assert!(!column(&table, "mood").primary_key && !column(&table, "mood").identity);
    assert_eq!(column(&table, "amount").sql_type, "numeric(10,2)");
    assert_eq!(column(&table, "level").sql_type, "public.very_positive");
    assert_eq!(column(&table, "id").collation, Collation::Bytes);
    assert_eq!(column(&table, "the \"name\" 🐘").collation, Collation::Bytes);
    assert_eq!(column(&table, "the \"name\" 🐘").type_modifier, 24);
    assert_eq!(column(&table, "plain").collation, Collation::Locale);
    assert_eq!(column(&table, "folded").collation, Collation::Nondeterministic);
}

#[tokio::test]
async fn types_are_closed_over_what_they_are_made_of() {
    let fixture = Fixture::new("types", VARIED).await;
    let snapshot = fixture.catalog().await.snapshot();
    let table = table(&snapshot, "odd \"table\", 🐘");
    let of = |name: &str| column(&table, name).type_oid;

    let labels = ["sad", "so so", "ok", "happy"].map(str::to_owned).to_vec();
    let mood = of("mood");
    assert_eq!(*kind(&snapshot, mood), TypeKind::Enum { labels });
    assert_eq!(*kind(&snapshot, of("moods")), TypeKind::Array { element: mood, delimiter: ',' });
    assert!(matches!(kind(&snapshot, of("boxes")), TypeKind::Array { delimiter: ';', .. }));

    assert!(matches!(kind(&snapshot, of("level")), TypeKind::Domain { .. }));
    assert_eq!(snapshot.types.base(of("level")).unwrap().name, "int4");

    let TypeKind::Array { element, .. } = kind(&snapshot, of("pairs")) else {
        panic!("pairs is no array");
    };
    let fields = vec![("x".to_owned(), Oid(23)), ("y z".to_owned(), Oid(25))];
    assert_eq!(*kind(&snapshot, *element), TypeKind::Composite { fields });
    assert_eq!(*kind(&snapshot, Oid(25)), TypeKind::Base);

    assert_eq!(*kind(&snapshot, of("span")), TypeKind::Range);
    assert_eq!(*kind(&snapshot, of("spans")), TypeKind::Range);
    assert_eq!(*kind(&snapshot, of("vector")), TypeKind::Base);
}

#[tokio::test]
async fn replica_identities_name_their_columns() {
    let fixture = Fixture::new(
        "identities",
        "CREATE TABLE by_key (a int, b int, c int, PRIMARY KEY (b, a) INCLUDE (c));
         CREATE TABLE by_row (a int PRIMARY KEY, b int, c int GENERATED ALWAYS AS (a) STORED);
         ALTER TABLE by_row REPLICA IDENTITY FULL;
         CREATE TABLE by_index (a int PRIMARY KEY, b int NOT NULL UNIQUE);
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b_key;
         CREATE TABLE by_nothing (a int PRIMARY KEY);
         ALTER TABLE by_nothing REPLICA IDENTITY NOTHING;
         CREATE TABLE keyless (a int);
         CREATE TABLE no_columns ();
         ALTER PUBLICATION supabase_realtime ADD TABLE by_key, by_row, by_index, by_nothing, keyless, no_columns;",
    )
    .await;
    let snapshot = fixture.catalog().await.snapshot();
    let identity = |name: &str| {
        let table = table(&snapshot, name);
        let columns: Vec<String> =
            table.columns.iter().filter(|column| column.identity).map(|column| column.name.clone()).collect();
        (table.identity, columns.join(" "))
    };
    assert_eq!(identity("by_key"), (Identity::Default, "a b".to_owned()));
    assert_eq!(identity("by_row"), (Identity::Full, "a b".to_owned()));
    assert_eq!(identity("by_index"), (Identity::Index, "b".to_owned()));
    assert_eq!(identity("by_nothing"), (Identity::Nothing, String::new()));
    assert_eq!(identity("keyless"), (Identity::Default, String::new()));
    assert!(!table(&snapshot, "keyless").has_primary_key());
    assert!(table(&snapshot, "no_columns").columns.is_empty());
}

#[tokio::test]
async fn publications_are_resolved_to_the_tables_the_stream_names() {
    let fixture = Fixture::new(
        "publications",
        "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
         CREATE TABLE plain (id int PRIMARY KEY);
         CREATE SCHEMA other; CREATE TABLE other.one (id int PRIMARY KEY);
         CREATE PUBLICATION leaves FOR TABLE root;
         CREATE PUBLICATION roots FOR TABLE root WITH (publish_via_partition_root);
         CREATE PUBLICATION everything FOR ALL TABLES;",
    )
    .await;
    // PostgreSQL 14 publishes no schemas.
    let schemas = if major().await >= 15 { "TABLES IN SCHEMA other" } else { "TABLE other.one" };
    fixture.run(&format!("CREATE PUBLICATION schemas FOR {schemas}")).await;
    for (publications, expected) in [
        (vec!["leaves"], vec!["leaf"]),
        (vec!["roots"], vec!["root"]),
        (vec!["schemas"], vec!["one"]),
        (vec!["roots", "schemas", "missing"], vec!["one", "root"]),
        (vec!["everything"], vec!["leaf", "one", "plain"]),
    ] {
        let mut settings = fixture.settings();
        settings.publications = publications.iter().map(|&name| name.to_owned()).collect();
        let snapshot = Catalog::connect(settings).await.unwrap().snapshot();
        let found: BTreeSet<&str> = snapshot.tables.values().map(|table| table.name.as_str()).collect();
        assert_eq!(found, expected.into_iter().collect(), "{publications:?}");
    }
}

#[tokio::test]
async fn policies_come_with_their_columns_roles_and_functions() {
    let fixture = Fixture::new(
        "policies",
        "CREATE SCHEMA auth;
         CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE
             AS $$ SELECT (current_setting('request.jwt.claims', true)::json ->> 'sub')::uuid $$;
         CREATE FUNCTION auth.uid(fallback uuid) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT SECURITY DEFINER
             BEGIN ATOMIC SELECT fallback; END;
         CREATE TABLE members (room int, person uuid, PRIMARY KEY (room, person));
         CREATE TABLE messages (id int PRIMARY KEY, gone int, room int, author uuid, body text);
         ALTER TABLE messages DROP COLUMN gone;
         CREATE FUNCTION looks_good(messages) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
         ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
         ALTER TABLE messages FORCE ROW LEVEL SECURITY;
         CREATE POLICY own ON messages FOR SELECT TO :role, postgres USING (author = auth.uid());
         CREATE POLICY member ON messages USING (
             EXISTS (SELECT FROM members m WHERE m.room = messages.room AND m.person = auth.uid()));
         CREATE POLICY \"whole row\" ON messages AS RESTRICTIVE FOR SELECT USING (looks_good(messages));
         CREATE POLICY writes ON messages FOR INSERT WITH CHECK (body <> '');
         ALTER PUBLICATION supabase_realtime ADD TABLE messages;",
    )
    .await;
    let catalog = fixture.catalog().await;
    let snapshot = catalog.role(&fixture.role).await.unwrap();
    let messages = table(&snapshot, "messages");
    assert!(messages.row_security && messages.force_row_security);
    let names: Vec<&str> = messages.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["member", "own", "whole row", "writes"]);
    let [member, own, whole_row, writes] = &messages.policies[..] else {
        unreachable!("four policies were found")
    };
    assert_eq!((member.command, member.permissive), (PolicyCommand::All, true));
    assert!(member.roles.is_empty());
    assert_eq!(member.columns, [3]);
    let using = member.using.as_deref().unwrap();
    assert!(using.contains("public.members") && using.contains("messages.room"), "{using}");

    assert_eq!(own.command, PolicyCommand::Select);
    assert_eq!(own.using.as_deref(), Some("(author = auth.uid())"));
    assert_eq!((&own.columns[..], own.whole_row), (&[4][..], false));
    assert!(own.roles.contains(&snapshot.roles[&fixture.role].oid) && own.roles.len() == 2);

    assert!(whole_row.whole_row && !whole_row.permissive);
    assert_eq!((writes.command, &writes.using), (PolicyCommand::Insert, &None));

    let [plain, overload] = &snapshot.functions["auth.uid"][..] else {
        panic!("auth.uid has two overloads: {:?}", snapshot.functions);
    };
    assert_eq!((plain.volatility, plain.language.as_str()), (Volatility::Stable, "sql"));
    assert!(plain.arguments.is_empty() && plain.body.contains("request.jwt.claims"));
    assert_eq!(overload.argument_names, ["fallback"]);
    assert_eq!(overload.arguments, [overload.returns]);
    assert!(overload.strict && overload.security_definer && overload.body.contains("SELECT"));
    assert_eq!(snapshot.functions["public.looks_good"][0].language, "plpgsql");
    assert_eq!(snapshot.types.base(plain.returns).unwrap().name, "uuid");
}

#[tokio::test]
async fn privileges_are_those_of_tables_columns_and_schemas() {
    let fixture = Fixture::new(
        "privileges",
        "CREATE TABLE whole (a int PRIMARY KEY, b int); GRANT SELECT ON whole TO :role;
         CREATE TABLE partial (a int PRIMARY KEY, gone int, b int, c int);
         ALTER TABLE partial DROP COLUMN gone; GRANT SELECT (a, c) ON partial TO :role;
         CREATE TABLE secret (a int PRIMARY KEY);
         CREATE TABLE writable (a int PRIMARY KEY); GRANT INSERT, UPDATE ON writable TO :role;
         CREATE SCHEMA closed; CREATE TABLE closed.whole (a int PRIMARY KEY); GRANT SELECT ON closed.whole TO :role;
         ALTER PUBLICATION supabase_realtime ADD TABLE whole, partial, secret, writable, closed.whole;",
    )
    .await;
    let catalog = fixture.catalog().await;
    let snapshot = catalog.role(&fixture.role).await.unwrap();
    let role = &snapshot.roles[&fixture.role];
    let selectable = |schema: &str, name: &str| {
        let oid = snapshot.table(schema, name).unwrap().oid;
        role.privileges.get(&oid).map(|privileges| privileges.selectable.clone())
    };
    assert_eq!(selectable("public", "whole"), Some(vec![true, true]));
    assert_eq!(selectable("public", "partial"), Some(vec![true, false, true]));
    assert_eq!(selectable("public", "secret"), None);
    assert_eq!(selectable("public", "writable"), None);
    assert_eq!(selectable("closed", "whole"), Some(vec![true]));
    assert!(role.schemas.contains("public") && !role.schemas.contains("closed"));
    assert!(!role.bypasses_row_security);
}

#[tokio::test]
async fn roles_act_as_those_they_inherit_from() {
    let fixture = Fixture::new(
        "roles",
        "CREATE ROLE :role_group; CREATE ROLE :role_top; CREATE ROLE :role_outside NOINHERIT BYPASSRLS;
         GRANT :role_top TO :role_group; GRANT :role_group TO :role, :role_outside;",
    )
    .await;
    let catalog = fixture.catalog().await;
    let name = |suffix: &str| format!("{}{suffix}", fixture.role);
    for suffix in ["", "_group", "_top", "_outside"] {
        catalog.role(&name(suffix)).await.unwrap();
    }
    let snapshot = catalog.snapshot();
    let oid = |suffix: &str| snapshot.roles[&name(suffix)].oid;
    let acts_as = |suffix: &str| &snapshot.roles[&name(suffix)].acts_as;
    assert_eq!(*acts_as(""), [oid(""), oid("_group"), oid("_top")].into_iter().collect());
    assert_eq!(*acts_as("_outside"), [oid("_outside")].into_iter().collect());
    assert!(snapshot.roles[&name("_outside")].bypasses_row_security);
}

#[tokio::test]
async fn a_role_that_does_not_exist_is_refused_in_postgres_words() {
    let fixture = Fixture::new("no_role", "").await;
    let catalog = fixture.catalog().await;
    for name in ["nobody", "none", "", "public", "it's \"odd\""] {
        let (code, message) = raised(catalog.role(name).await);
        assert_eq!(code, "42704");
        assert_eq!(message, format!("role \"{name}\" does not exist"));
    }
}
