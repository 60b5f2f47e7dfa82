//! The copy of one table: the columns that look-ups read, packed, and indexes over them.

use smallvec::SmallVec;

use super::arena::{Address, Arena};
use super::cell::{CellBytes, CellType, RowBytes, write_row};
use super::index::Index;
use crate::row::Datum;
use crate::schema::{Identity, Table, Types};
use crate::value::{Kind, Value};

/// The columns of a table that look-ups read, and those that tell its rows apart, in memory.
#[derive(Debug)]
pub struct TableCopy {
    /// `attnum` of each column that is kept.
    columns: Box<[i16]>,
    types: Box<[CellType]>,
    /// Whether no two rows have the same values in the columns of the first index.
    is_unique: bool,
    arena: Arena,
    /// By row: where it lies. A row that is gone has no address, and its number is given away again.
    addresses: Vec<Address>,
    vacant: Vec<u32>,
    /// The first one is over the columns of the replica identity.
    indexes: Vec<Index>,
    /// What went wrong, if anything did: then nothing can be looked up any more.
    damage: Option<String>,
}

/// A row of a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopiedRow<'a> {
    copy: &'a TableCopy,
    row: u32,
}

impl TableCopy {
    /// An empty copy with these columns, by number, and those of the table's replica identity.
    pub fn new(table: &Table, types: &Types, wanted: &[i16]) -> TableCopy {
        let kept: Vec<_> = table
            .columns
            .iter()
            .filter(|column| {
                // Under FULL every column is part of the identity; rows are told apart by what is wanted.
                let identifies = column.identity && table.identity != Identity::Full;
                identifies || wanted.contains(&column.number)
            })
            .collect();
        let identity: Vec<usize> = (0..kept.len())
            .filter(|&place| kept[place].identity || table.identity == Identity::Full)
            .collect();
        TableCopy {
            columns: kept.iter().map(|column| column.number).collect(),
            types: kept.iter().map(|column| CellType { kind: Kind::of(types, column.type_oid) }).collect(),
            is_unique: table.identity != Identity::Full,
            arena: Arena::default(),
            addresses: Vec::new(),
            vacant: Vec::new(),
            indexes: vec![Index::new(&identity)],
            damage: None,
        }
    }

    /// The numbers of the columns that are kept (`attnum`), in the order of [`TableCopy::insert`].
    pub fn columns(&self) -> &[i16] {
        &self.columns
    }

    /// Adds a row: one value for each of [`TableCopy::columns`], in PostgreSQL's text format.
    pub fn insert(&mut self, values: &[Datum<'_>]) {
        if let Some(cells) = self.cells(values, None) {
            self.insert_cells(&cells);
        }
    }

    /// The memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let indexes: usize = self.indexes.iter().map(Index::bytes).sum();
        self.arena.bytes()
            + indexes
            + self.addresses.capacity() * size_of::<Address>()
            + self.vacant.capacity() * size_of::<u32>()
    }

