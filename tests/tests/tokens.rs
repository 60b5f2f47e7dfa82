//! The token of a channel, from its join to its end: docs/protocol.md §3.2, §3.4, §8.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_testkit::{ProtocolClient, ProtocolVersion, Received};
use walcast_tests::{World, binding, person, role, token, unix_seconds};

const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V1, ProtocolVersion::V2];
const ROOM: &str = "realtime:room";

const CLAIMS: &str = "Fields `role` and `exp` are required in JWT";
const NOT_A_JWT: &str = "The token provided is not a valid JWT";
const SIGNATURE: &str = "Failed to validate JWT signature";
const SIGNER: &str = "Failed to generate JWT signer, check your JWT secret or JWKS configuration";

/// `{"alg":"none","typ":"JWT"}`
const HEADER_NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";

/// Everybody reads the letters that are addressed to them, and nobody else's.
const LETTERS: &str = "
    create table letters (id int generated always as identity primary key, reader text, body text);
    alter table letters enable row level security;
    create policy own on letters for select to authenticated using (reader = (select auth.jwt() ->> 'sub'));
    grant select on letters to authenticated, service_role;
    create publication supabase_realtime for table letters;
";

fn config(token: Option<&str>) -> Value {
    let mut payload = json!({ "config": { "broadcast": { "ack": true } } });
    if let Some(token) = token {
        payload["access_token"] = token.into();
    }
    payload
}

fn expiring(subject: &str, expires_at: f64) -> Value {
    json!({ "role": "authenticated", "sub": subject, "exp": expires_at })
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Tokens that nobody accepts, with what is said of each.
fn refused_tokens() -> Vec<(&'static str, String, &'static str)> {
    let soon = unix_seconds() + 60;
    let whole = json!({ "role": "authenticated", "exp": soon });
    let signed = token(&whole);
    let unsigned = format!("{HEADER_NONE}.{}", signed.split_once('.').expect("three parts").1);
    let forged =
        walcast_auth::sign(&whole, "another secret that is long enough to be one").expect("an object");
    vec![
        ("empty", String::new(), NOT_A_JWT),
        ("malformed", "nonsense".to_owned(), NOT_A_JWT),
        ("malformed", "a.b.c".to_owned(), NOT_A_JWT),
        ("without role", token(&json!({ "exp": soon })), CLAIMS),
        ("without exp", token(&json!({ "role": "authenticated" })), CLAIMS),
        ("with neither", token(&json!({})), CLAIMS),
        ("forged", forged, SIGNATURE),
        ("unsigned", unsigned, SIGNER),
    ]
}

/// Waits for the acknowledgement of a broadcast: the channel lives, and what the server sent before has arrived.
async fn acknowledged(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let reference = client.send(topic, "broadcast", &json!({ "event": "mark" })).await?;
    let reply = client.reply(&reference).await?;
    ensure!(reply.is_ok(), "{topic}: {reply:?}");
    Ok(())
}

/// Waits for the end of a channel: the `system` error, whose message is returned, then `phx_close`.
async fn end_of(client: &mut ProtocolClient, topic: &str) -> Result<String> {
    let system =
        client.expect(|message| message.topic == topic && message.system("system").is_some()).await?;
    let (status, message) = system.system("system").context("checked above")?;
    ensure!(status == "error", "{system:?}");
    ensure!(system.payload.as_object().map(serde_json::Map::len) == Some(4), "{system:?}");
    ensure!(Some(&system.payload["channel"]) == topic.strip_prefix("realtime:").map(Value::from).as_ref());
    let close = client.expect(|message| message.is(topic, "phx_close")).await?;
    ensure!(close.payload == json!({}), "{close:?}");
    Ok(message.to_owned())
}

async fn assert_not_joined(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let reference = client.send(topic, "broadcast", &json!({})).await?;
    let reply = client.reply(&reference).await?;
    ensure!(reply.reason() == Some("unmatched topic"), "{topic}: {reply:?}");
    Ok(())
}

fn is_subscribed(message: &Received) -> bool {
    message.system("postgres_changes") == Some(("ok", "Subscribed to PostgreSQL"))
}

/// The body of the next letter.
async fn letter(client: &mut ProtocolClient) -> Result<String> {
    let change = client.expect(|message| message.event == "postgres_changes").await?;
    let body = &change.payload["data"]["record"]["body"];
    Ok(body.as_str().with_context(|| format!("a letter, not {change:?}"))?.to_owned())
}

/// The seconds of `Token has expired N seconds ago`.
fn seconds_ago(message: &str) -> Result<u64> {
    let number =
        message.strip_prefix("Token has expired ").and_then(|rest| rest.strip_suffix(" seconds ago"));
    number.with_context(|| message.to_owned())?.parse().with_context(|| message.to_owned())
}

// Cases 49, 50, 55, 57.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_may_bring_its_own_token_under_either_name() -> Result<()> {
    let world = World::with_sql("tokens_own", LETTERS).await?;
    let bruno = token(&expiring("bruno", now() + 600.5));
    let zoe = token(&person("zoe"));
    let table = [
        (json!({}), "ana"),
        (json!({ "access_token": bruno }), "bruno"),
        (json!({ "user_token": bruno }), "bruno"),
        (json!({ "access_token": zoe, "user_token": bruno }), "bruno"),
        (json!({ "access_token": null, "user_token": bruno }), "bruno"),
        (json!({ "access_token": false, "user_token": bruno }), "bruno"),
        (json!({ "access_token": bruno, "user_token": 7 }), "bruno"),
        (json!({ "access_token": 7, "user_token": null }), "ana"),
        (json!({ "access_token": [bruno] }), "ana"),
        // Opaque keys are the gateway's; the socket's token counts.
        (json!({ "access_token": "sb_publishable_x" }), "ana"),
        (json!({ "user_token": "sb_secret_x" }), "ana"),
        (json!({ "access_token": "sb_publishable_x", "user_token": bruno }), "ana"),
    ];
    let mut clients = Vec::new();
    for (tokens, reader) in &table {
        let mut client = world.connect(&person("ana")).await?;
        let mut payload = tokens.clone();
        payload["config"] = json!({ "postgres_changes": [binding("INSERT", "letters")] });
        let reply = client.join(ROOM, &payload).await?;
        ensure!(reply.is_ok(), "{tokens}: {reply:?}");
        client.expect(is_subscribed).await?;
        clients.push((client, tokens, reader));
    }
    world
        .sql("insert into letters (reader, body) values ('zoe', 'zoe'), ('ana', 'ana'), ('bruno', 'bruno')")
        .await?;
    for (client, tokens, reader) in &mut clients {
        assert_eq!(&letter(client).await?, *reader, "{tokens}");
    }
    Ok(())
}

