//! `walcast dev`: a private PostgreSQL with the demo schema, a server in front of it, and its page.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use walcast_auth::{Secret, VerifierSettings};
use walcast_catalog::{install, script};
use walcast_replication::ConnectionSettings;
use walcast_testkit::{Cluster, ClusterSettings, DataDirectory, demo};

use crate::serve::{ServeSettings, Server};

/// The database that the demo lives in.
const DATABASE: &str = "walcast_demo";

/// Where PostgreSQL's programs are kept that had to be fetched.
const EMBEDDED_CACHE: &str = ".walcast/postgres";

/// Options of `walcast dev`.
#[derive(Args, Clone, Debug)]
pub struct DevOptions {
    /// Where the private PostgreSQL keeps its data, and walcast its secret.
    #[arg(long, default_value = ".walcast/dev")]
    pub data_dir: PathBuf,
    /// The folder with `postgres` and `initdb`; else PATH and the usual Debian folders, newest first.
    #[arg(long)]
    pub pg_bin: Option<PathBuf>,
    /// Use this database instead of a private one. The demo schema is applied to it.
    #[arg(long)]
    pub database_url: Option<String>,
    /// The address of the page and the sockets.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: std::net::IpAddr,
    /// The port of the page and the sockets.
    #[arg(long, env = "PORT", default_value_t = 4000)]
    pub port: u16,
}

/// The running demo.
pub struct Dev {
    /// The server.
    pub server: Server,
    /// The database's URL.
    pub database_url: String,
    /// The secret that tokens are signed with.
    pub secret: String,
    cluster: Option<Cluster>,
}

impl Dev {
    /// Starts PostgreSQL (unless one is given) and the server.
    pub async fn start(options: DevOptions) -> Result<Dev> {
        fs::create_dir_all(&options.data_dir)
            .with_context(|| format!("cannot create {}", options.data_dir.display()))?;
        let secret = kept_secret(&options.data_dir.join("jwt-secret"))?;
        let (cluster, database_url) = match &options.database_url {
            Some(url) => (None, url.clone()),
            None => {
                let cluster = private_cluster(&options).await?;
                let url = demo_database(&cluster).await?;
                (Some(cluster), url)
            }
        };
        let connection = ConnectionSettings::parse(&database_url)?;
        let verifier = VerifierSettings { secret: Some(Secret::new(&secret)), ..VerifierSettings::default() };
        let mut settings = ServeSettings::new(connection, verifier);
        settings.listen = SocketAddr::new(options.host, options.port);
        settings.slot = "walcast_dev".to_owned();
        settings.demo = Some(Secret::new(&secret));
        apply_demo(&settings).await?;
        let server = Server::start(settings).await?;
        Ok(Dev { server, database_url, secret, cluster })
    }

    /// Stops the server, then PostgreSQL.
    pub async fn stop(self) -> Result<()> {
        self.server.stop().await?;
        if let Some(cluster) = self.cluster {
            cluster.stop().await?;
        }
        Ok(())
    }
}

async fn private_cluster(options: &DevOptions) -> Result<Cluster> {
    let data_dir = std::path::absolute(options.data_dir.join("postgres"))?;
    let settings = ClusterSettings {
        bin_dir: options.pg_bin.clone(),
        data_dir: DataDirectory::Kept(data_dir),
        embedded_cache: Some(std::path::absolute(EMBEDDED_CACHE)?),
        ..ClusterSettings::default()
    };
    Cluster::start(settings).await.context("the private PostgreSQL of walcast dev does not start")
}

async fn demo_database(cluster: &Cluster) -> Result<String> {
    let client = cluster.client("postgres").await?;
    let known = client.query_opt("select 1 from pg_database where datname = $1", &[&DATABASE]).await?;
    if known.is_none() {
        client.batch_execute(&format!("create database {DATABASE}")).await?;
    }
    Ok(cluster.url(DATABASE))
}

async fn apply_demo(settings: &ServeSettings) -> Result<()> {
    let catalog = settings.catalog()?;
    script::apply(&catalog, demo::FILES).await.context("the demo schema can not be applied")?;
    install::apply(&catalog).await.context("walcast can not be installed in the demo database")?;
    Ok(())
}

/// The secret of an earlier run, or a new one that only this user may read.
fn kept_secret(path: &Path) -> Result<String> {
    if let Ok(secret) = fs::read_to_string(path) {
        return Ok(secret.trim().to_owned());
    }
    let secret: String = (0..4).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{secret}")?;
    Ok(secret)
}
