//! `walcast healthcheck`: what a container asks of the server beside it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer that takes longer is a no.
const DEADLINE: Duration = Duration::from_secs(5);

/// Asks `/readyz` of the server on this machine; an error when it is not ready.
pub async fn ask(port: u16) -> Result<()> {
    let answer = tokio::time::timeout(DEADLINE, get_readyz(port)).await.context("no answer in time")??;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        bail!("not ready (HTTP {status}): {body}");
    }
    Ok(())
}

async fn get_readyz(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .with_context(|| format!("nothing answers on port {port}"))?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nhost: localhost\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
