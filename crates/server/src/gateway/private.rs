//! Private channels: what policies on `realtime.messages` allow, and the words for what they do not
//! (docs/protocol.md §8.3, §8.4).

use std::sync::Arc;

use walcast_engine::{Identity, PushKind, ReadRights};
use walcast_policy::channel::{
    ChannelExtension, ChannelPolicies, ChannelPolicyError, ChannelRequest, ChannelRights,
};

use super::Gateway;
use super::channel::Credentials;

/// What a joined private channel may do, as far as it has been asked.
#[derive(Clone, Debug)]
pub(super) struct PrivateRights {
    /// What it may receive. What was not asked counts as not allowed.
    pub(super) read: ReadRights,
    /// Whether it was asked if presence may be received: only those who want it are judged by its policies.
    pub(super) presence_asked: bool,
    /// What it may send; `None` until it first sends something (docs/protocol.md §6.1).
    pub(super) write: Option<ChannelRights>,
    /// The state of the policies when they were asked; see [`super::Gateway::policies_version`].
    pub(super) policies_version: u64,
}

/// What there is to say about a message on a private channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    Granted,
    Denied,
    /// The policies have to be asked first.
    Unknown,
}

/// What the policies said of sending.
pub(super) struct Checked {
    pub(super) write: Result<ChannelRights, ChannelPolicyError>,
    /// Whether presence may be received, where that had to be found out too.
    pub(super) presence: Option<bool>,
}

/// What a new token, or a change of the policies, came to.
pub(super) struct Renewal {
    pub(super) credentials: Credentials,
    pub(super) rights: Option<Box<PrivateRights>>,
}

impl PrivateRights {
    /// Whether a message may be sent.
    pub(super) fn permits(&self, kind: &PushKind) -> Permission {
        let allowed = |granted: fn(&ChannelRights) -> bool| match &self.write {
            None => Permission::Unknown,
            Some(write) if granted(write) => Permission::Granted,
            Some(_) => Permission::Denied,
        };
        match kind {
            PushKind::Broadcast(_) => allowed(|write| write.broadcast),
            // A track makes presence known to the channel, so that it must be known whether it may see it.
            PushKind::Track(_) if !self.presence_asked => Permission::Unknown,
            PushKind::Track(_) | PushKind::TrackNotAnObject => allowed(|write| write.presence),
            _ => Permission::Granted,
        }
    }

    /// Takes in what the policies said.
    pub(super) fn learn(&mut self, write: ChannelRights, presence: Option<bool>) {
        self.write = Some(write);
        if let Some(presence) = presence {
            self.presence_asked = true;
            self.read.presence = presence;
        }
    }
}

/// Asks the policies in the name of one channel.
pub(super) struct Asker {
    policies: Arc<dyn ChannelPolicies>,
    request: ChannelRequest,
    /// The state of the policies before any question.
    policies_version: u64,
}

impl Asker {
    /// In the name of `identity`, about the topic without its prefix.
    pub(super) fn new(gateway: &Gateway, identity: &Identity, sub_topic: &str, headers: &Arc<str>) -> Self {
        let request = ChannelRequest {
            role: Arc::clone(&identity.role),
            claims: Arc::clone(&identity.claims),
            claims_json: Arc::clone(&identity.claims_json),
            topic: Arc::from(sub_topic),
            headers: Arc::clone(headers),
        };
        let policies = Arc::clone(&gateway.policies);
        Asker { policies, request, policies_version: gateway.policies_version() }
    }

    /// What may be received, broadcasts and, if wanted, presence; `None` when neither may.
    pub(super) async fn read(
        &self,
        with_presence: bool,
    ) -> Result<Option<Box<PrivateRights>>, ChannelPolicyError> {
        let extensions = [ChannelExtension::Broadcast, ChannelExtension::Presence];
        let asked = if with_presence { &extensions[..] } else { &extensions[..1] };
        let ChannelRights { broadcast, presence } = self.policies.read(&self.request, asked).await?;
        let read = ReadRights { broadcast, presence };
        let policies_version = self.policies_version;
        let rights = PrivateRights { read, presence_asked: with_presence, write: None, policies_version };
        Ok((broadcast || presence).then(|| Box::new(rights)))
    }

    /// What may be sent, and, if wanted, whether presence may be received.
    pub(super) async fn write(&self, with_presence_read: bool) -> Checked {
        let extensions = [ChannelExtension::Broadcast, ChannelExtension::Presence];
        let write = self.policies.write(&self.request, &extensions).await;
        let presence = if with_presence_read && write.is_ok() {
            match self.policies.read(&self.request, &[ChannelExtension::Presence]).await {
                Ok(rights) => Some(rights.presence),
                Err(error) => return Checked { write: Err(error), presence: None },
            }
        } else {
            None
        };
        Checked { write, presence }
    }
}

/// The `reason` of a join that policies do not allow.
pub(super) fn no_read_permission(sub_topic: &str) -> String {
    format!("Unauthorized: {}", no_read_permission_message(sub_topic))
}

