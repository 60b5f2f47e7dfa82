//! The JSON of one column's value, from PostgreSQL's text output (`docs/protocol.md §4.5`).

mod string;

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
/// The session that printed it has DateStyle ISO, IntervalStyle postgres, TimeZone UTC, extra_float_digits 3
/// and bytea_output hex. Text that is not of the shape goes out as a JSON string: the value is shown, whatever
/// it is, and the change is delivered.
pub fn encode_value(_shape: &Shape, text: &str, out: &mut Vec<u8>) {
    encode_string(text, out);
}
