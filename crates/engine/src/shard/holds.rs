//! Replays (docs/protocol.md §6.4): what arrives while the stored messages of a channel that is about to join are read
//! is kept for it, and what it has been sent as a stored message is not sent to it again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustc_hash::FxHashMap;
use uuid::Uuid;
use walcast_policy::channel::{StoredMessage, StoredPayload};
use walcast_wire::{Frame, ReplayedPayload, Status};

use super::Shard;
use super::topics::Topic;
use crate::command::{Fanout, Joining};
use crate::ids::{ChannelId, SessionId};
use crate::membership::Membership;
use crate::topic::TopicRef;

/// Messages that are kept for one channel; beyond that the oldest are dropped, and the channel is told.
const KEPT_MAX: usize = 1_000;
/// Bytes of these messages, likewise.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// What replays need of a topic.
#[derive(Default)]
pub(super) struct Replays {
    holds: Vec<Hold>,
    /// What has been replayed to whom.
    sent: FxHashMap<ChannelId, Box<[Uuid]>>,
    /// To how many each message has been replayed, so that a message that nobody had so far costs one look-up.
    counts: FxHashMap<Uuid, usize>,
}

/// The messages that are kept for a channel.
pub(super) struct Hold {
    channel: ChannelId,
    kept: VecDeque<Arc<Fanout>>,
    bytes: usize,
    dropped: usize,
}

impl Replays {
    /// Joins that messages are kept for.
    pub(super) fn joining(&self) -> usize {
        self.holds.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holds.is_empty() && self.sent.is_empty()
    }

    /// Whether a channel has been sent a message already.
    pub(super) fn has_sent(&self, channel: ChannelId, id: Uuid) -> bool {
        self.sent.get(&channel).is_some_and(|sent| sent.contains(&id))
    }

    fn remember(&mut self, channel: ChannelId, ids: Vec<Uuid>) {
        for id in &ids {
            *self.counts.entry(*id).or_default() += 1;
        }
        self.sent.insert(channel, ids.into());
    }

    fn forget(&mut self, channel: ChannelId) {
        for id in self.sent.remove(&channel).unwrap_or_default() {
            if let Some(count) = self.counts.get_mut(&id) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&id);
                }
            }
        }
    }
}

impl Hold {
    fn keep(&mut self, message: &Arc<Fanout>) {
        self.bytes += message.bytes();
        self.kept.push_back(Arc::clone(message));
        while self.kept.len() > KEPT_MAX || (self.bytes > KEPT_BYTES_MAX && self.kept.len() > 1) {
            let oldest = self.kept.pop_front().map_or(0, |oldest| oldest.bytes());
            self.bytes -= oldest;
            self.dropped += 1;
        }
    }
}

impl Topic {
    /// Keeps a message that a replay may be about to send for those who wait for theirs. Whether it has been replayed to
    /// somebody already.
    pub(super) fn meet(&mut self, message: &Arc<Fanout>) -> bool {
        let (Some(replays), Some(id)) = (self.replays_mut(), message.id) else { return false };
        for hold in &mut replays.holds {
            hold.keep(message);
        }
        replays.counts.contains_key(&id)
    }

    pub(super) fn forget_replay(&mut self, channel: ChannelId) {
        if let Some(replays) = self.replays_mut() {
            replays.forget(channel);
            self.drop_empty_replays();
        }
    }

    fn take_hold(&mut self, channel: ChannelId) -> Option<Hold> {
        let holds = &mut self.replays_mut()?.holds;
        let place = holds.iter().position(|hold| hold.channel == channel)?;
        let hold = holds.swap_remove(place);
        self.drop_empty_replays();
        Some(hold)
    }
}

