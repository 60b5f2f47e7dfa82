//! `testkit cluster [--cache DIRECTORY] -- COMMAND…`: runs a command under a temporary Postgres cluster of its own.
//!
//! The command finds the cluster's URL in `WALCAST_TEST_CLUSTER_URL` and its programs in `WALCAST_TEST_PG_BIN`; the
//! exit status is the command's. With `--cache` the programs are fetched into that directory if there are no others.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::process::Command;
use walcast_testkit::database::{BIN_DIR_VARIABLE, CLUSTER_VARIABLE, test_settings};
use walcast_testkit::{Cluster, ClusterSettings};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["cluster", "--cache", cache, "--", program, arguments @ ..] => {
            under_cluster(Some(PathBuf::from(cache)), program, arguments).await
        }
        ["cluster", "--", program, arguments @ ..] => under_cluster(None, program, arguments).await,
        _ => {
            eprintln!("usage: testkit cluster [--cache DIRECTORY] -- COMMAND [ARGUMENT…]");
            Ok(ExitCode::from(2))
        }
    }
}

async fn under_cluster(cache: Option<PathBuf>, program: &str, arguments: &[&str]) -> Result<ExitCode> {
    let cluster = Cluster::start(ClusterSettings { embedded_cache: cache, ..test_settings() }).await?;
    let mut child = Command::new(program)
        .args(arguments)
        .env(CLUSTER_VARIABLE, cluster.url("postgres"))
        .env(BIN_DIR_VARIABLE, cluster.binaries()?.directory())
        .env("WALCAST_TEST_CLUSTER_DIRECTORY", cluster.directory()?)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // Ctrl-C reaches the command as well, which ends by itself.
    let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminations = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = interrupts.recv() => {}
            _ = terminations.recv() => child.start_kill()?,
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}
