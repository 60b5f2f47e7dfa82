//! Row images as SQL, so that an expression can be evaluated over them.
//!
//! Rows travel as a JSON array of objects in which every value is a string in its type's text format;
//! `json_populate_recordset` hands strings to the type's input function (PostgreSQL docs, "JSON Functions
//! and Operators"), also for arrays, composites, ranges and domains. Columns of json and jsonb are the
//! exception: there a string would mean a JSON string, so their text goes in as it is.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::value::RawValue;
use walcast_pgoutput::Oid;
use walcast_policy::schema::{Table, TypeKind, Types};
use walcast_policy::{Datum, RowImage};

use crate::error::CatalogError;
use crate::quoting::{identifier, qualified};

/// `json` and `jsonb`; built-in types have fixed oids.
const JSON_TYPES: [Oid; 2] = [Oid(114), Oid(3802)];

/// At most so many rows go into one statement.
const ROWS_MAX: usize = 5_000;

/// One row more goes into a statement only as long as its rows are smaller than this.
const BYTES_MAX: usize = 4 << 20;

/// Rows of a table that carry the same columns: what one SQL text can ask about.
pub(crate) struct RowSet<'a> {
    table: &'a Table,
    types: &'a Types,
    /// Which columns the rows carry.
    present: Vec<bool>,
    /// Which of the rows given these are.
    members: Vec<usize>,
    /// The rows as JSON objects with a comma after each.
    json: String,
    /// Where in `json` the comma of each row is.
    ends: Vec<usize>,
}

/// Sorts rows into sets. A row that can not be put into words is not in any; it comes with the reason.
pub(crate) fn row_sets<'a>(
    table: &'a Table,
    types: &'a Types,
    rows: &[RowImage<'_>],
) -> (Vec<RowSet<'a>>, Vec<(usize, CatalogError)>) {
    let mut sets: Vec<RowSet<'a>> = Vec::new();
    let mut known: HashMap<Vec<bool>, usize> = HashMap::new();
    let mut refused = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let present: Vec<bool> =
            (0..table.columns.len()).map(|column| row.get(column) != Datum::Missing).collect();
        let set = *known.entry(present).or_insert_with_key(|present| {
            sets.push(RowSet::new(table, types, present.clone()));
            sets.len() - 1
        });
        if let Err(error) = sets[set].push(index, row) {
            refused.push((index, error));
        }
    }
    (sets, refused)
}

impl<'a> RowSet<'a> {
    fn new(table: &'a Table, types: &'a Types, present: Vec<bool>) -> Self {
        RowSet { table, types, present, members: Vec::new(), json: String::new(), ends: Vec::new() }
    }

    /// Which of the rows given the rows of this set are.
    pub(crate) fn members(&self) -> &[usize] {
        &self.members
    }

    /// A query that evaluates a boolean expression over rows of the set, which are its only parameter. It
    /// answers with one text of a `1` or a `0` for each row, in their order: nothing between the function that
    /// brings the rows forth and the aggregate reorders them.
    ///
    /// A column that the rows do not carry is not in scope at all, so that an expression which reads
    /// it after all fails instead of taking it for NULL.
    pub(crate) fn question(&self, expression: &str) -> String {
        format!(
            "SELECT pg_catalog.string_agg(CASE WHEN (\n{expression}\n) THEN '1' ELSE '0' END, '') FROM {}",
            self.source()
        )
    }

    /// Some rows of the set as the parameter of the question.
    pub(crate) fn parameter(&self, rows: Range<usize>) -> String {
        format!("[{}]", &self.json[self.span(rows)])
    }

    /// How long the parameter is without its brackets.
    pub(crate) fn bytes(&self, rows: Range<usize>) -> usize {
        self.span(rows).len()
    }

