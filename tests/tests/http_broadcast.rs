//! Broadcasts over HTTP, to real sockets: docs/protocol.md §6.2, §6.3.

use std::num::NonZeroU32;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_auth::Secret;
use walcast_testkit::{ProtocolClient, ProtocolVersion, RawFrame, Received};
use walcast_tests::requests::Answer;
use walcast_tests::{SECRET, World, person, role, token};

const ROOM: &str = "realtime:room";

async fn member(world: &World, version: ProtocolVersion, topic: &str) -> Result<ProtocolClient> {
    joined(world, version, topic, &json!({})).await
}

async fn joined(
    world: &World,
    version: ProtocolVersion,
    topic: &str,
    config: &Value,
) -> Result<ProtocolClient> {
    let mut client = world.connect_as(&person("ana"), version).await?;
    let reply = client.join(topic, &json!({ "config": config })).await?;
    ensure!(reply.is_ok(), "{reply:?}");
    Ok(client)
}

async fn batch(world: &World, messages: &Value) -> Result<Answer> {
    let body = json!({ "messages": messages });
    world.request_as(&token(&person("ana")), "POST", "/api/broadcast", &body).await
}

async fn single(world: &World, path: &str, content_type: Option<&str>, body: &[u8]) -> Result<Answer> {
    let bearer = format!("Bearer {}", token(&person("ana")));
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(content_type.map(|value| ("content-type", value)));
    world.request("POST", path, &headers, body).await
}

fn is_broadcast(message: &Received) -> bool {
    message.event == "broadcast"
}

async fn next(client: &mut ProtocolClient) -> Result<Received> {
    client.expect(is_broadcast).await
}

/// Sends a mark after whatever was sent before, and shows that nothing came before it.
async fn nothing_but_a_mark(world: &World, topic: &str, client: &mut ProtocolClient) -> Result<()> {
    let mark = json!([{ "topic": topic, "event": "mark", "payload": {} }]);
    let answer = batch(world, &mark).await?;
    ensure!(answer.status == 202, "{answer:?}");
    let is_mark = |message: &Received| is_broadcast(message) && message.payload["event"] == "mark";
    client.expect_before(is_mark, |message| is_broadcast(message) && !is_mark(message)).await?;
    Ok(())
}

// Case 124.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_reaches_the_members_of_its_topics_in_both_serializers_with_its_payloads_as_they_are()
-> Result<()> {
    let world = World::with_sql("http_batch", "").await?;
    let mut members =
        [member(&world, ProtocolVersion::V1, ROOM).await?, member(&world, ProtocolVersion::V2, ROOM).await?];
    let mut outsider = member(&world, ProtocolVersion::V2, "realtime:a:b").await?;
    let body = br#"{"messages":[{"topic":"room","event":"e","payload":{ "n": 1.50, "n": 2 },"id":"7"},
                                {"topic":"a:b","event":"f","payload":{},"private":"false"}]}"#;
    for path in ["/api/broadcast", "/realtime/v1/api/broadcast"] {
        let bearer = format!("bearer {}", token(&person("ana")));
        let answer = world.request("POST", path, &[("authorization", &bearer)], body).await?;
        assert_eq!((answer.status, answer.body.as_str()), (202, ""), "{path}");
        for client in &mut members {
            let message = next(client).await?;
            assert!(message.is(ROOM, "broadcast"));
            assert_eq!(
                message.payload,
                json!({ "type": "broadcast", "event": "e", "payload": { "n": 2 }, "meta": { "id": "7" } })
            );
            let RawFrame::Text(text) = &message.raw else { panic!("a batch comes as text") };
            assert!(text.contains(r#""payload":{ "n": 1.50, "n": 2 }"#), "{text}");
        }
        let message = next(&mut outsider).await?;
        assert_eq!(message.payload, json!({ "type": "broadcast", "event": "f", "payload": {} }));
    }
    Ok(())
}

// Case 127.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_anything_wrong_says_what_and_sends_nothing() -> Result<()> {
    let world = World::with_sql("http_batch_wrong", "").await?;
    let mut client = member(&world, ProtocolVersion::V2, ROOM).await?;
    let good = json!({ "topic": "room", "event": "e", "payload": {} });
    let blank = json!(["can't be blank"]);
    let wrong = json!(["is invalid"]);
    let oversized = json!({ "large": "x".repeat(3_000_500) });
    for (messages, errors) in [
        (json!([good, {}]), json!([{}, { "payload": blank, "event": blank, "topic": blank }])),
        (
            json!([{ "topic": 1, "event": "e", "payload": "x" }, good]),
            json!([{ "topic": wrong, "payload": wrong }, {}]),
        ),
        (
            json!([good, { "topic": "room", "event": "e", "payload": oversized }]),
            json!([{}, { "payload": ["Payload size exceeds tenant limit"] }]),
        ),
        (json!([]), blank.clone()),
        (json!("x"), wrong.clone()),
    ] {
        let answer = batch(&world, &messages).await?;
        assert_eq!((answer.status, answer.json()), (422, json!({ "errors": { "messages": errors } })));
    }
    let bearer = format!("Bearer {}", token(&person("ana")));
    let broken = world.request("POST", "/api/broadcast", &[("authorization", &bearer)], b"{").await?;
    assert_eq!(broken.status, 400);
    assert!(broken.body.contains("the body is not JSON: "), "{broken:?}");
    nothing_but_a_mark(&world, "room", &mut client).await
}

