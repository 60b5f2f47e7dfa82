//! What a shard can be told. Every command is handled in the order of its arrival.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;
use uuid::Uuid;
use walcast_pgoutput::{Lsn, PgTimestamp};
use walcast_policy::channel::StoredMessage;
use walcast_wire::{BroadcastOptions, Encoding, Frame, Ref, Serializer, Status};

use crate::ids::{ChannelId, SessionId};
use crate::membership::Membership;
use crate::operations::Operation;
use crate::outbound::Socket;
use crate::presence::pace::Reach;
use crate::relief::Relief;
use crate::subscription::Identity;
use crate::tickets::{Claim, Reference, Standing};
use crate::topic::{ReadRights, TopicKey};

/// A command to a shard, about one of its sessions.
pub enum Command {
    /// A connection was made.
    Open {
        /// Its name from now on.
        session: SessionId,
        /// Where its frames are written.
        socket: Arc<dyn Socket>,
        /// The serializer it negotiated.
        serializer: Serializer,
        /// The `sub` claim of its token.
        subject: Option<Arc<str>>,
    },
    /// The connection is gone.
    Gone(SessionId, Departure),
    /// The kernel takes bytes again.
    Writable(SessionId),
    /// A frame for this session alone: a heartbeat's reply, the transport's own pong.
    Write(SessionId, Bytes),
    /// A close frame; nothing follows it.
    Close(SessionId, Frame),
    /// A join of a topic that is joined already has begun: this channel is over. Its `phx_close` follows the
    /// answer to the join (docs/protocol.md §3.7).
    Supersede(SessionId, ChannelId),
    /// A join is refused with this frame.
    Refuse {
        /// The session.
        session: SessionId,
        /// The topic of the join.
        topic: Arc<str>,
        /// The error reply.
        frame: Frame,
    },
    /// A replay for a channel that is about to join begins: messages that it may repeat are kept from now on.
    Hold(Arc<Membership>),
    /// A ping was answered.
    Acknowledged {
        /// The session.
        session: SessionId,
        /// The ping's number.
        ping: u32,
        /// The client's own count of its messages, 0 where it has none.
        reference: u32,
    },
    /// A socket is over whose client may come back: it leaves its tickets. The client has counted its messages up to this
    /// number, 0 where it does not count.
    LeaveTickets(SessionId, u32),
    /// A channel that goes on where its client was has been sent what it had missed.
    CaughtUp(Target),
    /// Asks for live channels that a join may be meant to replace.
    Search(Box<Search>),
    /// A channel is joined; see [`Joining`].
    Join(Box<Joining>),
    /// A channel has a new token.
    Renew {
        /// The session.
        session: SessionId,
        /// The channel; one that is gone is passed over.
        channel: ChannelId,
        /// Who it is from now on.
        identity: Arc<Identity>,
    },
    /// What a channel may receive from now on.
    SetRights {
        /// The session.
        session: SessionId,
        /// The channel; one that is gone is passed over.
        channel: ChannelId,
        /// What it may receive.
        rights: ReadRights,
    },
    /// A message on a topic.
    Push(Push),
    /// A system message on a channel.
    System(SystemMessage),
    /// The end of a channel by the server: a `system` error, then `phx_close`.
    CloseChannel {
        /// The session.
        session: SessionId,
        /// The channel; one that is gone already is no error.
        channel: ChannelId,
        /// The text of the `system` message.
        message: String,
    },
    /// What the log brings, in its order.
    Deliver(FromLogBatch),
    /// Frames for one channel, for as long as its session's queue has no room for them; see [`Feed`].
    Feed(Feed),
    /// Changes were lost: a `system` message with this text to every channel with bindings.
    AnnounceGap(Arc<str>),
    /// A broadcast that no session has sent.
    Publish(Arc<Fanout>),
    /// An operator's question or command.
    Operate(Operation),
    /// Close one of so many of the sessions that are open with this frame.
    CloseShare(Frame, usize),
    /// Close every session with this frame, and every later one at once.
    Shutdown(Frame),
    /// Cut every session that is left, and end. What was sent before is handled first.
    End,
}

impl Command {
    /// Bytes that it is about to add to some session's queue, as far as they are many and known.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Command::Write(_, bytes) => bytes.len(),
            Command::Push(Push { kind: PushKind::Broadcast(payload), .. }) => payload.byte_len(),
            Command::Publish(fanout) => fanout.frame_bytes_max(),
            _ => 0,
        }
    }
}

/// Frames for one channel that go into its session's queue as that has room, so that however many come one after the
/// other they never fill it.
pub struct Feed {
    /// Whom they are for.
    pub target: Target,
    /// In their order. None are given where only room is asked for.
    pub frames: VecDeque<Frame>,
    /// With these the channel has got everything that commits before this.
    pub up_to: Lsn,
    /// Told once all are in the queue, and most of that is on its way. Dropped where the channel is gone.
    pub room: oneshot::Sender<()>,
}

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// With a close frame, from either side.
    Closed,
    /// Without one: the client may not know yet, and come back. Its presence stays for a grace.
    Lost,
}

