//! The engine as gateways see it: open a session, join a topic, push a message, publish one.

mod operations;
mod replay;
mod returning;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use walcast_pgoutput::Lsn;
use walcast_policy::Oracle;
use walcast_policy::channel::StoredMessage;
use walcast_policy::schema::Snapshot;
use walcast_wire::{Binding, Frame, JoinPayload, Position, Ref, Serializer, Status};

use self::replay::Hold;
use crate::broadcast::fanout_of;
use crate::command::{BroadcastPayload, Command, Joining};
use crate::ids::{ChannelId, SessionId, ShardId};
use crate::interned::Interned;
use crate::log_inbox::{LogSender, log_inbox};
use crate::matcher::{Inputs, Matcher, Resume, Subscribing};
use crate::membership::{Asked, Form, Membership, Options};
use crate::outbound::Socket;
use crate::rate::{EventBudget, EventRateExceeded, Rates};
use crate::settings::{Counters, EngineSettings};
use crate::shard::{Shard, ShardHandle};
use crate::subscription::{Identity, PlanCache, SubscribeError, resolve};
use crate::tickets::{Claim, Claimant, Tickets};
use crate::topic::{Privacy, ReadRights, TopicKey};

/// Commands that wait for a shard; senders wait when it is full.
const SHARD_INBOX: usize = 1_024;
/// The `system` message to a channel that asked when messages from the database arrive (docs/protocol.md §3.6).
pub const REPLICATION_READY: &str = "Replication connection established";

/// How often some sessions are sent away while the server stops.
const DRAIN_STEP: Duration = Duration::from_millis(50);
/// Joins that wait for the matcher.
const SUBSCRIBE_INBOX: usize = 256;

/// The running engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    settings: Arc<EngineSettings>,
    counters: Arc<Counters>,
    rates: Arc<Rates>,
    oracle: Arc<dyn Oracle>,
    plans: Arc<PlanCache>,
    shards: Arc<[ShardHandle]>,
    subscribe: mpsc::Sender<Subscribing>,
    next_shard: Arc<AtomicUsize>,
    alike: Arc<Alike>,
    tickets: Arc<Tickets>,
}

/// What most joins have like others.
#[derive(Default)]
struct Alike {
    forms: Interned<Form>,
    asked: Interned<Asked>,
}

/// One connection, as its gateway holds it.
#[derive(Clone)]
pub struct SessionHandle {
    /// The session's name.
    pub id: SessionId,
    shard: ShardId,
    serializer: Serializer,
    commands: mpsc::Sender<Command>,
}

impl SessionHandle {
    /// Hands a command to the session's shard: at once where there is room in its inbox, else once the future is polled
    /// and there is. That is boxed, or every connection's task would be larger by it.
    pub fn send(&self, command: Command) -> impl Future<Output = ()> + Send + use<'_> {
        let waiting = match self.commands.try_send(command) {
            Err(TrySendError::Full(command)) => Some(Box::pin(self.commands.send(command))),
            Ok(()) | Err(TrySendError::Closed(_)) => None,
        };
        async {
            if let Some(waiting) = waiting {
                // A shard that has ended has cut its sessions.
                let _ = waiting.await;
            }
        }
    }

    /// The serializer that the connection negotiated.
    pub fn serializer(&self) -> Serializer {
        self.serializer
    }
}

/// A join whose token has been verified.
pub struct JoinRequest {
    /// The whole topic, `realtime:…`.
    pub topic: Arc<str>,
    /// The message's `join_ref`.
    pub join_ref: Ref,
    /// The message's `ref`.
    pub reference: Ref,
    /// Who joins.
    pub identity: Arc<Identity>,
    /// The same as a digest that its next connection has, too.
    pub claimant: Claimant,
    /// The join's `ref` is one that a client that has just been started does not have.
    pub rejoins: bool,
    /// What is asked.
    pub payload: JoinPayload,
    /// What the channel may receive: [`ReadRights::ALL`] where it is public, what policies grant where it is private.
    pub rights: ReadRights,
    /// The stored messages to replay, oldest first; the error is the refusal's `reason`. It is awaited once every message
    /// that it may miss is being kept for the channel (docs/protocol.md §6.4).
    pub replay: Option<BoxFuture<'static, Result<Vec<StoredMessage>, String>>>,
    /// Messages from the database arrive already: a join that asks is told so with its reply (docs/protocol.md §3.6).
    pub replication_ready: bool,
    /// The client is known to have got what stands up to here: it counts as `since` of each binding without one
    /// (docs/protocol.md §5.7). Unlike one that asks itself, it is told of a gap only.
    pub resume_from: Option<Position>,
}

