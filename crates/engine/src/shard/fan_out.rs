//! Broadcasts to those who listen to their topic.
//!
//! Broadcasts that come one right behind another on one topic are a run: their frames are put together once, and each
//! listener gets all of them in one piece. Nothing else may pass a run: who is on a topic, and what is queued, stays as it
//! is until it has ended. A run that ends with the turn goes straight to the sockets for which nothing waits.

use std::cell::LazyCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use walcast_wire::Serializer;

use super::{Shard, Turn};
use crate::command::{Command, Fanout, PushKind};
use crate::ids::{ChannelId, SessionId};
use crate::session::{Queued, Session};

/// Bytes of the frames of one run: more than this gains nothing.
const RUN_BYTES_MAX: usize = 64 << 10;
/// For fewer listeners than this, frames are not put together.
const LISTENERS_MIN: usize = 4;

/// How a frame is put before a session: [`Session::push_as`] or [`Session::write_as`].
type Put = fn(&mut Session, Queued, SessionId, &Bytes, &mut Turn);

/// Broadcasts on one topic that are to be sent together.
#[derive(Default)]
pub(super) struct Run {
    fanouts: Vec<Sent>,
    /// What they are; of a run that is empty it says nothing.
    kind: Queued,
    bytes: usize,
}

/// A broadcast, and the channel that does not get it: its sender's.
struct Sent {
    fanout: Arc<Fanout>,
    except: Option<ChannelId>,
}

impl Run {
    fn goes_on_with(&self, kind: Queued, fanout: &Fanout) -> bool {
        let is_same = |sent: &Sent| self.kind == kind && sent.fanout.topic == fanout.topic;
        self.fanouts.last().is_some_and(is_same) && self.bytes < RUN_BYTES_MAX
    }

    /// Its frames for a serializer in one piece, and how many they are.
    fn frames(&self, serializer: Serializer) -> (Bytes, u64) {
        let mut together = BytesMut::with_capacity(self.bytes);
        let mut count = 0;
        for frame in self.fanouts.iter().filter_map(|sent| sent.fanout.frame(serializer)) {
            together.extend_from_slice(frame.bytes());
            count += 1;
        }
        (together.freeze(), count)
    }
}

impl Command {
    /// Whether a run can go on with it.
    pub(super) fn is_broadcast(&self) -> bool {
        match self {
            Command::Publish(_) => true,
            Command::Push(push) => matches!(push.kind, PushKind::Broadcast(_)),
            _ => false,
        }
    }
}

impl Shard {
    /// Hands a broadcast to the listeners of its topic, be it at the end of the run that it begins or goes on with.
    pub(super) fn fan_out(&mut self, kind: Queued, fanout: &Arc<Fanout>, except: Option<ChannelId>) {
        // Whether it is queued is another question for each listener.
        let is_alone = fanout.id.is_some() || fanout.relief.is_some();
        if is_alone || !self.run.goes_on_with(kind, fanout) {
            self.end_run();
        }
        self.turn.bytes += fanout.frame_bytes_max();
        self.run.kind = kind;
        self.run.bytes += fanout.frame_bytes_max();
        self.run.fanouts.push(Sent { fanout: Arc::clone(fanout), except });
        if is_alone {
            self.end_run();
        }
    }

    /// Queues the broadcasts of a run.
    pub(super) fn end_run(&mut self) {
        self.send_run(Session::push_as);
    }

    /// Writes the broadcasts of a run: what is queued now is written afterwards.
    pub(super) fn write_run(&mut self) {
        self.send_run(Session::write_as);
    }

    /// How many sockets a run goes to.
    pub(super) fn run_listeners(&self) -> usize {
        let first = self.run.fanouts.first();
        let topic = first.and_then(|first| self.topics.get(first.fanout.topic.as_ref()));
        topic.map_or(0, |topic| topic.listeners().count())
    }

    fn send_run(&mut self, put: Put) {
        if self.run.fanouts.is_empty() {
            return;
        }
        let mut run = std::mem::take(&mut self.run);
        if let [sent] = &*run.fanouts {
            self.send(run.kind, sent, put);
        } else if !self.send_together(&run, put) {
            // Several for one session: they are written together.
            for sent in &run.fanouts {
                self.send(run.kind, sent, Session::push_as);
            }
        }
        // Its memory is used again.
        run.fanouts.clear();
        self.run = Run { fanouts: run.fanouts, ..Run::default() };
    }

    /// Sends a run, to senders what others have sent, unless it is for too few to be put together.
    fn send_together(&mut self, run: &Run, put: Put) -> bool {
        let topic = run.fanouts.first().and_then(|first| self.topics.get(first.fanout.topic.as_ref()));
        let Some(topic) = topic.filter(|topic| topic.listeners().nth(LISTENERS_MIN - 1).is_some()) else {
            return false;
        };
        let v1 = LazyCell::new(|| run.frames(Serializer::V1));
        let v2 = LazyCell::new(|| run.frames(Serializer::V2));
        let (mut walk, mut count) = (topic.walk(), 0);
        while let Some((member, found)) = walk.next(&mut self.sessions) {
            let own = Some(member.channel);
            if run.fanouts.iter().any(|sent| sent.except == own) {
                for sent in run.fanouts.iter().filter(|sent| sent.except != own) {
                    let Some(frame) = sent.fanout.frame(found.serializer) else { continue };
                    found.push_as(run.kind, member.session, frame.bytes(), &mut self.turn);
                    count += 1;
                }
                continue;
            }
            let (frames, frame_count) = match found.serializer {
                Serializer::V1 => &*v1,
                Serializer::V2 => &*v2,
            };
            if *frame_count > 0 {
                put(found, run.kind, member.session, frames, &mut self.turn);
                count += frame_count;
            }
        }
        self.counters.deliveries.fetch_add(count, Relaxed);
        true
    }

    /// Sends one broadcast.
    fn send(&mut self, kind: Queued, sent: &Sent, put: Put) {
        let Sent { fanout, except } = sent;
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
        let (mut walk, mut count) = (topic.walk(), 0);
        while let Some((member, found)) = walk.next(&mut self.sessions) {
            if Some(member.channel) == *except
                || replays.is_some_and(|(replays, id)| replays.has_sent(member.channel, id))
            {
                continue;
            }
            let Some(frame) = fanout.frame(found.serializer) else {
                continue;
            };
            match &fanout.relief {
                None => put(found, kind, member.session, frame.bytes(), &mut self.turn),
                Some(relief) => {
                    let frame = frame.bytes().clone();
                    found.push_sparing(kind, member.session, frame, relief, &mut self.turn);
                }
            }
            count += 1;
        }
        self.counters.deliveries.fetch_add(count, Relaxed);
    }
}
