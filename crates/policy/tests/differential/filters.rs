//! Filters against the SQL that their operators stand for.

use walcast_policy::schema::{Table, Types};
use walcast_policy::{Datum, Filter, FilterCondition, FilterOperator, FilterValue, Verdict};

use crate::harness::{Harness, texts};

/// Column, operator, literal, and the SQL it stands for.
const CONDITIONS: &[(&str, FilterOperator, &str, &str)] = &[
    ("i4", FilterOperator::Eq, "42", "i4 = '42'::int"),
    ("i4", FilterOperator::Neq, " 42 ", "i4 <> 42"),
    ("i8", FilterOperator::Gte, "9223372036854775807", "i8 >= 9223372036854775807"),
    ("i2", FilterOperator::Lt, "0", "i2 < 0"),
    ("n", FilterOperator::Eq, "1", "n = '1'::numeric"),
    ("n", FilterOperator::Gt, "1e2", "n > '1e2'::numeric"),
    ("n", FilterOperator::IsDistinct, "0", "n is distinct from 0"),
    ("f8", FilterOperator::Eq, "nan", "f8 = 'nan'"),
    ("f4", FilterOperator::Lte, "1.5", "f4 <= '1.5'::float4"),
    ("b", FilterOperator::Eq, "yes", "b = true"),
    ("b", FilterOperator::Is, "true", "b is true"),
    ("b", FilterOperator::Is, "false", "b is false"),
    ("b", FilterOperator::Is, "unknown", "b is unknown"),
    ("t", FilterOperator::Is, "null", "t is null"),
    ("net", FilterOperator::Is, "null", "net is null"),
    ("t", FilterOperator::Eq, "alice", "t = 'alice'"),
    ("t", FilterOperator::Neq, "", "t <> ''"),
    ("t", FilterOperator::IsDistinct, "alice", "t is distinct from 'alice'"),
    ("tc", FilterOperator::Gt, "a", "tc > 'a'"),
    ("t", FilterOperator::Like, "a%", "t like 'a%'"),
    ("v", FilterOperator::Like, "b_b", "v like 'b_b'"),
    ("v", FilterOperator::Eq, "bob", "v = 'bob'"),
    ("c", FilterOperator::Eq, "ab", "c = 'ab'"),
    ("c", FilterOperator::Eq, "abcdefgh", "c = 'abcdefgh'::bpchar"),
    ("c", FilterOperator::Like, "ab%", "c like 'ab%'"),
    ("t", FilterOperator::Match, "^a.*e$", "t ~ '^a.*e$'"),
    (
        "u",
        FilterOperator::Eq,
        "0D8B1F4E-0000-4000-8000-00000000000A",
        "u = '0d8b1f4e-0000-4000-8000-00000000000a'",
    ),
    (
        "u",
        FilterOperator::Gt,
        "0d8b1f4e-0000-4000-8000-00000000000a",
        "u > '0d8b1f4e-0000-4000-8000-00000000000a'",
    ),
    ("d", FilterOperator::Gte, "2024-02-29", "d >= '2024-02-29'"),
    ("ts", FilterOperator::Lt, "2024-12-31T00:00:00", "ts < '2024-12-31'"),
    ("tz", FilterOperator::Eq, "2024-02-29T10:30:00.000Z", "tz = '2024-02-29 12:30+02'"),
    ("tm", FilterOperator::Eq, "08:00:00", "tm = '08:00'"),
    ("iv", FilterOperator::Eq, "720:00:00", "iv = '720:00:00'::interval"),
    ("m", FilterOperator::Eq, "ok", "m = 'ok'"),
    ("m", FilterOperator::Gt, "sad", "m > 'sad'"),
    ("j", FilterOperator::Eq, "\"alice\"", "j = '\"alice\"'"),
    ("j", FilterOperator::Eq, "1", "j = '1'"),
    ("by", FilterOperator::Eq, "dead", "by = '\\xdead'"),
    ("by", FilterOperator::Eq, "\\xdead", "by = '\\xdead'"),
    ("ai", FilterOperator::Eq, "{1,2,3}", "ai = '{1,2,3}'"),
    ("dom", FilterOperator::Eq, "LOUD", "dom = 'LOUD'"),
    ("nm", FilterOperator::Eq, "alice", "nm = 'alice'"),
    ("i4", FilterOperator::In, "1|2|42", "i4 = any ('{1,2,42}')"),
    ("t", FilterOperator::In, "alice|a%b", "t = any (array['alice', 'a%b'])"),
    ("t", FilterOperator::In, "", "false"),
    ("c", FilterOperator::In, "ab|x y", "c in ('ab', 'x y')"),
    ("ai", FilterOperator::In, "{1}|{3,3,1}", "ai in ('{1}', '{3,3,1}')"),
    ("m", FilterOperator::In, "ok|sad", "m in ('ok', 'sad')"),
];

