//! Regular expressions: the part of PostgreSQL's language that means the same in the regex crate.

use std::hash::{Hash, Hasher};

use regex::Regex;

/// A regular expression that was translated; equal when written equally.
#[derive(Clone, Debug)]
pub(crate) struct Expression {
    written: String,
    insensitive: bool,
    /// Only ASCII text means the same here: the pattern has classes or ignores case.
    ascii_only: bool,
    /// Only text without an `I` does: the pattern ignores case and may mean one, and Turkish has others.
    not_with_i: bool,
    compiled: Regex,
}

impl Expression {
    /// Translates a POSIX advanced expression; the error says what is not known to be equal.
    pub(crate) fn translate(written: &str, insensitive: bool) -> Result<Expression, &'static str> {
        let (bare, insensitive) = match written.strip_prefix("(?i)") {
            Some(bare) => (bare, true),
            None => (written, insensitive),
        };
        let translated = Translation::of(bare)?;
        let compiled = regex::RegexBuilder::new(&translated.text)
            .size_limit(256 * 1024)
            .case_insensitive(insensitive)
            .dot_matches_new_line(true)
            .build()
            .map_err(|_| "the regular expression is too large or not understood")?;
        let ascii_only = translated.has_class || insensitive;
        let not_with_i = insensitive && (translated.has_class || bare.contains(['i', 'I', '[']));
        Ok(Expression { written: written.to_owned(), insensitive, ascii_only, not_with_i, compiled })
    }

    /// Whether the text matches; `None` leaves it to PostgreSQL.
    pub(crate) fn matches(&self, text: &str) -> Option<bool> {
        let unsure = self.ascii_only && !text.is_ascii() || self.not_with_i && text.contains(['i', 'I']);
        (!unsure).then(|| self.compiled.is_match(text))
    }

    /// Whether [`Expression::matches`] answers for every text.
    pub(crate) fn is_total(&self) -> bool {
        !self.ascii_only
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written && self.insensitive == other.insensitive
    }
}

impl Eq for Expression {}

impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.written.hash(state);
        self.insensitive.hash(state);
    }
}

/// The subset: literals, `.`, `^` and `$` at the ends of branches, groups, branches, bracket expressions of
/// ASCII characters, ranges and classes, `\d \w \s`, word boundaries, escaped punctuation, the quantifiers, and
/// `(?i)` before everything.
struct Translation {
    text: String,
    has_class: bool,
}

/// What may come next in an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// The start of a branch.
    Start,
    /// Something that can be repeated.
    Atom,
    /// A quantifier or an anchor, which can not.
    Fixed,
}

