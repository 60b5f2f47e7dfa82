//! Watches how much log the slot makes PostgreSQL keep, and does what was decided for too much of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use walcast_catalog::{Catalog, SlotState};
use walcast_replication::SlotControl;

use crate::settings::{SlotLag, SlotLagAction};
use crate::trail::Trail;

/// No number: it was not asked for yet, or there is no slot.
const UNKNOWN: u64 = u64::MAX;

/// The one who watches.
pub(crate) struct SlotCare {
    catalog: Arc<Catalog>,
    control: Arc<SlotControl>,
    trail: Arc<Trail>,
    slot: String,
    lag: Option<SlotLag>,
    retained_bytes: AtomicU64,
}

impl SlotCare {
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        control: Arc<SlotControl>,
        trail: Arc<Trail>,
        slot: &str,
        lag: Option<SlotLag>,
    ) -> Arc<Self> {
        let retained_bytes = AtomicU64::new(UNKNOWN);
        Arc::new(SlotCare { catalog, control, trail, slot: slot.to_owned(), lag, retained_bytes })
    }

    /// Bytes of log that PostgreSQL kept for the slot when it was last asked.
    pub(crate) fn retained_bytes(&self) -> Option<u64> {
        Some(self.retained_bytes.load(Relaxed)).filter(|bytes| *bytes != UNKNOWN)
    }

    /// Looks at the slot again and again, until `cancel`.
    pub(crate) async fn watch(self: Arc<Self>, every: Duration, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            // What is found now would be of the old slot, or of none.
            let renewing = self.control.is_renewing();
            match cancel.run_until_cancelled(self.catalog.slot_state(&self.slot)).await {
                None => return,
                Some(Ok(state)) => {
                    let retained = state.as_ref().map(|state| state.retained_bytes);
                    self.retained_bytes.store(retained.unwrap_or(UNKNOWN), Relaxed);
                    if let Some(state) = &state {
                        self.trail.limit(state.bytes_max);
                    }
                    if !renewing {
                        self.act(state.as_ref());
                    }
                }
                // The catalog's own poll tells that the database is away.
                Some(Err(error)) => tracing::debug!(%error, "the slot can not be looked at"),
            }
        }
    }

    fn act(&self, state: Option<&SlotState>) {
        let Some(SlotLag { bytes_max, action }) = self.lag else { return };
        let retained = state.map_or(0, |state| state.retained_bytes);
        if retained <= bytes_max.get() {
            return self.control.resume();
        }
        // Without the number, so that a second look makes no second reason.
        let reason = format!("it holds back more than {bytes_max} bytes of log (replication.max_slot_lag)");
        match action {
            SlotLagAction::Stop => self.control.pause(reason),
            SlotLagAction::DropAndTell => {
                tracing::error!(
                    code = "ReplicationSlotLost",
                    slot = self.slot,
                    retained_bytes = retained,
                    reason,
                    "the replication slot is given up, and subscribers are told"
                );
                self.control.renew(reason);
            }
        }
    }
}
