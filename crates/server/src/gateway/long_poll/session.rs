//! The client behind a token: a task that is told its messages, and ends when nobody asks for the answers any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;
use walcast_engine::{Command, Departure};

use super::super::client::{Admitted, Client};
use super::super::limits::Seat;
use super::super::{End, Gateway, Incoming};
use super::mailbox::Mailbox;
use crate::edge::AddressSeat;

/// A session that nobody asks anything of for so long has ended.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Messages of the client that wait to be handled.
const INBOX: usize = 16;

/// The sessions of a gateway, by token.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<FxHashMap<Arc<str>, Arc<PollSession>>>);

impl Sessions {
    pub(super) fn find(&self, token: &str) -> Option<Arc<PollSession>> {
        self.by_token().get(token).cloned()
    }

    fn by_token(&self) -> MutexGuard<'_, FxHashMap<Arc<str>, Arc<PollSession>>> {
        // Plain data: a panic elsewhere can not have left it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session as requests see it.
pub(crate) struct PollSession {
    mailbox: Arc<Mailbox>,
    incoming: mpsc::Sender<Sent>,
    /// When it was last asked for something.
    heard: watch::Sender<Instant>,
}

/// A message of the client, and whom to tell that it has been handled.
struct Sent {
    message: Incoming,
    handled: oneshot::Sender<()>,
}

/// What became of a message.
pub(super) enum Delivered {
    Yes,
    /// It may be handled yet.
    Late,
    Gone,
}

impl PollSession {
    /// Opens a session and gives its token, which nobody can guess.
    pub(super) async fn start(
        gateway: &Arc<Gateway>,
        admitted: Admitted,
        seats: (Seat, Option<AddressSeat>),
    ) -> Arc<str> {
        let token: Arc<str> = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()).into();
        let mailbox = Arc::new(Mailbox::default());
        let (incoming, inbox) = mpsc::channel(INBOX);
        let (heard, silence) = watch::channel(Instant::now());
        let client = Client::open(gateway, Arc::clone(&mailbox) as _, admitted).await;
        let session = PollSession { mailbox: Arc::clone(&mailbox), incoming, heard };
        gateway.polls.by_token().insert(Arc::clone(&token), Arc::new(session));
        let (gateway, ended) = (Arc::clone(gateway), Arc::clone(&token));
        // Boxed, so that the handshake's future is not as large as the session's.
        tokio::spawn(Box::pin(async move {
            Serving { client, mailbox, inbox, heard: silence }.run().await;
            gateway.polls.by_token().remove(&ended);
            drop(seats);
        }));
        token
    }

    /// Messages for the client, none when the window passes without any; `None` when the session has ended.
    pub(super) async fn messages(&self, window: Duration) -> Option<Vec<String>> {
        self.heard.send_replace(Instant::now());
        let messages = tokio::time::timeout(window, self.mailbox.take()).await;
        self.heard.send_replace(Instant::now());
        messages.unwrap_or_else(|_| Some(Vec::new()))
    }

    /// Hands on a message of the client, and waits until it has been handled, but not longer than the window.
    pub(super) async fn deliver(&self, message: Incoming, window: Duration) -> Delivered {
        self.heard.send_replace(Instant::now());
        let (handled, told) = oneshot::channel();
        let delivering = async {
            if self.incoming.send(Sent { message, handled }).await.is_err() || told.await.is_err() {
                return Delivered::Gone;
            }
            Delivered::Yes
        };
        tokio::time::timeout(window, delivering).await.unwrap_or(Delivered::Late)
    }
}

/// The task of a session.
struct Serving {
    client: Client,
    mailbox: Arc<Mailbox>,
    inbox: mpsc::Receiver<Sent>,
    heard: watch::Receiver<Instant>,
}

impl Serving {
    async fn run(mut self) {
        let end = self.serve().await;
        self.client.leave_tickets().await;
        if let End::Close(code, reason) = end {
            self.client.close(code, reason).await;
        }
        if !matches!(end, End::Gone) {
            self.farewell().await;
        }
        let departure = if matches!(end, End::Gone) { Departure::Lost } else { Departure::Closed };
        self.client.session.send(Command::Gone(self.client.session.id, departure)).await;
    }

    async fn serve(&mut self) -> End {
        loop {
            let silence = *self.heard.borrow() + SILENCE_MAX;
            let wake_at = self.client.next_deadline().map_or(silence, |deadline| deadline.min(silence));
            let end = tokio::select! {
                Some(Sent { message, handled }) = self.inbox.recv() => {
                    let end = self.client.receive(message).await;
                    let _ = handled.send(());
                    end
                }
                Some(settled) = self.client.pending.next() => self.client.settle(settled).await,
                Ok(()) = self.client.policies_changed.changed() => {
                    self.client.policies_changed();
                    None
                }
                Ok(()) = self.client.database_messages.changed() => {
                    self.client.announce_readiness().await;
                    None
                }
                () = self.mailbox.drained.notified() => {
                    self.client.session.send(Command::Writable(self.client.session.id)).await;
                    None
                }
                () = self.mailbox.acknowledged.notified() => {
                    if let Some(ping) = self.mailbox.arrived() {
                        self.client.acknowledge(ping).await;
                    }
                    None
                }
                () = self.mailbox.closing.notified() => Some(End::Closing),
                () = tokio::time::sleep_until(wake_at) => {
                    // It may have been heard of meanwhile.
                    if Instant::now() >= *self.heard.borrow() + SILENCE_MAX {
                        return End::Gone;
                    }
                    self.client.deadline().await
                }
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// What is left may still be fetched, by a client that goes on asking.
    async fn farewell(&mut self) {
        loop {
            let silence = *self.heard.borrow() + SILENCE_MAX;
            tokio::select! {
                () = self.mailbox.drained.notified() => {
                    self.client.session.send(Command::Writable(self.client.session.id)).await;
                }
                changed = self.heard.changed() => {
                    if changed.is_err() || self.mailbox.is_done() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(silence) => return,
            }
        }
    }
}
