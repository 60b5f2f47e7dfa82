//! A token as text, and claims that are signed rightly, so that what is behind the signature is reached, too.
#![no_main]

use std::sync::LazyLock;

use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use walcast_auth::{Secret, Verifier, VerifierSettings};

const SECRET: &str = "a secret of the fuzz target, long enough";

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let claim_validators = [("iss".to_owned(), "me".into())].into_iter().collect();
    let secret = Some(Secret::new(SECRET));
    Verifier::new(VerifierSettings { secret, claim_validators, ..VerifierSettings::default() })
        .expect("a secret is enough")
});

fuzz_target!(|text: &str| {
    let verified = |token: &str| {
        VERIFIER.verify(token, 1_800_000_000.0).now_or_never().expect("no key has to be fetched")
    };
    let _ = verified(text);
    if let Ok(claims) = serde_json::from_str(text)
        && let Ok(token) = walcast_auth::sign(&claims, SECRET)
        && let Ok(claims) = verified(&token)
    {
        assert!(!claims.role.is_empty());
    }
});
