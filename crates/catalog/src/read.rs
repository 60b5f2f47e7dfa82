//! Tables, columns, types, policies, functions, roles and privileges, in one consistent look.
//!
//! The SQL is in `read/`, one file for each question. All of it runs in one transaction with an empty
//! `search_path`, so that expressions and types come back with every name qualified.

mod rows;

use std::sync::Arc;

use futures_util::try_join;
use rustc_hash::FxHashMap;
use tokio_postgres::Client;
use walcast_pgoutput::Oid;
use walcast_policy::schema::{Function, Role, Snapshot, Table, Types};

use crate::error::CatalogError;

/// Opens the transaction that a look needs.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ''; SET LOCAL quote_all_identifiers = off";

/// What to look at.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// The publications whose tables matter.
    pub(crate) publications: &'a [String],
    /// The roles whose privileges matter, by name.
    pub(crate) roles: &'a [String],
}

/// What a look found: a [`Snapshot`] without its version.
#[derive(Default)]
pub(crate) struct Content {
    pub(crate) tables: FxHashMap<Oid, Table>,
    pub(crate) types: Types,
    pub(crate) functions: FxHashMap<String, Vec<Function>>,
    pub(crate) roles: FxHashMap<String, Role>,
}

/// Looks at the catalog; the caller has opened the transaction with [`BEGIN`].
pub(crate) async fn look(client: &Client, scope: Scope<'_>) -> Result<Content, CatalogError> {
    let tables = client.query(include_str!("read/tables.sql"), &[&scope.publications]).await?;
    let mut tables = rows::tables(&tables)?;
    let oids: Vec<u32> = tables.keys().map(|oid| oid.0).collect();
    let (columns, policies, functions, roles, privileges) = try_join!(
        async { client.query(include_str!("read/columns.sql"), &[&oids]).await },
        async { client.query(include_str!("read/policies.sql"), &[&oids]).await },
        async { client.query(include_str!("read/functions.sql"), &[&oids]).await },
        async { client.query(include_str!("read/roles.sql"), &[&scope.roles]).await },
        async { client.query(include_str!("read/privileges.sql"), &[&scope.roles, &oids]).await },
    )?;
    rows::add_columns(&mut tables, &columns)?;
    rows::add_policies(&mut tables, &policies)?;
    let functions = rows::functions(&functions)?;
    let mut roles = rows::roles(&roles)?;
    rows::add_privileges(&mut roles, &privileges)?;

    let types = client.query(include_str!("read/types.sql"), &[&named_types(&tables, &functions)]).await?;
    Ok(Content { tables, types: rows::types(&types)?, functions, roles })
}

/// The types that columns and functions name themselves.
fn named_types(tables: &FxHashMap<Oid, Table>, functions: &FxHashMap<String, Vec<Function>>) -> Vec<u32> {
    let of_columns = tables.values().flat_map(|table| table.columns.iter().map(|column| column.type_oid));
    let of_functions = functions
        .values()
        .flatten()
        .flat_map(|function| function.arguments.iter().copied().chain([function.returns]));
    let mut oids: Vec<u32> = of_columns.chain(of_functions).map(|oid| oid.0).collect();
    oids.sort_unstable();
    oids.dedup();
    oids
}

impl Content {
    /// The snapshot after `before`: the very same one where nothing differs, else one with the next version
    /// that shares every part that is as it was.
    pub(crate) fn after(self, before: &Arc<Snapshot>) -> Arc<Snapshot> {
        let tables = shared(self.tables, &before.tables);
        let roles = shared(self.roles, &before.roles);
        let unchanged = tables == before.tables
            && roles == before.roles
            && self.types == *before.types
            && self.functions == *before.functions;
        if unchanged && before.version > 0 {
            return Arc::clone(before);
        }
        Arc::new(Snapshot {
            version: before.version + 1,
            tables,
            roles,
            types: kept(self.types, &before.types),
            functions: kept(self.functions, &before.functions),
            lookups: FxHashMap::default(),
            search_path: Arc::default(),
        })
    }
}

/// `now` with every value that equals the one `before` had under its key replaced by that.
fn shared<K: std::hash::Hash + Eq, V: PartialEq>(
    now: FxHashMap<K, V>,
    before: &FxHashMap<K, Arc<V>>,
) -> FxHashMap<K, Arc<V>> {
    now.into_iter()
        .map(|(key, value)| {
            let value = match before.get(&key) {
                Some(same) if **same == value => Arc::clone(same),
                _ => Arc::new(value),
            };
            (key, value)
        })
        .collect()
}

fn kept<V: PartialEq>(now: V, before: &Arc<V>) -> Arc<V> {
    if now == **before { Arc::clone(before) } else { Arc::new(now) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_finds_nothing_new_keeps_the_snapshot() {
        let first = Content::default().after(&Arc::default());
        assert_eq!(first.version, 1);
        let second = Content::default().after(&first);
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn a_look_that_finds_something_new_counts_up() {
        let first = Content::default().after(&Arc::default());
        let mut content = Content::default();
        content.functions.insert("auth.uid".to_owned(), Vec::new());
        let second = content.after(&first);
        assert_eq!(second.version, 2);
        assert!(Arc::ptr_eq(&first.types, &second.types));
    }
}
