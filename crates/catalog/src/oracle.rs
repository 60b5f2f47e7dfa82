//! [`Oracle`] over the pool: questions put to PostgreSQL as a role with claims.
//!
//! A question is prepared as the role of the connection and executed as the role asked about. That is how
//! PostgreSQL itself treats a policy: names in it were looked up when it was created, so that whoever
//! runs into it needs no USAGE on the schemas it mentions, while privileges on tables and functions are
//! checked as the policy is run.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join, join3};
use tokio_postgres::{Row, Statement};
use walcast_pgoutput::Xid;
use walcast_policy::schema::Snapshot;
use walcast_policy::{Answers, CopyRequest, LoadedCopy, Oracle, OracleError, Question};

use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::image::Image;
use crate::impersonation::{self, Access, ClaimSettings};
use crate::pipeline;
use crate::pool::{Lease, Prepared, within};
use crate::quoting::RoleName;

/// How many claims are asked about before the answers are awaited.
const PIPELINED_MAX: usize = 64;

/// How many bytes of parameters are on their way at once.
const PIPELINED_BYTES: usize = 1 << 20;

impl Oracle for Catalog {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.now()
    }

    fn refresh(&self) -> BoxFuture<'_, Result<Arc<Snapshot>, OracleError>> {
        async { Ok(self.look_again().await?) }.boxed()
    }

    fn visible(&self, transaction: Xid) -> BoxFuture<'_, Result<(), OracleError>> {
        async move { Ok(self.wait_for(transaction).await?) }.boxed()
    }

    fn role<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, OracleError>> {
        async { Ok(self.know_role(name).await?) }.boxed()
    }

    fn check_expression<'a>(&'a self, expression: &'a str) -> BoxFuture<'a, Result<(), OracleError>> {
        async { Ok(within(self.pool.patience(), self.check(expression)).await?) }.boxed()
    }

    fn constants<'a>(
        &'a self,
        role: &'a str,
        claims: &'a str,
        expressions: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<String>>, OracleError>> {
        async move {
            let Some(sql) = constants_sql(expressions) else {
                return Ok(Vec::new());
            };
            let inquiry =
                Inquiry { role: RoleName::new(role)?, sql, parameter: None, version: self.now().version };
            let answers = self.inquire(&inquiry, &[claims], every_text).await?;
            let missing = || CatalogError::Unexpected("no answer".to_owned());
            Ok(answers.into_iter().next().ok_or_else(missing)??)
        }
        .boxed()
    }

    fn decide<'a>(
        &'a self,
        question: Question<'a>,
        claims: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<Answers>, OracleError>> {
        async move {
            let mut all: Vec<Answers> = claims.iter().map(|_| Vec::new()).collect();
            if claims.is_empty() {
                return Ok(all);
            }
            let snapshot = self.now();
            let claims: Vec<&str> = claims.iter().map(|claims| &**claims).collect();
            for row in question.rows {
                let image = Image { table: question.table, row, types: &snapshot.types };
                let inquiry = Inquiry {
                    role: RoleName::new(question.role)?,
                    sql: image.question(question.expression),
                    parameter: Some(image.json()?),
                    version: snapshot.version,
                };
                let answers = self.inquire(&inquiry, &claims, |row| row.try_get::<_, bool>(0)).await?;
                for (answers, answer) in all.iter_mut().zip(answers) {
                    answers.push(answer.map_err(OracleError::from));
                }
            }
            Ok(all)
        }
        .boxed()
    }

    fn load(self: Arc<Self>, request: CopyRequest) -> BoxFuture<'static, Result<LoadedCopy, OracleError>> {
        async move { self.copy(&request).await }.boxed()
    }
}

/// One query to be run as a role, for several claims.
struct Inquiry {
    role: RoleName,
    sql: String,
    /// The value of `$1`, where the query has one.
    parameter: Option<String>,
    /// The version of the snapshot that the query was made for: a statement prepared for another one may
    /// mean other columns by the same names.
    version: u64,
}

impl Inquiry {
    fn owner(&self) -> String {
        format!("{} {}", self.version, self.role.as_str())
    }

