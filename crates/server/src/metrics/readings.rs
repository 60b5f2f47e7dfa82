//! The numbers of `/metrics`, and what they are called. docs/operations.md lists them.

use std::sync::atomic::{AtomicU64, Ordering};

use walcast_engine::Counters;

/// One number of the engine.
pub(super) struct Reading {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) read: fn(&Counters) -> &AtomicU64,
}

/// How a number moves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Up only; its line ends in `_total`.
    Counter,
    /// Up and down.
    Gauge,
    /// Up and down, in bytes; its line ends in `_bytes`.
    Bytes,
}

impl Reading {
    pub(super) fn value(&self, counters: &Counters) -> u64 {
        (self.read)(counters).load(Ordering::Relaxed)
    }
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Counters) -> &AtomicU64) -> Reading {
    Reading { name, help, kind: Kind::Counter, read }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Counters) -> &AtomicU64) -> Reading {
    Reading { name, help, kind: Kind::Gauge, read }
}

const fn bytes(name: &'static str, help: &'static str, read: fn(&Counters) -> &AtomicU64) -> Reading {
    Reading { name, help, kind: Kind::Bytes, read }
}

/// Walcast's own names, without the prefix `walcast_`.
pub(super) const READINGS: &[Reading] = &[
    gauge("ws_connections_active", "Sockets open now", |counters| &counters.sessions),
    counter("ws_messages_sent", "Broadcasts and changes handed to sockets", |counters| &counters.deliveries),
    counter("ws_errors", "Refused handshakes and joins, and frames that were no messages", |counters| {
        &counters.errors
    }),
    counter("ws_slow_closes", "Sockets closed because they could not keep up", |counters| {
        &counters.slow_closes
    }),
    counter(
        "broadcasts_conflated",
        "Broadcasts that were not sent to a slow socket because a newer one with the same key was there",
        |counters| &counters.conflated_broadcasts,
    ),
    counter(
        "broadcasts_expired",
        "Broadcasts that were not sent to a slow socket because they had outlived their time",
        |counters| &counters.expired_broadcasts,
    ),
    bytes("ws_queued", "What waits for sockets", |counters| &counters.queued_bytes),
    gauge("channels_active", "Joined channels", |counters| &counters.channels),
    counter("channel_joins", "Joins that succeeded", |counters| &counters.joins),
    counter("broadcasts_received", "Broadcasts that clients sent over their sockets", |counters| {
        &counters.broadcasts
    }),
    counter("broadcasts_published", "Broadcasts that came over HTTP", |counters| {
        &counters.published_broadcasts
    }),
    counter("broadcasts_from_database", "Rows of realtime.messages that were broadcast", |counters| {
        &counters.database_broadcasts
    }),
    counter("messages_skipped", "Rows of realtime.messages that could not be broadcast", |counters| {
        &counters.skipped_messages
    }),
    counter("rest_messages_withheld", "Private messages of batches that no policy allowed", |counters| {
        &counters.withheld_broadcasts
    }),
    counter("replays", "Joins that were sent stored messages", |counters| &counters.replays),
    counter("presence_events", "Tracks, untracks, and states sent at a join", |counters| {
        &counters.presence_events
    }),
    counter("client_events_refused", "Messages refused because their sender sent too many", |counters| {
        &counters.client_events_refused
    }),
    counter("events_refused", "Messages refused because all senders together sent too many", |counters| {
        &counters.events_refused
    }),
    counter("presence_refused", "Presence events refused because there were too many", |counters| {
        &counters.presence_refused
    }),
    gauge("subscriptions_active", "Subscriptions to row changes registered now", |counters| {
        &counters.subscriptions
    }),
    counter("changes_decoded", "Row changes read from the log", |counters| &counters.changes),
    counter("changes_withheld", "Row changes not delivered because a policy or filter failed", |counters| {
        &counters.failures
    }),
    counter("gaps", "How often changes were lost before they could be read", |counters| &counters.gaps),
    counter(
        "plan_decisions",
        "Row changes decided in process, once for each audience they were put to",
        |counters| &counters.plan_decisions,
    ),
    counter("oracle_decisions", "Questions about row-level security put to Postgres", |counters| {
        &counters.oracle_questions
    }),
    bytes("copy", "Memory of the copies of tables that policies look things up in", |counters| {
        &counters.copy_bytes
    }),
    bytes("journal", "What is kept of the log for those who come back", |counters| &counters.journal_bytes),
    gauge("journal_oldest_lsn", "Where the oldest transaction that is kept was committed", |counters| {
        &counters.journal_oldest
    }),
    counter(
        "journal_gaps",
        "Transactions that were too large to be kept, and slots that were lost",
        |counters| &counters.journal_gaps,
    ),
    counter("resume_tickets_left", "Lost channels whose clients may come back", |counters| {
        &counters.tickets_left
    }),
    counter(
        "resume_tickets_redeemed",
        "Joins that went on where a lost channel of their client was",
        |counters| &counters.tickets_redeemed,
    ),
    counter("resume_tickets_expired", "Lost channels whose clients have not come back in time", |counters| {
        &counters.tickets_expired
    }),
    counter(
        "resume_tickets_displaced",
        "Lost channels that were forgotten because there were too many",
        |counters| &counters.tickets_displaced,
    ),
    counter(
        "resume_broadcasts",
        "Broadcasts that were sent to clients that came back, which may have missed them",
        |counters| &counters.repeated_broadcasts,
    ),
    gauge("catch_ups", "Channels that have yet to be sent what they have missed", |counters| {
        &counters.catch_ups
    }),
    counter("snapshots", "Channels that have been sent the rows that they begin with", |counters| {
        &counters.snapshots
    }),
];

/// Names that dashboards of Supabase Realtime know, each with the label `tenant`. Upstream's counters do not end in
/// `_total`, so none of these has a kind.
pub(super) const KNOWN_NAMES: &[Reading] = &[
    gauge("realtime_connections_connected", "Sockets open now", |counters| &counters.sessions),
    gauge("realtime_channel_joins", "Joins that succeeded", |counters| &counters.joins),
    gauge("realtime_channel_events", "Broadcasts that clients sent over their sockets", |counters| {
        &counters.broadcasts
    }),
    gauge("realtime_channel_presence_events", "Tracks, untracks, and states sent at a join", |counters| {
        &counters.presence_events
    }),
    gauge("realtime_channel_db_events", "Row changes read from the log", |counters| &counters.changes),
    gauge(
        "realtime_channel_error",
        "Refused handshakes and joins, and frames that were no messages",
        |counters| &counters.errors,
    ),
    gauge("phoenix_connections_active", "Sockets open now", |counters| &counters.sessions),
    gauge("phoenix_channel_joined_total", "Joins that succeeded", |counters| &counters.joins),
];
