//! Where a change stands in the log, as clients are told it and tell it back (docs/protocol.md §4.1, §5.7).

use std::fmt;
use std::str::FromStr;

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

/// The text is not of the form `0/16B3748:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a position as changes carry it, such as \"0/16B3748:3\"")]
pub struct ParsePositionError;

impl Position {
    /// Behind every other.
    pub const MAX: Position = Position { commit_lsn: Lsn(u64::MAX), index: u64::MAX };

    /// A place before every change that commits at this LSN or behind it, and behind all others.
    pub fn before(lsn: Lsn) -> Self {
        // Commit records are longer than a byte: nothing commits here.
        Position { commit_lsn: Lsn(lsn.0.saturating_sub(1)), index: 0 }
    }

    /// A place before this one and behind every change that stands before it.
    #[must_use]
    pub fn preceding(self) -> Self {
        match self.index.checked_sub(1) {
            Some(index) => Position { index, ..self },
            None => Position::before(self.commit_lsn),
        }
    }

    /// The next change of the same transaction.
    #[must_use]
    pub fn next(self) -> Self {
        Position { index: self.index.saturating_add(1), ..self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.commit_lsn, self.index)
    }
}

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (lsn, index) = text.split_once(':').ok_or(ParsePositionError)?;
        // Numbers of the standard library may have a sign.
        if text.contains('+') {
            return Err(ParsePositionError);
        }
        let commit_lsn = lsn.parse().map_err(|_| ParsePositionError)?;
        let index = index.parse().map_err(|_| ParsePositionError)?;
        Ok(Position { commit_lsn, index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(text: &str) -> Position {
        text.parse().unwrap()
    }

    #[test]
    fn a_position_is_read_as_it_is_printed() {
        for text in ["0/16B3748:3", "FFFFFFFF/FFFFFFFF:18446744073709551615", "0/0:0"] {
            assert_eq!(position(text).to_string(), text);
        }
        for wrong in
            ["", "0/16B3748", "0:1", "0/1:", ":1", "0/1:-1", "0/1:+1", "+0/1:1", "0/1:1:1", "0/1: 1", "0/G:1"]
        {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn positions_are_ordered_by_commit_and_then_by_index() {
        assert!(position("0/10:9") < position("0/20:0"));
        assert!(position("0/FFFFFFFF:0") < position("1/0:0"));
        assert_eq!(position("0/10:9").next(), position("0/10:10"));
        let before = Position::before(Lsn(0x20));
        assert!(position("0/18:7") < before && before < position("0/20:0"));
        assert_eq!(position("0/20:0").preceding(), before);
        assert_eq!(position("0/20:3").preceding(), position("0/20:2"));
    }
}