// Cases 132, 134; §2.4.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_message_is_any_json_value_as_it_was_written() -> Result<()> {
    let world = World::with_sql("http_single", "").await?;
    let mut old = member(&world, ProtocolVersion::V1, "realtime:a:b/ü").await?;
    let mut new = member(&world, ProtocolVersion::V2, "realtime:a:b/ü").await?;
    let path = "/api/broadcast/a%3Ab%2F%C3%BC/events/an%20event";
    for (content_type, body, payload) in [
        (Some("application/json"), r#"{ "a" : 1.0 }"#, json!({ "a": 1.0 })),
        (Some("application/json; charset=utf-8"), "{}", json!({})),
        (Some("application/json"), "[1, 2]", json!([1, 2])),
        (Some("application/json"), "\"text\"", json!("text")),
        (Some("application/json"), r#"{"private":true}"#, json!({ "private": true })),
        (Some("application/json"), "", json!({})),
        (None, "", json!({})),
        (None, "7", json!(7)),
    ] {
        for path in [path.to_owned(), format!("/realtime/v1{path}?private=false")] {
            let answer = single(&world, &path, content_type, body.as_bytes()).await?;
            assert_eq!((answer.status, answer.body.as_str()), (202, ""), "{body}");
            let expected = json!({ "type": "broadcast", "event": "an event", "payload": payload });
            let message = next(&mut old).await?;
            assert_eq!(message.payload, expected);
            let message = next(&mut new).await?;
            assert_eq!(message.payload, expected);
            let written = if body.is_empty() { "{}" } else { body };
            assert_eq!(message.bytes.as_deref(), Some(written.as_bytes()));
        }
    }
    Ok(())
}

// Case 133; §2.4.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_reach_the_newer_serializer_and_not_the_older_one() -> Result<()> {
    let world = World::with_sql("http_bytes", "").await?;
    let mut old = member(&world, ProtocolVersion::V1, ROOM).await?;
    let mut new = member(&world, ProtocolVersion::V2, ROOM).await?;
    for body in [b"\xff\x00\x01".as_slice(), b""] {
        let answer =
            single(&world, "/api/broadcast/room/events/e", Some("application/octet-stream"), body).await?;
        assert_eq!(answer.status, 202);
        assert_eq!(next(&mut new).await?.bytes.as_deref(), Some(body));
    }
    nothing_but_a_mark(&world, "room", &mut old).await?;
    let long = format!("/api/broadcast/room/events/{}", "e".repeat(256));
    let refused = single(&world, &long, Some("application/octet-stream"), b"").await?;
    assert_eq!((refused.status, refused.json()["errors"]["event"][0].is_string()), (422, true));
    Ok(())
}

