//! Many sockets on one thread: one epoll, one read buffer for all of them, frames looked at where they were read.
//!
//! What a load client needs per message is what the server can not use on a shared machine, so there is no task, no
//! queue and no allocation per message here.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use socket2::{Domain, Socket as RawSocket, Type};

use crate::frame::{self, Opcode};
use crate::protocol::Protocol;
use crate::stamp;

/// Bytes that one read takes at most.
const READ_BUFFER_BYTES: usize = 256 << 10;
/// Events that one poll brings at most.
const EVENTS_PER_POLL: usize = 1_024;
/// Opening handshakes under way at a time: below the backlog of any listener.
const HANDSHAKES_AT_A_TIME: usize = 100;
/// How long the opening of sockets may stand still.
const OPENING_DEADLINE: Duration = Duration::from_secs(30);
/// The longest answer to a handshake.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

/// A message of the server.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The socket's number.
    pub socket: usize,
    /// Its payload.
    pub payload: &'a [u8],
    /// When it was read, as [`stamp::now`] tells it.
    pub at: u64,
}

/// Where the sockets lead.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// What is spoken.
    pub protocol: Protocol,
    /// Addresses of this machine that they come from, 127.0.0.1 and those after it; for a server on loopback only.
    pub sources: u8,
}

/// The sockets.
pub struct Swarm {
    target: Target,
    poll: Poll,
    events: Events,
    sockets: Vec<Socket>,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    open: usize,
    /// Bytes read since the beginning.
    pub bytes_read: u64,
}

struct Socket {
    stream: TcpStream,
    stage: Stage,
    /// The beginning of a frame whose end has not come yet.
    rest: Vec<u8>,
    /// What the kernel has not taken yet.
    unsent: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Upgrading,
    Open,
}

impl Swarm {
    /// No sockets yet.
    pub fn new(target: Target) -> Result<Self> {
        Ok(Swarm {
            target,
            poll: Poll::new().context("no epoll")?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            sockets: Vec::new(),
            buffer: vec![0; READ_BUFFER_BYTES],
            scratch: Vec::new(),
            open: 0,
            bytes_read: 0,
        })
    }

    /// What is spoken.
    pub fn protocol(&self) -> Protocol {
        self.target.protocol
    }

    /// Sockets that have been opened.
    pub fn count(&self) -> usize {
        self.sockets.len()
    }

    /// Opens so many more sockets, each with the path that `path_of` gives its number; `opened` is told of each one.
    pub fn open(
        &mut self,
        count: usize,
        path_of: &dyn Fn(usize) -> Result<String>,
        opened: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let wanted = self.sockets.len() + count;
        let (mut told, mut moved) = (self.open, Instant::now());
        while self.open < wanted {
            while self.sockets.len() < wanted && self.sockets.len() - self.open < HANDSHAKES_AT_A_TIME {
                self.connect()?;
            }
            self.turn(Duration::from_millis(100), &mut |_| {}, Some(path_of))?;
            if self.open > told {
                (told, moved) = (self.open, Instant::now());
                opened(told);
            }
            if moved.elapsed() > OPENING_DEADLINE {
                bail!(
                    "{} of {wanted} sockets are open, and no other was for {OPENING_DEADLINE:?}",
                    self.open
                );
            }
        }
        Ok(())
    }

    /// Waits for what the server sends, `timeout` at most, and hands it on.
    pub fn poll(&mut self, timeout: Duration, receive: &mut impl FnMut(Message<'_>)) -> Result<()> {
        self.turn(timeout, receive, None)
    }

    /// Sends what `write` appends.
    pub fn send(&mut self, number: usize, write: impl FnOnce(Protocol, &mut Vec<u8>)) -> Result<()> {
        let socket = &mut self.sockets[number];
        if !socket.unsent.is_empty() {
            write(self.target.protocol, &mut socket.unsent);
            return Ok(());
        }
        self.scratch.clear();
        write(self.target.protocol, &mut self.scratch);
        let sent =
            socket.write(&self.scratch).with_context(|| format!("socket {number} can not be written"))?;
        socket.unsent.extend_from_slice(&self.scratch[sent..]);
        Ok(())
    }

    fn connect(&mut self) -> Result<()> {
        let number = self.sockets.len();
        let stream = self.stream(number).with_context(|| {
            format!("socket {number} can not be made; is the limit of open files high enough (ulimit -n)?")
        })?;
        let mut socket = Socket { stream, stage: Stage::Connecting, rest: Vec::new(), unsent: Vec::new() };
        self.poll.registry().register(
            &mut socket.stream,
            Token(number),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.sockets.push(socket);
        Ok(())
    }

    fn stream(&self, number: usize) -> std::io::Result<TcpStream> {
        let address = self.target.address;
        let raw = RawSocket::new(Domain::for_address(address), Type::STREAM, None)?;
        raw.set_nonblocking(true)?;
        raw.set_tcp_nodelay(true)?;
        if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) && self.target.sources > 1 {
            // The remainder is below 256.
            let last = 1 + u8::try_from(number % usize::from(self.target.sources)).unwrap_or(0);
            raw.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into())?;
        }
        match raw.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        Ok(TcpStream::from_std(raw.into()))
    }

