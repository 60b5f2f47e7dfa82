//! The fields of moments: `EXTRACT`, `date_part` and `date_trunc` (PostgreSQL docs, "Date/Time Functions and
//! Operators").

use crate::datetime::{
    DAY, EPOCH_DAYS, Interval, civil, days_from_civil, in_range, is_finite_date, is_finite_timestamp,
};

/// A field whose meaning is the same in every version since 14.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Field {
    Microseconds,
    Milliseconds,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
    IsoYear,
    /// Sunday is 0.
    Dow,
    /// Monday is 1.
    IsoDow,
    Doy,
    Epoch,
}

/// What a field of a moment comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `mantissa / 10^scale`.
    Number { mantissa: i128, scale: u32 },
    /// What a field that only grows is at infinity.
    Infinity { negative: bool },
    /// What a field that comes round is at infinity: NULL.
    Nothing,
}

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

fn whole(value: impl Into<i128>) -> Part {
    Part::Number { mantissa: value.into(), scale: 0 }
}

impl Field {
    /// The field as `EXTRACT` names it.
    pub(crate) fn named(name: &str) -> Option<Field> {
        Some(match name.to_ascii_lowercase().as_str() {
            "microseconds" => Field::Microseconds,
            "milliseconds" => Field::Milliseconds,
            "second" => Field::Second,
            "minute" => Field::Minute,
            "hour" => Field::Hour,
            "day" => Field::Day,
            "week" => Field::Week,
            "month" => Field::Month,
            "quarter" => Field::Quarter,
            "year" => Field::Year,
            "isoyear" => Field::IsoYear,
            "dow" => Field::Dow,
            "isodow" => Field::IsoDow,
            "doy" => Field::Doy,
            "epoch" => Field::Epoch,
            _ => return None,
        })
    }

    /// Whether a time of day has it.
    pub(crate) fn is_of_time(self) -> bool {
        self.is_of_clock() || self == Field::Epoch
    }

    /// Whether a date has it.
    pub(crate) fn is_of_date(self) -> bool {
        !self.is_of_clock()
    }

    /// Whether an interval has it, in every version.
    pub(crate) fn is_of_interval(self) -> bool {
        self.is_of_time() || matches!(self, Field::Day | Field::Month | Field::Year)
    }

    /// Whether `date_trunc` takes it.
    pub(crate) fn is_unit(self) -> bool {
        !matches!(self, Field::IsoYear | Field::Dow | Field::IsoDow | Field::Doy | Field::Epoch)
    }

    fn is_of_clock(self) -> bool {
        use Field::{Hour, Microseconds, Milliseconds, Minute, Second};
        matches!(self, Microseconds | Milliseconds | Second | Minute | Hour)
    }

    fn at_infinity(self, negative: bool) -> Part {
        match self {
            Field::Year | Field::IsoYear | Field::Epoch => Part::Infinity { negative },
            _ => Part::Nothing,
        }
    }

    /// The field of a `timestamp` or, in UTC, `timestamptz`.
    pub(crate) fn of_timestamp(self, timestamp: i64) -> Part {
        if !is_finite_timestamp(timestamp) {
            return self.at_infinity(timestamp < 0);
        }
        match self {
            Field::Epoch => {
                let since_1970 = i128::from(timestamp) + i128::from(EPOCH_DAYS) * i128::from(DAY);
                Part::Number { mantissa: since_1970, scale: 6 }
            }
            field if field.is_of_clock() => field.of_clock(timestamp.rem_euclid(DAY)),
            field => field.of_day(timestamp.div_euclid(DAY)),
        }
    }

    /// The field of a `date`.
    pub(crate) fn of_date(self, date: i32) -> Part {
        if !is_finite_date(date) {
            return self.at_infinity(date < 0);
        }
        match self {
            Field::Epoch => whole((i64::from(date) + EPOCH_DAYS) * (DAY / SECOND)),
            field => field.of_day(i64::from(date)),
        }
    }

    /// The field of a `time`.
    pub(crate) fn of_time(self, time: i64) -> Part {
        match self {
            Field::Epoch => Part::Number { mantissa: time.into(), scale: 6 },
            field => field.of_clock(time),
        }
    }

    /// The field of an `interval`; each part has the interval's sign.
    pub(crate) fn of_interval(self, interval: Interval) -> Part {
        match self {
            Field::Day => whole(interval.days),
            Field::Month => whole(interval.months % 12),
            Field::Year => whole(interval.months / 12),
            Field::Epoch => {
                // A year has 365.25 days here, a month 30.
                let (years, months) = (i128::from(interval.months / 12), i128::from(interval.months % 12));
                let quarter_days = years * 1_461 + (months * 30 + i128::from(interval.days)) * 4;
                let quarter_day = i128::from(DAY / 4);
                let mantissa = quarter_days * quarter_day + i128::from(interval.microseconds);
                Part::Number { mantissa, scale: 6 }
            }
            Field::Hour => whole(interval.microseconds / HOUR),
            field => field.of_clock(interval.microseconds),
        }
    }

    fn of_clock(self, time: i64) -> Part {
        let seconds = i128::from(time % MINUTE);
        match self {
            Field::Microseconds => whole(seconds),
            Field::Milliseconds => Part::Number { mantissa: seconds, scale: 3 },
            Field::Second => Part::Number { mantissa: seconds, scale: 6 },
            Field::Minute => whole(time / MINUTE % 60),
            _ => whole(time / HOUR),
        }
    }

