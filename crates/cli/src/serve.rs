//! One running server: its projects, the listener in front of them, and the order of start and stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use walcast_auth::{OperatorKeys, OperatorSettings, ProjectUsers, Secret, Verifier, VerifierSettings};
use walcast_replication::{Progress, StreamStatus};
use walcast_server::front::Address;
use walcast_server::health::HealthSource;
use walcast_server::metrics::{MeasuredProject, Metrics, MetricsSettings};
use walcast_server::{HealthRequests, ListenerSettings, Router, Tls, TlsFiles};

use crate::directory::Directory;
use crate::project::{Project, ProjectSettings};
use crate::settings::DatabaseSettings;
use crate::supervisor::Supervised;

/// Everything a server needs to know. See docs/configuration.md for the settings that it is made from.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// How connections are treated.
    pub listener: ListenerSettings,
    /// Certificate and key; `None` is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// How often certificate and key are looked at.
    pub tls_reload: Duration,
    /// The project, or the first of several.
    pub project: ProjectSettings,
    /// The other projects.
    pub others: Vec<ProjectSettings>,
    /// How long a handshake waits for its answer that is for none of the projects.
    pub refusal_delay: Duration,
    /// What operators may ask, and how.
    pub operations: OperationsSettings,
    /// Whether requests of the health endpoints are logged.
    pub health_requests: HealthRequests,
    /// How long sockets may take to be told that the server stops.
    pub drain: Duration,
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
    /// Keys of the operators of these projects.
    fn operators(&self, users: Vec<ProjectUsers>) -> Result<OperatorKeys> {
        let settings = OperatorSettings { secrets: self.secrets.clone(), blocked: self.blocked.clone() };
        Ok(OperatorKeys::new(&settings, users)?)
    }

    fn metrics(&self) -> Result<MetricsSettings> {
        let keys = |secret: &Secret| {
            let (secrets, blocked) = (vec![secret.clone()], self.metrics_blocked.clone());
            OperatorKeys::new(&OperatorSettings { secrets, blocked }, Vec::new())
        };
        let readers = self.metrics_secret.as_ref().map(keys).transpose()?;
        Ok(MetricsSettings { region: self.region.clone(), readers })
    }
}

impl ServeSettings {
    /// Defaults for all but the database and the keys of the only project.
    pub fn new(database: DatabaseSettings, verifier: VerifierSettings) -> Self {
        Self::of(ProjectSettings::new(database, verifier), Vec::new())
    }

    /// Defaults for all but the projects.
    pub fn of(project: ProjectSettings, others: Vec<ProjectSettings>) -> Self {
        ServeSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            listener: ListenerSettings::default(),
            tls: None,
            tls_reload: Duration::from_secs(10),
            project,
            others,
            refusal_delay: Duration::from_secs(2),
            operations: OperationsSettings::default(),
            health_requests: HealthRequests::Logged,
            drain: Duration::from_secs(5),
        }
    }
}

/// A server that is up. Dropping it does not stop it; [`Server::stop`] does.
pub struct Server {
    address: SocketAddr,
    projects: Vec<Arc<Supervised>>,
    running: JoinSet<Result<()>>,
    tls: Option<Arc<Tls>>,
    stopping: CancellationToken,
    listener: JoinHandle<()>,
}

