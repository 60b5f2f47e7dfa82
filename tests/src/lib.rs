//! Scenery of the end-to-end tests: a database, a server in front of it, people with tokens, and in [`watching`]
//! how row changes are awaited.

pub mod http;

pub mod watching;

pub mod requests;

pub mod filtering;

pub mod shared;

pub mod light;

pub mod log;

pub mod script;

pub mod story;

pub mod faults;

pub mod soak;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use walcast::serve::{ServeSettings, Server};
use walcast::settings::{DatabaseSettings, Flags};
use walcast_auth::{Secret, VerifierSettings};
use walcast_testkit::{Database, ProtocolClient, ProtocolVersion};

/// The secret that the tests' tokens are signed with.
pub const SECRET: &str = "a secret of the end-to-end tests, long enough";

/// Roles and functions as Supabase-style applications have them; see `sql/demo/`.
pub const FOUNDATION: &str =
    concat!(include_str!("../../sql/demo/10-roles.sql"), include_str!("../../sql/demo/20-auth.sql"));

/// One database and one server.
pub struct World {
    /// The database.
    pub database: Database,
    /// A connection to it, as its owner.
    pub client: tokio_postgres::Client,
    /// What the server was started with.
    pub settings: ServeSettings,
    /// The server.
    pub server: Server,
}

impl World {
    /// A fresh database with roles, `auth.uid()` and the like, then `sql`, and a server with short waits.
    pub async fn with_sql(name: &str, sql: &str) -> Result<World> {
        World::with_settings(name, sql, |_| {}).await
    }

    /// The same, with other settings.
    pub async fn with_settings(
        name: &str,
        sql: &str,
        change: impl FnOnce(&mut ServeSettings),
    ) -> Result<World> {
        World::in_database(walcast_testkit::database(name).await, sql, change).await
    }

    /// A database with what `walcast install` puts into it besides (docs/protocol.md §13), then `sql`.
    pub async fn installed(name: &str, sql: &str, change: impl FnOnce(&mut ServeSettings)) -> Result<World> {
        World::with_settings(name, &World::installation(sql), change).await
    }

    /// What `walcast install` runs, then `sql`.
    pub fn installation(sql: &str) -> String {
        let installation = walcast_catalog::install::sql(&["supabase_realtime".to_owned()]);
        format!("{installation}\n;\n{sql}")
    }

    /// The same in a database that there is, such as one of a cluster that the test may stop.
    pub async fn in_database(
        database: Database,
        sql: &str,
        change: impl FnOnce(&mut ServeSettings),
    ) -> Result<World> {
        let client = database.client().await;
        client.batch_execute(FOUNDATION).await?;
        client.batch_execute(sql).await?;
        let mut settings = settings(&database)?;
        change(&mut settings);
        let server = Box::pin(Server::start(settings.clone())).await?;
        Ok(World { database, client, settings, server })
    }

    /// The demo application of `sql/demo/`, with its page.
    pub async fn demo(name: &str) -> Result<World> {
        let database = walcast_testkit::database(name).await;
        let mut client = database.client().await;
        walcast_testkit::demo::apply(&mut client).await?;
        let mut settings = settings(&database)?;
        settings.project.demo = Some(Secret::new(SECRET));
        let server = Box::pin(Server::start(settings.clone())).await?;
        Ok(World { database, client, settings, server })
    }

    /// `http://…` of the server.
    pub fn http(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// `ws://…` of the server, as the stock clients are given it.
    pub fn websocket(&self) -> String {
        format!("ws://{}/socket/websocket", self.server.address())
    }

    /// A connection with serializer 2.0.0 and these claims.
    pub async fn connect(&self, claims: &Value) -> Result<ProtocolClient> {
        self.connect_as(claims, ProtocolVersion::V2).await
    }

    /// A connection with these claims that takes no frame which the strictest of the stock clients would not.
    pub async fn connect_as(&self, claims: &Value, version: ProtocolVersion) -> Result<ProtocolClient> {
        Ok(ProtocolClient::connect(&self.websocket(), &token(claims), version).await?.strictly())
    }

    /// Runs SQL as the database's owner.
    pub async fn sql(&self, sql: &str) -> Result<()> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> Result<String> {
        let talk = async {
            let mut stream = TcpStream::connect(self.server.address()).await?;
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            anyhow::Ok(text)
        };
        tokio::time::timeout(Duration::from_secs(10), talk).await.context("no metrics")?
    }

    /// One number of `/metrics`.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        let text = self.metrics().await?;
        let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(number.with_context(|| format!("no {name} in {text}"))?.parse()?)
    }

    /// Waits until one of them is this.
    pub async fn until_metric(&self, name: &str, expected: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.metric(name).await?;
            if found == expected {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{name} is not {expected}, but {found}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many questions about rows were put to Postgres up to now.
    pub async fn questions(&self) -> Result<u64> {
        self.metric("walcast_oracle_decisions_total").await
    }

    /// Stops the server and starts another one at the same address, on the same slot.
    pub async fn restart(mut self) -> Result<World> {
        let address = self.server.address();
        self.server.stop().await?;
        self.settings.listen = address;
        self.server = Box::pin(Server::start(self.settings.clone())).await?;
        Ok(self)
    }
}

/// Settings of a server in front of a database, with short waits.
pub fn settings(database: &Database) -> Result<ServeSettings> {
    // The first caller wins, the others find the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let verifier = VerifierSettings { secret: Some(Secret::new(SECRET)), ..VerifierSettings::default() };
    let flags = Flags::default();
    let environment = [("DATABASE_URL".to_owned(), database.url().to_owned())].into();
    let mut settings = ServeSettings::new(DatabaseSettings::load(&flags, &environment)?, verifier);
    settings.project.replication.slot = database.slot_name();
    settings.project.engine.shards = 2;
    settings.project.limits.connect_error_backoff = Duration::ZERO;
    settings.project.limits.channel_error_backoff = Duration::ZERO;
    settings.project.catalog_poll = Duration::from_millis(200);
    settings.refusal_delay = Duration::ZERO;
    Ok(settings)
}

/// Signs claims with the tests' secret.
pub fn token(claims: &Value) -> String {
    walcast_auth::sign(claims, SECRET).expect("claims are an object")
}

/// Claims of the role `authenticated` for an hour.
pub fn person(subject: &str) -> Value {
    json!({ "role": "authenticated", "sub": subject, "exp": unix_seconds() + 3_600 })
}

/// Claims of any role for an hour.
pub fn role(role: &str) -> Value {
    json!({ "role": role, "exp": unix_seconds() + 3_600 })
}

/// Seconds since the Unix epoch.
pub fn unix_seconds() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    i64::try_from(elapsed.as_secs()).expect("the clock is before the year 292 billion")
}

/// A binding of `postgres_changes`.
pub fn binding(event: &str, table: &str) -> Value {
    json!({ "event": event, "schema": "public", "table": table })
}
