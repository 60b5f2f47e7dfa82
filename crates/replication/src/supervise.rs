//! Keeping a stream alive: connect, prepare, stream, and after a break begin again with back-off and jitter.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use walcast_pgoutput::Lsn;

use crate::authentication::Authentication;
use crate::control::{SlotControl, Wanted};
use crate::error::ReplicationError;
use crate::event::{Event, Gap, StreamStatus};
use crate::progress::Progress;
use crate::settings::ConnectionSettings;
use crate::slot::{Origin, ReadySlot, ServerFacts, System};
use crate::startup::{Session, connect};
use crate::stream::{Finished, Stream, Timing};

/// What to stream, and how patiently.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// The database.
    pub connection: ConnectionSettings,
    /// The permanent logical slot; created when missing. Lower-case letters, digits and underscores.
    pub slot: String,
    /// The publications, all in one stream.
    pub publications: Vec<String>,
    /// How often the confirmed position is reported at the latest. It is reported more often where the server's
    /// `wal_sender_timeout` is short.
    pub feedback_interval: Duration,
    /// A server that says nothing for this long, though asked, counts as lost.
    pub silence_limit: Duration,
    /// How long to wait before another try.
    pub backoff: Backoff,
    /// How long a slot may still be held at the start by a predecessor that the server has not seen die yet.
    pub slot_wait: Duration,
    /// The largest message accepted, with its header. A row of this size passes through memory as a whole.
    pub message_bytes_max: usize,
    /// How the stream is steered while it runs.
    pub control: Arc<SlotControl>,
}

/// Growing pauses between tries: each twice the one before, drawn at random between half of it and all of it so that
/// many nodes do not come back in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure.
    pub first: Duration,
    /// No pause is longer. A stream that lived this long starts again with the first pause.
    pub longest: Duration,
}

/// Who answered, for `walcast doctor` and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Host and port.
    pub address: String,
    /// As the server says it, such as `15.4`.
    pub server_version: String,
    /// Unique to a cluster since its `initdb`.
    pub system_identifier: String,
    /// The cluster's timeline, which grows with every promotion.
    pub timeline: u32,
    /// How far its log is flushed.
    pub position: Lsn,
    /// The database of the session.
    pub database: String,
    /// Whether the session is encrypted.
    pub encrypted: bool,
    /// How the server let us in.
    pub authentication: Authentication,
}

