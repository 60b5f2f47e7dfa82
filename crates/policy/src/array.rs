//! Arrays: their text form, equality, containment (PostgreSQL docs, "Arrays").

use crate::numeric::{Unreadable, is_space};
use crate::value::{Kind, Value};

/// An array of any number of dimensions; the elements in row order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Array {
    /// Lower bound and length of each dimension; none for an empty array.
    pub(crate) dimensions: Vec<(i32, i32)>,
    pub(crate) elements: Vec<Option<Value<'static>>>,
}

impl Array {
    /// A one-dimensional array with bounds from 1.
    pub(crate) fn of(elements: Vec<Option<Value<'static>>>) -> Array {
        let dimensions = match i32::try_from(elements.len()) {
            Ok(length) if length > 0 => vec![(1, length)],
            _ => Vec::new(),
        };
        Array { dimensions, elements }
    }

    /// SQL's `=`: same bounds, same elements, NULL equal to NULL.
    pub(crate) fn equals(&self, other: &Array) -> Option<bool> {
        if self.dimensions != other.dimensions || self.elements.len() != other.elements.len() {
            return Some(false);
        }
        for pair in self.elements.iter().zip(&other.elements) {
            let equal = match pair {
                (None, None) => true,
                (Some(left), Some(right)) => left.equals(right)?,
                _ => false,
            };
            if !equal {
                return Some(false);
            }
        }
        Some(true)
    }

    /// SQL's `@>`: every element of `other` is here, and a NULL never is.
    pub(crate) fn contains(&self, other: &Array) -> Option<bool> {
        for element in &other.elements {
            let Some(element) = element else { return Some(false) };
            if !self.has(element)? {
                return Some(false);
            }
        }
        Some(true)
    }

    /// SQL's `&&`: an element in common, NULLs aside.
    pub(crate) fn overlaps(&self, other: &Array) -> Option<bool> {
        for element in other.elements.iter().flatten() {
            if self.has(element)? {
                return Some(true);
            }
        }
        Some(false)
    }

    fn has(&self, wanted: &Value<'_>) -> Option<bool> {
        for element in self.elements.iter().flatten() {
            if element.equals(wanted)? {
                return Some(true);
            }
        }
        Some(false)
    }
}

/// Reads an array literal. What is not well formed is left to PostgreSQL, whose rules changed over time.
pub(crate) fn read(element: &Kind, text: &str) -> Result<Array, Unreadable> {
    let mut rest = text.trim_matches(is_space);
    let bounds = if rest.starts_with('[') { Some(bounds(&mut rest)?) } else { None };
    let mut reader = Reader { element, rest, lengths: Vec::new(), elements: Vec::new() };
    reader.level(0)?;
    if !reader.rest.is_empty() {
        return Err(Unreadable::Unsure);
    }
    let lengths = reader.lengths;
    if reader.elements.is_empty() {
        return if lengths.len() > 1 || bounds.is_some() {
            Err(Unreadable::Unsure)
        } else {
            Ok(Array::default())
        };
    }
    let lower = bounds.unwrap_or_else(|| lengths.iter().map(|length| (1, *length)).collect());
    if lower.len() != lengths.len() || lower.iter().zip(&lengths).any(|(bound, length)| bound.1 != *length) {
        return Err(Unreadable::Unsure);
    }
    Ok(Array { dimensions: lower, elements: reader.elements })
}

/// `[2:4][0:1]=`: lower bounds and lengths; leaves `rest` behind the `=`.
fn bounds(rest: &mut &str) -> Result<Vec<(i32, i32)>, Unreadable> {
    let (written, literal) = rest.split_once('=').ok_or(Unreadable::Unsure)?;
    *rest = literal;
    let inside = written.strip_prefix('[').and_then(|written| written.strip_suffix(']'));
    let each = |bound: &str| {
        let (low, high) = bound.split_once(':')?;
        let (low, high): (i32, i32) = (low.parse().ok()?, high.parse().ok()?);
        let length = high.checked_sub(low)?.checked_add(1)?;
        (length > 0).then_some((low, length))
    };
    inside.ok_or(Unreadable::Unsure)?.split("][").map(|bound| each(bound).ok_or(Unreadable::Unsure)).collect()
}

/// More dimensions than this PostgreSQL refuses.
const DIMENSIONS_MAX: usize = 6;

