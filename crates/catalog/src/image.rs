//! A row image as SQL, so that an expression can be evaluated over it.
//!
//! The row travels as one JSON object in which every value is a string in its type's text format;
//! `json_populate_record` hands strings to the type's input function (PostgreSQL docs, "JSON Functions
//! and Operators"), also for arrays, composites, ranges and domains. Columns of json and jsonb are the
//! exception: there a string would mean a JSON string, so their text goes in as it is.

use serde_json::value::RawValue;
use walcast_pgoutput::Oid;
use walcast_policy::schema::{Table, TypeKind, Types};
use walcast_policy::{Datum, RowImage};

use crate::error::CatalogError;
use crate::quoting::{identifier, qualified};

/// `json` and `jsonb`; built-in types have fixed oids.
const JSON_TYPES: [Oid; 2] = [Oid(114), Oid(3802)];

/// A row of a table with the types of its columns.
#[derive(Clone, Copy)]
pub(crate) struct Image<'a> {
    pub(crate) table: &'a Table,
    pub(crate) row: &'a RowImage<'a>,
    pub(crate) types: &'a Types,
}

impl Image<'_> {
    /// A query that evaluates a boolean expression over the image, which is its only parameter.
    ///
    /// A column that the image does not carry is not in scope at all, so that an expression which reads
    /// it after all fails instead of taking it for NULL.
    pub(crate) fn question(&self, expression: &str) -> String {
        format!("SELECT coalesce((\n{expression}\n), false) FROM {}", self.source())
    }

    fn source(&self) -> String {
        let alias = identifier(&self.table.name);
        let record = format!(
            "pg_catalog.json_populate_record(NULL::{}, $1::text::json)",
            qualified(&self.table.schema, &self.table.name)
        );
        let (present, missing): (Vec<usize>, Vec<usize>) =
            (0..self.table.columns.len()).partition(|&column| self.row.get(column) != Datum::Missing);
        if missing.is_empty() {
            return format!("{record} AS {alias}");
        }
        let name = |column: usize| identifier(&self.table.columns[column].name);
        if !present.is_empty() && missing.iter().any(|&column| self.is_domain(column)) {
            // A domain may refuse NULL, so the missing columns must not come into being at all.
            let columns = listed(&present, |column| {
                format!("{} {}", name(column), self.table.columns[column].sql_type)
            });
            return format!("pg_catalog.json_to_record($1::text::json) AS {alias}({columns})");
        }
        let columns = listed(&present, |column| format!("given.{}", name(column)));
        let given = if present.is_empty() {
            "(SELECT $1::text) AS given".to_owned()
        } else {
            format!("{record} AS given")
        };
        format!("(SELECT {columns} FROM {given}) AS {alias}")
    }

    fn is_domain(&self, column: usize) -> bool {
        let found = self.types.get(self.table.columns[column].type_oid);
        found.is_none_or(|found| matches!(found.kind, TypeKind::Domain { .. }))
    }

    /// The image as a JSON object; missing columns have no key.
    pub(crate) fn json(&self) -> Result<String, CatalogError> {
        let mut out = String::with_capacity(64 * self.table.columns.len());
        out.push('{');
        for (index, column) in self.table.columns.iter().enumerate() {
            let datum = self.row.get(index);
            if datum == Datum::Missing {
                continue;
            }
            if out.len() > 1 {
                out.push(',');
            }
            push_string(&mut out, &column.name)?;
            out.push(':');
            match datum {
                Datum::Text(text) if self.is_json(column.type_oid) => {
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

    fn is_json(&self, type_oid: Oid) -> bool {
        let base = self.types.base(type_oid).map_or(type_oid, |base| base.oid);
        JSON_TYPES.contains(&base)
    }
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

    fn with_image<T>(values: &[Datum<'_>], then: impl Fn(Image<'_>) -> T) -> T {
        let row = RowImage { values: values.to_vec() };
        let (table, types) = (table(), types());
        then(Image { table: &table, row: &row, types: &types })
    }

    #[test]
    fn values_are_strings_but_json_is_json_even_below_a_domain() {
        let values = [Datum::Text("7"), Datum::Text("a\"b\n"), Datum::Text(r#"{"a": "1"}"#)];
        let json = with_image(&values, |image| image.json()).unwrap();
        assert_eq!(json, r#"{"id":"7","it's":"a\"b\n","details":{"a": "1"}}"#);
    }

    #[test]
    fn text_that_only_looks_like_json_does_not_get_to_name_other_columns() {
        let values = [Datum::Text("7"), Datum::Null, Datum::Text(r#"1,"id":"8""#)];
        let error = with_image(&values, |image| image.json()).unwrap_err();
        assert!(error.to_string().contains("column details"), "{error}");
    }

    #[test]
    fn a_column_the_image_does_not_carry_is_not_in_scope() {
        let values = [Datum::Text("7"), Datum::Missing, Datum::Null];
        let question = with_image(&values, |image| image.question("id = 7"));
        assert!(question.contains(r#"(SELECT given."id", given."details" FROM"#), "{question}");
        let values = [Datum::Text("7"), Datum::Null, Datum::Missing];
        let question = with_image(&values, |image| image.question("id = 7"));
        assert!(question.ends_with(r#"AS "odd ""name"""("id" integer, "it's" text)"#), "{question}");
    }
}
