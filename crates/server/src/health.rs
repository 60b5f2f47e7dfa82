//! Whether the process lives, and whether it does its work.
//!
//! `/healthz` answers while the process can answer at all; `/readyz` tells the truth about the replication stream and
//! the catalog. Sockets stay up while a server is not ready: restarting it would not mend the database. Of several
//! projects one that is ready suffices: the others' databases must not take it out of service.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::front::ProjectId;
use crate::redact::redact_text;

/// Where the answers come from. Asked at every request, so it must be cheap and must not wait.
pub trait HealthSource: Send + Sync + 'static {
    /// How things stand now.
    fn report(&self) -> HealthReport;
}

/// How things stand.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthReport {
    /// The replication stream.
    pub replication: ReplicationHealth,
    /// Bytes of log that Postgres has sent and we have not handled; `None` before the first byte.
    pub lag_bytes: Option<u64>,
    /// For how long the oldest of these have been here, to the second; `None` before the first byte.
    pub lag: Option<Duration>,
    /// Bytes of log from before the start that have not been handled yet.
    pub catching_up_bytes: u64,
    /// Bytes of log that Postgres keeps for the slot; `None` before it was asked.
    pub retained_bytes: Option<u64>,
    /// Those of them that are handled and kept for a server that starts again; `None` before the start.
    pub trail_bytes: Option<u64>,
    /// For how long a message that was sent through the log has not come back, where that is too long.
    pub canary_overdue: Option<Duration>,
    /// Time since the catalog was last known to be right; `None` before it was read.
    pub catalog_age: Option<Duration>,
    /// A catalog older than this can not be relied on.
    pub catalog_age_max: Duration,
    /// The server is on its way out and takes no new clients.
    pub stopping: bool,
}

/// The state of the replication stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicationHealth {
    /// No connection yet.
    Connecting,
    /// Changes flow.
    Streaming,
    /// The connection broke and is being tried again.
    Broken {
        /// Why.
        error: String,
    },
    /// Nothing is read, on purpose: the slot holds back more log than it may.
    Paused {
        /// Why.
        reason: String,
    },
    /// Ended for good.
    Stopped,
}

impl ReplicationHealth {
    fn word(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Streaming => "streaming",
            Self::Broken { .. } => "broken",
            Self::Paused { .. } => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl HealthReport {
    /// Why the server is not ready, one sentence each; none when it is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.stopping {
            problems.push("the server is stopping".to_owned());
        }
        match &self.replication {
            ReplicationHealth::Streaming => {}
            ReplicationHealth::Connecting => problems.push("replication is still connecting".to_owned()),
            ReplicationHealth::Paused { reason } => {
                problems.push(format!("the replication slot is not read any more: {reason}"));
            }
            ReplicationHealth::Stopped => problems.push("replication has stopped".to_owned()),
            ReplicationHealth::Broken { error } => {
                problems.push(format!("replication is broken: {}", redact_text(error)));
            }
        }
        if self.catching_up_bytes > 0 && self.replication == ReplicationHealth::Streaming {
            problems.push(format!(
                "catching up: {} bytes of log from before the start are to be read first",
                self.catching_up_bytes
            ));
        }
        match self.catalog_age {
            None => problems.push("the catalog has not been read".to_owned()),
            Some(age) if age > self.catalog_age_max => {
                problems.push(format!("the catalog was last checked {} seconds ago", age.as_secs()));
            }
            Some(_) => {}
        }
        problems
    }

    /// What is worth a look though it keeps nobody out.
    pub fn warnings(&self) -> Vec<String> {
        let overdue = self.canary_overdue.map(|waited| {
            format!(
                "a message that was written into the log {} seconds ago has not come back",
                waited.as_secs()
            )
        });
        overdue.into_iter().collect()
    }

    fn json(&self, problems: &[String]) -> Value {
        let mut replication = json!({
            "status": self.replication.word(),
            "lag_bytes": self.lag_bytes,
            "catching_up_bytes": self.catching_up_bytes,
            "retained_bytes": self.retained_bytes,
            "trail_bytes": self.trail_bytes,
        });
        if let ReplicationHealth::Broken { error } = &self.replication {
            replication["error"] = json!(redact_text(error));
        }
        json!({
            "ready": problems.is_empty(),
            "replication": replication,
            "catalog": {"age_seconds": self.catalog_age.map(|age| age.as_secs())},
            "problems": problems,
            "warnings": self.warnings(),
        })
    }
}

/// `GET /healthz` and `/readyz`, and `/healthcheck` as the reference server has it (docs/protocol.md §11.1).
pub fn router(source: Arc<dyn HealthSource>) -> Router {
    routes().split_for_parts().0.with_state(source)
}

pub(crate) fn routes() -> OpenApiRouter<Arc<dyn HealthSource>> {
    OpenApiRouter::default().routes(routes!(healthz)).routes(routes!(healthcheck)).routes(routes!(ready))
}

/// The same for several projects: each is listed in `/readyz`, by name.
pub fn projects_router(sources: Vec<(ProjectId, Arc<dyn HealthSource>)>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/healthcheck", get(healthcheck))
        .route("/readyz", get(any_ready))
        .with_state(sources.into())
}

/// Whether a request is one of the above, for a log that leaves them out.
pub fn is_health_path(path: &str) -> bool {
    matches!(path, "/healthz" | "/healthcheck" | "/readyz")
}

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "Server", responses((status = 200, body = str, example = "ok")))]
async fn healthz() -> &'static str {
    "ok"
}

/// The same, at upstream's address.
#[utoipa::path(get, path = "/healthcheck", tag = "Server", responses((status = 200, body = str, example = "ok")))]
async fn healthcheck() -> &'static str {
    "ok"
}

