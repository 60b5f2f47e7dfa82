//! One connection as its shard sees it: an outbound queue and the channels it has joined.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use tokio::time::Instant;
use walcast_wire::{Ref, Serializer};

use crate::ids::{ChannelId, SessionId};
use crate::outbound::Outbound;
use crate::settings::RateLimit;

pub(crate) struct Session {
    pub(crate) serializer: Serializer,
    pub(crate) outbound: Outbound,
    /// Few per session: searched from the front, which beats hashing a topic.
    pub(crate) channels: Vec<Channel>,
    /// Topics whose join is being decided anew, and the `join_ref` of the channel that it ended.
    pub(crate) superseded: Vec<(Arc<str>, Ref)>,
    /// Already on the shard's list of queues to write.
    pub(crate) queued: bool,
}

/// A joined topic of a session.
pub(crate) struct Channel {
    pub(crate) id: ChannelId,
    pub(crate) topic: Arc<str>,
    pub(crate) join_ref: Ref,
    pub(crate) receive_own: bool,
    pub(crate) acknowledge: bool,
    pub(crate) presence_key: String,
    pub(crate) presence: ChannelPresence,
    /// What the gateway looks at to know whether the channel is still there.
    pub(crate) open: Arc<AtomicBool>,
}

/// What a channel has to do with its topic's presence.
#[derive(Default)]
pub(crate) struct ChannelPresence {
    /// It tracks a payload.
    pub(crate) tracked: bool,
    /// It has asked for the state.
    pub(crate) follows: bool,
    /// It has been sent the state, and gets diffs from then on.
    pub(crate) synced: bool,
    pub(crate) calls: CallWindow,
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
        Session { serializer, outbound, channels: Vec::new(), superseded: Vec::new(), queued: false }
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
        self.channels.iter().find(|channel| &*channel.topic == topic)
    }

    pub(crate) fn channel_by_id(&self, id: ChannelId) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.id == id)
    }

    pub(crate) fn channel_by_id_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.id == id)
    }

    pub(crate) fn take_channel(&mut self, topic: &str) -> Option<Channel> {
        let place = self.channels.iter().position(|channel| &*channel.topic == topic)?;
        Some(self.channels.remove(place))
    }

    pub(crate) fn take_channel_by_id(&mut self, id: ChannelId) -> Option<Channel> {
        let place = self.channels.iter().position(|channel| channel.id == id)?;
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
