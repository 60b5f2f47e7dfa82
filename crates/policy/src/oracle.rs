//! What only PostgreSQL knows, asked through a trait so that this crate needs no connection.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use walcast_pgoutput::{Lsn, Xid};

use crate::members::TableCopy;
use crate::row::RowImage;
use crate::rows::{RowsError, RowsRead, RowsRequest};
use crate::schema::{Snapshot, Table, Types};
use crate::transactions::TransactionSnapshot;

/// Answers what the plans can not. `walcast-catalog` implements it over a connection pool.
///
/// Every answer may take a round trip to the database; nothing here is called where a plan suffices.
pub trait Oracle: Send + Sync + 'static {
    /// What is known of the database now.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Reads the catalog again and answers with what it says. Cheap when nothing has changed.
    fn refresh(&self) -> BoxFuture<'_, Result<Arc<Snapshot>, OracleError>>;

    /// Waits until what the transactions did is visible to whatever is asked from now on. PostgreSQL hands a
    /// transaction to the log's readers once its commit is on disk, a moment before others see it; with
    /// synchronous replication that moment may be long, and another for each.
    fn visible<'a>(&'a self, transactions: &'a [Xid]) -> BoxFuture<'a, Result<(), OracleError>>;

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

    /// Decides a boolean SQL expression over row images, for each of `claims`, as the role.
    ///
    /// The rows are the images given, never what the table holds now; their columns are in scope under
    /// their names and under the table's. One list for each of the claims, with one answer for each row: an
    /// expression that raises for one of them is an error for that one only.
    fn decide<'a>(
        &'a self,
        question: Question<'a>,
        claims: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<Answers>, OracleError>>;

    /// Loads the copy of a table that look-ups are made in. Every transaction that was in progress, or in the
    /// log, when this was called is over when the copy is read, so that the log from now on and the copy's
    /// snapshot together have every row once.
    fn load(self: Arc<Self>, request: CopyRequest) -> BoxFuture<'static, Result<LoadedCopy, OracleError>>;

    /// Reads the rows of tables that a role with its claims may see, all from one snapshot. A transaction that the log
    /// has told of already need not be among what the rows know.
    fn rows(self: Arc<Self>, request: RowsRequest) -> BoxFuture<'static, Result<RowsRead, RowsError>>;
}

/// One answer for each row of a question.
pub type Answers = Vec<Result<bool, OracleError>>;

/// What [`Oracle::load`] is asked for.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    /// The table.
    pub table: Arc<Table>,
    /// The types of its columns.
    pub types: Arc<Types>,
    /// The columns by number that look-ups read; those of the replica identity come on top.
    pub columns: Vec<i16>,
    /// The copy may take so many bytes; a larger one is [`OracleError::Unavailable`].
    pub bytes_max: usize,
}

/// A copy as it was read.
#[derive(Debug)]
pub struct LoadedCopy {
    /// The rows.
    pub rows: TableCopy,
    /// Which transactions the rows know of.
    pub snapshot: TransactionSnapshot,
    /// The commits of all of these lie before this position of the log.
    pub reached: Lsn,
}

/// What is asked of [`Oracle::decide`].
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The PostgreSQL role to ask as.
    pub role: &'a str,
    /// The table the row is of.
    pub table: &'a Table,
    /// The row images; an expression that reads a column which is [`crate::Datum::Missing`] in one of them
    /// raises for that one.
    pub rows: &'a [RowImage<'a>],
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
