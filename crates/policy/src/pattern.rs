//! `LIKE`, `ILIKE` and the part of `~` that means the same here as in PostgreSQL
//! (PostgreSQL docs, "Pattern Matching").

mod regular;

pub(crate) use self::regular::Expression;

/// The pattern ends in the middle of an escape, and matching got there.
pub(crate) struct DanglingEscape;

/// Matches `text` against a `LIKE` pattern with `\` as the escape.
///
/// The error is raised only where PostgreSQL raises it: when matching arrives at a lone trailing escape.
pub(crate) fn like(text: &str, pattern: &str) -> Result<bool, DanglingEscape> {
    Ok(matches!(walk(text, pattern)?, Walk::Match))
}

/// How matching a rest of the text ended. `Exhausted` means that no later start can match either.
enum Walk {
    Match,
    Mismatch,
    Exhausted,
}

fn walk(text: &str, pattern: &str) -> Result<Walk, DanglingEscape> {
    let mut text = text.chars();
    let mut pattern = pattern.chars();
    while !text.as_str().is_empty() {
        let Some(expected) = pattern.next() else { return Ok(Walk::Mismatch) };
        match expected {
            '%' => return any_run(text.as_str(), pattern.as_str()),
            '_' => {
                text.next();
            }
            _ => {
                let literal = if expected == '\\' { pattern.next().ok_or(DanglingEscape)? } else { expected };
                if text.next() != Some(literal) {
                    return Ok(Walk::Mismatch);
                }
            }
        }
    }
    // The text is used up: what is left of the pattern must match nothing.
    let rest = pattern.as_str().trim_start_matches('%');
    Ok(if rest.is_empty() { Walk::Match } else { Walk::Exhausted })
}

/// Matches after a `%`: skips what follows it of `%` and `_`, then tries each place where the next literal stands.
fn any_run(text: &str, pattern: &str) -> Result<Walk, DanglingEscape> {
    let mut text = text.chars();
    let mut pattern = pattern;
    while let Some(wildcard) = pattern.chars().next().filter(|wildcard| matches!(wildcard, '%' | '_')) {
        if wildcard == '_' && text.next().is_none() {
            return Ok(Walk::Exhausted);
        }
        pattern = &pattern[1..];
    }
    let mut following = pattern.chars();
    let first = match following.next() {
        None => return Ok(Walk::Match),
        Some('\\') => following.next().ok_or(DanglingEscape)?,
        Some(literal) => literal,
    };
    while !text.as_str().is_empty() {
        if text.as_str().starts_with(first) {
            match walk(text.as_str(), pattern)? {
                Walk::Mismatch => {}
                decided @ (Walk::Match | Walk::Exhausted) => return Ok(decided),
            }
        }
        text.next();
    }
    Ok(Walk::Exhausted)
}

/// The `LIKE` pattern that means with `\` as the escape what `pattern` means with `escape`, as
/// `like_escape` makes it. An empty `escape` is none.
pub(crate) fn with_backslashes(pattern: &str, escape: &str) -> Option<String> {
    if escape == "\\" {
        return Some(pattern.to_owned());
    }
    let mut characters = escape.chars();
    let escape = characters.next();
    if characters.next().is_some() {
        return None;
    }
    let mut translated = String::with_capacity(pattern.len() + 8);
    let mut escaped = false;
    for character in pattern.chars() {
        if Some(character) == escape && !escaped {
            translated.push('\\');
            escaped = true;
            continue;
        }
        if character == '\\' && !escaped {
            translated.push('\\');
        }
        translated.push(character);
        escaped = false;
    }
    Some(translated)
}

/// The regular expression that `SIMILAR TO` matches with, as `similar_to_escape` makes it; `None` for what
/// versions understand differently.
pub(crate) fn similar_to(pattern: &str, escape: &str) -> Option<String> {
    let mut characters = escape.chars();
    let escape = characters.next();
    if characters.next().is_some() {
        return None;
    }
    let mut translated = String::from("^(?:");
    let mut in_class = false;
    let mut pattern = pattern.chars();
    while let Some(character) = pattern.next() {
        if Some(character) == escape {
            // `""` separates the parts of a substring.
            let escaped = pattern.next().filter(|escaped| *escaped != '"' && !in_class)?;
            translated.push('\\');
            translated.push(escaped);
            continue;
        }
        match character {
            '\\' | '.' | '^' | '$' if !in_class => {
                translated.push('\\');
                translated.push(character);
            }
            '\\' => return None,
            '%' if !in_class => translated.push_str(".*"),
            '_' if !in_class => translated.push('.'),
            '(' if !in_class => translated.push_str("(?:"),
            _ => {
                in_class = (in_class || character == '[') && character != ']';
                translated.push(character);
            }
        }
    }
    translated.push_str(")$");
    Some(translated)
}

