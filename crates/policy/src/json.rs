//! `jsonb` as PostgreSQL means it (PostgreSQL docs, "JSON Types"): exact numbers, the last of equal keys wins,
//! keys ordered by length first, and the containment rules with their exception for arrays.

pub(crate) mod raw;

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::numeric::{Numeric, Unreadable, is_space};

/// A `jsonb` value. Derived equality is of representation; for SQL's see [`Json::equals`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(Numeric),
    String(String),
    Array(Vec<Json>),
    /// Sorted by the keys' length, then bytes; no key twice.
    Object(Vec<(String, Json)>),
}

/// Deeper nesting is refused, as PostgreSQL refuses what exhausts its stack.
const DEPTH_MAX: usize = 512;

impl Json {
    /// Reads what `jsonb_in` reads.
    pub(crate) fn read(text: &str) -> Result<Json, Unreadable> {
        let mut reader = Reader { text, at: 0 };
        let json = reader.value(0)?;
        reader.skip_space();
        if reader.at == text.len() { Ok(json) } else { Err(reader.invalid()) }
    }

    /// An object of these fields; of equal keys the last stays.
    pub(crate) fn object(mut fields: Vec<(String, Json)>) -> Json {
        // Stable: among equal keys the last one given comes last.
        fields.sort_by(|left, right| order_of_keys(&left.0, &right.0));
        fields.reverse();
        fields.dedup_by(|later, earlier| later.0 == earlier.0);
        fields.reverse();
        Json::Object(fields)
    }

    /// SQL's `=`: numbers by value, everything else by content.
    pub(crate) fn equals(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Number(left), Json::Number(right)) => left.compare(right) == Ordering::Equal,
            (Json::Array(left), Json::Array(right)) => {
                left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left.equals(right))
            }
            (Json::Object(left), Json::Object(right)) => {
                left.len() == right.len()
                    && left
                        .iter()
                        .zip(right)
                        .all(|(left, right)| left.0 == right.0 && left.1.equals(&right.1))
            }
            _ => self == other,
        }
    }

    /// SQL's `@>`. At the top, an array may contain a bare scalar; nested, it may not.
    pub(crate) fn contains(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Array(elements), scalar) if scalar.is_scalar() => {
                elements.iter().any(|element| element.equals(scalar))
            }
            _ => self.contains_alike(other),
        }
    }

    fn contains_alike(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Object(_), Json::Object(fields)) => fields
                .iter()
                .all(|(key, right)| self.field(key).is_some_and(|left| left.contains_alike(right))),
            (Json::Array(left), Json::Array(right)) => {
                right.iter().all(|right| left.iter().any(|left| left.contains_alike(right)))
            }
            _ => self.is_scalar() && self.equals(other),
        }
    }

    /// SQL's `?`: a key of an object, a string element of an array, or the very string.
    pub(crate) fn has(&self, key: &str) -> bool {
        let is_key = |json: &Json| matches!(json, Json::String(string) if string == key);
        match self {
            Json::Object(_) => self.field(key).is_some(),
            Json::Array(elements) => elements.iter().any(is_key),
            scalar => is_key(scalar),
        }
    }

    /// SQL's `->` with a key.
    pub(crate) fn field(&self, key: &str) -> Option<&Json> {
        let Json::Object(fields) = self else { return None };
        let found = fields.binary_search_by(|(name, _)| order_of_keys(name, key)).ok()?;
        Some(&fields[found].1)
    }

    /// SQL's `->` with a position, negative ones from the end. A bare scalar is an array of itself.
    pub(crate) fn element(&self, position: i64) -> Option<&Json> {
        let elements = match self {
            Json::Array(elements) => elements.as_slice(),
            Json::Object(_) => return None,
            scalar => std::slice::from_ref(scalar),
        };
        let length = i64::try_from(elements.len()).ok()?;
        let position = if position < 0 { position.checked_add(length)? } else { position };
        elements.get(usize::try_from(position).ok()?)
    }

    /// One step of SQL's `#>`: a key, or a position written as text.
    pub(crate) fn step(&self, step: &str) -> Option<&Json> {
        match self {
            Json::Object(_) => self.field(step),
            Json::Array(_) => self.element(position(step)?),
            _ => None,
        }
    }

    /// What `->>` gives: `None` for JSON null, strings bare, the rest as JSON text.
    pub(crate) fn to_sql_text(&self) -> Option<String> {
        match self {
            Json::Null => None,
            Json::String(string) => Some(string.clone()),
            other => Some(other.to_text()),
        }
    }

    /// What `jsonb_out` prints.
    pub(crate) fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// What `jsonb_typeof` says.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "boolean",
            Json::Number(_) => "number",
            Json::String(_) => "string",
            Json::Array(_) => "array",
            Json::Object(_) => "object",
        }
    }

    fn is_scalar(&self) -> bool {
        !matches!(self, Json::Array(_) | Json::Object(_))
    }

    fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(number) => out.push_str(&number.to_text()),
            Json::String(string) => write_string(string, out),
            Json::Array(elements) => {
                out.push('[');
                for (index, element) in elements.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    element.write(out);
                }
                out.push(']');
            }
            Json::Object(fields) => {
                out.push('{');
                for (index, (key, value)) in fields.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    write_string(key, out);
                    out.push_str(": ");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

fn order_of_keys(left: &str, right: &str) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.as_bytes().cmp(right.as_bytes()))
}

