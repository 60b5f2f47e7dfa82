//! The JSON of one column's value, from PostgreSQL's text output (`docs/protocol.md §4.5`).
//!
//! In reading order: this file (which shape becomes what), `string`, `number`, `time`, `array`,
//! `composite`, `hstore`, `json`; `quoted` is what array elements and hstore strings have in common.

use std::borrow::Cow;

mod array;
mod composite;
mod hstore;
mod json;
mod number;
mod quoted;
mod string;
mod time;

pub use string::encode_string;

/// What a type's text output looks like, and with it what JSON it becomes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Integers, `numeric`, `float4`, `float8`: a number; NaN and the infinities are null.
    Number,
    /// `bool`: true or false.
    Boolean,
    /// Everything whose text output is the value: a string.
    Text,
    /// `bytea`: lower-case hexadecimal digits.
    Bytea,
    /// `timestamp`: date and time with a `T` between.
    Timestamp,
    /// `timestamptz`: likewise, with hours and minutes of the offset.
    TimestampTz,
    /// `json`: the nested value, normalised as a cast to `jsonb` does.
    Json,
    /// `jsonb`: the nested value.
    Jsonb,
    /// An array: nested arrays, one per dimension.
    Array {
        /// The elements'.
        element: Box<Shape>,
        /// `typdelim` of the elements' type: `,` for all but `box`.
        delimiter: char,
    },
    /// A composite type, by the names of its fields in order, dropped ones absent: an object.
    Composite(Vec<(String, Shape)>),
    /// `hstore`: an object of strings and nulls.
    Hstore,
}

impl Shape {
    /// The shape of a base type by `pg_type.typname`. Enums, ranges and types of extensions are [`Shape::Text`];
    /// of domains ask for the base type's name, and build arrays and composites from their parts.
    pub fn of_type_name(name: &str) -> Shape {
        match name {
            "int2" | "int4" | "int8" | "numeric" | "float4" | "float8" => Shape::Number,
            "bool" => Shape::Boolean,
            "bytea" => Shape::Bytea,
            "timestamp" => Shape::Timestamp,
            "timestamptz" => Shape::TimestampTz,
            "json" => Shape::Json,
            "jsonb" => Shape::Jsonb,
            "hstore" => Shape::Hstore,
            _ => Shape::Text,
        }
    }
}

/// Appends the JSON of a value in PostgreSQL's text output to `out`.
///
/// The session that printed it has `DateStyle` ISO, `IntervalStyle` postgres, `TimeZone` UTC,
/// `extra_float_digits` 3 and `bytea_output` hex. Text that is not of the shape goes out as a JSON string: the value is shown, whatever
/// it is, and the change is delivered.
pub fn encode_value(shape: &Shape, text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    if !try_encode(shape, text, out) {
        out.truncate(start);
        encode_string(text, out);
    }
}

/// False where the text is not of the shape; `out` may then end in the beginning of a value.
fn try_encode(shape: &Shape, text: &str, out: &mut Vec<u8>) -> bool {
    match shape {
        Shape::Number => number::encode(text, out),
        Shape::Boolean => encode_boolean(text, out),
        Shape::Text => false,
        Shape::Bytea => encode_bytea(text, out),
        Shape::Timestamp => time::encode_timestamp(text, out),
        Shape::TimestampTz => time::encode_timestamp_with_zone(text, out),
        Shape::Json => json::encode_normalised(text, out),
        Shape::Jsonb => json::encode_verbatim(text, out),
        Shape::Array { element, delimiter } => array::encode(element, *delimiter, text, out),
        Shape::Composite(fields) => composite::encode(fields, text, out),
        Shape::Hstore => hstore::encode(text, out),
    }
}

/// A value inside an array or composite, `None` being NULL: as at the top, but for `bytea`, which has its
/// `\x` there (`docs/protocol.md §4.5`).
fn encode_part(shape: &Shape, text: Option<Cow<'_, str>>, out: &mut Vec<u8>) {
    match (text, shape) {
        (None, _) => out.extend_from_slice(b"null"),
        (Some(text), Shape::Bytea) => encode_string(&text, out),
        (Some(text), _) => encode_value(shape, &text, out),
    }
}

fn encode_boolean(text: &str, out: &mut Vec<u8>) -> bool {
    let json: &[u8] = match text {
        "t" => b"true",
        "f" => b"false",
        _ => return false,
    };
    out.extend_from_slice(json);
    true
}

fn encode_bytea(text: &str, out: &mut Vec<u8>) -> bool {
    match text.strip_prefix("\\x") {
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            encode_string(digits, out);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
