//! The typed expression that policies and filters become.
//!
//! Everything in it has exactly PostgreSQL's meaning; what has not is [`Expression::Oracle`].

use walcast_pgoutput::Oid;

use crate::constants::Values;
use crate::look_up::LookUp;
use crate::operation::Operation;
use crate::value::{Kind, Value};

/// An expression over one row, the claims and the moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Expression {
    /// A value; `None` is NULL.
    Literal(Option<Value<'static>>),
    /// A column of the row.
    Column {
        index: usize,
        kind: Kind,
    },
    /// A column of the row that a source of a look-up has at the moment.
    Member {
        source: usize,
        /// By number (`attnum`).
        column: i16,
        kind: Kind,
    },
    /// A sub-select.
    LookUp(Box<LookUp>),
    /// A setting of the session, before [`crate::constants`] puts it into a slot.
    Setting(Setting),
    /// A value that PostgreSQL computed from claims and settings, likewise.
    Foreign {
        index: usize,
        kind: Kind,
    },
    /// What a constant sub-expression came to: a slot of the bound plan.
    Constant(usize),
    /// `now()`.
    Now,
    /// A sub-expression that only PostgreSQL can decide.
    Oracle,
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Not(Box<Expression>),
    IsNull(Box<Expression>),
    /// `IS TRUE` or `IS FALSE`.
    IsTruth {
        operand: Box<Expression>,
        truth: bool,
    },
    IsDistinct(Box<Expression>, Box<Expression>),
    /// `CASE`; the condition of each branch is boolean.
    Case {
        branches: Vec<(Expression, Expression)>,
        otherwise: Box<Expression>,
    },
    Coalesce(Vec<Expression>),
    NullIf(Box<Expression>, Box<Expression>),
    /// What a function with this body comes to: PostgreSQL may compute the arguments first, also those that the body
    /// has no use for. They are those that may raise.
    Body {
        arguments: Vec<Expression>,
        body: Box<Expression>,
    },
    /// What PostgreSQL's planner takes as a whole, and does not compute ahead of time: what a sub-select without tables
    /// or a function comes to.
    Apart(Box<Expression>),
    /// `GREATEST` or `LEAST`.
    Extreme {
        greatest: bool,
        operands: Vec<Expression>,
    },
    /// `operand operation ANY (array)` or `… ALL (array)`.
    Quantified {
        all: bool,
        operation: Operation,
        operand: Box<Expression>,
        array: Box<Expression>,
    },
    /// `ARRAY[…]` of scalars.
    ArrayOf(Vec<Expression>),
    /// An operation that gives NULL when an operand is NULL.
    Call(Operation, Vec<Expression>),
}

/// A session setting that the claims or the role determine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Setting {
    /// `request.jwt.claims`: the claims as JSON text.
    Claims,
    /// `request.jwt.claim.<name>`: one claim as text, empty where it is missing.
    Claim(&'static str),
    /// `current_user`.
    Role,
    /// `realtime.topic`, while a channel is judged.
    Topic,
    /// `request.headers`, while a channel is judged.
    Headers,
    /// One that is never set.
    Unset,
}

impl Expression {
    /// A column of the row.
    pub(crate) fn column(index: usize, kind: Kind) -> Expression {
        Expression::Column { index, kind }
    }

    /// The negation.
    pub(crate) fn negated(self) -> Expression {
        Expression::Not(Box::new(self))
    }

    /// As something that the planner takes as a whole; but a look-up is that already, and what literals decide is known.
    pub(crate) fn apart(self) -> Expression {
        match self {
            Expression::Literal(_) | Expression::LookUp(_) | Expression::Apart(_) => self,
            other => Expression::Apart(Box::new(other)),
        }
    }

    /// Whether its value is the same for every row and at every moment, given role and claims.
    pub(crate) fn is_constant(&self) -> bool {
        match self {
            Expression::Column { .. }
            | Expression::Member { .. }
            | Expression::LookUp(_)
            | Expression::Now
            | Expression::Oracle
            | Expression::Constant(_) => false,
            other => other.children().into_iter().all(Expression::is_constant),
        }
    }

    /// Whether evaluating it over some row may raise, constants aside.
    pub(crate) fn may_fail_by_row(&self) -> bool {
        if self.is_constant() {
            return false;
        }
        let own = match self {
            Expression::Call(operation, _) | Expression::Quantified { operation, .. } => operation.may_fail(),
            Expression::LookUp(look_up) => look_up.may_fail(),
            _ => false,
        };
        own || self.children().into_iter().any(Expression::may_fail_by_row)
    }

    /// Whether its value depends on the claims, the role or other settings.
    pub(crate) fn reads_settings(&self) -> bool {
        matches!(self, Expression::Setting(_) | Expression::Foreign { .. } | Expression::Constant(_))
            || self.children().into_iter().any(Expression::reads_settings)
    }

