//! Chance that can be repeated.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// Throws that depend on a seed alone.
pub(crate) struct Dice(StdRng);

impl Dice {
    /// Those of one world among those of a seed, so that each can be drawn without the others.
    pub(crate) fn new(seed: u64, number: u64) -> Dice {
        Dice(StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        of.choose(&mut self.0).expect("nothing to choose from")
    }

    pub(crate) fn word(&mut self, of: &[&'static str]) -> &'static str {
        self.one::<&str>(of)
    }
}
