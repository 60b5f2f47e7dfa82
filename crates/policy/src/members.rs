//! Copies of the tables that policies look things up in, kept current from the log.
//!
//! A transaction is applied as a whole before its rows are judged; the state before it stays at hand for what
//! an UPDATE or DELETE took away. In reading order: `cell` and `arena` (how rows lie in memory), `index`,
//! [`copy`](TableCopy), and here what holds them together.

mod arena;
mod cell;
mod copy;
mod index;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use walcast_pgoutput::Oid;

pub(crate) use self::cell::{CellBytes, CellType};
pub(crate) use self::copy::CopiedRow;
pub use self::copy::TableCopy;
use crate::row::Datum;
use crate::value::Value;

/// What a transaction does to a row of a copied table. Values are those of [`TableCopy::columns`], in their
/// order.
#[derive(Clone, Copy, Debug)]
pub enum CopyChange<'a> {
    /// A new row.
    Insert(&'a [Datum<'a>]),
    /// A changed row; `old` where the values in its replica identity changed, or the log has the whole row.
    Update {
        /// The old row or its identity.
        old: Option<&'a [Datum<'a>]>,
        /// The row as it is now; what is missing has not changed.
        new: &'a [Datum<'a>],
    },
    /// A row that is gone: the old row or its identity.
    Delete(&'a [Datum<'a>]),
    /// Every row is gone.
    Truncate,
}

/// A copy does not have the row that the log changes: it is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the copy of a table and the log do not fit together: {0}")]
pub struct CopyDamaged(String);

/// The copies that look-ups are made in.
#[derive(Debug, Default)]
pub struct Members {
    copies: FxHashMap<Oid, Member>,
    /// The copies that the transaction at hand has changed.
    changed: Vec<Oid>,
}

/// When a look-up is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the transaction at hand.
    Before,
    /// After it.
    After,
}

/// The copies at one moment.
#[derive(Clone, Copy, Debug)]
pub struct MembersAt<'a> {
    members: &'a Members,
    moment: Moment,
}

#[derive(Debug)]
struct Member {
    copy: TableCopy,
    /// What the transaction at hand changed.
    delta: Option<Box<Delta>>,
}

#[derive(Debug)]
struct Delta {
    /// Rows of the copy that were not there before.
    added: FxHashSet<u32>,
    /// Rows that were.
    removed: TableCopy,
}

impl Members {
    /// Takes a copy into use.
    pub fn insert(&mut self, table: Oid, copy: TableCopy) {
        self.copies.insert(table, Member { copy, delta: None });
    }

    /// Makes sure that rows are found by their values in these columns, by number.
    pub fn add_index(&mut self, table: Oid, columns: &[i16]) {
        let Some(member) = self.copies.get_mut(&table) else { return };
        let Some(places) = places(&member.copy, columns) else { return };
        member.copy.add_index(&places);
        if let Some(delta) = &mut member.delta {
            delta.removed.add_index(&places);
        }
    }

    /// Takes a copy out of use.
    pub fn remove(&mut self, table: Oid) -> Option<TableCopy> {
        self.copies.remove(&table).map(|member| member.copy)
    }

    /// The copy of a table, as it is after the transaction at hand.
    pub fn get(&self, table: Oid) -> Option<&TableCopy> {
        self.copies.get(&table).map(|member| &member.copy)
    }

    /// The copies, by table.
    pub fn iter(&self) -> impl Iterator<Item = (Oid, &TableCopy)> {
        self.copies.iter().map(|(&table, member)| (table, &member.copy))
    }

    /// Turns to the next transaction: the state after the last one is the state before it.
    pub fn begin(&mut self) {
        for table in self.changed.drain(..) {
            if let Some(member) = self.copies.get_mut(&table) {
                member.delta = None;
            }
        }
    }

    /// Applies one change of the transaction at hand.
    pub fn apply(&mut self, table: Oid, change: CopyChange<'_>) -> Result<(), CopyDamaged> {
        let Some(member) = self.copies.get_mut(&table) else { return Ok(()) };
        if member.delta.is_none() {
            self.changed.push(table);
        }
        member.apply(change)
    }

