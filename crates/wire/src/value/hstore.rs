//! hstore values: `"a"=>"1", "b"=>NULL` (PostgreSQL docs, appendix "hstore").

use super::encode_string;
use super::quoted::split_quoted;

/// Appends an object of strings and nulls.
pub(super) fn encode(text: &str, out: &mut Vec<u8>) -> bool {
    out.push(b'{');
    let complete = text.is_empty() || encode_pairs(text, out).is_some();
    out.push(b'}');
    complete
}

fn encode_pairs(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = text;
    loop {
        let (key, behind) = split_quoted(rest)?;
        encode_string(&key, out);
        out.push(b':');
        let value = behind.strip_prefix("=>")?;
        rest = if let Some(behind) = value.strip_prefix("NULL") {
            out.extend_from_slice(b"null");
            behind
        } else {
            let (value, behind) = split_quoted(value)?;
            encode_string(&value, out);
            behind
        };
        if rest.is_empty() {
            return Some(());
        }
        rest = rest.strip_prefix(", ")?;
        out.push(b',');
    }
}
