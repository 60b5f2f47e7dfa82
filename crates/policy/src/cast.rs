//! Casts between the common types (PostgreSQL docs, "Type Conversion", and each type's own page).

use std::borrow::Cow;
use std::sync::Arc;

use crate::array::Array;
use crate::datetime::{self, Interval};
use crate::json::{Json, raw};
use crate::numeric::{Numeric, Unreadable};
use crate::operation::{Stop, without_blanks};
use crate::value::{Float, Kind, Labels, Value};

/// A cast that changes the value; those that do not are left out of expressions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cast {
    /// From any integer type.
    IntegerTo(Kind),
    NumericTo(Kind),
    /// From `float8`.
    FloatTo(Kind),
    BoolToInteger,
    IntegerToBool,
    /// From a type whose text needs nothing but the value.
    ToText,
    LabelToText(Arc<Labels>),
    UuidToText,
    /// From a date, a time, a timestamp or an interval, under the settings of our sessions.
    MomentToText(Kind),
    /// As an output function prints it: `t`, `f`.
    BoolToLetter,
    /// `name`, which holds 63 bytes.
    TextToName,
    /// `bpchar` to `text`.
    TrimBlanks,
    /// By the type's input function.
    TextTo(Kind),
    JsonTo(Kind),
    /// To `timestamp` or `timestamptz`, which are the same in UTC.
    DateToTimestamp {
        zoned: bool,
    },
    /// From either.
    TimestampToDate {
        zoned: bool,
    },
    TimestampToTime {
        zoned: bool,
    },
    /// `timestamp` to `timestamptz` or back: the same in UTC.
    Rezone,
    TimeToInterval,
    IntervalToTime,
    /// Each element of an array.
    Elements(Box<Cast>),
}

impl Cast {
    /// The cast `from::to`; `Ok(None)` where the value stays the same, `Err` where we do not know it exactly.
    pub(crate) fn between(from: &Kind, to: &Kind) -> Result<Option<Cast>, String> {
        if from == to {
            return Ok(None);
        }
        Ok(Some(match (from, to) {
            (Kind::Int2, Kind::Int4 | Kind::Int8)
            | (Kind::Int4, Kind::Int8)
            | (Kind::Float4, Kind::Float8)
            | (Kind::Name | Kind::Json, Kind::Text)
            | (Kind::Text, Kind::Char) => return Ok(None),
            (integer, to @ (Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Numeric | Kind::Float8))
                if integer.is_integer() =>
            {
                Cast::IntegerTo(to.clone())
            }
            (Kind::Numeric, to @ (Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Float8)) => {
                Cast::NumericTo(to.clone())
            }
            (Kind::Float4 | Kind::Float8, to @ (Kind::Int2 | Kind::Int4 | Kind::Int8)) => {
                Cast::FloatTo(to.clone())
            }
            (Kind::Bool, Kind::Int4) => Cast::BoolToInteger,
            (Kind::Int4, Kind::Bool) => Cast::IntegerToBool,
            (Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Numeric | Kind::Bool | Kind::Jsonb, Kind::Text) => {
                Cast::ToText
            }
            (Kind::Jsonb, Kind::Json) => Cast::ToText,
            (Kind::Json, Kind::Jsonb) => Cast::TextTo(Kind::Jsonb),
            (Kind::Uuid, Kind::Text) => Cast::UuidToText,
            (Kind::Date | Kind::Time | Kind::Timestamp | Kind::TimestampTz | Kind::Interval, Kind::Text) => {
                Cast::MomentToText(from.clone())
            }
            (Kind::Text, Kind::Name) => Cast::TextToName,
            (Kind::Enum(labels), Kind::Text) => Cast::LabelToText(labels.clone()),
            (Kind::Char, Kind::Text) => Cast::TrimBlanks,
            (
                Kind::Jsonb,
                to @ (Kind::Bool | Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Numeric | Kind::Float8),
            ) => Cast::JsonTo(to.clone()),
            (Kind::Date, Kind::Timestamp) => Cast::DateToTimestamp { zoned: false },
            (Kind::Date, Kind::TimestampTz) => Cast::DateToTimestamp { zoned: true },
            (Kind::Timestamp, Kind::Date) => Cast::TimestampToDate { zoned: false },
            (Kind::TimestampTz, Kind::Date) => Cast::TimestampToDate { zoned: true },
            (Kind::Timestamp, Kind::Time) => Cast::TimestampToTime { zoned: false },
            (Kind::TimestampTz, Kind::Time) => Cast::TimestampToTime { zoned: true },
            (Kind::Timestamp, Kind::TimestampTz) | (Kind::TimestampTz, Kind::Timestamp) => Cast::Rezone,
            (Kind::Time, Kind::Interval) => Cast::TimeToInterval,
            (Kind::Interval, Kind::Time) => Cast::IntervalToTime,
            (Kind::Text, to) if !matches!(to, Kind::Opaque(_) | Kind::Untyped) => Cast::TextTo(to.clone()),
            (Kind::Array(from), Kind::Array(to)) => match Cast::between(from, to)? {
                None => return Ok(None),
                Some(cast) => Cast::Elements(Box::new(cast)),
            },
            (from, to) => return Err(format!("the cast from {} to {}", from.sql_name(), to.sql_name())),
        }))
    }

