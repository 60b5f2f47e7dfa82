//! What breaks, and what has to be in order again afterwards.

use std::num::NonZeroU64;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep};
use walcast_testkit::fault_proxy::{Cut, Direction, FaultProxy, Flow};
use walcast_testkit::small_disk::SmallDisk;

use super::account::Figures;
use super::scene::{PASSWORD, Scene, Setup};
use super::schema::PUBLICATION;

/// How long the parts of a scenario last.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Before something breaks, and after it is whole again.
    pub calm: Duration,
    /// How long it stays broken.
    pub broken: Duration,
}

/// A side of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Its database's.
    Database,
    /// Its clients'.
    Clients,
}

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing.
    Calm,
    /// The server is killed with SIGKILL and started again.
    ServerKilled,
    /// The server is stopped for a while (SIGSTOP).
    ServerPaused,
    /// PostgreSQL is killed with SIGKILL and started again.
    PostgresKilled,
    /// PostgreSQL stops as an operator stops it ("fast"), and is started again.
    PostgresStopped,
    /// PostgreSQL is restarted at once.
    PostgresRestarted,
    /// All connections are cut with RST, again and again, and new ones are refused for a while.
    NetworkCut(Side),
    /// All connections are hung up with FIN, again and again.
    NetworkHungUp(Side),
    /// Every byte takes longer.
    NetworkDelayed(Side),
    /// Half the bytes pass that passed before.
    NetworkHalved(Side),
    /// No byte passes, and nobody is told.
    NetworkBlackHole(Side),
    /// There is no room for PostgreSQL's log, and then there is again.
    DiskFull,
    /// Somebody drops the slot.
    SlotDropped,
    /// The publication is dropped and made anew.
    PublicationRecreated,
    /// A table is taken out of the publication, and put back.
    TableUnpublished,
    /// The password of the server's role is changed, and changed back.
    PasswordChanged,
    /// The clock of the server jumps half an hour ahead, and back.
    ClockJumped,
}

/// All of them, in the order of the table.
pub const SCENARIOS: [Scenario; 22] = [
    Scenario::Calm,
    Scenario::ServerKilled,
    Scenario::ServerPaused,
    Scenario::PostgresKilled,
    Scenario::PostgresStopped,
    Scenario::PostgresRestarted,
    Scenario::NetworkCut(Side::Database),
    Scenario::NetworkCut(Side::Clients),
    Scenario::NetworkHungUp(Side::Database),
    Scenario::NetworkHungUp(Side::Clients),
    Scenario::NetworkDelayed(Side::Database),
    Scenario::NetworkDelayed(Side::Clients),
    Scenario::NetworkHalved(Side::Database),
    Scenario::NetworkHalved(Side::Clients),
    Scenario::NetworkBlackHole(Side::Database),
    Scenario::NetworkBlackHole(Side::Clients),
    Scenario::DiskFull,
    Scenario::SlotDropped,
    Scenario::PublicationRecreated,
    Scenario::TableUnpublished,
    Scenario::PasswordChanged,
    Scenario::ClockJumped,
];

/// Why a scenario can not be played on this machine.
#[derive(Debug)]
pub struct NotHere(pub String);

impl Scenario {
    /// Its name, as the table has it and the command line takes it.
    pub fn name(self) -> String {
        let side = |text: &str, side| match side {
            Side::Database => format!("{text}, database's side"),
            Side::Clients => format!("{text}, clients' side"),
        };
        match self {
            Scenario::Calm => "nothing breaks".to_owned(),
            Scenario::ServerKilled => "walcast killed (-9)".to_owned(),
            Scenario::ServerPaused => "walcast paused (SIGSTOP)".to_owned(),
            Scenario::PostgresKilled => "PostgreSQL killed (-9)".to_owned(),
            Scenario::PostgresStopped => "PostgreSQL stopped".to_owned(),
            Scenario::PostgresRestarted => "PostgreSQL restarted".to_owned(),
            Scenario::NetworkCut(at) => side("network cut", at),
            Scenario::NetworkHungUp(at) => side("network hung up", at),
            Scenario::NetworkDelayed(at) => side("network delayed", at),
            Scenario::NetworkHalved(at) => side("network halved", at),
            Scenario::NetworkBlackHole(at) => side("network black hole", at),
            Scenario::DiskFull => "disk full".to_owned(),
            Scenario::SlotDropped => "slot dropped".to_owned(),
            Scenario::PublicationRecreated => "publication re-created".to_owned(),
            Scenario::TableUnpublished => "table unpublished for a while".to_owned(),
            Scenario::PasswordChanged => "password changed".to_owned(),
            Scenario::ClockJumped => "clock jumped".to_owned(),
        }
    }

