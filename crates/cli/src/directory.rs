//! The projects of this process, as the tenants API asks for them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use walcast_engine::Engine;
use walcast_replication::SslMode;
use walcast_replication::settings::Endpoint;
use walcast_server::api::{
    DatabaseDescription, ProjectDescription, ProjectDirectory, ProjectError, ProjectLimits,
};
use walcast_server::health::HealthSource;

use crate::project::ProjectSettings;
use crate::supervisor::Supervised;

/// All of them.
pub(crate) struct Directory {
    pub(crate) projects: Vec<Arc<Supervised>>,
    /// Where this process runs.
    pub(crate) region: Option<String>,
}

impl Directory {
    fn find(&self, id: &str) -> Result<&Supervised, ProjectError> {
        let found = self.projects.iter().find(|project| project.settings.id.as_str() == id);
        found.map(Arc::as_ref).ok_or(ProjectError::NotFound)
    }

    fn describe(&self, project: &Supervised) -> ProjectDescription {
        let settings = &project.settings;
        let (limits, engine) = (&settings.limits, &settings.engine);
        let connections = project.live().map_or(0, |live| live.engine.counters().sessions.load(Relaxed));
        let presence_window = engine.presence_calls.window.as_millis();
        ProjectDescription {
            id: settings.id.to_string(),
            database: describe_database(settings),
            limits: ProjectLimits {
                max_concurrent_users: limits.max_concurrent_users,
                max_channels_per_client: limits.max_channels_per_client,
                max_joins_per_second: limits.max_joins_per_second,
                max_events_per_second: engine.max_events_per_second.map(Into::into),
                max_presence_events_per_second: engine.max_presence_events_per_second.map(Into::into),
                payload_bytes_max: engine.payload_bytes_max,
                record_bytes_max: engine.record_bytes_max,
                presence_calls_max: engine.presence_calls.calls,
                presence_window_ms: u64::try_from(presence_window).unwrap_or(u64::MAX),
            },
            presence_enabled: engine.presence_enabled,
            private_only: limits.private_only,
            suspended: limits.suspended,
            connections,
            health: project.report(),
            region: self.region.clone(),
        }
    }
}

impl ProjectDirectory for Directory {
    fn list(&self) -> Vec<ProjectDescription> {
        self.projects.iter().map(|project| self.describe(project)).collect()
    }

    fn get(&self, id: &str) -> Option<ProjectDescription> {
        self.find(id).ok().map(|project| self.describe(project))
    }

    fn reload<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ProjectError>> {
        Box::pin(async move {
            // A project that is being started again reads its keys by itself, and has no sockets.
            let project = self.find(id)?;
            if let Some(live) = project.live() {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                let loaded = project.verifier.load_keys(now).await;
                loaded.map_err(|error| ProjectError::Keys(error.to_string()))?;
                disconnect_all(id, &live.engine, "its keys were read again").await;
            }
            Ok(())
        })
    }

    fn shutdown<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ProjectError>> {
        Box::pin(async move {
            if let Some(live) = self.find(id)?.live() {
                disconnect_all(id, &live.engine, "an operator asked for it").await;
            }
            Ok(())
        })
    }
}

async fn disconnect_all(project: &str, engine: &Engine, reason: &str) {
    let sockets = engine.disconnect_all().await;
    tracing::info!(project, sockets, reason, "all sockets were closed");
}

fn describe_database(settings: &ProjectSettings) -> DatabaseDescription {
    let connection = &settings.database.connection;
    let host = connection.hosts.first();
    DatabaseDescription {
        host: host
            .map(|host| match &host.endpoint {
                Endpoint::Tcp { name, .. } => name.clone(),
                Endpoint::UnixSocket(directory) => directory.display().to_string(),
            })
            .unwrap_or_default(),
        port: host.map(|host| host.port).unwrap_or_default(),
        name: connection.database.clone(),
        user: connection.user.clone(),
        tls_required: !matches!(connection.ssl_mode, SslMode::Disable | SslMode::Prefer),
        pool_size: settings.database.pool_size,
        publications: settings.replication.publications.clone(),
        slot: settings.replication.slot.clone(),
    }
}
