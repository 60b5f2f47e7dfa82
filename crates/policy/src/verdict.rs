//! What a plan or a filter says of one row.

/// The answer to "is this row for this subscriber?". Anything but [`Verdict::Visible`] is not delivered,
/// unless the oracle says yes to a [`Verdict::Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Deliver.
    Visible,
    /// Do not deliver.
    Hidden,
    /// Only PostgreSQL can tell: put the question to the oracle.
    Ask,
    /// Undecidable: the decision needs a column that the row image does not carry.
    Missing {
        /// Its index into [`crate::schema::Table::columns`].
        column: usize,
    },
    /// The expression raises an error for this row, as it would in PostgreSQL.
    Failed(String),
}
