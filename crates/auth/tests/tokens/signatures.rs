//! Tokens signed by keys of a key set.

use serde_json::json;
use walcast_auth::{KeyError, TokenError, Verifier, VerifierSettings};

use crate::issuer::{Key, NOW, payload, sign_with_secret, verifier};

const SECRET: &str = "9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI";

#[tokio::test]
async fn every_asymmetric_algorithm_is_accepted_by_its_key_and_refused_by_another() {
    for (algorithm, make) in [
        ("RS256", Key::rsa as fn() -> Key),
        ("RS384", Key::rsa),
        ("RS512", Key::rsa),
        ("ES256", Key::p256),
        ("ES384", Key::p384),
        ("EdDSA", Key::ed25519),
        ("Ed25519", Key::ed25519),
    ] {
        let (key, other) = (make(), make());
        let token = key.sign(&json!({"alg": algorithm, "kid": "one"}), &payload());
        let known = verifier(None, &[key.jwk("one")]).verify(&token, NOW).await;
        assert_eq!(known.unwrap().subject.as_deref(), Some("u1"), "{algorithm}");
        let refused = verifier(None, &[other.jwk("one")]).verify(&token, NOW).await.err();
        assert_eq!(refused, Some(TokenError::BadSignature), "{algorithm}");
    }
}

#[tokio::test]
async fn a_shared_key_of_the_set_verifies_hmac_and_stands_before_the_secret() {
    let key = Key::octets();
    let verifier = verifier(Some(SECRET), &[key.jwk("one")]);
    let token = key.sign(&json!({"alg": "HS256", "kid": "one"}), &payload());
    assert!(verifier.verify(&token, NOW).await.is_ok());
    let by_secret = sign_with_secret(SECRET.as_bytes(), &json!({"alg": "HS256", "kid": "one"}), &payload());
    assert_eq!(verifier.verify(&by_secret, NOW).await.err(), Some(TokenError::BadSignature));
}

#[tokio::test]
async fn a_public_key_never_serves_as_an_hmac_secret() {
    let key = Key::rsa();
    let jwk = key.jwk("one");
    let header = json!({"alg": "HS256", "kid": "one"});
    for guess in [key.public_der(), jwk["n"].as_str().unwrap().into(), jwk.to_string().into_bytes()] {
        let token = sign_with_secret(&guess, &header, &payload());
        let without_secret = verifier(None, std::slice::from_ref(&jwk)).verify(&token, NOW).await.err();
        assert_eq!(without_secret, Some(TokenError::UnknownKey { kid: "one".to_owned() }));
        let with_secret = verifier(Some(SECRET), std::slice::from_ref(&jwk)).verify(&token, NOW).await.err();
        assert_eq!(with_secret, Some(TokenError::BadSignature));
    }
}

#[tokio::test]
async fn a_key_of_another_type_or_curve_is_no_match() {
    let (rsa, p256, p384, ed25519) = (Key::rsa(), Key::p256(), Key::p384(), Key::ed25519());
    let set = [rsa.jwk("rsa"), p256.jwk("p256"), p384.jwk("p384"), ed25519.jwk("ed")];
    let verifier = verifier(Some(SECRET), &set);
    for (key, algorithm, id) in [
        (&rsa, "RS256", "p256"),
        (&p256, "ES256", "p384"),
        (&p384, "ES384", "p256"),
        (&ed25519, "EdDSA", "rsa"),
        (&p256, "ES384", "p256"),
    ] {
        let token = key.sign(&json!({"alg": algorithm, "kid": id}), &payload());
        let refused = verifier.verify(&token, NOW).await.err();
        assert_eq!(refused, Some(TokenError::UnknownKey { kid: id.to_owned() }), "{algorithm} {id}");
    }
}

#[tokio::test]
async fn an_unknown_key_is_named_and_a_missing_key_id_is_not() {
    let key = Key::p256();
    let verifier = verifier(Some(SECRET), &[key.jwk("one")]);
    let unknown = key.sign(&json!({"alg": "ES256", "kid": "two"}), &payload());
    assert_eq!(
        verifier.verify(&unknown, NOW).await.err().unwrap().join_reason(),
        "JwtSignerError: Failed to generate JWT signer for key ID (kid) \"two\", \
         check your JWT secret or JWKS configuration"
    );
    let anonymous = key.sign(&json!({"alg": "ES256"}), &payload());
    assert_eq!(
        verifier.verify(&anonymous, NOW).await.err().unwrap().join_reason(),
        "JwtSignerError: Failed to generate JWT signer, check your JWT secret or JWKS configuration"
    );
}

#[tokio::test]
async fn without_a_key_set_an_asymmetric_token_has_no_signer() {
    let settings = VerifierSettings { secret: Some(SECRET.into()), ..VerifierSettings::default() };
    let verifier = Verifier::new(settings).unwrap();
    let token = Key::p256().sign(&json!({"alg": "ES256", "kid": "one"}), &payload());
    let refused = verifier.verify(&token, NOW).await.err();
    assert!(matches!(refused, Some(TokenError::NoSigner { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_algorithm_that_is_not_accepted_has_no_signer_even_with_a_fitting_key() {
    let key = Key::rsa();
    let token = key.sign(&json!({"alg": "PS256", "kid": "one"}), &payload());
    let refused = verifier(None, &[key.jwk("one")]).verify(&token, NOW).await.err();
    assert!(matches!(refused, Some(TokenError::NoSigner { .. })), "{refused:?}");
}

#[tokio::test]
async fn of_two_keys_with_one_id_either_may_verify() {
    let (old, new) = (Key::p256(), Key::p256());
    let verifier = verifier(None, &[old.jwk("one"), new.jwk("one")]);
    for key in [old, new] {
        let token = key.sign(&json!({"alg": "ES256", "kid": "one"}), &payload());
        assert!(verifier.verify(&token, NOW).await.is_ok());
    }
}

#[tokio::test]
async fn an_unsupported_curve_in_the_set_is_an_unknown_key_and_the_set_still_works() {
    let key = Key::ed25519();
    let foreign = json!({"kid": "ed448", "kty": "OKP", "crv": "Ed448", "x": "AAAA"});
    let verifier = verifier(None, &[foreign, key.jwk("ed")]);
    let good = key.sign(&json!({"alg": "EdDSA", "kid": "ed"}), &payload());
    assert!(verifier.verify(&good, NOW).await.is_ok());
    let bad = key.sign(&json!({"alg": "EdDSA", "kid": "ed448"}), &payload());
    let refused = verifier.verify(&bad, NOW).await.err();
    assert_eq!(refused, Some(TokenError::UnknownKey { kid: "ed448".to_owned() }));
}

#[test]
fn a_set_without_usable_keys_and_no_secret_stops_the_start_with_the_reasons() {
    let settings = VerifierSettings {
        jwks: Some(walcast_auth::JwksSource::Inline(r#"{"keys":[{"kid":"a","kty":"dsa"}]}"#.to_owned())),
        ..VerifierSettings::default()
    };
    let refused = Verifier::new(settings).err().unwrap();
    assert!(matches!(refused, KeyError::NoUsableKey { .. }));
    assert!(refused.to_string().contains("unknown type \"dsa\""), "{refused}");
}
