//! A few connections, opened on demand, thrown away at the first doubt about their state.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::CatalogError;
use crate::settings::CatalogSettings;

/// How long opening a connection may take where the settings do not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How many prepared statements a connection keeps before it forgets them all.
const STATEMENTS_MAX: usize = 256;

/// How long nobody waits for a connection to ask about a channel after somebody has waited in vain.
const EXHAUSTED_FOR: Duration = Duration::from_secs(1);

/// A conversation may take so many times the time-out of one statement.
const PATIENCE: u32 = 4;

/// What sessions must agree on so that text means the same as in the replication stream.
const PINNED: &str = "SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; \
                      SET bytea_output = 'hex'; SET extra_float_digits = 3; SET row_security = on";

/// How sessions plan. Every execution for itself: a function that is declared IMMUTABLE though it reads a
/// claim would otherwise be evaluated once for all, since plans are kept after a few executions. And without
/// compiling, which takes longer than most questions.
const PLANNING: &str = "SET plan_cache_mode = force_custom_plan; SET jit = off";

/// What writes probes opens a transaction for that, and sends them before it knows that there is one. Where there is
/// none, nothing is to be written.
const PROBES_ONLY: &str = "SET default_transaction_read_only = on";

/// The connections of a catalog. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    settings: CatalogSettings,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<(Purpose, Connection)>>,
    /// Until when nobody waits for a connection to ask about a channel, since somebody has waited in vain.
    exhausted: Mutex<Option<Instant>>,
}

/// What a connection is for. A setting that was set once is never NULL again in its session, not even after a
/// roll-back, and the policies of tables must not find a channel's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Rows,
    Channels,
}

impl Pool {
    pub(crate) fn new(settings: CatalogSettings) -> Self {
        Pool(Arc::new(Shared {
            permits: Arc::new(Semaphore::new(settings.pool_size.max(1))),
            idle: Mutex::default(),
            exhausted: Mutex::default(),
            settings,
        }))
    }

    /// How long a conversation of several statements may take.
    pub(crate) fn patience(&self) -> Duration {
        let statement = self.settings().statement_timeout;
        statement.max(Duration::from_secs(1)).saturating_mul(PATIENCE)
    }

    /// How the connections are made.
    pub(crate) fn settings(&self) -> &CatalogSettings {
        &self.0.settings
    }

    /// A connection for one conversation: one that is idle, or a new one.
    pub(crate) async fn lease(&self) -> Result<Lease, CatalogError> {
        let permit = self.permit(self.turn_patience()).await?;
        self.connected(permit, Purpose::Rows).await
    }

    /// A connection to read stored messages. Where one has been waited for in vain a moment ago, it is not waited for:
    /// a thousand joins that wait would keep the pool exhausted.
    pub(crate) async fn lease_for_channel(&self) -> Result<Lease, CatalogError> {
        if self.is_exhausted() {
            return Err(CatalogError::PoolExhausted(Duration::ZERO));
        }
        match self.turn_for_channel(tokio::time::Instant::now() + self.turn_patience()).await {
            Some(turn) => self.take_turn(turn).await,
            None => Err(self.note_exhausted()),
        }
    }

    /// How long a connection is waited for.
    pub(crate) fn turn_patience(&self) -> Duration {
        self.settings().statement_timeout.max(Duration::from_secs(1))
    }

    /// Whether no connection is free and one has been waited for in vain a moment ago.
    pub(crate) fn is_exhausted(&self) -> bool {
        let until = *self.0.exhausted.lock().unwrap_or_else(PoisonError::into_inner);
        self.free() == 0 && until.is_some_and(|until| Instant::now() < until)
    }

    /// Has those who ask about channels not wait for a while, since one of them has waited in vain.
    pub(crate) fn note_exhausted(&self) -> CatalogError {
        let until = Instant::now() + EXHAUSTED_FOR;
        *self.0.exhausted.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        CatalogError::PoolExhausted(self.turn_patience())
    }

    /// How many connections could be had at once.
    pub(crate) fn free(&self) -> usize {
        self.0.permits.available_permits()
    }

    /// The right to a connection to ask about channels, or `None` where there is none until `deadline`.
    pub(crate) async fn turn_for_channel(&self, deadline: tokio::time::Instant) -> Option<Turn> {
        let permit = Arc::clone(&self.0.permits).acquire_owned();
        // Nobody closes the semaphore; if somebody did, there would be no connection to have.
        tokio::time::timeout_at(deadline, permit).await.ok()?.ok().map(Turn)
    }

