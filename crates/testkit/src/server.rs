//! The server process of one cluster: making its data directory, starting, signalling, waiting.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::account::Account;
use crate::binaries::Binaries;
use crate::cluster::{ClusterSettings, DataDirectory, SUPERUSER};
use crate::embedded;
use crate::home::Home;
use crate::spawn::spawn_bound;

pub(crate) const START_DEADLINE: Duration = Duration::from_mins(1);
/// How long an orderly shutdown may take before it becomes an immediate one.
pub(crate) const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(15);
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a predecessor on a kept data directory may take to go away.
const PREDECESSOR_DEADLINE: Duration = Duration::from_secs(15);
/// A free port can be taken by another process before the server binds it; then the next one is tried.
const PORT_ATTEMPTS: usize = 5;

/// The server process and what it needs to be started again.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) binaries: Binaries,
    settings: Vec<(String, String)>,
    port: Mutex<Port>,
    process: Mutex<Option<Child>>,
    death_signal: Signal,
    // Last: the directory goes when nothing uses it any more.
    pub(crate) home: Home,
}

#[derive(Clone, Copy, Debug)]
struct Port {
    number: u16,
    /// Another may be taken if this one is in use.
    free_choice: bool,
}

impl Server {
    pub(crate) fn prepare(settings: ClusterSettings) -> Result<Self> {
        let account = Account::for_server()?;
        let (home, durable) = match &settings.data_dir {
            DataDirectory::Temporary => (Home::temporary(account)?, false),
            DataDirectory::Kept(path) => (Home::kept(path, account)?, true),
        };
        let major = home.major()?;
        let binaries = find_binaries(&settings, major)?;
        if major.is_none() {
            initialize(&binaries, &home, &settings)?;
        }
        let port = match settings.port {
            Some(number) => Port { number, free_choice: false },
            None => Port { number: preferred_port(home.last_port())?, free_choice: true },
        };
        Ok(Self {
            settings: server_settings(durable, &home, settings.settings),
            binaries,
            port: Mutex::new(port),
            process: Mutex::new(None),
            death_signal: if durable { Signal::INT } else { Signal::QUIT },
            home,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        locked(&self.port).number
    }

    /// Starts the process and stays until it listens or ends.
    pub(crate) async fn launch(&self) -> Result<()> {
        ensure!(
            self.poll_exit()?.is_some() || locked(&self.process).is_none(),
            "Postgres is already running"
        );
        self.await_predecessor().await?;
        let deadline = Instant::now() + PREDECESSOR_DEADLINE;
        let mut attempts = 0;
        loop {
            attempts += 1;
            self.spawn()?;
            let Some(status) = self.ended_before_listening().await? else {
                // From here on clients know the port, so it stays.
                locked(&self.port).free_choice = false;
                return self.home.remember_port(self.port());
            };
            let log = self.home.log_tail();
            let port = *locked(&self.port);
            if log.contains("pre-existing shared memory block") && Instant::now() < deadline {
                // The children of a killed server have not noticed yet that it is gone.
                tokio::time::sleep(Duration::from_millis(200)).await;
            } else if log.contains("could not bind") && port.free_choice && attempts < PORT_ATTEMPTS {
                locked(&self.port).number = preferred_port(None)?;
            } else {
                bail!("Postgres ended with {status} while starting on port {}; its log:\n{log}", port.number);
            }
        }
    }

    fn spawn(&self) -> Result<()> {
        self.write_configuration()?;
        let log = self.home.log();
        self.home.write(&log, "")?;
        let output = OpenOptions::new().append(true).open(&log)?;
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.home.data()).stdout(output.try_clone()?).stderr(output);
        let child = spawn_bound(command, self.death_signal)
            .with_context(|| format!("cannot start {}", self.binaries.program("postgres").display()))?;
        *locked(&self.process) = Some(child);
        Ok(())
    }

    /// The line of `postmaster.pid` that says `ready`, `starting` and so on appears once the ports are bound.
    async fn ended_before_listening(&self) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = self.poll_exit()? {
                return Ok(Some(status));
            }
            let pid = locked(&self.process).as_ref().map(Child::id);
            if let Ok(text) = fs::read_to_string(self.home.data().join("postmaster.pid")) {
                let ours = text.lines().next().and_then(|line| line.trim().parse().ok()) == pid;
                if ours && text.lines().nth(7).is_some_and(|status| !status.trim().is_empty()) {
                    return Ok(None);
                }
            }
            ensure!(
                Instant::now() < deadline,
                "Postgres does not listen after {} s; its log:\n{}",
                START_DEADLINE.as_secs(),
                self.home.log_tail(),
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn write_configuration(&self) -> Result<()> {
        let mut text = String::from("# Written at every start. Your own settings: ALTER SYSTEM.\n");
        let port = self.port().to_string();
        let all = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in all.chain([("port", port.as_str())]) {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"));
        }
        self.home.write(&self.home.data().join("walcast.conf"), &text)
    }

    /// A program under the server's account, with an environment that does not lead it astray, and out of reach of
    /// the terminal's Ctrl-C: the server must outlive its clients' shutdown.
    fn program(&self, name: &str) -> Command {
        program(&self.binaries, &self.home, name)
    }

    /// A server of a previous run on this data directory may still be shutting down; a `postmaster.pid` of one that
    /// is gone stops the next start if its process id is used again.
    async fn await_predecessor(&self) -> Result<()> {
        let path = self.home.data().join("postmaster.pid");
        let deadline = Instant::now() + PREDECESSOR_DEADLINE;
        while let Ok(text) = fs::read_to_string(&path) {
            let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
                break;
            };
            match serves(pid, &self.home.data()) {
                None => break,
                Some(false) => {
                    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                    break;
                }
                Some(true) => {}
            }
            ensure!(
                Instant::now() < deadline,
                "another Postgres (process {pid}) runs on {}: stop it, or use another data directory",
                self.home.data().display(),
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let mut process = locked(&self.process);
        let child = process.as_mut().context("Postgres is not running")?;
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("an impossible process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to Postgres"))
    }

    pub(crate) fn poll_exit(&self) -> Result<Option<ExitStatus>> {
        Ok(match locked(&self.process).as_mut() {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    pub(crate) async fn exited_within(&self, time: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(status) = self.poll_exit()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for signal in [self.death_signal, Signal::QUIT, Signal::KILL] {
            if self.signal(signal).is_err() {
                return;
            }
            let deadline = Instant::now() + SHUTDOWN_DEADLINE;
            while Instant::now() < deadline {
                if !matches!(self.poll_exit(), Ok(None)) {
                    return;
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
    }
}

fn find_binaries(settings: &ClusterSettings, major: Option<u32>) -> Result<Binaries> {
    let explicit = settings.bin_dir.as_deref();
    let Some(cache) = &settings.embedded_cache else {
        return Binaries::find(explicit, &[], major);
    };
    let wanted = major.unwrap_or(embedded::NEWEST);
    let unpacked: Vec<PathBuf> = embedded::bin_directory(cache, wanted).into_iter().collect();
    Binaries::find(explicit, &unpacked, major).or_else(|error| {
        if explicit.is_some() || unpacked.is_empty() {
            return Err(error);
        }
        let fetched = embedded::install(cache, wanted);
        let fetched = fetched.with_context(|| format!("{error:#}; fetching them failed as well"))?;
        Binaries::find(Some(&fetched), &[], major)
    })
}

fn initialize(binaries: &Binaries, home: &Home, settings: &ClusterSettings) -> Result<()> {
    // What an initdb that was interrupted left behind.
    if home.data().exists() {
        fs::remove_dir_all(home.data()).with_context(|| format!("cannot clear {}", home.data().display()))?;
    }
    let password = format!("{:032x}", rand::random::<u128>());
    home.write(&home.password_file(), &format!("{password}\n"))?;
    let locale = if cfg!(target_os = "linux") { "C.UTF-8" } else { "en_US.UTF-8" };
    let mut command = program(binaries, home, "initdb");
    command
        .args(["--no-sync", "--encoding=UTF8", "--auth=scram-sha-256", "--username", SUPERUSER])
        .arg(format!("--locale={locale}"))
        .arg("--pwfile")
        .arg(home.password_file())
        .arg("--pgdata")
        .arg(home.data())
        .args(&settings.initdb_arguments);
    let output =
        command.output().with_context(|| format!("cannot run {}", binaries.program("initdb").display()))?;
    ensure!(
        output.status.success(),
        "initdb ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let configuration = home.data().join("postgresql.conf");
    let text = fs::read_to_string(&configuration)?;
    home.write(&configuration, &format!("{text}\ninclude 'walcast.conf'\n"))?;
    let authentication = home.data().join("pg_hba.conf");
    let text = fs::read_to_string(&authentication)?;
    home.write(&authentication, &format!("{}\n{text}", settings.host_based_authentication.join("\n")))
}

fn program(binaries: &Binaries, home: &Home, name: &str) -> Command {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new(binaries.program(name));
    command.current_dir(home.root()).stdin(Stdio::null()).process_group(0);
    for variable in ["PGDATA", "PGPORT", "PGHOST", "PGUSER", "PGOPTIONS", "LC_ALL", "LC_MESSAGES", "LANG"] {
        command.env_remove(variable);
    }
    home.account().apply(&mut command);
    command
}

fn server_settings(durable: bool, home: &Home, more: Vec<(String, String)>) -> Vec<(String, String)> {
    let socket_directory = home.socket_directory().display().to_string();
    let mut settings = vec![
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", socket_directory.as_str()),
        ("wal_level", "logical"),
        ("max_wal_senders", "100"),
        ("max_replication_slots", "100"),
        ("max_connections", "300"),
        ("max_prepared_transactions", "10"),
        ("timezone", "UTC"),
        ("log_destination", "stderr"),
        ("logging_collector", "off"),
    ];
    if !durable {
        settings.extend([
            ("fsync", "off"),
            ("full_page_writes", "off"),
            // synchronous_commit stays on: without fsync it costs nothing, and without it the log is sent up to
            // wal_writer_delay (200 ms) after the commit.
            ("checkpoint_timeout", "30min"),
        ]);
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).chain(more).collect()
}

fn preferred_port(last: Option<u16>) -> Result<u16> {
    let last = last.and_then(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    let listener = match last {
        Some(listener) => listener,
        None => TcpListener::bind(("127.0.0.1", 0)).context("there is no free port on 127.0.0.1")?,
    };
    Ok(listener.local_addr()?.port())
}

/// Whether the process is a server on this data directory, which is its working directory; `None` where the
/// system does not tell, then the check is left to Postgres.
fn serves(pid: u32, data: &Path) -> Option<bool> {
    if !Path::new("/proc/self").exists() {
        return None;
    }
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(directory) => Some(directory == data),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        Err(_) => Some(false),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
