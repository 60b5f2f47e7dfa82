//! What one statement of a decision decides, and the conversation in which one connection decides many.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::Row;

use crate::error::CatalogError;
use crate::image::RowSet;
use crate::inquiry::{Ask, Inquiry, Outcome, Statements};
use crate::pool::Lease;
use crate::tempo::Tempo;

/// How many statements are sent before the answers are awaited.
const PIPELINED_MAX: usize = 64;

/// How many bytes of parameters are on their way at once.
const PIPELINED_BYTES: usize = 1 << 20;

/// One connection takes on so much before it is free for others; see [`Slice::work`].
const PART_WORK: usize = 1 << 15;

/// What a statement costs beside its rows, in rows that are cheap to decide.
const STATEMENT_WORK: usize = 64;

/// Some rows of a set, for one of the claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The index of the set.
    pub(crate) set: usize,
    /// The index of the claims.
    pub(crate) claims: usize,
    /// Which of the set's rows.
    pub(crate) rows: Range<usize>,
}

/// What became of a slice.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A `1` or a `0` for each row.
    Rows(String),
    /// This is the answer for each row.
    Failed(CatalogError),
    /// One of the rows raises, or all of them are too many.
    Unclear,
}

/// An expression over a set of rows.
pub(crate) struct Asking<'a> {
    pub(crate) inquiry: Inquiry,
    pub(crate) rows: &'a RowSet<'a>,
    pub(crate) claims: &'a [Arc<str>],
}

