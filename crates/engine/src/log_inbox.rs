//! The way of the log into the matcher: a queue with room for so many transactions and so many bytes.

use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::ingest::{IngestError, LogBatch};

/// Transactions that wait for the matcher; the log is read no further when it is full.
const TRANSACTIONS_MAX: usize = 1_024;
/// Bytes of all transactions that wait for the matcher or are being handled by it, as far as they are in memory. Few
/// enough that PostgreSQL waits where the matcher is behind, instead of taking a core from it to run further ahead.
const BYTES_MAX: u32 = 4 << 20;

/// Where the log goes in.
pub struct LogSender {
    batches: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    failure: Arc<OnceLock<Arc<IngestError>>>,
}

/// The matcher's end.
pub(crate) struct LogInbox {
    pub(crate) batches: mpsc::Receiver<Queued>,
    failure: Arc<OnceLock<Arc<IngestError>>>,
}

/// A part of the log, with the room that it takes.
pub(crate) struct Queued {
    pub(crate) batch: LogBatch,
    pub(crate) room: OwnedSemaphorePermit,
}

pub(crate) fn log_inbox() -> (LogSender, LogInbox) {
    let (sender, batches) = mpsc::channel(TRANSACTIONS_MAX);
    let failure = Arc::default();
    let room = Arc::new(Semaphore::new(BYTES_MAX as usize));
    (LogSender { batches: sender, room, failure: Arc::clone(&failure) }, LogInbox { batches, failure })
}

impl LogSender {
    /// Hands on a part of the log; waits for room. False where the matcher has ended: [`LogSender::outcome`]
    /// tells why.
    pub async fn send(&self, batch: LogBatch) -> bool {
        let bytes = match &batch {
            LogBatch::Transaction(transaction) => transaction.changes.bytes(),
            LogBatch::Idle(_)
            | LogBatch::Refill(_)
            | LogBatch::Promoted
            | LogBatch::Restarted(_)
            | LogBatch::Canary(_)
            | LogBatch::Tickets(..) => 0,
        };
        let bytes = u32::try_from(bytes).map_or(BYTES_MAX, |bytes| bytes.min(BYTES_MAX));
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(bytes).await else {
            return false;
        };
        self.batches.send(Queued { batch, room }).await.is_ok()
    }

    /// Waits until the matcher has ended.
    pub async fn closed(&self) {
        self.batches.closed().await;
    }

    /// Why the matcher has ended, where it could not go on.
    pub fn outcome(&self) -> Result<(), Arc<IngestError>> {
        self.failure.get().map_or(Ok(()), |error| Err(Arc::clone(error)))
    }
}

impl LogInbox {
    /// The matcher can not go on.
    pub(crate) fn fail(self, error: IngestError) {
        // Told before the queue closes, so that whoever finds it closed knows why.
        let _ = self.failure.set(Arc::new(error));
        drop(self.batches);
    }
}
