//! One query, put as a role with the claims of many.
//!
//! It is prepared as the role of the connection and executed as the role asked about. That is how
//! PostgreSQL itself treats a policy: names in it were looked up when it was created, so that whoever
//! runs into it needs no USAGE on the schemas it mentions, while privileges on tables and functions are
//! checked as the policy is run.
//!
//! Each of the claims has an execution of its own between a savepoint and the roll-back to it. Claims are
//! settings, and PostgreSQL evaluates much only once for each execution (uncorrelated sub-selects, hashed ones,
//! STABLE calls over constants); functions of policies keep what they found in settings, too. Neither may
//! reach the next of the claims.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join};
use tokio_postgres::{Row, Statement};

use crate::error::CatalogError;
use crate::impersonation::{self, Access, ClaimSettings};
use crate::pipeline::Pipeline;
use crate::pool::{Lease, Prepared, within};
use crate::quoting::RoleName;

/// A query to be run as a role.
pub(crate) struct Inquiry {
    pub(crate) role: RoleName,
    pub(crate) sql: String,
    /// How many parameters the query has.
    pub(crate) parameters: usize,
    /// The version of the snapshot that the query was made for: a statement prepared for another one may
    /// mean other columns by the same names.
    pub(crate) version: u64,
}

/// One execution of an inquiry.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// The payload of a token as JSON text.
    pub(crate) claims: &'a str,
    /// The value of `$1`, where the query has one.
    pub(crate) parameter: Option<&'a str>,
}

/// The prepared statements of an inquiry.
pub(crate) struct Statements {
    set_claims: Statement,
    query: Prepared,
}

/// How a value is read from the one row of an answer.
pub(crate) type Reader<T> = fn(&Row) -> Result<T, tokio_postgres::Error>;

/// The outcome of a conversation. The outer error leaves the connection in doubt, the inner one does not: it
/// is PostgreSQL's refusal of the whole inquiry.
pub(crate) type Outcome<T> = Result<Result<T, CatalogError>, CatalogError>;

impl Inquiry {
    fn owner(&self) -> String {
        format!("{} {}", self.version, self.role.as_str())
    }

    /// Prepares the query as the role of the connection; where that one may not use a schema, as the role asked
    /// about.
    pub(crate) async fn prepare(&self, lease: &mut Lease) -> Outcome<Statements> {
        let set_claims = impersonation::claims_statement(lease).await?;
        let query = self.prepare_query(lease).await?;
        Ok(query.map(|query| Statements { set_claims, query }))
    }

    async fn prepare_query(&self, lease: &mut Lease) -> Outcome<Prepared> {
        let owner = self.owner();
        match lease.prepare(&owner, &self.sql, self.parameters).await {
            Err(error) if error.code() == Some("42501") => {}
            Err(error) if error.is_broken() => return Err(error),
            outcome => return Ok(outcome),
        }
        let begin = impersonation::begin(&self.role, Access::ReadOnly, lease);
        let outcome = match lease.batch_execute(&begin).await {
            Ok(()) => lease.prepare(&owner, &self.sql, self.parameters).await,
            Err(error) => Err(error.into()),
        };
        lease.batch_execute("ROLLBACK").await?;
        Ok(outcome)
    }

    /// Makes the next [`Inquiry::prepare`] prepare the query again.
    pub(crate) fn forget(&self, lease: &mut Lease) {
        lease.forget(&self.owner(), &self.sql);
    }

    /// Asks all that is asked in one read-only transaction, which is rolled back whatever it did to its session.
    ///
    /// `hear` is given the replies in order as they arrive; an error that the query raised is a reply like
    /// others. An error that `hear` returns ends the conversation. PostgreSQL may be silent for as long as
    /// `patience`.
    pub(crate) async fn put<T: Send>(
        &self,
        lease: &Lease,
        statements: &Statements,
        asks: &[Ask<'_>],
        read: Reader<T>,
        patience: Duration,
        mut hear: impl FnMut(Result<T, CatalogError>) -> Result<(), CatalogError>,
    ) -> Outcome<()> {
        let begin = format!("{}; SAVEPOINT asked", impersonation::begin(&self.role, Access::ReadOnly, lease));
        let mut steps: Vec<BoxFuture<'_, Step<T>>> = Vec::with_capacity(2 * asks.len() + 2);
        steps.push(control(lease, &begin));
        for ask in asks {
            steps.push(ask.put(lease, statements, read).map(Step::Reply).boxed());
            steps.push(control(lease, "ROLLBACK TO SAVEPOINT asked"));
        }
        steps.push(control(lease, "ROLLBACK"));
        let mut pipeline = Pipeline::send(steps).await;
        let mut refused = None;
        let mut begun = false;
        while let Some(step) = within(patience, pipeline.next().map(Ok)).await? {
            match step {
                Step::Reply(Err(error)) | Step::Control(Err(error)) if error.is_broken() => {
                    return Err(error);
                }
                Step::Reply(reply) if refused.is_none() => hear(reply)?,
                // That the transaction can not begin is an answer: the role does not exist, or may not be
                // assumed. What follows fails for that. Later, it is a fault of the connection.
                Step::Control(Err(error)) if !begun => refused = Some(error),
                Step::Control(Err(error)) if refused.is_none() => return Err(error),
                Step::Reply(_) | Step::Control(_) => {}
            }
            begun = true;
        }
        Ok(refused.map_or(Ok(()), Err))
    }
}

impl Statements {
    /// Whether preparing the query again might do better than this error. PostgreSQL analyses a statement anew
    /// when something it depends on has changed, and does so as the role of the moment, which may lack USAGE on
    /// a schema; or it finds that a column has another type now (classes 42 and 0A).
    pub(crate) fn may_be_stale(&self, error: &CatalogError) -> bool {
        !self.query.fresh && error.code().is_some_and(|code| code.starts_with("42") || code.starts_with("0A"))
    }
}

/// What one request of the pipeline was for, with what came of it.
enum Step<T> {
    /// A transaction or savepoint statement: without it, nothing else counts.
    Control(Result<(), CatalogError>),
    Reply(Result<T, CatalogError>),
}

fn control<'a, T: Send>(lease: &'a Lease, sql: &'a str) -> BoxFuture<'a, Step<T>> {
    lease.batch_execute(sql).map(|outcome| Step::Control(outcome.map_err(Into::into))).boxed()
}

impl Ask<'_> {
    /// Sets the claims and runs the query. Both requests leave at the first poll, in this order.
    async fn put<T>(
        &self,
        lease: &Lease,
        statements: &Statements,
        read: Reader<T>,
    ) -> Result<T, CatalogError> {
        let settings = ClaimSettings::new(self.claims);
        let query = async {
            match &self.parameter {
                Some(parameter) => lease.query_one(&statements.query.statement, &[parameter]).await,
                None => lease.query_one(&statements.query.statement, &[]).await,
            }
        };
        let (set, row) = join(settings.apply(lease, &statements.set_claims), query).await;
        set?;
        Ok(read(&row?)?)
    }
}
