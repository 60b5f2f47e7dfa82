//! Everything that the policies of the published tables reach: functions, the functions that these call, the
//! relations that either read, the policies of those, and so on until there is nothing new.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::try_join;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio_postgres::{Client, Row};
use walcast_pgoutput::Oid;
use walcast_policy::references;
use walcast_policy::schema::{Function, Policy, PolicyCommand};

use super::names::{Qualified, candidates, function_candidates};
use super::rows;
use crate::error::CatalogError;

/// What was reached.
#[derive(Default)]
pub(super) struct Reached {
    /// The policies of all tables, published ones included.
    pub(super) policies: FxHashMap<Oid, Vec<Policy>>,
    /// The functions by `schema.name`, overloads in the order of their oids.
    pub(super) functions: FxHashMap<String, Vec<Function>>,
    /// The relations that something is looked up in.
    pub(super) relations: BTreeSet<u32>,
    /// The names under which relations were looked for, with what was found.
    pub(super) relation_names: BTreeMap<Qualified, Option<u32>>,
    /// The names under which functions were found or looked for.
    pub(super) function_names: BTreeSet<Qualified>,
}

/// What has been named and not looked at yet.
#[derive(Default)]
struct Open {
    tables: Vec<u32>,
    calls: Vec<u32>,
    /// Names of functions, from bodies.
    names: Vec<Qualified>,
    /// Names of relations from bodies, each as the candidates in the order of the search path.
    relations: Vec<Vec<Qualified>>,
}

impl Open {
    fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.calls.is_empty() && self.names.is_empty() && self.relations.is_empty()
    }
}

/// Follows the policies of `published`. `search_path` is that of functions that have none of their own.
pub(super) async fn follow(
    client: &Client,
    published: &[u32],
    search_path: &[String],
) -> Result<Reached, CatalogError> {
    let walk = Walk::new(search_path);
    walk.go(client, Open { tables: published.to_vec(), ..Open::default() }).await
}

/// Follows the policies of one table, those for reading and others.
pub(super) async fn follow_policies(
    client: &Client,
    table: Oid,
    (reading, others): (&[Policy], &[Policy]),
    search_path: &[String],
) -> Result<Reached, CatalogError> {
    let mut walk = Walk::new(search_path);
    walk.reached.policies.insert(table, reading.to_vec());
    let mut open = Open::default();
    walk.of_policies(reading.iter().chain(others), &mut open);
    walk.go(client, open).await
}

/// Names as PostgreSQL takes them, in two arrays.
fn apart<'a>(names: impl IntoIterator<Item = &'a Qualified>) -> (Vec<&'a str>, Vec<&'a str>) {
    names.into_iter().map(|(schema, name)| (schema.as_str(), name.as_str())).unzip()
}

struct Walk<'a> {
    search_path: &'a [String],
    reached: Reached,
    /// The functions, by oid.
    seen: FxHashSet<u32>,
}

impl<'p> Walk<'p> {
    fn new(search_path: &'p [String]) -> Self {
        Walk { search_path, reached: Reached::default(), seen: FxHashSet::default() }
    }

    /// Follows what is open until there is nothing new.
    async fn go(mut self, client: &Client, mut open: Open) -> Result<Reached, CatalogError> {
        while !open.is_empty() {
            let (schemas, names) = apart(&open.names);
            let (relation_schemas, relation_names) = apart(open.relations.iter().flatten());
            let (policies, functions, relations) = try_join!(
                async { client.query(include_str!("policies.sql"), &[&open.tables]).await },
                async { client.query(include_str!("functions.sql"), &[&open.calls, &schemas, &names]).await },
                async {
                    client.query(include_str!("relations.sql"), &[&relation_schemas, &relation_names]).await
                },
            )?;
            let mut next = Open::default();
            self.policies(&open.tables, &policies, &mut next)?;
            self.functions(&functions, &mut next)?;
            self.relations(&open.relations, &relations, &mut next)?;
            open = next;
        }
        let overloads = self.reached.functions.values_mut();
        overloads.for_each(|overloads| overloads.sort_by_key(|function| function.oid.0));
        Ok(self.reached)
    }

    fn policies(&mut self, asked: &[u32], rows: &[Row], next: &mut Open) -> Result<(), CatalogError> {
        let mut found = rows::policies(rows)?;
        for &table in asked {
            let policies = found.remove(&Oid(table)).unwrap_or_default();
            // Who may see a row is decided by these alone.
            let for_reading = policies
                .iter()
                .filter(|policy| matches!(policy.command, PolicyCommand::All | PolicyCommand::Select));
            self.of_policies(for_reading, next);
            self.reached.policies.insert(Oid(table), policies);
        }
        Ok(())
    }

    fn of_policies<'a>(&mut self, policies: impl IntoIterator<Item = &'a Policy>, next: &mut Open) {
        for policy in policies {
            self.reads(policy.readings.iter().map(|reading| reading.table.0), next);
            self.calls(policy.calls.iter().map(|oid| oid.0), next);
        }
    }

    fn functions(&mut self, rows: &[Row], next: &mut Open) -> Result<(), CatalogError> {
        for row in rows {
            let found = rows::function(row)?;
            let function = found.function;
            if !self.seen.insert(function.oid.0) {
                continue;
            }
            self.reads(found.reads, next);
            self.calls(found.calls, next);
            if function.language == "sql" && !function.resolved {
                self.body(&function, next);
            }
            let (schema, name) = found.name;
            self.reached.functions.entry(format!("{schema}.{name}")).or_default().push(function);
            self.reached.function_names.insert((schema, name));
        }
        Ok(())
    }

    fn body(&mut self, function: &Function, next: &mut Open) {
        let path = function.search_path.as_deref().unwrap_or(self.search_path);
        let named = references(&function.body);
        next.relations.extend(named.tables.iter().map(|parts| candidates(parts, path)));
        for candidate in named.functions.iter().flat_map(|parts| function_candidates(parts, path)) {
            if self.reached.function_names.insert(candidate.clone()) {
                next.names.push(candidate);
            }
        }
    }

    fn relations(
        &mut self,
        asked: &[Vec<Qualified>],
        rows: &[Row],
        next: &mut Open,
    ) -> Result<(), CatalogError> {
        let names = &mut self.reached.relation_names;
        names.extend(asked.iter().flatten().map(|name| (name.clone(), None)));
        for row in rows {
            names.insert((row.try_get(0)?, row.try_get(1)?), Some(row.try_get(2)?));
        }
        for candidates in asked {
            let first =
                candidates.iter().find_map(|name| self.reached.relation_names.get(name).copied().flatten());
            self.reads(first, next);
        }
        Ok(())
    }

    fn reads(&mut self, relations: impl IntoIterator<Item = u32>, next: &mut Open) {
        for relation in relations {
            if self.reached.relations.insert(relation) && !self.reached.policies.contains_key(&Oid(relation))
            {
                next.tables.push(relation);
            }
        }
    }

    fn calls(&self, functions: impl IntoIterator<Item = u32>, next: &mut Open) {
        next.calls.extend(functions.into_iter().filter(|oid| !self.seen.contains(oid)));
    }
}
