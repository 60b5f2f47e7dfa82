//! What `/readyz` and `/metrics` say of the database's side.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walcast_catalog::Catalog;
use walcast_replication::{Progress, StreamStatus};
use walcast_server::health::{HealthReport, HealthSource, ReplicationHealth};

use crate::lag::Lag;

/// Everything the report is made of.
pub(crate) struct Health {
    pub(crate) replication: watch::Receiver<StreamStatus>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) lag: Arc<Lag>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) stopping: CancellationToken,
}

impl HealthSource for Health {
    fn report(&self) -> HealthReport {
        let (received, confirmed) = (self.progress.received(), self.progress.confirmed());
        HealthReport {
            replication: match &*self.replication.borrow() {
                StreamStatus::Connecting => ReplicationHealth::Connecting,
                StreamStatus::Streaming { .. } => ReplicationHealth::Streaming,
                StreamStatus::Broken { error, .. } => ReplicationHealth::Broken { error: error.clone() },
                StreamStatus::Stopped => ReplicationHealth::Stopped,
            },
            lag_bytes: (received.0 > 0).then(|| received.0.saturating_sub(confirmed.0)),
            lag: self.lag.age(Instant::now()),
            catalog_age: Some(self.catalog.age()),
            catalog_age_max: self.catalog.age_max(),
            stopping: self.stopping.is_cancelled(),
        }
    }
}
