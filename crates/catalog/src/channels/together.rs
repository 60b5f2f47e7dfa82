//! Questions about channels that wait at the same moment are asked together.
//!
//! A question that finds a connection free has it at once, for itself. Those that come while all are busy wait, and
//! whoever has the next connection takes as many as it answers in a moment. So nothing is waited for that could have
//! been asked, and the busier PostgreSQL is, the less each question costs it.
//!
//! A policy that keeps PostgreSQL busy for longer than a moment, or ends its session, makes those behind it wait no
//! further: they are asked again, each for itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;
use walcast_policy::channel::{ChannelPolicyError, ChannelRights};

use super::failure::failure;
use super::probe::{self, Answer, Askers, BrokenOff, Finished, Question, STALL};
use crate::error::CatalogError;
use crate::pool::{Lease, Pool, Turn, within};

/// How many questions are asked together. Each writes, and PostgreSQL keeps up to 64 parts of a transaction that have
/// written where it finds them quickly.
const TOGETHER_MAX: usize = 32;

/// What is asked together should take so long at most.
const TOGETHER_FOR: Duration = Duration::from_millis(50);

/// What takes less altogether is not spread over several connections that are free.
const WORTH_SPREADING: Duration = Duration::from_millis(2);

/// What a question takes, while that is not known.
const PACE_AT_FIRST: Duration = Duration::from_micros(250);

/// The questions that wait for a connection. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Together(Arc<Shared>);

struct Shared {
    pool: Pool,
    line: Mutex<Line>,
}

struct Line {
    waiting: VecDeque<Waiting>,
    /// Somebody waits for a connection on behalf of all who are in the line. True whenever it is not empty.
    attended: bool,
    pace: Pace,
}

/// A question in the line.
#[derive(Clone)]
struct Waiting {
    question: Arc<Question>,
    asker: Arc<Asker>,
    /// How long a connection is waited for.
    until: Instant,
    /// Not together with others.
    alone: bool,
    /// How often it may be asked again because its connection turned out to be dead.
    retries: usize,
}

/// Whoever waits for an answer; the first that comes is it.
struct Asker(Mutex<Option<oneshot::Sender<Answer>>>);

impl Asker {
    fn tell(&self, answer: Answer) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Whoever has gone needs no answer.
        let _ = sender.map(|sender| sender.send(answer));
    }

    fn waits(&self) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }
}

impl Together {
    pub(crate) fn new(pool: Pool) -> Self {
        let line = Line { waiting: VecDeque::new(), attended: false, pace: Pace(PACE_AT_FIRST) };
        Together(Arc::new(Shared { pool, line: Mutex::new(line) }))
    }

