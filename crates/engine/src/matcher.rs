//! The matcher: one task that takes changes in log order, decides for each audience, and hands encoded
//! frames to the shards.
//!
//! It alone knows the subscriptions, so that a decision sees exactly one state, and a join, being a
//! command between two transactions, has a position in the log. In reading order: [`image`] (a change
//! aligned to the catalog), [`subscriptions`], [`audience`] and [`groups`] (who is subscribed), [`judge`] and
//! [`ruling`] (who may see it), [`show`] (what they are shown).

mod audience;
mod groups;
mod image;
mod judge;
mod ruling;
mod show;
mod subscriptions;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use walcast_pgoutput::{Lsn, Oid, PgTimestamp, Relation};
use walcast_policy::Oracle;
use walcast_policy::schema::Snapshot;
use walcast_wire::{Binding, BindingId, ChangeKind, Serializer};

use self::audience::Audiences;
use self::image::{BoundRelation, ChangeImages};
use self::judge::Judge;
use self::ruling::Ruling;
use self::show::{Bodies, View};
use self::subscriptions::Entry;
use crate::command::{Command, Delivery, Joining, Target};
use crate::ids::{ChannelId, ShardId};
use crate::ingest::{Change, ChangeBatch, LogBatch};
use crate::position::Position;
use crate::settings::{Counters, EngineSettings};
use crate::shard::ShardHandle;
use crate::subscription::{Identity, PlanCache, Resolved};

/// A transaction whose next part does not come for so long holds up joins and leaves no longer.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// A channel's bindings, resolved, to be registered between two transactions.
pub(crate) struct Subscribing {
    pub(crate) shard: ShardId,
    pub(crate) target: Target,
    pub(crate) topic: Arc<str>,
    pub(crate) serializer: Serializer,
    pub(crate) legacy: bool,
    pub(crate) identity: Identity,
    pub(crate) bindings: Arc<[Binding]>,
    /// The bindings against the catalog, or the text that tells the client why they can not be subscribed.
    /// They are tried again whenever the catalog changes.
    pub(crate) resolved: Result<Resolved, String>,
    /// The catalog was this one, or a newer one, when they were resolved.
    pub(crate) snapshot_version: u64,
    /// The join to pass on to the shard; `None` where a joined channel gets a new token.
    pub(crate) joining: Option<Box<Joining>>,
}

/// What the matcher works with; see [`Matcher::run`].
pub(crate) struct Matcher {
    pub(crate) settings: Arc<EngineSettings>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) oracle: Arc<dyn Oracle>,
    pub(crate) plans: Arc<PlanCache>,
    pub(crate) shards: Arc<[ShardHandle]>,
    /// Told how far the log has been handed to the shards.
    pub(crate) confirm: Box<dyn Fn(Lsn) + Send + Sync>,
}

/// Where the matcher's work comes from.
pub(crate) struct Inputs {
    pub(crate) log: mpsc::Receiver<LogBatch>,
    pub(crate) subscribe: mpsc::Receiver<Subscribing>,
    pub(crate) unsubscribe: mpsc::UnboundedReceiver<ChannelId>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
}

struct State {
    matcher: Matcher,
    judge: Judge,
    snapshot: Arc<Snapshot>,
    entries: FxHashMap<ChannelId, Entry>,
    audiences: Audiences,
    /// The relations of the log as last bound to the catalog.
    relations: FxHashMap<Oid, (Arc<Relation>, Option<Arc<BoundRelation>>)>,
    /// The last change handed on; what a new connection sends again is passed over.
    last: Option<Position>,
    /// The commit LSN of the last transaction that was handed on to its end.
    last_commit: Lsn,
    /// Whether the batch before was not its transaction's last.
    inside_transaction: bool,
    /// When to ask again about subscriptions that PostgreSQL could not be asked about.
    resolve_undecided_at: Option<Instant>,
}

