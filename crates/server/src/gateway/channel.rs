//! A topic of a connection, from its join request on: its token, and how a join is decided.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;
use walcast_auth::{Claims, TokenError};
use walcast_engine::{ChannelId, Command, Identity, JoinRequest, JoinedChannel, SessionHandle};
use walcast_wire::{ChannelToken, JoinPayload, Ref, Status};

use super::Gateway;
use crate::clock::unix_seconds;
use crate::redact::redact_text;

/// The token that admitted a socket, and what it says.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) token: Arc<str>,
    pub(super) identity: Arc<Identity>,
    /// Unix time in seconds.
    expires_at: i64,
}

impl Credentials {
    pub(super) fn new(token: Arc<str>, claims: Claims) -> Self {
        let Claims { role, value, json, expires_at, .. } = claims;
        let identity = Identity { role, claims: value, claims_json: json };
        Credentials { token, identity: Arc::new(identity), expires_at }
    }
}

/// Whose token it is, for the log.
impl Credentials {
    pub(super) fn subject(&self) -> Option<&str> {
        self.identity.claims["sub"].as_str()
    }

    pub(super) fn issuer(&self) -> Option<&str> {
        self.identity.claims["iss"].as_str()
    }

    /// Unix time in seconds.
    pub(super) fn expires_at(&self) -> i64 {
        self.expires_at
    }
}

/// A topic of this connection, from its join request on.
pub(super) struct ChannelState {
    pub(super) topic: Arc<str>,
    pub(super) stage: Stage,
    /// Messages that came while the stage was being decided, in order.
    pub(super) deferred: VecDeque<Message>,
}

pub(super) enum Stage {
    /// The join is being decided.
    Joining,
    /// Joined, under this token.
    Joined { channel: JoinedChannel, credentials: Credentials },
    /// Joined, and a new token is being checked; these are the old one's.
    Renewing { channel: JoinedChannel, credentials: Credentials },
}

/// A new token that came in time may outlast the old one by so much while it is being checked, which can mean
/// that keys have to be fetched.
const RENEWAL_GRACE: Duration = Duration::from_secs(1);

/// What a check came to.
pub(super) enum Settled {
    Joined { topic: Arc<str>, outcome: Option<(JoinedChannel, Credentials)> },
    Renewed { topic: Arc<str>, channel: ChannelId, outcome: Result<Credentials, TokenError> },
}

impl ChannelState {
    /// When the channel's token expires, as time since the Unix epoch.
    pub(super) fn expires_at(&self) -> Option<Duration> {
        let at = |credentials: &Credentials| {
            Duration::from_secs(u64::try_from(credentials.expires_at).unwrap_or(0))
        };
        match &self.stage {
            Stage::Joined { credentials, .. } => Some(at(credentials)),
            Stage::Renewing { credentials, .. } => Some(at(credentials).saturating_add(RENEWAL_GRACE)),
            Stage::Joining => None,
        }
    }

    /// False for a channel that the engine has ended (docs/protocol.md §3.6).
    pub(super) fn is_open(&self) -> bool {
        match &self.stage {
            Stage::Joined { channel, .. } => channel.is_open(),
            Stage::Joining | Stage::Renewing { .. } => true,
        }
    }
}

/// A join on its way to an answer, beside everything else that its socket does.
pub(super) struct JoinTask {
    pub(super) gateway: Arc<Gateway>,
    pub(super) session: SessionHandle,
    pub(super) socket_credentials: Credentials,
    pub(super) topic: Arc<str>,
    pub(super) join_ref: Ref,
    pub(super) reference: Ref,
}

impl JoinTask {
    /// Answers the join.
    pub(super) async fn run(self, checked: Result<JoinPayload, String>) -> Settled {
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

    async fn decide(&self, payload: JoinPayload) -> Result<(JoinedChannel, Credentials), String> {
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
        let credentials = Credentials::new(token, claims);
        let request = JoinRequest {
            topic: Arc::clone(&self.topic),
            join_ref: self.join_ref.clone(),
            reference: self.reference.clone(),
            identity: Arc::clone(&credentials.identity),
            payload,
        };
        let joined = self.gateway.engine.join(&self.session, request).await;
        joined.map(|channel| (channel, credentials)).map_err(|refused| refused.0)
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
            exp = bearer.expires_at(),
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
}
