//! The engine: sessions and topics, Broadcast and Presence, and the way of a row change from the log to
//! the sockets that may see it. No sockets, no SQL: the gateway gives a [`Socket`] to write to, the
//! catalog answers as [`walcast_policy::Oracle`].
//!
//! In reading order, along the way of a change: [`ingest`] (bytes of the log to transactions),
//! [`transaction`] and [`spill`] (what such a one is, and where a large one waits), [`log_inbox`] (their way into the
//! matcher), [`matcher`] (who gets a change, and the frames), [`shard`] (frames into outbound queues), [`outbound`]
//! (queues to the kernel). Beside it: [`engine`] (what gateways call), [`subscription`] (bindings against
//! the catalog), [`notice`] (what a join is told of them), [`session`], [`topic`], [`broadcast`], [`presence`],
//! [`tickets`] (who comes back without saying up to where it had come), [`rate`] (what is too much), [`operations`] (what operators ask), [`canary`] (whether the whole way works).

mod broadcast;
mod canary;
mod command;
mod engine;
#[cfg(test)]
mod fixture;
mod ids;
mod ingest;
mod interned;
mod latency;
mod log_inbox;
mod matcher;
mod membership;
mod notice;
mod operations;
mod outbound;
mod prefetch;
mod presence;
mod rate;
#[cfg(test)]
mod recorder;
mod relief;
mod session;
mod settings;
mod shard;
mod spill;
mod subscription;
mod tickets;
mod topic;
mod transaction;

pub use canary::Canary;
pub use command::{BroadcastPayload, Command, Departure, Push, PushKind, Search, SystemMessage};
pub use engine::{Engine, JoinRefused, JoinRequest, JoinedChannel, REPLICATION_READY, SessionHandle};
pub use ids::{ChannelId, SessionId};
pub use ingest::{CANARY_MESSAGE_PREFIX, Ingest, IngestError, LogBatch, LogEvent, LogStart};
pub use latency::LatencyHistogram;
pub use log_inbox::LogSender;
pub use operations::{ChannelInfo, ConnectionInfo, Occupancy, TopicSummary};
pub use outbound::Socket;
pub use rate::{EventBudget, EventRateExceeded};
pub use relief::{Alike, BroadcastRule, BroadcastRules};
pub use settings::{Counters, Deletes, EngineSettings, RateLimit, ResumeSettings};
pub use subscription::Identity;
pub use tickets::{Claimant, TICKETS_MESSAGE_PREFIX};
pub use topic::{Privacy, ReadRights};
