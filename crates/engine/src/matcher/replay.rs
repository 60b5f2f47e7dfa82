//! Who comes back is told what it has missed (docs/protocol.md §5.7): the journal is gone through for this one channel,
//! a slice at a time. What is judged is the row as the log had it, and what judges it are the policies, memberships
//! and columns of now: nobody gets more than they may see at present. Where all that the channel wants are rows with
//! certain values, those are found by the journal's indexes, and the others are not even looked at.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap;
use tokio::time::Instant;
use walcast_pgoutput::{Lsn, Oid, PgTimestamp, Relation};
use walcast_wire::{Frame, Position};

use super::State;
use super::audience::Audiences;
use super::catch_up::{CatchUp, Gap, Wish};
use super::image::BoundRelation;
use super::journal::{Described, Places, Sought};
use super::show::Commit;
use crate::command::FromLog;
use crate::ingest::IngestError;
use crate::membership::Membership;
use crate::subscription::Placement;
use crate::transaction::{ChangesReader, Chunk, ChunkMark, Transaction};

/// A slice ends at so many changes that were decided, …
const CHANGES_MAX: usize = 1_000;
/// … at so many that were looked at, …
const LOOKS_MAX: usize = 20_000;
/// … at so many transactions, those included that concern nobody here, …
const TRANSACTIONS_MAX: usize = 10_000;
/// … or after so long, whatever it has found.
const TIME_MAX: Duration = Duration::from_millis(2);

/// So many changes are looked for by their values at once.
const PLACES_MAX: usize = 512;

/// So many chunks of files are kept in memory while somebody catches up …
const READ_CHUNKS_MAX: usize = 8;
/// … unless they are larger than that, as one with a single large row may be.
const READ_CHUNK_BYTES_MAX: usize = 4 << 20;

/// What one slice of the journal came to.
pub(super) struct Slice {
    /// What the channel is sent.
    pub(super) frames: Vec<Frame>,
    pub(super) bytes: usize,
    /// Nothing of the journal is left, as far as it is to be gone through.
    pub(super) is_last: bool,
    /// What stands in the way.
    pub(super) gap: Option<Gap>,
}

/// Chunks of files that were read last: a slice mostly goes on in the chunk in which another one has ended.
#[derive(Default)]
pub(super) struct ChunksRead(VecDeque<ChunkRead>);

struct ChunkRead {
    commit_lsn: Lsn,
    /// How many blocks of the file were left in front of it.
    blocks_left: usize,
    chunk: Arc<Chunk>,
    behind: ChunkMark,
}

/// Where a slice ended in the middle of a transaction.
pub(super) struct Bookmark {
    commit_lsn: Lsn,
    chunk: ChunkMark,
    /// The position of the first change of the next chunk.
    next: Position,
}

/// The way through a slice.
struct Course<'a> {
    catch_up: &'a mut CatchUp,
    /// By wish: whether it is granted.
    granted: Vec<bool>,
    /// From this position on that has to be looked at again.
    granted_until: Position,
    /// The transaction that it is at.
    transaction: Option<Lsn>,
    met: Met,
    /// What the granted wishes want. Most rows are for others, and not even read.
    wanted: Wanted,
    /// What all wishes want, granted or not, once that is asked for.
    wanted_by_all: Option<Arc<Wanted>>,
    /// Up to here it can not be found by values.
    unindexed_up_to: Position,
    ends_at: Instant,
    bytes_max: usize,
    looked_at: usize,
    decided: usize,
    bytes: usize,
    /// Frames that have been counted.
    counted: usize,
}

/// By table: the values one of which a new row must have to be for the channel.
type Wanted = FxHashMap<Oid, Vec<(usize, Box<str>)>>;

/// The log's relations as they are met on the way, each bound to the catalog of now.
type Met = FxHashMap<Oid, (Arc<Relation>, Option<Arc<BoundRelation>>)>;

impl State {
    /// Goes on through the journal for a channel, as far as one slice reaches.
    pub(super) async fn replay(&mut self, catch_up: &mut CatchUp, bytes_max: usize) -> Slice {
        self.copies.begin();
        self.replayed_at = Some(present());
        // Nothing in here may look at the catalog anew: everybody else would be subscribed again, to no audience.
        let everybody = std::mem::take(&mut self.audiences);
        let shard = catch_up.membership.shard.index();
        let outcome = self.replay_slice(&mut Course::new(catch_up, bytes_max)).await;
        self.show_held().await;
        self.audiences = everybody;
        self.replayed_at = None;
        self.outgoing_since = None;
        let shown = std::mem::take(&mut self.outgoing[shard]);
        let frames: Vec<Frame> = shown.into_iter().filter_map(change_frame).collect();
        let bytes = frames.iter().map(Frame::len).sum();
        let (is_last, gap) = match outcome {
            Ok(is_last) => (is_last, None),
            Err(gap) => (false, Some(gap)),
        };
        Slice { frames, bytes, is_last, gap }
    }

