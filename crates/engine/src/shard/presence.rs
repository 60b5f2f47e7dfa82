//! A shard's part in Presence: what its sessions ask, and the presences of the topics whose home it is.
//!
//! A topic's home is one shard, so that its diffs have one order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;
use walcast_wire::presence::TRACK_PAYLOAD_NOT_A_MAP;
use walcast_wire::{Ref, Serializer, Status};

use super::{ReplyTo, Shard};
use crate::command::{Fanout, PeerCommand, PushKind, SystemMessage, Target, Tracking};
use crate::ids::{ChannelId, ShardId};
use crate::presence::{Diff, Presence, meta_members};
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
    pub(super) fn fan_out_presence(&mut self, fanout: &Fanout) {
        let Some(topic) = self.topics.get(fanout.topic.as_ref()) else {
            return;
        };
        self.turn.bytes += fanout.frame_bytes_max();
        for member in topic.followers() {
            let Some(found) = self.sessions.get_mut(&member.session) else {
                continue;
            };
            let Some(frame) = fanout.frame(found.serializer) else {
                continue;
            };
            found.push(member.session, frame.bytes().clone(), &mut self.turn);
        }
    }

    // At the topic's home.

    /// The state goes out first where it is wanted, then the diff.
    pub(super) fn track_at_home(&mut self, tracking: Tracking) {
        let Tracking { target, shard, topic, key, members, wants_state } = tracking;
        let limit = self.settings.presence_topic_bytes_max;
        let reference = self.references.next();
        let presence = self.presences.entry(topic.clone()).or_default();
        let before = wants_state.then(|| presence.state());
        let tracked = presence.track(target.channel, &key, members, reference, limit);
        if presence.is_empty() {
            self.presences.remove(&topic);
        }
        if let Some(payload) = before {
            self.tell(shard, PeerCommand::State { target, payload });
        }
        if let Ok(diff) = tracked {
            self.publish_diff(topic, diff);
        } else {
            let reason = no_room(limit);
            self.tell(shard, PeerCommand::TrackRefused { target, reason });
        }
    }

    pub(super) fn untrack_at_home(&mut self, topic: TopicKey, channel: ChannelId) {
        let Some(presence) = self.presences.get_mut(&topic) else { return };
        let diff = presence.untrack(channel);
        if presence.is_empty() {
            self.presences.remove(&topic);
        }
        self.publish_diff(topic, diff);
    }

    /// The presence of a lost connection stays for the grace, so that a client that comes back was never away.
    pub(super) fn lost_at_home(&mut self, topic: TopicKey, channel: ChannelId) {
        let grace = self.settings.presence_grace;
        if grace.is_zero() {
            return self.untrack_at_home(topic, channel);
        }
        if self.presences.get_mut(&topic).is_some_and(|presence| presence.lose(channel)) {
            self.absences.add(Instant::now() + grace, topic, channel);
        }
    }

    /// Those whose grace is over have left, unless another channel has taken their presence over.
    pub(super) fn end_absences(&mut self) {
        if self.absences.next().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some((topic, channel)) = self.absences.take_due(now) {
            self.untrack_at_home(topic, channel);
        }
    }

    pub(super) fn state_at_home(&mut self, topic: &TopicKey, target: Target, shard: ShardId) {
        let payload = self.presences.get_mut(topic).map_or_else(|| "{}".into(), Presence::state);
        self.tell(shard, PeerCommand::State { target, payload });
    }

    fn publish_diff(&mut self, topic: TopicKey, diff: Option<Diff>) {
        let Some(diff) = diff else { return };
        let frame = |serializer| {
            let name = &topic.topic;
            Some(walcast_wire::push(serializer, &Ref::null(), name, "presence_diff", &diff.payload))
        };
        let (v1, v2) = (frame(Serializer::V1), frame(Serializer::V2));
        let fanout = Arc::new(Fanout { topic, id: None, relief: None, v1, v2 });
        for index in 0..self.shards.len() {
            self.tell(ShardId::new(index), PeerCommand::PresenceDiff(Arc::clone(&fanout)));
        }
    }
}

/// What a track is told for which its topic has no room.
fn no_room(limit: usize) -> String {
    format!("The presence of this topic has no room for the payload (presence.topic_bytes_max = {limit})")
}

/// Presences whose connection was lost, in the order in which their grace ends: it is the same for all.
#[derive(Default)]
pub(super) struct Absences(VecDeque<(Instant, TopicKey, ChannelId)>);

impl Absences {
    fn add(&mut self, until: Instant, topic: TopicKey, channel: ChannelId) {
        self.0.push_back((until, topic, channel));
    }

    /// When the next one is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().map(|&(until, ..)| until)
    }

    fn take_due(&mut self, now: Instant) -> Option<(TopicKey, ChannelId)> {
        self.next().filter(|until| *until <= now)?;
        self.0.pop_front().map(|(_, topic, channel)| (topic, channel))
    }
}

/// Makes `phx_ref`s: 16 characters, unique in the cluster by a random prefix.
pub(super) struct PresenceReferences {
    prefix: u64,
    next: u64,
}

impl PresenceReferences {
    pub(super) fn new() -> Self {
        let random = uuid::Uuid::new_v4().as_u64_pair().1;
        PresenceReferences { prefix: random & 0xFFFF_FFFF, next: 0 }
    }

    pub(super) fn next(&mut self) -> String {
        self.next += 1;
        format!("{:08x}{:08x}", self.prefix, self.next & 0xFFFF_FFFF)
    }
}
