//! `/metrics`: what the engine counts, in the text form of `OpenMetrics`.
//!
//! Counters live in the structs that increment them; here they are only read, when somebody asks. Where several
//! projects are listed, each number has the label `project`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use walcast_auth::Verifier;
use walcast_engine::{Counters, Engine};

use crate::clock::unix_seconds;
use crate::front::ProjectId;
use crate::health::{HealthReport, HealthSource, ReplicationHealth};

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
    /// What its engine counts.
    pub counters: Arc<dyn CountersSource>,
    /// How its database's side stands.
    pub health: Arc<dyn HealthSource>,
}

/// Everything that `/metrics` shows.
pub struct Metrics {
    registry: Registry,
    /// Whoever asks must show a token of this verifier.
    verifier: Option<Verifier>,
}

impl Metrics {
    /// Metrics of these projects. With a verifier, a bearer token is asked for (docs/protocol.md §11.1).
    pub fn new(projects: Vec<MeasuredProject>, verifier: Option<Verifier>) -> Arc<Self> {
        let mut registry = Registry::with_prefix("walcast");
        registry.register_collector(Box::new(ProjectCollector(projects)));
        Arc::new(Self { registry, verifier })
    }

    /// The text of all metrics now.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// `GET /metrics`.
pub fn router(metrics: Arc<Metrics>) -> Router {
    Router::new().route("/metrics", get(show)).with_state(metrics)
}

async fn show(State(metrics): State<Arc<Metrics>>, headers: HeaderMap) -> Response {
    if let Some(verifier) = &metrics.verifier
        && !is_allowed(verifier, &headers).await
    {
        return StatusCode::FORBIDDEN.into_response();
    }
    match metrics.encode() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn is_allowed(verifier: &Verifier, headers: &HeaderMap) -> bool {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match token {
        Some((_, token)) => verifier.verify_operator(token, unix_seconds()).await.is_ok(),
        None => false,
    }
}

/// One number of the engine.
struct Reading {
    name: &'static str,
    help: &'static str,
    /// It may go down.
    gauge: bool,
    read: fn(&Counters) -> u64,
}

const READINGS: &[Reading] = &[
    Reading {
        name: "ws_connections_active",
        help: "Sockets open now",
        gauge: true,
        read: |counters| counters.sessions.load(Ordering::Relaxed),
    },
    Reading {
        name: "ws_messages_sent",
        help: "Broadcasts and changes handed to sockets",
        gauge: false,
        read: |counters| counters.deliveries.load(Ordering::Relaxed),
    },
    Reading {
        name: "ws_errors",
        help: "Refused handshakes and joins, and frames that were no messages",
        gauge: false,
        read: |counters| counters.errors.load(Ordering::Relaxed),
    },
    Reading {
        name: "ws_slow_closes",
        help: "Sockets closed because they could not keep up",
        gauge: false,
        read: |counters| counters.slow_closes.load(Ordering::Relaxed),
    },
    Reading {
        name: "channel_joins",
        help: "Joins that succeeded",
        gauge: false,
        read: |counters| counters.joins.load(Ordering::Relaxed),
    },
    Reading {
        name: "broadcasts_received",
        help: "Broadcasts that clients sent",
        gauge: false,
        read: |counters| counters.broadcasts.load(Ordering::Relaxed),
    },
    Reading {
        name: "subscriptions_active",
        help: "Subscriptions to row changes registered now",
        gauge: true,
        read: |counters| counters.subscriptions.load(Ordering::Relaxed),
    },
    Reading {
        name: "changes_decoded",
        help: "Row changes read from the log",
        gauge: false,
        read: |counters| counters.changes.load(Ordering::Relaxed),
    },
    Reading {
        name: "changes_withheld",
        help: "Row changes not delivered because a policy or filter failed",
        gauge: false,
        read: |counters| counters.failures.load(Ordering::Relaxed),
    },
    Reading {
        name: "plan_decisions",
        help: "Row changes decided in process, once for each audience they were put to",
        gauge: false,
        read: |counters| counters.plan_decisions.load(Ordering::Relaxed),
    },
    Reading {
        name: "oracle_decisions",
        help: "Questions about row-level security put to Postgres",
        gauge: false,
        read: |counters| counters.oracle_questions.load(Ordering::Relaxed),
    },
];

struct ProjectCollector(Vec<MeasuredProject>);

impl fmt::Debug for ProjectCollector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ProjectCollector")
    }
}

/// Numbers of one name, each with its project.
type Values = Vec<(Option<ProjectId>, u64)>;

