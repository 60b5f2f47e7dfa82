//! The matcher: one task that takes changes in log order, decides for each audience, and hands encoded
//! frames to the shards.
//!
//! It alone knows the subscriptions, so that a decision sees exactly one state, and a join, being a
//! command between two transactions, has a position in the log. In reading order: [`image`] (a change
//! aligned to the catalog), [`subscriptions`] and [`entries`], [`audience`], [`slots`], [`index`] and [`receivers`] (who is
//! subscribed), [`ruling`] and [`judge`] (who may see it), [`window`] and [`docket`] (what waits for PostgreSQL, and
//! what that is asked), [`show`] and [`pace`] (what they are shown, and how fast). Beside that, [`messages`] (broadcasts
//! from the database), [`journal`], [`catch_up`] and [`replay`] (what somebody has missed who comes back), [`refill`]
//! (the journal after a start), [`snapshots`] (who begins with what is there).

mod audience;
mod catch_up;
mod column_sets;
mod copied_changes;
mod copies;
mod docket;
mod entries;
mod image;
mod index;
mod journal;
mod judge;
mod messages;
mod pace;
mod receivers;
mod refill;
mod replay;
mod ruling;
mod show;
mod slots;
mod snapshots;
mod subscriptions;
mod window;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use walcast_pgoutput::{Lsn, Oid, PgTimestamp, Relation};
use walcast_policy::schema::Snapshot;
use walcast_policy::{Found, Oracle, Verdict};
use walcast_wire::Position;

use self::audience::Audiences;
use self::catch_up::CatchUps;
pub(crate) use self::catch_up::Resume;
use self::copies::Copies;
use self::entries::Entries;
use self::image::{BoundRelation, ChangeImages};
use self::journal::{Journal, Tables};
use self::judge::Judge;
use self::messages::MessageTable;
use self::refill::Refill;
use self::replay::ChunksRead;
use self::ruling::{Ruling, Rulings};
use self::show::Commit;
use self::snapshots::Snapshots;
use self::subscriptions::Parked;
use self::window::{HeldChange, HeldMessages, Window};
use crate::command::{Command, FromLog, FromLogBatch, Joining};
use crate::ingest::{IngestError, LogBatch, LogStart};
use crate::log_inbox::{LogInbox, Queued};
use crate::membership::Membership;
use crate::settings::{Counters, EngineSettings};
use crate::shard::ShardHandle;
use crate::subscription::{Identity, PlanCache, Resolved};
use crate::tickets::Tickets;
use crate::transaction::{Chunk, Transaction};

/// Changes that are shown before the shards get their frames.
const SHOWN_MAX: usize = 1_000;

/// A channel's bindings, resolved, to be registered between two transactions.
pub(crate) struct Subscribing {
    pub(crate) membership: Arc<Membership>,
    pub(crate) identity: Arc<Identity>,
    /// The bindings against the catalog, or the text that tells the client why they can not be subscribed.
    /// They are tried again whenever the catalog changes.
    pub(crate) resolved: Result<Resolved, String>,
    /// The catalog was this one, or a newer one, when they were resolved.
    pub(crate) snapshot_version: u64,
    /// What the client wants to know of positions (docs/protocol.md §5.7).
    pub(crate) resume: Option<Resume>,
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
    /// Told where the log begins, how far it has been handed to the shards, and what earlier processes have left in it.
    pub(crate) tickets: Arc<Tickets>,
    /// Told how far the log has been handed to the shards.
    pub(crate) confirm: Box<dyn Fn(Lsn) + Send + Sync>,
}

/// Where the matcher's work comes from.
pub(crate) struct Inputs {
    pub(crate) log: LogInbox,
    pub(crate) subscribe: mpsc::Receiver<Subscribing>,
    pub(crate) unsubscribe: mpsc::UnboundedReceiver<Arc<Membership>>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
}

