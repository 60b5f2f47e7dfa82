//! JSON Web Tokens, key sets, and the claims they carry.
//!
//! A token comes in as text and leaves as [`Claims`], or as a [`TokenError`] that knows what a client is told at the
//! handshake, at a join and on an open channel. The clock is the caller's: every check takes the time as an argument.
//!
//! In reading order:
//!
//! * [`mod@error`] — what can be wrong with a token or with the configured keys, and the words for it;
//! * `compact` — the text of a token taken apart, before anything in it is believed;
//! * `algorithm` — which signature algorithms are accepted, and the one kind of key each may be used with;
//! * `key_set` — a JSON Web Key Set made into usable keys;
//! * `key_store` — where the key set comes from (text, file, URL), and when it is read again;
//! * `claims` — the rules for `exp`, `iat`, `role` and configured claims;
//! * `verifier` — the one door: signature, then claims;
//! * `operator` — the door for tokens of operations;
//! * `secret` — a text that is never printed, and the refusal of secrets everybody knows;
//! * `signing` — making tokens, for development and tests.

mod algorithm;
mod claims;
mod compact;
pub mod error;
mod key_set;
mod key_store;
mod operator;
mod secret;
mod signing;
mod verifier;

pub use claims::Claims;
pub use error::{KeyError, TokenError};
pub use key_store::JwksSource;
pub use operator::{OperatorKeys, OperatorSettings, ProjectUsers, Standing};
pub use secret::{Secret, WeakSecret, refuse_sample_secret};
pub use signing::{SigningError, sign};
pub use verifier::{Verifier, VerifierSettings};
