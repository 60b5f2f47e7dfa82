//! From the replication stream to the matcher: events in, transactions out.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walcast_engine::{Ingest, LogEvent, LogSender, LogStart};
use walcast_replication::{Event, Progress, StreamSettings, StreamStatus};

/// Batches of events that wait to be decoded. Each is bounded by the reader; together with the transaction that is
/// being decoded and the engine's own inbox this is all that is ever held between the log and the sockets.
const EVENT_BATCHES: usize = 4;

/// The running pipeline.
pub struct Pipeline {
    /// How the replication stream stands.
    pub status: watch::Receiver<StreamStatus>,
    reader: JoinHandle<Result<()>>,
    decoder: JoinHandle<Result<()>>,
}

/// What the log held already when it began to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// It may have been shown by an earlier process, and is kept for those who come back.
    Shown,
    /// Nobody has seen it: it is shown like all that follows.
    New,
}

impl Pipeline {
    /// Starts reading the log; returns once changes flow.
    pub async fn start(
        settings: StreamSettings,
        progress: Arc<Progress>,
        backlog: Backlog,
        batches: LogSender,
        cancel: CancellationToken,
    ) -> Result<Pipeline> {
        let (events, received) = mpsc::channel(EVENT_BATCHES);
        let (status_sender, mut status) = watch::channel(StreamStatus::Connecting);
        let mut reader = tokio::spawn(async move {
            walcast_replication::run(settings, progress, events, status_sender, cancel)
                .await
                .context("the log can not be read")
        });
        let decoder = tokio::spawn(decode(received, backlog, batches));
        let is_streaming = |status: &StreamStatus| matches!(status, StreamStatus::Streaming { .. });
        tokio::select! {
            streaming = async { status.wait_for(is_streaming).await.is_ok() } => {
                if !streaming {
                    reader.await??;
                    bail!("the replication stream ended before it began");
                }
            }
            ended = &mut reader => {
                ended??;
                bail!("the replication stream ended before it began");
            }
        }
        Ok(Pipeline { status, reader, decoder })
    }

    /// Waits for the end: after a cancellation, or with the error that ended it.
    pub async fn ended(&mut self) -> Result<()> {
        tokio::select! {
            ended = &mut self.reader => ended?,
            ended = &mut self.decoder => ended?,
        }
    }
}

async fn decode(mut events: mpsc::Receiver<Vec<Event>>, backlog: Backlog, batches: LogSender) -> Result<()> {
    let mut ingest = Ingest::default();
    let mut begun = backlog == Backlog::New;
    loop {
        let arrived = tokio::select! {
            biased;
            () = batches.closed() => None,
            arrived = events.recv() => arrived,
        };
        let Some(arrived) = arrived else {
            return batches.outcome().context("changes can not be matched");
        };
        for event in arrived {
            let event = match event {
                Event::Restarted { since, log_end, promoted, gap } => {
                    if !std::mem::replace(&mut begun, true)
                        && let Some(batch) = ingest.feed(LogEvent::Refill(log_end)).await?
                    {
                        batches.send(batch).await;
                    }
                    if promoted && let Some(batch) = ingest.feed(LogEvent::Promoted).await? {
                        batches.send(batch).await;
                    }
                    if let Some(gap) = &gap {
                        tracing::error!(
                            code = "ReplicationSlotLost", %since, reason = %gap,
                            "changes before this position were missed, and subscribers are told so"
                        );
                    }
                    LogEvent::Restarted(LogStart { since, gap: gap.map(|gap| gap.to_string().into()) })
                }
                Event::Data { payload, .. } => LogEvent::Data(payload),
                Event::KeepAlive { wal_end } => LogEvent::KeepAlive(wal_end),
            };
            if let Some(batch) = ingest.feed(event).await?
                && !batches.send(batch).await
            {
                break;
            }
        }
    }
}
