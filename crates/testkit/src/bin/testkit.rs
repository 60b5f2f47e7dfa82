//! `testkit cluster -- COMMAND…`: runs a command under a temporary Postgres cluster of its own, whose URL it finds
//! in `WALCAST_TEST_CLUSTER_URL`; the exit status is the command's.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::process::Command;
use walcast_testkit::database::CLUSTER_VARIABLE;
use walcast_testkit::{Cluster, ClusterSettings};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["cluster", "--", program, arguments @ ..] = arguments.as_slice() {
        under_cluster(program, arguments).await
    } else {
        eprintln!("usage: testkit cluster -- COMMAND [ARGUMENT…]");
        Ok(ExitCode::from(2))
    }
}

async fn under_cluster(program: &str, arguments: &[&str]) -> Result<ExitCode> {
    let cluster = Cluster::start(ClusterSettings::default()).await?;
    let mut child = Command::new(program)
        .args(arguments)
        .env(CLUSTER_VARIABLE, cluster.url("postgres"))
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
    let code = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1);
    Ok(ExitCode::from(code))
}
