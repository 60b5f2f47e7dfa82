//! One running server: the database on one side, sockets on the other, and the order of start and stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walcast_auth::{OperatorKeys, OperatorSettings, Secret, Verifier, VerifierSettings};
use walcast_catalog::{Catalog, preflight};
use walcast_engine::{Engine, EngineSettings};
use walcast_replication::{Progress, StreamSettings, StreamStatus};
use walcast_server::api::ProjectApi;
use walcast_server::health::HealthSource;
use walcast_server::metrics::{Metrics, MetricsSettings};
use walcast_server::{Gateway, HealthRequests, Limits, ListenerSettings};
use walcast_wire::Frame;

use crate::database::catalog_settings;
use crate::demo::CatalogDemo;
use crate::directory::{Directory, Project};
use crate::health::Health;
use crate::lag::Lag;
use crate::pipeline::Pipeline;
use crate::settings::{DatabaseSettings, ReplicationSettings};

/// RFC 6455 §7.4.1 and its registry: "Service Restart"; clients reconnect.
const SERVICE_RESTART: u16 = 1012;

/// Everything a server needs to know. See docs/configuration.md for the settings that it is made from.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The database.
    pub database: DatabaseSettings,
    /// The slot, and the publications whose tables are served.
    pub replication: ReplicationSettings,
    /// How often the catalog is looked at for changes that the log does not announce.
    pub catalog_poll: Duration,
    /// The keys that tokens are verified with.
    pub verifier: VerifierSettings,
    /// What the project is called in addresses.
    pub project: String,
    /// What operators may ask, and how.
    pub operations: OperationsSettings,
    /// The engine's limits.
    pub engine: EngineSettings,
    /// The gateway's limits.
    pub limits: Limits,
    /// How HTTP connections are treated.
    pub listener: ListenerSettings,
    /// Whether requests of the health endpoints are logged.
    pub health_requests: HealthRequests,
    /// How long sockets may take to be told that the server stops.
    pub drain: Duration,
    /// Serve the demo page, whose people's tokens are signed with this secret. For development only.
    pub demo: Option<Secret>,
}

/// What operators may ask, and how.
#[derive(Clone, Debug)]
pub struct OperationsSettings {
    /// The secrets of the tokens that operations ask for; without one they are closed.
    pub secrets: Vec<Secret>,
    /// Tokens that are refused although they verify.
    pub blocked: Vec<Secret>,
    /// The secret of the tokens that `/metrics` asks for; `None` leaves it open.
    pub metrics_secret: Option<Secret>,
    /// Tokens of this secret that are refused.
    pub metrics_blocked: Vec<Secret>,
    /// Where this process runs, in the words of whoever runs it.
    pub region: Option<String>,
    /// The key of the `baggage` header under which a request has its name.
    pub request_id_baggage_key: String,
}

impl Default for OperationsSettings {
    fn default() -> Self {
        OperationsSettings {
            secrets: Vec::new(),
            blocked: Vec::new(),
            metrics_secret: None,
            metrics_blocked: Vec::new(),
            region: None,
            request_id_baggage_key: "request-id".to_owned(),
        }
    }
}

impl OperationsSettings {
    /// Keys of the operators of a project whose users' tokens have this secret.
    fn operators(&self, of_users: Option<&Secret>) -> Result<OperatorKeys> {
        Ok(OperatorKeys::new(&OperatorSettings {
            secrets: self.secrets.clone(),
            blocked: self.blocked.clone(),
            shared_with_users: of_users.into_iter().cloned().collect(),
        })?)
    }

    fn metrics_readers(&self) -> Result<Option<OperatorKeys>> {
        let Some(secret) = &self.metrics_secret else { return Ok(None) };
        let (secrets, blocked) = (vec![secret.clone()], self.metrics_blocked.clone());
        let settings = OperatorSettings { secrets, blocked, shared_with_users: Vec::new() };
        Ok(Some(OperatorKeys::new(&settings)?))
    }
}

impl ServeSettings {
    /// Defaults for all but the database and the keys.
    pub fn new(database: DatabaseSettings, verifier: VerifierSettings) -> Self {
        ServeSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            database,
            replication: ReplicationSettings::default(),
            catalog_poll: Duration::from_secs(5),
            verifier,
            project: "realtime-dev".to_owned(),
            operations: OperationsSettings::default(),
            engine: EngineSettings::default(),
            limits: Limits::default(),
            listener: ListenerSettings::default(),
            health_requests: HealthRequests::Logged,
            drain: Duration::from_secs(5),
            demo: None,
        }
    }
}

/// A server that is up. Dropping it does not stop it; [`Server::stop`] does.
pub struct Server {
    address: SocketAddr,
    engine: Engine,
    pipeline: Pipeline,
    progress: Arc<Progress>,
    accepting: CancellationToken,
    reading: CancellationToken,
    listener: JoinHandle<()>,
    poll: JoinHandle<()>,
    drain: Duration,
}

