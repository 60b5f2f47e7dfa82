//! The projects of this process, as the tenants API asks for them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use walcast_auth::Verifier;
use walcast_engine::Engine;
use walcast_replication::SslMode;
use walcast_replication::settings::Endpoint;
use walcast_server::api::{
    DatabaseDescription, ProjectDescription, ProjectDirectory, ProjectError, ProjectLimits,
};
use walcast_server::health::HealthSource;

use crate::serve::ServeSettings;

/// All of them.
pub(crate) struct Directory {
    pub(crate) projects: Vec<Project>,
}

/// One of them.
pub(crate) struct Project {
    pub(crate) settings: ServeSettings,
    pub(crate) engine: Engine,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) health: Arc<dyn HealthSource>,
}

impl Directory {
    fn find(&self, id: &str) -> Result<&Project, ProjectError> {
        self.projects.iter().find(|project| project.settings.project == id).ok_or(ProjectError::NotFound)
    }
}

impl ProjectDirectory for Directory {
    fn list(&self) -> Vec<ProjectDescription> {
        self.projects.iter().map(Project::describe).collect()
    }

    fn get(&self, id: &str) -> Option<ProjectDescription> {
        self.find(id).ok().map(Project::describe)
    }

    fn reload<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ProjectError>> {
        Box::pin(async {
            let project = self.find(id)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let loaded = project.verifier.load_keys(now).await;
            loaded.map_err(|error| ProjectError::Keys(error.to_string()))?;
            project.disconnect_all("its keys were read again").await;
            Ok(())
        })
    }

    fn shutdown<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ProjectError>> {
        Box::pin(async {
            self.find(id)?.disconnect_all("an operator asked for it").await;
            Ok(())
        })
    }
}

impl Project {
    async fn disconnect_all(&self, reason: &str) {
        let sockets = self.engine.disconnect_all().await;
        tracing::info!(project = self.settings.project, sockets, reason, "all sockets were closed");
    }

    fn describe(&self) -> ProjectDescription {
        let settings = &self.settings;
        let (limits, engine) = (&settings.limits, &settings.engine);
        ProjectDescription {
            id: settings.project.clone(),
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
                presence_window_ms: u64::try_from(engine.presence_calls.window.as_millis())
                    .unwrap_or(u64::MAX),
            },
            presence_enabled: engine.presence_enabled,
            private_only: limits.private_only,
            suspended: limits.suspended,
            connections: self.engine.counters().sessions.load(std::sync::atomic::Ordering::Relaxed),
            health: self.health.report(),
            region: settings.operations.region.clone(),
        }
    }
}

fn describe_database(settings: &ServeSettings) -> DatabaseDescription {
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
