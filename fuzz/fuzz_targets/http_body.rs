//! Bodies of requests: a batch of broadcasts, and messages over long polling.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    match walcast_server::api::check_batch(body, 1_000) {
        Ok(messages) => assert!(messages > 0, "an empty batch is refused"),
        Err(refusal) => assert!(!refusal.is_empty(), "a refusal says why"),
    }
    for lines in [false, true] {
        let _ = walcast_server::check_long_poll_body(body, lines);
    }
});
