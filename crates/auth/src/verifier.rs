//! The one door for tokens: signature, then claims (docs/protocol.md §8.1).

use std::sync::Arc;

use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use crate::algorithm::KeyKind;
use crate::claims::{self, Claims};
use crate::compact::CompactToken;
use crate::error::{KeyError, TokenError};
use crate::key_set::KeySet;
use crate::key_store::{JwksSource, KeyStore};
use crate::secret::Secret;

/// What tokens are verified with.
#[derive(Debug, Clone, Default)]
pub struct VerifierSettings {
    /// The shared secret of the HS algorithms; its bytes are the key, nothing is decoded.
    pub secret: Option<Secret>,
    /// The key set for all other algorithms, and for HS tokens that name a key in it.
    pub jwks: Option<JwksSource>,
    /// Claims that must have these values where a token carries them.
    pub claim_validators: Map<String, Value>,
}

/// Verifies tokens. Shared by all connections of a project.
pub struct Verifier {
    secret: Option<DecodingKey>,
    keys: Option<Arc<KeyStore>>,
    claim_validators: Map<String, Value>,
}

impl Verifier {
    /// Reads the keys that are at hand. A key set behind a URL is fetched when the first token needs it, or by
    /// [`Self::load_keys`].
    pub fn new(settings: VerifierSettings) -> Result<Self, KeyError> {
        let secret = match settings.secret {
            Some(secret) if secret.expose().is_empty() => return Err(KeyError::EmptySecret),
            Some(secret) => Some(DecodingKey::from_secret(secret.expose().as_bytes())),
            None => None,
        };
        let keys = settings.jwks.map(KeyStore::new).transpose()?.map(Arc::new);
        match (&secret, &keys) {
            (None, None) => return Err(KeyError::NoKey),
            (None, Some(store)) => refuse_empty(store)?,
            (Some(_), _) => {}
        }
        Ok(Self { secret, keys, claim_validators: settings.claim_validators })
    }

    /// Reads the key set now, so that a wrong address shows at the start and not at the first token. Does nothing
    /// without a key set from a file or URL.
    pub async fn load_keys(&self, now_unix_seconds: f64) -> Result<(), KeyError> {
        match &self.keys {
            Some(store) => store.load(now_unix_seconds).await,
            None => Ok(()),
        }
    }

    /// Verifies a token that admits a socket or a channel. `token` is URL-decoded by the caller where it came in a
    /// URL; `now_unix_seconds` is the wall clock. Waits only when the token names a key that has to be fetched.
    pub async fn verify(&self, token: &str, now_unix_seconds: f64) -> Result<Claims, TokenError> {
        let token = self.signed(token, now_unix_seconds).await?;
        claims::require(token.payload, token.payload_json)
    }

    /// Verifies a token of operations, which needs neither `role` nor `exp` (docs/protocol.md §11.1).
    pub async fn verify_operator(
        &self,
        token: &str,
        now_unix_seconds: f64,
    ) -> Result<Map<String, Value>, TokenError> {
        self.signed(token, now_unix_seconds).await.map(|token| token.payload)
    }

    /// Whether one of the keys signed the token, or may have: a key set that has not been read yet may hold any key that
    /// the token names. Waits as [`Self::verify`].
    pub(crate) async fn may_have_signed(&self, token: &str, now_unix_seconds: f64) -> bool {
        let Ok(token) = CompactToken::parse(token) else { return false };
        self.check_signature(&token, now_unix_seconds).await.is_ok()
            || token.key_id.is_some() && self.keys.as_ref().is_some_and(|keys| keys.is_empty())
    }

    /// A token whose signature verifies and whose present claims are right.
    async fn signed(&self, token: &str, now_unix_seconds: f64) -> Result<CompactToken, TokenError> {
        let token = CompactToken::parse(token)?;
        self.check_signature(&token, now_unix_seconds).await?;
        claims::check_present(&token.payload, &self.claim_validators, now_unix_seconds)?;
        Ok(token)
    }

    async fn check_signature(&self, token: &CompactToken, now_unix_seconds: f64) -> Result<(), TokenError> {
        let from_set = match (&token.key_id, &self.keys) {
            (Some(id), Some(store)) => self.check_with_set(token, id, store, now_unix_seconds).await,
            _ => None,
        };
        if let Some(result) = from_set {
            return result;
        }
        if token.algorithm.key_kind == KeyKind::Octets
            && let Some(secret) = &self.secret
        {
            return verify_with(secret, token);
        }
        Err(match (&token.key_id, &self.keys) {
            (Some(id), Some(_)) => TokenError::UnknownKey { kid: id.clone() },
            (None, _) => TokenError::NoSigner { reason: "it names no key (`kid`)".to_owned() },
            (Some(_), None) => TokenError::NoSigner { reason: "there is no JSON Web Key Set".to_owned() },
        })
    }

    /// `None` when the set has no key for this token.
    async fn check_with_set(
        &self,
        token: &CompactToken,
        key_id: &str,
        store: &Arc<KeyStore>,
        now_unix_seconds: f64,
    ) -> Option<Result<(), TokenError>> {
        let known = store.current(now_unix_seconds);
        if let Some(result) = verify_with_any(&known.keys, key_id, token) {
            return Some(result);
        }
        // An HS token with an id nobody knows is the secret's: no reason to ask the issuer each time.
        if token.algorithm.key_kind == KeyKind::Octets && self.secret.is_some() {
            return None;
        }
        let fresh = store.after(&known, now_unix_seconds).await;
        verify_with_any(&fresh.keys, key_id, token)
    }
}

fn refuse_empty(store: &KeyStore) -> Result<(), KeyError> {
    let empty = match store.source() {
        JwksSource::Url(_) => false,
        JwksSource::Inline(_) | JwksSource::File(_) => store.is_empty(),
    };
    if !empty {
        return Ok(());
    }
    let problems = store.problems();
    let problems = if problems.is_empty() { "the list `keys` is empty".to_owned() } else { problems };
    Err(KeyError::NoUsableKey { origin: store.source().to_string(), problems })
}

fn verify_with_any(keys: &KeySet, key_id: &str, token: &CompactToken) -> Option<Result<(), TokenError>> {
    let mut result = None;
    for key in keys.matching(key_id, token.algorithm) {
        result = Some(verify_with(key, token));
        if matches!(result, Some(Ok(()))) {
            break;
        }
    }
    result
}

fn verify_with(key: &DecodingKey, token: &CompactToken) -> Result<(), TokenError> {
    let verified =
        jsonwebtoken::crypto::verify(token.signature(), token.message(), key, token.algorithm.library);
    match verified {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(TokenError::BadSignature),
    }
}
