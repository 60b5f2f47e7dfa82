//! Evaluation with three truth values, and with what has no value at all.
//!
//! AND and OR go from left to right as PostgreSQL's executor does. An operand that raises stops there, as
//! it does in PostgreSQL; one that only PostgreSQL can decide, or that reads a column the image lacks, is
//! passed over where it can not raise, and counts only if the other operands do not settle the result.

use std::borrow::Cow;

use smallvec::SmallVec;
use walcast_pgoutput::PgTimestamp;

use crate::array::Array;
use crate::constants::{Settings, Values, setting_value};
use crate::expression::Expression;
use crate::finder::Found;
use crate::look_up::Frame;
use crate::members::MembersAt;
use crate::numeric::Unreadable;
use crate::operation::{Comparison, Operands, Operation, Stop};
use crate::row::{Datum, RowImage};
use crate::value::{Kind, Value};

/// What an expression came to; `Ok(None)` is NULL.
pub(crate) type Outcome<'a> = Result<Option<Value<'a>>, Stop>;

/// Everything an expression can read.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) row: &'a RowImage<'a>,
    pub(crate) now: PgTimestamp,
    /// The slots of [`Expression::Constant`].
    pub(crate) constants: &'a Values,
    /// What constants are computed from; `None` while rows are judged.
    pub(crate) settings: Option<Settings<'a>>,
    /// The copies that look-ups are made in.
    pub(crate) members: MembersAt<'a>,
    /// The rows of the look-ups around the expression.
    pub(crate) frame: Option<&'a Frame<'a>>,
    /// What has been found already for the row.
    pub(crate) found: Option<&'a Found>,
}

/// Evaluates a boolean expression; `Ok(None)` is NULL.
pub(crate) fn evaluate_condition(expression: &Expression, scope: &Scope<'_>) -> Result<Option<bool>, Stop> {
    match evaluate(expression, scope)? {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(value)),
        // Resolution lets only booleans stand here.
        Some(_) => Err(Stop::Ask),
    }
}

/// Evaluates an expression.
pub(crate) fn evaluate<'a>(expression: &'a Expression, scope: &Scope<'a>) -> Outcome<'a> {
    match expression {
        Expression::Literal(value) => Ok(value.as_ref().map(Value::borrow)),
        Expression::Column { index, kind } => column(*index, kind, scope.row),
        Expression::Member { source, column, .. } => {
            let row = scope.frame.and_then(|frame| frame.find(*source)).ok_or(Stop::Ask)?;
            row.value(*column).ok_or(Stop::Ask)
        }
        Expression::LookUp(look_up) => look_up.evaluate(scope),
        Expression::Constant(slot) => scope.constants.get(*slot),
        Expression::Setting(setting) => {
            let settings = scope.settings.ok_or(Stop::Ask)?;
            Ok(setting_value(setting, settings).map(Value::Text))
        }
        Expression::Foreign { index, kind } => {
            let foreign = scope.settings.ok_or(Stop::Ask)?.foreign;
            match foreign.get(*index).ok_or(Stop::Ask)? {
                None => Ok(None),
                Some(text) => readable(kind, text).map(Some),
            }
        }
        Expression::Now => Ok(Some(Value::Timestamp(scope.now.0))),
        Expression::Oracle => Err(Stop::Ask),
        Expression::And(operands) => truth(junction(operands, false, scope)),
        Expression::Or(operands) => truth(any_of(operands, scope)),
        Expression::Not(operand) => {
            truth(evaluate_condition(operand, scope).map(|value| value.map(|value| !value)))
        }
        Expression::IsNull(operand) => is_null(operand, scope),
        Expression::IsTruth { operand, truth: wanted } => {
            let value = evaluate_condition(operand, scope)?;
            Ok(Some(Value::Bool(value == Some(*wanted))))
        }
        Expression::IsDistinct(left, right) => {
            let (left, right) = both(left, right, scope)?;
            distinct(left.as_ref(), right.as_ref()).map(|distinct| Some(Value::Bool(distinct)))
        }
        Expression::Case { branches, otherwise } => {
            for (condition, result) in branches {
                if evaluate_condition(condition, scope)? == Some(true) {
                    return evaluate(result, scope);
                }
            }
            evaluate(otherwise, scope)
        }
        Expression::Coalesce(operands) => {
            for operand in operands {
                if let Some(value) = evaluate(operand, scope)? {
                    return Ok(Some(value));
                }
            }
            Ok(None)
        }
        Expression::NullIf(left, right) => {
            let (left, right) = both(left, right, scope)?;
            match (&left, &right) {
                (Some(a), Some(b)) if a.equals(b).ok_or(Stop::Ask)? => Ok(None),
                _ => Ok(left),
            }
        }
        Expression::Body { arguments, body } => {
            for argument in arguments {
                match evaluate(argument, scope) {
                    Ok(_) => {}
                    Err(missing @ Stop::Missing(_)) => return Err(missing),
                    Err(Stop::Failed(_) | Stop::Ask) => return Err(Stop::Ask),
                }
            }
            evaluate(body, scope)
        }
        Expression::Apart(operand) => evaluate(operand, scope),
        Expression::Extreme { greatest, operands } => extreme(*greatest, operands, scope),
        Expression::Quantified { all, operation, operand, array } => {
            let (operand, array) = both(operand, array, scope)?;
            truth(quantified(*all, operation, operand, array))
        }
        Expression::ArrayOf(elements) => {
            let values = every(elements, scope)?;
            let values = values.into_iter().map(|value| value.map(Value::into_owned)).collect();
            Ok(Some(Value::Array(Cow::Owned(Array::of(values)))))
        }
        Expression::Call(operation, operands) => call(operation, operands, scope),
    }
}