    /// The bytes of the rows alone.
    pub fn row_bytes(&self) -> usize {
        self.arena.used_bytes()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.addresses.len() - self.vacant.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives back memory that growing has taken in advance.
    pub fn shrink(&mut self) {
        self.addresses.shrink_to_fit();
        self.indexes.iter_mut().for_each(Index::shrink);
    }

    /// What went wrong, if anything did: the copy and the log do not fit together.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// An empty copy of the same columns with the same indexes.
    pub(super) fn emptied(&self) -> TableCopy {
        TableCopy {
            columns: self.columns.clone(),
            types: self.types.clone(),
            is_unique: false,
            arena: Arena::default(),
            addresses: Vec::new(),
            vacant: Vec::new(),
            indexes: self.indexes.iter().map(|index| Index::new(&index.columns)).collect(),
            damage: None,
        }
    }

    /// The place of a column among those kept.
    pub(super) fn place(&self, number: i16) -> Option<usize> {
        self.columns.iter().position(|&kept| kept == number)
    }

    /// Makes an index over these columns, by place, unless there is one or their equality is not that of bytes.
    pub(super) fn add_index(&mut self, places: &[usize]) {
        let exact = places.iter().all(|&place| self.types[place].is_exact());
        if !exact || self.index(places).is_some() {
            return;
        }
        let mut index = Index::new(places);
        let (types, arena, addresses) = (&self.types, &self.arena, &self.addresses);
        let rows = |row: u32| RowBytes { types, bytes: arena.get(addresses[row as usize]) };
        for (row, address) in (0..).zip(addresses) {
            if *address != Address::NONE {
                index.insert(row, rows);
            }
        }
        self.indexes.push(index);
    }

    fn index(&self, places: &[usize]) -> Option<&Index> {
        self.indexes.iter().find(|index| *index.columns == *places)
    }

    /// The bytes of a row's values. What the log left out, because it has not changed, is taken from the row as
    /// it was.
    pub(super) fn cells(
        &mut self,
        values: &[Datum<'_>],
        before: Option<u32>,
    ) -> Option<Vec<Option<CellBytes>>> {
        let mut cells = Vec::with_capacity(self.types.len());
        for (place, of_type) in self.types.iter().enumerate() {
            let cell = match values.get(place).copied().unwrap_or(Datum::Missing) {
                Datum::Null => Some(None),
                Datum::Text(text) => of_type.of_text(text).map(Some),
                Datum::Missing => before.map(|row| self.bytes_of(row).cell(place).map(CellBytes::from_slice)),
            };
            let Some(cell) = cell else {
                self.damage =
                    Some(format!("the log has no readable value of column number {}", self.columns[place]));
                return None;
            };
            cells.push(cell);
        }
        Some(cells)
    }

    /// Adds a row; tells its number.
    pub(super) fn insert_cells(&mut self, cells: &[Option<CellBytes>]) -> Option<u32> {
        if self.is_unique && self.identified(cells).is_some() {
            self.damage = Some("a row is there twice".to_owned());
            return None;
        }
        let mut bytes = Vec::with_capacity(64);
        write_row(&self.types, cells, &mut bytes);
        self.insert_bytes(&bytes)
    }

    /// Adds a row as it lies in another copy of the same columns.
    pub(super) fn insert_bytes(&mut self, bytes: &[u8]) -> Option<u32> {
        let Some(address) = self.arena.insert(bytes) else {
            self.damage = Some("a copy has no room for more than 4 GiB".to_owned());
            return None;
        };
        let row = if let Some(row) = self.vacant.pop() {
            row
        } else {
            self.addresses.push(Address::NONE);
            u32::try_from(self.addresses.len() - 1).ok()?
        };
        self.addresses[row as usize] = address;
        let (types, arena, addresses) = (&self.types, &self.arena, &self.addresses);
        for index in &mut self.indexes {
            index.insert(row, |row| RowBytes { types, bytes: arena.get(addresses[row as usize]) });
        }
        Some(row)
    }

    /// The row that the values in the columns of the replica identity tell from the others.
    pub(super) fn identified(&self, cells: &[Option<CellBytes>]) -> Option<u32> {
        let identity = self.indexes.first()?;
        let values: Vec<_> = identity.columns.iter().map(|&place| cells.get(place)?.as_deref()).collect();
        identity.first(&values, |row| self.bytes_of(row))
    }

    /// The row that an old image of the log is of.
    pub(super) fn identified_by(&self, values: &[Datum<'_>]) -> Option<u32> {
        let of = |place: usize| match values.get(place) {
            Some(Datum::Text(text)) => self.types[place].of_text(text),
            _ => None,
        };
        let cells: Vec<_> = (0..self.types.len()).map(of).collect();
        self.identified(&cells)
    }

    /// Takes a row out and returns its bytes.
    pub(super) fn remove(&mut self, row: u32) -> Vec<u8> {
        let address = std::mem::replace(&mut self.addresses[row as usize], Address::NONE);
        let bytes = RowBytes { types: &self.types, bytes: self.arena.get(address) };
        let length = bytes.len();
        let owned = bytes.bytes[..length].to_vec();
        let bytes = RowBytes { types: &self.types, bytes: &owned };
        for index in &mut self.indexes {
            index.remove(row, bytes);
        }
        self.arena.free(address, length);
        self.vacant.push(row);
        if self.arena.is_sparse() {
            self.compact();
        }
        owned
    }

    fn compact(&mut self) {
        let mut arena = Arena::default();
        for address in self.addresses.iter_mut().filter(|address| **address != Address::NONE) {
            let row = RowBytes { types: &self.types, bytes: self.arena.get(*address) };
            // It had room for these rows and more.
            let Some(moved) = arena.insert(&row.bytes[..row.len()]) else { return };
            *address = moved;
        }
        self.arena = arena;
    }

    /// Every row.
    pub(super) fn rows(&self) -> impl Iterator<Item = CopiedRow<'_>> {
        let numbered = (0..).zip(&self.addresses);
        numbered
            .filter(|(_, address)| **address != Address::NONE)
            .map(|(row, _)| CopiedRow { copy: self, row })
    }

    /// The rows that have these values in these columns, by place; what can be told apart by its bytes only.
    pub(super) fn rows_with(&self, places: &[usize], values: &[Value<'_>]) -> RowsWith<'_> {
        let cells: Option<SmallVec<[CellBytes; 3]>> =
            places.iter().zip(values).map(|(&place, value)| self.types[place].of_value(value)).collect();
        let cursor = match (cells, self.index(places)) {
            (None, _) => Cursor::End,
            (Some(cells), Some(index)) => {
                let wanted: SmallVec<[_; 3]> = cells.iter().map(|cell| Some(&**cell)).collect();
                let first = index.first(&wanted, |row| self.bytes_of(row));
                Cursor::Chain { index, next: first }
            }
            (Some(cells), None) => {
                Cursor::Scan { next: 0, wanted: places.iter().copied().zip(cells).collect() }
            }
        };
        RowsWith { copy: self, cursor }
    }

    fn bytes_of(&self, row: u32) -> RowBytes<'_> {
        RowBytes { types: &self.types, bytes: self.arena.get(self.addresses[row as usize]) }
    }
}

/// Rows with certain values; see [`TableCopy::rows_with`].
pub(super) struct RowsWith<'a> {
    copy: &'a TableCopy,
    cursor: Cursor<'a>,
}

enum Cursor<'a> {
    End,
    /// An index has them all in a chain.
    Chain {
        index: &'a Index,
        next: Option<u32>,
    },
    /// No index: every row is compared.
    Scan {
        next: u32,
        wanted: Vec<(usize, CellBytes)>,
    },
}

impl<'a> Iterator for RowsWith<'a> {
    type Item = CopiedRow<'a>;

