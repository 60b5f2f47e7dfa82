//! The copies that look-ups are made in: loaded when a subscription needs them, aligned to the log, kept current
//! from it, and given up where they do not fit.
//!
//! A copy comes from a snapshot of the database, and the log has its own order. While one is loaded the changes of
//! its table are kept; those of transactions that the snapshot knows are passed over, the others applied. As soon as
//! the log has passed every transaction of the snapshot, the copy is exactly as the table stood at the place that is
//! handled. Before, it is ahead of the log, as PostgreSQL is when it is asked: joins wait for that to end.
//!
//! Where the log may not tell all that happened to a table (TRUNCATE and VACUUM FULL look the same in the catalog), its
//! copy stays in use until another one is where the log is, and is replaced by that.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio::sync::mpsc;
use tokio::time::Instant;
use walcast_pgoutput::{Lsn, Oid, Xid};
use walcast_policy::schema::{LookupTable, Snapshot, TypeKind, Types};
use walcast_policy::{
    CopyNeed, CopyRequest, LoadedCopy, Members, MembersAt, Moment, Oracle, OracleError, TableCopy,
    TransactionSnapshot,
};

use super::copied_changes::CopiedColumns;
use crate::ingest::IngestError;
use crate::settings::Counters;
use crate::transaction::{Chunk, Transaction};

/// Changes that are kept while a copy is loaded; more of them, and it is tried again later.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// After so long a copy that could not be had is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// How long joins wait for a copy from the moment on that it is asked for.
const WAITED_FOR: Duration = Duration::from_secs(3);

/// After so long where the database was away.
const AGAIN_SOON: Duration = Duration::from_secs(1);

/// All copies, and those that are on their way.
pub(super) struct Copies {
    oracle: Arc<dyn Oracle>,
    counters: Arc<Counters>,
    /// Bytes of all copies together.
    bytes_max: usize,
    members: Members,
    tables: FxHashMap<Oid, Table>,
    loads: mpsc::UnboundedSender<Loaded>,
    loaded: mpsc::UnboundedReceiver<Loaded>,
    /// Numbers the loads, so that one that was given up is told from the one that took its place.
    last_load: u64,
}

/// A load that is over.
pub(super) struct Loaded {
    table: Oid,
    load: u64,
    outcome: Result<LoadedCopy, OracleError>,
}

/// A table of which there is, or should be, a copy.
struct Table {
    definition: Arc<LookupTable>,
    types: Arc<Types>,
    /// What the copy has, or will have, of the table.
    columns: Vec<i16>,
    indexes: Vec<Vec<i16>>,
    standing: Standing,
    /// The copy that is to replace the one in use.
    successor: Option<Successor>,
    /// When the last load began.
    loading_since: Instant,
    /// How the log's relation as last seen fits the copy's columns.
    layout: Option<CopiedColumns>,
}

enum Standing {
    Loading(Loading),
    /// Behind `reached` the copy is as the table stands at the place in the log that is handled.
    Ahead {
        snapshot: TransactionSnapshot,
        reached: Lsn,
    },
    Ready,
    Failed {
        again_at: Instant,
    },
}

/// A load that has begun, and what was written to the table since.
struct Loading {
    load: u64,
    kept: Vec<(Xid, Arc<Chunk>)>,
    kept_bytes: usize,
}

/// A copy that takes the place of the one in use once the log has reached it.
struct Successor {
    loading: Loading,
    loaded: Option<LoadedCopy>,
}

impl Copies {
    pub(super) fn new(oracle: Arc<dyn Oracle>, counters: Arc<Counters>, bytes_max: usize) -> Self {
        let (loads, loaded) = mpsc::unbounded_channel();
        Copies {
            oracle,
            counters,
            bytes_max,
            members: Members::default(),
            tables: FxHashMap::default(),
            loads,
            loaded,
            last_load: 0,
        }
    }

