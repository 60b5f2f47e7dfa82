//! `policies`: how fast walcast drains the log for N subscribers under row security, as a ratio to `pg_recvlogical`.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum, value_parser};
use walcast_bench::case::{Bench, Case, Effort};
use walcast_bench::recvlogical::Recvlogical;
use walcast_bench::scenario::Scenario;
use walcast_bench::{drain, report};
use walcast_testkit::{Cluster, ClusterSettings};

// As in the binary that is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures how fast walcast drains the log for N subscribers under row security, beside `pg_recvlogical`.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    choice: Choice,
}

#[derive(Subcommand)]
enum Part {
    /// One drain by walcast, ordered on standard input.
    #[command(hide = true)]
    Drain,
}

#[derive(clap::Args)]
struct Choice {
    /// Which scenarios; all by default.
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// How many subscribers, such as 1,100,1000; by default what the scenario is usually tried with.
    #[arg(long, short = 'n', value_delimiter = ',', value_parser = value_parser!(u64).range(1..))]
    subscribers: Vec<u64>,
    /// Rows per transaction.
    #[arg(long, value_delimiter = ',', default_value = "1,100", value_parser = value_parser!(u64).range(1..))]
    batch: Vec<u64>,
    /// Rows that are written for each case.
    #[arg(long, default_value_t = 200_000, value_parser = value_parser!(u64).range(1..))]
    rows: u64,
    /// Rows of the scenario `oracle`.
    #[arg(long, default_value_t = 2_000, value_parser = value_parser!(u64).range(1..))]
    oracle_rows: u64,
    /// How often each side drains a log.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds after which a drain by walcast is stopped; the rate is then that of what was drained.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u64).range(1..))]
    limit_seconds: u64,
    /// The directory of the Postgres programs.
    #[arg(long)]
    pg_bin: Option<PathBuf>,
}

impl Choice {
    fn effort(&self) -> Effort {
        Effort { rounds: self.rounds, limit: Duration::from_secs(self.limit_seconds) }
    }

    fn cases(&self) -> Vec<Case> {
        let scenarios = match self.scenario.as_slice() {
            [] => Scenario::value_variants(),
            chosen => chosen,
        };
        let mut cases = Vec::new();
        for &scenario in scenarios {
            let rows = if scenario == Scenario::Oracle { self.oracle_rows } else { self.rows };
            let subscribers = match self.subscribers.as_slice() {
                [] => scenario.usual_subscribers(),
                chosen => chosen,
            };
            for &batch in &self.batch {
                let case = |&subscribers: &u64| Case { scenario, subscribers, batch, rows };
                cases.extend(subscribers.iter().map(case));
            }
        }
        cases
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn"))
        .init();
    match arguments.part {
        Some(Part::Drain) => answer().await,
        None => compare(&arguments.choice).await,
    }
}

async fn compare(choice: &Choice) -> Result<ExitCode> {
    let settings = [
        // Nobody but the two sides is to read or write while they are measured.
        ("autovacuum", "off"),
        ("max_wal_size", "32GB"),
        ("shared_buffers", "512MB"),
        // A drain that is slow must not be hung up on.
        ("wal_sender_timeout", "0"),
    ];
    let cluster = Cluster::start(ClusterSettings {
        bin_dir: choice.pg_bin.clone(),
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..ClusterSettings::default()
    })
    .await?;
    let recvlogical = Recvlogical::beside(&cluster).await?;
    let bench = Bench { cluster, recvlogical };
    let mut out = io::stdout().lock();
    report::header(&mut out, &bench, choice.effort()).await?;
    let mut all = Vec::new();
    for case in choice.cases() {
        let measured = bench.measure(case, choice.effort(), |line| eprintln!("  {line}")).await?;
        report::case(&mut out, &measured)?;
        all.push(measured);
    }
    report::footer(&mut out, &all, choice.effort().limit)?;
    Ok(ExitCode::SUCCESS)
}

async fn answer() -> Result<ExitCode> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let order = serde_json::from_str(&text).context("the order on standard input can not be read")?;
    let outcome = drain::run(&order).await?;
    serde_json::to_writer(io::stdout().lock(), &outcome)?;
    // Without waiting for a matcher that may be in the middle of much work.
    std::process::exit(0)
}
