//! How grants and policies are put together, and when two plans decide alike.

#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use support::{ALICE, OWNER, TABLE, policy, role, row, snapshot, table};
use walcast_pgoutput::{Oid, PgTimestamp};
use walcast_policy::schema::{Policy, PolicyCommand, Role, Table};
use walcast_policy::{Access, BoundPlan, ChannelSettings, Datum, DecidedBy, MembersAt, Plan, Verdict};

const NOW: PgTimestamp = PgTimestamp(0);

/// Sub-selects in other tables are left to PostgreSQL.
const LOOK_UP: &str = "(EXISTS ( SELECT 1 FROM public.members WHERE (members.message = messages.id)))";

fn bind(plan: &Plan, claims: &serde_json::Value) -> BoundPlan {
    plan.bind(claims, &Arc::from(claims.to_string()), &[])
}

fn judge(table: &Table, role: &Role) -> Verdict {
    let plan = Plan::compile(table, role, &snapshot());
    bind(&plan, &json!({ "sub": ALICE })).evaluate(&row(), NOW, MembersAt::none())
}

fn judged(policies: Vec<Policy>) -> Verdict {
    judge(&table(policies), &role())
}

fn restrictive(using: &str, columns: &[i16]) -> Policy {
    Policy { permissive: false, ..policy("restrictive", using, columns) }
}

#[test]
fn a_role_without_a_readable_column_sees_nothing() {
    let open = table(vec![policy("all", "true", &[])]);
    let mut stranger = role();
    stranger.privileges.clear();
    assert_eq!(judge(&open, &stranger), Verdict::Hidden);
    let mut blind = role();
    blind.privileges.get_mut(&TABLE).unwrap().selectable.fill(false);
    assert_eq!(judge(&open, &blind), Verdict::Hidden);
    assert_eq!(judge(&open, &role()), Verdict::Visible);
    assert!(Plan::compile(&open, &stranger, &snapshot()).readable().iter().all(|readable| !readable));
}

#[test]
fn without_row_security_grants_alone_decide() {
    let plain = Table { row_security: false, ..table(vec![policy("none", "false", &[])]) };
    assert_eq!(judge(&plain, &role()), Verdict::Visible);
}

