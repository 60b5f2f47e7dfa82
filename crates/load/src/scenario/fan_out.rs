//! One topic, one sender, everybody else receives: what a delivery costs.
//!
//! A round is so many messages at once; the next one begins when the last message has come to everybody.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::bench::{ARRIVAL_DEADLINE, Bench};
use crate::figures::{DELIVERIES, Figures, Latencies, Watch};
use crate::options::seconds;
use crate::protocol::Join;
use crate::stamp;

const TOPIC: &str = "bench-fan-out";
/// Rounds between two looks at the clock for the progress.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Receivers; several numbers are measured one after another.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    pub(crate) sockets: Vec<usize>,
    /// Bytes of a message's payload, a JSON object; at least 40.
    #[arg(long, default_value_t = 200)]
    payload_bytes: usize,
    /// Messages of a round.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// How long to measure.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    duration: Duration,
    /// How long to send before that.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    warm_up: Duration,
}

impl Options {
    pub(crate) fn run(&self, bench: &mut Bench<'_>, receivers: usize) -> Result<Figures> {
        let member = bench.swarm.protocol().publishes_as_member();
        bench.open(receivers + 1)?;
        let members = receivers + usize::from(member);
        let join = Join { topic: TOPIC.to_owned(), ..Join::default() };
        bench.join((0..members).map(|socket| (socket, join.clone())))?;
        let mut rounds = Rounds {
            options: self,
            receivers,
            latencies: Latencies::new()?,
            stamps: stamp::Reader::default(),
        };
        rounds.run_for(bench, self.warm_up)?;
        rounds.latencies.clear();
        let bytes_before = bench.swarm.bytes_read;
        let watch = Watch::begin(bench.server);
        rounds.run_for(bench, self.duration)?;
        let seen = watch.end();
        let mut figures = Figures::default();
        seen.add_to(&mut figures, &DELIVERIES, rounds.latencies.count());
        let bytes = bench.swarm.bytes_read - bytes_before;
        figures.add("bytes_each", bytes as f64 / rounds.latencies.count().max(1) as f64);
        rounds.latencies.add_to(&mut figures);
        Ok(figures)
    }
}

struct Rounds<'a> {
    options: &'a Options,
    receivers: usize,
    latencies: Latencies,
    stamps: stamp::Reader,
}

impl Rounds<'_> {
    fn run_for(&mut self, bench: &mut Bench<'_>, duration: Duration) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < duration {
            self.round(bench)?;
            let count = self.latencies.count();
            bench.progress.say(|| format!("fan-out to {}: {count} deliveries", self.receivers));
        }
        Ok(())
    }

    fn round(&mut self, bench: &mut Bench<'_>) -> Result<()> {
        let messages = usize::from(self.options.in_flight);
        bench.swarm.send(self.receivers, |protocol, out| {
            for _ in 0..messages {
                protocol.publish(out, TOPIC, &stamp::payload(stamp::now(), self.options.payload_bytes));
            }
        })?;
        let (expected, mut arrived) = (messages * self.receivers, 0);
        let mut moved = Instant::now();
        while arrived < expected {
            let before = arrived;
            bench.swarm.poll(POLL_TIMEOUT, &mut |message| {
                if let Some(at) = self.stamps.read(message.payload) {
                    arrived += 1;
                    self.latencies.record(message.at.saturating_sub(at));
                }
            })?;
            if arrived > before {
                moved = Instant::now();
            } else if moved.elapsed() > ARRIVAL_DEADLINE {
                bail!("of {expected} deliveries only {arrived} came, and no other for {ARRIVAL_DEADLINE:?}");
            }
        }
        Ok(())
    }
}
