//! The tokens of joined channels: replaced, about to expire, expired; and what a change of policies means for
//! those that are joined (docs/protocol.md §8.2, §8.3).

use std::sync::Arc;
use std::time::Duration;

use walcast_auth::TokenError;
use walcast_engine::{Command, SystemMessage};
use walcast_wire::{AccessTokenPush, ClientMessage, ClientPayload, Status};

use super::channel::{Credentials, Joined, Settled, Stage};
use super::client::Client;
use super::private::{self, Asker, PrivateRights, Renewal};
use crate::clock::{since_epoch, unix_seconds};

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
            && let Some(rights) = &joined.rights
            && rights.policies_version != self.gateway.policies_version()
        {
            let token = Arc::clone(&joined.credentials.token);
            self.renew(place, token);
        }
    }

    /// Looks again at tokens and rights that have not been looked at for long: a key may have been withdrawn.
    pub(super) fn recheck(&mut self, now: Duration) {
        for place in 0..self.channels.len() {
            if let Stage::Joined(joined) = &self.channels[place].stage
                && joined.recheck_at() <= now
            {
                let token = Arc::clone(&joined.credentials.token);
                self.renew(place, token);
            }
        }
    }

    /// Checks a token and what it allows; messages on the topic wait meanwhile.
    fn renew(&mut self, place: usize, token: Arc<str>) {
        let Some(joined) = self.channels[place].take_joined() else { return };
        self.channels[place].stage = Stage::Renewing(joined.clone());
        let topic = Arc::clone(&self.channels[place].topic);
        let gateway = Arc::clone(&self.gateway);
        let (session, headers) = (self.session.clone(), Arc::clone(&self.headers));
        self.pending.push(Box::pin(async move {
            let sub_topic = walcast_wire::sub_topic(&topic).unwrap_or_default();
            let checked = async {
                let claims = gateway.verifier.verify(&token, unix_seconds()).await.map_err(|error| {
                    log_closing(&joined.credentials, &error);
                    error.close_message()
                })?;
                let credentials = Credentials::new(Arc::clone(&token), claims);
                let rights = match &joined.rights {
                    None => None,
                    Some(before) => {
                        let asker = Asker::new(&gateway, &credentials.identity, sub_topic, &headers);
                        Some(rights_of_now(&asker, before, sub_topic).await?)
                    }
                };
                Ok(Renewal { credentials, rights })
            };
            let outcome: Result<Renewal, String> = checked.await;
            if let Ok(renewal) = &outcome {
                if let Some(rights) = &renewal.rights {
                    gateway.engine.set_rights(&session, &joined.channel, rights.read).await;
                }
                if *joined.credentials.token != *renewal.credentials.token {
                    let identity = Arc::clone(&renewal.credentials.identity);
                    gateway.engine.refresh(&session, &joined.channel, identity).await;
                }
            }
            let channel = joined.channel.id();
            Settled::Renewed { topic, channel, outcome }
        }));
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

/// What policies allow now; the error is the `system` message that ends the channel.
async fn rights_of_now(
    asker: &Asker,
    before: &PrivateRights,
    sub_topic: &str,
) -> Result<Box<PrivateRights>, String> {
    let now = asker.read(before.presence_asked).await.map_err(|error| {
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
