//! Who comes back is told what it has missed (docs/protocol.md §5.7): the journal is gone through for this one channel,
//! before anything else of the log is. What is judged is the row as the log had it, and what judges it are the
//! policies, memberships and columns of now: nobody gets more than they may see at present.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap;
use walcast_pgoutput::{Oid, PgTimestamp, Relation};
use walcast_wire::{Binding, Position, Status};

use super::State;
use super::audience::Audiences;
use super::image::BoundRelation;
use super::show::Commit;
use crate::ingest::IngestError;
use crate::membership::Membership;
use crate::subscription::Placement;
use crate::transaction::Transaction;

/// The extension of what clients are told about positions.
const RESUME: &str = "resume";

/// What a join wants to know of positions.
pub(crate) struct Resume {
    /// By binding: behind which position it wants the changes that it has missed.
    since: Box<[Option<Position>]>,
}

/// A binding on one table that wants what it has missed.
#[derive(Clone)]
pub(super) struct Wish {
    since: Position,
    placement: Placement,
}

/// Why a channel is not told what it has missed. The client has to read anew what it shows.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gap {
    #[error("changes behind {since} are wanted, and those up to {begins_behind} are not kept any longer")]
    TooOld { since: Position, begins_behind: Position },
    #[error("changes behind {since} are wanted, and the log has only come to {here}")]
    Ahead { since: Position, here: Position },
    #[error("the columns of {schema}.{table} have changed since then")]
    Changed { schema: String, table: String },
    #[error("the database could not be asked about the bindings")]
    Undecided,
    #[error(transparent)]
    Unreadable(#[from] IngestError),
}

/// The way through the journal.
struct Course<'a> {
    membership: &'a Arc<Membership>,
    wishes: &'a [Wish],
    /// So many of them are being granted.
    granted: usize,
    met: Met,
}

/// The log's relations as they are met on the way, each bound to the catalog of now.
type Met = FxHashMap<Oid, (Arc<Relation>, Option<Arc<BoundRelation>>)>;

impl Resume {
    /// `None` where no binding wants to know anything.
    pub(crate) fn of(bindings: &[Binding]) -> Option<Resume> {
        let targets = || bindings.iter().map(|binding| binding.target.as_ref().ok());
        let asks = targets().flatten().any(|target| target.resume || target.since.is_some());
        let since = || targets().map(|target| target.and_then(|target| target.since)).collect();
        asks.then(|| Resume { since: since() })
    }

    /// The placements that want what they have missed, those who want least of it last.
    pub(super) fn wishes(&self, placements: &[Placement]) -> Vec<Wish> {
        let wish = |placement: &Placement| {
            let since = (*self.since.get(placement.binding)?)?;
            Some(Wish { since, placement: placement.clone() })
        };
        let mut wishes: Vec<Wish> = placements.iter().filter_map(wish).collect();
        wishes.sort_by_key(|wish| wish.since);
        wishes
    }

    pub(super) fn wants_changes(&self) -> bool {
        self.since.iter().any(Option::is_some)
    }
}

impl State {
    /// Tells a channel that has just been joined, and subscribed where `wishes` are given, what it has missed, and from
    /// where on it gets everything.
    pub(super) async fn resume(
        &mut self,
        membership: &Arc<Membership>,
        resume: &Resume,
        wishes: Option<Vec<Wish>>,
    ) {
        let Some(mut wishes) = wishes else {
            if resume.wants_changes() {
                self.tell_gap(membership, &Gap::Undecided).await;
            }
            return;
        };
        let here = Position::before(self.place());
        let mut gap = None;
        wishes.retain(|wish| match self.missing(wish, here) {
            None => true,
            Some(missing) => {
                gap.get_or_insert(missing);
                false
            }
        });
        if let Some(gap) = gap {
            self.tell_gap(membership, &gap).await;
        }
        if let Err(gap) = self.replay(membership, &wishes).await {
            self.tell_gap(membership, &gap).await;
        }
        self.tell(membership, RESUME, Status::Ok, format!("position {here}")).await;
    }

