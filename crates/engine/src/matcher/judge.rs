//! From verdicts to yes and no: what PostgreSQL must tell is asked, what fails is a no, and is reported.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use walcast_pgoutput::Xid;
use walcast_policy::schema::Table;
use walcast_policy::{Answers, Oracle, OracleError, Verdict};

use super::docket::{Docket, Inquiry};
use super::ruling::{Judgement, Opinion, Receiver, kind_shown};
use crate::settings::Counters;

/// Causes of failure remembered so that each is logged once; beyond this the memory starts anew.
const REPORTED_CAUSES_MAX: usize = 1_000;

/// How long to wait, in milliseconds, before a question is put again to a database that is away: a minute
/// in all, which a restart takes at most. After that the row is withheld, and the cause reported.
const AWAY_PAUSES_MS: [u64; 12] =
    [50, 100, 250, 600, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000, 14_000];

pub(super) struct Judge {
    oracle: Arc<dyn Oracle>,
    counters: Arc<Counters>,
    /// Questions that are put to PostgreSQL at a time.
    questions_max: usize,
    reported: HashSet<String>,
    /// The transaction whose rows are judged, until PostgreSQL is known to show it to others.
    unseen: Option<Xid>,
    /// The transactions that something is to be asked about, likewise.
    asking: Vec<Xid>,
}

impl Judge {
    pub(super) fn new(oracle: Arc<dyn Oracle>, counters: Arc<Counters>, questions_max: usize) -> Self {
        Judge { oracle, counters, questions_max, reported: HashSet::new(), unseen: None, asking: Vec::new() }
    }

    /// So many audiences were decided in process.
    pub(super) fn decided(&self, audiences: u64) {
        self.counters.plan_decisions.fetch_add(audiences, Relaxed);
    }

    /// Turns to a transaction.
    pub(super) fn begin(&mut self, transaction: Xid) {
        self.unseen = Some(transaction);
    }

    /// What is asked next is about the transaction, too: it is asked of the database as that one left it.
    pub(super) fn will_ask(&mut self) {
        if let Some(transaction) = self.unseen
            && self.asking.last() != Some(&transaction)
        {
            self.asking.push(transaction);
        }
    }

    /// Another server has taken the place of the one that the transactions were of. Those that it has are visible there,
    /// and for those that it lacks nobody can wait.
    pub(super) fn forget(&mut self) {
        self.unseen = None;
        self.asking.clear();
    }

    /// Waits until the transactions that something is asked about are visible.
    ///
    /// All are waited for: they become visible in another order than that of their commits in the log, above all
    /// where some of them wait for a synchronous standby.
    pub(super) async fn transactions_visible(&mut self) -> Result<(), OracleError> {
        if self.asking.is_empty() {
            return Ok(());
        }
        self.oracle.visible(&self.asking).await?;
        if self.asking.last().copied() == self.unseen {
            self.unseen = None;
        }
        self.asking.clear();
        Ok(())
    }

    /// Puts all questions of a docket, several at a time, and waits for a database that is away: its log brings
    /// nothing new meanwhile, and what it brought before is not lost for a restart. One verdict for each ticket; those
    /// that nobody answered stay open.
    pub(super) async fn ask(&mut self, docket: Docket<'_>) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict::Ask; docket.tickets()];
        let inquiries = docket.into_inquiries();
        let mut pauses = AWAY_PAUSES_MS.iter();
        let seen = loop {
            match (self.transactions_visible().await, pauses.next()) {
                (Err(OracleError::Disconnected(reason)), Some(&pause)) => {
                    wait_for_database(&reason, pause).await;
                }
                (seen, _) => break seen,
            }
        };
        if let Err(error) = seen {
            self.asking.clear();
            for inquiry in &inquiries {
                self.report(inquiry.table, &error.to_string());
            }
            return verdicts;
        }
        let oracle = &*self.oracle;
        let mut puts: Vec<BoxFuture<'_, _>> = Vec::with_capacity(inquiries.len());
        for inquiry in &inquiries {
            self.counters.oracle_questions.fetch_add(1, Relaxed);
            puts.push(Box::pin(async move { (inquiry, put(oracle, inquiry).await) }));
        }
        let answered: Vec<_> = stream::iter(puts).buffer_unordered(self.questions_max).collect().await;
        for (inquiry, answers) in answered {
            match answers {
                Ok(answers) => inquiry.read(&answers, &mut verdicts),
                // Nobody sees the rows, and it is one failure.
                Err(error) => self.report(inquiry.table, &error.to_string()),
            }
        }
        verdicts
    }

    /// Whether an audience gets a change of which everything is known that can be.
    pub(super) fn conclude(&mut self, table: &Table, opinion: &Opinion) -> Option<Receiver> {
        let Opinion { slot, kind, after, before, both } = opinion;
        let Some(event) = both else {
            let visible = self.holds(table, &after.filter) && self.holds(table, &after.policies);
            return visible.then(|| Receiver {
                slot: *slot,
                kind: *kind,
                old_visible: self.holds(table, &before.policies),
            });
        };
        // A new row that nothing is known of has not left; an old one was not delivered, so that the new one enters.
        let after = self.in_sight(table, after)?;
        let before = self.in_sight(table, before) == Some(true);
        let kind = kind_shown(before, after).filter(|kind| event.includes(*kind))?;
        Some(Receiver { slot: *slot, kind, old_visible: before })
    }

    /// Whether an image is in sight; `None` where that could not be decided.
    fn in_sight(&mut self, table: &Table, judgement: &Judgement) -> Option<bool> {
        let visible = judgement.visible();
        // What fails counts only where nothing else hides the row.
        if visible.is_none() && self.may_hold(table, &judgement.filter) {
            self.may_hold(table, &judgement.policies);
        }
        visible
    }

    fn holds(&mut self, table: &Table, verdict: &Verdict) -> bool {
        *verdict != Verdict::Ask && self.may_hold(table, verdict)
    }

    /// Whether a verdict is a yes, or may become one. What fails is a no.
    pub(super) fn may_hold(&mut self, table: &Table, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Visible | Verdict::Ask => return true,
            Verdict::Hidden => {}
            Verdict::Missing { column } => {
                let name = table.columns.get(*column).map_or("?", |column| &column.name);
                let reason = format!(
                    "the decision needs column \"{name}\", which the log does not carry for this change; \
                     REPLICA IDENTITY FULL makes it"
                );
                self.report(table, &reason);
            }
            Verdict::Failed(reason) => self.report(table, reason),
        }
        false
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

/// Puts one question, again and again while the database is away.
async fn put(oracle: &dyn Oracle, inquiry: &Inquiry<'_>) -> Result<Vec<Answers>, OracleError> {
    let mut pauses = AWAY_PAUSES_MS.iter();
    loop {
        match (oracle.decide(inquiry.question(), &inquiry.claims).await, pauses.next()) {
            (Err(OracleError::Disconnected(reason)), Some(&pause)) => wait_for_database(&reason, pause).await,
            (answer, _) => return answer,
        }
    }
}

async fn wait_for_database(reason: &str, pause_ms: u64) {
    tracing::warn!(reason, "rows can not be judged while the database is away; they wait");
    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
}