    /// The copies as they are after the transaction at hand, or were before it.
    pub(super) fn at(&self, moment: Moment) -> MembersAt<'_> {
        self.members.at(moment)
    }

    /// Sees to it that there is a copy for this need. `true`: there is one.
    pub(super) fn want(&mut self, need: &CopyNeed, snapshot: &Snapshot) -> bool {
        let Some(definition) = snapshot.lookups.get(&need.table).filter(|found| found.obstacle.is_none())
        else {
            return false;
        };
        let table = self.tables.entry(need.table).or_insert_with(|| Table {
            definition: Arc::clone(definition),
            types: Arc::clone(&snapshot.types),
            columns: Vec::new(),
            indexes: Vec::new(),
            standing: Standing::Failed { again_at: Instant::now() },
            successor: None,
            loading_since: Instant::now(),
            layout: None,
        });
        for index in &need.indexes {
            if !table.indexes.contains(index) {
                table.indexes.push(index.clone());
                self.members.add_index(need.table, index);
            }
        }
        let lacking: Vec<i16> =
            need.columns.iter().copied().filter(|column| !table.columns.contains(column)).collect();
        if !lacking.is_empty() {
            table.columns.extend(lacking);
            table.columns.sort_unstable();
            self.load(need.table);
            return false;
        }
        matches!(table.standing, Standing::Ready)
    }

    /// Until when it is worth to wait for a copy that is on its way.
    pub(super) fn is_coming(&self, need: &CopyNeed) -> Option<Instant> {
        let table = self.tables.get(&need.table)?;
        let coming = matches!(table.standing, Standing::Loading(_) | Standing::Ahead { .. });
        coming.then(|| table.loading_since + WAITED_FOR)
    }

    /// Takes over a new state of the catalog: copies of tables that are not what they were are loaded anew.
    pub(super) fn catalog(&mut self, snapshot: &Snapshot) {
        let tables: Vec<Oid> = self.tables.keys().copied().collect();
        for oid in tables {
            let Some(table) = self.tables.get_mut(&oid) else { continue };
            let now = snapshot.lookups.get(&oid).filter(|found| found.obstacle.is_none());
            let Some(now) = now else {
                self.forget(oid);
                continue;
            };
            let fits = table.fits(now, &snapshot.types);
            let goes_on = table.definition.continuity == now.continuity;
            let carried = table.definition.publication == now.publication;
            let in_use = matches!(table.standing, Standing::Ready);
            table.definition = Arc::clone(now);
            table.types = Arc::clone(&snapshot.types);
            table.layout = None;
            if !fits || !carried || !goes_on && !in_use {
                self.load(oid);
            } else if !goes_on {
                self.replace(oid);
            }
        }
    }

    /// Waits for a load to end, or for the time to try one again.
    pub(super) async fn news(&mut self) -> Option<Loaded> {
        let again_at = self.tables.values().filter_map(Table::again_at).min();
        let retry = async {
            match again_at {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            loaded = self.loaded.recv() => loaded,
            () = retry => None,
        }
    }

    /// Takes in what [`Copies::news`] brought.
    pub(super) fn take(&mut self, news: Option<Loaded>) {
        let Some(Loaded { table: oid, load, outcome }) = news else {
            return self.try_again();
        };
        let Some(table) = self.tables.get_mut(&oid) else { return };
        let successor = table.successor.as_mut().filter(|successor| successor.loading.load == load);
        let kept = match (successor, &mut table.standing, &outcome) {
            (Some(successor), _, Ok(_)) => {
                successor.loaded = outcome.ok();
                return;
            }
            // Without the one in use there may be room for it.
            (Some(_), ..) => return self.load(oid),
            (None, Standing::Loading(loading), _) if loading.load == load => {
                std::mem::take(&mut loading.kept)
            }
            (None, ..) => return,
        };
        match outcome {
            Ok(loaded) => {
                if self.loaded(oid, loaded, &kept) {
                    self.check_budget(oid);
                }
            }
            Err(error) => {
                let soon = matches!(error, OracleError::Disconnected(_));
                self.fail(oid, &error.to_string(), if soon { AGAIN_SOON } else { AGAIN_AFTER });
            }
        }
    }

    /// Takes a copy into use. `false`: it does not fit the log.
    fn loaded(&mut self, oid: Oid, loaded: LoadedCopy, kept: &[(Xid, Arc<Chunk>)]) -> bool {
        let Some(table) = self.tables.get_mut(&oid) else { return false };
        let LoadedCopy { mut rows, snapshot, reached } = loaded;
        rows.shrink();
        tracing::info!(
            schema = %table.definition.table.schema, table = %table.definition.table.name,
            rows = rows.len(), bytes = rows.bytes(), %reached,
            "a table that policies look things up in is copied"
        );
        self.members.insert(oid, rows);
        for index in &table.indexes {
            self.members.add_index(oid, index);
        }
        for (transaction, chunk) in kept {
            if !snapshot.shows(*transaction) {
                self.members.begin();
                if let Err(reason) = table.apply(oid, chunk, &mut self.members) {
                    self.fail(oid, &reason, AGAIN_SOON);
                    return false;
                }
            }
        }
        table.standing = Standing::Ahead { snapshot, reached };
        true
    }

    /// Begins with something new: what was before is as what is, until something is applied.
    pub(super) fn begin(&mut self) {
        self.members.begin();
    }

    /// Applies all that a transaction does to the tables, before any of its rows is judged.
    pub(super) async fn apply(&mut self, transaction: &Transaction) -> Result<(), IngestError> {
        self.begin();
        if self.tables.is_empty() {
            return Ok(());
        }
        let mut changes = transaction.changes.reader();
        while let Some(chunk) = changes.next().await? {
            self.apply_chunk(transaction.xid, &chunk);
        }
        Ok(())
    }

    fn apply_chunk(&mut self, transaction: Xid, chunk: &Arc<Chunk>) {
        // Each table takes all of its changes at once, wherever they stand among those of others.
        let mut applied: SmallVec<[Oid; 4]> = SmallVec::new();
        for change in &chunk.changes {
            let oid = change.relation.oid;
            if self.tables.contains_key(&oid) && !applied.contains(&oid) {
                applied.push(oid);
                self.apply_to(oid, transaction, chunk);
            }
        }
    }

    fn apply_to(&mut self, oid: Oid, transaction: Xid, chunk: &Arc<Chunk>) {
        let Some(table) = self.tables.get_mut(&oid) else { return };
        let kept = match &mut table.successor {
            Some(successor) => successor.loading.keep(transaction, chunk),
            None => Ok(()),
        };
        let applied = match &mut table.standing {
            Standing::Loading(loading) => match loading.keep(transaction, chunk) {
                Ok(()) => return,
                Err(reason) => Err(reason),
            },
            Standing::Ahead { snapshot, .. } if snapshot.shows(transaction) => return,
            Standing::Ahead { .. } | Standing::Ready => table.apply(oid, chunk, &mut self.members),
            Standing::Failed { .. } => return,
        };
        match kept.and(applied) {
            Ok(()) => self.check_budget(oid),
            Err(reason) => self.fail(oid, &reason, AGAIN_SOON),
        }
    }

    /// The log has been handled up to here: copies that know of nothing behind it are ahead no longer.
    pub(super) fn passed(&mut self, lsn: Lsn) {
        let mut succeeding = Vec::new();
        for (&oid, table) in &mut self.tables {
            if let Standing::Ahead { reached, .. } = &table.standing
                && *reached <= lsn
            {
                table.standing = Standing::Ready;
            }
            let loaded = table.successor.as_ref().and_then(|successor| successor.loaded.as_ref());
            if loaded.is_some_and(|loaded| loaded.reached <= lsn) {
                succeeding.push(oid);
            }
        }
        for oid in succeeding {
            let successor = self.tables.get_mut(&oid).and_then(|table| table.successor.take());
            let Some(Successor { loading, loaded: Some(loaded) }) = successor else { continue };
            if self.loaded(oid, loaded, &loading.kept) {
                if let Some(table) = self.tables.get_mut(&oid) {
                    table.standing = Standing::Ready;
                }
                self.check_budget(oid);
            }
        }
    }

    /// The log has a hole, so that no copy can be trusted: each is had anew, and PostgreSQL is asked until it is there.
    pub(super) fn load_all(&mut self) {
        let tables: Vec<Oid> = self.tables.keys().copied().collect();
        for oid in tables {
            self.load(oid);
        }
    }

    fn try_again(&mut self) {
        let now = Instant::now();
        let due = |table: &Table| table.again_at().is_some_and(|moment| moment <= now);
        let tables: Vec<Oid> =
            self.tables.iter().filter(|(_, table)| due(table)).map(|(&oid, _)| oid).collect();
        for oid in tables {
            self.load(oid);
        }
    }

    /// Reads a copy; there is none until it has come.
    fn load(&mut self, oid: Oid) {
        self.members.remove(oid);
        let loading = self.ask_for(oid);
        let Some((table, loading)) = self.tables.get_mut(&oid).zip(loading) else { return };
        table.standing = Standing::Loading(loading);
        table.successor = None;
        table.loading_since = Instant::now();
        table.layout = None;
    }

    /// Reads a copy that takes the place of the one in use.
    fn replace(&mut self, oid: Oid) {
        let loading = self.ask_for(oid);
        let Some((table, loading)) = self.tables.get_mut(&oid).zip(loading) else { return };
        table.successor = Some(Successor { loading, loaded: None });
    }

    fn ask_for(&mut self, oid: Oid) -> Option<Loading> {
        self.last_load += 1;
        let load = self.last_load;
        let bytes_max = self.bytes_max.saturating_sub(self.bytes());
        let table = self.tables.get(&oid)?;
        let request = CopyRequest {
            table: Arc::new(table.definition.table.clone()),
            types: Arc::clone(&table.types),
            columns: table.columns.clone(),
            bytes_max,
        };
        let (oracle, loads) = (Arc::clone(&self.oracle), self.loads.clone());
        tokio::spawn(async move {
            let outcome = oracle.load(request).await;
            // Nobody listens once the matcher has ended.
            let _ = loads.send(Loaded { table: oid, load, outcome });
        });
        Some(Loading { load, kept: Vec::new(), kept_bytes: 0 })
    }

    fn forget(&mut self, oid: Oid) {
        self.tables.remove(&oid);
        self.members.remove(oid);
    }

    /// Gives up a copy for the time being: PostgreSQL is asked instead.
    fn fail(&mut self, oid: Oid, reason: &str, again_after: Duration) {
        self.members.remove(oid);
        let Some(table) = self.tables.get_mut(&oid) else { return };
        table.standing = Standing::Failed { again_at: Instant::now() + again_after };
        table.successor = None;
        tracing::warn!(
            code = "LookupNotCopied",
            schema = %table.definition.table.schema, table = %table.definition.table.name, reason,
            "policies that look something up here are decided by the database, which is slower"
        );
    }

    fn check_budget(&mut self, oid: Oid) {
        let bytes = self.bytes();
        if bytes > self.bytes_max {
            let reason = format!(
                "the copies take {bytes} bytes, more than the {} of changes.copy_bytes_max",
                self.bytes_max
            );
            self.fail(oid, &reason, AGAIN_AFTER);
        }
        self.counters.copy_bytes.store(self.bytes() as u64, std::sync::atomic::Ordering::Relaxed);
    }

    fn bytes(&self) -> usize {
        let waiting = self.tables.values().filter_map(|table| table.successor.as_ref()?.loaded.as_ref());
        let waiting = waiting.map(|loaded| loaded.rows.bytes());
        self.members.iter().map(|(_, copy)| TableCopy::bytes(copy)).chain(waiting).sum()
    }
}