impl StreamSettings {
    /// The settings everybody starts with.
    pub fn new(connection: ConnectionSettings, slot: impl Into<String>, publications: Vec<String>) -> Self {
        StreamSettings {
            connection,
            slot: slot.into(),
            publications,
            feedback_interval: Duration::from_secs(5),
            silence_limit: Duration::from_mins(1),
            backoff: Backoff::default(),
            slot_wait: Duration::from_secs(5),
            message_bytes_max: 256 << 20,
            control: Arc::default(),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// The pause after the `attempt`-th failure in a row, counted from one.
    fn pause(self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(30);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Opens a replication session, asks who is there, and hangs up.
///
/// # Errors
/// Whatever would keep [`run`] from logging in.
pub async fn identify(settings: &ConnectionSettings) -> Result<Identity, ReplicationError> {
    let mut session = connect(settings, 1 << 20).await?;
    let system = session.identify_system().await?;
    Ok(Identity {
        address: session.address,
        server_version: session.server_version,
        system_identifier: system.identifier,
        timeline: system.timeline,
        position: system.position,
        database: system.database,
        encrypted: session.encrypted,
        authentication: session.authentication,
    })
}

/// Streams the changes of the publications into `events` until cancelled or until nobody listens.
///
/// Every connection begins with [`Event::Restarted`]. `progress` is what the consumer has handled, where a new connection
/// goes on, and what it confirms, which is reported to the server as flushed. On cancellation the newest confirmed
/// position is reported once more and the slot is left in order.
///
/// # Errors
/// Before the first stream: what will not heal by itself, as one sentence with the SQL or setting that mends it.
/// Afterwards everything is retried (and told through `status`), except that the cluster is another one.
pub async fn run(
    settings: StreamSettings,
    progress: Arc<Progress>,
    events: mpsc::Sender<Vec<Event>>,
    status: watch::Sender<StreamStatus>,
    cancel: CancellationToken,
) -> Result<(), ReplicationError> {
    let mut supervisor = Supervisor {
        settings: &settings,
        progress: &progress,
        events: &events,
        status: &status,
        cancel: &cancel,
        known_system: None,
        unusable: None,
    };
    let result = supervisor.run().await;
    status.send_replace(StreamStatus::Stopped);
    result
}

struct Supervisor<'a> {
    settings: &'a StreamSettings,
    progress: &'a Progress,
    events: &'a mpsc::Sender<Vec<Event>>,
    status: &'a watch::Sender<StreamStatus>,
    cancel: &'a CancellationToken,
    /// The cluster and the timeline of the last stream, once there was one.
    known_system: Option<KnownSystem>,
    /// Why the slot has to be made anew, until a new one is read: making it may take more than one connection.
    unusable: Option<Origin>,
}

/// What was read last.
struct KnownSystem {
    identifier: String,
    timeline: u32,
}

/// How a connection ended without an error.
enum Done {
    /// There is nothing more to do.
    Finished,
    /// Something else than reading is wanted.
    Interrupted,
}

/// A session that has only to be told to start.
struct Prepared {
    session: Session,
    system: System,
    facts: ServerFacts,
    slot: ReadySlot,
    /// Where this server's log went another way than the one that was read, and what was read goes beyond that.
    cut_off: Option<Lsn>,
}

impl Supervisor<'_> {
    async fn run(&mut self) -> Result<(), ReplicationError> {
        let started = Instant::now();
        let mut attempt = 0;
        let mut unreadable = false;
        loop {
            if let Wanted::Paused(reason) = self.settings.control.wanted() {
                tracing::error!(slot = self.settings.slot, reason, "the log is read no further");
                self.status.send_replace(StreamStatus::Paused { reason });
                tokio::select! {
                    () = self.cancel.cancelled() => return Ok(()),
                    () = self.events.closed() => return Ok(()),
                    () = self.settings.control.unpaused() => {}
                }
                tracing::info!(slot = self.settings.slot, "the log is read again");
            }
            self.status.send_replace(StreamStatus::Connecting);
            let connected = Instant::now();
            let error = match self.stream_once().await {
                Ok(Done::Finished) => return Ok(()),
                Ok(Done::Interrupted) => continue,
                Err(error) => error,
            };
            if connected.elapsed() >= self.settings.backoff.longest {
                (attempt, unreadable) = (0, false);
            }
            attempt += 1;
            if self.is_final(&error, started) {
                return Err(error);
            }
            // Twice in a row, and each time the publication was there before the stream began: it was created anew, and
            // what the log has from before that can never be read.
            let was_unreadable = mem::replace(&mut unreadable, error.is_of_unreadable_log());
            if was_unreadable && unreadable {
                self.settings.control.renew("the log is older than a publication, which was created anew");
                // What is written until then is lost, too.
                (attempt, unreadable) = (1, false);
            }
            let pause = self.settings.backoff.pause(attempt);
            tracing::warn!(%error, attempt, pause_ms = pause.as_millis(), "replication broke; trying again");
            self.status.send_replace(StreamStatus::Broken { error: error.to_string(), attempt });
            tokio::select! {
                () = self.cancel.cancelled() => return Ok(()),
                () = self.events.closed() => return Ok(()),
                () = sleep(pause) => {}
            }
        }
    }

    fn is_final(&self, error: &ReplicationError, started: Instant) -> bool {
        match error {
            ReplicationError::OtherCluster { .. } => true,
            _ if self.known_system.is_some() => false,
            ReplicationError::SlotInUse { .. } => started.elapsed() >= self.settings.slot_wait,
            _ => error.is_permanent(),
        }
    }

    /// One connection from its beginning to its end.
    async fn stream_once(&mut self) -> Result<Done, ReplicationError> {
        let renewal = match self.settings.control.wanted() {
            Wanted::Renewed(reason) => Some(reason),
            Wanted::Reading | Wanted::Paused(_) => None,
        };
        let prepared = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Ok(Done::Finished),
            () = self.events.closed() => return Ok(Done::Finished),
            prepared = self.prepare(renewal.is_some()) => prepared?,
        };
        let Prepared { session, system, facts, slot, cut_off } = prepared;
        if renewal.is_some() {
            self.settings.control.renewed();
        }
        if let Some(cut_off) = cut_off {
            self.progress.rewind(cut_off);
        }
        let since = slot.confirmed.max(self.progress.handled());
        let gap = self.gap(&slot, renewal, cut_off);
        if let Some(gap) = &gap {
            tracing::error!(slot = self.settings.slot, %since, %gap, "changes before this position are lost");
        }
        let log_end = system.position;
        if self.known_system.is_none() {
            self.progress.start(since, log_end);
        } else if gap.is_some() {
            // Nothing before it can be had again.
            self.progress.begin_again(since);
        }
        let promoted = self.known_system.as_ref().is_some_and(|known| known.timeline < system.timeline);
        self.known_system = Some(KnownSystem { identifier: system.identifier, timeline: system.timeline });
        self.unusable = None;
        self.status.send_replace(StreamStatus::Streaming { since_lsn: since });
        tracing::info!(slot = self.settings.slot, %since, "streaming changes");
        let first = Event::Restarted { since, log_end, promoted, gap };
        let timing = self.timing(&facts);
        let stream = Stream::new(session.socket, &self.settings.slot, self.progress, timing, first);
        let session_end = self.cancel.child_token();
        let streaming = stream.run(self.events, &session_end);
        tokio::pin!(streaming);
        let finished = tokio::select! {
            finished = &mut streaming => finished?,
            () = self.settings.control.interrupted() => {
                session_end.cancel();
                streaming.await?
            }
        };
        Ok(match finished {
            Finished::Cancelled if !self.cancel.is_cancelled() => Done::Interrupted,
            Finished::Cancelled | Finished::ConsumerGone => Done::Finished,
        })
    }

    /// Why changes are missing before what comes now, if they are.
    fn gap(&self, slot: &ReadySlot, renewal: Option<String>, cut_off: Option<Lsn>) -> Option<Gap> {
        self.known_system.as_ref()?;
        match slot.origin {
            Origin::Renewed => Some(Gap::SlotGivenUp(renewal.unwrap_or_default())),
            Origin::Missing => Some(Gap::SlotVanished),
            Origin::Invalidated => Some(Gap::SlotInvalidated),
            // Only we move the slot; where it stands beyond what we handled, somebody else has taken changes from it.
            Origin::Found if cut_off.is_some() => cut_off.map(Gap::LogCutOff),
            Origin::Found => (slot.confirmed > self.progress.handled()).then_some(Gap::SlotMoved),
        }
    }

    async fn prepare(&mut self, renew: bool) -> Result<Prepared, ReplicationError> {
        let StreamSettings { connection, slot, publications, message_bytes_max, .. } = self.settings;
        let mut session = connect(connection, *message_bytes_max).await?;
        let system = session.identify_system().await?;
        self.check_same_cluster(&system)?;
        let cut_off = self.cut_off(&mut session, &system).await?;
        let facts = session.check_server().await?;
        session.check_publications(publications, &system.database).await?;
        let ready = session.ready_slot(slot, &system.database, &facts, renew, &mut self.unusable).await?;
        // The server takes the later of this and the slot's own position, so what is handled does not come again to this
        // process; the slot stays where it is.
        let from = cut_off.unwrap_or_else(|| self.progress.handled());
        session.start_replication(slot, from, publications).await?;
        Ok(Prepared { session, system, facts, slot: ready, cut_off })
    }

    /// Asking another cluster, or an older state of this one, to go on at our position would make it skip its own
    /// changes up to there without a word.
    fn check_same_cluster(&self, system: &System) -> Result<(), ReplicationError> {
        let reason = match &self.known_system {
            Some(known) if known.identifier != system.identifier => {
                format!("its system identifier is {}, it was {}", system.identifier, known.identifier)
            }
            Some(known) if system.timeline > known.timeline => return Ok(()),
            _ if system.position < self.progress.handled() => format!(
                "its log ends at {}, and everything up to {} was already read",
                system.position,
                self.progress.handled()
            ),
            _ => return Ok(()),
        };
        Err(ReplicationError::OtherCluster { reason })
    }

    /// Where a server that was promoted since has left the log that was read, if more of that was read.
    async fn cut_off(&self, session: &mut Session, system: &System) -> Result<Option<Lsn>, ReplicationError> {
        let Some(known) = self.known_system.as_ref().filter(|known| system.timeline > known.timeline) else {
            return Ok(None);
        };
        let switched = session.timeline_switch(system.timeline, known.timeline).await?;
        tracing::warn!(
            slot = self.settings.slot,
            from = known.timeline,
            to = system.timeline,
            %switched,
            "the log has another timeline: a standby was promoted"
        );
        Ok(Some(switched).filter(|switched| *switched < self.progress.handled()))
    }

    /// At least three reports fit into the time after which the server would hang up.
    fn timing(&self, facts: &ServerFacts) -> Timing {
        let by_server = facts.wal_sender_timeout.map_or(Duration::MAX, |limit| limit / 3);
        let silence_limit = self.settings.silence_limit.max(Duration::from_millis(8));
        let feedback_interval = self
            .settings
            .feedback_interval
            .min(by_server)
            .min(silence_limit / 4)
            .max(Duration::from_millis(1));
        Timing { feedback_interval, silence_limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_jittered() {
        let backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1) };
        for (attempt, full) in [(1, 100), (2, 200), (4, 800), (5, 1000), (4_000_000, 1000)] {
            let full = Duration::from_millis(full);
            for _ in 0..50 {
                let pause = backoff.pause(attempt);
                assert!(full / 2 <= pause && pause <= full, "{attempt}: {pause:?}");
            }
        }
        let first = backoff.pause(5);
        assert!((0..100).any(|_| backoff.pause(5) != first), "jitter varies");
    }
}
