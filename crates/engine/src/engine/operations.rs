//! Operators' questions and commands, put to every shard.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Engine;
use crate::command::Command;
use crate::operations::{ConnectionInfo, Occupancy, Operation, TopicSummary};
use crate::topic::Privacy;

impl Engine {
    /// The connections of a user: those whose socket, or one of whose channels, has a token with this `sub`.
    pub async fn connections_of(&self, subject: &str) -> Vec<ConnectionInfo> {
        let subject: Arc<str> = subject.into();
        let answers = self.ask(|answer| Operation::ConnectionsOf(Arc::clone(&subject), answer)).await;
        answers.into_iter().flatten().collect()
    }

    /// Whether a user has a connection.
    pub async fn is_connected(&self, subject: &str) -> bool {
        !self.connections_of(subject).await.is_empty()
    }

    /// Closes a user's connections with 1008 and a reason; returns how many were affected. Where only some channels
    /// of a socket are the user's, these end, and the socket stays.
    pub async fn disconnect(&self, subject: &str) -> usize {
        let subject: Arc<str> = subject.into();
        self.ask(|answer| Operation::Disconnect(Arc::clone(&subject), answer)).await.into_iter().sum()
    }

    /// Ends a user's channels on a topic (the whole name, `realtime:…`), be it public or private; returns how many.
    pub async fn unsubscribe(&self, subject: &str, topic: &str) -> usize {
        let (subject, topic): (Arc<str>, Arc<str>) = (subject.into(), topic.into());
        let operation = |answer| Operation::Unsubscribe(Arc::clone(&subject), Arc::clone(&topic), answer);
        self.ask(operation).await.into_iter().sum()
    }

    /// How many are on a topic (the whole name, `realtime:…`).
    pub async fn occupancy(&self, topic: &str, privacy: Privacy) -> Occupancy {
        let topic: Arc<str> = topic.into();
        let answers = self.ask(|answer| Operation::Occupancy(Arc::clone(&topic), privacy, answer)).await;
        answers.into_iter().fold(Occupancy::default(), Occupancy::add)
    }

    /// Every topic that somebody has joined, in the order of their names.
    pub async fn topics(&self) -> Vec<TopicSummary> {
        TopicSummary::merged(self.ask(Operation::Topics).await.into_iter().flatten())
    }

    /// Tells every channel `Server requested disconnect` and closes every socket with 1012, so that all of them come
    /// back (docs/protocol.md §1.5). New ones are let in. Returns how many sockets were closed.
    pub async fn disconnect_all(&self) -> usize {
        self.ask(Operation::DisconnectAll).await.into_iter().sum()
    }

    /// Puts an operation to every shard at once, and collects the answers.
    async fn ask<T>(&self, operation: impl Fn(oneshot::Sender<T>) -> Operation) -> Vec<T> {
        let mut pending = Vec::with_capacity(self.shards.len());
        for shard in self.shards.iter() {
            let (answer, answered) = oneshot::channel();
            let _ = shard.commands.send(Command::Operate(operation(answer))).await;
            pending.push(answered);
        }
        let mut answers = Vec::with_capacity(pending.len());
        for answered in pending {
            // One that has ended has nothing to tell.
            answers.extend(answered.await.ok());
        }
        answers
    }
}
