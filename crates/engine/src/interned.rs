//! Values that many hold alike, kept once.

use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// So many values are kept before it is looked for the first time whether somebody still holds them.
const SWEEP_MIN: usize = 64;

/// Gives out the same `Arc` for equal values.
pub(crate) struct Interned<T: ?Sized>(Mutex<Known<T>>);

struct Known<T: ?Sized> {
    values: ahash::HashSet<Arc<T>>,
    /// Values that nobody holds any more are dropped when there are so many.
    sweep_at: usize,
}

impl<T: ?Sized + Hash + Eq> Interned<T> {
    /// Equal values share the `Arc` that came first.
    pub(crate) fn share(&self, value: Arc<T>) -> Arc<T> {
        // A poisoned lock means that a comparison panicked; the set itself is whole.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.values.get(&value) {
            return Arc::clone(same);
        }
        if known.values.len() >= known.sweep_at {
            known.values.retain(|value| Arc::strong_count(value) > 1);
            known.values.shrink_to_fit();
            known.sweep_at = SWEEP_MIN.max(2 * known.values.len());
        }
        known.values.insert(Arc::clone(&value));
        value
    }
}

impl<T: ?Sized> Default for Interned<T> {
    fn default() -> Self {
        Interned(Mutex::new(Known { values: ahash::HashSet::default(), sweep_at: SWEEP_MIN }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_those_that_nobody_holds_are_dropped() {
        let interned = Interned::<str>::default();
        let first = interned.share("a".into());
        assert!(Arc::ptr_eq(&first, &interned.share("a".into())));
        for number in 0..10 * SWEEP_MIN {
            interned.share(number.to_string().into());
        }
        assert!(Arc::ptr_eq(&first, &interned.share("a".into())));
        assert!(interned.0.lock().unwrap().values.len() <= SWEEP_MIN + 1);
    }
}
