//! Where in the journal a value stands, so that who comes back costs what it is told, and not what was written
//! meanwhile.
//!
//! Consecutive transactions make a segment. When a value of a column is looked for in a segment for the first time, all
//! of its rows are gone through and indexed by that column, once for everybody who comes after that. Nothing is done for
//! what nobody asks for. The last transactions, which are no segment yet, and those with a file are in no index.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;
use walcast_pgoutput::{Oid, Relation};
use walcast_wire::Position;

use super::Transactions;
use crate::transaction::{Chunk, NewValue, Transaction};

/// A segment ends at so many changes, …
const CHANGES_MIN: usize = 512;
/// … or at so many bytes: that many are forgotten before its index is.
const BYTES_MIN: usize = 1 << 20;

/// Clients choose the columns, and each one costs memory.
const INDEXES_MAX: usize = 4;

/// What is in the journal's segments.
#[derive(Default)]
pub(super) struct Segments {
    /// Oldest first.
    complete: VecDeque<Segment>,
    /// Transactions that are no segment yet.
    open: Open,
    /// With a secret: clients choose values.
    hasher: ahash::RandomState,
    /// Of all indexes.
    bytes: usize,
}

#[derive(Default)]
struct Open {
    numbers: Range<u64>,
    changes: usize,
    bytes: usize,
}

/// Consecutive transactions.
struct Segment {
    numbers: Range<u64>,
    /// What it has, since somebody has asked.
    outline: Option<Outline>,
}

struct Outline {
    parts: Box<[Part]>,
    /// How the log described each table when the segment had it first.
    relations: SmallVec<[Arc<Relation>; 2]>,
    indexes: SmallVec<[ColumnIndex; 1]>,
}

/// A chunk. The changes of a segment are numbered; this is how one is found.
struct Part {
    /// The number of its first change.
    first: u32,
    changes: u32,
    position: Position,
    transaction: u64,
    chunk: usize,
}

/// The changes of one table by a column of the rows that they leave.
struct ColumnIndex {
    table: Oid,
    /// In the log's tuples.
    column: usize,
    /// Hashes, and the changes whose rows have a value with that hash, sorted.
    by_hash: Box<[(u32, u32)]>,
    /// Those of which the log does not say what they leave there.
    unknown: Box<[u32]>,
}

/// What a row is looked for by: a value in a column of the log's tuples.
#[derive(Clone, Copy, Debug)]
pub(in crate::matcher) struct Sought<'a> {
    pub(in crate::matcher) table: Oid,
    pub(in crate::matcher) column: usize,
    pub(in crate::matcher) value: &'a str,
}

/// The tables of a segment as the log described them when they came first.
#[derive(Debug)]
pub(in crate::matcher) struct Described {
    pub(in crate::matcher) relations: SmallVec<[Arc<Relation>; 2]>,
    /// The last position of the segment.
    pub(in crate::matcher) up_to: Position,
}

/// What was found.
#[derive(Debug)]
pub(in crate::matcher) struct Places {
    /// In the order of the log.
    pub(in crate::matcher) places: Vec<Place>,
    /// Up to here there are no others.
    pub(in crate::matcher) up_to: Position,
}

/// Where a change stands.
#[derive(Clone, Copy, Debug)]
pub(in crate::matcher) struct Place {
    transaction: u64,
    chunk: usize,
    /// In its chunk.
    pub(in crate::matcher) index: usize,
    pub(in crate::matcher) position: Position,
}

impl Segments {
    /// What the indexes take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A transaction has been taken in.
    pub(super) fn add(&mut self, number: u64, transaction: &Transaction, bytes: usize) {
        if transaction.changes.spilled_bytes() > 0 {
            self.complete();
            self.open.numbers = number + 1..number + 1;
            return;
        }
        if self.open.numbers.end != number {
            self.open = Open { numbers: number..number, ..Open::default() };
        }
        self.open.numbers.end = number + 1;
        self.open.changes +=
            transaction.changes.held().iter().map(|chunk| chunk.changes.len()).sum::<usize>();
        self.open.bytes += bytes;
        if self.open.changes >= CHANGES_MIN || self.open.bytes >= BYTES_MIN {
            self.complete();
        }
    }

    fn complete(&mut self) {
        let Open { numbers, .. } = std::mem::take(&mut self.open);
        self.open.numbers = numbers.end..numbers.end;
        if !numbers.is_empty() {
            self.complete.push_back(Segment { numbers, outline: None });
        }
    }

    /// Transactions before this one have been forgotten.
    pub(super) fn forget_before(&mut self, number: u64) {
        while let Some(oldest) = self.complete.pop_front_if(|oldest| oldest.numbers.end <= number) {
            self.bytes -= oldest.bytes();
        }
    }

