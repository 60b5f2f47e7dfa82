//! A row that somebody wrote down as JSON.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::value::RawValue;
use walcast_policy::schema::Table;
use walcast_policy::{Datum, RowImage};

/// One text, or NULL, for each column of the table.
pub(super) struct WrittenRow(Vec<Option<String>>);

impl WrittenRow {
    /// Strings are what PostgreSQL reads as the column's type; numbers and booleans are their text; objects and
    /// arrays are JSON text, for columns of json and jsonb. Columns that are left out are NULL.
    pub(super) fn parse(json: &str, table: &Table) -> Result<Self> {
        let mut given: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).context("--row must be a JSON object, column to value")?;
        let values = table
            .columns
            .iter()
            .map(|column| match given.remove(&column.name) {
                Some(value) => text(value),
                None => Ok(None),
            })
            .collect::<Result<_>>()?;
        if let Some(unknown) = given.keys().next() {
            let known: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
            bail!("--row names the column {unknown}, but {} has {}", table.name, known.join(", "));
        }
        Ok(WrittenRow(values))
    }

    /// Values as PostgreSQL wrote them.
    pub(super) fn from_values(values: Vec<Option<String>>) -> Self {
        WrittenRow(values)
    }

    /// The row as an image; what is not `logged` is missing from it.
    pub(super) fn image(&self, logged: Option<&[bool]>) -> RowImage<'_> {
        let carried = |index: usize| logged.is_none_or(|logged| logged.get(index).copied().unwrap_or(false));
        let values = self.0.iter().enumerate().map(|(index, value)| match value.as_deref() {
            _ if !carried(index) => Datum::Missing,
            None => Datum::Null,
            Some(text) => Datum::Text(text),
        });
        RowImage { values: values.collect() }
    }
}

fn text(value: &RawValue) -> Result<Option<String>> {
    let json = value.get();
    Ok(match json.as_bytes().first() {
        Some(b'n') => None,
        Some(b'"') => Some(serde_json::from_str(json)?),
        // Numbers keep all their digits, and JSON stays as it was written.
        _ => Some(json.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_the_text_that_postgres_reads() {
        let of = |json: &str| text(serde_json::from_str(json).unwrap()).unwrap();
        assert_eq!(of("null"), None);
        assert_eq!(of(r#""{a,\"b\"}""#).as_deref(), Some(r#"{a,"b"}"#));
        assert_eq!(of("12345678901234567890.50").as_deref(), Some("12345678901234567890.50"));
        assert_eq!(of("true").as_deref(), Some("true"));
        assert_eq!(of(r#"{"a": [1, 2]}"#).as_deref(), Some(r#"{"a": [1, 2]}"#));
    }
}
