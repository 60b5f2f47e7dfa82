//! Who is let in, and what the others are told: docs/protocol.md §1.2, §1.4, §8.1.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use tokio::time::timeout;
use walcast_auth::JwksSource;
use walcast_testkit::{Handshake, HandshakeRefused, ProtocolVersion};
use walcast_tests::http::{self, Answer, UPGRADE};
use walcast_tests::{World, person, token, unix_seconds};

/// Longer than any test may take: what is answered all the same was not delayed.
const NEVER: Duration = Duration::from_mins(10);

/// An RSA key of which nobody has the private half.
const RSA_PUBLIC_PEM: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAz54uop00w6kFNi7sdcO0
mshPkHlpruJrKgz6SO16DbznQyvdnLFBTsktYJCEpo171nBBO9EN9tEj2lUzMYdi
KbZZHpPa/DgKcB6XaaNASbVQT3Lfkx+keWtDr+De/sSkX2QV7YIKg5I/hdPbnfhF
MhME7uOdTROmakjM/Xl0ZFTQHdo6cJJIijZLsAyau8XHEsRwxVo9yGMoQlEL9YZP
dPlKKimG8g7s9SHeSy2MxX3xpzCMyvYUAgsCf+ut63uA4Mc5d0XxiSZUMX39J3Td
hjPwuNge5SS+o8cEG6ky+CCB1aeR6QboG7k/P4UjX4mWIBIHLmZWT5hlURIfCFdi
vQIDAQAB
-----END PUBLIC KEY-----
";

/// The same key as a JSON Web Key with the ID `rsa`.
const RSA_MODULUS: &str = "z54uop00w6kFNi7sdcO0mshPkHlpruJrKgz6SO16DbznQyvdnLFBTsktYJCEpo171nBBO9EN9tEj2lUzMYdi\
    KbZZHpPa_DgKcB6XaaNASbVQT3Lfkx-keWtDr-De_sSkX2QV7YIKg5I_hdPbnfhFMhME7uOdTROmakjM_Xl0ZFTQHdo6cJJIijZLsAyau8XHEsRw\
    xVo9yGMoQlEL9YZPdPlKKimG8g7s9SHeSy2MxX3xpzCMyvYUAgsCf-ut63uA4Mc5d0XxiSZUMX39J3TdhjPwuNge5SS-o8cEG6ky-CCB1aeR6Qbo\
    G7k_P4UjX4mWIBIHLmZWT5hlURIfCFdivQ";

/// `{"alg":"none","typ":"JWT"}`
const HEADER_NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
/// `{"alg":"RS256","kid":"K"}`
const HEADER_RS256_K: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6IksifQ";
/// `{"alg":"RS256"}`
const HEADER_RS256: &str = "eyJhbGciOiJSUzI1NiJ9";
/// `{"alg":"HS256","kid":"K"}`
const HEADER_HS256_K: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6IksifQ";

const NOT_A_JWT: &str = "The token provided is not a valid JWT";
const CLAIMS: &str = "Fields `role` and `exp` are required in JWT";
const SIGNATURE: &str = "Failed to validate JWT signature";
const SIGNER: &str = "Failed to generate JWT signer, check your JWT secret or JWKS configuration";
const SIGNER_K: &str = "Failed to generate JWT signer for key ID (kid) \"K\", \
    check your JWT secret or JWKS configuration";

async fn ask(world: &World, method: &str, target: &str, headers: &str) -> Result<Answer> {
    http::ask(world.server.address(), method, target, headers).await
}

async fn refusal(world: &World, token: &str) -> Result<Answer> {
    http::handshake(world.server.address(), token).await
}

fn told(status: u16, error: &str) -> Answer {
    Answer::refusal(status, error)
}

