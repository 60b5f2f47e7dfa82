//! What filters refuse, in the words of `docs/protocol.md` §5.3.

#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use support::{row, table, types};
use walcast_policy::{
    Datum, Filter, FilterCondition, FilterError, FilterOperator, FilterValue, OracleError, Verdict,
};

fn compile(column: &str, operator: FilterOperator, value: FilterValue) -> Result<Filter, FilterError> {
    let table = table(Vec::new());
    let column = table.column_index(column).unwrap();
    let condition = FilterCondition { column, operator, negated: false, value };
    Filter::compile(&table, &types(), vec![condition])
}

fn one(column: &str, operator: FilterOperator, literal: &str) -> Result<Filter, FilterError> {
    compile(column, operator, FilterValue::One(literal.to_owned()))
}

#[test]
fn conditions_that_make_no_sense_are_refused_with_their_reason() {
    use FilterOperator::{Is, Like, Match};
    let list = |length: usize| FilterValue::List(vec!["1".to_owned(); length]);
    for (result, message) in [
        (
            one("id", Is, "NULL"),
            "ERROR P0001 (raise_exception) invalid value for is filter: must be null, true, false, or unknown",
        ),
        (
            one("body", Is, "true"),
            "ERROR P0001 (raise_exception) is true filter requires a boolean column, got text",
        ),
        (
            one("id", Like, "1%"),
            "ERROR P0001 (raise_exception) operator like requires a text-compatible column type, got integer",
        ),
        (
            one("details", Match, "a"),
            "ERROR P0001 (raise_exception) operator match requires a text-compatible column type, got jsonb",
        ),
        (
            compile("id", FilterOperator::In, list(101)),
            "ERROR P0001 (raise_exception) too many values for `in` filter. Maximum 100",
        ),
        (
            one("body", FilterOperator::Eq, "\0"),
            "ERROR 22021 (character_not_in_repertoire) invalid byte sequence for encoding \"UTF8\": 0x00",
        ),
    ] {
        assert_eq!(result.unwrap_err().to_string(), message);
    }
    assert!(compile("id", FilterOperator::In, list(100)).is_ok());
    assert!(one("code", Like, "a%").is_ok(), "varchar(n) is text");
}

#[test]
fn literals_that_we_do_not_read_are_checked_by_postgres_first() {
    let filter = one("id", FilterOperator::Eq, "it's").unwrap();
    assert_eq!(filter.checks(), ["('it''s'::integer = 'it''s'::integer)"]);
    let error = OracleError::Raised {
        code: "22P02".to_owned(),
        message: "invalid input syntax for type integer: \"it's\"".to_owned(),
    };
    assert_eq!(
        filter.refusal(0, &error).to_string(),
        "ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: \"it's\""
    );
    assert!(one("id", FilterOperator::Eq, "7").unwrap().checks().is_empty());
    // json has no equality: PostgreSQL says so at once, not at each change.
    assert_eq!(one("raw", FilterOperator::Eq, "1").unwrap().checks(), ["('1'::json = '1'::json)"]);
}

#[test]
fn a_bad_regular_expression_is_named_as_such() {
    let filter = one("body", FilterOperator::Match, "(").unwrap();
    assert_eq!(filter.checks().len(), 1);
    let error = OracleError::Raised {
        code: "2201B".to_owned(),
        message: "invalid regular expression: parentheses () not balanced".to_owned(),
    };
    assert_eq!(
        filter.refusal(0, &error).to_string(),
        "ERROR P0001 (raise_exception) invalid regular expression for match filter: \
         invalid regular expression: parentheses () not balanced"
    );
}

#[test]
fn literals_are_not_cut_to_the_columns_length_or_precision() {
    let code = one("code", FilterOperator::Gt, "abcdefghijkl").unwrap();
    assert_eq!(code.question(), Some("(\"code\" > 'abcdefghijkl'::text)"));
    let price = one("price", FilterOperator::Eq, "9.499999").unwrap();
    assert_eq!(price.evaluate(&row()), Verdict::Hidden);
}

#[test]
fn all_conditions_must_hold_and_a_sure_no_spares_the_question() {
    let table = table(Vec::new());
    let condition = |column: &str, operator, negated, literal: &str| FilterCondition {
        column: table.column_index(column).unwrap(),
        operator,
        negated,
        value: FilterValue::One(literal.to_owned()),
    };
    let compile = |conditions| Filter::compile(&table, &types(), conditions).unwrap();
    let open = || condition("body", FilterOperator::Gt, false, "a");
    let own = |negated| condition("id", FilterOperator::Eq, negated, "7");
    assert_eq!(Filter::none().evaluate(&row()), Verdict::Visible);
    assert_eq!(compile(vec![own(false)]).evaluate(&row()), Verdict::Visible);
    assert_eq!(compile(vec![open(), own(false)]).evaluate(&row()), Verdict::Ask);
    assert_eq!(compile(vec![open(), own(true)]).evaluate(&row()), Verdict::Hidden);
    assert_eq!(
        compile(vec![open(), own(true)]).question(),
        Some("(\"body\" > 'a'::text) AND (NOT (\"id\" = '7'::integer))")
    );
    let mut without = row();
    without.values[2] = Datum::Missing;
    assert_eq!(compile(vec![open(), own(false)]).evaluate(&without), Verdict::Hidden);
    assert_eq!(compile(vec![own(false)]), compile(vec![own(false)]));
    assert_ne!(compile(vec![own(false)]), compile(vec![own(true)]));
}

#[test]
fn null_never_matches_a_comparison_even_a_negated_one() {
    use FilterOperator::{Eq, Gt, In, Is, IsDistinct, Like, Match, Neq};
    let table = table(Vec::new());
    let mut nothing = row();
    nothing.values.fill(Datum::Null);
    for (operator, negated, matched) in [
        (Eq, false, false),
        (Eq, true, false),
        (Neq, false, false),
        (Neq, true, false),
        (Gt, true, false),
        (In, false, false),
        (In, true, false),
        (Like, true, false),
        (Match, true, false),
        (Is, false, true),
        (Is, true, false),
        (IsDistinct, false, true),
        (IsDistinct, true, false),
    ] {
        let literal = if operator == Is { "null" } else { "hello" }.to_owned();
        let value = if operator == In { FilterValue::List(vec![literal]) } else { FilterValue::One(literal) };
        let column = table.column_index(if operator == Gt { "owner" } else { "body" }).unwrap();
        let value = if operator == Gt { FilterValue::One(support::ALICE.to_owned()) } else { value };
        let condition = FilterCondition { column, operator, negated, value };
        let filter = Filter::compile(&table, &types(), vec![condition]).unwrap();
        let expected = if matched { Verdict::Visible } else { Verdict::Hidden };
        assert_eq!(filter.evaluate(&nothing), expected, "{operator:?} {negated}");
    }
}
