//! What a batch of the log brings, and what a client broadcasts.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use walcast_wire::Status;

use super::{ReplyTo, Shard};
use crate::broadcast::fanout_of;
use crate::command::{BroadcastPayload, Delivery, FromLog, FromLogBatch, PeerCommand, Target};
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
                    self.fan_out(Queued::FromLog, fanout, None);
                }
            }
        }
    }

    fn deliver_change(&mut self, delivery: &Delivery) {
        self.end_run();
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
            found.push_as(Queued::FromLog, target.session, delivery.frame.bytes(), &mut self.turn);
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
        self.fan_out(Queued::Frames, &fanout, except);
        let own = self.id;
        for shard in (0..self.shards.len()).map(ShardId::new).filter(|shard| *shard != own) {
            self.tell(shard, PeerCommand::Broadcast(Arc::clone(&fanout), line));
        }
        if acknowledge {
            self.write(sender.session, &answer.frame(Status::Ok, "{}"));
        }
    }
}
