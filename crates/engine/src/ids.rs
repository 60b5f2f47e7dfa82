//! Names of things that live in the engine.

use std::sync::atomic::{AtomicU64, Ordering};

/// One client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// One join of one topic by one session; a rejoin gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub u64);

/// A shard, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ShardId(u16);

impl ShardId {
    /// There are never more: a shard is a thread's worth of work.
    pub(crate) const COUNT_MAX: usize = u16::MAX as usize;

    /// The shard with this index, which is below [`ShardId::COUNT_MAX`].
    pub(crate) fn new(index: usize) -> Self {
        ShardId(u16::try_from(index).unwrap_or(u16::MAX))
    }

    /// Its index.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl SessionId {
    /// An id that no session of this process has had.
    pub fn fresh() -> Self {
        SessionId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl ChannelId {
    /// An id that no channel of this process has had.
    pub fn fresh() -> Self {
        ChannelId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
