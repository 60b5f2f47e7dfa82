//! `interval`: months, days and time, each for itself.

use std::cmp::Ordering;

use crate::datetime::{DAY, read_clock, sign};

/// An `interval`: its parts do not convert into each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Interval {
    pub(crate) months: i32,
    pub(crate) days: i32,
    pub(crate) microseconds: i64,
}

impl Interval {
    /// Reads what `interval_out` prints under `IntervalStyle` postgres.
    pub(crate) fn read(text: &str) -> Option<Interval> {
        let mut interval = Interval::default();
        let mut seen: Vec<&str> = Vec::new();
        let mut words = text.split_ascii_whitespace();
        while let Some(word) = words.next() {
            let unit = if word.contains(':') { "time" } else { canonical_unit(words.next()?)? };
            if seen.contains(&unit) {
                return None;
            }
            seen.push(unit);
            if unit == "time" {
                let (negative, unsigned) = sign(word);
                let time = read_clock(unsigned, i64::from(i32::MAX))?;
                interval.microseconds =
                    interval.microseconds.checked_add(if negative { -time } else { time })?;
                continue;
            }
            let count: i32 = word.parse().ok()?;
            match unit {
                "year" => interval.months = interval.months.checked_add(count.checked_mul(12)?)?,
                "month" => interval.months = interval.months.checked_add(count)?,
                "week" => interval.days = interval.days.checked_add(count.checked_mul(7)?)?,
                "day" => interval.days = interval.days.checked_add(count)?,
                _ => {
                    let each = match unit {
                        "hour" => 3_600_000_000,
                        "minute" => 60_000_000,
                        _ => 1_000_000,
                    };
                    let part = i64::from(count).checked_mul(each)?;
                    interval.microseconds = interval.microseconds.checked_add(part)?;
                }
            }
        }
        // `1 hour 02:00:00` is an error in PostgreSQL.
        let both =
            seen.contains(&"time") && seen.iter().any(|unit| matches!(*unit, "hour" | "minute" | "second"));
        (!seen.is_empty() && !both).then_some(interval)
    }

    /// SQL's order: a month counts 30 days, a day 24 hours.
    pub(crate) fn compare(self, other: Interval) -> Ordering {
        let span = |interval: Interval| {
            let days = i128::from(interval.months) * 30 + i128::from(interval.days);
            days * i128::from(DAY) + i128::from(interval.microseconds)
        };
        span(self).cmp(&span(other))
    }

    /// The negative; `None` out of range.
    pub(crate) fn negate(self) -> Option<Interval> {
        Some(Interval {
            months: self.months.checked_neg()?,
            days: self.days.checked_neg()?,
            microseconds: self.microseconds.checked_neg()?,
        })
    }

    /// The sum, part by part; `None` out of range.
    pub(crate) fn add(self, other: Interval) -> Option<Interval> {
        Some(Interval {
            months: self.months.checked_add(other.months)?,
            days: self.days.checked_add(other.days)?,
            microseconds: self.microseconds.checked_add(other.microseconds)?,
        })
    }

    /// The difference, part by part; `None` out of range.
    pub(crate) fn subtract(self, other: Interval) -> Option<Interval> {
        Some(Interval {
            months: self.months.checked_sub(other.months)?,
            days: self.days.checked_sub(other.days)?,
            microseconds: self.microseconds.checked_sub(other.microseconds)?,
        })
    }

    /// `interval * double precision`, where the factor is whole and a double holds every product exactly: then
    /// nothing cascades from months into days and from days into time. `None` beyond.
    pub(crate) fn multiply(self, factor: f64) -> Option<Interval> {
        if factor.fract() != 0.0 || factor.abs() > f64::from(i32::MAX) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "whole and within an i32, as just checked")]
        let factor = factor as i32;
        let microseconds = self.microseconds.checked_mul(i64::from(factor))?;
        let exact = |value: i64| value.unsigned_abs() < 1 << 53;
        (exact(self.microseconds) && exact(microseconds)).then_some(())?;
        Some(Interval {
            months: self.months.checked_mul(factor)?,
            days: self.days.checked_mul(factor)?,
            microseconds,
        })
    }
}

fn canonical_unit(word: &str) -> Option<&'static str> {
    Some(match word {
        "year" | "years" => "year",
        "mon" | "mons" | "month" | "months" => "month",
        "week" | "weeks" => "week",
        "day" | "days" => "day",
        "hour" | "hours" => "hour",
        "minute" | "minutes" | "min" | "mins" => "minute",
        "second" | "seconds" | "sec" | "secs" => "second",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_in_their_own_units() {
        let interval = |months, days, microseconds| Some(Interval { months, days, microseconds });
        assert_eq!(Interval::read("1 year 2 mons -3 days +04:05:06.5"), interval(14, -3, 14_706_500_000));
        assert_eq!(Interval::read("-00:00:01"), interval(0, 0, -1_000_000));
        assert_eq!(Interval::read("7 days"), interval(0, 7, 0));
        assert_eq!(Interval::read("36 hours"), interval(0, 0, 129_600_000_000));
        for text in ["", "1 day 2 days", "1", "P1D", "1 day ago", "1 hour 02:00:00", "1.5 days"] {
            assert_eq!(Interval::read(text), None, "{text}");
        }
    }

    #[test]
    fn only_products_that_do_not_cascade_are_computed() {
        let interval = Interval::read("1 mon 2 days 03:00:00").unwrap();
        assert_eq!(interval.multiply(-3.0), Interval::read("-3 mons -6 days -09:00:00"));
        assert_eq!(interval.multiply(0.5), None);
        assert_eq!(interval.multiply(f64::NAN), None);
        assert_eq!(interval.multiply(3e9), None);
    }
}
