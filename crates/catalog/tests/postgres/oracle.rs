//! What the oracle answers.

use walcast_policy::{Datum, Oracle as _};

use crate::support::{Fixture, ask, ask_one, raised};

const MESSAGES: &str = "
    CREATE TABLE messages (id int PRIMARY KEY, author text, body text);
    ALTER PUBLICATION supabase_realtime ADD TABLE messages;
";

const ROW: [Datum<'static>; 3] = [Datum::Text("1"), Datum::Text("ana"), Datum::Null];

#[tokio::test]
async fn each_of_many_claims_has_its_own_answer_and_its_own_error() {
    let fixture = Fixture::new("many_claims", MESSAGES).await;
    let catalog = fixture.catalog().await;
    let expression = "(6 / (current_setting('request.jwt.claims')::json ->> 'n')::int) = 3 * id";
    let claims: Vec<String> = (0..300)
        .map(|n| match n % 4 {
            0 => r#"{"n": 2}"#.to_owned(),
            1 => r#"{"n": 0}"#.to_owned(),
            2 => r#"{"n": 1}"#.to_owned(),
            _ => "{}".to_owned(),
        })
        .collect();
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    let answers = ask(&catalog, &fixture.role, "messages", &ROW, expression, &claims).await.unwrap();
    assert_eq!(answers.len(), 300);
    for four in answers.chunks(4) {
        assert_eq!(four[0], Ok(true));
        assert_eq!(raised(four[1].clone()).0, "22012");
        assert_eq!(four[2], Ok(false));
        assert_eq!(four[3], Ok(false), "NULL is not a yes");
    }
}

#[tokio::test]
async fn policies_find_role_and_claims_where_they_look_for_them() {
    let fixture = Fixture::new("claims", MESSAGES).await;
    let catalog = fixture.catalog().await;
    let claims = r#"{"sub":"u'1","role":"x","email":"a@b"}"#;
    for expression in [
        format!("current_user = '{}'", fixture.role),
        "current_setting('request.jwt.claims')::jsonb ->> 'sub' = 'u''1'".to_owned(),
        "current_setting('request.jwt.claim.sub') = 'u''1'".to_owned(),
        "current_setting('request.jwt.claim.role') = 'x'".to_owned(),
        "current_setting('request.jwt.claim.email') = 'a@b'".to_owned(),
        "current_setting('TimeZone') = 'UTC' AND current_setting('transaction_read_only') = 'on'".to_owned(),
    ] {
        let answer = ask_one(&catalog, &fixture.role, "messages", &ROW, &expression, claims).await;
        assert_eq!(answer, Ok(true), "{expression}");
    }
    let expression = "current_setting('request.jwt.claim.sub') = ''";
    let answer = ask_one(&catalog, &fixture.role, "messages", &ROW, expression, "{}").await;
    assert_eq!(answer, Ok(true), "another's claims are gone");
}

#[tokio::test]
async fn a_sub_select_reads_the_other_table_under_that_tables_own_rules() {
    let fixture = Fixture::new(
        "sub_select",
        "CREATE TABLE members (room int, person text, hidden boolean);
         INSERT INTO members VALUES (1, 'ana', false), (1, 'bea', true), (2, 'ana', false);
         ALTER TABLE members ENABLE ROW LEVEL SECURITY;
         CREATE POLICY shown ON members USING (NOT hidden);
         CREATE TABLE \"my messages\" (id int PRIMARY KEY, room int);
         ALTER PUBLICATION supabase_realtime ADD TABLE \"my messages\";",
    )
    .await;
    let catalog = fixture.catalog().await;
    let expression = "EXISTS (SELECT FROM public.members WHERE members.room = \"my messages\".room \
                      AND members.person = current_setting('request.jwt.claim.sub'))";
    let claims = [r#"{"sub":"ana"}"#, r#"{"sub":"bea"}"#, r#"{"sub":"eva"}"#];
    let row = [Datum::Text("7"), Datum::Text("1")];

    let answers = ask(&catalog, &fixture.role, "my messages", &row, expression, &claims).await.unwrap();
    assert_eq!(raised(answers[0].clone()).1, "permission denied for table members");

    fixture.run("GRANT SELECT ON members TO :role").await;
    let answers = ask(&catalog, &fixture.role, "my messages", &row, expression, &claims).await;
    assert_eq!(answers, Ok(vec![Ok(true), Ok(false), Ok(false)]));
    let row = [Datum::Text("7"), Datum::Text("3")];
    let answers = ask(&catalog, &fixture.role, "my messages", &row, expression, &claims).await;
    assert_eq!(answers, Ok(vec![Ok(false), Ok(false), Ok(false)]));
}

#[tokio::test]
async fn a_function_in_a_schema_the_role_may_not_use_is_called_as_a_policy_would() {
    let fixture = Fixture::new(
        "private_function",
        "CREATE TABLE messages (id int PRIMARY KEY, author text);
         ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
         GRANT SELECT ON messages TO :role;
         INSERT INTO messages VALUES (1, 'ana');
         CREATE SCHEMA private;
         CREATE FUNCTION private.is_me(text) RETURNS boolean LANGUAGE plpgsql STABLE
             AS $$ BEGIN RETURN $1 = current_setting('request.jwt.claim.sub'); END $$;
         CREATE POLICY own ON messages USING (private.is_me(author));
         ALTER PUBLICATION supabase_realtime ADD TABLE messages;",
    )
    .await;
    let catalog = fixture.catalog().await;
    let row = [Datum::Text("1"), Datum::Text("ana")];
    let claims = r#"{"sub":"ana"}"#;
    let expression = "private.is_me(author)";
    let decide = || ask_one(&catalog, &fixture.role, "messages", &row, expression, claims);
    assert_eq!(decide().await, Ok(true));
    let seen = catalog.run_as(&fixture.role, claims, "SELECT id FROM public.messages", &[]).await.unwrap();
    assert_eq!(seen, serde_json::json!([{"id": 1}]), "Postgres thinks so, too");

    fixture
        .run(
            "CREATE OR REPLACE FUNCTION private.is_me(text) RETURNS boolean LANGUAGE plpgsql STABLE
             AS $$ BEGIN RETURN $1 <> current_setting('request.jwt.claim.sub'); END $$",
        )
        .await;
    assert_eq!(decide().await, Ok(false));
    fixture.run("REVOKE EXECUTE ON FUNCTION private.is_me FROM PUBLIC").await;
    assert_eq!(raised(decide().await).1, "permission denied for function is_me");
}

#[tokio::test]
async fn a_connection_that_may_not_use_a_schema_asks_as_the_role_that_may() {
    let fixture = Fixture::new(
        "weak_connection",
        "CREATE ROLE :role_reader; GRANT :role_reader TO :role;
         ALTER ROLE :role NOINHERIT;
         CREATE SCHEMA private; GRANT USAGE ON SCHEMA private TO :role_reader;
         CREATE FUNCTION private.yes() RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
         CREATE TABLE messages (id int PRIMARY KEY);
         ALTER PUBLICATION supabase_realtime ADD TABLE messages;",
    )
    .await;
    let catalog = walcast_catalog::Catalog::connect(fixture.settings_of_role()).await.unwrap();
    let reader = format!("{}_reader", fixture.role);
    let row = [Datum::Text("1")];
    let answer = ask_one(&catalog, &reader, "messages", &row, "private.yes()", "{}").await;
    assert_eq!(answer, Ok(true));
    let refused = ask_one(&catalog, "postgres", "messages", &row, "private.yes()", "{}").await;
    assert_eq!(raised(refused).1, "permission denied to set role \"postgres\"");
}

#[tokio::test]
async fn a_row_of_every_type_family_is_judged_by_its_image_though_it_is_deleted() {
    let fixture = Fixture::new(
        "all_types",
        r#"CREATE TYPE mood AS ENUM ('sad', 'so so');
         CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0);
         CREATE DOMAIN details AS jsonb;
         CREATE TYPE pair AS (x int, y text, z jsonb);
         CREATE TABLE every (
            id int PRIMARY KEY, gone int, small int2, big int8, amount numeric(20,4), nan numeric, real float4, double float8,
            yes boolean, cents money, words text, short varchar(5), fixed char(5), one "char", name name, raw bytea,
            day date, clock time, clock_there timetz, moment timestamp, instant timestamptz, duration interval,
            uid uuid, net inet, block cidr, mac macaddr, bits bit(3), more_bits varbit, doc json, docb jsonb, text_doc jsonb,
            docs json[], docbs jsonb[], details details, markup xml, search tsvector, query tsquery,
            place point, area box, areas box[], shape polygon, log pg_lsn, class regclass, vector int2vector,
            mood mood, moods mood[], level positive, pair pair, pairs pair[], matrix int[][], empty text[], quoted text[],
            instants timestamptz[], raws bytea[], span int4range, when_span tstzrange, spans int4multirange, nothing text,
            doubled int GENERATED ALWAYS AS (id * 2) STORED
         );
         ALTER TABLE every DROP COLUMN gone;
         ALTER PUBLICATION supabase_realtime ADD TABLE every;
         INSERT INTO every VALUES (
            1, -3, 9223372036854775807, 12.5000, 'NaN', 1.1, 'Infinity',
            true, '-1234.5', E'it''s "odd"\n\\ 🐘', 'abc', 'ab', 'x', 'me', '\xdeadbeef',
            '2024-01-02 BC', '12:34:56.789', '12:34:56+02', '2024-01-02 03:04:05.123456', '2024-01-02 03:04:05.123456+05', '1 year -2 days 03:04:05',
            'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '101', '10110', '{"b": 1,  "a": [null]}', '{"a": "x"}', '"text"',
            ARRAY['{"a":"b\"c"}'::json, 'null'], ARRAY['"x"'::jsonb, NULL], '{"d": 1e30}', '<a b="c">d</a>', 'a fat cat', 'fat & rat',
            '(1,2)', '(1,2),(3,4)', ARRAY['(1,2),(3,4)'::box, '(5,6),(7,8)'], '((0,0),(1,1),(1,0))', '16/B374D848', 'pg_class', '1 2 3',
            'so so', '{sad,"so so"}', 7, ROW(1, 'a, "b"', '{"k": "v"}'), ARRAY[ROW(1, NULL, NULL)::pair, NULL], '{{1,2},{3,NULL}}', '{}', ARRAY['a,b', '"', '\', '', 'NULL', NULL],
            ARRAY['2024-01-02 03:04:05+00'::timestamptz], ARRAY['\xdead'::bytea], '[1,5)', '[2024-01-02,infinity)', '{[1,3),[5,8)}', NULL
         );"#,
    )
    .await;
    let catalog = fixture.catalog().await;
    fixture.run("SET TimeZone = 'UTC'").await;
    let messages =
        fixture.admin.simple_query("DELETE FROM every RETURNING *, every::text AS whole_row").await.unwrap();
    let row = messages
        .iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .unwrap();
    let whole = row.get(row.len() - 1).unwrap().replace('\'', "''");
    let mut values: Vec<Datum<'_>> =
        (0..row.len() - 1).map(|column| row.get(column).map_or(Datum::Null, Datum::Text)).collect();
    // json_populate_record and row output see the same values, so their texts are equal as well.
    for expression in [
        format!("every::text = '{}'", whole.replace('\\', "\\\\")).replacen('\'', "E'", 1),
        "nothing IS NULL AND empty = '{}' AND cardinality(empty) = 0".to_owned(),
        "jsonb_typeof(text_doc) = 'string' AND docs[1] ->> 'a' = 'b\"c'".to_owned(),
        "jsonb_typeof(details) = 'object' AND (pair).y = 'a, \"b\"' AND matrix[2][1] = 3".to_owned(),
        "instant < moment AT TIME ZONE 'UTC' AND mood > 'sad' AND doubled = 2".to_owned(),
    ] {
        let answer = ask_one(&catalog, &fixture.role, "every", &values, &expression, "{}").await;
        assert_eq!(answer, Ok(true), "{expression}");
    }

    // The log does not carry generated columns: then it is not there to be read, and the rest is.
    *values.last_mut().unwrap() = Datum::Missing;
    let answer = ask_one(&catalog, &fixture.role, "every", &values, "id = 1 AND level = 7", "{}").await;
    assert_eq!(answer, Ok(true));
    let answer = ask_one(&catalog, &fixture.role, "every", &values, "doubled IS NULL", "{}").await;
    assert_eq!(raised(answer).0, "42703");
    // Only the key, as a DELETE has it: a domain that refuses NULL does not matter.
    values[1..].fill(Datum::Missing);
    let answer = ask_one(&catalog, &fixture.role, "every", &values, "every.id = 1", "{}").await;
    assert_eq!(answer, Ok(true));
    values.fill(Datum::Missing);
    let answer = ask_one(&catalog, &fixture.role, "every", &values, "current_user <> ''", "{}").await;
    assert_eq!(answer, Ok(true));
}

#[tokio::test]
async fn odd_names_of_tables_and_columns_are_in_scope() {
    let fixture = Fixture::new(
        "odd_names",
        r#"CREATE SCHEMA "a.b";
         CREATE TABLE "odd ""t"", 🐘" ("the ""id"" 🐘" int PRIMARY KEY, "select" text);
         ALTER PUBLICATION supabase_realtime ADD TABLE "odd ""t"", 🐘";"#,
    )
    .await;
    let catalog = fixture.catalog().await;
    let row = [Datum::Text("1"), Datum::Text("x")];
    let expression = r#""odd ""t"", 🐘"."the ""id"" 🐘" = 1 AND "select" = 'x'"#;
    let answer = ask_one(&catalog, &fixture.role, r#"odd "t", 🐘"#, &row, expression, "{}").await;
    assert_eq!(answer, Ok(true));
}

#[tokio::test]
async fn constants_are_evaluated_as_the_role_with_the_claims() {
    let fixture = Fixture::new("constants", "").await;
    let catalog = fixture.catalog().await;
    let claims = r#"{"sub":"u1","app":{"tenant":7}}"#;
    let expressions = [
        "current_user",
        "current_setting('request.jwt.claims')::jsonb -> 'app' ->> 'tenant'",
        "NULL::integer",
        "ARRAY[1,2]",
    ]
    .map(str::to_owned);
    let values = catalog.constants(&fixture.role, claims, &expressions).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(values, [text(&fixture.role), text("7"), None, text("{1,2}")]);
    assert_eq!(catalog.constants(&fixture.role, claims, &[]).await, Ok(Vec::new()));

    let broken = ["1 / 0".to_owned()];
    let outcome = catalog.constants(&fixture.role, claims, &broken).await;
    assert_eq!(raised(outcome).1, "division by zero");
}

#[tokio::test]
async fn expressions_are_checked_without_a_row_and_cannot_write() {
    let fixture = Fixture::new(
        "check",
        "CREATE TABLE written (id int);
         CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS $$ INSERT INTO written VALUES (1) RETURNING 1 $$;",
    )
    .await;
    let catalog = fixture.catalog().await;
    assert_eq!(catalog.check_expression("'12'::integer").await, Ok(()));
    let (code, message) = raised(catalog.check_expression("'abc'::integer").await);
    assert_eq!(code, "22P02");
    assert_eq!(message, "invalid input syntax for type integer: \"abc\"");
    assert_eq!(raised(catalog.check_expression("'' ~ '('").await).0, "2201B");
    assert_eq!(raised(catalog.check_expression("public.writes()").await).0, "25006");
    assert_eq!(raised(catalog.check_expression("1); DROP TABLE written; SELECT (1").await).0, "42601");
}
