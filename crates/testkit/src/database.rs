//! One cluster for all tests of a process, and one empty database for every test.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;

use crate::cluster::{Cluster, ClusterSettings, connect};

/// The environment variable that names a cluster to use instead of an own one: `make test` runs all test programs
/// under one cluster, see the program `testkit`.
pub const CLUSTER_VARIABLE: &str = "WALCAST_TEST_CLUSTER_URL";

/// The environment variable that names the directory of the Postgres programs to test with, to try another version.
pub const BIN_DIR_VARIABLE: &str = "WALCAST_TEST_PG_BIN";

/// The cluster of this process's tests: that of [`CLUSTER_VARIABLE`] if it is set, otherwise a temporary one that
/// is started by the first caller and dies with the process. Do not restart it: others use it; a test that
/// restarts Postgres starts a [`Cluster`] of its own.
///
/// # Panics
/// If there is no Postgres to start; a test can do nothing about that.
pub async fn shared_cluster() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    let cluster = SHARED
        .get_or_try_init(|| async {
            match std::env::var(CLUSTER_VARIABLE) {
                Ok(url) if !url.is_empty() => Cluster::at(&url),
                _ => Cluster::start(test_settings()).await,
            }
        })
        .await;
    cluster.unwrap_or_else(|error| panic!("no Postgres for the tests: {error:#}"))
}

/// A temporary cluster for tests, of the Postgres that [`BIN_DIR_VARIABLE`] names if it is set.
pub fn test_settings() -> ClusterSettings {
    ClusterSettings {
        bin_dir: std::env::var_os(BIN_DIR_VARIABLE).filter(|path| !path.is_empty()).map(Into::into),
        ..ClusterSettings::default()
    }
}

/// The major version of the [`shared_cluster`], for a test of what not every version has.
///
/// # Panics
/// If the server does not tell; a test can do nothing about that.
pub async fn major() -> u32 {
    let client = shared_cluster().await.client("postgres").await;
    let client = client.unwrap_or_else(|error| panic!("no connection to the tests' Postgres: {error:#}"));
    let version = client.query_one("SELECT current_setting('server_version_num')::int / 10000", &[]).await;
    let major: i32 =
        version.unwrap_or_else(|error| panic!("the tests' Postgres has no version: {error}")).get(0);
    major.unsigned_abs()
}

/// A fresh, empty database of the [`shared_cluster`], named after `name_hint`.
///
/// # Panics
/// If it can not be made; a test can do nothing about that.
pub async fn database(name_hint: &str) -> Database {
    let cluster = shared_cluster().await;
    Database::create(cluster, name_hint)
        .await
        .unwrap_or_else(|error| panic!("no database for the test {name_hint}: {error:#}"))
}

/// A database that lives as long as this value. Dropping it ends the connections to it and removes its
/// replication slots and the database itself.
#[derive(Debug)]
pub struct Database {
    name: String,
    url: String,
    maintenance_url: String,
}

impl Database {
    /// A fresh, empty database of `cluster`.
    pub async fn create(cluster: &Cluster, name_hint: &str) -> Result<Self> {
        let name = unique_name(name_hint);
        // template0 never has connections that would stand in the way of a copy.
        cluster
            .client("postgres")
            .await?
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .with_context(|| format!("cannot create the database {name}"))?;
        Ok(Self { url: cluster.url(&name), maintenance_url: cluster.url("postgres"), name })
    }

    /// The database's name: lower-case letters, digits and `_`, no quoting needed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL for the superuser, password included.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL for another role of the cluster; user and password must need no escaping.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        let address = self.url.rsplit_once('@').map_or(self.url.as_str(), |(_, address)| address);
        format!("postgres://{user}:{password}@{address}")
    }

    /// A name for a replication slot (or a role) that no other database of the cluster uses.
    pub fn slot_name(&self) -> String {
        format!("walcast_{}", self.name)
    }

    /// A new connection as superuser; its task runs on the current tokio runtime.
    ///
    /// # Panics
    /// If the server can not be reached; a test can do nothing about that.
    pub async fn client(&self) -> tokio_postgres::Client {
        connect(&self.url)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to the database {}: {error:#}", self.name))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (name, url) = (self.name.clone(), self.maintenance_url.clone());
        // A runtime of its own: the test's may be shutting down, and it is waited for, because slots left behind
        // fill the cluster.
        let removal = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { tokio::time::timeout(REMOVAL_DEADLINE, remove(&name, &url)).await? })
        });
        if let Ok(Err(error)) = removal.join() {
            tracing::warn!(database = self.name, "the test database stays behind: {error:#}");
        }
    }
}

const REMOVAL_DEADLINE: Duration = Duration::from_secs(10);

async fn remove(name: &str, maintenance_url: &str) -> Result<()> {
    let client = connect(maintenance_url).await?;
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    let drop_slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                      WHERE database = $1 AND NOT active";
    loop {
        client.execute(terminate, &[&name]).await?;
        // Fails when a consumer takes the slot again in between: then once more from the top.
        let _ = client.execute(drop_slots, &[&name]).await;
        let left = client.query("SELECT 1 FROM pg_replication_slots WHERE database = $1", &[&name]).await?;
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
    Ok(())
}

/// At most 50 bytes, so that prefixes fit into Postgres's 63.
fn unique_name(hint: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let mut name: String = hint
        .chars()
        .take(32)
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' })
        .collect();
    if !name.starts_with(|letter: char| letter.is_ascii_lowercase()) {
        name.insert_str(0, "t_");
    }
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    let _ = write!(name, "_{:08x}_{counter:x}", rand::random::<u32>());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_names_need_no_quoting_and_never_repeat() {
        let first = unique_name("Ñandú & 'co'; a very long sentence that has to be cut somewhere");
        let second = unique_name("1");
        assert!(first.len() <= 50 && first.starts_with("t__and_____co"), "{first}");
        assert!(second.starts_with("t_1_"), "{second}");
        assert_ne!(unique_name("x"), unique_name("x"));
    }
}
