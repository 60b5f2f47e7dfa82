//! Dates, times and intervals as sessions of ours have them: `DateStyle` ISO, `IntervalStyle` postgres,
//! `TimeZone` UTC (PostgreSQL docs, "Date/Time Types"). Forms of input that are not read here are left to
//! PostgreSQL: a `None` is "not exactly known".

mod field;
mod interval;
mod print;

use std::cmp::Ordering;

pub(crate) use self::field::{Field, Part, truncate};
pub(crate) use self::interval::Interval;
pub(crate) use self::print::{date_text, iso_timestamp_text, time_text, timestamp_text};

/// Microseconds in a day.
const DAY: i64 = 86_400_000_000;
/// `infinity` and `-infinity`, as PostgreSQL stores them.
const DATE_INFINITY: i32 = i32::MAX;
const DATE_NEGATIVE_INFINITY: i32 = i32::MIN;
const TIMESTAMP_INFINITY: i64 = i64::MAX;
const TIMESTAMP_NEGATIVE_INFINITY: i64 = i64::MIN;
/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH_DAYS: i64 = 10_957;
/// The first day that PostgreSQL knows, 4714-11-24 BC, and the first after the last date and timestamp.
const FIRST_DAY: i64 = -2_451_545;
const DATE_END_DAY: i64 = 2_145_031_949;
const TIMESTAMP_END_DAY: i64 = 106_751_983;

/// Reads a `date`, in days since 2000-01-01.
pub(crate) fn read_date(text: &str) -> Option<i32> {
    match text {
        "infinity" => return Some(DATE_INFINITY),
        "-infinity" => return Some(DATE_NEGATIVE_INFINITY),
        _ => {}
    }
    let (text, before_christ) = strip_era(text);
    let days = read_day(text, before_christ)?;
    i32::try_from(days).ok().filter(|days| i64::from(*days) < DATE_END_DAY)
}

/// Reads a `time`, in microseconds since midnight.
pub(crate) fn read_time(text: &str) -> Option<i64> {
    read_clock(text, 24).filter(|time| *time <= DAY)
}

/// Reads a `timestamp`, in microseconds since 2000-01-01.
pub(crate) fn read_timestamp(text: &str) -> Option<i64> {
    if let Some(infinite) = infinite_timestamp(text) {
        return Some(infinite);
    }
    let (text, before_christ) = strip_era(text);
    let (date, clock) = text.split_once([' ', 'T']).unwrap_or((text, "00:00:00"));
    timestamp_at(read_day(date, before_christ)?, read_time(clock)?)
}

/// Reads a `timestamptz`, in microseconds since 2000-01-01 UTC; without an offset it is UTC.
pub(crate) fn read_timestamp_tz(text: &str) -> Option<i64> {
    if let Some(infinite) = infinite_timestamp(text) {
        return Some(infinite);
    }
    let (text, before_christ) = strip_era(text);
    let (date, clock) = text.split_once([' ', 'T']).unwrap_or((text, "00:00:00"));
    let zone_at = clock.find(['+', '-', 'Z']).unwrap_or(clock.len());
    let (clock, zone) = clock.split_at(zone_at);
    let local = timestamp_at(read_day(date, before_christ)?, read_time(clock)?)?;
    local.checked_sub(read_offset(zone)?).filter(|moment| in_range(*moment))
}

/// `timestamp + interval`: months first (the day clamped to the month), then days, then time.
pub(crate) fn add_interval(timestamp: i64, interval: Interval) -> Option<i64> {
    if matches!(timestamp, TIMESTAMP_INFINITY | TIMESTAMP_NEGATIVE_INFINITY) {
        return Some(timestamp);
    }
    let mut days = timestamp.div_euclid(DAY);
    let time = timestamp.rem_euclid(DAY);
    if interval.months != 0 {
        let (year, month, day) = civil(days);
        let months = year * 12 + i64::from(month) - 1 + i64::from(interval.months);
        let (year, month) = (months.div_euclid(12), u32::try_from(months.rem_euclid(12)).ok()? + 1);
        days = days_from_civil(year, month, day.min(days_in_month(year, month)));
    }
    // Each step must stay within range, as PostgreSQL converts after each.
    timestamp_at(days, time)?;
    let moment = timestamp_at(days + i64::from(interval.days), time)?;
    moment.checked_add(interval.microseconds).filter(|moment| in_range(*moment))
}

/// `timestamp - timestamp`, in days and time; `None` for infinities, where versions differ.
pub(crate) fn subtract_timestamps(left: i64, right: i64) -> Option<Interval> {
    if [left, right].iter().any(|moment| !in_range(*moment)) {
        return None;
    }
    let difference = left.checked_sub(right)?;
    let days = i32::try_from(difference / DAY).ok()?;
    Some(Interval { months: 0, days, microseconds: difference % DAY })
}

