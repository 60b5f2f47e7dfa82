//! Channels of a shard's sessions: joins, messages, rights, and the ways in which a channel ends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use walcast_wire::{Ref, Serializer, Status};

use super::{ReplyTo, Shard};
use crate::command::{Departure, Joining, PeerCommand, Push, PushKind, SystemMessage, Target};
use crate::ids::{ChannelId, SessionId};
use crate::membership::Options;
use crate::rate::ClientEventRefused;
use crate::session::Channel;
use crate::subscription::Identity;
use crate::topic::ReadRights;

impl Shard {
    /// What follows a join stands in docs/protocol.md §3.3: reply, stored messages, `system` messages, presences.
    pub(super) fn join(&mut self, mut joining: Joining) {
        let membership = Arc::clone(&joining.membership);
        let (target, topic) = (membership.target(), membership.topic());
        let session = target.session;
        let Some(found) = self.sessions.get_mut(&session) else {
            // The connection ended while its join was being decided.
            let _ = self.unsubscribe.send(joining.membership);
            return;
        };
        let serializer = found.serializer;
        let mut channel = Channel::new(Arc::clone(&membership), joining.presence_key.take(), joining.rights);
        channel.identify(Arc::clone(&joining.identity), found.subject.as_deref());
        let old = found.take_channel(topic);
        found.channels.push(channel);
        if let Some(old) = old {
            self.leave_ticket_of(&old, true);
            self.forget(old, Departure::Closed);
        }
        let heard = self.begin_to_catch_up(&mut joining);
        self.enter_topic(&membership);
        self.counters.joins.fetch_add(1, Relaxed);
        self.counters.channels.fetch_add(1, Relaxed);

        let join_ref = membership.join_ref();
        let Joining { reference, response, .. } = &joining;
        let reply = walcast_wire::reply(serializer, &join_ref, reference, topic, Status::Ok, response);
        self.write(session, &reply);
        self.close_superseded(session, topic);
        let stored = joining.replayed.take();
        if let Some(messages) = &stored {
            self.replay(&joining, messages);
        }
        if let Some(heard) = heard {
            self.repeat_broadcasts(&joining, heard, stored.is_some());
        }
        for (extension, status, message) in &joining.system {
            let frame = walcast_wire::system(serializer, &join_ref, topic, extension, *status, message);
            self.write(session, &frame);
        }
        if joining.presence_enabled {
            self.enable_presence(target);
        }
        if let Some(joined) = joining.joined {
            let _ = joined.send(());
        }
    }

    pub(super) fn supersede(&mut self, session: SessionId, channel: ChannelId) {
        let Some(found) = self.sessions.get_mut(&session) else { return };
        let Some(old) = found.take_channel_by_id(channel) else { return };
        found.undecided_mut().superseded.push((old.topic().into(), old.join_ref()));
        self.leave_ticket_of(&old, true);
        self.forget(old, Departure::Closed);
    }

    /// docs/protocol.md §3.7: version 2.0.0 clients tell the late close by its `join_ref`; the Python client
    /// (1.0.0) would close the new channel, so it is told nothing.
    pub(super) fn close_superseded(&mut self, session: SessionId, topic: &str) {
        let Some(found) = self.sessions.get_mut(&session) else { return };
        let serializer = found.serializer;
        let closed = found.take_superseded(topic);
        if serializer == Serializer::V2 {
            for join_ref in closed {
                self.write(session, &walcast_wire::channel_close(serializer, &join_ref, topic));
            }
        }
    }

