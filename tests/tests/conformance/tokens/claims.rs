//! Cases 71 to 73, 75 and 84: claims that are wrong, missing or asked for, and what the log says of them.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_tests::{World, log, token, unix_seconds};

use super::{accepted, now, payload, refused_for};
use crate::scene::{end_of, on_both, refused, room, world};

/// Fails unless a join with a token of these claims is refused in general words.
async fn unmapped(claims: &[Value]) -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        for claims in claims {
            refused_for(&world, version, &token(claims), "Unknown Error on Channel").await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_071_an_exp_that_is_text_is_refused_past_or_future() -> Result<()> {
    let at = |exp: i64| json!({ "role": "authenticated", "exp": exp.to_string() });
    unmapped(&[at(unix_seconds() + 600), at(unix_seconds() - 600)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_072_an_iat_that_is_text_is_refused() -> Result<()> {
    let soon = unix_seconds() + 600;
    unmapped(&[json!({ "role": "authenticated", "exp": soon, "iat": (soon - 1_000).to_string() })]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_073_an_exp_without_iat_is_accepted() -> Result<()> {
    let world = world().await?;
    let claims = json!({ "role": "authenticated", "exp": unix_seconds() + 600 });
    on_both(async |version| accepted(&world, version, &token(&claims)).await.map(drop)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_075_configured_claims_must_have_their_value_where_a_token_carries_them() -> Result<()> {
    let validated = |settings: &mut ServeSettings| {
        settings.project.verifier.claim_validators.insert("iss".to_owned(), json!("https://issuer.example"));
    };
    let world = World::with_settings("conformance_075", "", validated).await?;
    let soon = unix_seconds() + 600;
    on_both(async |version| {
        for claims in [
            json!({ "role": "authenticated", "exp": soon, "iss": "https://issuer.example" }),
            json!({ "role": "authenticated", "exp": soon }),
        ] {
            accepted(&world, version, &token(&claims)).await?;
        }
        for issuer in [json!("https://other.example"), json!(["https://issuer.example"]), json!(null)] {
            let claims = json!({ "role": "authenticated", "exp": soon, "iss": issuer });
            refused_for(&world, version, &token(&claims), "Unknown Error on Channel").await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_084_log_lines_name_sub_iss_and_exp_of_the_token_and_never_the_token() -> Result<()> {
    log::log();
    let world = world().await?;
    let expires_at = unix_seconds() + 3_600;
    let issuer = "https://issuer-84.example";
    let claims = json!({ "role": "authenticated", "sub": "ana-84", "iss": issuer, "exp": expires_at });
    let mut client = world.connect_as(&claims, walcast_testkit::ProtocolVersion::V2).await?;
    refused(&mut client, &room(), &payload("nonsense")).await?;
    let topic = room();
    let short = json!({ "role": "authenticated", "sub": "short-84", "iss": issuer, "exp": now() + 1.0 });
    ensure!(client.join(&topic, &payload(&token(&short))).await?.is_ok());
    end_of(&mut client, &topic).await?;
    let of = |sub: &str| format!("sub=\"{sub}\"");
    let issuer = format!("iss=\"{issuer}\"");
    let refusal = log::lines_with(&["join refused", &of("ana-84"), &issuer, &format!("exp={expires_at}")]);
    ensure!(!refusal.is_empty(), "{:?}", log::lines_with(&["join refused"]));
    let expiry = log::lines_with(&["a channel was closed for its token", &of("short-84"), &issuer, "exp="]);
    ensure!(!expiry.is_empty(), "{:?}", log::lines_with(&["closed for its token"]));
    for secret in [token(&claims), token(&short)] {
        ensure!(log::lines_with(&[&secret]).is_empty(), "a token stands in the log");
    }
    Ok(())
}
