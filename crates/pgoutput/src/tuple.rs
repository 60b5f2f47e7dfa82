//! Rows as the log carries them: column values in text, cut out of the message without copying.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

/// One column of a row image (PostgreSQL docs, "Logical Replication Message Formats", `TupleData`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// A value stored out of line (TOAST) that the UPDATE did not touch; the log does not carry it.
    Unchanged,
    /// The value as its type's output function prints it.
    Text(&'a [u8]),
    /// The value as its type's send function gives it.
    Binary(&'a [u8]),
}

/// Where a column's value stands in [`Tuple::data`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Null,
    Unchanged,
    Text { start: u32, end: u32 },
    Binary { start: u32, end: u32 },
}

impl Slot {
    /// A value in text. Offsets fit: the decoder refuses messages of 4 GiB and more.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn text(value: Range<usize>) -> Self {
        Slot::Text { start: value.start as u32, end: value.end as u32 }
    }

    /// A value in binary, likewise.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn binary(value: Range<usize>) -> Self {
        Slot::Binary { start: value.start as u32, end: value.end as u32 }
    }
}

/// A row image: shares the bytes of the message that it came in. Equal when the cells are.
#[derive(Clone)]
pub struct Tuple {
    pub(crate) data: Bytes,
    pub(crate) slots: Box<[Slot]>,
}

impl Tuple {
    /// A row of the given cells, in a buffer of its own; for tests and generators.
    pub fn from_cells<'a>(cells: impl IntoIterator<Item = Cell<'a>>) -> Self {
        let mut data = Vec::new();
        let mut append = |value: &[u8]| {
            let start = data.len();
            data.extend_from_slice(value);
            start..data.len()
        };
        let slots = cells
            .into_iter()
            .map(|cell| match cell {
                Cell::Null => Slot::Null,
                Cell::Unchanged => Slot::Unchanged,
                // A row above 4 GiB does not fit PostgreSQL's own message length either.
                Cell::Text(value) => Slot::text(append(value)),
                Cell::Binary(value) => Slot::binary(append(value)),
            })
            .collect();
        Tuple { data: data.into(), slots }
    }

    /// How many columns the row has.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the row has no columns, as a table without columns gives.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The column at `index`, counted from 0 in the order of the relation; `None` beyond the end.
    pub fn cell(&self, index: usize) -> Option<Cell<'_>> {
        self.slots.get(index).map(|&slot| self.resolve(slot))
    }

    /// The columns in the order of the relation.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = Cell<'_>> {
        self.slots.iter().map(|&slot| self.resolve(slot))
    }

    /// Bytes of all values together.
    pub fn byte_len(&self) -> usize {
        self.cells()
            .map(|cell| match cell {
                Cell::Text(value) | Cell::Binary(value) => value.len(),
                Cell::Null | Cell::Unchanged => 0,
            })
            .sum()
    }

    fn resolve(&self, slot: Slot) -> Cell<'_> {
        match slot {
            Slot::Null => Cell::Null,
            Slot::Unchanged => Cell::Unchanged,
            Slot::Text { start, end } => Cell::Text(&self.data[start as usize..end as usize]),
            Slot::Binary { start, end } => Cell::Binary(&self.data[start as usize..end as usize]),
        }
    }
}

impl PartialEq for Tuple {
    fn eq(&self, other: &Self) -> bool {
        self.cells().eq(other.cells())
    }
}

impl Eq for Tuple {}

impl fmt::Debug for Tuple {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.cells()).finish()
    }
}
