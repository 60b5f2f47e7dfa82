//! Where a change stands in the log.

use std::fmt;

use walcast_pgoutput::Lsn;

/// The place of a change in the log, totally ordered: its transaction's commit LSN, then its index in
/// the transaction counted from 0. Printed `0/16B3748:3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The LSN of the transaction's commit record.
    pub commit_lsn: Lsn,
    /// The change's index in its transaction.
    pub index: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.commit_lsn, self.index)
    }
}
