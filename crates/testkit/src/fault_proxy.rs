//! A TCP proxy that breaks the network on request, between a server and its database or its clients.
//!
//! What it does to the bytes is a [`Flow`], one for each [`Direction`], and holds for open connections and later ones.
//! A [`Cut`] ends the connections that are open.
//!
//! The kernel acknowledges what has reached the proxy, as any proxy's does. Whoever counts acknowledged bytes as
//! delivered is right after [`Cut::Finish`], which passes all of them on first, and wrong by what lay here after
//! [`Cut::Reset`].

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes of one connection and direction that the proxy holds at most, beside the kernel's buffers.
const HELD_BYTES_MAX: usize = 256 << 10;
/// The largest piece that is read or written at once.
const PIECE_BYTES: usize = 16 << 10;
/// How long a [`Cut::Finish`] waits for the server to hang up.
const FINISH_DEADLINE: Duration = Duration::from_secs(2);

/// Which way bytes go. The *client* is whoever connected to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They pass at once.
    #[default]
    Free,
    /// Each arrives this much later; as many pass as before.
    Delayed(Duration),
    /// So many pass in a second, of all connections together.
    Limited(NonZeroU64),
    /// None pass, and nobody is told: a black hole. What has been swallowed arrives when the flow is let go again, as
    /// if the kernel had sent it anew.
    Held,
}

/// How open connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// With RST to both sides; what was on its way is lost.
    Reset,
    /// With FIN to both sides: the server's first, and what it had sent until then reaches the client.
    Finish,
}

/// A proxy on a port of 127.0.0.1. Dropping it ends all connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<String>,
    flows: [watch::Sender<Flow>; 2],
    lines: [Line; 2],
    accepted: AtomicU64,
    refusing: watch::Sender<bool>,
    open: Mutex<HashMap<u64, oneshot::Sender<Order>>>,
}

/// What all connections have in common in one direction.
#[derive(Debug, Default)]
struct Line {
    passed: AtomicU64,
    /// When the next byte may go, under a limit.
    next: Mutex<Option<Instant>>,
}

/// A cut, and whom to tell when it is done.
#[derive(Debug)]
struct Order {
    cut: Cut,
    done: oneshot::Sender<()>,
}

impl FaultProxy {
    /// A proxy to `target` (`host:port`), through which everything passes until told otherwise.
    pub async fn start(target: impl Into<String>) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port for the fault proxy")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target.into()),
            flows: [watch::Sender::new(Flow::Free), watch::Sender::new(Flow::Free)],
            lines: [Line::default(), Line::default()],
            accepted: AtomicU64::new(0),
            refusing: watch::Sender::new(false),
            open: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to another server.
    pub fn lead_to(&self, target: impl Into<String>) {
        *locked(&self.shared.target) = target.into();
    }

    /// Changes what happens to bytes in one direction.
    pub fn set_flow(&self, direction: Direction, flow: Flow) {
        self.shared.flows[direction as usize].send_replace(flow);
    }

    /// Changes it in both directions.
    pub fn set_flows(&self, flow: Flow) {
        self.set_flow(Direction::ToServer, flow);
        self.set_flow(Direction::ToClient, flow);
    }

    /// Lets everything pass again, and new connections in.
    pub fn heal(&self) {
        self.set_flows(Flow::Free);
        self.admit();
    }

    /// Ends all connections that are open, waits until they have ended, and says how many they were. Others may have
    /// been made meanwhile, unless they are refused.
    pub async fn cut(&self, how: Cut) -> usize {
        let connections: Vec<_> = locked(&self.shared.open).drain().collect();
        let mut ends = Vec::new();
        for (_, order) in connections {
            let (done, end) = oneshot::channel();
            if order.send(Order { cut: how, done }).is_ok() {
                ends.push(end);
            }
        }
        let mut cut = 0;
        for end in ends {
            // An error: it ended by itself before it read the order.
            cut += usize::from(end.await.is_ok());
        }
        cut
    }

    /// From now on resets every new connection at once, as a host without a listener does.
    pub fn refuse(&self) {
        self.shared.refusing.send_replace(true);
    }

    /// Lets new connections in again.
    pub fn admit(&self) {
        self.shared.refusing.send_replace(false);
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        locked(&self.shared.open).len()
    }

