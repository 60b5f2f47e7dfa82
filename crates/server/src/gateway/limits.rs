//! Limits that are checked where a connection or join comes in (docs/protocol.md §10.1).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How much the gateway takes on. Each has a setting of the same name.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections.
    pub max_concurrent_users: usize,
    /// Channels of one connection.
    pub max_channels_per_client: usize,
    /// `postgres_changes` bindings of one channel.
    pub max_bindings_per_channel: usize,
    /// Joins in one second, of all connections together.
    pub max_joins_per_second: u32,
    /// How long a refused handshake waits before its answer, so that a client that retries at once costs
    /// little.
    pub connect_error_backoff: Duration,
    /// The same for a refused join.
    pub channel_error_backoff: Duration,
    /// A connection without incoming bytes for so long is closed.
    pub idle_timeout: Duration,
    /// Bytes of one WebSocket message.
    pub message_bytes_max: usize,
    /// How long before its token expires a channel is told so; zero for never.
    pub token_expiry_notice: Duration,
    /// How often the token of a joined channel, and what it allows, is looked at again.
    pub token_recheck: Duration,
    /// How long a channel that asked waits to hear that messages from the database arrive, before it is closed.
    pub replication_ready_timeout: Duration,
    /// Only private channels may be joined.
    pub private_only: bool,
    /// Nobody is let in.
    pub suspended: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_concurrent_users: 100_000,
            max_channels_per_client: 100,
            max_bindings_per_channel: 100,
            max_joins_per_second: 10_000,
            connect_error_backoff: Duration::from_secs(2),
            channel_error_backoff: Duration::from_secs(5),
            idle_timeout: Duration::from_mins(1),
            message_bytes_max: 5_000_000,
            token_expiry_notice: Duration::from_secs(30),
            token_recheck: Duration::from_mins(5),
            replication_ready_timeout: Duration::from_mins(1),
            private_only: false,
            suspended: false,
        }
    }
}

/// Counts open connections against their limit.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    open: AtomicUsize,
    joins: Mutex<JoinWindow>,
}

#[derive(Debug, Default)]
struct JoinWindow {
    started: Option<Instant>,
    joins: u32,
}

/// A place among the open connections, given back when dropped.
pub(crate) struct Seat(Arc<Admission>);

impl Admission {
    /// A place for one more connection, if there is one.
    pub(crate) fn seat(self: &Arc<Self>, limits: &Limits) -> Option<Seat> {
        let seat = Seat(Arc::clone(self));
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        (before < limits.max_concurrent_users).then_some(seat)
    }

    /// Whether joins are still taken in this second: a socket that could join nothing is not let in.
    pub(crate) fn takes_joins(&self, limits: &Limits, now: Instant) -> bool {
        let window = self.joins.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        window.started.is_none_or(|started| now.duration_since(started) >= Duration::from_secs(1))
            || window.joins < limits.max_joins_per_second
    }

    /// Counts a join; false when it is one too many for this second.
    pub(crate) fn allows_join(&self, limits: &Limits, now: Instant) -> bool {
        // The window is plain data: a panic elsewhere can not have left it half changed.
        let mut window = self.joins.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if window.started.is_none_or(|started| now.duration_since(started) >= Duration::from_secs(1)) {
            *window = JoinWindow { started: Some(now), joins: 0 };
        }
        window.joins += 1;
        window.joins <= limits.max_joins_per_second
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_over_the_limit_gets_no_seat_until_one_is_free() {
        let admission = Arc::new(Admission::default());
        let limits = Limits { max_concurrent_users: 1, ..Limits::default() };
        let first = admission.seat(&limits);
        assert!(first.is_some());
        assert!(admission.seat(&limits).is_none());
        drop(first);
        assert!(admission.seat(&limits).is_some());
    }

    #[test]
    fn joins_are_counted_by_the_second() {
        let admission = Admission::default();
        let limits = Limits { max_joins_per_second: 2, ..Limits::default() };
        let start = Instant::now();
        assert!(admission.allows_join(&limits, start));
        assert!(admission.allows_join(&limits, start));
        assert!(!admission.allows_join(&limits, start));
        assert!(admission.allows_join(&limits, start + Duration::from_secs(1)));
    }
}
