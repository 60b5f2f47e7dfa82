//! One expression decided over many rows for many claims.
//!
//! One statement decides a slice: some rows for one of the claims. If it raises, nobody knows for which
//! row, so it comes back as two halves in the next round, until the row that raises is alone; everything
//! else has its answer by then. Rounds, rather than one slice at a time to its end, because claims that
//! raise for every row must not keep those waiting that raise for none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use walcast_policy::{Answers, OracleError, Question};

use crate::catalog::Catalog;
use crate::error::CatalogError;
use crate::image::row_sets;
use crate::inquiry::Inquiry;
use crate::pool::Lease;
use crate::quoting::RoleName;
use crate::slices::{self, Asking, Part, Reply, Slice};
use crate::tempo::Tempo;

/// How many connections work on one decision.
const CONNECTIONS_MAX: usize = 4;

impl Catalog {
    /// The answers to a question, for each of the claims one for each row.
    pub(crate) async fn decide_in_sets(
        &self,
        question: Question<'_>,
        claims: &[Arc<str>],
    ) -> Result<Vec<Answers>, OracleError> {
        // Each of these is replaced below. There may be millions, so that even a reason would take its time.
        let unanswered = Err(OracleError::Unavailable(String::new()));
        let mut answers = vec![vec![unanswered; question.rows.len()]; claims.len()];
        if claims.is_empty() {
            return Ok(answers);
        }
        let snapshot = self.now();
        let role = RoleName::new(question.role)?;
        let (sets, refused) = row_sets(question.table, &snapshot.types, question.rows);
        for (row, error) in refused {
            for answers in &mut answers {
                answers[row] = Err(error.clone().into());
            }
        }
        let askings: Vec<Asking<'_>> = sets
            .iter()
            .map(|rows| {
                let sql = rows.question(question.expression);
                let inquiry = Inquiry { role: role.clone(), sql, parameters: 1, version: snapshot.version };
                Asking { inquiry, rows, claims, alone: sets.len() == 1 }
            })
            .collect();
        let tempo = Tempo::new(self.pool.settings().statement_timeout, self.pool.patience());
        let mut left = slices::all(&sets, claims.len());
        while !left.is_empty() {
            let replies = self.round(&askings, &tempo, left).await?;
            left = Vec::new();
            for (slice, reply) in replies {
                let members = &sets[slice.set].members()[slice.rows.clone()];
                let answers = &mut answers[slice.claims];
                match reply {
                    Reply::Rows(bits) => {
                        for (&row, bit) in members.iter().zip(bits.bytes()) {
                            answers[row] = Ok(bit == b'1');
                        }
                    }
                    Reply::Failed(error) => {
                        let error = OracleError::from(error);
                        for &row in members {
                            answers[row] = Err(error.clone());
                        }
                    }
                    Reply::Unclear => left.extend(slice.halves()),
                }
            }
        }
        Ok(answers)
    }

    /// Has a reply to each of the slices. Several connections take parts of them as they get on.
    async fn round(
        &self,
        askings: &[Asking<'_>],
        tempo: &Tempo,
        slices: Vec<Slice>,
    ) -> Result<Vec<(Slice, Reply)>, CatalogError> {
        let parts = slices::parts(askings, slices);
        let connections = parts.len().min(CONNECTIONS_MAX);
        let parts = Mutex::new(parts);
        let workers = (0..connections).map(|worker| self.work(worker == 0, &parts, tempo).boxed());
        Ok(try_join_all(workers).await?.into_iter().flatten().collect())
    }

    /// Takes parts until there are none. Only the first worker waits for a connection; the others help where
    /// one is to spare.
    async fn work(
        &self,
        first: bool,
        parts: &Mutex<VecDeque<Part<'_>>>,
        tempo: &Tempo,
    ) -> Result<Vec<(Slice, Reply)>, CatalogError> {
        let queue = || parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut replies = Vec::new();
        loop {
            let (part, lease) = if first {
                let Some(part) = queue().pop_front() else { break };
                (part, self.pool.lease().await)
            } else {
                let spare = if queue().is_empty() { None } else { self.pool.spare().await };
                let Some(lease) = spare else { break };
                let Some(part) = queue().pop_front() else {
                    lease.give_back();
                    break;
                };
                (part, Ok(lease))
            };
            match lease {
                Ok(lease) => replies.extend(self.finish(part, lease, tempo).await?),
                Err(error) if error.is_away() => return Err(error),
                // Waiting once more for each part would take long; what is answered already counts.
                Err(error) => {
                    let left = std::iter::once(part).chain(std::mem::take(&mut *queue()));
                    replies.extend(left.flat_map(|part| part.abandoned(&error)));
                    break;
                }
            }
        }
        Ok(replies)
    }

    /// Has a reply to everything in a part, over another connection where one turns out to be dead.
    async fn finish(
        &self,
        mut part: Part<'_>,
        mut lease: Lease,
        tempo: &Tempo,
    ) -> Result<Vec<(Slice, Reply)>, CatalogError> {
        let mut retries = self.pool.retries();
        loop {
            let outcome = part.converse(&mut lease, tempo).await;
            match retries.settle(lease, outcome) {
                Some(Ok(Ok(()))) => return Ok(part.replies()),
                // It may be that only the rows of this set lack a column.
                Some(Ok(Err(refused))) if !part.asking.alone => return Ok(part.abandoned(&refused)),
                Some(Ok(Err(refused))) => return Err(refused),
                Some(Err(error)) if error.is_away() => return Err(error),
                Some(Err(error)) => return Ok(part.abandoned(&error)),
                None => match self.pool.lease().await {
                    Ok(another) => lease = another,
                    Err(error) if error.is_away() => return Err(error),
                    Err(error) => return Ok(part.abandoned(&error)),
                },
            }
        }
    }
}
