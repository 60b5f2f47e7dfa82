//! JSON as text: a string quoted, members put into an object without rebuilding it.

use crate::object;
use crate::value::encode_string;

/// `text` as a JSON string, quotes included.
pub fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    encode_string(text, &mut out);
    into_string(out)
}

/// The text of a JSON object with `members` (name and JSON text) added at its end.
///
/// Everything else stays byte for byte as it was, unless the object has one of these names already: then it is copied
/// member by member without them, so that no name stands twice. Text that is not an object is returned unchanged.
pub fn with_members(object_text: &str, members: &[(&str, &str)]) -> String {
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let Some(kept) = without_members(object_text, &names) else {
        return object_text.to_owned();
    };
    let Some(body) = kept.trim_end().strip_suffix('}') else {
        return object_text.to_owned();
    };
    let mut out = Vec::with_capacity(kept.len() + 32 * members.len());
    out.extend_from_slice(body.as_bytes());
    let mut first = body.trim() == "{";
    for (name, json) in members {
        if !first {
            out.push(b',');
        }
        first = false;
        encode_string(name, &mut out);
        out.push(b':');
        out.extend_from_slice(json.as_bytes());
    }
    out.push(b'}');
    into_string(out)
}

/// The text of a JSON object without the members of these names; unchanged where it has none of them.
/// `None` when the text is not an object.
pub(crate) fn without_members(object_text: &str, names: &[&str]) -> Option<String> {
    let members = object::members(object_text)?;
    if !members.iter().any(|(name, _)| names.contains(&name.as_ref())) {
        return Some(object_text.to_owned());
    }
    let mut out = Vec::with_capacity(object_text.len());
    out.push(b'{');
    for (name, value) in members.iter().filter(|(name, _)| !names.contains(&name.as_ref())) {
        if out.len() > 1 {
            out.push(b',');
        }
        encode_string(name, &mut out);
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b'}');
    Some(into_string(out))
}

/// The first `bytes_max` bytes of a text that may be long, cut between characters, for messages.
pub(crate) fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// The buffers of this module are made of whole strings only, so nothing is ever replaced here.
fn into_string(out: Vec<u8>) -> String {
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_escaped_as_rfc_8259_demands_and_no_more() {
        assert_eq!(
            quoted("a\"b\\c\n\r\t\u{8}\u{c}\u{1}\u{1f} é/😀"),
            r#""a\"b\\c\n\r\t\b\f\u0001\u001f é/😀""#
        );
        assert_eq!(quoted(""), r#""""#);
    }

    #[test]
    fn members_are_added_at_the_end_and_the_rest_stays_verbatim() {
        assert_eq!(with_members(r#"{ "a" : 1.0 }"#, &[("id", "7")]), r#"{ "a" : 1.0 ,"id":7}"#);
        assert_eq!(with_members("{}", &[("id", "7"), ("b", "{}")]), r#"{"id":7,"b":{}}"#);
        assert_eq!(with_members("{ \n }", &[("id", "7")]), "{ \n \"id\":7}");
    }

    #[test]
    fn a_member_the_object_has_already_is_replaced_however_it_is_spelled() {
        assert_eq!(
            with_members(r#"{"id":1,"a":[ 2 ],"\u0069d":3}"#, &[("id", "7")]),
            r#"{"a":[ 2 ],"id":7}"#
        );
        assert_eq!(with_members(r#"{"id":1}"#, &[("id", "7")]), r#"{"id":7}"#);
    }

    #[test]
    fn text_that_is_no_object_is_left_alone() {
        assert_eq!(with_members("[1]", &[("id", "7")]), "[1]");
        assert_eq!(with_members("", &[("id", "7")]), "");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shortened("aéé", 2), "a…");
        assert_eq!(shortened("aé", 3), "aé");
    }
}
