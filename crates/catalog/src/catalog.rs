//! The current snapshot of the catalog, kept fresh and handed to whoever watches.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Mutex, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use walcast_policy::schema::Snapshot;

use crate::channels::{Plans, Together};
use crate::error::CatalogError;
use crate::fingerprint::{self, Fingerprint, Watch};
use crate::pool::{Lease, Pool, milliseconds, within};
use crate::publication;
use crate::quoting::RoleName;
use crate::read::{self, ChannelLook, Content, Messages, MessagesInLog, Scope};
use crate::settings::CatalogSettings;

/// A look at the catalog may take this long even where policies must be faster.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// What PostgreSQL says of itself, and a way to ask it for more.
///
/// Holds a [`Snapshot`] that is replaced as a whole; see [`Catalog::subscribe`]. It changes when
/// [`walcast_policy::Oracle::refresh`] is called (a message in the log said so), when [`Catalog::poll`]
/// finds out, or when a role is named for the first time.
pub struct Catalog {
    pub(crate) pool: Pool,
    /// The publications that the stream reads.
    streamed: Vec<String>,
    current: ArcSwap<Snapshot>,
    changes: watch::Sender<Arc<Snapshot>>,
    /// When the snapshot was last known to be right.
    looked_at: std::sync::Mutex<Instant>,
    /// What is known of `realtime.messages`.
    pub(crate) messages: MessagesWatch,
    /// What is to be asked about channels.
    pub(crate) channels: Together,
    /// Held while the catalog is read, so that snapshots follow each other in order.
    reading: Mutex<Reading>,
    /// How old what is known may be, in milliseconds; set by whoever looks regularly.
    age_max_ms: AtomicU64,
}

/// What has not been confirmed for so many polls can not be relied on.
const POLLS_MISSED_MAX: u32 = 6;
/// The same for polls that are very frequent.
const AGE_MIN: Duration = Duration::from_secs(30);

/// `realtime.messages` as the last look found it.
#[derive(Default)]
pub(crate) struct MessagesWatch {
    pub(crate) current: ArcSwapOption<Messages>,
    /// Counts the changes.
    pub(crate) changes: watch::Sender<u64>,
    in_log: watch::Sender<MessagesInLog>,
    pub(crate) plans: Plans,
}

impl MessagesWatch {
    fn set(&self, found: ChannelLook) {
        self.in_log.send_if_modified(|known| std::mem::replace(known, found.in_log) != found.in_log);
        let before = self.current.load_full();
        let after = found.after(before.as_ref());
        let same = match (&before, &after) {
            (None, None) => true,
            (Some(before), Some(after)) => Arc::ptr_eq(before, after) || after.answers_as(before),
            _ => false,
        };
        self.current.store(after);
        if !same {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }
}

/// What the reader remembers between two looks.
#[derive(Default)]
struct Reading {
    roles: BTreeSet<String>,
    /// The last fingerprint, with what it was taken of.
    last: Option<(Fingerprint, Watch)>,
    /// Statements on walcast's own publication that have failed.
    refused: BTreeSet<String>,
}

/// A look that found something else than the last one.
struct Found {
    content: Content,
    channels: ChannelLook,
    /// `None` where the next look is to be taken whatever the fingerprint says.
    fingerprint: Option<Fingerprint>,
}

impl Catalog {
    /// Connects and takes the first look. Walcast's own publication is made where it is missing and the role may.
    ///
    /// # Errors
    /// No connection, or the catalog can not be read. A publication that does not exist is no error here
    /// (it has no tables); [`crate::preflight`] is for that.
    pub async fn connect(settings: CatalogSettings) -> Result<Arc<Catalog>, CatalogError> {
        let pool = Pool::new(settings);
        let streamed = within(LOOK_TIMEOUT, async {
            let lease = pool.lease().await?;
            let streamed = publication::streamed(&lease, pool.settings()).await?;
            lease.give_back();
            Ok(streamed)
        });
        let catalog = Catalog {
            streamed: streamed.await?,
            channels: Together::new(pool.clone()),
            pool,
            current: ArcSwap::default(),
            changes: watch::Sender::new(Arc::default()),
            looked_at: std::sync::Mutex::new(Instant::now()),
            messages: MessagesWatch::default(),
            reading: Mutex::default(),
            age_max_ms: AtomicU64::new(u64::MAX),
        };
        catalog.look_again().await?;
        Ok(Arc::new(catalog))
    }

