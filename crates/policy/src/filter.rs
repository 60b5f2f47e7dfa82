//! The filter of a binding: an AND of conditions over one row (`docs/protocol.md` §5).

use std::sync::Arc;

use walcast_pgoutput::Oid;

use crate::oracle::OracleError;
use crate::row::RowImage;
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
    #[error("{0}")]
    Refused(OracleError),
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Conditions {
    table: Oid,
    conditions: Vec<FilterCondition>,
    question: String,
    checks: Vec<String>,
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
        let _ = (table, types);
        if conditions.is_empty() {
            return Ok(Filter::none());
        }
        Err(FilterError::Invalid("filters are not available yet".to_owned()))
    }

    /// SQL expressions that PostgreSQL must accept before the filter is used: literals that only it can read.
    pub fn checks(&self) -> &[String] {
        self.0.as_ref().map_or(&[], |conditions| &conditions.checks)
    }

    /// The error to show when PostgreSQL refuses the check with this index.
    pub fn refusal(&self, _check: usize, error: &OracleError) -> FilterError {
        FilterError::Refused(error.clone())
    }

    /// Judges one row image. A column that the image does not carry is not a match (`docs/protocol.md` §5.4).
    pub fn evaluate(&self, _row: &RowImage<'_>) -> Verdict {
        match self.0 {
            None => Verdict::Visible,
            Some(_) => Verdict::Ask,
        }
    }

    /// The boolean SQL over the row that settles a [`Verdict::Ask`]; `None` when none is ever given.
    pub fn question(&self) -> Option<&str> {
        self.0.as_ref().map(|conditions| conditions.question.as_str())
    }
}
