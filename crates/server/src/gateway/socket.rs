//! A stream with two users: the connection's task reads it, the session's shard writes it.
//!
//! TCP is written straight to the kernel; TLS through [`TlsSocket`].

use std::cell::RefCell;
use std::io::{self, IoSlice, Read as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;
use walcast_engine::Socket;

use super::tls_socket::TlsSocket;

/// Large, because it is there for a moment only.
const DISCARD_BUFFER_BYTES: usize = 64 << 10;
/// Bytes that one read takes from the kernel: what a client has sent in one go, most often. The buffer is the thread's.
const READ_BYTES: usize = 16 << 10;
/// Up to here, several frames are copied together before they are written: for small ones that takes less time than the
/// kernel needs to look at each.
const GATHERED_BYTES: usize = 16 << 10;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
    static GATHERED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in the kernel's buffer that are not under way yet; more are not handed to it.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 256 << 10;

/// The stream, and what its writer tells its reader.
pub(crate) struct SharedStream {
    stream: Stream,
    /// The writer found the kernel's buffer full.
    pub(crate) blocked: Notify,
    /// The writer has queued the last frame.
    pub(crate) closing: Notify,
    /// The writer has written the last frame, or given up.
    pub(crate) finished: Notify,
}

/// What the bytes go through.
enum Stream {
    Tcp(TcpStream),
    /// In a box, so that connections without TLS do not take its memory.
    Tls(Box<TlsSocket>),
}

impl SharedStream {
    /// Takes the connection out of the HTTP layer, with the bytes that this has read too many. `None` when it is
    /// neither TCP nor TLS over TCP.
    pub(crate) fn of(upgraded: Upgraded) -> Option<(Arc<Self>, Bytes)> {
        let (stream, early) = match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) => (Stream::Tcp(parts.io.into_inner()), parts.read_buf),
            Err(upgraded) => {
                let parts = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>().ok()?;
                let (stream, connection) = parts.io.into_inner().into_inner();
                (Stream::Tls(Box::new(TlsSocket::new(stream, connection))), parts.read_buf)
            }
        };
        let (blocked, closing, finished) = (Notify::new(), Notify::new(), Notify::new());
        let shared = SharedStream { stream, blocked, closing, finished };
        // Small frames must not wait for one another; a socket that refuses the option works all the same.
        let _ = shared.tcp().set_nodelay(true);
        shared.bound_unsent();
        Some((Arc::new(shared), early))
    }

    /// What has not been sent waits here, where it can be replaced, expire or be dropped, rather than in the kernel's buffer,
    /// which grows to megabytes. It does not bound what is under way.
    fn bound_unsent(&self) {
        // tcp(7), TCP_NOTSENT_LOWAT. A kernel without it buffers more.
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(self.tcp()).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(socket) => socket.tcp(),
        }
    }

    /// Waits until the kernel takes bytes again.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.writable().await,
            Stream::Tls(socket) => socket.writable().await,
        }
    }

    /// Tells the peer that nothing more comes.
    pub(crate) fn end_writing(&self) {
        match &self.stream {
            Stream::Tcp(stream) => {
                // A peer that is gone need not be told.
                let _ = SockRef::from(stream).shutdown(Shutdown::Write);
            }
            Stream::Tls(socket) => {
                if socket.end_writing().is_behind() {
                    self.blocked.notify_one();
                }
            }
        }
    }

    /// Takes what the peer sends without looking at it, until it hangs up or has sent so many bytes.
    pub(crate) async fn discard(&self, bytes_max: usize) {
        let mut buffer = vec![0; DISCARD_BUFFER_BYTES];
        let mut left = bytes_max;
        while left > 0 && self.tcp().readable().await.is_ok() {
            match self.tcp().try_read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Stream::Tcp(stream) => poll_read_tcp(stream, context, buffer),
            Stream::Tls(socket) => {
                let (outcome, behind) = socket.poll_read(context, buffer);
                if behind.is_behind() {
                    self.blocked.notify_one();
                }
                outcome
            }
        }
    }
}

