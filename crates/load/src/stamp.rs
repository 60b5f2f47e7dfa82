//! Timestamps that travel in payloads, and how late they come back.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use memchr::memmem;

/// What stands before a timestamp, in letters that no encoding changes.
const MARK: &[u8] = b"bench@";
/// Hexadecimal digits of a timestamp.
const DIGITS: usize = 16;
/// The shortest payload that [`payload`] makes.
pub const PAYLOAD_BYTES_MIN: usize = br#"{"at":"bench@0123456789abcdef","pad":""}"#.len();

/// Nanoseconds since the first call in this process.
pub fn now() -> u64 {
    nanoseconds(origin().elapsed())
}

/// A moment as [`now`] would have told it.
pub fn at(moment: Instant) -> u64 {
    nanoseconds(moment.saturating_duration_since(origin()))
}

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// 584 years fit.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A timestamp as text.
pub fn text(at: u64) -> String {
    format!("bench@{at:016x}")
}

/// A JSON object with a timestamp, of so many bytes, at least [`PAYLOAD_BYTES_MIN`].
pub fn payload(at: u64, bytes: usize) -> String {
    let padding = bytes.saturating_sub(PAYLOAD_BYTES_MIN);
    format!(r#"{{"at":"{}","pad":"{:x<padding$}"}}"#, text(at), "")
}

/// Finds timestamps in messages.
pub struct Reader(memmem::Finder<'static>);

impl Default for Reader {
    fn default() -> Self {
        Reader(memmem::Finder::new(MARK))
    }
}

impl Reader {
    /// The first timestamp of a message.
    pub fn read(&self, message: &[u8]) -> Option<u64> {
        let start = self.0.find(message)? + MARK.len();
        let digits = message.get(start..start + DIGITS)?;
        digits.iter().try_fold(0_u64, |sum, digit| {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            Some((sum << 4) | u64::from(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_the_size_that_was_asked_for_and_brings_its_timestamp_back() {
        for (at, bytes) in [(0, 40), (0x0123_4567_89ab_cdef, 200), (u64::MAX, 10_000)] {
            let payload = payload(at, bytes);
            assert_eq!(payload.len(), bytes);
            assert_eq!(Reader::default().read(payload.as_bytes()), Some(at));
            assert!(serde_json::from_str::<serde_json::Value>(&payload).is_ok());
        }
        assert_eq!(payload(7, 0).len(), PAYLOAD_BYTES_MIN);
    }

    #[test]
    fn a_message_without_a_whole_timestamp_has_none() {
        for message in ["", "bench@", "bench@0123", "bench@0123456789abcdeX", "nothing"] {
            assert_eq!(Reader::default().read(message.as_bytes()), None, "{message}");
        }
    }
}