/// `date + integer`; `None` out of range.
pub(crate) fn add_days(date: i32, days: i64) -> Option<i32> {
    if matches!(date, DATE_INFINITY | DATE_NEGATIVE_INFINITY) {
        return Some(date);
    }
    let moved = i64::from(date).checked_add(days)?;
    i32::try_from(moved).ok().filter(|_| (FIRST_DAY..DATE_END_DAY).contains(&moved))
}

/// `date - date` in days; `None` for infinities.
pub(crate) fn subtract_dates(left: i32, right: i32) -> Option<i64> {
    (is_finite_date(left) && is_finite_date(right)).then(|| i64::from(left) - i64::from(right))
}

/// `date::timestamp`; `None` out of range.
pub(crate) fn date_to_timestamp(date: i32) -> Option<i64> {
    match date {
        DATE_INFINITY => Some(TIMESTAMP_INFINITY),
        DATE_NEGATIVE_INFINITY => Some(TIMESTAMP_NEGATIVE_INFINITY),
        days if i64::from(days) < TIMESTAMP_END_DAY => Some(i64::from(days) * DAY),
        _ => None,
    }
}

/// `timestamp::date`.
pub(crate) fn timestamp_to_date(timestamp: i64) -> Option<i32> {
    match timestamp {
        TIMESTAMP_INFINITY => Some(DATE_INFINITY),
        TIMESTAMP_NEGATIVE_INFINITY => Some(DATE_NEGATIVE_INFINITY),
        finite => i32::try_from(finite.div_euclid(DAY)).ok(),
    }
}

/// `timestamp::time`; `None` (NULL) for infinities.
pub(crate) fn time_of(timestamp: i64) -> Option<i64> {
    in_range(timestamp).then(|| timestamp.rem_euclid(DAY))
}

/// `time + interval`, of which only the time counts, within the day.
pub(crate) fn add_to_time(time: i64, microseconds: i64) -> Option<i64> {
    Some(time.checked_add(microseconds)?.rem_euclid(DAY))
}

/// `to_timestamp(double precision)`: seconds since 1970; `None` out of range.
pub(crate) fn from_epoch(seconds: f64) -> Option<i64> {
    if seconds.is_infinite() {
        return Some(if seconds > 0.0 { TIMESTAMP_INFINITY } else { TIMESTAMP_NEGATIVE_INFINITY });
    }
    #[expect(clippy::cast_precision_loss, reason = "whole days of seconds, far below 2^53")]
    let limit = |day: i64| ((day + EPOCH_DAYS) * (DAY / 1_000_000)) as f64;
    if !(limit(FIRST_DAY)..limit(TIMESTAMP_END_DAY)).contains(&seconds) {
        return None;
    }
    let shifted = seconds - limit(0);
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within range as just checked")]
    let microseconds = (shifted * 1_000_000.0).round_ties_even() as i64;
    Some(microseconds).filter(|moment| in_range(*moment))
}

/// Whether a date is neither infinity.
pub(crate) fn is_finite_date(date: i32) -> bool {
    !matches!(date, DATE_INFINITY | DATE_NEGATIVE_INFINITY)
}

/// Whether a timestamp is neither infinity.
pub(crate) fn is_finite_timestamp(timestamp: i64) -> bool {
    !matches!(timestamp, TIMESTAMP_INFINITY | TIMESTAMP_NEGATIVE_INFINITY)
}

/// A date against a timestamp, without the overflow that casting the date could have.
pub(crate) fn compare_date_with_timestamp(date: i32, timestamp: i64) -> Ordering {
    match date {
        DATE_INFINITY => TIMESTAMP_INFINITY.cmp(&timestamp),
        DATE_NEGATIVE_INFINITY => TIMESTAMP_NEGATIVE_INFINITY.cmp(&timestamp),
        _ if timestamp == TIMESTAMP_INFINITY => Ordering::Less,
        _ if timestamp == TIMESTAMP_NEGATIVE_INFINITY => Ordering::Greater,
        days => (i128::from(days) * i128::from(DAY)).cmp(&i128::from(timestamp)),
    }
}

fn infinite_timestamp(text: &str) -> Option<i64> {
    match text {
        "infinity" => Some(TIMESTAMP_INFINITY),
        "-infinity" => Some(TIMESTAMP_NEGATIVE_INFINITY),
        _ => None,
    }
}

fn in_range(timestamp: i64) -> bool {
    (FIRST_DAY..TIMESTAMP_END_DAY).contains(&timestamp.div_euclid(DAY))
}

fn timestamp_at(days: i64, time: i64) -> Option<i64> {
    days.checked_mul(DAY)?.checked_add(time).filter(|moment| in_range(*moment))
}

fn strip_era(text: &str) -> (&str, bool) {
    match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    }
}

