//! Cases 58 to 70 and 74: keys and algorithms.

use std::sync::OnceLock;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_auth::JwksSource;
use walcast_tests::shared::Shared;
use walcast_tests::{SECRET, person};

use super::issuer::{Key, key_set, sign_with_secret, text};
use super::{NOT_A_JWT, SIGNATURE, SIGNER, accepted, refused_for, signer};
use crate::scene::on_both;

/// A server with a secret and a key of each kind.
static WORLD: Shared = Shared::new("conformance_keys", String::new, with_keys);

struct Keys {
    octets: Key,
    rsa: Key,
    p256: Key,
    ed25519: Key,
    /// Of no key set.
    others: [Key; 4],
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| Keys {
        octets: Key::octets(),
        rsa: Key::rsa(),
        p256: Key::p256(),
        ed25519: Key::ed25519(),
        others: [Key::octets(), Key::rsa(), Key::p256(), Key::ed25519()],
    })
}

fn with_keys(settings: &mut ServeSettings) {
    let Keys { octets, rsa, p256, ed25519, .. } = keys();
    let mut unsupported = ed25519.jwk("unsupported curve");
    unsupported["crv"] = "X25519".into();
    let set = [octets.jwk("octets"), rsa.jwk("rsa"), p256.jwk("p256"), ed25519.jwk("ed25519"), unsupported];
    settings.project.verifier.jwks = Some(JwksSource::Inline(key_set(&set)));
}

fn header(algorithm: &str, kid: &str) -> Value {
    json!({ "alg": algorithm, "typ": "JWT", "kid": kid })
}

/// Fails unless this key's signature is good for the algorithm, and that of another key of its kind is not.
async fn good_and_forged(algorithm: &str, kid: &str, good: &Key, other: &Key) -> Result<()> {
    let world = WORLD.world().await?;
    let (header, claims) = (header(algorithm, kid), person("ana"));
    on_both(async |version| {
        accepted(&world, version, &good.sign(&header, &claims)).await?;
        let reason = format!("JwtSignatureError: {SIGNATURE}");
        refused_for(&world, version, &other.sign(&header, &claims), &reason).await
    })
    .await
}

/// Fails unless the token is refused for the reason.
async fn refused(token: &str, reason: &str) -> Result<()> {
    let world = WORLD.world().await?;
    on_both(async |version| refused_for(&world, version, token, reason).await).await
}

/// Fails unless the secret is good for the algorithm, and another is not.
async fn secret(algorithm: &str) -> Result<()> {
    let world = WORLD.world().await?;
    let (header, claims) = (json!({ "alg": algorithm, "typ": "JWT" }), person("ana"));
    on_both(async |version| {
        accepted(&world, version, &sign_with_secret(SECRET.as_bytes(), &header, &claims)).await?;
        let forged = sign_with_secret(b"another secret that is long enough to be one", &header, &claims);
        refused_for(&world, version, &forged, &format!("JwtSignatureError: {SIGNATURE}")).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_058_hs256_is_accepted() -> Result<()> {
    secret("HS256").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_059_hs384_is_accepted() -> Result<()> {
    secret("HS384").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_060_hs512_is_accepted() -> Result<()> {
    secret("HS512").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_061_rs256_is_accepted_with_its_key_and_refused_with_another() -> Result<()> {
    good_and_forged("RS256", "rsa", &keys().rsa, &keys().others[1]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_062_es256_is_accepted_with_its_key_and_refused_with_another() -> Result<()> {
    good_and_forged("ES256", "p256", &keys().p256, &keys().others[2]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_063_eddsa_is_accepted_under_both_its_names_and_refused_with_another_key() -> Result<()> {
    for algorithm in ["EdDSA", "Ed25519"] {
        good_and_forged(algorithm, "ed25519", &keys().ed25519, &keys().others[3]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_064_hs256_with_a_key_of_the_set_is_accepted_and_refused_with_another() -> Result<()> {
    good_and_forged("HS256", "octets", &keys().octets, &keys().others[0]).await?;
    // Whoever names the key of the set is not let in by the secret.
    let by_secret = sign_with_secret(SECRET.as_bytes(), &header("HS256", "octets"), &person("ana"));
    refused(&by_secret, &format!("JwtSignatureError: {SIGNATURE}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_065_hs256_with_a_kid_of_no_key_falls_back_to_the_secret() -> Result<()> {
    let world = WORLD.world().await?;
    let token = sign_with_secret(SECRET.as_bytes(), &header("HS256", "nobody's"), &person("ana"));
    on_both(async |version| accepted(&world, version, &token).await.map(drop)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_066_without_a_key_for_an_asymmetric_kid_the_kid_is_named() -> Result<()> {
    let [_, rsa, p256, ed25519] = &keys().others;
    for (algorithm, key) in [("RS256", rsa), ("ES256", p256), ("EdDSA", ed25519)] {
        let token = key.sign(&header(algorithm, "nobody's"), &person("ana"));
        refused(&token, &format!("JwtSignerError: {}", signer("nobody's"))).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_067_an_asymmetric_algorithm_without_a_kid_has_no_signer() -> Result<()> {
    let Keys { rsa, p256, ed25519, .. } = keys();
    for (algorithm, key) in [("RS256", rsa), ("ES256", p256), ("EdDSA", ed25519)] {
        let token = key.sign(&json!({ "alg": algorithm, "typ": "JWT" }), &person("ana"));
        refused(&token, &format!("JwtSignerError: {SIGNER}")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_068_a_key_of_a_curve_that_can_not_sign_is_none() -> Result<()> {
    let token = keys().ed25519.sign(&header("EdDSA", "unsupported curve"), &person("ana"));
    let world = WORLD.world().await?;
    on_both(async |version| {
        let mut client = crate::scene::connect(&world, version).await?;
        let payload = super::payload(&token);
        let reason = crate::scene::refused(&mut client, &crate::scene::room(), &payload).await?;
        ensure!(reason.starts_with("JwtSignerError: Failed to generate JWT signer"), "{reason}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_069_an_unknown_algorithm_has_no_signer() -> Result<()> {
    let signed = walcast_tests::token(&person("ana"));
    let (_, rest) = signed.split_once('.').expect("three parts");
    for algorithm in ["none", "HS1", "RS1", "hs256", ""] {
        let token = format!("{}.{rest}", text(header(algorithm, "rsa").to_string()));
        refused(&token, &format!("JwtSignerError: {SIGNER}")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_070_a_header_or_claims_that_are_no_object_are_malformed() -> Result<()> {
    let reason = format!("MalformedJWT: {NOT_A_JWT}");
    let signed = walcast_tests::token(&person("ana"));
    let (_, rest) = signed.split_once('.').expect("three parts");
    for header in ["[]", "7", "\"HS256\"", "null"] {
        refused(&format!("{}.{rest}", text(header)), &reason).await?;
    }
    // Signed well, so that nothing else is wrong with them.
    for claims in [json!([]), json!(7), json!("ana"), Value::Null] {
        refused(&sign_with_secret(SECRET.as_bytes(), &json!({ "alg": "HS256" }), &claims), &reason).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_074_a_token_without_typ_is_accepted() -> Result<()> {
    let world = WORLD.world().await?;
    let bare = sign_with_secret(SECRET.as_bytes(), &json!({ "alg": "HS256" }), &person("ana"));
    let other = keys().rsa.sign(&json!({ "alg": "RS256", "kid": "rsa" }), &person("ana"));
    on_both(async |version| {
        accepted(&world, version, &bare).await?;
        accepted(&world, version, &other).await.map(drop)
    })
    .await
}
