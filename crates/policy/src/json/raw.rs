//! `json`, whose values come out as they were written: what `->`, `->>` and `#>` find in the text itself.

use crate::json::{Reader, position};
use crate::numeric::Unreadable;

/// Refuses what `json_in` refuses. Unsure about escapes that `json` keeps and `jsonb` does not.
pub(crate) fn check(text: &str) -> Result<(), Unreadable> {
    let mut reader = Reader { text, at: 0 };
    let read = reader.value(0).and_then(|_| {
        reader.skip_space();
        if reader.at == text.len() { Ok(()) } else { Err(reader.invalid()) }
    });
    read.map_err(|unreadable| if text.contains("\\u") { Unreadable::Unsure } else { unreadable })
}

/// `json -> key`: of equal keys the last.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Result<Option<&'a str>, Unreadable> {
    let mut found = None;
    let mut reader = Reader { text, at: 0 };
    reader.skip_space();
    if reader.peek() != Some(b'{') {
        return Ok(None);
    }
    reader.expect("{")?;
    reader.skip_space();
    if reader.peek() == Some(b'}') {
        return Ok(None);
    }
    loop {
        reader.skip_space();
        let name = reader.string()?;
        reader.skip_space();
        reader.expect(":")?;
        let value = spanned(&mut reader)?;
        if name == key {
            found = Some(value);
        }
        if reader.peek() != Some(b',') {
            reader.expect("}")?;
            return Ok(found);
        }
        reader.expect(",")?;
    }
}

/// `json -> position`, negative ones from the end.
pub(crate) fn element(text: &str, position: i64) -> Result<Option<&str>, Unreadable> {
    let mut reader = Reader { text, at: 0 };
    reader.skip_space();
    if reader.peek() != Some(b'[') {
        return Ok(None);
    }
    reader.expect("[")?;
    reader.skip_space();
    let mut elements = Vec::new();
    while reader.peek() != Some(b']') {
        elements.push(spanned(&mut reader)?);
        if reader.peek() == Some(b',') {
            reader.expect(",")?;
        }
    }
    let length = i64::try_from(elements.len()).unwrap_or(i64::MAX);
    let position = if position < 0 { position.saturating_add(length) } else { position };
    Ok(usize::try_from(position).ok().and_then(|at| elements.get(at).copied()))
}

/// `json #> path`.
pub(crate) fn path<'a>(text: &'a str, steps: &[impl AsRef<str>]) -> Result<Option<&'a str>, Unreadable> {
    let mut found = text.trim_matches([' ', '\t', '\n', '\r']);
    for step in steps {
        let step = step.as_ref();
        let next = match (found.as_bytes().first(), position(step)) {
            (Some(b'['), Some(position)) => element(found, position)?,
            (Some(b'{'), _) => field(found, step)?,
            _ => None,
        };
        match next {
            Some(next) => found = next,
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

/// What `->>` makes of a value: `None` for null, strings bare, the rest as written.
pub(crate) fn to_sql_text(value: &str) -> Result<Option<String>, Unreadable> {
    if value.starts_with('"') {
        return Reader { text: value, at: 0 }.string().map(Some);
    }
    Ok((value != "null").then(|| value.to_owned()))
}

/// The text of the value that comes next, and the space around it skipped.
fn spanned<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Unreadable> {
    reader.skip_space();
    let start = reader.at;
    reader.value(0)?;
    let value = &reader.text[start..reader.at];
    reader.skip_space();
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_out_as_they_were_written() {
        let text = r#" {"a" : 1.0e1, "b": [ {"c":"x\ty"} , null,2 ], "a": { } } "#;
        assert_eq!(field(text, "a"), Ok(Some("{ }")));
        assert_eq!(field(text, "none"), Ok(None));
        let array = field(text, "b").unwrap().unwrap();
        assert_eq!(element(array, -1), Ok(Some("2")));
        assert_eq!(element(array, 3), Ok(None));
        assert_eq!(element(text, 0), Ok(None));
        assert_eq!(path(text, &["b", "0", "c"]), Ok(Some(r#""x\ty""#)));
        assert_eq!(to_sql_text(r#""x\ty""#), Ok(Some("x\ty".to_owned())));
        assert_eq!(to_sql_text("null"), Ok(None));
        assert_eq!(to_sql_text("1.0e1"), Ok(Some("1.0e1".to_owned())));
    }

    #[test]
    fn escapes_that_only_json_keeps_are_left_open() {
        assert_eq!(check(r#"{"a": "\u0000"}"#), Err(Unreadable::Unsure));
        assert!(matches!(check("{"), Err(Unreadable::Invalid(_))));
        assert_eq!(check(" [1, 2] "), Ok(()));
    }
}
