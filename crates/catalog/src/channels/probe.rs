//! PostgreSQL asked about private channels, with rows that are rolled back (docs/protocol.md §8.4). Rolled back, they
//! never reach the log's readers either.
//!
//! All statements of a batch leave at once, so that a connection is held for one round trip. Between two questions lies
//! the roll-back to a savepoint, which takes back what the first has written, its role and its settings: none of them
//! learns of another, and what raises or takes too long fails alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, Statement};
use uuid::Uuid;
use walcast_policy::channel::{ChannelExtension, ChannelPolicyError, ChannelRequest, ChannelRights};

use super::ChannelAction;
use super::failure::{failure, is_denial};
use super::plans::right;
use crate::error::CatalogError;
use crate::impersonation::ClaimSettings;
use crate::pipeline::Pipeline;
use crate::pool::{Lease, milliseconds};
use crate::quoting::RoleName;

/// Probes of walcast's own role, one for each extension; ids and extensions with commas in between. The moment is the
/// transaction's, in UTC.
const INSERT_OWN_PROBES: &str = "INSERT INTO realtime.messages (id, topic, extension, inserted_at, updated_at) \
     SELECT asked.id::uuid, $1, asked.extension, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC' \
     FROM unnest(string_to_array($2, ','), string_to_array($3, ',')) AS asked(id, extension)";

/// The probes that are visible. Not prepared: whether the role may use the schema, and which policies are its own, is
/// found when a statement is parsed, and a membership that is revoked later does not make PostgreSQL parse it again.
const SELECT_PROBES: &str = "SELECT id::text FROM realtime.messages WHERE id = ANY ($1::text[]::uuid[])";

/// In the partition of the moment alone: planning for all of them takes longer than everything else. The constant is
/// read while parsing, as the moment of the transaction in the session's time zone, which is UTC.
const SELECT_PROBES_OF_NOW: &str = "SELECT id::text FROM realtime.messages \
     WHERE id = ANY ($1::text[]::uuid[]) AND inserted_at = timestamp 'now'";

/// Without RETURNING, which would ask the policies for SELECT, too.
const INSERT_PROBE: &str = "INSERT INTO realtime.messages (topic, extension, inserted_at, updated_at) \
     VALUES ($1, $2, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC')";

/// The role comes last, so that what it may call is no matter.
const BECOME: &str = "SELECT pg_catalog.set_config('request.jwt.claims', $1, true), \
     pg_catalog.set_config('request.jwt.claim.sub', $2, true), \
     pg_catalog.set_config('request.jwt.claim.role', $3, true), \
     pg_catalog.set_config('request.jwt.claim.email', $4, true), \
     pg_catalog.set_config('realtime.topic', $5, true), \
     pg_catalog.set_config('request.headers', $6, true), \
     pg_catalog.set_config('role', $7, true)";

const UNDO: &str = "ROLLBACK TO SAVEPOINT asked";
const END: &str = "ROLLBACK";

/// PostgreSQL may be silent for so long over one question before those behind it are asked elsewhere.
pub(super) const STALL: Duration = Duration::from_millis(250);

/// One question.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) action: ChannelAction,
    pub(super) role: RoleName,
    pub(super) request: ChannelRequest,
    pub(super) extensions: Vec<ChannelExtension>,
    /// Whether a row of `realtime.messages` is stored as it is written.
    pub(super) stored_as_written: bool,
}

/// The answer to one.
pub(super) type Answer = Result<ChannelRights, ChannelPolicyError>;

/// Whoever has put the questions of a batch.
pub(super) trait Askers: Sync {
    /// The question at `place` has its answer, and took so long.
    fn answered(&self, place: usize, answer: Answer, took: Duration);

    /// The questions from `place` on wait for one that takes its time. They may be asked elsewhere, too: the first
    /// answer counts.
    fn stalled(&self, place: usize);
}

/// What a conversation came to that left its connection as it was.
pub(super) struct Finished {
    /// The answer to the last question, which is kept back until its connection can be used by others.
    pub(super) last: Answer,
    pub(super) took: Duration,
}

/// A conversation that came to nothing more. Its connection is in doubt.
pub(super) struct BrokenOff {
    pub(super) error: CatalogError,
    /// The question that was being answered. Those before it have their answers.
    pub(super) place: usize,
    /// The question that the others were told to wait for; those behind it are asked again already.
    pub(super) waited_for: Option<usize>,
}

/// Asks all the questions in one transaction. `patience` is how long PostgreSQL may be silent over a question that
/// nobody waits behind.
pub(super) async fn converse(
    lease: &mut Lease,
    questions: &[Arc<Question>],
    patience: Duration,
    askers: &impl Askers,
) -> Result<Finished, BrokenOff> {
    let mut hearing =
        Hearing { questions, askers, patience, place: 0, waited_for: None, since: Instant::now() };
    let outcome = hearing.converse(lease).await;
    let (place, waited_for) = (hearing.place, hearing.waited_for);
    outcome.map_err(|error| BrokenOff { error, place, waited_for })
}