    /// The answer of PostgreSQL.
    pub(super) async fn ask(&self, question: Question) -> Result<ChannelRights, ChannelPolicyError> {
        let pool = &self.0.pool;
        if pool.is_exhausted() {
            return Err(failure(CatalogError::PoolExhausted(Duration::ZERO)));
        }
        let (asker, answer) = oneshot::channel();
        let asker = Arc::new(Asker(Mutex::new(Some(asker))));
        let retries = pool.settings().pool_size.max(1);
        let (question, until) = (Arc::new(question), Instant::now() + pool.turn_patience());
        self.0.line_up(Waiting { question, asker, until, alone: false, retries });
        // Nobody drops a question without an answer, unless the whole program ends.
        let lost = |_| Err(failure(CatalogError::Broken("the question was dropped".to_owned())));
        let answered = answer.map(|answer| Ok(answer.unwrap_or_else(lost)));
        within(pool.patience(), answered).await.unwrap_or_else(|error| Err(failure(error)))
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line_up(self: &Arc<Self>, waiting: Waiting) {
        let mut line = self.line();
        line.waiting.push_back(waiting);
        self.attend(&mut line);
    }

    /// Puts questions that have waited already before all others, to be asked one by one. They wait for as long as
    /// their askers do: what was in their way may yet let them pass.
    fn again(self: &Arc<Self>, waiting: impl DoubleEndedIterator<Item = Waiting>) {
        let until = Instant::now() + self.pool.patience();
        let mut line = self.line();
        for one in waiting.rev() {
            line.waiting.push_front(Waiting { until, alone: true, ..one });
        }
        self.attend(&mut line);
    }

    /// Makes sure that somebody waits for a connection.
    fn attend(self: &Arc<Self>, line: &mut Line) {
        if !line.attended {
            line.attended = true;
            tokio::spawn(attend(Arc::clone(self)));
        }
    }

    /// When the first of those in the line gives up; `None`, and nobody attends any longer, where there is none.
    fn deadline(&self) -> Option<Instant> {
        let mut line = self.line();
        let waits = line.first().is_some();
        line.attended = waits;
        line.waiting.iter().map(|one| one.until).min().filter(|_| waits)
    }

    /// Tells those who have waited long enough.
    fn give_up(&self) {
        let now = Instant::now();
        self.line().waiting.retain(|one| {
            let goes_on = one.until > now;
            if !goes_on {
                one.asker.tell(Err(failure(self.pool.note_exhausted())));
            }
            goes_on
        });
    }

    /// Takes from the line what is to be asked over one connection, and has the rest attended by another.
    fn take(self: &Arc<Self>) -> Vec<Waiting> {
        let mut line = self.line();
        let taken = line.take(self.pool.free());
        line.attended = false;
        if !line.waiting.is_empty() {
            self.attend(&mut line);
        }
        taken
    }

    async fn converse(self: &Arc<Self>, turn: Turn, batch: Vec<Waiting>) {
        let mut lease = match self.pool.take_turn(turn).await {
            Ok(lease) => lease,
            Err(error) => {
                let error = failure(error);
                for one in &batch {
                    one.asker.tell(Err(error.clone()));
                }
                return;
            }
        };
        let questions: Vec<_> = batch.iter().map(|one| Arc::clone(&one.question)).collect();
        let asking = Asking { shared: self, batch: &batch };
        match probe::converse(&mut lease, &questions, self.pool.patience(), &asking).await {
            Ok(finished) => asking.finish(lease, finished),
            Err(broken_off) => {
                drop(lease);
                asking.ask_again_or_fail(&broken_off);
            }
        }
    }
}

/// Waits for a connection in the name of all, and asks what it takes on.
async fn attend(shared: Arc<Shared>) {
    while let Some(deadline) = shared.deadline() {
        let Some(turn) = shared.pool.turn_for_channel(deadline).await else {
            shared.give_up();
            continue;
        };
        let batch = shared.take();
        if !batch.is_empty() {
            shared.converse(turn, batch).await;
        }
        return;
    }
}

impl Line {
    /// The first who still waits for an answer.
    fn first(&mut self) -> Option<&Waiting> {
        while self.waiting.front().is_some_and(|first| !first.asker.waits()) {
            self.waiting.pop_front();
        }
        self.waiting.front()
    }

    /// Takes those from the front who are to be asked together where so many more connections are free.
    fn take(&mut self, free: usize) -> Vec<Waiting> {
        let count = self.pace.share(self.waiting.len(), free);
        let mut taken: Vec<Waiting> = Vec::new();
        while taken.len() < count
            && let Some(first) = self.first()
            && (taken.is_empty() || !first.alone)
            && let Some(first) = self.waiting.pop_front()
        {
            let alone = first.alone;
            taken.push(first);
            if alone {
                break;
            }
        }
        taken
    }
}

/// What PostgreSQL takes for a question, about.
#[derive(Clone, Copy, Debug)]
struct Pace(Duration);

impl Pace {
    /// The share of so many questions that one connection takes on where so many more are free.
    fn share(self, questions: usize, free: usize) -> usize {
        let within = |time: Duration| {
            let count = time.as_nanos() / self.0.as_nanos().max(1);
            usize::try_from(count).unwrap_or(usize::MAX).clamp(1, TOGETHER_MAX)
        };
        let spread = questions.div_ceil(free + 1);
        spread.max(within(WORTH_SPREADING)).min(within(TOGETHER_FOR)).min(questions)
    }