    /// Whether some values leave the answer to PostgreSQL.
    pub(crate) fn may_ask(&self) -> bool {
        match self {
            Cast::TextTo(kind) => !matches!(kind, Kind::Bool | Kind::Uuid | Kind::Enum(_) | Kind::Char),
            Cast::JsonTo(_) | Cast::TextToName => true,
            Cast::Elements(cast) => cast.may_ask(),
            _ => false,
        }
    }

    /// Whether some values raise.
    pub(crate) fn may_fail(&self) -> bool {
        match self {
            Cast::BoolToInteger
            | Cast::IntegerToBool
            | Cast::ToText
            | Cast::LabelToText(_)
            | Cast::UuidToText
            | Cast::TrimBlanks
            | Cast::MomentToText(_)
            | Cast::BoolToLetter
            | Cast::TextToName
            | Cast::TimestampToDate { .. }
            | Cast::TimestampToTime { .. }
            | Cast::Rezone
            | Cast::TimeToInterval
            | Cast::IntervalToTime
            | Cast::TextTo(Kind::Text | Kind::Char)
            | Cast::IntegerTo(Kind::Numeric | Kind::Float8) => false,
            Cast::Elements(cast) => cast.may_fail(),
            _ => true,
        }
    }

    /// Whether PostgreSQL's function is only stable, because settings decide in general.
    pub(crate) fn is_stable(&self) -> bool {
        match self {
            Cast::LabelToText(_) | Cast::Rezone => true,
            Cast::MomentToText(kind) => !matches!(kind, Kind::Time | Kind::Interval),
            Cast::TextTo(kind) => matches!(
                kind,
                Kind::Date
                    | Kind::Time
                    | Kind::Timestamp
                    | Kind::TimestampTz
                    | Kind::Interval
                    | Kind::Enum(_)
                    | Kind::Array(_)
            ),
            Cast::DateToTimestamp { zoned }
            | Cast::TimestampToDate { zoned }
            | Cast::TimestampToTime { zoned } => *zoned,
            Cast::Elements(cast) => cast.is_stable(),
            _ => false,
        }
    }

