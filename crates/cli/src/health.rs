//! What `/readyz` and `/metrics` say of the database's side.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walcast_catalog::Catalog;
use walcast_engine::Engine;
use walcast_replication::{Progress, StreamStatus};
use walcast_server::health::{HealthReport, HealthSource, ReplicationHealth};

use crate::canary;
use crate::lag::Lag;
use crate::slot_care::SlotCare;
use crate::trail::Trail;

/// Everything the report is made of.
pub(crate) struct Health {
    pub(crate) replication: watch::Receiver<StreamStatus>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) lag: Arc<Lag>,
    pub(crate) trail: Arc<Trail>,
    pub(crate) slot: Arc<SlotCare>,
    pub(crate) engine: Engine,
    /// How often a canary is sent, if at all.
    pub(crate) canary: Option<Duration>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) stopping: CancellationToken,
}

impl HealthSource for Health {
    fn report(&self) -> HealthReport {
        let (received, handled) = (self.progress.received(), self.progress.handled());
        HealthReport {
            replication: match &*self.replication.borrow() {
                StreamStatus::Connecting => ReplicationHealth::Connecting,
                StreamStatus::Streaming { .. } => ReplicationHealth::Streaming,
                StreamStatus::Broken { error, .. } => ReplicationHealth::Broken { error: error.clone() },
                StreamStatus::Paused { reason } => ReplicationHealth::Paused { reason: reason.clone() },
                StreamStatus::Stopped => ReplicationHealth::Stopped,
            },
            lag_bytes: (received.0 > 0).then(|| received.0.saturating_sub(handled.0)),
            lag: self.lag.age(Instant::now()),
            catching_up_bytes: self.progress.behind_start(),
            retained_bytes: self.slot.retained_bytes(),
            trail_bytes: Some(self.trail.bytes()),
            canary_overdue: self
                .canary
                .and_then(|every| canary::overdue(&self.engine, every, std::time::Instant::now())),
            catalog_age: Some(self.catalog.age()),
            catalog_age_max: self.catalog.age_max(),
            stopping: self.stopping.is_cancelled(),
        }
    }
}
