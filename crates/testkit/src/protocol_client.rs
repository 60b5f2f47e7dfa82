//! A client of the wire protocol that waits for what it expects and tells what came instead.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Uri};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::protocol_message::{ProtocolVersion, RawFrame, Received, Reply, user_broadcast};
use crate::strict::StrictReader;

/// How long a client waits for what it expects, unless told otherwise.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How to connect. `Handshake::new(url, token, version).connect()`.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// The server, `ws://host:port` or `http://host:port`; without a path `/socket/websocket` is taken.
    pub url: String,
    /// The token for the query parameter `apikey`; not sent when `None`.
    pub token: Option<String>,
    /// The value of `vsn`; not sent when `None`.
    pub vsn: Option<String>,
    /// The forms in which messages are sent and read.
    pub version: ProtocolVersion,
    /// More headers; `host` replaces the one that the URL gives.
    pub headers: Vec<(String, String)>,
    /// Which certificates are trusted where the URL begins with `wss://` or `https://`.
    pub tls: Option<Arc<ClientConfig>>,
}

/// The server answered the handshake with something other than a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeRefused {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl fmt::Display for HandshakeRefused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the server refused the handshake: {} {}", self.status, self.body)
    }
}

impl std::error::Error for HandshakeRefused {}

impl Handshake {
    /// A handshake as the stock clients make it.
    pub fn new(url: &str, token: &str, version: ProtocolVersion) -> Self {
        Self {
            url: url.to_owned(),
            token: Some(token.to_owned()),
            vsn: Some(version.vsn().to_owned()),
            version,
            headers: Vec::new(),
            tls: None,
        }
    }

    /// Connects. The error is a [`HandshakeRefused`] (see [`anyhow::Error::downcast_ref`]) when the server said no.
    pub async fn connect(&self) -> Result<ProtocolClient> {
        let mut request = self.address().into_client_request()?;
        for (name, value) in &self.headers {
            request.headers_mut().insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        // The default buffer of 128 KiB is much for tests with thousands of clients.
        let configuration = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(4096);
        let connecting = async {
            let stream = self.stream(request.uri()).await?;
            client_async_with_config(request, stream, Some(configuration)).await
        };
        let connected = timeout_at(Instant::now() + DEADLINE, connecting)
            .await
            .with_context(|| format!("no answer to the handshake within {} s", DEADLINE.as_secs()))?;
        match connected {
            Ok((socket, _response)) => Ok(ProtocolClient::new(socket, self.version)),
            Err(SocketError::Http(response)) => {
                let status = response.status().as_u16();
                let body = response.into_body().unwrap_or_default();
                bail!(HandshakeRefused { status, body: String::from_utf8_lossy(&body).into_owned() })
            }
            Err(error) => Err(error).with_context(|| format!("cannot connect to {}", self.url)),
        }
    }

    async fn stream(&self, uri: &Uri) -> Result<Box<dyn Stream>, SocketError> {
        let host = uri.host().unwrap_or_default();
        let encrypted = uri.scheme_str() == Some("wss");
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let Some(config) = self.tls.as_ref().filter(|_| encrypted) else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?))
    }

    fn address(&self) -> String {
        let mut address = match self.url.strip_prefix("http") {
            Some(rest) => format!("ws{rest}"),
            None => self.url.clone(),
        };
        let path = address.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        if path.is_none_or(|(_, path)| path.is_empty()) {
            address = format!("{}/socket/websocket", address.trim_end_matches('/'));
        }
        let parameters: Vec<String> = [("apikey", &self.token), ("vsn", &self.vsn)]
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
            .collect();
        if parameters.is_empty() { address } else { format!("{address}?{}", parameters.join("&")) }
    }
}

/// TCP or TLS.
trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Stream for S {}

/// One connection to a server. What arrives while something else is awaited is kept in order, and found by later
/// expectations.
#[derive(Debug)]
pub struct ProtocolClient {
    socket: WebSocketStream<Box<dyn Stream>>,
    version: ProtocolVersion,
    deadline: Duration,
    last_reference: u64,
    join_references: HashMap<String, Value>,
    unclaimed: VecDeque<Received>,
    strict: Option<Box<StrictReader>>,
}

