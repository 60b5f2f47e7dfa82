//! Bindings that begin with the rows that are there (docs/protocol.md §5.8). PostgreSQL reads them as the subscriber,
//! from one snapshot for the whole channel, once that has got what its other bindings have missed; a task sends them as the channel's shard has room. Meanwhile the channel is
//! behind, and its cursor stands before the first transaction that the snapshot does not show. It goes on from
//! there, past those that the snapshot does show, until the log has reached all of them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use walcast_pgoutput::{Lsn, Xid};
use walcast_policy::schema::Table;
use walcast_policy::{Oracle, RowsError, RowsRead, RowsRequest, TableRead, TableRows, TransactionSnapshot};
use walcast_wire::{BindingId, ChangeBody, ChangeKind, ColumnHead, Field, Frame, Position, Shape, Status};

use super::State;
use super::catch_up::{CatchUp, SLICE_BYTES_MAX};
use super::image::shape_of;
use super::replay::present;
use crate::command::{Command, Feed};
use crate::ids::ChannelId;
use crate::membership::Membership;
use crate::settings::EngineSettings;
use crate::subscription::{Identity, Placement};

/// The extension of what clients are told about snapshots.
const SNAPSHOT: &str = "snapshot";

/// The rows of all snapshots that are being read or sent take so many times the bytes that one may have.
const MEMORY_SHARES: usize = 8;

/// So many snapshots are read at a time; PostgreSQL's other connections are for what is live.
const READS_MAX: usize = 2;

/// A client may take so long for a slice of its rows.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often a snapshot is taken that does not show what the log has told of already.
const ATTEMPTS: usize = 5;

/// The reading and sending of rows.
pub(super) struct Snapshots {
    news: mpsc::UnboundedSender<News>,
    told: mpsc::UnboundedReceiver<News>,
    /// KiB for rows.
    memory: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Numbers the tasks, so that one that was ended is told from the one that took its place.
    last: u64,
}

/// The task of one channel. It ends when this is dropped.
pub(super) struct SnapshotTask {
    number: u64,
    handle: AbortHandle,
    is_sending: bool,
}

/// What a task tells the matcher.
pub(super) struct News {
    channel: ChannelId,
    task: u64,
    what: What,
}

enum What {
    /// Rows have been read.
    Read { snapshot: TransactionSnapshot, reached: Lsn, answer: oneshot::Sender<Alignment> },
    /// All have been sent, or none are going to be, or no more.
    Over(Result<Sent, NoSnapshot>),
}

/// Where rows stand in the log; or the transactions that the log has told of and that they do not show.
pub(super) type Alignment = Result<Position, Vec<Xid>>;

struct Sent {
    rows: usize,
    position: Position,
}

/// Why a channel gets no rows, or not all.
#[derive(Debug, thiserror::Error)]
enum NoSnapshot {
    #[error("{}.{} has no primary key, by which its rows would be told apart", .0.schema, .0.name)]
    NoKey(Arc<Table>),
    #[error("the role may not SELECT the primary key of {}.{}", .0.schema, .0.name)]
    KeyNotReadable(Arc<Table>),
    #[error(
        "more than {0} rows fit (changes.snapshot_rows_max); narrow the filter, or fetch them by pages; changes \
         are sent all the same"
    )]
    TooMany(usize),
    #[error(
        "the rows take more than {0} bytes (changes.snapshot_bytes_max); narrow the filter or select fewer columns, \
         or fetch them by pages; changes are sent all the same"
    )]
    TooLarge(usize),
    #[error("{0}; changes are sent all the same")]
    NotRead(String),
    #[error("its rows were not taken within {PATIENCE:?}; join again for those that are missing")]
    NotTaken,
    #[error("policies, columns or the token have changed while its rows were sent; join again for a new one")]
    Changed,
}

/// Rows of one binding on one table, as they are shown.
struct Shown {
    id: BindingId,
    table: Arc<Table>,
    /// Indices of the columns in the table, and how their values look.
    columns: Box<[(usize, Shape, String)]>,
}

/// What a task works with.
struct Job {
    membership: Arc<Membership>,
    number: u64,
    request: RowsRequest,
    shown: Vec<Shown>,
    record_bytes_max: usize,
    shard: mpsc::Sender<Command>,
    oracle: Arc<dyn Oracle>,
    memory: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    news: mpsc::UnboundedSender<News>,
}

