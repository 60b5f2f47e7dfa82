//! `/metrics`: what the engine counts, in the text form of `OpenMetrics`.
//!
//! Counters live in the structs that increment them; here they are only read, when somebody asks. Where several
//! projects are listed, each number has the label `project`. In reading order: [`readings`] (the numbers, and their names), [`collectors`] (from numbers to lines).

mod collectors;
mod readings;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use walcast_auth::OperatorKeys;
use walcast_engine::{Counters, Engine};

use self::collectors::{KnownNames, OwnNames};
use crate::clock::unix_seconds;
use crate::front::ProjectId;
use crate::health::HealthSource;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What has an engine's counters.
pub trait CountersSource: Send + Sync + 'static {
    /// Shows the counters, as they are; nothing while there is no engine.
    fn read(&self, show: &mut dyn FnMut(&Counters));
}

impl CountersSource for Engine {
    fn read(&self, show: &mut dyn FnMut(&Counters)) {
        show(self.counters());
    }
}

/// One project on the page.
pub struct MeasuredProject {
    /// Its label; `None` where there is only one project.
    pub label: Option<ProjectId>,
    /// Its name, which stands as `tenant` at the names that come from upstream.
    pub id: ProjectId,
    /// What its engine counts.
    pub counters: Arc<dyn CountersSource>,
    /// How its database's side stands.
    pub health: Arc<dyn HealthSource>,
}

/// Where the server is, and who may read its metrics.
pub struct MetricsSettings {
    /// Where this process runs; `/metrics/{region}` answers for this region only.
    pub region: Option<String>,
    /// Whoever asks must show a token of these (docs/protocol.md §11.1); `None` is for everybody.
    pub readers: Option<OperatorKeys>,
}

/// Everything that `/metrics` shows.
pub struct Metrics {
    registry: Registry,
    region: Option<String>,
    readers: Option<OperatorKeys>,
}

impl Metrics {
    /// Metrics of these projects.
    pub fn new(projects: Vec<MeasuredProject>, settings: MetricsSettings) -> Arc<Self> {
        let MetricsSettings { region, readers } = settings;
        let projects: Arc<[MeasuredProject]> = projects.into();
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix("walcast");
        own.register_collector(Box::new(OwnNames(Arc::clone(&projects))));
        registry.register_collector(Box::new(KnownNames(projects)));
        Arc::new(Self { registry, region, readers })
    }

    /// The text of all metrics now.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// `GET /metrics` and `/metrics/{region}`.
pub fn router(metrics: Arc<Metrics>) -> Router {
    routes().split_for_parts().0.with_state(metrics)
}

pub(crate) fn routes() -> OpenApiRouter<Arc<Metrics>> {
    OpenApiRouter::default().routes(routes!(metrics)).routes(routes!(metrics_of_region))
}

/// The numbers that are listed in docs/operations.md.
#[utoipa::path(get, path = "/metrics", tag = "Server", security((), ("metrics" = [])), responses(
    (status = 200, body = str, content_type = CONTENT_TYPE),
    (status = 403, description = "`auth.metrics_jwt_secret` is set, and there is no token of it")))]
async fn metrics(State(metrics): State<Arc<Metrics>>, headers: HeaderMap) -> Response {
    if !is_allowed(&metrics, &headers).await {
        return StatusCode::FORBIDDEN.into_response();
    }
    match metrics.encode() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The same, asked for by the region that `server.region` names.
#[utoipa::path(get, path = "/metrics/{region}", tag = "Server", security((), ("metrics" = [])), responses(
    (status = 200, body = str, content_type = CONTENT_TYPE), (status = 403, description = "As for `/metrics`"),
    (status = 404, description = "This server is in another region, or in none")))]
async fn metrics_of_region(
    State(metrics): State<Arc<Metrics>>,
    Path(region): Path<String>,
    headers: HeaderMap,
) -> Response {
    if metrics.region.as_deref() != Some(region.as_str()) && is_allowed(&metrics, &headers).await {
        let ours = match &metrics.region {
            Some(ours) => format!("this server is in the region {ours}"),
            None => "this server is in no region: set server.region".to_owned(),
        };
        return (StatusCode::NOT_FOUND, ours).into_response();
    }
    self::metrics(State(metrics), headers).await
}

