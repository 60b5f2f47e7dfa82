//! Arithmetic on moments, and functions of them.

use crate::datetime::Field;
use crate::expression::Expression;
use crate::operation::{Arithmetic, Moment, Operation};
use crate::resolve::arithmetic::into_float;
use crate::resolve::{Reason, Typed, at_time_zone, cast};
use crate::value::{Kind, Value};

fn call(moment: Moment, operands: Vec<Typed>, kind: Kind) -> Typed {
    let operands = operands.into_iter().map(|operand| operand.expression).collect();
    Typed::new(Expression::Call(Operation::Moment(moment), operands), kind)
}

/// `left + right` and the like, where one of them is a moment or an interval.
pub(super) fn arithmetic(operator: Arithmetic, left: Typed, right: Typed) -> Result<Typed, Reason> {
    use Arithmetic::{Add, Multiply, Subtract};
    let zoned = [&left.kind, &right.kind].contains(&&Kind::TimestampTz);
    let (moment, kind) = match (operator, &left.kind, &right.kind) {
        // The moment stands first.
        (Add, Kind::Interval, Kind::Date | Kind::Time | Kind::Timestamp | Kind::TimestampTz)
        | (Add, Kind::Int4 | Kind::Time, Kind::Date) => return arithmetic(operator, right, left),
        (Multiply, number, Kind::Interval) if *number != Kind::Interval => {
            return arithmetic(operator, right, left);
        }
        (Add, Kind::Date, Kind::Int4) => (Moment::AddDays, Kind::Date),
        (Subtract, Kind::Date, Kind::Int4) => (Moment::SubtractDays, Kind::Date),
        (Subtract, Kind::Date, Kind::Date) => (Moment::DaysBetween, Kind::Int4),
        (Add, Kind::Date, Kind::Interval | Kind::Time) => (Moment::AddInterval { zoned }, Kind::Timestamp),
        (Subtract, Kind::Date, Kind::Interval) => (Moment::SubtractInterval { zoned }, Kind::Timestamp),
        (Subtract, Kind::Timestamp, Kind::Timestamp) | (Subtract, Kind::TimestampTz, Kind::TimestampTz) => {
            (Moment::TimeBetween, Kind::Interval)
        }
        (Add, Kind::Timestamp | Kind::TimestampTz, Kind::Interval) => {
            (Moment::AddInterval { zoned }, left.kind.clone())
        }
        (Subtract, Kind::Timestamp | Kind::TimestampTz, Kind::Interval) => {
            (Moment::SubtractInterval { zoned }, left.kind.clone())
        }
        (Add, Kind::Time, Kind::Interval) => (Moment::AddToTime, Kind::Time),
        (Subtract, Kind::Time, Kind::Interval) => (Moment::SubtractFromTime, Kind::Time),
        (Subtract, Kind::Time, Kind::Time) => (Moment::ClockBetween, Kind::Interval),
        (Add, Kind::Interval, Kind::Interval) => (Moment::AddIntervals, Kind::Interval),
        (Subtract, Kind::Interval, Kind::Interval) => (Moment::SubtractIntervals, Kind::Interval),
        (Multiply, Kind::Interval, _) => {
            let factor = into_float(right)?;
            return Ok(call(Moment::MultiplyInterval, vec![left, factor], Kind::Interval));
        }
        (_, a, b) => return Err(format!("arithmetic on {} and {}", a.sql_name(), b.sql_name())),
    };
    Ok(call(moment, vec![left, right], kind))
}

/// `- interval`.
pub(super) fn negate(interval: Typed) -> Typed {
    call(Moment::NegateInterval, vec![interval], Kind::Interval)
}

/// `EXTRACT(field FROM moment)`.
pub(crate) fn extract(field: &str, moment: Typed) -> Result<Typed, Reason> {
    let field = field_of(field, &moment.kind)?;
    let zoned = moment.kind == Kind::TimestampTz;
    Ok(call(Moment::Extract { field, zoned }, vec![moment], Kind::Numeric))
}

