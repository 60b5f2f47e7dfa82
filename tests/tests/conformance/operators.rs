//! Cases 22, 246 to 260, 263 to 265 and 274: what operators ask and do over HTTP, and the end of a server.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::serve::ServeSettings;
use walcast_auth::Secret;
use walcast_engine::RateLimit;
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, Database, ProtocolClient};
use walcast_tests::requests::Answer;
use walcast_tests::shared::{Shared, SharedWorld};
use walcast_tests::{SECRET, World, binding, http, role, token};

use crate::scene::{BOTH, end_of, member, on_both, room, sub_topic};

const OPERATORS: &str = "a secret of the operators, long enough as well";
const NEXT: &str = "the secret that operators get after that one";
const LOST: &str = r#"{"name":"lost"}"#;

fn signed(claims: &Value, secret: &str) -> String {
    walcast_auth::sign(claims, secret).expect("claims are an object")
}

/// A token that was good until it got lost.
fn lost() -> String {
    signed(&serde_json::from_str(LOST).expect("JSON"), OPERATORS)
}

fn with_operators(settings: &mut ServeSettings) {
    settings.operations.secrets = vec![Secret::new(OPERATORS), Secret::new(NEXT)];
    settings.operations.blocked = vec![Secret::new(&*lost())];
    settings.operations.metrics_secret = Some(Secret::new(NEXT));
    settings.operations.region = Some("mars".to_owned());
    settings.project.id = "blue".parse().expect("a name");
}

/// The server of the cases that end nobody's sockets.
static SHARED: Shared = Shared::new(
    "conformance_operators",
    || {
        "create table notes (id int primary key); grant select on notes to authenticated;
        create publication supabase_realtime for table notes;"
            .to_owned()
    },
    with_operators,
);

async fn world() -> Result<std::sync::Arc<SharedWorld>> {
    SHARED.world().await
}

async fn ask(world: &World, method: &str, path: &str) -> Result<Answer> {
    world.request_as(&signed(&json!({}), OPERATORS), method, path, &json!(null)).await
}

/// A route of a tenant answers so, and one of a tenant that there is not with 404.
async fn found(world: &World, method: &str, rest: &str) -> Result<Answer> {
    let missing = ask(world, method, &format!("/api/tenants/red{rest}")).await?;
    ensure!((missing.status, missing.json()) == (404, json!({ "message": "not found" })), "{missing:?}");
    ask(world, method, &format!("/api/tenants/blue{rest}")).await
}

/// All sockets of a project are told, and closed with 1012.
async fn sent_away(client: &mut ProtocolClient, topic: &str) -> Result<()> {
    let told = client.expect(|message| message.system("system").is_some()).await?;
    ensure!(told.system("system") == Some(("ok", "Server requested disconnect")), "{:?}", told.raw);
    ensure!(told.topic == topic && told.payload["channel"] == sub_topic(topic), "{:?}", told.raw);
    let (code, _) = client.closed().await?.context("a close frame")?;
    ensure!(code == 1012, "{code}");
    Ok(())
}