    /// The set in ranges that are small enough for one statement each.
    pub(crate) fn ranges(&self) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut start = 0;
        while start < self.members.len() {
            let begin = self.start(start);
            let fitting = self.ends[start..].partition_point(|end| end - begin < BYTES_MAX);
            let end = start + fitting.clamp(1, ROWS_MAX);
            ranges.push(start..end);
            start = end;
        }
        ranges
    }

    /// Where in the text a row begins.
    fn start(&self, row: usize) -> usize {
        row.checked_sub(1).map_or(0, |before| self.ends[before] + 1)
    }

    /// Where in the text rows are.
    fn span(&self, rows: Range<usize>) -> Range<usize> {
        if rows.is_empty() { 0..0 } else { self.start(rows.start)..self.ends[rows.end - 1] }
    }

    fn source(&self) -> String {
        let alias = identifier(&self.table.name);
        let rows = "$1::text::json";
        let records = format!(
            "pg_catalog.json_populate_recordset(NULL::{}, {rows})",
            qualified(&self.table.schema, &self.table.name)
        );
        let (present, missing): (Vec<usize>, Vec<usize>) =
            (0..self.table.columns.len()).partition(|&column| self.present[column]);
        if missing.is_empty() {
            return format!("{records} AS {alias}");
        }
        let name = |column: usize| identifier(&self.table.columns[column].name);
        if present.is_empty() {
            return format!("(SELECT FROM pg_catalog.json_array_elements({rows})) AS {alias}");
        }
        if missing.iter().any(|&column| self.is_domain(column)) {
            // A domain may refuse NULL, so the missing columns must not come into being at all.
            let columns = listed(&present, |column| {
                format!("{} {}", name(column), self.table.columns[column].sql_type)
            });
            return format!("pg_catalog.json_to_recordset({rows}) AS {alias}({columns})");
        }
        let columns = listed(&present, |column| format!("given.{}", name(column)));
        format!("(SELECT {columns} FROM {records} AS given) AS {alias}")
    }

    fn is_domain(&self, column: usize) -> bool {
        let found = self.types.get(self.table.columns[column].type_oid);
        found.is_none_or(|found| matches!(found.kind, TypeKind::Domain { .. }))
    }

    /// Adds a row; where it can not be added, the set is as it was.
    fn push(&mut self, index: usize, row: &RowImage<'_>) -> Result<(), CatalogError> {
        let object = json_object(self.table, self.types, row)?;
        self.json.push_str(&object);
        self.ends.push(self.json.len());
        self.json.push(',');
        self.members.push(index);
        Ok(())
    }
}

/// A row as a JSON object; missing columns have no key.
pub(crate) fn json_object(table: &Table, types: &Types, row: &RowImage<'_>) -> Result<String, CatalogError> {
    let mut out = String::with_capacity(64 * table.columns.len());
    out.push('{');
    for (index, column) in table.columns.iter().enumerate() {
        let datum = row.get(index);
        if datum == Datum::Missing {
            continue;
        }
        if out.len() > 1 {
            out.push(',');
        }
        push_string(&mut out, &column.name)?;
        out.push(':');
        match datum {
            Datum::Text(text) if is_json(types, column.type_oid) => {
                let checked: &RawValue = serde_json::from_str(text).map_err(|error| {
                    CatalogError::Unexpected(format!("column {} holds no JSON: {error}", column.name))
                })?;
                out.push_str(checked.get());
            }
            Datum::Text(text) => push_string(&mut out, text)?,
            Datum::Null | Datum::Missing => out.push_str("null"),
        }
    }
    out.push('}');
    Ok(out)
}

fn is_json(types: &Types, type_oid: Oid) -> bool {
    let base = types.base(type_oid).map_or(type_oid, |base| base.oid);
    JSON_TYPES.contains(&base)
}

fn listed(columns: &[usize], text: impl Fn(usize) -> String) -> String {
    let texts: Vec<String> = columns.iter().map(|&column| text(column)).collect();
    texts.join(", ")
}

fn push_string(out: &mut String, text: &str) -> Result<(), CatalogError> {
    let quoted = serde_json::to_string(text).map_err(|error| CatalogError::Unexpected(error.to_string()))?;
    out.push_str(&quoted);
    Ok(())
}

#[cfg(test)]
mod tests {
    use walcast_policy::schema::{Collation, Column, Identity, Type};

    use super::*;

    fn table() -> Table {
        let column = |name: &str, number: i16, oid: u32, sql_type: &str| Column {
            name: name.to_owned(),
            number,
            type_oid: Oid(oid),
            type_modifier: -1,
            collation: Collation::Bytes,
            primary_key: number == 1,
            identity: number == 1,
            sql_type: sql_type.to_owned(),
        };
        Table {
            oid: Oid(1),
            schema: "public".to_owned(),
            name: "odd \"name\"".to_owned(),
            columns: vec![
                column("id", 1, 23, "integer"),
                column("it's", 2, 25, "text"),
                column("details", 3, 9001, "public.details"),
            ],
            owner: Oid(10),
            row_security: true,
            force_row_security: false,
            identity: Identity::Default,
            policies: Vec::new(),
        }
    }

