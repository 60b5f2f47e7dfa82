//! Rows as the log carries them: column values in text, cut out of the message without copying.

use bytes::Bytes;

/// One column of a row image (PostgreSQL docs, "Logical Replication Message Formats", `TupleData`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the UPDATE did not touch; the log does not carry it.
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

/// A row image: shares the bytes of the message that it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
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
            // A row above 4 GiB does not fit PostgreSQL's own message length either.
            (start as u32, data.len() as u32)
        };
        let slots = cells
            .into_iter()
            .map(|cell| match cell {
                Cell::Null => Slot::Null,
                Cell::Unchanged => Slot::Unchanged,
                Cell::Text(value) => {
                    let (start, end) = append(value);
                    Slot::Text { start, end }
                }
                Cell::Binary(value) => {
                    let (start, end) = append(value);
                    Slot::Binary { start, end }
                }
            })
            .collect();
        Tuple {
            data: data.into(),
            slots,
        }
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
