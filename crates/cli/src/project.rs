//! One project: a database, an engine, and the router of everything that is served of them. Whatever two projects have
//! in common is outside of this file.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walcast_auth::{OperatorKeys, Secret, Verifier, VerifierSettings};
use walcast_catalog::janitor::JanitorSettings;
use walcast_catalog::{Catalog, preflight};
use walcast_engine::{Engine, EngineSettings};
use walcast_pgoutput::Lsn;
use walcast_replication::{Progress, StreamSettings, StreamStatus};
use walcast_server::api::ProjectApi;
use walcast_server::front::{Address, ProjectId};
use walcast_server::health::HealthSource;
use walcast_server::origins::{self, AllowedOrigin};
use walcast_server::{Gateway, Limits, Router};
use walcast_wire::Frame;

use crate::canary;
use crate::database::catalog_settings;
use crate::demo::CatalogDemo;
use crate::handover;
use crate::health::Health;
use crate::lag::{Lag, Positions};
use crate::pipeline::{Backlog, Pipeline};
use crate::readiness;
use crate::serve::Drain;
use crate::settings::{DatabaseSettings, ReplicationSettings};
use crate::slot_care::SlotCare;
use crate::trail::{Trail, TrailSettings};

/// RFC 6455 §7.4.1 and its registry: "Service Restart"; clients reconnect.
const SERVICE_RESTART: u16 = 1012;

/// Everything a project needs to know. See docs/configuration.md for the settings that it is made from.
#[derive(Clone, Debug)]
pub struct ProjectSettings {
    /// Its name.
    pub id: ProjectId,
    /// How it is told apart from others.
    pub address: Address,
    /// The database.
    pub database: DatabaseSettings,
    /// The slot, and the publications whose tables are served.
    pub replication: ReplicationSettings,
    /// How often the catalog is looked at for changes that the log does not announce.
    pub catalog_poll: Duration,
    /// When the partitions of `realtime.messages` are tidied.
    pub janitor: JanitorSettings,
    /// The keys that tokens are verified with.
    pub verifier: VerifierSettings,
    /// The engine's limits.
    pub engine: EngineSettings,
    /// The gateway's limits.
    pub limits: Limits,
    /// Messages of one batch over HTTP.
    pub batch_messages_max: usize,
    /// Pages that may open a socket; empty stands for all.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Serve the demo page, whose people's tokens are signed with this secret. For development only.
    pub demo: Option<Secret>,
}

impl ProjectSettings {
    /// The only project of a server, with defaults for all but the database and the keys.
    pub fn new(database: DatabaseSettings, verifier: VerifierSettings) -> Self {
        ProjectSettings {
            id: ProjectId::default(),
            address: Address::Everything,
            database,
            replication: ReplicationSettings::default(),
            catalog_poll: Duration::from_secs(5),
            janitor: JanitorSettings::default(),
            verifier,
            engine: EngineSettings::default(),
            limits: Limits::default(),
            batch_messages_max: 1_000,
            allowed_origins: Vec::new(),
            demo: None,
        }
    }
}

/// What the slot keeps for the journal: as long as that holds it, and half of what the slot may hold back at most, so
/// that the other half tells of trouble.
fn trail_settings(project: &ProjectSettings) -> TrailSettings {
    let ReplicationSettings { slot_lag, trail_bytes_max, .. } = project.replication;
    let EngineSettings { journal_bytes_max, journal_age, .. } = project.engine;
    let lag_bytes_max = slot_lag.map_or(u64::MAX, |lag| lag.bytes_max.get() / 2);
    TrailSettings {
        age: if journal_bytes_max == 0 || trail_bytes_max == 0 { Duration::ZERO } else { journal_age },
        log_bytes_max: trail_bytes_max.min(lag_bytes_max),
    }
}

/// A project that is up. Dropping it does not stop it; [`Project::stop`] does.
pub(crate) struct Project {
    pub(crate) engine: Engine,
    pub(crate) health: Arc<Health>,
    pipeline: Pipeline,
    progress: Arc<Progress>,
    reading: CancellationToken,
    poll: JoinHandle<()>,
}