fn poll_read_tcp(
    stream: &TcpStream,
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(context))?;
        let unfilled = buffer.initialize_unfilled();
        let mut taken = None;
        let outcome = stream.try_io(Interest::READABLE, || {
            let count = (&*SockRef::from(stream)).read(unfilled)?;
            taken = Some(count);
            // epoll(7): a stream that gave less than there was room for is empty, which need not be asked of it.
            if cfg!(target_os = "linux") && count > 0 && count < unfilled.len() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        match (taken, outcome) {
            (Some(count), _) => {
                buffer.advance(count);
                return Poll::Ready(Ok(()));
            }
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                return Poll::Ready(Err(error));
            }
            (None, _) => {}
        }
    }
}

/// Writes frames to the kernel: one alone, small ones together, and large ones as they lie.
fn try_write_tcp(stream: &TcpStream, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    if let [single] = buffers {
        return send(stream, single);
    }
    let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
    if bytes > GATHERED_BYTES {
        return stream.try_write_vectored(buffers);
    }
    GATHERED.with_borrow_mut(|gathered| {
        gathered.clear();
        for buffer in buffers {
            gathered.extend_from_slice(buffer);
        }
        send(stream, gathered)
    })
}

/// Asks the kernel first: the runtime's opinion lies in memory that nothing else here touches, and is needed only where
/// there is no room. Without the C library, whose calls ask each time whether somebody wants to cancel the thread.
fn send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    // Rust programs ignore SIGPIPE.
    match rustix::net::send(stream, bytes, SendFlags::empty()) {
        Err(Errno::WOULDBLOCK) => stream.try_write(bytes),
        outcome => Ok(outcome?),
    }
}

impl Socket for SharedStream {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => try_write_tcp(stream, buffers),
            Stream::Tls(socket) => {
                let (count, behind) = socket.try_write(buffers)?;
                if behind.is_behind() {
                    self.blocked.notify_one();
                }
                Ok(count)
            }
        }
    }

    fn notify_writable(&self) {
        self.blocked.notify_one();
    }

    fn writable(&self) -> BoxFuture<'_, ()> {
        // What fails is found out by the next write.
        SharedStream::writable(self).map(drop).boxed()
    }

    fn finish(&self) {
        self.finished.notify_one();
    }

    fn closing(&self) {
        self.closing.notify_one();
    }
}

/// The reading half, as the WebSocket parser wants it: it takes little at a time, so that it keeps little memory, and the
/// kernel is asked for much at a time. What the parser itself writes (pongs) is collected for the outbound queue, so that
/// it can not cut into a frame of the shard's.
pub(crate) struct Reader {
    shared: Arc<SharedStream>,
    /// Bytes that the parser has not taken yet; at first those that came with the HTTP request.
    early: Bytes,
    collected: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<SharedStream>, early: Bytes) -> Self {
        Reader { shared, early, collected: Vec::new() }
    }

    /// What the parser has written since the last call.
    pub(crate) fn take_collected(&mut self) -> Option<Bytes> {
        (!self.collected.is_empty()).then(|| Bytes::from(std::mem::take(&mut self.collected)))
    }
}

impl Reader {
    /// Reads from the kernel: what fits goes to the parser, what does not is kept.
    fn read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        READ_BUFFER.with_borrow_mut(|bytes| {
            let mut read = ReadBuf::new(bytes);
            ready!(self.shared.poll_read(context, &mut read))?;
            let (first, rest) = read.filled().split_at(read.filled().len().min(buffer.remaining()));
            buffer.put_slice(first);
            if !rest.is_empty() {
                self.early = Bytes::copy_from_slice(rest);
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return self.read(context, buffer);
        }
        let count = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early[..count]);
        self.early.advance(count);
        if self.early.is_empty() {
            // An empty one would hold on to what it was a part of.
            self.early = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Reader {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.collected.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