/// Whether the server does its work: changes flow, and the catalog was checked.
#[utoipa::path(get, path = "/readyz", tag = "Server", responses(
    (status = 200, body = Value), (status = 503, body = Value, description = "`problems` says why not")))]
async fn ready(State(source): State<Arc<dyn HealthSource>>) -> Response {
    let report = source.report();
    let problems = report.problems();
    (status(problems.is_empty()), Json(report.json(&problems))).into_response()
}

type Sources = Arc<[(ProjectId, Arc<dyn HealthSource>)]>;

async fn any_ready(State(sources): State<Sources>) -> Response {
    let mut projects = serde_json::Map::new();
    let mut any = false;
    for (id, source) in sources.iter() {
        let report = source.report();
        let problems = report.problems();
        any |= problems.is_empty();
        projects.insert(id.to_string(), report.json(&problems));
    }
    (status(any), Json(json!({"ready": any, "projects": projects}))).into_response()
}

fn status(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{Method, Request};
    use tower::ServiceExt;

    use super::*;

    struct Fixed(HealthReport);

    impl HealthSource for Fixed {
        fn report(&self) -> HealthReport {
            self.0.clone()
        }
    }

    fn well() -> HealthReport {
        HealthReport {
            replication: ReplicationHealth::Streaming,
            lag_bytes: Some(120),
            lag: Some(Duration::ZERO),
            catching_up_bytes: 0,
            retained_bytes: Some(4_096),
            trail_bytes: Some(2_048),
            canary_overdue: None,
            catalog_age: Some(Duration::from_secs(3)),
            catalog_age_max: Duration::from_mins(1),
            stopping: false,
        }
    }

    async fn ask(method: Method, path: &str, report: HealthReport) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router(Arc::new(Fixed(report))).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn readiness(report: HealthReport) -> (StatusCode, Value) {
        let (status, body) = ask(Method::GET, "/readyz", report).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    #[tokio::test]
    async fn a_streaming_server_with_a_fresh_catalog_is_ready() {
        let (status, body) = readiness(well()).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            body,
            json!({"ready": true, "catalog": {"age_seconds": 3}, "problems": [], "warnings": [],
                   "replication": {"status": "streaming", "lag_bytes": 120, "catching_up_bytes": 0,
                                   "retained_bytes": 4096, "trail_bytes": 2048}})
        );
    }

    #[tokio::test]
    async fn a_broken_stream_is_told_with_its_reason_and_without_passwords() {
        let error = "cannot reach postgres://ana:hidden@db/app".to_owned();
        let (status, body) =
            readiness(HealthReport { replication: ReplicationHealth::Broken { error }, ..well() }).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["replication"]["status"], "broken");
        let text = body.to_string();
        assert!(text.contains("cannot reach") && !text.contains("hidden"), "{text}");
    }

    #[tokio::test]
    async fn a_message_that_does_not_come_back_is_a_warning_and_no_problem() {
        let overdue = Some(Duration::from_secs(31));
        let (status, body) = readiness(HealthReport { canary_overdue: overdue, ..well() }).await;
        assert_eq!((status, &body["ready"]), (StatusCode::OK, &json!(true)));
        let warning = "a message that was written into the log 31 seconds ago has not come back";
        assert_eq!(body["warnings"], json!([warning]));
    }

    #[tokio::test]
    async fn everything_that_keeps_clients_waiting_is_not_ready() {
        for report in [
            HealthReport { replication: ReplicationHealth::Connecting, ..well() },
            HealthReport { replication: ReplicationHealth::Stopped, ..well() },
            HealthReport { replication: ReplicationHealth::Paused { reason: "full".to_owned() }, ..well() },
            HealthReport { catching_up_bytes: 7, ..well() },
            HealthReport { catalog_age: None, ..well() },
            HealthReport { catalog_age: Some(Duration::from_secs(61)), ..well() },
            HealthReport { stopping: true, ..well() },
        ] {
            let (status, body) = readiness(report.clone()).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{report:?}");
            assert_eq!(body["problems"].as_array().unwrap().len(), 1, "{body}");
        }
    }

    #[tokio::test]
    async fn of_several_projects_each_is_listed_and_one_that_is_ready_suffices() {
        let lost = HealthReport { replication: ReplicationHealth::Stopped, ..well() };
        let ask = async |blue: HealthReport, green: HealthReport| {
            let source =
                |id: &str, report| (id.parse().unwrap(), Arc::new(Fixed(report)) as Arc<dyn HealthSource>);
            let router = projects_router(vec![source("blue", blue), source("green", green)]);
            let request = Request::builder().uri("/readyz").body(Body::empty()).unwrap();
            let response = router.oneshot(request).await.unwrap();
            let status = response.status();
            let body = to_bytes(response.into_body(), 10_000).await.unwrap();
            (status, serde_json::from_slice::<Value>(&body).unwrap())
        };
        let (status, body) = ask(lost.clone(), well()).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["projects"]["blue"]["problems"], json!(["replication has stopped"]));
        assert_eq!((&body["projects"]["green"]["ready"], &body["ready"]), (&json!(true), &json!(true)));
        let (status, body) = ask(lost.clone(), lost).await;
        assert_eq!((status, &body["ready"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(false)));
    }

    #[tokio::test]
    async fn a_process_that_is_not_ready_still_lives() {
        let report = HealthReport { replication: ReplicationHealth::Stopped, ..well() };
        for path in ["/healthz", "/healthcheck"] {
            assert!(is_health_path(path));
            assert_eq!(ask(Method::GET, path, report.clone()).await, (StatusCode::OK, "ok".to_owned()));
            assert_eq!(ask(Method::HEAD, path, report.clone()).await, (StatusCode::OK, String::new()));
        }
    }
}
