//! Channels that come back and are behind the log (docs/protocol.md §5.7). Each has a cursor into the journal, which
//! goes on in slices between two transactions of the log, one channel after the other, and only when the channel's
//! shard has room for what it finds. While a channel is behind nothing live goes to it: that is in the journal, and
//! the cursor comes to it. At the end of the journal the channel becomes live in the same step.

mod turns;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use walcast_pgoutput::{Lsn, Oid, Xid};
use walcast_policy::TransactionSnapshot;
use walcast_policy::schema::Table;
use walcast_wire::{Binding, BindingTarget, Frame, Position, Status};

pub(super) use self::turns::CatchUps;
use super::State;
use super::entries::{Entry, Standing};
use super::replay::{self, Bookmark, Slice};
use super::snapshots::{Alignment, SnapshotTask};
use crate::command::{Command, Delivery, Feed, FromLog, Targets};
use crate::ids::ChannelId;
use crate::ingest::IngestError;
use crate::membership::Membership;
use crate::subscription::Placement;

/// The extension of what clients are told about positions.
const RESUME: &str = "resume";

/// A slice has about so many bytes of frames at most, …
pub(super) const SLICE_BYTES_MAX: usize = 64 << 10;
/// … and no more than one in so many parts of an outbound queue, as much as its shard keeps free for it.
const QUEUE_PART: usize = 4;

/// While the log brings something, it is handled for so many times the time that a slice has taken before the next
/// one is.
const LOG_SHARE: u32 = 3;

/// What a join wants to know of positions.
pub(crate) struct Resume {
    /// By binding: behind which position it wants the changes that it has missed.
    since: Box<[Option<Position>]>,
    /// Whether it is to be told from where on it gets everything.
    tells_position: bool,
    /// Whether its shard is to be told when it has been told everything: it is the server who knows where it was.
    tells_shard: bool,
}

/// A channel that is behind.
pub(super) struct CatchUp {
    pub(super) membership: Arc<Membership>,
    /// By binding: what it has been told up to here when the channel was joined.
    origins: Box<[Position]>,
    /// In the order of the bindings.
    pub(super) wishes: Vec<Wish>,
    /// Everything up to here has been looked at.
    pub(super) at: Position,
    pub(super) bookmark: Option<Bookmark>,
    tells_position: bool,
    tells_shard: bool,
    /// What has been found in the last slice, to be told behind its frames.
    gap: Option<Gap>,
    /// What its snapshot shows was committed before this.
    reached: Lsn,
    /// What reads its rows and sends them.
    pub(super) task: Option<SnapshotTask>,
    /// The rows have been read and stand at this position. What other bindings are told up to there comes first; then
    /// the task is told to go on.
    pub(super) before_rows: Option<(Position, oneshot::Sender<Alignment>)>,
    /// Its bindings are not what they were when it was asked for.
    has_changed: bool,
    stage: Stage,
}

/// A binding on one table.
pub(super) struct Wish {
    /// It wants what is behind this.
    pub(super) since: Position,
    rows: Rows,
    pub(super) placement: Placement,
}

/// Whether a binding begins with rows.
#[derive(Clone)]
enum Rows {
    /// It does not, or can not.
    None,
    /// They have not been read yet; what is not among them is not known, so that no change is for the binding.
    Awaited,
    /// They have been, and show some transactions already. What the journal has forgotten up to `forgotten` is among
    /// those.
    Read { snapshot: Arc<TransactionSnapshot>, forgotten: Position },
}

/// What a channel that is behind waits for.
enum Stage {
    /// Its bindings to be placed.
    Begun,
    /// The rows that it begins with have been read, or have been sent.
    Rows,
    /// The log has gone on.
    Log,
    /// Its turn.
    Ready,
    /// Room in its session's queue, which is asked for once more each time.
    Room(u64),
}

/// Why a channel is not told what it has missed. The client has to read anew what it shows.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gap {
    #[error("changes behind {since} are wanted, and those up to {begins_behind} are not kept any longer")]
    TooOld { since: Position, begins_behind: Position },
    #[error("changes behind {since} are wanted, and the log has only come to {here}")]
    Ahead { since: Position, here: Position },
    #[error("the columns of {}.{} have changed since then", .0.schema, .0.name)]
    Changed(Arc<Table>),
    #[error("the database could not be asked about the bindings")]
    Undecided,
    #[error(transparent)]
    Unreadable(#[from] IngestError),
}

