//! One cheap query whose answer changes whenever a new look at the catalog would see something else.

use tokio_postgres::Client;
use walcast_policy::schema::Types;

use crate::error::CatalogError;

/// A digest of all the rows of the catalog that a snapshot was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(String);

/// Takes the fingerprint of the tables of `publications` and of what hangs on them. `types` are those that
/// the last look found: a new type always comes with a new column.
pub(crate) async fn take(
    client: &Client,
    publications: &[String],
    types: &Types,
) -> Result<Fingerprint, CatalogError> {
    let types: Vec<u32> = types.0.keys().map(|oid| oid.0).collect();
    let row = client.query_one(include_str!("fingerprint.sql"), &[&publications, &types]).await?;
    Ok(Fingerprint(row.try_get(0)?))
}
