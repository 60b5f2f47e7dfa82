//! Messages cut out of the byte stream (PostgreSQL docs, "Message Flow" and "Message Formats"): one byte of tag,
//! four of length, then the body.
//!
//! What has been read of an unfinished message stays in the buffer, so a read that is dropped half-way, as `select!`
//! does, loses nothing.

use std::io;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Tag and length. The length counts itself but not the tag.
const HEADER_BYTES: usize = 5;

/// Room made for a read: hundreds of small messages arrive with one wake-up.
const READ_BYTES: usize = 128 * 1024;

/// Below this much room a fresh buffer is taken, so that reads do not become small.
const READ_BYTES_MIN: usize = 16 * 1024;

/// Anything a session can run over: TCP, a Unix socket, TLS on TCP, a pipe in tests.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A socket that speaks in messages.
pub(crate) struct FramedSocket {
    socket: Box<dyn Socket>,
    buffer: BytesMut,
    message_bytes_max: usize,
}

/// One whole message of the server, header included.
#[derive(Debug)]
pub(crate) struct Frame(BytesMut);

/// Why no message can be had from the socket any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("reading: {0}")]
    Read(io::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("a length of {0} bytes, which is less than the length field itself")]
    Length(u32),
    #[error("a message of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge { bytes: u64, limit: usize },
}

impl FramedSocket {
    /// `message_bytes_max` bounds one message with its header, and so the memory a server can make us take.
    pub(crate) fn new(socket: Box<dyn Socket>, message_bytes_max: usize) -> Self {
        FramedSocket { socket, buffer: BytesMut::new(), message_bytes_max }
    }

    /// The next message that has arrived completely, without waiting.
    pub(crate) fn buffered_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(total) = self.announced_bytes()? else {
            return Ok(None);
        };
        if self.buffer.len() < total {
            return Ok(None);
        }
        Ok(Some(Frame(self.buffer.split_to(total))))
    }

    /// Waits until more bytes have arrived. Dropping the future loses nothing.
    pub(crate) async fn read_more(&mut self) -> Result<(), FrameError> {
        // A large message gets its room at once instead of by doubling.
        let missing = self.announced_bytes()?.map_or(0, |total| total.saturating_sub(self.buffer.len()));
        if self.buffer.capacity() - self.buffer.len() < missing.max(READ_BYTES_MIN) {
            self.buffer.reserve(missing.max(READ_BYTES));
        }
        match self.socket.read_buf(&mut self.buffer).await {
            Ok(0) => Err(FrameError::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(FrameError::Read(error)),
        }
    }

    /// Waits for one message. Dropping the future loses nothing.
    pub(crate) async fn frame(&mut self) -> Result<Frame, FrameError> {
        loop {
            if let Some(frame) = self.buffered_frame()? {
                return Ok(frame);
            }
            self.read_more().await?;
        }
    }

    /// Sends bytes and flushes them. Not to be dropped half-way unless the connection is given up.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await
    }

    /// Says goodbye on the transport (TLS close, FIN).
    pub(crate) async fn shut_down(&mut self) -> io::Result<()> {
        self.socket.shutdown().await
    }

    /// The whole length of the message at the front, once its header has arrived.
    fn announced_bytes(&self) -> Result<Option<usize>, FrameError> {
        let Some(header) = self.buffer.get(..HEADER_BYTES) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        if length < 4 {
            return Err(FrameError::Length(length));
        }
        let total = u64::from(length) + 1;
        match usize::try_from(total) {
            Ok(total) if total <= self.message_bytes_max => Ok(Some(total)),
            _ => Err(FrameError::TooLarge { bytes: total, limit: self.message_bytes_max }),
        }
    }
}

impl Frame {
    pub(crate) fn tag(&self) -> u8 {
        self.0[0]
    }

    /// What follows the header, shared with the read buffer and not copied.
    pub(crate) fn into_body(self) -> Bytes {
        let mut whole = self.0.freeze();
        whole.split_off(HEADER_BYTES)
    }

    /// The message as `postgres-protocol` knows it (which is every message but `CopyBothResponse`).
    pub(crate) fn parse(mut self) -> io::Result<Message> {
        let message = Message::parse(&mut self.0)?;
        message.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message that is not complete"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(limit: usize) -> (tokio::io::DuplexStream, FramedSocket) {
        let (server, client) = tokio::io::duplex(1 << 20);
        (server, FramedSocket::new(Box::new(client), limit))
    }

    #[tokio::test]
    async fn a_frame_survives_reads_that_are_dropped_after_every_byte() {
        let (mut server, mut socket) = pair(1024);
        for byte in b"d\0\0\0\x07abc" {
            // The future is polled, finds nothing, and is dropped.
            tokio::select! {
                biased;
                _ = socket.frame() => panic!("the message is not complete yet"),
                () = std::future::ready(()) => {}
            }
            server.write_all(&[*byte]).await.unwrap();
        }
        let frame = socket.frame().await.unwrap();
        assert_eq!(frame.tag(), b'd');
        assert_eq!(frame.into_body(), Bytes::from_static(b"abc"));
    }

    #[tokio::test]
    async fn one_read_yields_every_message_that_had_arrived() {
        let (mut server, mut socket) = pair(1024);
        server.write_all(b"d\0\0\0\x05aZ\0\0\0\x05Id\0\0").await.unwrap();
        socket.read_more().await.unwrap();
        assert_eq!(socket.buffered_frame().unwrap().unwrap().tag(), b'd');
        let ready = socket.buffered_frame().unwrap().unwrap();
        assert!(matches!(ready.parse().unwrap(), Message::ReadyForQuery(_)));
        assert!(socket.buffered_frame().unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_above_the_limit_is_an_error_before_it_is_read() {
        let (mut server, mut socket) = pair(100);
        server.write_all(b"d\0\0\0\x64").await.unwrap();
        assert!(matches!(socket.frame().await, Err(FrameError::TooLarge { bytes: 101, limit: 100 })));
    }

    #[tokio::test]
    async fn a_length_below_four_is_an_error() {
        let (mut server, mut socket) = pair(100);
        server.write_all(b"d\0\0\0\x03").await.unwrap();
        assert!(matches!(socket.frame().await, Err(FrameError::Length(3))));
    }

    #[tokio::test]
    async fn a_message_larger_than_the_buffer_arrives_whole() {
        let (mut server, mut socket) = pair(16 << 20);
        let body = vec![7_u8; 5 << 20];
        let mut message = vec![b'd'];
        message.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        message.extend(&body);
        let writer = tokio::spawn(async move { server.write_all(&message).await });
        assert_eq!(socket.frame().await.unwrap().into_body(), body);
        writer.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_closed_socket_is_told_from_a_quiet_one() {
        let (server, mut socket) = pair(100);
        drop(server);
        assert!(matches!(socket.frame().await, Err(FrameError::Closed)));
    }
}
