//! A shard: its sessions, their channels, the topics they are on, and the presences of the topics whose
//! home it is. One task, plain maps, no lock.
//!
//! A turn of the loop takes every command that has arrived, lets each put frames into outbound queues,
//! and then writes each queue that has grown with one system call.

mod delivery;
mod presence;
#[cfg(test)]
mod tests;
mod topics;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use walcast_wire::{Frame, Ref, Serializer, Status};

use self::presence::PresenceReferences;
use self::topics::Topics;
use crate::command::{Command, Joining, PeerCommand, Push, PushKind, SystemMessage, Target};
use crate::ids::{ChannelId, SessionId, ShardId};
use crate::outbound::{Outbound, Socket};
use crate::presence::Presence;
use crate::session::{Channel, Session};
use crate::settings::{Counters, EngineSettings};

/// Commands taken in one turn, so that a flood can not keep what is queued from being written.
const COMMANDS_PER_TURN: usize = 256;

/// Close code 1013, "Try Again Later" (IANA WebSocket close codes): the client may reconnect.
const TRY_AGAIN_LATER: u16 = 1013;

/// How the outside reaches the shards.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    /// Between shards nothing may wait, or two full shards would wait for each other. What is in flight
    /// is bounded all the same: it comes from bounded inboxes, and a shard empties this one first.
    pub(crate) peers: mpsc::UnboundedSender<PeerCommand>,
}

pub(crate) struct Shard {
    id: ShardId,
    settings: Arc<EngineSettings>,
    counters: Arc<Counters>,
    shards: Arc<[ShardHandle]>,
    /// Where a channel with subscriptions is reported gone.
    unsubscribe: mpsc::UnboundedSender<ChannelId>,
    sessions: FxHashMap<SessionId, Session>,
    topics: Topics,
    presences: ahash::HashMap<Arc<str>, Presence>,
    /// Sessions whose queue has grown in this turn.
    dirty: Vec<SessionId>,
    /// Sessions whose queue has passed its bound in this turn.
    overflowed: Vec<SessionId>,
    references: PresenceReferences,
    shutdown: Option<Frame>,
}

impl Shard {
    pub(crate) fn new(
        id: ShardId,
        settings: Arc<EngineSettings>,
        counters: Arc<Counters>,
        shards: Arc<[ShardHandle]>,
        unsubscribe: mpsc::UnboundedSender<ChannelId>,
    ) -> Self {
        Shard {
            id,
            settings,
            counters,
            shards,
            unsubscribe,
            sessions: FxHashMap::default(),
            topics: Topics::default(),
            presences: ahash::HashMap::default(),
            dirty: Vec::new(),
            overflowed: Vec::new(),
            references: PresenceReferences::new(),
            shutdown: None,
        }
    }