// Cases 128, 133, 134.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_single_message_can_not_be_is_refused_by_its_name() -> Result<()> {
    let world = World::with_sql("http_single_wrong", "").await?;
    let mut client = member(&world, ProtocolVersion::V2, ROOM).await?;
    let path = "/api/broadcast/room/events/e";
    for media_type in ["text/plain", "application/xml", "multipart/form-data; boundary=x"] {
        let refused = single(&world, path, Some(media_type), b"{}").await?;
        let error = "Unsupported Media Type. Use application/json or application/octet-stream";
        assert_eq!((refused.status, refused.json()), (415, json!({ "error": error })));
    }
    let large = vec![b'1'; 3_000_501];
    for media_type in ["application/json", "application/octet-stream"] {
        let refused = single(&world, path, Some(media_type), &large).await?;
        let errors = json!({ "errors": { "payload": ["Payload size exceeds tenant limit"] } });
        assert_eq!((refused.status, refused.json()), (422, errors));
    }
    assert_eq!(single(&world, path, None, b"{").await?.status, 400);
    let bearer = format!("Bearer {}", token(&person("ana")));
    for path in [path, "/api/broadcast"] {
        let headers = [("authorization", bearer.as_str()), ("content-length", "8000001")];
        assert_eq!(world.request("POST", path, &headers, b"").await?.status, 413, "{path}");
    }
    for (query, problem) in [
        ("persist=true", "can only be used on private channels"),
        (
            "private=true&persist[ttl]=60",
            "is not supported by this server: insert into realtime.messages, or call realtime.send, instead",
        ),
    ] {
        let refused = single(&world, &format!("{path}?{query}"), None, b"{}").await?;
        assert_eq!((refused.status, refused.json()), (422, json!({ "errors": { "persist": [problem] } })));
    }
    for (path, part) in [("/api/broadcast//events/e", "topic"), ("/api/broadcast/room/events/%20", "event")] {
        let refused = single(&world, path, None, b"{}").await?;
        assert_eq!(
            (refused.status, refused.json()),
            (422, json!({ "errors": { part: ["can't be blank"] } }))
        );
    }
    nothing_but_a_mark(&world, "room", &mut client).await
}

// Case 130.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_good_token_sends_and_the_answer_to_any_other_says_why() -> Result<()> {
    let world = World::with_sql("http_tokens", "").await?;
    let good = token(&person("ana"));
    let bearer = format!("Bearer {good}");
    let expired = format!("Bearer {}", token(&json!({ "role": "authenticated", "exp": 1 })));
    let claimless = format!("Bearer {}", token(&json!({})));
    let body = br#"{"messages":[{"topic":"room","event":"e","payload":{}}]}"#;
    for path in ["/api/broadcast", "/api/broadcast/room/events/e"] {
        for (headers, why) in [
            (vec![], "API key is missing"),
            (vec![("authorization", "Bearer")], "Authorization: Bearer"),
            (vec![("authorization", good.as_str()), ("apikey", &good)], "Authorization: Bearer"),
            (vec![("authorization", "Bearer a b")], "Authorization: Bearer"),
            (vec![("authorization", "Bearer potato")], "The token provided is not a valid JWT"),
            (vec![("authorization", expired.as_str())], "Token has expired"),
            (vec![("authorization", claimless.as_str())], "are required in JWT"),
            (vec![("x-api-key", good.as_str())], "API key is missing"),
        ] {
            let refused = world.request("POST", path, &headers, body).await?;
            assert_eq!((refused.status, refused.json()), (401, json!({ "message": "Unauthorized" })));
            let challenge = refused.header("www-authenticate").unwrap_or_default();
            assert!(challenge.starts_with("Bearer error=") && challenge.contains(why), "{challenge}");
        }
        for headers in [
            vec![("authorization", bearer.as_str())],
            vec![("apikey", good.as_str())],
            vec![("authorization", ""), ("apikey", good.as_str())],
        ] {
            assert_eq!(world.request("POST", path, &headers, body).await?.status, 202, "{headers:?}");
        }
    }
    Ok(())
}

