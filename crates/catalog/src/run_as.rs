//! One statement as a role, for the demo's writes.

use serde_json::Value;
use tokio_postgres::types::{ToSql, Type};

use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::impersonation::{self, Access, ClaimSettings};
use crate::pool::{Lease, within};
use crate::quoting::RoleName;

impl Catalog {
    /// Runs one statement as `role` with `claims` (the token's payload as JSON text), in a transaction of
    /// its own, and answers with its rows as a JSON array of objects.
    ///
    /// `sql` is a query or an INSERT, UPDATE or DELETE with RETURNING; it must be ours, never a client's.
    /// The parameters are text or NULL; `sql` casts them (`$1::uuid`).
    ///
    /// # Errors
    /// [`CatalogError::Statement`] with PostgreSQL's SQLSTATE and message where it refuses, which is what
    /// row-level security does (`42501`). Nothing is written then.
    pub async fn run_as(
        &self,
        role: &str,
        claims: &str,
        sql: &str,
        parameters: &[Option<String>],
    ) -> Result<Value, CatalogError> {
        let role = RoleName::new(role)?;
        let talk = async {
            let mut lease = self.pool.lease().await?;
            let outcome = run(&mut lease, &role, claims, sql, parameters).await;
            let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
            lease.batch_execute(end).await?;
            // Unlike a roll-back, a commit keeps what the statement may have set in the session.
            lease.reset().await?;
            lease.give_back();
            outcome
        };
        let rows = within(self.pool.patience(), talk).await?;
        serde_json::from_str(&rows).map_err(|error| CatalogError::Unexpected(error.to_string()))
    }
}

async fn run(
    lease: &mut Lease,
    role: &RoleName,
    claims: &str,
    sql: &str,
    parameters: &[Option<String>],
) -> Result<String, CatalogError> {
    let set_claims = impersonation::claims_statement(lease).await?;
    let begin = impersonation::begin(role, Access::ReadWrite, lease);
    lease.batch_execute(&begin).await?;
    ClaimSettings::new(claims).apply(lease, &set_claims).await?;
    let wrapped =
        format!("WITH affected AS (\n{sql}\n) SELECT coalesce(json_agg(affected), '[]')::text FROM affected");
    let typed: Vec<(&(dyn ToSql + Sync), Type)> =
        parameters.iter().map(|parameter| (parameter as &(dyn ToSql + Sync), Type::TEXT)).collect();
    let rows = lease.query_typed(&wrapped, &typed).await?;
    let row = rows.first().ok_or_else(|| CatalogError::Unexpected("no row".to_owned()))?;
    Ok(row.try_get(0)?)
}
