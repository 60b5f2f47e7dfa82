//! A shard's part in Presence: what its sessions ask, and what they are told. Who is present is known at a topic's
//! [home](super::home).

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;
use walcast_wire::Status;
use walcast_wire::presence::TRACK_PAYLOAD_NOT_A_MAP;

use super::{ReplyTo, Shard};
use crate::command::{PeerCommand, PresenceDiff, PushKind, SystemMessage, Target, Tracking};
use crate::presence::meta_members;
use crate::topic::TopicKey;

impl Shard {
    pub(super) fn presence(&mut self, answer: &ReplyTo, sender: Target, kind: PushKind) {
        let Some(found) = self.sessions.get_mut(&sender.session) else {
            return;
        };
        let Some(channel) = found.channel_by_id_mut(sender.channel) else {
            return;
        };
        let limit = &self.settings.presence_calls;
        if !matches!(kind, PushKind::EmptyPresence)
            && !channel.presence_mut().calls.allows(limit, Instant::now())
        {
            tracing::info!(
                code = "ClientPresenceRateLimitReached",
                "a channel was closed for its presence calls"
            );
            let message = format!(
                "Client presence rate limit exceeded (limits.presence_calls_max = {}, limits.presence_window_ms = {})",
                limit.calls,
                limit.window.as_millis()
            );
            return self.close_channel(sender.session, sender.channel, &message);
        }
        match kind {
            PushKind::Track(payload) => self.track(answer, sender, &payload),
            PushKind::Untrack => {
                let tracked = channel.presence().is_some_and(|presence| presence.tracked);
                self.write(sender.session, &answer.frame(Status::Ok, "{}"));
                if tracked {
                    self.untrack(answer, sender);
                }
            }
            PushKind::TrackNotAnObject => self.refuse_track(answer, sender),
            PushKind::EmptyPresence => self.write(sender.session, &answer.frame(Status::Ok, "{}")),
            _ => self.write(sender.session, &answer.frame(Status::Error, "{}")),
        }
    }

    fn track(&mut self, answer: &ReplyTo, sender: Target, payload: &str) {
        let limit = self.settings.presence_payload_bytes_max;
        if payload.len() > limit {
            let message = format!("Track message size exceeded (presence.payload_bytes_max = {limit})");
            return self.close_channel(sender.session, sender.channel, &message);
        }
        let Ok(members) = meta_members(payload) else {
            return self.refuse_track(answer, sender);
        };
        if let Err(reason) = self.admit_presence() {
            let response = walcast_wire::reason_response(&reason);
            return self.write(sender.session, &answer.frame(Status::Error, &response));
        }
        let Some(found) = self.sessions.get_mut(&sender.session) else {
            return;
        };
        let Some(channel) = found.channel_by_id_mut(sender.channel) else {
            return;
        };
        let may_follow = channel.rights.presence;
        let presence = channel.presence_mut();
        // Also where it will be refused: forgetting what is not there is nothing.
        presence.tracked = true;
        presence.wanted = true;
        // docs/protocol.md §7.3: clients apply diffs only once they have a state.
        let wants_state = may_follow && !presence.follows;
        presence.follows |= wants_state;
        let key = presence.key().to_owned();
        // At once, so that the answers on a channel keep their order; its home may yet find no room.
        self.write(sender.session, &answer.frame(Status::Ok, "{}"));
        let (home, topic, shard) = (self.home(&answer.topic), answer.topic.clone(), self.id);
        let tracking = Tracking { target: sender, shard, topic, key, members, wants_state };
        self.tell(home, PeerCommand::Track(Box::new(tracking)));
    }

    /// Tells a channel that what it tracks is not shown.
    pub(super) fn track_refused(&mut self, target: Target, message: String) {
        let (session, channel) = (target.session, target.channel);
        let (extension, status) = ("system", Status::Error);
        self.system(&SystemMessage { session, channel, extension, status, message });
    }

    fn untrack(&mut self, answer: &ReplyTo, sender: Target) {
        let found = self.sessions.get_mut(&sender.session);
        if let Some(channel) = found.and_then(|found| found.channel_by_id_mut(sender.channel)) {
            channel.presence_mut().tracked = false;
        }
        self.counters.presence_events.fetch_add(1, Relaxed);
        let topic = answer.topic.clone();
        self.tell(self.home(&topic), PeerCommand::Untrack { topic, channel: sender.channel });
    }

    fn refuse_track(&mut self, answer: &ReplyTo, sender: Target) {
        let response = walcast_wire::reason_response(TRACK_PAYLOAD_NOT_A_MAP);
        self.write(sender.session, &answer.frame(Status::Error, &response));
    }

    /// Takes a presence event from the project's budget. Others may have used it up, so that nobody's channel ends for it;
    /// the error is what the client is told.
    fn admit_presence(&self) -> Result<(), String> {
        self.rates.admit_presence(&self.counters).inspect_err(|reason| {
            tracing::debug!(code = "PresenceRateLimitReached", reason, "a presence event was refused");
        })?;
        self.counters.presence_events.fetch_add(1, Relaxed);
        Ok(())
    }

    /// The channel is to be told who is present, as soon as it may be. Where there is too much presence it is told so, and
    /// its next track asks again.
    pub(super) fn enable_presence(&mut self, target: Target) {
        let found = self.sessions.get_mut(&target.session);
        let Some(channel) = found.and_then(|found| found.channel_by_id_mut(target.channel)) else {
            return;
        };
        channel.presence_mut().wanted = true;
        let topic = channel.key().to_owned();
        if !channel.rights.presence {
            return;
        }
        match self.admit_presence() {
            Ok(()) => self.want_state(&topic, target),
            Err(message) => {
                let (session, channel) = (target.session, target.channel);
                let (extension, status) = ("system", Status::Error);
                self.system(&SystemMessage { session, channel, extension, status, message });
            }
        }
    }

    fn want_state(&mut self, topic: &TopicKey, target: Target) {
        let found = self.sessions.get_mut(&target.session);
        if let Some(channel) = found.and_then(|found| found.channel_by_id_mut(target.channel)) {
            channel.presence_mut().follows = true;
        }
        let shard = self.id;
        let wanted = PeerCommand::StateWanted { topic: topic.clone(), target, shard };
        self.tell(self.home(topic), wanted);
    }

    pub(super) fn presence_state(&mut self, target: Target, payload: &str) {
        let Some(found) = self.sessions.get_mut(&target.session) else {
            return;
        };
        let serializer = found.serializer;
        let Some(channel) = found.channel_by_id(target.channel) else {
            return;
        };
        // It may have lost the right to it since it asked.
        if !channel.presence().is_some_and(|presence| presence.follows) {
            return;
        }
        let (join_ref, topic) = (channel.join_ref(), channel.topic());
        let frame = walcast_wire::push(serializer, &join_ref, topic, "presence_state", payload);
        self.write(target.session, &frame);
        self.follow(target);
    }

    /// Hands a diff to the followers of its topic.
    pub(super) fn fan_out_presence(&mut self, diff: &PresenceDiff) {
        let PresenceDiff { fanout, reach } = diff;
        let Some(topic) = self.topics.get(fanout.topic.as_ref()) else {
            return;
        };
        self.turn.bytes += fanout.frame_bytes_max();
        let mut followers = 0;
        for member in topic.followers() {
            followers += 1;
            let Some(found) = self.sessions.get_mut(&member.session) else {
                continue;
            };
            let Some(frame) = fanout.frame(found.serializer) else {
                continue;
            };
            found.push(member.session, frame.bytes(), &mut self.turn);
        }
        reach.add(followers);
    }
}
