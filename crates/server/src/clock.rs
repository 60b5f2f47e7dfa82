//! The wall clock, read in one place.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since the Unix epoch.
pub(crate) fn since_epoch() -> Duration {
    // A clock before 1970 is treated as 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The same in seconds.
pub(crate) fn unix_seconds() -> f64 {
    since_epoch().as_secs_f64()
}
