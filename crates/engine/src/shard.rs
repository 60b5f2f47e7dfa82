//! A shard: its sessions, their channels, the topics they are on, and the presences of the topics whose
//! home it is. One task, plain maps, no lock.
//!
//! A turn of the loop takes every command that has arrived, lets each put frames into outbound queues, and then writes
//! each queue that has grown with one system call. Broadcasts that come last need no queue. In reading order:
//! [`sessions`], [`channels`] (joins, messages, ends), [`topics`] (who is on one), [`delivery`], [`fan_out`] with [`walk`],
//! [`presence`] and [`home`] (who gets what), [`holds`] (replays), [`feeds`] (what comes as there is room),
//! [`acknowledgements`] (what has arrived), [`broadcasts`] (what those who come back have missed), [`operations`],
//! [`turn`] (how queues are written).

mod acknowledgements;
mod broadcasts;
mod channels;
mod delivery;
mod fan_out;
mod feeds;
mod holds;
mod home;
mod operations;
mod presence;
mod sessions;
#[cfg(test)]
mod tests;
mod topics;
mod turn;
mod walk;

use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use tokio::sync::mpsc;
use tokio::time::Instant;
use walcast_wire::{Frame, Ref, Serializer, Status};

use self::acknowledgements::Acknowledgements;
pub(crate) use self::acknowledgements::Outstanding;
use self::broadcasts::Broadcasts;
use self::fan_out::Run;
use self::feeds::Feeds;
use self::home::{Absences, HomeTopic, PresenceReferences, Windows};
use self::topics::Topics;
pub(crate) use self::turn::Turn;
use crate::command::{Command, PeerCommand};
use crate::ids::{SessionId, ShardId};
use crate::membership::Membership;
use crate::rate::Rates;
use crate::session::{Channel, Queued, Session};
use crate::settings::{Counters, EngineSettings};
use crate::tickets::Tickets;
use crate::topic::{Privacy, TopicKey};

/// Commands taken in one turn, so that a flood can not keep what is queued from being written.
const COMMANDS_PER_TURN: usize = 256;

/// How the outside reaches the shards.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    /// Between shards nothing may wait, or two full shards would wait for each other. What is in flight
    /// is bounded all the same: it comes from bounded inboxes, and a shard empties this one first.
    pub(crate) peers: mpsc::UnboundedSender<PeerCommand>,
}

/// Side by side in memory, each at a place that can be remembered.
type Sessions = IndexMap<SessionId, Session, FxBuildHasher>;

pub(crate) struct Shard {
    id: ShardId,
    settings: Arc<EngineSettings>,
    counters: Arc<Counters>,
    shards: Arc<[ShardHandle]>,
    /// Where a channel with subscriptions is reported gone.
    unsubscribe: mpsc::UnboundedSender<Arc<Membership>>,
    sessions: Sessions,
    topics: Topics,
    /// Topics whose home it is, as far as anybody is present.
    home_topics: ahash::HashMap<TopicKey, HomeTopic>,
    /// Presences whose connection was lost a moment ago.
    absences: Absences,
    /// Topics with something to be done when their window is over.
    windows: Windows,
    rates: Arc<Rates>,
    /// What sockets that are lost leave behind.
    tickets: Arc<Tickets>,
    acknowledgements: Acknowledgements,
    /// Recent broadcasts, where they are kept for those who come back.
    broadcasts: Option<Box<Broadcasts>>,
    /// What waits for room in queues.
    feeds: Feeds,
    /// Broadcasts that are not queued yet.
    run: Run,
    turn: Turn,
    references: PresenceReferences,
    shutdown: Option<Frame>,
    ended: bool,
}

impl Shard {
    pub(crate) fn new(
        id: ShardId,
        settings: Arc<EngineSettings>,
        counters: Arc<Counters>,
        rates: Arc<Rates>,
        tickets: Arc<Tickets>,
        shards: Arc<[ShardHandle]>,
        unsubscribe: mpsc::UnboundedSender<Arc<Membership>>,
    ) -> Self {
        let broadcasts = Broadcasts::of(&settings.resume, shards.len());
        Shard {
            id,
            settings,
            turn: Turn::new(Arc::clone(&counters)),
            counters,
            shards,
            unsubscribe,
            sessions: Sessions::default(),
            topics: Topics::default(),
            home_topics: ahash::HashMap::default(),
            absences: Absences::default(),
            windows: Windows::default(),
            rates,
            tickets,
            acknowledgements: Acknowledgements::new(broadcasts.is_some()),
            broadcasts,
            feeds: Feeds::default(),
            run: Run::default(),
            references: PresenceReferences::new(),
            shutdown: None,
            ended: false,
        }
    }

