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
        let nobody_said = Err(OracleError::Unavailable("no answer".to_owned()));
        let mut answers = vec![vec![nobody_said; question.rows.len()]; claims.len()];
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
                Asking { inquiry, rows, claims }
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
        let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let mut replies = Vec::new();
        loop {
            let lease = if first {
                self.pool.lease().await
            } else {
                let Some(lease) = self.pool.spare().await else { break };
                Ok(lease)
            };
            match (lease, next()) {
                (Ok(lease), Some(part)) => replies.extend(self.finish(part, lease, tempo).await?),
                (Ok(lease), None) => {
                    lease.give_back();
                    break;
                }
                (Err(error), _) if error.is_away() => return Err(error),
                // Waiting once more for each part would take long; what is answered already counts.
                (Err(error), part) => {
                    let left = part.into_iter().chain(std::iter::from_fn(next));
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
                Some(Ok(refused)) => return refused.map(|()| part.replies()),
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
