//! The demonstration that `walcast dev` serves: a page at `/` and a few JSON endpoints under `/demo`.
//!
//! It is for development only. Anybody may have a token of any of the three demo people, so it must never be mounted
//! where real data lives. What the endpoints read and write still runs under the role and the claims of the token
//! that a request carries: the database's row-level security decides, as it does for the changes over the WebSocket.
//!
//! In reading order:
//!
//! * `people` — the three people of the demo data, and the tokens made for them;
//! * `page` — the page's files and the headers they are served with;
//! * `caller` — the verified claims of a request;
//! * `statements` — the SQL of every endpoint;
//! * `endpoints` — the endpoints;
//! * `failure` — what can go wrong, as HTTP says it.

mod caller;
mod endpoints;
mod failure;
mod page;
mod people;
mod statements;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use futures_util::future::BoxFuture;
use serde_json::Value;
use walcast_auth::{Secret, Verifier};

/// The database of the demo, asked under the role and claims of whoever calls.
pub trait DemoDatabase: Send + Sync {
    /// Runs one statement in a transaction of its own, as `role` and with `request.jwt.claims` set to `claims_json`,
    /// both for that transaction only. Every parameter of the statement is a text, or NULL. Returns the rows as a
    /// JSON array with one object per row, keyed by column name.
    fn run_as<'a>(
        &'a self,
        role: &'a str,
        claims_json: &'a str,
        sql: &'a str,
        parameters: &'a [Option<String>],
    ) -> BoxFuture<'a, Result<Value, DemoError>>;
}

/// Why the database did not do what an endpoint asked.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Postgres refused the statement.
    #[error("Postgres refused the statement with {sqlstate}: {message}")]
    Refused {
        /// The five characters of the error code (Postgres documentation, appendix A).
        sqlstate: String,
        /// The error's primary message.
        message: String,
    },
    /// Postgres could not be asked.
    #[error("the database can not be reached: {0}")]
    Unavailable(String),
}

/// What the demo needs of the server around it.
pub struct Demo {
    database: Arc<dyn DemoDatabase>,
    verifier: Arc<Verifier>,
    secret: Secret,
}

impl Demo {
    /// `secret` signs the tokens of the demo people with HS256; `verifier` is the server's own and must accept them.
    pub fn new(database: Arc<dyn DemoDatabase>, verifier: Arc<Verifier>, secret: Secret) -> Arc<Self> {
        Arc::new(Self { database, verifier, secret })
    }
}

/// The routes of the demo: `/`, `/page/…` and `/demo/…`. To be merged into the server's router.
pub fn router(demo: Arc<Demo>) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/page/{*path}", get(page::asset))
        .nest("/demo", endpoints::routes())
        .with_state(demo)
}