/// Nobody is there any more for whom this is done.
struct Gone;

impl Snapshots {
    pub(super) fn new(settings: &EngineSettings) -> Self {
        let (news, told) = mpsc::unbounded_channel();
        let memory = kib(settings.snapshot_bytes_max).saturating_mul(MEMORY_SHARES);
        Snapshots {
            news,
            told,
            memory: Arc::new(Semaphore::new(memory.min(Semaphore::MAX_PERMITS))),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            last: 0,
        }
    }

    /// Waits for what a task has to tell.
    pub(super) async fn news(&mut self) -> News {
        match self.told.recv().await {
            Some(news) => news,
            // There is a sender here, so that this does not happen.
            None => std::future::pending().await,
        }
    }
}

impl SnapshotTask {
    pub(super) fn is_sending(&self) -> bool {
        self.is_sending
    }
}

impl Drop for SnapshotTask {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl State {
    /// Has the rows read that the channel is to begin with.
    pub(super) async fn take_snapshot(&mut self, mut catch_up: CatchUp, identity: &Identity) {
        let reads = catch_up.wishes.iter().filter_map(|wish| {
            let placement = &wish.placement;
            let filter = placement.snapshot.as_ref().filter(|_| wish.awaits_rows())?.filter.clone();
            let table = Arc::clone(self.snapshot.tables.get(&placement.table)?);
            Some((placement, TableRead { table, columns: placement.columns.clone(), filter }))
        });
        let reads: Vec<_> = reads.collect();
        let obstacle = reads.iter().find_map(|(placement, read)| obstacle(placement, &read.table));
        if let Some(obstacle) = obstacle {
            return Box::pin(self.snapshot_over(catch_up, Err(obstacle))).await;
        }
        let shown = reads.iter().map(|(placement, read)| self.shown(placement, &read.table)).collect();
        let settings = &self.matcher.settings;
        let request = RowsRequest {
            role: Arc::clone(&identity.role),
            claims: Arc::clone(&identity.claims_json),
            reads: reads.into_iter().map(|(_, read)| read).collect(),
            rows_max: settings.snapshot_rows_max,
            bytes_max: settings.snapshot_bytes_max,
        };
        let snapshots = &mut self.snapshots;
        snapshots.last += 1;
        let job = Job {
            membership: Arc::clone(&catch_up.membership),
            number: snapshots.last,
            request,
            shown,
            record_bytes_max: settings.record_bytes_max,
            shard: self.matcher.shards[catch_up.membership.shard.index()].commands.clone(),
            oracle: Arc::clone(&self.matcher.oracle),
            memory: Arc::clone(&snapshots.memory),
            reads: Arc::clone(&snapshots.reads),
            news: snapshots.news.clone(),
        };
        let number = job.number;
        let handle = tokio::spawn(job.run()).abort_handle();
        catch_up.task = Some(SnapshotTask { number, handle, is_sending: false });
        self.catch_ups.wait_for_rows(catch_up);
    }

    /// What comes before the rows that have been read has been sent.
    pub(super) fn send_rows(&mut self, mut catch_up: CatchUp) {
        if let Some((position, answer)) = catch_up.before_rows.take() {
            if let Some(task) = &mut catch_up.task {
                task.is_sending = true;
            }
            // Where nobody waits for it the task has ended, which is told as well.
            let _ = answer.send(Ok(position));
        }
        self.catch_ups.wait_for_rows(catch_up);
    }

    /// The bindings of a channel have been resolved again. Where they are not what they were, and its rows are being read
    /// or sent, it is another one that it should begin with.
    pub(super) async fn check_snapshot(&mut self, channel: ChannelId) {
        let has_changed = self.catch_ups.get_mut(channel).is_some_and(CatchUp::take_change);
        let is_sending = self.catch_ups.task(channel).map(SnapshotTask::is_sending);
        let Some(is_sending) = is_sending.filter(|_| has_changed) else { return };
        let Some(mut catch_up) = self.catch_ups.remove(channel) else { return };
        catch_up.end_task();
        if is_sending {
            return self.snapshot_over(catch_up, Err(NoSnapshot::Changed)).await;
        }
        catch_up.await_rows_again();
        if let Some(identity) = self.entries.identity(channel) {
            self.take_snapshot(catch_up, &identity).await;
        }
    }