/// What came of one statement.
enum Step {
    /// The beginning of the transaction, without which nothing counts.
    Begun(Result<(), CatalogError>),
    /// Without it nothing after it counts for its question.
    Control(Result<(), CatalogError>),
    /// The probes of walcast's own role, for reading.
    OwnProbes(Result<(), CatalogError>),
    /// The ids of those that are visible, among the ids of the question.
    Visible(Vec<Probe>, Result<Vec<Row>, CatalogError>),
    /// The probe of the role, for writing.
    Written(ChannelExtension, Result<(), CatalogError>),
    /// What the question did has been undone: it has its answer.
    Undone(Result<(), CatalogError>),
}

/// A row to be seen or not.
struct Probe {
    id: String,
    extension: ChannelExtension,
}

/// The statements that are prepared once for each connection, as walcast's own role.
struct Statements {
    become_role: Statement,
    /// The error is the answer to every question that needs it.
    insert_own_probes: Result<Statement, CatalogError>,
}

impl Statements {
    async fn prepare(lease: &mut Lease) -> Result<Self, CatalogError> {
        let become_role = lease.prepare("", BECOME, 7).await?.statement;
        let insert_own_probes = match lease.prepare("", INSERT_OWN_PROBES, 3).await {
            Err(error) if error.is_broken() => return Err(error),
            prepared => prepared.map(|prepared| prepared.statement),
        };
        Ok(Statements { become_role, insert_own_probes })
    }
}

/// How far a conversation has got.
struct Hearing<'a, A> {
    questions: &'a [Arc<Question>],
    askers: &'a A,
    patience: Duration,
    /// The question whose answers are being heard.
    place: usize,
    /// The one for which others have been told that they wait.
    waited_for: Option<usize>,
    /// When the question before it had its answer.
    since: Instant,
}

impl<A: Askers> Hearing<'_, A> {
    async fn converse(&mut self, lease: &mut Lease) -> Result<Finished, CatalogError> {
        let statements = Statements::prepare(lease).await?;
        let lease = &*lease;
        let settings: Vec<ClaimSettings<'_>> =
            self.questions.iter().map(|question| ClaimSettings::new(&question.request.claims_json)).collect();
        let timeout = milliseconds(lease.statement_timeout());
        let savepoint = if self.questions.len() > 1 { "; SAVEPOINT asked" } else { "" };
        let begin = format!("BEGIN READ WRITE; SET LOCAL statement_timeout = {timeout}{savepoint}");

        let mut steps =
            vec![lease.batch_execute(&begin).map(|begun| Step::Begun(begun.map_err(Into::into))).boxed()];
        for (place, (question, claims)) in self.questions.iter().zip(&settings).enumerate() {
            question.put(lease, &statements, claims, &mut steps);
            let undo = if place + 1 == self.questions.len() { END } else { UNDO };
            let undone = lease.batch_execute(undo);
            steps.push(undone.map(|undone| Step::Undone(undone.map_err(Into::into))).boxed());
        }
        self.hear(Pipeline::send(steps).await).await
    }

    async fn hear(&mut self, mut pipeline: Pipeline<'_, Step>) -> Result<Finished, CatalogError> {
        let mut answer: Answer = Ok(ChannelRights::default());
        loop {
            match self.next(&mut pipeline).await? {
                Step::Begun(begun) => begun?,
                Step::Undone(undone) => {
                    undone?;
                    let took = self.since.elapsed();
                    self.since = Instant::now();
                    let answer = std::mem::replace(&mut answer, Ok(ChannelRights::default()));
                    if self.place + 1 == self.questions.len() {
                        return Ok(Finished { last: answer, took });
                    }
                    self.askers.answered(self.place, answer, took);
                    self.place += 1;
                }
                Step::Visible(probes, Ok(rows)) => {
                    for row in &rows {
                        let visible: &str = row.try_get(0)?;
                        let seen = probes.iter().filter(|probe| probe.id == visible);
                        seen.for_each(|probe| grant(&mut answer, probe.extension));
                    }
                }
                Step::Written(extension, Ok(())) => grant(&mut answer, extension),
                Step::Control(Ok(())) | Step::OwnProbes(Ok(())) => {}
                Step::Written(_, Err(error)) if is_denial(&error) => {}
                Step::OwnProbes(Err(error)) if is_denial(&error) => fail(&mut answer, may_not_probe(&error)),
                Step::Visible(_, Err(error))
                | Step::Control(Err(error))
                | Step::OwnProbes(Err(error))
                | Step::Written(_, Err(error)) => {
                    if error.is_broken() {
                        return Err(error);
                    }
                    fail(&mut answer, failure(error));
                }
            }
        }
    }

    /// The outcome of the next statement.
    async fn next(&mut self, pipeline: &mut Pipeline<'_, Step>) -> Result<Step, CatalogError> {
        loop {
            let others_wait = self.place + 1 < self.questions.len() && self.waited_for != Some(self.place);
            let limit = if others_wait { self.patience.min(STALL) } else { self.patience };
            match tokio::time::timeout(limit, pipeline.next()).await {
                Ok(Some(step)) => return Ok(step),
                // The last statement ends the conversation before.
                Ok(None) => return Err(CatalogError::Unexpected("no answer".to_owned())),
                Err(_) if others_wait && self.waited_for.is_none() => {
                    self.waited_for = Some(self.place);
                    self.askers.stalled(self.place + 1);
                }
                // Once is enough: all that are left are being asked elsewhere.
                Err(_) => return Err(CatalogError::Late(limit)),
            }
        }
    }
}

