//! Joins: what can be said at once, and the rest beside everything else that the socket does
//! (docs/protocol.md §3.2–3.4).

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt as _;
use walcast_engine::{Command, JoinRequest, ReadRights, SessionHandle};
use walcast_policy::channel::ReplayRequest;
use walcast_wire::{ChannelToken, ClientMessage, ClientPayload, JoinPayload, Ref, Replay, Status};

use super::channel::{ChannelState, Credentials, Joined, Settled, Stage};
use super::client::Client;
use super::private::{self, Asker, PrivateRights};
use super::{DatabaseMessages, End, Gateway, Limits, close_code};
use crate::clock::{since_epoch, unix_seconds};
use crate::redact::redact_text;

/// Joins that wait for their answer beyond the channels that there may be: refused ones, which wait longest.
/// More end the connection.
const PENDING_REFUSALS_MAX: usize = 1_000;

/// Bytes of a topic or presence key: both go out with every message that concerns them.
const NAME_BYTES_MAX: usize = 4 * 1024;

impl Client {
    /// Handles a `phx_join`.
    pub(super) async fn join(&mut self, message: &ClientMessage<'_>, place: Option<usize>) -> Option<End> {
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
        if let Some(place) = place {
            let before = std::mem::replace(&mut self.channels[place].stage, Stage::Joining);
            if let Stage::Joined(joined) = before {
                self.session.send(Command::Supersede(self.session.id, joined.channel.id())).await;
            }
        } else {
            // Most sockets join one topic: a growing `Vec` would begin with room for four.
            self.channels.reserve_exact(1);
            self.channels.push(ChannelState {
                topic: Arc::clone(&topic),
                stage: Stage::Joining,
                deferred: VecDeque::new(),
            });
        }
        let rejoins = self.count.began_earlier(self.session.serializer(), self.channels.len());
        let joining = JoinTask {
            rejoins,
            gateway: Arc::clone(&self.gateway),
            session: self.session.clone(),
            socket_credentials: self.credentials.clone(),
            headers: Arc::clone(&self.headers),
            topic,
            join_ref: message.join_ref.clone(),
            reference: message.reference.clone(),
        };
        self.pending.push(Box::pin(joining.run(checked)));
        None
    }

    /// What can be said of a join at once.
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
            // Upstream closes the socket, too; its client would join all its channels anew.
            return Err(format!(
                "ClientJoinRateLimitReached: Too many joins per second (limits.max_joins_per_second = {})",
                limits.max_joins_per_second
            ));
        }
        if place.is_none() && self.channels.len() >= limits.max_channels_per_client {
            return Err(format!(
                "ChannelRateLimitReached: Too many channels (limits.max_channels_per_client = {})",
                limits.max_channels_per_client
            ));
        }
        let ClientPayload::Json(payload) = &message.payload else {
            return Err("UnknownErrorOnChannel: the payload of phx_join must be JSON".to_owned());
        };
        let payload = JoinPayload::parse(sub_topic, payload).map_err(|error| error.to_string())?;
        if limits.private_only && !payload.private {
            return Err("PrivateOnly: This project only allows private channels".to_owned());
        }
        check_sizes(&payload, limits)?;
        if !payload.invalid_fields.is_empty() {
            let fields = payload.invalid_fields.join(", ");
            tracing::warn!(
                code = "InvalidJoinPayload",
                fields,
                sub = self.credentials.subject(),
                iss = self.credentials.issuer(),
                exp = self.credentials.expiry(),
                "fields of a join took their defaults"
            );
        }
        Ok(payload)
    }
}

/// A join on its way to an answer.
struct JoinTask {
    gateway: Arc<Gateway>,
    session: SessionHandle,
    socket_credentials: Credentials,
    headers: Arc<str>,
    topic: Arc<str>,
    join_ref: Ref,
    reference: Ref,
    /// The client was there before this connection.
    rejoins: bool,
}

impl JoinTask {
    /// Answers the join.
    async fn run(self, checked: Result<JoinPayload, String>) -> Settled {
        let joined = match checked {
            Ok(payload) => self.decide(payload).await,
            Err(reason) => Err(reason),
        };
        let outcome = match joined {
            Ok(joined) => Some(joined),
            Err(reason) => {
                self.refuse(&reason).await;
                None
            }
        };
        Settled::Joined { topic: self.topic, outcome }
    }

