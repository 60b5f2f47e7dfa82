//! Stored messages, for channels that ask for what they missed (docs/protocol.md §6.4).

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use walcast_policy::channel::{ChannelPolicyError, ReplayRequest, StoredMessage, StoredPayload};

use super::failure::{failure, is_denial};
use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::pool::{Lease, within};
use crate::read::Messages;

/// The last moment of the year 9999, in milliseconds since 1970: what is later would not fit PostgreSQL's arithmetic.
const SINCE_MAX: i64 = 253_402_300_799_999;

/// The newest messages, the oldest of them first. What could not be broadcast, having no event or nothing in it, is
/// left out. With row security off a role that policies bind gets an error instead of fewer rows.
fn query(messages: &Messages) -> String {
    let binary = if messages.has_binary_payload() { "binary_payload" } else { "NULL::bytea" };
    format!(
        "SELECT id::text, event, payload::text, binary_payload FROM ( \
             SELECT id, event, payload, {binary} AS binary_payload, inserted_at \
             FROM realtime.messages \
             WHERE topic = $1 AND private IS TRUE AND extension = 'broadcast' AND event IS NOT NULL \
                 AND (payload IS NOT NULL OR {binary} IS NOT NULL) \
                 AND inserted_at >= timestamp '1970-01-01' + $2::int8 * interval '1 millisecond' \
                 AND inserted_at < now() AT TIME ZONE 'UTC' + interval '1 minute' \
             ORDER BY inserted_at DESC, id DESC LIMIT $3::int8 \
         ) AS newest ORDER BY inserted_at, id"
    )
}

impl Catalog {
    pub(super) async fn stored_messages(
        &self,
        messages: &Messages,
        request: &ReplayRequest,
    ) -> Result<Vec<StoredMessage>, ChannelPolicyError> {
        let query = query(messages);
        let talk = async {
            let mut retries = self.pool.retries();
            loop {
                let lease = self.pool.lease_for_channel().await?;
                let outcome = converse(&lease, &query, request).await;
                if let Some(outcome) = retries.settle(lease, outcome) {
                    return outcome.flatten();
                }
            }
        };
        within(self.pool.patience(), talk).await.map_err(|error| {
            if is_denial(&error) {
                return ChannelPolicyError::NotInstalled(format!(
                    "walcast's role may not read realtime.messages ({error}): let it own the table, or GRANT SELECT \
                     on it and ALTER ROLE … BYPASSRLS"
                ));
            }
            failure(error)
        })
    }
}

async fn converse(
    lease: &Lease,
    query: &str,
    request: &ReplayRequest,
) -> Result<Result<Vec<StoredMessage>, CatalogError>, CatalogError> {
    lease.batch_execute("BEGIN READ ONLY; SET LOCAL row_security = off").await?;
    let topic = &*request.topic;
    let since = request.since_unix_ms.clamp(0, SINCE_MAX);
    let limit = i64::from(request.limit);
    let found =
        lease.query_typed(query, &[(&topic, Type::TEXT), (&since, Type::INT8), (&limit, Type::INT8)]).await;
    let found = match found.map_err(CatalogError::from) {
        Err(error) if error.is_broken() => return Err(error),
        found => found,
    };
    lease.batch_execute("ROLLBACK").await?;
    Ok(found.and_then(|rows| rows.iter().map(stored).collect()))
}

fn stored(row: &Row) -> Result<StoredMessage, CatalogError> {
    let (id, event): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
    let json: Option<&str> = row.try_get(2)?;
    let payload = match json {
        Some(json) => StoredPayload::Json(json.into()),
        None => StoredPayload::Binary(row.try_get::<_, &[u8]>(3)?.into()),
    };
    Ok(StoredMessage { id: id.into(), event: event.into(), payload })
}
