//! Cases 9, 10, 20, 21 and 114: several projects in one server.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast::project::ProjectSettings;
use walcast::serve::{ServeSettings, Server};
use walcast_auth::{JwksSource, Secret};
use walcast_server::front::Address;
use walcast_testkit::{Database, Handshake, HandshakeRefused, ProtocolClient, ProtocolVersion};
use walcast_tests::{FOUNDATION, World, person, settings, token};

use crate::scene::{is_joined, next_broadcast, nothing_else, on_both, room};
use crate::tokens::issuer::{Key, key_set};

/// Blue and green, each with a database, found by path.
struct Two {
    settings: ServeSettings,
    server: Server,
    /// Lives as long as the server.
    _databases: [Database; 2],
}

async fn project(name: &str, database: &Database) -> Result<ProjectSettings> {
    let client = database.client().await;
    client.batch_execute(FOUNDATION).await?;
    client.batch_execute("create publication supabase_realtime").await?;
    let mut project = settings(database)?.project;
    project.id = name.parse()?;
    project.address = Address::Listed { hosts: Vec::new(), paths: vec![format!("/{name}").parse()?] };
    Ok(project)
}

impl Two {
    async fn start(name: &str, change: impl FnOnce(&mut ServeSettings)) -> Result<Two> {
        let blue = walcast_testkit::database(&format!("{name}_blue")).await;
        let green = walcast_testkit::database(&format!("{name}_green")).await;
        let mut settings = settings(&blue)?;
        settings.project = project("blue", &blue).await?;
        settings.others = vec![project("green", &green).await?];
        change(&mut settings);
        let server = Box::pin(Server::start(settings.clone())).await?;
        Ok(Two { settings, server, _databases: [blue, green] })
    }

    async fn connect(&self, project: &str, version: ProtocolVersion) -> Result<ProtocolClient> {
        connect(self.server.address(), project, version).await
    }
}

async fn connect(address: SocketAddr, project: &str, version: ProtocolVersion) -> Result<ProtocolClient> {
    let url = format!("ws://{address}/{project}/socket/websocket");
    let handshake = Handshake::new(&url, &token(&person("ana")), version);
    Ok(handshake.connect().await?.strictly())
}

