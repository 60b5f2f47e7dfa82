//! The demo's database: the catalog's connections, under the caller's role and claims.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use walcast_catalog::{Catalog, CatalogError};
use walcast_server::demo::{DemoDatabase, DemoError};

/// The catalog as the demo sees it.
pub(crate) struct CatalogDemo(pub(crate) Arc<Catalog>);

impl DemoDatabase for CatalogDemo {
    fn run_as<'a>(
        &'a self,
        role: &'a str,
        claims_json: &'a str,
        sql: &'a str,
        parameters: &'a [Option<String>],
    ) -> BoxFuture<'a, Result<Value, DemoError>> {
        async move {
            self.0.run_as(role, claims_json, sql, parameters).await.map_err(|error| refusal(&error))
        }
        .boxed()
    }
}

fn refusal(error: &CatalogError) -> DemoError {
    match error.code() {
        Some(code) => DemoError::Refused { sqlstate: code.to_owned(), message: error.to_string() },
        None => DemoError::Unavailable(error.to_string()),
    }
}
