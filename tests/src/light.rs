//! A connection that takes little: thousands of them fit into one test. It speaks the protocol as far as a reader needs to,
//! and it can leave what it is sent in the kernel's buffers.

use std::io;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use walcast_wire::{Frame, FrameReader, Opcode};

/// Bytes taken from the kernel at once.
const READ_BYTES: usize = 16 << 10;

/// One connection.
pub struct LightClient {
    stream: TcpStream,
    reader: FrameReader,
}

impl LightClient {
    /// Connects with serializer 2.0.0. `kernel_bytes` keeps the receive buffer small, for one that is about to stop reading.
    pub async fn connect(address: SocketAddr, token: &str, kernel_bytes: Option<u32>) -> Result<LightClient> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = kernel_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let mut stream = socket.connect(address).await?;
        let request = format!(
            "GET /socket/websocket?vsn=2.0.0&apikey={token} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bGlnaHQgY2xpZW50IDEyMw==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < 8192, "the answer to the handshake has no end");
            head.push(stream.read_u8().await.context("the handshake was cut off")?);
        }
        ensure!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Ok(LightClient { stream, reader: FrameReader::default() })
    }

    /// Joins a topic and waits for the answer; with bindings for the message that they are live, too.
    pub async fn join(&mut self, topic: &str, bindings: &[Value]) -> Result<()> {
        let config = json!({ "config": { "postgres_changes": bindings } });
        self.send(&json!(["1", "1", topic, "phx_join", config]).to_string()).await?;
        let awaited = if bindings.is_empty() { "\"phx_reply\"" } else { "Subscribed to PostgreSQL" };
        loop {
            let frame = self.next_frame().await?;
            let text = String::from_utf8_lossy(&frame.payload()).into_owned();
            ensure!(!text.contains("\"error\""), "{text}");
            if text.contains(awaited) {
                return Ok(());
            }
        }
    }

    /// Sends a text message.
    async fn send(&mut self, text: &str) -> Result<()> {
        self.send_frame(0x81, text.as_bytes()).await
    }

    async fn send_frame(&mut self, head: u8, message: &[u8]) -> Result<()> {
        // Masked with zeros (RFC 6455 §5.3): what is sent stays readable.
        let mut frame = vec![head];
        match u8::try_from(message.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 0x7E);
                frame.extend(u16::try_from(message.len())?.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(message);
        Ok(self.stream.write_all(&frame).await?)
    }

    /// Sends a binary broadcast of JSON with metadata (docs/protocol.md §2.3, kind 3).
    pub async fn user_broadcast(
        &mut self,
        topic: &str,
        event: &str,
        metadata: &str,
        payload: &Value,
    ) -> Result<()> {
        let mut message = vec![3, 1, 1];
        for name in [topic, event, metadata] {
            message.push(u8::try_from(name.len())?);
        }
        message.push(1);
        message.extend(["1", "2", topic, event, metadata, &payload.to_string()].concat().as_bytes());
        self.send_frame(0x82, &message).await
    }

    /// The next frame, be it the last one. Pings are answered and passed over.
    pub async fn next_frame(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.reader.next_frame() {
                if frame.opcode() != Opcode::Ping {
                    return Ok(frame);
                }
                // A server that has closed behind it does not wait for the answer.
                let _ = self.send_frame(0x8A, &frame.payload()).await;
                continue;
            }
            self.stream.readable().await?;
            self.take()?;
        }
    }

    /// Takes what has arrived. The buffer is not kept: most of the time a connection waits.
    fn take(&mut self) -> Result<()> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.try_read(&mut buffer) {
            Ok(0) => bail!("the connection has ended"),
            Ok(count) => self.reader.extend(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Reads on to the close frame: the messages before it, and its code and reason.
    pub async fn end(&mut self) -> Result<(usize, u16, String)> {
        let mut messages = 0;
        loop {
            let frame = self.next_frame().await?;
            if frame.opcode() != Opcode::Close {
                messages += 1;
                continue;
            }
            let payload = frame.payload();
            let (code, reason) = payload.split_first_chunk().context("a code")?;
            return Ok((messages, u16::from_be_bytes(*code), String::from_utf8(reason.to_vec())?));
        }
    }
}