    /// Takes note of a question. The first of a batch has taken the way to PostgreSQL and back, too, so that it only
    /// says what a question takes at most, unless it took too long for that.
    fn note(&mut self, place: usize, took: Duration) {
        if place == 0 && took > self.0 && took < STALL {
            return;
        }
        // One that takes very long is no sign that all do.
        self.0 = (self.0 * 7 + took.min(STALL)) / 8;
    }
}

/// Those whose questions are being asked over one connection.
struct Asking<'a> {
    shared: &'a Arc<Shared>,
    batch: &'a [Waiting],
}

impl Asking<'_> {
    /// Tells the last, too, for whom nobody has to wait any longer.
    fn finish(&self, lease: Lease, finished: Finished) {
        lease.give_back();
        self.answered(self.batch.len() - 1, finished.last, finished.took);
    }

    /// What becomes of those without an answer. Each is asked for itself, so that at most one is to blame next time.
    fn ask_again_or_fail(&self, broken_off: &BrokenOff) {
        let BrokenOff { error, place, waited_for } = broken_off;
        let unanswered = match waited_for {
            None => &self.batch[*place..],
            Some(slow) if slow == place => &self.batch[*place..=*place],
            Some(_) => &[],
        };
        let (again, failed): (Vec<&Waiting>, Vec<&Waiting>) =
            unanswered.iter().partition(|one| match error {
                CatalogError::Broken(_) => one.retries > 0,
                CatalogError::Late(_) => false,
                _ => self.batch.len() > 1,
            });
        for one in failed {
            one.asker.tell(Err(failure(error.clone())));
        }
        let again = again.into_iter().cloned();
        self.shared.again(again.map(|one| Waiting { retries: one.retries.saturating_sub(1), ..one }));
    }
}

impl Askers for Asking<'_> {
    fn answered(&self, place: usize, answer: Answer, took: Duration) {
        self.shared.line().pace.note(place, took);
        self.batch[place].asker.tell(answer);
    }

    fn stalled(&self, place: usize) {
        self.shared.line().pace.note(place, STALL);
        self.shared.again(self.batch[place..].iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace(Duration::from_micros(250));

    #[test]
    fn one_that_comes_alone_is_asked_alone() {
        assert_eq!(PACE.share(1, 0), 1);
        assert_eq!(PACE.share(1, 4), 1);
    }

    #[test]
    fn the_busier_the_connections_the_more_are_asked_together() {
        assert_eq!(PACE.share(8, 4), 8, "two milliseconds of work are not worth a second connection");
        assert_eq!(PACE.share(100, 4), 20);
        assert_eq!(PACE.share(100, 0), TOGETHER_MAX);
        assert_eq!(PACE.share(10_000, 0), TOGETHER_MAX);
    }

    #[test]
    fn slow_questions_are_asked_one_by_one_until_they_are_fast_again() {
        let mut pace = PACE;
        for _ in 0..20 {
            pace.note(0, Duration::from_secs(2));
        }
        assert_eq!(pace.share(100, 0), 1);
        for _ in 0..40 {
            pace.note(0, Duration::from_micros(300));
        }
        assert_eq!(pace.share(100, 0), TOGETHER_MAX);
    }

    #[test]
    fn a_long_way_to_the_database_does_not_make_questions_slow() {
        let mut pace = PACE;
        for _ in 0..100 {
            pace.note(0, Duration::from_millis(100));
            pace.note(1, Duration::from_micros(300));
        }
        assert_eq!(pace.share(100, 0), TOGETHER_MAX);
    }
}
