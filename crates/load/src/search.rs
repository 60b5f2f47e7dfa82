//! The highest rate that still holds.

use anyhow::{Result, bail};

use crate::figures::Figures;

/// Between a rate that holds and one that does not, it is looked so many times.
const STEPS: u32 = 4;

/// Doubles a rate until its 99th percentile is no longer below `limit_ms`, then looks between the last two; gives the
/// figures of the highest rate that held. A run that does not come to its end does not hold.
pub(crate) fn highest(
    first: f64,
    limit_ms: f64,
    mut measure: impl FnMut(f64) -> Result<Figures>,
) -> Result<Figures> {
    let mut best = None;
    let (mut low, mut high, mut rate, mut steps) = (0.0, f64::INFINITY, first, STEPS);
    while steps > 0 {
        let figures = measure(rate)?;
        if figures.get("p99_ms").is_some_and(|p99| p99 < limit_ms) {
            (low, best) = (rate, Some(figures));
        } else {
            high = rate;
        }
        if high.is_finite() {
            steps -= 1;
            rate = f64::midpoint(low, high);
        } else {
            rate *= 2.0;
        }
    }
    match best {
        Some(figures) => Ok(figures),
        None => bail!("no rate down to {rate:.2} keeps the 99th percentile below {limit_ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency_of(rate: f64, edge: f64) -> Figures {
        let mut figures = Figures::default();
        figures.add("rate", rate);
        figures.add("p99_ms", if rate <= edge { 1.0 } else { 1_000.0 });
        figures
    }

    #[test]
    fn the_highest_rate_that_holds_is_found_within_a_sixteenth() {
        for edge in [130.0, 640.0, 999.0, 10_000.0] {
            let found =
                highest(100.0, 100.0, |rate| Ok(latency_of(rate, edge))).unwrap().get("rate").unwrap();
            assert!(found <= edge && found * 1.13 > edge, "{edge}: {found}");
        }
    }

    #[test]
    fn where_no_rate_holds_this_is_said() {
        assert!(highest(100.0, 100.0, |rate| Ok(latency_of(rate, 0.0))).is_err());
    }
}
