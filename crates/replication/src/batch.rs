//! Events on their way to the consumer: as many as arrived together, within bounds.

use crate::event::Event;

/// A batch is handed on at the latest when it holds this many events…
pub(crate) const EVENTS_MAX: usize = 1024;
/// …or this many bytes of messages. A single message may be larger; it is then alone at the end of its batch.
const BYTES_MAX: usize = 1 << 20;

/// Events on their way to the consumer.
#[derive(Default)]
pub(crate) struct Batch {
    events: Vec<Event>,
    payload_bytes: usize,
}

impl Batch {
    pub(crate) fn push(&mut self, event: Event) {
        match (&event, self.events.last_mut()) {
            // The newer of two neighbours says all; so an idle stream never fills a batch.
            (Event::KeepAlive { wal_end }, Some(Event::KeepAlive { wal_end: previous })) => {
                *previous = *wal_end;
            }
            (Event::Data { payload, .. }, _) => {
                self.payload_bytes += payload.len();
                self.events.push(event);
            }
            _ => self.events.push(event),
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Event> {
        self.payload_bytes = 0;
        std::mem::take(&mut self.events)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.events.len() < EVENTS_MAX && self.payload_bytes < BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use walcast_pgoutput::Lsn;

    use super::*;

    #[test]
    fn a_batch_is_full_by_count_or_by_bytes() {
        let event =
            |bytes| Event::Data { wal_start: Lsn(0), wal_end: Lsn(0), payload: Bytes::from(vec![0; bytes]) };
        let mut batch = Batch::default();
        batch.push(event(BYTES_MAX));
        assert!(!batch.has_room());
        assert_eq!(batch.take().len(), 1);
        for _ in 0..EVENTS_MAX {
            batch.push(event(1));
        }
        assert!(!batch.has_room());
    }
}
