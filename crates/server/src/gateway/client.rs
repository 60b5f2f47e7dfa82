//! One client, whatever carries its messages: its channels, what is being found out about them, and the way of
//! each message to the session's shard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;
use walcast_engine::{ChannelId, Command, Push, PushKind, SessionHandle, Socket};
use walcast_wire::{ClientMessage, Frame, Ref, Serializer, Status};

use super::channel::{ChannelState, Credentials, Settled, Stage};
use super::private::{self, Permission};
use super::push::push_kind;
use super::returning::Count;
use super::{DatabaseMessages, End, Gateway, Incoming, close_code};
use crate::clock::since_epoch;

/// Messages that wait for something to be found out about their topic; more end the connection.
const DEFERRED_MAX: usize = 1_000;
/// Bytes of all messages that wait, as a multiple of the largest message.
const DEFERRED_LARGEST_MESSAGES: usize = 2;

/// How a client was let in.
pub(super) struct Admitted {
    pub(super) serializer: Serializer,
    pub(super) credentials: Credentials,
    /// Its `x-*` headers as a JSON object, for policies to read (docs/protocol.md §1.2).
    pub(super) headers: Arc<str>,
}

pub(super) struct Client {
    pub(super) gateway: Arc<Gateway>,
    pub(super) session: SessionHandle,
    pub(super) credentials: Credentials,
    pub(super) headers: Arc<str>,
    pub(super) channels: Vec<ChannelState>,
    /// What is being found out: joins, new tokens, permissions.
    pub(super) pending: FuturesUnordered<BoxFuture<'static, Settled>>,
    /// Bytes of the messages that wait for one of these.
    deferred_bytes: usize,
    /// What it counts.
    pub(super) count: Count,
    /// Told when policies, grants or roles that private channels depend on have changed.
    pub(super) policies_changed: watch::Receiver<u64>,
    /// Told when messages from the database begin to arrive, or no longer do.
    pub(super) database_messages: watch::Receiver<DatabaseMessages>,
}

impl Client {
    pub(super) async fn open(gateway: &Arc<Gateway>, socket: Arc<dyn Socket>, admitted: Admitted) -> Client {
        let Admitted { serializer, credentials, headers } = admitted;
        let session =
            gateway.engine.connect(socket, serializer, credentials.identity.subject().map(Arc::from)).await;
        Client {
            gateway: Arc::clone(gateway),
            session,
            credentials,
            headers,
            channels: Vec::new(),
            pending: FuturesUnordered::new(),
            deferred_bytes: 0,
            count: Count::default(),
            policies_changed: gateway.policies_changed.clone(),
            database_messages: gateway.database_messages.clone(),
        }
    }

    // Deadlines.

