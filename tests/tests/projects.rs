//! Several projects in one process: nothing of one reaches another. docs/protocol.md §1.3, §1.4.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use walcast::project::ProjectSettings;
use walcast::serve::{ServeSettings, Server};
use walcast_auth::Secret;
use walcast_server::front::Address;
use walcast_testkit::database::test_settings;
use walcast_testkit::{
    Cluster, ClusterSettings, Database, Handshake, HandshakeRefused, ProtocolClient, ProtocolVersion,
};
use walcast_tests::http::{UPGRADE, ask, get};
use walcast_tests::{FOUNDATION, binding, person, settings};

const ROOM: &str = "realtime:room";

const ROWS: &str = "
    create table rows (id int primary key, project text);
    grant select on rows to authenticated;
    create publication supabase_realtime for table rows;
";

fn secret(project: &str) -> String {
    format!("{project}: a secret of the end-to-end tests, long enough")
}

fn token(project: &str, claims: &Value) -> String {
    walcast_auth::sign(claims, &secret(project)).expect("claims are an object")
}

/// A project in a database, told apart by its name.
async fn project(name: &str, database: &Database) -> Result<ProjectSettings> {
    let client = database.client().await;
    client.batch_execute(FOUNDATION).await?;
    client.batch_execute(ROWS).await?;
    let mut project = settings(database)?.project;
    project.id = name.parse()?;
    project.verifier.secret = Some(Secret::new(secret(name)));
    project.address = Address::Listed {
        hosts: vec![format!("{name}.live.example").parse()?],
        paths: vec![format!("/{name}").parse()?],
    };
    Ok(project)
}

/// Two projects, blue and green, in one server.
struct Two {
    blue: Database,
    green: Database,
    server: Server,
}

impl Two {
    async fn start(name: &str, change: impl FnOnce(&mut ServeSettings)) -> Result<Two> {
        let database = async |project: &str| walcast_testkit::database(&format!("{name}_{project}")).await;
        Two::of(database("blue").await, database("green").await, change).await
    }

    async fn of(blue: Database, green: Database, change: impl FnOnce(&mut ServeSettings)) -> Result<Two> {
        let mut settings = settings(&blue)?;
        settings.project = project("blue", &blue).await?;
        settings.others = vec![project("green", &green).await?];
        change(&mut settings);
        let server = Box::pin(Server::start(settings)).await?;
        Ok(Two { blue, green, server })
    }

    /// A client of a project, found by path.
    async fn client(&self, project: &str) -> Result<ProtocolClient> {
        self.handshake(project, &token(project, &person("ana"))).connect().await
    }

    fn handshake(&self, project: &str, token: &str) -> Handshake {
        let url = format!("ws://{}/{project}/socket/websocket", self.server.address());
        Handshake::new(&url, token, ProtocolVersion::V2)
    }

    /// A member of a topic.
    async fn member(&self, project: &str, config: &Value) -> Result<ProtocolClient> {
        let mut client = self.client(project).await?;
        let reply = client.join(ROOM, &json!({ "config": config })).await?;
        ensure!(reply.is_ok(), "{reply:?}");
        Ok(client)
    }

    async fn watcher(&self, project: &str) -> Result<ProtocolClient> {
        let mut client = self.client(project).await?;
        client.join_changes(ROOM, &[binding("*", "rows")]).await?;
        Ok(client)
    }

    async fn readiness(&self, target: &str) -> Result<(u16, Value)> {
        let answer = get(self.server.address(), target, "host: anything\r\n").await?;
        Ok((answer.status, answer.json()?))
    }
}

async fn write(database: &Database, id: i32, project: &str) -> Result<()> {
    let client = database.client().await;
    client.execute("insert into rows values ($1, $2)", &[&id, &project]).await?;
    Ok(())
}

/// The record of the next change.
async fn next_row(client: &mut ProtocolClient) -> Result<Value> {
    let message = client.expect(|message| message.event == "postgres_changes").await?;
    Ok(message.payload["data"]["record"].clone())
}

