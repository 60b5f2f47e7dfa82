//! Joined sockets that do nothing but send heartbeats: memory of each, and CPU time of all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::bench::Bench;
use crate::figures::{Figures, Watch};
use crate::options::seconds;
use crate::protocol::{Join, Protocol};

/// The allocator gives memory back a moment after it was freed.
const SETTLING: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Sockets; several numbers are measured one after another.
    #[arg(long, value_delimiter = ',', default_value = "15000")]
    pub(crate) sockets: Vec<usize>,
    /// Sockets of one topic.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    topic_size: u32,
    /// How often each sends a heartbeat.
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = seconds)]
    heartbeat: Duration,
    /// How long to measure.
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = seconds)]
    duration: Duration,
}

impl Options {
    pub(crate) fn run(&self, bench: &mut Bench<'_>, sockets: usize) -> Result<Figures> {
        let server = bench.server.context("the server's process is not known: --pid")?;
        let resident = || server.usage().map(|usage| usage.resident as f64).context("the server has ended");
        // What the first socket brings with it is not a socket's.
        bench.open(1)?;
        rest(bench, SETTLING)?;
        let before = resident()?;
        bench.open(sockets)?;
        rest(bench, SETTLING)?;
        let opened = resident()?;
        let size = self.topic_size as usize;
        bench.join((0..=sockets).map(|socket| {
            (socket, Join { topic: format!("bench-idle-{}", socket / size), ..Join::default() })
        }))?;
        rest(bench, SETTLING)?;
        let joined = resident()?;
        let watch = Watch::begin(Some(server));
        self.beat(bench, sockets)?;
        let seen = watch.end();
        let mut figures = Figures::default();
        figures.add("bytes_per_open_socket", (opened - before) / sockets as f64);
        figures.add("bytes_per_joined_socket", (joined - before) / sockets as f64);
        figures.add("server_resident_mib", joined / f64::from(1 << 20));
        if let Some(cpu) = seen.server_cpu {
            figures.add("server_cpu_percent", cpu.as_secs_f64() / seen.elapsed.as_secs_f64() * 100.0);
        }
        Ok(figures)
    }

    /// Heartbeats, spread evenly.
    fn beat(&self, bench: &mut Bench<'_>, sockets: usize) -> Result<()> {
        let gap = self.heartbeat.as_secs_f64() / sockets as f64;
        let (began, mut sent) = (Instant::now(), 0_u32);
        while began.elapsed() < self.duration {
            let due = began + Duration::from_secs_f64(gap * f64::from(sent));
            match due.checked_duration_since(Instant::now()) {
                Some(wait) if !wait.is_zero() => {
                    bench.swarm.poll(wait.min(Duration::from_millis(100)), &mut |_| {})?;
                }
                _ => {
                    bench.swarm.send(sent as usize % sockets, Protocol::heartbeat)?;
                    sent += 1;
                }
            }
            bench.progress.say(|| format!("idle: {:.0?} of {:.0?}", began.elapsed(), self.duration));
        }
        Ok(())
    }
}

fn rest(bench: &mut Bench<'_>, duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        bench.swarm.poll(left, &mut |_| {})?;
    }
    Ok(())
}
