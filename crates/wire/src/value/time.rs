//! Timestamps: `DateStyle` ISO in, ISO 8601 out as `to_jsonb` prints them.

/// Appends a `timestamp`. `infinity` and the like are not of the shape: they go out as strings.
pub(super) fn encode_timestamp(text: &str, out: &mut Vec<u8>) -> bool {
    let Some(Parts { date, clock, era }) = split(text) else {
        return false;
    };
    if !clock.bytes().all(is_clock) {
        return false;
    }
    write(&[date, "T", clock, era], out);
    true
}

/// Appends a `timestamptz`: PostgreSQL leaves minutes of 0 out of the offset, ISO 8601 readers want them.
pub(super) fn encode_timestamp_with_zone(text: &str, out: &mut Vec<u8>) -> bool {
    let Some(Parts { date, clock, era }) = split(text) else {
        return false;
    };
    let Some(sign) = clock.find(['+', '-']) else {
        return false;
    };
    let (time, offset) = clock.split_at(sign);
    if !time.bytes().chain(offset.bytes().skip(1)).all(is_clock) {
        return false;
    }
    let minutes = if offset.len() == "+00".len() { ":00" } else { "" };
    write(&[date, "T", time, offset, minutes, era], out);
    true
}

/// A timestamp's text: `2024-01-02 03:04:05.6+00 BC` has the date, what is after it, and the era.
struct Parts<'a> {
    date: &'a str,
    clock: &'a str,
    /// ` BC` or nothing.
    era: &'a str,
}

fn split(text: &str) -> Option<Parts<'_>> {
    let (date, rest) = text.split_once(' ')?;
    let is_date = !date.is_empty() && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let (clock, era) = match rest.strip_suffix(" BC") {
        Some(clock) => (clock, " BC"),
        None => (rest, ""),
    };
    (is_date && !clock.is_empty()).then_some(Parts { date, clock, era })
}

fn is_clock(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b':' || byte == b'.'
}

/// None of the parts needs an escape: the callers looked at every byte.
fn write(parts: &[&str], out: &mut Vec<u8>) {
    out.push(b'"');
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}