struct State {
    matcher: Matcher,
    judge: Judge,
    snapshot: Arc<Snapshot>,
    entries: Entries,
    audiences: Audiences,
    /// The relations of the log as last bound to the catalog.
    relations: FxHashMap<Oid, (Arc<Relation>, Option<Arc<BoundRelation>>)>,
    /// What is decided but not shown yet.
    window: Window,
    /// Who gets the change at hand: here so that its memory is used again.
    rulings: Rulings,
    /// Frames by shard, on their way.
    outgoing: Vec<Vec<FromLog>>,
    /// When the first of these was committed.
    outgoing_since: Option<PgTimestamp>,
    /// Bytes of the messages among them.
    outgoing_bytes: usize,
    message_table: MessageTable,
    /// What has been handled lately.
    journal: Journal,
    /// What was in the log before the start.
    refill: Refill,
    /// Channels that have yet to be told what they have missed.
    catch_ups: CatchUps,
    /// What of the journal was read from files for them.
    chunks_read: ChunksRead,
    /// The rows that some of them begin with.
    snapshots: Snapshots,
    /// While the journal is gone through for one channel: the time of now, by which it is judged.
    replayed_at: Option<PgTimestamp>,
    /// Up to where the log has been handled.
    handled: Lsn,
    /// The commit LSN of the last transaction; what a new connection sends again is passed over.
    last_commit: Lsn,
    /// When to ask again about subscriptions that PostgreSQL could not be asked about.
    resolve_undecided_at: Option<Instant>,
    /// What look-ups are made in.
    copies: Copies,
    /// Joins that wait for copies.
    parked: Vec<Parked>,
}

impl Matcher {
    /// Runs until the log or the joins end.
    pub(crate) async fn run(self, mut inputs: Inputs) {
        let judge =
            Judge::new(Arc::clone(&self.oracle), Arc::clone(&self.counters), self.settings.questions_max);
        let snapshot = inputs.snapshots.borrow_and_update().clone();
        let mut state = State {
            judge,
            snapshot,
            entries: Entries::default(),
            audiences: Audiences::default(),
            relations: FxHashMap::default(),
            window: Window::default(),
            rulings: Rulings::default(),
            outgoing: vec![Vec::new(); self.shards.len()],
            outgoing_since: None,
            outgoing_bytes: 0,
            message_table: MessageTable::default(),
            journal: Journal::new(
                Arc::clone(&self.counters),
                self.settings.journal_bytes_max,
                self.settings.journal_age,
            ),
            refill: Refill::default(),
            catch_ups: CatchUps::default(),
            chunks_read: ChunksRead::default(),
            snapshots: Snapshots::new(&self.settings),
            replayed_at: None,
            handled: Lsn::ZERO,
            last_commit: Lsn::ZERO,
            resolve_undecided_at: None,
            copies: Copies::new(
                Arc::clone(&self.oracle),
                Arc::clone(&self.counters),
                self.settings.copy_bytes_max,
            ),
            parked: Vec::new(),
            matcher: self,
        };
        loop {
            // All at once: it is quickly done, spares work, and the queue has no bound. One by one they would wait
            // behind everything else while there is more to do than time.
            while let Ok(membership) = inputs.unsubscribe.try_recv() {
                state.unsubscribe(&membership);
            }
            let (parked_until, resolve_undecided_at) = (state.parked_until(), state.resolve_undecided_at);
            state.matcher.counters.catch_ups.store(state.catch_ups.len() as u64, Relaxed);
            let catches_up = state.catch_ups.may_go_on(inputs.log.batches.is_empty());
            tokio::select! {
                queued = inputs.log.batches.recv() => {
                    let Some(queued) = queued else { return };
                    if let Err(error) = state.log(queued, &mut inputs.log.batches).await {
                        // Nothing that was not shown has been confirmed.
                        return inputs.log.fail(error);
                    }
                }
                subscribing = inputs.subscribe.recv() => match subscribing {
                    Some(subscribing) => state.subscribe(subscribing).await,
                    None => return,
                },
                Some(membership) = inputs.unsubscribe.recv() => state.unsubscribe(&membership),
                Ok(()) = inputs.snapshots.changed() => {
                    let snapshot = inputs.snapshots.borrow_and_update().clone();
                    state.catalog(snapshot).await;
                }
                () = reached(resolve_undecided_at) => state.resolve_undecided().await,
                news = state.copies.news() => {
                    state.copies.take(news);
                    state.copies.passed(state.handled);
                    state.subscribe_parked().await;
                }
                () = reached(parked_until) => state.subscribe_parked().await,
                told = state.catch_ups.room() => state.catch_ups.take_room(told),
                news = state.snapshots.news() => state.snapshot_news(news).await,
                () = std::future::ready(()), if catches_up => state.catch_up().await,
            }
        }
    }
}