impl ProtocolClient {
    /// Connects as the stock clients do; see [`Handshake`] for anything else.
    pub async fn connect(url: &str, token: &str, version: ProtocolVersion) -> Result<Self> {
        Handshake::new(url, token, version).connect().await
    }

    fn new(socket: WebSocketStream<Box<dyn Stream>>, version: ProtocolVersion) -> Self {
        Self {
            socket,
            version,
            deadline: DEADLINE,
            last_reference: 0,
            join_references: HashMap::new(),
            unclaimed: VecDeque::new(),
            strict: None,
        }
    }

    /// Checks from now on that every frame is one that the strictest of the stock clients can read; see
    /// [`strict`](crate::strict). A frame that is not fails whatever expectation it arrives under.
    #[must_use]
    pub fn strictly(mut self) -> Self {
        self.strict = Some(Box::new(StrictReader::new(self.version)));
        self
    }

    /// Takes any frame that can be read at all: for what a user may send and some client can not read.
    #[must_use]
    pub fn leniently(mut self) -> Self {
        self.strict = None;
        self
    }

    /// Changes how long expectations wait.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Goes on counting its messages behind this number, as libraries do that connect again.
    pub fn count_on_from(&mut self, reference: u64) {
        self.last_reference = reference;
    }

    /// Sends a message with a new reference, which is returned, and the join reference of the topic.
    pub async fn send(&mut self, topic: &str, event: &str, payload: &Value) -> Result<String> {
        let reference = self.next_reference();
        let join_ref = self.join_references.get(topic).cloned().unwrap_or_default();
        let value = Value::from(reference.as_str());
        self.send_text(&self.version.encode(&join_ref, &value, topic, event, payload)).await?;
        Ok(reference)
    }

    /// Sends any text frame.
    pub async fn send_text(&mut self, text: &str) -> Result<()> {
        self.send_frame(Message::text(text)).await
    }

    /// Sends any binary frame.
    pub async fn send_binary(&mut self, bytes: &[u8]) -> Result<()> {
        self.send_frame(Message::binary(bytes.to_vec())).await
    }

    /// Sends a WebSocket frame of any kind (ping, close).
    pub async fn send_frame(&mut self, frame: Message) -> Result<()> {
        match (&frame, &mut self.strict) {
            (Message::Text(text), Some(strict)) => strict.sent(text),
            (Message::Binary(bytes), Some(strict)) => strict.sent_binary(bytes),
            _ => {}
        }
        timeout_at(Instant::now() + self.deadline, self.socket.send(frame))
            .await
            .context("the server does not take what is sent")?
            .context("cannot send")
    }

    /// Broadcasts a JSON value as the newest stock clients do: a binary frame with serializer 2.0.0, a text frame
    /// with 1.0.0. Returns the reference.
    pub async fn broadcast(&mut self, topic: &str, event: &str, payload: &Value) -> Result<String> {
        match self.version {
            ProtocolVersion::V1 => {
                let body = json!({ "type": "broadcast", "event": event, "payload": payload });
                self.send(topic, "broadcast", &body).await
            }
            ProtocolVersion::V2 => {
                self.user_broadcast(topic, event, true, payload.to_string().as_bytes()).await
            }
        }
    }

    /// Broadcasts in a binary frame (kind 3, docs/protocol.md §2.3); `content` is JSON text or opaque. Returns the
    /// reference.
    pub async fn user_broadcast(
        &mut self,
        topic: &str,
        event: &str,
        is_json: bool,
        content: &[u8],
    ) -> Result<String> {
        let reference = self.next_reference();
        let join_ref = self.join_references.get(topic).and_then(Value::as_str).unwrap_or_default();
        let frame = user_broadcast(join_ref, &reference, topic, event, "", is_json, content)?;
        self.send_binary(&frame).await?;
        Ok(reference)
    }

    /// Joins `topic` with the payload as given and waits for the reply, whatever it is.
    pub async fn join(&mut self, topic: &str, payload: &Value) -> Result<Reply> {
        let reference = (self.last_reference + 1).to_string();
        self.join_references.insert(topic.to_owned(), reference.as_str().into());
        self.send(topic, "phx_join", payload).await?;
        self.reply(&reference).await
    }

