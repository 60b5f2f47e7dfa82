//! `testkit cluster [--cache DIRECTORY] -- COMMAND…`: runs a command under a temporary Postgres cluster of its own.
//!
//! The command finds the cluster's URL in `WALCAST_TEST_CLUSTER_URL` and its programs in `WALCAST_TEST_PG_BIN`; the
//! exit status is the command's. With `--cache` the programs are fetched into that directory if there are no others.
//!
//! `testkit binaries --cache DIRECTORY MAJOR`: fetches the programs of one major version into that directory where they
//! are not there yet, and prints where they are, for `WALCAST_TEST_PG_BIN`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::process::Command;
use walcast_testkit::database::{BIN_DIR_VARIABLE, CLUSTER_VARIABLE, test_settings};
use walcast_testkit::{Binaries, Cluster, ClusterSettings, embedded};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["cluster", "--cache", cache, "--", program, arguments @ ..] => {
            under_cluster(Some(PathBuf::from(cache)), program, arguments).await
        }
        ["cluster", "--", program, arguments @ ..] => under_cluster(None, program, arguments).await,
        ["binaries", "--cache", cache, major] => {
            let major = major.parse().with_context(|| format!("not a major version of Postgres: {major}"))?;
            let directory = embedded::install(Path::new(cache), major)?;
            show(Binaries::in_directory(&directory)?.directory());
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("usage: testkit cluster [--cache DIRECTORY] -- COMMAND [ARGUMENT…]");
            eprintln!("       testkit binaries --cache DIRECTORY MAJOR");
            Ok(ExitCode::from(2))
        }
    }
}

#[expect(clippy::print_stdout, reason = "the directory is the command's output")]
fn show(directory: &Path) {
    println!("{}", directory.display());
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
