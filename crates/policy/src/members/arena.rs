//! Memory for the rows of a copy: what is freed is used again for rows of the same length.

use rustc_hash::FxHashMap;

/// Rows of other lengths do not fit into what was freed; once so much of the memory is freed, and it is worth
/// the work, the rows are laid out anew.
const FREED_MAX: f64 = 0.5;
const COMPACT_FROM: usize = 1 << 20;

const CHUNK: usize = 1 << 16;

/// Where a row lies: the number of its chunk and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(u32);

impl Address {
    /// No row has it.
    pub(super) const NONE: Address = Address(u32::MAX);
}

#[derive(Debug, Default)]
pub(super) struct Arena {
    /// A row that is longer than a chunk has one of its own.
    chunks: Vec<Vec<u8>>,
    freed: FxHashMap<usize, Vec<Address>>,
    freed_bytes: usize,
    used_bytes: usize,
    /// Bytes of all chunks.
    chunk_bytes: usize,
}

impl Arena {
    /// Keeps a row. `None`: there are 4 GiB already.
    pub(super) fn insert(&mut self, row: &[u8]) -> Option<Address> {
        if let Some(address) = self.freed.get_mut(&row.len()).and_then(Vec::pop) {
            let (chunk, place) = Self::place(address);
            self.chunks[chunk][place..place + row.len()].copy_from_slice(row);
            self.freed_bytes -= row.len();
            self.used_bytes += row.len();
            return Some(address);
        }
        let fits = self.chunks.last().is_some_and(|chunk| chunk.len() + row.len() <= CHUNK);
        if !fits {
            let chunk = Vec::with_capacity(row.len().max(CHUNK));
            self.chunk_bytes += chunk.capacity();
            self.chunks.push(chunk);
        }
        let number = self.chunks.len() - 1;
        let chunk = self.chunks.last_mut()?;
        let place = chunk.len();
        let address = Address(u32::try_from(number * CHUNK + place).ok()?);
        if address == Address::NONE {
            return None;
        }
        chunk.extend_from_slice(row);
        self.used_bytes += row.len();
        Some(address)
    }

    /// The bytes from an address on.
    pub(super) fn get(&self, address: Address) -> &[u8] {
        let (chunk, place) = Self::place(address);
        &self.chunks[chunk][place..]
    }

    /// Gives back a row of this length.
    pub(super) fn free(&mut self, address: Address, length: usize) {
        self.freed.entry(length).or_default().push(address);
        self.freed_bytes += length;
        self.used_bytes -= length;
    }

    /// Whether laying out the rows anew would free a good part of the memory.
    #[expect(clippy::cast_precision_loss, reason = "a rough share")]
    pub(super) fn is_sparse(&self) -> bool {
        let all = self.used_bytes + self.freed_bytes;
        all >= COMPACT_FROM && self.freed_bytes as f64 > FREED_MAX * all as f64
    }

    /// The bytes of the rows.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// The memory it takes.
    pub(super) fn bytes(&self) -> usize {
        let freed: usize =
            self.freed.values().map(|addresses| addresses.capacity() * size_of::<Address>()).sum();
        self.chunk_bytes + freed + self.chunks.capacity() * size_of::<Vec<u8>>()
    }

    fn place(address: Address) -> (usize, usize) {
        let address = address.0 as usize;
        (address / CHUNK, address % CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_length_are_kept_and_what_is_freed_is_used_again() {
        let mut arena = Arena::default();
        let lengths = [(10, 1), (70_000, 2), (10, 3), (65_530, 4), (3, 5), (200_000, 6)];
        let rows: Vec<Vec<u8>> = lengths.iter().map(|&(length, byte)| vec![byte; length]).collect();
        let addresses: Vec<_> = rows.iter().map(|row| arena.insert(row).unwrap()).collect();
        for (row, &address) in rows.iter().zip(&addresses) {
            assert!(arena.get(address).starts_with(row));
        }
        arena.free(addresses[2], 10);
        assert_eq!(arena.insert(&[7; 10]), Some(addresses[2]));
        assert_eq!(arena.used_bytes(), rows.iter().map(Vec::len).sum::<usize>());
        assert!(!arena.is_sparse());
        arena.free(addresses[5], 200_000);
        for _ in 0..20 {
            let address = arena.insert(&vec![1; 70_001]).unwrap();
            arena.free(address, 70_001);
        }
        assert!(!arena.is_sparse(), "a length that comes again takes no more memory");
        for length in 70_100..70_120 {
            let address = arena.insert(&vec![1; length]).unwrap();
            arena.free(address, length);
        }
        assert!(arena.is_sparse());
    }
}
