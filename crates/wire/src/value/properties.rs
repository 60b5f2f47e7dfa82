//! What holds of every value, whatever its text.

use proptest::prelude::*;

use super::*;

fn json(shape: &Shape, text: &str) -> String {
    let mut out = Vec::new();
    encode_value(shape, text, &mut out);
    String::from_utf8(out).unwrap()
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![
        Just(Shape::Number),
        Just(Shape::Boolean),
        Just(Shape::Text),
        Just(Shape::Bytea),
        Just(Shape::Timestamp),
        Just(Shape::TimestampTz),
        Just(Shape::Json),
        Just(Shape::Jsonb),
        Just(Shape::Hstore),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), prop_oneof![Just(','), Just(';'), any::<char>()])
                .prop_map(|(element, delimiter)| { Shape::Array { element: Box::new(element), delimiter } }),
            prop::collection::vec((any::<String>(), inner), 0..3).prop_map(Shape::Composite),
        ]
    })
}

/// Text made of what matters to the parsers, so that they get far before it breaks off.
fn suspicious_text() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "\"",
        "\\",
        ",",
        ";",
        ":",
        "=>",
        "=",
        " ",
        "NULL",
        "null",
        "0",
        "1",
        "-",
        "+",
        ".",
        "e",
        "2024-01-02",
        "03:04:05",
        "+00",
        " BC",
        "t",
        "true",
        "\\x",
        "\\u0061",
        "\\ud800",
        "é",
        "\u{1}",
        "a",
        ", ",
        "\"a\"",
        "[0:1]=",
    ]);
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn whatever_the_text_the_output_is_json(
        shape in any_shape(),
        text in prop_oneof![suspicious_text(), any::<String>()],
    ) {
        let mut out = Vec::new();
        encode_value(&shape, &text, &mut out);
        prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok(), "{}", String::from_utf8_lossy(&out));
        prop_assert!(std::str::from_utf8(&out).is_ok());
    }

    #[test]
    fn integers_come_back_from_their_json(number in any::<i64>()) {
        prop_assert_eq!(json(&Shape::Number, &number.to_string()), number.to_string());
    }

    #[test]
    fn floats_come_back_from_their_json(number in any::<f64>().prop_filter("finite", |number| number.is_finite())) {
        let written = json(&Shape::Number, &format!("{number:e}"));
        prop_assert!(!written.contains('e'));
        // Adding zero makes the negative one positive, as `jsonb` does.
        prop_assert_eq!(written.parse::<f64>().unwrap().to_bits(), (number + 0.0).to_bits());
    }

    #[test]
    fn normalising_json_keeps_its_meaning(text in any_json()) {
        let normalised = json(&Shape::Json, &text);
        let one: serde_json::Value = serde_json::from_str(&text).unwrap();
        let other: serde_json::Value = serde_json::from_str(&normalised).unwrap();
        prop_assert_eq!(one, other);
        prop_assert_eq!(json(&Shape::Json, &normalised), normalised);
    }

    #[test]
    fn text_arrays_come_back_from_their_json(
        elements in prop::collection::vec(prop::option::of(any::<String>()), 0..6),
    ) {
        let printed: Vec<String> = elements.iter().map(|element| match element {
            None => "NULL".to_owned(),
            Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        }).collect();
        let text_array = Shape::Array { element: Box::new(Shape::Text), delimiter: ',' };
        let written = json(&text_array, &format!("{{{}}}", printed.join(",")));
        prop_assert_eq!(serde_json::from_str::<Vec<Option<String>>>(&written).unwrap(), elements);
    }
}

/// JSON texts with duplicate keys and odd spacing.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i32>().prop_map(|number| number.to_string()),
        "[a-c\"\\\\é\n]{0,4}".prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|elements| format!(" [{}]\n", elements.join(" ,\t"))),
            prop::collection::vec(("[a-c]{0,2}", inner), 0..4).prop_map(|members| {
                let members: Vec<String> =
                    members.into_iter().map(|(key, value)| format!("\"{key}\" :{value}")).collect();
                format!("{{ {} }}", members.join(","))
            }),
        ]
    })
}