    /// When [`Client::deadline`] wants to be called, at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let first = self.channels.iter().filter_map(ChannelState::wakes_at).min()?;
        // At most a day ahead: the clock may be set meanwhile.
        let wait = first.saturating_sub(since_epoch()).min(Duration::from_hours(24));
        Some(Instant::now() + wait)
    }

    /// Ends channels whose token has expired, tells those whose token soon will, and looks at the others again. Ends
    /// those that have waited too long for messages from the database.
    pub(super) async fn deadline(&mut self) -> Option<End> {
        let now = since_epoch();
        let expired = |channel: &ChannelState| channel.expires_at().is_some_and(|at| at <= now);
        while let Some(place) = self.channels.iter().position(expired) {
            let closed = self.channels.remove(place);
            let seconds_ago = now.saturating_sub(closed.expires_at().unwrap_or(now)).as_secs();
            if let Some(joined) = closed.joined() {
                self.end_by_token(joined, seconds_ago).await;
            }
            if let Some(end) = self.resume(closed.deferred).await {
                return Some(end);
            }
        }
        self.announce_expiries(now).await;
        self.recheck(now);
        self.end_unready(now).await
    }

    // Messages.

    /// Handles a message of the client.
    pub(super) async fn receive(&mut self, raw: Incoming) -> Option<End> {
        let serializer = self.session.serializer();
        let parsed = match &raw {
            Incoming::Text(text) => ClientMessage::parse_text(serializer, text),
            Incoming::Binary(bytes) => ClientMessage::parse_binary(serializer, bytes),
        };
        let message = match parsed {
            Ok(message) => message,
            Err(error) => {
                self.gateway.count_error();
                tracing::debug!(code = "MalformedWebSocketMessage", %error, "a frame was dropped");
                return None;
            }
        };
        self.count.has_come_to(&message.reference);
        if message.topic == "phoenix" {
            self.phoenix(&message).await;
            return None;
        }
        let place = self.channels.iter().position(|channel| *channel.topic == *message.topic);
        if let Some(place) = place
            && !matches!(self.channels[place].stage, Stage::Joined(_))
        {
            return self.defer(place, raw);
        }
        match (&*message.event, place) {
            ("phx_join", _) => return Box::pin(self.join(&message, place)).await,
            ("access_token", Some(place)) => self.access_token(&message, place),
            ("phx_leave", Some(place)) if self.is_current(place, &message.join_ref) => {
                self.channels.remove(place);
                self.push(&message, PushKind::Leave).await;
            }
            ("phx_leave", _) => self.push(&message, PushKind::Leave).await,
            (_, place) => {
                let kind = push_kind(&message);
                let permission = place.map_or(Permission::Granted, |place| self.permits(place, &kind));
                match (permission, place) {
                    (Permission::Unknown, Some(place)) => {
                        self.check_sending(place, matches!(kind, PushKind::Track(_)));
                        return self.defer(place, raw);
                    }
                    (Permission::Denied, Some(place)) => {
                        let reason = private::no_write_permission(self.sub_topic(place));
                        Box::pin(self.refuse_push(place, &message, &kind, &reason)).await;
                    }
                    _ => self.push(&message, kind).await,
                }
            }
        }
        None
    }

    /// Keeps a message until what its topic waits for is found out.
    fn defer(&mut self, place: usize, raw: Incoming) -> Option<End> {
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
    pub(super) async fn resume(&mut self, deferred: VecDeque<Incoming>) -> Option<End> {
        self.deferred_bytes -= deferred.iter().map(Incoming::len).sum::<usize>();
        for message in deferred {
            // Boxed: a deferred message may be a join, whose outcome comes back here.
            if let Some(end) = Box::pin(self.receive(message)).await {
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

    // Outcomes.

    /// Takes in what was found out.
    pub(super) async fn settle(&mut self, settled: Settled) -> Option<End> {
        let topic = match &settled {
            Settled::Joined { topic, .. }
            | Settled::Renewed { topic, .. }
            | Settled::Rechecked { topic, .. }
            | Settled::Checked { topic, .. } => Arc::clone(topic),
        };
        let place = self.channels.iter().position(|channel| channel.topic == topic)?;
        match settled {
            Settled::Joined { outcome: Some(joined), .. } => {
                let waits = joined.ready_by.is_some();
                self.channels[place].stage = Stage::Joined(joined);
                if waits {
                    self.announce_readiness().await;
                }
            }
            Settled::Joined { outcome: None, .. } => {
                let refused = self.channels.remove(place);
                return self.resume(refused.deferred).await;
            }
            Settled::Renewed { channel, outcome, .. } => match &self.channels[place].stage {
                Stage::Renewing(joined) if joined.channel.id() == channel => {
                    if !self.renewed(place, outcome).await {
                        let closed = self.channels.remove(place);
                        return self.resume(closed.deferred).await;
                    }
                }
                // The channel has ended with its old token while the new one was being checked.
                _ => return None,
            },
            Settled::Rechecked { channel, token, outcome, .. } => {
                let joined = self.channels[place].joined();
                if joined.is_none_or(|joined| joined.channel.id() != channel) {
                    return None;
                }
                if !self.rechecked(place, &token, outcome).await {
                    let closed = self.channels.remove(place);
                    return self.resume(closed.deferred).await;
                }
                if !matches!(self.channels[place].stage, Stage::Joined(_)) {
                    return None;
                }
            }
            Settled::Checked { channel, outcome, .. } => match &self.channels[place].stage {
                Stage::Checking(joined) if joined.channel.id() == channel => {
                    self.checked(place, outcome).await;
                }
                _ => return None,
            },
        }
        self.renew_if_stale(place);
        if matches!(self.channels[place].stage, Stage::Renewing(_)) {
            return None;
        }
        let deferred = std::mem::take(&mut self.channels[place].deferred);
        self.resume(deferred).await
    }

    /// Takes a message that waited at a place, the one that came first.
    pub(super) fn take_first_deferred(&mut self, place: usize) -> Option<Incoming> {
        let first = self.channels[place].deferred.pop_front()?;
        self.deferred_bytes -= first.len();
        Some(first)
    }

    // Small pieces.

    /// docs/protocol.md §3.7: a leave of an earlier join is late; one made without a `join_ref` takes any.
    fn is_current(&self, place: usize, join_ref: &Ref) -> bool {
        match &self.channels[place].stage {
            Stage::Joined(joined) => joined.channel.is_left_by(join_ref),
            Stage::Joining | Stage::Renewing(_) | Stage::Checking(_) => false,
        }
    }

    /// The topic at a place without its prefix.
    pub(super) fn sub_topic(&self, place: usize) -> &str {
        walcast_wire::sub_topic(&self.channels[place].topic).unwrap_or_default()
    }

    pub(super) fn reply(&self, message: &ClientMessage<'_>, status: Status, response: &str) -> Frame {
        self.reply_on(&Ref::null(), message, status, response)
    }

    /// A reply in the name of the channel with this `join_ref`.
    pub(super) fn reply_on(
        &self,
        join_ref: &Ref,
        message: &ClientMessage<'_>,
        status: Status,
        response: &str,
    ) -> Frame {
        let serializer = self.session.serializer();
        walcast_wire::reply(serializer, join_ref, &message.reference, &message.topic, status, response)
    }

    pub(super) async fn write(&mut self, frame: &Frame) {
        self.session.send(Command::Write(self.session.id, frame.bytes().clone())).await;
    }

    pub(super) async fn close(&mut self, code: u16, reason: &str) {
        self.session.send(Command::Close(self.session.id, Frame::close(code, reason))).await;
    }

    /// A ping was answered.
    pub(super) async fn acknowledge(&mut self, ping: u32) {
        let (session, reference) = (self.session.id, self.count.reference());
        self.session.send(Command::Acknowledged { session, ping, reference }).await;
    }

    /// The connection is over, and the client has not said that it will not come back.
    pub(super) async fn leave_tickets(&mut self) {
        self.session.send(Command::LeaveTickets(self.session.id, self.count.reference())).await;
    }

    /// Ends a channel with a `system` error.
    pub(super) async fn close_channel(&mut self, channel: ChannelId, message: String) {
        let session = self.session.id;
        self.session.send(Command::CloseChannel { session, channel, message }).await;
    }
}