    /// Whether changes are missing behind a told gap: only where PostgreSQL itself does not have them in the log, or no
    /// longer.
    pub fn has_gaps(self) -> bool {
        matches!(self, Scenario::SlotDropped | Scenario::PublicationRecreated | Scenario::TableUnpublished)
    }

    /// Plays it.
    pub async fn play(self, mut setup: Setup, pace: Pace) -> Result<Result<Figures, NotHere>> {
        let mut props = match Props::of(self, &mut setup) {
            Ok(props) => props,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut scene = Scene::begin(setup).await?;
        scene.calm(pace.calm).await?;
        let broken = self.strike(&mut scene, &mut props, pace).await;
        broken.with_context(|| format!("the server's log ends:\n{}", scene.server_log()))?;
        scene.calm(pace.calm).await?;
        scene.finish().await.map(Ok)
    }

    /// Fails where the figures are not those that are promised.
    pub fn judge(self, figures: &Figures) -> Result<()> {
        let Figures { missing, forbidden, out_of_order, twice, gaps, excused, .. } = *figures;
        let examples = || format!("{}\n{}", self.name(), figures.examples.join("\n"));
        ensure!(figures.delivered > 0, "nobody was told anything");
        let wrong = missing + forbidden + out_of_order + twice;
        ensure!(wrong == 0, "{}", examples());
        ensure!((gaps > 0) == self.has_gaps() && (excused == 0 || gaps > 0), "{}", examples());
        Ok(())
    }

    async fn strike(self, scene: &mut Scene, props: &mut Props, pace: Pace) -> Result<()> {
        match self {
            Scenario::Calm => sleep(pace.broken).await,
            Scenario::ServerKilled => {
                for _ in 0..3 {
                    scene.server.kill().await?;
                    sleep(pace.broken / 3).await;
                    scene.start_server().await?;
                    scene.calm(pace.broken / 3).await?;
                }
            }
            Scenario::ServerPaused => {
                scene.server.pause()?;
                sleep(pace.broken * 5 / 2).await;
                scene.server.resume()?;
            }
            Scenario::PostgresKilled => {
                for _ in 0..3 {
                    scene.cluster.kill().await?;
                    sleep(pace.broken / 3).await;
                    scene.cluster.start_again().await?;
                    scene.calm(pace.broken / 3).await?;
                }
            }
            Scenario::PostgresStopped => {
                scene.cluster.stop().await?;
                sleep(pace.broken).await;
                scene.cluster.start_again().await?;
            }
            Scenario::PostgresRestarted => {
                for _ in 0..3 {
                    scene.cluster.restart().await?;
                    scene.calm(pace.broken / 3).await?;
                }
            }
            Scenario::NetworkCut(side) => {
                cut_often(network(scene, side), Cut::Reset, pace).await?;
                network(scene, side).refuse();
                network(scene, side).cut(Cut::Reset).await;
                sleep(pace.broken / 2).await;
                network(scene, side).heal();
            }
            Scenario::NetworkHungUp(side) => cut_often(network(scene, side), Cut::Finish, pace).await?,
            Scenario::NetworkDelayed(side) => {
                network(scene, side).set_flows(Flow::Delayed(Duration::from_millis(300)));
                sleep(pace.broken).await;
                network(scene, side).heal();
            }
            Scenario::NetworkHalved(side) => {
                let network = network(scene, side);
                let (before, began) = (network.passed(Direction::ToClient), Instant::now());
                sleep(pace.calm).await;
                let passed = network.passed(Direction::ToClient) - before;
                let millis = u64::try_from(began.elapsed().as_millis())?;
                let half = NonZeroU64::new(passed * 1_000 / millis / 2).context("nothing passes")?;
                network.set_flow(Direction::ToClient, Flow::Limited(half));
                sleep(pace.broken).await;
                network.heal();
            }
            Scenario::NetworkBlackHole(side) => {
                for direction in [Direction::ToClient, Direction::ToServer] {
                    network(scene, side).set_flow(direction, Flow::Held);
                    sleep(pace.broken / 2).await;
                    network(scene, side).heal();
                    scene.calm(pace.calm / 2).await?;
                }
                network(scene, side).set_flows(Flow::Held);
                sleep(pace.broken).await;
                network(scene, side).heal();
            }
            Scenario::DiskFull => {
                let disk = props.disk.as_mut().context("there is a small disk")?;
                disk.fill()?;
                let log = scene.cluster.directory()?.join("postgres.log");
                let deadline = Instant::now() + Duration::from_secs(30);
                while !std::fs::read_to_string(&log)?.contains("PANIC") {
                    ensure!(Instant::now() < deadline, "PostgreSQL goes on writing onto a full disk");
                    sleep(Duration::from_millis(50)).await;
                }
                sleep(pace.broken).await;
                disk.make_room()?;
                let deadline = Instant::now() + Duration::from_secs(30);
                while scene.sql("select 1").await.is_err() {
                    // PostgreSQL starts itself again while it can write enough for that.
                    if !scene.cluster.is_running()? {
                        scene.cluster.start_again().await?;
                    }
                    ensure!(Instant::now() < deadline, "PostgreSQL does not come back");
                    sleep(Duration::from_millis(100)).await;
                }
            }
            Scenario::SlotDropped => {
                drop_slot(scene).await?;
                scene.logs(CHANGES_MISSED).await?;
            }
            Scenario::PublicationRecreated => {
                scene.sql("drop publication supabase_realtime").await?;
                sleep(pace.broken).await;
                scene.sql(PUBLICATION).await?;
                // From 18 on the stream goes on meanwhile, as if its tables were not published.
                if scene.version().await? < 180_000 {
                    scene.logs(CHANGES_MISSED).await?;
                }
            }
            Scenario::TableUnpublished => {
                scene.sql("alter publication supabase_realtime drop table room_rows").await?;
                sleep(pace.broken).await;
                scene.sql("alter publication supabase_realtime add table room_rows").await?;
            }
            Scenario::PasswordChanged => {
                scene.sql("alter role walcast password 'another'").await?;
                scene.sql(HANG_UP).await?;
                let words = "PostgreSQL refuses the password of role";
                scene.not_ready(words).await?;
                sleep(pace.broken).await;
                ensure!(scene.server.log().contains(words), "the log does not say {words:?}");
                scene.sql(&format!("alter role walcast password '{PASSWORD}'")).await?;
            }
            Scenario::ClockJumped => {
                let clock = props.clock.as_ref().context("there is a clock")?;
                for offset in ["+1800", "-1800", "+0"] {
                    clock.set(offset)?;
                    sleep(pace.broken / 2).await;
                }
            }
        }
        // Whatever broke has to be noticed and mended without help.
        scene.ready().await
    }
}

/// Logged once the log is read again behind what can not be had any more; until then a row may still be among that.
const CHANGES_MISSED: &str = "changes before this position were missed";

const HANG_UP: &str = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'walcast'";

fn network(scene: &Scene, side: Side) -> &FaultProxy {
    match side {
        Side::Database => &scene.database_side,
        Side::Clients => &scene.clients_side,
    }
}

async fn cut_often(network: &FaultProxy, how: Cut, pace: Pace) -> Result<()> {
    let deadline = Instant::now() + pace.broken;
    let mut cut = 0;
    while Instant::now() < deadline || cut == 0 {
        cut += network.cut(how).await;
        sleep(Duration::from_millis(700)).await;
    }
    Ok(())
}

async fn drop_slot(scene: &Scene) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // In use again before it could be dropped: once more.
        let hang_up = format!("{HANG_UP} and backend_type = 'walsender'");
        scene.sql(&hang_up).await?;
        if scene.sql("select pg_drop_replication_slot('walcast')").await.is_ok() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the slot can not be dropped");
        }
    }
}