/// Every row for each of the claims, in slices as large as may be.
pub(crate) fn all(sets: &[RowSet<'_>], claims: usize) -> Vec<Slice> {
    let mut slices = Vec::new();
    for (set, rows) in sets.iter().enumerate() {
        for rows in rows.ranges() {
            slices.extend((0..claims).map(|claims| Slice { set, claims, rows: rows.clone() }));
        }
    }
    slices
}

/// The slices in parts for the connections to take.
pub(crate) fn parts<'a>(askings: &'a [Asking<'a>], slices: Vec<Slice>) -> VecDeque<Part<'a>> {
    let mut parts: VecDeque<Part<'a>> = VecDeque::new();
    let mut work = 0;
    let mut set = None;
    for slice in slices {
        let more = slice.work();
        match parts.back_mut() {
            Some(part) if set == Some(slice.set) && work + more <= PART_WORK => {
                work += more;
                part.pending.push_back(slice);
            }
            _ => {
                (work, set) = (more, Some(slice.set));
                let asking = &askings[slice.set];
                parts.push_back(Part {
                    asking,
                    pending: VecDeque::from([slice]),
                    failed: Vec::new(),
                    done: Vec::new(),
                });
            }
        }
    }
    parts
}

impl Slice {
    /// Roughly how much PostgreSQL has to do for it.
    fn work(&self) -> usize {
        self.rows.len() + STATEMENT_WORK
    }

    /// Both halves of a slice of several rows.
    pub(crate) fn halves(self) -> [Slice; 2] {
        let middle = self.rows.start + self.rows.len() / 2;
        let (first, second) = (self.rows.start..middle, middle..self.rows.end);
        [Slice { rows: first, ..self.clone() }, Slice { rows: second, ..self }]
    }
}

/// Slices of one set that one connection decides.
pub(crate) struct Part<'a> {
    asking: &'a Asking<'a>,
    /// What has no answer yet, in the order it is asked for.
    pending: VecDeque<Slice>,
    /// What raised an error that has yet to be understood.
    failed: Vec<(Slice, CatalogError)>,
    done: Vec<(Slice, Reply)>,
}

impl Part<'_> {
    /// What became of the slices.
    pub(crate) fn replies(self) -> Vec<(Slice, Reply)> {
        self.done
    }

    /// What became of them where the rest remains without an answer for this reason.
    pub(crate) fn abandoned(mut self, reason: &CatalogError) -> Vec<(Slice, Reply)> {
        for (slice, error) in self.failed {
            let error = if slice.rows.len() > 1 { reason.clone() } else { error };
            self.done.push((slice, Reply::Failed(error)));
        }
        self.done.extend(self.pending.into_iter().map(|slice| (slice, Reply::Failed(reason.clone()))));
        self.done
    }

    /// Asks for everything that has no answer yet. After an error, what was answered until then remains so, and
    /// the rest may be asked for over another connection.
    pub(crate) async fn converse(&mut self, lease: &mut Lease, tempo: &Tempo) -> Outcome<()> {
        self.take_back();
        let mut statements = match self.asking.inquiry.prepare(lease).await? {
            Ok(statements) => statements,
            Err(refused) => return Ok(Err(refused)),
        };
        while !self.pending.is_empty() {
            if let Err(refused) = self.ask(lease, &statements, tempo).await? {
                return Ok(Err(refused));
            }
            if self.failed.iter().any(|(_, error)| statements.may_be_stale(error)) {
                self.take_back();
                self.asking.inquiry.forget(lease);
                statements = match self.asking.inquiry.prepare(lease).await? {
                    Ok(statements) => statements,
                    Err(refused) => return Ok(Err(refused)),
                };
            }
            self.understand(lease, &statements, tempo).await?;
        }
        Ok(Ok(()))
    }

    fn take_back(&mut self) {
        self.pending.extend(self.failed.drain(..).map(|(slice, _)| slice));
    }

    /// Asks for as much as should be asked for at once.
    async fn ask(&mut self, lease: &Lease, statements: &Statements, tempo: &Tempo) -> Outcome<()> {
        let Asking { inquiry, rows, claims } = self.asking;
        let count = self.stride(tempo.rows_at_once());
        let Part { pending, failed, done, .. } = self;
        let mut parameters = HashMap::new();
        for slice in pending.range(..count) {
            parameters.entry(slice.rows.clone()).or_insert_with(|| rows.parameter(slice.rows.clone()));
        }
        let asks: Vec<Ask<'_>> = pending
            .range(..count)
            .map(|slice| Ask {
                claims: &claims[slice.claims],
                parameter: parameters.get(&slice.rows).map(String::as_str),
            })
            .collect();
        let mut since = Instant::now();
        let hear = |reply: Result<Option<String>, CatalogError>| {
            // Replies come in the order of what was asked.
            let Some(slice) = pending.pop_front() else { return Ok(()) };
            let now = Instant::now();
            let noted = tempo.note(slice.rows.len(), now - since, reply.is_err());
            since = now;
            match reply {
                Ok(bits) => {
                    let reply = Reply::read(bits.unwrap_or_default(), slice.rows.len());
                    done.push((slice, reply));
                }
                Err(error) => failed.push((slice, error)),
            }
            noted
        };
        inquiry.put(lease, statements, &asks, one_text, tempo.patience(), hear).await
    }

    /// How many of the pending slices to ask for at once; too large a one at their front is cut.
    fn stride(&mut self, rows_max: usize) -> usize {
        let (mut count, mut rows, mut bytes) = (0, 0, 0);
        while count < self.pending.len().min(PIPELINED_MAX) {
            let slice = &mut self.pending[count];
            if slice.rows.len() > rows_max {
                let rest = slice.rows.start + rows_max..slice.rows.end;
                slice.rows.end = rest.start;
                let rest = Slice { rows: rest, ..slice.clone() };
                self.pending.push_back(rest);
            }
            let slice = &self.pending[count];
            rows += slice.rows.len();
            bytes += self.asking.bytes(slice);
            if count > 0 && (rows > rows_max || bytes > PIPELINED_BYTES) {
                break;
            }
            count += 1;
        }
        count
    }

    /// Finds out what the errors mean.
    async fn understand(
        &mut self,
        lease: &Lease,
        statements: &Statements,
        tempo: &Tempo,
    ) -> Result<(), CatalogError> {
        let of_no_row = self.raised_without_rows(lease, statements, tempo).await?;
        for (slice, error) in self.failed.drain(..) {
            let may_be_one_row = slice.rows.len() > 1
                && (error.is_raised() || error.is_time_out())
                && of_no_row.as_ref() != Some(&error);
            self.done.push((slice, if may_be_one_row { Reply::Unclear } else { Reply::Failed(error) }));
        }
        Ok(())
    }

    /// The error that the expression raises even over no rows. A privilege that the role lacks is found
    /// missing before the first row (class 42); looking for a guilty row would be long, and in vain.
    async fn raised_without_rows(
        &self,
        lease: &Lease,
        statements: &Statements,
        tempo: &Tempo,
    ) -> Result<Option<CatalogError>, CatalogError> {
        let suspect = |(slice, error): &&(Slice, CatalogError)| {
            slice.rows.len() > 1 && error.code().is_some_and(|code| code.starts_with("42"))
        };
        let Some((slice, _)) = self.failed.iter().find(suspect) else {
            return Ok(None);
        };
        let Asking { inquiry, claims, .. } = self.asking;
        let asks = [Ask { claims: &claims[slice.claims], parameter: Some("[]") }];
        let mut raised = None;
        let hear = |reply: Result<_, CatalogError>| {
            raised = reply.err();
            Ok(())
        };
        let put = inquiry.put(lease, statements, &asks, one_text, tempo.patience(), hear).await?;
        // The transaction itself began a moment ago; where it is refused now, nothing has been found out.
        Ok(put.ok().and(raised))
    }
}

impl Asking<'_> {
    /// How much is sent for a slice.
    fn bytes(&self, slice: &Slice) -> usize {
        256 + self.claims[slice.claims].len() + self.rows.bytes(slice.rows.clone())
    }
}

impl Reply {
    /// An answer in which anything but one sign for each row would be a riddle.
    fn read(bits: String, rows: usize) -> Reply {
        if bits.len() == rows && bits.bytes().all(|bit| matches!(bit, b'0' | b'1')) {
            Reply::Rows(bits)
        } else {
            Reply::Failed(CatalogError::Unexpected(format!("{} answers for {rows} rows", bits.len())))
        }
    }
}

fn one_text(row: &Row) -> Result<Option<String>, tokio_postgres::Error> {
    row.try_get(0)
}
