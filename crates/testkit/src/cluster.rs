//! One running Postgres server with its own data directory.

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::NoTls;

use crate::account::Account;
use crate::binaries::Binaries;
use crate::home::Home;
use crate::spawn::spawn_bound;

/// The superuser of every cluster.
pub const SUPERUSER: &str = "postgres";

const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long an orderly shutdown may take before it becomes an immediate one.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(15);
/// How long a predecessor on a kept data directory may take to go away.
const PREDECESSOR_DEADLINE: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A free port can be taken by another process before the server binds it; then the next one is tried.
const PORT_ATTEMPTS: usize = 5;

/// How a [`Cluster`] is made. The default is a temporary cluster for tests.
#[derive(Clone, Debug, Default)]
pub struct ClusterSettings {
    /// Where `postgres` and `initdb` are; found by [`Binaries::find`] when `None`.
    pub bin_dir: Option<PathBuf>,
    /// More directories to look for them, after those of the system.
    pub more_bin_dirs: Vec<PathBuf>,
    /// Where the data lives, and for how long.
    pub data_dir: DataDirectory,
    /// The port on 127.0.0.1; a free one when `None` (a kept cluster takes its last one while that is free).
    pub port: Option<u16>,
    /// Server settings, name and value, over those chosen here. `ALTER SYSTEM` wins over both.
    pub settings: Vec<(String, String)>,
    /// Lines for the top of `pg_hba.conf`, which is read when the cluster is made.
    pub host_based_authentication: Vec<String>,
}

/// Where the data of a cluster lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DataDirectory {
    /// A temporary directory, without durability, removed with the cluster.
    #[default]
    Temporary,
    /// This directory, made when it is missing, kept afterwards, and durable.
    Kept(PathBuf),
}

/// A Postgres server of our own on a port of 127.0.0.1 with `wal_level=logical`. It is stopped when this value is
/// dropped, and (on Linux) when the process dies, even by SIGKILL.
#[derive(Debug)]
pub struct Cluster {
    /// `postgres://user:password@host:port`, without a database.
    server_url: String,
    server: Option<Server>,
}

impl Cluster {
    /// Makes the data directory if need be, starts the server and waits until it answers `SELECT 1`.
    ///
    /// The error names what is missing, or holds the end of the server's log.
    pub async fn start(settings: ClusterSettings) -> Result<Self> {
        let server = tokio::task::spawn_blocking(move || Server::prepare(settings)).await??;
        let password = fs::read_to_string(server.home.password_file())
            .with_context(|| format!("cannot read {}", server.home.password_file().display()))?;
        server.launch().await?;
        let server_url = format!(
            "postgres://{SUPERUSER}:{}@127.0.0.1:{}",
            password.trim(),
            server.port()
        );
        let cluster = Self {
            server_url,
            server: Some(server),
        };
        cluster.ready().await?;
        Ok(cluster)
    }

    /// A server that someone else runs, reached under the URL of any of its databases: see [`crate::shared_cluster`].
    pub fn at(url: &str) -> Result<Self> {
        let (server_url, _database) = url
            .rsplit_once('/')
            .with_context(|| "a cluster's URL looks like postgres://user:password@host:port/database")?;
        Ok(Self {
            server_url: server_url.to_owned(),
            server: None,
        })
    }

    /// The URL of a database of this cluster, for the superuser. `database` must need no escaping.
    pub fn url(&self, database: &str) -> String {
        format!("{}/{database}", self.server_url)
    }

    /// A connection to `database` as superuser; its task runs on the current tokio runtime.
    pub async fn client(&self, database: &str) -> Result<tokio_postgres::Client> {
        connect(&self.url(database)).await
    }

    /// The port on 127.0.0.1 (the same after a restart). Fails for a server that someone else runs.
    pub fn port(&self) -> Result<u16> {
        Ok(self.own()?.port())
    }

    /// The programs that run the server.
    pub fn binaries(&self) -> Result<&Binaries> {
        Ok(&self.own()?.binaries)
    }

    /// The directory of this cluster: data, log, password, socket.
    pub fn directory(&self) -> Result<&Path> {
        Ok(self.own()?.home.root())
    }

    /// Puts a file (a certificate, a key) into the data directory, readable by the server alone.
    pub fn write_data_file(&self, name: &str, contents: &str) -> Result<()> {
        let home = &self.own()?.home;
        home.write(&home.data().join(name), contents)
    }

    /// Stops the server in good order: open transactions are rolled back, the log is flushed, replication
    /// connections may finish. What has not ended after 15 s is ended at once.
    pub async fn stop(&self) -> Result<()> {
        let server = self.own()?;
        server.signal(Signal::INT)?;
        if server.exited_within(SHUTDOWN_DEADLINE).await?.is_none() {
            self.stop_immediately().await?;
        }
        Ok(())
    }

    /// Crashes the server: no checkpoint, no farewell to clients; the next start recovers from the log.
    pub async fn stop_immediately(&self) -> Result<()> {
        let server = self.own()?;
        server.signal(Signal::QUIT)?;
        if server.exited_within(SHUTDOWN_DEADLINE).await?.is_none() {
            server.signal(Signal::KILL)?;
            server
                .exited_within(SHUTDOWN_DEADLINE)
                .await?
                .context("Postgres survived SIGKILL")?;
        }
        Ok(())
    }

    /// Starts the stopped server on the same port and waits until it answers.
    pub async fn start_again(&self) -> Result<()> {
        self.own()?.launch().await?;
        self.ready().await
    }

