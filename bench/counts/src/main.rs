//! Fixed pieces of work whose instructions `make bench-check` counts under callgrind: their number is the same on a busy
//! machine as on a quiet one. One thread, no sockets, no database.
//!
//! `walcast-counts NAME` does one piece of work; only what runs inside [`count_instructions_of`] is counted. `log`
//! has the rows, `engine` an engine with its sessions; the table and its policy are those of the engine's own tests.

mod engine;
#[allow(clippy::unwrap_used, reason = "it is that of the engine's tests")]
#[path = "../../../crates/engine/src/fixture.rs"]
mod fixture;
mod log;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use walcast_pgoutput::Decoder;
use walcast_wire::{ClientMessage, Serializer};

/// Changes that are decoded.
const CHANGES: usize = 10_000;
/// Frames of clients that are parsed.
const CLIENT_FRAMES: usize = 10_000;

fn main() -> Result<()> {
    let name =
        std::env::args().nth(1).context("usage: walcast-counts decode|subscribers|fan-out|client-frames")?;
    match name.as_str() {
        "decode" => decode(),
        "subscribers" => engine::decide_and_encode(),
        "fan-out" => engine::fan_out(),
        "client-frames" => parse_client_frames(),
        other => bail!("nothing is called {other}"),
    }
}

/// Does the work. callgrind is told to count from the beginning of this function to its end, so it must not be inlined
/// and must not be generic.
#[inline(never)]
fn count_instructions_of(work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    work()
}

fn decode() -> Result<()> {
    let messages = log::transactions(CHANGES, 10);
    count_instructions_of(&mut || {
        let mut decoder = Decoder::new(log::PROTOCOL_VERSION);
        for message in &messages {
            std::hint::black_box(decoder.decode(message.clone())?);
        }
        Ok(())
    })
}

/// A client's day: broadcasts as the newest clients and older ones send them, tracks, heartbeats.
fn parse_client_frames() -> Result<()> {
    let payload = r#"{"type":"broadcast","event":"cursor","payload":{"x":120.5,"y":88,"user":"8d5e7d3e-6f4a-4a6f-9a6e-0d3c1e0b7a11","colour":"teal"}}"#;
    let topic = "realtime:room-42";
    let texts = [
        format!(r#"["1","7","{topic}","broadcast",{payload}]"#),
        format!(
            r#"["1","8","{topic}","presence",{{"type":"presence","event":"track","payload":{{"name":"Ada","at":17}}}}]"#
        ),
        r#"[null,"9","phoenix","heartbeat",{}]"#.to_owned(),
    ];
    let first =
        format!(r#"{{"topic":"{topic}","event":"broadcast","payload":{payload},"ref":"7","join_ref":"1"}}"#);
    let length = u8::try_from(topic.len())?;
    let binary: Bytes =
        [&[3, 1, 1, length, 6, 0, 1, b'1', b'2'], topic.as_bytes(), b"cursor", payload.as_bytes()]
            .concat()
            .into();
    count_instructions_of(&mut || {
        for round in 0..CLIENT_FRAMES / 5 {
            std::hint::black_box(round);
            for text in &texts {
                std::hint::black_box(ClientMessage::parse_text(Serializer::V2, text)?);
            }
            std::hint::black_box(ClientMessage::parse_text(Serializer::V1, &first)?);
            std::hint::black_box(ClientMessage::parse_binary(Serializer::V2, &binary)?);
        }
        Ok(())
    })
}