    async fn tell_gap(&self, membership: &Membership, gap: &Gap) {
        self.tell(membership, RESUME, Status::Error, format!("gap: refetch what is shown: {gap}")).await;
    }

    /// Why a wish can not be granted.
    fn missing(&self, wish: &Wish, here: Position) -> Option<Gap> {
        let since = wish.since;
        if since > here {
            return Some(Gap::Ahead { since, here });
        }
        // Before the log has begun nothing is known of any table.
        let begins_behind = self.journal.begins_behind(wish.placement.table).unwrap_or(here);
        (since < begins_behind).then_some(Gap::TooOld { since, begins_behind })
    }

    /// Hands what the wishes have missed to the channel's shard.
    async fn replay(&mut self, membership: &Arc<Membership>, wishes: &[Wish]) -> Result<(), Gap> {
        let Some(first) = wishes.first() else { return Ok(()) };
        let transactions = self.journal.behind(first.since);
        self.copies.begin();
        self.replayed_at = Some(present());
        // Nothing in here may look at the catalog anew: everybody else would be subscribed again, to no audience.
        let everybody = std::mem::take(&mut self.audiences);
        let mut course = Course { membership, wishes, granted: 0, met: Met::default() };
        let mut outcome = Ok(());
        for transaction in transactions {
            outcome = self.replay_transaction(&mut course, &transaction).await;
            if outcome.is_err() {
                break;
            }
        }
        self.settle().await;
        self.audiences = everybody;
        self.replayed_at = None;
        outcome
    }

    async fn replay_transaction(
        &mut self,
        course: &mut Course<'_>,
        transaction: &Transaction,
    ) -> Result<(), Gap> {
        let mut commit = Commit { time: transaction.commit_time, position: transaction.first };
        let mut changes = transaction.changes.reader();
        while let Some(chunk) = changes.next().await? {
            for (index, change) in chunk.changes.iter().enumerate() {
                if course.has_more_due(commit.position) {
                    // What waits knows its audience by its place among the former ones.
                    self.settle().await;
                    self.audiences = course.audiences();
                }
                if self.audiences.of(change.relation.oid).is_some()
                    && let Some(relation) = self.relation_of_now(&change.relation, course)?
                {
                    self.decide(relation, &chunk, index, commit).await;
                }
                commit.position = commit.position.next();
            }
            self.flush().await;
        }
        Ok(())
    }

    /// The catalog's side of a relation that the log had; a gap where they have grown apart.
    fn relation_of_now(
        &self,
        relation: &Arc<Relation>,
        course: &mut Course<'_>,
    ) -> Result<Option<Arc<BoundRelation>>, Gap> {
        if let Some((known, bound)) = course.met.get(&relation.oid)
            && Arc::ptr_eq(known, relation)
        {
            return Ok(bound.clone());
        }
        let bound = match self.relations.get(&relation.oid) {
            // That is how changes are shown now, be it without a column that the publication leaves out.
            Some((known, bound)) if known == relation => bound.clone(),
            _ => {
                let bound = self.bind_relation(relation);
                if let Some(bound) = bound.as_ref().filter(|bound| !bound.agrees) {
                    let (schema, table) = (bound.table.schema.clone(), bound.table.name.clone());
                    return Err(Gap::Changed { schema, table });
                }
                bound
            }
        };
        course.met.insert(relation.oid, (Arc::clone(relation), bound.clone()));
        Ok(bound)
    }
}

impl Course<'_> {
    /// Whether more wishes are to be granted from this position on.
    fn has_more_due(&mut self, position: Position) -> bool {
        let due = self.wishes.partition_point(|wish| wish.since < position);
        std::mem::replace(&mut self.granted, due) != due
    }

    /// Audiences of the channel alone, its bindings in their order.
    fn audiences(&self) -> Audiences {
        let granted = &self.wishes[..self.granted];
        let mut placements: Vec<Placement> = granted.iter().map(|wish| wish.placement.clone()).collect();
        placements.sort_by_key(|placement| placement.binding);
        let mut audiences = Audiences::default();
        audiences.insert(self.membership, placements);
        audiences
    }
}

fn present() -> PgTimestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PgTimestamp::from_unix_microseconds(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}
