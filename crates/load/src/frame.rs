//! WebSocket frames as a client reads and writes them (RFC 6455 §5), without copying what it reads.

/// The bit of the second byte that says that a mask follows.
const MASKED: u8 = 0x80;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A text message.
    Text,
    /// A binary message.
    Binary,
    /// The last frame of a connection.
    Close,
    /// To be answered with a pong.
    Ping,
    /// The answer to a ping.
    Pong,
}

/// A whole frame at the beginning of what has been read.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub opcode: Opcode,
    /// Its payload.
    pub payload: &'a [u8],
    /// Bytes of the frame with its header.
    pub length: usize,
}

/// What a server may not send, or this client does not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message in several frames. Servers of small messages send none.
    #[error("a message in fragments, which this client does not read")]
    Fragmented,
    /// Only clients mask.
    #[error("a masked frame, which a server must not send")]
    Masked,
    /// An extension that was not asked for, or an opcode that does not exist.
    #[error("a frame with a first byte of {0:#04x}, which means nothing")]
    Unknown(u8),
}

/// The first frame of `bytes`; `None` while it is not complete.
pub fn first(bytes: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    let opcode = match first {
        0x81 => Opcode::Text,
        0x82 => Opcode::Binary,
        0x88 => Opcode::Close,
        0x89 => Opcode::Ping,
        0x8a => Opcode::Pong,
        0x00..=0x02 | 0x80 => return Err(FrameError::Fragmented),
        other => return Err(FrameError::Unknown(*other)),
    };
    let (header, length) = match (second, rest) {
        (0..=125, _) => (2, u64::from(*second)),
        (126, short) if let Some(length) = short.first_chunk() => (4, u64::from(u16::from_be_bytes(*length))),
        (127, long) if let Some(length) = long.first_chunk() => (10, u64::from_be_bytes(*length)),
        (128.., _) => return Err(FrameError::Masked),
        _ => return Ok(None),
    };
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(header));
    Ok(end.and_then(|end| Some(Frame { opcode, payload: bytes.get(header..end)?, length: end })))
}

/// Appends a frame to what is to be written. The mask is all zeros: it protects proxies from browsers, and here are
/// neither.
pub fn write(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.push(match opcode {
        Opcode::Text => 0x81,
        Opcode::Binary => 0x82,
        Opcode::Close => 0x88,
        Opcode::Ping => 0x89,
        Opcode::Pong => 0x8a,
    });
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => out.push(MASKED | length),
        (_, Ok(length)) => {
            out.push(MASKED | 0x7e);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(MASKED | 0x7f);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a server writes it.
    fn of_server(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(u8::try_from(length).unwrap()),
            length @ 126..=65_535 => {
                bytes.push(126);
                bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                bytes.push(127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_frame_of_any_size_is_read_once_it_is_whole_and_not_a_byte_before() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let bytes = of_server(0x81, &payload);
            for cut in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
                assert_eq!(first(&bytes[..cut]), Ok(None), "{length}, cut at {cut}");
            }
            let followed = [&bytes[..], &[0x8a, 0]].concat();
            let whole = Frame { opcode: Opcode::Text, payload: &payload, length: bytes.len() };
            assert_eq!(first(&followed), Ok(Some(whole)), "{length}");
        }
    }

    #[test]
    fn what_a_server_must_not_send_is_refused() {
        assert_eq!(first(&[0x01, 0]), Err(FrameError::Fragmented));
        assert_eq!(first(&[0x81, 0x80, 0, 0, 0, 0]), Err(FrameError::Masked));
        assert_eq!(first(&[0xc1, 0]), Err(FrameError::Unknown(0xc1)));
    }

    #[test]
    fn a_length_that_no_memory_holds_waits_for_more_and_does_not_panic() {
        assert_eq!(first(&[&[0x82, 127][..], &[0xff; 8]].concat()), Ok(None));
    }

    #[test]
    fn written_frames_say_that_they_are_masked_and_how_long_they_are() {
        for (length, header) in [
            (3, vec![0x82, 0x83]),
            (300, vec![0x82, 0xfe, 1, 44]),
            (65_536, vec![0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            write(&mut out, Opcode::Binary, &vec![7; length]);
            assert_eq!(out[..header.len()], header);
            assert_eq!(out.len(), header.len() + 4 + length);
        }
    }
}
