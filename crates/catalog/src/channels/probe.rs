//! PostgreSQL asked about a private channel, with rows that are rolled back (docs/protocol.md §8.4). Rolled back, they
//! never reach the log's readers either.

use tokio_postgres::types::Type;
use walcast_policy::channel::{ChannelExtension, ChannelPolicyError, ChannelRequest, ChannelRights};

use super::ChannelAction;
use super::failure::{failure, is_denial};
use super::plans::right;
use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::impersonation::{ClaimSettings, claims_statement};
use crate::pool::{Lease, milliseconds, within};
use crate::quoting::RoleName;

/// One probe for each extension, in one topic. The moment is the transaction's, in UTC.
const INSERT_PROBES: &str = "INSERT INTO realtime.messages (topic, extension, inserted_at, updated_at) \
     SELECT $1, asked.extension, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC' \
     FROM unnest($2::text[]) AS asked(extension) RETURNING id::text, extension";

/// The probes that are visible.
const SELECT_PROBES: &str = "SELECT id::text FROM realtime.messages WHERE id = ANY ($1::text[]::uuid[])";

/// Without RETURNING, which would ask the policies for SELECT, too.
const INSERT_PROBE: &str = "INSERT INTO realtime.messages (topic, extension, inserted_at, updated_at) \
     VALUES ($1, $2, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC')";

const SET_CHANNEL: &str = "SELECT pg_catalog.set_config('realtime.topic', $1, true), \
     pg_catalog.set_config('request.headers', $2, true)";

/// What a conversation came to. The outer error leaves the connection in doubt; the inner one is an answer.
type Outcome = Result<Result<ChannelRights, ChannelPolicyError>, CatalogError>;

/// An error of one statement: an answer, unless the connection is gone.
fn answered<T>(outcome: Result<T, tokio_postgres::Error>) -> Result<Result<T, CatalogError>, CatalogError> {
    match outcome.map_err(CatalogError::from) {
        Err(error) if error.is_broken() => Err(error),
        outcome => Ok(outcome),
    }
}

impl Catalog {
    /// Asks over one connection.
    pub(super) async fn probe(
        &self,
        action: ChannelAction,
        request: &ChannelRequest,
        extensions: &[ChannelExtension],
    ) -> Result<ChannelRights, ChannelPolicyError> {
        let role = RoleName::new(&request.role).map_err(failure)?;
        let talk = async {
            let mut retries = self.pool.retries();
            loop {
                let mut lease = self.pool.lease_for_channel().await?;
                let probe = Probe { role: &role, request, extensions };
                let outcome = probe.converse(action, &mut lease).await;
                if let Some(outcome) = retries.settle(lease, outcome) {
                    return outcome;
                }
            }
        };
        within(self.pool.patience(), talk).await.unwrap_or_else(|error| Err(failure(error)))
    }
}

struct Probe<'a> {
    role: &'a RoleName,
    request: &'a ChannelRequest,
    extensions: &'a [ChannelExtension],
}

impl Probe<'_> {
    async fn converse(&self, action: ChannelAction, lease: &mut Lease) -> Outcome {
        let set_claims = claims_statement(lease).await?;
        let timeout = milliseconds(lease.statement_timeout());
        lease.batch_execute(&format!("BEGIN READ WRITE; SET LOCAL statement_timeout = {timeout}")).await?;
        let outcome = match action {
            ChannelAction::Read => self.read(lease, &set_claims).await,
            ChannelAction::Write => self.write(lease, &set_claims).await,
        }?;
        lease.batch_execute("ROLLBACK").await?;
        Ok(outcome)
    }

    async fn read(&self, lease: &Lease, set_claims: &tokio_postgres::Statement) -> Outcome {
        let extensions: Vec<&str> = self.extensions.iter().map(|one| one.as_str()).collect();
        let topic = &*self.request.topic;
        let inserted =
            lease.query_typed(INSERT_PROBES, &[(&topic, Type::TEXT), (&extensions, Type::TEXT_ARRAY)]).await;
        let probes = match answered(inserted)? {
            Ok(rows) => rows,
            Err(error) if is_denial(&error) => return Ok(Err(may_not_probe(&error))),
            Err(error) => return Ok(Err(failure(error))),
        };
        let mut kinds: Vec<(String, ChannelExtension)> = Vec::with_capacity(probes.len());
        for row in &probes {
            let (id, extension): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            kinds.extend(self.extensions.iter().find(|one| one.as_str() == extension).map(|one| (id, *one)));
        }
        if let Err(error) = self.become_role(lease, set_claims).await? {
            return Ok(Err(failure(error)));
        }
        let ids: Vec<&str> = kinds.iter().map(|(id, _)| id.as_str()).collect();
        match answered(lease.query_typed(SELECT_PROBES, &[(&ids, Type::TEXT_ARRAY)]).await)? {
            Err(error) => Ok(Err(failure(error))),
            Ok(visible) => {
                let mut rights = ChannelRights::default();
                for row in &visible {
                    let id: &str = row.try_get(0)?;
                    let found = kinds.iter().filter(|(probe, _)| probe == id);
                    found.for_each(|(_, extension)| *right(&mut rights, *extension) = true);
                }
                Ok(Ok(rights))
            }
        }
    }

    async fn write(&self, lease: &Lease, set_claims: &tokio_postgres::Statement) -> Outcome {
        if let Err(error) = self.become_role(lease, set_claims).await? {
            return Ok(Err(failure(error)));
        }
        let mut rights = ChannelRights::default();
        let topic = &*self.request.topic;
        for extension in self.extensions {
            lease.batch_execute("SAVEPOINT probe").await?;
            let name = extension.as_str();
            let inserted =
                lease.query_typed(INSERT_PROBE, &[(&topic, Type::TEXT), (&name, Type::TEXT)]).await;
            match answered(inserted)? {
                Ok(_) => *right(&mut rights, *extension) = true,
                Err(error) if is_denial(&error) => {}
                Err(error) => return Ok(Err(failure(error))),
            }
            lease.batch_execute("ROLLBACK TO SAVEPOINT probe").await?;
        }
        Ok(Ok(rights))
    }

    /// Applies the settings until the transaction ends. The role comes last, so that what it may call is no matter.
    async fn become_role(
        &self,
        lease: &Lease,
        set_claims: &tokio_postgres::Statement,
    ) -> Result<Result<(), CatalogError>, CatalogError> {
        let request = self.request;
        if let Err(error) = ClaimSettings::new(&request.claims_json).apply(lease, set_claims).await {
            return if error.is_broken() { Err(error) } else { Ok(Err(error)) };
        }
        let (topic, headers) = (&*request.topic, &*request.headers);
        let set = lease.query_typed(SET_CHANNEL, &[(&topic, Type::TEXT), (&headers, Type::TEXT)]).await;
        if let Err(error) = answered(set)? {
            return Ok(Err(error));
        }
        answered(lease.batch_execute(&format!("SET LOCAL ROLE {}", self.role.quoted())).await)
    }
}

/// Walcast's own role can not write the probes that reading takes.
fn may_not_probe(error: &CatalogError) -> ChannelPolicyError {
    ChannelPolicyError::NotInstalled(format!(
        "walcast's role may not write the rows to realtime.messages by which PostgreSQL is asked who may read a \
         private channel ({error}): let it own the table, or GRANT SELECT, INSERT on it and ALTER ROLE … BYPASSRLS"
    ))
}
