//! Arithmetic on numbers (PostgreSQL docs, "Mathematical Functions and Operators"): what does not fit raises.

use crate::numeric::Numeric;
use crate::operation::{Arithmetic, Stop};
use crate::value::{Float, Kind, Value};

fn out_of_range(kind: &Kind) -> Stop {
    Stop::Failed(format!("{} out of range", kind.sql_name()))
}

fn within(kind: &Kind, value: Option<i64>) -> Result<Value<'static>, Stop> {
    let (least, most) = kind.integer_range();
    value.filter(|value| (least..=most).contains(value)).map(Value::Int).ok_or_else(|| out_of_range(kind))
}

pub(super) fn negate<'a>(kind: &Kind, value: Value<'a>) -> Result<Value<'a>, Stop> {
    match value {
        Value::Int(value) => within(kind, value.checked_neg()),
        Value::Float(Float(value)) => Ok(Value::Float(Float(-value))),
        Value::Numeric(value) => Ok(Value::Numeric(value.negate())),
        _ => Err(Stop::Ask),
    }
}

pub(super) fn absolute<'a>(kind: &Kind, value: Value<'a>) -> Result<Value<'a>, Stop> {
    match value {
        Value::Int(value) => within(kind, value.checked_abs()),
        Value::Float(Float(value)) => Ok(Value::Float(Float(value.abs()))),
        Value::Numeric(value) => Ok(Value::Numeric(value.absolute())),
        _ => Err(Stop::Ask),
    }
}

fn division_by_zero() -> Stop {
    Stop::Failed("division by zero".to_owned())
}

pub(super) fn arithmetic<'a>(
    operator: Arithmetic,
    kind: &Kind,
    left: Value<'a>,
    right: Value<'a>,
) -> Result<Value<'a>, Stop> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => integers(operator, kind, left, right),
        (Value::Float(left), Value::Float(right)) => floats(operator, left.0, right.0),
        (Value::Numeric(left), Value::Numeric(right)) => numerics(operator, &left, &right),
        _ => Err(Stop::Ask),
    }
}

fn integers<'a>(operator: Arithmetic, kind: &Kind, left: i64, right: i64) -> Result<Value<'a>, Stop> {
    let result = match operator {
        Arithmetic::Add => left.checked_add(right),
        Arithmetic::Subtract => left.checked_sub(right),
        Arithmetic::Multiply => left.checked_mul(right),
        Arithmetic::Divide | Arithmetic::Remainder if right == 0 => return Err(division_by_zero()),
        Arithmetic::Divide => left.checked_div(right),
        // PostgreSQL gives 0 for the one case that overflows.
        Arithmetic::Remainder => Some(left.wrapping_rem(right)),
    };
    within(kind, result)
}

fn floats<'a>(operator: Arithmetic, left: f64, right: f64) -> Result<Value<'a>, Stop> {
    let result = match operator {
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide if right == 0.0 && !left.is_nan() => return Err(division_by_zero()),
        Arithmetic::Divide => left / right,
        Arithmetic::Remainder => return Err(Stop::Ask),
    };
    let dividing = operator == Arithmetic::Divide;
    if result.is_infinite() && !left.is_infinite() && (dividing || !right.is_infinite()) {
        return Err(Stop::Failed("value out of range: overflow".to_owned()));
    }
    let vanished = match operator {
        Arithmetic::Multiply => left != 0.0 && right != 0.0,
        Arithmetic::Divide => left != 0.0 && !right.is_infinite(),
        _ => false,
    };
    if result == 0.0 && vanished {
        return Err(Stop::Failed("value out of range: underflow".to_owned()));
    }
    Ok(Value::Float(Float(result)))
}

fn numerics<'a>(operator: Arithmetic, left: &Numeric, right: &Numeric) -> Result<Value<'a>, Stop> {
    let result = match operator {
        Arithmetic::Add => left.add(right),
        Arithmetic::Subtract => left.subtract(right),
        Arithmetic::Multiply => left.multiply(right),
        Arithmetic::Divide | Arithmetic::Remainder if right.is_zero() && left.is_finite() => {
            return Err(division_by_zero());
        }
        Arithmetic::Divide => left.divide(right),
        Arithmetic::Remainder => left.remainder(right),
    };
    result.map(Value::Numeric).ok_or(Stop::Ask)
}
