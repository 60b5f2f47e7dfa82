//! Functions on text (PostgreSQL docs, "String Functions and Operators"); they count characters.

use std::borrow::Cow;

use crate::operation::{Operands, Stop, integer, length, text};
use crate::pattern;
use crate::value::Value;

pub(super) fn like(text: &str, pattern: &str, insensitive: bool) -> Result<bool, Stop> {
    let matched =
        if insensitive { pattern::ilike(text, pattern) } else { pattern::like(text, pattern).map(Some) };
    matched
        .map_err(|_| Stop::Failed("LIKE pattern must not end with escape character".to_owned()))?
        .ok_or(Stop::Ask)
}

/// A count of characters where negative ones count from the other end.
fn count_of(text: &str, count: i64) -> usize {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let count = if count < 0 { length.saturating_add(count) } else { count };
    usize::try_from(count.max(0)).unwrap_or(usize::MAX)
}

pub(super) fn left(text: &str, count: i64) -> String {
    text.chars().take(count_of(text, count)).collect()
}

pub(super) fn right(text: &str, count: i64) -> String {
    let length = text.chars().count();
    text.chars().skip(length.saturating_sub(count_of(text, count))).collect()
}

pub(super) fn substring(text: &str, start: i64, count: Option<i64>) -> Result<String, Stop> {
    if count.is_some_and(|count| count < 0) {
        return Err(Stop::Failed("negative substring length not allowed".to_owned()));
    }
    let end = count.map_or(i64::MAX, |count| start.saturating_add(count));
    let skipped = start.max(1) - 1;
    let taken = end.saturating_sub(1).saturating_sub(skipped).max(0);
    let size = |count: i64| usize::try_from(count).unwrap_or(usize::MAX);
    Ok(text.chars().skip(size(skipped)).take(size(taken)).collect())
}

pub(super) fn split_part(text: &str, separator: &str, field: i64) -> Result<String, Stop> {
    if field == 0 {
        return Err(Stop::Failed("field position must not be zero".to_owned()));
    }
    let parts: Vec<&str> = if separator.is_empty() { vec![text] } else { text.split(separator).collect() };
    let count = i64::try_from(parts.len()).unwrap_or(i64::MAX);
    let index = if field > 0 { field - 1 } else { count.saturating_add(field) };
    Ok(usize::try_from(index).ok().and_then(|index| parts.get(index)).map_or("", |part| part).to_owned())
}

/// `bpchar` as `text`: without trailing blanks.
pub(crate) fn without_blanks(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim_end_matches(' ')),
        Cow::Owned(text) => Cow::Owned(text.trim_end_matches(' ').to_owned()),
    }
}

/// A strict operation on text, beside those that are older.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Text {
    /// `octet_length(text)`.
    Octets,
    Reverse,
    /// `btrim`, `ltrim` and `rtrim`: of any of these characters.
    Trim {
        start: bool,
        end: bool,
    },
    /// `lpad` and `rpad`.
    Pad {
        left: bool,
    },
    Repeat,
    /// `varchar(n)`: no more than so many characters.
    AtMost(u32),
    /// `char(n)`: exactly so many.
    Exactly(u32),
}

/// Longer results are left to PostgreSQL, which has a limit of its own.
const RESULT_MAX: i64 = 100_000;

impl Text {
    pub(super) fn may_ask(&self) -> bool {
        self.may_fail()
    }

    pub(super) fn may_fail(&self) -> bool {
        matches!(self, Text::Pad { .. } | Text::Repeat)
    }

    pub(super) fn apply<'a>(&self, operands: Operands<'a>) -> Result<Value<'a>, Stop> {
        let mut operands = operands.into_iter();
        let mut next = || operands.next().ok_or(Stop::Ask);
        let first = text(next()?)?;
        Ok(Value::Text(Cow::Owned(match self {
            Text::Octets => return Ok(length(first.len())),
            Text::Reverse => first.chars().rev().collect(),
            Text::Trim { start, end } => {
                let characters = text(next()?)?;
                let unwanted = |character: char| characters.contains(character);
                let trimmed = if *start { first.trim_start_matches(unwanted) } else { &first };
                if *end { trimmed.trim_end_matches(unwanted) } else { trimmed }.to_owned()
            }
            Text::Pad { left } => pad(&first, integer(&next()?)?, &text(next()?)?, *left)?,
            Text::Repeat => {
                let count = integer(&next()?)?.max(0);
                let size = i64::try_from(first.len()).unwrap_or(i64::MAX).saturating_mul(count);
                let count = usize::try_from(count).ok().filter(|_| size <= RESULT_MAX);
                first.repeat(count.ok_or(Stop::Ask)?)
            }
            Text::AtMost(most) => first.chars().take(*most as usize).collect(),
            Text::Exactly(width) => pad(&first, i64::from(*width), " ", false)?,
        })))
    }
}

/// Filled up to so many characters, or cut off after so many.
fn pad(text: &str, width: i64, fill: &str, left: bool) -> Result<String, Stop> {
    if width > RESULT_MAX {
        return Err(Stop::Ask);
    }
    let width = usize::try_from(width).unwrap_or(0);
    let kept: String = text.chars().take(width).collect();
    let missing = width - kept.chars().count();
    let filling: String = fill.chars().cycle().take(missing).collect();
    Ok(if left { filling + &kept } else { kept + &filling })
}