/// The same as a `system` message.
pub(super) fn no_read_permission_message(sub_topic: &str) -> String {
    format!("You do not have permissions to read from this Channel topic: {sub_topic}")
}

/// The `system` message to a channel that has lost a right to read.
pub(super) fn lost_read_permission_message(sub_topic: &str) -> String {
    format!("You no longer have permission to read from this Channel topic: {sub_topic}")
}

/// The `reason` of the reply to a message that policies do not allow.
pub(super) fn no_write_permission(sub_topic: &str) -> String {
    format!("Unauthorized: You do not have permissions to write to this Channel topic: {sub_topic}")
}

/// The `reason` of the reply to a message when the policies could not be asked about it.
pub(super) fn write_refusal(error: &ChannelPolicyError, sub_topic: &str) -> String {
    match error {
        ChannelPolicyError::Policy(_) => no_write_permission(sub_topic),
        _ => refusal(error, sub_topic),
    }
}

/// The `reason` of a join when the policies could not be asked.
pub(super) fn refusal(error: &ChannelPolicyError, sub_topic: &str) -> String {
    let text = match error {
        ChannelPolicyError::Policy(_) => return no_read_permission(sub_topic),
        ChannelPolicyError::Canceled(text) | ChannelPolicyError::NotInstalled(text) => text.as_str(),
        ChannelPolicyError::MissingPartition(_) => {
            "Realtime was unable to find the expected messages partition"
        }
        ChannelPolicyError::PoolExhausted(_) => "Please increase your connection pool size",
        ChannelPolicyError::TooManyConnections(_) => {
            "Database can't accept more connections, Realtime won't connect"
        }
        ChannelPolicyError::Unreachable(_) => UNREACHABLE,
    };
    format!("{}: {text}", code(error))
}

/// The `system` message to a channel whose rights could not be found out again.
pub(super) fn close_message(error: &ChannelPolicyError, sub_topic: &str) -> String {
    match error {
        ChannelPolicyError::Policy(_) => no_read_permission_message(sub_topic),
        ChannelPolicyError::Canceled(_) => "Query was cancelled, please try again".to_owned(),
        ChannelPolicyError::NotInstalled(text) => text.clone(),
        _ => UNREACHABLE.to_owned(),
    }
}

/// The code under which it is logged, and which clients find before the colon (docs/protocol.md §10.3).
pub(super) fn code(error: &ChannelPolicyError) -> &'static str {
    match error {
        ChannelPolicyError::Policy(_) => "RlsPolicyError",
        ChannelPolicyError::Canceled(_) => "QueryCanceled",
        ChannelPolicyError::MissingPartition(_) => "MissingPartition",
        ChannelPolicyError::PoolExhausted(_) => "IncreaseConnectionPool",
        ChannelPolicyError::TooManyConnections(_) => "DatabaseLackOfConnections",
        ChannelPolicyError::Unreachable(_) => "UnableToConnectToProject",
        ChannelPolicyError::NotInstalled(_) => "UnableToSetPolicies",
    }
}

const UNREACHABLE: &str = "Realtime was unable to connect to the project database";

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(presence_asked: bool, write: Option<ChannelRights>) -> PrivateRights {
        let read = ReadRights { broadcast: true, presence: presence_asked };
        PrivateRights { read, presence_asked, write, policies_version: 0 }
    }

    #[test]
    fn what_may_be_sent_is_asked_once_and_remembered_whatever_the_answer() {
        let broadcast = PushKind::Broadcast(walcast_engine::BroadcastPayload::Text("{}".into()));
        assert_eq!(rights(false, None).permits(&broadcast), Permission::Unknown);
        let granted = ChannelRights { broadcast: true, presence: false };
        assert_eq!(rights(false, Some(granted)).permits(&broadcast), Permission::Granted);
        assert_eq!(rights(false, Some(ChannelRights::default())).permits(&broadcast), Permission::Denied);
    }

    #[test]
    fn a_first_track_also_asks_whether_presence_may_be_seen() {
        let track = PushKind::Track("{}".into());
        let granted = ChannelRights { broadcast: true, presence: true };
        let mut channel = rights(false, Some(granted));
        assert_eq!(channel.permits(&track), Permission::Unknown);
        channel.learn(granted, Some(false));
        assert_eq!(channel.permits(&track), Permission::Granted);
        assert!(!channel.read.presence);
    }

    #[test]
    fn to_untrack_needs_no_permission() {
        assert_eq!(
            rights(false, Some(ChannelRights::default())).permits(&PushKind::Untrack),
            Permission::Granted
        );
    }

    #[test]
    fn a_policy_that_raises_is_told_as_a_missing_permission() {
        let error = ChannelPolicyError::Policy("division by zero".to_owned());
        let reason = "Unauthorized: You do not have permissions to read from this Channel topic: room";
        assert_eq!(refusal(&error, "room"), reason);
        assert_eq!(write_refusal(&error, "room"), reason.replace("read from", "write to"));
        assert!(!close_message(&error, "room").contains("division"));
    }
}
