//! Keeps one project of a server up until the server stops.
//!
//! The only project of a process ends with it, so that whoever watches the process starts both anew. One of several is
//! started again by itself, and the others do not notice.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwapOption;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walcast_auth::{OperatorKeys, Verifier};
use walcast_engine::Counters;
use walcast_server::front::{Address, Door};
use walcast_server::health::{HealthReport, HealthSource, ReplicationHealth};
use walcast_server::metrics::CountersSource;

use crate::project::{Project, ProjectSettings};
use crate::serve::Drain;

/// Pauses between tries to start a project again: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A project that has been up for so long is well: its next pause is the first again.
const WELL_AFTER: Duration = Duration::from_mins(1);

/// The pauses of one project: each twice as long as the one before, also where a start went well but did not last.
struct Pauses {
    next: Duration,
}

impl Pauses {
    fn new() -> Self {
        Pauses { next: PAUSES.0 }
    }

    /// The project has been up for so long.
    fn was_up(&mut self, time: Duration) {
        if time >= WELL_AFTER {
            self.next = PAUSES.0;
        }
    }

    /// How long to wait now.
    fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(PAUSES.1);
        pause
    }
}

/// A project as the rest of the server sees it, over all its restarts.
pub(crate) struct Supervised {
    pub(crate) settings: ProjectSettings,
    pub(crate) door: Arc<Door>,
    live: ArcSwapOption<Live>,
    pub(crate) verifier: Arc<Verifier>,
    operators: Arc<OperatorKeys>,
    stopping: CancellationToken,
    drain: Drain,
}

/// What is asked of a project that is up.
pub(crate) struct Live {
    pub(crate) engine: walcast_engine::Engine,
    pub(crate) replication: tokio::sync::watch::Receiver<walcast_replication::StreamStatus>,
    pub(crate) progress: Arc<walcast_replication::Progress>,
    health: Arc<crate::health::Health>,
}

impl Supervised {
    /// A project that is not up yet.
    pub(crate) fn new(
        settings: ProjectSettings,
        verifier: Arc<Verifier>,
        operators: Arc<OperatorKeys>,
        stopping: CancellationToken,
        drain: Drain,
    ) -> Arc<Self> {
        let door = Door::new(settings.id.clone(), settings.address.clone());
        let live = ArcSwapOption::empty();
        Arc::new(Supervised { settings, door, live, verifier, operators, stopping, drain })
    }

    /// Starts the project for the first time.
    pub(crate) async fn start(&self) -> Result<Project> {
        self.bring_up().await
    }

    /// The project, while it is up.
    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        self.live.load_full()
    }

    async fn bring_up(&self) -> Result<Project> {
        let (project, router) = Box::pin(Project::start(
            &self.settings,
            Arc::clone(&self.verifier),
            &self.operators,
            self.stopping.clone(),
        ))
        .await?;
        self.live.store(Some(Arc::new(Live {
            engine: project.engine.clone(),
            replication: project.replication(),
            progress: Arc::clone(project.progress()),
            health: Arc::clone(&project.health),
        })));
        self.door.open(router);
        Ok(project)
    }

    /// Runs until the server stops; earlier, and with the reason, when the only project can not go on.
    pub(crate) async fn run(self: Arc<Self>, mut project: Project) -> Result<()> {
        let mut pauses = Pauses::new();
        loop {
            let up_since = Instant::now();
            let ended = tokio::select! {
                ended = project.ended() => ended,
                () = self.stopping.cancelled() => return project.stop(self.drain).await,
            };
            if self.settings.address == Address::Everything {
                return ended;
            }
            let reason =
                ended.err().map_or_else(|| "its stream has ended".to_owned(), |error| format!("{error:#}"));
            tracing::error!(project = %self.settings.id, reason, "a project can not go on and is started again");
            self.door.close();
            self.live.store(None);
            pauses.was_up(up_since.elapsed());
            project.abandon(self.drain.at_once()).await;
            match self.stopping.run_until_cancelled(self.restarted(&mut pauses)).await {
                Some(again) => project = again,
                None => return Ok(()),
            }
        }
    }

    async fn restarted(&self, pauses: &mut Pauses) -> Project {
        loop {
            tokio::time::sleep(pauses.take()).await;
            match self.bring_up().await {
                Ok(project) => return project,
                Err(error) => {
                    let reason = format!("{error:#}");
                    tracing::error!(project = %self.settings.id, reason, "a project can not be started yet");
                }
            }
        }
    }
}

impl HealthSource for Supervised {
    fn report(&self) -> HealthReport {
        match self.live() {
            Some(live) => live.health.report(),
            None => HealthReport {
                replication: ReplicationHealth::Stopped,
                lag_bytes: None,
                lag: None,
                catching_up_bytes: 0,
                retained_bytes: None,
                trail_bytes: None,
                canary_overdue: None,
                catalog_age: None,
                catalog_age_max: Duration::ZERO,
                stopping: self.stopping.is_cancelled(),
            },
        }
    }
}

impl CountersSource for Supervised {
    fn read(&self, show: &mut dyn FnMut(&Counters)) {
        if let Some(live) = self.live() {
            show(live.engine.counters());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_that_fails_soon_after_each_start_waits_longer_each_time_until_it_has_been_well() {
        let mut pauses = Pauses::new();
        let mut seconds = Vec::new();
        for _ in 0..8 {
            pauses.was_up(Duration::from_secs(59));
            seconds.push(pauses.take().as_secs_f64());
        }
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        pauses.was_up(Duration::from_mins(1));
        assert_eq!(pauses.take(), Duration::from_millis(500));
    }
}