impl State {
    /// Handles what has arrived of the log: one transaction, and where something of it waits for PostgreSQL, those
    /// behind it, too, so that all is asked at once.
    async fn log(&mut self, first: Queued, more: &mut mpsc::Receiver<Queued>) -> Result<(), IngestError> {
        let mut next = Some(first);
        while let Some(Queued { batch, room }) = next {
            match batch {
                LogBatch::Idle(lsn) => {
                    self.passed(lsn);
                    self.journal.shrink();
                    self.refilled_up_to(lsn).await;
                }
                LogBatch::Refill(until) => self.refill_until(until),
                LogBatch::Promoted => self.judge.forget(),
                LogBatch::Restarted(start) => self.restarted(start).await,
                LogBatch::Transaction(transaction) => self.transaction(transaction).await?,
                LogBatch::Canary(content) => {
                    // Behind everything that came before it, like a change.
                    self.settle().await;
                    self.matcher.counters.canary.returned(&content);
                }
                LogBatch::Tickets(lsn, content) => {
                    self.settle().await;
                    self.handled = self.handled.max(lsn);
                    self.matcher.tickets.read(&content, !self.journal.is_empty());
                }
            }
            next = None;
            if !self.window.is_empty() {
                self.window.occupy(room);
                self.window.count(1);
                next = if self.window.is_full() { None } else { more.try_recv().ok() };
            }
        }
        self.settle().await;
        if !self.parked.is_empty() {
            self.subscribe_parked().await;
        }
        self.catch_ups.log_went_on();
        Ok(())
    }

    /// A connection begins.
    async fn restarted(&mut self, mut start: LogStart) {
        let (since, lost) = (start.since, start.gap.is_some());
        if let Some(what) = &start.gap {
            self.gap(what).await;
            // Another server's log may have fewer positions. Nobody goes on at one that only the former had.
            start.since = since.max(self.handled);
        }
        self.journal.restarted(&start, Position::before(self.handled));
        if lost {
            self.handled = since;
            self.last_commit = self.last_commit.min(Lsn(since.0.saturating_sub(1)));
            for channel in self.catch_ups.log_was_lost() {
                self.check_snapshot(channel).await;
            }
        }
        self.handled = self.handled.max(since);
        self.matcher.tickets.log_begins(since, lost);
        self.log_begins(lost).await;
    }

    /// Changes were lost before what comes now. What is known from the log, copies and catalog, may be wrong since, so it
    /// is had anew; every channel with bindings is told.
    async fn gap(&mut self, what: &str) {
        self.settle().await;
        self.refresh().await;
        self.copies.load_all();
        self.matcher.counters.gaps.fetch_add(1, Relaxed);
        let message: Arc<str> = format!("gap: refetch, changes may have been missed: {what}").into();
        for shard in self.matcher.shards.iter() {
            let _ = shard.commands.send(Command::AnnounceGap(Arc::clone(&message))).await;
        }
    }

    async fn transaction(&mut self, transaction: Transaction) -> Result<(), IngestError> {
        let (commit_lsn, end_lsn) = (transaction.first.commit_lsn, transaction.end_lsn);
        self.refilled_up_to(commit_lsn).await;
        if commit_lsn > self.last_commit && self.was_there_before(commit_lsn) {
            self.refill(transaction).await?;
            self.last_commit = commit_lsn;
        } else if commit_lsn > self.last_commit {
            if transaction.ddl {
                self.settle().await;
            }
            self.judge.begin(transaction.xid);
            if transaction.ddl {
                // Before its rows: they are judged by the policies that their transaction leaves behind.
                self.refresh().await;
            }
            self.copies.apply(&transaction).await?;
            let mut commit = Commit { time: transaction.commit_time, position: transaction.first };
            let mut tables = Tables::new();
            let mut last = commit.position;
            let is_large = transaction.changes.spilled_bytes() > 0;
            let mut changes = transaction.changes.reader();
            while let Some(chunk) = changes.next().await? {
                for index in 0..chunk.changes.len() {
                    self.change(&chunk, index, commit).await;
                    let table = chunk.changes[index].relation.oid;
                    if tables.last() != Some(&table) && !tables.contains(&table) {
                        tables.push(table);
                    }
                    last = commit.position;
                    commit.position = last.next();
                }
                self.matcher.counters.changes.fetch_add(chunk.changes.len() as u64, Relaxed);
                self.flush().await;
                if is_large {
                    self.keep_pace().await;
                }
            }
            self.last_commit = commit_lsn;
            drop(changes);
            if !tables.is_empty() {
                self.journal.keep(transaction, tables, last);
            }
        }
        self.passed(end_lsn);
        self.refilled_up_to(end_lsn).await;
        Ok(())
    }

    /// Everything up to here has been handed to the shards.
    fn confirm(&self, lsn: Lsn) {
        self.matcher.tickets.pass(lsn);
        (self.matcher.confirm)(lsn);
    }

    /// The log has been handled up to here.
    fn passed(&mut self, lsn: Lsn) {
        self.handled = self.handled.max(lsn);
        self.copies.passed(lsn);
        if self.window.is_empty() {
            self.confirm(lsn);
        } else {
            self.window.passed = Some(lsn);
        }
    }

