//! Arrays: `{1,2}`, `{{"a b",NULL},{c,d}}`, `[0:1]={1,2}` (PostgreSQL docs, "Array Input and Output Syntax").

use std::borrow::Cow;

use super::quoted::split_quoted;
use super::{Shape, encode_part};

/// PostgreSQL's MAXDIM.
const DIMENSIONS_MAX: usize = 6;

/// Appends nested JSON arrays. Lower bounds are lost, as in `to_jsonb`.
pub(super) fn encode(element: &Shape, delimiter: char, text: &str, out: &mut Vec<u8>) -> bool {
    let syntax = Syntax { element, delimiter };
    skip_bounds(text).and_then(|text| syntax.dimension(text, DIMENSIONS_MAX, out)) == Some("")
}

/// Behind `[1:2][-1:0]=`, which is there when a lower bound is not 1.
fn skip_bounds(text: &str) -> Option<&str> {
    if !text.starts_with('[') {
        return Some(text);
    }
    let (bounds, braces) = text.split_once('=')?;
    let is_bound = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'[' | b']' | b':' | b'-' | b'+');
    bounds.bytes().all(is_bound).then_some(braces)
}

/// What the elements are, and what stands between them.
struct Syntax<'a> {
    element: &'a Shape,
    delimiter: char,
}

impl Syntax<'_> {
    /// Writes one pair of braces and what is in it; gives back what follows.
    fn dimension<'t>(&self, text: &'t str, dimensions_left: usize, out: &mut Vec<u8>) -> Option<&'t str> {
        let dimensions_left = dimensions_left.checked_sub(1)?;
        let mut rest = text.strip_prefix('{')?;
        out.push(b'[');
        if let Some(behind) = rest.strip_prefix('}') {
            out.push(b']');
            return Some(behind);
        }
        loop {
            rest = if rest.starts_with('{') {
                self.dimension(rest, dimensions_left, out)?
            } else {
                let (value, behind) = self.split_element(rest)?;
                encode_part(self.element, value, out);
                behind
            };
            if let Some(behind) = rest.strip_prefix('}') {
                out.push(b']');
                return Some(behind);
            }
            rest = rest.strip_prefix(self.delimiter)?;
            out.push(b',');
        }
    }

    /// One element, `None` for NULL, and what follows it.
    fn split_element<'t>(&self, text: &'t str) -> Option<(Option<Cow<'t, str>>, &'t str)> {
        if text.starts_with('"') {
            let (value, rest) = split_quoted(text)?;
            return Some((Some(value), rest));
        }
        let end = text.find([self.delimiter, '}', '{', '"', '\\'])?;
        let (value, rest) = text.split_at(end);
        // An element that is empty or spells NULL is printed in quotes.
        match value {
            "" => None,
            "NULL" => Some((None, rest)),
            _ => Some((Some(Cow::Borrowed(value)), rest)),
        }
    }
}
