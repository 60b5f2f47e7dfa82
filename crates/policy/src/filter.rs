//! The filter of a binding: an AND of conditions over one row (`docs/protocol.md` §5).

mod compile;

use std::sync::Arc;

use walcast_pgoutput::{Oid, PgTimestamp};

use crate::constants::Values;
use crate::evaluate::{Scope, evaluate_condition};
use crate::expression::Expression;
use crate::keys::{self, Key};
use crate::members::MembersAt;
use crate::operation::{Comparison, Operation, Stop};
use crate::oracle::OracleError;
use crate::row::{Datum, RowImage};
use crate::schema::{Table, Types};
use crate::verdict::Verdict;

/// An AND of conditions over one row. Cheap to clone; equal filters match the same rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter(Repr);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Repr {
    /// Every row passes.
    None,
    /// `column = value`, of a type whose text says all there is of a value. Most filters are that, and there may be one
    /// for each subscriber: no more is kept of it than it takes.
    Equals {
        table: Oid,
        column: u16,
        text: Box<str>,
    },
    Other(Arc<Conditions>),
}

/// One condition as the client wrote it, its column looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilterCondition {
    /// Index into [`Table::columns`].
    pub column: usize,
    /// The operator.
    pub operator: FilterOperator,
    /// Whether `not.` stood before it.
    pub negated: bool,
    /// What to compare with, unquoted.
    pub value: FilterValue,
}

/// The operators of `docs/protocol.md` §5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterOperator {
    /// `=`
    Eq,
    /// `<>`
    Neq,
    /// `<`
    Lt,
    /// `<=`
    Lte,
    /// `>`
    Gt,
    /// `>=`
    Gte,
    /// `= ANY`
    In,
    /// `LIKE`
    Like,
    /// `ILIKE`
    Ilike,
    /// `IS NULL`, `IS TRUE`, `IS FALSE`, `IS UNKNOWN`
    Is,
    /// `~`
    Match,
    /// `~*`
    Imatch,
    /// `IS DISTINCT FROM`
    IsDistinct,
}

/// The right side of a condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FilterValue {
    /// A single literal.
    One(String),
    /// The elements of `in`.
    List(Vec<String>),
}

/// Why a filter is refused. Its text is what follows `Exception: ` in the `system` message
/// (`docs/protocol.md` §5.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The filter itself is not valid.
    #[error("ERROR P0001 (raise_exception) {0}")]
    Invalid(String),
    /// PostgreSQL refuses a literal.
    #[error("ERROR {code}{} {message}", condition_name(.code))]
    Refused {
        /// The five characters of the SQLSTATE.
        code: String,
        /// PostgreSQL's message.
        message: String,
    },
    /// PostgreSQL could not be asked.
    #[error("{0}")]
    Unchecked(String),
}

/// The conditions of a filter that has any.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Conditions {
    table: Oid,
    all: Vec<Condition>,
    /// `None` when every row is decided here.
    question: Option<String>,
    checks: Vec<String>,
    /// For each check, whether it is about a regular expression.
    check_is_regex: Vec<bool>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Condition {
    column: usize,
    expression: Expression,
}

impl Filter {
    /// The filter that every row passes.
    pub fn none() -> Filter {
        Filter(Repr::None)
    }

    /// Types the literals and checks that the operators fit the columns.
    pub fn compile(
        table: &Table,
        types: &Types,
        conditions: Vec<FilterCondition>,
    ) -> Result<Filter, FilterError> {
        if conditions.is_empty() {
            return Ok(Filter::none());
        }
        let (conditions, _) = compile::conditions(table, types, conditions)?;
        Ok(Filter(conditions.equality().unwrap_or_else(|| Repr::Other(Arc::new(conditions)))))
    }

    /// The boolean SQL over a row that says what [`Filter::compile`] makes of these conditions; `None` without any.
    pub fn sql(
        table: &Table,
        types: &Types,
        conditions: Vec<FilterCondition>,
    ) -> Result<Option<String>, FilterError> {
        if conditions.is_empty() {
            return Ok(None);
        }
        compile::conditions(table, types, conditions).map(|(_, sql)| Some(sql))
    }

    fn conditions(&self) -> Option<&Conditions> {
        match &self.0 {
            Repr::None | Repr::Equals { .. } => None,
            Repr::Other(conditions) => Some(conditions),
        }
    }

    /// SQL expressions over no row that PostgreSQL must accept before the filter is used: literals and
    /// operators that only it can judge.
    pub fn checks(&self) -> &[String] {
        self.conditions().map_or(&[], |conditions| &conditions.checks)
    }

