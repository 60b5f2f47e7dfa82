//! HTTP by hand: any bytes as a request, on any stream.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What makes a request a WebSocket handshake.
pub const UPGRADE: &str = "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// An answer to an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// All that came before the body.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, wanted: &str) -> Option<&str> {
        let mut fields = self.head.split("\r\n").filter_map(|line| line.split_once(": "));
        fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    }

    /// Whether it is a refusal as the handshake gives it: JSON with this `error` alone.
    pub fn is_refusal(&self, status: u16, error: &str) -> bool {
        self.status == status
            && self.header("content-type") == Some("application/json; charset=utf-8")
            && self.json().is_ok_and(|body| body == json!({ "error": error }))
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))
    }
}

/// Asks a server with any method, under a host name that means nothing, and these header lines.
pub async fn ask(address: SocketAddr, method: &str, target: &str, headers: &str) -> Result<Answer> {
    let request = format!("{method} {target} HTTP/1.1\r\nhost: anything.example:4000\r\n{headers}\r\n");
    let answer = ask_on(TcpStream::connect(address).await?, &request).await;
    answer.with_context(|| format!("{method} {target}"))
}

/// What a handshake with this token in the query is told.
pub async fn handshake(address: SocketAddr, token: &str) -> Result<Answer> {
    ask(address, "GET", &format!("/socket/websocket?vsn=2.0.0&apikey={token}"), UPGRADE).await
}

/// Asks a server with `GET` and these header lines, each with its line end.
pub async fn get(address: SocketAddr, target: &str, headers: &str) -> Result<Answer> {
    get_on(TcpStream::connect(address).await?, target, headers).await
}

/// The same on a stream that there is.
pub async fn get_on(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    target: &str,
    headers: &str,
) -> Result<Answer> {
    ask_on(stream, &format!("GET {target} HTTP/1.1\r\n{headers}\r\n")).await
}

/// Sends these bytes and reads one answer.
pub async fn ask_on(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<Answer> {
    let answer = async {
        // A server that refuses at once may have hung up before all is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut bytes = Vec::new();
        loop {
            if let Some(answer) = complete(&String::from_utf8_lossy(&bytes))? {
                return Ok(answer);
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                bail!("the connection ended after {:?}", String::from_utf8_lossy(&bytes));
            }
        }
    };
    timeout(Duration::from_secs(10), answer).await.context("no answer")?
}

/// The answer, when all of it has arrived.
fn complete(text: &str) -> Result<Option<Answer>> {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let mut fields = lines.filter_map(|line| line.split_once(": "));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Ok(0), |(_, length)| length.parse::<usize>())?;
    let whole = body.len() >= length;
    Ok(whole.then(|| Answer { status, head: head.to_owned(), body: body.to_owned() }))
}
