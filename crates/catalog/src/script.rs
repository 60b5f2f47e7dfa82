//! SQL files applied in one transaction, for `walcast dev`.

use crate::error::CatalogError;
use crate::pool::Connection;
use crate::settings::CatalogSettings;

/// Applies the files' text in order, all of it or nothing.
///
/// # Errors
/// No connection, or PostgreSQL refuses a statement.
pub async fn apply(settings: &CatalogSettings, files: &[(&str, &str)]) -> Result<(), CatalogError> {
    let connection = Connection::open(settings).await?;
    let client = &connection.client;
    // "does not exist, skipping" is what a script that may be applied again always says.
    client.batch_execute("SET client_min_messages = warning; BEGIN").await?;
    for (name, sql) in files {
        client.batch_execute(sql).await?;
        tracing::debug!(name, "applied");
    }
    client.batch_execute("COMMIT").await?;
    Ok(())
}
