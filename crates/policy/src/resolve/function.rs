//! The functions of `pg_catalog` that we know.

use crate::expression::Expression;
use crate::operation::Operation;
use crate::resolve::{Reason, Typed, at_time_zone, shared_collation};
use crate::value::Kind;

/// A function of `pg_catalog` by its name.
pub(crate) fn function(name: &str, mut arguments: Vec<Typed>) -> Result<Typed, Reason> {
    let unknown = || format!("the function {name}");
    let result = |operation: Operation, operands: Vec<Typed>, kind: Kind| {
        let collation = operands.iter().find_map(|operand| operand.collation);
        let operands = operands.into_iter().map(|operand| operand.expression).collect();
        let typed = Typed::new(Expression::Call(operation, operands), kind.clone());
        if kind == Kind::Text { typed.collated(collation) } else { typed }
    };
    match (name, arguments.len()) {
        ("now" | "transaction_timestamp" | "statement_timestamp", 0) => {
            Ok(Typed::new(Expression::Now, Kind::TimestampTz))
        }
        ("timezone", 2) => {
            let moment = arguments.pop().ok_or_else(unknown)?;
            at_time_zone(moment, &arguments[0])
        }
        ("abs", 1) => {
            let operand = arguments.pop().ok_or_else(unknown)?;
            let kind = operand.kind.clone();
            if !(kind.is_integer() || matches!(kind, Kind::Float8 | Kind::Numeric)) {
                return Err(unknown());
            }
            Ok(result(Operation::Absolute(kind.clone()), vec![operand], kind))
        }
        ("jsonb_typeof" | "jsonb_array_length", 1) => {
            let operand = arguments.pop().ok_or_else(unknown)?.expect(&Kind::Jsonb)?;
            let typeof_ = name == "jsonb_typeof";
            let operation = if typeof_ { Operation::JsonTypeof } else { Operation::JsonArrayLength };
            Ok(result(operation, vec![operand], if typeof_ { Kind::Text } else { Kind::Int4 }))
        }
        ("cardinality", 1) | ("array_length", 2) => {
            let dimension = if name == "array_length" { arguments.pop() } else { None };
            let array = arguments.pop().filter(|array| matches!(array.kind, Kind::Array(_)));
            let array = array.ok_or_else(unknown)?;
            match dimension {
                None => Ok(result(Operation::Cardinality, vec![array], Kind::Int4)),
                Some(dimension) => {
                    let dimension = dimension.expect(&Kind::Int4)?;
                    Ok(result(Operation::ArrayLength, vec![array, dimension], Kind::Int4))
                }
            }
        }
        _ => {
            let (operation, integers, kind) = text_function(name, arguments.len()).ok_or_else(unknown)?;
            let mut operands = Vec::with_capacity(arguments.len());
            for (index, argument) in arguments.into_iter().enumerate() {
                // Where the last arguments are integers, the first is text all the same.
                let integer = integers.contains(&index);
                operands.push(if integer { argument.expect(&Kind::Int4)? } else { argument.into_text()? });
            }
            for pair in operands.windows(2) {
                shared_collation(&pair[0], &pair[1])?;
            }
            Ok(result(operation, operands, kind))
        }
    }
}

/// The operation, which arguments are integers, and the type of the result.
fn text_function(name: &str, arguments: usize) -> Option<(Operation, &'static [usize], Kind)> {
    let plain = |operation, kind| Some((operation, &[][..], kind));
    match (name, arguments) {
        ("lower", 1) => plain(Operation::Lower, Kind::Text),
        ("upper", 1) => plain(Operation::Upper, Kind::Text),
        ("btrim", 1) => plain(Operation::Trim, Kind::Text),
        ("length" | "char_length" | "character_length", 1) => plain(Operation::Length, Kind::Int4),
        ("strpos", 2) => plain(Operation::Position, Kind::Int4),
        ("starts_with", 2) => plain(Operation::StartsWith, Kind::Bool),
        ("replace", 3) => plain(Operation::Replace, Kind::Text),
        ("left", 2) => Some((Operation::Left, &[1], Kind::Text)),
        ("right", 2) => Some((Operation::Right, &[1], Kind::Text)),
        ("split_part", 3) => Some((Operation::SplitPart, &[2], Kind::Text)),
        ("substr" | "substring", 2) => Some((Operation::Substring, &[1], Kind::Text)),
        ("substr" | "substring", 3) => Some((Operation::Substring, &[1, 2], Kind::Text)),
        _ => None,
    }
}
