//! Text between quotes with backslashes, as array elements and hstore strings have it.

use std::borrow::Cow;

/// Splits `"…"` off the start of `text`: what the quotes hold, unescaped, and what follows them.
pub(super) fn split_quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let inner = text.strip_prefix('"')?;
    let first = inner.find(['"', '\\'])?;
    if inner.as_bytes()[first] == b'"' {
        return Some((Cow::Borrowed(&inner[..first]), &inner[first + 1..]));
    }
    let mut value = String::with_capacity(inner.len().min(first * 2 + 32));
    let mut rest = inner;
    loop {
        let at = rest.find(['"', '\\'])?;
        value.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        if rest.as_bytes()[at] == b'"' {
            return Some((Cow::Owned(value), behind));
        }
        let escaped = behind.chars().next()?;
        value.push(escaped);
        rest = &behind[escaped.len_utf8()..];
    }
}