    /// How the log described the tables of a transaction's segment. `None` where it is in none.
    pub(super) fn described(&mut self, number: u64, transactions: &Transactions) -> Option<Described> {
        let (_, outline) = self.outline(number, transactions)?;
        let up_to = outline.parts.last()?.last();
        Some(Described { relations: outline.relations.clone(), up_to })
    }

    /// The first changes of a transaction's segment that may be sought, at most so many, between two positions, of which
    /// the second stands between transactions. `None` where each change has to be looked at.
    pub(super) fn places(
        &mut self,
        number: u64,
        transactions: &Transactions,
        sought: &[Sought<'_>],
        between: Range<Position>,
        count_max: usize,
    ) -> Option<Places> {
        let hasher = self.hasher.clone();
        let (bytes, outline) = self.outline(number, transactions)?;
        let before = outline.bytes();
        let is_indexed = sought.iter().all(|sought| outline.index(sought, transactions, &hasher).is_some());
        *bytes += outline.bytes() - before;
        if !is_indexed {
            return None;
        }
        outline.places(transactions, sought, between, count_max, &hasher)
    }

    /// The outline of a transaction's segment, and what all of them take.
    fn outline(&mut self, number: u64, transactions: &Transactions) -> Option<(&mut usize, &mut Outline)> {
        let place = self.complete.partition_point(|segment| segment.numbers.end <= number);
        let segment = self.complete.get_mut(place).filter(|segment| segment.numbers.contains(&number))?;
        let outline = segment.outline.get_or_insert_with(|| {
            let outline = Outline::of(segment.numbers.clone(), transactions);
            self.bytes += outline.bytes();
            outline
        });
        Some((&mut self.bytes, outline))
    }
}

impl Segment {
    fn bytes(&self) -> usize {
        self.outline.as_ref().map_or(0, Outline::bytes)
    }
}

impl Outline {
    fn of(numbers: Range<u64>, transactions: &Transactions) -> Outline {
        let mut parts = Vec::new();
        let mut relations: SmallVec<[Arc<Relation>; 2]> = SmallVec::new();
        let mut last = None;
        let mut next = 0;
        for number in numbers {
            let Some(kept) = transactions.get(number) else { continue };
            let mut position = kept.transaction.first;
            for (chunk, held) in kept.transaction.changes.held().iter().enumerate() {
                // A transaction in memory has no more.
                let changes = u32::try_from(held.changes.len()).unwrap_or(u32::MAX);
                if changes > 0 {
                    parts.push(Part { first: next, changes, position, transaction: number, chunk });
                }
                next += changes;
                position.index += u64::from(changes);
                for change in &held.changes {
                    let relation = Arc::as_ptr(&change.relation);
                    let is_new = || relations.iter().all(|known| known.oid != change.relation.oid);
                    if last.replace(relation) != Some(relation) && is_new() {
                        relations.push(Arc::clone(&change.relation));
                    }
                }
            }
        }
        Outline { parts: parts.into(), relations, indexes: SmallVec::new() }
    }

    fn bytes(&self) -> usize {
        let indexes = self.indexes.iter().map(ColumnIndex::bytes).sum::<usize>();
        size_of_val(&*self.parts) + indexes
    }

    /// The index by a column, which is made where there is none yet. `None` where there are enough of them.
    fn index(
        &mut self,
        sought: &Sought<'_>,
        transactions: &Transactions,
        hasher: &ahash::RandomState,
    ) -> Option<&ColumnIndex> {
        let known = self.indexes.iter().position(|index| index.is_for(sought));
        let place = match known {
            Some(place) => place,
            None if self.indexes.len() < INDEXES_MAX => {
                let relation = self.relations.iter().find(|relation| relation.oid == sought.table)?;
                let index = ColumnIndex::of(&self.parts, relation, sought.column, transactions, hasher);
                self.indexes.push(index);
                self.indexes.len() - 1
            }
            None => return None,
        };
        self.indexes.get(place)
    }

