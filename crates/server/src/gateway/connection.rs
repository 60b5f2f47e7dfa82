//! One WebSocket: reads what the client sends, keeps its tokens, and hands everything on to its shard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use walcast_auth::TokenError;
use walcast_engine::{ChannelId, Command, Push, PushKind, SessionHandle};
use walcast_wire::{
    AccessTokenPush, ClientMessage, ClientPayload, Frame, JoinPayload, Ref, Serializer, Status,
};

use super::channel::{ChannelState, Credentials, JoinTask, Settled, Stage};
use super::push::push_kind;
use super::socket::{Reader, SharedStream};
use super::{Gateway, Limits};
use crate::clock::{since_epoch, unix_seconds};

/// Bytes that one read takes: measured, larger buffers cost memory per idle socket and time per read.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Messages that wait for a join of their topic to be decided; more end the connection.
const DEFERRED_MAX: usize = 1_000;
/// Bytes of all messages that wait, as a multiple of the largest message.
const DEFERRED_LARGEST_MESSAGES: usize = 2;
/// Joins that wait for their answer beyond the channels that there may be: refused ones, which wait longest.
/// More end the connection.
const PENDING_REFUSALS_MAX: usize = 1_000;

/// Bytes of a topic or presence key: both go out with every message that concerns them.
const NAME_BYTES_MAX: usize = 4 * 1024;

/// Close codes of RFC 6455 §7.4.1.
mod close_code {
    pub(super) const NORMAL: u16 = 1000;
    pub(super) const PROTOCOL_ERROR: u16 = 1002;
    pub(super) const INVALID_DATA: u16 = 1007;
    pub(super) const POLICY: u16 = 1008;
    pub(super) const TOO_BIG: u16 = 1009;
}

pub(super) struct Connection {
    gateway: Arc<Gateway>,
    pub(super) shared: Arc<SharedStream>,
    socket: WebSocketStream<Reader>,
    pub(super) session: SessionHandle,
    credentials: Credentials,
    channels: Vec<ChannelState>,
    /// Joins and new tokens that are being checked.
    pending: FuturesUnordered<BoxFuture<'static, Settled>>,
    /// Bytes of the messages that wait for one of these.
    deferred_bytes: usize,
    last_heard: Instant,
    /// The kernel's buffer is full, and the shard waits to hear when it is not.
    pub(super) blocked: bool,
}

/// Why the loop ends.
enum End {
    /// Close with this code and reason.
    Close(u16, &'static str),
    /// The engine has queued a close frame.
    Closing,
    /// The peer is gone.
    Gone,
}

impl Connection {
    pub(super) async fn open(
        gateway: &Arc<Gateway>,
        shared: Arc<SharedStream>,
        early: Bytes,
        serializer: Serializer,
        credentials: Credentials,
    ) -> Connection {
        let limit = Some(gateway.limits.message_bytes_max);
        let mut config = WebSocketConfig::default();
        config.read_buffer_size = READ_BUFFER_BYTES;
        config.write_buffer_size = 0;
        config.max_message_size = limit;
        config.max_frame_size = limit;
        // An empty `Bytes` would still hold on to the HTTP layer's whole buffer.
        let early = if early.is_empty() { Bytes::new() } else { early };
        let reader = Reader::new(Arc::clone(&shared), early);
        let socket = WebSocketStream::from_raw_socket(reader, Role::Server, Some(config)).await;
        let session = gateway.engine.connect(Arc::clone(&shared) as _, serializer).await;
        Connection {
            gateway: Arc::clone(gateway),
            shared,
            socket,
            session,
            credentials,
            channels: Vec::new(),
            pending: FuturesUnordered::new(),
            deferred_bytes: 0,
            last_heard: Instant::now(),
            blocked: false,
        }
    }

    /// Serves the connection to its end.
    pub(super) async fn run(mut self) {
        let end = self.serve().await;
        if let End::Close(code, reason) = end {
            self.close(code, reason).await;
        }
        if !matches!(end, End::Gone) {
            self.farewell().await;
        }
        self.session.send(Command::Gone(self.session.id)).await;
    }

    async fn serve(&mut self) -> End {
        loop {
            let wake_at = self.next_deadline();
            // Every branch is cancel-safe: a message is either returned whole or stays in the parser.
            tokio::select! {
                message = self.socket.next() => {
                    self.last_heard = Instant::now();
                    match message {
                        Some(Ok(message)) => {
                            if let Some(end) = self.message(message).await {
                                return end;
                            }
                        }
                        Some(Err(error)) => return end_of(&error),
                        None => return End::Gone,
                    }
                }
                Some(settled) = self.pending.next() => {
                    if let Some(end) = self.settle(settled).await {
                        return end;
                    }
                }
                () = self.shared.blocked.notified(), if !self.blocked => self.blocked = true,
                writable = self.shared.writable(), if self.blocked => {
                    self.blocked = false;
                    if writable.is_err() {
                        return End::Gone;
                    }
                    self.session.send(Command::Writable(self.session.id)).await;
                }
                () = self.shared.closing.notified() => return End::Closing,
                () = tokio::time::sleep_until(wake_at) => {
                    if let Some(end) = self.deadline().await {
                        return end;
                    }
                }
            }
        }
    }