    /// Runs until [`Command::End`]: every shard can send to every other, so that the senders are never all gone.
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
                // Last: where there is something else to do, it is looked at behind that.
                () = reached(self.next_due()) => {}
            }
            // A flood of broadcasts from elsewhere must not keep this shard's own sessions waiting.
            while inbox.len() < COMMANDS_PER_TURN
                && let Ok(command) = commands.try_recv()
            {
                inbox.push(command);
            }
            // Whatever stands up to here in the log is among these, where there are no others, or has been handled.
            let handled = self.tickets.handled();
            let is_all = commands.is_empty();
            if is_all && !inbox.iter().any(|command| matches!(command, Command::Deliver(_))) {
                self.acknowledgements.handled(handled);
            }
            for command in peer_inbox.drain(..) {
                self.make_room_for(command.bytes()).await;
                self.handle_peer(command);
            }
            for command in inbox.drain(..) {
                self.make_room_for(command.bytes()).await;
                self.handle(command).await;
            }
            if is_all {
                self.acknowledgements.handled(handled);
            }
            self.do_what_is_due().await;
            self.let_others_begin().await;
            self.write_and_make_room().await;
            if self.ended {
                commands.close();
                while let Ok(command) = commands.try_recv() {
                    self.handle(command).await;
                }
                return self.cut_all();
            }
        }
    }

    /// When there is something to do without a command.
    fn next_due(&self) -> Option<Instant> {
        let all = [self.absences.next(), self.windows.next(), self.acknowledgements.next()];
        all.into_iter().flatten().min()
    }

    async fn do_what_is_due(&mut self) {
        if self.next_due().is_some_and(|moment| moment <= Instant::now()) {
            self.end_run();
            self.end_absences();
            self.publish_due().await;
            self.send_pings();
        }
    }

    async fn handle(&mut self, command: Command) {
        if !command.is_broadcast() {
            self.end_run();
        }
        match command {
            Command::Open { session, socket, serializer, subject } => {
                self.open(session, socket, serializer, subject);
            }
            Command::Gone(session, departure) => self.gone(session, departure),
            Command::Writable(session) => {
                if let Some(found) = self.sessions.get_mut(&session) {
                    found.outbound.writable();
                    self.turn.dirty.push(session);
                }
            }
            Command::Write(session, bytes) => self.write_bytes(session, &bytes),
            Command::Close(session, frame) => {
                self.close(session, &frame, false);
            }
            Command::Supersede(session, channel) => self.supersede(session, channel),
            Command::Refuse { session, topic, frame } => {
                self.write(session, &frame);
                self.close_superseded(session, &topic);
            }
            Command::Acknowledged { session, ping, reference } => self.acknowledged(session, ping, reference),
            Command::LeaveTickets(session, reference) => self.leave_tickets(session, reference),
            Command::CaughtUp(target) => self.caught_up(target),
            Command::Search(search) => self.search(*search),
            Command::Hold(membership) => self.hold(&membership),
            Command::Join(joining) => self.join(*joining),
            Command::Renew { session, channel, identity } => self.renew(session, channel, identity),
            Command::SetRights { session, channel, rights } => self.set_rights(session, channel, rights),
            Command::Push(push) => self.push(push),
            Command::System(message) => self.system(&message),
            Command::CloseChannel { session, channel, message } => {
                self.close_channel(session, channel, &message);
            }
            Command::Deliver(batch) => self.deliver(&batch).await,
            Command::Feed(feed) => self.begin_feed(feed),
            Command::AnnounceGap(message) => self.announce_gap(&message),
            Command::Publish(fanout) => {
                self.keep_broadcast(&fanout, None);
                self.fan_out(Queued::Frames, &fanout, None);
            }
            Command::Operate(operation) => self.operate(operation),
            Command::CloseShare(frame, share) => self.close_share(&frame, share),
            Command::Shutdown(frame) => self.shut_down(frame),
            Command::End => self.ended = true,
        }
    }

    fn handle_peer(&mut self, command: PeerCommand) {
        if !matches!(command, PeerCommand::Broadcast(..)) {
            self.end_run();
        }
        match command {
            PeerCommand::Broadcast(fanout, sender) => {
                self.keep_broadcast(&fanout, sender);
                self.fan_out(Queued::Frames, &fanout, None);
            }
            PeerCommand::PresenceDiff(diff) => self.fan_out_presence(&diff),
            PeerCommand::Track(tracking) => self.track_at_home(*tracking),
            PeerCommand::TrackRefused { target, reason } => self.track_refused(target, reason),
            PeerCommand::Untrack { topic, channel } => self.untrack_at_home(topic, channel),
            PeerCommand::Lost { topic, channel } => self.lost_at_home(topic, channel),
            PeerCommand::StateWanted { topic, target, shard } => self.state_at_home(&topic, target, shard),
            PeerCommand::State { target, payload } => self.presence_state(target, &payload),
            PeerCommand::Release(membership) => self.release(&membership),
        }
    }

    // Small pieces.

    /// Where a topic's presences are.
    fn home(&self, key: &TopicKey) -> ShardId {
        let privacy = u8::from(key.privacy == Privacy::Private);
        let hash = key.topic.bytes().chain([privacy]).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
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
            self.turn.told_others = true;
        }
    }

    fn write(&mut self, session: SessionId, frame: &Frame) {
        self.write_bytes(session, frame.bytes());
    }

    fn write_bytes(&mut self, session: SessionId, bytes: &Bytes) {
        self.end_run();
        self.turn.bytes += bytes.len();
        if let Some(found) = self.sessions.get_mut(&session) {
            found.push(session, bytes, &mut self.turn);
        }
    }
}

/// Waits for a moment, for ever where there is none.
async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Where and how a push is answered.
struct ReplyTo {
    serializer: Serializer,
    join_ref: Ref,
    reference: Ref,
    topic: TopicKey,
}

impl ReplyTo {
    fn new(channel: &Channel, reference: Ref, serializer: Serializer) -> Self {
        ReplyTo { serializer, join_ref: channel.join_ref(), reference, topic: channel.key().to_owned() }
    }

    fn frame(&self, status: Status, response: &str) -> Frame {
        let topic = &self.topic.topic;
        walcast_wire::reply(self.serializer, &self.join_ref, &self.reference, topic, status, response)
    }
}
