//! `json` and `jsonb` values. `jsonb` is printed normalised; `json` is the text that somebody wrote.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// Nesting down to which `json` is normalised. What is deeper goes out as it was written: it is valid as it is,
/// and the stack is finite.
const DEPTH_NORMALISED_MAX: usize = 256;

/// Appends `jsonb` output.
pub(super) fn encode_verbatim(text: &str, out: &mut Vec<u8>) -> bool {
    let valid = is_json(text);
    if valid {
        out.extend_from_slice(text.as_bytes());
    }
    valid
}

/// Appends `json` output with the keys of objects in the order of `jsonb` (shorter ones first, then by bytes),
/// the last of equal ones kept, and its spacing. Numbers and strings stay as they were written.
pub(super) fn encode_normalised(text: &str, out: &mut Vec<u8>) -> bool {
    if !is_json(text) {
        return false;
    }
    let trimmed = text.trim_matches(is_space);
    match Parser::parse(trimmed) {
        Some(node) => node.write(out),
        None => out.extend_from_slice(trimmed.as_bytes()),
    }
    true
}

/// Any depth is fine: `serde_json` skips values without recursion.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

/// A JSON value that keeps the text of what it does not need to understand.
enum Node<'a> {
    /// A number, string, boolean or null.
    Scalar(&'a str),
    Array(Vec<Node<'a>>),
    /// Sorted by key, without duplicates.
    Object(Vec<Member<'a>>),
}

struct Member<'a> {
    /// What the key says.
    key: Cow<'a, str>,
    /// How it was written, with quotes.
    written: &'a str,
    value: Node<'a>,
}

impl Node<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Node::Scalar(text) => out.extend_from_slice(text.as_bytes()),
            Node::Array(elements) => {
                out.push(b'[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    element.write(out);
                }
                out.push(b']');
            }
            Node::Object(members) => {
                out.push(b'{');
                for (index, member) in members.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    out.extend_from_slice(member.written.as_bytes());
                    out.extend_from_slice(b": ");
                    member.value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

/// Reads text that is known to be JSON; `None` only where it is nested too deep.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn parse(text: &'a str) -> Option<Node<'a>> {
        Parser { rest: text }.value(DEPTH_NORMALISED_MAX)
    }

    fn value(&mut self, depth_left: usize) -> Option<Node<'a>> {
        match self.peek()? {
            b'{' => self.object(depth_left.checked_sub(1)?),
            b'[' => self.array(depth_left.checked_sub(1)?),
            b'"' => self.string().map(Node::Scalar),
            _ => {
                let ends = |character: char| is_space(character) || matches!(character, ',' | ']' | '}');
                let length = self.rest.find(ends).unwrap_or(self.rest.len());
                Some(Node::Scalar(self.take(length)))
            }
        }
    }

    fn array(&mut self, depth_left: usize) -> Option<Node<'a>> {
        let mut elements = Vec::new();
        self.take(1);
        while self.peek()? != b']' {
            elements.push(self.value(depth_left)?);
            if self.peek()? == b',' {
                self.take(1);
            }
        }
        self.take(1);
        Some(Node::Array(elements))
    }

    fn object(&mut self, depth_left: usize) -> Option<Node<'a>> {
        let mut members = Vec::new();
        self.take(1);
        while self.peek()? != b'}' {
            let written = self.string()?;
            self.peek()?;
            self.take(1);
            let value = self.value(depth_left)?;
            members.push(Member { key: read_key(written), written, value });
            if self.peek()? == b',' {
                self.take(1);
            }
        }
        self.take(1);
        Some(Node::Object(normalise(members)))
    }

    /// A string as it is written, quotes included.
    fn string(&mut self) -> Option<&'a str> {
        self.peek()?;
        let bytes = self.rest.as_bytes();
        let mut at = 1;
        loop {
            at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
            if bytes[at] == b'"' {
                return Some(self.take(at + 1));
            }
            at += 2;
        }
    }

    /// The next byte that is not space.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_start_matches(is_space);
        self.rest.bytes().next()
    }

    /// Only called with lengths that end behind an ASCII character or at the end.
    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }
}

/// A key's text. One that escapes half a surrogate pair has none; it is told from others by how it is written.
fn read_key(written: &str) -> Cow<'_, str> {
    let inner = &written[1..written.len() - 1];
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    serde_json::from_str::<String>(written).map_or(Cow::Borrowed(inner), Cow::Owned)
}

/// The order of `jsonb`, and of equal keys the last.
fn normalise(mut members: Vec<Member<'_>>) -> Vec<Member<'_>> {
    members.sort_by(|one, other| {
        let by_length = one.key.len().cmp(&other.key.len());
        by_length.then_with(|| one.key.as_bytes().cmp(other.key.as_bytes()))
    });
    members.dedup_by(|later, earlier| {
        let same = later.key == earlier.key;
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    members
}
