//! Moments and intervals as PostgreSQL prints them under `DateStyle` ISO and `IntervalStyle` postgres, with
//! `timestamptz` in UTC.

use std::fmt::Write as _;

use crate::datetime::{DAY, Interval, civil, is_finite_date, is_finite_timestamp};

/// What `date_out` prints.
pub(crate) fn date_text(date: i32) -> String {
    if !is_finite_date(date) {
        return infinity(date < 0);
    }
    let (day, era) = day_text(i64::from(date));
    format!("{day}{era}")
}

/// What `time_out` prints.
pub(crate) fn time_text(time: i64) -> String {
    let seconds = time / 1_000_000;
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    with_fraction(clock, time % 1_000_000)
}

/// What `timestamp_out` prints, and `timestamptz_out` where `zoned`.
pub(crate) fn timestamp_text(timestamp: i64, zoned: bool) -> String {
    written(timestamp, ' ', if zoned { "+00" } else { "" })
}

/// As it stands in JSON.
pub(crate) fn iso_timestamp_text(timestamp: i64, zoned: bool) -> String {
    written(timestamp, 'T', if zoned { "+00:00" } else { "" })
}

impl Interval {
    /// What `interval_out` prints.
    pub(crate) fn to_text(self) -> String {
        let mut text = String::new();
        let mut negative_before = false;
        for (count, unit) in [(self.months / 12, "year"), (self.months % 12, "mon"), (self.days, "day")] {
            if count != 0 {
                let space = if text.is_empty() { "" } else { " " };
                let plus = if negative_before && count > 0 { "+" } else { "" };
                let plural = if count == 1 { "" } else { "s" };
                // Writing into a String never fails.
                let _ = write!(text, "{space}{plus}{count} {unit}{plural}");
                negative_before = count < 0;
            }
        }
        if text.is_empty() || self.microseconds != 0 {
            let space = if text.is_empty() { "" } else { " " };
            let sign = match (self.microseconds < 0, negative_before) {
                (true, _) => "-",
                (false, true) => "+",
                (false, false) => "",
            };
            let time = self.microseconds.unsigned_abs();
            let seconds = time / 1_000_000;
            let clock = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
            let fraction = i64::try_from(time % 1_000_000).unwrap_or(0);
            let _ = write!(text, "{space}{sign}{}", with_fraction(clock, fraction));
        }
        text
    }
}

fn written(timestamp: i64, separator: char, zone: &str) -> String {
    if !is_finite_timestamp(timestamp) {
        return infinity(timestamp < 0);
    }
    let (day, era) = day_text(timestamp.div_euclid(DAY));
    let clock = time_text(timestamp.rem_euclid(DAY));
    format!("{day}{separator}{clock}{zone}{era}")
}

fn infinity(negative: bool) -> String {
    if negative { "-infinity" } else { "infinity" }.to_owned()
}

fn day_text(days: i64) -> (String, &'static str) {
    let (year, month, day) = civil(days);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{month:02}-{day:02}"), era)
}

/// The fraction without its trailing zeros.
fn with_fraction(clock: String, microseconds: i64) -> String {
    if microseconds == 0 {
        return clock;
    }
    let digits = format!("{microseconds:06}");
    format!("{clock}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datetime::{read_date, read_time, read_timestamp, read_timestamp_tz};

    #[test]
    fn what_is_printed_is_what_was_read() {
        for text in ["2024-02-29", "0044-03-15 BC", "12345-01-01", "infinity", "-infinity"] {
            assert_eq!(date_text(read_date(text).unwrap()), text);
        }
        for text in ["00:00:00", "24:00:00", "23:59:59.999999", "12:30:00.5"] {
            assert_eq!(time_text(read_time(text).unwrap()), text);
        }
        for text in ["2024-02-29 12:30:00.5", "0044-03-15 00:00:00 BC", "-infinity"] {
            assert_eq!(timestamp_text(read_timestamp(text).unwrap(), false), text);
        }
        let zoned = "0044-03-15 00:00:00+00 BC";
        assert_eq!(timestamp_text(read_timestamp_tz(zoned).unwrap(), true), zoned);
        for text in [
            "00:00:00",
            "1 day",
            "-1 days",
            "1 year 2 mons -3 days +04:05:06.5",
            "-1 mons +30 days",
            "1 day -02:00:00",
            "100:00:00",
        ] {
            assert_eq!(Interval::read(text).unwrap().to_text(), text);
        }
    }
}
