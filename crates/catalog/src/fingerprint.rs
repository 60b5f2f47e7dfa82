//! One cheap query whose answer changes whenever a new look at the catalog would see something else.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::error::CatalogError;
use crate::read::Scope;

/// A digest of all the rows of the catalog that a snapshot was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(String);

/// What a look depended on, besides the tables of the publications and what hangs on them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    /// The types. A new one always comes with a new column.
    pub(crate) types: Vec<u32>,
    /// The relations that something is looked up in.
    pub(crate) relations: Vec<u32>,
    /// The names under which relations were looked for, found or not: schemas and names.
    pub(crate) relation_names: (Vec<String>, Vec<String>),
    /// The same for functions.
    pub(crate) function_names: (Vec<String>, Vec<String>),
}

impl Watch {
    /// Depends on what `other` does, too.
    pub(crate) fn add(&mut self, other: Watch) {
        self.types.extend(other.types);
        self.relations.extend(other.relations);
        let pairs = [
            (&mut self.relation_names, other.relation_names),
            (&mut self.function_names, other.function_names),
        ];
        for ((schemas, names), (more_schemas, more_names)) in pairs {
            schemas.extend(more_schemas);
            names.extend(more_names);
            // Each once: what is in twice takes itself out of the digest.
            let all: BTreeSet<(String, String)> =
                std::mem::take(schemas).into_iter().zip(std::mem::take(names)).collect();
            (*schemas, *names) = all.into_iter().unzip();
        }
    }
}

/// Takes the fingerprint. `watch` is what the last look depended on.
pub(crate) async fn take(
    client: &Client,
    scope: Scope<'_>,
    watch: &Watch,
) -> Result<Fingerprint, CatalogError> {
    let streamed: Vec<&str> = scope.streamed.iter().map(String::as_str).chain(scope.own).collect();
    let (relation_schemas, relation_names) = &watch.relation_names;
    let (function_schemas, function_names) = &watch.function_names;
    let row = client
        .query_one(
            include_str!("fingerprint.sql"),
            &[
                &scope.publications,
                &streamed,
                &watch.types,
                &watch.relations,
                relation_schemas,
                relation_names,
                function_schemas,
                function_names,
            ],
        )
        .await?;
    Ok(Fingerprint(row.try_get(0)?))
}
