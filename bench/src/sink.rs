//! What stands in for sockets: takes everything at once, keeps nothing, counts.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use walcast_engine::Socket;

/// The first byte of a ping: FIN and opcode 9 (RFC 6455 §5.2).
const PING: u8 = 0x89;

/// The writing half of a connection that counts. Only one shard writes to it.
pub struct Sink {
    frames: AtomicU64,
    bytes: AtomicU64,
    joins: Arc<JoinWatch>,
}

/// Looks for a refusal in what the sinks get while channels are joined; later frames are not looked at.
#[derive(Default)]
pub struct JoinWatch {
    over: AtomicBool,
    refusal: Mutex<Option<String>>,
}

impl Sink {
    /// A sink that has counted nothing.
    pub fn new(joins: Arc<JoinWatch>) -> Self {
        Sink { frames: AtomicU64::new(0), bytes: AtomicU64::new(0), joins }
    }

    /// Messages taken; pings are none.
    pub fn frames(&self) -> u64 {
        self.frames.load(Relaxed)
    }

    /// Bytes taken.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

impl Socket for Sink {
    /// Every slice is a whole frame, because every frame before it was taken whole.
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let messages = buffers.iter().filter(|frame| frame.first() != Some(&PING)).count();
        self.frames.fetch_add(messages as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        if !self.joins.over.load(Relaxed) {
            for buffer in buffers {
                self.joins.look_at(buffer);
            }
        }
        Ok(bytes)
    }

    fn notify_writable(&self) {}

    fn finish(&self) {}

    fn closing(&self) {}
}

impl JoinWatch {
    /// Stops looking, and tells the first refusal there was.
    pub fn end(&self) -> Option<String> {
        self.over.store(true, Relaxed);
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn look_at(&self, frame: &[u8]) {
        let text = String::from_utf8_lossy(frame);
        if text.contains(r#""status":"error""#) {
            self.refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text.into_owned());
        }
    }
}
