//! The load client behind `walcast bench`: many sockets on one thread, latencies from timestamps in the messages, and
//! the server's CPU time and memory, in a table or as JSON.
//!
//! In reading order: [`options`] (the command line), [`bench`] (sockets are opened, channels joined), `scenario` (what
//! is measured, with `search` for the highest rate), [`swarm`] (the sockets), [`frame`] and [`protocol`] (what is said over them), [`stamp`] (timestamps),
//! [`process`] and [`figures`] (what is measured), [`progress`] and [`report`] (what is shown).

// Counts become rates here, and none has 53 bits.
#![allow(clippy::cast_precision_loss)]

pub mod bench;
pub mod figures;
pub mod frame;
pub mod options;
pub mod process;
pub mod progress;
pub mod protocol;
pub mod report;
mod scenario;
mod search;
pub mod stamp;
pub mod swarm;

use anyhow::Result;

pub use bench::Tokens;
pub use options::Options;

use crate::bench::Bench;
use crate::figures::Figures;
use crate::options::{Common, Scenario};
use crate::report::Run;
use crate::swarm::Swarm;

/// Measures, and gives what is to be printed.
pub fn run(options: &Options, tokens: &dyn Tokens) -> Result<String> {
    let runs = Runs { common: &options.common, tokens };
    match &options.scenario {
        Scenario::FanOut(options) => runs.each("fan-out", &options.sockets, |bench, n| options.run(bench, n)),
        Scenario::Rooms(options) => runs.each("rooms", &options.sockets, |bench, n| options.run(bench, n)),
        Scenario::Idle(options) => runs.each("idle", &options.sockets, |bench, n| options.run(bench, n)),
        Scenario::Joins(options) => runs.each("joins", &options.sockets, |bench, n| options.run(bench, n)),
        Scenario::Changes(options) => {
            runs.each("changes", &options.sockets, |bench, n| options.run(bench, n))
        }
        Scenario::Presence(options) => {
            runs.each("presence", &options.sockets, |bench, n| options.run(bench, n))
        }
    }
}

struct Runs<'a> {
    common: &'a Common,
    tokens: &'a dyn Tokens,
}

impl Runs<'_> {
    /// One run for each number of sockets, each with sockets of its own.
    fn each(
        &self,
        scenario: &str,
        numbers: &[usize],
        run: impl Fn(&mut Bench<'_>, usize) -> Result<Figures>,
    ) -> Result<String> {
        let (target, base) = self.common.target()?;
        let protocol = target.protocol;
        if matches!(scenario, "joins" | "changes" | "presence") {
            self.common.only_walcast(scenario)?;
        }
        let mut runs = Vec::new();
        for &sockets in numbers {
            let server = self.common.server(&target)?;
            let mut bench = Bench::new(Swarm::new(target.clone())?, server, base.clone(), self.tokens);
            let outcome = run(&mut bench, sockets);
            bench.progress.end();
            runs.push(Run { sockets, figures: outcome? });
        }
        let protocol = clap::ValueEnum::to_possible_value(&protocol)
            .map_or_else(String::new, |value| value.get_name().to_owned());
        Ok(if self.common.json {
            report::json(scenario, &protocol, &runs).to_string()
        } else {
            report::table(&format!("{scenario}, protocol {protocol}, {}", target.address), &runs)
        })
    }
}
