//! A topic of a connection, from its join request on: what is known of it, and what is being found out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use walcast_auth::Claims;
use walcast_engine::{ChannelId, Claimant, Identity, JoinedChannel};

use super::private::{Checked, PrivateRights, Renewal};
use super::{Incoming, Limits};

/// The token that admitted a socket or a channel, and what it says.
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

    /// The claim `sub`: like the next two, for log lines, which say whose token it was.
    pub(super) fn subject(&self) -> Option<&str> {
        self.identity.claims["sub"].as_str()
    }

    /// The same as a digest.
    pub(super) fn claimant(&self) -> Claimant {
        Claimant::of(self.subject(), &self.token)
    }

    /// The claim `iss`.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.identity.claims["iss"].as_str()
    }

    /// The claim `exp`, Unix time in seconds.
    pub(super) fn expiry(&self) -> i64 {
        self.expires_at
    }

    /// When the token expires, as time since the Unix epoch.
    fn expires_at(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.expires_at).unwrap_or(0))
    }
}

/// A topic of this connection, from its join request on.
pub(super) struct ChannelState {
    pub(super) topic: Arc<str>,
    pub(super) stage: Stage,
    /// Messages that came while the stage was being decided, in order.
    pub(super) deferred: VecDeque<Incoming>,
}

pub(super) enum Stage {
    /// The join is being decided.
    Joining,
    /// Joined, and nothing is being found out.
    Joined(Joined),
    /// Joined, and a new token is being checked; what is known is the old one's.
    Renewing(Joined),
    /// Joined, and the policies are being asked whether it may send. The first deferred message made us ask.
    Checking(Joined),
}

/// A joined channel.
#[derive(Clone)]
pub(super) struct Joined {
    pub(super) channel: JoinedChannel,
    pub(super) credentials: Credentials,
    /// What policies allow; `None` on a public channel.
    pub(super) rights: Option<Box<PrivateRights>>,
    /// When the client is told that its token is about to expire, as time since the Unix epoch; `None` once it
    /// has been told.
    notice_at: Option<Duration>,
    /// When token and rights are looked at again, as time since the Unix epoch: keys and policies may have changed.
    recheck_at: Duration,
    /// Until when the channel waits to hear that messages from the database arrive, as time since the Unix epoch; `None`
    /// where it did not ask, or knows.
    pub(super) ready_by: Option<Duration>,
}

/// A new token that came in time may outlast the old one by so much while it is being checked, which can mean
/// that keys have to be fetched.
const RENEWAL_GRACE: Duration = Duration::from_secs(1);

/// What was found out.
pub(super) enum Settled {
    /// A join is answered; without an outcome it was refused.
    Joined { topic: Arc<str>, outcome: Option<Joined> },
    /// A token is checked.
    Renewed { topic: Arc<str>, channel: ChannelId, outcome: Result<Renewal, String> },
    /// A token that has not changed was looked at again.
    Rechecked { topic: Arc<str>, channel: ChannelId, token: Arc<str>, outcome: Result<Renewal, String> },
    /// The policies have said what may be sent.
    Checked { topic: Arc<str>, channel: ChannelId, outcome: Checked },
}

impl Joined {
    /// A channel that has just been joined or renewed, at this time since the Unix epoch.
    pub(super) fn new(
        channel: JoinedChannel,
        credentials: Credentials,
        rights: Option<Box<PrivateRights>>,
        limits: &Limits,
        now: Duration,
    ) -> Self {
        let notice = limits.token_expiry_notice;
        let notice_at = credentials.expires_at().saturating_sub(notice);
        let notice_at = (!notice.is_zero() && notice_at > now).then_some(notice_at);
        let mut joined = Joined { channel, credentials, rights, notice_at, recheck_at: now, ready_by: None };
        joined.recheck_later(limits, now);
        joined
    }

    /// Puts off the next look by about the interval: those who came at the same moment do not ask at the same moment.
    pub(super) fn recheck_later(&mut self, limits: &Limits, now: Duration) {
        let share = rand::random_range(0.75..=1.0);
        self.recheck_at = now.saturating_add(limits.token_recheck.mul_f64(share));
    }

    /// When token and rights are to be looked at again.
    pub(super) fn recheck_at(&self) -> Duration {
        self.recheck_at
    }

    /// When the client is told that its token is about to expire.
    pub(super) fn notice_at(&self) -> Option<Duration> {
        self.notice_at
    }

    /// The client has been told.
    pub(super) fn noticed(&mut self) {
        self.notice_at = None;
    }
}

impl ChannelState {
    /// When something must be done about the channel, as time since the Unix epoch.
    pub(super) fn wakes_at(&self) -> Option<Duration> {
        let expiry = self.expires_at()?;
        let rest = match &self.stage {
            Stage::Joined(joined) => [Some(joined.recheck_at), joined.notice_at],
            _ => [None, None],
        };
        rest.into_iter().chain([self.ready_by()]).flatten().chain([expiry]).min()
    }

    /// Until when the channel waits to hear that messages from the database arrive.
    pub(super) fn ready_by(&self) -> Option<Duration> {
        self.joined()?.ready_by
    }

    /// When the channel's token expires, as time since the Unix epoch.
    pub(super) fn expires_at(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Joined(joined) | Stage::Checking(joined) => Some(joined.credentials.expires_at()),
            Stage::Renewing(joined) => Some(joined.credentials.expires_at().saturating_add(RENEWAL_GRACE)),
            Stage::Joining => None,
        }
    }

    /// The channel, once it is joined.
    pub(super) fn joined(&self) -> Option<&Joined> {
        match &self.stage {
            Stage::Joined(joined) | Stage::Renewing(joined) | Stage::Checking(joined) => Some(joined),
            Stage::Joining => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn joined_mut(&mut self) -> Option<&mut Joined> {
        match &mut self.stage {
            Stage::Joined(joined) | Stage::Renewing(joined) | Stage::Checking(joined) => Some(joined),
            Stage::Joining => None,
        }
    }

    /// False for a channel that the engine has ended (docs/protocol.md §3.6).
    pub(super) fn is_open(&self) -> bool {
        match &self.stage {
            Stage::Joined(joined) => joined.channel.is_open(),
            Stage::Joining | Stage::Renewing(_) | Stage::Checking(_) => true,
        }
    }

    /// Takes the joined channel out when nothing is being found out about it, leaving the stage to be set.
    pub(super) fn take_joined(&mut self) -> Option<Joined> {
        match std::mem::replace(&mut self.stage, Stage::Joining) {
            Stage::Joined(joined) => Some(joined),
            other => {
                self.stage = other;
                None
            }
        }
    }
}
