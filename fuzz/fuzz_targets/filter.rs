//! The filter of a binding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walcast_wire::parse_filter;

fuzz_target!(|text: &str| {
    let _ = parse_filter(text);
});
