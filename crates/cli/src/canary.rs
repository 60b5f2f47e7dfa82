//! Sends a message through the whole way of a change, from the database to the matcher, again and again.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use walcast_catalog::Catalog;
use walcast_engine::{CANARY_MESSAGE_PREFIX, Engine};

/// So many intervals without an answer are too many.
const OVERDUE: u32 = 3;

/// Sends a canary at every interval until `cancel`. What comes back is measured by the engine.
pub(crate) async fn send(catalog: &Catalog, engine: &Engine, every: Duration, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(sending) = engine.counters().canary.send(Instant::now()) else { continue };
        let content = sending.content();
        let Some(sent) =
            cancel.run_until_cancelled(catalog.emit_message(CANARY_MESSAGE_PREFIX, &content)).await
        else {
            return;
        };
        match sent {
            Ok(()) => failing = false,
            Err(error) => {
                sending.failed();
                if !failing {
                    tracing::warn!(%error, "no message can be written into the log to see whether it comes back");
                }
                failing = true;
            }
        }
    }
}

/// For how long an answer has been waited for in vain, where that is too long.
pub(crate) fn overdue(engine: &Engine, every: Duration, now: Instant) -> Option<Duration> {
    engine.counters().canary.awaited_for(now).filter(|waited| *waited > every * OVERDUE)
}
