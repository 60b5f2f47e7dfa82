//! What a join with a replay leaves at its shard while the stored messages are read.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::command::PeerCommand;
use crate::membership::Membership;
use crate::shard::ShardHandle;

/// Messages are being kept for a channel that is about to join. However the join ends, be it that nobody awaits it any
/// more, nothing is left behind.
pub(super) struct Hold {
    membership: Arc<Membership>,
    peers: mpsc::UnboundedSender<PeerCommand>,
    taken: bool,
}

impl Hold {
    /// Of a channel whose shard has been sent [`crate::Command::Hold`].
    pub(super) fn new(shards: &[ShardHandle], membership: &Arc<Membership>) -> Self {
        let peers = shards[membership.shard.index()].peers.clone();
        Hold { membership: Arc::clone(membership), peers, taken: false }
    }

    /// The join is on its way to the shard, which takes what has been kept.
    pub(super) fn taken(mut self) {
        self.taken = true;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.taken {
            // The shard may hear of this before it has seen the hold, which then is of a channel that has ended.
            self.membership.end();
            let _ = self.peers.send(PeerCommand::Release(Arc::clone(&self.membership)));
        }
    }
}