impl Matcher {
    /// Runs until the log or the joins end.
    pub(crate) async fn run(self, mut inputs: Inputs) {
        let judge = Judge::new(Arc::clone(&self.oracle), Arc::clone(&self.counters));
        let snapshot = inputs.snapshots.borrow_and_update().clone();
        let mut state = State {
            matcher: self,
            judge,
            snapshot,
            entries: FxHashMap::default(),
            audiences: Audiences::default(),
            relations: FxHashMap::default(),
            last: None,
            last_commit: Lsn::ZERO,
            inside_transaction: false,
            resolve_undecided_at: None,
        };
        loop {
            // Joins, leaves and catalog changes happen between transactions, never inside one.
            let between = !state.inside_transaction;
            let stalled_at = state.inside_transaction.then(|| Instant::now() + STALLED_AFTER);
            tokio::select! {
                batch = inputs.log.recv() => match batch {
                    Some(batch) => state.log(batch).await,
                    None => return,
                },
                subscribing = inputs.subscribe.recv(), if between => match subscribing {
                    Some(subscribing) => state.subscribe(subscribing).await,
                    None => return,
                },
                Some(channel) = inputs.unsubscribe.recv(), if between => state.unsubscribe(channel),
                Ok(()) = inputs.snapshots.changed(), if between => {
                    let snapshot = inputs.snapshots.borrow_and_update().clone();
                    state.catalog(snapshot).await;
                }
                // The rest will come again from a new connection, or is slow: nobody's join waits for it.
                () = reached(stalled_at), if !between => state.inside_transaction = false,
                () = reached(state.resolve_undecided_at), if between => state.resolve_undecided().await,
            }
        }
    }
}

impl State {
    async fn log(&mut self, batch: LogBatch) {
        match batch {
            LogBatch::Idle(lsn) => {
                self.inside_transaction = false;
                (self.matcher.confirm)(lsn);
            }
            LogBatch::Changes(batch) => {
                let (end_lsn, commit_lsn) = (batch.end_lsn, batch.first.commit_lsn);
                if !self.inside_transaction {
                    self.judge.begin(batch.xid);
                }
                if batch.ddl {
                    // Before its rows: they are judged by the policies that their transaction leaves behind.
                    self.refresh().await;
                }
                self.changes(batch).await;
                self.inside_transaction = end_lsn.is_none();
                let Some(end_lsn) = end_lsn else { return };
                self.last_commit = self.last_commit.max(commit_lsn);
                (self.matcher.confirm)(end_lsn);
            }
        }
    }

    async fn changes(&mut self, batch: ChangeBatch) {
        let mut outgoing = vec![Vec::new(); self.matcher.shards.len()];
        let mut position = batch.first;
        for change in &batch.changes {
            let again =
                position.commit_lsn <= self.last_commit || self.last.is_some_and(|last| position <= last);
            if !again {
                self.change(change, batch.commit_time, &mut outgoing).await;
                self.last = Some(position);
                self.matcher.counters.changes.fetch_add(1, Relaxed);
            }
            position.index += 1;
        }
        for (shard, deliveries) in self.matcher.shards.iter().zip(outgoing) {
            if !deliveries.is_empty() {
                // A shard that is behind holds the matcher up, and so the reading of the log.
                let _ = shard.commands.send(Command::Deliver(deliveries)).await;
            }
        }
    }