/// ASCII text in lower case, where that is the same in every locale: not where an `I` is (Turkish has another
/// small letter for it), and not outside ASCII. `None` leaves it to PostgreSQL.
pub(crate) fn lower(text: &str) -> Option<String> {
    (text.is_ascii() && !text.contains('I')).then(|| text.to_ascii_lowercase())
}

/// As [`lower`], in upper case.
pub(crate) fn upper(text: &str) -> Option<String> {
    (text.is_ascii() && !text.contains('i')).then(|| text.to_ascii_uppercase())
}

/// `ILIKE`, decided where both ways to write a small `I` agree; `Ok(None)` leaves it to PostgreSQL.
pub(crate) fn ilike(text: &str, pattern: &str) -> Result<Option<bool>, DanglingEscape> {
    if !text.is_ascii() || !pattern.is_ascii() {
        return Ok(None);
    }
    let fold = |text: &str, small: char| -> String {
        text.chars()
            .map(|character| if character == 'I' { small } else { character.to_ascii_lowercase() })
            .collect()
    };
    let usual = like(&fold(text, 'i'), &fold(pattern, 'i'))?;
    let dotless = like(&fold(text, '\u{131}'), &fold(pattern, '\u{131}'))?;
    Ok((usual == dotless).then_some(usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;

    #[test]
    fn like_walks_wildcards_and_escapes() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "%", true),
            ("", "_", false),
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "_b_", true),
            ("abc", "%b%", true),
            ("abc", "a", false),
            ("a%c", "a\\%c", true),
            ("abc", "a\\%c", false),
            ("añb", "a_b", true),
            ("aaab", "%aab", true),
            ("abcabd", "%abd%_", false),
            ("a\\", "a\\\\", true),
        ] {
            assert_eq!(like(text, pattern).ok(), Some(expected), "{text} LIKE {pattern}");
        }
    }

    #[test]
    fn patterns_with_another_escape_are_translated() {
        for (pattern, escape, expected) in [
            ("a!%b", "!", "a\\%b"),
            ("a\\%", "!", "a\\\\%"),
            ("a!\\", "!", "a\\\\"),
            ("a!!", "!", "a\\!"),
            ("a\\%", "", "a\\\\%"),
            ("a\\%", "\\", "a\\%"),
        ] {
            assert_eq!(with_backslashes(pattern, escape).as_deref(), Some(expected), "{pattern} {escape}");
        }
        assert_eq!(with_backslashes("a", "ab"), None);
        assert_eq!(similar_to("(a|b)_%.", "\\").as_deref(), Some("^(?:(?:a|b)..*\\.)$"));
        assert_eq!(similar_to("[%_]!%", "!").as_deref(), Some("^(?:[%_]\\%)$"));
        assert_eq!(similar_to("a\\\"b", "\\"), None);
    }

    #[test]
    fn a_dangling_escape_fails_only_where_matching_arrives_at_it() {
        assert!(like("ab", "a\\").is_err());
        assert!(like("ab", "%\\").is_err());
        assert_eq!(like("b", "a\\").ok(), Some(false));
        assert_eq!(like("a", "a\\").ok(), Some(false));
    }

    #[test]
    fn ignoring_case_is_decided_only_where_no_locale_differs() {
        assert_eq!(ilike("ABC", "a%").ok(), Some(Some(true)));
        assert_eq!(ilike("ITEM", "I%").ok(), Some(Some(true)));
        assert_eq!(ilike("ITEM", "i%").ok(), Some(None));
        assert_eq!(ilike("ITEM", "x%").ok(), Some(Some(false)));
        assert_eq!(ilike("É", "é").ok(), Some(None));
        assert_eq!(lower("ID"), None);
        assert_eq!(lower("Ab-1"), Some("ab-1".to_owned()));
        assert_eq!(upper("ab"), Some("AB".to_owned()));
        assert_eq!(upper("hi"), None);
    }

    proptest! {
        #[test]
        fn like_agrees_with_a_regular_expression(text in "[ab%_]{0,12}", pattern in "[ab%_]{0,8}") {
            let mut reference = String::from("(?s)\\A");
            for character in pattern.chars() {
                match character {
                    '%' => reference.push_str(".*"),
                    '_' => reference.push('.'),
                    other => reference.push(other),
                }
            }
            reference.push_str("\\z");
            let expected = Regex::new(&reference).unwrap().is_match(&text);
            prop_assert_eq!(like(&text, &pattern).ok(), Some(expected));
        }
    }
}