impl Project {
    /// Starts a project; returns when changes flow. Its clients are to be sent to the router.
    pub(crate) async fn start(
        settings: &ProjectSettings,
        verifier: Arc<Verifier>,
        operators: &Arc<OperatorKeys>,
        stopping: CancellationToken,
    ) -> Result<(Project, Router)> {
        let ReplicationSettings { slot, publications, slot_lag, canary, .. } = &settings.replication;
        let mut catalog_settings = catalog_settings(&settings.database, publications)?;
        catalog_settings.slot = Some(slot.clone());
        let findings = preflight::check(&catalog_settings, slot).await?;
        if findings.lost_slot_dropped {
            tracing::error!(
                code = "ReplicationSlotLost",
                slot,
                "PostgreSQL had invalidated the replication slot, and it is made anew: changes that it had not delivered \
                 are lost"
            );
        }
        for publication in &findings.created_publications {
            tracing::info!(publication, "the publication was missing and has been created, without tables");
        }
        for warning in &findings.warnings {
            tracing::warn!("{warning}");
        }
        let catalog = Catalog::connect(catalog_settings).await.context("the catalog can not be read")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        if let Err(error) = verifier.load_keys(now).await {
            tracing::warn!(%error, "the key set can not be read yet; it is tried again with the first token");
        }

        let progress = Arc::new(Progress::default());
        let trail = Trail::new(Arc::clone(&progress), trail_settings(settings));
        let handling = Arc::clone(&trail);
        let mut engine_settings = settings.engine.clone();
        engine_settings.resume.scope = slot.as_str().into();
        let (engine, batches) =
            Engine::start(engine_settings, Arc::clone(&catalog) as _, catalog.subscribe(), move |lsn| {
                handling.handled(lsn);
            });
        let reading = CancellationToken::new();
        let streamed = catalog.streamed_publications().to_vec();
        let stream = StreamSettings::new(settings.database.connection.clone(), slot, streamed);
        let control = Arc::clone(&stream.control);
        let begin = engine.begin_handover();
        let started =
            Pipeline::start(stream, Arc::clone(&progress), Backlog::Shown, batches, reading.clone()).await;
        let pipeline = match started {
            Ok(pipeline) => pipeline,
            Err(error) => {
                engine.end().await;
                return Err(error);
            }
        };
        if let Some(begin) = begin {
            let (catalog, engine) = (Arc::clone(&catalog), engine.clone());
            tokio::spawn(async move { handover::begin(&catalog, &engine, &begin).await });
        }
        let poll = tokio::spawn(Arc::clone(&catalog).poll(settings.catalog_poll, reading.clone()));
        // Ends with `reading`; nothing waits for it.
        tokio::spawn(Arc::clone(&catalog).keep_messages_tidy(settings.janitor, reading.clone()));
        let stream = Arc::clone(&progress);
        let lag = Lag::new(move || Positions { received: stream.received(), handled: stream.handled() });
        tokio::spawn(Arc::clone(&lag).watch(reading.clone()));
        let counting = engine.clone();
        let crowded_out = move || Lsn(counting.counters().journal_crowded_out.load(Relaxed));
        tokio::spawn(Arc::clone(&trail).watch(crowded_out, reading.clone()));
        let slot_care = SlotCare::new(Arc::clone(&catalog), control, Arc::clone(&trail), slot, *slot_lag);
        tokio::spawn(Arc::clone(&slot_care).watch(settings.catalog_poll, reading.clone()));
        if let Some(every) = *canary {
            let (catalog, engine, reading) = (Arc::clone(&catalog), engine.clone(), reading.clone());
            tokio::spawn(async move { canary::send(&catalog, &engine, every, reading).await });
        }
        let health = Arc::new(Health {
            replication: pipeline.status.clone(),
            progress: Arc::clone(&progress),
            lag,
            trail,
            slot: slot_care,
            engine: engine.clone(),
            canary: *canary,
            catalog: Arc::clone(&catalog),
            stopping,
        });

        let gateway = Gateway::new(
            engine.clone(),
            Arc::clone(&verifier),
            settings.limits.clone(),
            Arc::clone(&catalog) as _,
            catalog.channel_policies_changed(),
            readiness::database_messages(pipeline.status.clone(), catalog.messages_in_log(), reading.clone()),
        );
        let sockets = walcast_server::gateway_router(gateway);
        let api = walcast_server::api::project_router(Arc::new(ProjectApi {
            id: settings.id.to_string(),
            engine: engine.clone(),
            verifier: Arc::clone(&verifier),
            policies: Arc::clone(&catalog) as _,
            private_only: settings.limits.private_only,
            batch_messages_max: settings.batch_messages_max,
            suspended: settings.limits.suspended,
            operators: Arc::clone(operators),
        }));
        let mut app = origins::guarded(sockets, settings.allowed_origins.clone())
            .merge(api)
            .merge(walcast_server::health::router(Arc::clone(&health) as Arc<dyn HealthSource>));
        if let Some(secret) = settings.demo.clone() {
            let database = Arc::new(CatalogDemo(catalog));
            app = app.merge(walcast_server::demo::router(walcast_server::demo::Demo::new(
                database, verifier, secret,
            )));
        }
        tracing::info!(project = %settings.id, slot, postgres = findings.server_version, "the project is up");
        Ok((Project { engine, health, pipeline, progress, reading, poll }, app))
    }

    /// How the replication stream stands.
    pub(crate) fn replication(&self) -> watch::Receiver<StreamStatus> {
        self.pipeline.status.clone()
    }

    /// How far the log has been handed to the sockets.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Waits until the project can not go on, and says why. Not to be asked again after that.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        self.pipeline.ended().await
    }

    /// Stops in order: 1012 to the sockets that there are, the position to PostgreSQL.
    pub(crate) async fn stop(mut self, drain: Drain) -> Result<()> {
        self.send_away(drain).await;
        let ended = self.pipeline.ended().await;
        self.engine.end().await;
        self.poll.abort();
        ended
    }

    /// The same after its end: nothing is left to wait for.
    pub(crate) async fn abandon(self, drain: Drain) {
        self.send_away(drain).await;
        self.engine.end().await;
        self.poll.abort();
    }

    async fn send_away(&self, drain: Drain) {
        self.engine.drain(&Frame::close(SERVICE_RESTART, ""), drain.spread).await;
        if tokio::time::timeout(drain.flush, self.engine.emptied()).await.is_err() {
            tracing::warn!("some sockets did not close in time and are cut");
        }
        handover::complete(&self.health.catalog, &self.engine).await;
        self.reading.cancel();
    }
}