// Cases 51 to 56, 71.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_with_a_token_that_is_refused_says_why_with_its_code() -> Result<()> {
    let world = World::with_sql("tokens_refused", "").await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        for (name, token, message) in refused_tokens() {
            let code = match message {
                CLAIMS => "InvalidJWTToken",
                NOT_A_JWT => "MalformedJWT",
                SIGNATURE => "JwtSignatureError",
                _ => "JwtSignerError",
            };
            let reply = client.join(ROOM, &config(Some(&token))).await?;
            assert_eq!(reply.reason(), Some(format!("{code}: {message}").as_str()), "{name}");
            assert_eq!(reply.response.as_object().map(serde_json::Map::len), Some(1));
            assert_not_joined(&mut client, ROOM).await?;
        }
        let expired = token(&expiring("ana", now() - 1_000.0));
        let reply = client.join(ROOM, &config(Some(&expired))).await?;
        let message = reply.reason().and_then(|reason| reason.strip_prefix("InvalidJWTToken: "));
        let seconds = seconds_ago(message.with_context(|| format!("{reply:?}"))?)?;
        assert!((999..1_010).contains(&seconds), "{seconds}");
        for claims in [
            json!({ "role": "authenticated", "exp": "9999999999" }),
            json!({ "role": "authenticated", "exp": unix_seconds() + 60, "iat": "now" }),
            json!({ "role": 7, "exp": unix_seconds() + 60 }),
        ] {
            let reply = client.join(ROOM, &config(Some(&token(&claims)))).await?;
            assert_eq!(reply.reason(), Some("Unknown Error on Channel"), "{claims}");
        }
        assert!(client.join(ROOM, &config(None)).await?.is_ok());
    }
    Ok(())
}

