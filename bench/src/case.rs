//! One case: both sides drain the same log in turn, several rounds; medians count.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use walcast_replication::ConnectionSettings;
use walcast_testkit::Cluster;

use crate::drain::{self, Order, Outcome};
use crate::recvlogical::Recvlogical;
use crate::scenario::Scenario;
use crate::written_log::{PUBLICATION, Writing, WrittenLog};

/// How long the extra drain takes at most that counts round trips.
const COUNTING_LIMIT: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Who may see which row.
    pub scenario: Scenario,
    /// How many subscribers.
    pub subscribers: u64,
    /// Rows per transaction.
    pub batch: u64,
    /// Rows in all.
    pub rows: u64,
}

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often each side drains the log.
    pub rounds: u32,
    /// How long walcast may take each time. A case that takes longer has one round.
    pub limit: Duration,
}

/// Where both sides drain from, and PostgreSQL's side.
pub struct Bench {
    /// The server.
    pub cluster: Cluster,
    /// The other side.
    pub recvlogical: Recvlogical,
}

/// What came of a case.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was measured.
    pub case: Case,
    /// Rows per second of each round, `pg_recvlogical` first.
    pub rates: Vec<(f64, f64)>,
    /// walcast's last round.
    pub last: Outcome,
    /// CPU time of walcast per row, the median of the rounds.
    pub cpu_per_row: Option<Duration>,
    /// A drain that counted round trips, where PostgreSQL was asked at all.
    pub counted: Option<Outcome>,
}

impl Measured {
    /// Rows per second of `pg_recvlogical`.
    pub fn recvlogical_rate(&self) -> f64 {
        median(self.rates.iter().map(|(recvlogical, _)| *recvlogical))
    }

    /// Rows per second of walcast.
    pub fn walcast_rate(&self) -> f64 {
        median(self.rates.iter().map(|(_, walcast)| *walcast))
    }

    /// walcast's rate as a part of `pg_recvlogical`'s.
    pub fn ratio(&self) -> f64 {
        self.walcast_rate() / self.recvlogical_rate()
    }

    /// The lowest and the highest ratio of a round.
    pub fn ratio_range(&self) -> (f64, f64) {
        let ratios = self.rates.iter().map(|(recvlogical, walcast)| walcast / recvlogical);
        ratios.fold((f64::INFINITY, 0.0), |(low, high), ratio| (low.min(ratio), high.max(ratio)))
    }
}

impl Bench {
    /// Writes the log of a case and lets both sides drain it; `progress` is told what happens.
    pub async fn measure(&self, case: Case, effort: Effort, progress: impl Fn(&str)) -> Result<Measured> {
        let Case { scenario, subscribers, batch, rows } = case;
        let name = format!("{} N={subscribers} batch={batch}", scenario.title());
        progress(&format!("{name}: writing {rows} rows"));
        let writing = Writing { scenario, people: subscribers, rows, batch };
        let mut log = WrittenLog::write(&self.cluster, writing).await?;
        let mut rates = Vec::new();
        let mut outcomes = Vec::new();
        for round in 1..=effort.rounds.max(1) {
            // Neither side always goes first.
            let walcast_first = round % 2 == 0;
            let mut outcome = None;
            if walcast_first {
                outcome = Some(walcast(&mut log, case, effort.limit, false).await?);
            }
            let recvlogical = self.recvlogical(&mut log, rows).await?;
            let outcome = match outcome {
                Some(outcome) => outcome,
                None => walcast(&mut log, case, effort.limit, false).await?,
            };
            let mut line =
                format!("{name}: round {round}: {recvlogical:.0} and {:.0} rows/s", outcome.rate());
            if !outcome.complete {
                let _ = write!(line, ", stopped after {} of {rows} rows", outcome.rows);
            }
            progress(&line);
            rates.push((recvlogical, outcome.rate()));
            outcomes.push(outcome);
            if outcomes.last().is_some_and(|outcome| !outcome.complete) {
                break;
            }
        }
        let cpu_per_row = median_cpu(&outcomes);
        let last = outcomes.pop().context("a case without rounds")?;
        let counted = match last.questions {
            0 => None,
            _ => Some(walcast(&mut log, case, effort.limit.min(COUNTING_LIMIT), true).await?),
        };
        Ok(Measured { case, rates, last, cpu_per_row, counted })
    }

    async fn recvlogical(&self, log: &mut WrittenLog, rows: u64) -> Result<f64> {
        let slot = log.fresh_slot().await?;
        let connection = ConnectionSettings::parse(log.url())?;
        let elapsed = self.recvlogical.drain(&connection, PUBLICATION, &slot, log.end).await?;
        log.drop_slot(&slot).await?;
        Ok(rows as f64 / elapsed.as_secs_f64())
    }
}

async fn walcast(
    log: &mut WrittenLog,
    case: Case,
    limit: Duration,
    count_round_trips: bool,
) -> Result<Outcome> {
    let slot = log.fresh_slot().await?;
    let order = Order {
        url: log.url().to_owned(),
        slot: slot.clone(),
        end: log.end.0,
        scenario: case.scenario,
        subscribers: case.subscribers,
        rows: case.rows,
        batch: case.batch,
        limit,
        count_round_trips,
    };
    let outcome = drain::in_new_process(&order).await?;
    log.drop_slot(&slot).await?;
    Ok(outcome)
}

fn median_cpu(outcomes: &[Outcome]) -> Option<Duration> {
    let per_row = |outcome: &Outcome| Some(outcome.cpu?.as_secs_f64() / outcome.rows.max(1) as f64);
    let all: Option<Vec<f64>> = outcomes.iter().map(per_row).collect();
    all.map(|all| Duration::from_secs_f64(median(all)))
}

/// The middle one, or the mean of the two in the middle. Zero of nothing.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_the_mean_of_two() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median([]).abs() < f64::EPSILON);
    }
}
