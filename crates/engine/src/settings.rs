//! The engine's limits, and what it counts.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::Notify;

use crate::canary::Canary;
use crate::latency::LatencyHistogram;
use crate::relief::BroadcastRules;

/// Limits and choices of the engine. Each has a setting of the same name.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Shards; one per worker thread.
    pub shards: usize,
    /// Bytes queued for one socket before it is closed as too slow.
    pub outbound_bytes_max: usize,
    /// How broadcasts of some events spare sockets that are behind.
    pub broadcast_rules: BroadcastRules,
    /// Bytes of one broadcast's payload.
    pub payload_bytes_max: usize,
    /// Bytes of one tracked payload.
    pub presence_payload_bytes_max: usize,
    /// Bytes of all metas of one topic, each with its key, as JSON.
    pub presence_topic_bytes_max: usize,
    /// Bytes of one change as JSON before its large columns are left out (docs/protocol.md §4.4).
    pub record_bytes_max: usize,
    /// Presence calls per channel.
    pub presence_calls: RateLimit,
    /// Presence events of all channels together in one second: tracks, and states sent at a join.
    pub max_presence_events_per_second: Option<NonZeroU32>,
    /// Messages that clients send and that are published over HTTP in one second, all together.
    pub max_events_per_second: Option<NonZeroU32>,
    /// Messages of one connection in one second.
    pub max_client_events_per_second: Option<NonZeroU32>,
    /// Every channel is told who is present, as if its join had asked for that.
    pub presence_enabled: bool,
    /// How long the presence of a lost connection stays, so that nobody notices a reconnect.
    pub presence_grace: Duration,
    /// For how long the changes of who is present on a topic are collected at most; zero tells of each by itself.
    pub presence_diff: Duration,
    /// What happens with deletes that the old key alone can not decide.
    pub deletes: Deletes,
    /// Questions that are put to PostgreSQL at a time.
    pub questions_max: usize,
    /// Bytes of all copies of tables that policies look things up in.
    pub copy_bytes_max: usize,
    /// Bytes of recent transactions that are kept for those who come back; 0 keeps none.
    pub journal_bytes_max: usize,
    /// For how long they are kept.
    pub journal_age: Duration,
    /// Rows that a channel begins with at most, of all its bindings (docs/protocol.md §5.8).
    pub snapshot_rows_max: usize,
    /// Bytes of these.
    pub snapshot_bytes_max: usize,
    /// What is done for clients that come back and can not say up to where they have come.
    pub resume: ResumeSettings,
}

/// What is done for clients that come back and can not say up to where they have come.
#[derive(Clone, Debug)]
pub struct ResumeSettings {
    /// For how long a lost socket's tickets are honoured; zero leaves none.
    pub ticket_validity: Duration,
    /// How many are kept; the oldest are forgotten first.
    pub tickets_max: usize,
    /// Bytes of recent broadcasts that are kept for them; `None` keeps none.
    pub broadcast_bytes_max: Option<NonZeroUsize>,
    /// Tickets are handed to the next process that has the same; the name of the replication slot.
    pub scope: Arc<str>,
}

impl ResumeSettings {
    /// Bytes of broadcasts that are kept for who takes a ticket, where there are tickets.
    pub(crate) fn kept_broadcast_bytes(&self) -> Option<usize> {
        self.broadcast_bytes_max.filter(|_| !self.ticket_validity.is_zero()).map(NonZeroUsize::get)
    }
}

impl Default for ResumeSettings {
    fn default() -> Self {
        ResumeSettings {
            ticket_validity: Duration::from_mins(2),
            tickets_max: 100_000,
            broadcast_bytes_max: None,
            scope: "walcast".into(),
        }
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        EngineSettings {
            shards: 1,
            outbound_bytes_max: 1 << 20,
            broadcast_rules: BroadcastRules::default(),
            payload_bytes_max: 3_000_500,
            presence_payload_bytes_max: 64 << 10,
            presence_topic_bytes_max: 4 << 20,
            record_bytes_max: 1 << 20,
            presence_calls: RateLimit { calls: 100, window: Duration::from_secs(30) },
            max_presence_events_per_second: NonZeroU32::new(10_000),
            max_events_per_second: NonZeroU32::new(100_000),
            max_client_events_per_second: NonZeroU32::new(10_000),
            presence_enabled: false,
            presence_grace: Duration::from_secs(2),
            presence_diff: Duration::from_millis(250),
            deletes: Deletes::Private,
            questions_max: 4,
            copy_bytes_max: 256 << 20,
            journal_bytes_max: 64 << 20,
            journal_age: Duration::from_mins(2),
            resume: ResumeSettings::default(),
            snapshot_rows_max: 10_000,
            snapshot_bytes_max: 16 << 20,
        }
    }
}