impl Collector for ProjectCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        for Reading { name, help, gauge, read } in READINGS {
            let values = self.counted(*read);
            if *gauge {
                encode_gauge(encoder, name, help, None, values)?;
            } else {
                encode_counter(encoder, name, help, values)?;
            }
        }
        let help = "Memory of the copies of tables that policies look things up in";
        let bytes = self.counted(|counters| counters.copy_bytes.load(Ordering::Relaxed));
        encode_gauge(encoder, "copy", help, Some(&Unit::Bytes), bytes)?;

        let reports: Vec<_> =
            self.0.iter().map(|project| (project.label.clone(), project.health.report())).collect();
        let told = |value: fn(&HealthReport) -> Option<u64>| {
            let values = reports.iter().filter_map(|(label, report)| Some((label.clone(), value(report)?)));
            values.collect::<Values>()
        };
        let streaming = told(|report| Some(u64::from(report.replication == ReplicationHealth::Streaming)));
        let help = "1 while changes flow from Postgres, else 0";
        encode_gauge(encoder, "replication_streaming", help, None, streaming)?;
        let help = "Log that Postgres has sent and that is not confirmed yet";
        encode_gauge(encoder, "slot_lag", help, Some(&Unit::Bytes), told(|report| report.lag_bytes))?;
        let help = "Time since the catalog was last known to be right";
        let age = told(|report| report.catalog_age.map(|age| age.as_secs()));
        encode_gauge(encoder, "catalog_age", help, Some(&Unit::Seconds), age)
    }
}

impl ProjectCollector {
    fn counted(&self, read: fn(&Counters) -> u64) -> Values {
        let mut values = Vec::with_capacity(self.0.len());
        for project in &self.0 {
            project.counters.read(&mut |counters| values.push((project.label.clone(), read(counters))));
        }
        values
    }
}

fn encode_counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: Values,
) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    encode_values(encoder.encode_descriptor(name, help, None, kind)?, values, ConstCounter::new)
}

fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: Values,
) -> fmt::Result {
    if values.is_empty() {
        return Ok(());
    }
    let kind = ConstGauge::new(0_i64).metric_type();
    let gauge = |value| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    encode_values(encoder.encode_descriptor(name, help, unit, kind)?, values, gauge)
}

/// Without a label there is one value.
fn encode_values<M: EncodeMetric>(
    mut place: MetricEncoder<'_>,
    values: Values,
    metric: impl Fn(u64) -> M,
) -> fmt::Result {
    for (label, value) in values {
        let Some(label) = label else { return metric(value).encode(place) };
        metric(value).encode(place.encode_family(&[("project", label.as_str())])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use serde_json::json;
    use tower::ServiceExt;
    use walcast_auth::VerifierSettings;

    use super::*;
    use crate::health::HealthReport;

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
                catalog_age: None,
                catalog_age_max: Duration::from_mins(1),
                stopping: false,
            }
        }
    }

    fn metrics(secret: Option<&str>) -> Arc<Metrics> {
        let verifier = secret.map(|secret| {
            let settings = VerifierSettings { secret: Some(secret.into()), ..VerifierSettings::default() };
            Verifier::new(settings).unwrap()
        });
        Metrics::new(vec![project(None)], verifier)
    }

    fn project(label: Option<&str>) -> MeasuredProject {
        let counters = Counters::default();
        counters.sessions.store(2, Ordering::Relaxed);
        counters.changes.store(7, Ordering::Relaxed);
        counters.copy_bytes.store(4711, Ordering::Relaxed);
        MeasuredProject {
            label: label.map(|label| label.parse().unwrap()),
            counters: Arc::new(Fixed(counters)),
            health: Arc::new(Broken),
        }
    }

    async fn ask(secret: Option<&str>, authorization: Option<String>) -> (StatusCode, String) {
        let mut request = Request::builder().uri("/metrics");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let response = router(metrics(secret)).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 100_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn counters_and_gauges_stand_on_the_page_with_their_units() {
        let (status, page) = ask(None, None).await;
        assert_eq!(status, StatusCode::OK);
        for line in [
            "walcast_ws_connections_active 2",
            "walcast_changes_decoded_total 7",
            "walcast_plan_decisions_total 0",
            "walcast_oracle_decisions_total 0",
            "walcast_copy_bytes 4711",
            "walcast_slot_lag_bytes 4096",
            "walcast_replication_streaming 0",
            "# TYPE walcast_ws_messages_sent counter",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(!page.contains("catalog_age"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    #[test]
    fn several_projects_are_told_apart_by_a_label_under_one_name() {
        let page = Metrics::new(vec![project(Some("blue")), project(Some("green"))], None).encode().unwrap();
        for line in [
            "walcast_changes_decoded_total{project=\"blue\"} 7",
            "walcast_changes_decoded_total{project=\"green\"} 7",
            "walcast_ws_connections_active{project=\"green\"} 2",
            "walcast_slot_lag_bytes{project=\"blue\"} 4096",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert_eq!(page.matches("# TYPE walcast_changes_decoded counter").count(), 1, "{page}");
    }

    #[tokio::test]
    async fn with_a_secret_only_its_tokens_open_the_page() {
        let token = walcast_auth::sign(&json!({}), SECRET).unwrap();
        let foreign = walcast_auth::sign(&json!({}), "another secret of sufficient length").unwrap();
        assert_eq!(ask(Some(SECRET), Some(format!("Bearer {token}"))).await.0, StatusCode::OK);
        for refused in [None, Some(format!("Bearer {foreign}")), Some(format!("Basic {token}")), Some(token)]
        {
            let answer = ask(Some(SECRET), refused.clone()).await;
            assert_eq!(answer, (StatusCode::FORBIDDEN, String::new()), "{refused:?}");
        }
    }
}