    // Deadlines: silence, tokens.

    fn next_deadline(&self) -> Instant {
        let idle = self.last_heard + self.gateway.limits.idle_timeout;
        let first = self.channels.iter().filter_map(ChannelState::expires_at).min();
        // At most a day ahead: the clock may be set meanwhile.
        let expiry =
            first.map(|at| Instant::now() + at.saturating_sub(since_epoch()).min(Duration::from_hours(24)));
        expiry.map_or(idle, |expiry| expiry.min(idle))
    }

    async fn deadline(&mut self) -> Option<End> {
        if Instant::now() >= self.last_heard + self.gateway.limits.idle_timeout {
            return Some(End::Close(close_code::NORMAL, "nothing heard: send a heartbeat"));
        }
        let now = since_epoch();
        let expired = |channel: &ChannelState| channel.expires_at().is_some_and(|at| at <= now);
        while let Some(place) = self.channels.iter().position(expired) {
            let closed = self.channels.remove(place);
            let seconds_ago = now.saturating_sub(closed.expires_at().unwrap_or(now)).as_secs();
            if let Stage::Joined { channel, credentials } | Stage::Renewing { channel, credentials } =
                closed.stage
            {
                self.close_channel(channel.id(), &credentials, &TokenError::Expired { seconds_ago }).await;
            }
            if let Some(end) = self.resume(closed.deferred).await {
                return Some(end);
            }
        }
        None
    }

    // Messages.

    async fn message(&mut self, message: Message) -> Option<End> {
        match message {
            Message::Text(_) | Message::Binary(_) => return self.client_message(message).await,
            Message::Ping(_) => {
                // The parser answers with a pong at its next write.
                let _ = self.socket.flush().await;
            }
            // Answered through the session's queue, behind all that the client has asked before. The parser
            // has replaced a code that may not be sent.
            Message::Close(frame) => {
                return Some(End::Close(frame.map_or(close_code::NORMAL, |frame| frame.code.into()), ""));
            }
            Message::Pong(_) | Message::Frame(_) => {}
        }
        if let Some(bytes) = self.socket.get_mut().take_collected() {
            self.session.send(Command::Write(self.session.id, bytes)).await;
        }
        None
    }

    async fn client_message(&mut self, raw: Message) -> Option<End> {
        let serializer = self.session.serializer();
        let parsed = match &raw {
            Message::Text(text) => ClientMessage::parse_text(serializer, text),
            Message::Binary(bytes) => ClientMessage::parse_binary(serializer, bytes),
            _ => return None,
        };
        let message = match parsed {
            Ok(message) => message,
            Err(error) => {
                self.gateway.count_error();
                tracing::debug!(code = "MalformedWebSocketMessage", %error, "a frame was dropped");
                return None;
            }
        };
        if message.topic == "phoenix" {
            self.phoenix(&message).await;
            return None;
        }
        let place = self.channels.iter().position(|channel| *channel.topic == *message.topic);
        if let Some(place) = place
            && !matches!(self.channels[place].stage, Stage::Joined { .. })
        {
            return self.defer(place, raw);
        }
        match (&*message.event, place) {
            ("phx_join", _) => return self.join(&message, place).await,
            ("access_token", Some(place)) => self.access_token(&message, place),
            ("phx_leave", Some(place)) if self.is_current(place, &message.join_ref) => {
                self.channels.remove(place);
                self.push(&message, PushKind::Leave).await;
            }
            ("phx_leave", _) => self.push(&message, PushKind::Leave).await,
            _ => {
                let kind = push_kind(&message);
                self.push(&message, kind).await;
            }
        }
        None
    }

    /// Keeps a message until its topic's join or new token is decided.
    fn defer(&mut self, place: usize, raw: Message) -> Option<End> {
        let deferred = &mut self.channels[place].deferred;
        let bytes_max = DEFERRED_LARGEST_MESSAGES * self.gateway.limits.message_bytes_max;
        if deferred.len() >= DEFERRED_MAX || self.deferred_bytes + raw.len() > bytes_max {
            return Some(End::Close(close_code::POLICY, "too many messages before the join was answered"));
        }
        self.deferred_bytes += raw.len();
        deferred.push_back(raw);
        None
    }

