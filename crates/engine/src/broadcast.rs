//! A broadcast as its receivers get it, encoded once for each serializer (docs/protocol.md §2.4).

use std::sync::Arc;

use walcast_wire::Serializer;

use crate::command::{BroadcastPayload, Fanout};

/// Encodes a client's broadcast for the members of `topic`.
pub(crate) fn fanout_of(topic: Arc<str>, payload: &BroadcastPayload) -> Fanout {
    let encode = |serializer| match payload {
        BroadcastPayload::Text(text) => Some(walcast_wire::broadcast(serializer, &topic, text)),
        BroadcastPayload::User { event, encoding, payload } => {
            walcast_wire::user_broadcast(serializer, &topic, event, None, *encoding, payload)
        }
    };
    let (v1, v2) = (encode(Serializer::V1), encode(Serializer::V2));
    Fanout { topic, v1, v2 }
}