    fn of_day(self, days: i64) -> Part {
        let (year, month, day) = civil(days);
        // There is no year 0: 1 BC is -1.
        let counted = |year: i64| whole(if year > 0 { year } else { year - 1 });
        match self {
            Field::Month => whole(month),
            Field::Quarter => whole((month - 1) / 3 + 1),
            Field::Year => counted(year),
            Field::Dow => whole(iso_weekday(days) % 7),
            Field::IsoDow => whole(iso_weekday(days)),
            Field::Doy => whole(days - days_from_civil(year, 1, 1) + 1),
            Field::Week | Field::IsoYear => {
                // A week belongs to the year that its Thursday is in.
                let thursday = days - iso_weekday(days) + 4;
                let (year, ..) = civil(thursday);
                let first = days_from_civil(year, 1, 1);
                if self == Field::Week { whole((thursday - first) / 7 + 1) } else { counted(year) }
            }
            _ => whole(day),
        }
    }
}

impl Part {
    /// As `date_part` gives it. PostgreSQL adds whole and fractional seconds as doubles, and so rounds in its
    /// own way.
    #[expect(clippy::cast_precision_loss, reason = "PostgreSQL rounds to a double here too")]
    pub(crate) fn to_float(self, field: Field, interval: Option<Interval>) -> Option<f64> {
        let seconds = |mantissa: i128, unit: i128, each: f64| {
            let (whole, fraction) = (mantissa / unit, mantissa % unit);
            whole as f64 * each + fraction as f64 / (unit as f64 / each)
        };
        Some(match self {
            Part::Nothing => return None,
            Part::Infinity { negative } => {
                if negative {
                    f64::NEG_INFINITY
                } else {
                    f64::INFINITY
                }
            }
            Part::Number { mantissa, .. } => match (field, interval) {
                (Field::Second, _) => seconds(mantissa, 1_000_000, 1.0),
                (Field::Milliseconds, _) => seconds(mantissa, 1_000_000, 1_000.0),
                (Field::Epoch, Some(interval)) => {
                    let (years, months) = (interval.months / 12, interval.months % 12);
                    let mut sum = interval.microseconds as f64 / 1_000_000.0;
                    sum += 365.25 * 86_400.0 * f64::from(years);
                    sum += 30.0 * 86_400.0 * f64::from(months);
                    sum + 86_400.0 * f64::from(interval.days)
                }
                (Field::Epoch, None) => mantissa as f64 / 1_000_000.0,
                _ => mantissa as f64,
            },
        })
    }
}

/// Monday is 1, Sunday 7. The first day of 2000 was a Saturday.
fn iso_weekday(days: i64) -> i64 {
    (days + 5).rem_euclid(7) + 1
}

/// `date_trunc(field, timestamp)`; `None` out of range.
pub(crate) fn truncate(field: Field, timestamp: i64) -> Option<i64> {
    if !is_finite_timestamp(timestamp) {
        return Some(timestamp);
    }
    let (days, time) = (timestamp.div_euclid(DAY), timestamp.rem_euclid(DAY));
    let (year, month, _) = civil(days);
    let (days, time) = match field {
        Field::Microseconds => (days, time),
        Field::Milliseconds => (days, time - time % 1_000),
        Field::Second => (days, time - time % SECOND),
        Field::Minute => (days, time - time % MINUTE),
        Field::Hour => (days, time - time % HOUR),
        Field::Week => (days - iso_weekday(days) + 1, 0),
        Field::Month => (days_from_civil(year, month, 1), 0),
        Field::Quarter => (days_from_civil(year, (month - 1) / 3 * 3 + 1, 1), 0),
        Field::Year => (days_from_civil(year, 1, 1), 0),
        _ => (days, 0),
    };
    days.checked_mul(DAY)?.checked_add(time).filter(|moment| in_range(*moment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datetime::{read_date, read_timestamp};

    fn number(part: Part) -> i128 {
        match part {
            Part::Number { mantissa, .. } => mantissa,
            other => panic!("{other:?} is no number"),
        }
    }

    #[test]
    fn weeks_belong_to_the_year_of_their_thursday() {
        for (date, week, year, weekday) in [
            ("2000-01-01", 52, 1999, 6),
            ("2005-01-02", 53, 2004, 7),
            ("2012-12-31", 1, 2013, 1),
            ("2024-02-29", 9, 2024, 4),
        ] {
            let date = read_date(date).unwrap();
            assert_eq!(number(Field::Week.of_date(date)), week);
            assert_eq!(number(Field::IsoYear.of_date(date)), year);
            assert_eq!(number(Field::IsoDow.of_date(date)), weekday);
        }
    }

    #[test]
    fn infinity_has_a_year_but_no_day() {
        assert_eq!(Field::Year.of_timestamp(i64::MIN), Part::Infinity { negative: true });
        assert_eq!(Field::Day.of_date(i32::MAX), Part::Nothing);
    }

    #[test]
    fn the_years_before_christ_count_from_minus_one() {
        assert_eq!(number(Field::Year.of_date(read_date("0044-03-15 BC").unwrap())), -44);
        assert_eq!(number(Field::Year.of_date(read_date("0001-01-01 BC").unwrap())), -1);
    }

    #[test]
    fn truncating_clears_what_is_smaller() {
        let moment = read_timestamp("2024-08-15 13:45:30.123456").unwrap();
        for (field, expected) in [
            (Field::Milliseconds, "2024-08-15 13:45:30.123"),
            (Field::Hour, "2024-08-15 13:00:00"),
            (Field::Week, "2024-08-12 00:00:00"),
            (Field::Quarter, "2024-07-01 00:00:00"),
            (Field::Year, "2024-01-01 00:00:00"),
        ] {
            assert_eq!(truncate(field, moment), read_timestamp(expected));
        }
    }
}