    /// Takes in what [`Snapshots::news`] brought.
    pub(super) async fn snapshot_news(&mut self, news: News) {
        let News { channel, task, what } = news;
        if self.catch_ups.task(channel).is_none_or(|known| known.number != task) {
            return;
        }
        match what {
            What::Read { snapshot, reached, answer } => {
                match self.journal.aligned(&snapshot, self.handled) {
                    Ok(position) => {
                        let Some(mut catch_up) = self.catch_ups.remove(channel) else { return };
                        let journal = &self.journal;
                        let known = |table| journal.begins_behind(table).unwrap_or_default();
                        catch_up.align(position, &Arc::new(snapshot), reached, known);
                        catch_up.before_rows = Some((position, answer));
                        self.begin_with_changes(catch_up).await;
                    }
                    // Where nobody waits for it the task has ended, which is told as well.
                    Err(unseen) => drop(answer.send(Err(unseen))),
                }
            }
            What::Over(outcome) => {
                if outcome.is_ok() {
                    self.matcher.counters.snapshots.fetch_add(1, Relaxed);
                }
                if let Some(mut catch_up) = self.catch_ups.remove(channel) {
                    catch_up.end_task();
                    self.snapshot_over(catch_up, outcome).await;
                }
            }
        }
    }

    async fn snapshot_over(&mut self, mut catch_up: CatchUp, outcome: Result<Sent, NoSnapshot>) {
        let (status, text) = match outcome {
            Ok(Sent { rows, position }) => (Status::Ok, format!("{rows} rows, position {position}")),
            Err(reason) => (Status::Error, format!("no snapshot: {reason}")),
        };
        catch_up.go_without_rows();
        self.tell(&catch_up.membership, SNAPSHOT, status, text).await;
        self.begin_with_changes(catch_up).await;
    }

    fn shown(&self, placement: &Placement, table: &Arc<Table>) -> Shown {
        let types = &self.snapshot.types;
        let column = |&index: &usize| {
            let found = types.get(table.columns[index].type_oid);
            (index, shape_of(types, found), found.map_or_else(String::new, |found| found.name.clone()))
        };
        let columns = placement.columns.iter().map(column).collect();
        Shown { id: placement.id, table: Arc::clone(table), columns }
    }
}

fn obstacle(placement: &Placement, table: &Arc<Table>) -> Option<NoSnapshot> {
    if !table.has_primary_key() {
        return Some(NoSnapshot::NoKey(Arc::clone(table)));
    }
    (!placement.reads_key).then(|| NoSnapshot::KeyNotReadable(Arc::clone(table)))
}

impl Job {
    async fn run(self) {
        let outcome = match self.send_rows().await {
            Ok(outcome) => outcome,
            Err(Gone) => return,
        };
        self.tell(What::Over(outcome));
    }

    async fn send_rows(&self) -> Result<Result<Sent, NoSnapshot>, Gone> {
        let (read, position, _memory) = match self.read_aligned().await? {
            Ok(read) => read,
            Err(reason) => return Ok(Err(reason)),
        };
        let commit_time_unix_us = present().unix_microseconds();
        let mut rows = 0;
        let (mut slice, mut bytes) = (Vec::new(), 0);
        for (shown, table) in self.shown.iter().zip(&read.tables) {
            for number in 0..table.len() {
                let data = shown.data(table, number, position, commit_time_unix_us, self.record_bytes_max);
                let frame = self.frame(shown.id, &data);
                bytes += frame.len();
                slice.push(frame);
                rows += 1;
                if bytes >= SLICE_BYTES_MAX {
                    bytes = 0;
                    if !self.feed(std::mem::take(&mut slice)).await? {
                        return Ok(Err(NoSnapshot::NotTaken));
                    }
                }
            }
        }
        let all = self.feed(slice).await?;
        Ok(if all { Ok(Sent { rows, position }) } else { Err(NoSnapshot::NotTaken) })
    }