impl Translation {
    fn of(written: &str) -> Result<Translation, &'static str> {
        if written.starts_with("***") || written.starts_with("(?") {
            return Err("the regular expression begins with options");
        }
        if !written.is_ascii() {
            return Err("the regular expression has characters outside ASCII");
        }
        let mut translation =
            Translation { text: String::with_capacity(written.len() + 8), has_class: false };
        translation.branches(written.as_bytes())?;
        Ok(translation)
    }

    fn branches(&mut self, written: &[u8]) -> Result<(), &'static str> {
        let mut at = 0;
        let mut depth = 0usize;
        let mut last = Last::Start;
        while at < written.len() {
            let byte = written[at];
            at += 1;
            last = match byte {
                b'(' => {
                    depth += 1;
                    if written[at..].starts_with(b"?:") {
                        at += 2;
                    } else if written.get(at) == Some(&b'?') {
                        return Err("look-around in a regular expression");
                    }
                    self.text.push_str("(?:");
                    Last::Start
                }
                b')' if depth > 0 && last != Last::Start => {
                    depth -= 1;
                    self.text.push(')');
                    Last::Atom
                }
                b'|' if last != Last::Start => {
                    self.text.push('|');
                    Last::Start
                }
                b'^' if last == Last::Start => self.anchor("\\A"),
                b'$' if matches!(written.get(at), None | Some(b'|' | b')')) => self.anchor("\\z"),
                b'*' | b'+' | b'?' | b'{' if last == Last::Atom => {
                    at = self.quantifier(written, at - 1)?;
                    Last::Fixed
                }
                b'[' => {
                    at = self.bracket(written, at)?;
                    Last::Atom
                }
                b'\\' => {
                    let escaped = written.get(at).copied();
                    at += 1;
                    if let Some(boundary) = escaped.and_then(boundary) {
                        self.has_class = true;
                        self.anchor(boundary)
                    } else {
                        self.escape(escaped)?;
                        Last::Atom
                    }
                }
                b'.' => {
                    self.text.push('.');
                    Last::Atom
                }
                b'^' | b'$' | b'*' | b'+' | b'?' | b'{' | b'}' | b']' | b')' | b'|' => {
                    return Err("a regular expression form that is not translated");
                }
                literal => {
                    self.literal(literal);
                    Last::Atom
                }
            };
        }
        if depth > 0 || (last == Last::Start && !written.is_empty()) {
            return Err("an empty branch in a regular expression");
        }
        Ok(())
    }

    fn anchor(&mut self, translated: &str) -> Last {
        self.text.push_str(translated);
        Last::Fixed
    }

    fn literal(&mut self, literal: u8) {
        if literal.is_ascii_punctuation() {
            self.text.push('\\');
        }
        self.text.push(char::from(literal));
    }

    fn escape(&mut self, escaped: Option<u8>) -> Result<(), &'static str> {
        match escaped {
            Some(class @ (b'd' | b'w' | b's' | b'D' | b'W' | b'S')) => {
                self.has_class = true;
                self.text.push('\\');
                self.text.push(char::from(class));
                Ok(())
            }
            Some(punctuation) if punctuation.is_ascii_punctuation() && punctuation != b'_' => {
                self.literal(punctuation);
                Ok(())
            }
            _ => Err("an escape in a regular expression that is not translated"),
        }
    }

    /// `*`, `+`, `?`, `{m}`, `{m,}`, `{m,n}`, each with an optional `?`; gives where it ends.
    fn quantifier(&mut self, written: &[u8], start: usize) -> Result<usize, &'static str> {
        let mut end = start + 1;
        if written[start] == b'{' {
            let length = written[start..].iter().position(|byte| *byte == b'}');
            end = start + length.ok_or("an open bound in a regular expression")? + 1;
            let inside = std::str::from_utf8(&written[start + 1..end - 1]).unwrap_or("");
            let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
            let number = |text: &str| text.parse::<u8>().ok().filter(|_| !text.starts_with('+'));
            let least = number(least).ok_or("a bound in a regular expression")?;
            if !most.is_empty() && number(most).is_none_or(|most| most < least) {
                return Err("a bound in a regular expression");
            }
        }
        let lazy = written.get(end) == Some(&b'?');
        self.text.push_str(std::str::from_utf8(&written[start..end]).unwrap_or(""));
        Ok(end + usize::from(lazy))
    }

    /// A class within a bracket expression (`[:alpha:]`, `\d`) or an escaped character, which begins no range;
    /// gives its length.
    fn class(&mut self, written: &[u8]) -> Option<usize> {
        if let [b'\\', escaped, ..] = written {
            return match escaped {
                b'd' | b'w' | b's' => self.escape(Some(*escaped)).ok().map(|()| 2),
                punctuation if punctuation.is_ascii_punctuation() && *punctuation != b'_' => {
                    self.literal(*punctuation);
                    Some(2)
                }
                _ => None,
            };
        }
        let named = ["[:alpha:]", "[:digit:]", "[:alnum:]", "[:lower:]", "[:upper:]", "[:space:]"]
            .into_iter()
            .find(|class| written.starts_with(class.as_bytes()))?;
        self.has_class = true;
        self.text.push_str(named);
        Some(named.len())
    }

    /// `[a-z0-9_]` or `[^…]`; gives where it ends.
    fn bracket(&mut self, written: &[u8], start: usize) -> Result<usize, &'static str> {
        let mut at = start;
        self.text.push('[');
        if written.get(at) == Some(&b'^') {
            self.text.push('^');
            at += 1;
        }
        let first = at;
        loop {
            let byte = *written.get(at).ok_or("an open bracket in a regular expression")?;
            if let Some(length) = self.class(&written[at..]) {
                at += length;
                if written.get(at) == Some(&b'-') && written.get(at + 1) != Some(&b']') {
                    return Err("a bracket expression that is not translated");
                }
                continue;
            }
            match byte {
                b']' if at > first => break,
                b']' | b'[' | b'\\' | b'^' => return Err("a bracket expression that is not translated"),
                b'-' if at > first && written.get(at + 1) != Some(&b']') => {
                    return Err("a bracket expression that is not translated");
                }
                _ => {}
            }
            self.literal(byte);
            at += 1;
            if written.get(at) == Some(&b'-') && written.get(at + 1).is_some_and(|end| *end != b']') {
                let end = written[at + 1];
                let alike = |class: fn(&u8) -> bool| class(&byte) && class(&end);
                let same_class = alike(u8::is_ascii_digit)
                    || alike(u8::is_ascii_lowercase)
                    || alike(u8::is_ascii_uppercase);
                if !same_class || end < byte {
                    return Err("a range in a bracket expression that is not translated");
                }
                self.text.push('-');
                self.literal(end);
                at += 2;
            }
        }
        self.text.push(']');
        Ok(at + 1)
    }
}

