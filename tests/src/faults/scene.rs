//! What a scenario plays in: a PostgreSQL of its own, the server as a process, the networks between them, and people.

use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use walcast_testkit::database::test_settings;
use walcast_testkit::{Cluster, ClusterSettings, Database, FaultProxy, Program};

use super::account::{Figures, account};
use super::schema::{Reader, TABLES};
use super::subscriber::{Notes, Subscriber};
use super::truth::Truth;
use super::writers::{self, Writers};
use crate::http::get;
use crate::{FOUNDATION, SECRET, World};

/// How long everybody may take to get the last row once everything is in order again.
const CATCH_UP: Duration = Duration::from_secs(90);
/// How long the server may take to start, or to be ready again.
const READY: Duration = Duration::from_mins(1);
/// The password of the role that the server connects as.
pub(super) const PASSWORD: &str = "the password that is configured";

/// How a scene is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// About how many rows are written in a second.
    pub rows_per_second: u32,
    /// What the choices of writers and subscribers come from.
    pub seed: u64,
    /// Of the cluster, over those of tests.
    pub cluster: ClusterSettings,
    /// More variables for the server.
    pub environment: Vec<(String, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { rows_per_second: 300, seed: 1, cluster: test_settings(), environment: Vec::new() }
    }
}

/// A scene that is being played.
pub struct Scene {
    /// The server: `walcast serve`.
    pub server: Program,
    /// Between the server and its database.
    pub database_side: FaultProxy,
    /// Between the clients and the server.
    pub clients_side: FaultProxy,
    writers: Writers,
    subscribers: JoinSet<Result<Notes>>,
    last_mark: watch::Sender<Option<i64>>,
    members: Vec<(String, String)>,
    began: Instant,
    address: SocketAddr,
    /// The database.
    pub database: Database,
    /// Its server.
    pub cluster: Cluster,
    _directory: tempfile::TempDir,
}

/// Who reads, and whether it also hangs up by itself.
const READERS: [(Reader, bool); 8] = [
    (Reader::Person("ana"), false),
    (Reader::Person("ana"), true),
    (Reader::Person("bruno"), false),
    (Reader::Person("carla"), true),
    (Reader::Filtering("bruno", 1), true),
    (Reader::Anonymous, true),
    (Reader::Service, false),
    (Reader::Service, true),
];

impl Scene {
    /// Starts everything, and returns when all subscribers are subscribed and rows are being written.
    pub async fn begin(setup: Setup) -> Result<Scene> {
        let cluster = Cluster::start(setup.cluster).await?;
        let database = Database::create(&cluster, "faults").await?;
        let client = database.client().await;
        client.batch_execute(FOUNDATION).await?;
        client.batch_execute(&World::installation(TABLES)).await?;
        let role = format!("create role walcast superuser login replication password '{PASSWORD}'");
        client.batch_execute(&role).await?;
        Truth::begin(&client).await?;
        let members = client.query("select room::text, person from members", &[]).await?;
        let members = members.iter().map(|row| (row.get(0), row.get(1))).collect();

        let directory = tempfile::tempdir()?;
        let address = free_address()?;
        let database_side = FaultProxy::start(format!("127.0.0.1:{}", cluster.port()?)).await?;
        let clients_side = FaultProxy::start(address.to_string()).await?;
        let binary = walcast_binary()?;
        let mut server = Program::new(&binary, &["serve"], &directory.path().join("walcast.log"));
        let url = format!(
            "postgres://walcast:{}@{}/{}",
            PASSWORD.replace(' ', "%20"),
            database_side.address(),
            database.name()
        );
        for (name, value) in [
            ("DATABASE_URL", url.as_str()),
            ("JWT_SECRET", SECRET),
            ("WALCAST_HOST", "127.0.0.1"),
            ("PORT", &address.port().to_string()),
            ("CONNECT_ERROR_BACKOFF_MS", "0"),
            ("CHANNEL_ERROR_BACKOFF_MS", "0"),
            ("WALCAST_CATALOG_POLL_SECONDS", "1"),
            ("WALCAST_CANARY_MS", "1000"),
            // The requests of a test would hide everything else.
            ("LOG_LEVEL", "info,walcast_server::request_log=warn"),
        ] {
            server.set(name, value);
        }
        for (name, value) in &setup.environment {
            server.set(name, value);
        }
        server.start()?;
        ready(&mut server, address).await?;

        let writers = Writers::start(database.url(), setup.rows_per_second, setup.seed);
        let (last_mark, mark) = watch::channel(None);
        let (subscribed, mut joined) = watch::channel(0);
        let mut subscribers = JoinSet::new();
        let url = format!("ws://{}/socket/websocket", clients_side.address());
        for (number, (reader, restless)) in (1_u64..).zip(READERS) {
            let seed = setup.seed.wrapping_mul(1_000) + number;
            let (mark, subscribed) = (mark.clone(), subscribed.clone());
            subscribers.spawn(Subscriber::new(reader, &url, restless, seed, mark, subscribed).run());
        }
        let all = joined.wait_for(|joins| *joins >= READERS.len());
        timeout(READY, all).await.context("not everybody could subscribe")??;
        Ok(Scene {
            server,
            database_side,
            clients_side,
            writers,
            subscribers,
            last_mark,
            members,
            began: Instant::now(),
            address,
            database,
            cluster,
            _directory: directory,
        })
    }

