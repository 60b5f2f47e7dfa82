//! HTTP beside the sockets (docs/protocol.md §6.2, §6.3, §11): broadcasts without a socket, and what operators may ask.
//!
//! A project's routes are made by [`project_router`], those of the whole process by [`tenants_router`] and
//! [`openapi_router`]. In reading order:
//!
//! * `caller` — the verified claims of a request of a user;
//! * `body` — the body of a request, with its bounds;
//! * `batch` — the body of a batch, checked message by message;
//! * `broadcast` — the two routes that broadcast, and `/api/ping`;
//! * `refusal` — why a broadcast was refused, as HTTP says it;
//! * `cors`, `rate` — headers of the routes that pages call;
//! * `operator` — who may ask for what follows;
//! * `users` — connections and topics;
//! * `project`, `tenants` — projects as the tenants API shows them;
//! * `openapi` — the description of every route, made of the code.

mod batch;
pub(crate) mod body;
mod broadcast;
mod caller;
mod cors;
mod openapi;
mod operator;
mod project;
mod rate;
mod refusal;
mod tenants;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use walcast_auth::{OperatorKeys, Verifier};
use walcast_engine::Engine;
use walcast_policy::channel::ChannelPolicies;

pub use self::batch::{BatchLimits, check_batch};
pub use self::openapi::{document as openapi_document, router as openapi_router};
pub use self::project::{
    DatabaseDescription, ProjectDescription, ProjectDirectory, ProjectError, ProjectLimits,
};
pub use self::tenants::router as tenants_router;

/// What the HTTP routes of one project work with.
pub struct ProjectApi {
    /// What the project is called in addresses.
    pub id: String,
    /// Where broadcasts go, and what is asked about connections.
    pub engine: Engine,
    /// Verifies the tokens of users.
    pub verifier: Arc<Verifier>,
    /// Decides about private messages.
    pub policies: Arc<dyn ChannelPolicies>,
    /// Public messages are refused.
    pub private_only: bool,
    /// Messages of one batch.
    pub batch_messages_max: usize,
    /// Nobody may send.
    pub suspended: bool,
    /// Verifies the tokens of operators.
    pub operators: Arc<OperatorKeys>,
}

/// The routes of one project.
pub fn project_router(project: Arc<ProjectApi>) -> Router {
    let rate = from_fn_with_state(Arc::clone(&project), rate::announce);
    // Clients put their paths behind the base that they are given, which a gateway takes away where there is one.
    let (for_users, _) = broadcast::routes().split_for_parts();
    let for_users = for_users.layer(rate).layer(from_fn(cors::allow));
    let (for_operators, _) = users::routes().split_for_parts();
    let behind_base = Router::new().nest("/realtime/v1", for_users.clone());
    behind_base.merge(for_users).merge(for_operators).with_state(project)
}
