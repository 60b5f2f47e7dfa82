//! How far the stream has come: the one thing the consumer and the reader share.

use std::sync::atomic::{AtomicU64, Ordering};

use walcast_pgoutput::Lsn;

/// Positions of one slot's stream. They only grow, across reconnects too.
///
/// The consumer calls [`confirm`](Progress::confirm) when it has handed on everything up to a commit, and, while it
/// holds nothing back, at every [`KeepAlive`](crate::Event::KeepAlive): a slot whose tables are idle would
/// otherwise hold the log of all other tables for ever.
#[derive(Debug, Default)]
pub struct Progress {
    received: AtomicU64,
    confirmed: AtomicU64,
    reported: AtomicU64,
}

impl Progress {
    /// Everything up to `lsn` needs never be sent again. A position behind the confirmed one changes nothing.
    pub fn confirm(&self, lsn: Lsn) {
        self.confirmed.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// The newest position the consumer has confirmed.
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Ordering::Acquire))
    }

    /// The newest position PostgreSQL has sent, read but perhaps not handed on yet.
    pub fn received(&self) -> Lsn {
        Lsn(self.received.load(Ordering::Acquire))
    }

    /// The newest confirmed position PostgreSQL has been told of.
    pub fn reported(&self) -> Lsn {
        Lsn(self.reported.load(Ordering::Acquire))
    }

    pub(crate) fn receive(&self, lsn: Lsn) {
        self.received.fetch_max(lsn.0, Ordering::AcqRel);
    }

    pub(crate) fn report(&self, lsn: Lsn) {
        self.reported.fetch_max(lsn.0, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_never_go_back() {
        let progress = Progress::default();
        progress.confirm(Lsn(20));
        progress.confirm(Lsn(10));
        assert_eq!(progress.confirmed(), Lsn(20));
        assert_eq!(progress.received(), Lsn::ZERO);
    }
}