    /// Lets everybody write and read for a while.
    pub async fn calm(&self, time: Duration) -> Result<()> {
        sleep(time).await;
        self.writers.more(10).await
    }

    /// Runs SQL as the database's owner, on a connection of its own.
    pub async fn sql(&self, sql: &str) -> Result<()> {
        Ok(self.client().await?.batch_execute(sql).await?)
    }

    /// PostgreSQL's `server_version_num`.
    pub async fn version(&self) -> Result<u32> {
        let row = self.client().await?.query_one("select current_setting('server_version_num')", &[]).await?;
        Ok(row.get::<_, &str>(0).parse()?)
    }

    /// Starts the server again, and waits until it is ready.
    pub async fn start_server(&mut self) -> Result<()> {
        self.server.start()?;
        self.ready().await
    }

    /// Waits until the server is ready.
    pub async fn ready(&mut self) -> Result<()> {
        ready(&mut self.server, self.address).await
    }

    /// Waits until `/readyz` says that the server is not ready, and why in these words.
    pub async fn not_ready(&mut self, why: &str) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            let answer = get(self.address, "/readyz", "").await;
            if answer.as_ref().is_ok_and(|answer| answer.status == 503 && answer.body.contains(why)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "/readyz does not say {why:?}: {answer:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the server's log says this.
    pub async fn logs(&self, words: &str) -> Result<()> {
        let deadline = Instant::now() + READY;
        while !self.server.log().contains(words) {
            ensure!(Instant::now() < deadline, "the server's log does not say {words:?}");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends the writers, waits until everybody has got the last row, and accounts for all of them.
    pub async fn finish(mut self) -> Result<Figures> {
        let committed = self.writers.stop().await?;
        let client = self.database.client().await;
        client.batch_execute("insert into marks values (1)").await?;
        self.last_mark.send_replace(Some(1));
        let mut notes = Vec::new();
        let deadline = Instant::now() + CATCH_UP;
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.subscribers.join_next()).await {
            notes.push(ended??);
        }
        if !self.subscribers.is_empty() {
            bail!(
                "{} of {} subscribers have not got the last row after {} s; the server's log ends:\n{}",
                self.subscribers.len(),
                READERS.len(),
                CATCH_UP.as_secs(),
                tail(&self.server)
            );
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let truth = Truth::read(&client, &self.members).await?;
        writers::check(&committed, &truth)?;
        let figures = account(&notes, &truth, truth.mark(1)?);
        Ok(Figures { seconds, ..figures })
    }

    /// The end of the server's log.
    pub fn server_log(&self) -> String {
        tail(&self.server)
    }

    async fn client(&self) -> Result<Client> {
        self.cluster.client(self.database.name()).await
    }
}

async fn ready(server: &mut Program, address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + READY;
    loop {
        let answer = get(address, "/readyz", "").await;
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        if !server.is_running()? {
            bail!("the server has ended; its log:\n{}", tail(server));
        }
        if Instant::now() > deadline {
            bail!("the server is not ready: {answer:?}; its log:\n{}", tail(server));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn tail(server: &Program) -> String {
    let log = server.log();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A port that nobody listens on, so that a server which is started again can have the same.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The binary of the server: that of `WALCAST_BINARY`, or the one that cargo has built beside this program.
pub fn walcast_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("WALCAST_BINARY").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    let mut directories = own.ancestors().skip(1).take(2).map(Path::to_path_buf);
    let found = directories.find_map(|directory| {
        let binary = directory.join("walcast");
        binary.is_file().then_some(binary)
    });
    found.context("the server is not built: cargo build --bin walcast")
}