    /// The publications that the stream must read: those whose tables are served, and walcast's own where it can be
    /// read. Settled when connecting, so that what the snapshots say of look-ups goes for one stream.
    pub fn streamed_publications(&self) -> &[String] {
        &self.streamed
    }

    /// The snapshot now and every one that follows. A watcher that is slow sees only the newest.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.changes.subscribe()
    }

    /// Whether messages from the database come with the log, now and at every change of that.
    pub fn messages_in_log(&self) -> watch::Receiver<MessagesInLog> {
        self.messages.in_log.subscribe()
    }

    /// How long ago the snapshot was last known to be right.
    pub fn age(&self) -> Duration {
        // The instant is replaced in one step, so that a panic elsewhere can not have spoilt it.
        self.looked_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner).elapsed()
    }

    /// How old the snapshot may get: several intervals of [`Catalog::poll`], or any age where nobody polls.
    pub fn age_max(&self) -> Duration {
        Duration::from_millis(self.age_max_ms.load(Ordering::Relaxed))
    }

    /// Looks for changes at every interval until cancelled. The only source of changes where no event
    /// trigger may be installed, and of role memberships anywhere: event triggers do not fire for them
    /// (PostgreSQL docs, "Overview of Event Trigger Behavior").
    pub async fn poll(self: Arc<Self>, every: Duration, cancel: CancellationToken) {
        let age_max = (every * POLLS_MISSED_MAX).max(AGE_MIN).as_millis();
        self.age_max_ms.store(u64::try_from(age_max).unwrap_or(u64::MAX), Ordering::Relaxed);
        let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            let looked = cancel.run_until_cancelled(Box::pin(self.look_again())).await;
            let error = match looked {
                None => return,
                Some(looked) => looked.err(),
            };
            match &error {
                Some(error) if !failing => tracing::warn!(%error, "the catalog can not be read; trying on"),
                None if failing => tracing::info!("the catalog can be read again"),
                _ => {}
            }
            failing = error.is_some();
        }
    }

    /// The current snapshot.
    pub(crate) fn now(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Reads the catalog again if its fingerprint has changed.
    pub(crate) async fn look_again(&self) -> Result<Arc<Snapshot>, CatalogError> {
        let mut reading = self.reading.lock().await;
        self.look(&mut reading).await
    }

    /// Makes sure that the role is in the snapshot.
    pub(crate) async fn know_role(&self, name: &str) -> Result<Arc<Snapshot>, CatalogError> {
        let known = self.now();
        if known.roles.contains_key(name) {
            return Ok(known);
        }
        let role = RoleName::new(name)?;
        let mut reading = self.reading.lock().await;
        // Somebody else may have asked for the same role while we waited.
        let known = self.now();
        if known.roles.contains_key(name) {
            return Ok(known);
        }
        if !self.role_exists(&role).await? {
            return Err(RoleName::missing(name));
        }
        reading.roles.insert(role.as_str().to_owned());
        reading.last = None;
        let snapshot = self.look(&mut reading).await?;
        if snapshot.roles.contains_key(name) { Ok(snapshot) } else { Err(RoleName::missing(name)) }
    }

    async fn role_exists(&self, role: &RoleName) -> Result<bool, CatalogError> {
        let talk = async {
            let mut retries = self.pool.retries();
            loop {
                let lease = self.pool.lease().await?;
                let sql = "SELECT true FROM pg_catalog.pg_roles WHERE rolname = $1::text";
                let found = lease.query_opt(sql, &[&role.as_str()]).await;
                if let Some(found) = retries.settle(lease, found.map_err(CatalogError::from)) {
                    return Ok(found?.is_some());
                }
            }
        };
        within(self.pool.patience(), talk).await
    }

    async fn look(&self, reading: &mut Reading) -> Result<Arc<Snapshot>, CatalogError> {
        let patience = self.pool.patience().max(LOOK_TIMEOUT);
        let found = within(patience, self.settled_look(reading)).await?;
        *self.looked_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
        let before = self.now();
        let Some(Found { mut content, mut channels, fingerprint }) = found else {
            return Ok(before);
        };
        let mut watch = std::mem::take(&mut content.watch);
        watch.add(std::mem::take(&mut channels.watch));
        self.messages.set(channels);
        reading.last = fingerprint.map(|fingerprint| (fingerprint, watch));
        // A role that is there because a function runs as it may be named by a socket, and then has to stay.
        reading.roles.extend(content.roles.keys().cloned());
        let snapshot = content.after(&before);
        if !Arc::ptr_eq(&snapshot, &before) {
            tracing::info!(
                version = snapshot.version,
                tables = snapshot.tables.len(),
                lookups = snapshot.lookups.len(),
                roles = snapshot.roles.len(),
                "the catalog has changed"
            );
            self.current.store(Arc::clone(&snapshot));
            self.changes.send_replace(Arc::clone(&snapshot));
        }
        Ok(snapshot)
    }

    /// Looks until there is nothing more to be done about walcast's own publication; `None` where nothing has
    /// changed since the last look.
    async fn settled_look(&self, reading: &mut Reading) -> Result<Option<Found>, CatalogError> {
        loop {
            let Some(mut found) = self.one_look(reading).await? else { return Ok(None) };
            let mut due = std::mem::take(&mut found.content.due);
            due.extend(found.channels.due.take());
            if due.is_empty() || self.pool.settings().read_only {
                return Ok(Some(found));
            }
            let lease = self.pool.lease().await?;
            let altered = publication::alter(&lease, &due, &mut reading.refused).await?;
            lease.give_back();
            if !altered.changed {
                found.fingerprint = found.fingerprint.filter(|_| !altered.try_again);
                return Ok(Some(found));
            }
            reading.last = None;
        }
    }

    async fn one_look(&self, reading: &Reading) -> Result<Option<Found>, CatalogError> {
        let roles: Vec<String> = reading.roles.iter().cloned().collect();
        let settings = self.pool.settings();
        let scope = Scope {
            publications: &settings.publications,
            streamed: &self.streamed,
            own: settings.lookup_publication.as_deref(),
            roles: &roles,
        };
        // Where the stream can not read the publication, nothing is due about it.
        let messages = settings.messages_publication.as_deref();
        let messages = messages.filter(|own| self.streamed.iter().any(|streamed| streamed == own));
        let mut retries = self.pool.retries();
        loop {
            let lease = self.pool.lease().await?;
            let found = look_in_transaction(&lease, scope, messages, reading.last.as_ref()).await;
            if let Some(found) = retries.settle(lease, found) {
                return found;
            }
        }
    }
}

/// What there is to see, or `None` where the fingerprint is still the `last` one.
async fn look_in_transaction(
    lease: &Lease,
    scope: Scope<'_>,
    messages: Option<&str>,
    last: Option<&(Fingerprint, Watch)>,
) -> Result<Option<Found>, CatalogError> {
    let timeout = milliseconds(LOOK_TIMEOUT.max(lease.statement_timeout()));
    lease.batch_execute(&format!("{}; SET LOCAL statement_timeout = {timeout}", read::BEGIN)).await?;
    let unchanged = match last {
        Some((fingerprint, watch)) => *fingerprint == fingerprint::take(lease, scope, watch).await?,
        None => false,
    };
    let found = if unchanged {
        None
    } else {
        let content = Box::pin(read::look(lease, scope)).await?;
        let channels = Box::pin(read::look_at_channels(lease, scope, messages)).await?;
        let mut watch = content.watch.clone();
        watch.add(channels.watch.clone());
        let fingerprint = fingerprint::take(lease, scope, &watch).await?;
        Some(Found { content, channels, fingerprint: Some(fingerprint) })
    };
    lease.batch_execute("ROLLBACK").await?;
    Ok(found)
}
