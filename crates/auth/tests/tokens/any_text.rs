//! Whatever a stranger sends is answered, never a panic.

use proptest::prelude::*;
use serde_json::json;
use walcast_auth::{TokenError, Verifier};

use crate::issuer::{self, Key, NOW, sign_with_secret, text};

const SECRET: &str = "9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI";

thread_local! {
    static VERIFIER: Verifier = issuer::verifier(Some(SECRET), &[Key::p256().jwk("one"), Key::rsa().jwk("one")]);
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().build().unwrap();
}

fn refusal(token: &str) -> Option<TokenError> {
    let result =
        VERIFIER.with(|verifier| RUNTIME.with(|runtime| runtime.block_on(verifier.verify(token, NOW))));
    let error = result.err()?;
    let words = [error.handshake().1, error.join_reason(), error.close_message(), error.to_string()];
    assert!(words.iter().all(|text| !text.is_empty()));
    Some(error)
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        ".*".prop_map(|value| json!(value)),
        Just(json!("one")),
        Just(json!("anon")),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(|list| json!(list)))
}

proptest! {
    #[test]
    fn any_text_is_refused(token in ".*") {
        prop_assert!(refusal(&token).is_some());
    }

    #[test]
    fn any_three_parts_are_refused(header in any::<Vec<u8>>(), payload in any::<Vec<u8>>(), signature in any::<Vec<u8>>()) {
        let token = format!("{}.{}.{}", text(header), text(payload), text(signature));
        prop_assert!(refusal(&token).is_some());
    }

    #[test]
    fn any_header_with_any_signature_is_refused(
        algorithm in prop_oneof![Just("HS256"), Just("RS256"), Just("ES256"), Just("EdDSA"), Just("none")],
        key_id in any_json(),
        signature in any::<Vec<u8>>(),
    ) {
        let header = json!({"alg": algorithm, "kid": key_id}).to_string();
        let token = format!("{}.{}.{}", text(header), text(issuer::payload().to_string()), text(signature));
        prop_assert!(refusal(&token).is_some());
    }

    #[test]
    fn rightly_signed_claims_of_any_kind_never_panic(role in any_json(), expiry in any_json(), issued in any_json()) {
        let payload = json!({"role": role, "exp": expiry, "iat": issued, "sub": role});
        let token = sign_with_secret(SECRET.as_bytes(), &json!({"alg": "HS256"}), &payload);
        let accepted = refusal(&token).is_none();
        prop_assert!(!accepted || (payload["role"].is_string() && payload["exp"].is_number()));
    }
}
