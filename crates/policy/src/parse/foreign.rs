//! Constants: what PostgreSQL computes from claims and settings, once for each set of claims.

use sqlparser::ast::{Expr, FunctionArguments, Value as SqlValue};

use super::Compiler;
use super::syntax::arguments;
use crate::constants::{self, Judged};
use crate::expression::Expression;
use crate::resolve::Typed;
use crate::value::{Kind, Value};

impl Compiler<'_> {
    pub(super) fn foreign(&mut self, parsed: &Expr, kind: Kind) -> Typed {
        let index = self.foreign_slot(parsed.to_string());
        Typed::new(Expression::Foreign { index, kind: kind.clone() }, kind)
    }

    /// Whether an expression of a function's body has the same value where the subscriber's role evaluates it with
    /// the search path of our sessions.
    pub(super) fn is_same_outside(&self, parsed: &Expr) -> bool {
        if self.surroundings.depth == 0 {
            return true;
        }
        match parsed {
            Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => self.is_same_outside(inner),
            Expr::Value(value) => !matches!(value.value, SqlValue::Placeholder(_)),
            Expr::Function(function) => {
                let name = function.name.to_string();
                let arguments = arguments(&function.args).unwrap_or_default();
                // The settings of PostgreSQL's own, such as `search_path`, have no dot.
                let setting = arguments.first().is_none_or(|name| name.to_string().contains('.'));
                let [part] = function.name.0.as_slice() else { return false };
                let built_in = part.as_ident().is_some_and(|name| self.function_in_path(name).is_none());
                built_in
                    && !matches!(function.args, FunctionArguments::None)
                    && (name != "current_setting" || setting)
                    && arguments.into_iter().all(|argument| self.is_same_outside(argument))
            }
            _ => false,
        }
    }

    pub(super) fn foreign_slot(&mut self, sql: String) -> usize {
        self.foreign.iter().position(|known| *known == sql).unwrap_or_else(|| {
            self.foreign.push(sql);
            self.foreign.len() - 1
        })
    }
}

/// `current_setting` of a name and, perhaps, `missing_ok`, both literals.
pub(super) fn known_setting(arguments: &[Typed], judged: Judged) -> Option<Expression> {
    let literal = |typed: &Typed| match &typed.expression {
        Expression::Literal(Some(value)) => Some(value.clone()),
        _ => None,
    };
    let (name, missing_ok) = match arguments {
        [name] => (literal(name)?, false),
        [name, missing_ok] => (literal(name)?, literal(missing_ok)? == Value::Bool(true)),
        _ => return None,
    };
    match name {
        Value::Text(name) => constants::current_setting(&name, missing_ok, judged),
        _ => None,
    }
}
