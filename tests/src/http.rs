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

/// An answer to an HTTP request. Two are equal when they say the same, whatever else their heads have.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header `content-type`.
    pub content_type: Option<String>,
    /// All that came before the body.
    pub head: String,
    /// The body.
    pub body: String,
}

impl PartialEq for Answer {
    fn eq(&self, other: &Answer) -> bool {
        (self.status, &self.content_type, &self.body) == (other.status, &other.content_type, &other.body)
    }
}

impl Answer {
    /// A refusal as the handshake gives it: JSON with the `error`.
    pub fn refusal(status: u16, error: &str) -> Answer {
        let content_type = Some("application/json; charset=utf-8".to_owned());
        Answer { status, content_type, head: String::new(), body: json!({ "error": error }).to_string() }
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))
    }
}

/// Asks a server with `GET` and these header lines, each with its line end.
pub async fn get(address: SocketAddr, target: &str, headers: &str) -> Result<Answer> {
    get_on(TcpStream::connect(address).await?, target, headers).await
}

/// Asks a server with any method; `headers` as with [`get`], and a `host` besides.
pub async fn ask(address: SocketAddr, method: &str, target: &str, headers: &str) -> Result<Answer> {
    let head = format!("{method} {target} HTTP/1.1\r\nhost: anything.example:4000\r\n{headers}\r\n");
    ask_on(TcpStream::connect(address).await?, &head).await
}

/// What a handshake with this token in the query is told.
pub async fn handshake(address: SocketAddr, token: &str) -> Result<Answer> {
    ask(address, "GET", &format!("/socket/websocket?vsn=2.0.0&apikey={token}"), UPGRADE).await
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
    let header = |wanted: &str| {
        let mut fields = lines.clone().filter_map(|line| line.split_once(": "));
        fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").map_or(Ok(0), |length| length.parse::<usize>())?;
    let (whole, content_type) = (body.len() >= length, header("content-type"));
    Ok(whole.then(|| Answer { status, content_type, head: head.to_owned(), body: body.to_owned() }))
}
