//! What operators ask over HTTP: projects, users, topics, metrics, and the description of it all
//! (docs/protocol.md §11).

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::project::ProjectSettings;
use walcast::serve::ServeSettings;
use walcast::settings::{Environment, Flags, Purpose, Settings};
use walcast_auth::{JwksSource, Secret};
use walcast_server::front::Address;
use walcast_testkit::{ProtocolClient, ProtocolVersion};
use walcast_tests::requests::Answer;
use walcast_tests::{SECRET, World, person, role, token};

const OPERATORS: &str = "a secret of the operators, long enough as well";
const NEXT: &str = "the secret that operators get after that one";

fn signed(claims: &Value, secret: &str) -> String {
    walcast_auth::sign(claims, secret).expect("claims are an object")
}

fn with_operators(settings: &mut ServeSettings) {
    settings.operations.secrets = vec![Secret::new(OPERATORS), Secret::new(NEXT)];
    settings.project.id = "blue".parse().expect("a name");
    settings.operations.region = Some("mars".to_owned());
}

async fn world(name: &str) -> Result<World> {
    World::with_settings(name, "", with_operators).await
}

async fn ask(world: &World, method: &str, path: &str) -> Result<Answer> {
    let bearer = format!("Bearer {}", signed(&json!({}), OPERATORS));
    world.request(method, path, &[("authorization", &bearer)], b"").await
}

async fn member(world: &World, person_name: &str, topic: &str, config: &Value) -> Result<ProtocolClient> {
    let mut client = world.connect(&person(person_name)).await?;
    let reply = client.join(topic, &json!({ "config": config })).await?;
    ensure!(reply.is_ok(), "{reply:?}");
    Ok(client)
}

