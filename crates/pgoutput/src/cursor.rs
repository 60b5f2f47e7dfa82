//! Reads the pieces of one message, and says where it stood when one is not what it must be.

use bytes::Bytes;

use crate::lsn::{Lsn, Oid, PgTimestamp, Xid};

/// A message that does not read as `pgoutput` writes it: damaged, or of a server newer than this decoder.
/// The stream can not be trusted behind it; open it again from the last confirmed position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pgoutput message {} is damaged at byte {offset}: {fault}", letter(*.kind))]
pub struct DecodeError {
    /// The message's first byte; `None` for an empty message.
    pub kind: Option<u8>,
    /// Bytes from the start of the message to what is wrong.
    pub offset: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It ends too soon.
    #[error("expected {expected}, {needed} more bytes, but only {left} are left")]
    Short {
        /// What should have been there.
        expected: &'static str,
        /// Bytes that it takes at least.
        needed: u64,
        /// Bytes that there are.
        left: usize,
    },
    /// A string without its closing zero byte.
    #[error("expected {0}, but it has no zero byte at its end")]
    Unterminated(&'static str),
    /// A string that is not UTF-8.
    #[error("expected {0} in UTF-8; connect with client_encoding=UTF8")]
    NotUtf8(&'static str),
    /// A letter or flag that no version of the protocol has there.
    #[error("expected {expected}, found byte 0x{found:02x}")]
    Unexpected {
        /// What may stand there.
        expected: &'static str,
        /// What does.
        found: u8,
    },
    /// A length below zero.
    #[error("expected {expected}, found the length {found}")]
    NegativeLength {
        /// What should have been there.
        expected: &'static str,
        /// What it says.
        found: i32,
    },
    /// A first byte that no message of the negotiated version has.
    #[error("no message of protocol version {version} starts so; ask for a version that both sides know")]
    UnknownKind {
        /// The version that the decoder was made for.
        version: u32,
    },
    /// A message that may not stand here: a piece of a streamed transaction inside another, or a commit in it.
    #[error("it may not come {}", if *.inside_stream { "between StreamStart and StreamStop" } else { "without a StreamStart before it" })]
    Misplaced {
        /// Whether the decoder is between `StreamStart` and `StreamStop`.
        inside_stream: bool,
    },
    /// It goes on behind its end.
    #[error("{0} bytes are left over at its end")]
    TrailingBytes(usize),
    /// 4 GiB or more, which PostgreSQL can not send.
    #[error("it has {0} bytes, more than PostgreSQL can send in one message")]
    TooLong(usize),
}

fn letter(kind: Option<u8>) -> String {
    match kind {
        Some(kind) => format!("'{}'", kind.escape_ascii()),
        None => "without content".to_owned(),
    }
}

/// A place in one message. Every read moves it or fails; nothing is read twice.
pub(crate) struct Cursor {
    bytes: Bytes,
    offset: usize,
}

impl Cursor {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Cursor { bytes, offset: 0 }
    }

    /// The whole message, for cutting pieces out of it by offset.
    pub(crate) fn message(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// What went wrong at the cursor.
    pub(crate) fn fault(&self, fault: Fault) -> DecodeError {
        self.fault_at(self.offset, fault)
    }

    /// What went wrong at a place already passed.
    pub(crate) fn fault_at(&self, offset: usize, fault: Fault) -> DecodeError {
        DecodeError { kind: self.bytes.first().copied(), offset, fault }
    }

    /// Fails unless `needed` bytes are left: asked before anything is allocated by a count in the message.
    pub(crate) fn require(&self, needed: u64, expected: &'static str) -> Result<(), DecodeError> {
        let left = self.left();
        if left as u64 >= needed {
            return Ok(());
        }
        Err(self.fault(Fault::Short { expected, needed, left }))
    }

    fn array<const LENGTH: usize>(&mut self, expected: &'static str) -> Result<[u8; LENGTH], DecodeError> {
        match self.bytes[self.offset..].first_chunk::<LENGTH>() {
            Some(&chunk) => {
                self.offset += LENGTH;
                Ok(chunk)
            }
            None => Err(self.fault(Fault::Short { expected, needed: LENGTH as u64, left: self.left() })),
        }
    }

    pub(crate) fn u8(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        self.array(expected).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, expected: &'static str) -> Result<u16, DecodeError> {
        self.array(expected).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, expected: &'static str) -> Result<u32, DecodeError> {
        self.array(expected).map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, expected: &'static str) -> Result<i32, DecodeError> {
        self.array(expected).map(i32::from_be_bytes)
    }

    pub(crate) fn lsn(&mut self, expected: &'static str) -> Result<Lsn, DecodeError> {
        self.array(expected).map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    pub(crate) fn time(&mut self, expected: &'static str) -> Result<PgTimestamp, DecodeError> {
        self.array(expected).map(|bytes| PgTimestamp(i64::from_be_bytes(bytes)))
    }

    pub(crate) fn oid(&mut self, expected: &'static str) -> Result<Oid, DecodeError> {
        self.u32(expected).map(Oid)
    }

    pub(crate) fn xid(&mut self) -> Result<Xid, DecodeError> {
        self.u32("a transaction id").map(Xid)
    }

    /// A byte of which only the bits in `known` may be set; unknown ones may change what the rest means.
    pub(crate) fn flags(&mut self, known: u8, expected: &'static str) -> Result<u8, DecodeError> {
        let start = self.offset;
        let found = self.u8(expected)?;
        if found & !known == 0 {
            return Ok(found);
        }
        Err(self.fault_at(start, Fault::Unexpected { expected, found }))
    }

    /// Text up to a zero byte, which is passed too.
    pub(crate) fn string(&mut self, expected: &'static str) -> Result<String, DecodeError> {
        let rest = &self.bytes[self.offset..];
        let Some(length) = rest.iter().position(|&byte| byte == 0) else {
            return Err(self.fault(Fault::Unterminated(expected)));
        };
        match std::str::from_utf8(&rest[..length]) {
            Ok(text) => {
                let text = text.to_owned();
                self.offset += length + 1;
                Ok(text)
            }
            Err(error) => Err(self.fault_at(self.offset + error.valid_up_to(), Fault::NotUtf8(expected))),
        }
    }

    /// A length of four bytes, and where the bytes that it counts stand; these are passed too.
    pub(crate) fn counted(&mut self, expected: &'static str) -> Result<std::ops::Range<usize>, DecodeError> {
        let start = self.offset;
        let found = self.i32(expected)?;
        let Ok(length) = usize::try_from(found) else {
            return Err(self.fault_at(start, Fault::NegativeLength { expected, found }));
        };
        self.require(length as u64, expected)?;
        let from = self.offset;
        self.offset += length;
        Ok(from..self.offset)
    }

    /// Fails when bytes are left: they would mean that something was misread before.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            left => Err(self.fault(Fault::TrailingBytes(left))),
        }
    }
}
