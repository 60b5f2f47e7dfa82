//! The tenants API (docs/protocol.md §11.2), for the projects of the configuration.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;
use walcast_auth::OperatorKeys;

use super::operator::{Closed, Onlooker, Operator};
use super::project::{ProjectDescription, ProjectDirectory, ProjectError};
use crate::health::ReplicationHealth;

/// What the routes work with.
pub(super) struct Tenants {
    pub(super) operators: Arc<OperatorKeys>,
    projects: Arc<dyn ProjectDirectory>,
}

/// The routes of `/api/tenants`.
pub fn router(projects: Arc<dyn ProjectDirectory>, operators: Arc<OperatorKeys>) -> Router {
    let (router, _) = routes().split_for_parts();
    router.with_state(Arc::new(Tenants { operators, projects }))
}

pub(super) fn routes() -> OpenApiRouter<Arc<Tenants>> {
    OpenApiRouter::default()
        .routes(read_only(routes!(list_projects)))
        .routes(read_only(routes!(get_project)))
        .routes(routes!(project_health))
        .routes(routes!(reload_project))
        .routes(routes!(shut_down_project))
}

/// Other methods, which upstream has, are answered with what to do instead.
fn read_only(routes: UtoipaMethodRouter<Arc<Tenants>>) -> UtoipaMethodRouter<Arc<Tenants>> {
    routes.map(|routes| routes.fallback(from_configuration))
}

async fn from_configuration(_operator: Operator) -> Response {
    let message = "projects come from the server's configuration: change it there and restart the server";
    (StatusCode::METHOD_NOT_ALLOWED, Json(json!({ "message": message }))).into_response()
}

/// A project in upstream's words.
#[derive(Serialize, ToSchema)]
pub(super) struct Tenant {
    id: String,
    external_id: String,
    name: String,
    max_concurrent_users: usize,
    max_channels_per_client: usize,
    max_events_per_second: Option<u32>,
    max_joins_per_second: u32,
    max_presence_events_per_second: Option<u32>,
    /// Thousands of bytes.
    max_payload_size_in_kb: usize,
    max_client_presence_events_per_window: u32,
    client_presence_window_ms: u64,
    presence_enabled: bool,
    private_only: bool,
    suspend: bool,
    /// Not known: projects come from the configuration.
    inserted_at: Option<String>,
    extensions: Vec<Extension>,
}

/// How a project's database is followed.
#[derive(Serialize, ToSchema)]
pub(super) struct Extension {
    r#type: &'static str,
    settings: ExtensionSettings,
    inserted_at: Option<String>,
    updated_at: Option<String>,
}

/// Without the password.
#[derive(Serialize, ToSchema)]
pub(super) struct ExtensionSettings {
    region: Option<String>,
    db_host: String,
    db_port: String,
    db_name: String,
    db_user: String,
    ssl_enforced: bool,
    db_pool: usize,
    publication: String,
    slot_name: String,
    poll_max_record_bytes: usize,
}

/// How a project stands.
#[derive(Serialize, ToSchema)]
pub(super) struct TenantHealth {
    /// As `/readyz`: changes flow, and the catalog was checked.
    healthy: bool,
    /// The catalog could be read in the last half minute.
    db_connected: bool,
    /// Changes flow.
    replication_connected: bool,
    /// Sockets open now.
    connected_cluster: u64,
    region: Option<String>,
    node: &'static str,
}

/// What upstream puts around its answers.
#[derive(Serialize, ToSchema)]
struct Data<T> {
    data: T,
}

/// All projects of which the caller is an operator.
#[utoipa::path(get, path = "/api/tenants", tag = "Projects", security(("operator" = [])), responses(
    (status = 200, body = Data<Vec<Tenant>>), (status = 403, description = "No token of an operator")))]
async fn list_projects(operator: Operator, State(tenants): State<Arc<Tenants>>) -> Json<Data<Vec<Tenant>>> {
    let own = tenants.projects.list().into_iter().filter(|project| operator.operates(&project.id));
    Json(Data { data: own.map(Tenant::from).collect() })
}

/// One project.
#[utoipa::path(get, path = "/api/tenants/{id}", tag = "Projects", security(("operator" = [])), responses(
    (status = 200, body = Data<Tenant>), (status = 403, description = "No token of an operator"),
    (status = 404, description = "There is none with this id")))]
async fn get_project(
    operator: Operator,
    State(tenants): State<Arc<Tenants>>,
    Path(id): Path<String>,
) -> Result<Json<Data<Tenant>>, TenantRefusal> {
    operator.of(&id)?;
    let project = tenants.projects.get(&id).ok_or(ProjectError::NotFound)?;
    Ok(Json(Data { data: Tenant::from(project) }))
}

