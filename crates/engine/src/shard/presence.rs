//! A shard's part in Presence: what its sessions ask, and the presences of the topics whose home it is.
//!
//! A topic's home is one shard, so that its diffs have one order.

use std::sync::Arc;

use walcast_wire::presence::TRACK_PAYLOAD_NOT_A_MAP;
use walcast_wire::{Ref, Serializer, Status};

use super::{ReplyTo, Shard};
use crate::command::{Fanout, PeerCommand, PushKind, Target};
use crate::ids::{ChannelId, ShardId};
use crate::presence::{Diff, Presence, meta_members};
use crate::session::Channel;

impl Shard {
    pub(super) fn presence(&mut self, answer: &ReplyTo, sender: Target, kind: PushKind) {
        let Some(found) = self.sessions.get_mut(&sender.session) else {
            return;
        };
        let Some(channel) = found.channel_by_id_mut(sender.channel) else {
            return;
        };
        if !matches!(kind, PushKind::EmptyPresence)
            && !channel
                .presence_mut()
                .calls
                .allows(&self.settings.presence_calls, tokio::time::Instant::now())
        {
            let message = "Client presence rate limit exceeded";
            return self.close_channel(sender.session, sender.channel, message);
        }
        match kind {
            PushKind::Track(payload) => self.track(answer, sender, &payload),
            PushKind::Untrack => {
                channel.presence_mut().tracked = false;
                let topic = Arc::clone(&answer.topic);
                self.write(sender.session, &answer.frame(Status::Ok, "{}"));
                self.tell(self.home(&topic), PeerCommand::Untrack { topic, channel: sender.channel });
            }
            PushKind::TrackNotAnObject => self.refuse_track(answer, sender),
            PushKind::EmptyPresence => self.write(sender.session, &answer.frame(Status::Ok, "{}")),
            _ => self.write(sender.session, &answer.frame(Status::Error, "{}")),
        }
    }

    pub(super) fn track(&mut self, answer: &ReplyTo, sender: Target, payload: &str) {
        if payload.len() > self.settings.payload_bytes_max {
            return self.close_channel(sender.session, sender.channel, "Track message size exceeded");
        }
        let Ok(members) = meta_members(payload) else {
            return self.refuse_track(answer, sender);
        };
        let Some(found) = self.sessions.get_mut(&sender.session) else {
            return;
        };
        let Some(channel) = found.channel_by_id_mut(sender.channel) else {
            return;
        };
        let presence = channel.presence_mut();
        presence.tracked = true;
        let (key, follows) = (presence.key().to_owned(), presence.follows);
        let topic = Arc::clone(&answer.topic);
        self.write(sender.session, &answer.frame(Status::Ok, "{}"));
        if !follows {
            // docs/protocol.md §7.3: clients apply diffs only once they have a state.
            self.want_state(&topic, sender);
        }
        self.tell(self.home(&topic), PeerCommand::Track { topic, channel: sender.channel, key, members });
    }

    pub(super) fn refuse_track(&mut self, answer: &ReplyTo, sender: Target) {
        let response = walcast_wire::reason_response(TRACK_PAYLOAD_NOT_A_MAP);
        self.write(sender.session, &answer.frame(Status::Error, &response));
    }

    pub(super) fn want_state(&mut self, topic: &Arc<str>, target: Target) {
        if let Some(channel) =
            self.sessions.get_mut(&target.session).and_then(|found| found.channel_by_id_mut(target.channel))
        {
            channel.presence_mut().follows = true;
        }
        let shard = self.id;
        let wanted = PeerCommand::StateWanted { topic: Arc::clone(topic), target, shard };
        self.tell(self.home(topic), wanted);
    }

    pub(super) fn presence_state(&mut self, topic: &Arc<str>, target: Target, payload: &str) {
        let Some(found) = self.sessions.get_mut(&target.session) else {
            return;
        };
        let serializer = found.serializer;
        let Some(channel) = found.channel_by_id_mut(target.channel) else {
            return;
        };
        channel.presence_mut().synced = true;
        let frame = walcast_wire::push(serializer, channel.join_ref(), topic, "presence_state", payload);
        self.write(target.session, &frame);
    }

    pub(super) fn fan_out_presence(&mut self, fanout: &Fanout) {
        for member in self.topics.members(&fanout.topic) {
            let Some(found) = self.sessions.get_mut(&member.session) else {
                continue;
            };
            let presence = found.channel_by_id(member.channel).and_then(Channel::presence);
            let synced = presence.is_some_and(|presence| presence.synced);
            let Some(frame) = fanout.frame(found.serializer).filter(|_| synced) else {
                continue;
            };
            found.push(member.session, frame.bytes().clone(), &mut self.dirty, &mut self.overflowed);
        }
    }

    // At the topic's home.

    pub(super) fn track_at_home(&mut self, topic: Arc<str>, channel: ChannelId, key: &str, members: String) {
        let reference = self.references.next();
        let presence = self.presences.entry(Arc::clone(&topic)).or_default();
        let diff = presence.track(channel, key, members, reference);
        self.publish_diff(topic, diff);
    }

    pub(super) fn untrack_at_home(&mut self, topic: Arc<str>, channel: ChannelId) {
        let Some(presence) = self.presences.get_mut(&topic) else { return };
        let diff = presence.untrack(channel);
        if presence.is_empty() {
            self.presences.remove(&topic);
        }
        self.publish_diff(topic, diff);
    }

    pub(super) fn state_at_home(&mut self, topic: Arc<str>, target: Target, shard: ShardId) {
        let payload = self.presences.get(&topic).map_or_else(|| "{}".to_owned(), Presence::state);
        self.tell(shard, PeerCommand::State { topic, target, payload });
    }

    fn publish_diff(&mut self, topic: Arc<str>, diff: Option<Diff>) {
        let Some(diff) = diff else { return };
        let frame = |serializer| {
            Some(walcast_wire::push(serializer, &Ref::null(), &topic, "presence_diff", &diff.payload))
        };
        let (v1, v2) = (frame(Serializer::V1), frame(Serializer::V2));
        let fanout = Arc::new(Fanout { topic, v1, v2 });
        for index in 0..self.shards.len() {
            self.tell(ShardId::new(index), PeerCommand::PresenceDiff(Arc::clone(&fanout)));
        }
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