    /// How many claims to ask about at once.
    fn stride(&self, claims: &[&str]) -> usize {
        let longest = claims.iter().map(|claims| claims.len()).max().unwrap_or(0);
        let each = longest + self.parameter.as_ref().map_or(0, String::len) + 256;
        (PIPELINED_BYTES / each).clamp(1, PIPELINED_MAX)
    }
}

/// What the answer for one of the claims is, or why there is none.
type Replies<T> = Vec<Result<T, CatalogError>>;

/// How a value is read from the one row of an answer.
type Reader<T> = fn(&Row) -> Result<T, tokio_postgres::Error>;

impl Catalog {
    /// Puts an inquiry for each of the claims, in one read-only transaction that is rolled back whatever it
    /// did to its session. An error of the query for one of the claims is the answer for that one only.
    async fn inquire<T: Send>(
        &self,
        inquiry: &Inquiry,
        claims: &[&str],
        read: Reader<T>,
    ) -> Result<Replies<T>, CatalogError> {
        let talk = async {
            let mut retries = self.pool.retries();
            loop {
                let mut lease = self.pool.lease().await?;
                let outcome = ask(&mut lease, inquiry, claims, read).await;
                if let Some(outcome) = retries.settle(lease, outcome) {
                    return outcome.flatten();
                }
            }
        };
        within(self.pool.patience(), talk).await
    }

    async fn check(&self, expression: &str) -> Result<(), CatalogError> {
        // IS NULL spares us the type of the answer.
        let sql = format!("SELECT (\n{expression}\n) IS NULL");
        let mut retries = self.pool.retries();
        loop {
            let lease = self.pool.lease().await?;
            let (begun, answer, ended) = join3(
                lease.batch_execute("BEGIN READ ONLY"),
                lease.query_typed(&sql, &[]),
                lease.batch_execute("ROLLBACK"),
            )
            .await;
            let answer = answer.map(drop).map_err(CatalogError::from);
            let outcome = begun.and(ended).map(|()| answer).map_err(CatalogError::from);
            if let Some(outcome) = retries.settle(lease, outcome) {
                return outcome.flatten();
            }
        }
    }
}

/// One conversation. The outer error leaves the connection in doubt, the inner one does not.
async fn ask<T: Send>(
    lease: &mut Lease,
    inquiry: &Inquiry,
    claims: &[&str],
    read: Reader<T>,
) -> Result<Result<Replies<T>, CatalogError>, CatalogError> {
    let set_claims = impersonation::claims_statement(lease).await?;
    loop {
        let prepared = match prepare(lease, inquiry).await? {
            Ok(prepared) => prepared,
            Err(refused) => return Ok(Err(refused)),
        };
        let statements = Statements { set_claims: &set_claims, query: &prepared.statement };
        let answers = ask_all(lease, inquiry, statements, claims, read).await?;
        let stale = !prepared.fresh && answers.as_ref().is_ok_and(|answers| answers.iter().any(may_be_stale));
        if !stale {
            return Ok(answers);
        }
        lease.forget(&inquiry.owner(), &inquiry.sql);
    }
}

/// Whether a statement prepared again might do better. PostgreSQL analyses a statement anew when something
/// it depends on has changed, and does so as the role of the moment, which may lack USAGE on a schema;
/// or it finds that a column has another type now (classes 42 and 0A).
fn may_be_stale<T>(answer: &Result<T, CatalogError>) -> bool {
    let code = answer.as_ref().err().and_then(CatalogError::code);
    code.is_some_and(|code| code.starts_with("42") || code.starts_with("0A"))
}

/// Prepares the query as the role of the connection; where that one may not use a schema, as the role asked
/// about.
async fn prepare(
    lease: &mut Lease,
    inquiry: &Inquiry,
) -> Result<Result<Prepared, CatalogError>, CatalogError> {
    let parameters = usize::from(inquiry.parameter.is_some());
    let owner = inquiry.owner();
    match lease.prepare(&owner, &inquiry.sql, parameters).await {
        Err(error) if error.code() == Some("42501") => {}
        Err(error) if error.is_broken() => return Err(error),
        outcome => return Ok(outcome),
    }
    let begin = impersonation::begin(&inquiry.role, Access::ReadOnly, lease);
    let outcome = match lease.batch_execute(&begin).await {
        Ok(()) => lease.prepare(&owner, &inquiry.sql, parameters).await,
        Err(error) => Err(error.into()),
    };
    lease.batch_execute("ROLLBACK").await?;
    Ok(outcome)
}

