//! What is going on, on the last line of the screen; nothing where standard error is no screen.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// Between two words.
const PAUSE: Duration = Duration::from_millis(100);

/// The line.
pub struct Progress {
    screen: bool,
    said: Option<Instant>,
}

impl Progress {
    /// Nothing said yet.
    pub fn new() -> Self {
        Progress { screen: stderr().is_terminal(), said: None }
    }

    /// Says something, unless it has just said something else.
    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if self.screen && self.said.is_none_or(|said| said.elapsed() >= PAUSE) {
            self.said = Some(Instant::now());
            // Who has closed the screen does not want to know.
            let _ = write!(stderr(), "\r\x1b[K{}", text());
            let _ = stderr().flush();
        }
    }

    /// Wipes the line.
    pub fn end(&mut self) {
        if self.said.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new()
    }
}
