//! Yes or no for many audiences and one row: plans and filters decide in process, PostgreSQL the rest.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use walcast_pgoutput::{PgTimestamp, Xid};
use walcast_policy::schema::Table;
use walcast_policy::{
    Answers, BoundPlan, Filter, MembersAt, Oracle, OracleError, Question, RowImage, Verdict,
};

use crate::settings::Counters;

/// Causes of failure remembered so that each is logged once; beyond this the memory starts anew.
const REPORTED_CAUSES_MAX: usize = 1_000;

/// How long to wait, in milliseconds, before a question is put again to a database that is away: a minute
/// in all, which a restart takes at most. After that the row is withheld, and the cause reported.
const AWAY_PAUSES_MS: [u64; 12] =
    [50, 100, 250, 600, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000, 14_000];

/// Something that decides about a row, and can be put to PostgreSQL as a question.
pub(super) trait Decider {
    fn evaluate(&self, row: &RowImage<'_>, now: PgTimestamp) -> Verdict;
    fn question(&self) -> Option<&str>;
}

impl Decider for BoundPlan {
    fn evaluate(&self, row: &RowImage<'_>, now: PgTimestamp) -> Verdict {
        BoundPlan::evaluate(self, row, now, MembersAt::none())
    }

    fn question(&self) -> Option<&str> {
        BoundPlan::question(self)
    }
}

impl Decider for Filter {
    fn evaluate(&self, row: &RowImage<'_>, _now: PgTimestamp) -> Verdict {
        Filter::evaluate(self, row)
    }

    fn question(&self) -> Option<&str> {
        Filter::question(self)
    }
}

/// A decider with the role and claims that PostgreSQL would be asked with.
pub(super) struct Case<'a, D> {
    pub(super) decider: &'a D,
    pub(super) role: &'a str,
    pub(super) claims: &'a Arc<str>,
}

/// What is judged.
#[derive(Clone, Copy)]
pub(super) struct Exhibit<'a> {
    pub(super) table: &'a Table,
    pub(super) row: &'a RowImage<'a>,
    /// The transaction's commit time, which `now()` means.
    pub(super) now: PgTimestamp,
}

pub(super) struct Judge {
    oracle: Arc<dyn Oracle>,
    counters: Arc<Counters>,
    reported: HashSet<String>,
    /// The transaction whose rows are judged, until PostgreSQL is known to show it to others.
    unseen: Option<Xid>,
}

impl Judge {
    pub(super) fn new(oracle: Arc<dyn Oracle>, counters: Arc<Counters>) -> Self {
        Judge { oracle, counters, reported: HashSet::new(), unseen: None }
    }

    /// Turns to a transaction: what is asked from now on is asked of the database as that one left it.
    pub(super) fn begin(&mut self, transaction: Xid) {
        self.unseen = Some(transaction);
    }

    /// Waits until the transaction is visible. Only what is asked of PostgreSQL need wait.
    pub(super) async fn transaction_visible(&mut self) -> Result<(), OracleError> {
        if let Some(transaction) = self.unseen {
            self.oracle.visible(transaction).await?;
            self.unseen = None;
        }
        Ok(())
    }

    /// One answer for each case, in their order. What fails is a no.
    pub(super) async fn decide<D: Decider>(
        &mut self,
        exhibit: Exhibit<'_>,
        cases: &[Case<'_, D>],
    ) -> Vec<bool> {
        let mut answers = vec![false; cases.len()];
        let mut asked = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            match case.decider.evaluate(exhibit.row, exhibit.now) {
                Verdict::Visible => answers[index] = true,
                Verdict::Hidden => {}
                Verdict::Ask => asked.push(index),
                Verdict::Missing { column } => self.report_missing(exhibit, column),
                Verdict::Failed(reason) => self.report(exhibit.table, &reason),
            }
        }
        while let Some(&first) = asked.first() {
            let same = |index: &usize| {
                cases[*index].role == cases[first].role
                    && cases[*index].decider.question() == cases[first].decider.question()
            };
            let (together, rest) = asked.into_iter().partition::<Vec<_>, _>(same);
            asked = rest;
            self.ask(exhibit, cases, &together, &mut answers).await;
        }
        answers
    }

    /// Puts one question for all its distinct claims.
    async fn ask<D: Decider>(
        &mut self,
        exhibit: Exhibit<'_>,
        cases: &[Case<'_, D>],
        together: &[usize],
        answers: &mut [bool],
    ) {
        let Some(expression) = together.first().and_then(|&index| cases[index].decider.question()) else {
            return;
        };
        let mut claims: Vec<Arc<str>> = Vec::new();
        let mut claims_index = Vec::with_capacity(together.len());
        for &index in together {
            let wanted = cases[index].claims;
            let known = claims.iter().position(|known| known == wanted).unwrap_or_else(|| {
                claims.push(Arc::clone(wanted));
                claims.len() - 1
            });
            claims_index.push(known);
        }
        let role = cases[together[0]].role;
        let rows = std::slice::from_ref(exhibit.row);
        let question = Question { role, table: exhibit.table, rows, expression };
        self.counters.oracle_questions.fetch_add(1, Relaxed);
        let verdicts = match self.put(question, &claims).await {
            Ok(verdicts) => verdicts,
            Err(error) => return self.report(exhibit.table, &error.to_string()),
        };
        for (&index, &known) in together.iter().zip(&claims_index) {
            match verdicts.get(known).and_then(|rows| rows.first()) {
                Some(Ok(answer)) => answers[index] = *answer,
                Some(Err(error)) => self.report(exhibit.table, &error.to_string()),
                None => self.report(exhibit.table, "the database gave no answer"),
            }
        }
    }

    /// Puts a question, and waits for a database that is away: its log brings nothing new meanwhile, and what
    /// it brought before is not lost for a restart.
    async fn put(
        &mut self,
        question: Question<'_>,
        claims: &[Arc<str>],
    ) -> Result<Vec<Answers>, OracleError> {
        let mut pauses = AWAY_PAUSES_MS.iter();
        loop {
            let answer = match self.transaction_visible().await {
                Ok(()) => self.oracle.decide(question, claims).await,
                Err(error) => Err(error),
            };
            match (answer, pauses.next()) {
                (Err(OracleError::Disconnected(reason)), Some(&pause)) => {
                    tracing::warn!(reason, "a row can not be judged while the database is away; it waits");
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                (answer, _) => return answer,
            }
        }
    }

    fn report_missing(&mut self, exhibit: Exhibit<'_>, column: usize) {
        let name = exhibit.table.columns.get(column).map_or("?", |column| &column.name);
        let reason = format!(
            "the decision needs column \"{name}\", which the log does not carry for this change; \
             REPLICA IDENTITY FULL makes it"
        );
        self.report(exhibit.table, &reason);
    }

    fn report(&mut self, table: &Table, reason: &str) {
        self.counters.failures.fetch_add(1, Relaxed);
        let cause = format!("{}.{}: {reason}", table.schema, table.name);
        if self.reported.len() >= REPORTED_CAUSES_MAX {
            self.reported.clear();
        }
        if self.reported.insert(cause) {
            tracing::warn!(
                code = "RlsPolicyError", schema = %table.schema, table = %table.name, reason,
                "a change was withheld because it could not be decided who may see it"
            );
        }
    }
}
