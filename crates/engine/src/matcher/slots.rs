//! Numbered places for what subscriptions come with. Many thousands may come one by one: they are never moved all at
//! once, which would take their memory twice, and no more room is held than is about to be used.

/// The number of a place. It holds until a subscription comes or goes.
pub(super) type Slot = u32;

/// A power of two, as a growing `Vec` has room for.
const CHUNK: usize = 256;

pub(super) struct Slots<T> {
    /// All but the last one are full.
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<Slot>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn get(&self, slot: Slot) -> Option<&T> {
        let (chunk, place) = place(slot);
        self.chunks.get(chunk)?.get(place)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.place_mut(slot)?.as_mut()
    }

    /// Puts something into a free place.
    pub(super) fn add(&mut self, new: T) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| self.push());
        if let Some(place) = self.place_mut(slot) {
            *place = Some(new);
        }
        slot
    }

    /// Frees a place.
    pub(super) fn take(&mut self, slot: Slot) -> Option<T> {
        let taken = self.place_mut(slot)?.take()?;
        self.free.push(slot);
        Some(taken)
    }

    /// Every place, free ones included.
    pub(super) fn all(&self) -> impl Iterator<Item = Slot> {
        let count = self.chunks.iter().map(Vec::len).sum();
        (0..).take(count)
    }

    fn push(&mut self) -> Slot {
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(Vec::new());
        }
        let full = (self.chunks.len() - 1) * CHUNK;
        let place = self.chunks.last_mut().map_or(0, |last| {
            last.push(None);
            last.len() - 1
        });
        // Memory ends before that.
        Slot::try_from(full + place).unwrap_or(Slot::MAX)
    }

    fn place_mut(&mut self, slot: Slot) -> Option<&mut Option<T>> {
        let (chunk, place) = place(slot);
        self.chunks.get_mut(chunk)?.get_mut(place)
    }
}

fn place(slot: Slot) -> (usize, usize) {
    let slot = slot as usize;
    (slot / CHUNK, slot % CHUNK)
}