/// A channel that has been joined, as its gateway holds it: what a new token must be applied to.
#[derive(Clone)]
pub struct JoinedChannel(Arc<Membership>);

impl JoinedChannel {
    /// The channel's name.
    pub fn id(&self) -> ChannelId {
        self.0.channel
    }

    /// The join's `join_ref`, which every reply on the channel carries.
    pub fn join_ref(&self) -> Ref {
        self.0.join_ref()
    }

    /// Whether its broadcasts are acknowledged.
    pub fn acknowledges(&self) -> bool {
        self.0.options().acknowledge
    }

    /// False once the channel has ended, be it by the engine (docs/protocol.md §3.6).
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// Whether a leave with this `join_ref` is meant for this join: one of an earlier join is late, and a
    /// join made without a `join_ref` takes any (docs/protocol.md §3.7).
    pub fn is_left_by(&self, join_ref: &Ref) -> bool {
        let own = self.0.join_ref();
        own.is_null() || own == *join_ref
    }
}

/// The join is refused; the text is the reply's `reason` (docs/protocol.md §3.4).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JoinRefused(pub String);

impl Engine {
    /// Starts the shards and the matcher on the current runtime.
    ///
    /// The log goes into what is given back; `confirm` is told how far it has been handed to the shards.
    pub fn start(
        settings: EngineSettings,
        oracle: Arc<dyn Oracle>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        confirm: impl Fn(Lsn) + Send + Sync + 'static,
    ) -> (Engine, LogSender) {
        let settings = Arc::new(settings);
        let counters = Arc::new(Counters::default());
        let rates = Arc::new(Rates::new(&settings));
        let plans = Arc::new(PlanCache::default());
        let tickets = Tickets::new(settings.resume.clone(), Arc::clone(&counters));
        let (unsubscribe, unsubscribed) = mpsc::unbounded_channel();
        let mut handles = Vec::new();
        let mut inboxes = Vec::new();
        for _ in 0..settings.shards.clamp(1, ShardId::COUNT_MAX) {
            let (commands, command_inbox) = mpsc::channel(SHARD_INBOX);
            let (peers, peer_inbox) = mpsc::unbounded_channel();
            handles.push(ShardHandle { commands, peers });
            inboxes.push((command_inbox, peer_inbox));
        }
        let shards: Arc<[ShardHandle]> = handles.into();
        for (index, (commands, peers)) in inboxes.into_iter().enumerate() {
            let shard = Shard::new(
                ShardId::new(index),
                Arc::clone(&settings),
                Arc::clone(&counters),
                Arc::clone(&rates),
                Arc::clone(&tickets),
                Arc::clone(&shards),
                unsubscribe.clone(),
            );
            tokio::spawn(shard.run(commands, peers));
        }
        let (log_sender, log) = log_inbox();
        let (subscribe, subscribing) = mpsc::channel(SUBSCRIBE_INBOX);
        let matcher = Matcher {
            settings: Arc::clone(&settings),
            counters: Arc::clone(&counters),
            oracle: Arc::clone(&oracle),
            plans: Arc::clone(&plans),
            shards: Arc::clone(&shards),
            tickets: Arc::clone(&tickets),
            confirm: Box::new(confirm),
        };
        let inputs = Inputs { log, subscribe: subscribing, unsubscribe: unsubscribed, snapshots };
        tokio::spawn(matcher.run(inputs));
        let next_shard = Arc::new(AtomicUsize::new(0));
        let alike = Arc::default();
        let engine = Engine {
            settings,
            counters,
            rates,
            oracle,
            plans,
            shards,
            subscribe,
            next_shard,
            alike,
            tickets,
        };
        (engine, log_sender)
    }

    /// What has been counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes of one broadcast's payload.
    pub fn payload_bytes_max(&self) -> usize {
        self.settings.payload_bytes_max
    }

    /// Whether presence is on for channels that do not ask for it.
    pub fn presence_enabled(&self) -> bool {
        self.settings.presence_enabled
    }

    /// Opens a session that writes to `socket`; `subject` is the `sub` claim of the socket's token.
    pub async fn connect(
        &self,
        socket: Arc<dyn Socket>,
        serializer: Serializer,
        subject: Option<Arc<str>>,
    ) -> SessionHandle {
        let shard = ShardId::new(self.next_shard.fetch_add(1, Ordering::Relaxed) % self.shards.len());
        let commands = self.shards[shard.index()].commands.clone();
        let id = SessionId::fresh();
        let handle = SessionHandle { id, shard, serializer, commands };
        let late = Arc::clone(&socket);
        let open = Command::Open { session: id, socket, serializer, subject };
        if handle.commands.send(open).await.is_err() {
            // The engine has ended meanwhile.
            late.closing();
            late.finish();
        }
        handle
    }