    /// The error to show when PostgreSQL refuses the check with this index.
    pub fn refusal(&self, check: usize, error: &OracleError) -> FilterError {
        let regex = self.conditions().and_then(|conditions| conditions.check_is_regex.get(check));
        match error {
            OracleError::Raised { message, .. } if regex == Some(&true) => {
                FilterError::Invalid(format!("invalid regular expression for match filter: {message}"))
            }
            OracleError::Raised { code, message } => {
                FilterError::Refused { code: code.clone(), message: message.clone() }
            }
            OracleError::Disconnected(_) | OracleError::Unavailable(_) => {
                FilterError::Unchecked(error.to_string())
            }
        }
    }

    /// The same once PostgreSQL has accepted its checks, which it keeps no longer.
    #[must_use]
    pub fn checked(mut self) -> Filter {
        if let Repr::Other(conditions) = &mut self.0
            && let Some(conditions) = Arc::get_mut(conditions)
        {
            conditions.checks = Vec::new();
            conditions.check_is_regex = Vec::new();
        }
        self
    }

    /// Judges one row image. A column that the image does not carry is not a match (`docs/protocol.md` §5.4):
    /// so a DELETE is judged on its identity columns.
    pub fn evaluate(&self, row: &RowImage<'_>) -> Verdict {
        let conditions = match &self.0 {
            Repr::None => return Verdict::Visible,
            Repr::Equals { column, text, .. } => {
                let equal = row.get(usize::from(*column)) == Datum::Text(text);
                return if equal { Verdict::Visible } else { Verdict::Hidden };
            }
            Repr::Other(conditions) => conditions,
        };
        if conditions.all.iter().any(|condition| row.get(condition.column) == Datum::Missing) {
            return Verdict::Hidden;
        }
        let scope = Scope {
            row,
            now: PgTimestamp::default(),
            constants: Values::NONE,
            settings: None,
            members: MembersAt::none(),
            frame: None,
            found: None,
        };
        let mut verdict = Verdict::Visible;
        for condition in &conditions.all {
            match evaluate_condition(&condition.expression, &scope) {
                Ok(Some(true)) => {}
                Ok(Some(false) | None) => return Verdict::Hidden,
                Err(Stop::Failed(message)) => verdict = Verdict::Failed(message),
                Err(Stop::Ask | Stop::Missing(_)) => {
                    if verdict == Verdict::Visible {
                        verdict = Verdict::Ask;
                    }
                }
            }
        }
        verdict
    }

    /// Keys one of which every row that matches has; `None` where there are no such.
    pub fn keys(&self) -> Option<Vec<Key>> {
        if let Repr::Equals { column, text, .. } = &self.0 {
            return Some(vec![Key::Column { column: usize::from(*column), value: text.clone() }]);
        }
        let conditions = self.conditions()?;
        keys::of_all(conditions.all.iter().map(|condition| &condition.expression), Values::NONE)
    }

    /// The columns that the question reads, by index into [`Table::columns`].
    pub fn asked_columns(&self) -> impl Iterator<Item = usize> {
        self.conditions()
            .into_iter()
            .flat_map(|conditions| conditions.all.iter().map(|condition| condition.column))
    }

    /// The boolean SQL over the row that settles a [`Verdict::Ask`]; `None` when none is ever given.
    pub fn question(&self) -> Option<&str> {
        self.conditions().and_then(|conditions| conditions.question.as_deref())
    }
}

impl Conditions {
    /// The same, where it is one column that must have one value, and where that can be told from their texts.
    fn equality(&self) -> Option<Repr> {
        let [Condition { column, expression }] = self.all.as_slice() else { return None };
        let Expression::Call(Operation::Compare(Comparison::Equal), operands) = expression else {
            return None;
        };
        let [Expression::Column { .. }, Expression::Literal(Some(_))] = operands.as_slice() else {
            return None;
        };
        if !self.checks.is_empty() || self.question.is_some() {
            return None;
        }
        let Key::Column { value, .. } = keys::of_all([expression], Values::NONE)?.pop()? else { return None };
        Some(Repr::Equals { table: self.table, column: u16::try_from(*column).ok()?, text: value })
    }
}

/// The name of an SQLSTATE in parentheses (PostgreSQL docs, "PostgreSQL Error Codes"), for those that
/// literals meet.
fn condition_name(code: &str) -> &'static str {
    match code {
        "22003" => " (numeric_value_out_of_range)",
        "22007" => " (invalid_datetime_format)",
        "22008" => " (datetime_field_overflow)",
        "22021" => " (character_not_in_repertoire)",
        "22023" => " (invalid_parameter_value)",
        "22025" => " (invalid_escape_sequence)",
        "2201B" => " (invalid_regular_expression)",
        "22P02" => " (invalid_text_representation)",
        "22P03" => " (invalid_binary_representation)",
        "23514" => " (check_violation)",
        "42501" => " (insufficient_privilege)",
        "42704" => " (undefined_object)",
        "42804" => " (datatype_mismatch)",
        "42883" => " (undefined_function)",
        _ => "",
    }
}
