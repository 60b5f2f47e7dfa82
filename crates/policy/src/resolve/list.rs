//! Arrays: subscripts, concatenation, functions.

use crate::constants::Values;
use crate::expression::Expression;
use crate::operation::{List, Operation};
use crate::resolve::{Reason, Typed, as_output, shared_collation};
use crate::value::{Kind, Value};

fn call(list: List, operands: Vec<Expression>, kind: Kind) -> Typed {
    Typed::new(Expression::Call(Operation::List(list), operands), kind)
}

/// An operand that may be NULL, for an operation that takes NULL for a value.
fn carried(typed: Typed) -> Expression {
    Expression::ArrayOf(vec![typed.expression])
}

/// `array[subscript]`.
pub(crate) fn element(array: Typed, subscript: Typed) -> Result<Typed, Reason> {
    let Kind::Array(kind) = array.kind.clone() else {
        return Err(format!("a subscript of {}", array.kind.sql_name()));
    };
    if !matches!(subscript.kind, Kind::Int2 | Kind::Int4) {
        return Err(format!("a subscript of type {}", subscript.kind.sql_name()));
    }
    // It is not evaluated where the array is NULL.
    if subscript.expression.may_fail(Values::NONE) {
        return Err("a subscript that may raise".to_owned());
    }
    let collation = array.collation;
    Ok(call(List::Element, vec![array.expression, subscript.expression], *kind).collated(collation))
}

/// `array || array`, `array || element`, `element || array`.
pub(super) fn concatenate(left: Typed, right: Typed) -> Result<Typed, Reason> {
    let collation = shared_collation(&left, &right)?;
    let unlike = format!("{} || {}", left.kind.sql_name(), right.kind.sql_name());
    let (list, kind) = match (&left.kind, &right.kind) {
        (Kind::Array(a), Kind::Array(b)) if a == b => (List::Concatenate, left.kind.clone()),
        (Kind::Array(element), other) if **element == *other => (List::Append, left.kind.clone()),
        (other, Kind::Array(element)) if **element == *other => (List::Prepend, right.kind.clone()),
        _ => return Err(unlike),
    };
    Ok(call(list, vec![carried(left), carried(right)], kind).collated(collation))
}

/// A function of arrays by its name.
pub(super) fn function(name: &str, mut arguments: Vec<Typed>) -> Result<Typed, Reason> {
    let unknown = || format!("the function {name} of these types");
    let second = if arguments.len() == 2 { arguments.pop() } else { None };
    let first = arguments.pop().filter(|_| arguments.is_empty()).ok_or_else(unknown)?;
    let element = match &first.kind {
        Kind::Array(element) => Some((**element).clone()),
        _ => None,
    };
    match (name, second) {
        ("array_append" | "array_prepend" | "array_cat", Some(second)) => {
            let joined = concatenate(first, second)?;
            let fits = matches!(
                (&joined.expression, name),
                (Expression::Call(Operation::List(List::Append), _), "array_append")
                    | (Expression::Call(Operation::List(List::Prepend), _), "array_prepend")
                    | (Expression::Call(Operation::List(List::Concatenate), _), "array_cat")
            );
            if fits { Ok(joined) } else { Err(unknown()) }
        }
        ("cardinality", None) if element.is_some() => {
            let operation = Operation::Cardinality;
            Ok(Typed::new(Expression::Call(operation, vec![first.expression]), Kind::Int4))
        }
        ("array_ndims", None) if element.is_some() => {
            Ok(call(List::Dimensions, vec![first.expression], Kind::Int4))
        }
        ("array_length", Some(dimension)) if element.is_some() => {
            let operands = vec![first.expression, dimension.expect(&Kind::Int4)?.expression];
            Ok(Typed::new(Expression::Call(Operation::ArrayLength, operands), Kind::Int4))
        }
        ("array_lower" | "array_upper", Some(dimension)) if element.is_some() => {
            let list = if name == "array_lower" { List::Lower } else { List::Upper };
            let operands = vec![first.expression, dimension.expect(&Kind::Int4)?.expression];
            Ok(call(list, operands, Kind::Int4))
        }
        ("array_position", Some(wanted)) => {
            let element = element.filter(|element| *element != Kind::Char).ok_or_else(unknown)?;
            let wanted = wanted.expect(&element)?;
            shared_collation(&first, &wanted)?;
            Ok(call(List::Position, vec![carried(first), carried(wanted)], Kind::Int4))
        }
        ("array_to_string", Some(separator)) => {
            let separator = separator.into_text()?;
            let collation = shared_collation(&first, &separator)?;
            let texts = as_output(first)?;
            Ok(call(List::Join, vec![texts.expression, separator.expression], Kind::Text).collated(collation))
        }
        ("string_to_array", Some(separator)) => {
            let (whole, separator) = (first.into_text()?, separator.into_text()?);
            // A NULL separator takes the text apart character by character.
            if !matches!(separator.expression, Expression::Literal(Some(_))) {
                return Err("a separator that is not a literal".to_owned());
            }
            let collation = shared_collation(&whole, &separator)?;
            let kind = Kind::Array(Box::new(Kind::Text));
            Ok(call(List::Split, vec![whole.expression, separator.expression], kind).collated(collation))
        }
        _ => Err(unknown()),
    }
}

/// `concat(…)`, and `concat_ws(separator, …)`: what is NULL is passed over.
pub(super) fn joined(separator: Option<Typed>, parts: Vec<Typed>) -> Result<Typed, Reason> {
    let separator = match separator {
        None => Typed::literal(Some(Value::Text("".into())), Kind::Text),
        Some(separator) => separator.into_text()?,
    };
    // With a NULL there nothing comes out, but everything is evaluated.
    if !matches!(separator.expression, Expression::Literal(Some(_))) {
        return Err("a separator that is not a literal".to_owned());
    }
    let mut collation = separator.collation;
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        if matches!(part.kind, Kind::Array(_)) {
            return Err(format!("{} as text", part.kind.sql_name()));
        }
        let part = as_output(part)?;
        let known = Typed::literal(None, Kind::Text).collated(collation);
        collation = shared_collation(&known, &part)?;
        texts.push(part.expression);
    }
    let operands = vec![Expression::ArrayOf(texts), separator.expression];
    Ok(call(List::Join, operands, Kind::Text).collated(collation))
}
