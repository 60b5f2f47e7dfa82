//! From numbers to the lines of `/metrics`. One name stands once, with the numbers of all projects below it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tokio::runtime::Handle;
use walcast_engine::{Counters, LatencyHistogram};

use super::MeasuredProject;
use super::readings::{KNOWN_NAMES, Kind, READINGS};
use crate::health::{HealthReport, ReplicationHealth};

/// What the engines count, and how the databases' side stands.
pub(super) struct OwnNames(pub(super) Arc<[MeasuredProject]>);

/// What the engines count, under the names that upstream has for it.
pub(super) struct KnownNames(pub(super) Arc<[MeasuredProject]>);

/// The label of a project, where there is one: its name and its value.
type Label<'a> = Option<(&'static str, &'a str)>;

/// Numbers of one name, each with its project.
type Values<'a, T> = Vec<(Label<'a>, T)>;

impl Collector for OwnNames {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        for reading in READINGS {
            let values = counted(&self.0, own_label, |counters| reading.value(counters));
            let (kind, unit) = match reading.kind {
                Kind::Counter => (MetricType::Counter, None),
                Kind::Gauge => (MetricType::Gauge, None),
                Kind::Bytes => (MetricType::Gauge, Some(&Unit::Bytes)),
            };
            let place = encoder.encode_descriptor(reading.name, reading.help, unit, kind)?;
            match reading.kind {
                Kind::Counter => encode_values(place, values, ConstCounter::new)?,
                Kind::Gauge | Kind::Bytes => encode_values(place, values, const_gauge)?,
            }
        }
        encode_latency(encoder, &self.0)?;
        encode_canary(encoder, &self.0)?;
        encode_tasks(encoder)?;
        encode_health(encoder, &self.0)
    }
}

/// Those of the whole process, of whichever project they are.
fn encode_tasks(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let runtime = Handle::try_current().ok();
    let tasks = runtime.map(|runtime| (None, runtime.metrics().num_alive_tasks() as u64));
    let help = "Tasks that have not ended: some for each socket, and a fixed number besides";
    encode_gauge(encoder, "tasks", help, None, tasks.into_iter().collect(), const_gauge)
}

impl Collector for KnownNames {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for reading in KNOWN_NAMES {
            let values =
                counted(&self.0, |project| Some(tenant_label(project)), |counters| reading.value(counters));
            let place = encoder.encode_descriptor(reading.name, reading.help, None, MetricType::Unknown)?;
            encode_values(place, values, const_gauge)?;
        }
        Ok(())
    }
}

fn own_label(project: &MeasuredProject) -> Label<'_> {
    project.label.as_ref().map(|label| ("project", label.as_str()))
}

fn tenant_label(project: &MeasuredProject) -> (&'static str, &str) {
    ("tenant", project.id.as_str())
}

/// What the engines that are up have counted.
fn counted<'a, T>(
    projects: &'a [MeasuredProject],
    label: impl Fn(&'a MeasuredProject) -> Label<'a>,
    read: impl Fn(&Counters) -> T,
) -> Values<'a, T> {
    let mut values = Vec::with_capacity(projects.len());
    for project in projects {
        project.counters.read(&mut |counters| values.push((label(project), read(counters))));
    }
    values
}