/// A token with another header in front of the payload of `claims`.
fn with_header(header: &str, claims: &Value) -> String {
    let signed = token(claims);
    let mut parts = signed.split('.').skip(1);
    format!("{header}.{}.{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn rsa_key_set() -> JwksSource {
    let key = json!({ "kty": "RSA", "kid": "rsa", "alg": "RS256", "n": RSA_MODULUS, "e": "AQAB" });
    JwksSource::Inline(json!({ "keys": [key] }).to_string())
}

// Cases 1, 14.
#[tokio::test(flavor = "multi_thread")]
async fn a_valid_token_admits_with_either_serializer_and_version_1_is_what_a_client_speaks_that_names_none()
-> Result<()> {
    let world = World::with_sql("handshake_versions", "").await?;
    let token = token(&person("ana"));
    let versions = [
        (Some("1.0.0"), ProtocolVersion::V1),
        (Some("1.0.7"), ProtocolVersion::V1),
        (None, ProtocolVersion::V1),
        (Some("2.0.0"), ProtocolVersion::V2),
    ];
    for (vsn, version) in versions {
        let mut handshake = Handshake::new(&world.websocket(), &token, version);
        handshake.vsn = vsn.map(str::to_owned);
        let mut client = handshake.connect().await.with_context(|| format!("{vsn:?}"))?;
        client.heartbeat().await.with_context(|| format!("{vsn:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_the_stock_clients_works_without_a_gateway_in_front_and_whatever_else_they_ask()
-> Result<()> {
    let world = World::with_sql("handshake_address", "").await?;
    let url = format!("ws://{}/realtime/v1/websocket", world.server.address());
    let mut client = Handshake::new(&url, &token(&person("ana")), ProtocolVersion::V2).connect().await?;
    client.heartbeat().await?;
    let target = format!(
        "/realtime/v1/websocket?log_level=nonsense&eventsPerSecond=10&user_token&=&&vsn=2.0.0&apikey={}",
        token(&person("ana"))
    );
    assert_eq!(ask(&world, "GET", &target, UPGRADE).await?.status, 101);
    Ok(())
}

// Case 14.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_version_is_refused_at_once_with_an_empty_body_before_anything_else_is_looked_at()
-> Result<()> {
    let slow =
        |settings: &mut walcast::serve::ServeSettings| settings.project.limits.connect_error_backoff = NEVER;
    let world = World::with_settings("handshake_vsn", "", slow).await?;
    for vsn in ["3.0.0", "0.9.0", "1.1.0", "2.1.0", "2", "abc", "", "%FF"] {
        let answer = ask(&world, "GET", &format!("/socket/websocket?vsn={vsn}"), UPGRADE).await?;
        assert_eq!((answer.status, answer.body.as_str()), (403, ""), "vsn={vsn}");
    }
    Ok(())
}

// Case 2.
#[tokio::test(flavor = "multi_thread")]
async fn the_header_admits_and_wins_over_the_query() -> Result<()> {
    let world = World::with_sql("handshake_header", "").await?;
    let good = token(&person("ana"));
    let header = |token: &str| vec![("X-Api-Key".to_owned(), token.to_owned())];
    let mut handshake = Handshake::new(&world.websocket(), "not-a-token", ProtocolVersion::V2);
    handshake.headers = header(&good);
    handshake.connect().await?.heartbeat().await?;
    handshake.token = None;
    handshake.connect().await?.heartbeat().await?;
    handshake.token = Some(good);
    handshake.headers = header("not-a-token");
    let error = handshake.connect().await.err().context("the header did not win")?;
    let refused = error.downcast::<HandshakeRefused>()?;
    assert_eq!((refused.status, refused.body), (401, told(401, NOT_A_JWT).body));
    Ok(())
}

// Cases 3 to 8, 13, 71, 72.
#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_status_and_its_words() -> Result<()> {
    let world = World::with_sql("handshake_refusals", "").await?;
    let now = unix_seconds();
    let whole = json!({ "role": "anon", "exp": now + 60 });
    let wrong_secret = walcast_auth::sign(&whole, "another secret that is long enough to be one")?;
    let unmapped = "Error connecting to Realtime";
    let table = [
        ("apikey", String::new(), 401, NOT_A_JWT),
        ("apikey", "nonsense".to_owned(), 401, NOT_A_JWT),
        ("apikey", "a.b.c".to_owned(), 401, NOT_A_JWT),
        ("apikey", "sb_publishable_1234".to_owned(), 401, NOT_A_JWT),
        ("apikey", token(&json!({ "role": "anon", "exp": now - 1000 })), 401, "Token has expired"),
        ("apikey", token(&json!({ "role": "anon", "exp": now })), 401, "Token has expired"),
        ("apikey", token(&json!({ "role": "anon" })), 401, CLAIMS),
        ("apikey", token(&json!({ "exp": now + 60 })), 401, CLAIMS),
        ("apikey", token(&json!({})), 401, CLAIMS),
        ("apikey", wrong_secret, 401, SIGNATURE),
        ("apikey", token(&json!({ "role": "anon", "exp": "9999999999" })), 500, unmapped),
        ("apikey", token(&json!({ "role": "anon", "exp": now + 60, "iat": "x" })), 500, unmapped),
        ("apikey", token(&json!({ "role": 7, "exp": now + 60 })), 500, unmapped),
        ("apikey", token(&json!({ "role": "none", "exp": now + 60 })), 500, unmapped),
        ("apikey", with_header(HEADER_NONE, &whole), 401, SIGNER),
        ("apikey", with_header(HEADER_RS256, &whole), 401, SIGNER),
        ("token", token(&whole), 401, "API key is missing"),
    ];
    for (parameter, token, status, error) in table {
        let target = format!("/socket/websocket?vsn=1.0.0&{parameter}={token}");
        let answer = ask(&world, "GET", &target, UPGRADE).await?;
        assert_eq!(answer, told(status, error), "{parameter}={token}");
    }
    // An `alg: none` token is signed by nothing at all.
    let unsigned = with_header(HEADER_NONE, &whole);
    let unsigned = unsigned.rsplit_once('.').context("three parts")?.0;
    assert_eq!(refusal(&world, &format!("{unsigned}.")).await?, told(401, SIGNER));
    Ok(())
}

// Cases 65 to 67.
#[tokio::test(flavor = "multi_thread")]
async fn a_public_rsa_key_is_no_hmac_secret() -> Result<()> {
    let whole = json!({ "role": "service_role", "exp": unix_seconds() + 60 });
    let forged = walcast_auth::sign(&whole, RSA_PUBLIC_PEM)?;
    let only_keys = |settings: &mut walcast::serve::ServeSettings| {
        settings.project.verifier.secret = None;
        settings.project.verifier.jwks = Some(rsa_key_set());
    };
    let world = World::with_settings("handshake_rsa", "", only_keys).await?;
    assert_eq!(refusal(&world, &forged).await?, told(401, SIGNER));
    assert_eq!(refusal(&world, &with_header(HEADER_HS256_K, &whole)).await?, told(401, SIGNER_K));
    assert_eq!(refusal(&world, &with_header(HEADER_RS256_K, &whole)).await?, told(401, SIGNER_K));
    assert_eq!(refusal(&world, &token(&whole)).await?, told(401, SIGNER));

    let both =
        |settings: &mut walcast::serve::ServeSettings| settings.project.verifier.jwks = Some(rsa_key_set());
    let world = World::with_settings("handshake_rsa_and_secret", "", both).await?;
    assert_eq!(refusal(&world, &forged).await?, told(401, SIGNATURE));
    assert_eq!(refusal(&world, &with_header(HEADER_RS256_K, &whole)).await?, told(401, SIGNER_K));
    world.connect(&whole).await?.heartbeat().await
}

// Cases 55, 73, 74, 75.
#[tokio::test(flavor = "multi_thread")]
async fn claims_are_read_leniently_where_the_protocol_is_and_configured_ones_must_match() -> Result<()> {
    let validated = |settings: &mut walcast::serve::ServeSettings| {
        settings.project.verifier.claim_validators.insert("iss".to_owned(), json!("https://issuer.example"));
    };
    let world = World::with_settings("handshake_claims", "", validated).await?;
    let soon = unix_seconds() + 60;
    let decimal = format!(r#"{{"role":"anon","exp":{soon}.5,"iat":{}.25}}"#, soon - 100);
    let decimal: Value = serde_json::from_str(&decimal)?;
    for claims in [
        decimal,
        json!({ "role": "anon", "exp": soon, "iss": "https://issuer.example", "aud": ["anything"], "nbf": soon }),
    ] {
        world.connect(&claims).await.with_context(|| claims.to_string())?.heartbeat().await?;
    }
    let other = json!({ "role": "anon", "exp": soon, "iss": "https://other.example" });
    assert_eq!(refusal(&world, &token(&other)).await?, told(500, "Error connecting to Realtime"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn white_space_and_percent_encoding_in_a_token_do_not_matter() -> Result<()> {
    let world = World::with_sql("handshake_space", "").await?;
    let token = token(&person("ana"));
    let (front, back) = token.split_at(30);
    for spaced in [format!("%20{front}%0A{back}+"), format!("{front}%09+{back}"), token.replace('.', "%2e")] {
        assert_eq!(refusal(&world, &spaced).await?.status, 101, "{spaced}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_asks_for_no_websocket_is_told_what_it_needs_once_its_token_is_checked() -> Result<()>
{
    let world = World::with_sql("handshake_upgrade", "").await?;
    let good = format!("/socket/websocket?apikey={}", token(&person("ana")));
    let without = |line: &str| -> String {
        UPGRADE.split_inclusive("\r\n").filter(|header| !header.starts_with(line)).collect()
    };
    for headers in [
        String::new(),
        without("connection"),
        without("upgrade"),
        without("sec-websocket-version"),
        without("sec-websocket-key"),
        UPGRADE.replace("version: 13", "version: 8"),
        UPGRADE.replace("upgrade: websocket", "upgrade: h2c"),
    ] {
        let answer = ask(&world, "GET", &good, &headers).await?;
        assert_eq!(answer.status, 400, "{headers}");
        assert!(answer.body.contains("Sec-WebSocket-Key"), "{headers}{answer:?}");
    }
    let bad = ask(&world, "GET", "/socket/websocket?apikey=nonsense", "").await?;
    assert_eq!(bad, told(401, NOT_A_JWT));
    assert_eq!(ask(&world, "POST", &good, "content-length: 0\r\n").await?.status, 405);
    assert_eq!(ask(&world, "GET", "/socket/websockets", UPGRADE).await?.status, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused_and_the_server_goes_on() -> Result<()> {
    let world = World::with_sql("handshake_head", "").await?;
    let large = format!("{UPGRADE}x-large: {}\r\n", "x".repeat(100_000));
    let answer = ask(&world, "GET", "/socket/websocket", &large).await;
    // The server may hang up while the head is still being written.
    if let Ok(answer) = answer {
        assert_eq!(answer.status, 431);
    }
    world.connect(&person("ana")).await?.heartbeat().await
}

// Case 11.
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_refused_until_another_has_ended() -> Result<()> {
    let one = |settings: &mut walcast::serve::ServeSettings| settings.project.limits.max_concurrent_users = 1;
    let world = World::with_settings("handshake_seats", "", one).await?;
    let token = token(&person("ana"));
    let mut first = world.connect(&person("ana")).await?;
    first.heartbeat().await?;
    assert_eq!(
        refusal(&world, &token).await?,
        told(429, "Too many connected users (limits.max_concurrent_users = 1)")
    );
    first.heartbeat().await?;
    first.close().await?;
    let admitted = async {
        // The server gives the seat back when it has seen the end of the connection.
        while refusal(&world, &token).await?.status != 101 {
            tokio::task::yield_now().await;
        }
        Ok::<_, anyhow::Error>(())
    };
    timeout(Duration::from_secs(10), admitted).await.map_err(|_| anyhow!("the seat is not given back"))?
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_come_at_once_exactly_as_many_are_admitted_as_there_are_seats() -> Result<()> {
    const SEATS: usize = 5;
    let few =
        |settings: &mut walcast::serve::ServeSettings| settings.project.limits.max_concurrent_users = SEATS;
    let world = World::with_settings("handshake_rush", "", few).await?;
    let handshake = Handshake::new(&world.websocket(), &token(&person("ana")), ProtocolVersion::V2);
    let rush: Vec<_> = (0..50)
        .map(|_| {
            let handshake = handshake.clone();
            tokio::spawn(async move { handshake.connect().await })
        })
        .collect();
    let mut admitted = Vec::new();
    for connecting in rush {
        match connecting.await? {
            Ok(client) => admitted.push(client),
            Err(error) => assert_eq!(error.downcast::<HandshakeRefused>()?.status, 429),
        }
    }
    assert_eq!(admitted.len(), SEATS);
    for client in &mut admitted {
        client.heartbeat().await.context("admitted, and then not served")?;
    }
    Ok(())
}
