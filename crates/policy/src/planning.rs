//! What PostgreSQL computes while it plans, although evaluation might never get there.
//!
//! To estimate how many rows a condition leaves, its planner computes what a row is compared with (PostgreSQL source,
//! `get_restriction_variable` and `scalararraysel` in `selfuncs.c`). Where that raises, as `auth.uid()` does where `sub`
//! is no uuid, the whole query raises, whatever the other conditions come to.

use crate::constants::Values;
use crate::expression::Expression;
use crate::operation::{Operation, Stop};

/// The constants of a plan: the sub-expressions, and what they came to.
#[derive(Clone, Copy)]
pub(crate) struct Constants<'a> {
    pub(crate) slots: &'a [Expression],
    pub(crate) values: &'a Values,
}

/// The error that the planner meets in a condition on a table, given what the constants came to. Sub-selects are
/// another matter; see [`looks_up_failing`].
///
/// What decides whether a row is taken is simplified before anything is estimated: an AND with a NULL in it takes none
/// (PostgreSQL source, `find_duplicate_ors` in `prepqual.c`).
pub(crate) fn raised<'a>(condition: &Expression, constants: Constants<'a>) -> Option<&'a str> {
    match condition {
        Expression::And(operands) if operands.contains(&Expression::Literal(None)) => None,
        Expression::And(operands) | Expression::Or(operands) => {
            operands.iter().find_map(|operand| raised(operand, constants))
        }
        other => estimated(other, constants),
    }
}

/// The error of estimating a condition, or part of one.
fn estimated<'a>(condition: &Expression, constants: Constants<'a>) -> Option<&'a str> {
    match condition {
        Expression::And(operands) | Expression::Or(operands) => {
            operands.iter().find_map(|operand| estimated(operand, constants))
        }
        Expression::Not(operand) | Expression::IsTruth { operand, .. } => estimated(operand, constants),
        Expression::IsDistinct(left, right) => compared(left, right, constants),
        Expression::Call(operation, operands) if is_estimated(operation) => match operands.as_slice() {
            [left, right] => compared(left, right, constants),
            _ => None,
        },
        Expression::Quantified { operand, array, .. } => {
            computed(operand, constants).or_else(|| computed(array, constants))
        }
        _ => None,
    }
}

/// Whether a sub-select reads a constant that raises. It is planned whether or not it is made, unless it is in a
/// function: what that does is known to PostgreSQL alone.
pub(crate) fn looks_up_failing(expression: &Expression, constants: Constants<'_>) -> bool {
    let own = match expression {
        Expression::LookUp(look_up) => {
            look_up.constants.iter().any(|slot| failure(*slot, constants).is_some())
        }
        _ => false,
    };
    own || expression.children().into_iter().any(|child| looks_up_failing(child, constants))
}

/// What is compared with something of the row is computed.
fn compared<'a>(left: &Expression, right: &Expression, constants: Constants<'a>) -> Option<&'a str> {
    match (reads_row(left), reads_row(right)) {
        (true, false) => computed(right, constants),
        (false, true) => computed(left, constants),
        _ => None,
    }
}

/// The error of computing all of it that can be computed before there is a row.
fn computed<'a>(expression: &Expression, constants: Constants<'a>) -> Option<&'a str> {
    match expression {
        Expression::Constant(slot) if constants.slots.get(*slot).is_some_and(has_apart) => None,
        Expression::Constant(slot) => failure(*slot, constants),
        // Not all of these is computed.
        Expression::Case { .. } | Expression::Coalesce(_) | Expression::LookUp(_) | Expression::Apart(_) => {
            None
        }
        other => other.children().into_iter().find_map(|child| computed(child, constants)),
    }
}

fn failure(slot: usize, constants: Constants<'_>) -> Option<&str> {
    match constants.values.stop(slot) {
        Some(Stop::Failed(message)) => Some(message),
        _ => None,
    }
}

/// Whether a part of it is not computed ahead of time.
fn has_apart(expression: &Expression) -> bool {
    matches!(expression, Expression::Apart(_)) || expression.children().into_iter().any(has_apart)
}

fn reads_row(expression: &Expression) -> bool {
    match expression {
        Expression::Column { .. } | Expression::Member { .. } | Expression::Oracle => true,
        other => other.children().into_iter().any(reads_row),
    }
}

/// Whether the operator's estimate depends on what it is given.
fn is_estimated(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Compare(_)
            | Operation::Like { .. }
            | Operation::Matches(_)
            | Operation::JsonContains
            | Operation::JsonHas
            | Operation::JsonHasAny
            | Operation::JsonHasAll
            | Operation::ArrayContains
            | Operation::ArrayOverlaps
    )
}