/// What a scenario needs beside the scene.
#[derive(Default)]
struct Props {
    disk: Option<SmallDisk>,
    clock: Option<Clock>,
}

impl Props {
    fn of(scenario: Scenario, setup: &mut Setup) -> Result<Props, NotHere> {
        let mut props = Props::default();
        if scenario == Scenario::DiskFull {
            let disk = SmallDisk::mount(64 << 20).map_err(|error| NotHere(format!("{error:#}")))?;
            let settings = &mut setup.cluster;
            settings.initdb_arguments = vec![
                format!("--waldir={}", disk.path().join("pg_wal").display()),
                "--wal-segsize=1".to_owned(),
            ];
            for (name, value) in [("min_wal_size", "2MB"), ("max_wal_size", "8MB")] {
                settings.settings.push((name.to_owned(), value.to_owned()));
            }
            props.disk = Some(disk);
        }
        if scenario == Scenario::ClockJumped {
            let clock = Clock::new().map_err(|error| NotHere(format!("{error:#}")))?;
            setup.environment.extend(clock.environment());
            props.clock = Some(clock);
        }
        Ok(props)
    }
}

/// The time of day as the server sees it, by libfaketime. Its monotonic clock goes on as it should.
struct Clock {
    library: String,
    file: tempfile::NamedTempFile,
}

impl Clock {
    fn new() -> Result<Clock> {
        let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketime.so.1"))
            .into_iter()
            .find(|path| std::path::Path::new(path).exists());
        let library =
            library.context("libfaketime is not installed (Debian: apt-get install libfaketime)")?;
        let clock = Clock { library, file: tempfile::NamedTempFile::new()? };
        clock.set("+0")?;
        Ok(clock)
    }

    fn set(&self, offset: &str) -> Result<()> {
        Ok(std::fs::write(self.file.path(), offset)?)
    }

    fn environment(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &self.file.path().display().to_string()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }
}
