//! The current snapshot of the catalog, kept fresh and handed to whoever watches.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use walcast_policy::schema::Snapshot;

use crate::error::CatalogError;
use crate::fingerprint::{self, Fingerprint};
use crate::pool::{Lease, Pool, milliseconds, within};
use crate::quoting::RoleName;
use crate::read::{self, Scope};
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
    current: ArcSwap<Snapshot>,
    changes: watch::Sender<Arc<Snapshot>>,
    /// When the snapshot was last known to be right.
    looked_at: std::sync::Mutex<Instant>,
    /// Held while the catalog is read, so that snapshots follow each other in order.
    reading: Mutex<Reading>,
}

/// What the reader remembers between two looks.
#[derive(Default)]
struct Reading {
    roles: BTreeSet<String>,
    fingerprint: Option<Fingerprint>,
}

impl Catalog {
    /// Connects and takes the first look.
    ///
    /// # Errors
    /// No connection, or the catalog can not be read. A publication that does not exist is no error here
    /// (it has no tables); [`crate::preflight`] is for that.
    pub async fn connect(settings: CatalogSettings) -> Result<Arc<Catalog>, CatalogError> {
        let catalog = Catalog {
            pool: Pool::new(settings),
            current: ArcSwap::default(),
            changes: watch::Sender::new(Arc::default()),
            looked_at: std::sync::Mutex::new(Instant::now()),
            reading: Mutex::default(),
        };
        catalog.look_again().await?;
        Ok(Arc::new(catalog))
    }

    /// The snapshot now and every one that follows. A watcher that is slow sees only the newest.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.changes.subscribe()
    }

    /// How long ago the snapshot was last known to be right.
    pub fn age(&self) -> Duration {
        // The instant is replaced in one step, so that a panic elsewhere can not have spoilt it.
        self.looked_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner).elapsed()
    }

    /// Looks for changes at every interval until cancelled. The only source of changes where no event
    /// trigger may be installed, and of role memberships anywhere: event triggers do not fire for them
    /// (PostgreSQL docs, "Overview of Event Trigger Behavior").
    pub async fn poll(self: Arc<Self>, every: Duration, cancel: CancellationToken) {
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
        reading.fingerprint = None;
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
        let before = self.now();
        let roles: Vec<String> = reading.roles.iter().cloned().collect();
        let scope = Scope { publications: &self.pool.settings().publications, roles: &roles };
        let talk = async {
            let mut retries = self.pool.retries();
            loop {
                let lease = self.pool.lease().await?;
                let found = look_in_transaction(&lease, scope, &before, reading.fingerprint.as_ref()).await;
                if let Some(found) = retries.settle(lease, found) {
                    return found;
                }
            }
        };
        let patience = self.pool.patience().max(LOOK_TIMEOUT);
        let found = within(patience, talk).await?;
        *self.looked_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
        let Some((snapshot, fingerprint)) = found else {
            return Ok(before);
        };
        reading.fingerprint = Some(fingerprint);
        if !Arc::ptr_eq(&snapshot, &before) {
            tracing::info!(
                version = snapshot.version,
                tables = snapshot.tables.len(),
                roles = snapshot.roles.len(),
                "the catalog has changed"
            );
            self.current.store(Arc::clone(&snapshot));
            self.changes.send_replace(Arc::clone(&snapshot));
        }
        Ok(snapshot)
    }
}

/// The snapshot after `before` with its fingerprint, or `None` where the fingerprint is still `last`.
async fn look_in_transaction(
    lease: &Lease,
    scope: Scope<'_>,
    before: &Arc<Snapshot>,
    last: Option<&Fingerprint>,
) -> Result<Option<(Arc<Snapshot>, Fingerprint)>, CatalogError> {
    let timeout = milliseconds(LOOK_TIMEOUT.max(lease.statement_timeout()));
    lease.batch_execute(&format!("{}; SET LOCAL statement_timeout = {timeout}", read::BEGIN)).await?;
    let found = if last.is_some()
        && last == Some(&fingerprint::take(lease, scope.publications, &before.types).await?)
    {
        None
    } else {
        let snapshot = Box::pin(read::look(lease, scope)).await?.after(before);
        let fingerprint = fingerprint::take(lease, scope.publications, &snapshot.types).await?;
        Some((snapshot, fingerprint))
    };
    lease.batch_execute("ROLLBACK").await?;
    Ok(found)
}
