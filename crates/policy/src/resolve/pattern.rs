//! `LIKE`, `~` and `SIMILAR TO`.

use crate::expression::Expression;
use crate::operation::Operation;
use crate::pattern;
use crate::resolve::{Reason, Typed, predicate, shared_collation};
use crate::value::{Kind, Value};

pub(super) fn pattern_match(operation: Operation, left: Typed, right: Typed) -> Result<Typed, Reason> {
    shared_collation(&left, &right)?;
    let left = left.settled(&Kind::Text)?;
    let right = right.expect(&Kind::Text)?;
    // `bpchar` is matched with its blanks, as PostgreSQL does.
    let fits = left.kind.is_text() && (operation != Operation::StartsWith || left.kind == Kind::Text);
    if !fits {
        return Err(format!("matching a pattern against {}", left.kind.sql_name()));
    }
    Ok(predicate(operation, left, right))
}

pub(super) fn regex(insensitive: bool, left: Typed, right: Typed) -> Result<Typed, Reason> {
    shared_collation(&left, &right)?;
    let left = left.settled(&Kind::Text)?;
    let right = right.expect(&Kind::Text)?;
    if !left.kind.is_text() {
        return Err(format!("matching a pattern against {}", left.kind.sql_name()));
    }
    let Expression::Literal(Some(Value::Text(written))) = &right.expression else {
        return Err("a regular expression that is not a literal".to_owned());
    };
    let compiled = pattern::Expression::translate(written, insensitive).map_err(str::to_owned)?;
    Ok(Typed::boolean(Expression::Call(Operation::Matches(compiled), vec![left.expression])))
}

/// The pattern that `like_escape` makes, and the expression that `similar_to_escape` makes, of literals.
pub(crate) fn like_escape(name: &str, arguments: &[Typed]) -> Result<Typed, Reason> {
    let literal = |typed: &Typed| match &typed.expression {
        Expression::Literal(Some(Value::Text(text))) if typed.kind == Kind::Text => Ok(text.to_string()),
        _ => Err("a pattern that is not a literal".to_owned()),
    };
    let pattern = literal(arguments.first().ok_or("a pattern is missing")?)?;
    let escape = arguments.get(1).map(literal).transpose()?;
    let translated = if name == "like_escape" {
        pattern::with_backslashes(&pattern, escape.as_deref().unwrap_or("\\"))
    } else {
        pattern::similar_to(&pattern, escape.as_deref().unwrap_or("\\"))
    };
    let translated = translated.ok_or("this pattern with this escape")?;
    Ok(Typed::literal(Some(Value::Text(translated.into())), Kind::Text))
}