    fn next(&mut self) -> Option<CopiedRow<'a>> {
        let copy = self.copy;
        let row = match &mut self.cursor {
            Cursor::End => return None,
            Cursor::Chain { index, next } => {
                let row = (*next)?;
                *next = index.after(row);
                row
            }
            Cursor::Scan { next, wanted } => loop {
                let row = *next;
                let address = copy.addresses.get(row as usize)?;
                *next += 1;
                let has =
                    |(place, cell): &(usize, CellBytes)| copy.bytes_of(row).cell(*place) == Some(&**cell);
                if *address != Address::NONE && wanted.iter().all(has) {
                    break row;
                }
            },
        };
        Some(CopiedRow { copy, row })
    }
}

impl<'a> CopiedRow<'a> {
    /// Its number in its copy.
    pub(super) fn number(self) -> u32 {
        self.row
    }

    /// The value in a column, by number. The outer `None`: the copy can not tell.
    #[expect(clippy::option_option, reason = "NULL is an answer")]
    pub(crate) fn value(self, column: i16) -> Option<Option<Value<'a>>> {
        let place = self.copy.place(column)?;
        match self.copy.bytes_of(self.row).cell(place) {
            None => Some(None),
            Some(bytes) => self.copy.types[place].value(bytes).map(Some),
        }
    }

    /// Whether the value in a column is NULL, also where it is of a type that can not be read.
    pub(crate) fn is_null(self, column: i16) -> Option<bool> {
        let place = self.copy.place(column)?;
        Some(self.copy.bytes_of(self.row).cell(place).is_none())
    }

    /// The bytes of the value in a column, as values are compared by.
    pub(crate) fn bytes(self, column: i16) -> Option<&'a [u8]> {
        let place = self.copy.place(column)?;
        self.copy.bytes_of(self.row).cell(place)
    }
}
