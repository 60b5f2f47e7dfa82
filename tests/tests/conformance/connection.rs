//! Cases 1 to 24: the handshake, and what a socket may be sent.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_testkit::{Handshake, HandshakeRefused, ProtocolClient, ProtocolVersion};
use walcast_tests::http::{self, Answer, UPGRADE};
use walcast_tests::{World, person, role, token, unix_seconds};

use crate::scene::{connect, is_joined, member, nothing_else, on_both, room, world};

const NOT_A_JWT: &str = "The token provided is not a valid JWT";

/// What a handshake without a token in the query, but with these headers, is told.
async fn ask(world: &World, parameters: &str, headers: &str) -> Result<Answer> {
    let target = format!("/socket/websocket?{parameters}");
    http::ask(world.server.address(), "GET", &target, &format!("{UPGRADE}{headers}")).await
}

/// Fails unless each of these tokens is refused with this status and error.
async fn all_refused(tokens: &[String], status: u16, error: &str) -> Result<()> {
    let world = world().await?;
    for token in tokens {
        let answer = http::handshake(world.server.address(), token).await?;
        ensure!(answer == Answer::refusal(status, error), "{token}: {answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_001_a_valid_token_in_the_query_is_admitted() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let handshake = Handshake::new(&world.websocket(), &token(&person("ana")), version);
        handshake.connect().await?.strictly().heartbeat().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_002_a_token_in_the_header_is_admitted_and_wins_over_the_query() -> Result<()> {
    let world = world().await?;
    let header = |token: &str| vec![("x-api-key".to_owned(), token.to_owned())];
    let good = token(&person("ana"));
    let mut handshake = Handshake::new(&world.websocket(), "nonsense", ProtocolVersion::V2);
    handshake.headers = header(&good);
    handshake.connect().await?.heartbeat().await?;
    handshake.token = None;
    handshake.connect().await?.heartbeat().await?;
    (handshake.token, handshake.headers) = (Some(good), header("nonsense"));
    let error = handshake.connect().await.err().context("the query won over the header")?;
    let refused = error.downcast::<HandshakeRefused>()?;
    ensure!(refused == HandshakeRefused { status: 401, body: json!({ "error": NOT_A_JWT }).to_string() });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_003_without_a_token_the_api_key_is_missing() -> Result<()> {
    let world = world().await?;
    let expected = Answer::refusal(401, "API key is missing");
    for parameters in ["", "vsn=2.0.0", "vsn=1.0.0&token=x&user_token=y"] {
        let answer = ask(&world, parameters, "").await?;
        ensure!(answer == expected, "{parameters}: {answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_004_a_malformed_token_is_no_valid_jwt() -> Result<()> {
    let good = token(&person("ana"));
    let two_parts = good.rsplit_once('.').context("three parts")?.0.to_owned();
    let tokens = ["nonsense", "a.b.c", "..", "sb_publishable_x"].map(str::to_owned);
    all_refused(&[&tokens[..], &[two_parts, format!("{good}.x")]].concat(), 401, NOT_A_JWT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_005_an_expired_token_is_told_so() -> Result<()> {
    let at = |exp: i64| token(&json!({ "role": "anon", "exp": exp }));
    let now = unix_seconds();
    all_refused(&[at(now), at(now - 1), at(now - 100_000), at(0)], 401, "Token has expired").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_006_a_token_without_role_or_exp_is_told_that_both_are_required() -> Result<()> {
    let soon = unix_seconds() + 60;
    let claims = [json!({ "exp": soon }), json!({ "role": "anon" }), json!({}), json!({ "sub": "ana" })];
    all_refused(&claims.map(|claims| token(&claims)), 401, "Fields `role` and `exp` are required in JWT")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_007_a_token_signed_with_another_secret_fails_by_its_signature() -> Result<()> {
    let forged = walcast_auth::sign(&person("ana"), "another secret that is long enough to be one")?;
    let (signed, signature) = forged.rsplit_once('.').context("three parts")?;
    let swapped = format!("{signed}.{}", token(&person("bruno")).rsplit_once('.').context("three parts")?.1);
    let none = format!("{signed}.");
    ensure!(!signature.is_empty());
    all_refused(&[forged.clone(), swapped, none], 401, "Failed to validate JWT signature").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_008_a_token_of_an_unknown_key_is_told_the_name_of_the_key() -> Result<()> {
    // `{"alg":"RS256","kid":"K"}`
    let signed = token(&person("ana"));
    let token = format!("eyJhbGciOiJSUzI1NiIsImtpZCI6IksifQ.{}", signed.split_once('.').context("parts")?.1);
    let error =
        "Failed to generate JWT signer for key ID (kid) \"K\", check your JWT secret or JWKS configuration";
    let keys = |settings: &mut ServeSettings| {
        let key =
            json!({ "kty": "oct", "kid": "other", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA" });
        settings.project.verifier.jwks =
            Some(walcast_auth::JwksSource::Inline(json!({ "keys": [key] }).to_string()));
    };
    let world = World::with_settings("conformance_008", "", keys).await?;
    let answer = http::handshake(world.server.address(), &token).await?;
    ensure!(answer == Answer::refusal(401, error), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_011_one_user_too_many_is_refused_with_429() -> Result<()> {
    let two = |settings: &mut ServeSettings| settings.project.limits.max_concurrent_users = 2;
    let world = World::with_settings("conformance_011", "", two).await?;
    let mut admitted = connect(&world, ProtocolVersion::V1).await?;
    let second = connect(&world, ProtocolVersion::V2).await?;
    let answer = http::handshake(world.server.address(), &token(&person("ana"))).await?;
    ensure!(
        (answer.status, answer.content_type.as_deref()) == (429, Some("application/json; charset=utf-8"))
    );
    let body: Value = serde_json::from_str(&answer.body)?;
    let error = body["error"].as_str().context("an error")?;
    ensure!(error.starts_with("Too many connected users"), "{error}");
    admitted.heartbeat().await?;
    drop(second);
    // A seat is free once the server has seen the end of the connection.
    let deadline = Instant::now() + Duration::from_secs(10);
    while http::handshake(world.server.address(), &token(&person("ana"))).await?.status != 101 {
        ensure!(Instant::now() < deadline, "the seat of a socket that is gone stays taken");
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_012_while_there_are_too_many_joins_a_handshake_is_refused_with_429() -> Result<()> {
    let one = |settings: &mut ServeSettings| settings.project.limits.max_joins_per_second = 1;
    let world = World::with_settings("conformance_012", "", one).await?;
    let mut client = connect(&world, ProtocolVersion::V2).await?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        // All within a second, unless the machine is very busy: then once more.
        for _ in 0..20 {
            client.send(&room(), "phx_join", &json!({ "config": {} })).await?;
        }
        client.heartbeat().await?;
        let answer = http::handshake(world.server.address(), &token(&person("ana"))).await?;
        if answer.status == 429 {
            let error = &answer.json()?["error"];
            ensure!(
                error.as_str().is_some_and(|error| error.starts_with("Too many joins per second")),
                "{error}"
            );
            break;
        }
        ensure!(Instant::now() < deadline, "the handshake is admitted whatever the rate: {answer:?}");
    }
    // The rate is that of a second.
    while http::handshake(world.server.address(), &token(&person("ana"))).await?.status != 101 {
        ensure!(Instant::now() < deadline, "refused for longer than joins are too many");
        tokio::task::yield_now().await;
    }
    client.heartbeat().await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_013_any_other_failure_is_500_in_general_words() -> Result<()> {
    let soon = unix_seconds() + 60;
    let claims = [
        json!({ "role": "anon", "exp": soon.to_string() }),
        json!({ "role": "anon", "exp": soon, "iat": "now" }),
        json!({ "role": 7, "exp": soon }),
    ];
    all_refused(&claims.map(|claims| token(&claims)), 500, "Error connecting to Realtime").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_014_versions_1_and_2_and_none_are_accepted_and_others_refused_with_403() -> Result<()> {
    let world = world().await?;
    let token = token(&person("ana"));
    for (vsn, version) in [
        (Some("1.0.0"), ProtocolVersion::V1),
        (Some("1.0.9"), ProtocolVersion::V1),
        (None, ProtocolVersion::V1),
        (Some("2.0.0"), ProtocolVersion::V2),
    ] {
        let mut handshake = Handshake::new(&world.websocket(), &token, version);
        handshake.vsn = vsn.map(str::to_owned);
        let client = handshake.connect().await.with_context(|| format!("{vsn:?}"))?;
        client.strictly().heartbeat().await.with_context(|| format!("{vsn:?}"))?;
    }
    for vsn in ["3.0.0", "0.1.0", "1.1.0", "2.1.0", "2", "two", ""] {
        let answer = ask(&world, &format!("vsn={vsn}&apikey={token}"), "").await?;
        ensure!((answer.status, answer.body.as_str()) == (403, ""), "{vsn}: {answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_015_a_heartbeat_reply_echoes_the_ref_also_null() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        for reference in [json!("7"), json!(null), json!(7), json!("é🦀"), json!("")] {
            let frame = version.encode(&Value::Null, &reference, "phoenix", "heartbeat", &json!({}));
            client.send_text(&frame).await?;
            let reply = client.next().await?;
            ensure!(reply.is("phoenix", "phx_reply") && reply.reference == reference, "{:?}", reply.raw);
            ensure!(reply.join_ref.is_null());
            ensure!(reply.payload == json!({ "status": "ok", "response": {} }), "{}", reply.payload);
        }
        Ok(())
    })
    .await
}

/// Fails unless the socket takes no notice of each frame.
async fn ignored(version: ProtocolVersion, frames: &[&str]) -> Result<()> {
    let world = world().await?;
    let mut client: ProtocolClient = connect(&world, version).await?;
    for frame in frames {
        client.send_text(frame).await?;
        client.heartbeat().await.with_context(|| format!("after {frame:?}"))?;
        nothing_else(&client).with_context(|| format!("after {frame:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_016_an_array_with_too_few_items_is_ignored_and_the_socket_lives() -> Result<()> {
    let frames =
        ["[]", r#"["1"]"#, r#"[null,"1","phoenix","heartbeat"]"#, r#"["1","1","realtime:a","phx_join"]"#];
    ignored(ProtocolVersion::V2, &frames).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_017_an_object_on_version_2_is_ignored() -> Result<()> {
    let frame = r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1","join_ref":null}"#;
    ignored(ProtocolVersion::V2, &[frame, "{}"]).await?;
    ignored(ProtocolVersion::V1, &[r#"[null,"1","phoenix","heartbeat",{}]"#]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_018_an_empty_frame_is_ignored() -> Result<()> {
    on_both(async |version| ignored(version, &["", " "]).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_019_invalid_json_is_ignored() -> Result<()> {
    let frames =
        ["{", "nonsense", "[1,", r#"[null,"1","phoenix","heartbeat",{}] x"#, "\u{feff}[]", "nul", "\"a"];
    on_both(async |version| ignored(version, &frames).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_023_a_socket_whose_channels_are_all_gone_stays_open_as_long_as_it_is_heard() -> Result<()> {
    const SILENCE: Duration = Duration::from_secs(1);
    let world = World::with_settings("conformance_023", "", |settings| {
        settings.project.limits.idle_timeout = SILENCE;
    })
    .await?;
    on_both(async |version| {
        let topic = room();
        let mut left = member(&world, version, &topic, &json!({})).await?;
        ensure!(left.leave(&topic).await?.is_ok());
        let mut failed = connect(&world, version).await?;
        ensure!(!failed.join(&topic, &json!([])).await?.is_ok());
        let mut silent = connect(&world, version).await?;
        let started = Instant::now();
        // The silent one is closed while these are not: being heard is all it takes.
        while started.elapsed() < 2 * SILENCE {
            left.heartbeat().await?;
            failed.heartbeat().await?;
        }
        ensure!(silent.closed().await?.context("a close frame")?.0 == 1000);
        left.heartbeat().await?;
        ensure!(failed.join(&topic, &json!({ "config": {} })).await?.is_ok());
        ensure!(is_joined(&mut failed, &topic).await?);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_024_a_message_of_more_than_five_megabytes_closes_with_1009() -> Result<()> {
    let world = world().await?;
    on_both(async |version| {
        let mut client = connect(&world, version).await?;
        client.send_text(&" ".repeat(5_000_000)).await?;
        client.heartbeat().await.context("exactly the limit")?;
        client.send_text(&" ".repeat(5_000_001)).await?;
        ensure!(client.closed().await?.context("a close frame")?.0 == 1009);
        Ok(())
    })
    .await?;
    let mut client = world.connect(&role("anon")).await?;
    client.send_binary(&vec![0; 5_000_001]).await?;
    ensure!(client.closed().await?.context("a close frame")?.0 == 1009);
    Ok(())
}
