//! Each family of `docs/protocol.md §4.5`; the text side is what PostgreSQL 15 prints.

use super::*;

fn json(shape: &Shape, text: &str) -> String {
    let mut out = b"before:".to_vec();
    encode_value(shape, text, &mut out);
    String::from_utf8(out).unwrap().strip_prefix("before:").unwrap().to_owned()
}

/// The JSON of a base type's value.
fn base(type_name: &str, text: &str) -> String {
    json(&Shape::of_type_name(type_name), text)
}

fn array_of(element: Shape) -> Shape {
    Shape::Array { element: Box::new(element), delimiter: ',' }
}

/// `(x int, y text, z bytea, t timestamptz, a int[], n numeric)`
fn point() -> Shape {
    let field = |name: &str, shape| (name.to_owned(), shape);
    Shape::Composite(vec![
        field("x", Shape::Number),
        field("y", Shape::Text),
        field("z", Shape::Bytea),
        field("t", Shape::TimestampTz),
        field("a", array_of(Shape::Number)),
        field("n", Shape::Number),
    ])
}

#[test]
fn integers_and_numerics_keep_their_digits() {
    assert_eq!(base("int2", "-32768"), "-32768");
    assert_eq!(base("int8", "9223372036854775807"), "9223372036854775807");
    assert_eq!(base("numeric", "12.5000"), "12.5000");
    assert_eq!(base("numeric", "0.000"), "0.000");
    let long = "1".repeat(500) + ".25";
    assert_eq!(base("numeric", &long), long);
}

#[test]
fn exponents_of_floats_are_written_out() {
    assert_eq!(base("float8", "1e+30"), format!("1{}", "0".repeat(30)));
    assert_eq!(base("float8", "-1.5e+20"), "-150000000000000000000");
    assert_eq!(base("float8", "1e-07"), "0.0000001");
    assert_eq!(base("float8", "5e-324"), format!("0.{}5", "0".repeat(323)));
    assert_eq!(base("float8", "1.7976931348623157e+308"), format!("17976931348623157{}", "0".repeat(292)));
    assert_eq!(base("float8", "1.2345e+2"), "123.45");
    assert_eq!(base("float4", "0.1"), "0.1");
    assert_eq!(base("float8", "0e+5"), "0");
    assert_eq!(base("float8", "-0"), "0");
}

#[test]
fn an_exponent_that_would_fill_memory_stays_an_exponent() {
    assert_eq!(base("float8", "-1e999999999999999999999"), "-1e999999999999999999999");
}

#[test]
fn nan_and_infinities_are_null() {
    for text in ["NaN", "Infinity", "-Infinity"] {
        assert_eq!(base("float8", text), "null");
        assert_eq!(base("float4", text), "null");
        assert_eq!(base("numeric", text), "null");
    }
}

#[test]
fn booleans_are_true_and_false() {
    assert_eq!(base("bool", "t"), "true");
    assert_eq!(base("bool", "f"), "false");
}

#[test]
fn types_without_a_shape_of_their_own_are_strings() {
    for (type_name, text) in [
        ("varchar", "a b"),
        ("uuid", "6ecd8c99-4036-403d-bf84-cf8400f67836"),
        ("inet", "1.1.1.1"),
        ("xml", "<a/>"),
        ("tsvector", "'a' 'b'"),
        ("point", "(1,2)"),
        ("pg_lsn", "16/B374D848"),
        ("regclass", "pg_class"),
        ("varbit", "10"),
        ("money", "$1,234.50"),
        ("interval", "1 day 02:03:04"),
        ("int4range", "[1,5)"),
        ("int4multirange", "{[1,3),[5,8)}"),
        ("oid", "123"),
        ("time", "12:34:56.789"),
        ("timetz", "12:34:56+02"),
        ("date", "2024-01-02"),
        ("date", "0044-03-15 BC"),
        ("date", "infinity"),
        ("mood", "ok"),
    ] {
        assert_eq!(base(type_name, text), format!("\"{text}\""), "{type_name}");
    }
}

