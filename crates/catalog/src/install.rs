//! What walcast puts into a database on request: the publication, another one for what policies look up, event
//! triggers that announce changes of the catalog in the log, and the schema `realtime` with its messages
//! (docs/protocol.md §6.5, §13).
//!
//! The SQL is in `sql/install/` at the root of the repository. Everything may be applied again at any time.

use crate::error::CatalogError;
use crate::pool::Connection;
use crate::quoting::{identifier, literal};
use crate::settings::CatalogSettings;

/// The prefix of the logical messages that announce a change of the catalog; their content is the command
/// tag (`ALTER POLICY`).
pub const MESSAGE_PREFIX: &str = "walcast.ddl";

/// The name that the SQL files use for the publication.
const PUBLICATION: &str = "supabase_realtime";

/// Opens the transaction, in which no name is looked for in schemas that others may write to.
const TRANSACTION_SQL: &str = include_str!("../../../sql/install/00_transaction.sql");
const PUBLICATION_SQL: &str = include_str!("../../../sql/install/01_publication.sql");
const CATALOG_CHANGES_SQL: &str = include_str!("../../../sql/install/02_catalog_changes.sql");
const LOOKUP_PUBLICATION_SQL: &str = include_str!("../../../sql/install/03_lookup_publication.sql");
const MESSAGES_SQL: [&str; 5] = [
    include_str!("../../../sql/install/04_messages.sql"),
    MESSAGE_PARTITIONS_SQL,
    include_str!("../../../sql/install/06_first_message_partitions.sql"),
    include_str!("../../../sql/install/07_message_functions.sql"),
    include_str!("../../../sql/install/08_messages_publication.sql"),
];
const MESSAGE_PARTITIONS_SQL: &str = include_str!("../../../sql/install/05_message_partitions.sql");
const UNINSTALL_SQL: &str = include_str!("../../../sql/install/uninstall.sql");

/// The SQL that installs everything, for `publications`, in one transaction.
pub fn sql(publications: &[String]) -> String {
    let mut sql = format!("{TRANSACTION_SQL}\n");
    for publication in publications {
        sql.push_str(&publication_sql(publication));
        sql.push('\n');
    }
    sql.push_str(CATALOG_CHANGES_SQL);
    sql.push('\n');
    sql.push_str(LOOKUP_PUBLICATION_SQL);
    for part in MESSAGES_SQL {
        sql.push('\n');
        sql.push_str(part);
    }
    sql.push_str("\nCOMMIT;");
    sql
}

/// The SQL that makes the functions that the janitor calls, in one transaction that is left open.
pub(crate) fn message_partitions_sql() -> String {
    format!("{TRANSACTION_SQL}\n{MESSAGE_PARTITIONS_SQL}")
}

/// What [`apply`] found when it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Whether changes of the catalog are announced in the log; `false` where the role may not create event
    /// triggers. They are found by polling then.
    pub announces_catalog_changes: bool,
    /// What somebody else had made under the names that walcast uses, and what was left as it is for that.
    pub left: Vec<String>,
    /// Whether walcast's publication carries `realtime.messages`; `false` where the role may not add it.
    pub publishes_messages: bool,
}

/// What of the schema `realtime` is not walcast's, by the comments.
const LEFT: &str = "\
    SELECT coalesce(pg_catalog.array_agg(name ORDER BY place, name), '{}') FROM ( \
        SELECT 1, 'table realtime.messages' WHERE coalesce( \
            pg_catalog.obj_description(pg_catalog.to_regclass('realtime.messages'), 'pg_class'), '') \
            <> 'Made by walcast.' \
        UNION ALL \
        SELECT 2, 'function ' || signature FROM pg_catalog.unnest(ARRAY[ \
            'realtime.topic()', 'realtime.send(jsonb, text, text, boolean)', \
            'realtime.send_binary(bytea, text, text, boolean)', \
            'realtime.broadcast_changes(text, text, text, text, text, record, record, text)' \
        ]) AS wanted(signature) \
        WHERE coalesce(pg_catalog.obj_description(pg_catalog.to_regprocedure(signature), 'pg_proc'), '') \
            <> 'Made by walcast.' \
    ) AS listed(place, name)";

/// Whether the publication has the table.
const PUBLISHED: &str = "\
    SELECT EXISTS (SELECT FROM pg_catalog.pg_publication_rel AS r \
        JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid \
        WHERE p.pubname = 'walcast_messages' AND r.prrelid = pg_catalog.to_regclass('realtime.messages'))";

/// For what is asked when the transaction is over.
const TRUSTED_NAMES: &str = "SET search_path = ''";

/// Installs everything, in one transaction. Applied twice it changes nothing.
///
/// # Errors
/// No connection, or PostgreSQL refuses (no right to create the publication or the schema).
pub async fn apply(settings: &CatalogSettings) -> Result<Installed, CatalogError> {
    let connection = Connection::open(settings).await?;
    // The connection is not used again, so an error needs no roll-back of its own.
    connection.client.batch_execute(&sql(&settings.publications)).await?;
    connection.client.batch_execute(TRUSTED_NAMES).await?;
    let row = connection
        .client
        .query_one(
            "SELECT pg_catalog.count(*) = 2 FROM pg_catalog.pg_event_trigger \
             WHERE evtname IN ('walcast_ddl', 'walcast_drop') AND evtenabled <> 'D'",
            &[],
        )
        .await?;
    let left = connection.client.query_one(LEFT, &[]).await?;
    let published = connection.client.query_one(PUBLISHED, &[]).await?;
    Ok(Installed {
        announces_catalog_changes: row.try_get(0)?,
        left: left.try_get(0)?,
        publishes_messages: published.try_get(0)?,
    })
}

/// Takes back what [`apply`] installed, except for publications and slots.
///
/// # Errors
/// No connection, or PostgreSQL refuses.
pub async fn remove(settings: &CatalogSettings) -> Result<(), CatalogError> {
    let connection = Connection::open(settings).await?;
    connection.client.batch_execute(&format!("{TRANSACTION_SQL}\n{UNINSTALL_SQL}\nCOMMIT")).await?;
    Ok(())
}

/// The file's SQL with another publication in the place of the usual one.
fn publication_sql(publication: &str) -> String {
    let mut tag = "publication".to_owned();
    while publication.contains(&tag) {
        // Dollar quotes end at their tag, so the name must not have it.
        tag.push('_');
    }
    PUBLICATION_SQL
        .replace("$publication$", &format!("${tag}$"))
        .replace(&literal(PUBLICATION), literal(publication).trim_start())
        .replace(&format!("PUBLICATION {PUBLICATION}"), &format!("PUBLICATION {}", identifier(publication)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_publication_is_named_wherever_the_usual_one_was() {
        let sql = publication_sql("it's $publication$");
        assert!(!sql.contains("supabase_realtime"), "{sql}");
        assert!(sql.contains("pubname = 'it''s $publication$')"), "{sql}");
        assert!(sql.contains("DO $publication_$\n"), "{sql}");
    }
}
