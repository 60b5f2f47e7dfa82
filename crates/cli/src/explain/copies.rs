//! Copies of the tables that policies look things up in, loaded as the server does.

use std::sync::Arc;
use std::time::Duration;

use walcast_pgoutput::Oid;
use walcast_policy::schema::Snapshot;
use walcast_policy::{CopyNeed, CopyRequest, Members, MembersAt, Moment, Oracle};

/// The copies. Where one can not be had, PostgreSQL is asked.
pub(super) struct Copies {
    oracle: Arc<dyn Oracle>,
    bytes_max: usize,
    patience: Duration,
    members: Members,
    /// Tables that were tried and could not be copied.
    failed: Vec<Oid>,
}

impl Copies {
    /// None yet. All of them may take `bytes_max`, and each one as long as `patience` to be loaded.
    pub(super) fn new(oracle: Arc<dyn Oracle>, bytes_max: usize, patience: Duration) -> Self {
        Copies { oracle, bytes_max, patience, members: Members::default(), failed: Vec::new() }
    }

    /// The copies as they are.
    pub(super) fn members(&self) -> MembersAt<'_> {
        self.members.at(Moment::After)
    }

    /// Loads what a plan needs and is not there.
    pub(super) async fn provide(&mut self, needs: &[CopyNeed], snapshot: &Snapshot) {
        for need in needs {
            self.load(need, snapshot).await;
            for index in &need.indexes {
                self.members.add_index(need.table, index);
            }
        }
    }

    async fn load(&mut self, need: &CopyNeed, snapshot: &Snapshot) {
        let has =
            |column: &i16| self.members.get(need.table).is_some_and(|copy| copy.columns().contains(column));
        let Some(found) = snapshot.lookups.get(&need.table) else { return };
        if need.columns.iter().all(has) && self.members.get(need.table).is_some()
            || self.failed.contains(&need.table)
        {
            return;
        }
        let mut columns = need.columns.clone();
        if let Some(copy) = self.members.remove(need.table) {
            columns.extend(copy.columns());
            columns.sort_unstable();
            columns.dedup();
        }
        let taken: usize = self.members.iter().map(|(_, copy)| copy.bytes()).sum();
        let request = CopyRequest {
            table: Arc::new(found.table.clone()),
            types: Arc::clone(&snapshot.types),
            columns,
            bytes_max: self.bytes_max.saturating_sub(taken),
        };
        // A copy waits for the transactions that are running; a question does not.
        let loaded = tokio::time::timeout(self.patience, Arc::clone(&self.oracle).load(request)).await;
        match loaded {
            Ok(Ok(loaded)) => self.members.insert(need.table, loaded.rows),
            _ => self.failed.push(need.table),
        }
    }
}