#[test]
fn fixed_length_characters_and_bits_come_whole() {
    assert_eq!(base("bpchar", "ab  "), r#""ab  ""#);
    assert_eq!(base("bit", "101"), r#""101""#);
    assert_eq!(json(&array_of(Shape::Text), r#"{"a  ",bcd}"#), r#"["a  ","bcd"]"#);
    assert_eq!(json(&array_of(Shape::Text), "{101}"), r#"["101"]"#);
}

#[test]
fn bytea_has_its_prefix_only_inside_others() {
    assert_eq!(base("bytea", r"\xdeadbeef"), r#""deadbeef""#);
    assert_eq!(base("bytea", r"\x"), r#""""#);
    assert_eq!(json(&array_of(Shape::Bytea), r#"{"\\xdead",NULL}"#), r#"["\\xdead",null]"#);
}

#[test]
fn timestamps_have_a_t_and_whole_offsets() {
    assert_eq!(base("timestamp", "2024-01-02 03:04:05.12"), r#""2024-01-02T03:04:05.12""#);
    assert_eq!(base("timestamp", "12024-01-02 00:00:00"), r#""12024-01-02T00:00:00""#);
    assert_eq!(base("timestamptz", "2024-01-02 01:04:05.12+00"), r#""2024-01-02T01:04:05.12+00:00""#);
    assert_eq!(base("timestamptz", "2024-01-02 01:04:05-03:30"), r#""2024-01-02T01:04:05-03:30""#);
}

#[test]
fn timestamps_beyond_the_calendar_are_text() {
    assert_eq!(base("timestamp", "infinity"), r#""infinity""#);
    assert_eq!(base("timestamptz", "-infinity"), r#""-infinity""#);
    assert_eq!(base("timestamp", "0044-03-15 12:00:00 BC"), r#""0044-03-15T12:00:00 BC""#);
    assert_eq!(base("timestamptz", "0044-03-15 12:00:00+00 BC"), r#""0044-03-15T12:00:00+00:00 BC""#);
}

#[test]
fn json_is_normalised_as_jsonb_is() {
    let text = r#"{"b":1,"a":{"zz":1.50,"a":2},"aa":[1,2, {"x":null}],"b":2,"":true}"#;
    let expected = r#"{"": true, "a": {"a": 2, "zz": 1.50}, "b": 2, "aa": [1, 2, {"x": null}]}"#;
    assert_eq!(base("json", text), expected);
    let text = r#"{"é":1,"z":2,"aé":3,"zzzz":4,"ab":5}"#;
    let expected = r#"{"z": 2, "ab": 5, "é": 1, "aé": 3, "zzzz": 4}"#;
    assert_eq!(base("json", text), expected);
    assert_eq!(base("json", " \n[1 ,\t2 , [ ] , { } ]\r\n"), "[1, 2, [], {}]");
    assert_eq!(base("json", " null "), "null");
    assert_eq!(base("json", r#""a\"b\\""#), r#""a\"b\\""#);
}

#[test]
fn of_keys_that_say_the_same_the_last_wins_however_it_is_written() {
    assert_eq!(base("json", r#"{"\u0061":1,"a":2}"#), r#"{"a": 2}"#);
    assert_eq!(base("json", r#"{"a":1,"b":0,"a":2,"a":3}"#), r#"{"a": 3, "b": 0}"#);
}

#[test]
fn numbers_in_json_keep_their_digits() {
    let text = "[9223372036854775808, 1.10, 1E400, 0.1000000000000000055511151231257827]";
    assert_eq!(base("json", text), text);
    assert_eq!(base("jsonb", text), text);
}

#[test]
fn json_nested_beyond_any_stack_is_passed_through() {
    let text = "[".repeat(200_000) + &"]".repeat(200_000);
    assert_eq!(base("json", &text), text);
    assert_eq!(base("jsonb", &text), text);
}

#[test]
fn jsonb_is_passed_through() {
    let text = r#"{"a": "x\ty\u001f", "b": 1, "c": "é"}"#;
    assert_eq!(base("jsonb", text), text);
}

#[test]
fn arrays_nest_by_dimension_and_lose_their_bounds() {
    let numbers = array_of(Shape::Number);
    assert_eq!(json(&numbers, "{}"), "[]");
    assert_eq!(json(&numbers, "{1,NULL,3}"), "[1,null,3]");
    assert_eq!(json(&numbers, "[0:2]={1,2,3}"), "[1,2,3]");
    assert_eq!(json(&numbers, "[2:3][-1:0]={{1,2},{3,NULL}}"), "[[1,2],[3,null]]");
    assert_eq!(json(&numbers, "{{{1,2},{3,4}},{{5,6},{7,8}}}"), "[[[1,2],[3,4]],[[5,6],[7,8]]]");
}

#[test]
fn array_elements_are_unquoted() {
    assert_eq!(
        json(
            &array_of(Shape::Text),
            "{\"a b\",\"\",\"NULL\",NULL,\"null\",\"x\\\"y\\\\z\",\"{,}\",\"tab\tnl\n\",é}"
        ),
        r#"["a b","","NULL",null,"null","x\"y\\z","{,}","tab\tnl\n","é"]"#
    );
}

#[test]
fn array_elements_are_encoded_by_their_own_type() {
    assert_eq!(
        json(&array_of(Shape::TimestampTz), r#"{"2024-01-02 03:04:05+00",NULL}"#),
        r#"["2024-01-02T03:04:05+00:00",null]"#
    );
    assert_eq!(
        json(&array_of(Shape::Jsonb), r#"{"{\"a\": [1, 2], \"b\": \"x\"}",NULL,"null"}"#),
        r#"[{"a": [1, 2], "b": "x"},null,null]"#
    );
    assert_eq!(json(&array_of(Shape::Boolean), "{t,f,NULL}"), "[true,false,null]");
    assert_eq!(json(&array_of(Shape::Number), "{NaN,1e+20}"), "[null,100000000000000000000]");
    assert_eq!(json(&array_of(Shape::Hstore), r#"{"\"a\"=>\"1 2\""}"#), r#"[{"a":"1 2"}]"#);
}

#[test]
fn boxes_are_separated_by_semicolons() {
    let boxes = Shape::Array { element: Box::new(Shape::Text), delimiter: ';' };
    assert_eq!(json(&boxes, "{(2,2),(1,1);(4,4),(3,3)}"), r#"["(2,2),(1,1)","(4,4),(3,3)"]"#);
}

#[test]
fn composites_are_objects_by_field_name() {
    assert_eq!(
        json(&point(), r#"(1,"a b","\\xdead","2024-01-02 03:04:05+00","{1,NULL,2}",NaN)"#),
        r#"{"x":1,"y":"a b","z":"\\xdead","t":"2024-01-02T03:04:05+00:00","a":[1,null,2],"n":null}"#
    );
    assert_eq!(
        json(&point(), r#"(,"",,,{},1.50)"#),
        r#"{"x":null,"y":"","z":null,"t":null,"a":[],"n":1.50}"#
    );
    assert_eq!(
        json(&point(), "(1,\"q\"\"b\\\\c,()\n\",,,,)"),
        r#"{"x":1,"y":"q\"b\\c,()\n","z":null,"t":null,"a":null,"n":null}"#
    );
    assert_eq!(json(&Shape::Composite(Vec::new()), "()"), "{}");
}

#[test]
fn composites_nest_in_arrays_and_in_each_other() {
    let pair = Shape::Composite(vec![
        ("p".to_owned(), point()),
        ("ps".to_owned(), array_of(point())),
        ("j".to_owned(), Shape::Jsonb),
        ("h".to_owned(), Shape::Hstore),
    ]);
    let text = concat!(
        r#"("(1,""q""""b\\\\c"",""\\\\xdead"",""2024-01-02 03:04:05+00"",{1},1)","#,
        r#""{""(1,\\""a \\""\\""b\\\\\\\\c\\""\\""\\"",\\""\\\\\\\\xdead\\"",\\""2024-01-02 03:04:05+00\\"",{1},1)""}","#,
        r#""{""a"": ""x\\""y""}","""a""=>""q\\""\\\\z"", ""b""=>NULL")"#
    );
    let expected = concat!(
        r#"{"p":{"x":1,"y":"q\"b\\c","z":"\\xdead","t":"2024-01-02T03:04:05+00:00","a":[1],"n":1},"#,
        r#""ps":[{"x":1,"y":"a \"b\\c\"","z":"\\xdead","t":"2024-01-02T03:04:05+00:00","a":[1],"n":1}],"#,
        r#""j":{"a": "x\"y"},"h":{"a":"q\"\\z","b":null}}"#
    );
    assert_eq!(json(&pair, text), expected);
}

#[test]
fn a_composite_whose_type_was_altered_is_text() {
    assert_eq!(json(&point(), "(1,a)"), r#""(1,a)""#);
    assert_eq!(json(&point(), "(1,,,,,,7)"), r#""(1,,,,,,7)""#);
}

#[test]
fn hstore_is_an_object() {
    assert_eq!(base("hstore", ""), "{}");
    assert_eq!(
        base("hstore", r#"""=>"", "a"=>"1", "é"=>"NULL", "b c"=>NULL, "q\"k"=>"v\\w""#),
        r#"{"":"","a":"1","é":"NULL","b c":null,"q\"k":"v\\w"}"#
    );
}

#[test]
fn text_that_is_not_of_the_shape_is_a_string() {
    let numbers = array_of(Shape::Number);
    for (shape, text) in [
        (&Shape::Number, "01"),
        (&Shape::Number, "1."),
        (&Shape::Number, ".5"),
        (&Shape::Number, "1e"),
        (&Shape::Number, "+1"),
        (&Shape::Number, ""),
        (&Shape::Boolean, "true"),
        (&Shape::Bytea, "abc"),
        (&Shape::Timestamp, "now"),
        (&Shape::TimestampTz, "2024-01-02 03:04:05"),
        (&Shape::Json, "{a}"),
        (&Shape::Jsonb, "[1,]"),
        (&Shape::Hstore, "a=>1"),
        (&numbers, "{1,2"),
        (&numbers, "{1,2}}"),
        (&numbers, "{1,,2}"),
        (&numbers, "{{{{{{{1}}}}}}}"),
        (&numbers, "1,2"),
    ] {
        assert_eq!(json(shape, text), format!("\"{text}\""), "{shape:?}");
    }
}