impl Resume {
    /// `resume_from` counts as `since` of each binding without one. `None` where there is nothing to do or to tell.
    pub(crate) fn of(bindings: &[Binding], resume_from: Option<Position>) -> Option<Resume> {
        let targets = || bindings.iter().map(|binding| binding.target.as_ref().ok());
        let tells_position = targets().flatten().any(|target| target.resume || target.since.is_some());
        let snapshot = targets().flatten().any(|target| target.snapshot);
        let since = |target: &BindingTarget| target.since.or(resume_from.filter(|_| !target.snapshot));
        let since = || targets().map(|target| target.and_then(since)).collect();
        let tells_shard = resume_from.is_some();
        (tells_position || snapshot || tells_shard).then(|| Resume {
            since: since(),
            tells_position,
            tells_shard,
        })
    }

    pub(super) fn wants_changes(&self) -> bool {
        self.since.iter().any(Option::is_some)
    }
}

impl CatchUp {
    /// A channel whose bindings have yet to be [placed](CatchUp::place). Those that want nothing they have missed are
    /// told what comes from `here` on, which the others come to, too.
    pub(super) fn new(membership: &Arc<Membership>, resume: &Resume, here: Position) -> Self {
        CatchUp {
            membership: Arc::clone(membership),
            origins: resume.since.iter().map(|since| since.unwrap_or(here)).collect(),
            wishes: Vec::new(),
            at: Position::default(),
            bookmark: None,
            tells_position: resume.tells_position,
            tells_shard: resume.tells_shard,
            gap: None,
            reached: Lsn::ZERO,
            task: None,
            before_rows: None,
            has_changed: false,
            stage: Stage::Begun,
        }
    }

    /// Takes over how the bindings are resolved now. What a binding has been told of a table stays.
    pub(super) fn place(&mut self, placements: Vec<Placement>) {
        let former = std::mem::take(&mut self.wishes);
        let same = former.iter().map(|wish| &wish.placement);
        self.has_changed |= !former.is_empty() && !same.eq(&placements);
        // A table that joins those of a wildcard later is live.
        let first = former.is_empty();
        let since = |placement: &Placement| {
            let is_it = |wish: &&Wish| {
                (wish.placement.binding, wish.placement.table) == (placement.binding, placement.table)
            };
            let known = former.iter().find(is_it).map(|wish| (wish.since, wish.rows.clone()));
            let origin = || self.origins.get(placement.binding).copied().unwrap_or(self.at);
            let rows = if placement.snapshot.is_some() && first { Rows::Awaited } else { Rows::None };
            known.unwrap_or_else(|| (origin(), rows))
        };
        let wish = |placement: Placement| {
            let (since, rows) = since(&placement);
            Wish { since, rows, placement }
        };
        self.wishes = placements.into_iter().map(wish).collect();
    }

    /// Rows have been read for the bindings that begin with them: they stand at this position of the log, and show
    /// what the journal has forgotten.
    pub(super) fn align(
        &mut self,
        position: Position,
        snapshot: &Arc<TransactionSnapshot>,
        reached: Lsn,
        forgotten: impl Fn(Oid) -> Position,
    ) {
        let at = self.at;
        for wish in &mut self.wishes {
            if wish.awaits_rows() {
                let forgotten = forgotten(wish.placement.table);
                wish.rows = Rows::Read { snapshot: Arc::clone(snapshot), forgotten };
                wish.since = position;
            } else {
                wish.since = wish.since.max(at);
            }
        }
        self.reached = reached;
        if position < self.at {
            self.at = position;
            self.bookmark = None;
        }
    }

    /// The rows that have been read are not the ones that it should begin with.
    pub(super) fn await_rows_again(&mut self) {
        self.before_rows = None;
        for wish in self.wishes.iter_mut().filter(|wish| matches!(wish.rows, Rows::Read { .. })) {
            wish.rows = Rows::Awaited;
        }
    }

    /// There will be no rows.
    pub(super) fn go_without_rows(&mut self) {
        for wish in self.wishes.iter_mut().filter(|wish| wish.awaits_rows()) {
            wish.rows = Rows::None;
            wish.since = wish.since.max(self.at);
        }
    }

    /// Whether its bindings are not what they were when it was last asked.
    pub(super) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// How far the journal is gone through now: up to the position of the rows, before they come.
    pub(super) fn until(&self) -> Position {
        self.before_rows.as_ref().map_or(Position::MAX, |(position, _)| *position)
    }

    /// No more rows are sent.
    pub(super) fn end_task(&mut self) {
        self.task = None;
        self.before_rows = None;
    }

    fn awaits_rows(&self) -> bool {
        self.wishes.iter().any(Wish::awaits_rows)
    }

