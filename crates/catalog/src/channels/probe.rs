//! PostgreSQL asked about a private channel, with rows that are rolled back (docs/protocol.md §8.4). Rolled back, they
//! never reach the log's readers either.
//!
//! All statements of a check leave at once and come back at once: a connection is held for one round trip.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Statement};
use uuid::Uuid;
use walcast_policy::channel::{ChannelExtension, ChannelPolicyError, ChannelRequest, ChannelRights};

use super::ChannelAction;
use super::failure::{failure, is_denial};
use super::plans::right;
use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::impersonation::{ClaimSettings, claims_statement};
use crate::pipeline::Pipeline;
use crate::pool::{Lease, milliseconds, within};
use crate::quoting::RoleName;

/// One probe for each extension, in one topic. The moment is the transaction's, in UTC.
const INSERT_PROBES: &str = "INSERT INTO realtime.messages (id, topic, extension, inserted_at, updated_at) \
     SELECT asked.id::uuid, $1, asked.extension, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC' \
     FROM unnest($2::text[], $3::text[]) AS asked(id, extension)";

/// The probes that are visible.
const SELECT_PROBES: &str = "SELECT id::text FROM realtime.messages WHERE id = ANY ($1::text[]::uuid[])";

/// Without RETURNING, which would ask the policies for SELECT, too.
const INSERT_PROBE: &str = "INSERT INTO realtime.messages (topic, extension, inserted_at, updated_at) \
     VALUES ($1, $2, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC')";

const SET_CHANNEL: &str = "SELECT pg_catalog.set_config('realtime.topic', $1, true), \
     pg_catalog.set_config('request.headers', $2, true)";

/// What a conversation came to. The outer error leaves the connection in doubt; the inner one is an answer.
type Outcome = Result<Result<ChannelRights, ChannelPolicyError>, CatalogError>;

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

/// One check.
struct Probe<'a> {
    role: &'a RoleName,
    request: &'a ChannelRequest,
    extensions: &'a [ChannelExtension],
}

/// What came of one statement.
enum Step {
    /// Without it nothing after it counts.
    Control(Result<(), CatalogError>),
    /// The probes of walcast's own role, for reading.
    OwnProbes(Result<(), CatalogError>),
    /// The ids of those that are visible.
    Visible(Result<Vec<Row>, CatalogError>),
    /// The probe of the role, for writing.
    Written(ChannelExtension, Result<(), CatalogError>),
    /// The end of the transaction.
    Ended(Result<(), CatalogError>),
}

impl Step {
    fn error(&self) -> Option<&CatalogError> {
        match self {
            Step::Visible(outcome) => outcome.as_ref().err(),
            Step::Control(outcome)
            | Step::OwnProbes(outcome)
            | Step::Written(_, outcome)
            | Step::Ended(outcome) => outcome.as_ref().err(),
        }
    }
}

