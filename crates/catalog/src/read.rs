//! Tables, columns, types, policies, functions, roles and privileges, in one consistent look: those of the
//! publications, and whatever their policies reach (`reach`).
//!
//! The SQL is in `read/`, one file for each question. All of it runs in one transaction with an empty
//! `search_path`, so that expressions and types come back with every name qualified.

mod channel;
mod names;
mod reach;
mod rows;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::try_join;
use rustc_hash::FxHashMap;
use tokio_postgres::Client;
use walcast_pgoutput::Oid;
use walcast_policy::schema::{Function, LookupTable, Role, Snapshot, Table, Types};

pub use self::channel::MessagesInLog;
pub(crate) use self::channel::{ChannelLook, Messages, look as look_at_channels};
use self::reach::Reached;
use crate::error::CatalogError;
use crate::fingerprint::Watch;

/// Opens the transaction that a look needs. What the session's own search path is remains to be read from a
/// setting, since the look must do without one.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
     SELECT pg_catalog.set_config('walcast.search_path', pg_catalog.current_setting('search_path'), true); \
     SET LOCAL search_path = ''; SET LOCAL quote_all_identifiers = off";

/// What to look at.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// The publications whose tables matter.
    pub(crate) publications: &'a [String],
    /// The publications that the stream reads: these, and walcast's own where it does.
    pub(crate) streamed: &'a [String],
    /// Walcast's own publication, whether it exists or not.
    pub(crate) own: Option<&'a str>,
    /// The roles whose privileges matter, by name. Those whose privileges functions run with come on top.
    pub(crate) roles: &'a [String],
}

/// What a look found: a [`Snapshot`] without its version, and what else came to light.
#[derive(Default)]
pub(crate) struct Content {
    pub(crate) tables: FxHashMap<Oid, Table>,
    pub(crate) lookups: FxHashMap<Oid, LookupTable>,
    pub(crate) types: Types,
    pub(crate) functions: FxHashMap<String, Vec<Function>>,
    pub(crate) roles: FxHashMap<String, Role>,
    pub(crate) search_path: Vec<String>,
    /// The statements that walcast's own publication is due.
    pub(crate) due: BTreeSet<String>,
    /// What the look depended on.
    pub(crate) watch: Watch,
}

/// Looks at the catalog; the caller has opened the transaction with [`BEGIN`].
pub(crate) async fn look(client: &Client, scope: Scope<'_>) -> Result<Content, CatalogError> {
    let (search_path, published) = try_join!(
        async { client.query_one("SELECT current_setting('walcast.search_path')", &[]).await },
        async { client.query(include_str!("read/tables.sql"), &[&scope.publications]).await },
    )?;
    let search_path = names::search_path(search_path.try_get(0)?);
    let tables = rows::tables(&published)?;
    let published: Vec<u32> = tables.keys().map(|oid| oid.0).collect();
    let reached = reach::follow(client, &published, &search_path).await?;
    complete(client, scope, tables, reached, search_path).await
}

/// What there is to know of `tables` and of all that their policies have reached.
async fn complete(
    client: &Client,
    scope: Scope<'_>,
    mut tables: FxHashMap<Oid, Table>,
    reached: Reached,
    search_path: Vec<String>,
) -> Result<Content, CatalogError> {
    let published: Vec<u32> = tables.keys().map(|oid| oid.0).collect();
    let lookups: Vec<u32> = reached.relations.iter().copied().collect();
    let mut all: Vec<u32> =
        published.iter().copied().filter(|oid| !reached.relations.contains(oid)).collect();
    all.extend(&lookups);
    let functions: Vec<u32> = reached.functions.values().flatten().map(|function| function.oid.0).collect();
    let roles = with_owners(client, scope.roles, &reached).await?;
    let (streamed, served) = (&scope.streamed, &scope.publications);
    let (columns, lookups, roles, privileges, executes) = try_join!(
        async { client.query(include_str!("read/columns.sql"), &[&all]).await },
        async {
            client.query(include_str!("read/lookups.sql"), &[&lookups, streamed, served, &scope.own]).await
        },
        async { client.query(include_str!("read/roles.sql"), &[&roles]).await },
        async { client.query(include_str!("read/privileges.sql"), &[&roles, &all]).await },
        async { client.query(include_str!("read/executes.sql"), &[&roles, &functions]).await },
    )?;
    let (mut lookups, obstacles) = (rows::tables(&lookups)?, rows::obstacles(&lookups)?);
    for tables in [&mut tables, &mut lookups] {
        rows::add_columns(tables, &columns)?;
        for table in tables.values_mut() {
            table.policies = reached.policies.get(&table.oid).cloned().unwrap_or_default();
        }
    }
    let mut roles = rows::roles(&roles)?;
    rows::add_privileges(&mut roles, &privileges)?;
    rows::add_executes(&mut roles, &executes)?;

    let named_types = named_types(tables.values().chain(lookups.values()), &reached.functions);
    let types = rows::types(&client.query(include_str!("read/types.sql"), &[&named_types]).await?)?;
    let due = obstacles.values().filter_map(|obstacle| obstacle.due.clone()).collect();
    Ok(Content {
        watch: watch(&types, &reached),
        tables,
        lookups: with_obstacles(lookups, obstacles),
        types,
        functions: reached.functions,
        roles,
        search_path,
        due,
    })
}