// Case 129; §6.2, §10.2.
#[tokio::test(flavor = "multi_thread")]
async fn more_messages_than_a_second_allows_are_refused_with_the_limit_and_its_setting() -> Result<()> {
    let world = World::with_settings("http_rate", "", |settings| {
        settings.project.engine.max_events_per_second = NonZeroU32::new(1);
    })
    .await?;
    let message = json!({ "topic": "room", "event": "e", "payload": {} });
    let refused = batch(&world, &json!([message, message])).await?;
    assert_eq!(refused.status, 429);
    let detail = "Too many messages per second (limits.max_events_per_second = 1)";
    assert_eq!(
        refused.json(),
        json!({ "message": "Too many messages to broadcast, please reduce the batch size", "detail": detail })
    );
    assert_eq!(refused.header("x-rate-limit"), Some("1"));
    assert_eq!(refused.header("x-rate-rolling"), Some("0"), "nothing was taken");
    assert_eq!(refused.header("x-rate-limit-remaining"), Some("1"));
    // A second gives one back, so it may take a few until one comes too early.
    for path in ["/api/broadcast", "/api/broadcast/room/events/e"] {
        let body = json!({ "messages": [message] });
        let mut refused = None;
        for _ in 0..100 {
            let answer = world.request_as(&token(&person("ana")), "POST", path, &body).await?;
            if answer.status == 429 {
                refused = Some(answer);
                break;
            }
            assert_eq!(answer.status, 202);
        }
        let told = json!({ "message": "You have exceeded your rate limit", "detail": detail });
        assert_eq!(refused.context("never refused")?.json(), told);
    }
    let ping = world.request("GET", "/api/ping", &[], b"").await?;
    assert_eq!((ping.status, ping.json()), (200, json!({ "message": "Success" })));
    assert_eq!(ping.header("x-rate-limit"), Some("1"));
    Ok(())
}

// §6.3.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_any_origin_may_send_and_read_refusals() -> Result<()> {
    let world = World::with_sql("http_cors", "").await?;
    let paths = ["/api/broadcast", "/api/broadcast/room/events/e", "/realtime/v1/api/broadcast", "/api/ping"];
    for path in paths {
        let asked = [
            ("origin", "https://app.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,x-mine"),
        ];
        let preflight = world.request("OPTIONS", path, &asked, b"").await?;
        assert_eq!((preflight.status, preflight.body.as_str()), (204, ""), "{path}");
        assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
        assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization,x-mine"));
        let methods = preflight.header("access-control-allow-methods").unwrap_or_default();
        assert!(methods.contains("POST"), "{methods}");
        assert!(preflight.header("access-control-max-age").is_some());
        let refused = world.request("POST", path, &[("origin", "https://app.example")], b"").await?;
        assert!(matches!(refused.status, 401 | 405), "{path}");
        assert_eq!(refused.header("access-control-allow-origin"), Some("*"));
    }
    // An operator's route is not for pages.
    let tenants = world.request("GET", "/api/tenants", &[("origin", "https://app.example")], b"").await?;
    assert_eq!(tenants.header("access-control-allow-origin"), None);
    Ok(())
}

const POLICIES: &str = "
    create policy hear on realtime.messages for select to authenticated using (true);
    create policy speak on realtime.messages for insert to authenticated with check (
        realtime.topic() in ('open', 'header')
        and (realtime.topic() = 'open' or current_setting('request.headers')::json ->> 'x-door' = 'ajar'));
    create policy broken on realtime.messages for insert to authenticated with check (
        case when realtime.topic() = 'broken' then 1 / (length(realtime.topic()) - 6) = 1 else false end);";

async fn private_world(name: &str) -> Result<World> {
    let install = walcast_catalog::install::sql(&["supabase_realtime".to_owned()]);
    World::with_sql(name, &format!("{install}{POLICIES}")).await
}

fn private(topic: &str) -> Value {
    json!({ "topic": topic, "event": "e", "payload": {}, "private": true })
}

// Cases 125, 126.
#[tokio::test(flavor = "multi_thread")]
async fn of_the_private_messages_of_a_batch_those_are_sent_that_a_policy_allows() -> Result<()> {
    let world = private_world("http_private_batch").await?;
    let config = json!({ "private": true });
    let mut open = joined(&world, ProtocolVersion::V2, "realtime:open", &config).await?;
    let mut shut = joined(&world, ProtocolVersion::V2, "realtime:shut", &config).await?;
    let mut broken = joined(&world, ProtocolVersion::V2, "realtime:broken", &config).await?;
    let mut public = member(&world, ProtocolVersion::V2, "realtime:open").await?;
    let messages = json!([private("open"), private("shut"), private("broken"), private("shut"),
                          private("open"), { "topic": "shut", "event": "public", "payload": {} }]);
    let answer = batch(&world, &messages).await?;
    assert_eq!((answer.status, answer.body.as_str()), (202, ""));
    for _ in 0..2 {
        assert_eq!(next(&mut open).await?.payload["event"], "e");
    }
    assert_eq!(world.metric("walcast_rest_messages_withheld_total").await?, 3);
    // What was withheld would have come before an answer to what is asked after it.
    for client in [&mut open, &mut shut, &mut broken, &mut public] {
        client.heartbeat().await?;
        assert_eq!(client.unclaimed().filter(|message| is_broadcast(message)).count(), 0);
    }
    Ok(())
}

