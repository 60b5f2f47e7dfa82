//! What comes to a channel bit by bit: as much at a time as its session's outbound queue has room for. Who reads slowly
//! gets it slowly, and who does not read gets nothing more; the queue never passes its bound for it.

use std::sync::atomic::Ordering::Relaxed;

use rustc_hash::FxHashMap;

use super::Shard;
use crate::command::{Feed, Target};
use crate::ids::SessionId;

/// A feed fills one in so many parts of a queue, and what is live has the rest.
const QUEUE_PART: usize = 4;
/// A feed is over, and more may come, when no more than one in so many parts of the queue waits.
const ROOM_PART: usize = 8;

/// Feeds that are not over, by session. Few at a time.
#[derive(Default)]
pub(super) struct Feeds(FxHashMap<SessionId, Vec<Feed>>);

impl Shard {
    pub(super) fn begin_feed(&mut self, feed: Feed) {
        let Target { session, channel } = feed.target;
        // Without a channel there is nobody to tell, which who waits for room finds out when the feed is dropped.
        if self.sessions.get(&session).is_none_or(|found| found.channel_by_id(channel).is_none()) {
            return;
        }
        let feeds = self.feeds.0.entry(session).or_default();
        match feeds.iter_mut().find(|known| known.target.channel == channel) {
            // Behind what its sender does not wait for any longer.
            Some(known) => {
                known.frames.extend(feed.frames);
                known.room = feed.room;
            }
            None => feeds.push(feed),
        }
        self.feed(session);
    }

    /// Moves into a session's queue what there is room for. It is called whenever the queue has been written.
    pub(super) fn feed(&mut self, session: SessionId) {
        let Some(feeds) = self.feeds.0.get_mut(&session) else { return };
        let bound = self.settings.outbound_bytes_max;
        let found = self.sessions.get_mut(&session).filter(|found| !found.outbound.is_over());
        let Some(found) = found else {
            self.feeds.0.remove(&session);
            return;
        };
        // One frame of each in turn, so that channels of one session share its queue.
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for feed in feeds.iter_mut() {
                let queued = found.outbound.queued_bytes();
                let fits = |bytes: usize| queued == 0 || queued + bytes <= bound / QUEUE_PART;
                if let Some(frame) = feed.frames.pop_front_if(|frame| fits(frame.len())) {
                    if self.tickets.are_kept() {
                        self.acknowledgements.sent(session, found);
                    }
                    self.turn.bytes += frame.len();
                    found.push(session, frame.bytes(), &mut self.turn);
                    self.counters.deliveries.fetch_add(1, Relaxed);
                    moved = true;
                }
            }
        }
        if found.outbound.queued_bytes() <= bound / ROOM_PART {
            for over in feeds.extract_if(.., |feed| feed.frames.is_empty()) {
                if let Some(outstanding) = &mut found.outstanding {
                    outstanding.queued_up_to(over.target.channel, over.up_to);
                }
                // Nobody waits for it where the channel has been given up meanwhile.
                let _ = over.room.send(());
            }
        }
        if feeds.is_empty() {
            self.feeds.0.remove(&session);
        }
    }

    /// Drops what a channel that has ended would still get.
    pub(super) fn end_feeds(&mut self, target: Target) {
        if let Some(feeds) = self.feeds.0.get_mut(&target.session) {
            feeds.retain(|feed| feed.target != target);
            if feeds.is_empty() {
                self.feeds.0.remove(&target.session);
            }
        }
    }
}
