//! Values of every type family look in JSON as docs/protocol.md §4.5 says, proved against a real table with one
//! column for each.

use std::collections::HashMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use walcast_testkit::{ProtocolVersion, RawFrame, Received};
use walcast_tests::watching::{Watcher, watched};
use walcast_tests::{binding, person};

/// What the families need; `pair` and `nested` are composites, `score` and `tags` domains.
const TYPES: &str = "
    create extension citext;
    create extension hstore;
    create type mood as enum ('sad', 'very happy');
    create type pair as (x int, y text);
    create type nested as (p pair, n int[], at timestamptz);
    create domain score as int check (value > 0);
    create domain tags as text[];
";

/// A column: its SQL type, `pg_type.typname`, and values as an SQL expression beside their JSON.
type Family = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const NUMBERS: &[Family] = &[
    ("int2", "int2", &[("-32768", "-32768"), ("32767", "32767")]),
    ("int4", "int4", &[("-2147483648", "-2147483648"), ("0", "0")]),
    (
        "int8",
        "int8",
        &[("9223372036854775807", "9223372036854775807"), ("-9223372036854775808", "-9223372036854775808")],
    ),
    (
        "numeric",
        "numeric",
        &[
            ("12.5000", "12.5000"),
            ("1e30", "1000000000000000000000000000000"),
            ("'NaN'", "null"),
            ("-0.000001", "-0.000001"),
            ("'Infinity'", "null"),
            ("123456789012345678901234567890.123456789", "123456789012345678901234567890.123456789"),
        ],
    ),
    ("numeric(10,2)", "numeric", &[("1234.5", "1234.50"), ("0", "0.00")]),
    (
        "float4",
        "float4",
        &[("1.5", "1.5"), ("'NaN'", "null"), ("'Infinity'", "null"), ("1e20", "100000000000000000000")],
    ),
    (
        "float8",
        "float8",
        &[
            ("0.1", "0.1"),
            ("'-Infinity'", "null"),
            ("1e-7", "0.0000001"),
            ("0.1::float8 + 0.2::float8", "0.30000000000000004"),
            ("1e22", "10000000000000000000000"),
        ],
    ),
    ("bool", "bool", &[("true", "true"), ("false", "false")]),
    ("money", "money", &[("1234.5", r#""$1,234.50""#), ("-1", r#""-$1.00""#)]),
    ("oid", "oid", &[("123", r#""123""#), ("4294967295", r#""4294967295""#)]),
];

const TEXTS: &[Family] = &[
    (
        "text",
        "text",
        &[
            ("'ñandú 🦜'", "\"ñandú 🦜\""),
            (
                r#"E'quote " backslash \\ slash / newline \n tab \t bell \x07'"#,
                r#""quote \" backslash \\ slash / newline \n tab \t bell \u0007""#,
            ),
            ("''", r#""""#),
            ("'null'", r#""null""#),
            ("'{\"a\":1}'", r#""{\"a\":1}""#),
        ],
    ),
    ("varchar(20)", "varchar", &[("'up to twenty'", r#""up to twenty""#)]),
    ("char(5)", "bpchar", &[("'ab'", r#""ab   ""#), ("'abcde'", r#""abcde""#)]),
    ("\"char\"", "char", &[("'x'", r#""x""#)]),
    ("name", "name", &[("'a name'", r#""a name""#)]),
    ("citext", "citext", &[("'MiXed'", r#""MiXed""#)]),
    ("xml", "xml", &[("'<a b=\"c\">d</a>'", r#""<a b=\"c\">d</a>""#)]),
    (
        "uuid",
        "uuid",
        &[("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#)],
    ),
    ("bytea", "bytea", &[(r"'\xDEADBEEF'", r#""deadbeef""#), ("''", r#""""#), (r"'\x00'", r#""00""#)]),
    ("mood", "mood", &[("'very happy'", r#""very happy""#)]),
    ("bit(3)", "bit", &[("B'101'", r#""101""#)]),
    ("varbit(8)", "varbit", &[("B'10'", r#""10""#), ("B''", r#""""#)]),
    ("tsvector", "tsvector", &[("'a fat cat'", r#""'a' 'cat' 'fat'""#)]),
    ("tsquery", "tsquery", &[("'fat & rat'", r#""'fat' & 'rat'""#)]),
    ("inet", "inet", &[("'192.168.0.1/24'", r#""192.168.0.1/24""#), ("'::1'", r#""::1""#)]),
    ("cidr", "cidr", &[("'10.0.0.0/8'", r#""10.0.0.0/8""#)]),
    ("macaddr", "macaddr", &[("'08:00:2B:01:02:03'", r#""08:00:2b:01:02:03""#)]),
    ("point", "point", &[("'(1,2.5)'", r#""(1,2.5)""#)]),
    ("box", "box", &[("'(0,0),(2,2)'", r#""(2,2),(0,0)""#)]),
    ("polygon", "polygon", &[("'((0,0),(1,1),(1,0))'", r#""((0,0),(1,1),(1,0))""#)]),
    ("circle", "circle", &[("'<(0,0),2>'", r#""<(0,0),2>""#)]),
    ("pg_lsn", "pg_lsn", &[("'16/B374D848'", r#""16/B374D848""#)]),
    ("regclass", "regclass", &[("'pg_class'", r#""pg_class""#)]),
];

const TIMES_AND_RANGES: &[Family] = &[
    (
        "date",
        "date",
        &[
            ("'2024-01-02'", r#""2024-01-02""#),
            ("'infinity'", r#""infinity""#),
            ("'0044-03-15 BC'", r#""0044-03-15 BC""#),
        ],
    ),
    ("time", "time", &[("'12:34:56.789'", r#""12:34:56.789""#)]),
    ("timetz", "timetz", &[("'12:34:56+02'", r#""12:34:56+02""#)]),
    (
        "timestamp",
        "timestamp",
        &[
            ("'2024-01-02 03:04:05.123456'", r#""2024-01-02T03:04:05.123456""#),
            ("'2024-01-02 03:04:05.100'", r#""2024-01-02T03:04:05.1""#),
            ("'2024-01-02 00:00'", r#""2024-01-02T00:00:00""#),
            ("'-infinity'", r#""-infinity""#),
        ],
    ),
    (
        "timestamptz",
        "timestamptz",
        &[
            ("'2024-01-02 03:04:05.123456+02'", r#""2024-01-02T01:04:05.123456+00:00""#),
            ("'2024-07-01 00:00:00 America/Montevideo'", r#""2024-07-01T03:00:00+00:00""#),
            ("'infinity'", r#""infinity""#),
        ],
    ),
    (
        "interval",
        "interval",
        &[
            ("'1 day 02:03:04'", r#""1 day 02:03:04""#),
            ("'1 year 2 mons -3 days'", r#""1 year 2 mons -3 days""#),
        ],
    ),
    ("int4range", "int4range", &[("'[1,5)'", r#""[1,5)""#), ("'empty'", r#""empty""#)]),
    ("tstzrange", "tstzrange", &[("'[2024-01-02 03:04:05+00,)'", r#""[\"2024-01-02 03:04:05+00\",)""#)]),
    ("int4multirange", "int4multirange", &[("'{[1,3),[5,8)}'", r#""{[1,3),[5,8)}""#)]),
];

const NESTED: &[Family] = &[
    (
        "json",
        "json",
        &[
            (r#"'{"b":1, "a":{"x":[1,2.50,null]}, "b":2}'"#, r#"{"a":{"x":[1,2.50,null]},"b":2}"#),
            ("'null'", "null"),
            (r#"'"text"'"#, r#""text""#),
        ],
    ),
    (
        "jsonb",
        "jsonb",
        &[
            (r#"'{"b":1, "aa":{"x":[1,2.50,null]}}'"#, r#"{"b":1,"aa":{"x":[1,2.50,null]}}"#),
            ("'null'", "null"),
            ("'12345678901234567890.5'", "12345678901234567890.5"),
        ],
    ),
    (
        "int4[]",
        "_int4",
        &[
            ("'{1,NULL,3}'", "[1,null,3]"),
            ("'{{1,2},{3,4}}'", "[[1,2],[3,4]]"),
            ("'{}'", "[]"),
            ("'[0:1]={5,6}'", "[5,6]"),
        ],
    ),
    ("text[]", "_text", &[(r#"E'{"a,b","c\\"d",NULL,"NULL",""}'"#, r#"["a,b","c\"d",null,"NULL",""]"#)]),
    ("bool[]", "_bool", &[("'{t,f}'", "[true,false]")]),
    ("numeric[]", "_numeric", &[("'{1.50,NaN}'", "[1.50,null]")]),
    ("bytea[]", "_bytea", &[(r"array['\xdead'::bytea]", r#"["\\xdead"]"#)]),
    ("timestamptz[]", "_timestamptz", &[("'{2024-01-02 03:04:05+00}'", r#"["2024-01-02T03:04:05+00:00"]"#)]),
    ("jsonb[]", "_jsonb", &[(r#"array['{"a":1}'::jsonb, 'null'::jsonb, null]"#, r#"[{"a":1},null,null]"#)]),
    ("char(3)[]", "_bpchar", &[("array['ab'::char(3)]", r#"["ab "]"#)]),
    ("box[]", "_box", &[("'{(1,1),(0,0);(3,3),(2,2)}'", r#"["(1,1),(0,0)","(3,3),(2,2)"]"#)]),
    ("mood[]", "_mood", &[("'{sad,\"very happy\"}'", r#"["sad","very happy"]"#)]),
    (
        "uuid[]",
        "_uuid",
        &[("'{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}'", r#"["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]"#)],
    ),
    ("score", "score", &[("5", "5")]),
    ("tags", "tags", &[("'{a,b}'", r#"["a","b"]"#)]),
    (
        "pair",
        "pair",
        &[
            ("row(1,'a b')", r#"{"x":1,"y":"a b"}"#),
            ("row(null,'')", r#"{"x":null,"y":""}"#),
            (r#"row(2,'say "hi" \, (all)')"#, r#"{"x":2,"y":"say \"hi\" \\, (all)"}"#),
        ],
    ),
    ("pair[]", "_pair", &[("array[row(1,'a'),null]::pair[]", r#"[{"x":1,"y":"a"},null]"#)]),
    (
        "nested",
        "nested",
        &[(
            "row(row(1,'a,b'),'{1,2}','2024-01-02 03:04:05+00')",
            r#"{"p":{"x":1,"y":"a,b"},"n":[1,2],"at":"2024-01-02T03:04:05+00:00"}"#,
        )],
    ),
    ("hstore", "hstore", &[("'a=>1, b=>NULL, \"c d\"=>\"\"'", r#"{"a":"1","b":null,"c d":""}"#)]),
];

#[tokio::test(flavor = "multi_thread")]
async fn numbers_keep_their_digits_in_record_and_old_record() -> Result<()> {
    check("values_numbers", NUMBERS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn types_without_a_json_form_are_their_text_output_and_bytea_its_digits() -> Result<()> {
    check("values_texts", TEXTS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_iso_8601_in_utc_and_ranges_are_their_text_output() -> Result<()> {
    check("values_times", TIMES_AND_RANGES).await
}

#[tokio::test(flavor = "multi_thread")]
async fn json_arrays_composites_domains_and_hstore_are_nested_json() -> Result<()> {
    check("values_nested", NESTED).await
}

/// One table with one column for each family; row n has every family's n-th value, or NULL.
async fn check(name: &str, families: &[Family]) -> Result<()> {
    let rows = families.iter().map(|(_, _, values)| values.len()).max().unwrap_or(0) + 1;
    let mut sql = format!("{TYPES} create table families (id int primary key");
    for (index, (sql_type, ..)) in families.iter().enumerate() {
        write!(sql, ", c{index} {sql_type}")?;
    }
    sql.push_str(
        "); alter table families replica identity full;
         grant select on families to authenticated;
         create publication supabase_realtime for table families;",
    );
    let world = watched(name, &sql).await?;
    for version in [ProtocolVersion::V2, ProtocolVersion::V1] {
        let client = world.connect_as(&person("ana"), version).await?;
        let mut watcher = Watcher::join_on(client, "realtime:values", &[binding("*", "families")]).await?;
        for row in 0..rows {
            let literals: Vec<_> = families
                .iter()
                .map(|(_, _, values)| values.get(row).map_or("null", |value| value.0))
                .collect();
            world.sql(&format!("insert into families values ({row}, {})", literals.join(", "))).await?;
        }
        world.sql("update families set id = id; delete from families").await?;
        for _ in 0..rows {
            let insert = watcher.next().await?;
            compare(families, &insert, version, "record")?;
        }
        for _ in 0..rows {
            let update = watcher.next().await?;
            compare(families, &update, version, "record")?;
            compare(families, &update, version, "old_record")?;
        }
        for _ in 0..rows {
            let delete = watcher.next().await?;
            compare(families, &delete, version, "old_record")?;
        }
    }
    Ok(())
}

fn compare(families: &[Family], message: &Received, version: ProtocolVersion, key: &str) -> Result<()> {
    let mut columns = vec![json!({"name": "id", "type": "int4"})];
    columns.extend(
        families
            .iter()
            .enumerate()
            .map(|(index, family)| json!({"name": format!("c{index}"), "type": family.1})),
    );
    assert_eq!(message.payload["data"]["columns"], Value::from(columns));
    let record = raw_members(message, version, key)?;
    let row: usize = record["id"].parse()?;
    let mut wrong = String::new();
    for (index, (sql_type, _, values)) in families.iter().enumerate() {
        let (literal, expected) = values.get(row).unwrap_or(&("null", "null"));
        let got = record.get(&format!("c{index}")).map(|json| compact(json));
        if got.as_deref() != Some(*expected) {
            writeln!(wrong, "{literal}::{sql_type} must be {expected}, not {got:?}")?;
        }
    }
    ensure!(wrong.is_empty(), "in {key} of the {}:\n{wrong}", message.payload["data"]["type"]);
    Ok(())
}

/// The members of `record` or `old_record` as they stand in the frame: reading numbers would round them.
fn raw_members(message: &Received, version: ProtocolVersion, key: &str) -> Result<HashMap<String, String>> {
    let RawFrame::Text(text) = &message.raw else { anyhow::bail!("a change is a text frame") };
    let object = |json: &str| -> Result<HashMap<String, Box<RawValue>>> { Ok(serde_json::from_str(json)?) };
    let payload = match version {
        ProtocolVersion::V1 => object(text)?.remove("payload"),
        ProtocolVersion::V2 => serde_json::from_str::<Vec<Box<RawValue>>>(text)?.pop(),
    };
    let data = object(payload.context("no payload")?.get())?.remove("data").context("no data")?;
    let record = object(data.get())?.remove(key).with_context(|| format!("no {key} in {data}"))?;
    Ok(object(record.get())?.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect())
}

/// JSON without the blanks outside strings, which mean nothing.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|&character| {
            let kept = in_string || character != ' ';
            if character == '"' && !escaped {
                in_string = !in_string;
            }
            escaped = in_string && character == '\\' && !escaped;
            kept
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_column_is_named_but_has_no_value_and_a_dropped_one_is_not_there() -> Result<()> {
    let world = watched(
        "values_generated",
        "create table boxes (id int primary key, gone int, w int, area int generated always as (w * w) stored);
         alter table boxes drop column gone;
         grant select on boxes to authenticated;
         create publication supabase_realtime for table boxes;",
    )
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "boxes")]).await?;
    world.sql("insert into boxes values (1, 3)").await?;
    let changes = watcher.seen(&world).await?;
    assert_eq!(
        changes,
        [json!({
            "schema": "public", "table": "boxes", "type": "INSERT",
            "columns": [
                {"name": "id", "type": "int4"}, {"name": "w", "type": "int4"}, {"name": "area", "type": "int4"}
            ],
            "record": {"id": 1, "w": 3},
            "errors": null
        })]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytea_is_not_encoded_twice() -> Result<()> {
    // §15 case 186.
    let world = watched(
        "values_bytea",
        "create table blobs (id int primary key, body bytea);
         grant select on blobs to authenticated;
         create publication supabase_realtime for table blobs;",
    )
    .await?;
    let mut watcher = Watcher::join(&world, &person("ana"), &[binding("*", "blobs")]).await?;
    world.sql(r"insert into blobs values (1, convert_to('\x6869', 'utf8'))").await?;
    assert_eq!(watcher.seen(&world).await?[0]["record"], json!({"id": 1, "body": "5c7836383639"}));
    Ok(())
}
