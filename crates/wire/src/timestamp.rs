//! Moments as clients read them (docs/protocol.md §4.1).

/// `2026-08-21T10:11:12.345Z`: UTC, always exactly milliseconds, what is finer cut off.
pub(crate) fn write_timestamp(unix_us: i64, out: &mut Vec<u8>) {
    let milliseconds = unix_us.div_euclid(1000);
    let (days, in_day) = (milliseconds.div_euclid(86_400_000), milliseconds.rem_euclid(86_400_000));
    let (year, month, day) = civil_date(days);
    if year < 0 {
        out.push(b'-');
    }
    write_padded(year.abs(), 4, out);
    let parts = [
        (b'-', month, 2),
        (b'-', day, 2),
        (b'T', in_day / 3_600_000, 2),
        (b':', in_day / 60_000 % 60, 2),
        (b':', in_day / 1000 % 60, 2),
        (b'.', in_day % 1000, 3),
    ];
    for (separator, number, digits) in parts {
        out.push(separator);
        write_padded(number, digits, out);
    }
    out.push(b'Z');
}

fn write_padded(number: i64, digits: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(number);
    out.extend(std::iter::repeat_n(b'0', digits.saturating_sub(text.len())));
    out.extend_from_slice(text.as_bytes());
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar. Years are counted from March,
/// which puts the leap day at their end, in eras of the 400 years after which the calendar repeats.
fn civil_date(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    const DAYS_FROM_MARCH_0000: i64 = 719_468;
    let shifted = days + DAYS_FROM_MARCH_0000;
    let (era, day_of_era) = (shifted.div_euclid(DAYS_PER_ERA), shifted.rem_euclid(DAYS_PER_ERA));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_always_has_exactly_milliseconds_and_z() {
        for (unix_us, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999Z"),
            (-62_135_596_800_000_000, "0001-01-01T00:00:00.000Z"),
        ] {
            let mut out = Vec::new();
            write_timestamp(unix_us, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        for extreme in [i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            write_timestamp(extreme, &mut out);
            assert!(out.ends_with(b"Z"));
        }
    }
}
