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
pub(crate) struct ShardId(pub(crate) usize);

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