    async fn change(&mut self, change: &Change, now: PgTimestamp, outgoing: &mut [Vec<Delivery>]) {
        let Some(relation) = self.relation(&change.relation).await else {
            return;
        };
        let Some(audiences) = self.audiences.of(relation.table.oid) else {
            return;
        };
        let images = ChangeImages::new(&relation, &change.row);
        let settings = &self.matcher.settings;
        let concerned = if ruling::concerns_everybody(&relation, &images, settings.deletes) {
            audiences.all(images.kind)
        } else {
            audiences.candidates(images.kind, images.judged())
        };
        if concerned.is_empty() {
            return;
        }
        let mut bodies = Bodies::new(&relation, &images, now, settings.record_bytes_max);
        let mut ruling =
            Ruling { judge: &mut self.judge, relation: &relation, images: &images, now, settings };
        let mut shared = SharedFrames::default();
        for (audience, old_visible) in ruling.receivers(&concerned, &bodies).await {
            let error = bodies.error(audience.key.reads_key);
            let old = bodies.old_record(old_visible);
            for (group, members) in audience.groups.iter() {
                let view = View { columns: Arc::clone(&group.columns), old, error };
                let data = bodies.of(&view);
                let kind = images.kind;
                let frame = frame(group.serializer, group.legacy, &group.topic, &[group.id], kind, data);
                for (shard, targets) in members.by_shard.iter().enumerate() {
                    if !targets.is_empty() {
                        let (frame, targets) = (frame.clone(), Arc::clone(targets));
                        outgoing[shard].push(Delivery { frame, targets });
                    }
                }
            }
            for binding in &audience.shared {
                let Some(entry) = self.entries.get(&binding.channel) else {
                    continue;
                };
                let Some(placement) = entry.resolved.placements.get(binding.placement) else {
                    continue;
                };
                let view = View { columns: Arc::clone(&placement.columns), old, error };
                shared.add(binding.channel, view, binding.placement, placement.id);
            }
        }
        for (channel, view, ids) in shared.into_frames() {
            let Some(Entry { address, .. }) = self.entries.get(&channel) else {
                continue;
            };
            let data = bodies.of(&view);
            let frame = frame(address.serializer, address.legacy, &address.topic, &ids, images.kind, data);
            outgoing[address.shard.0].push(Delivery { frame, targets: Arc::new(vec![address.target]) });
        }
    }

    /// The catalog's side of a relation of the log; asks the catalog again where they differ.
    async fn relation(&mut self, relation: &Arc<Relation>) -> Option<Arc<BoundRelation>> {
        if let Some((known, bound)) = self.relations.get(&relation.oid)
            && Arc::ptr_eq(known, relation)
        {
            return bound.clone();
        }
        let mut bound = self.bind_relation(relation);
        if bound.as_ref().is_none_or(|bound| !bound.agrees) {
            self.refresh().await;
            bound = self.bind_relation(relation);
        }
        self.relations.insert(relation.oid, (Arc::clone(relation), bound.clone()));
        bound
    }

    fn bind_relation(&self, relation: &Relation) -> Option<Arc<BoundRelation>> {
        let table = self.snapshot.tables.get(&relation.oid)?;
        Some(Arc::new(BoundRelation::new(relation, table, &self.snapshot)))
    }
}

/// Waits for a moment, for ever where there is none.
async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Frames of channels with several bindings on a table: one frame per channel and view, with all ids.
#[derive(Default)]
struct SharedFrames {
    frames: Vec<SharedFrame>,
}

struct SharedFrame {
    channel: ChannelId,
    view: View,
    /// With the places of the bindings among the channel's placements.
    ids: Vec<(usize, BindingId)>,
}

impl SharedFrames {
    fn add(&mut self, channel: ChannelId, view: View, placement: usize, id: BindingId) {
        let known = self.frames.iter_mut().find(|known| known.channel == channel && known.view == view);
        match known {
            Some(known) => known.ids.push((placement, id)),
            None => self.frames.push(SharedFrame { channel, view, ids: vec![(placement, id)] }),
        }
    }

    /// Ids in the reverse of the bindings' order (docs/protocol.md §4.1).
    fn into_frames(self) -> impl Iterator<Item = (ChannelId, View, Vec<BindingId>)> {
        self.frames.into_iter().map(|SharedFrame { channel, view, mut ids }| {
            ids.sort_by_key(|&(placement, _)| std::cmp::Reverse(placement));
            (channel, view, ids.into_iter().map(|(_, id)| id).collect())
        })
    }
}

fn frame(
    serializer: Serializer,
    legacy: bool,
    topic: &str,
    ids: &[BindingId],
    kind: ChangeKind,
    data: &[u8],
) -> walcast_wire::Frame {
    if legacy {
        walcast_wire::legacy_change_frame(serializer, topic, kind, data)
    } else {
        walcast_wire::change_frame(serializer, topic, ids, data)
    }
}

#[cfg(test)]
mod tests;