    pub(super) fn push(&mut self, push: Push) {
        let Some(found) = self.sessions.get_mut(&push.session) else {
            return;
        };
        let serializer = found.serializer;
        let Some(channel) = found.channel(&push.topic) else {
            let (status, response) = match push.kind {
                PushKind::Leave => (Status::Ok, "{}"),
                _ => (Status::Error, r#"{"reason":"unmatched topic"}"#),
            };
            let topic = &push.topic;
            let reply =
                walcast_wire::reply(serializer, &Ref::null(), &push.reference, topic, status, response);
            return self.write(push.session, &reply);
        };
        let target = Target { session: push.session, channel: channel.id() };
        let Options { acknowledge, receive_own, .. } = channel.membership.options();
        let except = (!receive_own).then_some(channel.id());
        match push.kind {
            PushKind::Leave => self.leave(&push),
            PushKind::Broadcast(payload) => {
                let answer = ReplyTo::new(channel, push.reference, serializer);
                if self.admit_event(&answer, target, acknowledge) {
                    self.broadcast(&answer, target, except, acknowledge, &payload);
                }
            }
            // Not answered (docs/protocol.md §3.7), but it counts.
            PushKind::Other => {
                let answer = ReplyTo::new(channel, push.reference, serializer);
                self.admit_event(&answer, target, false);
            }
            kind => {
                let answer = ReplyTo::new(channel, push.reference, serializer);
                self.presence(&answer, target, kind);
            }
        }
    }

    /// Takes a message from the budgets of its sender and of the project. Where its own is used up, the sender is told
    /// and its channel ends. Others may have used up the project's, so that refuses the message alone
    /// (docs/protocol.md §10.2).
    fn admit_event(&mut self, answer: &ReplyTo, sender: Target, acknowledge: bool) -> bool {
        let Some(found) = self.sessions.get_mut(&sender.session) else { return false };
        let (exceeded, closes) = match self.rates.admit_client_event(&mut found.events, &self.counters) {
            Ok(()) => return true,
            Err(ClientEventRefused::Sender(exceeded)) => (exceeded, true),
            Err(ClientEventRefused::Project(exceeded)) => (exceeded, false),
        };
        let message = exceeded.to_string();
        if acknowledge {
            let response = walcast_wire::reason_response(&message);
            self.write(sender.session, &answer.frame(Status::Error, &response));
        }
        let code = "MessagePerSecondRateLimitReached";
        if closes {
            tracing::info!(code, reason = message, "a channel was closed for what it sent");
            self.close_channel(sender.session, sender.channel, &message);
        } else {
            tracing::debug!(code, reason = message, "a message was refused");
        }
        false
    }

    fn leave(&mut self, push: &Push) {
        let Some(found) = self.sessions.get_mut(&push.session) else {
            return;
        };
        let serializer = found.serializer;
        let Some(channel) = found.channel(&push.topic) else {
            return;
        };
        // docs/protocol.md §3.7: a leave of an earlier join is late and ignored.
        let join_ref = channel.join_ref();
        if join_ref != push.join_ref && !join_ref.is_null() {
            return;
        }
        let Some(channel) = found.take_channel(&push.topic) else {
            return;
        };
        let reply =
            walcast_wire::reply(serializer, &join_ref, &push.reference, &push.topic, Status::Ok, "{}");
        let close = walcast_wire::channel_close(serializer, &join_ref, &push.topic);
        self.write(push.session, &reply);
        self.write(push.session, &close);
        self.leave_ticket_of(&channel, false);
        self.forget(channel, Departure::Closed);
    }

    /// Ends a channel with a `system` error (docs/protocol.md §3.6).
    pub(super) fn close_channel(&mut self, session: SessionId, channel: ChannelId, message: &str) {
        self.end_channel(session, channel, Status::Error, message);
    }

    /// Ends a channel with a `system` message.
    pub(super) fn end_channel(
        &mut self,
        session: SessionId,
        channel: ChannelId,
        status: Status,
        message: &str,
    ) {
        self.end_run();
        let Some(found) = self.sessions.get_mut(&session) else {
            return;
        };
        let serializer = found.serializer;
        let Some(channel) = found.take_channel_by_id(channel) else {
            return;
        };
        let (join_ref, topic) = (channel.join_ref(), channel.topic());
        let system = walcast_wire::system(serializer, &join_ref, topic, "system", status, message);
        let close = walcast_wire::channel_close(serializer, &join_ref, topic);
        self.write(session, &system);
        self.write(session, &close);
        self.forget(channel, Departure::Closed);
    }

    /// Removes a channel that its session has given up from everything that knows of it.
    pub(super) fn forget(&mut self, mut channel: Channel, departure: Departure) {
        channel.membership.end();
        self.end_feeds(channel.membership.target());
        self.counters.channels.fetch_sub(1, Relaxed);
        self.leave_topic(&mut channel);
        if channel.presence().is_some_and(|presence| presence.tracked) {
            let (topic, channel) = (channel.key().to_owned(), channel.id());
            let command = match departure {
                Departure::Closed => PeerCommand::Untrack { topic: topic.clone(), channel },
                Departure::Lost => PeerCommand::Lost { topic: topic.clone(), channel },
            };
            self.tell(self.home(&topic), command);
        }
        self.tickets.ended(channel.id());
        self.forget_line(channel.id());
        let _ = self.unsubscribe.send(channel.membership);
    }

    pub(super) fn renew(&mut self, session: SessionId, channel: ChannelId, identity: Arc<Identity>) {
        let Some(found) = self.sessions.get_mut(&session) else { return };
        let of_socket = found.subject.clone();
        if let Some(channel) = found.channel_by_id_mut(channel) {
            channel.identify(identity, of_socket.as_deref());
        }
    }

    pub(super) fn set_rights(&mut self, session: SessionId, id: ChannelId, rights: ReadRights) {
        let Some(found) = self.sessions.get_mut(&session) else { return };
        let Some(place) = found.channels.iter().position(|channel| channel.id() == id) else { return };
        // Out of its session for as long as its places change, and back where it was.
        let mut channel = found.channels.remove(place);
        channel.rights = rights;
        let wanted = channel.presence().is_some_and(|presence| presence.wanted && !presence.follows);
        if !rights.broadcast {
            self.unlisten(&mut channel);
        }
        if !rights.presence {
            self.unfollow(&mut channel);
        }
        if let Some(found) = self.sessions.get_mut(&session) {
            found.channels.insert(place, channel);
        }
        let target = Target { session, channel: id };
        self.listen(target);
        if wanted && rights.presence {
            self.enable_presence(target);
        }
    }

    /// docs/protocol.md §3.6: the extension `resume` speaks of what a subscriber has missed.
    pub(super) fn announce_gap(&mut self, message: &str) {
        for (&session, found) in &mut self.sessions {
            let serializer = found.serializer;
            let subscribed = found.channels.iter().filter(|channel| channel.membership.binding_count() > 0);
            let frames: Vec<_> = subscribed
                .map(|channel| {
                    let (join_ref, topic) = (channel.join_ref(), channel.topic());
                    walcast_wire::system(serializer, &join_ref, topic, "resume", Status::Error, message)
                })
                .collect();
            for frame in frames {
                found.push(session, frame.bytes(), &mut self.turn);
            }
        }
    }

    pub(super) fn system(&mut self, message: &SystemMessage) {
        let Some(found) = self.sessions.get_mut(&message.session) else {
            return;
        };
        let serializer = found.serializer;
        let Some(channel) = found.channel_by_id(message.channel) else {
            return;
        };
        let SystemMessage { extension, status, message: text, .. } = message;
        let frame =
            walcast_wire::system(serializer, &channel.join_ref(), channel.topic(), extension, *status, text);
        self.write(message.session, &frame);
    }
}
