//! Whether literals alone may decide a part of a policy.

use std::ops::ControlFlow;

use sqlparser::ast::{BinaryOperator, Expr, Value as SqlValue, Visit, Visitor};

/// Whether PostgreSQL's planner may do without some sub-expression of the text, such as the right side of
/// `true OR …`: a literal NULL may decide of any operator, and so may what has neither names nor calls in it
/// of AND, OR and CASE. A text that can not be read is one of these.
pub(crate) fn decides_by_literals(text: &str) -> bool {
    let Ok(parsed) = super::parse(text) else { return true };
    parsed.visit(&mut Deciding).is_break()
}

struct Deciding;

impl Visitor for Deciding {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let decides = match expr {
            Expr::Value(value) => value.value == SqlValue::Null,
            Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
                is_fixed(left) || is_fixed(right)
            }
            Expr::BinaryOp { left, right, .. } => is_fixed(left) && is_fixed(right),
            Expr::IsNull(operand) | Expr::IsNotNull(operand) => is_fixed(operand),
            Expr::Case { conditions, .. } => conditions.iter().any(|when| is_fixed(&when.condition)),
            _ => false,
        };
        if decides { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn is_fixed(expr: &Expr) -> bool {
    expr.visit(&mut Naming).is_continue()
}

/// Breaks at the first name or call.
struct Naming;

impl Visitor for Naming {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let names = matches!(
            expr,
            Expr::Identifier(_)
                | Expr::CompoundIdentifier(_)
                | Expr::Function(_)
                | Expr::Subquery(_)
                | Expr::Exists { .. }
                | Expr::InSubquery { .. }
        );
        if names { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_decide_next_to_what_they_settle() {
        for (text, decides) in [
            ("(a OR true)", true),
            ("(('b'::text IS NULL) OR f())", true),
            ("(a = NULL::integer)", true),
            ("CASE WHEN false THEN f() ELSE a END", true),
            ("(EXISTS ( SELECT 1 FROM public.t WHERE (t.a AND (1 = 2))))", true),
            ("(", true),
            ("true", false),
            ("(a OR (b = true))", false),
            ("((a = 1) AND (b IS NULL))", false),
            ("CASE WHEN a THEN true ELSE false END", false),
        ] {
            assert_eq!(decides_by_literals(text), decides, "{text}");
        }
    }
}