    /// Joins a topic. The ok reply, and what follows it, are written by the shard; a refusal is the
    /// caller's to write.
    ///
    /// With bindings the reply goes out once they are registered: every change that commits after the
    /// client has read it is delivered.
    pub async fn join(
        &self,
        session: &SessionHandle,
        request: JoinRequest,
    ) -> Result<JoinedChannel, JoinRefused> {
        let JoinRequest {
            topic,
            join_ref,
            reference,
            identity,
            claimant,
            rejoins,
            payload,
            rights,
            replay,
            replication_ready,
            resume_from,
        } = request;
        if let Some(reason) = payload.replay_refusal() {
            return Err(JoinRefused(reason.to_owned()));
        }
        let response = walcast_wire::join_reply(&payload.bindings);
        let bindings = payload.bindings;
        let options = Options {
            legacy: payload.legacy,
            receive_own: payload.broadcast.receive_own,
            acknowledge: payload.broadcast.acknowledge,
            keeps_positions: returning::keeps_positions(&bindings),
        };
        let (form, values) = Form::new(bindings.clone(), Privacy::of(payload.private), options);
        let form = self.alike.forms.share(Arc::new(form));
        let asked = self.alike.asked.share(Arc::new(Asked::new(form, &topic, &join_ref, &values)));
        let membership = Membership::new(session.id, session.shard, session.serializer, asked);
        membership.set_claimant(claimant);
        let membership = Arc::new(membership);
        let joined = JoinedChannel(Arc::clone(&membership));
        let mut hold = None;
        let mut replayed = None;
        if let Some(replay) = replay {
            session.send(Command::Hold(Arc::clone(&membership))).await;
            hold = Some(Hold::new(&self.shards, &membership));
            replayed = Some(replay.await.map_err(JoinRefused)?);
        }
        let mut joining = Box::new(Joining {
            membership: Arc::clone(&membership),
            reference,
            response,
            identity: Arc::clone(&identity),
            rights,
            replayed,
            presence_key: payload.presence.key,
            presence_enabled: payload.presence.enabled || self.settings.presence_enabled,
            system: Vec::new(),
            joined: None,
            claim: None,
        });
        if payload.broadcast.replication_ready && replication_ready {
            joining.system.push(("system", Status::Ok, REPLICATION_READY.to_owned()));
        }
        if bindings.is_empty() {
            if self.keeps_broadcasts() {
                joining.claim = self.claim(&membership, &[], &joining.reference, false).await;
            }
            session.send(Command::Join(joining)).await;
            if let Some(hold) = hold {
                hold.taken();
            }
            return Ok(joined);
        }
        let snapshot_version = self.oracle.snapshot().version;
        let resolving = self.resolve(&bindings, &identity);
        let resolved = match payload.wait {
            None => resolving.await,
            Some(wait) => tokio::time::timeout(Duration::from_millis(wait.timeout_ms), resolving)
                .await
                .map_err(|_| JoinRefused(wait.timeout_reason()))?,
        };
        let resolved = match resolved {
            Ok(resolved) => Ok(resolved),
            Err(SubscribeError::Refused(message)) if payload.wait.is_some() => {
                return Err(JoinRefused(format!("RealtimeDisabledForConfiguration: {message}")));
            }
            Err(SubscribeError::Refused(message)) => Err(message),
            Err(SubscribeError::Unavailable(reason)) => {
                tracing::warn!(code = "UnableToConnectToProject", reason, "a join could not be decided");
                let reason =
                    "UnableToConnectToProject: Realtime was unable to connect to the project database";
                return Err(JoinRefused(reason.to_owned()));
            }
        };
        joining.claim = self.claim(&membership, &bindings, &joining.reference, rejoins).await;
        let from = joining.claim.as_ref().map(Claim::position).or(resume_from);
        let resume = Resume::of(&bindings, from);
        let (told, at_shard) = oneshot::channel();
        joining.joined = Some(told);
        let subscribing =
            Subscribing { membership, identity, resolved, snapshot_version, resume, joining: Some(joining) };
        let _ = self.subscribe.send(subscribing).await;
        if let Some(hold) = hold {
            hold.taken();
        }
        // The matcher hands the channel to the shard; the client's next messages go there directly.
        let _ = at_shard.await;
        Ok(joined)
    }