// Case 135; §6.3.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_single_message_needs_a_policy_that_allows_it() -> Result<()> {
    let world = private_world("http_private_single").await?;
    let config = json!({ "private": true });
    let mut open = joined(&world, ProtocolVersion::V2, "realtime:open", &config).await?;
    let path = |topic: &str| format!("/api/broadcast/{topic}/events/e?private=true");
    assert_eq!(single(&world, &path("open"), None, b"{}").await?.status, 202);
    assert_eq!(next(&mut open).await?.payload["event"], "e");
    let refused = single(&world, &path("shut"), None, b"{}").await?;
    assert_eq!((refused.status, refused.json()), (403, json!({ "message": "Unauthorized" })));
    let broken = single(&world, &path("broken"), None, b"{}").await?;
    assert_eq!((broken.status, broken.json()), (422, json!({ "message": "RLS policy error" })));
    let nobody = world.request_as(&token(&role("nobody")), "POST", &path("open"), &json!({})).await?;
    assert_eq!((nobody.status, nobody.json()), (422, json!({ "message": "RLS policy error" })));
    let bearer = format!("Bearer {}", token(&person("ana")));
    for (door, status) in [("ajar", 202), ("closed", 403)] {
        let headers = [("authorization", bearer.as_str()), ("x-door", door)];
        let answer = world.request("POST", &path("header"), &headers, b"{}").await?;
        assert_eq!(answer.status, status, "policies read the headers of the request: {answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_table_of_messages_a_private_message_is_refused_with_what_to_do() -> Result<()> {
    let world = World::with_sql("http_not_installed", "").await?;
    let refused = single(&world, "/api/broadcast/room/events/e?private=true", None, b"{}").await?;
    assert_eq!((refused.status, &refused.json()["message"]), (500, &json!("Unable to authorize broadcast")));
    let detail = refused.json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("walcast install"), "{detail}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_for_private_channels_only_takes_no_public_message() -> Result<()> {
    let world =
        World::with_settings("http_private_only", "", |settings| settings.project.limits.private_only = true)
            .await?;
    let message = json!({ "topic": "room", "event": "e", "payload": {} });
    for answer in [
        batch(&world, &json!([message])).await?,
        single(&world, "/api/broadcast/room/events/e", None, b"{}").await?,
    ] {
        let told = json!({ "message": "This project only allows private channels" });
        assert_eq!((answer.status, answer.json()), (403, told));
    }
    Ok(())
}

// Case 131.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_project_takes_no_message() -> Result<()> {
    let world =
        World::with_settings("http_suspended", "", |settings| settings.project.limits.suspended = true)
            .await?;
    let message = json!({ "topic": "room", "event": "e", "payload": {} });
    for answer in [
        batch(&world, &json!([message])).await?,
        single(&world, "/api/broadcast/room/events/e", None, b"{}").await?,
    ] {
        assert_eq!((answer.status, answer.json()), (403, json!({ "message": "Tenant is suspended" })));
    }
    Ok(())
}

// Case 263.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_name_of_its_request_and_forbids_guessing() -> Result<()> {
    let world = World::with_settings("http_request_id", "", |settings| {
        settings.operations.secrets = vec![Secret::new(SECRET)];
    })
    .await?;
    for path in ["/api/ping", "/api/tenants", "/healthz", "/nowhere", "/api/broadcast", "/socket/websocket"] {
        let named = world.request("GET", path, &[("baggage", "request-id=from-outside-1")], b"").await?;
        assert_eq!(named.header("x-request-id"), Some("from-outside-1"), "{path}");
        assert_eq!(named.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(named.header("referrer-policy"), Some("no-referrer"), "{path}");
        let unnamed =
            world.request("GET", path, &[("baggage", "request-id=%E2%80%AEforged-name")], b"").await?;
        assert_eq!(unnamed.header("x-request-id").map(str::len), Some(32), "{path}");
    }
    Ok(())
}
