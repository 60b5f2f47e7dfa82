//! Cases 76 to 81 and 83: a channel and its token, to the end of either.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use walcast::serve::ServeSettings;
use walcast_auth::JwksSource;
use walcast_testkit::ProtocolVersion;
use walcast_tests::{World, binding, person, token, unix_seconds};

use super::issuer::{Key, key_set};
use super::{CLAIMS, NOT_A_JWT, accepted, now, payload, refused_for, seconds_ago, signer};
use crate::scene::{acknowledged, connect, end_of, is_joined, nothing_else, on_both, room, world};

fn expiring(subject: &str, expires_at: f64) -> String {
    token(&json!({ "role": "authenticated", "sub": subject, "exp": expires_at }))
}

#[tokio::test(flavor = "multi_thread")]
async fn case_076_a_channel_ends_when_its_token_expires() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let (topic, other) = (room(), room());
        let mut client = connect(&world, version).await?;
        let expires_at = (now() + 2.0).ceil();
        ensure!(client.join(&topic, &payload(&expiring("ana", expires_at))).await?.is_ok());
        ensure!(client.join(&other, &payload(&token(&person("ana")))).await?.is_ok());
        acknowledged(&mut client, &topic).await.context("it lives until then")?;
        let message = end_of(&mut client, &topic).await?;
        let late = now() - expires_at;
        ensure!(seconds_ago(&message)? <= 2, "{message}");
        ensure!((0.0..5.0).contains(&late), "{late} seconds after exp");
        acknowledged(&mut client, &other).await.context("the other channel lives")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_077_a_channel_whose_key_is_gone_is_closed_when_it_is_looked_at_again() -> Result<()> {
    let (old, new) = (Key::ed25519(), Key::ed25519());
    let file = std::env::temp_dir().join(format!("conformance-077-{}.json", std::process::id()));
    std::fs::write(&file, key_set(&[old.jwk("old")]))?;
    let from_file = |settings: &mut ServeSettings| {
        settings.project.verifier.jwks = Some(JwksSource::File(file.clone()));
        settings.project.limits.token_recheck = Duration::from_secs(1);
    };
    let world = World::with_settings("conformance_077", "", from_file).await?;
    let signed = |key: &Key, kid: &str| key.sign(&json!({ "alg": "EdDSA", "kid": kid }), &person("ana"));
    let topic = room();
    let mut client = connect(&world, ProtocolVersion::V2).await?;
    ensure!(client.join(&topic, &payload(&signed(&old, "old"))).await?.is_ok());
    std::fs::write(&file, key_set(&[new.jwk("new")]))?;
    // Keys are read again at most every ten seconds, when somebody asks for one that is not there.
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = accepted(&world, ProtocolVersion::V2, &signed(&new, "new")).await {
        ensure!(Instant::now() < deadline, "the new key is not read: {error:#}");
        client.heartbeat().await?;
    }
    std::fs::remove_file(&file)?;
    let reason = format!("JwtSignerError: {}", signer("old"));
    refused_for(&world, ProtocolVersion::V2, &signed(&old, "old"), &reason).await?;
    client.set_deadline(Duration::from_secs(20));
    let message = end_of(&mut client, &topic).await?;
    ensure!(message == signer("old"), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_078_a_refresh_with_a_valid_token_keeps_the_channel_beyond_the_old_one() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let (kept, left) = (room(), room());
        let mut client = connect(&world, version).await?;
        let short = expiring("ana", (now() + 2.0).ceil());
        for topic in [&kept, &left] {
            ensure!(client.join(topic, &payload(&short)).await?.is_ok());
        }
        let fresh = json!({ "access_token": token(&person("ana")) });
        let reference = client.send(&kept, "access_token", &fresh).await?;
        end_of(&mut client, &left).await?;
        acknowledged(&mut client, &kept).await?;
        ensure!(client.unclaimed().all(|message| message.reference != reference), "it is never replied to");
        ensure!(client.unclaimed().all(|message| message.topic != kept));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_079_the_same_token_null_and_opaque_keys_are_ignored_and_the_old_expiry_holds() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let mut client = connect(&world, version).await?;
        let current = expiring("ana", (now() + 3.0).ceil());
        // A token that counts is followed by another "Subscribed to PostgreSQL".
        let mut joining = payload(&current);
        joining["config"]["postgres_changes"] = json!([binding("INSERT", "case_079")]);
        ensure!(client.join(&topic, &joining).await?.is_ok());
        client.expect(|message| message.system("postgres_changes").is_some()).await?;
        for ignored in [
            json!({ "access_token": current }),
            json!({ "access_token": null }),
            json!({ "access_token": "sb_publishable_x" }),
            json!({ "access_token": 7 }),
            json!({}),
        ] {
            client.send(&topic, "access_token", &ignored).await?;
        }
        acknowledged(&mut client, &topic).await?;
        nothing_else(&client)?;
        let message = end_of(&mut client, &topic).await?;
        ensure!(seconds_ago(&message)? <= 2, "{message}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_080_a_refresh_with_a_bad_token_closes_the_channel_with_its_own_words() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let other = room();
        let mut client = connect(&world, version).await?;
        ensure!(client.join(&other, &payload(&token(&person("ana")))).await?.is_ok());
        let soon = unix_seconds() + 60;
        for (bad, words) in [
            (String::new(), NOT_A_JWT),
            ("nonsense".to_owned(), NOT_A_JWT),
            (token(&json!({ "exp": soon })), CLAIMS),
            (token(&json!({ "role": "authenticated" })), CLAIMS),
            (expiring("ana", now() - 5.0), "Token has expired "),
        ] {
            let topic = room();
            ensure!(client.join(&topic, &payload(&token(&person("ana")))).await?.is_ok());
            client.access_token(&topic, &bad).await?;
            let message = end_of(&mut client, &topic).await?;
            ensure!(message.starts_with(words), "{bad}: {message}");
            ensure!(words.ends_with(' ') || message == words, "{bad}: {message}");
        }
        acknowledged(&mut client, &other).await.context("no other channel is closed")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_081_a_refresh_with_a_token_of_an_unknown_key_closes_with_the_words_of_the_signer() -> Result<()>
{
    let known = Key::p256();
    let keys = |settings: &mut ServeSettings| {
        settings.project.verifier.jwks = Some(JwksSource::Inline(key_set(&[known.jwk("known")])));
    };
    let world = World::with_settings("conformance_081", "", keys).await?;
    on_both(async |version| {
        let topic = room();
        let mut client = connect(&world, version).await?;
        ensure!(client.join(&topic, &payload(&token(&person("ana")))).await?.is_ok());
        let unknown = known.sign(&json!({ "alg": "ES256", "kid": "unknown" }), &person("ana"));
        client.access_token(&topic, &unknown).await?;
        let message = end_of(&mut client, &topic).await?;
        ensure!(message == signer("unknown"), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_083_the_token_of_a_channel_does_not_depend_on_that_of_the_handshake() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let (own, of_socket) = (room(), room());
        let claims = json!({ "role": "authenticated", "sub": "ana", "exp": (now() + 2.0).ceil() });
        let mut client = world.connect_as(&claims, version).await?;
        let long = token(&person("ana"));
        ensure!(client.join(&own, &payload(&long)).await?.is_ok());
        ensure!(client.join(&of_socket, &json!({ "config": {} })).await?.is_ok());
        let message = end_of(&mut client, &of_socket).await?;
        ensure!(seconds_ago(&message)? <= 2, "{message}");
        acknowledged(&mut client, &own).await?;
        let reply = client.join(&of_socket, &json!({ "config": {} })).await?;
        let reason = reply.reason().context("the token of the socket has expired")?;
        ensure!(reason.starts_with("InvalidJWTToken: Token has expired "), "{reason}");
        ensure!(client.join(&of_socket, &payload(&long)).await?.is_ok());
        ensure!(is_joined(&mut client, &of_socket).await?);
        Ok(())
    })
    .await
}
