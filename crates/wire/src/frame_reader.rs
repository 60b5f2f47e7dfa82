//! Frames out of a stream of bytes that [`crate::Frame`]s were written to, for transports that carry messages
//! in another way than WebSocket does.

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::Frame;

/// Collects bytes until they are whole frames. Only what this server writes is understood: unmasked frames,
/// each a whole message (RFC 6455 §5.2).
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: BytesMut,
}

impl FrameReader {
    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole frame out.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let length = frame_length(&self.bytes)?;
        if self.bytes.len() < length {
            return None;
        }
        let frame: Bytes = self.bytes.split_to(length).freeze();
        Some(Frame::from_bytes(frame))
    }
}

/// Bytes of the frame that begins here, header included; `None` while that is not known.
fn frame_length(mut bytes: &[u8]) -> Option<usize> {
    let short = usize::from(bytes.get(1)? & 0x7F);
    bytes.advance(2);
    match short {
        126 => bytes.try_get_u16().ok().map(|length| 4 + usize::from(length)),
        127 => bytes.try_get_u64().ok().and_then(|length| usize::try_from(length).ok()?.checked_add(10)),
        length => Some(2 + length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_come_out_whole_however_they_are_cut() {
        let frames: Vec<Frame> =
            [0, 1, 125, 126, 65_535, 65_536].map(|length| Frame::text(&vec![b'x'; length])).into();
        let stream: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
        for step in [1, 7, 4096] {
            let (mut reader, mut read) = (FrameReader::default(), Vec::new());
            for piece in stream.chunks(step) {
                reader.extend(piece);
                read.extend(std::iter::from_fn(|| reader.next_frame()));
            }
            assert_eq!(read, frames, "cut into pieces of {step}");
        }
    }
}
