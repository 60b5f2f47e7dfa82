//! From numbers to the lines of `/metrics`.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use walcast_engine::LatencyHistogram;

use super::CountersSource;
use super::readings::{KNOWN_NAMES, Kind, READINGS};
use crate::health::{HealthSource, ReplicationHealth};

/// What the engine counts.
pub(super) struct EngineCollector(pub(super) Arc<dyn CountersSource>);

/// What the engine counts, under the names that upstream has for it.
pub(super) struct KnownNamesCollector(pub(super) Arc<dyn CountersSource>);

/// How the database's side stands.
pub(super) struct HealthCollector(pub(super) Arc<dyn HealthSource>);

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.0.counters();
        for reading in READINGS {
            let (name, help, value) = (reading.name, reading.help, reading.value(counters));
            match reading.kind {
                Kind::Gauge => encode_gauge(&mut encoder, name, help, None, value)?,
                Kind::Bytes => encode_gauge(&mut encoder, name, help, Some(&Unit::Bytes), value)?,
                Kind::Counter => {
                    let counter = ConstCounter::new(value);
                    let place = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
                    counter.encode(place)?;
                }
            }
        }
        let help = "From a commit in Postgres to the moment when its frames are in the queues of the sockets";
        encode_histogram(&mut encoder, "ws_latency", help, &counters.commit_to_queue)
    }
}

impl Collector for KnownNamesCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.0.counters();
        for reading in KNOWN_NAMES {
            let gauge = const_gauge(reading.value(counters));
            let place = encoder.encode_descriptor(reading.name, reading.help, None, MetricType::Unknown)?;
            gauge.encode(place)?;
        }
        Ok(())
    }
}

impl Collector for HealthCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let report = self.0.report();
        let streaming = u64::from(report.replication == ReplicationHealth::Streaming);
        let help = "1 while changes flow from Postgres, else 0";
        encode_gauge(&mut encoder, "replication_streaming", help, None, streaming)?;
        if let Some(lag) = report.lag_bytes {
            let help = "Log that Postgres has sent and that is not confirmed yet";
            encode_gauge(&mut encoder, "slot_lag", help, Some(&Unit::Bytes), lag)?;
        }
        if let Some(lag) = report.lag {
            let help = "For how long the oldest log that is not confirmed yet has been here";
            encode_seconds(&mut encoder, "slot_lag", help, lag.as_secs_f64())?;
        }
        if let Some(age) = report.catalog_age {
            let help = "Time since the catalog was last known to be right";
            encode_gauge(&mut encoder, "catalog_age", help, Some(&Unit::Seconds), age.as_secs())?;
        }
        Ok(())
    }
}

fn const_gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> fmt::Result {
    let gauge = const_gauge(value);
    let place = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
    gauge.encode(place)
}

fn encode_seconds(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    let place = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), gauge.metric_type())?;
    gauge.encode(place)
}

fn encode_histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    histogram: &LatencyHistogram,
) -> fmt::Result {
    let bounds = LatencyHistogram::BOUNDS.iter().map(std::time::Duration::as_secs_f64);
    let counts = histogram.counts();
    let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
    let mut place = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    let sum = histogram.sum().as_secs_f64();
    place.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
}

impl fmt::Debug for EngineCollector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("EngineCollector")
    }
}

impl fmt::Debug for KnownNamesCollector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KnownNamesCollector")
    }
}

impl fmt::Debug for HealthCollector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HealthCollector")
    }
}