    /// Whether a transaction with these tables may concern it.
    pub(super) fn wants_any(&self, tables: &[Oid]) -> bool {
        self.wishes.iter().any(|wish| tables.contains(&wish.placement.table))
    }

    /// Passes over what nobody wants.
    fn skip(&mut self) {
        let first = self.wishes.iter().map(|wish| wish.since).min();
        self.at = self.at.max(first.unwrap_or(Position::MAX));
    }

    /// These wishes can not be granted, and want what comes from `here` on.
    fn go_on_from(&mut self, here: Position, which: impl Fn(&Wish) -> bool) {
        self.wishes.iter_mut().filter(|wish| which(wish)).for_each(|wish| wish.since = here);
        self.skip();
    }

    /// The same, where there is a reason. Gives the first one.
    fn give_up(&mut self, here: Position, reason: impl Fn(&Wish, Position) -> Option<Gap>) -> Option<Gap> {
        let at = self.at;
        let reason = |wish: &Wish| reason(wish, wish.since.max(at));
        let first = self.wishes.iter().find_map(reason);
        self.go_on_from(here, |wish| reason(wish).is_some());
        first
    }
}

impl Wish {
    /// Whether it wants a change.
    pub(super) fn is_for(&self, position: Position, transaction: Xid) -> bool {
        self.since < position
            && match &self.rows {
                Rows::None => true,
                Rows::Awaited => false,
                Rows::Read { snapshot, .. } => !snapshot.shows(transaction),
            }
    }

    /// Whether it waits for rows that it begins with.
    pub(super) fn awaits_rows(&self) -> bool {
        matches!(self.rows, Rows::Awaited)
    }

    /// It wants all that is behind this, or has it already: another position than `since` where rows have been read.
    fn covered(&self, since: Position) -> Position {
        match self.rows {
            Rows::None => since,
            Rows::Awaited => Position::MAX,
            Rows::Read { forgotten, .. } => since.max(forgotten),
        }
    }
}

impl State {
    /// Begins with a channel that has just been joined, whose bindings are live as soon as it has been told what it
    /// has missed.
    pub(super) async fn begin_catch_up(&mut self, channel: ChannelId) {
        let Some(mut catch_up) = self.catch_ups.remove(channel) else { return };
        let here = Position::before(self.place());
        let ahead = |_: &Wish, since| (since > here).then_some(Gap::Ahead { since, here });
        if let Some(gap) = catch_up.give_up(here, ahead) {
            self.tell_gap(&catch_up.membership, &gap).await;
        }
        self.begin_with_changes(catch_up).await;
    }

    /// Begins with the changes that a channel has missed.
    pub(super) async fn begin_with_changes(&mut self, mut catch_up: CatchUp) {
        self.tell_of_what_is_gone(&mut catch_up).await;
        if self.journal.next_between(catch_up.at, catch_up.until()).is_some() {
            self.feed(catch_up, Vec::new()).await;
        } else {
            self.at_end_of_journal(catch_up).await;
        }
    }

    async fn at_end_of_journal(&mut self, catch_up: CatchUp) {
        if catch_up.before_rows.is_some() {
            return self.send_rows(catch_up);
        }
        let identity = self.entries.identity(catch_up.membership.channel).filter(|_| catch_up.awaits_rows());
        if let Some(identity) = identity {
            self.take_snapshot(catch_up, &identity).await;
        } else if catch_up.reached <= self.handled {
            self.go_live(catch_up).await;
        } else {
            self.catch_ups.wait_for_log(catch_up);
        }
    }

    /// Goes on with the channel whose turn it is, by one slice.
    pub(super) async fn catch_up(&mut self) {
        let Some(mut catch_up) = self.catch_ups.next() else { return };
        let began = Instant::now();
        if let Some(gap) = catch_up.gap.take() {
            self.tell_gap(&catch_up.membership, &gap).await;
        }
        self.tell_of_what_is_gone(&mut catch_up).await;
        let bytes_max = SLICE_BYTES_MAX.min(self.matcher.settings.outbound_bytes_max / QUEUE_PART);
        let Slice { frames, bytes, is_last, gap } = self.replay(&mut catch_up, bytes_max).await;
        if let Some(gap) = gap {
            let of_table = match &gap {
                Gap::Changed(table) => Some(table.oid),
                _ => None,
            };
            let here = Position::before(self.place());
            catch_up.go_on_from(here, |wish| of_table.is_none_or(|table| wish.placement.table == table));
            catch_up.gap = Some(gap);
        }
        let is_at_end = catch_up.reached <= self.handled && catch_up.before_rows.is_none();
        if is_last && bytes <= bytes_max && is_at_end && !catch_up.awaits_rows() {
            self.deliver(&catch_up.membership, frames).await;
            self.go_live(catch_up).await;
        } else if is_last && frames.is_empty() {
            self.at_end_of_journal(catch_up).await;
        } else if frames.is_empty() {
            self.catch_ups.go_on(catch_up);
        } else {
            self.feed(catch_up, frames).await;
        }
        if self.catch_ups.len() == 0 {
            self.chunks_read.clear();
        }
        let now = Instant::now();
        self.catch_ups.not_before =
            Some(now + LOG_SHARE * now.duration_since(began).max(Duration::from_micros(1)));
        // Slices that find nothing wait for nobody.
        tokio::task::yield_now().await;
    }

