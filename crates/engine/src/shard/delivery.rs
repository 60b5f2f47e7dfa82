//! Frames into outbound queues: row changes, and broadcasts to the members of a topic.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use walcast_wire::Status;

use super::{ReplyTo, Shard};
use crate::broadcast::fanout_of;
use crate::command::{BroadcastPayload, Delivery, Fanout, PeerCommand, Target};
use crate::ids::{ChannelId, ShardId};

impl Shard {
    pub(super) fn deliver(&mut self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            for target in delivery.targets.as_slice() {
                let Some(found) = self.sessions.get_mut(&target.session) else {
                    continue;
                };
                if found.channel_by_id(target.channel).is_none() {
                    continue;
                }
                let frame = delivery.frame.bytes().clone();
                found.push(target.session, frame, &mut self.dirty, &mut self.overflowed);
                self.counters.deliveries.fetch_add(1, Relaxed);
            }
        }
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
        let fanout = Arc::new(fanout_of(Arc::clone(&answer.topic), payload));
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

    pub(super) fn fan_out(&mut self, fanout: &Fanout, except: Option<ChannelId>) {
        for member in self.topics.members(&fanout.topic) {
            if Some(member.channel) == except {
                continue;
            }
            let Some(found) = self.sessions.get_mut(&member.session) else {
                continue;
            };
            let Some(frame) = fanout.frame(found.serializer) else {
                continue;
            };
            found.push(member.session, frame.bytes().clone(), &mut self.dirty, &mut self.overflowed);
            self.counters.deliveries.fetch_add(1, Relaxed);
        }
    }
}
