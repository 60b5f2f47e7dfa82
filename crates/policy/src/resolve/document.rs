//! `json` and `jsonb`: access and construction.

use std::borrow::Cow;

use crate::constants::Values;
use crate::expression::Expression;
use crate::json::Json;
use crate::operation::{Arithmetic, Document, Operation};
use crate::resolve::{Reason, Typed, cast};
use crate::value::{Kind, Value};

fn call(document: Document, operands: Vec<Typed>, kind: Kind) -> Typed {
    let operands = operands.into_iter().map(|operand| operand.expression).collect();
    Typed::new(Expression::Call(Operation::Document(document), operands), kind)
}

/// `->` and `->>`.
pub(super) fn json_access(as_text: bool, left: Typed, right: Typed) -> Result<Typed, Reason> {
    let raw = left.kind == Kind::Json;
    let left = if raw { left } else { left.expect(&Kind::Jsonb)? };
    let by_key = match right.kind {
        Kind::Text | Kind::Untyped => true,
        Kind::Int4 => false,
        other => return Err(format!("jsonb -> {}", other.sql_name())),
    };
    let right = right.settled(&Kind::Text)?;
    let operation = match (raw, by_key) {
        (false, true) => Operation::JsonField { as_text },
        (false, false) => Operation::JsonElement { as_text },
        (true, true) => Operation::Document(Document::RawField { as_text }),
        (true, false) => Operation::Document(Document::RawElement { as_text }),
    };
    Ok(found(operation, as_text, left, right))
}

/// `#>` and `#>>`.
pub(super) fn json_path(as_text: bool, left: Typed, right: Typed) -> Result<Typed, Reason> {
    let raw = left.kind == Kind::Json;
    let left = if raw { left } else { left.expect(&Kind::Jsonb)? };
    let path = right.expect(&Kind::Array(Box::new(Kind::Text)))?;
    let operation = if raw {
        Operation::Document(Document::RawPath { as_text })
    } else {
        Operation::JsonPath { as_text }
    };
    Ok(found(operation, as_text, left, path))
}

fn found(operation: Operation, as_text: bool, left: Typed, right: Typed) -> Typed {
    let kind = if as_text { Kind::Text } else { left.kind.clone() };
    Typed::new(Expression::Call(operation, vec![left.expression, right.expression]), kind)
}

/// `jsonb['key']`, which is `#>` with a path of one step.
pub(crate) fn subscripted_document(json: Typed, subscript: Typed) -> Result<Typed, Reason> {
    let json = json.expect(&Kind::Jsonb)?;
    // It is not evaluated where the document is NULL.
    if subscript.expression.may_fail(Values::NONE) {
        return Err("a subscript that may raise".to_owned());
    }
    let step = match subscript.kind {
        Kind::Int4 => cast(subscript, &Kind::Text)?,
        _ => subscript.expect(&Kind::Text)?,
    };
    let path = Typed::new(Expression::ArrayOf(vec![step.expression]), Kind::Array(Box::new(Kind::Text)));
    Ok(found(Operation::JsonPath { as_text: false }, false, json, path))
}

/// `jsonb || jsonb`.
pub(super) fn concatenate(left: Typed, right: Typed) -> Result<Typed, Reason> {
    let operands = vec![left.expect(&Kind::Jsonb)?, right.expect(&Kind::Jsonb)?];
    Ok(call(Document::Concatenate, operands, Kind::Jsonb))
}

/// `jsonb - text` and `jsonb - integer`.
pub(super) fn subtract(operator: Arithmetic, left: Typed, right: Typed) -> Result<Typed, Reason> {
    let document = match (operator, &right.kind) {
        (Arithmetic::Subtract, Kind::Text) => Document::RemoveKey,
        (Arithmetic::Subtract, Kind::Int4) => Document::RemoveElement,
        _ => return Err(format!("arithmetic on jsonb and {}", right.kind.sql_name())),
    };
    Ok(call(document, vec![left, right], Kind::Jsonb))
}

/// `to_jsonb(…)`, `jsonb_build_object(…)` and `jsonb_build_array(…)`.
pub(super) fn function(name: &str, arguments: Vec<Typed>) -> Result<Typed, Reason> {
    match name {
        "to_jsonb" => {
            let argument: Result<[Typed; 1], _> = arguments.try_into();
            let [argument] = argument.map_err(|_| "to_jsonb of other than one".to_owned())?;
            value(argument)
        }
        "jsonb_build_array" => {
            let elements: Result<Vec<Typed>, Reason> = arguments.into_iter().map(value_or_null).collect();
            Ok(call(Document::Array, elements?, Kind::Jsonb))
        }
        _ => {
            let mut keys = Vec::with_capacity(arguments.len() / 2);
            let mut values = Vec::with_capacity(arguments.len() / 2);
            let mut arguments = arguments.into_iter();
            while let Some(key) = arguments.next() {
                let Expression::Literal(Some(Value::Text(key))) = key.expression else {
                    return Err("a key that is not a literal".to_owned());
                };
                keys.push(key.into_owned());
                values.push(value_or_null(arguments.next().ok_or("a key without a value")?)?);
            }
            Ok(call(Document::Object(keys), values, Kind::Jsonb))
        }
    }
}

fn value(typed: Typed) -> Result<Typed, Reason> {
    let typed = typed.settled(&Kind::Text)?;
    let kind = typed.kind.clone();
    let known = matches!(
        kind,
        Kind::Bool
            | Kind::Int2
            | Kind::Int4
            | Kind::Int8
            | Kind::Numeric
            | Kind::Text
            | Kind::Char
            | Kind::Name
            | Kind::Uuid
            | Kind::Date
            | Kind::Timestamp
            | Kind::TimestampTz
            | Kind::Enum(_)
            | Kind::Jsonb
    );
    if known {
        Ok(call(Document::From(kind.clone()), vec![typed], Kind::Jsonb))
    } else {
        Err(format!("jsonb of {}", kind.sql_name()))
    }
}

/// A NULL becomes JSON's.
fn value_or_null(typed: Typed) -> Result<Typed, Reason> {
    let null = Expression::Literal(Some(Value::Json(Cow::Owned(Json::Null))));
    let value = value(typed)?;
    Ok(Typed::new(Expression::Coalesce(vec![value.expression, null]), Kind::Jsonb))
}