    /// Applies it to a value that is not NULL.
    pub(crate) fn apply<'a>(&self, value: Value<'a>) -> Result<Option<Value<'a>>, Stop> {
        Ok(Some(match (self, value) {
            (Cast::IntegerTo(kind), Value::Int(value)) => from_integer(kind, value)?,
            (Cast::NumericTo(kind), Value::Numeric(value)) => from_numeric(kind, &value)?,
            (Cast::FloatTo(kind), Value::Float(value)) => from_float(kind, value.0)?,
            (Cast::BoolToInteger, Value::Bool(value)) => Value::Int(i64::from(value)),
            (Cast::IntegerToBool, Value::Int(value)) => Value::Bool(value != 0),
            (Cast::ToText, value) => owned(to_text(&value)?),
            (Cast::UuidToText, Value::Uuid(value)) => owned(uuid_text(value)),
            (Cast::LabelToText(labels), Value::Label(at)) => {
                owned(labels.texts.get(at).cloned().ok_or(Stop::Ask)?)
            }
            (Cast::MomentToText(kind), value) => owned(moment_text(kind, &value)?),
            (Cast::BoolToLetter, Value::Bool(value)) => owned(if value { "t" } else { "f" }.to_owned()),
            // A longer one is cut off, between characters of its encoding.
            (Cast::TextToName, Value::Text(text)) if text.len() > 63 => return Err(Stop::Ask),
            (Cast::TextToName, value @ Value::Text(_)) => value,
            (Cast::TextTo(Kind::Json), Value::Text(text)) => match raw::check(&text) {
                Ok(()) => Value::Text(text),
                Err(unreadable) => return Err(unreadable.into()),
            },
            (Cast::TrimBlanks, Value::Text(text)) => Value::Text(without_blanks(text)),
            (Cast::TextTo(kind), Value::Text(text)) => read(kind, &text)?,
            (Cast::JsonTo(kind), Value::Json(json)) => from_json(kind, &json)?,
            (Cast::DateToTimestamp { .. }, Value::Date(date)) => datetime::date_to_timestamp(date)
                .map(Value::Timestamp)
                .ok_or_else(|| Stop::Failed("date out of range for timestamp".to_owned()))?,
            (Cast::TimestampToDate { .. }, Value::Timestamp(timestamp)) => {
                datetime::timestamp_to_date(timestamp).map(Value::Date).ok_or(Stop::Ask)?
            }
            (Cast::TimestampToTime { .. }, Value::Timestamp(timestamp)) => {
                return Ok(datetime::time_of(timestamp).map(Value::Time));
            }
            (Cast::Rezone, moment @ Value::Timestamp(_)) => moment,
            (Cast::TimeToInterval, Value::Time(microseconds)) => {
                Value::Interval(Interval { microseconds, ..Interval::default() })
            }
            (Cast::IntervalToTime, Value::Interval(interval)) => {
                Value::Time(datetime::add_to_time(0, interval.microseconds).ok_or(Stop::Ask)?)
            }
            (Cast::Elements(cast), Value::Array(array)) => {
                Value::Array(Cow::Owned(each_element(cast, array.into_owned())?))
            }
            _ => return Err(Stop::Ask),
        }))
    }
}

/// Reads text by the type's input function.
pub(crate) fn read(kind: &Kind, text: &str) -> Result<Value<'static>, Stop> {
    match kind.read(text) {
        Ok(value) => Ok(value.into_owned()),
        Err(unreadable) => Err(unreadable.into()),
    }
}

impl From<Unreadable> for Stop {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Invalid(message) => Stop::Failed(message),
            Unreadable::Unsure => Stop::Ask,
        }
    }
}

fn owned(text: String) -> Value<'static> {
    Value::Text(Cow::Owned(text))
}

fn each_element(cast: &Cast, array: Array) -> Result<Array, Stop> {
    let mut elements = Vec::with_capacity(array.elements.len());
    for element in array.elements {
        elements.push(match element {
            None => None,
            Some(element) => cast.apply(element)?.map(Value::into_owned),
        });
    }
    Ok(Array { dimensions: array.dimensions, elements })
}

fn out_of_range(kind: &Kind) -> Stop {
    Stop::Failed(format!("{} out of range", kind.sql_name()))
}

fn from_integer<'a>(kind: &Kind, value: i64) -> Result<Value<'a>, Stop> {
    let (least, most) = kind.integer_range();
    match kind {
        Kind::Numeric => Ok(Value::Numeric(Numeric::from(value))),
        #[expect(clippy::cast_precision_loss, reason = "PostgreSQL rounds to the nearest double too")]
        Kind::Float8 => Ok(Value::Float(Float(value as f64))),
        _ if (least..=most).contains(&value) => Ok(Value::Int(value)),
        _ => Err(out_of_range(kind)),
    }
}

fn from_numeric<'a>(kind: &Kind, value: &Numeric) -> Result<Value<'a>, Stop> {
    if *kind == Kind::Float8 {
        let text = value.to_text();
        return read(&Kind::Float8, &text);
    }
    if !value.is_finite() {
        let what = if *value == Numeric::NaN { "NaN" } else { "infinity" };
        return Err(Stop::Failed(format!("cannot convert {what} to {}", kind.sql_name())));
    }
    let integer = value.to_integer().ok_or_else(|| out_of_range(kind))?;
    from_integer(kind, integer)
}

