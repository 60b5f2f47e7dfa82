//! A column's value in PostgreSQL's text output: whatever it is, JSON comes out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use walcast_wire::{Shape, encode_value};

fuzz_target!(|input: (u8, &str)| {
    let (choice, text) = input;
    let mut json = Vec::new();
    encode_value(&shape(choice), text, &mut json);
    let json = str::from_utf8(&json).expect("JSON is UTF-8");
    assert!(serde_json::from_str::<&RawValue>(json).is_ok(), "{json}");
});

/// Low digit: the innermost shape; high digit: what is around it.
fn shape(choice: u8) -> Shape {
    let inner = match choice % 10 {
        0 => Shape::Number,
        1 => Shape::Boolean,
        2 => Shape::Bytea,
        3 => Shape::Timestamp,
        4 => Shape::TimestampTz,
        5 => Shape::Json,
        6 => Shape::Jsonb,
        7 => Shape::Hstore,
        _ => Shape::Text,
    };
    match choice / 10 {
        0..=8 => inner,
        9..=16 => array_of(inner),
        17..=20 => pair_of(inner),
        21..=23 => array_of(pair_of(inner)),
        _ => pair_of(array_of(inner)),
    }
}

fn array_of(element: Shape) -> Shape {
    Shape::Array { element: Box::new(element), delimiter: ',' }
}

fn pair_of(second: Shape) -> Shape {
    Shape::Composite(vec![("a".to_owned(), Shape::Text), ("b".to_owned(), second)])
}
