//! Frames in the order in which they leave, and what can be taken out of it again.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::SLICES_PER_WRITE;
use crate::relief::{ConflationKey, Relief};

/// So many emptied places are kept before it is looked whether they are too many.
const EMPTIED_MIN: usize = 64;

/// Frames that wait to be written.
#[derive(Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    /// How much of the first frame is written.
    written_of_first: usize,
    bytes: usize,
}

/// A frame that waits; an empty one stands where one was taken out.
struct Entry {
    frame: Bytes,
    relief: Option<Arc<Relief>>,
}

/// Where the newest frame of each key waits, by numbers that stay when those before it leave.
pub(super) struct Keys {
    newest: ahash::HashMap<ConflationKey, u64>,
    number_of_first: u64,
    emptied: usize,
}

impl Queue {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn push(&mut self, frame: Bytes, relief: Option<Arc<Relief>>) {
        self.bytes += frame.len();
        self.entries.push_back(Entry { frame, relief });
    }

    /// The first frame, of which so many bytes are written.
    pub(super) fn push_begun(&mut self, frame: Bytes, written: usize) {
        self.push(frame, None);
        self.written_of_first = written;
        self.bytes -= written;
    }

    /// As [`Queue::push`], with the place noted where the frame has a key.
    pub(super) fn push_noted(&mut self, frame: Bytes, relief: &Arc<Relief>, keys: &mut Keys) {
        if let Some(key) = &relief.key {
            keys.newest.insert(key.clone(), keys.number_of_first + self.entries.len() as u64);
        }
        self.push(frame, Some(Arc::clone(relief)));
    }

    /// Forgets all but a frame that is half written: without its rest nothing behind it could be read.
    pub(super) fn clear_unwritten(&mut self) {
        self.entries.truncate(usize::from(self.written_of_first > 0));
        self.bytes = self.entries.front().map_or(0, |first| first.frame.len() - self.written_of_first);
    }

    /// Takes out what waits under this key. False where nothing does, or it is half written.
    pub(super) fn conflate(&mut self, key: &ConflationKey, keys: &mut Keys) -> bool {
        let Some(&number) = keys.newest.get(key) else { return false };
        let index = usize::try_from(number - keys.number_of_first).unwrap_or(usize::MAX);
        if index == 0 && self.written_of_first > 0 {
            return false;
        }
        let Some(entry) = self.entries.get_mut(index) else { return false };
        self.bytes -= entry.frame.len();
        *entry = Entry { frame: Bytes::new(), relief: None };
        keys.newest.remove(key);
        keys.emptied += 1;
        if keys.emptied > EMPTIED_MIN && keys.emptied > self.entries.len() / 2 {
            self.entries.retain(|entry| !entry.frame.is_empty());
            *keys = Keys::of(self);
        }
        true
    }

    /// Takes out what is not worth sending any more, and tells how much that was. Places have moved then.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let before = self.entries.len();
        let mut untouchable = usize::from(self.written_of_first > 0);
        let (mut bytes, mut emptied) = (0, 0);
        self.entries.retain(|entry| {
            if untouchable > 0 {
                untouchable -= 1;
                return true;
            }
            emptied += usize::from(entry.frame.is_empty());
            let stays = !entry.relief.as_ref().is_some_and(|relief| relief.has_expired(now));
            bytes += if stays { 0 } else { entry.frame.len() };
            stays && !entry.frame.is_empty()
        });
        self.bytes -= bytes;
        before - self.entries.len() - emptied
    }

    /// Hands what comes first to `write`, which tells how much of it was written.
    pub(super) fn write<E>(
        &mut self,
        keys: Option<&mut Keys>,
        write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        // Most often there is one, which needs no list.
        if self.entries.len() == 1 {
            let written = write(&[IoSlice::new(&self.entries[0].frame[self.written_of_first..])])?;
            self.advance(written, keys);
            return Ok(written);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
        let mut count = 0;
        let mut start = self.written_of_first;
        for entry in &self.entries {
            if count == SLICES_PER_WRITE {
                break;
            }
            if !entry.frame.is_empty() {
                slices[count] = IoSlice::new(&entry.frame[start..]);
                count += 1;
            }
            start = 0;
        }
        let written = write(&slices[..count])?;
        self.advance(written, keys);
        Ok(written)
    }

    fn advance(&mut self, mut written: usize, mut keys: Option<&mut Keys>) {
        self.bytes -= written;
        while let Some(first) = self.entries.front() {
            let rest = first.frame.len() - self.written_of_first;
            if written < rest {
                self.written_of_first += written;
                return;
            }
            written -= rest;
            self.written_of_first = 0;
            let left = self.entries.pop_front();
            if let (Some(keys), Some(left)) = (keys.as_deref_mut(), left) {
                keys.leave(&left);
            }
        }
    }
}

impl Keys {
    pub(super) fn of(queue: &Queue) -> Self {
        let mut keys = Keys { newest: ahash::HashMap::default(), number_of_first: 0, emptied: 0 };
        for (number, entry) in (0..).zip(&queue.entries) {
            keys.emptied += usize::from(entry.frame.is_empty());
            if let Some(key) = entry.relief.as_ref().and_then(|relief| relief.key.as_ref()) {
                keys.newest.insert(key.clone(), number);
            }
        }
        keys
    }

    /// The first frame has left.
    fn leave(&mut self, left: &Entry) {
        if left.frame.is_empty() {
            self.emptied -= 1;
        } else if let Some(key) = left.relief.as_ref().and_then(|relief| relief.key.as_ref())
            && self.newest.get(key) == Some(&self.number_of_first)
        {
            self.newest.remove(key);
        }
        self.number_of_first += 1;
    }
}