    fn places(
        &self,
        transactions: &Transactions,
        sought: &[Sought<'_>],
        between: Range<Position>,
        count_max: usize,
        hasher: &ahash::RandomState,
    ) -> Option<Places> {
        let forgotten = self.parts.partition_point(|part| part.transaction < transactions.first());
        let from = self.number_behind(between.start).max(self.first_of(forgotten));
        let end = self.parts.partition_point(|part| part.position < between.end);
        let numbers = from..self.first_of(end);
        let mut found = Vec::new();
        for sought in sought {
            let index = self.indexes.iter().find(|index| index.is_for(sought))?;
            let by_value = index.with_hash(hash(hasher, sought.value.as_bytes()), &numbers);
            found.extend(by_value.map(|(_, change)| *change).take(count_max + 1));
            found.extend(index.unknown(&numbers).take(count_max + 1));
        }
        found.sort_unstable();
        found.dedup();
        let are_all = found.len() <= count_max;
        found.truncate(count_max);
        let places: Vec<Place> = found.into_iter().filter_map(|change| self.place(change)).collect();
        let up_to = match places.last().filter(|_| !are_all) {
            Some(last) => last.position,
            None => transactions.get(self.parts.get(end.checked_sub(1)?)?.transaction)?.last,
        };
        Some(Places { places, up_to })
    }

    /// The number of the first change of a part, or of what would be the next change.
    fn first_of(&self, part: usize) -> u32 {
        let last = || self.parts.last().map_or(0, |last| last.first + last.changes);
        self.parts.get(part).map_or_else(last, |part| part.first)
    }

    /// The number of the first change behind a position.
    fn number_behind(&self, position: Position) -> u32 {
        let place = self.parts.partition_point(|part| part.last() <= position);
        let passed = self.parts.get(place).and_then(|part| {
            let is_in_it = part.position <= position;
            is_in_it.then(|| u32::try_from(position.index - part.position.index + 1).unwrap_or(u32::MAX))
        });
        self.first_of(place) + passed.unwrap_or(0)
    }

    fn place(&self, change: u32) -> Option<Place> {
        let part = self.parts.partition_point(|part| part.first <= change).checked_sub(1)?;
        let Part { first, transaction, chunk, mut position, .. } = *self.parts.get(part)?;
        let index = change - first;
        position.index += u64::from(index);
        Some(Place { transaction, chunk, index: index as usize, position })
    }
}

impl Part {
    /// The position of its last change.
    fn last(&self) -> Position {
        Position { index: self.position.index + u64::from(self.changes) - 1, ..self.position }
    }
}

impl Place {
    pub(super) fn find(&self, transactions: &Transactions) -> Option<(Arc<Transaction>, Arc<Chunk>)> {
        let transaction = &transactions.get(self.transaction)?.transaction;
        let chunk = transaction.changes.held().get(self.chunk)?;
        Some((Arc::clone(transaction), Arc::clone(chunk)))
    }
}

impl ColumnIndex {
    fn of(
        parts: &[Part],
        relation: &Arc<Relation>,
        column: usize,
        transactions: &Transactions,
        hasher: &ahash::RandomState,
    ) -> ColumnIndex {
        let mut by_hash = Vec::new();
        let mut unknown = Vec::new();
        // Mostly there is one description of a table.
        let mut same = Arc::as_ptr(relation);
        for part in parts {
            let Some(kept) = transactions.get(part.transaction) else { continue };
            let Some(chunk) = kept.transaction.changes.held().get(part.chunk) else { continue };
            for (number, change) in (part.first..).zip(&chunk.changes) {
                if change.relation.oid != relation.oid {
                    continue;
                }
                let is_known = Arc::as_ptr(&change.relation) == same || change.relation == *relation;
                if is_known {
                    same = Arc::as_ptr(&change.relation);
                }
                match change.row.new_value(column).filter(|_| is_known) {
                    Some(NewValue::Text(text)) => by_hash.push((hash(hasher, text), number)),
                    Some(NewValue::Null) => {}
                    None => unknown.push(number),
                }
            }
        }
        by_hash.sort_unstable();
        ColumnIndex { table: relation.oid, column, by_hash: by_hash.into(), unknown: unknown.into() }
    }

    fn is_for(&self, sought: &Sought<'_>) -> bool {
        (self.table, self.column) == (sought.table, sought.column)
    }

    fn bytes(&self) -> usize {
        size_of::<ColumnIndex>() + size_of_val(&*self.by_hash) + size_of_val(&*self.unknown)
    }

    fn with_hash(&self, hash: u32, numbers: &Range<u32>) -> impl Iterator<Item = &(u32, u32)> {
        let first = self.by_hash.partition_point(|entry| *entry < (hash, numbers.start));
        let end = (hash, numbers.end);
        self.by_hash.get(first..).unwrap_or_default().iter().take_while(move |entry| **entry < end)
    }

    fn unknown(&self, numbers: &Range<u32>) -> impl Iterator<Item = u32> {
        let first = self.unknown.partition_point(|number| *number < numbers.start);
        let end = numbers.end;
        self.unknown.get(first..).unwrap_or_default().iter().copied().take_while(move |number| *number < end)
    }
}

fn hash(hasher: &ahash::RandomState, value: &[u8]) -> u32 {
    let [a, b, c, d, ..] = hasher.hash_one(value).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests;
