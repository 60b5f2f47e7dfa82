//! Typed values: which types we know, how their text is read, how they compare.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use walcast_pgoutput::Oid;

use crate::array::{self, Array};
use crate::datetime::{self, Interval};
use crate::json::Json;
use crate::numeric::{Numeric, Unreadable, has_radix_prefix, is_space};
use crate::schema::{TypeKind, Types};

/// A type whose meaning we know exactly.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// `text` and `varchar`: the same but for a length that only assignment enforces.
    Text,
    /// `bpchar`: compared without trailing blanks.
    Char,
    Name,
    Uuid,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Interval,
    /// `json`, kept as text.
    Json,
    Jsonb,
    Bytea,
    Enum(Arc<Labels>),
    Array(Box<Kind>),
    /// A type that we do not know: it may be tested for NULL, no more.
    Opaque(Oid),
    /// A literal without a type yet, as hand-written function bodies have them.
    Untyped,
}

/// An enumeration's type and labels in catalog order.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Labels {
    pub(crate) oid: Oid,
    pub(crate) name: String,
    pub(crate) texts: Vec<String>,
}

/// A value that is not NULL. Derived equality is of representation; for SQL's see [`Value::compare`]
/// and [`Value::equals`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value<'a> {
    Bool(bool),
    /// All integer types.
    Int(i64),
    /// Both float types.
    Float(Float),
    Numeric(Numeric),
    /// `text`, `varchar`, `bpchar`, `name`, `json`.
    Text(Cow<'a, str>),
    Uuid(u128),
    /// Days since 2000-01-01.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// `timestamp` and `timestamptz`: microseconds since 2000-01-01 (UTC).
    Timestamp(i64),
    Interval(Interval),
    Json(Cow<'a, Json>),
    Bytes(Cow<'a, [u8]>),
    /// The position of an enumeration's label.
    Label(usize),
    Array(Cow<'a, Array>),
}

/// A float that is hashed and compared as an identity by its bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Float(pub(crate) f64);

impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Float {}

impl Hash for Float {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl Kind {
    /// What we know of a type; domains are what they are made of.
    pub(crate) fn of(types: &Types, oid: Oid) -> Kind {
        let Some(found) = types.base(oid) else { return Kind::Opaque(oid) };
        match &found.kind {
            TypeKind::Base if found.schema == "pg_catalog" => {
                Kind::of_base_name(&found.name).unwrap_or(Kind::Opaque(oid))
            }
            TypeKind::Enum { labels } => Kind::Enum(Arc::new(Labels {
                oid: found.oid,
                name: found.name.clone(),
                texts: labels.clone(),
            })),
            TypeKind::Array { element, delimiter: ',' } => match Kind::of(types, *element) {
                Kind::Opaque(_) | Kind::Array(_) | Kind::Json => Kind::Opaque(oid),
                element => Kind::Array(Box::new(element)),
            },
            _ => Kind::Opaque(oid),
        }
    }

    /// The type in `pg_catalog` called `name` (`typname`).
    pub(crate) fn of_base_name(name: &str) -> Option<Kind> {
        Some(match name {
            "bool" => Kind::Bool,
            "int2" => Kind::Int2,
            "int4" => Kind::Int4,
            "int8" => Kind::Int8,
            "float4" => Kind::Float4,
            "float8" => Kind::Float8,
            "numeric" => Kind::Numeric,
            "text" | "varchar" => Kind::Text,
            "bpchar" => Kind::Char,
            "name" => Kind::Name,
            "uuid" => Kind::Uuid,
            "date" => Kind::Date,
            "time" => Kind::Time,
            "timestamp" => Kind::Timestamp,
            "timestamptz" => Kind::TimestampTz,
            "interval" => Kind::Interval,
            "json" => Kind::Json,
            "jsonb" => Kind::Jsonb,
            "bytea" => Kind::Bytea,
            _ => return None,
        })
    }

    /// How SQL names it.
    pub(crate) fn sql_name(&self) -> String {
        match self {
            Kind::Bool => "boolean",
            Kind::Int2 => "smallint",
            Kind::Int4 => "integer",
            Kind::Int8 => "bigint",
            Kind::Float4 => "real",
            Kind::Float8 => "double precision",
            Kind::Numeric => "numeric",
            Kind::Text => "text",
            Kind::Char => "bpchar",
            Kind::Name => "name",
            Kind::Uuid => "uuid",
            Kind::Date => "date",
            Kind::Time => "time without time zone",
            Kind::Timestamp => "timestamp without time zone",
            Kind::TimestampTz => "timestamp with time zone",
            Kind::Interval => "interval",
            Kind::Json => "json",
            Kind::Jsonb => "jsonb",
            Kind::Bytea => "bytea",
            Kind::Enum(labels) => &labels.name,
            Kind::Array(element) => return format!("{}[]", element.sql_name()),
            Kind::Opaque(_) => "a type that is not known here",
            Kind::Untyped => "unknown",
        }
        .to_owned()
    }

    pub(crate) fn is_integer(&self) -> bool {
        matches!(self, Kind::Int2 | Kind::Int4 | Kind::Int8)
    }

    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Kind::Text | Kind::Char | Kind::Name)
    }

    /// The values an integer type can hold.
    pub(crate) fn integer_range(&self) -> (i64, i64) {
        match self {
            Kind::Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
            Kind::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => (i64::MIN, i64::MAX),
        }
    }

    /// Reads a value as the type's input function does, as far as that depends on nothing else.
    pub(crate) fn read<'a>(&self, text: &'a str) -> Result<Value<'a>, Unreadable> {
        let known = |value: Option<Value<'a>>| value.ok_or(Unreadable::Unsure);
        match self {
            Kind::Bool => read_bool(text).map(Value::Bool),
            Kind::Int2 | Kind::Int4 | Kind::Int8 => self.read_integer(text).map(Value::Int),
            Kind::Float4 | Kind::Float8 => self.read_float(text).map(|float| Value::Float(Float(float))),
            Kind::Numeric => Numeric::read(text).map(Value::Numeric),
            // A longer name would be cut off.
            Kind::Name if text.len() > 63 => Err(Unreadable::Unsure),
            Kind::Text | Kind::Char | Kind::Name | Kind::Json | Kind::Untyped => {
                Ok(Value::Text(Cow::Borrowed(text)))
            }
            Kind::Uuid => read_uuid(text).map(Value::Uuid).ok_or_else(|| self.invalid(text)),
            Kind::Date => known(datetime::read_date(text).map(Value::Date)),
            Kind::Time => known(datetime::read_time(text).map(Value::Time)),
            Kind::Timestamp => known(datetime::read_timestamp(text).map(Value::Timestamp)),
            Kind::TimestampTz => known(datetime::read_timestamp_tz(text).map(Value::Timestamp)),
            Kind::Interval => known(Interval::read(text).map(Value::Interval)),
            Kind::Jsonb => Json::read(text).map(|json| Value::Json(Cow::Owned(json))),
            Kind::Bytea => known(read_hexadecimal(text).map(|bytes| Value::Bytes(Cow::Owned(bytes)))),
            Kind::Enum(labels) => match labels.texts.iter().position(|label| label == text) {
                Some(position) => Ok(Value::Label(position)),
                None => Err(Unreadable::Invalid(format!(
                    "invalid input value for enum {}: \"{text}\"",
                    labels.name
                ))),
            },
            Kind::Array(element) => array::read(element, text).map(|array| Value::Array(Cow::Owned(array))),
            Kind::Opaque(_) => Err(Unreadable::Unsure),
        }
    }

    fn invalid(&self, text: &str) -> Unreadable {
        Unreadable::Invalid(format!("invalid input syntax for type {}: \"{text}\"", self.sql_name()))
    }

    fn read_integer(&self, text: &str) -> Result<i64, Unreadable> {
        let trimmed = text.trim_matches(is_space);
        let unsigned = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
        if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
            let newer = unsigned.contains('_') || has_radix_prefix(unsigned);
            return Err(if newer { Unreadable::Unsure } else { self.invalid(text) });
        }
        let (least, most) = self.integer_range();
        match trimmed.parse::<i64>() {
            Ok(value) if (least..=most).contains(&value) => Ok(value),
            _ => Err(Unreadable::Invalid(format!(
                "value \"{text}\" is out of range for type {}",
                self.sql_name()
            ))),
        }
    }

    fn read_float(&self, text: &str) -> Result<f64, Unreadable> {
        let trimmed = text.trim_matches(is_space);
        let unsigned = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed).to_ascii_lowercase();
        if matches!(unsigned.as_str(), "infinity" | "inf") {
            return Ok(if trimmed.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
        }
        if trimmed.eq_ignore_ascii_case("nan") {
            return Ok(f64::NAN);
        }
        let plain = unsigned.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'+' | b'-'));
        let parsed = if !plain {
            None
        } else if *self == Kind::Float4 {
            trimmed.parse::<f32>().ok().map(f64::from)
        } else {
            trimmed.parse::<f64>().ok()
        };
        // C's strtod reads more (hexadecimal floats, `nan(…)`): what is not plain is left open.
        let parsed = parsed.ok_or_else(|| if plain { self.invalid(text) } else { Unreadable::Unsure })?;
        let mantissa = unsigned.split('e').next().unwrap_or("");
        let lost = parsed == 0.0 && mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
        if parsed.is_infinite() || lost {
            return Err(Unreadable::Invalid(format!(
                "\"{text}\" is out of range for type {}",
                self.sql_name()
            )));
        }
        Ok(parsed)
    }
}

