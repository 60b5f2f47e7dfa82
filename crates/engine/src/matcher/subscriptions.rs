//! The subscriptions as the matcher holds them: registered by joins, resolved anew when the catalog changes.
//!
//! Whatever is registered is resolved against the very catalog that changes are matched with: columns are
//! known by their place in the table.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;
use walcast_policy::schema::Snapshot;
use walcast_wire::{Binding, Position, Status};

use super::catch_up::CatchUp;
use super::entries::{Entry, Standing};
use super::{Matcher, State, Subscribing};
use crate::command::{Command, SystemMessage, Target};
use crate::membership::Membership;
use crate::subscription::{Identity, Resolved, SubscribeError, resolve_in};

/// The text that tells a client that its bindings are live (docs/protocol.md §3.5).
pub(crate) const SUBSCRIBED: &str = "Subscribed to PostgreSQL";

/// The extension of what tells a client about its bindings.
const POSTGRES_CHANGES: &str = "postgres_changes";

/// The text that tells it that they were, and that it is being tried to make them live again.
const UNDECIDED: &str = "Realtime was unable to connect to the project database";

/// After so long PostgreSQL is asked again about subscriptions that it could not be asked about.
const RESOLVE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Pauses between attempts to read the catalog: the first one, and the longest one.
const REFRESH_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A join that waits for copies of the tables that its policies look things up in.
pub(super) struct Parked {
    until: Instant,
    subscribing: Subscribing,
}

