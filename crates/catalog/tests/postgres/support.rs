//! A database of a test, with a catalog over it.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use walcast_catalog::{Catalog, CatalogSettings};
use walcast_policy::schema::{Snapshot, Table};
use walcast_policy::{Datum, Oracle as _, OracleError, Question, RowImage};
use walcast_testkit::Database;

/// A deadline for what must happen soon; reached only when a test fails.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A fresh database, an administrator's connection, and a role without any rights.
pub(crate) struct Fixture {
    pub(crate) database: Database,
    pub(crate) admin: Client,
    /// A role of this test alone; roles belong to the whole cluster.
    pub(crate) role: String,
}

impl Fixture {
    /// Runs `sql` as the superuser; `:role` in it is the role's name.
    pub(crate) async fn new(name: &str, sql: &str) -> Fixture {
        let database = walcast_testkit::database(name).await;
        let admin = database.client().await;
        let fixture = Fixture { role: format!("{}_user", database.name()), database, admin };
        fixture.run("CREATE ROLE :role LOGIN PASSWORD 'secret'; CREATE PUBLICATION supabase_realtime").await;
        fixture.run(sql).await;
        fixture
    }

    /// Runs SQL as the superuser; `:role` in it is the role's name.
    pub(crate) async fn run(&self, sql: &str) {
        let sql = sql.replace(":role", &self.role);
        if let Err(error) = self.admin.batch_execute(&sql).await {
            panic!("{error:?}\nin {sql}");
        }
    }

    /// Settings for the superuser.
    pub(crate) fn settings(&self) -> CatalogSettings {
        CatalogSettings::new(self.database.url().parse().unwrap())
    }

    /// Settings for the role of this test.
    pub(crate) fn settings_of_role(&self) -> CatalogSettings {
        CatalogSettings::new(self.database.url_as(&self.role, "secret").parse().unwrap())
    }

    pub(crate) async fn catalog(&self) -> Arc<Catalog> {
        Catalog::connect(self.settings()).await.unwrap()
    }
}

/// The published table `public.name`.
pub(crate) fn table(snapshot: &Snapshot, name: &str) -> Arc<Table> {
    let found = snapshot.table("public", name);
    Arc::clone(found.unwrap_or_else(|| panic!("no table {name} in {:?}", snapshot.tables)))
}

/// One question over a row of `public.name`, given as text values in the order of the columns.
pub(crate) async fn ask(
    catalog: &Catalog,
    role: &str,
    name: &str,
    row: &[Datum<'_>],
    expression: &str,
    claims: &[&str],
) -> Result<Vec<Result<bool, OracleError>>, OracleError> {
    let table = table(&catalog.snapshot(), name);
    let row = RowImage { values: row.to_vec() };
    let question = Question { role, table: &table, rows: std::slice::from_ref(&row), expression };
    let claims: Vec<Arc<str>> = claims.iter().map(|claims| Arc::from(*claims)).collect();
    let answers = catalog.decide(question, &claims).await?;
    Ok(answers.into_iter().flatten().collect())
}

/// The same for one of the claims.
pub(crate) async fn ask_one(
    catalog: &Catalog,
    role: &str,
    name: &str,
    row: &[Datum<'_>],
    expression: &str,
    claims: &str,
) -> Result<bool, OracleError> {
    ask(catalog, role, name, row, expression, &[claims]).await?.remove(0)
}

/// The SQLSTATE and message of an error that PostgreSQL raised.
pub(crate) fn raised<T: std::fmt::Debug>(outcome: Result<T, OracleError>) -> (String, String) {
    match outcome {
        Err(OracleError::Raised { code, message }) => (code, message),
        other => panic!("expected an error raised by PostgreSQL, got {other:?}"),
    }
}