/// What `\A`, `\Z`, `\m`, `\M` and `\y` are called here.
fn boundary(escaped: u8) -> Option<&'static str> {
    Some(match escaped {
        b'A' => "\\A",
        b'Z' => "\\z",
        b'm' => "\\b{start}",
        b'M' => "\\b{end}",
        b'y' => "\\b",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn translated_expressions_match_as_written() {
        for (pattern, text, expected) in [
            ("^a.c$", "a\nc", true),
            ("^a.c$", "abc\n", false),
            ("b", "abc", true),
            ("^(foo|ba[rz])+$", "foobarbaz", true),
            ("^[^a-c]{2,3}$", "xyz", true),
            ("a{2}", "aa", true),
            ("^\\d+\\.\\d$", "12.5", true),
            ("^[-a]$", "-", true),
            ("", "anything", true),
            ("a+?b", "aab", true),
        ] {
            let expression = Expression::translate(pattern, false).unwrap();
            assert_eq!(expression.matches(text), Some(expected), "{text} ~ {pattern}");
        }
        let digits = Expression::translate("\\d", false).unwrap();
        assert_eq!(digits.matches("é1"), None);
        for (pattern, text, expected) in [
            ("\\mitem\\M", "an item.", true),
            ("\\mitem\\M", "items", false),
            ("^[[:alpha:]_]+$", "a_b", true),
            ("^[\\w.\\-]+$", "a.b-c", true),
            ("\\Aa\\Z", "a", true),
            ("^\\S+$", "a b", false),
        ] {
            let expression = Expression::translate(pattern, false).unwrap();
            assert_eq!(expression.matches(text), Some(expected), "{text} ~ {pattern}");
        }
    }

    #[test]
    fn forms_with_another_meaning_are_not_translated() {
        for pattern in [
            "(?s)a",
            "***:a",
            "a**",
            "\\Ya",
            "(a)\\1",
            "(?=a)",
            "a|",
            "()",
            "[[:graph:]]",
            "[[:alpha:]-z]",
            "[[.a.]]",
            "a{256}",
            "{a",
            "[a-Z]",
            "^*",
            "é",
            "a^b",
            "[\\D]",
            "a{,2}",
            "(",
            ")",
            "[",
            "a\\",
        ] {
            assert!(Expression::translate(pattern, false).is_err(), "{pattern}");
        }
    }

    #[test]
    fn ignoring_case_is_decided_where_no_locale_differs() {
        let matches = |pattern: &str, text: &str| Expression::translate(pattern, true).unwrap().matches(text);
        assert_eq!(matches("^[a-z]+$", "ABC"), Some(true));
        assert_eq!(matches("^[a-z]+$", "HI"), None);
        assert_eq!(matches("Hi", "ho"), Some(false));
        assert_eq!(matches("Hi", "HI"), None);
        let embedded = Expression::translate("(?i)abc", false).unwrap();
        assert_eq!(embedded.matches("xABCx"), Some(true));
        assert_eq!(Expression::translate("abc", true).unwrap().matches("xABCx"), Some(true));
    }

    proptest! {
        #[test]
        fn translating_and_matching_never_panic(pattern in "\\PC{0,20}", text in "\\PC{0,20}") {
            let _ = crate::pattern::like(&text, &pattern);
            if let Ok(expression) = Expression::translate(&pattern, false) {
                let _ = expression.matches(&text);
            }
        }
    }
}
