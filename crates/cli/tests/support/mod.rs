//! The binary as a process of its own.
#![allow(dead_code, reason = "each test program uses its part")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A `walcast serve` of its own.
pub(crate) struct Walcast {
    process: Child,
    log: mpsc::UnboundedReceiver<String>,
}

impl Walcast {
    /// Starts it with this configuration.
    pub(crate) fn serve(file: &Path) -> Result<Walcast> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_walcast"))
            .args(["serve", "--config"])
            .arg(file)
            .env_clear()
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = process.stderr.take().context("it is piped")?;
        let (lines, log) = mpsc::unbounded_channel();
        // Taken away also while nobody asks: the server waits for who does not read its log.
        tokio::spawn(async move {
            let mut stderr = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = stderr.next_line().await {
                let _ = lines.send(line);
            }
        });
        Ok(Walcast { process, log })
    }

    /// Waits until it serves, and says where.
    pub(crate) async fn up(&mut self) -> Result<SocketAddr> {
        let up = self.says("walcast is up").await?;
        let address = up.split_once("address=").and_then(|(_, rest)| rest.split(' ').next());
        address.context("an address")?.parse().with_context(|| up.clone())
    }

    /// Waits for a line of the log with this text.
    pub(crate) async fn says(&mut self, text: &str) -> Result<String> {
        let mut before = Vec::new();
        let found = timeout(DEADLINE, async {
            while let Some(line) = self.log.recv().await {
                if line.contains(text) {
                    return Ok(line);
                }
                before.push(line);
            }
            bail!("it has ended")
        });
        let found = found.await.unwrap_or_else(|_| bail!("it does not come"));
        found.with_context(|| format!("{text:?} after {before:#?}"))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("it runs")?;
        Ok(kill_process(id, signal)?)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> Result<u32> {
        self.process.id().context("it runs")
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.ended().await?;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    /// Ends it on the spot.
    pub(crate) async fn kill(self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.ended().await.map(drop)
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(mut self) -> Result<ExitStatus> {
        Ok(timeout(DEADLINE, self.process.wait()).await??)
    }
}