impl Loading {
    /// Keeps a chunk for when the copy is there.
    fn keep(&mut self, transaction: Xid, chunk: &Arc<Chunk>) -> Result<(), String> {
        if self.kept.last().is_none_or(|(_, last)| !Arc::ptr_eq(last, chunk)) {
            self.kept_bytes += chunk.bytes;
            self.kept.push((transaction, Arc::clone(chunk)));
        }
        if self.kept_bytes <= KEPT_BYTES_MAX {
            return Ok(());
        }
        Err("too much was written while it was copied".to_owned())
    }
}

impl Table {
    fn again_at(&self) -> Option<Instant> {
        match self.standing {
            Standing::Failed { again_at } => Some(again_at),
            _ => None,
        }
    }

    /// Applies the changes of a chunk that are of this table.
    fn apply(&mut self, oid: Oid, chunk: &Chunk, members: &mut Members) -> Result<(), String> {
        for change in &chunk.changes {
            if change.relation.oid != oid {
                continue;
            }
            let fits = self.layout.as_ref().is_some_and(|layout| layout.is_of(&change.relation));
            if !fits {
                let copy = members.get(oid).ok_or("there is no copy")?;
                let layout = CopiedColumns::new(&change.relation, &self.definition.table, copy);
                self.layout = Some(layout?);
            }
            if let Some(layout) = &self.layout {
                layout.apply(&change.row, oid, members).map_err(|damage| damage.to_string())?;
            }
        }
        Ok(())
    }