/// The disjunction of conditions, in their order.
pub(crate) fn any_of(conditions: &[Expression], scope: &Scope<'_>) -> Result<Option<bool>, Stop> {
    junction(conditions, true, scope)
}

/// `settling` is the truth value that decides alone: true for OR, false for AND.
fn junction(conditions: &[Expression], settling: bool, scope: &Scope<'_>) -> Result<Option<bool>, Stop> {
    let mut open: Option<Stop> = None;
    let mut null = false;
    for condition in conditions {
        match evaluate_condition(condition, scope) {
            Ok(Some(value)) if value == settling => return Ok(Some(settling)),
            Ok(Some(_)) => {}
            Ok(None) => null = true,
            // An error behind something open is reached only if that does not settle the result.
            Err(Stop::Failed(message)) => return Err(open.unwrap_or(Stop::Failed(message))),
            Err(stop) => {
                open = Some(graver(open, stop));
                if condition.may_fail(scope.constants) {
                    // It might raise, and then nothing behind it counts.
                    break;
                }
            }
        }
    }
    match open {
        Some(stop) => Err(stop),
        None if null => Ok(None),
        None => Ok(Some(!settling)),
    }
}

/// Of two reasons to have no value the one that is harder to mend: an error is certain, a column that
/// is missing can not be asked about.
fn graver(known: Option<Stop>, stop: Stop) -> Stop {
    match (known, stop) {
        (None | Some(Stop::Ask), stop) | (Some(Stop::Missing(_)), stop @ Stop::Failed(_)) => stop,
        (Some(known), _) => known,
    }
}

fn truth<'a>(value: Result<Option<bool>, Stop>) -> Outcome<'a> {
    value.map(|value| value.map(Value::Bool))
}

fn column<'a>(index: usize, kind: &Kind, row: &'a RowImage<'a>) -> Outcome<'a> {
    match row.get(index) {
        Datum::Null => Ok(None),
        Datum::Missing => Err(Stop::Missing(index)),
        Datum::Text(text) => readable(kind, text).map(Some),
    }
}

/// Reads what PostgreSQL printed; what we can not read then is a fault, and decides nothing.
fn readable<'a>(kind: &Kind, text: &'a str) -> Result<Value<'a>, Stop> {
    kind.read(text).map_err(|unreadable| {
        Stop::Failed(match unreadable {
            Unreadable::Invalid(message) => message,
            Unreadable::Unsure => format!("unexpected text of type {}: \"{text}\"", kind.sql_name()),
        })
    })
}

