//! What a name stands for: a column of a sub-select's table, of the row that is judged, or a parameter.

use sqlparser::ast::Ident;

use super::{Compiler, Fault, Names, here};
use crate::expression::Expression;
use crate::resolve::Typed;
use crate::schema::{LookupTable, Table, TypeKind};
use crate::value::Kind;

/// The tables of one sub-select.
pub(super) struct Level<'a> {
    pub(super) tables: Vec<Scoped<'a>>,
    /// Columns that joins with USING have made one of.
    pub(super) merged: Vec<String>,
}

/// A table of a sub-select.
#[derive(Clone)]
pub(super) struct Scoped<'a> {
    pub(super) id: usize,
    pub(super) table: &'a Table,
    /// The name that it goes by.
    pub(super) alias: String,
    /// Whether that is its own, so that its schema may stand before it.
    pub(super) own_name: bool,
}

/// A name as PostgreSQL understands it: in lower case unless it is quoted.
pub(super) fn identifier(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

impl Scoped<'_> {
    fn goes_by(&self, qualifiers: &[String]) -> bool {
        match qualifiers {
            [] => true,
            [one] => *one == self.alias,
            [schema, one] => self.own_name && *schema == self.table.schema && *one == self.alias,
            _ => false,
        }
    }
}

impl<'a> Compiler<'a> {
    pub(super) fn column(&self, qualifiers: &[Ident], name: &Ident) -> Result<Typed, Fault> {
        let qualifiers: Vec<String> = qualifiers.iter().map(identifier).collect();
        let name = identifier(name);
        for level in self.levels.iter().rev() {
            let mut found = level
                .tables
                .iter()
                .filter(|scoped| scoped.goes_by(&qualifiers))
                .filter_map(|scoped| Some((scoped, scoped.table.column_index(&name)?)));
            let Some((scoped, index)) = found.next() else { continue };
            if found.next().is_some() && !level.merged.contains(&name) {
                return here("a name that several columns have");
            }
            return self.typed_column(scoped.table, index, |column, kind| Expression::Member {
                source: scoped.id,
                column,
                kind,
            });
        }
        if let Some(table) = self.surroundings.table {
            let own = match qualifiers.as_slice() {
                [] => true,
                [one] => *one == table.name,
                [schema, one] => *schema == table.schema && *one == table.name,
                _ => false,
            };
            if let Some(index) = table.column_index(&name).filter(|_| own) {
                return self.typed_column(table, index, |_, kind| Expression::column(index, kind));
            }
        }
        self.named_parameter(&qualifiers, &name)
    }

    fn typed_column(
        &self,
        table: &Table,
        index: usize,
        expression: impl FnOnce(i16, Kind) -> Expression,
    ) -> Result<Typed, Fault> {
        let column = &table.columns[index];
        let types = &self.surroundings.snapshot.types;
        // NULL means something else for rows.
        let base = types.base(column.type_oid);
        if base.is_none_or(|base| matches!(base.kind, TypeKind::Composite { .. })) {
            return Err(Fault::Here(format!("the type {}", column.sql_type)));
        }
        let kind = Kind::of(types, column.type_oid);
        let mut typed = Typed::new(expression(column.number, kind.clone()), kind);
        typed.collation = Some(column.collation);
        Ok(typed)
    }

    fn named_parameter(&self, qualifiers: &[String], name: &str) -> Result<Typed, Fault> {
        let found = self.parameters.iter().find(|parameter| {
            parameter.name == name
                && match qualifiers {
                    [] => true,
                    [function] => *function == parameter.function,
                    _ => false,
                }
        });
        found.map_or_else(|| here("a name that is no column here"), |parameter| Ok(parameter.value.clone()))
    }

    /// `$1`.
    pub(super) fn numbered_parameter(&self, name: &str) -> Result<Typed, Fault> {
        let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let found = number.and_then(|number| self.parameters.get(number.checked_sub(1)?));
        found.map_or_else(|| here("a parameter that there is not"), |parameter| Ok(parameter.value.clone()))
    }

    /// The table of this name.
    pub(super) fn table_named(&self, parts: &[Ident]) -> Result<&'a LookupTable, String> {
        let parts: Vec<String> = parts.iter().map(identifier).collect();
        let lookups = &self.surroundings.snapshot.lookups;
        let find = |schema: &str, name: &str| {
            let fits = |found: &&std::sync::Arc<LookupTable>| {
                found.table.schema == schema && found.table.name == name
            };
            lookups.values().find(fits).map(|found| &**found)
        };
        let found = match parts.as_slice() {
            [schema, name] => find(schema, name),
            [name] => self.search_path().find_map(|schema| find(schema, name)),
            _ => None,
        };
        found.ok_or_else(|| format!("a look-up in {}", parts.join(".")))
    }

    /// The function of this name that is found without its schema, as `schema.name`. Where there are several in the
    /// path, PostgreSQL takes whichever fits best, which is not told here.
    pub(super) fn function_in_path(&self, name: &Ident) -> Option<String> {
        let name = identifier(name);
        let functions = &self.surroundings.snapshot.functions;
        let qualified = self.search_path().map(|schema| format!("{schema}.{name}"));
        let mut found = qualified.filter(|qualified| functions.contains_key(qualified));
        let first = found.next();
        first.filter(|first| found.all(|other| other == *first))
    }

    /// The schemas in which names without one are found: those that the role may use. What lies behind a schema of
    /// the role's own name is not known, since nobody has looked into that.
    fn search_path(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let path = match self.surroundings.names {
            Names::Qualified => &[],
            Names::SearchPath(path) => path,
        };
        let role = self.surroundings.role;
        let known = path.iter().take_while(|schema| *schema != "$user" || !role.schemas.contains(&role.name));
        known.map(String::as_str).filter(|schema| role.schemas.contains(*schema))
    }
}
