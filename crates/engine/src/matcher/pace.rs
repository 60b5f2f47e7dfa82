//! A transaction that is larger than memory is shown no faster than sockets take it: all of it at once would overflow
//! the queue of each one, however fast it reads.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::State;

/// How often is looked whether the sockets have caught up.
const LOOK: Duration = Duration::from_millis(1);
/// When nothing has been taken for so long, what is left is that of sockets that do not read.
const PATIENCE: Duration = Duration::from_millis(20);

impl State {
    /// Waits until little of what was shown is left in the queues, but for none that does not read.
    pub(super) async fn keep_pace(&self) {
        // All queues together: no single one is then fuller than that.
        let enough = self.matcher.settings.outbound_bytes_max as u64 / 4;
        let mut least = (usize::MAX, u64::MAX);
        let mut taken_at = Instant::now();
        loop {
            let left = (self.commands_left(), self.matcher.counters.queued_bytes.load(Relaxed));
            if left.0 == 0 && left.1 <= enough {
                return;
            }
            if left < least {
                least = left;
                taken_at = Instant::now();
            } else if taken_at.elapsed() >= PATIENCE {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Commands that shards have not taken yet.
    fn commands_left(&self) -> usize {
        let shards = self.matcher.shards.iter();
        shards.map(|shard| shard.commands.max_capacity() - shard.commands.capacity()).sum()
    }
}
