//! How far the stream has come: the one thing the consumer and the reader share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use walcast_pgoutput::Lsn;

/// Positions of one slot's stream. They only grow, across reconnects too, until another server takes the place of the
/// one that they were read from and lacks the end of its log.
///
/// The consumer calls [`handle`](Progress::handle) when it has handed on everything up to a commit, and, while it holds
/// nothing back, at every [`KeepAlive`](crate::Event::KeepAlive). It calls [`confirm`](Progress::confirm) with what it
/// will not want again even after a restart: at once, or later, to be sent again what it keeps in memory only. A slot
/// whose tables are idle must be confirmed, too; it would otherwise hold the log of all other tables for ever.
#[derive(Debug, Default)]
pub struct Progress {
    received: AtomicU64,
    handled: AtomicU64,
    confirmed: AtomicU64,
    reported: AtomicU64,
    /// Where the log ended when the first connection began.
    log_end_at_start: AtomicU64,
    /// They have gone back once.
    rewound: AtomicBool,
}

impl Progress {
    /// Everything up to `lsn` has been handed on: another connection of this process goes on from there.
    pub fn handle(&self, lsn: Lsn) {
        if self.rewound.load(Ordering::Acquire) && lsn > self.received() {
            // It is of the log that is not there any more; a connection must not go on behind it.
            return;
        }
        self.handled.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// Everything up to `lsn` has been handed on and needs never be sent again, to no process. A position behind the
    /// confirmed one changes nothing.
    pub fn confirm(&self, lsn: Lsn) {
        self.handle(lsn);
        let lsn = lsn.min(self.handled());
        self.confirmed.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// The newest position up to which everything has been handed on; never behind the confirmed one.
    pub fn handled(&self) -> Lsn {
        Lsn(self.handled.load(Ordering::Acquire))
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

    /// Bytes of the log that there was before the first connection began and that has not been handed on yet: 0 once the
    /// stream has caught up with its own start.
    pub fn behind_start(&self) -> u64 {
        self.log_end_at_start.load(Ordering::Acquire).saturating_sub(self.handled().0)
    }

    pub(crate) fn receive(&self, lsn: Lsn) {
        self.received.fetch_max(lsn.0, Ordering::AcqRel);
    }

    pub(crate) fn report(&self, lsn: Lsn) {
        self.reported.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// After a gap: nothing before `since` can be had again.
    pub(crate) fn begin_again(&self, since: Lsn) {
        self.receive(since);
        self.confirm(since);
    }

    /// Everything behind `lsn` that was read is of a log that is not there any more.
    pub(crate) fn rewind(&self, lsn: Lsn) {
        for position in [&self.confirmed, &self.handled, &self.received] {
            position.fetch_min(lsn.0, Ordering::AcqRel);
        }
        self.rewound.store(true, Ordering::Release);
    }

    /// The first connection begins behind `since`, and the log ends at `log_end`.
    pub(crate) fn start(&self, since: Lsn, log_end: Lsn) {
        self.confirm(since);
        self.log_end_at_start.store(log_end.0, Ordering::Release);
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
        progress.handle(Lsn(15));
        assert_eq!((progress.confirmed(), progress.handled()), (Lsn(20), Lsn(20)));
        assert_eq!(progress.received(), Lsn::ZERO);
    }

    #[test]
    fn what_is_handled_is_not_confirmed_by_that() {
        let progress = Progress::default();
        progress.confirm(Lsn(20));
        progress.handle(Lsn(30));
        assert_eq!((progress.confirmed(), progress.handled()), (Lsn(20), Lsn(30)));
    }

    #[test]
    fn what_was_read_of_a_log_that_is_gone_counts_no_more() {
        let progress = Progress::default();
        progress.receive(Lsn(100));
        progress.handle(Lsn(80));
        progress.rewind(Lsn(50));
        // Still on its way when the other server was found.
        progress.handle(Lsn(100));
        progress.confirm(Lsn(90));
        assert_eq!((progress.handled(), progress.received()), (Lsn(50), Lsn(50)));
        assert!(progress.confirmed() <= Lsn(50));
        progress.receive(Lsn(60));
        progress.confirm(Lsn(60));
        assert_eq!((progress.handled(), progress.confirmed()), (Lsn(60), Lsn(60)));
    }

    #[test]
    fn a_stream_has_caught_up_when_what_there_was_at_its_start_is_handled() {
        let progress = Progress::default();
        progress.start(Lsn(20), Lsn(50));
        assert_eq!(progress.behind_start(), 30);
        progress.handle(Lsn(45));
        assert_eq!(progress.behind_start(), 5);
        progress.handle(Lsn(60));
        assert_eq!(progress.behind_start(), 0);
    }
}
