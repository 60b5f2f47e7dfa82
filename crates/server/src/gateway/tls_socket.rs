//! A TLS connection with two users, as [`super::socket`] has it for TCP.
//!
//! The shard encrypts under a short lock and hands the records to the kernel at once. What the kernel does not take
//! stays in the TLS session, at most one fill of its buffer: nothing more is taken from the shard until it is gone.
//! The connection's task sends it on when the kernel has room, so that the last bytes never wait for the next frame.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::rustls::ServerConnection;

/// Bytes that are encrypted ahead of what the kernel takes.
const RECORD_BYTES_MAX: usize = 64 << 10;

/// Whether encrypted bytes wait for the kernel: then [`TlsSocket::writable`] must be awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backlog {
    Empty,
    Waiting,
}

impl Backlog {
    pub(super) fn is_behind(self) -> bool {
        self == Backlog::Waiting
    }
}

pub(super) struct TlsSocket {
    stream: TcpStream,
    session: Mutex<Session>,
}

struct Session {
    connection: ServerConnection,
    /// Nothing is encrypted any more; once all is sent, the stream ends.
    ending: bool,
}

impl TlsSocket {
    /// A connection whose handshake is over.
    pub(super) fn new(stream: TcpStream, mut connection: ServerConnection) -> Self {
        connection.set_buffer_limit(Some(RECORD_BYTES_MAX));
        TlsSocket { stream, session: Mutex::new(Session { connection, ending: false }) }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    /// Encrypts what there is room for, and sends what the kernel takes.
    pub(super) fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<(usize, Backlog)> {
        let mut session = self.lock();
        if session.send(&self.stream)?.is_behind() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = session.connection.writer().write_vectored(buffers)?;
        Ok((count, session.send(&self.stream)?))
    }

    /// Waits until all that is encrypted has been sent.
    pub(super) async fn writable(&self) -> io::Result<()> {
        loop {
            self.stream.writable().await?;
            if self.lock().send(&self.stream)? == Backlog::Empty {
                return Ok(());
            }
        }
    }

    /// Takes leave as TLS asks for (RFC 8446 §6.1), behind all that is on its way.
    pub(super) fn end_writing(&self) -> Backlog {
        let mut session = self.lock();
        session.connection.send_close_notify();
        session.ending = true;
        // A peer that is gone need not be told.
        session.send(&self.stream).unwrap_or(Backlog::Empty)
    }

    /// Reads and decrypts. What the session wants to say by itself (key updates, alerts) goes out too.
    pub(super) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> (Poll<io::Result<()>>, Backlog) {
        let mut backlog = Backlog::Empty;
        loop {
            match self.lock().connection.reader().read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return (Poll::Ready(Ok(())), backlog);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return (Poll::Ready(Err(error)), backlog),
            }
            match self.stream.poll_read_ready(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return (Poll::Ready(Err(error)), backlog),
                Poll::Pending => return (Poll::Pending, backlog),
            }
            match self.lock().receive(&self.stream) {
                Ok(after) => backlog = after,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return (Poll::Ready(Err(error)), backlog),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        // After a panic in the TLS library its errors end the connection.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn receive(&mut self, stream: &TcpStream) -> io::Result<Backlog> {
        self.connection.read_tls(&mut Kernel(stream))?;
        let processed = self.connection.process_new_packets();
        // An alert goes out with an error, too.
        let backlog = self.send(stream);
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        backlog
    }

    fn send(&mut self, stream: &TcpStream) -> io::Result<Backlog> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Kernel(stream)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Backlog::Waiting),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.ending {
            let _ = SockRef::from(stream).shutdown(Shutdown::Write);
        }
        Ok(Backlog::Empty)
    }
}

/// The kernel's side of the stream; no call blocks.
struct Kernel<'a>(&'a TcpStream);

impl Read for Kernel<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