impl Value<'_> {
    /// A copy that borrows nothing.
    pub(crate) fn into_owned(self) -> Value<'static> {
        match self {
            Value::Bool(value) => Value::Bool(value),
            Value::Int(value) => Value::Int(value),
            Value::Float(value) => Value::Float(value),
            Value::Numeric(value) => Value::Numeric(value),
            Value::Text(value) => Value::Text(Cow::Owned(value.into_owned())),
            Value::Uuid(value) => Value::Uuid(value),
            Value::Date(value) => Value::Date(value),
            Value::Time(value) => Value::Time(value),
            Value::Timestamp(value) => Value::Timestamp(value),
            Value::Interval(value) => Value::Interval(value),
            Value::Json(value) => Value::Json(Cow::Owned(value.into_owned())),
            Value::Bytes(value) => Value::Bytes(Cow::Owned(value.into_owned())),
            Value::Label(value) => Value::Label(value),
            Value::Array(value) => Value::Array(Cow::Owned(value.into_owned())),
        }
    }

    /// The same value, borrowed.
    pub(crate) fn borrow(&self) -> Value<'_> {
        match self {
            Value::Text(value) => Value::Text(Cow::Borrowed(value)),
            Value::Json(value) => Value::Json(Cow::Borrowed(value)),
            Value::Bytes(value) => Value::Bytes(Cow::Borrowed(value)),
            Value::Array(value) => Value::Array(Cow::Borrowed(value)),
            Value::Bool(value) => Value::Bool(*value),
            Value::Int(value) => Value::Int(*value),
            Value::Float(value) => Value::Float(*value),
            Value::Numeric(value) => Value::Numeric(value.clone()),
            Value::Uuid(value) => Value::Uuid(*value),
            Value::Date(value) => Value::Date(*value),
            Value::Time(value) => Value::Time(*value),
            Value::Timestamp(value) => Value::Timestamp(*value),
            Value::Interval(value) => Value::Interval(*value),
            Value::Label(value) => Value::Label(*value),
        }
    }

    /// SQL's `=`; `None` for values that have no common operator.
    pub(crate) fn equals(&self, other: &Value<'_>) -> Option<bool> {
        match (self, other) {
            (Value::Json(left), Value::Json(right)) => Some(left.equals(right)),
            (Value::Array(left), Value::Array(right)) => left.equals(right),
            _ => self.compare(other).map(Ordering::is_eq),
        }
    }

    /// SQL's order; text by bytes. `None` for values that have no common operator.
    pub(crate) fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        Some(match (self, other) {
            (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
            (Value::Int(left), Value::Int(right))
            | (Value::Time(left), Value::Time(right))
            | (Value::Timestamp(left), Value::Timestamp(right)) => left.cmp(right),
            (Value::Float(left), Value::Float(right)) => compare_floats(left.0, right.0),
            (Value::Numeric(left), Value::Numeric(right)) => left.compare(right),
            (Value::Text(left), Value::Text(right)) => left.as_bytes().cmp(right.as_bytes()),
            (Value::Uuid(left), Value::Uuid(right)) => left.cmp(right),
            (Value::Date(left), Value::Date(right)) => left.cmp(right),
            (Value::Date(left), Value::Timestamp(right)) => {
                datetime::compare_date_with_timestamp(*left, *right)
            }
            (Value::Timestamp(left), Value::Date(right)) => {
                datetime::compare_date_with_timestamp(*right, *left).reverse()
            }
            (Value::Interval(left), Value::Interval(right)) => left.compare(*right),
            (Value::Bytes(left), Value::Bytes(right)) => left.cmp(right),
            (Value::Label(left), Value::Label(right)) => left.cmp(right),
            _ => return None,
        })
    }
}