async fn is_allowed(metrics: &Metrics, headers: &HeaderMap) -> bool {
    let Some(readers) = &metrics.readers else { return true };
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match token {
        Some((_, token)) => readers.verify(token, unix_seconds()).await.is_ok(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use serde_json::json;
    use tower::ServiceExt;
    use walcast_auth::{OperatorSettings, Secret};

    use super::*;
    use crate::health::{HealthReport, ReplicationHealth};

    const SECRET: &str = "9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI";

    struct Fixed(Counters);

    impl CountersSource for Fixed {
        fn read(&self, show: &mut dyn FnMut(&Counters)) {
            show(&self.0);
        }
    }

    struct Broken;

    impl HealthSource for Broken {
        fn report(&self) -> HealthReport {
            HealthReport {
                replication: ReplicationHealth::Broken { error: String::new() },
                lag_bytes: Some(4096),
                catching_up_bytes: 512,
                retained_bytes: Some(4_096),
                trail_bytes: Some(2_048),
                canary_overdue: None,
                lag: Some(Duration::from_millis(2500)),
                catalog_age: None,
                catalog_age_max: Duration::from_mins(1),
                stopping: false,
            }
        }
    }

    fn metrics(secret: Option<&str>, blocked: &[&str]) -> Arc<Metrics> {
        let readers = secret.map(|secret| {
            let blocked = blocked.iter().map(|token| Secret::new(*token)).collect();
            let settings = OperatorSettings { secrets: vec![secret.into()], blocked };
            OperatorKeys::new(&settings, Vec::new()).unwrap()
        });
        Metrics::new(
            vec![project("blue", None)],
            MetricsSettings { region: Some("mars".to_owned()), readers },
        )
    }

    fn project(id: &str, label: Option<&str>) -> MeasuredProject {
        let counters = Counters::default();
        counters.sessions.store(2, Ordering::Relaxed);
        counters.changes.store(7, Ordering::Relaxed);
        counters.copy_bytes.store(4711, Ordering::Relaxed);
        counters.commit_to_write.observe(Duration::from_millis(3));
        MeasuredProject {
            label: label.map(|label| label.parse().unwrap()),
            id: id.parse().unwrap(),
            counters: Arc::new(Fixed(counters)),
            health: Arc::new(Broken),
        }
    }

    async fn ask(path: &str, metrics: Arc<Metrics>, authorization: Option<String>) -> (StatusCode, String) {
        let mut request = Request::builder().uri(path);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let response = router(metrics).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 100_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn counters_gauges_and_histograms_stand_on_the_page_with_their_units() {
        let (status, page) = ask("/metrics", metrics(None, &[]), None).await;
        assert_eq!(status, StatusCode::OK);
        for line in [
            "walcast_ws_connections_active 2",
            "walcast_changes_decoded_total 7",
            "walcast_plan_decisions_total 0",
            "walcast_oracle_decisions_total 0",
            "walcast_copy_bytes 4711",
            "walcast_tasks 0",
            "walcast_slot_lag_bytes 4096",
            "walcast_slot_trail_bytes 2048",
            "walcast_catching_up_bytes 512",
            "walcast_slot_lag_seconds 2.5",
            "walcast_replication_streaming 0",
            "# TYPE walcast_ws_messages_sent counter",
            "# TYPE walcast_ws_latency_seconds histogram",
            "walcast_ws_latency_seconds_sum 0.003",
            "walcast_ws_latency_seconds_bucket{le=\"0.0025\"} 0",
            "walcast_ws_latency_seconds_bucket{le=\"0.005\"} 1",
            "walcast_ws_latency_seconds_bucket{le=\"+Inf\"} 1",
            "realtime_connections_connected{tenant=\"blue\"} 2",
            "realtime_channel_db_events{tenant=\"blue\"} 7",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(!page.contains("catalog_age"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    #[test]
    fn several_projects_are_told_apart_by_a_label_under_one_name() {
        let projects = ["blue", "green"].map(|id| project(id, Some(id))).into();
        let page = Metrics::new(projects, MetricsSettings { region: None, readers: None }).encode().unwrap();
        for line in [
            "walcast_changes_decoded_total{project=\"blue\"} 7",
            "walcast_changes_decoded_total{project=\"green\"} 7",
            "walcast_ws_connections_active{project=\"green\"} 2",
            "walcast_slot_lag_bytes{project=\"blue\"} 4096",
            "walcast_ws_latency_seconds_count{project=\"green\"} 1",
            "realtime_channel_db_events{tenant=\"green\"} 7",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert_eq!(page.matches("# TYPE walcast_changes_decoded counter").count(), 1, "{page}");
    }

    #[tokio::test]
    async fn every_number_is_listed_in_the_docs() {
        let docs = include_str!("../../../docs/operations.md");
        let page = metrics(None, &[]).encode().unwrap();
        for kind in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = kind.split_once(' ').unwrap();
            let line = if kind == "counter" { format!("`{name}_total`") } else { format!("`{name}`") };
            assert!(docs.contains(&line), "{line} is missing in docs/operations.md");
        }
    }

    #[tokio::test]
    async fn with_a_secret_only_its_tokens_open_the_page_and_only_those_that_are_not_blocked() {
        let token = walcast_auth::sign(&json!({}), SECRET).unwrap();
        let lost = walcast_auth::sign(&json!({ "lost": true }), SECRET).unwrap();
        let foreign = walcast_auth::sign(&json!({}), "another secret of sufficient length").unwrap();
        let bearer = |token: &str| Some(format!("Bearer {token}"));
        let ask = |authorization| ask("/metrics", metrics(Some(SECRET), &[&lost]), authorization);
        assert_eq!(ask(bearer(&token)).await.0, StatusCode::OK);
        for refused in
            [None, bearer(&foreign), bearer(&lost), Some(format!("Basic {token}")), Some(token.clone())]
        {
            let answer = ask(refused.clone()).await;
            assert_eq!(answer, (StatusCode::FORBIDDEN, String::new()), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_region_gets_its_own_metrics_and_no_other_ones() {
        assert_eq!(ask("/metrics/mars", metrics(None, &[]), None).await.0, StatusCode::OK);
        let (status, told) = ask("/metrics/venus", metrics(None, &[]), None).await;
        assert_eq!((status, &*told), (StatusCode::NOT_FOUND, "this server is in the region mars"));
        assert_eq!(ask("/metrics/venus", metrics(Some(SECRET), &[]), None).await.0, StatusCode::FORBIDDEN);
    }
}
