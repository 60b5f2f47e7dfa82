//! The three people of the demo data, and the tokens that are made for them.

use serde::Serialize;
use serde_json::json;
use walcast_auth::{Secret, SigningError};

/// How long a token of the demo lives, in seconds. Short enough that the page's renewal is seen to work.
const TOKEN_SECONDS: i64 = 3600;

/// How long an API key of the demo lives, in seconds: ten years. A client keeps it for as long as its window is open.
const API_KEY_SECONDS: i64 = 10 * 365 * 24 * 3600;

/// One of the people in `sql/demo/`.
#[derive(Debug, Serialize)]
pub(super) struct Person {
    /// What the page's address names the person by.
    pub(super) handle: &'static str,
    /// `sub` of the person's tokens.
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    /// Whether the person takes requests: claim `app_metadata.rol` is `operador`, else `cliente`.
    pub(super) operator: bool,
}

pub(super) const PEOPLE: &[Person] = &[
    Person { handle: "ana", id: "00000000-0000-4000-8000-0000000000a1", name: "Ana", operator: false },
    Person { handle: "bruno", id: "00000000-0000-4000-8000-0000000000b2", name: "Bruno", operator: true },
    Person { handle: "carla", id: "00000000-0000-4000-8000-0000000000c3", name: "Carla", operator: false },
];

/// A token and when it ends.
pub(super) struct Token {
    pub(super) text: String,
    /// Unix time, in seconds.
    pub(super) expires_at: i64,
}

impl Person {
    pub(super) fn by_handle(handle: &str) -> Option<&'static Self> {
        PEOPLE.iter().find(|person| person.handle == handle)
    }

    /// Signs a token of the role `authenticated` for this person.
    pub(super) fn token(&self, secret: &Secret, now_unix_seconds: f64) -> Result<Token, SigningError> {
        let issued_at = whole(now_unix_seconds);
        let expires_at = issued_at + TOKEN_SECONDS;
        let rol = if self.operator { "operador" } else { "cliente" };
        let claims = json!({
            "aud": "authenticated",
            "role": "authenticated",
            "sub": self.id,
            "name": self.name,
            "app_metadata": { "rol": rol },
            "iat": issued_at,
            "exp": expires_at,
        });
        let text = walcast_auth::sign(&claims, secret.expose())?;
        Ok(Token { text, expires_at })
    }
}

/// Signs what a stock client calls its API key: a token of the role `anon`, which opens the socket and may see nothing.
/// Each channel brings the token of its person.
pub(super) fn api_key(secret: &Secret, now_unix_seconds: f64) -> Result<String, SigningError> {
    let issued_at = whole(now_unix_seconds);
    let claims = json!({ "role": "anon", "iat": issued_at, "exp": issued_at + API_KEY_SECONDS });
    walcast_auth::sign(&claims, secret.expose())
}

#[allow(clippy::cast_possible_truncation, reason = "the seconds since 1970 fit for a long while")]
fn whole(seconds: f64) -> i64 {
    seconds.floor() as i64
}
