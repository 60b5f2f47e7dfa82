//! Programs in other languages that check the server from outside, and report as TAP.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

/// No script may take longer.
const DEADLINE: Duration = Duration::from_mins(4);

/// A folder of `tests/`.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs a script to its end and gives what it has reported. `restart` is called whenever the script prints `RESTART`, and the script is
/// told `RESTARTED` after it.
pub async fn run(command: &mut Command, mut restart: impl AsyncFnMut() -> Result<()>) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {command:?}: `make clients` installs what it needs"))?;
    let mut input = child.stdin.take().context("the script has no standard input")?;
    let mut lines = BufReader::new(child.stdout.take().context("the script has no standard output")?).lines();
    let mut report = String::new();
    let talk = async {
        while let Some(line) = lines.next_line().await? {
            report.push_str(&line);
            report.push('\n');
            if line == "RESTART" {
                restart().await?;
                input.write_all(b"RESTARTED\n").await?;
            }
        }
        anyhow::Ok(child.wait().await?)
    };
    let Ok(status) = tokio::time::timeout(DEADLINE, talk).await else {
        bail!("the script did not end within {DEADLINE:?}:\n{report}");
    };
    ensure!(status?.success(), "promises were broken:\n{report}");
    ensure!(report.contains("\nok ") || report.starts_with("ok "), "the script checked nothing:\n{report}");
    Ok(report)
}
