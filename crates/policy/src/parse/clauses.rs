//! The operands at the top of a policy, for whoever wants to tell which of them decided.

use sqlparser::ast::{BinaryOperator, Expr};

use super::parse;
use super::syntax::operands;

/// The operands of the AND or OR at the top of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clauses {
    /// Whether all of them must hold (AND), or any one (OR).
    pub all: bool,
    /// Their SQL, from left to right.
    pub texts: Vec<String>,
}

/// Takes a condition apart; `None` where it is neither an AND nor an OR.
pub fn clauses(text: &str) -> Option<Clauses> {
    let parsed = parse(text).ok()?;
    let top = bare(&parsed);
    let all = match top {
        Expr::BinaryOp { op: BinaryOperator::And, .. } => true,
        Expr::BinaryOp { op: BinaryOperator::Or, .. } => false,
        _ => return None,
    };
    let texts = operands(top, all).into_iter().map(|one| bare(one).to_string()).collect();
    Some(Clauses { all, texts })
}

fn bare(parsed: &Expr) -> &Expr {
    match parsed {
        Expr::Nested(inner) => bare(inner),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operands_at_the_top_are_told_and_no_deeper_ones() {
        let and = clauses("((a = 1) AND ((b = 2) OR (c = 3)) AND d)").unwrap();
        assert_eq!(
            (and.all, and.texts),
            (true, vec!["a = 1".into(), "(b = 2) OR (c = 3)".into(), "d".into()])
        );
        let or = clauses("(a OR (NOT b))").unwrap();
        assert_eq!((or.all, or.texts), (false, vec!["a".into(), "NOT b".into()]));
        assert_eq!(clauses("(a = 1)"), None);
        assert_eq!(clauses("(a ="), None);
    }
}