    /// Tells a channel of what it wants and the journal has no longer.
    async fn tell_of_what_is_gone(&mut self, catch_up: &mut CatchUp) {
        let here = Position::before(self.place());
        let journal = &self.journal;
        let gap = catch_up.give_up(here, |wish, since| {
            // Before the log has begun nothing is known of any table.
            let begins_behind = journal.begins_behind(wish.placement.table).unwrap_or(here);
            (wish.covered(since) < begins_behind).then_some(Gap::TooOld { since, begins_behind })
        });
        if let Some(gap) = gap {
            self.tell_gap(&catch_up.membership, &gap).await;
        }
    }

    /// A channel whose bindings can not be decided now goes on live when they can.
    pub(super) async fn tell_undecided(&self, membership: &Membership, resume: &Resume) {
        if resume.wants_changes() {
            self.tell_gap(membership, &Gap::Undecided).await;
        }
        self.tell_refused(membership, resume).await;
    }

    /// A channel whose bindings are refused has missed nothing.
    pub(super) async fn tell_refused(&self, membership: &Membership, resume: &Resume) {
        if resume.tells_shard {
            self.tell_caught_up(membership).await;
        }
    }

    /// Ends a catch-up whose bindings are not what they were.
    pub(super) async fn end_catch_up(&mut self, membership: &Membership, standing: &Standing) {
        let Some(CatchUp { tells_shard, .. }) = self.catch_ups.remove(membership.channel) else { return };
        if *standing == Standing::Undecided {
            self.tell_gap(membership, &Gap::Undecided).await;
        }
        if tells_shard {
            self.tell_caught_up(membership).await;
        }
    }

    /// Tells a shard that it has been handed everything that a channel had missed, or what stands for that.
    async fn tell_caught_up(&self, membership: &Membership) {
        let shard = &self.matcher.shards[membership.shard.index()];
        let _ = shard.commands.send(Command::CaughtUp(membership.target())).await;
    }

    async fn tell_gap(&self, membership: &Membership, gap: &Gap) {
        self.tell(membership, RESUME, Status::Error, format!("gap: refetch what is shown: {gap}")).await;
    }

    /// Sends a channel what a slice has found, as its shard has room for it; then it goes on.
    async fn feed(&mut self, catch_up: CatchUp, frames: Vec<Frame>) {
        let (told, room) = oneshot::channel();
        let membership = &catch_up.membership;
        // The transaction at hand may have more.
        let up_to = catch_up.at.commit_lsn;
        let feed = Feed { target: membership.target(), frames: frames.into(), up_to, room: told };
        let _ = self.matcher.shards[membership.shard.index()].commands.send(Command::Feed(feed)).await;
        self.catch_ups.wait_for(catch_up, room);
    }

    /// Sends a channel the last that it has missed, in front of what is live.
    async fn deliver(&mut self, membership: &Membership, frames: Vec<Frame>) {
        let delivery = |frame| FromLog::Change(Delivery::new(frame, Targets::One(membership.target())));
        self.outgoing[membership.shard.index()].extend(frames.into_iter().map(delivery));
        self.outgoing_since.get_or_insert_with(replay::present);
        self.flush().await;
    }

    /// The channel has been told everything up to here, and is matched with what comes.
    async fn go_live(&mut self, catch_up: CatchUp) {
        let CatchUp { membership, wishes, tells_position, tells_shard, .. } = catch_up;
        let Some(entry) = self.entries.remove(&membership) else { return };
        let placements = wishes.into_iter().map(|wish| wish.placement).collect();
        let places = self.audiences.insert(&membership, placements);
        let Entry { membership, identity, .. } = entry;
        if tells_position {
            let here = Position::before(self.place());
            self.tell(&membership, RESUME, Status::Ok, format!("position {here}")).await;
        }
        if tells_shard {
            self.tell_caught_up(&membership).await;
        }
        self.entries.insert(Entry { membership, identity, standing: Standing::live(places) });
    }
}