    /// Joins `topic` with these `postgres_changes` bindings and waits until the server says that it is subscribed.
    /// Returns the bindings of the reply, with their ids. Fails when the server refuses.
    pub async fn join_changes(&mut self, topic: &str, bindings: &[Value]) -> Result<Vec<Value>> {
        let reply = self.join(topic, &json!({ "config": { "postgres_changes": bindings } })).await?;
        ensure!(reply.is_ok(), "the join of {topic} was refused: {}", reply.response);
        let answer = self
            .expect(|message| message.topic == topic && message.system("postgres_changes").is_some())
            .await
            .with_context(|| format!("after the join of {topic}"))?;
        let (status, text) = answer.system("postgres_changes").context("checked above")?;
        ensure!(status == "ok", "the subscription of {topic} failed: {text}");
        match &reply.response["postgres_changes"] {
            Value::Array(bindings) => Ok(bindings.clone()),
            other => bail!("the join reply must list the bindings, not {other}"),
        }
    }

    /// Leaves `topic` and waits for the reply.
    pub async fn leave(&mut self, topic: &str) -> Result<Reply> {
        let reference = self.send(topic, "phx_leave", &json!({})).await?;
        self.reply(&reference).await
    }

    /// Gives the channel another token. There is no reply.
    pub async fn access_token(&mut self, topic: &str, token: &str) -> Result<()> {
        self.send(topic, "access_token", &json!({ "access_token": token })).await?;
        Ok(())
    }

    /// Sends a heartbeat and waits for its reply.
    pub async fn heartbeat(&mut self) -> Result<()> {
        let reference = self.send("phoenix", "heartbeat", &json!({})).await?;
        let reply = self.reply(&reference).await?;
        ensure!(reply.is_ok(), "the heartbeat was refused: {}", reply.response);
        Ok(())
    }

    /// Waits for the reply to the message with this reference.
    pub async fn reply(&mut self, reference: &str) -> Result<Reply> {
        let message = self
            .expect(|message| message.event == "phx_reply" && message.reference == reference)
            .await
            .with_context(|| format!("no reply to the message {reference}"))?;
        message.reply().context("checked above")
    }

    /// The next message, in the order of arrival.
    pub async fn next(&mut self) -> Result<Received> {
        self.expect(|_| true).await
    }

    /// The next message, in the order of arrival, or `None` when the connection has ended in whatever way. It waits
    /// for as long as it takes, and may be cancelled.
    pub async fn receive(&mut self) -> Result<Option<Received>> {
        if let Some(message) = self.unclaimed.pop_front() {
            return Ok(Some(message));
        }
        match self.arrival(None).await? {
            Arrival::Message(message) => Ok(Some(message)),
            Arrival::Closed(_) => Ok(None),
        }
    }

    /// Waits for the first message that `wanted` holds for, and takes it out; the others stay, in order. The error
    /// shows all that did arrive.
    pub async fn expect(&mut self, wanted: impl Fn(&Received) -> bool) -> Result<Received> {
        self.expect_before(wanted, |_| false).await
    }

    /// Waits for a message like [`expect`](Self::expect), and fails if one that is `forbidden` arrives before it.
    ///
    /// This is how a test proves that something was *not* sent: let the server send a mark after it on the same way.
    pub async fn expect_before(
        &mut self,
        wanted: impl Fn(&Received) -> bool,
        forbidden: impl Fn(&Received) -> bool,
    ) -> Result<Received> {
        let deadline = Instant::now() + self.deadline;
        let mut seen = 0;
        loop {
            while let Some(message) = self.unclaimed.get(seen) {
                ensure!(!forbidden(message), "this must not arrive: {:?}", message.raw);
                if wanted(message) {
                    return self.unclaimed.remove(seen).context("it was there a moment ago");
                }
                seen += 1;
            }
            match self.arrival(Some(deadline)).await {
                Ok(Arrival::Message(message)) => self.unclaimed.push_back(message),
                Ok(Arrival::Closed(frame)) => {
                    return Err(
                        self.instead(&format!("the connection was closed ({})", shown(frame.as_ref())))
                    );
                }
                Err(error) => return Err(self.instead(&format!("{error:#}"))),
            }
        }
    }

