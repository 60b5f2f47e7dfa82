//! WebSocket frames as the server sends them: one buffer with the header in front (RFC 6455 §5.2).

use bytes::Bytes;

/// One complete, unmasked WebSocket message of the server, header included. A clone shares the bytes, so one frame goes
/// to any number of sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Bytes);

/// What a frame carries (RFC 6455 §11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// The closing handshake.
    Close,
    /// What the client's library answers by itself, behind everything that came before it.
    Ping,
}

impl Opcode {
    fn bits(self) -> u8 {
        match self {
            Opcode::Text => 0x1,
            Opcode::Binary => 0x2,
            Opcode::Close => 0x8,
            Opcode::Ping => 0x9,
        }
    }
}

impl Frame {
    /// Whether it is this very frame in memory, and not another one that may have the same bytes.
    pub fn is(&self, other: &Frame) -> bool {
        std::ptr::eq::<[u8]>(self.0.as_ref(), other.0.as_ref())
    }

    /// A text message. The caller vouches that it is UTF-8, which every encoder of this crate makes sure of.
    pub fn text(payload: &[u8]) -> Self {
        Self::of(Opcode::Text, payload)
    }

    /// A binary message.
    pub fn binary(payload: &[u8]) -> Self {
        Self::of(Opcode::Binary, payload)
    }

    /// A close frame. A reason longer than the 123 bytes that fit is cut between characters.
    pub fn close(code: u16, reason: &str) -> Self {
        let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut buffer = FrameBuffer::with_capacity(2 + end);
        buffer.out().extend_from_slice(&code.to_be_bytes());
        buffer.out().extend_from_slice(&reason.as_bytes()[..end]);
        buffer.finish(Opcode::Close)
    }

    /// A ping with this number, which the pong repeats; see [`ping_number`].
    pub fn ping(number: u32) -> Self {
        Self::of(Opcode::Ping, &number.to_be_bytes())
    }

    /// The bytes to write to the socket.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Length in bytes, header included.
    #[allow(clippy::len_without_is_empty, reason = "a frame has at least its header")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What the frame carries.
    pub fn opcode(&self) -> Opcode {
        match self.0.first().map_or(0, |byte| byte & 0x0F) {
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            _ => Opcode::Text,
        }
    }

    /// The message without the header, for transports that are not WebSocket. Shares the bytes.
    pub fn payload(&self) -> Bytes {
        let header = match self.0.get(1) {
            Some(127) => 10,
            Some(126) => 4,
            _ => 2,
        };
        self.0.slice(header.min(self.0.len())..)
    }

    /// A frame that was written by this module.
    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Frame(bytes)
    }

    fn of(opcode: Opcode, payload: &[u8]) -> Self {
        let mut buffer = FrameBuffer::with_capacity(payload.len());
        buffer.out().extend_from_slice(payload);
        buffer.finish(opcode)
    }
}

/// The number of the ping that a ping or pong with this payload is, or answers; `None` for one of a client's own.
pub fn ping_number(payload: &[u8]) -> Option<u32> {
    payload.try_into().ok().map(u32::from_be_bytes)
}

/// A control frame holds at most 125 bytes, two of which are the code (RFC 6455 §5.5).
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// The longest header the server writes: two bytes and a length of eight.
const HEADER_BYTES_MAX: usize = 10;

/// A message being written with room for the header in front of it, so that a frame is one allocation and no copy.
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// Room for a message of so many bytes; it grows when that was too little.
    pub(crate) fn with_capacity(message_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES_MAX + message_bytes);
        bytes.extend_from_slice(&[0; HEADER_BYTES_MAX]);
        FrameBuffer { bytes }
    }

    /// Where the message is appended.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Puts the shortest header right in front of the message.
    pub(crate) fn finish(mut self, opcode: Opcode) -> Frame {
        let length = self.bytes.len() - HEADER_BYTES_MAX;
        let mut header = [0; HEADER_BYTES_MAX];
        header[0] = 0x80 | opcode.bits();
        let header_length = if let Ok(short @ 0..=125) = u8::try_from(length) {
            header[1] = short;
            2
        } else if let Ok(medium) = u16::try_from(length) {
            header[1] = 126;
            header[2..4].copy_from_slice(&medium.to_be_bytes());
            4
        } else {
            header[1] = 127;
            header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            10
        };
        let start = HEADER_BYTES_MAX - header_length;
        self.bytes[start..HEADER_BYTES_MAX].copy_from_slice(&header[..header_length]);
        Frame(Bytes::from(self.bytes).slice(start..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_shortest_that_holds_the_length() {
        for (length, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xFF, 0xFF]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let payload = vec![b'x'; length];
            let frame = Frame::text(&payload);
            assert_eq!(frame.bytes()[..header.len()], header);
            assert_eq!(frame.len(), header.len() + length);
            assert_eq!(frame.payload(), payload);
        }
    }

    #[test]
    fn a_binary_frame_says_so() {
        let frame = Frame::binary(&[4, 0]);
        assert_eq!(frame.bytes()[..], [0x82, 2, 4, 0]);
        assert_eq!(frame.opcode(), Opcode::Binary);
    }

    #[test]
    fn a_ping_carries_its_number() {
        let ping = Frame::ping(0x0102_0304);
        assert_eq!(ping.bytes()[..], [0x89, 4, 1, 2, 3, 4]);
        assert_eq!(ping.opcode(), Opcode::Ping);
        assert_eq!(ping_number(&ping.payload()), Some(0x0102_0304));
        assert_eq!(ping_number(b"hello"), None);
    }

    #[test]
    fn a_close_frame_has_code_and_reason_and_never_more_than_a_control_frame_holds() {
        assert_eq!(Frame::close(1012, "").bytes()[..], [0x88, 2, 0x03, 0xF4]);
        assert_eq!(Frame::close(1000, "idle").bytes()[..], [0x88, 6, 0x03, 0xE8, b'i', b'd', b'l', b'e']);
        let long = Frame::close(1008, &"é".repeat(100));
        assert_eq!(long.payload().len(), 2 + 122);
        assert_eq!(long.bytes()[1], 124);
        assert_eq!(long.opcode(), Opcode::Close);
    }
}