// Case 76.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_ends_with_its_token_and_neither_before_nor_long_after() -> Result<()> {
    let world = World::with_sql("tokens_expiry", LETTERS).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let expires_at = (now() + 2.0).ceil();
        let short = token(&expiring("ana", expires_at));
        let mut payload = config(Some(&short));
        payload["config"]["postgres_changes"] = json!([binding("INSERT", "letters")]);
        assert!(client.join(ROOM, &payload).await?.is_ok());
        payload["access_token"] = Value::Null;
        assert!(client.join("realtime:long", &payload).await?.is_ok());
        acknowledged(&mut client, ROOM).await?;
        let message = end_of(&mut client, ROOM).await?;
        let late = now() - expires_at;
        assert!(seconds_ago(&message)? <= 1, "{message}");
        // Two seconds for a machine that is busy with other tests.
        assert!((0.0..2.0).contains(&late), "{late} seconds after exp");
        world.sql("insert into letters (reader, body) values ('ana', 'too late')").await?;
        client
            .expect_before(
                |message| message.is("realtime:long", "postgres_changes"),
                |message| message.is(ROOM, "postgres_changes"),
            )
            .await?;
        assert_not_joined(&mut client, ROOM).await?;
        let again = client.join(ROOM, &config(Some(&short))).await?;
        assert!(
            again.reason().is_some_and(|reason| reason.starts_with("InvalidJWTToken: Token has expired"))
        );
        assert!(client.join(ROOM, &config(None)).await?.is_ok(), "the socket and its own token live");
    }
    Ok(())
}

// Case 83.
#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_a_channel_and_of_its_socket_expire_each_for_itself() -> Result<()> {
    let world = World::with_sql("tokens_independent", "").await?;
    let expires_at = (now() + 2.0).ceil();
    let mut client = world.connect(&expiring("ana", expires_at)).await?;
    let own = token(&person("ana"));
    assert!(client.join("realtime:own", &config(Some(&own))).await?.is_ok());
    assert!(client.join("realtime:socket", &config(None)).await?.is_ok());
    let message = end_of(&mut client, "realtime:socket").await?;
    assert!(seconds_ago(&message)? <= 1, "{message}");
    acknowledged(&mut client, "realtime:own").await?;
    let reply = client.join("realtime:new", &config(None)).await?;
    let reason = reply.reason().context("the socket's token has expired")?;
    assert!(reason.starts_with("InvalidJWTToken: Token has expired "), "{reason}");
    assert!(client.join("realtime:new", &config(Some(&own))).await?.is_ok());
    client.heartbeat().await
}

