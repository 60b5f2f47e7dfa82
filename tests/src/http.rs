//! HTTP requests by hand, for answers that no client library shows whole.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The headers that make a request a WebSocket handshake.
pub const UPGRADE: &str = "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// An answer to an HTTP request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header `content-type`.
    pub content_type: Option<String>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A refusal as the handshake gives it: JSON with the `error`.
    pub fn refusal(status: u16, error: &str) -> Answer {
        let content_type = Some("application/json; charset=utf-8".to_owned());
        Answer { status, content_type, body: json!({ "error": error }).to_string() }
    }
}

/// Sends a request head as it stands and reads the answer. Each line of `headers` ends with `\r\n`.
pub async fn ask(address: SocketAddr, method: &str, target: &str, headers: &str) -> Result<Answer> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("{method} {target} HTTP/1.1\r\nhost: anything.example:4000\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut text = String::new();
        loop {
            if let Some(answer) = complete(&text)? {
                return Ok(answer);
            }
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                bail!("the connection ended after {text:?}");
            }
            text.push_str(std::str::from_utf8(&buffer[..count])?);
        }
    };
    timeout(Duration::from_secs(10), answer)
        .await
        .with_context(|| format!("no answer to {method} {target}"))?
}

/// What a handshake with this token in the query is told.
pub async fn handshake(address: SocketAddr, token: &str) -> Result<Answer> {
    ask(address, "GET", &format!("/socket/websocket?vsn=2.0.0&apikey={token}"), UPGRADE).await
}

/// The answer, when all of it has arrived.
fn complete(text: &str) -> Result<Option<Answer>> {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let header = |wanted: &str| {
        let fields = lines.clone().filter_map(|line| line.split_once(": "));
        fields.clone().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").map_or(Ok(0), |length| length.parse::<usize>())?;
    let whole = body.len() >= length;
    Ok(whole.then(|| Answer { status, content_type: header("content-type"), body: body.to_owned() }))
}