    /// The copies as they are after the transaction at hand, or were before it.
    pub fn at(&self, moment: Moment) -> MembersAt<'_> {
        MembersAt { members: self, moment }
    }
}

impl Member {
    fn apply(&mut self, change: CopyChange<'_>) -> Result<(), CopyDamaged> {
        match change {
            CopyChange::Insert(new) => self.add(new, None),
            CopyChange::Update { old, new } => {
                let row = self.find(old.unwrap_or(new))?;
                let cells = self.copy.cells(new, Some(row));
                self.discard(row);
                match cells {
                    Some(cells) => self.note_added(|copy| copy.insert_cells(&cells)),
                    None => self.sound(),
                }
            }
            CopyChange::Delete(old) => {
                let row = self.find(old)?;
                self.discard(row);
                Ok(())
            }
            CopyChange::Truncate => {
                let rows: Vec<u32> = self.copy.rows().map(CopiedRow::number).collect();
                for row in rows {
                    self.discard(row);
                }
                Ok(())
            }
        }
    }

    fn find(&self, values: &[Datum<'_>]) -> Result<u32, CopyDamaged> {
        let missing = || CopyDamaged("a row is not there".to_owned());
        self.copy.identified_by(values).ok_or_else(missing)
    }

    fn add(&mut self, values: &[Datum<'_>], before: Option<u32>) -> Result<(), CopyDamaged> {
        match self.copy.cells(values, before) {
            Some(cells) => self.note_added(|copy| copy.insert_cells(&cells)),
            None => self.sound(),
        }
    }

    fn note_added(&mut self, insert: impl FnOnce(&mut TableCopy) -> Option<u32>) -> Result<(), CopyDamaged> {
        if let Some(row) = insert(&mut self.copy) {
            self.delta().added.insert(row);
        }
        self.sound()
    }

    fn discard(&mut self, row: u32) {
        let bytes = self.copy.remove(row);
        let delta = self.delta();
        if !delta.added.remove(&row) {
            delta.removed.insert_bytes(&bytes);
        }
    }

    fn delta(&mut self) -> &mut Delta {
        let copy = &self.copy;
        self.delta
            .get_or_insert_with(|| Box::new(Delta { added: FxHashSet::default(), removed: copy.emptied() }))
    }

    fn sound(&self) -> Result<(), CopyDamaged> {
        match self.copy.damage() {
            None => Ok(()),
            Some(damage) => Err(CopyDamaged(damage.to_owned())),
        }
    }
}

impl<'a> MembersAt<'a> {
    /// No copies at all: every look-up is PostgreSQL's to make.
    pub fn none() -> MembersAt<'static> {
        static NONE: std::sync::LazyLock<Members> = std::sync::LazyLock::new(Members::default);
        NONE.at(Moment::After)
    }

    /// The rows of a table that have these values in these columns, by ascending number, of types whose equal values
    /// have equal bytes. `None`: there is no copy with these columns.
    pub(crate) fn rows(
        self,
        table: Oid,
        columns: &[i16],
        values: &[Value<'_>],
    ) -> Option<impl Iterator<Item = CopiedRow<'a>> + use<'a>> {
        let member = self.members.copies.get(&table)?;
        let places = places(&member.copy, columns)?;
        let delta = member.delta.as_deref().filter(|_| self.moment == Moment::Before);
        let kept = member
            .copy
            .rows_with(&places, values)
            .filter(move |row| delta.is_none_or(|delta| !delta.added.contains(&row.number())));
        let removed = delta.map(|delta| delta.removed.rows_with(&places, values));
        Some(kept.chain(removed.into_iter().flatten()))
    }
}

/// The places of columns in a copy, ascending, as indexes have them.
fn places(copy: &TableCopy, columns: &[i16]) -> Option<SmallVec<[usize; 4]>> {
    columns.iter().map(|&number| copy.place(number)).collect()
}

#[cfg(test)]
mod tests;