#[test]
fn only_policies_of_channels_find_the_topic_and_the_headers() {
    let topic = "(current_setting('realtime.topic'::text, true) = 'lobby'::text)";
    let header = "(((current_setting('request.headers'::text))::json ->> 'x-key'::text) = 'open'::text)";
    for using in [topic, header] {
        let guarded = table(vec![policy("guarded", using, &[])]);
        let claims = json!({});
        let claims_json = Arc::from(claims.to_string());
        let channel = Plan::compile_for_channel(&guarded, &role(), &snapshot());
        assert_eq!(channel.foreign_constants(), [""; 0]);
        let judge = |topic: &str, headers: &str| {
            let bound = channel.bind_channel(&claims, &claims_json, ChannelSettings { topic, headers });
            bound.evaluate(&row(), NOW, MembersAt::none())
        };
        assert_eq!(judge("lobby", r#"{"x-key":"open"}"#), Verdict::Visible, "{using}");
        assert_eq!(judge("other", "{}"), Verdict::Hidden, "{using}");
        // For the rows of a table PostgreSQL is asked what the setting is: in its sessions there is none.
        assert_eq!(Plan::compile(&guarded, &role(), &snapshot()).foreign_constants().len(), 1, "{using}");
    }
}

#[test]
fn row_security_without_a_permissive_policy_hides_every_row() {
    assert_eq!(judged(Vec::new()), Verdict::Hidden);
    assert_eq!(judged(vec![restrictive("true", &[])]), Verdict::Hidden);
    let for_insert = Policy { command: PolicyCommand::Insert, ..policy("insert", "true", &[]) };
    assert_eq!(judged(vec![for_insert]), Verdict::Hidden);
    let check_only = Policy { using: None, ..policy("check", "true", &[]) };
    assert_eq!(judged(vec![check_only]), Verdict::Hidden);
}

#[test]
fn policies_hold_for_the_roles_that_the_reader_acts_as() {
    for (roles, expected) in [
        (vec![], Verdict::Visible),
        (vec![Oid(20)], Verdict::Visible),
        (vec![Oid(99), Oid(21)], Verdict::Visible),
        (vec![Oid(99)], Verdict::Hidden),
    ] {
        let one = Policy { roles: roles.clone(), command: PolicyCommand::All, ..policy("p", "true", &[]) };
        assert_eq!(judged(vec![one]), expected, "{roles:?}");
    }
}

#[test]
fn owners_and_bypassrls_are_not_bound_unless_forced() {
    let closed = table(Vec::new());
    let mut owner = role();
    owner.acts_as.insert(OWNER);
    assert_eq!(judge(&closed, &owner), Verdict::Visible);
    let forced = Table { force_row_security: true, ..closed.clone() };
    assert_eq!(judge(&forced, &owner), Verdict::Hidden);
    let bypassing = Role { bypasses_row_security: true, ..role() };
    assert_eq!(judge(&forced, &bypassing), Verdict::Visible);
}

#[test]
fn one_permissive_policy_and_every_restrictive_one_must_hold() {
    let own = || policy("own", "(owner = auth.uid())", &[2]);
    let open = || policy("open", "public", &[4]);
    assert_eq!(judged(vec![open()]), Verdict::Hidden);
    assert_eq!(judged(vec![open(), own()]), Verdict::Visible);
    assert_eq!(judged(vec![own(), restrictive("(id > 5)", &[1])]), Verdict::Visible);
    assert_eq!(judged(vec![own(), restrictive("(id > 7)", &[1])]), Verdict::Hidden);
    assert_eq!(judged(vec![own(), restrictive("NULL::boolean", &[])]), Verdict::Hidden);
}

#[test]
fn postgres_is_asked_unless_the_rest_hides_the_row() {
    let member = || policy("member", LOOK_UP, &[1]);
    let own = |id: &str| policy("own", &format!("(owner = '{id}'::uuid)"), &[2]);
    let stranger = "0d8b1f4e-0000-4000-8000-00000000000b";
    assert_eq!(judged(vec![member()]), Verdict::Ask);
    // What is left might raise, and then PostgreSQL would show nothing.
    assert_eq!(judged(vec![member(), own(ALICE)]), Verdict::Ask);
    assert_eq!(judged(vec![member(), own(stranger)]), Verdict::Ask);
    assert_eq!(judged(vec![member(), restrictive("public", &[4])]), Verdict::Hidden);
    assert_eq!(judged(vec![policy("both", &format!("(public AND {LOOK_UP})"), &[1, 4])]), Verdict::Hidden);
    assert_eq!(
        judged(vec![policy("itself", "((CURRENT_USER = CURRENT_USER) OR public)", &[4])]),
        Verdict::Ask
    );
    assert_eq!(judged(vec![policy("not", &format!("(NOT (public OR {LOOK_UP}))"), &[1, 4])]), Verdict::Ask);
    assert_eq!(
        judged(vec![policy("typeless", "((place = '(1,2)'::point) OR (id = 7))", &[1, 6])]),
        Verdict::Ask
    );
}

#[test]
fn the_question_is_all_policies_as_postgres_joins_them() {
    let policies =
        vec![policy("a", LOOK_UP, &[1]), policy("b", "public", &[4]), restrictive("(id > 5)", &[1])];
    let plan = Plan::compile(&table(policies), &role(), &snapshot());
    let bound = bind(&plan, &json!({}));
    assert_eq!(bound.question(), Some(format!("((id > 5)) AND ((public) OR ({LOOK_UP}))").as_str()));
    let [first, second, _] = plan.explanation() else { panic!("three policies") };
    assert_eq!(second.decided, DecidedBy::Process);
    let DecidedBy::Oracle(left) = &first.decided else { panic!("{first:?}") };
    assert_eq!(left[0].reason, "a look-up in public.members");
}

#[test]
fn a_plan_that_never_asks_has_no_question() {
    let plan = Plan::compile(&table(vec![policy("own", "(owner = auth.uid())", &[2])]), &role(), &snapshot());
    assert_eq!(plan.access(), Access::ByPolicy);
    assert_eq!(bind(&plan, &json!({ "sub": ALICE })).question(), None);
}

#[test]
fn a_column_that_the_image_lacks_is_named_only_where_it_matters() {
    let without = |policies: Vec<Policy>, column: usize| {
        let plan = Plan::compile(&table(policies), &role(), &snapshot());
        let mut image = row();
        image.values[column] = Datum::Missing;
        bind(&plan, &json!({ "sub": ALICE })).evaluate(&image, NOW, MembersAt::none())
    };
    let body = || policy("body", "(body = 'hello'::text)", &[3]);
    let own = || policy("own", "(owner = auth.uid())", &[2]);
    assert_eq!(without(vec![body()], 2), Verdict::Missing { column: 2 });
    assert_eq!(without(vec![body(), own()], 2), Verdict::Visible);
    assert_eq!(without(vec![body()], 0), Verdict::Visible);
    assert_eq!(without(vec![policy("look", LOOK_UP, &[1])], 0), Verdict::Missing { column: 0 });
    assert_eq!(without(vec![policy("look", LOOK_UP, &[1])], 2), Verdict::Ask);
    let whole = Policy { whole_row: true, ..policy("whole", "public.check(messages.*)", &[]) };
    assert_eq!(without(vec![whole], 5), Verdict::Missing { column: 5 });
}

#[test]
fn what_raises_is_not_visible_and_says_why() {
    let message = |using: &str| match judged(vec![policy("p", using, &[1])]) {
        Verdict::Failed(message) => message,
        other => panic!("{using}: {other:?}"),
    };
    assert_eq!(message("((1 / (id - 7)) > 0)"), "division by zero");
    assert_eq!(message("((body)::integer = 1)"), "invalid input syntax for type integer: \"hello\"");
    assert_eq!(message("((id + 2147483647) > 0)"), "integer out of range");
    // PostgreSQL evaluates from left to right: what stands behind an error does not count.
    assert_eq!(message("(((1 / (id - 7)) > 0) OR (id = 7))"), "division by zero");
    assert_eq!(judged(vec![policy("p", "((id = 7) OR ((1 / (id - 7)) > 0))", &[1])]), Verdict::Visible);
}

#[test]
fn what_the_planner_computes_and_raises_for_the_claims_hides_every_row() {
    let judged = |using: &str, claims: serde_json::Value| {
        let table = table(vec![policy("a", using, &[2, 4]), policy("b", "(body = 'hello'::text)", &[3])]);
        let plan = Plan::compile(&table, &role(), &snapshot());
        bind(&plan, &claims).evaluate(&row(), NOW, MembersAt::none())
    };
    let nobody = || json!({ "sub": "nobody" });
    let raises = |verdict| matches!(verdict, Verdict::Failed(message) if message.contains("nobody"));
    // To estimate how many rows it finds, the planner computes what a column is compared with.
    for using in [
        "(owner = auth.uid())",
        "(NOT (auth.uid() <> owner))",
        "(owner IS DISTINCT FROM auth.uid())",
        "(public AND ((owner > auth.uid()) IS TRUE))",
        "(owner = ANY (ARRAY[auth.uid(), owner]))",
    ] {
        assert!(raises(judged(using, nobody())), "{using}");
        assert_eq!(judged(using, json!({ "sub": ALICE })), Verdict::Visible, "{using}");
    }
    // Not so of what is no comparison with the row, is not reached, or is in a sub-select.
    for using in [
        "((auth.uid() IS NULL) OR public)",
        "(owner = ( SELECT auth.uid() AS uid))",
        "(owner IN ( SELECT auth.uid() AS uid))",
        "CASE WHEN public THEN (owner = auth.uid()) ELSE public END",
        "COALESCE(public, (owner = auth.uid()))",
    ] {
        assert_eq!(judged(using, nobody()), Verdict::Visible, "{using}");
    }
}

#[test]
fn null_in_every_strict_operator_is_no_match() {
    for using in [
        "(owner = auth.uid())",
        "(owner <> auth.uid())",
        "(body ~~ '%'::text)",
        "(body !~~ '%'::text)",
        "(id > 0)",
        "(price <= 10.0)",
        "((id + 1) > 0)",
        "(body ~ 'h'::text)",
        "(details @> '{}'::jsonb)",
        "(details ? 'a'::text)",
        "((details ->> 'a'::text) = '1'::text)",
        "(id = ANY (ARRAY[7]))",
        "(NOT public)",
        "(length(body) = 5)",
        "((body || 'x'::text) = 'hellox'::text)",
    ] {
        let plan = Plan::compile(&table(vec![policy("p", using, &[])]), &role(), &snapshot());
        let mut image = row();
        image.values.fill(Datum::Null);
        let bound = bind(&plan, &json!({ "sub": ALICE }));
        assert_eq!(bound.evaluate(&image, NOW, MembersAt::none()), Verdict::Hidden, "{using}");
        assert_eq!(
            bound.evaluate(&row(), NOW, MembersAt::none()) == Verdict::Visible,
            !using.contains("<>") && !using.contains("!~~"),
            "{using}"
        );
    }
}

#[test]
fn plans_are_equal_where_they_decide_alike() {
    let compile =
        |using: &str| Plan::compile(&table(vec![policy("p", using, &[1, 2, 4])]), &role(), &snapshot());
    let count = |using: &str, claims: &[serde_json::Value]| {
        let bound = claims.iter().map(|claims| bind(&compile(using), claims));
        bound.collect::<HashSet<BoundPlan>>().len()
    };
    let three = [json!({ "sub": ALICE, "exp": 1 }), json!({ "sub": ALICE, "exp": 2 }), json!({ "exp": 3 })];
    assert_eq!(count("public", &three), 1);
    assert_eq!(count("(owner = auth.uid())", &three), 2);
    assert_eq!(count("(public OR (auth.uid() IS NULL))", &three), 2);
    // Whoever may ask PostgreSQL is known by all the claims.
    assert_eq!(count(LOOK_UP, &three), 3);
}

#[test]
fn foreign_constants_are_computed_elsewhere_and_read_here() {
    let using = "(body = current_setting('app.tenant'::text, true))";
    let plan = Plan::compile(&table(vec![policy("p", using, &[3])]), &role(), &snapshot());
    assert_eq!(plan.foreign_constants(), ["current_setting('app.tenant'::TEXT, true)"]);
    let with = |value: Option<&str>| {
        let bound = plan.bind(&json!({}), &Arc::from("{}"), &[value.map(str::to_owned)]);
        bound.evaluate(&row(), NOW, MembersAt::none())
    };
    assert_eq!(with(Some("hello")), Verdict::Visible);
    assert_eq!(with(Some("other")), Verdict::Hidden);
    assert_eq!(with(None), Verdict::Hidden);
}

#[test]
fn a_policy_that_is_no_sql_we_read_is_left_to_postgres() {
    let endless = "public OR ".repeat(20_000) + "public";
    for using in [endless.as_str(), "", "((", "owner = ", "id", "nonsense(id)", "(id = 1); DROP TABLE x"] {
        assert_eq!(judged(vec![policy("p", using, &[])]), Verdict::Ask, "{using}");
    }
}

proptest! {
    #[test]
    fn any_text_compiles_to_a_plan_that_judges_without_panic(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..25),
    ) {
        let _ = judged(vec![policy("p", &pieces.join(" "), &[1, 2, 3])]);
    }
}

/// What expressions are made of, to be put together in any order.
const PIECES: &[&str] = &[
    "(",
    ")",
    "AND",
    "OR",
    "NOT",
    "id",
    "body",
    "owner",
    "details",
    "=",
    "<",
    "~~",
    "~",
    "->>",
    "@>",
    "+",
    "-",
    "/",
    "%",
    "1",
    "0",
    "'x'::text",
    "'{}'::jsonb",
    "'2024-01-01'::date",
    "NULL",
    "auth.uid()",
    "ANY",
    "ARRAY[",
    "]",
    ",",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "IS NULL",
    "IS TRUE",
    "::integer",
    "::uuid",
    "::text",
    "COALESCE(",
    "lower(",
    "split_part(",
    "SELECT",
    "EXISTS",
    "IN",
    "IS DISTINCT FROM",
    "\"",
    "'",
    "E'\\\\'",
];
