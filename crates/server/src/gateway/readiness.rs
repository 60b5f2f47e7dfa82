//! Channels that want to know when messages from the database arrive: docs/protocol.md §3.6.

use std::time::Duration;

use walcast_engine::{Command, REPLICATION_READY, SystemMessage};
use walcast_wire::Status;

use super::End;
use super::channel::ChannelState;
use super::client::Client;

/// Whether rows of `realtime.messages` reach the sockets as they commit (docs/protocol.md §6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseMessages {
    /// They do.
    Arriving,
    /// The log is not being read at the moment, and will be by itself.
    Interrupted,
    /// They are not in the log that is read; the clause says why, and what to do.
    NotInLog(&'static str),
}

impl Client {
    /// Tells the channels that have waited for messages from the database, if they arrive now.
    pub(super) async fn announce_readiness(&mut self) {
        if *self.database_messages.borrow_and_update() != DatabaseMessages::Arriving {
            return;
        }
        let waiting = self.channels.iter_mut().filter_map(ChannelState::joined_mut);
        let told: Vec<_> =
            waiting.filter_map(|joined| joined.ready_by.take().map(|_| joined.channel.id())).collect();
        for channel in told {
            let system = SystemMessage {
                session: self.session.id,
                channel,
                extension: "system",
                status: Status::Ok,
                message: REPLICATION_READY.to_owned(),
            };
            self.session.send(Command::System(system)).await;
        }
    }

    /// Ends the channels that have waited in vain.
    pub(super) async fn end_unready(&mut self, now: Duration) -> Option<End> {
        let late = |channel: &ChannelState| channel.ready_by().is_some_and(|at| at <= now);
        while let Some(place) = self.channels.iter().position(late) {
            let closed = self.channels.remove(place);
            if let Some(joined) = closed.joined() {
                let why = match *self.database_messages.borrow() {
                    DatabaseMessages::NotInLog(why) => format!(": {why}"),
                    DatabaseMessages::Arriving | DatabaseMessages::Interrupted => String::new(),
                };
                let message = format!("Replication connection was not established in time{why}");
                tracing::warn!(code = "ReplicationConnectionTimeout", message, "a channel was closed");
                self.close_channel(joined.channel.id(), message).await;
            }
            if let Some(end) = self.resume(closed.deferred).await {
                return Some(end);
            }
        }
        None
    }
}