    /// Waits until the server closes the connection: with a code and a reason, or without a close frame.
    pub async fn closed(&mut self) -> Result<Option<(u16, String)>> {
        let deadline = Instant::now() + self.deadline;
        loop {
            match self.arrival(Some(deadline)).await {
                Ok(Arrival::Message(message)) => self.unclaimed.push_back(message),
                Ok(Arrival::Closed(frame)) => {
                    return Ok(frame.map(|frame| (u16::from(frame.code), frame.reason.to_string())));
                }
                Err(error) => return Err(self.instead(&format!("the connection stays open: {error:#}"))),
            }
        }
    }

    /// Closes with a code and a reason, and waits for the answer.
    pub async fn close_with(mut self, code: u16, reason: &str) -> Result<()> {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.socket.close(Some(frame)).await?;
        self.closed().await?;
        Ok(())
    }

    /// Closes in good order. (Dropping the client cuts the connection without a farewell.)
    pub async fn close(mut self) -> Result<()> {
        self.socket.close(None).await?;
        self.closed().await?;
        Ok(())
    }

    /// What has arrived and was not taken by an expectation, in order.
    pub fn unclaimed(&self) -> impl Iterator<Item = &Received> {
        self.unclaimed.iter()
    }

    fn next_reference(&mut self) -> String {
        self.last_reference += 1;
        self.last_reference.to_string()
    }

    async fn arrival(&mut self, deadline: Option<Instant>) -> Result<Arrival> {
        loop {
            let frame = match deadline {
                Some(deadline) => {
                    let next = timeout_at(deadline, self.socket.next());
                    next.await.map_err(|_| anyhow!("waited for {:?}", self.deadline))?
                }
                None => self.socket.next().await,
            };
            let raw = match frame {
                Some(Ok(Message::Text(text))) => RawFrame::Text(text.to_string()),
                Some(Ok(Message::Binary(bytes))) => RawFrame::Binary(bytes),
                Some(Ok(Message::Close(frame))) => return Ok(Arrival::Closed(frame)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                // A connection that is cut is an arrival too: tests of crashes wait for it.
                Some(Err(SocketError::Protocol(error))) if !is_cut(&error) => {
                    bail!("the server broke the WebSocket protocol: {error}")
                }
                None | Some(Err(_)) => return Ok(Arrival::Closed(None)),
            };
            let message = Received::parse(self.version, &raw)?;
            if let Some(strict) = &mut self.strict {
                strict.received(&message)?;
            }
            return Ok(Arrival::Message(message));
        }
    }

    fn instead(&self, problem: &str) -> anyhow::Error {
        const SHOWN: usize = 50;
        let left_out = self.unclaimed.len().saturating_sub(SHOWN);
        let arrived: Vec<String> = self
            .unclaimed
            .iter()
            .skip(left_out)
            .map(|message| match &message.raw {
                RawFrame::Text(text) => format!("  {text}"),
                RawFrame::Binary(bytes) => format!("  binary {bytes:?}"),
            })
            .collect();
        let title = match (arrived.len(), left_out) {
            (0, _) => "nothing else arrived".to_owned(),
            (_, 0) => "what did arrive:".to_owned(),
            (shown, left_out) => format!("the last {shown} of {} that did arrive:", shown + left_out),
        };
        anyhow!("{problem}; {title}\n{}", arrived.join("\n"))
    }
}

enum Arrival {
    Message(Received),
    Closed(Option<CloseFrame>),
}

fn is_cut(error: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    matches!(error, ProtocolError::ResetWithoutClosingHandshake)
}

fn shown(frame: Option<&CloseFrame>) -> String {
    frame.map_or_else(|| "no close frame".to_owned(), |frame| format!("{} {}", frame.code, frame.reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_the_stock_clients() {
        let handshake = Handshake::new("http://127.0.0.1:4000", "a.b.c", ProtocolVersion::V2);
        assert_eq!(handshake.address(), "ws://127.0.0.1:4000/socket/websocket?apikey=a.b.c&vsn=2.0.0");
        let mut bare = Handshake::new("ws://127.0.0.1:4000/realtime/v1/websocket", "", ProtocolVersion::V1);
        (bare.token, bare.vsn) = (None, None);
        assert_eq!(bare.address(), "ws://127.0.0.1:4000/realtime/v1/websocket");
    }
}