    async fn decide(&self, payload: JoinPayload) -> Result<Joined, String> {
        let token = match &payload.token {
            ChannelToken::Socket => Arc::clone(&self.socket_credentials.token),
            ChannelToken::Own(token) => Arc::from(token.as_str()),
        };
        let claims = self
            .gateway
            .verifier
            .verify(&token, unix_seconds())
            .await
            .map_err(|error| error.join_reason())?;
        // Most channels have the socket's token, and share what is kept of it.
        let credentials = if token == self.socket_credentials.token {
            self.socket_credentials.clone()
        } else {
            Credentials::new(token, claims)
        };
        if let Some(reason) = payload.replay_refusal() {
            return Err(reason.to_owned());
        }
        let rights = self.private_rights(&payload, &credentials).await?;
        let read = rights.as_ref().map_or(ReadRights::ALL, |rights| rights.read);
        let replay = match payload.broadcast.replay {
            Some(Replay::Since { unix_ms, limit }) if read.broadcast => {
                Some(self.replay(unix_ms, limit).boxed())
            }
            Some(Replay::Since { .. }) => return Err(private::no_read_permission(self.sub_topic())),
            _ => None,
        };
        let waits = payload.broadcast.replication_ready;
        let replication_ready = *self.gateway.database_messages.borrow() == DatabaseMessages::Arriving;
        let request = JoinRequest {
            topic: Arc::clone(&self.topic),
            join_ref: self.join_ref.clone(),
            reference: self.reference.clone(),
            identity: Arc::clone(&credentials.identity),
            claimant: credentials.claimant(),
            rejoins: self.rejoins,
            payload,
            rights: read,
            replay,
            replication_ready,
            resume_from: None,
        };
        let channel = self.gateway.engine.join(&self.session, request).await.map_err(|refused| refused.0)?;
        let (limits, now) = (&self.gateway.limits, since_epoch());
        let mut joined = Joined::new(channel, credentials, rights, limits, now);
        joined.ready_by = (waits && !replication_ready).then(|| now + limits.replication_ready_timeout);
        Ok(joined)
    }

    /// What policies allow on a private channel; `None` on a public one.
    async fn private_rights(
        &self,
        payload: &JoinPayload,
        credentials: &Credentials,
    ) -> Result<Option<Box<PrivateRights>>, String> {
        if !payload.private {
            return Ok(None);
        }
        let asker = Asker::new(&self.gateway, &credentials.identity, self.sub_topic(), &self.headers);
        let with_presence = payload.presence.enabled || self.gateway.engine.presence_enabled();
        match asker.read(with_presence).await {
            Ok(Some(rights)) => Ok(Some(rights)),
            Ok(None) => Err(private::no_read_permission(self.sub_topic())),
            Err(error) => {
                tracing::warn!(code = private::code(&error), %error, "a private join could not be decided");
                Err(private::refusal(&error, self.sub_topic()))
            }
        }
    }

    /// Reads the stored messages that the join asks for; the error is its `reason`.
    fn replay(
        &self,
        since_unix_ms: i64,
        limit: u8,
    ) -> impl Future<Output = Result<Vec<walcast_policy::channel::StoredMessage>, String>> + Send + use<>
    {
        let policies = Arc::clone(&self.gateway.policies);
        let request = ReplayRequest { topic: Arc::from(self.sub_topic()), since_unix_ms, limit };
        async move {
            policies.replay(&request).await.map_err(|error| {
                tracing::warn!(code = "UnableToReplayMessages", %error, "stored messages could not be read");
                "UnableToReplayMessages: Realtime was unable to replay messages".to_owned()
            })
        }
    }

    async fn refuse(&self, reason: &str) {
        self.gateway.count_error();
        // As a debug text: a topic is a stranger's, and may hold line breaks or a token.
        let bearer = &self.socket_credentials;
        tracing::info!(
            topic = ?redact_text(&self.topic),
            reason,
            sub = bearer.subject(),
            iss = bearer.issuer(),
            exp = bearer.expiry(),
            "join refused"
        );
        tokio::time::sleep(self.gateway.limits.channel_error_backoff).await;
        let serializer = self.session.serializer();
        let response = walcast_wire::reason_response(reason);
        let (join_ref, reference) = (&self.join_ref, &self.reference);
        let frame =
            walcast_wire::reply(serializer, join_ref, reference, &self.topic, Status::Error, &response);
        let (session, topic) = (self.session.id, Arc::clone(&self.topic));
        self.session.send(Command::Refuse { session, topic, frame }).await;
    }

    fn sub_topic(&self) -> &str {
        walcast_wire::sub_topic(&self.topic).unwrap_or_default()
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