    fn types() -> Types {
        let entry = |oid: u32, name: &str, kind: TypeKind| {
            let found = Type { oid: Oid(oid), name: name.to_owned(), schema: "pg_catalog".to_owned(), kind };
            (Oid(oid), found)
        };
        let domain = TypeKind::Domain { base: Oid(3802) };
        Types(
            [
                entry(23, "int4", TypeKind::Base),
                entry(25, "text", TypeKind::Base),
                entry(3802, "jsonb", TypeKind::Base),
                entry(9001, "details", domain),
            ]
            .into_iter()
            .collect(),
        )
    }

    fn text(value: &str) -> Datum<'_> {
        Datum::Text(value)
    }

    /// Hands over the sets of rows, and which rows are in none.
    fn with_sets<T>(rows: &[&[Datum<'_>]], then: impl Fn(&[RowSet<'_>], &[(usize, CatalogError)]) -> T) -> T {
        let (table, types) = (table(), types());
        let rows: Vec<RowImage<'_>> = rows.iter().map(|row| RowImage { values: row.to_vec() }).collect();
        let (sets, refused) = row_sets(&table, &types, &rows);
        then(&sets, &refused)
    }

    #[test]
    fn values_are_strings_but_json_is_json_even_below_a_domain() {
        let row = [text("7"), text("a\"b\n"), text(r#"{"a": "1"}"#)];
        let json = with_sets(&[&row], |sets, _| sets[0].parameter(0..1));
        assert_eq!(json, r#"[{"id":"7","it's":"a\"b\n","details":{"a": "1"}}]"#);
    }

    #[test]
    fn text_that_only_looks_like_json_does_not_get_to_name_other_columns() {
        let good = [text("7"), Datum::Null, Datum::Null];
        let bad = [text("7"), Datum::Null, text(r#"1,"id":"8""#)];
        with_sets(&[&bad, &good], |sets, refused| {
            let [(0, error)] = refused else { panic!("{refused:?}") };
            assert!(error.to_string().contains("column details"), "{error}");
            assert_eq!(sets[0].members(), [1], "the other row does not suffer");
        });
    }

    #[test]
    fn a_column_the_rows_do_not_carry_is_not_in_scope() {
        let row = [text("7"), Datum::Missing, Datum::Null];
        let question = with_sets(&[&row], |sets, _| sets[0].question("id = 7"));
        assert!(question.contains(r#"(SELECT given."id", given."details" FROM"#), "{question}");
        let row = [text("7"), Datum::Null, Datum::Missing];
        let question = with_sets(&[&row], |sets, _| sets[0].question("id = 7"));
        assert!(question.ends_with(r#"AS "odd ""name"""("id" integer, "it's" text)"#), "{question}");
    }

    #[test]
    fn rows_that_carry_the_same_columns_are_together_and_any_of_them_can_be_picked() {
        let whole = |id: &'static str| [text(id), Datum::Null, Datum::Null];
        let key = |id: &'static str| [text(id), Datum::Missing, Datum::Missing];
        with_sets(&[&whole("0"), &key("1"), &whole("2"), &key("3"), &key("4")], |sets, _| {
            assert_eq!((sets.len(), sets[0].members(), sets[1].members()), (2, &[0, 2][..], &[1, 3, 4][..]));
            assert_eq!(sets[1].parameter(0..3), r#"[{"id":"1"},{"id":"3"},{"id":"4"}]"#);
            assert_eq!(sets[1].parameter(1..2), r#"[{"id":"3"}]"#);
            assert_eq!(sets[1].parameter(0..0), "[]");
        });
    }

    #[test]
    fn one_statement_takes_rows_up_to_a_number_and_a_size() {
        let small = [text("1"), Datum::Missing, Datum::Missing];
        let rows: Vec<&[Datum<'_>]> = (0..=2 * ROWS_MAX).map(|_| &small[..]).collect();
        let ranges = with_sets(&rows, |sets, _| sets[0].ranges());
        assert_eq!(ranges, [0..ROWS_MAX, ROWS_MAX..2 * ROWS_MAX, 2 * ROWS_MAX..2 * ROWS_MAX + 1]);
        let long = "x".repeat(BYTES_MAX * 2 / 5);
        let large = [text("1"), text(&long), Datum::Missing];
        let ranges = with_sets(&[&large, &large, &large], |sets, _| sets[0].ranges());
        assert_eq!(ranges, [0..2, 2..3]);
        let huge = "x".repeat(BYTES_MAX + 1);
        let huge = [text("1"), text(&huge), Datum::Missing];
        let ranges = with_sets(&[&huge, &large, &huge], |sets, _| sets[0].ranges());
        assert_eq!(ranges, [0..1, 1..2, 2..3]);
    }
}