fn sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// `2024-02-29`, in days since 2000-01-01. The year has four to seven digits.
fn read_day(text: &str, before_christ: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !(4..=7).contains(&year.len()) || month.len() != 2 || day.len() != 2 {
        return None;
    }
    let (year, month, day) =
        (digits(year)?, u32::try_from(digits(month)?).ok()?, u32::try_from(digits(day)?).ok()?);
    if year == 0 || !(1..=12).contains(&month) {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    if day == 0 || day > days_in_month(year, month) {
        return None;
    }
    Some(days_from_civil(year, month, day)).filter(|days| *days >= FIRST_DAY)
}

/// `04:05:06.789` or `04:05`, in microseconds, for up to `hours_max` hours.
fn read_clock(text: &str, hours_max: i64) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next());
    // Two parts with a fraction are minutes and seconds to PostgreSQL.
    let dangling = text.contains('.') && (fraction.is_empty() || seconds.is_none());
    let seconds = seconds.unwrap_or("00");
    if parts.next().is_some() || minutes.len() != 2 || seconds.len() != 2 || fraction.len() > 6 || dangling {
        return None;
    }
    let (hours, minutes, seconds) = (digits(hours)?, digits(minutes)?, digits(seconds)?);
    if hours > hours_max || minutes > 59 || seconds > 59 {
        return None;
    }
    let microseconds = if fraction.is_empty() { 0 } else { digits(&format!("{fraction:0<6}"))? };
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + microseconds)
}

/// `+02`, `-05:30`, `Z`, nothing: microseconds east of UTC.
fn read_offset(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "") {
        return Some(0);
    }
    let (negative, unsigned) = sign(text);
    let mut seconds = 0;
    let mut unit = 3_600;
    for (index, part) in unsigned.split(':').enumerate() {
        let value = if part.len() == 2 { digits(part)? } else { return None };
        if index > 2 || value > if index == 0 { 15 } else { 59 } {
            return None;
        }
        seconds += value * unit;
        unit /= 60;
    }
    Some(if negative { -seconds } else { seconds } * 1_000_000)
}

fn digits(text: &str) -> Option<i64> {
    if text.is_empty() || text.len() > 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 => 28 + u32::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 2000-01-01 of a day in the proleptic Gregorian calendar; year 0 is 1 BC.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    // Counted in 400-year eras that begin in March, so that leap days come last in their year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468 - EPOCH_DAYS
}

/// The inverse of [`days_from_civil`].
fn civil(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468 + EPOCH_DAYS;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    // Both are within 1..=31 by construction.
    (year, u32::try_from(month).unwrap_or(1), u32::try_from(day).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_epoch_and_the_eras_count_as_postgres_counts() {
        assert_eq!(read_date("2000-01-01"), Some(0));
        assert_eq!(read_date("1970-01-01"), Some(-10_957));
        assert_eq!(read_date("2024-02-29"), Some(8_825));
        assert_eq!(read_date("0001-01-01 BC"), Some(-730_485));
        assert_eq!(read_timestamp("2000-01-01 00:00:01.5"), Some(1_500_000));
        assert_eq!(read_timestamp_tz("2000-01-01 02:00:00+02"), Some(0));
        assert_eq!(read_timestamp_tz("1999-12-31T18:30:00.000-05:30"), Some(0));
        assert_eq!(read_timestamp_tz("2000-01-01T00:00:00.000Z"), Some(0));
        assert_eq!(read_timestamp_tz("2000-01-01"), Some(0));
        assert_eq!(read_timestamp_tz("2000-01-01 00:00"), Some(0));
    }

    #[test]
    fn forms_that_depend_on_settings_are_not_read() {
        for text in ["01/02/2024", "yesterday", "2024-2-3", "2024-02-30", "24-01-01", "0000-01-01", "now"] {
            assert_eq!(read_date(text), None, "{text}");
        }
        assert_eq!(read_time("12:30.5"), None);
        assert_eq!(read_timestamp_tz("2024-01-01 00:00:00 CET"), None);
        assert_eq!(read_timestamp("2024-01-01 00:00:00+02"), None);
        assert_eq!(read_time("12:00:60"), None);
        assert_eq!(read_time("24:00:01"), None);
        assert_eq!(read_time("24:00:00"), Some(DAY));
    }

    #[test]
    fn adding_months_clamps_the_day() {
        let month = Interval { months: 1, ..Interval::default() };
        let january = read_timestamp("2024-01-31 10:00:00").unwrap();
        assert_eq!(add_interval(january, month), read_timestamp("2024-02-29 10:00:00"));
        assert_eq!(add_interval(i64::MAX, month), Some(i64::MAX));
    }

    #[test]
    fn a_date_beyond_the_timestamps_still_compares() {
        let far = read_date("300000-01-01").unwrap();
        assert_eq!(date_to_timestamp(far), None);
        assert_eq!(compare_date_with_timestamp(far, 0), Ordering::Greater);
        assert_eq!(compare_date_with_timestamp(far, i64::MAX), Ordering::Less);
    }

    proptest! {
        #[test]
        fn civil_dates_and_day_numbers_are_inverse(days in -2_000_000i64..2_000_000) {
            let (year, month, day) = civil(days);
            prop_assert_eq!(days_from_civil(year, month, day), days);
        }

        #[test]
        fn reading_never_panics(text in "[-+0-9: TZ.BC]{0,30}") {
            let _ = (read_date(&text), read_timestamp(&text), read_timestamp_tz(&text), Interval::read(&text));
        }
    }
}
