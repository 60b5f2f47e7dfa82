//! The payload of a join, with its bindings and their filters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use walcast_wire::JoinPayload;

fuzz_target!(|text: &str| {
    if let Ok(payload) = serde_json::from_str::<&RawValue>(text) {
        let _ = JoinPayload::parse("room:1", payload);
    }
});
