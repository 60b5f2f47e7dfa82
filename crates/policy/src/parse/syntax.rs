//! Pieces of SQL syntax, one at a time.

use sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Query, SelectItem, SetExpr,
    Value as SqlValue,
};

use crate::numeric::Numeric;
use crate::operation::{Arithmetic, Comparison};
use crate::resolve::{Bits, Infix, Typed};
use crate::value::{Kind, Value};

/// The operands of a chain of AND (or OR), from left to right.
pub(super) fn operands(parsed: &Expr, and: bool) -> Vec<&Expr> {
    match parsed {
        Expr::BinaryOp { left, op, right }
            if (and && *op == BinaryOperator::And) || (!and && *op == BinaryOperator::Or) =>
        {
            let mut all = operands(left, and);
            all.extend(operands(right, and));
            all
        }
        other => vec![other],
    }
}

/// The one expression of `SELECT expression`, if the query is nothing but that.
pub(super) fn single(query: &Query) -> Option<&Expr> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let [item @ (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. })] =
        select.projection.as_slice()
    else {
        return None;
    };
    // Printing shows every clause there is.
    (query.to_string() == format!("SELECT {item}")).then_some(expr)
}

/// The arguments of a call, by position.
pub(super) fn arguments(arguments: &FunctionArguments) -> Result<Vec<&Expr>, String> {
    let FunctionArguments::List(list) = arguments else { return Ok(Vec::new()) };
    if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return Err("this function call".to_owned());
    }
    let mut found = Vec::with_capacity(list.args.len());
    for argument in &list.args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => found.push(expr),
            FunctionArg::Unnamed(_) => return Err("the row as a whole".to_owned()),
            _ => return Err("a named argument".to_owned()),
        }
    }
    Ok(found)
}

/// A literal; strings have no type yet.
pub(super) fn literal(value: &SqlValue) -> Result<Typed, String> {
    let text = |text: &str| Typed::literal(Some(Value::Text(text.to_owned().into())), Kind::Untyped);
    match value {
        SqlValue::Null => Ok(Typed::literal(None, Kind::Untyped)),
        SqlValue::Boolean(value) => Ok(Typed::literal(Some(Value::Bool(*value)), Kind::Bool)),
        SqlValue::SingleQuotedString(string) | SqlValue::EscapedStringLiteral(string) => Ok(text(string)),
        SqlValue::Number(digits, false) => {
            if let Ok(value) = digits.parse::<i64>() {
                let kind = if i32::try_from(value).is_ok() { Kind::Int4 } else { Kind::Int8 };
                return Ok(Typed::literal(Some(Value::Int(value)), kind));
            }
            match Numeric::read(digits) {
                Ok(value) => Ok(Typed::literal(Some(Value::Numeric(value)), Kind::Numeric)),
                Err(_) => Err("this number".to_owned()),
            }
        }
        _ => Err("this literal".to_owned()),
    }
}

/// The operator between two operands.
pub(super) fn infix(operator: &BinaryOperator) -> Result<Infix, String> {
    let like = |insensitive, negated| Infix::Like { insensitive, negated };
    let regex = |insensitive, negated| Infix::Match { insensitive, negated };
    Ok(match operator {
        BinaryOperator::Eq => Infix::Compare(Comparison::Equal),
        BinaryOperator::NotEq => Infix::Compare(Comparison::NotEqual),
        BinaryOperator::Lt => Infix::Compare(Comparison::Less),
        BinaryOperator::LtEq => Infix::Compare(Comparison::LessOrEqual),
        BinaryOperator::Gt => Infix::Compare(Comparison::Greater),
        BinaryOperator::GtEq => Infix::Compare(Comparison::GreaterOrEqual),
        BinaryOperator::Plus => Infix::Arithmetic(Arithmetic::Add),
        BinaryOperator::Minus => Infix::Arithmetic(Arithmetic::Subtract),
        BinaryOperator::Multiply => Infix::Arithmetic(Arithmetic::Multiply),
        BinaryOperator::Divide => Infix::Arithmetic(Arithmetic::Divide),
        BinaryOperator::Modulo => Infix::Arithmetic(Arithmetic::Remainder),
        BinaryOperator::BitwiseAnd => Infix::Bits(Bits::And),
        BinaryOperator::BitwiseOr => Infix::Bits(Bits::Or),
        BinaryOperator::PGBitwiseXor => Infix::Bits(Bits::Xor),
        BinaryOperator::PGBitwiseShiftLeft => Infix::Bits(Bits::ShiftLeft),
        BinaryOperator::PGBitwiseShiftRight => Infix::Bits(Bits::ShiftRight),
        BinaryOperator::StringConcat => Infix::Concatenate,
        BinaryOperator::PGLikeMatch => like(false, false),
        BinaryOperator::PGNotLikeMatch => like(false, true),
        BinaryOperator::PGILikeMatch => like(true, false),
        BinaryOperator::PGNotILikeMatch => like(true, true),
        BinaryOperator::PGRegexMatch => regex(false, false),
        BinaryOperator::PGRegexNotMatch => regex(false, true),
        BinaryOperator::PGRegexIMatch => regex(true, false),
        BinaryOperator::PGRegexNotIMatch => regex(true, true),
        BinaryOperator::PGStartsWith => Infix::StartsWith,
        BinaryOperator::Arrow => Infix::Access { as_text: false },
        BinaryOperator::LongArrow => Infix::Access { as_text: true },
        BinaryOperator::HashArrow => Infix::AccessPath { as_text: false },
        BinaryOperator::HashLongArrow => Infix::AccessPath { as_text: true },
        BinaryOperator::AtArrow => Infix::Contains,
        BinaryOperator::ArrowAt => Infix::ContainedBy,
        BinaryOperator::PGOverlap => Infix::Overlaps,
        BinaryOperator::Question => Infix::Has,
        BinaryOperator::QuestionPipe => Infix::HasAny,
        BinaryOperator::QuestionAnd => Infix::HasAll,
        other => return Err(format!("the operator {other}")),
    })
}