/// A member of each serializer, each on a topic of its own.
async fn members(world: &World) -> Result<Vec<(ProtocolClient, String)>> {
    let mut members = Vec::new();
    for version in BOTH {
        let topic = room();
        members.push((member(world, version, &topic, &json!({})).await?, topic));
    }
    Ok(members)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_022_a_disconnect_by_the_server_closes_all_sockets_of_the_project() -> Result<()> {
    let world = World::with_settings("conformance_022", "", with_operators).await?;
    let mut members = members(&world).await?;
    ensure!(ask(&world, "POST", "/api/tenants/blue/shutdown").await?.status == 204);
    for (client, topic) in &mut members {
        sent_away(client, topic).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_246_ping_answers_success_with_what_is_left_of_the_rate_and_an_unknown_project_401() -> Result<()>
{
    let world = World::with_settings("conformance_246", "", |settings| {
        settings.project.engine.max_events_per_second = NonZeroU32::new(3);
    })
    .await?;
    for _ in 0..10 {
        let answer = world.request("GET", "/api/ping", &[], b"").await?;
        ensure!((answer.status, answer.json()) == (200, json!({ "message": "Success" })), "{answer:?}");
        for (name, value) in [("x-rate-limit", "3"), ("x-rate-limit-remaining", "3"), ("x-rate-rolling", "0")]
        {
            ensure!(answer.header(name) == Some(value), "requests take nothing of it: {answer:?}");
        }
    }
    let listed = World::with_settings("conformance_246_listed", "", |settings| {
        settings.project.address = walcast_server::front::Address::Listed {
            hosts: Vec::new(),
            paths: vec!["/blue".parse().expect("a path")],
        };
    })
    .await?;
    ensure!(listed.request("GET", "/blue/api/ping", &[], b"").await?.status == 200);
    let nobody = http::ask(listed.server.address(), "GET", "/api/ping", "").await?;
    let told = json!({ "message": "Tenant not found in database" });
    ensure!((nobody.status, nobody.json()?) == (401, told), "{nobody:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_247_a_project_is_shown_without_its_secrets() -> Result<()> {
    let world = world().await?;
    let shown = found(&world, "GET", "").await?;
    let tenant = &shown.json()["data"];
    ensure!(shown.status == 200 && tenant["external_id"] == "blue", "{shown:?}");
    let settings = &tenant["extensions"][0]["settings"];
    ensure!(
        settings["db_host"] == "127.0.0.1" && settings["publication"] == "supabase_realtime",
        "{settings}"
    );
    let listed = ask(&world, "GET", "/api/tenants").await?;
    ensure!(listed.json() == json!({ "data": [tenant] }), "{listed:?}");
    let password = world.database.url().split([':', '@']).nth(2).context("the URL has a password")?;
    for secret in [SECRET, OPERATORS, NEXT, password, "db_password", "jwt_secret", "jwks"] {
        ensure!(!listed.body.contains(secret) && !shown.body.contains(secret), "{secret} is shown");
    }
    Ok(())
}

/// Projects come from the configuration: whoever wants to change them is told so, and nothing changes.
async fn is_left_to_the_configuration(method: &str, path: &str, body: &Value) -> Result<()> {
    let world = world().await?;
    let before = ask(&world, "GET", "/api/tenants").await?.json();
    let refused = world.request_as(&signed(&json!({}), OPERATORS), method, path, body).await?;
    ensure!(refused.status == 405 && refused.body.contains("configuration"), "{method} {path}: {refused:?}");
    ensure!(refused.header("allow").is_some_and(|allowed| allowed.contains("GET")), "{refused:?}");
    ensure!(ask(&world, "GET", "/api/tenants").await?.json() == before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_248_a_project_is_not_created_over_http() -> Result<()> {
    let tenant = json!({ "tenant": { "external_id": "green", "jwt_secret": "x", "extensions": [] } });
    is_left_to_the_configuration("POST", "/api/tenants", &tenant).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_249_a_project_is_not_changed_over_http() -> Result<()> {
    let tenant = json!({ "tenant": { "max_concurrent_users": 1 } });
    for method in ["PUT", "PATCH"] {
        is_left_to_the_configuration(method, "/api/tenants/blue", &tenant).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_250_an_invalid_project_is_refused_like_any_other() -> Result<()> {
    for body in [json!({}), json!({ "tenant": { "external_id": 7 } }), json!("text")] {
        is_left_to_the_configuration("POST", "/api/tenants", &body).await?;
        is_left_to_the_configuration("PUT", "/api/tenants/blue", &body).await?;
    }
    Ok(())
}

/// Every route of operators.
const ROUTES: &[(&str, &str)] = &[
    ("GET", "/api/tenants"),
    ("POST", "/api/tenants"),
    ("GET", "/api/tenants/blue"),
    ("GET", "/api/tenants/red"),
    ("PUT", "/api/tenants/blue"),
    ("PATCH", "/api/tenants/blue"),
    ("DELETE", "/api/tenants/blue"),
    ("POST", "/api/tenants/blue/reload"),
    ("POST", "/api/tenants/blue/shutdown"),
    ("GET", "/api/tenants/blue/health"),
    ("HEAD", "/api/tenants/blue/health"),
    ("GET", "/api/users/ana"),
    ("GET", "/api/users/ana/connections"),
    ("DELETE", "/api/users/ana/connections"),
    ("DELETE", "/api/users/ana/topics/room"),
    ("GET", "/api/topics"),
    ("GET", "/api/topics/room"),
];

/// Every route of operators is closed to this value of `Authorization`.
async fn closed_to(world: &World, authorization: Option<&str>) -> Result<()> {
    for (method, path) in ROUTES {
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
        let answer = world.request(method, path, &headers, b"").await?;
        ensure!(
            (answer.status, answer.body.as_str()) == (403, ""),
            "{method} {path} with {authorization:?}: {answer:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_251_every_route_is_closed_to_a_bad_token_and_says_nothing() -> Result<()> {
    let world = world().await?;
    let good = signed(&json!({}), OPERATORS);
    closed_to(&world, None).await?;
    for bad in [
        good.clone(),
        format!("bearer {good}"),
        format!("Bearer  {good}x"),
        "Bearer potato".to_owned(),
        format!("Bearer {}", token(&role("service_role"))),
        format!("Bearer {}", signed(&json!({ "exp": 1 }), OPERATORS)),
    ] {
        closed_to(&world, Some(&bad)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_252_a_project_is_not_deleted_over_http() -> Result<()> {
    for path in ["/api/tenants/blue", "/api/tenants/red"] {
        is_left_to_the_configuration("DELETE", path, &json!(null)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_253_a_reload_sends_all_sockets_away_with_1012() -> Result<()> {
    let world = World::with_settings("conformance_253", "", with_operators).await?;
    let mut members = members(&world).await?;
    let done = found(&world, "POST", "/reload").await?;
    ensure!((done.status, done.body.as_str()) == (204, ""), "{done:?}");
    for (client, topic) in &mut members {
        sent_away(client, topic).await?;
        member(&world, BOTH[0], topic, &json!({})).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_254_a_shutdown_is_done_also_where_nobody_is_connected() -> Result<()> {
    let world = World::with_settings("conformance_254", "", with_operators).await?;
    for _ in 0..2 {
        let done = found(&world, "POST", "/shutdown").await?;
        ensure!((done.status, done.body.as_str()) == (204, ""), "{done:?}");
    }
    let health = ask(&world, "GET", "/api/tenants/blue/health").await?.json();
    ensure!(health["data"]["healthy"] == true, "the project goes on: {health}");
    member(&world, BOTH[1], &room(), &json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_255_health_says_how_the_database_is_and_how_many_sockets_there_are() -> Result<()> {
    let cluster = Cluster::start(test_settings()).await?;
    let database = Database::create(&cluster, "conformance_255").await?;
    let world = World::in_database(database, "", with_operators).await?;
    let health =
        async || Ok::<_, anyhow::Error>(found(&world, "GET", "/health").await?.json()["data"].clone());
    let well = |sockets: u32| {
        json!({ "healthy": true, "db_connected": true, "replication_connected": true,
                "connected_cluster": sockets, "region": "mars", "node": "walcast" })
    };
    ensure!(health().await? == well(0));
    let members = members(&world).await?;
    ensure!(health().await? == well(2));
    let head = found_head(&world).await?;
    ensure!((head.status, head.body.as_str()) == (200, ""), "{head:?}");
    let mut replication = world.server.replication().context("the project is up")?;
    cluster.stop().await?;
    replication
        .wait_for(|status| !matches!(status, walcast_replication::StreamStatus::Streaming { .. }))
        .await?;
    let ill = health().await?;
    ensure!(ill["healthy"] == false && ill["replication_connected"] == false, "{ill}");
    ensure!(ill["connected_cluster"] == 2, "the sockets stay: {ill}");
    cluster.start_again().await?;
    replication
        .wait_for(|status| matches!(status, walcast_replication::StreamStatus::Streaming { .. }))
        .await?;
    ensure!(health().await? == well(2));
    drop(members);
    Ok(())
}

async fn found_head(world: &World) -> Result<Answer> {
    ensure!(ask(world, "HEAD", "/api/tenants/red/health").await?.status == 404);
    ask(world, "HEAD", "/api/tenants/blue/health").await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_256_the_limits_of_presence_and_its_switch_are_settings_that_hold_and_are_shown() -> Result<()> {
    let world = World::with_settings("conformance_256", "", |settings| {
        with_operators(settings);
        settings.project.engine.presence_enabled = true;
        settings.project.engine.presence_calls = RateLimit { calls: 1, window: Duration::from_mins(2) };
    })
    .await?;
    let tenant = ask(&world, "GET", "/api/tenants/blue").await?.json()["data"].clone();
    ensure!(tenant["presence_enabled"] == true, "{tenant}");
    ensure!(tenant["max_client_presence_events_per_window"] == 1, "{tenant}");
    ensure!(tenant["client_presence_window_ms"] == 120_000, "{tenant}");
    on_both(async |version| {
        let topic = room();
        let mut client = member(&world, version, &topic, &json!({})).await?;
        client.expect(|message| message.event == "presence_state").await?;
        let track = json!({ "type": "presence", "event": "track", "payload": {} });
        let reference = client.send(&topic, "presence", &track).await?;
        ensure!(client.reply(&reference).await?.is_ok());
        client.send(&topic, "presence", &track).await?;
        let message = end_of(&mut client, &topic).await?;
        ensure!(message.starts_with("Client presence rate limit exceeded"), "{message}");
        Ok(())
    })
    .await
}

/// What a page of metrics is told with this token in its header.
async fn metrics(world: &World, path: &str, authorization: Option<&str>) -> Result<Answer> {
    let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
    world.request("GET", path, &headers, b"").await
}

fn reader() -> String {
    format!("Bearer {}", signed(&json!({}), NEXT))
}

#[tokio::test(flavor = "multi_thread")]
async fn case_258_metrics_need_their_token_and_count_for_the_server_and_for_each_project() -> Result<()> {
    let world = world().await?;
    let wrong = format!("Bearer {}", signed(&json!({}), OPERATORS));
    for authorization in [None, Some("Bearer potato"), Some(wrong.as_str())] {
        let refused = metrics(&world, "/metrics", authorization).await?;
        ensure!((refused.status, refused.body.as_str()) == (403, ""), "{authorization:?}: {refused:?}");
    }
    let mut client = world.connect(&walcast_tests::person("ana")).await?;
    client.join_changes(&room(), &[binding("*", "notes")]).await?;
    let page = metrics(&world, "/metrics", Some(&reader())).await?;
    ensure!(page.status == 200, "{page:?}");
    let value = |name: &str| page.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    for name in [
        "walcast_ws_connections_active",
        "walcast_channels_active",
        "realtime_connections_connected{tenant=\"blue\"}",
        "phoenix_channel_joined_total{tenant=\"blue\"}",
    ] {
        let value: f64 = value(name).with_context(|| format!("no {name} in {}", page.body))?.parse()?;
        ensure!(value >= 1.0, "{name} {value}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_259_metrics_of_a_region_are_those_of_this_server_and_there_are_no_others() -> Result<()> {
    let world = world().await?;
    let reader = reader();
    let page = metrics(&world, "/metrics/mars", Some(&reader)).await?;
    ensure!(page.status == 200 && page.body.contains("walcast_channels_active"), "{page:?}");
    let other = metrics(&world, "/metrics/venus", Some(&reader)).await?;
    ensure!(other.status == 404 && other.body.contains("mars"), "{other:?}");
    for path in ["/metrics/mars", "/metrics/venus"] {
        let refused = metrics(&world, path, None).await?;
        ensure!((refused.status, refused.body.as_str()) == (403, ""), "{path}: {refused:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_260_the_description_of_the_api_is_served_and_no_page_around_it() -> Result<()> {
    let world = world().await?;
    let document = world.request("GET", "/api/openapi", &[], b"").await?;
    ensure!(document.status == 200 && document.header("content-type") == Some("application/json"));
    let document = document.json();
    ensure!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{document}");
    let routes = [
        ("/api/ping", "get"),
        ("/api/broadcast", "post"),
        ("/api/broadcast/{topic}/events/{event}", "post"),
        ("/api/tenants/{id}/health", "get"),
    ];
    for (path, method) in routes {
        ensure!(document["paths"][path][method]["responses"].is_object(), "{method} {path}");
    }
    ensure!(world.request("GET", "/swaggerui", &[], b"").await?.status == 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_263_the_name_of_a_request_is_taken_from_its_baggage_if_it_is_harmless() -> Result<()> {
    let world = world().await?;
    let name = async |baggage: &str| -> Result<String> {
        let answer = world.request("GET", "/api/ping", &[("baggage", baggage)], b"").await?;
        Ok(answer.header("x-request-id").context("a name")?.to_owned())
    };
    let longest = "x".repeat(200);
    for good in ["from-outside-1", longest.as_str()] {
        for baggage in [format!("request-id={good}"), format!("sentry=1,request-id={good};p=1,other=2")] {
            let named = name(&baggage).await?;
            ensure!(named == good, "{baggage}: {named}");
        }
    }
    let too_long = format!("request-id={}", "x".repeat(201));
    for bad in [
        "request-id=short",
        &too_long,
        "request-id=with%0Aline%20break",
        "request-id=with%00control-character",
        "request-id=no-utf-8-%FF%FE-at-all",
        "request-id=%E2%80%AEright-to-left",
        "another-key=from-outside-1",
        "",
    ] {
        let named = name(bad).await?;
        let made_up = named.len() == 32 && named.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(made_up, "{bad}: {named}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_264_tokens_of_the_next_secret_are_accepted_beside_those_of_the_present_one() -> Result<()> {
    let world = world().await?;
    for secret in [OPERATORS, NEXT] {
        let token = signed(&json!({}), secret);
        let answer = world.request_as(&token, "GET", "/api/tenants/blue", &json!(null)).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    closed_to(&world, Some(&format!("Bearer {}", signed(&json!({}), "neither of them, and long enough"))))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_265_a_token_on_the_block_list_is_refused() -> Result<()> {
    let world = world().await?;
    closed_to(&world, Some(&format!("Bearer {}", lost()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_274_a_server_that_stops_closes_its_sockets_with_1012_and_the_next_one_takes_them() -> Result<()>
{
    let world = World::with_settings("conformance_274", "", with_operators).await?;
    let mut members = members(&world).await?;
    let closing = async {
        for (client, _) in &mut members {
            let (code, _) = client.closed().await?.context("a close frame")?;
            ensure!(code == 1012, "{code}");
        }
        Ok(())
    };
    let (world, closed) = tokio::join!(Box::pin(world.restart()), closing);
    closed?;
    let world = world?;
    for (_, topic) in &members {
        on_both(async |version| member(&world, version, topic, &json!({})).await.map(drop)).await?;
    }
    Ok(())
}
