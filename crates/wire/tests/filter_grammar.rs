//! The grammar of row filters, case by case (docs/protocol.md §5.2, error texts §3.5).

use walcast_wire::{Condition, ConditionValue, Operator, parse_filter};

/// `column operator value`, as a short text: `not` in front when negated, list elements between bars.
fn shown(condition: &Condition) -> String {
    let not = if condition.negated { "not " } else { "" };
    let value = match &condition.value {
        ConditionValue::One(value) => format!("<{value}>"),
        ConditionValue::List(elements) if elements.is_empty() => "[]".to_owned(),
        ConditionValue::List(elements) => format!("[<{}>]", elements.join("><")),
    };
    format!("{} {not}{} {value}", condition.column, condition.operator.as_str())
}

fn parsed(filter: &str) -> Vec<String> {
    parse_filter(filter).unwrap_or_else(|error| panic!("{filter}: {error}")).iter().map(shown).collect()
}

#[track_caller]
fn reads(cases: &[(&str, &[&str])]) {
    for (filter, expected) in cases {
        assert_eq!(parsed(filter), *expected, "{filter}");
    }
}

#[track_caller]
fn refuses(cases: &[(&str, &str)]) {
    for (filter, expected) in cases {
        let error = parse_filter(filter).expect_err(filter);
        assert_eq!(error.to_string(), format!("Error parsing `filter` params: {expected}"), "{filter}");
    }
}

#[test]
fn every_operator_is_known_with_and_without_not() {
    for name in
        ["eq", "neq", "lt", "lte", "gt", "gte", "like", "ilike", "is", "match", "imatch", "isdistinct"]
    {
        assert_eq!(parsed(&format!("id={name}.1")), [format!("id {name} <1>")]);
        assert_eq!(parsed(&format!("id=not.{name}.1")), [format!("id not {name} <1>")]);
    }
    reads(&[("id=in.(1)", &["id in [<1>]"]), ("id=not.in.(1)", &["id not in [<1>]"])]);
    let condition = &parse_filter("a=isdistinct.1").unwrap()[0];
    assert_eq!(condition.operator, Operator::IsDistinct);
}

#[test]
fn a_blank_filter_has_no_conditions() {
    reads(&[("", &[]), ("   ", &[]), ("\t\n", &[])]);
}

#[test]
fn conditions_are_joined_by_commas_and_blanks_around_them_do_not_count() {
    reads(&[
        ("a=eq.1,b=gt.2", &["a eq <1>", "b gt <2>"]),
        ("  a=eq.1 , b=not.is.null  ", &["a eq <1>", "b not is <null>"]),
        ("price=gte.10,price=lt.20", &["price gte <10>", "price lt <20>"]),
        ("id=in.(1,2),name=in.(a,b),c=eq.x", &["id in [<1><2>]", "name in [<a><b>]", "c eq <x>"]),
    ]);
}

#[test]
fn only_the_first_equals_sign_and_the_first_dot_divide() {
    reads(&[
        ("a=eq.b=c", &["a eq <b=c>"]),
        ("a=eq.1.5", &["a eq <1.5>"]),
        ("a=eq.", &["a eq <>"]),
        ("=eq.1", &[" eq <1>"]),
        ("Weird Name=eq.not.eq.1", &["Weird Name eq <not.eq.1>"]),
        ("url=eq.http://x.y/?q=1", &["url eq <http://x.y/?q=1>"]),
    ]);
}