fn condition(
    table: &Table,
    column: &str,
    operator: FilterOperator,
    negated: bool,
    literal: &str,
) -> FilterCondition {
    let list = || literal.split('|').filter(|one| !one.is_empty()).map(str::to_owned).collect();
    FilterCondition {
        column: table.column_index(column).unwrap(),
        operator,
        negated,
        value: if operator == FilterOperator::In {
            FilterValue::List(list())
        } else {
            FilterValue::One(literal.to_owned())
        },
    }
}

fn compile(table: &Table, types: &Types, one: FilterCondition) -> Filter {
    Filter::compile(table, types, vec![one]).unwrap()
}

#[tokio::test]
async fn filters_match_the_rows_that_their_sql_matches() {
    let harness = Harness::start("policy_filters").await;
    let snapshot = harness.snapshot().await;
    let table = snapshot.table("public", "samples").unwrap();
    for (column, operator, literal, sql) in CONDITIONS {
        for negated in [false, true] {
            let filter =
                compile(table, &snapshot.types, condition(table, column, *operator, negated, literal));
            let sql = if negated { format!("not ({sql})") } else { (*sql).to_owned() };
            let query = format!("SELECT id FROM public.samples WHERE {sql} ORDER BY id");
            let matched = texts(&harness.client, &query).await.unwrap();
            for id in harness.row_ids() {
                let expected = matched.iter().any(|row| row[0] == Some(id.to_string()));
                let expected = if expected { Verdict::Visible } else { Verdict::Hidden };
                assert_eq!(filter.evaluate(&harness.row(id)), expected, "{sql} on row {id}");
                let mut without = harness.row(id);
                without.values[table.column_index(column).unwrap()] = Datum::Missing;
                assert_eq!(filter.evaluate(&without), Verdict::Hidden, "{sql} without its column");
            }
        }
    }
}

#[tokio::test]
async fn questions_and_checks_of_filters_are_valid_sql_of_the_same_meaning() {
    let harness = Harness::start("policy_questions").await;
    let snapshot = harness.snapshot().await;
    let table = snapshot.table("public", "samples").unwrap();
    let asking = [
        ("t", FilterOperator::Gt, "b", "t > 'b'"),
        ("tn", FilterOperator::Eq, "ALICE", "tn = 'ALICE'"),
        ("net", FilterOperator::Eq, "10.0.0.1", "net = '10.0.0.1'"),
        ("net", FilterOperator::In, "10.0.0.1|::1", "net in ('10.0.0.1', '::1')"),
        ("d", FilterOperator::Eq, "December 31, 2024", "d = '2024-12-31'"),
        ("iv", FilterOperator::Eq, "P1M", "iv = '1 mon'"),
        ("t", FilterOperator::Imatch, "ITEM", "t ~* 'item'"),
        ("t", FilterOperator::Match, "\\mitem", "t ~ '\\mitem'"),
        ("by", FilterOperator::Like, "\\336%", "by like '\\336%'::bytea"),
        ("t", FilterOperator::IsDistinct, "it's \\ it", "t is distinct from 'it''s \\ it'"),
    ];
    for (column, operator, literal, sql) in asking {
        for negated in [false, true] {
            let filter =
                compile(table, &snapshot.types, condition(table, column, operator, negated, literal));
            for check in filter.checks() {
                texts(&harness.client, &format!("SELECT {check}")).await.unwrap();
            }
            let Some(question) = filter.question() else { continue };
            let sql = if negated { format!("not ({sql})") } else { sql.to_owned() };
            let query = format!("SELECT id FROM public.samples WHERE ({question}) IS DISTINCT FROM ({sql})");
            assert_eq!(texts(&harness.client, &query).await.unwrap().len(), 0, "{question}");
        }
    }
}

#[tokio::test]
async fn what_postgres_refuses_in_a_filter_is_refused_by_a_check() {
    let harness = Harness::start("policy_checks").await;
    let snapshot = harness.snapshot().await;
    let table = snapshot.table("public", "samples").unwrap();
    for (column, operator, literal) in [
        ("i4", FilterOperator::Eq, "abc"),
        ("i2", FilterOperator::Gt, "99999"),
        ("i4", FilterOperator::In, "1|x"),
        ("u", FilterOperator::Eq, "nobody"),
        ("d", FilterOperator::Lt, "2024-02-30"),
        ("m", FilterOperator::Eq, "angry"),
        ("j", FilterOperator::Eq, "{"),
        ("net", FilterOperator::Eq, "somewhere"),
        ("dom", FilterOperator::Eq, "quiet"),
        ("ai", FilterOperator::Eq, "1"),
        ("t", FilterOperator::Match, "("),
        ("t", FilterOperator::Imatch, "[a"),
    ] {
        let filter = compile(table, &snapshot.types, condition(table, column, operator, false, literal));
        let mut refused = false;
        for check in filter.checks() {
            refused |= texts(&harness.client, &format!("SELECT {check}")).await.is_err();
        }
        assert!(refused, "{column} {operator:?} {literal} is accepted: {:?}", filter.checks());
    }
}
