//! [`Oracle`] over the pool: questions put to PostgreSQL as a role with claims.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join3};
use tokio_postgres::Row;
use walcast_pgoutput::Xid;
use walcast_policy::schema::Snapshot;
use walcast_policy::{
    Answers, CopyRequest, LoadedCopy, Oracle, OracleError, Question, RowsError, RowsRead, RowsRequest,
};

use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::inquiry::{Ask, Inquiry, Outcome};
use crate::pool::{Lease, within};
use crate::quoting::RoleName;

impl Oracle for Catalog {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.now()
    }

    fn refresh(&self) -> BoxFuture<'_, Result<Arc<Snapshot>, OracleError>> {
        async { Ok(self.look_again().await?) }.boxed()
    }

    fn visible<'a>(&'a self, transactions: &'a [Xid]) -> BoxFuture<'a, Result<(), OracleError>> {
        async move { Ok(self.wait_for(transactions).await?) }.boxed()
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
                Inquiry { role: RoleName::new(role)?, sql, parameters: 0, version: self.now().version };
            Ok(within(self.pool.patience(), self.evaluate(&inquiry, claims)).await?)
        }
        .boxed()
    }

    fn decide<'a>(
        &'a self,
        question: Question<'a>,
        claims: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<Answers>, OracleError>> {
        self.decide_in_sets(question, claims).boxed()
    }

    fn load(self: Arc<Self>, request: CopyRequest) -> BoxFuture<'static, Result<LoadedCopy, OracleError>> {
        async move { self.copy(&request).await }.boxed()
    }

    fn rows(self: Arc<Self>, request: RowsRequest) -> BoxFuture<'static, Result<RowsRead, RowsError>> {
        async move { self.read_rows(&request).await }.boxed()
    }
}

impl Catalog {
    /// The one answer to an inquiry without parameters.
    async fn evaluate(&self, inquiry: &Inquiry, claims: &str) -> Result<Vec<Option<String>>, CatalogError> {
        let mut retries = self.pool.retries();
        loop {
            let mut lease = self.pool.lease().await?;
            let outcome = self.converse(&mut lease, inquiry, claims).await;
            if let Some(outcome) = retries.settle(lease, outcome) {
                return outcome.flatten();
            }
        }
    }

    async fn converse(
        &self,
        lease: &mut Lease,
        inquiry: &Inquiry,
        claims: &str,
    ) -> Outcome<Vec<Option<String>>> {
        loop {
            let statements = match inquiry.prepare(lease).await? {
                Ok(statements) => statements,
                Err(refused) => return Ok(Err(refused)),
            };
            let mut answer = Err(CatalogError::Unexpected("no answer".to_owned()));
            let hear = |reply| {
                answer = reply;
                Ok(())
            };
            let asks = [Ask { claims, parameter: None }];
            let put = inquiry.put(lease, &statements, &asks, every_text, self.pool.patience(), hear).await?;
            match put.and(answer) {
                Err(error) if statements.may_be_stale(&error) => inquiry.forget(lease),
                answer => return Ok(answer),
            }
        }
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

fn constants_sql(expressions: &[String]) -> Option<String> {
    let columns: Vec<String> =
        expressions.iter().map(|expression| format!("(\n{expression}\n)::text")).collect();
    (!columns.is_empty()).then(|| format!("SELECT {}", columns.join(", ")))
}

fn every_text(row: &Row) -> Result<Vec<Option<String>>, tokio_postgres::Error> {
    (0..row.len()).map(|column| row.try_get(column)).collect()
}