/// Fails unless a handshake was refused like this.
fn ensure_refused(outcome: Result<ProtocolClient>, status: u16, error: &str) -> Result<()> {
    let refused = outcome.err().context("it was let in")?.downcast::<HandshakeRefused>()?;
    ensure!(refused == HandshakeRefused { status, body: json!({ "error": error }).to_string() }, "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_009_an_unknown_project_is_not_found() -> Result<()> {
    let two = Two::start("conformance_009", |_| {}).await?;
    on_both(async |version| {
        for known in ["blue", "green"] {
            two.connect(known, version).await?.heartbeat().await?;
        }
        for unknown in ["red", "Blue", "blue2"] {
            ensure_refused(two.connect(unknown, version).await, 404, "Tenant not found")?;
        }
        Ok(())
    })
    .await?;
    two.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_010_a_suspended_project_refuses_handshakes_with_403() -> Result<()> {
    let suspended = |settings: &mut ServeSettings| settings.others[0].limits.suspended = true;
    let two = Two::start("conformance_010", suspended).await?;
    on_both(async |version| {
        let outcome = two.connect("green", version).await;
        ensure_refused(outcome, 403, "Realtime was disabled for this tenant")?;
        two.connect("blue", version).await?.heartbeat().await
    })
    .await?;
    two.server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_020_keys_that_have_changed_and_are_reloaded_send_everybody_away_to_come_back() -> Result<()> {
    const OPERATORS: &str = "a secret of the operators, long enough as well";
    let (old, new) = (Key::p256(), Key::p256());
    let file = std::env::temp_dir().join(format!("walcast-conformance-020-{}.json", std::process::id()));
    std::fs::write(&file, key_set(&[old.jwk("old")]))?;
    let source = JwksSource::File(file.clone());
    let world = World::with_settings("conformance_020", "", |settings| {
        settings.project.id = "blue".parse().expect("a name");
        settings.project.verifier.jwks = Some(source);
        settings.operations.secrets = vec![Secret::new(OPERATORS)];
    })
    .await?;
    let signed = |key: &Key, kid: &str| key.sign(&json!({ "alg": "ES256", "kid": kid }), &person("ana"));
    let mut current = ("old", &old);
    for (version, next) in [(ProtocolVersion::V1, ("new", &new)), (ProtocolVersion::V2, ("old", &old))] {
        let topic = room();
        let token = signed(current.1, current.0);
        let mut client = ProtocolClient::connect(&world.websocket(), &token, version).await?.strictly();
        ensure!(client.join(&topic, &json!({ "config": {} })).await?.is_ok());
        std::fs::write(&file, key_set(&[next.1.jwk(next.0)]))?;
        client.heartbeat().await?;
        ensure!(is_joined(&mut client, &topic).await?, "not before it is asked for");
        let bearer = format!("Bearer {}", walcast_auth::sign(&json!({}), OPERATORS)?);
        let headers = [("authorization", bearer.as_str())];
        let answer = world.request("POST", "/api/tenants/blue/reload", &headers, b"").await?;
        ensure!(answer.status == 204, "{answer:?}");
        let told = client.expect(|message| message.system("system").is_some()).await?;
        ensure!(told.topic == topic);
        ensure!(told.system("system").is_some_and(|(_, text)| text == "Server requested disconnect"));
        ensure!(client.closed().await?.context("a close frame")?.0 == 1012);
        let outcome = ProtocolClient::connect(&world.websocket(), &token, version).await;
        let refused = outcome.err().context("the old key still opens")?.downcast::<HandshakeRefused>()?;
        ensure!(refused.status == 401 && refused.body.contains("Failed to generate JWT signer"), "{refused}");
        ProtocolClient::connect(&world.websocket(), &signed(next.1, next.0), version).await?;
        current = next;
    }
    Ok(std::fs::remove_file(&file)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_021_a_project_that_is_taken_out_is_gone_for_its_sockets_from_the_restart_on() -> Result<()> {
    let Two { mut settings, server, _databases } = Two::start("conformance_021", |_| {}).await?;
    let address = server.address();
    let mut clients = Vec::new();
    for version in crate::scene::BOTH {
        let mut client = connect(address, "green", version).await?;
        ensure!(client.join(&room(), &json!({ "config": {} })).await?.is_ok());
        clients.push((version, client));
    }
    server.stop().await?;
    settings.listen = address;
    settings.others.clear();
    let server = Box::pin(Server::start(settings)).await?;
    for (version, mut client) in clients {
        ensure!(client.closed().await?.context("a close frame")?.0 == 1012);
        ensure_refused(connect(address, "green", version).await, 404, "Tenant not found")?;
        connect(address, "blue", version).await?.heartbeat().await?;
    }
    server.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_114_a_topic_of_the_same_name_in_another_project_gets_nothing() -> Result<()> {
    let two = Two::start("conformance_114", |_| {}).await?;
    on_both(async |version| {
        let topic = room();
        let payload = json!({ "config": { "broadcast": { "ack": true } } });
        let mut members = Vec::new();
        for project in ["blue", "blue", "green", "green"] {
            let mut client = two.connect(project, version).await?;
            ensure!(client.join(&topic, &payload).await?.is_ok());
            members.push(client);
        }
        let [blue, other_blue, green, other_green] = &mut members[..] else { unreachable!() };
        for (sender, name) in [(blue, "blue"), (green, "green")] {
            let reference = sender.send(&topic, "broadcast", &json!({ "event": name })).await?;
            ensure!(sender.reply(&reference).await?.is_ok());
        }
        for (listener, name) in [(other_blue, "blue"), (other_green, "green")] {
            let heard: Value = next_broadcast(listener).await?.payload["event"].clone();
            ensure!(heard == name, "{heard} in {name}");
        }
        for client in &mut members {
            client.heartbeat().await?;
            nothing_else(client)?;
        }
        Ok(())
    })
    .await?;
    two.server.stop().await
}
