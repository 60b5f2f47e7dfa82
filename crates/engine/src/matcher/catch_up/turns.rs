//! Whose turn it is: the channels that are behind, and what each of them waits for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use tokio::time::Instant;
use walcast_pgoutput::Lsn;

use super::{CatchUp, Rows, Stage};
use crate::ids::ChannelId;
use crate::matcher::snapshots::SnapshotTask;

/// All channels that are behind.
#[derive(Default)]
pub(in crate::matcher) struct CatchUps {
    behind: FxHashMap<ChannelId, CatchUp>,
    /// Those that may go on, in the order of their turns. Some may be gone.
    ready: VecDeque<ChannelId>,
    /// Those whose shard is to tell when it has room.
    rooms: FuturesUnordered<Room>,
    last_room: u64,
    /// Those that have come to the end of the journal, where the log has not come to the end of their snapshot.
    at_head: Vec<ChannelId>,
    /// When the next slice may be gone through although the log waits.
    pub(super) not_before: Option<Instant>,
}

/// What a shard has told.
pub(in crate::matcher) struct RoomTold {
    channel: ChannelId,
    number: u64,
    /// False where the channel is gone.
    has_room: bool,
}

/// Tells whether there is room for a channel, or the channel is gone.
struct Room {
    channel: ChannelId,
    number: u64,
    told: oneshot::Receiver<()>,
}

impl CatchUps {
    pub(in crate::matcher) fn insert(&mut self, catch_up: CatchUp) {
        self.behind.insert(catch_up.membership.channel, catch_up);
    }

    pub(in crate::matcher) fn get_mut(&mut self, channel: ChannelId) -> Option<&mut CatchUp> {
        self.behind.get_mut(&channel)
    }

    pub(in crate::matcher) fn remove(&mut self, channel: ChannelId) -> Option<CatchUp> {
        self.behind.remove(&channel)
    }

    /// How many there are.
    pub(in crate::matcher) fn len(&self) -> usize {
        self.behind.len()
    }

    /// Whether somebody is ready to go on, and it is their turn and not the log's.
    pub(in crate::matcher) fn may_go_on(&self, log_is_empty: bool) -> bool {
        !self.ready.is_empty()
            && (log_is_empty || self.not_before.is_none_or(|moment| Instant::now() >= moment))
    }

    /// Waits until a shard tells that it has room for a channel, or that this is gone.
    pub(in crate::matcher) async fn room(&mut self) -> RoomTold {
        match self.rooms.next().await {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }

    /// Takes in what [`CatchUps::room`] brought.
    pub(in crate::matcher) fn take_room(&mut self, RoomTold { channel, number, has_room }: RoomTold) {
        let Some(catch_up) = self.behind.get_mut(&channel) else { return };
        match catch_up.stage {
            Stage::Room(asked) if asked == number && has_room => {
                catch_up.stage = Stage::Ready;
                self.ready.push_back(channel);
            }
            // With its channel, which is reported gone as well, or is about to be.
            Stage::Room(asked) if asked == number => drop(self.behind.remove(&channel)),
            _ => {}
        }
    }

    /// The channel whose turn it is.
    pub(super) fn next(&mut self) -> Option<CatchUp> {
        while let Some(channel) = self.ready.pop_front() {
            if self.behind.get(&channel).is_some_and(|found| matches!(found.stage, Stage::Ready)) {
                return self.behind.remove(&channel);
            }
        }
        None
    }

    /// Lets a channel go on when its turn comes.
    pub(super) fn go_on(&mut self, catch_up: CatchUp) {
        self.ready.push_back(catch_up.membership.channel);
        self.insert(CatchUp { stage: Stage::Ready, ..catch_up });
    }

    /// Lets a channel go on once its shard has room.
    pub(super) fn wait_for(&mut self, catch_up: CatchUp, room: oneshot::Receiver<()>) {
        let channel = catch_up.membership.channel;
        self.last_room += 1;
        let number = self.last_room;
        self.rooms.push(Room { channel, number, told: room });
        self.insert(CatchUp { stage: Stage::Room(number), ..catch_up });
    }

    /// Lets a channel go on when the log has.
    pub(super) fn wait_for_log(&mut self, catch_up: CatchUp) {
        self.at_head.push(catch_up.membership.channel);
        self.insert(CatchUp { stage: Stage::Log, ..catch_up });
    }

    /// The log has gone on.
    pub(in crate::matcher) fn log_went_on(&mut self) {
        for channel in self.at_head.drain(..) {
            if let Some(catch_up) = self.behind.get_mut(&channel) {
                catch_up.stage = Stage::Ready;
                self.ready.push_back(channel);
            }
        }
    }

    /// What the log brings from now on may be another server's: what snapshots show says nothing of it. Gives the
    /// channels whose rows are being read or sent.
    pub(in crate::matcher) fn log_was_lost(&mut self) -> Vec<ChannelId> {
        let mut with_tasks = Vec::new();
        for (&channel, catch_up) in &mut self.behind {
            catch_up.reached = Lsn::ZERO;
            let reads = catch_up.task.as_ref().is_some_and(|task| !task.is_sending());
            for wish in catch_up.wishes.iter_mut().filter(|wish| matches!(wish.rows, Rows::Read { .. })) {
                wish.rows = if reads { Rows::Awaited } else { Rows::None };
            }
            if catch_up.task.is_some() {
                catch_up.has_changed = true;
                with_tasks.push(channel);
            }
        }
        with_tasks
    }

    /// Lets a channel go on when its task has read its rows, or has sent them.
    pub(in crate::matcher) fn wait_for_rows(&mut self, catch_up: CatchUp) {
        self.insert(CatchUp { stage: Stage::Rows, ..catch_up });
    }

    /// The task that sends a channel's rows.
    pub(in crate::matcher) fn task(&self, channel: ChannelId) -> Option<&SnapshotTask> {
        self.behind.get(&channel)?.task.as_ref()
    }
}

impl Future for Room {
    type Output = RoomTold;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<RoomTold> {
        let (channel, number) = (self.channel, self.number);
        self.told.poll_unpin(context).map(|told| RoomTold { channel, number, has_room: told.is_ok() })
    }
}