/// The roles that were asked for and those that the functions' bodies may run as.
async fn with_owners(
    client: &Client,
    asked: &[String],
    reached: &Reached,
) -> Result<Vec<String>, CatalogError> {
    let definers = reached.functions.values().flatten().filter(|function| function.security_definer);
    let owners: Vec<u32> = definers.map(|function| function.owner.0).collect();
    let mut roles: BTreeSet<String> = asked.iter().cloned().collect();
    for row in client.query(include_str!("read/owners.sql"), &[&owners]).await? {
        roles.insert(row.try_get(0)?);
    }
    Ok(roles.into_iter().collect())
}

fn with_obstacles(
    lookups: FxHashMap<Oid, Table>,
    mut obstacles: FxHashMap<Oid, rows::Obstacle>,
) -> FxHashMap<Oid, LookupTable> {
    let lookups = lookups.into_iter().map(|(oid, table)| {
        let obstacle = obstacles.remove(&oid);
        let (publication, continuity, definition) = obstacle
            .as_ref()
            .map_or((0, 0, 0), |found| (found.publication, found.continuity, found.definition));
        let obstacle = obstacle.and_then(rows::Obstacle::clause);
        (oid, LookupTable { table, obstacle, publication, continuity, definition })
    });
    lookups.collect()
}

/// The types that columns and functions name themselves.
fn named_types<'a>(
    tables: impl Iterator<Item = &'a Table>,
    functions: &FxHashMap<String, Vec<Function>>,
) -> Vec<u32> {
    let of_columns = tables.flat_map(|table| table.columns.iter().map(|column| column.type_oid));
    let of_functions = functions
        .values()
        .flatten()
        .flat_map(|function| function.arguments.iter().copied().chain([function.returns]));
    let mut oids: Vec<u32> = of_columns.chain(of_functions).map(|oid| oid.0).collect();
    oids.sort_unstable();
    oids.dedup();
    oids
}

fn watch(types: &Types, reached: &Reached) -> Watch {
    Watch {
        types: types.0.keys().map(|oid| oid.0).collect(),
        relations: reached.relations.iter().copied().collect(),
        relation_names: reached.relation_names.keys().cloned().unzip(),
        function_names: reached.function_names.iter().cloned().unzip(),
    }
}

impl Content {
    /// The snapshot after `before`: the very same one where nothing differs, else one with the next version
    /// that shares every part that is as it was.
    pub(crate) fn after(self, before: &Arc<Snapshot>) -> Arc<Snapshot> {
        let tables = shared(self.tables, &before.tables);
        let lookups = shared(self.lookups, &before.lookups);
        let roles = shared(self.roles, &before.roles);
        let unchanged = tables == before.tables
            && lookups == before.lookups
            && roles == before.roles
            && self.types == *before.types
            && self.functions == *before.functions
            && self.search_path == *before.search_path;
        if unchanged && before.version > 0 {
            return Arc::clone(before);
        }
        Arc::new(Snapshot {
            version: before.version + 1,
            tables,
            roles,
            types: kept(self.types, &before.types),
            functions: kept(self.functions, &before.functions),
            lookups,
            search_path: self.search_path.into(),
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