    /// The connection.
    pub(crate) async fn take_turn(&self, turn: Turn) -> Result<Lease, CatalogError> {
        self.connected(turn.0, Purpose::Channels).await
    }

    async fn permit(&self, patience: Duration) -> Result<OwnedSemaphorePermit, CatalogError> {
        tokio::time::timeout(patience, Arc::clone(&self.0.permits).acquire_owned())
            .await
            .map_err(|_| CatalogError::PoolExhausted(patience))?
            // Nobody closes the semaphore; if somebody did, there would be no connection to have.
            .map_err(|_| CatalogError::PoolExhausted(patience))
    }

    /// One more connection for a conversation that has one already and goes faster with several. The last
    /// that is free is left to others, and nothing is waited for.
    pub(crate) async fn spare(&self) -> Option<Lease> {
        if self.free() < 2 {
            return None;
        }
        let permit = Arc::clone(&self.0.permits).try_acquire_owned().ok()?;
        self.connected(permit, Purpose::Rows).await.ok()
    }

    async fn connected(&self, permit: OwnedSemaphorePermit, purpose: Purpose) -> Result<Lease, CatalogError> {
        let connection = match self.0.take_idle(purpose) {
            Some(connection) => connection,
            // Boxed: connecting takes 20 kB of future, and every conversation would carry them.
            None => Box::pin(self.opened(purpose)).await?,
        };
        Ok(Lease { connection, purpose, home: Arc::clone(&self.0), _permit: permit })
    }

    async fn opened(&self, purpose: Purpose) -> Result<Connection, CatalogError> {
        let connection = Connection::open(self.settings()).await?;
        if purpose == Purpose::Channels {
            connection.client.batch_execute(PROBES_ONLY).await?;
        }
        Ok(connection)
    }
}

impl Pool {
    /// For a conversation that only reads and may be had again; see [`Retries::settle`].
    pub(crate) fn retries(&self) -> Retries {
        Retries {
            // As many as there may be dead connections among the idle ones.
            left: self.settings().pool_size.max(1),
        }
    }
}

/// How often a conversation is begun again because its connection turned out to be dead, as all are after
/// PostgreSQL was restarted.
pub(crate) struct Retries {
    left: usize,
}

impl Retries {
    /// The outcome of a conversation, or `None` where it should be had again over another connection. The
    /// connection is used again only after a good outcome.
    pub(crate) fn settle<T>(
        &mut self,
        lease: Lease,
        outcome: Result<T, CatalogError>,
    ) -> Option<Result<T, CatalogError>> {
        match &outcome {
            Ok(_) => lease.give_back(),
            Err(error) if error.is_broken() && self.left > 0 => {
                self.left -= 1;
                return None;
            }
            Err(_) => {}
        }
        Some(outcome)
    }
}

impl Shared {
    /// An idle connection for this purpose. Where there is none and all that may be open are, one for another is
    /// closed.
    fn take_idle(&self, purpose: Purpose) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, connection)| !connection.client.is_closed());
        if let Some(place) = idle.iter().rposition(|(kept_for, _)| *kept_for == purpose) {
            return Some(idle.swap_remove(place).1);
        }
        let size = self.settings.pool_size.max(1);
        // The caller's among them.
        let lent = size.saturating_sub(self.permits.available_permits());
        if lent + idle.len() > size {
            idle.pop();
        }
        None
    }
}

/// The right to a connection, which need not be open yet.
pub(crate) struct Turn(OwnedSemaphorePermit);

/// A connection on loan. Dropped, it is closed; only [`Lease::give_back`] lets it be used again, which
/// is for the one who knows that no transaction, role or setting is left in it.
pub(crate) struct Lease {
    connection: Connection,
    purpose: Purpose,
    home: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Returns a connection whose session is as it was when it was lent.
    pub(crate) fn give_back(self) {
        if self.connection.client.is_closed() {
            return;
        }
        let mut idle = self.home.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push((self.purpose, self.connection));
    }

    /// How long one statement may run.
    pub(crate) fn statement_timeout(&self) -> Duration {
        self.home.settings.statement_timeout
    }

