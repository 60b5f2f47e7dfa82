//! How a decision gets on: how much to ask at once, and when to give up.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::CatalogError;

/// So many rows are asked about at first, while it is not known how long a row takes.
const ROWS_AT_FIRST: usize = 64;

/// What is sent at once should take such a part of the time-out of one statement.
const SHARE: u32 = 4;

/// What the connections that work on one decision have learnt together.
pub(crate) struct Tempo {
    /// What is sent at once should take so long.
    aim: Duration,
    patience: Duration,
    state: Mutex<State>,
}

struct State {
    per_row: Option<Duration>,
    /// The time that may still be spent on statements that fail. Those that answer do not use it up: however
    /// many there are, each brings the decision forward.
    left: Duration,
}

impl Tempo {
    pub(crate) fn new(statement_timeout: Duration, patience: Duration) -> Self {
        let state = Mutex::new(State { per_row: None, left: patience });
        Tempo { aim: statement_timeout / SHARE, patience, state }
    }

    /// How long PostgreSQL may be silent, and how long it may take over what fails.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// How many rows to ask about before the answers are awaited. Never 0.
    pub(crate) fn rows_at_once(&self) -> usize {
        match self.state().per_row {
            None => ROWS_AT_FIRST,
            Some(per_row) => {
                let rows = self.aim.as_nanos() / per_row.as_nanos().max(1);
                usize::try_from(rows).unwrap_or(usize::MAX).max(1)
            }
        }
    }

    /// Takes note of a statement over so many rows that took so long.
    ///
    /// # Errors
    /// Too much time went into statements that failed.
    pub(crate) fn note(&self, rows: usize, took: Duration, failed: bool) -> Result<(), CatalogError> {
        let rows = u32::try_from(rows.max(1)).unwrap_or(u32::MAX);
        let mut state = self.state();
        let per_row = took / rows;
        state.per_row = Some(state.per_row.map_or(per_row, |before| (before + per_row) / 2));
        if failed {
            state.left = state.left.saturating_sub(took);
        }
        if state.left.is_zero() { Err(CatalogError::Late(self.patience)) } else { Ok(()) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_slower_a_row_the_fewer_at_once_and_never_none() {
        let tempo = Tempo::new(4 * SECOND, 16 * SECOND);
        assert_eq!(tempo.rows_at_once(), ROWS_AT_FIRST);
        tempo.note(1_000, Duration::from_millis(1), false).unwrap();
        assert_eq!(tempo.rows_at_once(), 1_000_000);
        tempo.note(100, 10 * SECOND, false).unwrap();
        assert_eq!(tempo.rows_at_once(), 19);
        tempo.note(0, 40 * SECOND, false).unwrap();
        assert_eq!(tempo.rows_at_once(), 1);
    }

    #[test]
    fn only_what_fails_uses_up_the_patience() {
        let tempo = Tempo::new(SECOND, 4 * SECOND);
        for _ in 0..100 {
            tempo.note(1, SECOND, false).unwrap();
        }
        for _ in 0..3 {
            tempo.note(1, SECOND, true).unwrap();
        }
        assert_eq!(tempo.note(1, SECOND, true), Err(CatalogError::Late(4 * SECOND)));
        assert!(tempo.note(1, SECOND, false).is_err(), "nobody goes on when another has given up");
    }
}
