//! [`ChannelPolicies`]: what the policies of `realtime.messages` allow on a private channel (docs/protocol.md §8.4).
//!
//! In reading order: here, which of two ways a check goes; `plans`: the compiled one; `together`: those who wait for
//! PostgreSQL at the same moment; `probe`: PostgreSQL, asked with rows that are rolled back; `replay`: stored messages; `failure`: what went wrong, in the words of the trait;
//! [`report`]: how each policy is decided, for `walcast doctor`.

mod failure;
mod plans;
mod probe;
mod replay;
pub mod report;
mod together;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use walcast_policy::channel::{
    ChannelExtension, ChannelPolicies, ChannelPolicyError, ChannelRequest, ChannelRights, ReplayRequest,
    StoredMessage,
};

use crate::catalog::Catalog;
use crate::quoting::RoleName;
use crate::read::Messages;

use self::failure::failure;
pub(crate) use self::plans::Plans;
use self::probe::Question;
pub(crate) use self::together::Together;

/// A table that was not there is looked for again after so long, however many ask for it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a channel is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelAction {
    /// To receive: policies for SELECT.
    Read,
    /// To send: policies for INSERT.
    Write,
}

impl ChannelPolicies for Catalog {
    fn read<'a>(
        &'a self,
        request: &'a ChannelRequest,
        extensions: &'a [ChannelExtension],
    ) -> BoxFuture<'a, Result<ChannelRights, ChannelPolicyError>> {
        self.channel_rights(ChannelAction::Read, request, extensions).boxed()
    }

    fn write<'a>(
        &'a self,
        request: &'a ChannelRequest,
        extensions: &'a [ChannelExtension],
    ) -> BoxFuture<'a, Result<ChannelRights, ChannelPolicyError>> {
        self.channel_rights(ChannelAction::Write, request, extensions).boxed()
    }

    fn replay<'a>(
        &'a self,
        request: &'a ReplayRequest,
    ) -> BoxFuture<'a, Result<Vec<StoredMessage>, ChannelPolicyError>> {
        async move {
            let messages = self.usable_messages().await?;
            self.stored_messages(&messages, request).await
        }
        .boxed()
    }
}

impl Catalog {
    /// A number that changes whenever an answer of [`ChannelPolicies`] may have changed for another reason than the
    /// request: a policy, a grant, a role, a function. Rows of tables that policies look up are no such reason.
    pub fn channel_policies_changed(&self) -> watch::Receiver<u64> {
        self.messages.changes.subscribe()
    }

    async fn channel_rights(
        &self,
        action: ChannelAction,
        request: &ChannelRequest,
        extensions: &[ChannelExtension],
    ) -> Result<ChannelRights, ChannelPolicyError> {
        if let Some(rights) = self.channel_rights_in_process(action, request, extensions).await? {
            return Ok(rights);
        }
        self.channel_rights_by_asking(action, request, extensions).await
    }

    /// What the compiled policies allow, or `None` where PostgreSQL has to be asked, as it has to be while the catalog
    /// can not be read.
    ///
    /// # Errors
    /// The role does not exist, or `realtime.messages` does not or can not be used.
    pub async fn channel_rights_in_process(
        &self,
        action: ChannelAction,
        request: &ChannelRequest,
        extensions: &[ChannelExtension],
    ) -> Result<Option<ChannelRights>, ChannelPolicyError> {
        self.know_role(&request.role).await.map_err(failure)?;
        let messages = self.usable_messages().await?;
        // A policy may have been revoked since anybody could look: then it is PostgreSQL's to say, or nobody's.
        if self.age() > self.age_max() {
            return Ok(None);
        }
        Ok(self.messages.plans.decide(&messages, action, request, extensions))
    }

    /// What PostgreSQL allows, asked as the reference does it, together with others who wait.
    ///
    /// # Errors
    /// As the trait's.
    pub async fn channel_rights_by_asking(
        &self,
        action: ChannelAction,
        request: &ChannelRequest,
        extensions: &[ChannelExtension],
    ) -> Result<ChannelRights, ChannelPolicyError> {
        let messages = self.usable_messages().await?;
        let question = Question {
            action,
            role: RoleName::new(&request.role).map_err(failure)?,
            request: request.clone(),
            extensions: extensions.to_vec(),
            stored_as_written: messages.is_usual(),
        };
        self.channels.ask(question).await
    }

    /// `realtime.messages`, looked for once more where it was not there a while ago.
    async fn usable_messages(&self) -> Result<Arc<Messages>, ChannelPolicyError> {
        let mut found = self.messages.current.load_full();
        if found.is_none() && self.age() > LOOK_AGAIN {
            self.look_again().await.map_err(failure)?;
            found = self.messages.current.load_full();
        }
        let Some(messages) = found else {
            return Err(ChannelPolicyError::NotInstalled(
                "private channels need the table realtime.messages, which this database does not have: run \
                 `walcast install --apply`"
                    .to_owned(),
            ));
        };
        if let Some(flaw) = messages.flaw() {
            return Err(ChannelPolicyError::NotInstalled(format!(
                "private channels can not use realtime.messages, because {flaw}: move it out of the way and run \
                 `walcast install --apply`"
            )));
        }
        Ok(messages)
    }
}
