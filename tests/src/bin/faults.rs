//! `make faults`: every scenario of docs/guarantees.md in full length, and the table of its figures.
//!
//! `faults [--broken SECONDS] [--calm SECONDS] [--seed NUMBER] [NAME…]`: those whose name has one of these texts in it;
//! all of them without. Ends with 1 when something was not as promised.

#![expect(clippy::print_stdout, reason = "the table is the program's output")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use walcast_tests::faults::{Figures, NotHere, Pace, SCENARIOS, Scenario, Setup};

struct Arguments {
    pace: Pace,
    seed: u64,
    scenarios: Vec<Scenario>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Arguments { pace, seed, scenarios } = arguments()?;
    let mut failures = Vec::new();
    println!("| scenario | {} |", Figures::HEADS);
    println!("|---|{}", "---|".repeat(Figures::HEADS.split('|').count()));
    for scenario in scenarios {
        let played = scenario.play(Setup { seed, ..Setup::default() }, pace).await;
        match played {
            Ok(Ok(figures)) => {
                println!("| {} | {figures} |", scenario.name());
                if let Err(error) = scenario.judge(&figures) {
                    failures.push(format!("{error:#}"));
                }
            }
            Ok(Err(NotHere(reason))) => println!("| {} | not played: {reason} |", scenario.name()),
            Err(error) => {
                println!("| {} | failed |", scenario.name());
                failures.push(format!("{}\n{error:#}", scenario.name()));
            }
        }
    }
    for failure in &failures {
        println!("\nNot as promised: {failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn arguments() -> Result<Arguments> {
    let mut pace = Pace { calm: Duration::from_secs(5), broken: Duration::from_secs(12) };
    let (mut seed, mut names) = (1, Vec::new());
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = || -> Result<u64> {
            let text = given.next().with_context(|| format!("{argument} needs a number"))?;
            text.parse().with_context(|| format!("{argument} needs a number, not {text:?}"))
        };
        match argument.as_str() {
            "--broken" => pace.broken = Duration::from_secs(number()?),
            "--calm" => pace.calm = Duration::from_secs(number()?),
            "--seed" => seed = number()?,
            option if option.starts_with('-') => {
                bail!("{option} is no option: --broken SECONDS, --calm SECONDS, --seed NUMBER, and names")
            }
            name => names.push(name.to_owned()),
        }
    }
    let wanted =
        |scenario: &Scenario| names.is_empty() || names.iter().any(|name| scenario.name().contains(name));
    let scenarios: Vec<_> = SCENARIOS.into_iter().filter(wanted).collect();
    if scenarios.is_empty() {
        let known: Vec<_> = SCENARIOS.into_iter().map(Scenario::name).collect();
        bail!("no scenario is called so; there are: {}", known.join("; "));
    }
    Ok(Arguments { pace, seed, scenarios })
}
