//! Composite values: `(1,"a b",)` (PostgreSQL docs, "Composite Type Input and Output Syntax").

use std::borrow::Cow;

use super::{Shape, encode_part, encode_string};

/// Appends an object with the fields in their order. A value with more or fewer fields than the type is not of
/// the shape: the type was altered since, and to guess would put values under wrong names.
pub(super) fn encode(fields: &[(String, Shape)], text: &str, out: &mut Vec<u8>) -> bool {
    let Some(inner) = text.strip_prefix('(') else {
        return false;
    };
    out.push(b'{');
    let rest = if fields.is_empty() { Some(inner) } else { encode_fields(fields, inner, out) };
    out.push(b'}');
    rest == Some(")")
}

fn encode_fields<'t>(fields: &[(String, Shape)], text: &'t str, out: &mut Vec<u8>) -> Option<&'t str> {
    let mut rest = text;
    for (index, (name, shape)) in fields.iter().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix(',')?;
            out.push(b',');
        }
        let (value, behind) = split_field(rest)?;
        encode_string(name, out);
        out.push(b':');
        encode_part(shape, value, out);
        rest = behind;
    }
    Some(rest)
}

/// One field, `None` for NULL, and what follows it. Quotes may open anywhere in it; inside them a quote is
/// doubled, and a backslash takes what follows it literally.
fn split_field(text: &str) -> Option<(Option<Cow<'_, str>>, &str)> {
    const PLAIN_END: [char; 5] = [',', ')', '(', '"', '\\'];

    let end = text.find(PLAIN_END)?;
    if matches!(text.as_bytes()[end], b',' | b')') {
        let (value, rest) = text.split_at(end);
        let value = (!value.is_empty()).then_some(Cow::Borrowed(value));
        return Some((value, rest));
    }
    let mut value = String::new();
    let mut quoted = false;
    let mut rest = text;
    loop {
        let at = if quoted { rest.find(['"', '\\'])? } else { rest.find(PLAIN_END)? };
        value.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        match rest.as_bytes()[at] {
            b',' | b')' => return Some((Some(Cow::Owned(value)), &rest[at..])),
            b'(' => return None,
            b'\\' => {
                let escaped = behind.chars().next()?;
                value.push(escaped);
                rest = &behind[escaped.len_utf8()..];
            }
            // A quote: doubled it is one, else it opens or closes.
            _ => match behind.strip_prefix('"') {
                Some(behind) if quoted => {
                    value.push('"');
                    rest = behind;
                }
                _ => {
                    quoted = !quoted;
                    rest = behind;
                }
            },
        }
    }
}