/// A verified join.
pub struct Joining {
    /// The new channel.
    pub membership: Arc<Membership>,
    /// The join's `ref`.
    pub reference: Ref,
    /// The `response` of the ok reply, JSON text.
    pub response: String,
    /// Who has joined.
    pub identity: Arc<Identity>,
    /// What the channel may receive.
    pub rights: ReadRights,
    /// The stored messages that it is sent, oldest first, where it asked for a replay; a [`Command::Hold`] came before.
    pub replayed: Option<Vec<StoredMessage>>,
    /// The presence key that was asked for.
    pub presence_key: Option<String>,
    /// Presence is on from the start.
    pub presence_enabled: bool,
    /// System messages that follow the reply: extension, status, text.
    pub system: Vec<(&'static str, Status, String)>,
    /// Told once the channel is there, so that what the client sends next finds it.
    pub joined: Option<oneshot::Sender<()>>,
    /// From where on it goes on, where its client may have come back.
    pub(crate) claim: Option<Claim>,
}

/// A search for live channels whose client may be the one that is about to join.
pub struct Search {
    /// What is about to be joined.
    pub(crate) membership: Arc<Membership>,
    /// The join's number in the client's count.
    pub(crate) reference: Reference,
    /// The lowest position of those that were found, and the newest of them.
    pub(crate) answer: oneshot::Sender<Option<(Lsn, Standing)>>,
}

/// A client's message on a joined topic.
pub struct Push {
    /// The session it came from.
    pub session: SessionId,
    /// The whole topic.
    pub topic: Box<str>,
    /// The message's `join_ref`.
    pub join_ref: Ref,
    /// The message's `ref`.
    pub reference: Ref,
    /// What is asked.
    pub kind: PushKind,
}

/// What a client's message asks for.
pub enum PushKind {
    /// `phx_leave`.
    Leave,
    /// `broadcast`.
    Broadcast(BroadcastPayload),
    /// `presence` with event `track`: the text of a JSON object.
    Track(Box<str>),
    /// `presence` with event `track` and a payload that is no object.
    TrackNotAnObject,
    /// `presence` with event `untrack`.
    Untrack,
    /// `presence` without an event: answered ok, and nothing else.
    EmptyPresence,
    /// `presence` with an event that does not exist.
    UnknownPresence,
    /// Anything else: not answered on a joined topic (docs/protocol.md §3.7).
    Other,
}

/// A broadcast as it came.
pub enum BroadcastPayload {
    /// The whole payload of a text message, relayed verbatim.
    Text(Box<str>),
    /// A kind 3 frame's event and payload.
    User {
        /// The user's event name.
        event: Box<str>,
        /// What the payload is.
        encoding: Encoding,
        /// The payload.
        payload: Bytes,
        /// What its sender says of sockets that are behind; most say nothing.
        options: Option<Box<BroadcastOptions>>,
    },
}

impl BroadcastPayload {
    /// Bytes that count against the payload limit.
    pub(crate) fn byte_len(&self) -> usize {
        match self {
            BroadcastPayload::Text(text) => text.len(),
            BroadcastPayload::User { payload, .. } => payload.len(),
        }
    }
}

/// A `system` message to one channel.
pub struct SystemMessage {
    /// The session.
    pub session: SessionId,
    /// The channel; one that is gone is passed over.
    pub channel: ChannelId,
    /// `postgres_changes`, `system`, …
    pub extension: &'static str,
    /// `ok` or `error`.
    pub status: Status,
    /// The text.
    pub message: String,
}

/// A channel of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The session.
    pub session: SessionId,
    /// Its channel.
    pub channel: ChannelId,
}

/// One encoded change and those who get it.
#[derive(Clone)]
pub struct Delivery {
    /// The frame.
    pub frame: Frame,
    /// The channels of this shard that get it, audience by audience.
    pub targets: SmallVec<[Targets; 1]>,
}

impl Delivery {
    /// A frame for these.
    pub fn new(frame: Frame, targets: Targets) -> Self {
        Delivery { frame, targets: smallvec![targets] }
    }

    /// All who get it.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().flat_map(Targets::as_slice)
    }
}

/// What the log brings to a shard.
#[derive(Clone)]
pub enum FromLog {
    /// A row change.
    Change(Delivery),
    /// A row of `realtime.messages` (docs/protocol.md §6.5).
    Message(Arc<Fanout>),
}

