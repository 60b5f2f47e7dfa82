//! A relay between the catalog and PostgreSQL that counts round trips.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// A relay that listens on a port of its own. It runs as long as the runtime.
pub struct Relay {
    address: SocketAddr,
    round_trips: Arc<AtomicU64>,
}

impl Relay {
    /// Starts to pass every connection on to `server`.
    pub async fn to(server: SocketAddr) -> io::Result<Relay> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let round_trips = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&round_trips);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, server, Arc::clone(&counted)));
            }
        });
        Ok(Relay { address, round_trips })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often so far, over all connections, a client has spoken after the server did. Requests that are sent
    /// without waiting for each other's answers count once.
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Relaxed)
    }
}

async fn pass_on(client: TcpStream, server: SocketAddr, round_trips: Arc<AtomicU64>) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let server_spoke = AtomicBool::new(true);
    tokio::try_join!(
        copy(client_reads, server_writes, || {
            if server_spoke.swap(false, Relaxed) {
                round_trips.fetch_add(1, Relaxed);
            }
        }),
        copy(server_reads, client_writes, || server_spoke.store(true, Relaxed)),
    )?;
    Ok(())
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    passed: impl Fn(),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        passed();
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answered_request_is_one_round_trip() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let echo = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (mut reads, mut writes) = socket.split();
            tokio::io::copy(&mut reads, &mut writes).await.unwrap();
        });
        let relay = Relay::to(echo).await.unwrap();
        let mut client = TcpStream::connect(relay.address()).await.unwrap();
        for expected in 1..=3 {
            client.write_all(b"question").await.unwrap();
            let mut answer = [0; 8];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"question");
            assert_eq!(relay.round_trips(), expected);
        }
    }
}