fn is_null<'a>(operand: &'a Expression, scope: &Scope<'a>) -> Outcome<'a> {
    // Any column can be tested, also one of a type that we can not read.
    let null = match operand {
        Expression::Column { index, .. } => match scope.row.get(*index) {
            Datum::Null => true,
            Datum::Text(_) => false,
            Datum::Missing => return Err(Stop::Missing(*index)),
        },
        Expression::Member { source, column, .. } => {
            let row = scope.frame.and_then(|frame| frame.find(*source)).ok_or(Stop::Ask)?;
            row.is_null(*column).ok_or(Stop::Ask)?
        }
        other => evaluate(other, scope)?.is_none(),
    };
    Ok(Some(Value::Bool(null)))
}

fn distinct(left: Option<&Value<'_>>, right: Option<&Value<'_>>) -> Result<bool, Stop> {
    match (left, right) {
        (Some(left), Some(right)) => left.equals(right).map(|equal| !equal).ok_or(Stop::Ask),
        (None, None) => Ok(false),
        _ => Ok(true),
    }
}

fn extreme<'a>(greatest: bool, operands: &'a [Expression], scope: &Scope<'a>) -> Outcome<'a> {
    let mut found: Option<Value<'a>> = None;
    for value in every(operands, scope)?.into_iter().flatten() {
        let better = match &found {
            None => true,
            Some(best) => {
                let comparison = if greatest { Comparison::Greater } else { Comparison::Less };
                comparison.holds(value.compare(best).ok_or(Stop::Ask)?)
            }
        };
        if better {
            found = Some(value);
        }
    }
    Ok(found)
}

fn quantified<'a>(
    all: bool,
    operation: &Operation,
    operand: Option<Value<'a>>,
    array: Option<Value<'a>>,
) -> Result<Option<bool>, Stop> {
    let Some(array) = array else { return Ok(None) };
    let Value::Array(array) = array else { return Err(Stop::Ask) };
    if array.elements.is_empty() {
        return Ok(Some(all));
    }
    let Some(operand) = operand else { return Ok(None) };
    let mut null = false;
    for element in &array.elements {
        let Some(element) = element else {
            null = true;
            continue;
        };
        let mut operands = Operands::new();
        operands.push(operand.borrow());
        operands.push(element.borrow());
        match operation.apply(operands)? {
            Some(Value::Bool(value)) if value != all => return Ok(Some(!all)),
            Some(Value::Bool(_)) => {}
            None => null = true,
            Some(_) => return Err(Stop::Ask),
        }
    }
    Ok(if null { None } else { Some(all) })
}

fn call<'a>(operation: &'a Operation, operands: &'a [Expression], scope: &Scope<'a>) -> Outcome<'a> {
    let values: Option<Operands<'a>> = every(operands, scope)?.into_iter().collect();
    values.map_or(Ok(None), |values| operation.apply(values))
}

/// Evaluates all operands, also those behind one that has no value: they may raise.
fn every<'a>(
    operands: &'a [Expression],
    scope: &Scope<'a>,
) -> Result<SmallVec<[Option<Value<'a>>; 3]>, Stop> {
    let mut values = SmallVec::new();
    let mut stopped = None;
    for operand in operands {
        match evaluate(operand, scope) {
            Ok(value) => values.push(value),
            Err(stop) => stopped = Some(graver(stopped, stop)),
        }
    }
    stopped.map_or(Ok(values), Err)
}

/// As [`every`], for two.
fn both<'a>(
    left: &'a Expression,
    right: &'a Expression,
    scope: &Scope<'a>,
) -> Result<(Option<Value<'a>>, Option<Value<'a>>), Stop> {
    match (evaluate(left, scope), evaluate(right, scope)) {
        (Ok(left), Ok(right)) => Ok((left, right)),
        (Err(left), Err(right)) => Err(graver(Some(left), right)),
        (Err(stop), Ok(_)) | (Ok(_), Err(stop)) => Err(stop),
    }
}
