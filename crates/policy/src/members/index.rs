//! Rows by the values of some of their columns.

use ahash::RandomState;
use hashbrown::HashTable;

use super::cell::RowBytes;

/// No row.
const NONE: u32 = u32::MAX;

/// Rows by the values in `columns`. Rows with the same values are chained; where no two have, there are no
/// chains and they take no memory.
#[derive(Debug)]
pub(super) struct Index {
    /// The columns by their place in the copy, ascending.
    pub(super) columns: Box<[usize]>,
    /// The first row of each chain.
    heads: HashTable<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    hasher: RandomState,
}

impl Index {
    pub(super) fn new(columns: &[usize]) -> Self {
        Index {
            columns: columns.into(),
            heads: HashTable::new(),
            next: Vec::new(),
            previous: Vec::new(),
            hasher: RandomState::new(),
        }
    }

    /// Adds a row; `rows` gives the bytes of any row in the index, this one included.
    pub(super) fn insert<'a>(&mut self, row: u32, rows: impl Fn(u32) -> RowBytes<'a>) {
        let (columns, hasher) = (&self.columns, &self.hasher);
        let hash = |row: u32| hash_cells(hasher, columns.iter().map(|&column| rows(row).cell(column)));
        let own = rows(row);
        let same = |other: &u32| {
            let other = rows(*other);
            columns.iter().all(|&column| own.cell(column) == other.cell(column))
        };
        let own_hash = hash(row);
        match self.heads.find_mut(own_hash, same) {
            Some(head) => {
                let second = std::mem::replace(head, row);
                self.link(row, second);
            }
            None => {
                self.heads.insert_unique(own_hash, row, |&other| hash(other));
            }
        }
    }

    /// Takes out a row that is in the index.
    pub(super) fn remove(&mut self, row: u32, bytes: RowBytes<'_>) {
        let (next, previous) = (self.next_of(row), self.previous_of(row));
        if previous == NONE {
            let cells = self.columns.iter().map(|&column| bytes.cell(column));
            let hash = hash_cells(&self.hasher, cells);
            if let Ok(mut found) = self.heads.find_entry(hash, |&head| head == row) {
                if next == NONE {
                    found.remove();
                } else {
                    *found.get_mut() = next;
                }
            }
        } else {
            self.next[previous as usize] = next;
        }
        if next != NONE {
            self.previous[next as usize] = previous;
        }
        for links in [&mut self.next, &mut self.previous] {
            if let Some(link) = links.get_mut(row as usize) {
                *link = NONE;
            }
        }
    }

    /// The first of the rows with these values; the others follow by [`Index::after`].
    pub(super) fn first<'a>(
        &self,
        values: &[Option<&[u8]>],
        rows: impl Fn(u32) -> RowBytes<'a>,
    ) -> Option<u32> {
        let hash = hash_cells(&self.hasher, values.iter().copied());
        let same = |row: &u32| {
            let row = rows(*row);
            self.columns.iter().zip(values).all(|(&column, value)| row.cell(column) == *value)
        };
        self.heads.find(hash, same).copied()
    }

    /// The row after this one with the same values.
    pub(super) fn after(&self, row: u32) -> Option<u32> {
        Some(self.next_of(row)).filter(|&row| row != NONE)
    }

    /// The memory it takes.
    pub(super) fn bytes(&self) -> usize {
        // A slot has a byte of control next to it.
        self.heads.num_buckets() * (size_of::<u32>() + 1)
            + (self.next.capacity() + self.previous.capacity()) * size_of::<u32>()
    }

    /// Gives back memory that growing has taken in advance.
    pub(super) fn shrink(&mut self) {
        self.next.shrink_to_fit();
        self.previous.shrink_to_fit();
    }

    fn next_of(&self, row: u32) -> u32 {
        self.next.get(row as usize).copied().unwrap_or(NONE)
    }

    fn previous_of(&self, row: u32) -> u32 {
        self.previous.get(row as usize).copied().unwrap_or(NONE)
    }

    fn link(&mut self, first: u32, second: u32) {
        let length = first.max(second) as usize + 1;
        if self.next.len() < length {
            self.next.resize(length, NONE);
            self.previous.resize(length, NONE);
        }
        self.next[first as usize] = second;
        self.previous[second as usize] = first;
    }
}

fn hash_cells<'a>(hasher: &RandomState, cells: impl Iterator<Item = Option<&'a [u8]>>) -> u64 {
    use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
    let mut state = hasher.build_hasher();
    for cell in cells {
        cell.hash(&mut state);
    }
    state.finish()
}