    fn turn(
        &mut self,
        timeout: Duration,
        receive: &mut impl FnMut(Message<'_>),
        path_of: Option<&dyn Fn(usize) -> Result<String>>,
    ) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other.context("epoll")?,
        }
        for event in &self.events {
            let number = event.token().0;
            let socket = &mut self.sockets[number];
            let mut during = || -> Result<()> {
                if event.is_writable() {
                    if socket.stage == Stage::Connecting
                        && let Some(path_of) = path_of
                    {
                        socket.upgrade(&path_of(number)?, &self.target.host)?;
                    }
                    socket.send_rest()?;
                }
                if event.is_readable() || event.is_read_closed() {
                    let read = socket.receive(number, self.target.protocol, &mut self.buffer, receive)?;
                    self.bytes_read += read.bytes;
                    self.open += usize::from(read.opened);
                }
                Ok(())
            };
            during().with_context(|| format!("socket {number}"))?;
        }
        Ok(())
    }
}

/// What came of reading a socket.
#[derive(Default)]
struct Received {
    bytes: u64,
    opened: bool,
}

impl Socket {
    fn upgrade(&mut self, path: &str, host: &str) -> Result<()> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error).context("no connection");
        }
        self.stage = Stage::Upgrading;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: d2FsY2FzdCBiZW5jaC4uLg==\r\n\r\n"
        );
        self.unsent.extend_from_slice(request.as_bytes());
        Ok(())
    }

    /// Writes what the kernel takes at once; tells how much that is.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn send_rest(&mut self) -> Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        let unsent = std::mem::take(&mut self.unsent);
        let sent = self.write(&unsent).context("it can not be written")?;
        if sent < unsent.len() {
            self.unsent = unsent;
            self.unsent.drain(..sent);
        }
        Ok(())
    }

    fn receive(
        &mut self,
        number: usize,
        protocol: Protocol,
        buffer: &mut [u8],
        receive: &mut impl FnMut(Message<'_>),
    ) -> Result<Received> {
        let mut received = Received::default();
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => bail!("the server has hung up"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(received),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("it can not be read"),
            };
            received.bytes += count as u64;
            self.take(number, protocol, &buffer[..count], receive, &mut received)?;
            // epoll(7): a stream that gave less than there was room for is empty.
            if count < buffer.len() {
                return Ok(received);
            }
        }
    }

    fn take(
        &mut self,
        number: usize,
        protocol: Protocol,
        bytes: &[u8],
        receive: &mut impl FnMut(Message<'_>),
        received: &mut Received,
    ) -> Result<()> {
        let joined = (!self.rest.is_empty()).then(|| {
            let mut joined = std::mem::take(&mut self.rest);
            joined.extend_from_slice(bytes);
            joined
        });
        let mut left = joined.as_deref().unwrap_or(bytes);
        if self.stage == Stage::Upgrading {
            let Some(length) = accepted(left)? else {
                self.rest.extend_from_slice(left);
                return Ok(());
            };
            left = &left[length..];
            self.stage = Stage::Open;
            received.opened = true;
            protocol.greet(&mut self.unsent);
        }
        let at = stamp::now();
        while let Some(found) = frame::first(left)? {
            match found.opcode {
                Opcode::Text | Opcode::Binary => match protocol.pong(found.payload) {
                    Some(pong) => frame::write(&mut self.unsent, Opcode::Text, pong),
                    None => receive(Message { socket: number, payload: found.payload, at }),
                },
                Opcode::Ping => frame::write(&mut self.unsent, Opcode::Pong, found.payload),
                Opcode::Pong => {}
                Opcode::Close => bail!("the server has closed it: {}", close_reason(found.payload)),
            }
            left = &left[found.length..];
        }
        let kept = left.len();
        self.rest = match joined {
            Some(mut joined) if kept > 0 => {
                joined.drain(..joined.len() - kept);
                joined
            }
            Some(_) => Vec::new(),
            None => bytes[bytes.len() - kept..].to_vec(),
        };
        self.send_rest()
    }
}

/// The length of the head that accepts the upgrade; `None` while it is not complete.
fn accepted(response: &[u8]) -> Result<Option<usize>> {
    let Some(end) = memchr::memmem::find(response, b"\r\n\r\n") else {
        if response.len() > RESPONSE_BYTES_MAX {
            bail!("the answer to the handshake does not end");
        }
        return Ok(None);
    };
    if response.starts_with(b"HTTP/1.1 101") {
        return Ok(Some(end + 4));
    }
    let head = String::from_utf8_lossy(&response[..end]);
    let body = String::from_utf8_lossy(&response[end + 4..]);
    bail!("the server refuses the handshake: {} {body}", head.lines().next().unwrap_or_default());
}

fn close_reason(payload: &[u8]) -> String {
    match payload {
        [first, second, reason @ ..] => {
            format!("{} {}", u16::from_be_bytes([*first, *second]), String::from_utf8_lossy(reason))
        }
        _ => "without a code".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_upgrade_ends_with_its_head_and_a_refused_one_is_repeated() {
        assert_eq!(accepted(b"HTTP/1.1 101 Switching").unwrap(), None);
        assert_eq!(accepted(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\0").unwrap(), Some(36));
        let refused =
            accepted(b"HTTP/1.1 429 Too Many Requests\r\n\r\n{\"error\":\"Too many\"}").unwrap_err();
        assert!(refused.to_string().contains(r#"429 Too Many Requests {"error":"Too many"}"#), "{refused}");
    }

    #[test]
    fn a_close_is_told_with_its_code_and_reason() {
        assert_eq!(close_reason(b"\x03\xf5slow consumer"), "1013 slow consumer");
        assert_eq!(close_reason(b""), "without a code");
    }
}
