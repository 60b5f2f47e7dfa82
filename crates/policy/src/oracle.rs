//! What only PostgreSQL knows, asked through a trait so that this crate needs no connection.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use walcast_pgoutput::Xid;

use crate::row::RowImage;
use crate::schema::{Snapshot, Table};

/// Answers what the plans can not. `walcast-catalog` implements it over a connection pool.
///
/// Every answer may take a round trip to the database; nothing here is called where a plan suffices.
pub trait Oracle: Send + Sync + 'static {
    /// What is known of the database now.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Reads the catalog again and answers with what it says. Cheap when nothing has changed.
    fn refresh(&self) -> BoxFuture<'_, Result<Arc<Snapshot>, OracleError>>;

    /// Waits until what the transaction did is visible to whatever is asked from now on. PostgreSQL hands a
    /// transaction to the log's readers once its commit is on disk, a moment before others see it; with
    /// synchronous replication that moment may be long.
    fn visible(&self, transaction: Xid) -> BoxFuture<'_, Result<(), OracleError>>;

    /// Makes sure that the role called `name` is in the snapshot. The error for a role that does not
    /// exist is PostgreSQL's: `role "x" does not exist`.
    fn role<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, OracleError>>;

    /// Checks that an SQL expression over no row (such as `'abc'::integer`) can be evaluated; the
    /// error's message is PostgreSQL's own.
    fn check_expression<'a>(&'a self, expression: &'a str) -> BoxFuture<'a, Result<(), OracleError>>;

    /// Evaluates expressions that read only claims and settings, as `role` with `claims` (the JWT's
    /// payload as JSON text). One text value, or `None` for NULL, for each expression.
    fn constants<'a>(
        &'a self,
        role: &'a str,
        claims: &'a str,
        expressions: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<String>>, OracleError>>;

    /// Decides a boolean SQL expression over one row image, for each of `claims`, as the role.
    ///
    /// The row is the image given, never what the table holds now; its columns are in scope under
    /// their names and under the table's. One answer for each of the claims: an expression that
    /// raises for one of them is an error for that one only.
    fn decide<'a>(
        &'a self,
        question: Question<'a>,
        claims: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<Result<bool, OracleError>>, OracleError>>;
}

/// What is asked of [`Oracle::decide`].
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The PostgreSQL role to ask as.
    pub role: &'a str,
    /// The table the row is of.
    pub table: &'a Table,
    /// The row image; columns that are [`crate::Datum::Missing`] are given as NULL, so the caller
    /// must know that the expression does not read them.
    pub row: &'a RowImage<'a>,
    /// A boolean SQL expression; NULL counts as false.
    pub expression: &'a str,
}

/// PostgreSQL could not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OracleError {
    /// PostgreSQL raised an error while evaluating: the fault lies in the expression or the claims.
    #[error("ERROR {code} {message}")]
    Raised {
        /// The five characters of the SQLSTATE.
        code: String,
        /// The primary message.
        message: String,
    },
    /// There is no connection to put the question over; the same question may be answered once there is.
    #[error("the database is away: {0}")]
    Disconnected(String),
    /// The question was not answered: a time-out, a full pool.
    #[error("the database could not be asked: {0}")]
    Unavailable(String),
}
