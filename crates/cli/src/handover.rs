//! What a server hands to the one that is started after it, through the log: up to where each lost client had come.

use walcast_catalog::Catalog;
use walcast_engine::{Engine, TICKETS_MESSAGE_PREFIX};

/// Marks in the log that a server has begun to read it: whatever an earlier one has handed over stands before.
pub(crate) async fn begin(catalog: &Catalog, engine: &Engine, content: &str) {
    if let Err(error) = catalog.emit_message(TICKETS_MESSAGE_PREFIX, content).await {
        tracing::warn!(
            %error,
            "no message can be written into the log, so sockets of the server that ran before are not known: clients that \
             come back get all that the journal has"
        );
        engine.give_up_handover();
    }
}

/// Hands over what is left of the sockets, which are gone.
pub(crate) async fn complete(catalog: &Catalog, engine: &Engine) {
    for content in engine.hand_over() {
        if let Err(error) = catalog.emit_message(TICKETS_MESSAGE_PREFIX, &content).await {
            return tracing::warn!(
                %error,
                "the next server will not know up to where clients have come, and sends them all that it has"
            );
        }
    }
}