#[derive(Clone, Copy)]
struct Statements<'a> {
    set_claims: &'a Statement,
    query: &'a Statement,
}

/// What one request of the pipeline was for, with what came of it.
enum Step<T> {
    /// A transaction or savepoint statement: without it, nothing else counts.
    Control(Result<(), CatalogError>),
    Answer(Result<T, CatalogError>),
}

/// Asks for all claims in one transaction, a savepoint around each.
async fn ask_all<T: Send>(
    lease: &Lease,
    inquiry: &Inquiry,
    statements: Statements<'_>,
    claims: &[&str],
    read: Reader<T>,
) -> Result<Result<Replies<T>, CatalogError>, CatalogError> {
    let begin = format!("{}; SAVEPOINT asked", impersonation::begin(&inquiry.role, Access::ReadOnly, lease));
    let control =
        |sql: &'static str| async move { Step::Control(lease.batch_execute(sql).await.map_err(Into::into)) };
    let mut answers = Vec::with_capacity(claims.len());
    let strides = claims.chunks(inquiry.stride(claims)).collect::<Vec<_>>();
    for (index, stride) in strides.iter().enumerate() {
        let mut steps: Vec<BoxFuture<'_, Step<T>>> = Vec::with_capacity(2 * stride.len() + 2);
        if index == 0 {
            steps
                .push(async { Step::Control(lease.batch_execute(&begin).await.map_err(Into::into)) }.boxed());
        }
        for claims in *stride {
            steps.push(ask_one(lease, inquiry, statements, claims, read).map(Step::Answer).boxed());
            steps.push(control("ROLLBACK TO SAVEPOINT asked").boxed());
        }
        let last = index + 1 == strides.len();
        if last {
            steps.push(control("ROLLBACK").boxed());
        }
        let mut refused = None;
        for step in pipeline::in_order(steps).await {
            match step {
                Step::Answer(answer) => answers.push(answer),
                Step::Control(outcome) => refused = refused.or(outcome.err()),
            }
        }
        if let Some(error) = refused {
            return give_up(lease, error, index == 0, last).await;
        }
    }
    Ok(Ok(answers))
}

/// A statement of the transaction itself failed. At its beginning that is an answer (the role does not
/// exist, or may not be assumed); later it is a fault of the connection.
async fn give_up<T>(
    lease: &Lease,
    error: CatalogError,
    at_the_beginning: bool,
    rolled_back: bool,
) -> Result<Result<T, CatalogError>, CatalogError> {
    if error.is_broken() || !at_the_beginning {
        return Err(error);
    }
    if !rolled_back {
        lease.batch_execute("ROLLBACK").await?;
    }
    Ok(Err(error))
}

/// Asks for one of the claims. Both requests leave at the first poll, in this order.
async fn ask_one<T>(
    lease: &Lease,
    inquiry: &Inquiry,
    statements: Statements<'_>,
    claims: &str,
    read: Reader<T>,
) -> Result<T, CatalogError> {
    let settings = ClaimSettings::new(claims);
    let query = async {
        match &inquiry.parameter {
            Some(parameter) => lease.query_one(statements.query, &[parameter]).await,
            None => lease.query_one(statements.query, &[]).await,
        }
    };
    let (set, row) = join(settings.apply(lease, statements.set_claims), query).await;
    set?;
    Ok(read(&row?)?)
}

fn constants_sql(expressions: &[String]) -> Option<String> {
    let columns: Vec<String> =
        expressions.iter().map(|expression| format!("(\n{expression}\n)::text")).collect();
    (!columns.is_empty()).then(|| format!("SELECT {}", columns.join(", ")))
}

fn every_text(row: &Row) -> Result<Vec<Option<String>>, tokio_postgres::Error> {
    (0..row.len()).map(|column| row.try_get(column)).collect()
}