// Cases 78, 231.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_keeps_the_channel_beyond_the_old_one_and_its_claims_decide_from_then_on() -> Result<()> {
    let world = World::with_sql("tokens_refresh", LETTERS).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("nobody"), version).await?;
        let expires_at = (now() + 3.0).ceil();
        let mut payload = config(Some(&token(&expiring("ana", expires_at))));
        payload["config"]["postgres_changes"] = json!([binding("INSERT", "letters")]);
        assert!(client.join(ROOM, &payload).await?.is_ok());
        assert!(
            client.join("realtime:old", &config(Some(&token(&expiring("ana", expires_at))))).await?.is_ok()
        );
        client.expect(is_subscribed).await?;
        world.sql("insert into letters (reader, body) values ('bruno', 'b1'), ('ana', 'a1')").await?;
        assert_eq!(letter(&mut client).await?, "a1");

        let reference =
            client.send(ROOM, "access_token", &json!({ "access_token": token(&person("bruno")) })).await?;
        let subscribed =
            client.expect_before(is_subscribed, |message| message.reference == reference).await?;
        assert_eq!(subscribed.payload["channel"], "room");
        world.sql("insert into letters (reader, body) values ('ana', 'a2'), ('bruno', 'b2')").await?;
        assert_eq!(letter(&mut client).await?, "b2");

        // The other channel of the same token has ended, so the time of this one would have come too.
        end_of(&mut client, "realtime:old").await?;
        acknowledged(&mut client, ROOM).await?;
        world.sql("insert into letters (reader, body) values ('ana', 'a3'), ('bruno', 'b3')").await?;
        assert_eq!(letter(&mut client).await?, "b3");
        client.access_token(ROOM, &token(&role("service_role"))).await?;
        client.expect(is_subscribed).await?;
        world.sql("insert into letters (reader, body) values ('ana', 'a4'), ('bruno', 'b4')").await?;
        assert_eq!((letter(&mut client).await?, letter(&mut client).await?), ("a4".into(), "b4".into()));
        assert!(client.unclaimed().all(|message| message.reference != reference), "never answered");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_expiry_of_a_new_token_counts_also_when_it_is_sooner() -> Result<()> {
    let world = World::with_sql("tokens_sooner", "").await?;
    let mut client = world.connect(&person("ana")).await?;
    assert!(client.join(ROOM, &config(None)).await?.is_ok());
    let expires_at = (now() + 1.0).ceil();
    client.access_token(ROOM, &token(&expiring("ana", expires_at))).await?;
    acknowledged(&mut client, ROOM).await?;
    let message = end_of(&mut client, ROOM).await?;
    assert!(seconds_ago(&message)? <= 1 && now() >= expires_at, "{message}");
    Ok(())
}

// Case 80.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_that_is_refused_closes_its_channel_with_the_reason_and_no_other() -> Result<()> {
    let world = World::with_sql("tokens_bad_refresh", LETTERS).await?;
    let expired = token(&expiring("ana", now() - 5.0));
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let mut payload = config(None);
        payload["config"]["postgres_changes"] = json!([binding("INSERT", "letters")]);
        assert!(client.join("realtime:other", &payload).await?.is_ok());
        for (name, token, message) in refused_tokens() {
            assert!(client.join(ROOM, &payload).await?.is_ok(), "{name}");
            client.access_token(ROOM, &token).await?;
            assert_eq!(end_of(&mut client, ROOM).await?, message, "{name}");
            assert_not_joined(&mut client, ROOM).await?;
        }
        assert!(client.join(ROOM, &payload).await?.is_ok());
        client.access_token(ROOM, &expired).await?;
        let seconds = seconds_ago(&end_of(&mut client, ROOM).await?)?;
        assert!((4..60).contains(&seconds), "{seconds}");
        world.sql("insert into letters (reader, body) values ('ana', 'unseen')").await?;
        client
            .expect_before(
                |message| message.is("realtime:other", "postgres_changes"),
                |message| message.is(ROOM, "postgres_changes"),
            )
            .await?;
        acknowledged(&mut client, "realtime:other").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_of_a_role_that_can_not_have_the_bindings_silences_them_until_another_can() -> Result<()>
{
    let world = World::with_sql("tokens_role", LETTERS).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let mut payload = config(None);
        let filtered =
            json!({ "event": "INSERT", "schema": "public", "table": "letters", "filter": "body=neq.x" });
        payload["config"]["postgres_changes"] = json!([filtered]);
        assert!(client.join(ROOM, &payload).await?.is_ok());
        client.expect(is_subscribed).await?;
        let mut other = world.connect_as(&person("ana"), version).await?;
        other.join_changes(ROOM, &[binding("INSERT", "letters")]).await?;
        for role_name in ["there is no such role", "anon"] {
            client.access_token(ROOM, &token(&role(role_name))).await?;
            let told = client.expect(|message| message.system("postgres_changes").is_some()).await?;
            let (status, message) = told.system("postgres_changes").context("checked above")?;
            let beginning = "Unable to subscribe to changes with given parameters.";
            assert!(status == "error" && message.starts_with(beginning), "{told:?}");
            world.sql("insert into letters (reader, body) values ('ana', 'not for this role')").await?;
            assert_eq!(letter(&mut other).await?, "not for this role");
            client.access_token(ROOM, &token(&person("ana"))).await?;
            client.expect(is_subscribed).await?;
            world.sql("insert into letters (reader, body) values ('ana', 'again')").await?;
            assert_eq!(
                (letter(&mut client).await?, letter(&mut other).await?),
                ("again".into(), "again".into())
            );
            acknowledged(&mut client, ROOM).await?;
        }
    }
    Ok(())
}