    /// [`stop`](Self::stop) and [`start_again`](Self::start_again).
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    fn own(&self) -> Result<&Server> {
        self.server
            .as_ref()
            .context("this Postgres is run by someone else and can not be managed from here")
    }

    /// Waits for a real answer: a server that accepts connections may still refuse queries.
    async fn ready(&self) -> Result<()> {
        let server = self.own()?;
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let failure = match self.client("postgres").await {
                Ok(client) => match client.simple_query("SELECT 1").await {
                    Ok(_) => return Ok(()),
                    Err(error) => anyhow!(error),
                },
                Err(error) => error,
            };
            if let Some(status) = server.poll_exit()? {
                bail!(
                    "Postgres ended with {status} while starting; its log:\n{}",
                    server.home.log_tail()
                );
            }
            ensure!(
                Instant::now() < deadline,
                "Postgres does not answer after {} s: {failure:#}; its log:\n{}",
                START_DEADLINE.as_secs(),
                server.home.log_tail(),
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

pub(crate) async fn connect(url: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to Postgres ended");
        }
    });
    Ok(client)
}

/// The server process and what it needs to be started again.
#[derive(Debug)]
struct Server {
    binaries: Binaries,
    settings: Vec<(String, String)>,
    port: Mutex<Port>,
    process: Mutex<Option<Child>>,
    death_signal: Signal,
    // Last: the directory goes when nothing uses it any more.
    home: Home,
}

#[derive(Clone, Copy, Debug)]
struct Port {
    number: u16,
    /// Another may be taken if this one is in use.
    free_choice: bool,
}

impl Server {
    fn prepare(settings: ClusterSettings) -> Result<Self> {
        let account = Account::for_server()?;
        let (home, durable) = match &settings.data_dir {
            DataDirectory::Temporary => (Home::temporary(account)?, false),
            DataDirectory::Kept(path) => (Home::kept(path, account)?, true),
        };
        let major = home.major()?;
        let binaries = Binaries::find(settings.bin_dir.as_deref(), &settings.more_bin_dirs, major)?;
        if major.is_none() {
            initialize(&binaries, &home, &settings.host_based_authentication)?;
        }
        let port = match settings.port {
            Some(number) => Port {
                number,
                free_choice: false,
            },
            None => Port {
                number: preferred_port(home.last_port())?,
                free_choice: true,
            },
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

    fn port(&self) -> u16 {
        locked(&self.port).number
    }

    /// Starts the process and stays until it listens or ends.
    async fn launch(&self) -> Result<()> {
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
                bail!(
                    "Postgres ended with {status} while starting on port {}; its log:\n{log}",
                    port.number
                );
            }
        }
    }

    fn spawn(&self) -> Result<()> {
        self.write_configuration()?;
        let log = self.home.log();
        self.home.write(&log, "")?;
        let output = OpenOptions::new().append(true).open(&log)?;
        let mut command = self.program("postgres");
        command
            .arg("-D")
            .arg(self.home.data())
            .stdout(output.try_clone()?)
            .stderr(output);
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
                if ours
                    && text
                        .lines()
                        .nth(7)
                        .is_some_and(|status| !status.trim().is_empty())
                {
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
        let all = self
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in all.chain([("port", port.as_str())]) {
            text.push_str(&format!(
                "{name} = '{}'\n",
                value.replace('\\', "\\\\").replace('\'', "''")
            ));
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
            let Some(pid) = text
                .lines()
                .next()
                .and_then(|line| line.trim().parse::<u32>().ok())
            else {
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

    fn signal(&self, signal: Signal) -> Result<()> {
        let mut process = locked(&self.process);
        let child = process.as_mut().context("Postgres is not running")?;
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("an impossible process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to Postgres"))
    }

    fn poll_exit(&self) -> Result<Option<ExitStatus>> {
        Ok(match locked(&self.process).as_mut() {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    async fn exited_within(&self, time: Duration) -> Result<Option<ExitStatus>> {
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

fn initialize(binaries: &Binaries, home: &Home, host_based_authentication: &[String]) -> Result<()> {
    // What an initdb that was interrupted left behind.
    if home.data().exists() {
        fs::remove_dir_all(home.data()).with_context(|| format!("cannot clear {}", home.data().display()))?;
    }
    let password = format!("{:032x}", rand::random::<u128>());
    home.write(&home.password_file(), &format!("{password}\n"))?;
    let locale = if cfg!(target_os = "linux") {
        "C.UTF-8"
    } else {
        "en_US.UTF-8"
    };
    let mut command = program(binaries, home, "initdb");
    command
        .args([
            "--no-sync",
            "--encoding=UTF8",
            "--auth=scram-sha-256",
            "--username",
            SUPERUSER,
        ])
        .arg(format!("--locale={locale}"))
        .arg("--pwfile")
        .arg(home.password_file())
        .arg("--pgdata")
        .arg(home.data());
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", binaries.program("initdb").display()))?;
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
    home.write(
        &authentication,
        &format!("{}\n{text}", host_based_authentication.join("\n")),
    )
}

fn program(binaries: &Binaries, home: &Home, name: &str) -> Command {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new(binaries.program(name));
    command
        .current_dir(home.root())
        .stdin(Stdio::null())
        .process_group(0);
    for variable in [
        "PGDATA",
        "PGPORT",
        "PGHOST",
        "PGUSER",
        "PGOPTIONS",
        "LC_ALL",
        "LC_MESSAGES",
        "LANG",
    ] {
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
            ("synchronous_commit", "off"),
            ("checkpoint_timeout", "30min"),
        ]);
    }
    settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .chain(more)
        .collect()
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