/// Whether a project is well. The status is 200 also when it is not.
///
/// A user's token is enough where users and operators share a secret, as in the stock stack's health check.
#[utoipa::path(get, path = "/api/tenants/{id}/health", tag = "Projects", security(("operator" = [])), responses(
    (status = 200, body = Data<TenantHealth>), (status = 403, description = "No token that is good"),
    (status = 404, description = "There is none with this id")))]
async fn project_health(
    _onlooker: Onlooker,
    State(tenants): State<Arc<Tenants>>,
    Path(id): Path<String>,
) -> Result<Json<Data<TenantHealth>>, ProjectError> {
    let ProjectDescription { health, connections, region, .. } =
        tenants.projects.get(&id).ok_or(ProjectError::NotFound)?;
    let data = TenantHealth {
        healthy: health.problems().is_empty(),
        db_connected: health.catalog_age.is_some_and(|age| age <= health.catalog_age_max),
        replication_connected: health.replication == ReplicationHealth::Streaming,
        connected_cluster: connections,
        region,
        node: "walcast",
    };
    Ok(Json(Data { data }))
}

/// Reads a project's keys again and closes its sockets with 1012, so that everybody comes back under the new keys.
#[utoipa::path(post, path = "/api/tenants/{id}/reload", tag = "Projects", security(("operator" = [])), responses(
    (status = 204, description = "Done"), (status = 403, description = "No token of an operator"),
    (status = 404, description = "There is none with this id"),
    (status = 500, description = "The keys can not be read; nothing was changed")))]
async fn reload_project(
    operator: Operator,
    State(tenants): State<Arc<Tenants>>,
    Path(id): Path<String>,
) -> Result<StatusCode, TenantRefusal> {
    operator.of(&id)?;
    tenants.projects.reload(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Closes a project's sockets with 1012; clients come back.
#[utoipa::path(post, path = "/api/tenants/{id}/shutdown", tag = "Projects", security(("operator" = [])), responses(
    (status = 204, description = "Done"), (status = 403, description = "No token of an operator"),
    (status = 404, description = "There is none with this id")))]
async fn shut_down_project(
    operator: Operator,
    State(tenants): State<Arc<Tenants>>,
    Path(id): Path<String>,
) -> Result<StatusCode, TenantRefusal> {
    operator.of(&id)?;
    tenants.projects.shutdown(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Why an operator was refused.
pub(super) enum TenantRefusal {
    Closed(Closed),
    Project(ProjectError),
}

impl From<Closed> for TenantRefusal {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

impl From<ProjectError> for TenantRefusal {
    fn from(error: ProjectError) -> Self {
        Self::Project(error)
    }
}

impl IntoResponse for TenantRefusal {
    fn into_response(self) -> Response {
        match self {
            Self::Closed(closed) => closed.into_response(),
            Self::Project(error) => error.into_response(),
        }
    }
}

impl IntoResponse for ProjectError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Keys(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message: Value = json!({ "message": self.to_string() });
        (status, Json(message)).into_response()
    }
}

impl From<ProjectDescription> for Tenant {
    fn from(project: ProjectDescription) -> Self {
        let ProjectDescription {
            id,
            database,
            limits,
            presence_enabled,
            private_only,
            suspended,
            region,
            ..
        } = project;
        Tenant {
            id: id.clone(),
            external_id: id.clone(),
            name: id,
            max_concurrent_users: limits.max_concurrent_users,
            max_channels_per_client: limits.max_channels_per_client,
            max_events_per_second: limits.max_events_per_second,
            max_joins_per_second: limits.max_joins_per_second,
            max_presence_events_per_second: limits.max_presence_events_per_second,
            max_payload_size_in_kb: limits.payload_bytes_max / 1_000,
            max_client_presence_events_per_window: limits.presence_calls_max,
            client_presence_window_ms: limits.presence_window_ms,
            presence_enabled,
            private_only,
            suspend: suspended,
            inserted_at: None,
            extensions: vec![Extension {
                r#type: "postgres_cdc_rls",
                settings: ExtensionSettings {
                    region,
                    db_host: database.host,
                    db_port: database.port.to_string(),
                    db_name: database.name,
                    db_user: database.user,
                    ssl_enforced: database.tls_required,
                    db_pool: database.pool_size,
                    publication: database.publications.join(","),
                    slot_name: database.slot,
                    poll_max_record_bytes: limits.record_bytes_max,
                },
                inserted_at: None,
                updated_at: None,
            }],
        }
    }
}