#[test]
fn a_value_wholly_in_quotes_is_unescaped() {
    reads(&[
        (r#"a=eq."x""#, &["a eq <x>"]),
        (r#"a=eq."""#, &["a eq <>"]),
        (r#"a=eq."  x  ""#, &["a eq <  x  >"]),
        (r#"a=eq."x,y",b=eq.1"#, &["a eq <x,y>", "b eq <1>"]),
        (r#"a=eq."x.y:z(,)",b=eq.1"#, &["a eq <x.y:z(,)>", "b eq <1>"]),
        (r#"a=eq."say \"hi\", \\ \n",b=eq.1"#, &["a eq <say \"hi\", \\ n>", "b eq <1>"]),
        (r#"a=not.eq."é,😀""#, &["a not eq <é,😀>"]),
    ]);
}

#[test]
fn a_quote_that_is_not_closed_or_has_text_behind_it_makes_the_value_literal() {
    reads(&[
        (r#"a=eq."x"#, &[r#"a eq <"x>"#]),
        (r#"a=eq."x\"#, &[r#"a eq <"x\>"#]),
        (r#"a=eq."x\""#, &[r#"a eq <"x\">"#]),
        (r#"a=eq."x,b=eq.1"#, &[r#"a eq <"x,b=eq.1>"#]),
        (r#"a=eq."x"y"#, &[r#"a eq <"x"y>"#]),
        (r#"a=eq."x,y"z,b=eq.1"#, &[r#"a eq <"x,y"z>"#, "b eq <1>"]),
    ]);
}

#[test]
fn quotes_elsewhere_are_ordinary_characters() {
    reads(&[
        (r#"a=eq.5" nail,b=eq.6" nail"#, &[r#"a eq <5" nail>"#, r#"b eq <6" nail>"#]),
        (r#"a=eq.x"y,z=eq.1"#, &[r#"a eq <x"y>"#, "z eq <1>"]),
        (r#"a=eq. "x,b=eq.1"#, &[r#"a eq < "x>"#, "b eq <1>"]),
        (r#"a=eq.x."y,z"w,b=eq.1"#, &[r#"a eq <x."y,z"w>"#, "b eq <1>"]),
    ]);
}

#[test]
fn parentheses_protect_commas_and_a_stray_closing_one_is_ordinary() {
    reads(&[
        ("a=eq.f(x,y),b=eq.1", &["a eq <f(x,y)>", "b eq <1>"]),
        ("a=eq.x),b=eq.1", &["a eq <x)>", "b eq <1>"]),
        ("a=eq.:),b=eq.:(", &["a eq <:)>", "b eq <:(>"]),
        ("a=eq.((x,y),z),b=eq.1", &["a eq <((x,y),z)>", "b eq <1>"]),
        ("a=eq.(x,b=eq.1", &["a eq <(x,b=eq.1>"]),
    ]);
}

#[test]
fn a_list_has_raw_and_quoted_elements() {
    reads(&[
        ("a=in.(1,2,3)", &["a in [<1><2><3>]"]),
        ("a=in.()", &["a in []"]),
        ("a=in.( )", &["a in []"]),
        ("a=in.( 1 , x y )", &["a in [<1><x y>]"]),
        (r#"a=in.("x,y","(z)",w)"#, &["a in [<x,y><(z)><w>]"]),
        (r#"a=in.("","a\"b","c\\d")"#, &[r#"a in [<><a"b><c\d>]"#]),
        (r#"a=in.("x", "y),z"),b=eq.1"#, &["a in [<x><y),z>]", "b eq <1>"]),
        (r#"a=in.("x"y,5")"#, &[r#"a in [<"x"y><5">]"#]),
        ("a=in.(f(x),y)", &["a in [<f(x)><y>]"]),
        (r#"a=in.("x)"#, &[r#"a in [<"x>]"#]),
    ]);
}

#[test]
fn a_list_without_parentheses_is_refused() {
    let message = "`in` filter value must be wrapped by parentheses";
    refuses(&[
        ("a=in.1", message),
        ("a=in.", message),
        ("a=in.(1", message),
        ("a=not.in.1)", message),
        ("a=in.(1)x", message),
        ("a=in.(", message),
        (r#"a=in."(1)""#, message),
    ]);
}

#[test]
fn stray_commas_are_refused() {
    let message = "filter must not contain empty segments (check for extra commas)";
    refuses(&[
        (",", message),
        (" , ", message),
        (",a=eq.1", message),
        ("a=eq.1,", message),
        ("a=eq.1, ", message),
        ("a=eq.1,,b=eq.2", message),
        ("a=eq.1, ,b=eq.2", message),
        ("a=in.(1,,2)", message),
        ("a=in.(1,)", message),
        ("a=in.(,)", message),
    ]);
}

#[test]
fn what_is_no_condition_is_refused_with_the_parts_that_were_found() {
    refuses(&[
        ("wrong", r#"["wrong"]"#),
        ("col=foo", r#"["foo"]"#),
        ("col=foo.hey", r#"["foo", "hey"]"#),
        ("col=foo.hey.ho", r#"["foo", "hey.ho"]"#),
        ("col=EQ.1", r#"["EQ", "1"]"#),
        ("col= eq.1", r#"[" eq", "1"]"#),
        ("col=", r#"[""]"#),
        ("col=not", r#"["not"]"#),
        ("col=not.eq", r#"["eq"]"#),
        ("col=not.not.eq.1", r#"["not", "eq.1"]"#),
        ("a=eq.1,say \"x\"", r#"["say \"x\""]"#),
    ]);
}
