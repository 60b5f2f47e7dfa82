//! Rounding, signs and bits of numbers (PostgreSQL docs, "Mathematical Functions and Operators").

use crate::numeric::{Numeric, Rounding};
use crate::operation::{Operands, Stop};
use crate::value::{Float, Kind, Value};

/// A strict operation on numbers; those of arithmetic are [`crate::operation::Arithmetic`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Number {
    /// `ceil`, `floor`, `round`, `trunc` of a float or numeric.
    Whole(Rounding),
    /// `round(numeric, integer)` and `trunc(numeric, integer)`.
    Scaled(Rounding),
    Sign,
    /// `numeric(precision, scale)`.
    Fit {
        precision: u32,
        scale: i32,
    },
    /// `&`
    And,
    /// `|`
    Or,
    /// `#`
    Xor,
    /// `~`
    Complement,
    /// `<<` or `>>`, on the kind of the result.
    Shift {
        left: bool,
        kind: Kind,
    },
}

impl Number {
    pub(super) fn may_ask(&self) -> bool {
        matches!(self, Number::Whole(_) | Number::Scaled(_) | Number::Fit { .. } | Number::Shift { .. })
    }

    pub(super) fn may_fail(&self) -> bool {
        matches!(self, Number::Fit { .. })
    }

    pub(super) fn apply<'a>(&self, operands: &Operands<'_>) -> Result<Value<'a>, Stop> {
        match (self, operands.as_slice()) {
            (Number::Whole(rounding), [Value::Float(Float(value))]) => {
                Ok(Value::Float(Float(rounding.of_float(*value))))
            }
            (Number::Whole(rounding), [Value::Numeric(value)]) => numeric(value.rounded(*rounding, 0)),
            (Number::Scaled(rounding), [Value::Numeric(value), Value::Int(scale)]) => {
                numeric(value.rounded(*rounding, *scale))
            }
            // NaN has no sign, and no error either.
            (Number::Sign, [Value::Float(Float(value))]) => {
                let sign = if *value > 0.0 {
                    1.0
                } else if *value < 0.0 {
                    -1.0
                } else {
                    0.0
                };
                Ok(Value::Float(Float(sign)))
            }
            (Number::Sign, [Value::Numeric(value)]) => Ok(Value::Numeric(value.sign())),
            (Number::Fit { precision, scale }, [Value::Numeric(value)]) => fit(value, *precision, *scale),
            (Number::And, [Value::Int(left), Value::Int(right)]) => Ok(Value::Int(left & right)),
            (Number::Or, [Value::Int(left), Value::Int(right)]) => Ok(Value::Int(left | right)),
            (Number::Xor, [Value::Int(left), Value::Int(right)]) => Ok(Value::Int(left ^ right)),
            (Number::Complement, [Value::Int(value)]) => Ok(Value::Int(!value)),
            (Number::Shift { left, kind }, [Value::Int(value), Value::Int(by)]) => {
                shift(*left, kind, *value, *by).map(Value::Int)
            }
            _ => Err(Stop::Ask),
        }
    }
}

fn numeric<'a>(value: Option<Numeric>) -> Result<Value<'a>, Stop> {
    value.map(Value::Numeric).ok_or(Stop::Ask)
}

fn fit<'a>(value: &Numeric, precision: u32, scale: i32) -> Result<Value<'a>, Stop> {
    let overflow = || Stop::Failed("numeric field overflow".to_owned());
    if matches!(value, Numeric::Infinity | Numeric::NegativeInfinity) {
        return Err(overflow());
    }
    let rounded = value.rounded(Rounding::Nearest, scale.into()).ok_or(Stop::Ask)?;
    let digits = i64::from(precision) - i64::from(scale);
    if rounded.is_finite() && !rounded.is_below_power_of_ten(digits).ok_or(Stop::Ask)? {
        return Err(overflow());
    }
    Ok(Value::Numeric(rounded))
}

/// What is shifted out is lost. Shifting by more than there are bits is whatever the processor does.
fn shift(left: bool, kind: &Kind, value: i64, by: i64) -> Result<i64, Stop> {
    let bits = if *kind == Kind::Int8 { 64 } else { 32 };
    let by = u32::try_from(by).ok().filter(|by| *by < bits).ok_or(Stop::Ask)?;
    if !left {
        return Ok(value >> by);
    }
    #[expect(clippy::cast_possible_truncation, reason = "higher bits are lost in PostgreSQL too")]
    Ok(match kind {
        Kind::Int2 => i64::from((value << by) as i16),
        Kind::Int4 => i64::from((value << by) as i32),
        _ => value << by,
    })
}