    /// Whether evaluating it over some row may end in a question to PostgreSQL.
    pub(crate) fn may_ask(&self) -> bool {
        let own = match self {
            Expression::Oracle => true,
            Expression::Call(operation, _) | Expression::Quantified { operation, .. } => operation.may_ask(),
            _ => false,
        };
        own || self.children().into_iter().any(Expression::may_ask)
    }

    /// Whether it may raise for some values, given what the constants came to. What is left to PostgreSQL
    /// is taken not to: a plan would be of little use if every look-up next to an equality had to be made
    /// first.
    pub(crate) fn may_fail(&self, constants: &Values) -> bool {
        let own = match self {
            Expression::Call(operation, _) | Expression::Quantified { operation, .. } => operation.may_fail(),
            Expression::LookUp(look_up) => look_up.may_fail(),
            Expression::Constant(slot) => constants.get(*slot).is_err(),
            _ => false,
        };
        own || self.children().into_iter().any(|child| child.may_fail(constants))
    }

    /// The expressions directly below, in the order of evaluation.
    pub(crate) fn children(&self) -> Vec<&Expression> {
        match self {
            Expression::Literal(_)
            | Expression::Column { .. }
            | Expression::Member { .. }
            | Expression::Setting(_)
            | Expression::Foreign { .. }
            | Expression::Constant(_)
            | Expression::Now
            | Expression::Oracle => Vec::new(),
            Expression::And(operands)
            | Expression::Or(operands)
            | Expression::Coalesce(operands)
            | Expression::Extreme { operands, .. }
            | Expression::ArrayOf(operands)
            | Expression::Call(_, operands) => operands.iter().collect(),
            Expression::LookUp(look_up) => look_up.children(),
            Expression::Not(operand)
            | Expression::IsNull(operand)
            | Expression::IsTruth { operand, .. }
            | Expression::Apart(operand) => {
                vec![operand]
            }
            Expression::IsDistinct(left, right) | Expression::NullIf(left, right) => vec![left, right],
            Expression::Quantified { operand, array, .. } => vec![operand, array],
            Expression::Body { arguments, body } => arguments.iter().chain([&**body]).collect(),
            Expression::Case { branches, otherwise } => branches
                .iter()
                .flat_map(|(condition, result)| [condition, result])
                .chain([&**otherwise])
                .collect(),
        }
    }

    /// As [`Expression::children`], to be changed.
    pub(crate) fn children_mut(&mut self) -> Vec<&mut Expression> {
        match self {
            Expression::Literal(_)
            | Expression::Column { .. }
            | Expression::Member { .. }
            | Expression::Setting(_)
            | Expression::Foreign { .. }
            | Expression::Constant(_)
            | Expression::Now
            | Expression::Oracle => Vec::new(),
            Expression::And(operands)
            | Expression::Or(operands)
            | Expression::Coalesce(operands)
            | Expression::Extreme { operands, .. }
            | Expression::ArrayOf(operands)
            | Expression::Call(_, operands) => operands.iter_mut().collect(),
            Expression::LookUp(look_up) => look_up.children_mut(),
            Expression::Not(operand)
            | Expression::IsNull(operand)
            | Expression::IsTruth { operand, .. }
            | Expression::Apart(operand) => {
                vec![operand]
            }
            Expression::IsDistinct(left, right) | Expression::NullIf(left, right) => vec![left, right],
            Expression::Quantified { operand, array, .. } => vec![operand, array],
            Expression::Body { arguments, body } => arguments.iter_mut().chain([&mut **body]).collect(),
            Expression::Case { branches, otherwise } => branches
                .iter_mut()
                .flat_map(|(condition, result)| [condition, result])
                .chain([&mut **otherwise])
                .collect(),
        }
    }
}

/// The built-in types that functions return, whose oids are fixed (PostgreSQL source, `pg_type.dat`).
pub(crate) fn built_in_type(oid: Oid) -> Option<Kind> {
    let name = match oid.0 {
        16 => "bool",
        17 => "bytea",
        19 => "name",
        20 => "int8",
        21 => "int2",
        23 => "int4",
        25 => "text",
        700 => "float4",
        701 => "float8",
        1042 => "bpchar",
        1043 => "varchar",
        1082 => "date",
        1083 => "time",
        1114 => "timestamp",
        1184 => "timestamptz",
        1186 => "interval",
        1700 => "numeric",
        2950 => "uuid",
        3802 => "jsonb",
        1000 => return array_of("bool"),
        1005 => return array_of("int2"),
        1007 => return array_of("int4"),
        1016 => return array_of("int8"),
        1009 | 1015 => return array_of("text"),
        1231 => return array_of("numeric"),
        2951 => return array_of("uuid"),
        _ => return None,
    };
    Kind::of_base_name(name)
}

fn array_of(element: &str) -> Option<Kind> {
    Kind::of_base_name(element).map(|element| Kind::Array(Box::new(element)))
}