/// So many calls in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls in one window.
    pub calls: u32,
    /// The window's length.
    pub window: Duration,
}

/// What happens with a DELETE on a table with row security whose old row is not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    /// Delivered only where the key columns suffice to decide.
    Private,
    /// Delivered to every subscriber of the table, as the reference server does.
    Compatible,
}

/// What the engine counts; the gateway shows it as metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections open now.
    pub sessions: AtomicU64,
    /// Told whenever a connection ends.
    pub(crate) session_gone: Notify,
    /// Joins that succeeded.
    pub joins: AtomicU64,
    /// Channels open now.
    pub channels: AtomicU64,
    /// Broadcasts received from clients over their sockets.
    pub broadcasts: AtomicU64,
    /// Broadcasts published over HTTP.
    pub published_broadcasts: AtomicU64,
    /// Private messages of HTTP batches that no policy allowed.
    pub withheld_broadcasts: AtomicU64,
    /// Broadcasts from the database (docs/protocol.md §6.5).
    pub database_broadcasts: AtomicU64,
    /// Rows of `realtime.messages` that could not be broadcast.
    pub skipped_messages: AtomicU64,
    /// Joins that were sent stored messages (docs/protocol.md §6.4).
    pub replays: AtomicU64,
    /// Tracks, untracks, and states sent at a join.
    pub presence_events: AtomicU64,
    /// Messages refused because their sender sent too many.
    pub client_events_refused: AtomicU64,
    /// Messages refused because there were too many of all senders together.
    pub events_refused: AtomicU64,
    /// Presence events refused because there were too many of all channels together.
    pub presence_refused: AtomicU64,
    /// Bytes that wait for sockets, all together.
    pub queued_bytes: AtomicU64,
    /// From the commit of a transaction to the moment when its frames are written to the sockets. One count for each part
    /// of the log that a shard gets, and one for each socket that was behind then, once it has taken its frames.
    pub commit_to_write: LatencyHistogram,
    /// Broadcast and change messages handed to sockets.
    pub deliveries: AtomicU64,
    /// Changes read from the log, those of tables that nobody is subscribed to included.
    pub changes: AtomicU64,
    /// Row changes withheld because a policy or filter failed.
    pub failures: AtomicU64,
    /// Bytes of the copies of tables that policies look things up in.
    pub copy_bytes: AtomicU64,
    /// Bytes of the transactions that are kept for those who come back.
    pub journal_bytes: AtomicU64,
    /// The commit LSN of the oldest of these, 0 where there is none.
    pub journal_oldest: AtomicU64,
    /// Up to this LSN transactions were forgotten for want of room, 0 where none was.
    pub journal_crowded_out: AtomicU64,
    /// How often something was not kept that should have been: a transaction over the limit, a slot that was lost.
    pub journal_gaps: AtomicU64,
    /// Tickets that lost channels have left, those that were handed over included.
    pub tickets_left: AtomicU64,
    /// Joins that went on where their client was.
    pub tickets_redeemed: AtomicU64,
    /// Tickets whose client has not come back in time.
    pub tickets_expired: AtomicU64,
    /// Tickets that were forgotten because there were too many.
    pub tickets_displaced: AtomicU64,
    /// Broadcasts that were sent to those who came back, for they may have missed them.
    pub repeated_broadcasts: AtomicU64,
    /// Channels that have yet to be told what they have missed, or are being sent the rows that they begin with.
    pub catch_ups: AtomicU64,
    /// Channels that have been sent the rows that they begin with.
    pub snapshots: AtomicU64,
    /// Changes decided in process, one for each audience that a change was put to.
    pub plan_decisions: AtomicU64,
    /// Questions put to PostgreSQL.
    pub oracle_questions: AtomicU64,
    /// Refused handshakes and joins, and frames that were no messages; the gateway counts them.
    pub errors: AtomicU64,
    /// Broadcasts that were not written because a newer one with the same key was there.
    pub conflated_broadcasts: AtomicU64,
    /// Broadcasts that were not written because they had outlived their time.
    pub expired_broadcasts: AtomicU64,
    /// Sockets closed as too slow.
    pub slow_closes: AtomicU64,
    /// Subscriptions registered now.
    pub subscriptions: AtomicU64,
    /// How often changes were lost before they could be read.
    pub gaps: AtomicU64,
    /// Messages that are sent through the log to see whether they come back.
    pub canary: Canary,
}