    /// Applies a new token to a joined channel: its bindings are judged by the new claims from the next
    /// transaction on.
    pub async fn refresh(
        &self,
        session: &SessionHandle,
        joined: &JoinedChannel,
        identity: Arc<Identity>,
        claimant: Claimant,
    ) {
        let membership = Arc::clone(&joined.0);
        membership.set_claimant(claimant);
        let (channel, renewed) = (membership.channel, Arc::clone(&identity));
        session.send(Command::Renew { session: session.id, channel, identity: renewed }).await;
        if membership.binding_count() == 0 {
            return;
        }
        let snapshot_version = self.oracle.snapshot().version;
        let resolved = match self.resolve(&membership.bindings(), &identity).await {
            Ok(resolved) => Ok(resolved),
            Err(SubscribeError::Refused(message)) => Err(message),
            Err(SubscribeError::Unavailable(reason)) => {
                // The old claims no longer hold, and what the new ones allow is not known.
                tracing::warn!(code = "UnableToConnectToProject", reason, "a new token could not be applied");
                let message = "Realtime was unable to connect to the project database".to_owned();
                return session.send(Command::CloseChannel { session: session.id, channel, message }).await;
            }
        };
        let subscribing =
            Subscribing { membership, identity, resolved, snapshot_version, resume: None, joining: None };
        let _ = self.subscribe.send(subscribing).await;
    }

    /// Changes what a joined channel may receive, after a new token or a changed policy. What it may no longer receive ends
    /// behind what is on its way; presence that becomes allowed begins with the state.
    pub async fn set_rights(&self, session: &SessionHandle, joined: &JoinedChannel, rights: ReadRights) {
        session.send(Command::SetRights { session: session.id, channel: joined.id(), rights }).await;
    }

    /// Sends a broadcast of no session to the members of a topic (the whole name, `realtime:…`). An `id` goes with it as
    /// its metadata (docs/protocol.md §2.4). Limits are the caller's to check: [`Engine::admit_events`],
    /// [`Engine::payload_bytes_max`]. What one caller publishes arrives in its order.
    pub async fn publish(
        &self,
        topic: Arc<str>,
        privacy: Privacy,
        payload: BroadcastPayload,
        id: Option<Arc<str>>,
    ) {
        let fanout = Arc::new(fanout_of(
            TopicKey::new(topic, privacy),
            &payload,
            id.as_deref(),
            &self.settings.broadcast_rules,
        ));
        self.counters.published_broadcasts.fetch_add(1, Ordering::Relaxed);
        for shard in self.shards.iter() {
            let _ = shard.commands.send(Command::Publish(Arc::clone(&fanout))).await;
        }
    }

    /// Takes so many messages from the project's budget, all or none (docs/protocol.md §10.2).
    pub fn admit_events(&self, count: u32) -> Result<(), EventRateExceeded> {
        self.rates.admit_events(count, &self.counters)
    }

    /// What is left of the project's budget of messages; `None` where there is no limit.
    pub fn event_budget(&self) -> Option<EventBudget> {
        self.rates.event_budget()
    }

    /// Waits until no session is left.
    pub async fn emptied(&self) {
        loop {
            let told = self.counters.session_gone.notified();
            if self.counters.sessions.load(Ordering::Relaxed) == 0 {
                return;
            }
            told.await;
        }
    }

    /// Sends every session this close frame, a few at a time so that the last of them get it after `spread`, and then
    /// lets no new one live. Until it has its own, a session gets everything as before.
    pub async fn drain(&self, close: &Frame, spread: Duration) {
        let steps = usize::try_from(spread.as_millis() / DRAIN_STEP.as_millis()).unwrap_or(usize::MAX);
        let mut ticks = tokio::time::interval(DRAIN_STEP);
        for left in (1..=steps).rev() {
            ticks.tick().await;
            if self.counters.sessions.load(Ordering::Relaxed) == 0 {
                break;
            }
            for shard in self.shards.iter() {
                let _ = shard.commands.send(Command::CloseShare(close.clone(), left)).await;
            }
        }
        self.shut_down(close).await;
    }

    /// Sends every session this close frame, and lets no new one live.
    pub async fn shut_down(&self, close: &Frame) {
        for shard in self.shards.iter() {
            let _ = shard.commands.send(Command::Shutdown(close.clone())).await;
        }
    }

    /// Cuts the sessions that are left and ends the shards; the matcher ends with the log. Nothing is heard of the engine
    /// after that.
    pub async fn end(&self) {
        for shard in self.shards.iter() {
            let _ = shard.commands.send(Command::End).await;
        }
        for shard in self.shards.iter() {
            shard.commands.closed().await;
        }
    }

    async fn resolve(
        &self,
        bindings: &[Binding],
        identity: &Identity,
    ) -> Result<crate::subscription::Resolved, SubscribeError> {
        resolve(bindings, identity, &*self.oracle, &self.plans, self.settings.deletes).await
    }
}

#[cfg(test)]
mod tests;