fn refused(outcome: Result<ProtocolClient>) -> Result<HandshakeRefused> {
    let error = outcome.err().context("it was let in")?;
    error.downcast::<HandshakeRefused>()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_one_project_is_refused_by_the_other() -> Result<()> {
    let two = Two::start("projects_tokens", |_| {}).await?;
    for (project, other) in [("blue", "green"), ("green", "blue")] {
        let token = token(project, &person("ana"));
        two.handshake(project, &token).connect().await?.heartbeat().await?;
        let told = refused(two.handshake(other, &token).connect().await)?;
        assert_eq!(
            (told.status, told.body.contains("Failed to validate JWT signature")),
            (401, true),
            "{told}"
        );
        let mut client = two.client(other).await?;
        let reply = client.join(ROOM, &json!({ "access_token": token, "config": {} })).await?;
        assert!(!reply.is_ok(), "nor does it open a channel: {reply:?}");
    }
    two.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_presence_and_changes_of_one_topic_name_stay_in_their_project() -> Result<()> {
    let two = Two::start("projects_topics", |_| {}).await?;
    let config = json!({ "broadcast": { "self": true }, "presence": { "enabled": true, "key": "me" } });
    let mut blue = two.member("blue", &config).await?;
    let mut green = two.member("green", &config).await?;
    for client in [&mut blue, &mut green] {
        client.expect(|message| message.event == "presence_state").await?;
    }
    let track = json!({ "type": "presence", "event": "track", "payload": { "from": "blue" } });
    blue.send(ROOM, "presence", &track).await?;
    blue.expect(|message| message.event == "presence_diff").await?;
    blue.broadcast(ROOM, "cursor", &json!({ "from": "blue" })).await?;
    blue.expect(|message| message.event == "broadcast").await?;
    green.broadcast(ROOM, "cursor", &json!({ "from": "green" })).await?;
    let message = green.next().await?;
    assert!(message.is(ROOM, "broadcast") || message.event == "phx_reply", "{message:?}");
    green.heartbeat().await?;
    let late: Vec<_> = green.unclaimed().filter(|message| message.event.starts_with("presence")).collect();
    assert!(late.is_empty(), "{late:?}");
    let mut newcomer = two.member("green", &config).await?;
    let state = newcomer.expect(|message| message.event == "presence_state").await?;
    assert_eq!(state.payload, json!({}), "nobody of the other project is here");

    let (mut blue, mut green) = (two.watcher("blue").await?, two.watcher("green").await?);
    write(&two.blue, 1, "blue").await?;
    assert_eq!(next_row(&mut blue).await?, json!({ "id": 1, "project": "blue" }));
    write(&two.green, 2, "green").await?;
    assert_eq!(next_row(&mut green).await?, json!({ "id": 2, "project": "green" }), "its first");
    write(&two.blue, 3, "blue").await?;
    assert_eq!(next_row(&mut blue).await?, json!({ "id": 3, "project": "blue" }), "its second");
    two.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_slots_are_of_each_project_for_itself() -> Result<()> {
    let two = Two::start("projects_limits", |settings| {
        settings.project.limits.max_concurrent_users = 1;
        settings.others[0].limits.max_channels_per_client = 1;
    })
    .await?;
    let mut blue = two.client("blue").await?;
    assert_eq!(refused(two.client("blue").await)?.status, 429, "blue has one seat");
    let (mut green, _second) = (two.client("green").await?, two.client("green").await?);
    for (client, allowed) in [(&mut blue, true), (&mut green, false)] {
        assert!(client.join("realtime:one", &json!({ "config": {} })).await?.is_ok());
        assert_eq!(client.join("realtime:two", &json!({ "config": {} })).await?.is_ok(), allowed);
    }
    let client = two.blue.client().await;
    let active =
        "select database::text from pg_replication_slots where active and database = any($1) order by 1";
    let names = [two.blue.name(), two.green.name()];
    let slots: Vec<String> =
        client.query(active, &[&names.as_slice()]).await?.iter().map(|row| row.get(0)).collect();
    assert_eq!(slots, names, "each has a slot in its own database");
    let metrics = get(two.server.address(), "/metrics", "host: anything\r\n").await?.body;
    for line in [
        "walcast_ws_connections_active{project=\"blue\"} 1",
        "walcast_ws_connections_active{project=\"green\"} 2",
        "walcast_replication_streaming{project=\"green\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
    two.server.stop().await
}

// §15 case 9.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_found_by_path_or_host_and_an_unknown_one_is_refused() -> Result<()> {
    let two = Two::start("projects_addresses", |_| {}).await?;
    let address = two.server.address();
    let token = token("green", &person("ana"));
    let at = |path: &str, host: &str| {
        let mut handshake = Handshake::new(&format!("ws://{address}{path}"), &token, ProtocolVersion::V2);
        handshake.headers.push(("host".to_owned(), host.to_owned()));
        handshake
    };
    for (path, host) in [
        ("/green/socket/websocket", "anything"),
        ("/green/realtime/v1/websocket", "blue.live.example"),
        ("/socket/websocket", "green.live.example:4000"),
        ("/realtime/v1/websocket", "GREEN.Live.Example"),
        ("/socket/websocket", "green.elsewhere.example"),
        ("/socket/websocket", "green"),
    ] {
        let mut client = at(path, host).connect().await.with_context(|| format!("{host}{path}"))?;
        client.heartbeat().await?;
    }
    for (path, host) in [("/socket/websocket", "red.live.example"), ("/red/socket/websocket", "live.example")]
    {
        let told = refused(at(path, host).connect().await)?;
        assert_eq!((told.status, &*told.body), (404, r#"{"error":"Tenant not found"}"#), "{host}{path}");
    }
    let told = get(address, "/api/ping", "host: red.live.example\r\n").await?;
    assert_eq!((told.status, &*told.body), (401, r#"{"message":"Tenant not found in database"}"#));
    two.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_of_one_project_leaves_the_other_serving() -> Result<()> {
    let cluster = Cluster::start(test_settings()).await?;
    let green = Database::create(&cluster, "projects_lost_green").await?;
    let two = Two::of(walcast_testkit::database("projects_lost_blue").await, green, |_| {}).await?;
    let (mut blue, mut green) = (two.watcher("blue").await?, two.watcher("green").await?);
    green.set_deadline(Duration::from_mins(1));
    cluster.stop().await?;
    until_ready_is(&two, "green", false).await?;
    write(&two.blue, 1, "blue").await?;
    assert_eq!(next_row(&mut blue).await?["id"], 1);
    two.client("blue").await?.heartbeat().await?;
    let (status, body) = two.readiness("/readyz").await?;
    assert_eq!(
        (status, &body["ready"], &body["projects"]["blue"]["ready"]),
        (200, &json!(true), &json!(true))
    );
    assert_eq!(two.readiness("/green/readyz").await?.0, 503);
    assert_eq!(two.readiness("/blue/readyz").await?.0, 200);
    green.heartbeat().await.context("green's sockets stay up meanwhile")?;
    cluster.start_again().await?;
    write(&two.green, 2, "green").await?;
    assert_eq!(next_row(&mut green).await?["id"], 2);
    two.server.stop().await
}

/// Waits until `/readyz` says so of a project.
async fn until_ready_is(two: &Two, project: &str, ready: bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let (_, body) = two.readiness("/readyz").await?;
        if body["projects"][project]["ready"] == ready {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_whose_server_is_another_one_is_started_again_and_the_other_does_not_notice() -> Result<()>
{
    // A stream refuses to go on in another cluster, since positions of one mean nothing in the other.
    let trusting = |port| ClusterSettings {
        port,
        host_based_authentication: vec!["host all,replication all 127.0.0.1/32 trust".to_owned()],
        ..test_settings()
    };
    let first = Cluster::start(trusting(None)).await?;
    let green = Database::create(&first, "projects_replaced").await?;
    let name = green.name().to_owned();
    let two = Two::of(walcast_testkit::database("projects_replaced_blue").await, green, |_| {}).await?;
    let (mut blue, mut green) = (two.watcher("blue").await?, two.watcher("green").await?);
    green.set_deadline(Duration::from_mins(1));
    let port =
        two.green.url().rsplit_once(':').and_then(|(_, rest)| rest.split_once('/')).context("a port")?.0;
    first.stop().await?;
    let second = Cluster::start(trusting(Some(port.parse()?))).await?;
    second.client("postgres").await?.batch_execute(&format!("create database {name}")).await?;
    second.client(&name).await?.batch_execute(&format!("{FOUNDATION}{ROWS}")).await?;
    let closed = green.closed().await?.map(|(code, _)| code);
    assert_eq!(closed, Some(1012), "who was there is sent away to come back");
    timeout(Duration::from_mins(1), until_ready_is(&two, "green", true)).await??;
    let mut green = two.watcher("green").await?;
    second.client(&name).await?.batch_execute("insert into rows values (7, 'green')").await?;
    assert_eq!(next_row(&mut green).await?["id"], 7);
    write(&two.blue, 1, "blue").await?;
    assert_eq!(next_row(&mut blue).await?["id"], 1, "on the socket of before");
    two.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_token_of_one_project_is_an_operators_of_that_project_only() -> Result<()> {
    let shared =
        |settings: &mut ServeSettings| settings.operations.secrets = vec![Secret::new(secret("blue"))];
    let two = Two::start("projects_operators", shared).await?;
    let token = token("blue", &json!({ "role": "service_role" }));
    let headers = format!("host: anything\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n");
    for (method, target, status) in [
        ("GET", "/api/tenants/blue", 200),
        ("GET", "/blue/api/topics", 200),
        ("GET", "/blue/api/users/ana", 200),
        ("GET", "/api/tenants/green", 403),
        ("GET", "/api/tenants/nowhere", 403),
        ("POST", "/api/tenants/green/reload", 403),
        ("POST", "/api/tenants/green/shutdown", 403),
        ("GET", "/green/api/topics", 403),
        ("GET", "/green/api/users/ana", 403),
        ("DELETE", "/green/api/users/ana/connections", 403),
        ("POST", "/api/tenants/blue/shutdown", 204),
    ] {
        let answer = ask(two.server.address(), method, target, &headers).await?;
        assert_eq!(answer.status, status, "{method} {target}");
    }
    let all = get(two.server.address(), "/api/tenants", &headers).await?.json()?;
    let listed: Vec<_> = all["data"].as_array().context("a list")?.iter().map(|one| &one["id"]).collect();
    assert_eq!(listed, ["blue"]);
    two.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_can_not_start_names_itself() -> Result<()> {
    let (blue, green) = (
        walcast_testkit::database("projects_start_blue").await,
        walcast_testkit::database("projects_start_green").await,
    );
    let mut settings = settings(&blue)?;
    settings.project = project("blue", &blue).await?;
    let mut broken = project("green", &green).await?;
    broken.database.connection.database = "there_is_no_such_database".to_owned();
    settings.others = vec![broken];
    let error = Box::pin(Server::start(settings.clone())).await.err().context("it started")?;
    let text = format!("{error:#}");
    assert!(text.starts_with("the project `green` can not start: "), "{text}");
    assert!(text.contains("there_is_no_such_database"), "{text}");
    settings.others.clear();
    Box::pin(Server::start(settings)).await.context("the slot of blue was given back")?.stop().await
}

// §15 case 10.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_project_refuses_handshakes_and_the_other_does_not() -> Result<()> {
    let two = Two::start("projects_suspended", |settings| settings.project.limits.suspended = true).await?;
    let told = refused(two.client("blue").await)?;
    assert_eq!((told.status, &*told.body), (403, r#"{"error":"Realtime was disabled for this tenant"}"#));
    two.client("green").await?.heartbeat().await?;
    let headers = format!("host: anything\r\n{UPGRADE}");
    let without_token = get(two.server.address(), "/blue/socket/websocket", &headers).await?;
    assert_eq!(without_token.status, 403, "before the token is looked at");
    two.server.stop().await
}