impl FromLog {
    /// Bytes that it adds to one receiver's queue.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            FromLog::Change(delivery) => delivery.frame.len(),
            FromLog::Message(fanout) => fanout.frame_bytes_max(),
        }
    }
}

/// Consecutive parts of the log, as one shard gets them.
pub struct FromLogBatch {
    /// In the order of the log.
    pub items: Vec<FromLog>,
    /// When the first of them was committed.
    pub committed: PgTimestamp,
}

/// Channels of one shard.
#[derive(Clone, Debug)]
pub enum Targets {
    /// Just this one, as where everybody sees rows of their own.
    One(Target),
    /// Shared with whom they were taken from.
    Many(Arc<Vec<Target>>),
}

impl Targets {
    /// All of them.
    pub fn as_slice(&self) -> &[Target] {
        match self {
            Targets::One(target) => std::slice::from_ref(target),
            Targets::Many(targets) => targets,
        }
    }

    /// Adds one, and tells its place.
    pub(crate) fn push(&mut self, target: Target) -> usize {
        match self {
            Targets::One(first) => {
                *self = Targets::Many(Arc::new(vec![*first, target]));
                1
            }
            Targets::Many(targets) => {
                Arc::make_mut(targets).push(target);
                targets.len() - 1
            }
        }
    }

    /// Removes the one in a place; gives the one that is there now.
    pub(crate) fn swap_remove(&mut self, place: usize) -> Option<Target> {
        match self {
            Targets::One(_) => {
                *self = Targets::Many(Arc::default());
                None
            }
            Targets::Many(targets) => {
                let targets = Arc::make_mut(targets);
                targets.swap_remove(place);
                targets.get(place).copied()
            }
        }
    }
}

/// What shards tell each other.
pub(crate) enum PeerCommand {
    /// A broadcast for the members of a topic, and who has sent it, where broadcasts are kept.
    Broadcast(Arc<Fanout>, Option<ChannelId>),
    /// A presence diff for the members of a topic that follow it.
    PresenceDiff(Arc<PresenceDiff>),
    /// To the topic's home: track.
    Track(Box<Tracking>),
    /// To the channel's shard: what it tracks is not shown, for this reason.
    TrackRefused { target: Target, reason: String },
    /// To the topic's home: untrack.
    Untrack { topic: TopicKey, channel: ChannelId },
    /// To the topic's home: the channel's connection was lost, and its client may come back.
    Lost { topic: TopicKey, channel: ChannelId },
    /// To the topic's home: send the state to this channel.
    StateWanted { topic: TopicKey, target: Target, shard: crate::ids::ShardId },
    /// To the channel's shard: the state.
    State { target: Target, payload: Arc<str> },
    /// The join that a [`Command::Hold`] announced will not come.
    Release(Arc<Membership>),
}

impl PeerCommand {
    /// Bytes that it adds to one receiver's queue, as far as they are many.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            PeerCommand::Broadcast(fanout, _) => fanout.frame_bytes_max(),
            PeerCommand::PresenceDiff(diff) => diff.fanout.frame_bytes_max(),
            PeerCommand::State { payload, .. } => payload.len(),
            _ => 0,
        }
    }
}

/// What has changed in who is present on a topic.
pub(crate) struct PresenceDiff {
    pub(crate) fanout: Fanout,
    /// Where the followers that it reaches are counted.
    pub(crate) reach: Reach,
}

/// A payload that a channel tracks.
pub(crate) struct Tracking {
    pub(crate) target: Target,
    /// The channel's shard.
    pub(crate) shard: crate::ids::ShardId,
    pub(crate) topic: TopicKey,
    pub(crate) key: String,
    /// The payload's members as they stand in JSON, without the braces.
    pub(crate) members: String,
    /// The channel begins to follow with this, and wants the state.
    pub(crate) wants_state: bool,
}

/// A message to all members of a topic, encoded once for each serializer.
pub struct Fanout {
    pub(crate) topic: TopicKey,
    /// What a replay may have sent it as.
    pub(crate) id: Option<Uuid>,
    /// How it spares sockets that are behind; most say nothing of that.
    pub(crate) relief: Option<Arc<Relief>>,
    /// `None` where this serializer's receivers get nothing (docs/protocol.md §2.4).
    pub(crate) v1: Option<Frame>,
    pub(crate) v2: Option<Frame>,
}

impl Fanout {
    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        [&self.v1, &self.v2].into_iter().flatten().map(Frame::len).sum()
    }

    /// Bytes that it adds to one receiver's queue at most.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        [&self.v1, &self.v2].into_iter().flatten().map(Frame::len).max().unwrap_or(0)
    }

    pub(crate) fn frame(&self, serializer: Serializer) -> Option<&Frame> {
        match serializer {
            Serializer::V1 => self.v1.as_ref(),
            Serializer::V2 => self.v2.as_ref(),
        }
    }
}
