//! Arithmetic, and functions of numbers.

use crate::expression::Expression;
use crate::numeric::Rounding;
use crate::operation::{Arithmetic, Number, Operation, Text};
use crate::resolve::{Bits, Reason, Typed, cast, common_numbers, moment, settle_both};
use crate::value::Kind;

pub(super) fn arithmetic(operator: Arithmetic, left: Typed, right: Typed) -> Result<Typed, Reason> {
    if left.kind == Kind::Jsonb {
        return super::document::subtract(operator, left, right);
    }
    if [&left.kind, &right.kind].contains(&&Kind::Untyped) {
        // Which type a literal takes next to a moment is PostgreSQL's to say.
        return Err("arithmetic on an untyped literal".to_owned());
    }
    let (left, right) = common_numbers(left, right)?;
    let (operation, kind) = match (operator, &left.kind, &right.kind) {
        (Arithmetic::Remainder, a, b) if a != b => {
            return Err(format!("{} % {}", a.sql_name(), b.sql_name()));
        }
        (Arithmetic::Remainder, Kind::Float8, _) => {
            return Err("the remainder of double precision".to_owned());
        }
        (_, a, b) if a.is_integer() && b.is_integer() => {
            let wider = if a.integer_range().1 >= b.integer_range().1 { a } else { b };
            (Operation::Arithmetic(operator, wider.clone()), wider.clone())
        }
        (_, Kind::Numeric, Kind::Numeric) => (Operation::Arithmetic(operator, Kind::Numeric), Kind::Numeric),
        (_, Kind::Float8, Kind::Float4 | Kind::Float8) | (_, Kind::Float4, Kind::Float8) => {
            (Operation::Arithmetic(operator, Kind::Float8), Kind::Float8)
        }
        _ => return moment::arithmetic(operator, left, right),
    };
    Ok(call(operation, vec![left, right], kind))
}

/// `& | # << >>`
pub(super) fn bits(bits: Bits, left: Typed, right: Typed) -> Result<Typed, Reason> {
    let (left, right) = settle_both(left, right)?;
    let kind = left.kind.clone();
    let shifting = matches!(bits, Bits::ShiftLeft | Bits::ShiftRight);
    let fits = kind.is_integer() && if shifting { right.kind == Kind::Int4 } else { right.kind == kind };
    if !fits {
        return Err(format!("bits of {} and {}", kind.sql_name(), right.kind.sql_name()));
    }
    let number = match bits {
        Bits::And => Number::And,
        Bits::Or => Number::Or,
        Bits::Xor => Number::Xor,
        Bits::ShiftLeft | Bits::ShiftRight => {
            Number::Shift { left: bits == Bits::ShiftLeft, kind: kind.clone() }
        }
    };
    Ok(call(Operation::Number(number), vec![left, right], kind))
}

fn call(operation: Operation, operands: Vec<Typed>, kind: Kind) -> Typed {
    let operands = operands.into_iter().map(|operand| operand.expression).collect();
    Typed::new(Expression::Call(operation, operands), kind)
}

fn is_signed(kind: &Kind) -> bool {
    kind.is_integer() || matches!(kind, Kind::Float8 | Kind::Numeric)
}

/// `- operand`.
pub(crate) fn negate(operand: Typed) -> Result<Typed, Reason> {
    let kind = operand.kind.clone();
    if kind == Kind::Interval {
        return Ok(moment::negate(operand));
    }
    if !is_signed(&kind) {
        return Err(format!("the negative of {}", kind.sql_name()));
    }
    Ok(call(Operation::Negate(kind.clone()), vec![operand], kind))
}

/// `+ operand`.
pub(crate) fn plus(operand: Typed) -> Result<Typed, Reason> {
    if is_signed(&operand.kind) { Ok(operand) } else { Err(format!("+ {}", operand.kind.sql_name())) }
}

/// `~ operand`.
pub(crate) fn complement(operand: Typed) -> Result<Typed, Reason> {
    let kind = operand.kind.clone();
    if !kind.is_integer() {
        return Err(format!("~ {}", kind.sql_name()));
    }
    Ok(call(Operation::Number(Number::Complement), vec![operand], kind))
}

/// `@ operand` and `abs(operand)`.
pub(crate) fn absolute(operand: Typed) -> Result<Typed, Reason> {
    let kind = operand.kind.clone();
    if !is_signed(&kind) {
        return Err(format!("the absolute of {}", kind.sql_name()));
    }
    Ok(call(Operation::Absolute(kind.clone()), vec![operand], kind))
}

/// A function of numbers by its name.
pub(super) fn function(name: &str, mut arguments: Vec<Typed>) -> Result<Typed, Reason> {
    let unknown = || format!("the function {name} of these types");
    let rounding = match name {
        "ceil" | "ceiling" => Some(Rounding::Up),
        "floor" => Some(Rounding::Down),
        "round" => Some(Rounding::Nearest),
        "trunc" => Some(Rounding::TowardZero),
        _ => None,
    };
    let kind = arguments.first().ok_or_else(unknown)?.kind.clone();
    let number = match (arguments.as_slice(), rounding) {
        ([_], None) if name == "abs" => return absolute(arguments.remove(0)),
        ([_, _], None) if name == "mod" => {
            let divisor = arguments.remove(1);
            return arithmetic(Arithmetic::Remainder, arguments.remove(0), divisor);
        }
        ([_], None) if name == "sign" && matches!(kind, Kind::Float8 | Kind::Numeric) => Number::Sign,
        ([_], Some(rounding)) if matches!(kind, Kind::Float8 | Kind::Numeric) => Number::Whole(rounding),
        ([_, digits], Some(rounding @ (Rounding::Nearest | Rounding::TowardZero)))
            if kind == Kind::Numeric && digits.kind == Kind::Int4 =>
        {
            Number::Scaled(rounding)
        }
        _ => return Err(unknown()),
    };
    Ok(call(Operation::Number(number), arguments, kind))
}

/// What a type's modifier makes of a value that was cast to the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Modifier {
    /// `varchar(n)`
    AtMost(u32),
    /// `char(n)`
    Exactly(u32),
    /// `numeric(precision, scale)`
    Numeric { precision: u32, scale: i32 },
}

/// Longer values of `char(n)` are left to PostgreSQL.
const WIDTH_MAX: u32 = 1_000;

/// `operand::type(modifier)`, of an operand that has the type already.
pub(crate) fn shorten(operand: Typed, modifier: Modifier) -> Result<Typed, Reason> {
    let operation = match (modifier, &operand.kind) {
        (Modifier::AtMost(most), Kind::Text) => Operation::Text(Text::AtMost(most)),
        (Modifier::Exactly(width), Kind::Char) if width <= WIDTH_MAX => Operation::Text(Text::Exactly(width)),
        (Modifier::Numeric { precision, scale }, Kind::Numeric) => {
            Operation::Number(Number::Fit { precision, scale })
        }
        (_, kind) => return Err(format!("a length of {}", kind.sql_name())),
    };
    let (kind, collation) = (operand.kind.clone(), operand.collation);
    Ok(call(operation, vec![operand], kind).collated(collation))
}

/// As an operand of `double precision`, for which only literals and integers are converted.
pub(super) fn into_float(operand: Typed) -> Result<Typed, Reason> {
    match operand.kind {
        Kind::Float8 => Ok(operand),
        Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Numeric | Kind::Float4 => cast(operand, &Kind::Float8),
        other => Err(format!("double precision was expected, not {}", other.sql_name())),
    }
}
