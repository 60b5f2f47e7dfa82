//! Operators' questions and commands, as far as they concern the sessions of one shard.

use std::sync::Arc;

use walcast_wire::{Frame, Status};

use super::Shard;
use super::holds::Replays;
use super::home::HomeTopic;
use super::topics::Topic;
use crate::command::Departure;
use crate::ids::{ChannelId, SessionId};
use crate::operations::{ChannelInfo, ConnectionInfo, Occupancy, Operation, TopicSummary};
use crate::session::Session;
use crate::topic::TopicKey;

/// Close code 1008, "Policy Violation" (RFC 6455 §7.4.1): nothing that the client should try again.
const POLICY: u16 = 1008;
/// Close code 1012, "Service Restart" (IANA WebSocket close codes): the client may reconnect.
const SERVICE_RESTART: u16 = 1012;

const DISCONNECTED: &str = "an operator has disconnected this user";
const UNSUBSCRIBED: &str = "An operator has unsubscribed this user from the channel";
/// docs/protocol.md §3.6.
const DISCONNECT_ALL: &str = "Server requested disconnect";

/// How much of a session is a user's.
enum Share {
    None,
    Channels(Vec<ChannelId>),
    All,
}

impl Shard {
    pub(super) fn operate(&mut self, operation: Operation) {
        // Whoever asked may have gone away meanwhile.
        match operation {
            Operation::ConnectionsOf(subject, answer) => drop(answer.send(self.connections_of(&subject))),
            Operation::Disconnect(subject, answer) => drop(answer.send(self.disconnect(&subject))),
            Operation::Unsubscribe(subject, topic, answer) => {
                let _ = answer.send(self.unsubscribe_user(&subject, &topic));
            }
            Operation::Occupancy(topic, privacy, answer) => {
                let _ = answer.send(self.occupancy(&TopicKey::new(topic, privacy)));
            }
            Operation::Topics(answer) => drop(answer.send(self.topic_summaries())),
            Operation::DisconnectAll(answer) => drop(answer.send(self.disconnect_all())),
        }
    }

    fn connections_of(&self, subject: &str) -> Vec<ConnectionInfo> {
        let belongs = |found: &Session| !matches!(share(found, subject), Share::None);
        let mut connections: Vec<ConnectionInfo> = self
            .sessions
            .iter()
            .filter(|(_, found)| belongs(found))
            .map(|(&session, found)| connection(session, found))
            .collect();
        connections.sort_by_key(|connection| connection.session);
        connections
    }

    fn disconnect(&mut self, subject: &str) -> usize {
        let affected: Vec<(SessionId, Share)> = self
            .sessions
            .iter()
            .map(|(&session, found)| (session, share(found, subject)))
            .filter(|(_, share)| !matches!(share, Share::None))
            .collect();
        let count = affected.len();
        let close = Frame::close(POLICY, DISCONNECTED);
        for (session, share) in affected {
            match share {
                Share::None => {}
                Share::Channels(channels) => {
                    for channel in channels {
                        self.end_channel(session, channel, Status::Ok, DISCONNECTED);
                    }
                }
                Share::All => self.end_session(session, &close),
            }
        }
        count
    }

    fn unsubscribe_user(&mut self, subject: &str, topic: &str) -> usize {
        let mut channels = Vec::new();
        for (&session, found) in &self.sessions {
            let of_socket = found.subject.as_deref();
            let theirs = found
                .channels
                .iter()
                .filter(|channel| channel.topic() == topic && channel.subject(of_socket) == Some(subject));
            channels.extend(theirs.map(|channel| (session, channel.id())));
        }
        for &(session, channel) in &channels {
            self.end_channel(session, channel, Status::Ok, UNSUBSCRIBED);
        }
        channels.len()
    }

    fn occupancy(&self, key: &TopicKey) -> Occupancy {
        let present_keys = self.home_topics.get(key).map_or(0, HomeTopic::present_keys);
        match self.topics.get(key.as_ref()) {
            None => Occupancy { present_keys, ..Occupancy::default() },
            Some(topic) => Occupancy {
                channels: topic.channels(),
                listeners: topic.listeners().count(),
                followers: topic.followers().count(),
                present_keys,
                replaying: topic.replays().map_or(0, Replays::joining),
            },
        }
    }

    fn topic_summaries(&self) -> Vec<TopicSummary> {
        let summary = |topic: &Topic| {
            let TopicKey { topic: name, privacy } = topic.key();
            TopicSummary { topic: name.into(), privacy, channels: topic.channels() }
        };
        self.topics.iter().filter(|topic| topic.channels() > 0).map(summary).collect()
    }

    fn disconnect_all(&mut self) -> usize {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        let close = Frame::close(SERVICE_RESTART, "");
        for &session in &sessions {
            self.tell_channels(session, DISCONNECT_ALL);
            self.end_session(session, &close);
        }
        sessions.len()
    }

    /// Sends each channel of a session a `system` message.
    fn tell_channels(&mut self, session: SessionId, message: &str) {
        let Some(found) = self.sessions.get(&session) else { return };
        let system = |channel: &crate::session::Channel| {
            let (join_ref, topic) = (channel.join_ref(), channel.topic());
            walcast_wire::system(found.serializer, &join_ref, topic, "system", Status::Ok, message)
        };
        let frames: Vec<Frame> = found.channels.iter().map(system).collect();
        for frame in frames {
            self.write(session, &frame);
        }
    }

    /// Ends all channels of a session at once, and closes its socket behind what is queued.
    fn end_session(&mut self, session: SessionId, close: &Frame) {
        let Some(found) = self.sessions.get_mut(&session) else { return };
        for channel in std::mem::take(&mut found.channels) {
            self.forget(channel, Departure::Closed);
        }
        self.close(session, close, false);
    }
}

/// What of a session is a user's. A socket belongs to the user of its own token; where that names nobody, as the
/// public keys of client libraries do, to the user of its channels, if they are all of one.
fn share(found: &Session, subject: &str) -> Share {
    let of_socket = found.subject.as_deref();
    if of_socket == Some(subject) {
        return Share::All;
    }
    let theirs: Vec<ChannelId> = found
        .channels
        .iter()
        .filter(|channel| channel.subject(of_socket) == Some(subject))
        .map(crate::session::Channel::id)
        .collect();
    let others = || {
        found.channels.iter().any(|channel| channel.subject(of_socket).is_some_and(|other| other != subject))
    };
    if theirs.is_empty() {
        Share::None
    } else if of_socket.is_none() && !others() {
        Share::All
    } else {
        Share::Channels(theirs)
    }
}

fn connection(session: SessionId, found: &Session) -> ConnectionInfo {
    let of_socket = found.subject.as_deref();
    let channels = found.channels.iter().map(|channel| ChannelInfo {
        topic: channel.topic().into(),
        privacy: channel.key().privacy,
        subject: channel.subject(of_socket).map(Arc::from),
    });
    ConnectionInfo {
        session,
        subject: found.subject.clone(),
        serializer: found.serializer,
        open_seconds: found.opened.elapsed().as_secs(),
        queued_bytes: found.outbound.queued_bytes(),
        channels: channels.collect(),
    }
}