fn field_of(name: &str, kind: &Kind) -> Result<Field, Reason> {
    let unknown = || format!("the field {name} of {}", kind.sql_name());
    let field = Field::named(name).ok_or_else(unknown)?;
    let known = match kind {
        Kind::Date => field.is_of_date(),
        Kind::Time => field.is_of_time(),
        Kind::Interval => field.is_of_interval(),
        Kind::Timestamp | Kind::TimestampTz => true,
        _ => false,
    };
    if known { Ok(field) } else { Err(unknown()) }
}

/// `make_interval` of its arguments by their names.
pub(crate) fn make_interval(arguments: Vec<(String, Typed)>) -> Result<Typed, Reason> {
    let zero = || Expression::Literal(Some(Value::Int(0)));
    let mut parts = [zero(), zero(), zero()];
    for (name, argument) in arguments {
        let at = ["days", "hours", "mins"].iter().position(|known| *known == name);
        let at = at.ok_or_else(|| format!("{name} of an interval that is made"))?;
        parts[at] = argument.expect(&Kind::Int4)?.expression;
    }
    let operation = Operation::Moment(Moment::MakeInterval);
    Ok(Typed::new(Expression::Call(operation, parts.into()), Kind::Interval))
}

/// A function of moments by its name.
pub(super) fn function(name: &str, mut arguments: Vec<Typed>) -> Result<Typed, Reason> {
    let unknown = || format!("the function {name} of these types");
    let now = || Typed::new(Expression::Now, Kind::TimestampTz);
    match (name, arguments.len()) {
        ("now" | "transaction_timestamp" | "statement_timestamp", 0) => Ok(now()),
        ("timezone", 2) => {
            let moment = arguments.pop().ok_or_else(unknown)?;
            at_time_zone(moment, &arguments[0])
        }
        ("date_trunc", 2 | 3) => {
            if arguments.len() == 3 {
                let zone = arguments.pop().ok_or_else(unknown)?;
                let zoned = arguments[1].kind == Kind::TimestampTz;
                if !zoned || !is_utc(&zone) {
                    return Err("a conversion between time zones".to_owned());
                }
            }
            let moment = arguments.pop().ok_or_else(unknown)?;
            let field = Field::named(&literal(&arguments[0])?).filter(|field| field.is_unit());
            let field = field.ok_or_else(|| "the unit of date_trunc".to_owned())?;
            if !matches!(moment.kind, Kind::Timestamp | Kind::TimestampTz) {
                return Err(unknown());
            }
            let kind = moment.kind.clone();
            let zoned = kind == Kind::TimestampTz;
            Ok(call(Moment::Truncate { field, zoned }, vec![moment], kind))
        }
        ("date_part", 2) => {
            let moment = arguments.pop().ok_or_else(unknown)?;
            let name = literal(&arguments[0])?;
            // The body of `date_part(text, date)` is that of its timestamp.
            let moment = if moment.kind == Kind::Date { cast(moment, &Kind::Timestamp)? } else { moment };
            let field = field_of(&name, &moment.kind)?;
            let zoned = moment.kind == Kind::TimestampTz;
            Ok(call(Moment::Part { field, zoned }, vec![moment], Kind::Float8))
        }
        ("isfinite", 1) => {
            let moment = arguments.pop().ok_or_else(unknown)?;
            if !matches!(moment.kind, Kind::Date | Kind::Timestamp | Kind::TimestampTz) {
                return Err(unknown());
            }
            Ok(call(Moment::IsFinite, vec![moment], Kind::Bool))
        }
        ("to_timestamp", 1) => {
            let seconds = into_float(arguments.pop().ok_or_else(unknown)?)?;
            Ok(call(Moment::FromEpoch, vec![seconds], Kind::TimestampTz))
        }
        _ => Err(unknown()),
    }
}

fn literal(typed: &Typed) -> Result<String, Reason> {
    match &typed.expression {
        Expression::Literal(Some(Value::Text(text))) => Ok(text.to_string()),
        _ => Err("a field that is not a literal".to_owned()),
    }
}

/// Whether a literal names the time zone that our sessions have.
pub(super) fn is_utc(zone: &Typed) -> bool {
    matches!(&zone.expression, Expression::Literal(Some(Value::Text(zone))) if zone.eq_ignore_ascii_case("utc"))
}