    /// The statement that `sql` prepares, remembered under `owner`; prepared now if it was not.
    ///
    /// Parameters are text. `owner` keeps apart the statements of roles, since a plan that was made for
    /// one role may have that role's privileges folded in.
    pub(crate) async fn prepare(
        &mut self,
        owner: &str,
        sql: &str,
        parameters: usize,
    ) -> Result<Prepared, CatalogError> {
        let key = (owner.to_owned(), sql.to_owned());
        if let Some(statement) = self.connection.statements.get(&key) {
            return Ok(Prepared { statement: statement.clone(), fresh: false });
        }
        let types = vec![Type::TEXT; parameters];
        let statement = self.connection.client.prepare_typed(sql, &types).await?;
        self.remember(key, statement.clone());
        Ok(Prepared { statement, fresh: true })
    }

    /// Forgets what [`Lease::prepare`] remembers of `sql`.
    pub(crate) fn forget(&mut self, owner: &str, sql: &str) {
        self.connection.statements.remove(&(owner.to_owned(), sql.to_owned()));
    }

    fn remember(&mut self, key: (String, String), statement: Statement) {
        let statements = &mut self.connection.statements;
        if statements.len() >= STATEMENTS_MAX {
            statements.clear();
        }
        statements.insert(key, statement);
    }

    /// Brings the session back to what it was after connecting, whatever a statement has set in it.
    pub(crate) async fn reset(&self) -> Result<(), CatalogError> {
        let sql = format!(
            "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; SELECT pg_catalog.pg_advisory_unlock_all(); {}",
            session_sql(&self.home.settings)
        );
        Ok(self.batch_execute(&sql).await?)
    }
}

impl Deref for Lease {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.connection.client
    }
}

/// A prepared statement, and whether it was prepared just now.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) statement: Statement,
    pub(crate) fresh: bool,
}

/// One session with PostgreSQL. Dropped, it is closed at once, even in the middle of a statement.
pub(crate) struct Connection {
    pub(crate) client: Client,
    statements: HashMap<(String, String), Statement>,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Connects and pins the session's settings.
    pub(crate) async fn open(settings: &CatalogSettings) -> Result<Self, CatalogError> {
        let mut config = settings.config.clone();
        config.application_name("walcast");
        let patience = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        let opening = async {
            let connection = Self::connect(&config, settings.tls.clone()).await?;
            connection.client.batch_execute(&session_sql(settings)).await?;
            Ok(connection)
        };
        within(patience, opening).await
    }

    async fn connect(
        config: &tokio_postgres::Config,
        tls: Option<rustls::ClientConfig>,
    ) -> Result<Self, CatalogError> {
        let connecting = |error| CatalogError::connecting(&error);
        let (client, driver) = if let Some(tls) = tls {
            let tls = MakeRustlsConnect::new(tls);
            let (client, connection) = config.connect(tls).await.map_err(connecting)?;
            (client, tokio::spawn(drive(connection)))
        } else {
            let (client, connection) = config.connect(NoTls).await.map_err(connecting)?;
            (client, tokio::spawn(drive(connection)))
        };
        Ok(Connection { client, statements: HashMap::new(), driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Moves bytes until the connection ends; whoever waits for an answer is told by tokio-postgres.
async fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(error = %CatalogError::from(error), "a connection of the catalog ended");
    }
}

/// The SQL that makes a new session ours.
fn session_sql(settings: &CatalogSettings) -> String {
    let mut sql = String::new();
    if let Some(given) = &settings.after_connect {
        sql.push_str(given);
        // On a line of its own: what was given may end in a comment.
        sql.push_str("\n;\n");
    }
    // Writing to a String does not fail.
    let timeout = milliseconds(settings.statement_timeout);
    let _ = write!(sql, "{PINNED}; {PLANNING}; SET statement_timeout = {timeout}");
    sql
}

/// What `talk` comes to, or [`CatalogError::Late`]: PostgreSQL's own time-outs do not help where the network
/// has swallowed the answer. A conversation that is cut off takes its connection with it.
pub(crate) async fn within<T>(
    patience: Duration,
    talk: impl Future<Output = Result<T, CatalogError>>,
) -> Result<T, CatalogError> {
    tokio::time::timeout(patience, talk).await.unwrap_or(Err(CatalogError::Late(patience)))
}

/// A duration as PostgreSQL's `statement_timeout` takes it; never 0, which would mean no limit.
pub(crate) fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).clamp(1, i32::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_is_never_no_time_out() {
        assert_eq!(milliseconds(Duration::ZERO), 1);
        assert_eq!(milliseconds(Duration::from_millis(1500)), 1500);
        assert_eq!(milliseconds(Duration::MAX), i32::MAX.unsigned_abs());
    }
}
