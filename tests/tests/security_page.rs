//! What docs/security.md shows works as it is shown.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use walcast::serve::Server;
use walcast::settings::{ConfigurationFile, DatabaseSettings, Environment, Flags, Purpose, Settings};
use walcast_testkit::{ProtocolClient, ProtocolVersion};
use walcast_tests::watching::role_name;
use walcast_tests::{FOUNDATION, binding, person, settings, token};

const PAGE: &str = include_str!("../../docs/security.md");
const REFERENCE: &str = include_str!("../../docs/configuration.md");

/// The block of code of this language.
fn block(language: &str) -> Result<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).context("no such block")?;
    Ok(rest.split_once("```").context("it does not end")?.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_the_page_is_all_that_row_changes_need() -> Result<()> {
    let database = walcast_testkit::database("security_role").await;
    let client = database.client().await;
    let role = role_name("walcast_role");
    client.batch_execute(FOUNDATION).await?;
    client
        .batch_execute(
            "create table messages (id int primary key, author text);
             alter table messages enable row level security;
             create policy own on messages for select using (author = (select auth.uid())::text);
             grant select on messages to authenticated",
        )
        .await?;
    // Roles are of the whole cluster, which other tests share.
    let sql = block("sql")?.replace("create role walcast ", &format!("create role {role} "));
    client.batch_execute(&sql.replace("to walcast;", &format!("to {role};"))).await?;

    let (_, place) = database.url().rsplit_once('@').context("a URL with a user")?;
    let url = format!("postgres://{role}:choose%20one@{place}");
    let environment = [("DATABASE_URL".to_owned(), url)].into();
    let mut settings = settings(&database)?;
    settings.project.database = DatabaseSettings::load(&Flags::default(), &environment)?;
    let server = Box::pin(Server::start(settings)).await?;
    let websocket = format!("ws://{}/socket/websocket", server.address());
    let ana = "6f1a8a44-0000-4000-8000-000000000001";
    let mut watcher = ProtocolClient::connect(&websocket, &token(&person(ana)), ProtocolVersion::V2).await?;
    watcher.join_changes("realtime:messages", &[binding("INSERT", "messages")]).await?;
    client.execute("insert into messages values (1, 'somebody else'), (2, $1)", &[&ana]).await?;
    let change = watcher.expect(|message| message.event == "postgres_changes").await?;
    assert_eq!(change.payload["data"]["record"]["id"], 2);
    drop(watcher);
    server.stop().await?;
    drop(database);
    let cluster = walcast_testkit::shared_cluster().await;
    Ok(cluster.client("postgres").await?.batch_execute(&format!("drop role {role}")).await?)
}

#[test]
fn the_file_of_the_page_is_understood_and_nothing_is_warned_about() -> Result<()> {
    // A certificate authority of the system's is looked for when a connection is made, not here.
    let file = ConfigurationFile::parse(Path::new("walcast.toml"), block("toml")?)?;
    let settings = Settings::resolve(&Flags::default(), &Environment::new(), &file, Purpose::Serve)?;
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    assert!(settings.server.tls.is_some());
    assert_eq!(settings.server.trusted_proxies.len(), 1);
    Ok(())
}

#[test]
fn every_setting_that_the_page_names_exists() -> Result<()> {
    let sections = ["auth.", "database.", "limits.", "log.", "server.", "tls."];
    let named = PAGE.split('`').skip(1).step_by(2).filter(|code| {
        sections.iter().any(|section| code.starts_with(section)) && !code.contains(['=', ' ', '/'])
    });
    let mut count = 0;
    for setting in named {
        ensure!(REFERENCE.contains(&format!("| `{setting}` |")), "{setting} is not in docs/configuration.md");
        count += 1;
    }
    ensure!(count > 10, "only {count} found");
    Ok(())
}
