//! Recent broadcasts, for those who come back (docs/protocol.md §5.7): whoever takes the ticket of a lost channel is sent
//! what was fanned out meanwhile, behind its join reply and before all that comes later.
//!
//! Each shard keeps what it fans out, also for topics that nobody of its own is on: a client comes back to any shard. The
//! messages themselves are shared by all shards.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::time::Instant;
use walcast_wire::Serializer;

use super::Shard;
use crate::command::{Fanout, Joining};
use crate::ids::ChannelId;
use crate::settings::ResumeSettings;
use crate::tickets::Heard;
use crate::topic::{TopicKey, TopicRef};

/// What one shard needs to keep a broadcast, beside the broadcast: its two places in lists that may be half empty.
const ENTRY_BYTES: usize = 2 * (size_of::<Kept>() + size_of::<Arc<Fanout>>());
/// What one shard needs for a topic.
const TOPIC_BYTES: usize = 256;

/// The recent broadcasts of all topics, the oldest of which go first.
pub(super) struct Broadcasts {
    bytes_max: usize,
    age_max: Duration,
    /// What is the same in all shards counts once, the rest as often as there are shards.
    shards: usize,
    bytes: usize,
    /// With a secret: clients choose topics.
    topics: ahash::HashMap<TopicKey, VecDeque<Kept>>,
    /// All of them, in their order.
    order: VecDeque<Arc<Fanout>>,
    /// Channels of clients that have come back: the first channel that each of them had.
    lines: FxHashMap<ChannelId, ChannelId>,
}

struct Kept {
    fanned_out: Instant,
    /// By its first channel; `None` where no channel has sent it.
    sender: Option<ChannelId>,
    fanout: Arc<Fanout>,
}

/// What somebody that comes back is to be sent of what it has missed.
struct Wanted {
    from: Instant,
    serializer: Serializer,
    /// Whose broadcasts it does not get.
    except: Option<ChannelId>,
    /// It has been sent stored messages, which are those with an id.
    has_stored: bool,
    /// Bytes of the frames; the oldest are left out.
    bytes_max: usize,
}

impl Broadcasts {
    /// `None` where none are kept.
    pub(super) fn of(settings: &ResumeSettings, shards: usize) -> Option<Box<Self>> {
        let bytes_max = settings.kept_broadcast_bytes()?;
        let (topics, order, lines) = (ahash::HashMap::default(), VecDeque::new(), FxHashMap::default());
        let age_max = settings.ticket_validity;
        Some(Box::new(Broadcasts { bytes_max, age_max, shards, bytes: 0, topics, order, lines }))
    }

    /// The first channel that the client of a channel had, as far as that is known.
    pub(super) fn line_of(&self, channel: ChannelId) -> ChannelId {
        self.lines.get(&channel).copied().unwrap_or(channel)
    }

    fn keep(&mut self, fanout: &Arc<Fanout>, sender: Option<ChannelId>) {
        let fanned_out = Instant::now();
        self.bytes += self.entry_bytes(fanout);
        self.order.push_back(Arc::clone(fanout));
        let kept = Kept { fanned_out, sender, fanout: Arc::clone(fanout) };
        if let Some(topic) = self.topics.get_mut(&fanout.topic) {
            topic.push_back(kept);
        } else {
            self.bytes += self.topic_bytes(fanout);
            self.topics.insert(fanout.topic.clone(), VecDeque::from([kept]));
        }
        while self.bytes > self.bytes_max || self.oldest_is_from_before(fanned_out) {
            self.drop_oldest();
        }
    }

    fn oldest_is_from_before(&self, now: Instant) -> bool {
        let oldest = self.order.front().and_then(|oldest| self.topics.get(&oldest.topic)?.front());
        oldest.is_some_and(|oldest| now - oldest.fanned_out > self.age_max)
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        self.bytes -= self.entry_bytes(&oldest);
        // The oldest of all is the oldest of its topic.
        let Some(topic) = self.topics.get_mut(&oldest.topic) else { return };
        topic.pop_front();
        if topic.is_empty() {
            self.topics.remove(&oldest.topic);
            self.bytes -= self.topic_bytes(&oldest);
        }
    }

    fn entry_bytes(&self, fanout: &Fanout) -> usize {
        size_of::<Fanout>() + fanout.bytes() + self.shards * ENTRY_BYTES
    }

    fn topic_bytes(&self, fanout: &Fanout) -> usize {
        fanout.topic.topic.len() + self.shards * TOPIC_BYTES
    }

