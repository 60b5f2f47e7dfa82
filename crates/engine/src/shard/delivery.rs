//! Frames into outbound queues: row changes, and broadcasts to the members of a topic.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use walcast_wire::Status;

use super::{ReplyTo, Shard};
use crate::broadcast::fanout_of;
use crate::command::{BroadcastPayload, Delivery, Fanout, FromLog, FromLogBatch, PeerCommand, Target};
use crate::ids::{ChannelId, ShardId};

impl Shard {
    pub(super) fn deliver(&mut self, batch: &FromLogBatch) {
        for item in &batch.items {
            match item {
                FromLog::Change(delivery) => self.deliver_change(delivery),
                FromLog::Message(fanout) => self.fan_out(fanout, None),
            }
        }
        self.counters.commit_to_queue.observe_since(batch.committed);
    }

    fn deliver_change(&mut self, delivery: &Delivery) {
        let mut count = 0;
        for target in delivery.targets.as_slice() {
            let Some(found) = self.sessions.get_mut(&target.session) else {
                continue;
            };
            if found.channel_by_id(target.channel).is_none() {
                continue;
            }
            let frame = delivery.frame.bytes().clone();
            found.push(target.session, frame, &mut self.dirty, &mut self.overflowed);
            count += 1;
        }
        self.counters.deliveries.fetch_add(count, Relaxed);
    }

    pub(super) fn broadcast(
        &mut self,
        answer: &ReplyTo,
        sender: Target,
        except: Option<ChannelId>,
        acknowledge: bool,
        payload: &BroadcastPayload,
    ) {
        if payload.byte_len() > self.settings.payload_bytes_max {
            if acknowledge {
                let frame = answer.frame(Status::Error, r#"{"reason":"payload_size_exceeded"}"#);
                self.write(sender.session, &frame);
            }
            return;
        }
        let fanout = Arc::new(fanout_of(answer.topic.clone(), payload, None));
        self.counters.broadcasts.fetch_add(1, Relaxed);
        self.fan_out(&fanout, except);
        for (index, shard) in self.shards.iter().enumerate() {
            if ShardId::new(index) != self.id {
                let _ = shard.peers.send(PeerCommand::Broadcast(Arc::clone(&fanout)));
            }
        }
        if acknowledge {
            self.write(sender.session, &answer.frame(Status::Ok, "{}"));
        }
    }

    /// Hands a broadcast to the listeners of its topic.
    pub(super) fn fan_out(&mut self, fanout: &Arc<Fanout>, except: Option<ChannelId>) {
        let Some(topic) = self.topics.get_mut(fanout.topic.as_ref()) else {
            return;
        };
        let repeated = topic.meet(fanout);
        let replays = topic.replays().filter(|_| repeated).zip(fanout.id);
        let mut count = 0;
        for member in topic.listeners() {
            if Some(member.channel) == except
                || replays.is_some_and(|(replays, id)| replays.has_sent(member.channel, id))
            {
                continue;
            }
            let Some(found) = self.sessions.get_mut(&member.session) else {
                continue;
            };
            let Some(frame) = fanout.frame(found.serializer) else {
                continue;
            };
            found.push(member.session, frame.bytes().clone(), &mut self.dirty, &mut self.overflowed);
            count += 1;
        }
        self.counters.deliveries.fetch_add(count, Relaxed);
    }
}
