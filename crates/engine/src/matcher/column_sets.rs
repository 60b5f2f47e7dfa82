//! The sets of columns that subscribers of a table are shown: few, however many subscribers there are.

/// A set of columns, by its place in [`ColumnSets`], from [`ColumnSets::take`] to [`ColumnSets::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ColumnSet(u32);

/// The sets of one table that are in use, and how often.
#[derive(Debug, Default)]
pub(super) struct ColumnSets(Vec<(Box<[usize]>, usize)>);

impl ColumnSets {
    /// The indices of the columns.
    pub(super) fn get(&self, set: ColumnSet) -> &[usize] {
        self.0.get(set.0 as usize).map_or(&[], |(columns, _)| columns)
    }

    /// The set of these columns, for one user more.
    pub(super) fn take(&mut self, columns: &[usize]) -> ColumnSet {
        let known = self.0.iter().position(|(known, _)| **known == *columns);
        let place = known.or_else(|| self.0.iter().position(|(_, users)| *users == 0));
        let place = place.unwrap_or_else(|| {
            self.0.push(Default::default());
            self.0.len() - 1
        });
        let (known, users) = &mut self.0[place];
        if **known != *columns {
            *known = columns.into();
        }
        *users += 1;
        // Beyond the range nothing is ever found.
        ColumnSet(u32::try_from(place).unwrap_or(u32::MAX))
    }

    /// One user less.
    pub(super) fn release(&mut self, set: ColumnSet) {
        if let Some((_, users)) = self.0.get_mut(set.0 as usize) {
            *users = users.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_one_and_the_place_of_one_that_nobody_uses_is_used_again() {
        let mut sets = ColumnSets::default();
        let (first, second) = (sets.take(&[0, 1]), sets.take(&[1]));
        assert_eq!(sets.take(&[0, 1]), first);
        sets.release(first);
        assert_ne!(sets.take(&[2]), first, "it has a user still");
        sets.release(first);
        assert_eq!(sets.take(&[3]), first);
        assert_eq!((sets.get(first), sets.get(second)), (&[3][..], &[1][..]));
    }
}