impl Probe<'_> {
    async fn converse(&self, action: ChannelAction, lease: &mut Lease) -> Outcome {
        let set_claims = claims_statement(lease).await?;
        let lease = &*lease;
        let timeout = milliseconds(lease.statement_timeout());
        let begin = format!("BEGIN READ WRITE; SET LOCAL statement_timeout = {timeout}");
        let become_role = format!("SET LOCAL ROLE {}", self.role.quoted());
        let claims = ClaimSettings::new(&self.request.claims_json);
        let ids: Vec<String> = self.extensions.iter().map(|_| Uuid::new_v4().to_string()).collect();

        let mut steps = vec![control(lease, &begin)];
        if action == ChannelAction::Read {
            steps.push(self.insert_own(lease, &ids).map(Step::OwnProbes).boxed());
        }
        // The role comes last, so that what it may call is no matter.
        steps.push(set(lease, &set_claims, &claims));
        steps.push(self.set_channel(lease).map(Step::Control).boxed());
        steps.push(control(lease, &become_role));
        match action {
            ChannelAction::Read => steps.push(select(lease, &ids).map(Step::Visible).boxed()),
            ChannelAction::Write => {
                for &extension in self.extensions {
                    steps.push(control(lease, "SAVEPOINT probe"));
                    let written = self.insert(lease, extension);
                    steps.push(written.map(move |outcome| Step::Written(extension, outcome)).boxed());
                    steps.push(control(lease, "ROLLBACK TO SAVEPOINT probe"));
                }
            }
        }
        steps.push(
            lease.batch_execute("ROLLBACK").map(|ended| Step::Ended(ended.map_err(Into::into))).boxed(),
        );
        self.hear(steps, &ids).await
    }

    /// Puts the steps and sums up what comes back. The first error is the one that counts: others follow from it.
    async fn hear(&self, steps: Vec<BoxFuture<'_, Step>>, ids: &[String]) -> Outcome {
        let mut pipeline = Pipeline::send(steps).await;
        let mut rights = ChannelRights::default();
        let mut failed = None;
        while let Some(step) = pipeline.next().await {
            if let Some(error) = step.error().filter(|error| error.is_broken()) {
                return Err(error.clone());
            }
            match step {
                Step::Ended(Err(error)) => return Err(error),
                _ if failed.is_some() => {}
                Step::OwnProbes(Err(error)) if is_denial(&error) => failed = Some(may_not_probe(&error)),
                Step::Written(_, Err(error)) if is_denial(&error) => {}
                Step::Control(Err(error))
                | Step::OwnProbes(Err(error))
                | Step::Visible(Err(error))
                | Step::Written(_, Err(error)) => failed = Some(failure(error)),
                Step::Written(extension, Ok(())) => *right(&mut rights, extension) = true,
                Step::Visible(Ok(rows)) => {
                    for row in &rows {
                        let visible: &str = row.try_get(0)?;
                        let probes = ids.iter().zip(self.extensions).filter(|(id, _)| *id == visible);
                        probes.for_each(|(_, extension)| *right(&mut rights, *extension) = true);
                    }
                }
                Step::Control(Ok(())) | Step::OwnProbes(Ok(())) | Step::Ended(Ok(())) => {}
            }
        }
        Ok(failed.map_or(Ok(rights), Err))
    }

    async fn insert_own(&self, lease: &Lease, ids: &[String]) -> Result<(), CatalogError> {
        let extensions: Vec<&str> = self.extensions.iter().map(|one| one.as_str()).collect();
        let topic = &*self.request.topic;
        let texts = Type::TEXT_ARRAY;
        lease
            .query_typed(INSERT_PROBES, &[(&topic, Type::TEXT), (&ids, texts.clone()), (&extensions, texts)])
            .await?;
        Ok(())
    }

    async fn insert(&self, lease: &Lease, extension: ChannelExtension) -> Result<(), CatalogError> {
        let (topic, name) = (&*self.request.topic, extension.as_str());
        lease.query_typed(INSERT_PROBE, &[(&topic, Type::TEXT), (&name, Type::TEXT)]).await?;
        Ok(())
    }

    async fn set_channel(&self, lease: &Lease) -> Result<(), CatalogError> {
        let (topic, headers) = (&*self.request.topic, &*self.request.headers);
        lease.query_typed(SET_CHANNEL, &[(&topic, Type::TEXT), (&headers, Type::TEXT)]).await?;
        Ok(())
    }
}

fn control<'a>(lease: &'a Lease, sql: &'a str) -> BoxFuture<'a, Step> {
    lease.batch_execute(sql).map(|outcome| Step::Control(outcome.map_err(Into::into))).boxed()
}

fn set<'a>(lease: &'a Lease, statement: &'a Statement, claims: &'a ClaimSettings<'_>) -> BoxFuture<'a, Step> {
    claims.apply(lease, statement).map(Step::Control).boxed()
}

async fn select(lease: &Lease, ids: &[String]) -> Result<Vec<Row>, CatalogError> {
    Ok(lease.query_typed(SELECT_PROBES, &[(&ids, Type::TEXT_ARRAY)]).await?)
}

/// Walcast's own role can not write the probes that reading takes.
fn may_not_probe(error: &CatalogError) -> ChannelPolicyError {
    ChannelPolicyError::NotInstalled(format!(
        "walcast's role may not write the rows to realtime.messages by which PostgreSQL is asked who may read a \
         private channel ({error}): let it own the table, or GRANT SELECT, INSERT on it and ALTER ROLE … BYPASSRLS"
    ))
}