impl State {
    /// Reads the catalog again, and does not go on before it has been read: a row judged by what was revoked
    /// meanwhile would reach those who may not see it.
    pub(super) async fn refresh(&mut self) {
        let (mut pause, pause_max) = REFRESH_PAUSE;
        self.judge.will_ask();
        loop {
            let read = match self.judge.transactions_visible().await {
                Ok(()) => Arc::clone(&self.matcher.oracle).refresh().await,
                Err(error) => Err(error),
            };
            let error = match read {
                Ok(snapshot) => return self.catalog(snapshot).await,
                Err(error) => error,
            };
            tracing::warn!(
                %error,
                "the catalog could not be read again after a change of schema; changes wait until it can"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(pause_max);
        }
    }

    /// Takes over a new state of the catalog: every subscription is resolved anew.
    pub(super) async fn catalog(&mut self, snapshot: Arc<Snapshot>) {
        if snapshot.version <= self.snapshot.version {
            return;
        }
        let old = std::mem::replace(&mut self.snapshot, snapshot);
        // A table that comes into a publication may have been in it before, and written to in between.
        let here = Position::before(self.place());
        for table in self.snapshot.tables.keys().filter(|table| !old.tables.contains_key(table)) {
            self.journal.unknown(*table, here);
        }
        self.relations.clear();
        self.copies.catalog(&self.snapshot);
        if concerns_subscriptions(&old, &self.snapshot) {
            self.audiences.clear();
            self.resolve_again(|_| true).await;
        } else {
            self.resolve_again(|standing| !standing.is_live()).await;
        }
    }

    /// Tries again what PostgreSQL could not be asked about.
    pub(super) async fn resolve_undecided(&mut self) {
        self.resolve_again(|standing| *standing == Standing::Undecided).await;
    }

    async fn resolve_again(&mut self, which: impl Fn(&Standing) -> bool) {
        for membership in self.entries.standing(which) {
            self.resolve_entry(&membership).await;
        }
        self.resolve_undecided_at =
            self.entries.has_undecided().then(|| Instant::now() + RESOLVE_AGAIN_AFTER);
    }

    /// Resolves an entry that is in no audience.
    async fn resolve_entry(&mut self, membership: &Membership) {
        let Some(entry) = self.entries.remove(membership) else {
            return;
        };
        let Entry { membership, identity, standing: former } = entry;
        let resolved = self.resolve(&membership.bindings(), &identity).await;
        let (standing, _) = self.stand(&membership, resolved);
        if !standing.is_live() {
            self.end_catch_up(&membership, &standing).await;
        }
        let told = standing.tells_as(&former);
        let (status, message) = match &standing {
            Standing::One(_) | Standing::Several(_) | Standing::Behind => (Status::Ok, SUBSCRIBED.to_owned()),
            Standing::Refused(refusal) => (Status::Error, refusal.message.clone()),
            Standing::Undecided => (Status::Error, UNDECIDED.to_owned()),
        };
        self.entries.insert(Entry { membership: Arc::clone(&membership), identity, standing });
        if !told {
            self.tell(&membership, POSTGRES_CHANGES, status, message).await;
        }
        self.check_snapshot(membership.channel).await;
    }

    async fn resolve(&self, bindings: &[Binding], identity: &Identity) -> Result<Resolved, SubscribeError> {
        let Matcher { oracle, plans, settings, .. } = &self.matcher;
        let snapshot = Arc::clone(&self.snapshot);
        resolve_in(snapshot, bindings, identity, &**oracle, plans, settings.deletes).await
    }

    /// Sees to the copies that the plans look things up in. `true`: they are there.
    fn want_copies(&mut self, resolved: &Resolved) -> bool {
        let mut all = true;
        for need in resolved.copies() {
            all &= self.copies.want(need, &self.snapshot);
        }
        all
    }

    /// Registers what waited for copies that are there now, or are not coming, or have not come for too long.
    pub(super) async fn subscribe_parked(&mut self) {
        let now = Instant::now();
        for Parked { until, subscribing } in std::mem::take(&mut self.parked) {
            match self.awaits_copies(&subscribing).filter(|_| until > now) {
                Some(_) => self.parked.push(Parked { until, subscribing }),
                None => self.register(subscribing).await,
            }
        }
    }

    /// When the first of those that wait for copies waits no longer.
    pub(super) fn parked_until(&self) -> Option<Instant> {
        self.parked.iter().map(|parked| parked.until).min()
    }

    /// Until when a join waits for copies that are on their way.
    fn awaits_copies(&mut self, subscribing: &Subscribing) -> Option<Instant> {
        let resolved = subscribing.resolved.as_ref().ok()?;
        if self.want_copies(resolved) {
            return None;
        }
        resolved.copies().filter_map(|need| self.copies.is_coming(need)).max()
    }

    /// Registers the bindings of a join, or of a channel that got a new token. A join whose policies look things up
    /// in copies that are about to be there waits for them, so that the first rows are judged by them.
    pub(super) async fn subscribe(&mut self, subscribing: Subscribing) {
        let Some(subscribing) = self.wait_for_refill(subscribing) else { return };
        // The join may know a newer catalog than has arrived here.
        let newest = self.matcher.oracle.snapshot();
        self.catalog(newest).await;
        let waits = self.awaits_copies(&subscribing).filter(|until| *until > Instant::now());
        match waits.filter(|_| subscribing.joining.is_some()) {
            Some(until) => self.parked.push(Parked { until, subscribing }),
            None => self.register(subscribing).await,
        }
    }

    async fn register(&mut self, subscribing: Subscribing) {
        let Subscribing { membership, identity, resolved, snapshot_version, resume, joining } = subscribing;
        if joining.is_none() && !self.entries.contains(&membership) {
            // The channel was left while its new token was being checked.
            return;
        }
        let is_current = match &resolved {
            Ok(resolved) => resolved.snapshot_version == self.snapshot.version,
            Err(_) => snapshot_version == self.snapshot.version,
        };
        let resolved = if is_current {
            resolved.map_err(SubscribeError::Refused)
        } else {
            self.resolve(&membership.bindings(), &identity).await
        };
        self.remove(&membership);
        if let Some(resume) = &resume {
            let here = Position::before(self.place());
            self.catch_ups.insert(CatchUp::new(&membership, resume, here));
        }
        let (standing, notices) = self.stand(&membership, resolved);
        let is_live = standing.is_live();
        // Of refused bindings the client has been told; those that are undecided may come to life later.
        let undecided = resume.as_ref().filter(|_| standing == Standing::Undecided);
        let system = match &standing {
            Standing::One(_) | Standing::Several(_) | Standing::Behind => {
                let notices = notices.into_iter().map(|notice| (Status::Ok, notice));
                std::iter::once((Status::Ok, SUBSCRIBED.to_owned())).chain(notices).collect()
            }
            Standing::Refused(refusal) => vec![(Status::Error, refusal.message.clone())],
            Standing::Undecided => {
                self.resolve_undecided_at.get_or_insert(Instant::now() + RESOLVE_AGAIN_AFTER);
                Vec::new()
            }
        };
        let bindings = membership.binding_count();
        self.matcher.counters.subscriptions.fetch_add(bindings as u64, Relaxed);
        if !is_live && undecided.is_none() {
            self.end_catch_up(&membership, &standing).await;
        }
        self.entries.insert(Entry { membership: Arc::clone(&membership), identity, standing });
        match joining {
            Some(mut joining) => {
                let system = system.into_iter().map(|(status, text)| (POSTGRES_CHANGES, status, text));
                joining.system.extend(system);
                let shard = &self.matcher.shards[membership.shard.index()];
                let _ = shard.commands.send(Command::Join(joining)).await;
            }
            None => {
                for (status, message) in system {
                    self.tell(&membership, POSTGRES_CHANGES, status, message).await;
                }
            }
        }
        match undecided {
            Some(resume) => {
                self.catch_ups.remove(membership.channel);
                self.tell_undecided(&membership, resume).await;
            }
            None if resume.is_some() && is_live => self.begin_catch_up(membership.channel).await,
            None => {
                self.check_snapshot(membership.channel).await;
                if let Some(resume) = &resume {
                    self.tell_refused(&membership, resume).await;
                }
            }
        }
    }

    /// Subscribes a channel that is in no audience by what its bindings have just come to. Tells how they stand, and
    /// what the client should know.
    fn stand(
        &mut self,
        membership: &Arc<Membership>,
        resolved: Result<Resolved, SubscribeError>,
    ) -> (Standing, Vec<String>) {
        match resolved {
            Ok(resolved) if resolved.snapshot_version == self.snapshot.version => {
                self.want_copies(&resolved);
                if let Some(catch_up) = self.catch_ups.get_mut(membership.channel) {
                    catch_up.place(resolved.placements);
                    return (Standing::Behind, resolved.notices);
                }
                let places = self.audiences.insert(membership, resolved.placements);
                (Standing::live(places), resolved.notices)
            }
            // The former was resolved against a state of the catalog that is on its way here.
            Ok(_) | Err(SubscribeError::Unavailable(_)) => (Standing::Undecided, Vec::new()),
            Err(SubscribeError::Refused(message)) => (Standing::refused(message), Vec::new()),
        }
    }

    /// Forgets a channel that is gone.
    pub(super) fn unsubscribe(&mut self, membership: &Membership) {
        self.remove(membership);
        self.catch_ups.remove(membership.channel);
    }

    /// Removes what is known of a channel but for what it has yet to be told.
    fn remove(&mut self, membership: &Membership) {
        if let Some(Entry { standing, .. }) = self.entries.remove(membership) {
            self.audiences.remove(membership, standing.places());
            let bindings = membership.binding_count();
            self.matcher.counters.subscriptions.fetch_sub(bindings as u64, Relaxed);
        }
    }

    pub(super) async fn tell(
        &self,
        membership: &Membership,
        extension: &'static str,
        status: Status,
        message: String,
    ) {
        let Target { session, channel } = membership.target();
        let message = SystemMessage { session, channel, extension, status, message };
        let _ = self.matcher.shards[membership.shard.index()].commands.send(Command::System(message)).await;
    }
}

/// Whether anything changed that existing subscriptions were resolved with. A role that is merely new
/// concerns none of them.
fn concerns_subscriptions(old: &Snapshot, new: &Snapshot) -> bool {
    old.tables != new.tables
        || !old.compiles_as(new)
        || old.roles.iter().any(|(name, role)| new.roles.get(name) != Some(role))
}