/// A position in a `#>` path, as C's `strtol` reads it into an `int`.
fn position(text: &str) -> Option<i64> {
    let number = text.trim_start_matches(is_space);
    number.parse::<i32>().ok().map(i64::from)
}

fn write_string(string: &str, out: &mut String) {
    out.push('"');
    for character in string.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            control if control < ' ' => {
                // Writing into a String never fails.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn invalid(&self) -> Unreadable {
        Unreadable::Invalid(format!("invalid input syntax for type json at byte {}", self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), Unreadable> {
        if !self.text[self.at..].starts_with(token) {
            return Err(self.invalid());
        }
        self.at += token.len();
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Json, Unreadable> {
        if depth > DEPTH_MAX {
            return Err(Unreadable::Invalid("JSON is nested too deeply".to_owned()));
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Json::String(self.string()?)),
            Some(b't') => self.expect("true").map(|()| Json::Bool(true)),
            Some(b'f') => self.expect("false").map(|()| Json::Bool(false)),
            Some(b'n') => self.expect("null").map(|()| Json::Null),
            _ => self.number(),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, Unreadable> {
        let mut fields: Vec<(String, Json)> = Vec::new();
        self.expect("{")?;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(fields));
        }
        loop {
            self.skip_space();
            let key = self.string()?;
            self.skip_space();
            self.expect(":")?;
            let value = self.value(depth + 1)?;
            fields.push((key, value));
            self.skip_space();
            if self.peek() == Some(b',') {
                self.at += 1;
                continue;
            }
            self.expect("}")?;
            return Ok(Json::object(fields));
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, Unreadable> {
        let mut elements = Vec::new();
        self.expect("[")?;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array(elements));
        }
        loop {
            elements.push(self.value(depth + 1)?);
            self.skip_space();
            if self.peek() == Some(b',') {
                self.at += 1;
                continue;
            }
            self.expect("]")?;
            return Ok(Json::Array(elements));
        }
    }

    fn number(&mut self) -> Result<Json, Unreadable> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let integer = self.digits();
        if integer == 0 || (integer > 1 && self.text.as_bytes()[self.at - integer] == b'0') {
            return Err(self.invalid());
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(self.invalid());
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.invalid());
            }
        }
        Numeric::read(&self.text[start..self.at]).map(Json::Number)
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Result<String, Unreadable> {
        self.expect("\"")?;
        let mut string = String::new();
        loop {
            let rest = &self.text[self.at..];
            let stop = rest.find(|character: char| character == '"' || character == '\\' || character < ' ');
            let stop = stop.ok_or_else(|| self.invalid())?;
            string.push_str(&rest[..stop]);
            self.at += stop + 1;
            match rest.as_bytes()[stop] {
                b'"' => return Ok(string),
                b'\\' => string.push(self.escape()?),
                _ => return Err(self.invalid()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Unreadable> {
        let escaped = self.peek().ok_or_else(|| self.invalid())?;
        self.at += 1;
        Ok(match escaped {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => {
                self.at -= 1;
                return Err(self.invalid());
            }
        })
    }

    fn unicode_escape(&mut self) -> Result<char, Unreadable> {
        let first = self.hexadecimal()?;
        let code = if (0xD800..0xDC00).contains(&first) {
            self.expect("\\u")?;
            let second = self.hexadecimal()?;
            if !(0xDC00..0xE000).contains(&second) {
                return Err(self.invalid());
            }
            0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
        } else {
            first
        };
        // jsonb can not hold the zero character.
        char::from_u32(code).filter(|character| *character != '\0').ok_or_else(|| self.invalid())
    }

    fn hexadecimal(&mut self) -> Result<u32, Unreadable> {
        let digits = self.text.get(self.at..self.at + 4).ok_or_else(|| self.invalid())?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(self.invalid());
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).map_err(|_| self.invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(text: &str) -> Json {
        Json::read(text).unwrap()
    }

    #[test]
    fn text_comes_out_as_jsonb_prints_it() {
        for (given, printed) in [
            (r#"{"bb":1,"a":1.50,"b":[ 1,true ,null]}"#, r#"{"a": 1.50, "b": [1, true, null], "bb": 1}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a": 2}"#),
            (r#""\u00e9\n\u0001\ud83d\ude00""#, "\"é\\n\\u0001😀\""),
            ("1e3", "1000"),
            (" [] ", "[]"),
        ] {
            assert_eq!(json(given).to_text(), printed);
        }
    }

    #[test]
    fn what_jsonb_refuses_is_refused() {
        for wrong in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "01",
            "+1",
            "1.",
            ".5",
            "'a'",
            "\"\\u0000\"",
            "\"\\ud800\"",
            "\"\n\"",
            "nul",
            "1 2",
            "\"\\x\"",
            "-",
        ] {
            assert!(matches!(Json::read(wrong), Err(Unreadable::Invalid(_))), "{wrong}");
        }
        assert!(Json::read(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn containment_follows_the_rules_for_arrays_and_bare_scalars() {
        for (left, right, contained) in [
            (r#"{"a":1,"b":{"c":2}}"#, r#"{"b":{}}"#, true),
            (r#"{"a":[1,2,3]}"#, r#"{"a":[3,1]}"#, true),
            (r#"{"a":[1]}"#, r#"{"a":1}"#, false),
            (r#"["x","y"]"#, r#""x""#, true),
            (r#""x""#, r#"["x"]"#, false),
            ("[[1,2]]", "[[2]]", true),
            ("[1,[2]]", "[2]", false),
            ("1.0", "1", true),
            ("[]", "[]", true),
            ("{}", "[]", false),
        ] {
            assert_eq!(json(left).contains(&json(right)), contained, "{left} @> {right}");
        }
    }

    #[test]
    fn positions_count_from_both_ends() {
        let array = json("[10,20,30]");
        assert_eq!(array.element(-1), Some(&json("30")));
        assert_eq!(array.element(3), None);
        assert_eq!(array.element(i64::MIN), None);
        assert_eq!(array.step(" +1"), Some(&json("20")));
        assert_eq!(array.step("1x"), None);
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_printing_can_be_read_again(text in r#"[\[\]{}",:\\ua0-9tfn. é]{0,40}"#) {
            if let Ok(value) = Json::read(&text) {
                prop_assert_eq!(Json::read(&value.to_text()), Ok(value));
            }
        }
    }
}