impl Shard {
    /// From now on messages that a replay may repeat are kept for a channel.
    pub(super) fn hold(&mut self, membership: &Membership) {
        let (channel, key) = (membership.channel, membership.key());
        // Neither a session that is gone nor a join that was given up will ever take them.
        let Some(found) = self.sessions.get_mut(&membership.session).filter(|_| membership.is_open()) else {
            return;
        };
        found.undecided_mut().holds.push((channel, key.to_owned()));
        let hold = Hold { channel, kept: VecDeque::new(), bytes: 0, dropped: 0 };
        self.topics.get_or_insert(key).add_replay(|replays| replays.holds.push(hold));
    }

    /// The join will not come.
    pub(super) fn release(&mut self, membership: &Membership) {
        if let Some(found) = self.sessions.get_mut(&membership.session) {
            found.take_hold(membership.channel);
        }
        self.drop_hold(membership.channel, membership.key());
    }

    /// Nothing is kept for a channel any more.
    pub(super) fn drop_hold(&mut self, channel: ChannelId, key: TopicRef<'_>) {
        if let Some(topic) = self.topics.get_mut(key) {
            topic.take_hold(channel);
        }
        self.topics.drop_empty(key);
    }

    /// Sends a channel that has just joined its stored messages, and behind them what has arrived meanwhile.
    pub(super) fn replay(&mut self, joining: &Joining, messages: &[StoredMessage]) {
        let membership = &*joining.membership;
        let (session, channel, key) = (membership.session, membership.channel, membership.key());
        if let Some(found) = self.sessions.get_mut(&session) {
            found.take_hold(channel);
        }
        let hold = self.topics.get_mut(key).and_then(|topic| topic.take_hold(channel));
        if !joining.rights.broadcast {
            return;
        }
        self.counters.replays.fetch_add(1, Relaxed);
        for message in messages {
            if let Some(frame) = replayed(membership, message) {
                self.write_part(session, &frame);
            }
        }
        let ids: Vec<Uuid> = messages.iter().filter_map(|message| message.id.parse().ok()).collect();
        if let Some(hold) = hold {
            for message in &hold.kept {
                let new = message.id.is_none_or(|id| !ids.contains(&id));
                if let Some(frame) = message.frame(membership.serializer).filter(|_| new) {
                    self.write_part(session, frame);
                }
            }
            if hold.dropped > 0 {
                self.tell_of_dropped(membership, hold.dropped);
            }
        }
        if !ids.is_empty()
            && let Some(topic) = self.topics.get_mut(key)
        {
            topic.add_replay(|replays| replays.remember(channel, ids));
        }
    }

    /// Stored messages pass together, however many bytes they have: their number and size are bounded.
    fn write_part(&mut self, session: SessionId, frame: &Frame) {
        self.turn.bytes += frame.len();
        if let Some(found) = self.sessions.get_mut(&session) {
            found.push_part(session, frame.bytes().clone(), &mut self.turn);
        }
    }

    fn tell_of_dropped(&mut self, membership: &Membership, dropped: usize) {
        let message = format!(
            "{dropped} messages that arrived while stored ones were read have been dropped: at most {KEPT_MAX} \
             messages and {KEPT_BYTES_MAX} bytes are kept"
        );
        let Membership { serializer, session, .. } = membership;
        let (join_ref, topic) = (membership.join_ref(), membership.topic());
        let frame = walcast_wire::system(*serializer, &join_ref, topic, "broadcast", Status::Error, &message);
        self.write(*session, &frame);
    }
}

/// A stored message as a channel gets it; `None` where its serializer can not carry it.
fn replayed(membership: &Membership, message: &StoredMessage) -> Option<Frame> {
    let payload = match &message.payload {
        StoredPayload::Json(json) => ReplayedPayload::Json(json),
        StoredPayload::Binary(bytes) => ReplayedPayload::Binary(bytes),
    };
    let (join_ref, topic) = (membership.join_ref(), membership.topic());
    let (event, id) = (&message.event, &message.id);
    walcast_wire::replayed_broadcast(membership.serializer, &join_ref, topic, event, id, payload)
}
