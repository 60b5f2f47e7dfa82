//! One message of the replication stream, in every protocol version, outside and inside a streamed transaction.
//! What decodes must survive encoding and decoding again.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use walcast_pgoutput::{Decoder, encode::encode};

fuzz_target!(|message: &[u8]| {
    let message = Bytes::copy_from_slice(message);
    for version in 1..=4 {
        check(Decoder::new(version), version, &message);
    }
    let mut inside_stream = Decoder::new(2);
    let start = Bytes::from_static(b"S\0\0\0\x01\x01");
    if inside_stream.decode(start).is_ok() {
        check(inside_stream, 2, &message);
    }
});

fn check(mut decoder: Decoder, version: u32, message: &Bytes) {
    let mut again = decoder.clone();
    match decoder.decode(message.clone()) {
        Ok(decoded) => assert_eq!(again.decode(encode(&decoded, version)), Ok(decoded)),
        Err(error) => assert!(error.offset <= message.len(), "{error}"),
    }
}
