//! The functions of `pg_catalog` that we know.

use crate::expression::Expression;
use crate::operation::{Arithmetic, Operation, Text};
use crate::resolve::{Reason, Typed, arithmetic, document, list, moment, pattern, shared_collation};
use crate::value::{Kind, Value};

/// A function of `pg_catalog` by its name.
pub(crate) fn function(name: &str, mut arguments: Vec<Typed>) -> Result<Typed, Reason> {
    let unknown = || format!("the function {name}");
    match (name, arguments.len()) {
        (
            "now"
            | "transaction_timestamp"
            | "statement_timestamp"
            | "timezone"
            | "date_trunc"
            | "date_part"
            | "isfinite"
            | "to_timestamp",
            _,
        ) => moment::function(name, arguments),
        ("abs" | "sign" | "mod" | "ceil" | "ceiling" | "floor" | "round" | "trunc", _) => {
            arithmetic::function(name, arguments)
        }
        (
            "cardinality" | "array_length" | "array_lower" | "array_upper" | "array_ndims" | "array_position"
            | "array_append" | "array_prepend" | "array_cat" | "array_to_string" | "string_to_array",
            _,
        ) => list::function(name, arguments),
        ("concat", 1..) => list::joined(None, arguments),
        ("concat_ws", 2..) => {
            let separator = arguments.remove(0);
            list::joined(Some(separator), arguments)
        }
        ("to_jsonb" | "jsonb_build_object" | "jsonb_build_array", 1..) => document::function(name, arguments),
        ("jsonb_typeof" | "jsonb_array_length", 1) => {
            let operand = arguments.pop().ok_or_else(unknown)?.expect(&Kind::Jsonb)?;
            let typeof_ = name == "jsonb_typeof";
            let operation = if typeof_ { Operation::JsonTypeof } else { Operation::JsonArrayLength };
            Ok(result(operation, vec![operand], &if typeof_ { Kind::Text } else { Kind::Int4 }))
        }
        ("like_escape", 2) | ("similar_to_escape", 1 | 2) => pattern::like_escape(name, &arguments),
        ("num_nulls" | "num_nonnulls", 1..) => Ok(count(name == "num_nulls", arguments)),
        ("ltrim" | "rtrim" | "btrim", 1) | ("lpad" | "rpad", 2) => {
            arguments.push(Typed::literal(Some(Value::Text(" ".into())), Kind::Text));
            text_function(name, arguments)
        }
        _ => text_function(name, arguments),
    }
}

fn result(operation: Operation, operands: Vec<Typed>, kind: &Kind) -> Typed {
    let collation = operands.iter().find_map(|operand| operand.collation);
    let operands = operands.into_iter().map(|operand| operand.expression).collect();
    let typed = Typed::new(Expression::Call(operation, operands), kind.clone());
    if *kind == Kind::Text { typed.collated(collation) } else { typed }
}

fn text_function(name: &str, arguments: Vec<Typed>) -> Result<Typed, Reason> {
    let unknown = || format!("the function {name}");
    let (operation, integers, kind) = text_operation(name, arguments.len()).ok_or_else(unknown)?;
    let mut operands = Vec::with_capacity(arguments.len());
    for (index, argument) in arguments.into_iter().enumerate() {
        let integer = integers.contains(&index);
        operands.push(if integer { argument.expect(&Kind::Int4)? } else { argument.into_text()? });
    }
    for pair in operands.windows(2) {
        shared_collation(&pair[0], &pair[1])?;
    }
    Ok(result(operation, operands, &kind))
}

/// The operation, which arguments are integers, and the type of the result.
fn text_operation(name: &str, arguments: usize) -> Option<(Operation, &'static [usize], Kind)> {
    let plain = |operation, kind| Some((operation, &[][..], kind));
    let trim = |start, end| plain(Operation::Text(Text::Trim { start, end }), Kind::Text);
    match (name, arguments) {
        ("lower", 1) => plain(Operation::Lower, Kind::Text),
        ("upper", 1) => plain(Operation::Upper, Kind::Text),
        ("btrim", 2) => trim(true, true),
        ("ltrim", 2) => trim(true, false),
        ("rtrim", 2) => trim(false, true),
        ("reverse", 1) => plain(Operation::Text(Text::Reverse), Kind::Text),
        ("octet_length", 1) => plain(Operation::Text(Text::Octets), Kind::Int4),
        ("length" | "char_length" | "character_length", 1) => plain(Operation::Length, Kind::Int4),
        ("strpos", 2) => plain(Operation::Position, Kind::Int4),
        ("starts_with", 2) => plain(Operation::StartsWith, Kind::Bool),
        ("replace", 3) => plain(Operation::Replace, Kind::Text),
        ("left", 2) => Some((Operation::Left, &[1], Kind::Text)),
        ("right", 2) => Some((Operation::Right, &[1], Kind::Text)),
        ("lpad", 3) => Some((Operation::Text(Text::Pad { left: true }), &[1], Kind::Text)),
        ("rpad", 3) => Some((Operation::Text(Text::Pad { left: false }), &[1], Kind::Text)),
        ("repeat", 2) => Some((Operation::Text(Text::Repeat), &[1], Kind::Text)),
        ("split_part", 3) => Some((Operation::SplitPart, &[2], Kind::Text)),
        ("substr" | "substring", 2) => Some((Operation::Substring, &[1], Kind::Text)),
        ("substr" | "substring", 3) => Some((Operation::Substring, &[1, 2], Kind::Text)),
        _ => None,
    }
}

/// `num_nulls(…)` and `num_nonnulls(…)`: a one for each, summed up.
fn count(nulls: bool, arguments: Vec<Typed>) -> Typed {
    let integer = |value: i64| Expression::Literal(Some(Value::Int(value)));
    let mut sum = integer(0);
    for argument in arguments {
        let is_null = Expression::IsNull(Box::new(argument.expression));
        let (then, otherwise) = if nulls { (1, 0) } else { (0, 1) };
        let one = Expression::Case {
            branches: vec![(is_null, integer(then))],
            otherwise: Box::new(integer(otherwise)),
        };
        let add = Operation::Arithmetic(Arithmetic::Add, Kind::Int4);
        sum = Expression::Call(add, vec![sum, one]);
    }
    Typed::new(sum, Kind::Int4)
}