    /// The frames of a topic's broadcasts that somebody has missed, in their order.
    fn missed(&self, key: TopicRef<'_>, wanted: &Wanted) -> VecDeque<Bytes> {
        let now = Instant::now();
        let mut frames = VecDeque::new();
        let mut room = wanted.bytes_max;
        let mut newer = HashSet::new();
        let all = self.topics.get(&key.to_owned()).into_iter().flatten().rev();
        let is_wanted =
            |kept: &&Kept| kept.fanned_out >= wanted.from && now - kept.fanned_out <= self.age_max;
        for kept in all.take_while(is_wanted) {
            let Kept { sender, fanout, .. } = kept;
            let is_own = sender.is_some() && *sender == wanted.except;
            let was_stored = wanted.has_stored && fanout.id.is_some();
            let relief = fanout.relief.as_deref();
            let has_expired = relief.is_some_and(|relief| relief.has_expired(now));
            if is_own || was_stored || has_expired {
                continue;
            }
            let is_replaced =
                relief.and_then(|relief| relief.key.as_ref()).is_some_and(|key| !newer.insert(key));
            let Some(frame) = fanout.frame(wanted.serializer).filter(|_| !is_replaced) else { continue };
            let Some(left) = room.checked_sub(frame.len()) else { break };
            room = left;
            frames.push_front(frame.bytes().clone());
        }
        frames
    }
}

impl Shard {
    /// Where broadcasts are kept: this one is about to be fanned out, and whether it arrives is to be known. Tells the
    /// first channel of the client that has sent it.
    pub(super) fn keep_broadcast(
        &mut self,
        fanout: &Arc<Fanout>,
        sender: Option<ChannelId>,
    ) -> Option<ChannelId> {
        let broadcasts = self.broadcasts.as_mut()?;
        let line = sender.map(|sender| broadcasts.line_of(sender));
        // First: nothing that is fanned out before a moment may be noted as later than it, so that nobody misses it.
        if let Some(topic) = self.topics.get(fanout.topic.as_ref()) {
            for member in topic.listeners() {
                if let Some(found) = self.sessions.get_mut(&member.session) {
                    self.acknowledgements.sent(member.session, found);
                }
            }
        }
        broadcasts.keep(fanout, line);
        line
    }

    /// A channel has ended.
    pub(super) fn forget_line(&mut self, channel: ChannelId) {
        if let Some(broadcasts) = &mut self.broadcasts {
            broadcasts.lines.remove(&channel);
        }
    }

