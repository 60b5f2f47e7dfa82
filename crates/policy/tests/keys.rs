//! The keys that audiences are found by: what is derived, and that it leaves no visible row out.

#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::sync::Arc;

use serde_json::json;
use support::{ALICE, policy, role, snapshot, table, types};
use walcast_pgoutput::PgTimestamp;
use walcast_policy::schema::Policy;
use walcast_policy::{
    BoundPlan, Datum, Filter, FilterCondition, FilterOperator, FilterValue, Key, MembersAt, Plan, RowImage,
    Verdict,
};

const BOB: &str = "0d8b1f4e-0000-4000-8000-00000000000b";

fn bound(policies: Vec<Policy>) -> BoundPlan {
    let claims = json!({ "sub": ALICE, "room": 7, "tags": "a" });
    let plan = Plan::compile(&table(policies), &role(), &snapshot());
    assert!(plan.foreign_constants().is_empty());
    plan.bind(&claims, &Arc::from(claims.to_string()), &[])
}

fn keys(using: &str) -> Option<Vec<(usize, String)>> {
    let found = bound(vec![policy("only", using, &[1, 2, 3, 4])]).keys()?;
    let column = |key| match key {
        Key::Column { column, value } => (column, value.into()),
        Key::Member { .. } => panic!("a look-up"),
    };
    Some(found.into_iter().map(column).collect())
}

#[test]
fn an_equality_with_a_claim_is_found_by_the_claims_value() {
    assert_eq!(keys("(owner = auth.uid())"), Some(vec![(1, ALICE.to_owned())]));
    assert_eq!(keys("(( SELECT auth.uid() AS uid) = owner)"), Some(vec![(1, ALICE.to_owned())]));
    let as_text =
        "((owner)::text = ((current_setting('request.jwt.claims'::text, true))::jsonb ->> 'sub'::text))";
    assert_eq!(keys(as_text), Some(vec![(1, ALICE.to_owned())]));
}

#[test]
fn a_conjunction_needs_one_equality_and_a_disjunction_needs_all() {
    let both = "((id > 3) AND (body = 'x'::text))";
    assert_eq!(keys(both), Some(vec![(2, "x".to_owned())]));
    let either = "((owner = auth.uid()) OR (body = 'x'::text))";
    assert_eq!(keys(either), Some(vec![(1, ALICE.to_owned()), (2, "x".to_owned())]));
    assert_eq!(keys("((owner = auth.uid()) OR (id > 3))"), None);
}

#[test]
fn a_list_is_one_equality_for_each_element() {
    let list = "(id = ANY (ARRAY[1, 2]))";
    assert_eq!(keys(list), Some(vec![(0, "1".to_owned()), (0, "2".to_owned())]));
}

#[test]
fn what_can_never_hold_is_an_empty_list_and_what_always_may_is_none() {
    assert_eq!(keys("false"), Some(Vec::new()));
    assert_eq!(keys("(body = NULL::text)"), Some(Vec::new()));
    assert_eq!(keys("true"), None);
    assert_eq!(keys("public"), None);
    assert_eq!(keys("(price = 1.0)"), None, "1.0 and 1.00 are equal and have different texts");
}

#[test]
fn a_filter_gives_its_equality() {
    let condition = |operator, negated| FilterCondition {
        column: 0,
        operator,
        negated,
        value: FilterValue::One("07".to_owned()),
    };
    let filter = |condition| Filter::compile(&table(Vec::new()), &types(), vec![condition]).unwrap();
    let equal = filter(condition(FilterOperator::Eq, false)).keys();
    assert_eq!(equal, Some(vec![Key::Column { column: 0, value: "7".into() }]));
    assert_eq!(filter(condition(FilterOperator::Eq, true)).keys(), None);
    assert_eq!(filter(condition(FilterOperator::Gt, false)).keys(), None);
    assert_eq!(Filter::none().keys(), None);
}

#[test]
fn no_row_that_may_be_visible_is_left_out() {
    let policies = [
        "(owner = auth.uid())",
        "((owner = auth.uid()) AND public)",
        "((owner = auth.uid()) OR (id = ANY (ARRAY[1, 3])))",
        "(NOT (owner = auth.uid()))",
        "(((owner = auth.uid()) = true) OR (body = 'x'::text))",
        "((body = 'x'::text) IS NOT FALSE)",
        "((body = 'x'::text) IS TRUE)",
        "CASE WHEN public THEN (id = 1) ELSE (id = 2) END",
        "COALESCE((id = 1), public)",
        "((owner = auth.uid()) OR (EXISTS ( SELECT 1 FROM public.members WHERE (members.message = messages.id))))",
        "((id)::text = '1'::text)",
    ];
    let rows = rows();
    for using in policies {
        let plan = bound(vec![policy("only", using, &[1, 2, 3, 4])]);
        let Some(keys) = plan.keys() else { continue };
        for row in &rows {
            let found = keys.iter().any(|key| match key {
                Key::Column { column, value } => row.get(*column) == Datum::Text(value),
                Key::Member { .. } => panic!("a look-up"),
            });
            let verdict = plan.evaluate(row, PgTimestamp(0), MembersAt::none());
            assert!(
                found || verdict == Verdict::Hidden,
                "{using}: {row:?} is {verdict:?} and would not be found"
            );
        }
    }
}

/// Rows with every combination of a few values in the first four columns.
fn rows() -> Vec<RowImage<'static>> {
    let ids = [Datum::Text("1"), Datum::Text("2"), Datum::Text("3")];
    let owners = [Datum::Text(ALICE), Datum::Text(BOB), Datum::Null];
    let bodies = [Datum::Text("x"), Datum::Text("y"), Datum::Null];
    let publics = [Datum::Text("t"), Datum::Text("f"), Datum::Null];
    let mut rows = Vec::new();
    for id in ids {
        for owner in owners {
            for body in bodies {
                for public in publics {
                    let rest = [Datum::Null; 5];
                    rows.push(RowImage { values: [&[id, owner, body, public][..], &rest].concat() });
                }
            }
        }
    }
    rows
}
