//! Cases 49 to 57: which token a join brings, and what is said of one that is refused.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_tests::{person, token};

use super::{CLAIMS, NOT_A_JWT, now, refused_for, seconds_ago};
use crate::changes::with;
use crate::scene::{on_both, refused, room, world};

/// Fails unless a join with these tokens, on a socket of Ana, sees the letters of this person.
async fn speaks_for(tokens: &Value, reader: &str) -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let topic = room();
        let letters = with("letters", "filter", format!("test=eq.\"{topic}\""));
        let mut joining = tokens.clone();
        joining["config"] = json!({ "postgres_changes": [letters] });
        let mut client = world.connect_as(&person("ana"), version).await?;
        let reply = client.join(&topic, &joining).await?;
        ensure!(reply.is_ok(), "{tokens}: {}", reply.response);
        client.expect(|message| message.system("postgres_changes").is_some()).await?;
        world
            .sql(&format!(
                "insert into letters (test, reader) values
                ('{topic}', 'zoe'), ('{topic}', 'ana'), ('{topic}', 'bruno')"
            ))
            .await?;
        let change = client.expect(|message| message.event == "postgres_changes").await?;
        let got = &change.payload["data"]["record"]["reader"];
        ensure!(got == reader, "{tokens} speaks for {got}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_049_a_join_may_bring_an_access_token() -> Result<()> {
    speaks_for(&json!({}), "ana").await?;
    speaks_for(&json!({ "access_token": token(&person("bruno")) }), "bruno").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_050_a_join_may_bring_a_user_token() -> Result<()> {
    let bruno = token(&person("bruno"));
    speaks_for(&json!({ "user_token": bruno }), "bruno").await?;
    speaks_for(&json!({ "access_token": null, "user_token": bruno }), "bruno").await?;
    speaks_for(&json!({ "access_token": token(&person("zoe")), "user_token": bruno }), "bruno").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_051_an_opaque_key_in_either_means_the_token_of_the_socket() -> Result<()> {
    speaks_for(&json!({ "access_token": "sb_publishable_x" }), "ana").await?;
    speaks_for(&json!({ "user_token": "sb_secret_x" }), "ana").await?;
    speaks_for(&json!({ "access_token": "sb_publishable_x", "user_token": token(&person("bruno")) }), "ana")
        .await
}

/// Fails unless a join with a token of these claims is refused, with this beginning.
async fn claims_refused(claims: &Value, reason: &str) -> Result<()> {
    let world = world().await?;
    on_both(async |version| refused_for(&world, version, &token(claims), reason).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_052_an_access_token_without_role_is_refused() -> Result<()> {
    claims_refused(&json!({ "sub": "ana", "exp": now() + 60.0 }), &format!("InvalidJWTToken: {CLAIMS}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_053_an_access_token_without_exp_is_refused() -> Result<()> {
    claims_refused(&json!({ "role": "authenticated" }), &format!("InvalidJWTToken: {CLAIMS}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_054_an_expired_token_is_told_how_long_ago() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let expired = token(&json!({ "role": "authenticated", "exp": now().floor() - 1_000.0 }));
        let reason = refused(&mut client, &room(), &super::payload(&expired)).await?;
        let message = reason.strip_prefix("InvalidJWTToken: ").with_context(|| reason.clone())?;
        let seconds = seconds_ago(message)?;
        ensure!((999..1_030).contains(&seconds), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_055_exp_and_iat_may_be_decimals() -> Result<()> {
    let world = world().await?;
    let claims = json!({ "role": "authenticated", "exp": now() + 60.25, "iat": now() - 1.5 });
    on_both(async |version| super::accepted(&world, version, &token(&claims)).await.map(drop)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_056_a_token_of_another_form_is_malformed() -> Result<()> {
    let world = world().await?;
    let reason = format!("MalformedJWT: {NOT_A_JWT}");
    on_both(async |version| {
        for malformed in ["", "nonsense", "a.b.c", "..", "not.a.token"] {
            refused_for(&world, version, malformed, &reason).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_057_what_is_no_text_is_no_token_and_that_of_the_socket_counts() -> Result<()> {
    for no_token in [json!(7), json!(null), json!(false), json!(["x"]), json!({ "x": 1 })] {
        speaks_for(&json!({ "access_token": no_token, "user_token": null }), "ana").await?;
    }
    Ok(())
}