fn from_float<'a>(kind: &Kind, value: f64) -> Result<Value<'a>, Stop> {
    // The first double beyond an i64; everything below it in size converts exactly once rounded.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let rounded = value.round_ties_even();
    if rounded.is_nan() || !(-LIMIT..LIMIT).contains(&rounded) {
        return Err(out_of_range(kind));
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole and within range, as just checked")]
    let integer = rounded as i64;
    from_integer(kind, integer)
}

fn from_json<'a>(kind: &Kind, json: &Json) -> Result<Value<'a>, Stop> {
    match (json, kind) {
        (Json::Bool(value), Kind::Bool) => Ok(Value::Bool(*value)),
        (Json::Number(number), Kind::Numeric) => Ok(Value::Numeric(number.clone())),
        (Json::Number(number), kind) if kind.is_integer() || *kind == Kind::Float8 => {
            from_numeric(kind, number)
        }
        // An error before PostgreSQL 18, NULL since.
        (Json::Null, _) => Err(Stop::Ask),
        (other, _) => Err(Stop::Failed(format!(
            "cannot cast jsonb {} to type {}",
            match other {
                Json::Number(_) => "numeric",
                other => other.type_name(),
            },
            kind.sql_name()
        ))),
    }
}

fn to_text(value: &Value<'_>) -> Result<String, Stop> {
    Ok(match value {
        Value::Int(value) => value.to_string(),
        Value::Numeric(value) => value.to_text(),
        Value::Bool(value) => value.to_string(),
        Value::Json(json) => json.to_text(),
        _ => return Err(Stop::Ask),
    })
}

fn moment_text(kind: &Kind, value: &Value<'_>) -> Result<String, Stop> {
    Ok(match value {
        Value::Date(date) => datetime::date_text(*date),
        Value::Time(time) => datetime::time_text(*time),
        Value::Timestamp(moment) => datetime::timestamp_text(*moment, *kind == Kind::TimestampTz),
        Value::Interval(interval) => interval.to_text(),
        _ => return Err(Stop::Ask),
    })
}

pub(crate) fn uuid_text(value: u128) -> String {
    let digits = format!("{value:032x}");
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast(from: &Kind, to: &Kind, text: &str) -> Result<Option<Value<'static>>, Stop> {
        let value = from.read(text).unwrap().into_owned();
        match Cast::between(from, to).unwrap() {
            None => Ok(Some(value)),
            Some(cast) => cast.apply(value),
        }
    }

    #[test]
    fn numbers_round_and_overflow_as_postgres_rounds_and_overflows() {
        assert_eq!(cast(&Kind::Numeric, &Kind::Int4, "2.5"), Ok(Some(Value::Int(3))));
        assert_eq!(cast(&Kind::Float8, &Kind::Int4, "2.5"), Ok(Some(Value::Int(2))));
        assert_eq!(
            cast(&Kind::Int8, &Kind::Int2, "40000"),
            Err(Stop::Failed("smallint out of range".to_owned()))
        );
        assert!(matches!(cast(&Kind::Float8, &Kind::Int8, "9.3e18"), Err(Stop::Failed(_))));
        assert!(matches!(cast(&Kind::Numeric, &Kind::Int4, "NaN"), Err(Stop::Failed(_))));
    }

    #[test]
    fn text_goes_through_the_input_function() {
        assert!(matches!(cast(&Kind::Text, &Kind::Uuid, "nobody"), Err(Stop::Failed(_))));
        assert_eq!(cast(&Kind::Text, &Kind::Int4, "0x1F"), Err(Stop::Ask));
        assert_eq!(
            cast(&Kind::Uuid, &Kind::Text, "0D8B1F4E00004000800000000000000A"),
            Ok(Some(owned("0d8b1f4e-0000-4000-8000-00000000000a".to_owned())))
        );
    }

    #[test]
    fn json_scalars_become_sql_values_of_their_kind_only() {
        assert_eq!(cast(&Kind::Jsonb, &Kind::Int4, "1.5"), Ok(Some(Value::Int(2))));
        assert!(matches!(cast(&Kind::Jsonb, &Kind::Bool, "\"true\""), Err(Stop::Failed(_))));
        assert_eq!(cast(&Kind::Jsonb, &Kind::Bool, "null"), Err(Stop::Ask));
    }

    #[test]
    fn casts_that_are_not_exact_here_are_unknown() {
        for (from, to) in [
            (Kind::Float8, Kind::Text),
            (Kind::Float8, Kind::Numeric),
            (Kind::Bytea, Kind::Text),
            (Kind::Json, Kind::Bool),
        ] {
            assert!(Cast::between(&from, &to).is_err(), "{from:?} to {to:?}");
        }
    }
}
