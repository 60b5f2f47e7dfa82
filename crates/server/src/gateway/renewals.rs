//! The tokens of joined channels: replaced, about to expire, expired; and what a change of policies means for
//! those that are joined (docs/protocol.md §8.2, §8.3).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walcast_auth::TokenError;
use walcast_engine::{Command, SystemMessage};
use walcast_policy::channel::ChannelPolicyError;
use walcast_wire::{AccessTokenPush, ClientMessage, ClientPayload, Status};

use super::Gateway;
use super::channel::{Credentials, Joined, Settled, Stage};
use super::client::Client;
use super::private::{self, Asker, PrivateRights, Renewal};
use crate::clock::{since_epoch, unix_seconds};

/// How long a database that is away, or has no connection to spare, may put off what an unchanged token allows.
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(4);

impl Client {
    /// A new token for a channel; never replied to.
    pub(super) fn access_token(&mut self, message: &ClientMessage<'_>, place: usize) {
        let ClientPayload::Json(payload) = &message.payload else {
            return;
        };
        let AccessTokenPush::Replace(token) = AccessTokenPush::parse(payload) else {
            return;
        };
        let current = self.channels[place].joined();
        if current.is_some_and(|joined| *joined.credentials.token == *token) {
            return;
        }
        self.renew(place, Arc::from(&*token));
    }

    /// Policies, grants or roles have changed: what they allowed is asked anew.
    pub(super) fn policies_changed(&mut self) {
        self.policies_changed.mark_unchanged();
        for place in 0..self.channels.len() {
            self.renew_if_stale(place);
        }
    }

    /// Asks anew what a channel may do if the policies have changed since it was asked. What is being found out
    /// at the moment comes back here.
    pub(super) fn renew_if_stale(&mut self, place: usize) {
        if let Stage::Joined(joined) = &self.channels[place].stage
            && joined.channel.is_open()
            && let Some(rights) = &joined.rights
            && rights.policies_version != self.gateway.policies_version()
        {
            let token = Arc::clone(&joined.credentials.token);
            self.renew(place, token);
        }
    }

    /// Looks again at tokens and rights that have not been looked at for long: a key may have been withdrawn. What is
    /// known holds meanwhile.
    pub(super) fn recheck(&mut self, now: Duration) {
        for place in 0..self.channels.len() {
            let due = match &mut self.channels[place].stage {
                Stage::Joined(joined) if joined.recheck_at() <= now => {
                    joined.recheck_later(&self.gateway.limits, now);
                    joined.channel.is_open().then(|| joined.clone())
                }
                _ => None,
            };
            if let Some(joined) = due {
                let channel = joined.channel.id();
                let topic = Arc::clone(&self.channels[place].topic);
                let token = Arc::clone(&joined.credentials.token);
                let check = self.check(place, joined, Arc::clone(&token));
                self.pending.push(Box::pin(async move {
                    Settled::Rechecked { topic, channel, token, outcome: check.await }
                }));
            }
        }
    }

    /// Checks a token and what it allows; messages on the topic wait meanwhile.
    fn renew(&mut self, place: usize, token: Arc<str>) {
        let Some(joined) = self.channels[place].take_joined() else { return };
        self.channels[place].stage = Stage::Renewing(joined.clone());
        let channel = joined.channel.id();
        let topic = Arc::clone(&self.channels[place].topic);
        let (gateway, session) = (Arc::clone(&self.gateway), self.session.clone());
        let (renewing, is_new) = (joined.channel.clone(), *joined.credentials.token != *token);
        let check = self.check(place, joined, token);
        self.pending.push(Box::pin(async move {
            let outcome = check.await;
            if let Ok(Renewal { credentials, rights }) = &outcome {
                if let Some(rights) = rights {
                    gateway.engine.set_rights(&session, &renewing, rights.read).await;
                }
                if is_new {
                    let identity = Arc::clone(&credentials.identity);
                    gateway.engine.refresh(&session, &renewing, identity, credentials.claimant()).await;
                }
            }
            Settled::Renewed { topic, channel, outcome }
        }));
    }

    /// Verifies a token and asks what it allows; the error is the `system` message that ends the channel.
    fn check(
        &self,
        place: usize,
        joined: Joined,
        token: Arc<str>,
    ) -> impl Future<Output = Result<Renewal, String>> + Send + use<> {
        let topic = Arc::clone(&self.channels[place].topic);
        let gateway = Arc::clone(&self.gateway);
        let headers = Arc::clone(&self.headers);
        async move {
            let claims = gateway.verifier.verify(&token, unix_seconds()).await.map_err(|error| {
                log_closing(&joined.credentials, &error);
                error.close_message()
            })?;
            let is_new = *joined.credentials.token != *token;
            let credentials = Credentials::new(token, claims);
            let rights = match &joined.rights {
                None => None,
                Some(before) => {
                    let sub_topic = walcast_wire::sub_topic(&topic).unwrap_or_default();
                    let asker = || Asker::new(&gateway, &credentials.identity, sub_topic, &headers);
                    let now = if is_new {
                        rights_of_now(&asker(), before).await
                    } else {
                        rights_asked_patiently(&gateway, asker, before).await
                    };
                    Some(kept(now, before, sub_topic)?)
                }
            };
            Ok(Renewal { credentials, rights })
        }
    }

