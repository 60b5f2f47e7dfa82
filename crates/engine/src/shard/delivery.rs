//! Frames into outbound queues: row changes, and broadcasts to the members of a topic.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;
use walcast_wire::Status;

use super::{ReplyTo, Shard};
use crate::broadcast::fanout_of;
use crate::command::{BroadcastPayload, Delivery, Fanout, FromLog, FromLogBatch, PeerCommand, Target};
use crate::ids::{ChannelId, ShardId};
use crate::session::Queued;

impl Shard {
    /// Hands what the log has brought to those who get it, a part at a time where it is much.
    pub(super) async fn deliver(&mut self, batch: &FromLogBatch) {
        self.turn.commits.push(batch.committed);
        for item in &batch.items {
            self.make_room_for(item.bytes()).await;
            if self.turn.commits.is_empty() {
                self.turn.commits.push(batch.committed);
            }
            match item {
                FromLog::Change(delivery) => self.deliver_change(delivery),
                FromLog::Message(fanout) => {
                    self.keep_broadcast(fanout, None);
                    self.fan_out_as(Queued::FromLog, fanout, None);
                }
            }
        }
    }

    fn deliver_change(&mut self, delivery: &Delivery) {
        let mut count = 0;
        self.turn.bytes += delivery.frame.len();
        for target in delivery.targets() {
            let Some(found) = self.sessions.get_mut(&target.session) else {
                continue;
            };
            if found.channel_by_id(target.channel).is_none() {
                continue;
            }
            if self.tickets.are_kept() {
                self.acknowledgements.sent(target.session, found);
            }
            let frame = delivery.frame.bytes().clone();
            found.push_as(Queued::FromLog, target.session, frame, &mut self.turn);
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
        let fanout = Arc::new(fanout_of(answer.topic.clone(), payload, None, &self.settings.broadcast_rules));
        self.counters.broadcasts.fetch_add(1, Relaxed);
        let line = self.keep_broadcast(&fanout, Some(sender.channel));
        self.fan_out(&fanout, except);
        for (index, shard) in self.shards.iter().enumerate() {
            if ShardId::new(index) != self.id {
                let _ = shard.peers.send(PeerCommand::Broadcast(Arc::clone(&fanout), line));
            }
        }
        if acknowledge {
            self.write(sender.session, &answer.frame(Status::Ok, "{}"));
        }
    }

    /// Hands a broadcast to the listeners of its topic.
    pub(super) fn fan_out(&mut self, fanout: &Arc<Fanout>, except: Option<ChannelId>) {
        self.fan_out_as(Queued::Frames, fanout, except);
    }

    fn fan_out_as(&mut self, kind: Queued, fanout: &Arc<Fanout>, except: Option<ChannelId>) {
        let Some(topic) = self.topics.get_mut(fanout.topic.as_ref()) else {
            return;
        };
        let repeated = topic.meet(fanout);
        let replays = topic.replays().filter(|_| repeated).zip(fanout.id);
        let expired = fanout.relief.as_ref().is_some_and(|relief| relief.has_expired(Instant::now()));
        if expired {
            let count = topic.listeners().count() as u64;
            self.counters.expired_broadcasts.fetch_add(count, Relaxed);
            return;
        }
        self.turn.bytes += fanout.frame_bytes_max();
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
            let frame = frame.bytes().clone();
            match &fanout.relief {
                None => found.push_as(kind, member.session, frame, &mut self.turn),
                Some(relief) => found.push_sparing(kind, member.session, frame, relief, &mut self.turn),
            }
            count += 1;
        }
        self.counters.deliveries.fetch_add(count, Relaxed);
    }
}
