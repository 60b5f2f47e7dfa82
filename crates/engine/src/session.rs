//! One connection as its shard sees it: an outbound queue and the channels it has joined.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;
use walcast_wire::{Ref, Serializer};

use crate::ids::{ChannelId, SessionId};
use crate::membership::Membership;
use crate::outbound::{Outbound, Overflow};
use crate::rate::Bucket;
use crate::relief::Relief;
use crate::settings::RateLimit;
use crate::shard::{Outstanding, Turn};
use crate::subscription::Identity;
use crate::topic::{ReadRights, TopicKey, TopicRef};

pub(crate) struct Session {
    pub(crate) serializer: Serializer,
    pub(crate) outbound: Outbound,
    /// Few per session, most often one: searched from the front, which beats hashing a topic.
    pub(crate) channels: SmallVec<[Channel; 1]>,
    /// What joins that are being decided have left here; most of the time none is.
    undecided: Option<Box<Undecided>>,
    /// The `sub` claim of the socket's token.
    pub(crate) subject: Option<Arc<str>>,
    pub(crate) opened: Instant,
    /// What the client may still send in this second.
    pub(crate) events: Bucket,
    /// What has been queued in this turn of the shard.
    pub(crate) queued: Queued,
    /// How much of what it was sent has arrived.
    pub(crate) receipt: Receipt,
    /// Of what has not, or may not have.
    pub(crate) outstanding: Option<Box<Outstanding>>,
}

/// What is known of the arrival of the row changes that a session was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// All of them have arrived.
    #[default]
    Complete,
    /// Some were sent since the last ping that was answered, and no ping is out.
    Open,
    /// A ping is out, behind all of them.
    Pinged,
    /// A ping is out, and some were sent behind it.
    PingedBefore,
    /// The socket is over, and its channels have left their tickets.
    Over,
}

/// What has been queued for a session since its queue was last written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Queued {
    /// Nothing: it is not on the shard's list of queues to write.
    #[default]
    Nothing,
    /// Frames that no commit has brought.
    Frames,
    /// Changes or messages of the log too.
    FromLog,
}

/// What belongs to joins that are being decided.
#[derive(Default)]
pub(crate) struct Undecided {
    /// Topics whose join is being decided anew, and the `join_ref` of the channel that it ended.
    pub(crate) superseded: Vec<(Arc<str>, Ref)>,
    /// Channels that are about to join with a replay, for whom their topics keep messages.
    pub(crate) holds: Vec<(ChannelId, TopicKey)>,
}

/// A joined topic of a session.
pub(crate) struct Channel {
    /// Its membership's, which is asked for with every change.
    id: ChannelId,
    pub(crate) membership: Arc<Membership>,
    /// `None` until the channel has anything to do with its topic's presence: most never do.
    presence: Option<Box<ChannelPresence>>,
    /// `None` where the channel's token is of the same user as the socket's.
    own_identity: Option<Arc<Identity>>,
    /// Its place among those who get the topic's broadcasts.
    pub(crate) listening: Option<Place>,
    pub(crate) rights: ReadRights,
}

/// A place in one of a topic's lists of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(NonZeroU32);

impl Place {
    /// The place with this index. There are never 2^32 members: each takes more than a byte.
    pub(crate) fn new(index: usize) -> Self {
        let number = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
        Place(NonZeroU32::new(number).unwrap_or(NonZeroU32::MAX))
    }

    /// Its index.
    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// What a channel has to do with its topic's presence.
#[derive(Default)]
pub(crate) struct ChannelPresence {
    /// The key that was asked for.
    pub(crate) key: Option<String>,
    /// It tracks a payload.
    pub(crate) tracked: bool,
    /// It is to be told who is present, as far as it may be.
    pub(crate) wanted: bool,
    /// It has asked for the state.
    pub(crate) follows: bool,
    /// Its place among those who get diffs, once it has been sent the state.
    pub(crate) following: Option<Place>,
    pub(crate) calls: CallWindow,
}

impl Channel {
    pub(crate) fn new(membership: Arc<Membership>, presence_key: Option<String>, rights: ReadRights) -> Self {
        let presence = |key| Box::new(ChannelPresence { key: Some(key), ..ChannelPresence::default() });
        let presence = presence_key.map(presence);
        let id = membership.channel;
        Channel { id, membership, presence, own_identity: None, listening: None, rights }
    }

    pub(crate) fn id(&self) -> ChannelId {
        self.id
    }

    pub(crate) fn topic(&self) -> &str {
        self.membership.topic()
    }

    pub(crate) fn key(&self) -> TopicRef<'_> {
        self.membership.key()
    }

    pub(crate) fn join_ref(&self) -> Ref {
        self.membership.join_ref()
    }