/// Every route of operators: method and path.
const ROUTES: &[(&str, &str)] = &[
    ("GET", "/api/tenants"),
    ("POST", "/api/tenants"),
    ("GET", "/api/tenants/blue"),
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

// Cases 251, 264, 265.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_operators_token_every_route_is_closed_and_says_nothing() -> Result<()> {
    let lost = signed(&json!({ "name": "lost" }), OPERATORS);
    let blocked = Secret::new(&*lost);
    let world = World::with_settings("operators", "", |settings| {
        with_operators(settings);
        settings.operations.blocked = vec![blocked];
    })
    .await?;
    let good = signed(&json!({}), OPERATORS);
    let refused = [
        None,
        Some(good.clone()),
        Some(format!("bearer {good}")),
        Some(format!("Bearer {}", token(&role("service_role")))),
        Some(format!("Bearer {}", signed(&json!({ "exp": 1 }), OPERATORS))),
        Some(format!("Bearer {lost}")),
        Some(format!("Bearer  {lost}")),
    ];
    for (method, path) in ROUTES {
        for authorization in &refused {
            let headers: Vec<_> =
                authorization.iter().map(|value| ("authorization", value.as_str())).collect();
            let answer = world.request(method, path, &headers, b"").await?;
            assert_eq!((answer.status, &*answer.body), (403, ""), "{method} {path} with {authorization:?}");
        }
    }
    for secret in [OPERATORS, NEXT] {
        let answer =
            world.request_as(&signed(&json!({}), secret), "GET", "/api/topics", &json!(null)).await?;
        assert_eq!(answer.status, 200);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_users_and_operators_share_a_secret_a_user_may_only_ask_whether_the_project_is_well()
-> Result<()> {
    let world = World::with_settings("shared_secret", "", |settings| {
        settings.operations.secrets = vec![Secret::new(SECRET)];
    })
    .await?;
    let ask = async |claims: &Value, path: &str| {
        world.request_as(&token(claims), "GET", path, &json!(null)).await.map(|answer| answer.status)
    };
    let health = "/api/tenants/realtime-dev/health";
    for claims in [role("anon"), person("ana")] {
        assert_eq!(ask(&claims, health).await?, 200, "the stock stack's health check");
        for path in ["/api/tenants", "/api/topics", "/api/users/bruno/connections"] {
            assert_eq!(ask(&claims, path).await?, 403, "{path}");
        }
    }
    for path in [health, "/api/tenants", "/api/topics"] {
        assert_eq!(ask(&role("service_role"), path).await?, 200, "{path}");
    }
    Ok(())
}

/// What the stock compose file gives the container, but for its database and its secrets.
const STOCK: &[(&str, &str)] = &[
    ("PORT", "4000"),
    ("DB_AFTER_CONNECT_QUERY", "SET search_path TO _realtime"),
    ("DB_ENC_KEY", "supabaserealtime"),
    ("SECRET_KEY_BASE", "a base of keys that walcast has no use for, 64 letters are usual"),
    ("METRICS_JWT_SECRET", SECRET),
    ("API_JWT_SECRET", SECRET),
    ("ERL_AFLAGS", "-proto_dist inet_tcp"),
    ("DNS_NODES", "''"),
    ("RLIMIT_NOFILE", "10000"),
    ("APP_NAME", "realtime"),
    ("SEED_SELF_HOST", "true"),
    ("RUN_JANITOR", "true"),
    ("DISABLE_HEALTHCHECK_LOGGING", "true"),
];

// docs/protocol.md §11.3.
#[tokio::test(flavor = "multi_thread")]
async fn the_health_check_of_the_stock_stack_is_answered_with_its_settings_and_the_anonymous_key()
-> Result<()> {
    let database = walcast_testkit::database("stock_health").await;
    let (_, place) = database.url().split_once("://").context("a URL")?;
    let (user, rest) = place.split_once(':').context("a password")?;
    let (password, rest) = rest.split_once('@').context("a host")?;
    let (host, name) = rest.split_once('/').context("a name")?;
    let (host, port) = host.split_once(':').context("a port")?;
    let of_database = [
        ("DB_HOST", host),
        ("DB_PORT", port),
        ("DB_USER", user),
        ("DB_PASSWORD", password),
        ("DB_NAME", name),
    ];
    let environment: Environment =
        STOCK.iter().chain(&of_database).map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let mut settings = Settings::load(&Flags::default(), &environment, Purpose::Serve)?.serve();
    settings.listen = "127.0.0.1:0".parse()?;
    settings.project.replication.slot = database.slot_name();
    let world = World::in_database(database, "", |prepared| *prepared = settings).await?;
    let bearer = format!("Bearer {}", token(&role("anon")));
    let path = "/api/tenants/realtime-dev/health";
    let answer = world.request("HEAD", path, &[("authorization", &bearer)], b"").await?;
    assert_eq!((answer.status, &*answer.body), (200, ""));
    assert_eq!(world.request("HEAD", path, &[], b"").await?.status, 403);
    let mut client = world.connect(&person("ana")).await?;
    ensure!(client.join("realtime:room", &json!({})).await?.is_ok(), "the secret is that of the users, too");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_for_operators_nobody_is_one() -> Result<()> {
    let world = World::with_sql("no_operators", "").await?;
    for (method, path) in ROUTES {
        let path = path.replace("blue", "realtime-dev");
        let answer = world.request_as(&token(&role("service_role")), method, &path, &json!(null)).await?;
        assert_eq!(answer.status, 403, "{method} {path}");
    }
    Ok(())
}

// Cases 247, 250.
#[tokio::test(flavor = "multi_thread")]
async fn projects_are_shown_without_secrets_and_come_from_the_configuration() -> Result<()> {
    let world = world("tenants").await?;
    let one = ask(&world, "GET", "/api/tenants/blue").await?;
    let tenant = &one.json()["data"];
    assert_eq!((one.status, &tenant["external_id"], &tenant["name"]), (200, &json!("blue"), &json!("blue")));
    assert_eq!(tenant["max_concurrent_users"], 100_000);
    assert_eq!(tenant["max_payload_size_in_kb"], 3_000);
    let extension = &tenant["extensions"][0];
    assert_eq!(extension["type"], "postgres_cdc_rls");
    assert_eq!(extension["settings"]["publication"], "supabase_realtime");
    assert_eq!(extension["settings"]["db_host"], "127.0.0.1");
    let all = ask(&world, "GET", "/api/tenants").await?;
    assert_eq!(all.json(), json!({ "data": [tenant] }));
    let password = world.database.url().split([':', '@']).nth(2).context("the URL has a password")?;
    for secret in [SECRET, OPERATORS, password, "password", "jwt"] {
        assert!(!all.body.contains(secret), "{secret} in {}", all.body);
    }
    for (method, path) in [
        ("GET", "/api/tenants/red"),
        ("GET", "/api/tenants/red/health"),
        ("POST", "/api/tenants/red/reload"),
        ("POST", "/api/tenants/red/shutdown"),
    ] {
        let missing = ask(&world, method, path).await?;
        assert_eq!((missing.status, missing.json()), (404, json!({ "message": "not found" })), "{path}");
    }
    for (method, path) in [
        ("POST", "/api/tenants"),
        ("PUT", "/api/tenants/blue"),
        ("PATCH", "/api/tenants/blue"),
        ("DELETE", "/api/tenants/blue"),
    ] {
        let refused = ask(&world, method, path).await?;
        assert_eq!(refused.status, 405, "{method} {path}");
        assert!(refused.body.contains("configuration"), "{refused:?}");
        assert!(refused.header("allow").is_some_and(|allowed| allowed.contains("GET")), "{refused:?}");
    }
    Ok(())
}

// Case 255.
#[tokio::test(flavor = "multi_thread")]
async fn the_health_of_a_project_is_told_with_the_number_of_its_sockets() -> Result<()> {
    let world = world("tenant_health").await?;
    let _client = member(&world, "ana", "realtime:room", &json!({})).await?;
    let health = ask(&world, "GET", "/api/tenants/blue/health").await?;
    let expected = json!({ "healthy": true, "db_connected": true, "replication_connected": true,
                           "connected_cluster": 1, "region": "mars", "node": "walcast" });
    assert_eq!((health.status, health.json()), (200, json!({ "data": expected })));
    let head = ask(&world, "HEAD", "/api/tenants/blue/health").await?;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    Ok(())
}

// Cases 22, 253, 254.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_is_reloaded_or_shut_down_tells_its_channels_and_closes_its_sockets_with_1012()
-> Result<()> {
    let world = world("tenant_reload").await?;
    for action in ["reload", "shutdown"] {
        let mut client = member(&world, "ana", "realtime:room", &json!({})).await?;
        let done = ask(&world, "POST", &format!("/api/tenants/blue/{action}")).await?;
        assert_eq!((done.status, done.body.as_str()), (204, ""));
        let told = client.expect(|message| message.system("system").is_some()).await?;
        assert_eq!(told.system("system"), Some(("ok", "Server requested disconnect")));
        assert_eq!(told.payload["channel"], "room");
        let (code, _) = client.closed().await?.context("a close frame")?;
        assert_eq!(code, 1012, "{action}");
    }
    let done = ask(&world, "POST", "/api/tenants/blue/shutdown").await?;
    assert_eq!(done.status, 204, "also when nobody is there");
    member(&world, "ana", "realtime:room", &json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_whose_keys_can_not_be_read_keeps_its_sockets() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("walcast-keys-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("jwks.json");
    std::fs::write(&file, r#"{"keys":[]}"#)?;
    let source = JwksSource::File(file.clone());
    let world = World::with_settings("tenant_keys", "", |settings| {
        with_operators(settings);
        settings.project.verifier.jwks = Some(source);
    })
    .await?;
    let mut client = member(&world, "ana", "realtime:room", &json!({})).await?;
    std::fs::write(&file, "no JSON")?;
    let refused = ask(&world, "POST", "/api/tenants/blue/reload").await?;
    assert_eq!(refused.status, 500);
    assert!(refused.body.contains("jwks.json"), "{refused:?}");
    client.heartbeat().await?;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_who_is_connected_and_what_is_joined() -> Result<()> {
    let world = world("users").await?;
    let nobody = ask(&world, "GET", "/api/users/ana%20b").await?;
    let expected = json!({ "user": "ana b", "connected": false, "connections": 0 });
    assert_eq!((nobody.status, nobody.json()), (200, expected));
    let presence = json!({ "presence": { "enabled": true, "key": "here" } });
    let mut first = member(&world, "ana b", "realtime:a:b/c", &presence).await?;
    first.join("realtime:room", &json!({})).await?;
    let track = json!({ "type": "presence", "event": "track", "payload": {} });
    let reference = first.send("realtime:a:b/c", "presence", &track).await?;
    ensure!(first.reply(&reference).await?.is_ok());
    let mut second = world.connect_as(&person("ana b"), ProtocolVersion::V1).await?;
    second.join("realtime:room", &json!({})).await?;
    let _other = member(&world, "bruno", "realtime:room", &json!({})).await?;

    let user = ask(&world, "GET", "/api/users/ana%20b").await?.json();
    assert_eq!(user, json!({ "user": "ana b", "connected": true, "connections": 2 }));
    let mut connections = ask(&world, "GET", "/api/users/ana%20b/connections").await?.json();
    let connections = connections["connections"].as_array_mut().context("a list")?;
    connections.sort_by_key(|connection| connection["serializer"].to_string());
    assert_eq!(connections[0]["serializer"], "1.0.0");
    assert_eq!(connections[0]["channels"], json!([{ "topic": "room", "private": false, "user": "ana b" }]));
    assert_eq!(connections[1]["channels"][0]["topic"], "a:b/c");
    assert_eq!(connections[1]["channels"].as_array().map(Vec::len), Some(2));
    assert_ne!(connections[0]["id"], connections[1]["id"]);

    let topics = ask(&world, "GET", "/api/topics").await?.json();
    let expected = json!([{ "topic": "a:b/c", "private": false, "channels": 1 },
                          { "topic": "room", "private": false, "channels": 3 }]);
    assert_eq!(topics, json!({ "topics": expected }));
    let topic = ask(&world, "GET", "/api/topics/a%3Ab%2Fc").await?.json();
    let expected = json!({ "topic": "a:b/c", "private": false, "channels": 1, "listeners": 1,
                           "followers": 1, "present": 1 });
    assert_eq!(topic, expected);
    let private = ask(&world, "GET", "/api/topics/room?private=true").await?.json();
    assert_eq!((&private["private"], &private["channels"]), (&json!(true), &json!(0)));
    let wrong = ask(&world, "GET", "/api/topics/room?private=maybe").await?;
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("private"), "{wrong:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_a_users_channel_or_all_their_sockets_and_nobody_elses() -> Result<()> {
    let world = world("disconnect").await?;
    let mut ana = member(&world, "ana", "realtime:room", &json!({})).await?;
    ana.join("realtime:other", &json!({})).await?;
    let mut bruno = member(&world, "bruno", "realtime:room", &json!({})).await?;
    let none = ask(&world, "DELETE", "/api/users/ana/topics/nowhere").await?;
    assert_eq!((none.status, none.json()), (200, json!({ "unsubscribed": 0 })));
    let one = ask(&world, "DELETE", "/api/users/ana/topics/room").await?;
    assert_eq!(one.json(), json!({ "unsubscribed": 1 }));
    ana.expect(|message| message.is("realtime:room", "phx_close")).await?;
    ana.heartbeat().await?;
    let ended = ask(&world, "DELETE", "/api/users/ana/connections").await?;
    assert_eq!(ended.json(), json!({ "disconnected": 1 }));
    let (code, reason) = ana.closed().await?.context("a close frame")?;
    assert_eq!(code, 1008, "{reason}");
    bruno.heartbeat().await?;
    let topic = ask(&world, "GET", "/api/topics/room").await?.json();
    assert_eq!(topic["channels"], 1);
    Ok(())
}

// Cases 258, 259.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happens_and_open_to_their_own_secret_only() -> Result<()> {
    let lost = signed(&json!({ "lost": true }), OPERATORS);
    let blocked = Secret::new(&*lost);
    let world = World::with_settings("metrics", "create table public.rows (id int primary key);
        create publication supabase_realtime for table public.rows; grant select on public.rows to authenticated;", |settings| {
        with_operators(settings);
        settings.operations.metrics_secret = Some(Secret::new(OPERATORS));
        settings.operations.metrics_blocked = vec![blocked];
    });
    let world = world.await?;
    for authorization in [None, Some(token(&role("service_role"))), Some(lost)] {
        let bearer = authorization.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|value| ("authorization", value.as_str())).collect();
        for path in ["/metrics", "/metrics/mars", "/metrics/venus"] {
            let refused = world.request("GET", path, &headers, b"").await?;
            assert_eq!((refused.status, &*refused.body), (403, ""), "{path}");
        }
    }
    let mut client = world.connect(&person("ana")).await?;
    client.join_changes("realtime:rows", &[walcast_tests::binding("*", "rows")]).await?;
    world.sql("insert into public.rows values (1)").await?;
    client.expect(|message| message.change().is_some()).await?;
    let page = ask(&world, "GET", "/metrics/mars").await?;
    assert_eq!(page.status, 200);
    let has = |line: &str| page.body.lines().any(|found| found == line);
    for line in [
        "walcast_ws_connections_active 1",
        "walcast_channels_active 1",
        "walcast_ws_messages_sent_total 1",
        "walcast_ws_latency_seconds_count 1",
        "walcast_ws_latency_seconds_bucket{le=\"+Inf\"} 1",
        "realtime_connections_connected{tenant=\"blue\"} 1",
        "phoenix_channel_joined_total{tenant=\"blue\"} 1",
    ] {
        assert!(has(line), "{line} in {}", page.body);
    }
    assert!(page.body.contains("\nwalcast_slot_lag_seconds 0"), "{}", page.body);
    assert_eq!(ask(&world, "GET", "/metrics/venus").await?.status, 404);
    Ok(())
}

// Case 260.
#[tokio::test(flavor = "multi_thread")]
async fn the_description_names_routes_that_answer() -> Result<()> {
    let world = world("openapi").await?;
    let document = world.request("GET", "/api/openapi", &[], b"").await?;
    assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
    let document = document.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let mut described = 0;
    for (path, item) in document["paths"].as_object().context("paths")? {
        for method in item.as_object().context("methods")?.keys().map(|method| method.to_uppercase()) {
            let path = path.replace("{id}", "blue").replace("{region}", "mars").replace(['{', '}'], "");
            let answer = ask(&world, &method, &path).await?;
            assert!(!matches!(answer.status, 404 | 405), "{method} {path}: {answer:?}");
            described += 1;
        }
    }
    assert!(described > 20, "{described}");
    Ok(())
}

/// The blocks of docs/http-api.md that are commands, and the status that stands below each.
fn examples() -> Vec<(String, u16)> {
    let page = include_str!("../../docs/http-api.md");
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks
        .filter_map(|block| {
            let (command, status) = block.trim_end().rsplit_once("\n# ")?;
            Some((command.to_owned(), status.parse().ok()?))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_page_about_http_do_what_it_says() -> Result<()> {
    let install = walcast_catalog::install::sql(&["supabase_realtime".to_owned()]);
    let policies = "create policy speak on realtime.messages for insert to authenticated with check (true);";
    let world = World::with_settings("http_page", &format!("{install}{policies}"), |settings| {
        settings.operations.secrets = vec![Secret::new(OPERATORS)];
    })
    .await?;
    let examples = examples();
    assert!(examples.len() > 20, "{}", examples.len());
    for (command, expected) in examples {
        let script = format!("curl() {{ command curl -sS -w '\\n%{{http_code}}' \"$@\"; }}\n{command}");
        let output = tokio::process::Command::new("sh")
            .args(["-c", &script])
            .env("URL", world.http())
            .env("TOKEN", token(&person("ana")))
            .env("OPERATOR", signed(&json!({}), OPERATORS))
            .output()
            .await?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let status = printed.lines().last().unwrap_or_default();
        assert_eq!(status, expected.to_string(), "{command}\n{printed}\n{output:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_about_http_shows_every_route() -> Result<()> {
    let world = world("http_page_routes").await?;
    let document = world.request("GET", "/api/openapi", &[], b"").await?.json();
    let commands: Vec<String> = examples().into_iter().map(|(command, _)| command).collect();
    for (path, item) in document["paths"].as_object().context("paths")? {
        if path.contains("/websocket") || path.contains("/longpoll") {
            continue;
        }
        let wanted: Vec<&str> = path.split('/').collect();
        let shows = |command: &str, method: &str| {
            let address = command.split("$URL").nth(1).and_then(|rest| rest.split(['"', '?']).next());
            let found: Vec<&str> = address.unwrap_or_default().split('/').collect();
            let named = command.split("-X ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("GET");
            let alike = |(wanted, found): (&&str, &&str)| wanted.starts_with('{') || wanted == found;
            named == method && found.len() == wanted.len() && wanted.iter().zip(&found).all(alike)
        };
        for method in item.as_object().context("methods")?.keys().map(|method| method.to_uppercase()) {
            assert!(commands.iter().any(|command| shows(command, &method)), "no example of {method} {path}");
        }
    }
    Ok(())
}

fn of_project(settings: &ServeSettings, name: &str, secret: &str) -> Result<ProjectSettings> {
    let mut project = settings.project.clone();
    project.id = name.parse()?;
    project.verifier.secret = Some(Secret::new(secret));
    project.address = Address::Listed { hosts: Vec::new(), paths: vec![format!("/{name}").parse()?] };
    project.replication.slot = format!("{}_{name}", settings.project.replication.slot);
    Ok(project)
}

// Case 114; §1.3.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_and_ended_in_one_project_does_not_reach_another() -> Result<()> {
    let (blue, green) = ("the secret of blue's users, long enough", "the secret of green's users, long too");
    let world = World::with_settings("http_projects", "", |settings| {
        with_operators(settings);
        settings.others = vec![of_project(settings, "green", green).expect("a project")];
        settings.project = of_project(settings, "blue", blue).expect("a project");
    })
    .await?;
    let mut members = Vec::new();
    for (name, secret) in [("blue", blue), ("green", green)] {
        let url = format!("ws://{}/{name}/socket/websocket", world.server.address());
        let token = signed(&person("ana"), secret);
        let mut client = ProtocolClient::connect(&url, &token, ProtocolVersion::V2).await?;
        ensure!(client.join("realtime:room", &json!({})).await?.is_ok());
        members.push(client);
    }
    let path = "/blue/api/broadcast/room/events/e";
    let sent = world.request_as(&signed(&person("ana"), blue), "POST", path, &json!({})).await?;
    assert_eq!(sent.status, 202);
    let foreign = world.request_as(&signed(&person("ana"), green), "POST", path, &json!({})).await?;
    assert_eq!(foreign.status, 401);
    members[0].expect(|message| message.event == "broadcast").await?;

    let listed = ask(&world, "GET", "/api/tenants").await?.json();
    let names: Vec<_> = listed["data"].as_array().context("a list")?.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["blue", "green"]);
    let ended = ask(&world, "DELETE", "/blue/api/users/ana/connections").await?;
    assert_eq!(ended.json(), json!({ "disconnected": 1 }));
    assert_eq!(members[0].closed().await?.context("a close frame")?.0, 1008);
    assert_eq!(ask(&world, "POST", "/api/tenants/blue/reload").await?.status, 204);
    members[1].heartbeat().await?;
    assert!(!members[1].unclaimed().any(|message| message.event == "broadcast"));
    assert_eq!(ask(&world, "POST", "/api/tenants/green/shutdown").await?.status, 204);
    assert_eq!(members[1].closed().await?.context("a close frame")?.0, 1012);
    Ok(())
}
