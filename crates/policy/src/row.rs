//! One row image, aligned to the catalog's columns.

/// The value of one column in a row image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// SQL NULL.
    Null,
    /// The value in PostgreSQL's text format.
    Text(&'a str),
    /// The log does not carry it: an unchanged value in TOAST, or outside the replica identity.
    Missing,
}

/// The values of a row by index into [`crate::schema::Table::columns`].
#[derive(Clone, Debug, Default)]
pub struct RowImage<'a> {
    /// One value per column of the table.
    pub values: Vec<Datum<'a>>,
}

impl<'a> RowImage<'a> {
    /// The value of a column; [`Datum::Missing`] beyond the end.
    pub fn get(&self, column: usize) -> Datum<'a> {
        self.values.get(column).copied().unwrap_or(Datum::Missing)
    }
}