impl Server {
    /// Starts a server; returns when changes flow and sockets are accepted.
    pub async fn start(settings: ServeSettings) -> Result<Server> {
        let ReplicationSettings { slot, publications } = &settings.replication;
        let mut catalog_settings = catalog_settings(&settings.database, publications)?;
        catalog_settings.slot = Some(slot.clone());
        let findings = preflight::check(&catalog_settings, slot).await?;
        for publication in &findings.created_publications {
            tracing::info!(publication, "the publication was missing and has been created, without tables");
        }
        for warning in &findings.warnings {
            tracing::warn!("{warning}");
        }
        let catalog = Catalog::connect(catalog_settings).await.context("the catalog can not be read")?;
        let verifier = Arc::new(Verifier::new(settings.verifier.clone())?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        if let Err(error) = verifier.load_keys(now).await {
            tracing::warn!(%error, "the key set can not be read yet; it is tried again with the first token");
        }

        let progress = Arc::new(Progress::default());
        let confirmed = Arc::clone(&progress);
        let (engine, batches) = Engine::start(
            settings.engine.clone(),
            Arc::clone(&catalog) as _,
            catalog.subscribe(),
            move |lsn| confirmed.confirm(lsn),
        );
        let (accepting, reading) = (CancellationToken::new(), CancellationToken::new());
        let streamed = catalog.streamed_publications().to_vec();
        let stream = StreamSettings::new(settings.database.connection.clone(), slot, streamed);
        let pipeline = Pipeline::start(stream, Arc::clone(&progress), batches, reading.clone()).await?;
        let poll = tokio::spawn(Arc::clone(&catalog).poll(settings.catalog_poll, reading.clone()));

        let lag = Lag::new(Arc::clone(&progress));
        tokio::spawn(Arc::clone(&lag).watch(reading.clone()));

        let gateway = Gateway::new(
            engine.clone(),
            Arc::clone(&verifier),
            settings.limits.clone(),
            Arc::clone(&catalog) as _,
            catalog.channel_policies_changed(),
        );
        let health: Arc<dyn HealthSource> = Arc::new(Health {
            replication: pipeline.status.clone(),
            progress: Arc::clone(&progress),
            lag: Arc::clone(&lag),
            catalog: Arc::clone(&catalog),
            catalog_poll: settings.catalog_poll,
            stopping: accepting.clone(),
        });
        let operations = &settings.operations;
        let operators = Arc::new(operations.operators(settings.verifier.secret.as_ref())?);
        let api = Arc::new(ProjectApi {
            engine: engine.clone(),
            verifier: Arc::clone(&verifier),
            policies: Arc::clone(&catalog) as _,
            private_only: settings.limits.private_only,
            suspended: settings.limits.suspended,
            operators: Arc::clone(&operators),
        });
        let metrics = MetricsSettings {
            project: settings.project.clone(),
            region: operations.region.clone(),
            readers: operations.metrics_readers()?,
        };
        let project = Project {
            settings: settings.clone(),
            engine: engine.clone(),
            verifier: Arc::clone(&verifier),
            health: Arc::clone(&health),
        };
        let directory = Arc::new(Directory { projects: vec![project] });
        let metrics = Metrics::new(engine.clone(), Arc::clone(&health), metrics);
        let mut app = walcast_server::gateway_router(gateway)
            .merge(walcast_server::api::project_router(api))
            .merge(walcast_server::api::tenants_router(directory, operators))
            .merge(walcast_server::api::openapi_router())
            .merge(walcast_server::metrics::router(metrics))
            .merge(walcast_server::health::router(health));
        if let Some(secret) = settings.demo.clone() {
            let database = Arc::new(CatalogDemo(catalog));
            app = app.merge(walcast_server::demo::router(walcast_server::demo::Demo::new(
                database, verifier, secret,
            )));
        }
        let app = walcast_server::logged(app, settings.health_requests);
        let app = walcast_server::request_id::identified(app, &settings.operations.request_id_baggage_key);
        let socket = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {}: choose another PORT", settings.listen))?;
        let address = socket.local_addr()?;
        let listener = tokio::spawn(walcast_server::serve(socket, app, settings.listener, accepting.clone()));
        tracing::info!(%address, slot, postgres = findings.server_version, "walcast is up");
        let drain = settings.drain;
        Ok(Server { address, engine, pipeline, progress, accepting, reading, listener, poll, drain })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the replication stream stands.
    pub fn replication(&self) -> watch::Receiver<StreamStatus> {
        self.pipeline.status.clone()
    }

    /// How far the log has been handed to the sockets.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Waits until the server can not go on, and says why.
    pub async fn failed(&mut self) -> Result<()> {
        self.pipeline.ended().await
    }

    /// Stops in order: no new sockets, 1012 to those there are, the position to PostgreSQL.
    pub async fn stop(mut self) -> Result<()> {
        self.accepting.cancel();
        self.engine.shut_down(&Frame::close(SERVICE_RESTART, "")).await;
        if tokio::time::timeout(self.drain, self.engine.emptied()).await.is_err() {
            tracing::warn!("some sockets did not close in time and are cut");
        }
        self.reading.cancel();
        let ended = self.pipeline.ended().await;
        self.poll.abort();
        self.listener.abort();
        ended
    }
}