    /// Takes in what a check came to; false when it ends the channel.
    pub(super) async fn renewed(&mut self, place: usize, outcome: Result<Renewal, String>) -> bool {
        let state = &mut self.channels[place];
        let Some((channel, ready_by)) =
            state.joined().map(|joined| (joined.channel.clone(), joined.ready_by))
        else {
            return false;
        };
        match outcome {
            Ok(Renewal { credentials, rights }) => {
                let limits = &self.gateway.limits;
                let mut renewed = Joined::new(channel, credentials, rights, limits, since_epoch());
                renewed.ready_by = ready_by;
                state.stage = Stage::Joined(renewed);
                true
            }
            Err(message) => {
                self.close_channel(channel.id(), message).await;
                false
            }
        }
    }

    /// Takes in what a look at an unchanged token came to; false when it ends the channel. What a new token has
    /// replaced, or is about to, counts no more.
    pub(super) async fn rechecked(
        &mut self,
        place: usize,
        token: &Arc<str>,
        outcome: Result<Renewal, String>,
    ) -> bool {
        let (Stage::Joined(joined) | Stage::Checking(joined)) = &mut self.channels[place].stage else {
            return true;
        };
        if *joined.credentials.token != **token {
            return true;
        }
        let channel = joined.channel.clone();
        match outcome {
            Ok(Renewal { rights: now, .. }) => {
                if let (Some(rights), Some(mut now)) = (&mut joined.rights, now) {
                    if rights.presence_asked && !now.presence_asked {
                        // A first track asked about presence meanwhile.
                        now.presence_asked = true;
                        now.read.presence = rights.read.presence;
                    }
                    let write = rights.write.filter(|_| rights.policies_version == now.policies_version);
                    **rights = PrivateRights { write, ..*now };
                    let read = rights.read;
                    self.gateway.engine.set_rights(&self.session, &channel, read).await;
                }
                true
            }
            Err(message) => {
                self.close_channel(channel.id(), message).await;
                false
            }
        }
    }

    /// Ends a channel whose token has expired.
    pub(super) async fn end_by_token(&mut self, ended: &Joined, seconds_ago: u64) {
        let error = TokenError::Expired { seconds_ago };
        log_closing(&ended.credentials, &error);
        self.close_channel(ended.channel.id(), error.close_message()).await;
    }

    /// Tells channels whose token expires soon. Status ok: for many clients an error is a reason to rejoin.
    pub(super) async fn announce_expiries(&mut self, now: Duration) {
        let mut told = Vec::new();
        for state in &mut self.channels {
            let expires_at = state.expires_at();
            let Stage::Joined(joined) = &mut state.stage else { continue };
            if joined.notice_at().is_some_and(|at| at <= now) {
                joined.noticed();
                let seconds = expires_at.unwrap_or(now).saturating_sub(now).as_secs_f64().round();
                told.push((joined.channel.id(), seconds));
            }
        }
        for (channel, seconds) in told {
            let message = format!(
                "Token expires in {seconds} seconds and ends this channel: send a new one with access_token"
            );
            let session = self.session.id;
            let (extension, status) = ("system", Status::Ok);
            let system = SystemMessage { session, channel, extension, status, message };
            self.session.send(Command::System(system)).await;
        }
    }
}

/// Notes that a channel with these credentials ends for its token.
fn log_closing(credentials: &Credentials, error: &TokenError) {
    tracing::info!(
        code = error.code(),
        %error,
        sub = credentials.subject(),
        iss = credentials.issuer(),
        exp = credentials.expiry(),
        "a channel was closed for its token"
    );
}

/// What policies allow now.
async fn rights_of_now(
    asker: &Asker,
    before: &PrivateRights,
) -> Result<Option<Box<PrivateRights>>, ChannelPolicyError> {
    asker.read(before.presence_asked).await
}

/// The same where nothing is new but time has passed or a policy has changed, which concerns many channels at once: not all
/// at the same moment, and a database that is away for a moment ends none of them.
async fn rights_asked_patiently(
    gateway: &Gateway,
    asker: impl Fn() -> Asker,
    before: &PrivateRights,
) -> Result<Option<Box<PrivateRights>>, ChannelPolicyError> {
    let give_up_at = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        let answer = {
            // The semaphore is never closed.
            let _turn = gateway.rechecks.acquire().await;
            rights_of_now(&asker(), before).await
        };
        let passes = matches!(
            answer,
            Err(ChannelPolicyError::PoolExhausted(_)
                | ChannelPolicyError::TooManyConnections(_)
                | ChannelPolicyError::Unreachable(_))
        );
        if !passes || Instant::now() + pause >= give_up_at {
            return answer;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// What is left of the rights; the error is the `system` message that ends the channel.
fn kept(
    now: Result<Option<Box<PrivateRights>>, ChannelPolicyError>,
    before: &PrivateRights,
    sub_topic: &str,
) -> Result<Box<PrivateRights>, String> {
    let now = now.map_err(|error| {
        tracing::warn!(code = private::code(&error), %error, "the rights of a channel could not be found out");
        private::close_message(&error, sub_topic)
    })?;
    let Some(now) = now else {
        tracing::info!(code = "Unauthorized", "a channel was closed: its policies allow nothing any more");
        return Err(private::no_read_permission_message(sub_topic));
    };
    let lost = (before.read.broadcast && !now.read.broadcast) || (before.read.presence && !now.read.presence);
    if lost {
        tracing::info!(code = "Unauthorized", "a channel was closed: it has lost a right to read");
        return Err(private::lost_read_permission_message(sub_topic));
    }
    Ok(now)
}
