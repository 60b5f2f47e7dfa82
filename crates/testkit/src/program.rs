//! A program that runs beside the tests and can be killed, paused and started again.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::spawn::spawn_bound;

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A program, its environment, and its process while it runs. It is killed when this value is dropped, and (on Linux)
/// when we die.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    process: Option<Child>,
}

/// What the system says of a process (Linux).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

impl Program {
    /// A program that does not run yet. What it prints is appended to the file `log`.
    pub fn new(path: &Path, arguments: &[&str], log: &Path) -> Self {
        Self {
            path: path.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: Vec::new(),
            log: log.to_owned(),
            process: None,
        }
    }

    /// Sets a variable for later starts. Beside these the program gets `PATH`, and nothing else of our environment.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts it; an error when it runs already.
    pub fn start(&mut self) -> Result<()> {
        ensure!(!self.is_running()?, "{} is already running", self.path.display());
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = spawn_bound(command, Signal::KILL);
        self.process = Some(child.with_context(|| format!("cannot start {}", self.path.display()))?);
        Ok(())
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(match &mut self.process {
            Some(child) => child.try_wait()?.is_none(),
            None => false,
        })
    }

    /// Ends it with SIGKILL, as a crash would, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.ended_within(Duration::from_secs(10)).await?;
        Ok(())
    }

    /// Asks it to end with SIGTERM and waits for that.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended_within(deadline).await
    }

    /// Stops it where it is (SIGSTOP).
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits for its end.
    pub async fn ended_within(&mut self, time: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + time;
        loop {
            let child = self.process.as_mut().context("it was not started")?;
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {} s", self.path.display(), time.as_secs());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// What it has printed since the first start.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Forgets what it has printed up to now.
    pub fn clear_log(&self) -> Result<()> {
        File::create(&self.log).with_context(|| format!("cannot empty {}", self.log.display()))?;
        Ok(())
    }

    /// Its memory, descriptors and threads, from `/proc`.
    pub fn usage(&self) -> Result<Usage> {
        let child = self.process.as_ref().context("it was not started")?;
        let directory = PathBuf::from(format!("/proc/{}", child.id()));
        let status = fs::read_to_string(directory.join("status"))?;
        let number = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.with_context(|| format!("no {name} of the process"))?.parse().context("not a number")
        };
        Ok(Usage {
            resident_bytes: number("VmRSS:")? * 1024,
            threads: number("Threads:")?,
            descriptors: fs::read_dir(directory.join("fd"))?.count() as u64,
        })
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let child = self.process.as_mut().context("it was not started")?;
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("an impossible process id")?;
        kill_process(pid, signal)
            .with_context(|| format!("cannot send {signal:?} to {}", self.path.display()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.signal(Signal::KILL);
        if let Some(child) = &mut self.process {
            // Until the kernel has let go of its port.
            let _ = child.wait();
        }
    }
}
