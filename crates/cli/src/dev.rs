//! `walcast dev`: a private PostgreSQL with the demo schema, a server in front of it, and its page.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use walcast_auth::Secret;
use walcast_catalog::{install, script};
use walcast_testkit::{Cluster, ClusterSettings, DataDirectory, demo};

use crate::database::catalog_settings;
use crate::project::ProjectSettings;
use crate::serve::Server;
use crate::settings::{Environment, Flags, Purpose, Settings};

/// The database that the demo lives in.
const DATABASE: &str = "walcast_demo";

/// The page gives a token to whoever asks, so nobody else's machine may ask.
const LOCAL_ONLY: &str = "127.0.0.1";
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
    /// Any setting of `walcast serve`. With `--database-url` that database is used instead of a private
    /// one, and the demo schema is applied to it.
    #[command(flatten)]
    pub settings: Flags,
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
    pub async fn start(options: DevOptions, environment: &Environment) -> Result<Dev> {
        fs::create_dir_all(&options.data_dir)
            .with_context(|| format!("cannot create {}", options.data_dir.display()))?;
        let secret = kept_secret(&options.data_dir.join("jwt-secret"))?;
        let mut flags = options.settings.clone();
        let (cluster, database_url) = if let Some(url) = flags.database_url() {
            (None, url.to_owned())
        } else {
            let cluster = private_cluster(&options).await?;
            let url = demo_database(&cluster).await?;
            (Some(cluster), url)
        };
        flags.set_database_url(database_url.clone());
        flags.set_jwt_secret(secret.clone());
        flags.set_host_unless_given(LOCAL_ONLY);
        let mut settings = Settings::load(&flags, environment, Purpose::Develop)?.serve();
        settings.project.demo = Some(Secret::new(&secret));
        apply_demo(&settings.project).await?;
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

async fn apply_demo(settings: &ProjectSettings) -> Result<()> {
    let catalog = catalog_settings(&settings.database, &settings.replication.publications)?;
    script::apply(&catalog, demo::FILES).await.context("the demo schema can not be applied")?;
    install::apply(&catalog).await.context("walcast can not be installed in the demo database")?;
    Ok(())
}

/// The secret of an earlier run, or a new one that only this user may read.
fn kept_secret(path: &Path) -> Result<String> {
    if let Ok(secret) = fs::read_to_string(path) {
        return Ok(secret.trim().to_owned());
    }
    let secret = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{secret}")?;
    Ok(secret)
}