/// NaN equals NaN and is above everything; the zeros are equal.
fn compare_floats(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

/// What `boolin` reads: any unambiguous beginning of the words, in any case.
fn read_bool(text: &str) -> Result<bool, Unreadable> {
    let word = text.trim_matches(is_space).to_ascii_lowercase();
    let begins = |whole: &str, least: usize| word.len() >= least && whole.starts_with(&word);
    if begins("true", 1) || begins("yes", 1) || word == "on" || word == "1" {
        Ok(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || word == "0" {
        Ok(false)
    } else {
        Err(Kind::Bool.invalid(text))
    }
}

/// What `uuid_in` reads: 32 hexadecimal digits, a hyphen allowed after any four, braces allowed around.
fn read_uuid(text: &str) -> Option<u128> {
    let bare = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut value = 0u128;
    let mut count = 0;
    let mut hyphen_allowed = false;
    for byte in bare.bytes() {
        if byte == b'-' {
            if !hyphen_allowed || count == 32 {
                return None;
            }
            hyphen_allowed = false;
            continue;
        }
        let digit = char::from(byte).to_digit(16)?;
        if count == 32 {
            return None;
        }
        value = value << 4 | u128::from(digit);
        count += 1;
        hyphen_allowed = count % 4 == 0;
    }
    (count == 32).then_some(value)
}

/// `\xdeadbeef`, as `bytea_output` hex prints it.
fn read_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compare(kind: &Kind, left: &str, right: &str) -> Ordering {
        kind.read(left).unwrap().compare(&kind.read(right).unwrap()).unwrap()
    }

    #[test]
    fn booleans_are_read_from_any_unambiguous_beginning() {
        for (text, value) in
            [("t", true), (" YES ", true), ("on", true), ("1", true), ("of", false), ("fal", false)]
        {
            assert_eq!(Kind::Bool.read(text), Ok(Value::Bool(value)), "{text}");
        }
        for text in ["", "o", "truex", "2", "tt"] {
            assert!(Kind::Bool.read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn uuids_are_read_in_every_form_and_compare_without_case() {
        let canonical = Kind::Uuid.read("0d8b1f4e-0000-4000-8000-0000000000ab").unwrap();
        for form in ["0D8B1F4E-0000-4000-8000-0000000000AB", "{0d8b1f4e000040008000-0000000000ab}"] {
            assert_eq!(Kind::Uuid.read(form).unwrap(), canonical);
        }
        for wrong in [
            "",
            "0d8b",
            "0d8b1f4e-0000-4000-8000-0000000000a",
            "0d8b1f4e-0000-4000-8000-0000000000ab-",
            "{0d8b1f4e-0000-4000-8000-0000000000ab",
            "0d-8b1f4e00004000800000000000000ab",
        ] {
            assert!(matches!(Kind::Uuid.read(wrong), Err(Unreadable::Invalid(_))), "{wrong}");
        }
    }

    #[test]
    fn integers_beyond_their_type_are_refused_with_its_message() {
        assert_eq!(
            Kind::Int2.read("40000"),
            Err(Unreadable::Invalid("value \"40000\" is out of range for type smallint".to_owned()))
        );
        assert_eq!(
            Kind::Int4.read("abc"),
            Err(Unreadable::Invalid("invalid input syntax for type integer: \"abc\"".to_owned()))
        );
        assert_eq!(Kind::Int4.read("0x10"), Err(Unreadable::Unsure));
        assert_eq!(Kind::Int8.read(" -9223372036854775808 "), Ok(Value::Int(i64::MIN)));
    }

    #[test]
    fn floats_order_nan_last_and_take_both_zeros_as_one() {
        assert_eq!(compare(&Kind::Float8, "NaN", "Infinity"), Ordering::Greater);
        assert_eq!(compare(&Kind::Float8, "nan", "NaN"), Ordering::Equal);
        assert_eq!(compare(&Kind::Float8, "-0", "0"), Ordering::Equal);
        assert!(Kind::Float8.read("1e999").is_err());
        assert!(Kind::Float4.read("1e-60").is_err());
        assert_eq!(Kind::Float8.read("0x1p3"), Err(Unreadable::Unsure));
    }

    #[test]
    fn enumerations_order_by_their_catalog() {
        let mood = Kind::Enum(Arc::new(Labels {
            oid: Oid(1),
            name: "mood".to_owned(),
            texts: vec!["sad".to_owned(), "ok".to_owned(), "happy".to_owned()],
        }));
        assert_eq!(compare(&mood, "sad", "happy"), Ordering::Less);
        assert!(matches!(mood.read("angry"), Err(Unreadable::Invalid(_))));
    }

    proptest! {
        #[test]
        fn reading_any_text_as_any_kind_never_panics(text in "\\PC{0,24}") {
            for name in ["bool", "int2", "int8", "float4", "float8", "numeric", "uuid", "date", "time", "timestamp",
                "timestamptz", "interval", "jsonb", "bytea", "name"] {
                let kind = Kind::of_base_name(name).unwrap();
                let _ = kind.read(&text);
                let _ = Kind::Array(Box::new(kind)).read(&text);
            }
        }
    }
}
