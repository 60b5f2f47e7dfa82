//! The filter of a binding: an AND of conditions over one row (`docs/protocol.md` §5).

mod compile;

use std::sync::Arc;

use walcast_pgoutput::{Oid, PgTimestamp};

use crate::evaluate::{Scope, evaluate_condition};
use crate::expression::Expression;
use crate::keys::{self, Key};
use crate::members::MembersAt;
use crate::operation::Stop;
use crate::oracle::OracleError;
use crate::row::{Datum, RowImage};
use crate::schema::{Table, Types};
use crate::verdict::Verdict;

/// An AND of conditions over one row. Cheap to clone; equal filters match the same rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter(Option<Arc<Conditions>>);

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
        Filter(None)
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
        compile::conditions(table, types, conditions).map(|conditions| Filter(Some(Arc::new(conditions))))
    }

    /// SQL expressions over no row that PostgreSQL must accept before the filter is used: literals and
    /// operators that only it can judge.
    pub fn checks(&self) -> &[String] {
        self.0.as_ref().map_or(&[], |conditions| &conditions.checks)
    }

    /// The error to show when PostgreSQL refuses the check with this index.
    pub fn refusal(&self, check: usize, error: &OracleError) -> FilterError {
        let regex = self.0.as_ref().and_then(|conditions| conditions.check_is_regex.get(check));
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

    /// Judges one row image. A column that the image does not carry is not a match (`docs/protocol.md` §5.4):
    /// so a DELETE is judged on its identity columns.
    pub fn evaluate(&self, row: &RowImage<'_>) -> Verdict {
        let Some(conditions) = &self.0 else { return Verdict::Visible };
        if conditions.all.iter().any(|condition| row.get(condition.column) == Datum::Missing) {
            return Verdict::Hidden;
        }
        let scope = Scope {
            row,
            now: PgTimestamp::default(),
            constants: &[],
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
        let conditions = self.0.as_ref()?;
        keys::of_all(conditions.all.iter().map(|condition| &condition.expression), &[])
    }

    /// The columns that the question reads, by index into [`Table::columns`].
    pub fn asked_columns(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(|conditions| conditions.all.iter().map(|condition| condition.column))
    }

    /// The boolean SQL over the row that settles a [`Verdict::Ask`]; `None` when none is ever given.
    pub fn question(&self) -> Option<&str> {
        self.0.as_ref().and_then(|conditions| conditions.question.as_deref())
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
