//! What must not stand in a log: tokens, keys and passwords, wherever they travel.
//!
//! Clients send their token in the query string of the handshake (docs/protocol.md §1.2), so no query string is
//! logged at all, and other texts of strangers only after a look at them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Stands where the secret stood.
const REDACTED: &str = "[redacted]";

/// Query parameters and header names whose values are secret, in lower case and without `-` and `_`.
const SECRET_NAMES: &[&str] = &[
    "accesstoken",
    "apikey",
    "authorization",
    "jwt",
    "password",
    "refreshtoken",
    "secret",
    "token",
    "usertoken",
    "xapikey",
];

/// Any text, such as an error's, in which tokens, secret parameters and the passwords of URLs are replaced.
pub fn redact_text(text: &str) -> Cow<'_, str> {
    let mut clean = String::with_capacity(text.len());
    let mut changed = false;
    let mut announced = false;
    for piece in text.split_inclusive(is_delimiter) {
        let word = piece.trim_end_matches(is_delimiter);
        let redacted = redact_word(word, announced);
        changed |= redacted.is_some();
        clean.push_str(redacted.as_deref().unwrap_or(word));
        clean.push_str(&piece[word.len()..]);
        if !word.is_empty() {
            announced = announces_secret(word);
        }
    }
    if changed { Cow::Owned(clean) } else { Cow::Borrowed(text) }
}

fn redact_word(word: &str, announced: bool) -> Option<String> {
    if word.is_empty() || word == REDACTED {
        return None;
    }
    if is_secret_pair(word) {
        return word.split_once('=').map(|(name, _)| format!("{name}={REDACTED}"));
    }
    // `Authorization: Bearer x`: the scheme is shown and announces what follows.
    if (announced && !announces_secret(word)) || looks_like_token(word) {
        return Some(REDACTED.to_owned());
    }
    let (scheme, rest) = word.split_once("://")?;
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let (user, host) = rest[..authority_end].rsplit_once('@')?;
    let (user, _) = user.split_once(':')?;
    Some(format!("{scheme}://{user}:{REDACTED}@{host}{}", &rest[authority_end..]))
}

fn is_delimiter(character: char) -> bool {
    character.is_whitespace()
        || matches!(character, '"' | '\'' | '&' | '?' | ';' | ',' | '(' | ')' | '<' | '>' | '`')
}

/// A word after which a secret comes.
fn announces_secret(word: &str) -> bool {
    let lower_case = word.to_ascii_lowercase();
    matches!(lower_case.as_str(), "bearer" | "basic")
        || lower_case.strip_suffix(':').is_some_and(is_secret_name)
}

/// A JSON Web Token begins with the base64url of `{"`, and has dots.
fn looks_like_token(word: &str) -> bool {
    word.find("eyJ").is_some_and(|start| word[start..].contains('.'))
}

fn is_secret_pair(pair: &str) -> bool {
    pair.split_once('=').is_some_and(|(name, value)| !value.is_empty() && is_secret_name(name))
}

fn is_secret_name(name: &str) -> bool {
    let plain: String = percent_decode_str(name)
        .decode_utf8_lossy()
        .chars()
        .filter(|character| !matches!(character, '-' | '_' | ' '))
        .map(|character| character.to_ascii_lowercase())
        .collect();
    SECRET_NAMES.contains(&plain.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2lnbmF0dXJl";

    #[test]
    fn names_are_recognised_in_any_spelling() {
        for name in ["APIKEY", "api_key", "api%6Bey", "x-api-key", "access_token", "user_token", "Jwt"] {
            assert_eq!(redact_text(&format!("{name}=hidden")), format!("{name}=[redacted]"));
        }
    }

    #[test]
    fn texts_lose_tokens_parameters_headers_and_passwords() {
        for (text, clean) in [
            (format!("bad token {TOKEN}, sorry"), "bad token [redacted], sorry".to_owned()),
            (
                format!("GET /websocket?apikey={TOKEN}&vsn=1"),
                "GET /websocket?apikey=[redacted]&vsn=1".to_owned(),
            ),
            ("Authorization: Bearer abc".to_owned(), "Authorization: Bearer [redacted]".to_owned()),
            ("x-api-key: sb_secret_1 next".to_owned(), "x-api-key: [redacted] next".to_owned()),
            (
                "cannot reach postgres://ana:pw@db:5432/app".to_owned(),
                "cannot reach postgres://ana:[redacted]@db:5432/app".to_owned(),
            ),
            ("password=abc host=db".to_owned(), "password=[redacted] host=db".to_owned()),
        ] {
            assert_eq!(redact_text(&text), clean);
        }
    }

    #[test]
    fn harmless_texts_are_left_alone() {
        for text in
            ["", "the slot \"walcast\" is active", "a=b", "https://host/path", "token expired", "é?&é"]
        {
            assert!(matches!(redact_text(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
