//! Bodies of requests: a batch of broadcasts, and messages over long polling.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walcast_server::api::{BatchLimits, check_batch};

fuzz_target!(|body: &[u8]| {
    let limits = BatchLimits { messages_max: 100, payload_bytes_max: 1_000 };
    match check_batch(body, limits) {
        Ok(messages) => assert!(messages > 0, "an empty batch is refused"),
        Err(refusal) => assert!(!refusal.is_empty(), "a refusal says why"),
    }
    for lines in [false, true] {
        let _ = walcast_server::check_long_poll_body(body, lines);
    }
});
