//! A text frame from a client, read by both serializers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walcast_wire::{ClientMessage, Serializer};

fuzz_target!(|text: &str| {
    for serializer in [Serializer::V1, Serializer::V2] {
        let _ = ClientMessage::parse_text(serializer, text);
    }
});