    /// Runs until every sender of commands is gone.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut peers: mpsc::UnboundedReceiver<PeerCommand>,
    ) {
        let mut inbox = Vec::with_capacity(COMMANDS_PER_TURN);
        let mut peer_inbox = Vec::with_capacity(COMMANDS_PER_TURN);
        loop {
            tokio::select! {
                biased;
                count = peers.recv_many(&mut peer_inbox, COMMANDS_PER_TURN) => {
                    if count == 0 {
                        return;
                    }
                }
                count = commands.recv_many(&mut inbox, COMMANDS_PER_TURN) => {
                    if count == 0 {
                        return;
                    }
                }
            }
            // A flood of broadcasts from elsewhere must not keep this shard's own sessions waiting.
            while inbox.len() < COMMANDS_PER_TURN
                && let Ok(command) = commands.try_recv()
            {
                inbox.push(command);
            }
            for command in peer_inbox.drain(..) {
                self.handle_peer(command);
            }
            for command in inbox.drain(..) {
                self.handle(command);
            }
            self.write_out();
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Open { session, socket, serializer } => self.open(session, socket, serializer),
            Command::Gone(session) => self.gone(session),
            Command::Writable(session) => {
                if let Some(found) = self.sessions.get_mut(&session) {
                    found.outbound.writable();
                    self.dirty.push(session);
                }
            }
            Command::Write(session, bytes) => {
                if let Some(found) = self.sessions.get_mut(&session) {
                    found.push(session, bytes, &mut self.dirty, &mut self.overflowed);
                }
            }
            Command::Close(session, frame) => {
                self.close(session, &frame, false);
            }
            Command::Supersede(session, channel) => self.supersede(session, channel),
            Command::Refuse { session, topic, frame } => {
                self.write(session, &frame);
                self.close_superseded(session, &topic);
            }
            Command::Join(joining) => self.join(*joining),
            Command::Push(push) => self.push(push),
            Command::System(message) => self.system(&message),
            Command::CloseChannel { session, channel, message } => {
                self.close_channel(session, channel, &message);
            }
            Command::Deliver(deliveries) => self.deliver(&deliveries),
            Command::Shutdown(frame) => self.shut_down(frame),
        }
    }

    fn handle_peer(&mut self, command: PeerCommand) {
        match command {
            PeerCommand::Broadcast(fanout) => self.fan_out(&fanout, None),
            PeerCommand::PresenceDiff(fanout) => self.fan_out_presence(&fanout),
            PeerCommand::Track { topic, channel, key, members } => {
                self.track_at_home(topic, channel, &key, members);
            }
            PeerCommand::Untrack { topic, channel } => self.untrack_at_home(topic, channel),
            PeerCommand::StateWanted { topic, target, shard } => self.state_at_home(topic, target, shard),
            PeerCommand::State { topic, target, payload } => self.presence_state(&topic, target, &payload),
        }
    }

    // Sessions.

    fn open(&mut self, session: SessionId, socket: Arc<dyn Socket>, serializer: Serializer) {
        let mut outbound = Outbound::new(socket, self.settings.outbound_bytes_max);
        if let Some(frame) = &self.shutdown {
            outbound.close(frame, false);
            outbound.flush();
        }
        self.counters.sessions.fetch_add(1, Relaxed);
        self.sessions.insert(session, Session::new(serializer, outbound));
    }

    fn gone(&mut self, session: SessionId) {
        let Some(mut found) = self.sessions.remove(&session) else {
            return;
        };
        self.counters.sessions.fetch_sub(1, Relaxed);
        self.counters.session_gone.notify_waiters();
        found.outbound.abandon();
        for channel in std::mem::take(&mut found.channels) {
            self.forget(&channel);
        }
    }

    /// False when the session is closing already, or gone.
    fn close(&mut self, session: SessionId, frame: &Frame, discard: bool) -> bool {
        let Some(found) = self.sessions.get_mut(&session) else { return false };
        self.dirty.push(session);
        found.outbound.close(frame, discard)
    }

    fn shut_down(&mut self, frame: Frame) {
        for (&session, found) in &mut self.sessions {
            found.outbound.close(&frame, false);
            self.dirty.push(session);
        }
        self.shutdown = Some(frame);
    }

    fn write_out(&mut self) {
        while let Some(session) = self.overflowed.pop() {
            let limit = self.settings.outbound_bytes_max;
            let reason = format!("slow consumer: more than {limit} bytes queued (outbound_bytes_max)");
            // A session is listed for every frame that it had no room for.
            if self.close(session, &Frame::close(TRY_AGAIN_LATER, &reason), true) {
                self.counters.slow_closes.fetch_add(1, Relaxed);
            }
        }
        while let Some(session) = self.dirty.pop() {
            if let Some(found) = self.sessions.get_mut(&session) {
                found.queued = false;
                found.outbound.flush();
            }
        }
    }

    // Channels.

    fn join(&mut self, joining: Joining) {
        let Joining { membership, reference, response, presence_key, .. } = joining;
        let (target, topic) = (membership.target(), Arc::clone(membership.topic()));
        let (session, join_ref) = (target.session, &membership.join_ref);
        let Some(found) = self.sessions.get_mut(&session) else {
            // The connection ended while its join was being decided.
            let _ = self.unsubscribe.send(target.channel);
            return;
        };
        let serializer = found.serializer;
        let reply = walcast_wire::reply(serializer, join_ref, &reference, &topic, Status::Ok, &response);
        self.write(session, &reply);
        self.close_superseded(session, &topic);
        for (extension, status, message) in &joining.system {
            let frame = walcast_wire::system(serializer, join_ref, &topic, extension, *status, message);
            self.write(session, &frame);
        }
        self.counters.joins.fetch_add(1, Relaxed);
        self.topics.insert(&membership);
        let Some(found) = self.sessions.get_mut(&session) else {
            return;
        };
        found.channels.push(Channel::new(membership, presence_key));
        if joining.presence_enabled {
            self.want_state(&topic, target);
        }
        if let Some(joined) = joining.joined {
            let _ = joined.send(());
        }
    }

    fn supersede(&mut self, session: SessionId, channel: ChannelId) {
        let Some(found) = self.sessions.get_mut(&session) else { return };
        let Some(old) = found.take_channel_by_id(channel) else { return };
        found.superseded.push((Arc::clone(old.topic()), old.join_ref().clone()));
        self.forget(&old);
    }

    /// docs/protocol.md §3.7: version 2.0.0 clients tell the late close by its `join_ref`; the Python client
    /// (1.0.0) would close the new channel, so it is told nothing.
    fn close_superseded(&mut self, session: SessionId, topic: &Arc<str>) {
        let Some(found) = self.sessions.get_mut(&session) else { return };
        let serializer = found.serializer;
        let (closed, waiting) =
            std::mem::take(&mut found.superseded).into_iter().partition(|(other, _)| other == topic);
        found.superseded = waiting;
        if serializer == Serializer::V2 {
            for (topic, join_ref) in closed {
                self.write(session, &walcast_wire::channel_close(serializer, &join_ref, &topic));
            }
        }
    }

    fn push(&mut self, push: Push) {
        let Some(found) = self.sessions.get_mut(&push.session) else {
            return;
        };
        let serializer = found.serializer;
        let Some(channel) = found.channel(&push.topic) else {
            let (status, response) = match push.kind {
                PushKind::Leave => (Status::Ok, "{}"),
                _ => (Status::Error, r#"{"reason":"unmatched topic"}"#),
            };
            let topic = &push.topic;
            let reply =
                walcast_wire::reply(serializer, &Ref::null(), &push.reference, topic, status, response);
            return self.write(push.session, &reply);
        };
        let target = Target { session: push.session, channel: channel.id() };
        match push.kind {
            PushKind::Leave => self.leave(&push),
            PushKind::Broadcast(payload) => {
                let answer = ReplyTo::new(channel, push.reference, serializer);
                let acknowledge = channel.membership.acknowledge;
                let except = (!channel.membership.receive_own).then_some(channel.id());
                self.broadcast(&answer, target, except, acknowledge, &payload);
            }
            PushKind::Other => {}
            kind => {
                let answer = ReplyTo::new(channel, push.reference, serializer);
                self.presence(&answer, target, kind);
            }
        }
    }

    fn leave(&mut self, push: &Push) {
        let Some(found) = self.sessions.get_mut(&push.session) else {
            return;
        };
        let serializer = found.serializer;
        let Some(channel) = found.channel(&push.topic) else {
            return;
        };
        // docs/protocol.md §3.7: a leave of an earlier join is late and ignored.
        if *channel.join_ref() != push.join_ref && !channel.join_ref().is_null() {
            return;
        }
        let Some(channel) = found.take_channel(&push.topic) else {
            return;
        };
        let join_ref = channel.join_ref();
        let reply = walcast_wire::reply(serializer, join_ref, &push.reference, &push.topic, Status::Ok, "{}");
        let close = walcast_wire::channel_close(serializer, join_ref, &push.topic);
        self.write(push.session, &reply);
        self.write(push.session, &close);
        self.forget(&channel);
    }

    fn close_channel(&mut self, session: SessionId, channel: ChannelId, message: &str) {
        let Some(found) = self.sessions.get_mut(&session) else {
            return;
        };
        let serializer = found.serializer;
        let Some(channel) = found.take_channel_by_id(channel) else {
            return;
        };
        let (join_ref, topic) = (channel.join_ref(), channel.topic());
        let system = walcast_wire::system(serializer, join_ref, topic, "system", Status::Error, message);
        let close = walcast_wire::channel_close(serializer, join_ref, topic);
        self.write(session, &system);
        self.write(session, &close);
        self.forget(&channel);
    }

    /// Removes a channel that its session has given up from everything that knows of it.
    fn forget(&mut self, channel: &Channel) {
        channel.membership.end();
        self.topics.remove(&channel.membership);
        if channel.presence().is_some_and(|presence| presence.tracked) {
            let topic = Arc::clone(channel.topic());
            self.tell(self.home(&topic), PeerCommand::Untrack { topic, channel: channel.id() });
        }
        let _ = self.unsubscribe.send(channel.id());
    }

    fn system(&mut self, message: &SystemMessage) {
        let Some(found) = self.sessions.get_mut(&message.session) else {
            return;
        };
        let serializer = found.serializer;
        let Some(channel) = found.channel_by_id(message.channel) else {
            return;
        };
        let SystemMessage { extension, status, message: text, .. } = message;
        let frame =
            walcast_wire::system(serializer, channel.join_ref(), channel.topic(), extension, *status, text);
        self.write(message.session, &frame);
    }

    // Small pieces.

    fn home(&self, topic: &str) -> ShardId {
        let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        // The remainder is below the number of shards.
        ShardId::new(usize::try_from(hash % self.shards.len() as u64).unwrap_or(0))
    }

    fn tell(&mut self, shard: ShardId, command: PeerCommand) {
        if shard == self.id {
            self.handle_peer(command);
        } else {
            let _ = self.shards[shard.index()].peers.send(command);
        }
    }

    fn write(&mut self, session: SessionId, frame: &Frame) {
        if let Some(found) = self.sessions.get_mut(&session) {
            found.push(session, frame.bytes().clone(), &mut self.dirty, &mut self.overflowed);
        }
    }
}

/// Where and how a push is answered.
struct ReplyTo {
    serializer: Serializer,
    join_ref: Ref,
    reference: Ref,
    topic: Arc<str>,
}

impl ReplyTo {
    fn new(channel: &Channel, reference: Ref, serializer: Serializer) -> Self {
        ReplyTo {
            serializer,
            join_ref: channel.join_ref().clone(),
            reference,
            topic: Arc::clone(channel.topic()),
        }
    }

    fn frame(&self, status: Status, response: &str) -> Frame {
        walcast_wire::reply(self.serializer, &self.join_ref, &self.reference, &self.topic, status, response)
    }
}