impl Server {
    /// Starts a server; returns when the changes of all its projects flow and sockets are accepted.
    pub async fn start(settings: ServeSettings) -> Result<Server> {
        let tls = settings.tls.map(Tls::load).transpose()?;
        let operations = &settings.operations;
        let metrics = operations.metrics()?;
        let all = std::iter::once(settings.project).chain(settings.others);
        let keyed = all.map(with_verifier).collect::<Result<Vec<_>>>()?;
        let users = keyed.iter().map(|(project, verifier)| ProjectUsers {
            project: project.id.to_string(),
            verifier: Arc::clone(verifier),
        });
        let operators = Arc::new(operations.operators(users.collect())?);
        let stopping = CancellationToken::new();
        let started = start_projects(keyed, &operators, &stopping, settings.drain).await?;
        let projects: Vec<_> = started.iter().map(|(supervised, _)| Arc::clone(supervised)).collect();

        let doors: Vec<_> = projects.iter().map(|project| Arc::clone(&project.door)).collect();
        let directory = Arc::new(Directory { projects: projects.clone(), region: operations.region.clone() });
        let app = walcast_server::front::router(&doors, settings.refusal_delay)
            .merge(walcast_server::metrics::router(Metrics::new(measured(&projects), metrics)))
            .merge(walcast_server::api::tenants_router(directory, operators))
            .merge(walcast_server::api::openapi_router())
            .merge(health_router(&projects));
        let app = walcast_server::logged(app, settings.health_requests);
        let app = walcast_server::request_id::identified(app, &operations.request_id_baggage_key);
        let bound = TcpListener::bind(settings.listen).await;
        let socket = match bound {
            Ok(socket) => socket,
            Err(error) => {
                stop_started(started, settings.drain).await;
                let listen = settings.listen;
                return Err(error).with_context(|| format!("cannot listen on {listen}: choose another PORT"));
            }
        };
        let address = socket.local_addr()?;
        let listener = tokio::spawn(walcast_server::serve(
            socket,
            app,
            tls.clone(),
            settings.listener,
            stopping.clone(),
        ));
        if let Some(tls) = &tls {
            tokio::spawn(Arc::clone(tls).watch(settings.tls_reload, stopping.clone()));
        }
        let mut running = JoinSet::new();
        for (supervised, project) in started {
            running.spawn(supervised.run(project));
        }
        tracing::info!(%address, tls = tls.is_some(), projects = projects.len(), "walcast is up");
        Ok(Server { address, projects, running, tls, stopping, listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the first project's replication stream stands; `None` while the project is being started again.
    pub fn replication(&self) -> Option<watch::Receiver<StreamStatus>> {
        Some(self.projects.first()?.live()?.replication.clone())
    }

    /// How far the first project's log has been handed to the sockets; `None` as above.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        Some(Arc::clone(&self.projects.first()?.live()?.progress))
    }

    /// Takes on the files that have changed: certificate and key. Errors are logged, and the old ones stay in use.
    pub async fn reload(&self) {
        let Some(tls) = &self.tls else {
            tracing::info!("asked to reload: nothing can change while the server runs");
            return;
        };
        match tls.reload().await {
            Ok(_) => tracing::info!("the TLS certificate has been read again"),
            Err(error) => tracing::error!(%error, "the old TLS certificate stays in use"),
        }
    }

    /// Waits until the server can not go on, and says why.
    pub async fn failed(&mut self) -> Result<()> {
        match self.running.join_next().await {
            Some(ended) => ended?,
            None => bail!("no project is left"),
        }
    }

    /// Stops in order: no new sockets, 1012 to those there are, the positions to PostgreSQL.
    pub async fn stop(mut self) -> Result<()> {
        self.stopping.cancel();
        let mut outcome = Ok(());
        while let Some(ended) = self.running.join_next().await {
            outcome = outcome.and(ended?);
        }
        self.listener.abort();
        outcome
    }
}

/// What verifies the project's tokens, over all its restarts.
fn with_verifier(project: ProjectSettings) -> Result<(ProjectSettings, Arc<Verifier>)> {
    let verifier =
        Verifier::new(project.verifier.clone()).map_err(|error| can_not_start(&project, error.into()))?;
    Ok((project, Arc::new(verifier)))
}

/// The error names the project where there may be several.
fn can_not_start(settings: &ProjectSettings, error: anyhow::Error) -> anyhow::Error {
    if settings.address == Address::Everything {
        return error;
    }
    error.context(format!("the project `{}` can not start", settings.id))
}

type Started = Vec<(Arc<Supervised>, Project)>;

/// Starts one after the other. One that can not start is named, and those before it are stopped.
async fn start_projects(
    projects: Vec<(ProjectSettings, Arc<Verifier>)>,
    operators: &Arc<OperatorKeys>,
    stopping: &CancellationToken,
    drain: Duration,
) -> Result<Started> {
    let mut started = Vec::with_capacity(projects.len());
    for (settings, verifier) in projects {
        let supervised = Supervised::new(settings, verifier, Arc::clone(operators), stopping.clone(), drain);
        match supervised.start().await {
            Ok(project) => started.push((supervised, project)),
            Err(error) => {
                stop_started(started, drain).await;
                return Err(can_not_start(&supervised.settings, error));
            }
        }
    }
    Ok(started)
}

async fn stop_started(started: Started, drain: Duration) {
    for (supervised, project) in started {
        if let Err(error) = project.stop(drain).await {
            tracing::warn!(project = %supervised.settings.id, %error, "a project did not stop in order");
        }
    }
}

fn measured(projects: &[Arc<Supervised>]) -> Vec<MeasuredProject> {
    let measured = |project: &Arc<Supervised>| MeasuredProject {
        label: (project.settings.address != Address::Everything).then(|| project.settings.id.clone()),
        id: project.settings.id.clone(),
        counters: Arc::clone(project) as _,
        health: Arc::clone(project) as _,
    };
    projects.iter().map(measured).collect()
}

/// Health of the server; each listed project has its own besides, below its address.
fn health_router(projects: &[Arc<Supervised>]) -> Router {
    match projects {
        [only] if only.settings.address == Address::Everything => {
            walcast_server::health::router(Arc::clone(only) as Arc<dyn HealthSource>)
        }
        listed => walcast_server::health::projects_router(
            listed
                .iter()
                .map(|project| (project.settings.id.clone(), Arc::clone(project) as Arc<dyn HealthSource>))
                .collect(),
        ),
    }
}
