//! Numbers that name things in PostgreSQL: log positions, object ids, transaction ids, timestamps.

use std::fmt;
use std::str::FromStr;

/// A log sequence number: a byte offset into the write-ahead log (PostgreSQL docs, `pg_lsn`).
/// Printed as PostgreSQL prints it, `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The invalid position, which PostgreSQL takes as "from where the slot stands".
    pub const ZERO: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not of the form `16/B374D848`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a log position: expected two hexadecimal numbers such as 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('/').and_then(|(high, low)| {
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some(Lsn(u64::from(high) << 32 | u64::from(low)))
        });
        parsed.ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

/// An object identifier of PostgreSQL's catalog: a table, a type, a role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(pub u32);

impl fmt::Display for Oid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A transaction id as the log has it (32 bits, wraps around).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Xid(pub u32);

/// A moment as PostgreSQL counts it: microseconds since 2000-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTimestamp(pub i64);

impl PgTimestamp {
    /// Microseconds between the Unix epoch and PostgreSQL's.
    const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

    /// Microseconds since the Unix epoch.
    pub fn unix_microseconds(self) -> i64 {
        self.0.saturating_add(Self::EPOCH_MICROSECONDS)
    }

    /// From microseconds since the Unix epoch.
    pub fn from_unix_microseconds(microseconds: i64) -> Self {
        PgTimestamp(microseconds.saturating_sub(Self::EPOCH_MICROSECONDS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_prints_and_parses_as_postgres_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
    }

    #[test]
    fn text_that_is_no_position_is_refused_and_named() {
        let error = "16-B3".parse::<Lsn>().unwrap_err();
        assert!(error.to_string().contains("'16-B3'"));
    }
}
