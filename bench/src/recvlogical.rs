//! PostgreSQL's side: `pg_recvlogical`, which reads a slot and throws the bytes away.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use walcast_pgoutput::Lsn;
use walcast_replication::ConnectionSettings;
use walcast_testkit::Cluster;

/// The program, and how it reaches the server.
#[derive(Debug)]
pub struct Recvlogical {
    program: PathBuf,
    /// As it tells itself.
    pub version: String,
}

impl Recvlogical {
    /// The program beside the server's own.
    pub async fn beside(cluster: &Cluster) -> Result<Self> {
        let program = cluster.binaries()?.directory().join("pg_recvlogical");
        ensure!(
            program.is_file(),
            "{} is missing: install the client programs of Postgres (Debian: apt-get install postgresql-client)",
            program.display()
        );
        let output = Command::new(&program).arg("--version").output().await?;
        Ok(Recvlogical { program, version: String::from_utf8_lossy(&output.stdout).trim().to_owned() })
    }

    /// How long it takes to read the slot up to `end`, from the moment that the stream begins.
    pub async fn drain(
        &self,
        connection: &ConnectionSettings,
        publication: &str,
        slot: &str,
        end: Lsn,
    ) -> Result<Duration> {
        let host = connection.hosts.first().context("the cluster's URL has no host")?;
        let password = connection.password.as_ref().map_or("", |password| password.reveal());
        let mut child = Command::new(&self.program)
            .args(["--start", "--no-loop", "--verbose", "--file=/dev/null"])
            .args(["--host=127.0.0.1".to_owned(), format!("--port={}", host.port)])
            .args([format!("--username={}", connection.user), format!("--dbname={}", connection.database)])
            .args([format!("--slot={slot}"), format!("--endpos={end}")])
            .args([
                "--option=proto_version=1".to_owned(),
                format!("--option=publication_names={publication}"),
            ])
            .env("PGPASSWORD", password)
            .env("PGSSLMODE", "disable")
            // Its messages are read below.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let stderr = child.stderr.take().context("pg_recvlogical has no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let (mut said, mut began) = (String::new(), None);
        while let Some(line) = lines.next_line().await? {
            if line.ends_with("streaming initiated") {
                began = Some(Instant::now());
            }
            said.push_str(&line);
            said.push('\n');
        }
        let status = child.wait().await?;
        let ended = Instant::now();
        match began {
            Some(began) if status.success() => Ok(ended - began),
            _ => bail!("pg_recvlogical ended with {status} and said:\n{said}"),
        }
    }
}
