//! `ref` and `join_ref`: opaque values of the client that are echoed verbatim (docs/protocol.md §2.1, §2.2).

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::json_text;

/// The JSON text of a `ref` or `join_ref`, of any JSON type. Clones are cheap; short ones take no allocation at all.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Ref(Repr);

/// A short text is always `Inline` with zeroes behind it, so that derived equality is equality of the text.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
enum Repr {
    #[default]
    Null,
    Inline {
        length: u8,
        bytes: [u8; INLINE_BYTES],
    },
    /// Thin: every channel keeps a reference, and hardly any is long.
    Shared(Arc<Box<str>>),
}

const INLINE_BYTES: usize = 14;

impl Ref {
    /// The JSON `null`: the reference of what the server sends unasked.
    pub const NULL: Ref = Ref(Repr::Null);

    /// The longest reference that is accepted, in bytes of JSON text. Real ones have a few digits; a channel keeps its
    /// own for as long as it lives, so an unbounded one would be memory the client decides about.
    pub const BYTES_MAX: usize = 1024;

    /// The JSON `null`.
    pub fn null() -> Self {
        Self::NULL
    }

    /// From valid JSON text, kept as it is.
    pub fn from_json(json: &str) -> Self {
        if json == "null" {
            return Self::NULL;
        }
        let mut bytes = [0; INLINE_BYTES];
        match (bytes.get_mut(..json.len()), u8::try_from(json.len())) {
            (Some(start), Ok(length)) => {
                start.copy_from_slice(json.as_bytes());
                Ref(Repr::Inline { length, bytes })
            }
            _ => Ref(Repr::Shared(Arc::new(json.into()))),
        }
    }

    /// The JSON string of `text`, as binary frames carry their references. The empty text stays `""`.
    pub fn from_text(text: &str) -> Self {
        Self::from_json(&json_text::quoted(text))
    }

    /// The JSON text, as the client sent it.
    pub fn as_json(&self) -> &str {
        match &self.0 {
            Repr::Null => "null",
            // Always the bytes of a `str`; the fallback can not be reached.
            Repr::Inline { length, bytes } => bytes
                .get(..usize::from(*length))
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
                .unwrap_or("null"),
            Repr::Shared(text) => text,
        }
    }

    /// The number that it is, or that it spells as a string, as client libraries count their messages; `None` for anything
    /// else, and for zero.
    pub fn number(&self) -> Option<NonZeroU32> {
        let json = self.as_json();
        let digits = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(json);
        // Numbers of the standard library may have a sign.
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    }

    /// Whether this is `null`.
    pub fn is_null(&self) -> bool {
        self.0 == Repr::Null
    }
}

impl fmt::Debug for Ref {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Ref({})", self.as_json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_of_any_json_type_and_length_is_echoed_verbatim() {
        let long = format!("\"{}\"", "é".repeat(300));
        for json in ["null", "\"7\"", "7", "1.50", "{\"a\":[1]}", "true", long.as_str()] {
            assert_eq!(Ref::from_json(json).as_json(), json);
            assert_eq!(Ref::from_json(json), Ref::from_json(json));
        }
        assert!(Ref::from_json("null").is_null());
        assert_ne!(Ref::from_json("7"), Ref::from_json("\"7\""));
    }

    #[test]
    fn a_counted_reference_is_a_number_and_any_other_is_none() {
        for (json, number) in [("\"13\"", 13), ("13", 13), ("\"4294967295\"", u32::MAX)] {
            assert_eq!(Ref::from_json(json).number().map(NonZeroU32::get), Some(number));
        }
        for json in ["null", "0", "\"\"", "\"+1\"", "-1", "1.5", "\"1a\"", "\"4294967296\"", "true", "[1]"] {
            assert_eq!(Ref::from_json(json).number(), None, "{json}");
        }
    }

    #[test]
    fn the_reference_of_a_binary_frame_equals_the_same_string_in_a_text_frame() {
        assert_eq!(Ref::from_text("1"), Ref::from_json("\"1\""));
        assert_eq!(Ref::from_text("").as_json(), "\"\"");
        assert_eq!(Ref::from_text("a\"b").as_json(), r#""a\"b""#);
    }
}
