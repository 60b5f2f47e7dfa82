//! One connection as its shard sees it: an outbound queue and the channels it has joined.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;
use walcast_wire::{Ref, Serializer};

use crate::ids::{ChannelId, SessionId};
use crate::membership::Membership;
use crate::outbound::Outbound;
use crate::settings::RateLimit;

pub(crate) struct Session {
    pub(crate) serializer: Serializer,
    pub(crate) outbound: Outbound,
    /// Few per session, most often one: searched from the front, which beats hashing a topic.
    pub(crate) channels: SmallVec<[Channel; 1]>,
    /// Topics whose join is being decided anew, and the `join_ref` of the channel that it ended.
    pub(crate) superseded: Vec<(Arc<str>, Ref)>,
    /// Already on the shard's list of queues to write.
    pub(crate) queued: bool,
}

/// A joined topic of a session.
pub(crate) struct Channel {
    pub(crate) membership: Arc<Membership>,
    /// `None` until the channel has anything to do with its topic's presence: most never do.
    presence: Option<Box<ChannelPresence>>,
}

/// What a channel has to do with its topic's presence.
#[derive(Default)]
pub(crate) struct ChannelPresence {
    /// The key that was asked for.
    pub(crate) key: Option<String>,
    /// It tracks a payload.
    pub(crate) tracked: bool,
    /// It has asked for the state.
    pub(crate) follows: bool,
    /// It has been sent the state, and gets diffs from then on.
    pub(crate) synced: bool,
    pub(crate) calls: CallWindow,
}

impl Channel {
    pub(crate) fn new(membership: Arc<Membership>, presence_key: Option<String>) -> Self {
        let presence = |key| Box::new(ChannelPresence { key: Some(key), ..ChannelPresence::default() });
        Channel { membership, presence: presence_key.map(presence) }
    }

    pub(crate) fn id(&self) -> ChannelId {
        self.membership.channel
    }

    pub(crate) fn topic(&self) -> &Arc<str> {
        self.membership.topic()
    }

    pub(crate) fn join_ref(&self) -> &Ref {
        &self.membership.join_ref
    }

    /// What it has to do with presence, if anything.
    pub(crate) fn presence(&self) -> Option<&ChannelPresence> {
        self.presence.as_deref()
    }

    pub(crate) fn presence_mut(&mut self) -> &mut ChannelPresence {
        self.presence.get_or_insert_default()
    }
}

impl ChannelPresence {
    /// The key that it tracks under. docs/protocol.md §3.2: without one it gets a version 1 UUID.
    pub(crate) fn key(&mut self) -> &str {
        self.key.get_or_insert_with(|| uuid::Uuid::now_v1(&[0x02, 0, 0, 0, 0, 1]).to_string())
    }
}

/// A fixed window of calls, started by the first one (docs/protocol.md §10.1).
#[derive(Default)]
pub(crate) struct CallWindow {
    started: Option<Instant>,
    calls: u32,
}

impl CallWindow {
    /// Counts a call; false when it is one too many.
    pub(crate) fn allows(&mut self, limit: &RateLimit, now: Instant) -> bool {
        if self.started.is_none_or(|started| now.duration_since(started) >= limit.window) {
            self.started = Some(now);
            self.calls = 0;
        }
        self.calls += 1;
        self.calls <= limit.calls
    }
}

impl Session {
    pub(crate) fn new(serializer: Serializer, outbound: Outbound) -> Self {
        Session { serializer, outbound, channels: SmallVec::new(), superseded: Vec::new(), queued: false }
    }

    /// Queues a frame and notes that this queue must be written.
    pub(crate) fn push(
        &mut self,
        id: SessionId,
        frame: Bytes,
        dirty: &mut Vec<SessionId>,
        overflowed: &mut Vec<SessionId>,
    ) {
        if self.outbound.push(frame).is_err() {
            overflowed.push(id);
        } else if !self.queued {
            self.queued = true;
            dirty.push(id);
        }
    }

    pub(crate) fn channel(&self, topic: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| &**channel.topic() == topic)
    }

    pub(crate) fn channel_by_id(&self, id: ChannelId) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.id() == id)
    }

    pub(crate) fn channel_by_id_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.id() == id)
    }

    pub(crate) fn take_channel(&mut self, topic: &str) -> Option<Channel> {
        let place = self.channels.iter().position(|channel| &**channel.topic() == topic)?;
        Some(self.channels.remove(place))
    }

    pub(crate) fn take_channel_by_id(&mut self, id: ChannelId) -> Option<Channel> {
        let place = self.channels.iter().position(|channel| channel.id() == id)?;
        Some(self.channels.remove(place))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_window_of_calls_begins_with_the_first_and_starts_anew_when_it_is_over() {
        let limit = RateLimit { calls: 2, window: Duration::from_secs(30) };
        let (mut calls, start) = (CallWindow::default(), Instant::now());
        assert!(calls.allows(&limit, start));
        assert!(calls.allows(&limit, start + Duration::from_secs(29)));
        assert!(!calls.allows(&limit, start + Duration::from_secs(29)));
        assert!(calls.allows(&limit, start + Duration::from_secs(30)));
        assert!(calls.allows(&limit, start + Duration::from_secs(59)));
        assert!(!calls.allows(&limit, start + Duration::from_secs(59)));
    }
}
