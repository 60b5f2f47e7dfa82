//! One WebSocket: what comes in goes to its client, what the parser answers itself into the outbound queue.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt, StreamExt};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use walcast_engine::{Command, Departure};

use super::client::{Admitted, Client};
use super::socket::{Reader, SharedStream};
use super::{End, Gateway, Incoming, close_code};

/// Bytes that the parser takes at a time from its [`Reader`], and keeps room for while the socket is idle.
const PARSER_BUFFER_BYTES: usize = 512;

pub(super) struct Connection {
    pub(super) shared: Arc<SharedStream>,
    socket: WebSocketStream<Reader>,
    pub(super) client: Client,
    last_heard: Instant,
    /// The kernel's buffer is full, and the shard waits to hear when it is not.
    pub(super) blocked: bool,
}

impl Connection {
    pub(super) async fn open(
        gateway: &Arc<Gateway>,
        shared: Arc<SharedStream>,
        early: Bytes,
        admitted: Admitted,
    ) -> Box<Connection> {
        let limit = Some(gateway.limits.message_bytes_max);
        let mut config = WebSocketConfig::default();
        config.read_buffer_size = PARSER_BUFFER_BYTES;
        config.write_buffer_size = 0;
        config.max_message_size = limit;
        config.max_frame_size = limit;
        // An empty `Bytes` would still hold on to the HTTP layer's whole buffer.
        let early = if early.is_empty() { Bytes::new() } else { early };
        let reader = Reader::new(Arc::clone(&shared), early);
        let socket = WebSocketStream::from_raw_socket(reader, Role::Server, Some(config)).await;
        let client = Client::open(gateway, Arc::clone(&shared) as _, admitted).await;
        Box::new(Connection { shared, socket, client, last_heard: Instant::now(), blocked: false })
    }

    /// Serves the connection to its end. What seldom happens is boxed, here and below: an idle connection's task is as
    /// large as the largest thing that it may come to wait for. In a box itself, or the task would hold it twice.
    pub(super) async fn run(mut self: Box<Self>) {
        let end = self.serve().await;
        if !matches!(end, End::Left(_)) {
            self.client.leave_tickets().await;
        }
        match end {
            End::Left(code) => self.client.close(code, "").await,
            End::Close(code, reason) => self.client.close(code, reason).await,
            End::Closing | End::Gone => {}
        }
        if !matches!(end, End::Gone) {
            Box::pin(self.farewell()).await;
        }
        // docs/protocol.md §7.1: who is gone without a close frame may come back in a moment.
        let departure = if matches!(end, End::Gone) { Departure::Lost } else { Departure::Closed };
        self.client.session.send(Command::Gone(self.client.session.id, departure)).await;
    }

    async fn serve(&mut self) -> End {
        loop {
            let silence = self.last_heard + self.client.gateway.limits.idle_timeout;
            let wake_at = self.client.next_deadline().map_or(silence, |deadline| deadline.min(silence));
            // Every branch is cancel-safe: a message is either returned whole or stays in the parser.
            let end = tokio::select! {
                message = self.socket.next() => {
                    // A library answers pings also for an application that does nothing any more.
                    if !matches!(message, Some(Ok(Message::Pong(_)))) {
                        self.last_heard = Instant::now();
                    }
                    match message {
                        Some(Ok(message)) => self.message(message).await,
                        Some(Err(error)) => Some(end_of(&error)),
                        None => Some(End::Gone),
                    }
                }
                Some(settled) = self.client.pending.next() => Box::pin(self.client.settle(settled)).await,
                Ok(()) = self.client.policies_changed.changed() => {
                    self.client.policies_changed();
                    None
                }
                Ok(()) = self.client.database_messages.changed() => {
                    Box::pin(self.client.announce_readiness()).await;
                    None
                }
                () = self.shared.blocked.notified(), if !self.blocked => {
                    self.blocked = true;
                    None
                }
                writable = self.shared.writable(), if self.blocked => {
                    self.blocked = false;
                    if writable.is_err() {
                        return End::Gone;
                    }
                    self.client.session.send(Command::Writable(self.client.session.id)).await;
                    None
                }
                () = self.shared.closing.notified() => Some(End::Closing),
                () = tokio::time::sleep_until(wake_at) => {
                    if Instant::now() >= silence {
                        return End::Close(close_code::NORMAL, "nothing heard: send a heartbeat");
                    }
                    Box::pin(self.client.deadline()).await
                }
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    async fn message(&mut self, message: Message) -> Option<End> {
        match message {
            Message::Text(text) => return self.client.receive(Incoming::Text(text)).await,
            Message::Binary(bytes) => return self.client.receive(Incoming::Binary(bytes)).await,
            Message::Ping(_) => {
                // The parser answers with a pong at its next write.
                let _ = self.socket.flush().await;
            }
            Message::Close(frame) => {
                // The engine says so before it writes its own close frame, and this task may hear of both at once.
                let is_answer = self.shared.closing.notified().now_or_never().is_some();
                return Some(end_of_close(frame.as_ref(), is_answer));
            }
            Message::Pong(payload) => {
                if let Some(ping) = walcast_wire::ping_number(&payload) {
                    self.client.acknowledge(ping).await;
                }
            }
            Message::Frame(_) => {}
        }
        if let Some(bytes) = self.socket.get_mut().take_collected() {
            self.client.session.send(Command::Write(self.client.session.id, bytes)).await;
        }
        None
    }
}

/// What the close frame of a client means. One that answers the engine's is no goodbye: the client comes back. Any other is
/// answered through the session's queue, behind all that the client has asked before; the parser has replaced a code
/// that may not be sent.
fn end_of_close(frame: Option<&CloseFrame>, is_answer: bool) -> End {
    if is_answer {
        return End::Closing;
    }
    let code = frame.map_or(close_code::NORMAL, |frame| frame.code.into());
    let gives_up_connection = frame.is_some_and(|frame| gives_up_connection(code, &frame.reason));
    if gives_up_connection { End::Close(code, "") } else { End::Left(code) }
}

/// Whether a client closes because it takes the connection for broken, and comes back: those of the Phoenix framework say
/// that nobody has answered their heartbeat, the one for Python that nobody has answered its ping.
fn gives_up_connection(code: u16, reason: &str) -> bool {
    code == close_code::INTERNAL_ERROR || reason == "heartbeat timeout"
}

fn end_of(error: &Error) -> End {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            End::Close(close_code::TOO_BIG, "the message is larger than the server accepts")
        }
        // The end of the stream without a close frame.
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        Error::Protocol(_) => End::Close(close_code::PROTOCOL_ERROR, "not a valid WebSocket frame"),
        Error::Utf8(_) => End::Close(close_code::INVALID_DATA, "a text message must be UTF-8"),
        _ => End::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_frame_is_a_goodbye_unless_it_answers_one_or_gives_the_connection_up() {
        let frame = |code: u16, reason: &'static str| CloseFrame { code: code.into(), reason: reason.into() };
        let of = |code, reason, is_answer| end_of_close(Some(&frame(code, reason)), is_answer);
        assert!(matches!(of(1000, "", false), End::Left(1000)));
        assert!(matches!(end_of_close(None, false), End::Left(close_code::NORMAL)));
        assert!(matches!(of(1012, "", true), End::Closing));
        assert!(matches!(end_of_close(None, true), End::Closing));
        assert!(matches!(of(1000, "heartbeat timeout", false), End::Close(1000, "")));
    }
}
