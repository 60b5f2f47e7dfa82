//! A text that is never printed, and the refusal of secrets everybody knows.

use std::collections::BTreeSet;
use std::fmt;

/// A text that `Debug` does not print: a password, a signing secret, a URL with credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Whoever calls this takes care not to print it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// HMAC-SHA256 keys must not be shorter than its output (RFC 7518 §3.2).
pub(crate) const SECRET_BYTES_MIN: usize = 32;

/// Fewer different characters than this is a filler such as `000…`, not a secret.
const DISTINCT_CHARACTERS_MIN: usize = 6;

/// Secrets from published examples, in lower case. Whoever has one of these can be impersonated by anyone who reads.
const SAMPLES: &[&str] = &[
    "secret",
    "changeme",
    "password",
    "mysecret",
    "jwt_secret",
    "jwt-secret",
    "your-256-bit-secret",
    "your-384-bit-secret",
    "your-512-bit-secret",
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-384-bits-long",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
    "reallyreallyreallyreallyverysafe",
    "dc447559-996d-4761-a306-f47a5eab1623",
    "upnvntn3cdxhjpq99ymc1t1aqgqpc8kfyturgbiya15blrx8etqoxz3gzv1/u2oq",
];

/// Words that only stand in a placeholder.
const SAMPLE_PARTS: &[&str] = &[
    "super-secret-jwt-token",
    "super-secret-and-long",
    "super-secret-key",
    "at-least-32-characters",
    "at-least-32-chars",
    "your-jwt-secret",
    "your_jwt_secret",
    "your-secret",
    "your_secret",
    "change-me",
    "change_me",
    "changeme",
    "replace-me",
    "replace_me",
];

/// Why a secret must not sign tokens. Never contains the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakSecret {
    /// Under 32 bytes.
    #[error(
        "the JWT secret has {bytes} bytes where at least 32 are needed: make one with `openssl rand -base64 48`"
    )]
    TooShort {
        /// Its length.
        bytes: usize,
    },
    /// It stands in public documentation.
    #[error(
        "the JWT secret is a published sample, so anyone can sign tokens with it: \
         make one with `openssl rand -base64 48`"
    )]
    Sample,
    /// It repeats a few characters.
    #[error("the JWT secret repeats a few characters: make one with `openssl rand -base64 48`")]
    Repetitive,
}

/// Refuses a signing secret that is a published sample, repeats a few characters or has under 32 bytes.
pub fn refuse_sample_secret(secret: &str) -> Result<(), WeakSecret> {
    let lower_case = secret.trim().to_lowercase();
    if SAMPLES.contains(&lower_case.as_str()) || SAMPLE_PARTS.iter().any(|part| lower_case.contains(part)) {
        return Err(WeakSecret::Sample);
    }
    if secret.len() < SECRET_BYTES_MIN {
        return Err(WeakSecret::TooShort { bytes: secret.len() });
    }
    if secret.chars().collect::<BTreeSet<char>>().len() < DISTINCT_CHARACTERS_MIN {
        return Err(WeakSecret::Repetitive);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_samples_are_refused_in_any_case() {
        for sample in [
            "super-secret-jwt-token-with-at-least-32-characters-long",
            "your-super-secret-jwt-token-with-at-least-32-characters-long",
            "YOUR-SUPER-SECRET-JWT-TOKEN-WITH-AT-LEAST-32-CHARACTERS-LONG",
            "your-super-secret-and-long-postgres-password",
            "your-256-bit-secret",
            "a-string-secret-at-least-256-bits-long",
            "reallyreallyreallyreallyverysafe",
            "UpNVntn3cDxHJpq99YMc1T1AQgQpc8kfYTuRgBiYa15BLrx8etQoXz3gZv1/u2oq",
            "secret",
            "changeme",
        ] {
            assert_eq!(refuse_sample_secret(sample), Err(WeakSecret::Sample), "{sample}");
        }
    }

    #[test]
    fn short_and_repetitive_secrets_are_refused() {
        assert_eq!(refuse_sample_secret(""), Err(WeakSecret::TooShort { bytes: 0 }));
        assert_eq!(refuse_sample_secret(&"aB3$".repeat(7)), Err(WeakSecret::TooShort { bytes: 28 }));
        assert_eq!(refuse_sample_secret(&"0".repeat(64)), Err(WeakSecret::Repetitive));
    }

    #[test]
    fn a_random_secret_is_accepted() {
        assert_eq!(refuse_sample_secret("9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI"), Ok(()));
        assert_eq!(refuse_sample_secret("4f1c6a0be2d9873355aa0c1d7e9f2b64"), Ok(()));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", Secret::new("hidden text")).contains("hidden"));
    }
}