fn encode_health(encoder: &mut DescriptorEncoder<'_>, projects: &[MeasuredProject]) -> fmt::Result {
    let reports: Vec<_> =
        projects.iter().map(|project| (own_label(project), project.health.report())).collect();
    let streaming =
        |report: &HealthReport| Some(u64::from(report.replication == ReplicationHealth::Streaming));
    let help = "1 while changes flow from Postgres, else 0";
    encode_gauge(encoder, "replication_streaming", help, None, told(&reports, streaming), const_gauge)?;
    let paused = |report: &HealthReport| {
        Some(u64::from(matches!(report.replication, ReplicationHealth::Paused { .. })))
    };
    let help = "1 while nothing is read because the slot holds back more log than it may, else 0";
    encode_gauge(encoder, "replication_paused", help, None, told(&reports, paused), const_gauge)?;
    let help = "Log that Postgres keeps for the slot";
    let retained = told(&reports, |report| report.retained_bytes);
    encode_gauge(encoder, "slot_retained", help, Some(&Unit::Bytes), retained, const_gauge)?;
    let help = "Handled log that the slot keeps for a server that starts again";
    let trail = told(&reports, |report| report.trail_bytes);
    encode_gauge(encoder, "slot_trail", help, Some(&Unit::Bytes), trail, const_gauge)?;
    let help = "Log from before the start that is to be read first";
    let behind = told(&reports, |report| Some(report.catching_up_bytes));
    encode_gauge(encoder, "catching_up", help, Some(&Unit::Bytes), behind, const_gauge)?;
    let help = "Log that Postgres has sent and that is not handled yet";
    let lag = told(&reports, |report| report.lag_bytes);
    encode_gauge(encoder, "slot_lag", help, Some(&Unit::Bytes), lag, const_gauge)?;
    let help = "For how long the oldest log that is not handled yet has been here";
    let lag = told(&reports, |report| report.lag.as_ref().map(Duration::as_secs_f64));
    encode_gauge(encoder, "slot_lag", help, Some(&Unit::Seconds), lag, ConstGauge::new)?;
    let help = "Time since the catalog was last known to be right";
    let age = told(&reports, |report| report.catalog_age.map(|age| age.as_secs()));
    encode_gauge(encoder, "catalog_age", help, Some(&Unit::Seconds), age, const_gauge)
}

/// A number of every report that has it.
fn told<'a, T>(
    reports: &[(Label<'a>, HealthReport)],
    value: impl Fn(&HealthReport) -> Option<T>,
) -> Values<'a, T> {
    reports.iter().filter_map(|(label, report)| Some((*label, value(report)?))).collect()
}

fn encode_gauge<T, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: Values<'_, T>,
    metric: impl Fn(T) -> M,
) -> fmt::Result {
    if values.is_empty() {
        return Ok(());
    }
    encode_values(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?, values, metric)
}

fn const_gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Without a label there is one value.
fn encode_values<T, M: EncodeMetric>(
    mut place: MetricEncoder<'_>,
    values: Values<'_, T>,
    metric: impl Fn(T) -> M,
) -> fmt::Result {
    for (label, value) in values {
        let Some(label) = label else { return metric(value).encode(place) };
        metric(value).encode(place.encode_family(&[label])?)?;
    }
    Ok(())
}

fn encode_latency(encoder: &mut DescriptorEncoder<'_>, projects: &[MeasuredProject]) -> fmt::Result {
    let help = "From a commit in Postgres to the moment when its frames are written to the sockets";
    encode_histogram(encoder, "ws_latency", help, projects, |counters| &counters.commit_to_write)
}

fn encode_canary(encoder: &mut DescriptorEncoder<'_>, projects: &[MeasuredProject]) -> fmt::Result {
    let help = "From the writing of a message into the log to its return";
    encode_histogram(encoder, "canary", help, projects, |counters| counters.canary.latencies())?;
    let last = counted(projects, own_label, |counters| counters.canary.last());
    let last = last.into_iter().filter_map(|(label, last)| Some((label, last?.as_secs_f64()))).collect();
    let help = "The same of the message that came back last";
    encode_gauge(encoder, "canary_last", help, Some(&Unit::Seconds), last, ConstGauge::new)
}

fn encode_histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    projects: &[MeasuredProject],
    latencies: fn(&Counters) -> &LatencyHistogram,
) -> fmt::Result {
    let unit = Some(&Unit::Seconds);
    let mut place = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
    let read = |counters: &Counters| {
        let latency = latencies(counters);
        (latency.sum().as_secs_f64(), latency.counts())
    };
    for (label, (sum, counts)) in counted(projects, own_label, read) {
        let bounds = LatencyHistogram::BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = counts.iter().sum();
        match label {
            Some(label) => {
                let labels = [label];
                let mut place = place.encode_family(&labels)?;
                place.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
            None => place.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?,
        }
    }
    Ok(())
}

impl fmt::Debug for OwnNames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OwnNames")
    }
}

impl fmt::Debug for KnownNames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KnownNames")
    }
}