struct Reader<'a> {
    element: &'a Kind,
    rest: &'a str,
    lengths: Vec<i32>,
    elements: Vec<Option<Value<'static>>>,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches(is_space);
    }

    fn eat(&mut self, expected: char) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// One `{…}`; every one of a level has the same length.
    fn level(&mut self, depth: usize) -> Result<(), Unreadable> {
        if depth == DIMENSIONS_MAX || !self.eat('{') {
            return Err(Unreadable::Unsure);
        }
        let known = self.lengths.len() > depth;
        if !known {
            self.lengths.push(0);
        }
        let mut length = 0;
        let mut nested = None;
        if !self.eat('}') {
            loop {
                self.skip_space();
                let is_nested = self.rest.starts_with('{');
                if *nested.get_or_insert(is_nested) != is_nested {
                    return Err(Unreadable::Unsure);
                }
                if is_nested {
                    self.level(depth + 1)?;
                } else {
                    self.item()?;
                }
                length += 1;
                if self.eat('}') {
                    break;
                }
                if !self.eat(',') {
                    return Err(Unreadable::Unsure);
                }
            }
        }
        let deepest = self.lengths.len() == depth + 1;
        if (known && self.lengths[depth] != length) || (nested != Some(true) && !deepest) {
            return Err(Unreadable::Unsure);
        }
        self.lengths[depth] = length;
        Ok(())
    }

    fn item(&mut self) -> Result<(), Unreadable> {
        let quoted = self.rest.starts_with('"');
        let text = if quoted { self.quoted()? } else { self.bare()? };
        let value = if !quoted && text.eq_ignore_ascii_case("null") {
            None
        } else {
            Some(self.element.read(&text)?.into_owned())
        };
        self.elements.push(value);
        Ok(())
    }

    fn quoted(&mut self) -> Result<String, Unreadable> {
        let mut text = String::new();
        let mut characters = self.rest[1..].chars();
        loop {
            match characters.next() {
                Some('"') => {
                    self.rest = characters.as_str();
                    return Ok(text);
                }
                Some('\\') => text.push(characters.next().ok_or(Unreadable::Unsure)?),
                Some(other) => text.push(other),
                None => return Err(Unreadable::Unsure),
            }
        }
    }

    fn bare(&mut self) -> Result<String, Unreadable> {
        let end = self.rest.find([',', '}', '{', '"', '\\']).ok_or(Unreadable::Unsure)?;
        let text = self.rest[..end].trim_end_matches(is_space).to_owned();
        if text.is_empty() || !self.rest[end..].starts_with([',', '}']) {
            return Err(Unreadable::Unsure);
        }
        self.rest = &self.rest[end..];
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(text: &str) -> Result<Array, Unreadable> {
        read(&Kind::Int4, text)
    }

    fn texts(text: &str) -> Vec<Option<String>> {
        let array = read(&Kind::Text, text).unwrap();
        let text = |value: &Value<'_>| match value {
            Value::Text(text) => text.to_string(),
            other => panic!("{other:?} is no text"),
        };
        array.elements.iter().map(|element| element.as_ref().map(text)).collect()
    }

    #[test]
    fn elements_are_read_with_their_quotes_escapes_and_nulls() {
        let expected = ["a b", "c,\"d\\", "NULL"].map(|text| Some(text.to_owned()));
        assert_eq!(texts(r#"{ a b ,"c,\"d\\","NULL",null}"#), [&expected[..], &[None]].concat());
        assert!(texts("{}").is_empty());
    }

    #[test]
    fn dimensions_and_bounds_are_kept_and_must_fit() {
        assert_eq!(integers("{{1,2},{3,4}}").unwrap().dimensions, [(1, 2), (1, 2)]);
        assert_eq!(integers("[2:3]={1,2}").unwrap().dimensions, [(2, 2)]);
        for wrong in [
            "",
            "{",
            "{1,}",
            "{1}{2}",
            "{{1},{2,3}}",
            "{1,{2}}",
            "{{1},2}",
            "[1:3]={1}",
            "{{}}",
            "1",
            "{\"1}",
        ] {
            assert!(integers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn containment_ignores_order_and_never_finds_null() {
        let array = |text: &str| integers(text).unwrap();
        for (left, right, contains, overlaps) in [
            ("{1,2,3}", "{3,1,1}", true, true),
            ("{1,2}", "{2,4}", false, true),
            ("{1,NULL}", "{NULL}", false, false),
            ("{1}", "{}", true, false),
            ("{{1,2},{3,4}}", "{4}", true, true),
        ] {
            assert_eq!(array(left).contains(&array(right)), Some(contains), "{left} @> {right}");
            assert_eq!(array(left).overlaps(&array(right)), Some(overlaps), "{left} && {right}");
        }
        assert_eq!(array("{1,NULL}").equals(&array("{1,NULL}")), Some(true));
        assert_eq!(array("[0:1]={1,2}").equals(&array("{1,2}")), Some(false));
    }
}