    /// `true`: nothing of the journal is left.
    async fn replay_slice(&mut self, course: &mut Course<'_>) -> Result<bool, Gap> {
        for _ in 0..TRANSACTIONS_MAX {
            let (at, until) = (course.catch_up.at, course.catch_up.until());
            let Some(kept) = self.journal.next_between(at, until) else { return Ok(true) };
            let (last, is_wanted) = (kept.last, course.catch_up.wants_any(&kept.tables));
            let transaction = Arc::clone(&kept.transaction);
            if let Some(found) = self.find_wanted(course) {
                if !self.replay_found(course, &found).await? || course.is_late() {
                    return Ok(false);
                }
                continue;
            }
            if is_wanted && !self.replay_transaction(course, &transaction).await? {
                return Ok(false);
            }
            course.catch_up.at = last;
            course.catch_up.bookmark = None;
        }
        Ok(false)
    }

    /// What comes next and may be for the channel, where the journal finds that by its values. `None` where every change of
    /// the next transaction has to be looked at.
    fn find_wanted(&mut self, course: &mut Course<'_>) -> Option<Places> {
        let between = course.catch_up.at..course.catch_up.until();
        if between.start < course.unindexed_up_to {
            return None;
        }
        let Described { relations, up_to } = self.journal.described_behind(between.start)?;
        course.unindexed_up_to = up_to;
        let wanted = course.wanted_by_all();
        let mut sought = Vec::new();
        for relation in &relations {
            if !course.catch_up.wants_any(&[relation.oid]) {
                continue;
            }
            // Where one of them is a gap, that is found in its place.
            let Some(bound) = self.relation_of_now(relation, course).ok()? else { continue };
            for (column, value) in wanted.get(&relation.oid)? {
                sought.push(Sought { table: relation.oid, column: bound.logged(*column)?, value });
            }
        }
        let found = self.journal.places(&sought, between, PLACES_MAX)?;
        course.unindexed_up_to = Position::default();
        Some(found)
    }

    /// `false`: the slice has ended before one of the places.
    async fn replay_found(&mut self, course: &mut Course<'_>, found: &Places) -> Result<bool, Gap> {
        for place in &found.places {
            if course.is_over() {
                return Ok(false);
            }
            if let Some((transaction, chunk)) = self.journal.find(place) {
                self.look_at(course, &transaction, &chunk, place.index, place.position).await?;
            }
        }
        course.catch_up.at = found.up_to;
        course.catch_up.bookmark = None;
        Ok(true)
    }

    /// `false`: the slice has ended before the transaction.
    async fn replay_transaction(
        &mut self,
        course: &mut Course<'_>,
        transaction: &Transaction,
    ) -> Result<bool, Gap> {
        let (mut changes, mut position) = course.catch_up.reader(transaction);
        loop {
            let (chunk_mark, next) = (changes.mark(), position);
            let Some(chunk) = self.chunks_read.next(transaction, &mut changes).await? else {
                return Ok(true);
            };
            for index in 0..chunk.changes.len() {
                if position > course.catch_up.at {
                    if course.is_over() {
                        let commit_lsn = transaction.first.commit_lsn;
                        course.catch_up.bookmark = Some(Bookmark { commit_lsn, chunk: chunk_mark, next });
                        return Ok(false);
                    }
                    self.look_at(course, transaction, &chunk, index, position).await?;
                }
                position = position.next();
            }
        }
    }

    /// Looks at the next change, and decides it if it may be for the channel.
    async fn look_at(
        &mut self,
        course: &mut Course<'_>,
        transaction: &Transaction,
        chunk: &Arc<Chunk>,
        index: usize,
        position: Position,
    ) -> Result<(), Gap> {
        if course.grants_others(position, transaction) {
            // What waits knows its audience by its place among the former ones.
            self.show_held().await;
            self.audiences = course.audiences();
        }
        let change = &chunk.changes[index];
        let oid = change.relation.oid;
        if self.audiences.of(oid).is_some()
            && let Some(relation) = self.relation_of_now(&change.relation, course)?
            && course.wanted.get(&oid).is_none_or(|wanted| relation.may_have(&change.row, wanted))
        {
            course.decided += 1;
            let commit = Commit { time: transaction.commit_time, position };
            self.decide(relation, chunk, index, commit).await;
            let held = self.window.changes.len() * chunk.bytes / chunk.changes.len();
            let shard = course.catch_up.membership.shard.index();
            course.weigh(&self.outgoing[shard], held);
        }
        course.looked_at += 1;
        course.catch_up.at = position;
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
                    return Err(Gap::Changed(Arc::clone(&bound.table)));
                }
                bound
            }
        };
        course.met.insert(relation.oid, (Arc::clone(relation), bound.clone()));
        Ok(bound)
    }
}

