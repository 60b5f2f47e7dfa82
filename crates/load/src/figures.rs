//! What is measured, by name: latencies, rates, CPU time and memory.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::process::{Process, Usage};

/// Significant digits that latencies are kept with.
const DIGITS: u8 = 3;
/// Nanoseconds of the shortest latency that is told apart from none, and of the longest that is told from longer ones.
const SHORTEST: u64 = 1_000;
const LONGEST: u64 = 600_000_000_000;

/// A measured value.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name in JSON, its unit included, and with spaces in the table.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
}

/// The figures of one run, in the order of the table.
#[derive(Clone, Debug, Default)]
pub struct Figures(pub Vec<Figure>);

impl Figures {
    /// Adds a figure.
    pub fn add(&mut self, name: &'static str, value: f64) {
        self.0.push(Figure { name, value });
    }

    /// A figure by its name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }
}

/// Latencies in nanoseconds.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub fn new() -> Result<Self> {
        Ok(Latencies(Histogram::new_with_bounds(SHORTEST, LONGEST, DIGITS)?))
    }

    /// Counts one.
    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The value that so many per cent do not exceed, in milliseconds.
    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1e6
    }

    /// Adds the usual percentiles.
    pub fn add_to(&self, figures: &mut Figures) {
        figures.add("p50_ms", self.percentile_ms(50.0));
        figures.add("p90_ms", self.percentile_ms(90.0));
        figures.add("p99_ms", self.percentile_ms(99.0));
        figures.add("p99_9_ms", self.percentile_ms(99.9));
        figures.add("max_ms", self.0.max() as f64 / 1e6);
    }
}

/// A stretch of time in which server and client are watched.
pub struct Watch {
    server: Option<Process>,
    began: Instant,
    server_began: Option<Usage>,
    client_began: Option<Usage>,
}

/// What a [`Watch`] has seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// How long it was.
    pub elapsed: Duration,
    /// CPU time of the server.
    pub server_cpu: Option<Duration>,
    /// Resident memory of the server at the end.
    pub server_resident: Option<u64>,
    /// CPU time of this process.
    pub client_cpu: Option<Duration>,
}

impl Watch {
    /// Begins now.
    pub fn begin(server: Option<Process>) -> Self {
        Watch {
            server,
            began: Instant::now(),
            server_began: server.and_then(Process::usage),
            client_began: Process::this().usage(),
        }
    }

    /// Ends now.
    pub fn end(&self) -> Seen {
        let elapsed = self.began.elapsed();
        let server = self.server.and_then(Process::usage);
        let spent = |began: Option<Usage>, ended: Option<Usage>| {
            began.zip(ended).map(|(began, ended)| ended.cpu.saturating_sub(began.cpu))
        };
        Seen {
            elapsed,
            server_cpu: spent(self.server_began, server),
            server_resident: server.map(|usage| usage.resident),
            client_cpu: spent(self.client_began, Process::this().usage()),
        }
    }
}

impl Seen {
    /// Adds a rate, and what each of what it counts has cost.
    pub fn add_to(&self, figures: &mut Figures, names: &Names, count: u64) {
        let seconds = self.elapsed.as_secs_f64();
        figures.add("seconds", seconds);
        figures.add(names.count, count as f64);
        figures.add(names.rate, count as f64 / seconds);
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / (count.max(1) as f64);
        if let Some(cpu) = self.server_cpu {
            figures.add("server_cpu_us_each", each(cpu));
            figures.add("server_cpu_percent", cpu.as_secs_f64() / seconds * 100.0);
        }
        if let Some(resident) = self.server_resident {
            figures.add("server_resident_mib", resident as f64 / f64::from(1 << 20));
        }
        if let Some(cpu) = self.client_cpu {
            figures.add("client_cpu_us_each", each(cpu));
        }
    }
}

/// A number of things, from one that need not be whole.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is below zero or too large is cut"
)]
pub fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// What is counted.
pub struct Names {
    /// The number.
    pub count: &'static str,
    /// The number per second.
    pub rate: &'static str,
}

/// Messages that came to receivers.
pub const DELIVERIES: Names = Names { count: "deliveries", rate: "deliveries_per_second" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_milliseconds_and_hold_three_digits() {
        let mut latencies = Latencies::new().unwrap();
        (1..=1_000).for_each(|number| latencies.record(number * 1_000_000));
        assert!((latencies.percentile_ms(50.0) - 500.0).abs() < 1.0);
        assert!((latencies.percentile_ms(99.0) - 990.0).abs() < 1.0);
        let mut figures = Figures::default();
        latencies.add_to(&mut figures);
        assert!(figures.get("max_ms").is_some_and(|max| (max - 1_000.0).abs() < 1.0));
    }
}