    /// The `sub` claim of its token, on a socket whose token has this one.
    pub(crate) fn subject<'a>(&'a self, of_socket: Option<&'a str>) -> Option<&'a str> {
        self.own_identity.as_ref().map_or(of_socket, |own| own.subject())
    }

    /// Notes whose token it has.
    pub(crate) fn identify(&mut self, identity: Arc<Identity>, of_socket: Option<&str>) {
        self.own_identity = Some(identity).filter(|identity| identity.subject() != of_socket);
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
    pub(crate) fn new(serializer: Serializer, outbound: Outbound, subject: Option<Arc<str>>) -> Self {
        Session {
            serializer,
            outbound,
            channels: SmallVec::new(),
            undecided: None,
            subject,
            opened: Instant::now(),
            events: Bucket::default(),
            queued: Queued::Nothing,
            receipt: Receipt::default(),
            outstanding: None,
        }
    }

    /// What joins that are being decided have left here, to add to it.
    pub(crate) fn undecided_mut(&mut self) -> &mut Undecided {
        self.undecided.get_or_insert_default()
    }

    /// Takes the `join_ref`s of the channels on a topic that a join has superseded.
    pub(crate) fn take_superseded(&mut self, topic: &str) -> Vec<Ref> {
        let taken = self.undecided.as_mut().map_or_else(Vec::new, |undecided| {
            undecided
                .superseded
                .extract_if(.., |(other, _)| **other == *topic)
                .map(|(_, closed)| closed)
                .collect()
        });
        self.forget_decided();
        taken
    }

    /// Takes the hold of a channel.
    pub(crate) fn take_hold(&mut self, channel: ChannelId) -> bool {
        let holds = self.undecided.as_mut().map(|undecided| &mut undecided.holds);
        let found =
            holds.is_some_and(|holds| holds.extract_if(.., |(other, _)| *other == channel).count() > 0);
        self.forget_decided();
        found
    }

    /// Takes all holds.
    pub(crate) fn take_holds(&mut self) -> Vec<(ChannelId, TopicKey)> {
        self.undecided.take().map_or_else(Vec::new, |undecided| undecided.holds)
    }

    fn forget_decided(&mut self) {
        let empty = |undecided: &Undecided| undecided.superseded.is_empty() && undecided.holds.is_empty();
        if self.undecided.as_deref().is_some_and(empty) {
            self.undecided = None;
        }
    }

    /// Queues a frame and notes that this queue must be written.
    pub(crate) fn push(&mut self, id: SessionId, frame: &Bytes, turn: &mut Turn) {
        self.push_as(Queued::Frames, id, frame, turn);
    }

    /// The same, telling what it is.
    pub(crate) fn push_as(&mut self, kind: Queued, id: SessionId, frame: &Bytes, turn: &mut Turn) {
        let pushed = self.outbound.push(frame.clone(), &turn.counters);
        self.note_pushed(pushed, kind, id, turn);
    }

    /// Writes a frame for which nothing else waits: the last one of a turn. What the kernel does not take is queued.
    pub(crate) fn write_as(&mut self, kind: Queued, id: SessionId, frame: &Bytes, turn: &mut Turn) {
        match self.outbound.write(frame, &turn.counters) {
            Ok(true) => turn.has_written_from_log |= kind == Queued::FromLog,
            queued => self.note_pushed(queued.map(drop), kind, id, turn),
        }
    }

    /// The same for a frame that spares a session that is behind.
    pub(crate) fn push_sparing(
        &mut self,
        kind: Queued,
        id: SessionId,
        frame: Bytes,
        relief: &Arc<Relief>,
        turn: &mut Turn,
    ) {
        let pushed = self.outbound.push_sparing(frame, relief, &turn.counters);
        self.note_pushed(pushed, kind, id, turn);
    }

    fn note_pushed(&mut self, pushed: Result<(), Overflow>, kind: Queued, id: SessionId, turn: &mut Turn) {
        if pushed.is_err() {
            turn.overflowed.push(id);
            return;
        }
        if self.queued == Queued::Nothing {
            turn.dirty.push(id);
        }
        self.queued = self.queued.max(kind);
    }

    /// Queues one of several frames that pass together, however large they are.
    pub(crate) fn push_part(&mut self, id: SessionId, frame: Bytes, turn: &mut Turn) {
        self.outbound.push_part(frame);
        self.note_pushed(Ok(()), Queued::Frames, id, turn);
    }

    pub(crate) fn channel(&self, topic: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.topic() == topic)
    }

    pub(crate) fn channel_by_id(&self, id: ChannelId) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.id() == id)
    }

    pub(crate) fn channel_by_id_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.id() == id)
    }

    pub(crate) fn take_channel(&mut self, topic: &str) -> Option<Channel> {
        let place = self.channels.iter().position(|channel| channel.topic() == topic)?;
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