impl ChunksRead {
    /// Reads the next chunk, if it has not been read lately.
    async fn next<'a>(
        &mut self,
        transaction: &'a Transaction,
        changes: &mut ChangesReader<'a>,
    ) -> Result<Option<Arc<Chunk>>, IngestError> {
        let commit_lsn = transaction.first.commit_lsn;
        let Some(blocks_left) = changes.mark().blocks_left() else { return changes.next().await };
        let is_it = |read: &&ChunkRead| (read.commit_lsn, read.blocks_left) == (commit_lsn, blocks_left);
        if let Some(read) = self.0.iter().find(is_it) {
            *changes = transaction.changes.reader_at(&read.behind);
            return Ok(Some(Arc::clone(&read.chunk)));
        }
        let Some(chunk) = changes.next().await? else { return Ok(None) };
        if chunk.bytes <= READ_CHUNK_BYTES_MAX {
            self.0.truncate(READ_CHUNKS_MAX - 1);
            let (chunk, behind) = (Arc::clone(&chunk), changes.mark());
            self.0.push_front(ChunkRead { commit_lsn, blocks_left, chunk, behind });
        }
        Ok(Some(chunk))
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl CatchUp {
    /// The changes of a transaction from the chunk on that comes next, and the position of the first of them.
    fn reader<'a>(&self, transaction: &'a Transaction) -> (ChangesReader<'a>, Position) {
        match &self.bookmark {
            Some(Bookmark { commit_lsn, chunk, next }) if *commit_lsn == transaction.first.commit_lsn => {
                (transaction.changes.reader_at(chunk), *next)
            }
            _ => (transaction.changes.reader(), transaction.first),
        }
    }
}

impl<'a> Course<'a> {
    fn new(catch_up: &'a mut CatchUp, bytes_max: usize) -> Self {
        Course {
            catch_up,
            granted: Vec::new(),
            granted_until: Position::default(),
            transaction: None,
            met: Met::default(),
            wanted: Wanted::default(),
            wanted_by_all: None,
            unindexed_up_to: Position::default(),
            ends_at: Instant::now() + TIME_MAX,
            bytes_max,
            looked_at: 0,
            decided: 0,
            bytes: 0,
            counted: 0,
        }
    }

    fn is_over(&self) -> bool {
        const LOOKS_AT_THE_CLOCK: usize = 16;
        // One change is always gone through, however large it is and however late.
        self.looked_at > 0
            && (self.decided >= CHANGES_MAX
                || self.looked_at >= LOOKS_MAX
                || self.bytes >= self.bytes_max
                || self.looked_at.is_multiple_of(LOOKS_AT_THE_CLOCK) && self.is_late())
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.ends_at
    }

    /// Accounts for the frames that have been made, and for the bytes of what waits for the database.
    fn weigh(&mut self, made: &[FromLog], held_bytes: usize) {
        for item in made.get(self.counted..).unwrap_or_default() {
            if let FromLog::Change(delivery) = item {
                self.bytes += delivery.frame.len();
            }
        }
        self.counted = made.len();
        if held_bytes >= self.bytes_max {
            self.bytes = self.bytes.max(held_bytes);
        }
    }

    /// Whether other wishes are to be granted from this position on than before.
    fn grants_others(&mut self, position: Position, transaction: &Transaction) -> bool {
        // Another transaction may be seen by another part of the wishes.
        let is_same =
            self.transaction.replace(transaction.first.commit_lsn) == Some(transaction.first.commit_lsn);
        if is_same && position < self.granted_until {
            return false;
        }
        let wishes = &self.catch_up.wishes;
        let later = wishes.iter().map(|wish| wish.since).filter(|since| *since >= position).min();
        self.granted_until = later.map_or(Position::MAX, Position::next);
        let granted: Vec<bool> = wishes.iter().map(|wish| wish.is_for(position, transaction.xid)).collect();
        std::mem::replace(&mut self.granted, granted) != self.granted
    }

    /// Audiences of the channel alone, and what they want.
    fn audiences(&mut self) -> Audiences {
        let granted = self.catch_up.wishes.iter().zip(&self.granted).filter(|(_, granted)| **granted);
        let (audiences, wanted) = audiences(&self.catch_up.membership, granted.map(|(wish, _)| wish));
        self.wanted = wanted;
        audiences
    }

    fn wanted_by_all(&mut self) -> Arc<Wanted> {
        let catch_up = &self.catch_up;
        let wanted = || Arc::new(audiences(&catch_up.membership, &catch_up.wishes).1);
        Arc::clone(self.wanted_by_all.get_or_insert_with(wanted))
    }
}

/// Audiences of a channel alone, and what they want.
fn audiences<'a>(
    membership: &Arc<Membership>,
    wishes: impl IntoIterator<Item = &'a Wish>,
) -> (Audiences, Wanted) {
    let placements: Vec<Placement> = wishes.into_iter().map(|wish| wish.placement.clone()).collect();
    let mut audiences = Audiences::default();
    let tables: Vec<Oid> = placements.iter().map(|placement| placement.table).collect();
    audiences.insert(membership, placements);
    let wanted = |oid: Oid| Some((oid, audiences.of(oid)?.wanted_values()?));
    let wanted = tables.into_iter().filter_map(wanted).collect();
    (audiences, wanted)
}

fn change_frame(item: FromLog) -> Option<Frame> {
    match item {
        FromLog::Change(delivery) => Some(delivery.frame),
        FromLog::Message(_) => None,
    }
}

pub(super) fn present() -> PgTimestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PgTimestamp::from_unix_microseconds(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}
