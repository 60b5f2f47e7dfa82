//! HS256, HS384 and HS512 under the shared secret.

use serde_json::{Value, json};
use walcast_auth::{Claims, KeyError, TokenError, Verifier, VerifierSettings, sign};

use crate::issuer::{self, NOW, payload, sign_with_secret};

const SECRET: &str = "9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI";

fn verifier() -> Verifier {
    let settings = VerifierSettings { secret: Some(SECRET.into()), ..VerifierSettings::default() };
    Verifier::new(settings).unwrap()
}

async fn verify(payload: &Value) -> Result<Claims, TokenError> {
    verifier().verify(&sign(payload, SECRET).unwrap(), NOW).await
}

#[tokio::test]
async fn the_three_hmac_algorithms_are_accepted_with_and_without_typ() {
    for algorithm in ["HS256", "HS384", "HS512"] {
        for header in [json!({"alg": algorithm}), json!({"alg": algorithm, "typ": "JWT"})] {
            let token = sign_with_secret(SECRET.as_bytes(), &header, &payload());
            let claims = verifier().verify(&token, NOW).await.unwrap();
            assert_eq!(&*claims.role, "authenticated");
            assert_eq!(claims.expires_at, 1_700_000_600);
        }
    }
}

#[tokio::test]
async fn the_payload_is_kept_as_it_was_signed() {
    let spaced = "{ \"role\" : \"anon\",\n \"exp\": 1700000600.0, \"z\": 1, \"a\": \"ñ\" }";
    let message = format!("{}.{}", issuer::text(r#"{"alg":"HS256"}"#), issuer::text(spaced));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
    let token = format!("{message}.{}", issuer::text(aws_lc_rs::hmac::sign(&key, message.as_bytes())));
    assert_eq!(&*verifier().verify(&token, NOW).await.unwrap().json, spaced);
}

#[tokio::test]
async fn another_secret_a_changed_payload_and_a_cut_signature_are_refused() {
    let token = sign(&payload(), SECRET).unwrap();
    let foreign = sign(&payload(), "another secret of sufficient length").unwrap();
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let changed = issuer::text(json!({"role": "service_role", "exp": 1_700_000_600}).to_string());
    for forged in [
        foreign,
        format!("{header}.{changed}.{signature}"),
        format!("{head}."),
        format!("{head}.{}", &signature[..20]),
        format!("{head}.***"),
    ] {
        assert_eq!(verifier().verify(&forged, NOW).await.err(), Some(TokenError::BadSignature), "{forged}");
    }
}

#[tokio::test]
async fn a_token_without_signature_algorithm_is_refused() {
    for algorithm in ["none", "None", "NONE", "nOnE", ""] {
        let header = issuer::text(json!({"alg": algorithm}).to_string());
        let token = format!("{header}.{}.", issuer::text(payload().to_string()));
        let refused = verifier().verify(&token, NOW).await.err().unwrap();
        assert!(matches!(refused, TokenError::NoSigner { .. }), "{algorithm}: {refused}");
        assert_eq!(
            refused.handshake(),
            (401, "Failed to generate JWT signer, check your JWT secret or JWKS configuration".to_owned())
        );
    }
}

#[tokio::test]
async fn a_key_id_that_no_set_knows_falls_back_to_the_secret() {
    let token = sign_with_secret(SECRET.as_bytes(), &json!({"alg": "HS256", "kid": "gone"}), &payload());
    assert!(verifier().verify(&token, NOW).await.is_ok());
    let with_empty_set = issuer::verifier(Some(SECRET), &[]);
    assert!(with_empty_set.verify(&token, NOW).await.is_ok());
}

#[tokio::test]
async fn an_expired_token_says_for_how_long() {
    let refused = verify(&json!({"role": "anon", "exp": 1_699_999_000})).await.err().unwrap();
    assert_eq!(refused.join_reason(), "InvalidJWTToken: Token has expired 1000 seconds ago");
}

#[tokio::test]
async fn missing_and_wrong_claims_are_told_apart() {
    assert_eq!(verify(&json!({"exp": 1_700_000_600})).await.err(), Some(TokenError::MissingClaims));
    assert_eq!(verify(&json!({"role": "anon"})).await.err(), Some(TokenError::MissingClaims));
    for payload in [
        json!({"role": "anon", "exp": "1700000600"}),
        json!({"role": "anon", "exp": "1"}),
        json!({"role": "anon", "exp": 1_700_000_600, "iat": "1"}),
    ] {
        let refused = verify(&payload).await.err().unwrap();
        assert_eq!(refused.join_reason(), "Unknown Error on Channel", "{payload}");
        assert_eq!(refused.handshake(), (500, "Error connecting to Realtime".to_owned()), "{payload}");
    }
}

#[tokio::test]
async fn an_unsigned_guess_learns_nothing_about_claims() {
    let expired_and_forged = sign(&json!({"exp": 1}), "another secret of sufficient length").unwrap();
    assert_eq!(verifier().verify(&expired_and_forged, NOW).await.err(), Some(TokenError::BadSignature));
}

#[tokio::test]
async fn configured_claims_are_compared() {
    let settings = VerifierSettings {
        secret: Some(SECRET.into()),
        claim_validators: json!({"iss": "me"}).as_object().unwrap().clone(),
        ..VerifierSettings::default()
    };
    let verifier = Verifier::new(settings).unwrap();
    let with_issuer =
        |issuer: &str| sign(&json!({"role": "anon", "exp": 1_700_000_600, "iss": issuer}), SECRET).unwrap();
    assert!(verifier.verify(&with_issuer("me"), NOW).await.is_ok());
    assert!(verifier.verify(&sign(&payload(), SECRET).unwrap(), NOW).await.is_ok());
    let refused = verifier.verify(&with_issuer("you"), NOW).await.err();
    assert!(matches!(refused, Some(TokenError::InvalidClaim { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_operator_token_needs_no_claims_but_a_signature_and_a_future_expiry() {
    let verifier = verifier();
    assert!(verifier.verify_operator(&sign(&json!({}), SECRET).unwrap(), NOW).await.is_ok());
    let expired = sign(&json!({"exp": 1}), SECRET).unwrap();
    assert!(verifier.verify_operator(&expired, NOW).await.is_err());
    let foreign = sign(&json!({}), "another secret of sufficient length").unwrap();
    assert!(verifier.verify_operator(&foreign, NOW).await.is_err());
}

#[test]
fn a_verifier_without_any_key_is_refused() {
    assert!(matches!(Verifier::new(VerifierSettings::default()), Err(KeyError::NoKey)));
    let empty = VerifierSettings { secret: Some("".into()), ..VerifierSettings::default() };
    assert!(matches!(Verifier::new(empty), Err(KeyError::EmptySecret)));
}

#[test]
fn settings_do_not_print_the_secret() {
    let settings = VerifierSettings { secret: Some(SECRET.into()), ..VerifierSettings::default() };
    assert!(!format!("{settings:?}").contains(SECRET));
}