    /// Whether a copy made of the table as it was is one of the table as it is now.
    fn fits(&self, now: &LookupTable, types: &Types) -> bool {
        let (before, now_table) = (&self.definition.table, &now.table);
        let kept = |table: &walcast_policy::schema::Table| {
            let kept = table
                .columns
                .iter()
                .filter(|column| column.identity || self.columns.contains(&column.number))
                .map(|column| {
                    (
                        column.name.clone(),
                        column.number,
                        column.type_oid,
                        column.type_modifier,
                        column.collation,
                        column.identity,
                    )
                });
            kept.collect::<Vec<_>>()
        };
        (self.definition.continuity == now.continuity || self.definition.definition == now.definition)
            && before.identity == now_table.identity
            && kept(before) == kept(now_table)
            && now_table.columns.iter().all(|column| same_type(&self.types, types, column.type_oid))
    }
}

/// Whether a type is what it was, with all that it is made of.
fn same_type(before: &Types, now: &Types, oid: Oid) -> bool {
    let found = now.get(oid);
    found == before.get(oid)
        && match found.map(|found| &found.kind) {
            Some(TypeKind::Domain { base }) => same_type(before, now, *base),
            Some(TypeKind::Array { element, .. }) => same_type(before, now, *element),
            _ => true,
        }
}
