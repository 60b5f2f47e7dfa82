//! A binary frame from a client, read by both serializers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walcast_wire::{BroadcastOptions, ClientMessage, ClientPayload, Serializer};

fuzz_target!(|bytes: &[u8]| {
    for serializer in [Serializer::V1, Serializer::V2] {
        let message = ClientMessage::parse_binary(serializer, bytes);
        if let Ok(ClientPayload::UserBroadcast(broadcast)) = message.map(|message| message.payload)
            && let Ok(metadata) = std::str::from_utf8(broadcast.metadata)
        {
            let _ = BroadcastOptions::of_object(metadata);
        }
    }
});
