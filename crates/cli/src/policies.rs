//! Until policies on `realtime.messages` are read, no private message is allowed.

use futures_util::future::BoxFuture;
use walcast_policy::channel::{
    ChannelExtension, ChannelPolicies, ChannelPolicyError, ChannelRequest, ChannelRights, ReplayRequest,
    StoredMessage,
};

/// Answers every question with the same error.
pub(crate) struct NotInstalled;

fn error() -> ChannelPolicyError {
    ChannelPolicyError::NotInstalled("private channels are not available on this server yet".to_owned())
}

impl ChannelPolicies for NotInstalled {
    fn read<'a>(
        &'a self,
        _request: &'a ChannelRequest,
        _extensions: &'a [ChannelExtension],
    ) -> BoxFuture<'a, Result<ChannelRights, ChannelPolicyError>> {
        Box::pin(async { Err(error()) })
    }

    fn write<'a>(
        &'a self,
        _request: &'a ChannelRequest,
        _extensions: &'a [ChannelExtension],
    ) -> BoxFuture<'a, Result<ChannelRights, ChannelPolicyError>> {
        Box::pin(async { Err(error()) })
    }

    fn replay<'a>(
        &'a self,
        _request: &'a ReplayRequest,
    ) -> BoxFuture<'a, Result<Vec<StoredMessage>, ChannelPolicyError>> {
        Box::pin(async { Err(error()) })
    }
}