    /// Handles the messages that have waited.
    async fn resume(&mut self, deferred: VecDeque<Message>) -> Option<End> {
        self.deferred_bytes -= deferred.iter().map(Message::len).sum::<usize>();
        for message in deferred {
            // Boxed: a deferred message may be a join, whose outcome comes back here.
            if let Some(end) = Box::pin(self.client_message(message)).await {
                return Some(end);
            }
        }
        None
    }

    /// Messages on the topic `phoenix` (docs/protocol.md §1.5).
    async fn phoenix(&mut self, message: &ClientMessage<'_>) {
        let frame = if message.event == "heartbeat" {
            self.reply(message, Status::Ok, "{}")
        } else {
            self.reply(message, Status::Error, r#"{"reason":"unmatched topic"}"#)
        };
        self.write(&frame).await;
    }

    async fn push(&mut self, message: &ClientMessage<'_>, kind: PushKind) {
        let push = Push {
            session: self.session.id,
            topic: message.topic.as_ref().into(),
            join_ref: message.join_ref.clone(),
            reference: message.reference.clone(),
            kind,
        };
        self.session.send(Command::Push(push)).await;
    }

    // Joins.

    async fn join(&mut self, message: &ClientMessage<'_>, place: Option<usize>) -> Option<End> {
        let Some(sub_topic) = walcast_wire::sub_topic(&message.topic) else {
            let frame = self.reply(message, Status::Error, r#"{"reason":"unmatched topic"}"#);
            self.write(&frame).await;
            return None;
        };
        if let Err(reason) = check_name("the topic", sub_topic) {
            // Answered at once: what waits for its answer is kept.
            let response = walcast_wire::reason_response(&reason);
            let (serializer, topic) = (self.session.serializer(), &message.topic);
            let (join_ref, reference) = (&message.join_ref, &message.reference);
            let frame = walcast_wire::reply(serializer, join_ref, reference, topic, Status::Error, &response);
            self.write(&frame).await;
            return None;
        }
        let channels_max = self.gateway.limits.max_channels_per_client;
        if self.pending.len() >= channels_max.saturating_add(PENDING_REFUSALS_MAX) {
            return Some(End::Close(close_code::POLICY, "too many joins are waiting for their answer"));
        }
        if place.is_none() && self.channels.len() >= channels_max {
            self.channels.retain(ChannelState::is_open);
        }
        let topic: Arc<str> = Arc::from(&*message.topic);
        let checked = self.check_join(sub_topic, message, place);
        match place {
            Some(place) => {
                let before = std::mem::replace(&mut self.channels[place].stage, Stage::Joining);
                if let Stage::Joined { channel, .. } = before {
                    self.session.send(Command::Supersede(self.session.id, channel.id())).await;
                }
            }
            None => self.channels.push(ChannelState {
                topic: Arc::clone(&topic),
                stage: Stage::Joining,
                deferred: VecDeque::new(),
            }),
        }
        let joining = JoinTask {
            gateway: Arc::clone(&self.gateway),
            session: self.session.clone(),
            socket_credentials: self.credentials.clone(),
            topic,
            join_ref: message.join_ref.clone(),
            reference: message.reference.clone(),
        };
        self.pending.push(Box::pin(joining.run(checked)));
        None
    }

    /// What can be said of a join at once; a refusal is its `reason`.
    fn check_join(
        &self,
        sub_topic: &str,
        message: &ClientMessage<'_>,
        place: Option<usize>,
    ) -> Result<JoinPayload, String> {
        let limits = &self.gateway.limits;
        if sub_topic.is_empty() {
            return Err("TopicNameRequired: You must provide a topic name".to_owned());
        }
        if !self.gateway.admission.allows_join(limits, std::time::Instant::now()) {
            return Err("ClientJoinRateLimitReached: Too many joins per second".to_owned());
        }
        if place.is_none() && self.channels.len() >= limits.max_channels_per_client {
            return Err("ChannelRateLimitReached: Too many channels".to_owned());
        }
        let ClientPayload::Json(payload) = &message.payload else {
            return Err("UnknownErrorOnChannel: the payload of phx_join must be JSON".to_owned());
        };
        let payload = JoinPayload::parse(sub_topic, payload).map_err(|error| error.to_string())?;
        check_sizes(&payload, limits)?;
        if !payload.invalid_fields.is_empty() {
            let fields = payload.invalid_fields.join(", ");
            tracing::warn!(
                code = "InvalidJoinPayload",
                fields,
                sub = self.credentials.subject(),
                iss = self.credentials.issuer(),
                exp = self.credentials.expires_at(),
                "fields of a join took their defaults"
            );
        }
        Ok(payload)
    }

    // Tokens.

    /// A new token for a channel; never replied to (docs/protocol.md §8.3).
    fn access_token(&mut self, message: &ClientMessage<'_>, place: usize) {
        let ClientPayload::Json(payload) = &message.payload else {
            return;
        };
        let AccessTokenPush::Replace(token) = AccessTokenPush::parse(payload) else {
            return;
        };
        let state = &mut self.channels[place];
        let Stage::Joined { channel, credentials } = &state.stage else {
            return;
        };
        if *credentials.token == *token {
            return;
        }
        let (topic, channel, credentials) = (Arc::clone(&state.topic), channel.clone(), credentials.clone());
        state.stage = Stage::Renewing { channel: channel.clone(), credentials };
        let (gateway, session, token) = (Arc::clone(&self.gateway), self.session.clone(), token.into_owned());
        self.pending.push(Box::pin(async move {
            let outcome = match gateway.verifier.verify(&token, unix_seconds()).await {
                Ok(claims) => {
                    let credentials = Credentials::new(token.into(), claims);
                    gateway.engine.refresh(&session, &channel, Arc::clone(&credentials.identity)).await;
                    Ok(credentials)
                }
                Err(error) => Err(error),
            };
            Settled::Renewed { topic, channel: channel.id(), outcome }
        }));
    }

    /// Ends a channel for its token; `credentials` are those that it had.
    async fn close_channel(&mut self, channel: ChannelId, credentials: &Credentials, error: &TokenError) {
        tracing::info!(
            code = error.code(),
            %error,
            sub = credentials.subject(),
            iss = credentials.issuer(),
            exp = credentials.expires_at(),
            "a channel was closed for its token"
        );
        let (session, message) = (self.session.id, error.close_message());
        self.session.send(Command::CloseChannel { session, channel, message }).await;
    }

    // Outcomes.

    async fn settle(&mut self, settled: Settled) -> Option<End> {
        let topic = match &settled {
            Settled::Joined { topic, .. } | Settled::Renewed { topic, .. } => Arc::clone(topic),
        };
        let place = self.channels.iter().position(|channel| channel.topic == topic)?;
        let stage = match (settled, &self.channels[place].stage) {
            (Settled::Joined { outcome, .. }, _) => {
                outcome.map(|(channel, credentials)| Stage::Joined { channel, credentials })
            }
            (
                Settled::Renewed { channel: id, outcome, .. },
                Stage::Renewing { channel, credentials: before },
            ) if channel.id() == id => {
                let (channel, before) = (channel.clone(), before.clone());
                match outcome {
                    Ok(credentials) => Some(Stage::Joined { channel, credentials }),
                    Err(error) => {
                        self.close_channel(id, &before, &error).await;
                        None
                    }
                }
            }
            // The channel has ended with its old token while the new one was being checked.
            (Settled::Renewed { .. }, _) => return None,
        };
        let deferred = std::mem::take(&mut self.channels[place].deferred);
        match stage {
            Some(stage) => self.channels[place].stage = stage,
            None => drop(self.channels.remove(place)),
        }
        self.resume(deferred).await
    }

    // Small pieces.

    /// docs/protocol.md §3.7: a leave of an earlier join is late; one made without a `join_ref` takes any.
    fn is_current(&self, place: usize, join_ref: &Ref) -> bool {
        match &self.channels[place].stage {
            Stage::Joined { channel, .. } => channel.is_left_by(join_ref),
            Stage::Joining | Stage::Renewing { .. } => false,
        }
    }

    fn reply(&self, message: &ClientMessage<'_>, status: Status, response: &str) -> Frame {
        let (serializer, none) = (self.session.serializer(), Ref::null());
        walcast_wire::reply(serializer, &none, &message.reference, &message.topic, status, response)
    }

    async fn write(&mut self, frame: &Frame) {
        self.session.send(Command::Write(self.session.id, frame.bytes().clone())).await;
    }

    async fn close(&mut self, code: u16, reason: &str) {
        self.session.send(Command::Close(self.session.id, Frame::close(code, reason))).await;
    }
}

/// What every other member or every change would have to carry is bounded.
fn check_sizes(payload: &JoinPayload, limits: &Limits) -> Result<(), String> {
    let (bindings, allowed) = (payload.bindings.len(), limits.max_bindings_per_channel);
    if bindings > allowed {
        return Err(format!(
            "TooManyBindings: the channel asks for {bindings} postgres_changes bindings, at most {allowed} are \
             allowed (limits.max_bindings_per_channel)"
        ));
    }
    check_name("config.presence.key", payload.presence.key.as_deref().unwrap_or_default())
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(format!("NameTooLong: {what} has {} bytes, at most {NAME_BYTES_MAX} are allowed", name.len()))
}

fn end_of(error: &Error) -> End {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            End::Close(close_code::TOO_BIG, "the message is larger than the server accepts")
        }
        Error::Protocol(_) => End::Close(close_code::PROTOCOL_ERROR, "not a valid WebSocket frame"),
        Error::Utf8(_) => End::Close(close_code::INVALID_DATA, "a text message must be UTF-8"),
        _ => End::Gone,
    }
}