    /// How many connections have been made since the start, those that were refused not counted.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many bytes have passed in one direction since the start, to choose a [`Flow::Limited`].
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.lines[direction as usize].passed.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // The connections are tasks of this one, and end with it.
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut next_id = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of file descriptors, say: the next one may find some.
                let Ok((client, _)) = accepted else { tokio::task::yield_now().await; continue };
                if *shared.refusing.borrow() {
                    let _ = client.set_zero_linger();
                    continue;
                }
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                next_id += 1;
                let (order, orders) = oneshot::channel();
                locked(&shared.open).insert(next_id, order);
                connections.spawn(serve(client, next_id, orders, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(client: TcpStream, id: u64, orders: oneshot::Receiver<Order>, shared: Arc<Shared>) {
    // An error is the end of this connection, which both sides see for themselves.
    let _ = Connection::new(client).run(orders, &shared).await;
    locked(&shared.open).remove(&id);
}

struct Connection {
    client: TcpStream,
    to_server: Pipe,
    to_client: Pipe,
}

impl Connection {
    fn new(client: TcpStream) -> Self {
        Self { client, to_server: Pipe::default(), to_client: Pipe::default() }
    }

    async fn run(mut self, mut orders: oneshot::Receiver<Order>, shared: &Shared) -> io::Result<()> {
        let target = locked(&shared.target).clone();
        let connected = tokio::select! {
            connected = TcpStream::connect(target) => Some(connected),
            order = &mut orders => {
                self.client.set_zero_linger()?;
                drop(self.client);
                told(order);
                return Ok(());
            }
        };
        let Some(Ok(mut server)) = connected else { return self.client.set_zero_linger() };
        self.client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ended = {
            let (client_read, client_write) = self.client.split();
            let (server_read, server_write) = server.split();
            let [up, down] = &shared.flows;
            let [up_line, down_line] = &shared.lines;
            let passing = async {
                tokio::try_join!(
                    self.to_server.carry(client_read, server_write, up.subscribe(), up_line),
                    self.to_client.carry(server_read, client_write, down.subscribe(), down_line),
                )
            };
            tokio::select! {
                ended = passing => Ended::ByItself(ended.map(|_| ())),
                order = orders => Ended::Ordered(order),
            }
        };
        match ended {
            Ended::ByItself(Ok(())) => {}
            // One side is gone without a farewell, and so it is for the other; or the proxy goes.
            Ended::ByItself(Err(_)) | Ended::Ordered(Err(_)) => reset(&self.client, &server)?,
            Ended::Ordered(Ok(Order { cut, done })) => {
                match cut {
                    Cut::Reset => reset(&self.client, &server)?,
                    Cut::Finish => self.finish(&mut server).await,
                }
                drop((self.client, server));
                let _ = done.send(());
            }
        }
        Ok(())
    }

    /// Hangs up on the server, and on the client when it has got all that the server had sent.
    async fn finish(&mut self, server: &mut TcpStream) {
        let _ = server.shutdown().await;
        let rest = async {
            self.to_client.flush(&mut self.client).await?;
            tokio::io::copy(server, &mut self.client).await?;
            self.client.shutdown().await
        };
        // Whoever does not hang up in time, or does not read, has had its chance.
        let _ = timeout(FINISH_DEADLINE, rest).await;
    }
}

enum Ended {
    ByItself(io::Result<()>),
    Ordered(Result<Order, oneshot::error::RecvError>),
}

fn reset(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    client.set_zero_linger()?;
    server.set_zero_linger()
}

fn told(order: Result<Order, oneshot::error::RecvError>) {
    if let Ok(order) = order {
        let _ = order.done.send(());
    }
}

/// The bytes of one direction that are inside the proxy, each piece with the time at which it came.
#[derive(Default)]
struct Pipe {
    pieces: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// Nothing more will come.
    ended: bool,
}

impl Pipe {
    /// Carries bytes until the source ends and all have arrived; the end is passed on too.
    async fn carry(
        &mut self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        mut flow: watch::Receiver<Flow>,
        line: &Line,
    ) -> io::Result<()> {
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
        loop {
            let current = *flow.borrow_and_update();
            let passes = current != Flow::Held;
            if passes && self.ended && self.pieces.is_empty() {
                return to.shutdown().await;
            }
            buffer.reserve(PIECE_BYTES);
            tokio::select! {
                // The sender is gone only with the whole proxy.
                changed = flow.changed() => changed.map_err(io::Error::other)?,
                read = from.read_buf(&mut buffer), if passes && !self.ended && self.bytes < HELD_BYTES_MAX => {
                    let read = read?;
                    self.ended = read == 0;
                    self.bytes += read;
                    if read > 0 {
                        self.pieces.push_back((Instant::now(), buffer.split().freeze()));
                    }
                }
                written = self.write_due(&mut to, current, line), if passes && !self.pieces.is_empty() => {
                    line.passed.fetch_add(written? as u64, Ordering::Relaxed);
                }
            }
        }
    }

    /// Writes a part of the first piece once it may go. Cancelled, it has written nothing.
    async fn write_due(&mut self, to: &mut WriteHalf<'_>, flow: Flow, line: &Line) -> io::Result<usize> {
        let Some((came, piece)) = self.pieces.front_mut() else { return Ok(0) };
        let mut part = piece.len().min(PIECE_BYTES);
        match flow {
            Flow::Free | Flow::Held => {}
            Flow::Delayed(delay) => sleep_until(*came + delay).await,
            Flow::Limited(per_second) => {
                let next = *locked(&line.next);
                if let Some(next) = next {
                    sleep_until(next).await;
                }
                // Twenty times a second, so that a slow line is slow and does not stutter.
                part = part.min(usize::try_from(per_second.get() / 20).unwrap_or(usize::MAX).max(1));
            }
        }
        let written = to.write(&piece[..part]).await?;
        piece.advance(written);
        self.bytes -= written;
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        if let Flow::Limited(per_second) = flow {
            #[expect(clippy::cast_precision_loss, reason = "a piece is small, and a rate need not be exact")]
            let takes = Duration::from_secs_f64(written as f64 / per_second.get() as f64);
            let now = Instant::now();
            let mut next = locked(&line.next);
            *next = Some(next.map_or(now, |next| next.max(now)) + takes);
        }
        Ok(written)
    }

    async fn flush(&mut self, to: &mut TcpStream) -> io::Result<()> {
        while let Some((_, mut piece)) = self.pieces.pop_front() {
            to.write_all_buf(&mut piece).await?;
        }
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
