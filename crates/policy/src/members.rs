//! Copies of the tables that policies look things up in.

use crate::row::Datum;
use crate::schema::{Table, Types};

/// The columns of a table that look-ups read, and those that tell its rows apart, in memory.
#[derive(Debug)]
pub struct TableCopy {
    /// The numbers of the columns that are kept (`attnum`).
    columns: Vec<i16>,
    rows: Vec<Vec<Option<Box<str>>>>,
    bytes: usize,
}

impl TableCopy {
    /// An empty copy with these columns, by number, and those of the table's replica identity.
    pub fn new(table: &Table, _types: &Types, wanted: &[i16]) -> TableCopy {
        let kept = |column: &&crate::schema::Column| column.identity || wanted.contains(&column.number);
        let columns = table.columns.iter().filter(kept).map(|column| column.number).collect();
        TableCopy { columns, rows: Vec::new(), bytes: 0 }
    }

    /// The numbers of the columns that are kept (`attnum`), in the order of [`TableCopy::insert`].
    pub fn columns(&self) -> &[i16] {
        &self.columns
    }

    /// Adds a row: one value for each of [`TableCopy::columns`], in PostgreSQL's text format.
    pub fn insert(&mut self, values: &[Datum<'_>]) {
        let owned = |value: &Datum<'_>| match value {
            Datum::Text(text) => Some(Box::from(*text)),
            Datum::Null | Datum::Missing => None,
        };
        let row: Vec<Option<Box<str>>> = values.iter().map(owned).collect();
        self.bytes += row.iter().flatten().map(|text| text.len() + 16).sum::<usize>() + 24;
        self.rows.push(row);
    }

    /// What it takes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
