//! A consumer as the product has one: takes events, decodes them, confirms what it has seen.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walcast_pgoutput::{Cell, Decoder, Lsn, Message};
use walcast_replication::{
    Backoff, ConnectionSettings, Event, Gap, Progress, ReplicationError, StreamSettings, StreamStatus, run,
};
use walcast_testkit::Database;

/// Far beyond what anything here takes, so that a failure is a failure and not a slow machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Fails the test when `what` does not happen.
pub(crate) async fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("did not happen in time: {what}"))
}

/// Asks the database again and again until the answer is true.
pub(crate) async fn until_true(client: &tokio_postgres::Client, sql: &str) {
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    within_deadline(sql, async {
        while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
            pause.tick().await;
        }
    })
    .await;
}

/// The settings for one database, one publication `live`, and short pauses.
pub(crate) fn settings(url: &str, slot: &str) -> StreamSettings {
    let connection = ConnectionSettings::parse(url).unwrap();
    let mut settings = StreamSettings::new(connection, slot, vec!["live".to_owned()]);
    settings.backoff = Backoff { first: Duration::from_millis(20), longest: Duration::from_millis(200) };
    settings.slot_wait = Duration::ZERO;
    settings
}

/// A database with a table `notes(body)` in the publication `live`.
pub(crate) async fn database_with_notes(hint: &str) -> Database {
    let database = walcast_testkit::database(hint).await;
    make_notes(&database.client().await).await;
    database
}

pub(crate) async fn make_notes(client: &tokio_postgres::Client) {
    client
        .batch_execute("CREATE TABLE notes (body text); CREATE PUBLICATION live FOR TABLE notes")
        .await
        .unwrap();
}

/// What became of a start that had to fail.
pub(crate) async fn refusal(settings: StreamSettings) -> ReplicationError {
    let (events, _received) = mpsc::channel(1);
    let (status, _) = watch::channel(StreamStatus::Connecting);
    let started = run(settings, Arc::default(), events, status, CancellationToken::new());
    within_deadline("a refusal", started).await.expect_err("the start had to fail")
}

/// A running stream and the one who reads it. Dropping it cancels the stream.
pub(crate) struct Consumer {
    pub(crate) progress: Arc<Progress>,
    /// Whether what is seen is confirmed.
    pub(crate) confirming: bool,
    events: mpsc::Receiver<Vec<Event>>,
    ready: VecDeque<Event>,
    status: watch::Receiver<StreamStatus>,
    cancel: CancellationToken,
    task: Option<JoinHandle<Result<(), ReplicationError>>>,
    decoder: Decoder,
    /// The gap of each `Restarted`, where one was told.
    pub(crate) restarts: Vec<Option<Gap>>,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Consumer {
    /// Starts a stream and waits until it streams.
    pub(crate) async fn start(settings: StreamSettings) -> Consumer {
        let mut consumer = Consumer::spawn(settings);
        consumer.until_streaming().await;
        consumer
    }

    /// Starts a stream.
    pub(crate) fn spawn(settings: StreamSettings) -> Consumer {
        let (sender, events) = mpsc::channel(1);
        let (status_sender, status) = watch::channel(StreamStatus::Connecting);
        let progress = Arc::new(Progress::default());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(run(settings, Arc::clone(&progress), sender, status_sender, cancel.clone()));
        Consumer {
            progress,
            confirming: true,
            events,
            ready: VecDeque::new(),
            status,
            cancel,
            task: Some(task),
            decoder: Decoder::new(1),
            restarts: Vec::new(),
        }
    }

    pub(crate) async fn until_streaming(&mut self) -> Lsn {
        let status =
            self.until_status("the stream", |status| matches!(status, StreamStatus::Streaming { .. })).await;
        let StreamStatus::Streaming { since_lsn } = status else { unreachable!() };
        since_lsn
    }

    pub(crate) async fn until_paused(&mut self) -> StreamStatus {
        self.until_status("a pause", |status| matches!(status, StreamStatus::Paused { .. })).await
    }

    /// The sentence of the next break.
    pub(crate) async fn until_broken(&mut self) -> String {
        let status =
            self.until_status("a break", |status| matches!(status, StreamStatus::Broken { .. })).await;
        let StreamStatus::Broken { error, .. } = status else { unreachable!() };
        error
    }

    async fn until_status(
        &mut self,
        what: &str,
        is_wanted: impl FnMut(&StreamStatus) -> bool,
    ) -> StreamStatus {
        let found =
            within_deadline(what, self.status.wait_for(is_wanted)).await.ok().map(|status| status.clone());
        match found {
            Some(status) => status,
            None => panic!("the stream ended instead of {what}: {:?}", self.task.take().unwrap().await),
        }
    }

    /// The next event, as the product would take it: a keep-alive is confirmed, as nothing is held back.
    pub(crate) async fn next_event(&mut self) -> Event {
        while self.ready.is_empty() {
            let batch = within_deadline("the next batch", self.events.recv()).await;
            self.ready.extend(batch.expect("the stream goes on"));
        }
        let event = self.ready.pop_front().unwrap();
        match &event {
            Event::KeepAlive { wal_end } if self.confirming => self.progress.confirm(*wal_end),
            Event::Restarted { gap, .. } => self.restarts.push(gap.clone()),
            _ => {}
        }
        event
    }

    /// The next message that is a row or a logical message; commits on the way are confirmed.
    pub(crate) async fn next_text(&mut self) -> String {
        loop {
            let Event::Data { payload, .. } = self.next_event().await else {
                continue;
            };
            match self.decoder.decode(payload).unwrap().message {
                Message::Insert { new, .. } => match new.cell(0) {
                    Some(Cell::Text(text)) => return String::from_utf8(text.to_vec()).unwrap(),
                    other => panic!("a note without a body: {other:?}"),
                },
                Message::Message { prefix, content, .. } => {
                    return format!("{prefix}: {}", String::from_utf8_lossy(&content));
                }
                Message::Commit { end_lsn, .. } if self.confirming => self.progress.confirm(end_lsn),
                _ => {}
            }
        }
    }

    /// Reads on until everything up to `target` is confirmed and reported.
    pub(crate) async fn until_reported(&mut self, target: Lsn) {
        let reported = async {
            while self.progress.reported() < target {
                if self.progress.confirmed() < target {
                    self.next_event().await;
                } else {
                    tokio::task::yield_now().await;
                }
            }
        };
        within_deadline("the confirmed position to be reported", reported).await;
    }

    /// How many batches wait to be taken.
    pub(crate) fn waiting_batches(&self) -> usize {
        self.events.len()
    }

    /// Cancels and waits for the graceful end.
    pub(crate) async fn stop(mut self) -> Result<(), ReplicationError> {
        self.cancel.cancel();
        let task = self.task.take().unwrap();
        let result = within_deadline("a graceful end", task).await.unwrap();
        assert_eq!(*self.status.borrow(), StreamStatus::Stopped);
        result
    }
}