fn grant(answer: &mut Answer, extension: ChannelExtension) {
    if let Ok(rights) = answer {
        *right(rights, extension) = true;
    }
}

/// The first error is the one that counts: others follow from it.
fn fail(answer: &mut Answer, error: ChannelPolicyError) {
    if answer.is_ok() {
        *answer = Err(error);
    }
}

impl Question {
    /// Adds the statements of the question.
    fn put<'a>(
        &'a self,
        lease: &'a Lease,
        statements: &'a Statements,
        claims: &'a ClaimSettings<'_>,
        steps: &mut Vec<BoxFuture<'a, Step>>,
    ) {
        match self.action {
            ChannelAction::Read => {
                let probes: Vec<Probe> =
                    self.extensions.iter().map(|&extension| Probe::new(extension)).collect();
                let written = self.insert_own(lease, &statements.insert_own_probes, &probes);
                steps.push(written.map(Step::OwnProbes).boxed());
                steps.push(
                    self.become_role(lease, &statements.become_role, claims).map(Step::Control).boxed(),
                );
                steps.push(self.select(lease, probes).boxed());
            }
            ChannelAction::Write => {
                steps.push(
                    self.become_role(lease, &statements.become_role, claims).map(Step::Control).boxed(),
                );
                for &extension in &self.extensions {
                    steps.push(control(lease, "SAVEPOINT probe"));
                    let written = self.insert(lease, extension);
                    steps.push(written.map(move |outcome| Step::Written(extension, outcome)).boxed());
                    steps.push(control(lease, "ROLLBACK TO SAVEPOINT probe"));
                }
            }
        }
    }

    async fn become_role(
        &self,
        lease: &Lease,
        statement: &Statement,
        claims: &ClaimSettings<'_>,
    ) -> Result<(), CatalogError> {
        let [all, subject, role_claim, email] = claims.texts();
        let (topic, headers, role) = (&*self.request.topic, &*self.request.headers, self.role.as_str());
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&all, &subject, &role_claim, &email, &topic, &headers, &role];
        lease.execute(statement, &parameters).await?;
        Ok(())
    }

    fn insert_own<'a>(
        &'a self,
        lease: &'a Lease,
        statement: &'a Result<Statement, CatalogError>,
        probes: &[Probe],
    ) -> impl Future<Output = Result<(), CatalogError>> + Send + use<'a> {
        let ids: Vec<&str> = probes.iter().map(|probe| &*probe.id).collect();
        let extensions: Vec<&str> = self.extensions.iter().map(|one| one.as_str()).collect();
        let (ids, extensions) = (ids.join(","), extensions.join(","));
        async move {
            let statement = statement.as_ref().map_err(Clone::clone)?;
            lease.execute(statement, &[&&*self.request.topic, &ids, &extensions]).await?;
            Ok(())
        }
    }

    async fn select(&self, lease: &Lease, probes: Vec<Probe>) -> Step {
        let ids: Vec<&str> = probes.iter().map(|probe| &*probe.id).collect();
        let sql = if self.stored_as_written { SELECT_PROBES_OF_NOW } else { SELECT_PROBES };
        let visible = lease.query_typed(sql, &[(&ids, Type::TEXT_ARRAY)]).await;
        Step::Visible(probes, visible.map_err(Into::into))
    }

    async fn insert(&self, lease: &Lease, extension: ChannelExtension) -> Result<(), CatalogError> {
        let (topic, name) = (&*self.request.topic, extension.as_str());
        lease.query_typed(INSERT_PROBE, &[(&topic, Type::TEXT), (&name, Type::TEXT)]).await?;
        Ok(())
    }
}

impl Probe {
    fn new(extension: ChannelExtension) -> Self {
        Probe { id: Uuid::new_v4().to_string(), extension }
    }
}

fn control<'a>(lease: &'a Lease, sql: &'a str) -> BoxFuture<'a, Step> {
    lease.batch_execute(sql).map(|outcome| Step::Control(outcome.map_err(Into::into))).boxed()
}

/// Walcast's own role can not write the probes that reading takes.
fn may_not_probe(error: &CatalogError) -> ChannelPolicyError {
    ChannelPolicyError::NotInstalled(format!(
        "walcast's role may not write the rows to realtime.messages by which PostgreSQL is asked who may read a \
         private channel ({error}): let it own the table, or GRANT SELECT, INSERT on it and ALTER ROLE … BYPASSRLS"
    ))
}