    async fn change(&mut self, chunk: &Arc<Chunk>, index: usize, commit: Commit) {
        let change = &chunk.changes[index];
        self.message(change, commit.time).await;
        if let Some(relation) = self.relation(&change.relation).await {
            self.decide(relation, chunk, index, commit).await;
        } else {
            self.decided().await;
        }
    }

    /// Decides who gets a change, and shows it, or keeps it in the window.
    async fn decide(
        &mut self,
        relation: Arc<BoundRelation>,
        chunk: &Arc<Chunk>,
        index: usize,
        commit: Commit,
    ) {
        self.rule(relation, chunk, index, commit);
        self.decided().await;
    }

    /// Accounts for a change that has been decided.
    async fn decided(&mut self) {
        if !self.window.is_empty() {
            self.window.count(1);
            if self.window.is_full() {
                self.settle().await;
            }
        }
    }

    fn rule(&mut self, relation: Arc<BoundRelation>, chunk: &Arc<Chunk>, index: usize, commit: Commit) {
        let Some(audiences) = self.audiences.of(relation.table.oid) else {
            return;
        };
        let Some(images) = ChangeImages::new(&relation, &chunk.changes[index].row) else {
            return;
        };
        let mut rulings = std::mem::take(&mut self.rulings);
        let settings = &self.matcher.settings;
        let mut ruling = Ruling {
            judge: &mut self.judge,
            copies: &self.copies,
            relation: &relation,
            images: &images,
            now: self.replayed_at.unwrap_or(commit.time),
            settings,
            found: Found::default(),
            found_before: Found::default(),
        };
        ruling.rule(audiences, &mut rulings);
        if !rulings.open.is_empty() {
            self.judge.will_ask();
        }
        if !rulings.open.is_empty() || rulings.len() > 0 && !self.window.is_empty() {
            let chunk = Arc::clone(chunk);
            self.window.hold(HeldChange { relation, commit, chunk, index }, std::mem::take(&mut rulings));
        } else {
            self.show(&relation, &images, commit, &rulings.receivers);
        }
        rulings.clear();
        self.rulings = rulings;
    }

    /// Closes the window: asks what only PostgreSQL can tell, and shows all its changes.
    async fn settle(&mut self) {
        let passed = self.show_held().await;
        self.flush().await;
        if let Some(lsn) = passed {
            self.confirm(lsn);
        }
    }

    /// Shows all changes of the window; tells how far the log has been handed on once the shards have them.
    async fn show_held(&mut self) -> Option<Lsn> {
        let mut window = std::mem::take(&mut self.window);
        if !window.is_empty() {
            let messages = std::mem::take(&mut window.messages);
            self.show_window(&window, messages).await;
        }
        window.passed
    }

    async fn show_window(&mut self, window: &Window, mut messages: HeldMessages) {
        let images: Vec<_> = window.changes.iter().map(HeldChange::images).collect();
        let (docket, tickets) = window::docket(window, &images, &self.audiences);
        let verdicts = self.judge.ask(docket).await;
        let mut answers = tickets.into_iter().map(|ticket| verdicts[ticket].clone());
        for (shown, (change, rulings)) in window.changes.iter().zip(&window.rulings).enumerate() {
            self.send_messages(&mut messages, shown).await;
            let Some(images) = &images[shown] else { continue };
            let mut receivers = rulings.receivers.clone();
            for opinion in &rulings.open {
                let opinion = opinion.answered(|| answers.next().unwrap_or(Verdict::Ask));
                receivers.extend(self.judge.conclude(&change.relation.table, &opinion));
            }
            self.show(&change.relation, images, change.commit, &receivers);
            if (shown + 1) % SHOWN_MAX == 0 {
                self.flush().await;
            }
        }
        self.send_messages(&mut messages, window.changes.len()).await;
    }

    /// Hands the frames that have been made to the shards.
    async fn flush(&mut self) {
        if self.replayed_at.is_some() {
            // What one channel has missed takes another way.
            return;
        }
        let Some(committed) = self.outgoing_since.take() else { return };
        self.outgoing_bytes = 0;
        for (shard, outgoing) in self.matcher.shards.iter().zip(&mut self.outgoing) {
            if !outgoing.is_empty() {
                let batch = FromLogBatch { items: std::mem::take(outgoing), committed };
                // A shard that is behind holds the matcher up, and so the reading of the log.
                let _ = shard.commands.send(Command::Deliver(batch)).await;
            }
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
        // The table of messages is read for its broadcasts; it need not be among those that are followed.
        let followed = bound.is_some() || !messages::is_message_table(relation);
        if followed && bound.as_ref().is_none_or(|bound| !bound.agrees) {
            self.settle().await;
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

#[cfg(test)]
mod tests;