    /// Sends a channel that has just joined what its client has missed, if it may have it.
    pub(super) fn repeat_broadcasts(&mut self, joining: &Joining, heard: Heard, has_stored: bool) {
        let Some(broadcasts) = &mut self.broadcasts else { return };
        let membership = &*joining.membership;
        let (session, channel) = (membership.session, membership.channel);
        let Some(found) = self.sessions.get_mut(&session) else { return };
        if let Some(line) = heard.line {
            broadcasts.lines.insert(channel, line);
        }
        if !joining.rights.broadcast {
            return;
        }
        // No more than half of the queue, so that nobody is closed as too slow for having been away.
        found.outbound.flush(&self.counters);
        let wanted = Wanted {
            from: heard.until,
            serializer: found.serializer,
            except: heard.line.filter(|_| !membership.options().receive_own),
            has_stored,
            bytes_max: (self.settings.outbound_bytes_max / 2).saturating_sub(found.outbound.queued_bytes()),
        };
        let frames = broadcasts.missed(membership.key(), &wanted);
        if frames.is_empty() {
            return;
        }
        self.acknowledgements.sent_again(session, found, heard.until);
        self.counters.repeated_broadcasts.fetch_add(frames.len() as u64, Relaxed);
        for frame in frames {
            self.turn.bytes += frame.len();
            found.push_part(session, frame, &mut self.turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::broadcast::fanout_of;
    use crate::command::BroadcastPayload;
    use crate::relief::BroadcastRules;
    use crate::topic::Privacy;

    const AGE: Duration = Duration::from_mins(2);
    const SHARDS: usize = 2;

    fn memory(bytes_max: usize) -> Box<Broadcasts> {
        let settings = ResumeSettings {
            ticket_validity: AGE,
            broadcast_bytes_max: NonZeroUsize::new(bytes_max),
            ..ResumeSettings::default()
        };
        Broadcasts::of(&settings, SHARDS).expect("it is turned on")
    }

    fn key(topic: &str, privacy: Privacy) -> TopicKey {
        TopicKey::new(topic.into(), privacy)
    }

    /// A public broadcast with an event, and perhaps more members.
    fn broadcast(topic: &str, event: &str, more: &str) -> Arc<Fanout> {
        let text = format!(r#"{{"type":"broadcast","event":"{event}","payload":{{}}{more}}}"#);
        let payload = BroadcastPayload::Text(text.into());
        Arc::new(fanout_of(key(topic, Privacy::Public), &payload, None, &BroadcastRules::default()))
    }

    fn all_since(from: Instant) -> Wanted {
        Wanted { from, serializer: Serializer::V2, except: None, has_stored: false, bytes_max: usize::MAX }
    }

    /// The events that somebody has missed.
    fn events(memory: &Broadcasts, topic: &str, wanted: &Wanted) -> Vec<String> {
        let frames = memory.missed(key(topic, Privacy::Public).as_ref(), wanted);
        let event = |frame: &Bytes| {
            let text = String::from_utf8_lossy(frame).into_owned();
            text.split(r#""event":""#).nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned)
        };
        frames.iter().map(|frame| event(frame).expect("an event")).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_gets_those_of_its_topic_from_its_moment_on_in_their_order() {
        let mut memory = memory(1 << 20);
        let start = Instant::now();
        for event in ["1", "2", "3"] {
            memory.keep(&broadcast("realtime:a", event, ""), None);
            memory.keep(&broadcast("realtime:b", "other", ""), None);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let second = start + Duration::from_secs(1);
        assert_eq!(events(&memory, "realtime:a", &all_since(start)), ["1", "2", "3"]);
        assert_eq!(events(&memory, "realtime:a", &all_since(second)), ["2", "3"]);
        assert!(memory.missed(key("realtime:a", Privacy::Private).as_ref(), &all_since(start)).is_empty());
        assert!(events(&memory, "realtime:a", &all_since(Instant::now())).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_all_topics_go_first_when_there_are_too_many_bytes() {
        let mut memory = memory(40_000);
        let filling = format!(r#","filling":"{}""#, "x".repeat(1_000));
        let start = Instant::now();
        memory.keep(&broadcast("realtime:quiet", "old", ""), None);
        for number in 0..100 {
            memory.keep(&broadcast("realtime:a", &number.to_string(), &filling), None);
            assert!(memory.bytes <= 40_000);
        }
        assert!(events(&memory, "realtime:quiet", &all_since(start)).is_empty());
        let left = events(&memory, "realtime:a", &all_since(start));
        assert_eq!(left, (100 - left.len()..100).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!((10..30).contains(&left.len()), "{}", left.len());
        assert_eq!((memory.topics.len(), memory.order.len()), (1, left.len()));
        let huge = format!(r#","filling":"{}""#, "x".repeat(50_000));
        memory.keep(&broadcast("realtime:a", "huge", &huge), None);
        assert_eq!((memory.topics.len(), memory.order.len(), memory.bytes), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn many_topics_count_for_what_they_take() {
        let mut memory = memory(100_000);
        for number in 0..10_000 {
            memory.keep(&broadcast(&format!("realtime:{number}"), "e", ""), None);
        }
        assert!(memory.bytes <= 100_000);
        assert!(memory.topics.len() * SHARDS * (TOPIC_BYTES + ENTRY_BYTES) < 100_000);
        assert_eq!(memory.topics.len(), memory.order.len());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_is_neither_sent_nor_kept() {
        let mut memory = memory(1 << 20);
        let start = Instant::now();
        memory.keep(&broadcast("realtime:a", "old", ""), None);
        tokio::time::advance(AGE + Duration::from_secs(1)).await;
        assert!(events(&memory, "realtime:a", &all_since(start)).is_empty());
        memory.keep(&broadcast("realtime:a", "new", ""), None);
        assert_eq!(memory.order.len(), 1);
        assert_eq!(events(&memory, "realtime:a", &all_since(start)), ["new"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_worth_sending_or_was_its_own_is_left_out() {
        let mut memory = memory(1 << 20);
        let start = Instant::now();
        let (own, other) = (ChannelId(1), ChannelId(2));
        for (event, more, sender) in [
            ("place 1", r#","conflate":"place""#, Some(other)),
            ("own", "", Some(own)),
            ("brief", r#","ttl_ms":1000"#, Some(other)),
            ("lasting", r#","ttl_ms":60000"#, None),
            ("place 2", r#","conflate":"place""#, Some(other)),
        ] {
            memory.keep(&broadcast("realtime:a", event, more), sender);
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        let wanted = Wanted { except: Some(own), ..all_since(start) };
        assert_eq!(events(&memory, "realtime:a", &wanted), ["lasting", "place 2"]);
        assert_eq!(events(&memory, "realtime:a", &all_since(start)), ["own", "lasting", "place 2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_more_than_there_is_room_for_the_newest_are_sent() {
        let mut memory = memory(1 << 20);
        let start = Instant::now();
        for event in ["1", "2", "3"] {
            memory.keep(&broadcast("realtime:a", event, ""), None);
        }
        let frame =
            broadcast("realtime:a", "1", "").frame(Serializer::V2).map_or(0, walcast_wire::Frame::len);
        let wanted = Wanted { bytes_max: 3 * frame - 1, ..all_since(start) };
        assert_eq!(events(&memory, "realtime:a", &wanted), ["2", "3"]);
    }

    #[test]
    fn nothing_is_kept_where_it_is_not_turned_on_or_there_are_no_tickets() {
        let on =
            ResumeSettings { broadcast_bytes_max: NonZeroUsize::new(1 << 20), ..ResumeSettings::default() };
        assert!(Broadcasts::of(&on, 1).is_some());
        let no_tickets = ResumeSettings { ticket_validity: Duration::ZERO, ..on };
        assert!(Broadcasts::of(&no_tickets, 1).is_none());
        assert!(Broadcasts::of(&ResumeSettings::default(), 1).is_none());
    }
}
