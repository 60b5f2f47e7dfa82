//! Walcast's own publications. One makes the log carry the tables that policies look things up in, another the
//! messages of `realtime.messages`.
//!
//! Their tables are not served. Walcast makes the publications when it starts. It adds a table to the one when a policy
//! first reads it, and `realtime.messages` to the other when it is there. Where the role may do neither, PostgreSQL
//! goes on deciding such policies, and messages from the database are not heard.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use crate::error::CatalogError;
use crate::pool::{Lease, milliseconds};
use crate::preflight::{Publication, ensure_publication};
use crate::quoting::identifier;
use crate::settings::CatalogSettings;

/// How long the log that waits in the slot may take to be tried.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// A publication of walcast's own.
struct Own<'a> {
    name: &'a str,
    /// The options of its CREATE PUBLICATION.
    options: &'static str,
    /// What does not work without it.
    otherwise: &'static str,
}

/// The options of the publication of `realtime.messages`: one name for all partitions, and nothing but INSERT.
pub(crate) const MESSAGES_OPTIONS: &str = "WITH (publish = 'insert', publish_via_partition_root = true)";

/// The publications that the stream can read: those of the settings and, where possible, walcast's own, which are
/// made now where they are missing.
pub(crate) async fn streamed(lease: &Lease, settings: &CatalogSettings) -> Result<Vec<String>, CatalogError> {
    let lookups = settings.lookup_publication.as_deref().map(|name| Own {
        name,
        options: "",
        otherwise: "policies that look things up are left to PostgreSQL",
    });
    let messages = settings.messages_publication.as_deref().map(|name| Own {
        name,
        options: MESSAGES_OPTIONS,
        otherwise: "messages that the database sends (realtime.send) reach nobody",
    });
    let mut streamed = settings.publications.clone();
    for own in lookups.into_iter().chain(messages) {
        if streamed.iter().any(|one| one == own.name) {
            continue;
        }
        if !settings.read_only
            && let Publication::Refused(reason) = ensure_publication(lease, own.name, own.options).await?
        {
            tracing::info!(
                publication = own.name,
                reason,
                "the publication does not exist and could not be created, so {}; somebody who may can run CREATE \
                 PUBLICATION {} {}; before walcast is restarted",
                own.otherwise,
                identifier(own.name),
                own.options
            );
        }
        if readable(lease, &own, settings.slot.as_deref()).await? {
            streamed.push(own.name.to_owned());
        }
    }
    Ok(streamed)
}

/// Whether a stream from the slot can read the publication.
///
/// It must have existed at every change that the slot has yet to deliver: PostgreSQL decodes a change with the
/// catalog of its time, and up to version 17 it is an error if the publication is not in there, for good.
async fn readable(lease: &Lease, own: &Own<'_>, slot: Option<&str>) -> Result<bool, CatalogError> {
    // Ids of the distant past look as if they were to come.
    let row = lease
        .query_opt(
            "SELECT s.slot_name IS NULL OR coalesce(age(p.xmin) NOT BETWEEN 0 AND age(s.catalog_xmin), false), \
                age(p.xmin) NOT BETWEEN 0 AND age(pg_snapshot_xmin(pg_current_snapshot())::xid) \
             FROM pg_catalog.pg_publication AS p \
             LEFT JOIN pg_catalog.pg_replication_slots AS s ON s.slot_name = $2::text \
             WHERE p.pubname = $1::text",
            &[&own.name, &slot],
        )
        .await?;
    let Some(row) = row else { return Ok(false) };
    let (older_than_the_slot, older_than_all_that_runs): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    let Some(slot) = slot.filter(|_| !older_than_the_slot) else { return Ok(true) };
    let tried = if older_than_all_that_runs { try_slot(lease, own.name, slot).await } else { Ok(false) };
    let readable = matches!(tried, Ok(true));
    if let Err(error @ CatalogError::Broken(_)) = tried {
        return Err(error);
    }
    if !readable {
        tracing::warn!(
            publication = own.name,
            slot,
            "the publication is younger than changes that the replication slot has yet to deliver; until walcast is \
             restarted, {}",
            own.otherwise
        );
    }
    Ok(readable)
}

/// Decodes what waits in the slot without consuming it. What any decoding may fail with is no error here.
async fn try_slot(lease: &Lease, own: &str, slot: &str) -> Result<bool, CatalogError> {
    lease
        .batch_execute(&format!("BEGIN; SET LOCAL statement_timeout = {}", milliseconds(TRIAL_TIMEOUT)))
        .await?;
    let tried = lease
        .query(
            "SELECT count(*) FROM pg_catalog.pg_logical_slot_peek_binary_changes($1::text::name, NULL, NULL, \
             'proto_version', '1', 'publication_names', pg_catalog.quote_ident($2::text))",
            &[&slot, &own],
        )
        .await;
    lease.batch_execute("ROLLBACK").await?;
    match tried.map_err(CatalogError::from) {
        Ok(_) => Ok(true),
        Err(CatalogError::Statement { message, .. }) => {
            tracing::debug!(slot, message, "the replication slot was tried");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// What came of the statements that the publication was due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Altered {
    /// The publication is another one now.
    pub(crate) changed: bool,
    /// Something failed that may go well the next time.
    pub(crate) try_again: bool,
}

/// Runs the statements that are `due`, one by one. Those in `refused` have failed before, which was logged then.
pub(crate) async fn alter(
    client: &Client,
    due: &BTreeSet<String>,
    refused: &mut BTreeSet<String>,
) -> Result<Altered, CatalogError> {
    let mut altered = Altered::default();
    for statement in due {
        match run(client, statement).await {
            Ok(()) => {
                tracing::info!(statement, "the log carries one more table that walcast needs");
                refused.remove(statement);
                altered.changed = true;
            }
            // Another walcast has done it in between.
            Err(error) if error.code() == Some("42710") => altered.changed = true,
            Err(error @ CatalogError::Statement { .. }) => {
                altered.try_again |= error.code().is_some_and(passes);
                if refused.insert(statement.clone()) {
                    tracing::warn!(
                        %error,
                        statement,
                        "this role may not change the publication; until its owner runs the statement, policies that \
                         look up the table are left to PostgreSQL, and messages that the database sends reach nobody"
                    );
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(altered)
}

/// Runs one statement. Nobody may be writing to a table while it joins: before the minor versions of May 2025 whoever
/// was could leave the log without what comes after (PostgreSQL release notes, 15.13: "data loss when DDL operations
/// that don't take a strong lock affect tables that are being logically replicated").
async fn run(client: &Client, statement: &str) -> Result<(), CatalogError> {
    let Some((_, table)) = statement.split_once(" ADD TABLE ") else {
        return Ok(client.batch_execute(statement).await?);
    };
    // Writers queue behind a lock that is waited for, so that is not for long; it is tried again.
    let transaction = format!(
        "BEGIN; SET LOCAL lock_timeout = '200ms'; LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE; {statement} COMMIT",
        table.trim_end_matches(';')
    );
    let outcome = client.batch_execute(&transaction).await;
    if outcome.is_err() {
        client.batch_execute("ROLLBACK").await?;
    }
    Ok(outcome?)
}

/// Whether an error is one of the moment: dead- and other locks, resources, time-outs.
fn passes(code: &str) -> bool {
    ["40", "53", "55P03", "57"].iter().any(|class| code.starts_with(class))
}
