//! Rows of tables as PostgreSQL reads them for a subscriber, all from one snapshot.

use std::sync::Arc;

use walcast_pgoutput::Lsn;

use crate::oracle::OracleError;
use crate::schema::Table;
use crate::transactions::TransactionSnapshot;

/// What [`crate::Oracle::rows`] is asked for.
#[derive(Clone, Debug)]
pub struct RowsRequest {
    /// The PostgreSQL role to read as.
    pub role: Arc<str>,
    /// The payload of its token as JSON text.
    pub claims: Arc<str>,
    /// What to read.
    pub reads: Vec<TableRead>,
    /// Rows of all reads together; more are [`RowsError::TooMany`].
    pub rows_max: usize,
    /// Bytes of all reads together; more are [`RowsError::TooLarge`].
    pub bytes_max: usize,
}

/// One table to read.
#[derive(Clone, Debug)]
pub struct TableRead {
    /// The table.
    pub table: Arc<Table>,
    /// Columns by index into [`Table::columns`]. Those that the publications leave out are not read.
    pub columns: Box<[usize]>,
    /// A boolean SQL expression over the row; rows for which it is not true are not read.
    pub filter: Option<String>,
}

/// What was read.
#[derive(Debug)]
pub struct RowsRead {
    /// For each read its rows.
    pub tables: Vec<TableRows>,
    /// Which transactions the rows know of.
    pub snapshot: TransactionSnapshot,
    /// The commits of all of these lie before this position of the log.
    pub reached: Lsn,
}

/// The rows of one table in the order of its primary key, packed: PostgreSQL's text of every value.
#[derive(Debug, Default)]
pub struct TableRows {
    /// Columns by index into [`Table::columns`].
    columns: Box<[usize]>,
    text: String,
    /// By value, row after row: where it ends, and whether it is one.
    ends: Vec<(u32, bool)>,
    rows: usize,
}

/// The rows could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// There are more than were asked for.
    #[error("there are more than {0} rows")]
    TooMany(usize),
    /// They take more bytes than were asked for.
    #[error("the rows take more than {0} bytes")]
    TooLarge(usize),
    /// PostgreSQL did not read them.
    #[error(transparent)]
    Oracle(#[from] OracleError),
}

impl TableRows {
    /// No rows yet, of these columns by index into [`Table::columns`].
    pub fn new(columns: Box<[usize]>) -> Self {
        TableRows { columns, ..TableRows::default() }
    }

    /// Columns by index into [`Table::columns`].
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Adds a row with one value, or NULL, for each column.
    pub fn push<'a>(&mut self, values: impl IntoIterator<Item = Option<&'a str>>) {
        for value in values {
            self.text.push_str(value.unwrap_or_default());
            // Requests bound the bytes far below that.
            let end = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
            self.ends.push((end, value.is_some()));
        }
        self.rows += 1;
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<(u32, bool)>()
    }

    /// The values of a row by its number.
    pub fn row(&self, number: usize) -> impl Iterator<Item = Option<&str>> {
        let width = self.columns.len();
        let first = number * width;
        let start = |place: usize| place.checked_sub(1).map_or(0, |before| self.ends[before].0);
        (first..first + width).map(move |place| {
            let (end, is_value) = self.ends[place];
            let text = self.text.get(start(place) as usize..end as usize).unwrap_or_default();
            is_value.then_some(text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_put_in() {
        let rows = [[Some("a"), None], [Some(""), Some("é🐘")], [None, None]];
        let mut packed = TableRows::new(Box::new([0, 3]));
        for row in &rows {
            packed.push(row.iter().copied());
        }
        assert_eq!(packed.len(), 3);
        for (number, row) in rows.iter().enumerate() {
            assert_eq!(packed.row(number).collect::<Vec<_>>(), row);
        }
    }
}
