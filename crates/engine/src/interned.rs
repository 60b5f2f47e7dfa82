//! Values that many hold alike, kept once. What only one holds costs nothing for long.

use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// So many values are known before it is looked for the first time whether they are shared.
const SWEEP_MIN: usize = 1_024;

/// Gives out the same `Arc` for equal values.
pub(crate) struct Interned<T: ?Sized>(Mutex<Known<T>>);

struct Known<T: ?Sized> {
    values: ahash::HashSet<Arc<T>>,
    /// Those that are not shared are forgotten when there are so many.
    sweep_at: usize,
}

impl<T: ?Sized + Hash + Eq> Interned<T> {
    /// Equal values share an `Arc`, unless very many others came between them.
    pub(crate) fn share(&self, value: Arc<T>) -> Arc<T> {
        // A poisoned lock means that a comparison panicked; the set itself is whole.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.values.get(&value) {
            return Arc::clone(same);
        }
        if known.values.len() >= known.sweep_at {
            // One is this table's.
            known.values.retain(|value| Arc::strong_count(value) > 2);
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
    fn equal_values_are_one_and_those_that_are_not_shared_are_forgotten() {
        let interned = Interned::<str>::default();
        let shared = interned.share("shared".into());
        assert!(Arc::ptr_eq(&shared, &interned.share("shared".into())));
        let again = interned.share("shared".into());
        let others: Vec<_> =
            (0..10 * SWEEP_MIN).map(|number| interned.share(number.to_string().into())).collect();
        assert!(Arc::ptr_eq(&again, &interned.share("shared".into())));
        assert!(interned.0.lock().unwrap().values.len() <= SWEEP_MIN + 1);
        assert_eq!(Arc::strong_count(&others[0]), 1);
    }
}