// Case 79.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_token_an_opaque_key_and_what_is_no_token_are_ignored() -> Result<()> {
    let world = World::with_sql("tokens_ignored", LETTERS).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let expires_at = (now() + 3.0).ceil();
        let current = token(&expiring("ana", expires_at));
        let mut payload = config(Some(&current));
        payload["config"]["postgres_changes"] = json!([binding("INSERT", "letters")]);
        assert!(client.join(ROOM, &payload).await?.is_ok());
        client.expect(is_subscribed).await?;
        let ignored = [
            json!({ "access_token": current }),
            json!({ "access_token": "sb_publishable_x" }),
            json!({ "access_token": "sb_" }),
            json!({ "access_token": null }),
            json!({ "access_token": 7 }),
            json!({ "access_token": { "access_token": current } }),
            json!({ "user_token": token(&person("bruno")) }),
            json!({}),
            json!([]),
            json!(null),
            json!("token"),
        ];
        for payload in &ignored {
            client.send(ROOM, "access_token", payload).await?;
        }
        acknowledged(&mut client, ROOM).await?;
        world.sql("insert into letters (reader, body) values ('bruno', 'b'), ('ana', 'a')").await?;
        assert_eq!(letter(&mut client).await?, "a");
        assert_eq!(client.unclaimed().count(), 0, "no reply, no second subscription");
        let message = end_of(&mut client, ROOM).await?;
        assert!(seconds_ago(&message)? <= 1, "the expiry of the token it has still counts: {message}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_behind_a_new_token_wait_for_it() -> Result<()> {
    let world = World::with_sql("tokens_order", LETTERS).await?;
    let mut client = world.connect(&person("ana")).await?;
    let mut payload = config(None);
    payload["config"]["postgres_changes"] = json!([binding("INSERT", "letters")]);
    assert!(client.join(ROOM, &payload).await?.is_ok());
    client.access_token(ROOM, &token(&person("bruno"))).await?;
    acknowledged(&mut client, ROOM).await?;
    client.access_token(ROOM, "nonsense").await?;
    let reference = client.send(ROOM, "broadcast", &json!({})).await?;
    assert_eq!(end_of(&mut client, ROOM).await?, NOT_A_JWT);
    assert_eq!(client.reply(&reference).await?.reason(), Some("unmatched topic"));
    // A leave and a join right behind a refresh leave nothing of it over.
    assert!(client.join(ROOM, &payload).await?.is_ok());
    client.access_token(ROOM, &token(&person("bruno"))).await?;
    client.send(ROOM, "phx_leave", &json!({})).await?;
    assert!(client.join(ROOM, &payload).await?.is_ok());
    world.sql("insert into letters (reader, body) values ('bruno', 'b'), ('ana', 'a')").await?;
    assert_eq!(letter(&mut client).await?, "a");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_pushed_while_the_join_is_pending_is_applied_after_it() -> Result<()> {
    let world = World::with_sql("tokens_pending", LETTERS).await?;
    for version in BOTH {
        let mut client = world.connect_as(&person("ana"), version).await?;
        let mut payload = config(None);
        payload["config"]["postgres_changes"] = json!([binding("INSERT", "letters")]);
        let bruno = json!({ "access_token": token(&person("bruno")) });
        for (reference, event, payload) in [("1", "phx_join", &payload), ("2", "access_token", &bruno)] {
            let (join_ref, reference) = (Value::from("1"), Value::from(reference));
            client.send_text(&version.encode(&join_ref, &reference, ROOM, event, payload)).await?;
        }
        client.expect(is_subscribed).await?;
        client.expect(is_subscribed).await?;
        world.sql("insert into letters (reader, body) values ('ana', 'a'), ('bruno', 'b')").await?;
        assert_eq!(letter(&mut client).await?, "b");
    }
    Ok(())
}
