//! What a client's message on a joined topic asks of the engine.

use bytes::Bytes;
use walcast_engine::{BroadcastPayload, PushKind};
use walcast_wire::{BroadcastOptions, ClientMessage, ClientPayload, PresencePush};

/// Reads the payload of any event but `phx_join`, `phx_leave` and `access_token`.
pub(super) fn push_kind(message: &ClientMessage<'_>) -> PushKind {
    match (&*message.event, &message.payload) {
        ("broadcast", ClientPayload::UserBroadcast(user)) => PushKind::Broadcast(BroadcastPayload::User {
            event: user.event.as_ref().into(),
            encoding: user.encoding,
            payload: Bytes::copy_from_slice(user.payload),
            options: options_of(user.metadata),
        }),
        ("broadcast", ClientPayload::Json(payload)) => {
            PushKind::Broadcast(BroadcastPayload::Text(payload.get().into()))
        }
        ("presence", ClientPayload::Json(payload)) => match PresencePush::parse(payload) {
            PresencePush::Track(meta) => PushKind::Track(meta.into()),
            PresencePush::Untrack => PushKind::Untrack,
            PresencePush::Missing => PushKind::EmptyPresence,
            PresencePush::NotAnObject => PushKind::TrackNotAnObject,
            PresencePush::Unknown(event) => {
                tracing::debug!(code = "UnknownPresenceEvent", event, "unknown presence event");
                PushKind::UnknownPresence
            }
        },
        _ => PushKind::Other,
    }
}

/// What the metadata of a binary broadcast says of sockets that are behind (docs/protocol.md §6.6).
fn options_of(metadata: &[u8]) -> Option<Box<BroadcastOptions>> {
    match BroadcastOptions::of_object(std::str::from_utf8(metadata).ok()?)? {
        Ok(options) => Some(Box::new(options)),
        Err(error) => {
            tracing::debug!(code = "InvalidBroadcastOption", %error, "a broadcast goes out without its options");
            None
        }
    }
}