    /// Reads the rows, until they show everything that the log has told of; with the room that they take.
    async fn read_aligned(
        &self,
    ) -> Result<Result<(RowsRead, Position, OwnedSemaphorePermit), NoSnapshot>, Gone> {
        for _ in 0..ATTEMPTS {
            let (read, memory) = match self.read().await? {
                Ok(read) => read,
                Err(error) => return Ok(Err(error.into())),
            };
            let (answer, alignment) = oneshot::channel();
            let (snapshot, reached) = (read.snapshot.clone(), read.reached);
            self.tell(What::Read { snapshot, reached, answer });
            match alignment.await.map_err(|_| Gone)? {
                Ok(position) => return Ok(Ok((read, position, memory))),
                Err(unseen) => {
                    drop((read, memory));
                    if let Err(error) = self.oracle.visible(&unseen).await {
                        return Ok(Err(NoSnapshot::NotRead(error.to_string())));
                    }
                }
            }
        }
        let reason = "again and again something that is committed could not be seen yet";
        Ok(Err(NoSnapshot::NotRead(reason.to_owned())))
    }

    async fn read(&self) -> Result<Result<(RowsRead, OwnedSemaphorePermit), RowsError>, Gone> {
        let most = permits(self.request.bytes_max);
        let memory = Arc::clone(&self.memory).acquire_many_owned(most).await.map_err(|_| Gone)?;
        let reading = Arc::clone(&self.reads).acquire_owned().await.map_err(|_| Gone)?;
        let read = Arc::clone(&self.oracle).rows(self.request.clone()).await;
        drop(reading);
        Ok(read.map(|read| {
            let bytes = read.tables.iter().map(TableRows::bytes).sum();
            let memory = trimmed(memory, bytes);
            (read, memory)
        }))
    }

    fn frame(&self, id: BindingId, data: &[u8]) -> Frame {
        walcast_wire::change_frame(self.membership.serializer, self.membership.topic(), &[id], data)
    }

    /// Hands frames to the shard and waits until it has room for more. `false`: the client does not take them.
    async fn feed(&self, frames: Vec<Frame>) -> Result<bool, Gone> {
        let (told, room) = oneshot::channel();
        let feed =
            Feed { target: self.membership.target(), frames: frames.into(), up_to: Lsn::ZERO, room: told };
        self.shard.send(Command::Feed(feed)).await.map_err(|_| Gone)?;
        match tokio::time::timeout(PATIENCE, room).await {
            Ok(told) => told.map(|()| true).map_err(|_| Gone),
            Err(_) => Ok(false),
        }
    }

    fn tell(&self, what: What) {
        // Nobody listens once the matcher has ended.
        let _ = self.news.send(News { channel: self.membership.channel, task: self.number, what });
    }
}

impl Shown {
    /// The JSON of `data` for a row.
    fn data(
        &self,
        rows: &TableRows,
        number: usize,
        position: Position,
        commit_time_unix_us: i64,
        record_bytes_max: usize,
    ) -> Vec<u8> {
        let name = |index: usize| self.table.columns[index].name.as_str();
        let heads: Vec<_> = self
            .columns
            .iter()
            .map(|(index, _, type_name)| ColumnHead { name: name(*index), type_name })
            .collect();
        // What the publication leaves out is not among the columns that were read.
        let field = |(&index, text)| {
            let (_, shape, _) = self.columns.iter().find(|(shown, ..)| *shown == index)?;
            Some(Field { name: name(index), shape, text })
        };
        let record: Vec<_> = rows.columns().iter().zip(rows.row(number)).filter_map(field).collect();
        let body = ChangeBody {
            schema: &self.table.schema,
            table: &self.table.name,
            kind: ChangeKind::Insert,
            commit_time_unix_us,
            position,
            snapshot: true,
            columns: &heads,
            record: Some(&record),
            old_record: None,
            errors: None,
        };
        body.encode(record_bytes_max)
    }
}

impl From<RowsError> for NoSnapshot {
    fn from(error: RowsError) -> Self {
        match error {
            RowsError::TooMany(rows_max) => NoSnapshot::TooMany(rows_max),
            RowsError::TooLarge(bytes_max) => NoSnapshot::TooLarge(bytes_max),
            RowsError::Oracle(error) => NoSnapshot::NotRead(error.to_string()),
        }
    }
}

fn kib(bytes: usize) -> usize {
    (bytes >> 10) + 1
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(kib(bytes)).unwrap_or(u32::MAX)
}

/// Gives back the room that was taken for more bytes than there are.
fn trimmed(mut memory: OwnedSemaphorePermit, bytes: usize) -> OwnedSemaphorePermit {
    memory.split(kib(bytes)).unwrap_or(memory)
}
