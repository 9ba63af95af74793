//! A map with a bound, for what is remembered of others: whoever can name keys makes as many as they like.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Deref;

/// At most `MOST` values by key. A key that is there always has room; for another, values that are over are forgotten.
#[derive(Debug)]
pub(crate) struct Bounded<K, V, const MOST: usize>(HashMap<K, V>);

impl<K, V, const MOST: usize> Default for Bounded<K, V, MOST> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K, V, const MOST: usize> Deref for Bounded<K, V, MOST> {
    type Target = HashMap<K, V>;

    fn deref(&self) -> &HashMap<K, V> {
        &self.0
    }
}

impl<K: Eq + Hash, V, const MOST: usize> Bounded<K, V, MOST> {
    /// Forgets the values that are over if there is no room for a key; returns whether there is now.
    pub(crate) fn has_room_for(&mut self, key: &K, is_over: impl Fn(&V) -> bool) -> bool {
        if self.0.len() >= MOST && !self.0.contains_key(key) {
            self.0.retain(|_, value| !is_over(value));
        }
        self.0.len() < MOST || self.0.contains_key(key)
    }

    /// The value of a key, made if there is none; none where there is no room for it.
    pub(crate) fn entry(&mut self, key: K, is_over: impl Fn(&V) -> bool, new: impl FnOnce() -> V) -> Option<&mut V> {
        let has_room = self.has_room_for(&key, is_over);
        has_room.then(|| self.0.entry(key).or_insert_with(new))
    }

    /// The value of a key, made if there is none. Where nothing is over, the eighth goes that was used longest ago.
    pub(crate) fn entry_before_oldest<T: Ord + Copy>(
        &mut self,
        key: K,
        is_over: impl Fn(&V) -> bool,
        used_at: impl Fn(&V) -> T,
        new: impl FnOnce() -> V,
    ) -> &mut V {
        if !self.has_room_for(&key, is_over) {
            let mut times: Vec<T> = self.0.values().map(&used_at).collect();
            let oldest_kept = *times.select_nth_unstable(MOST / 8).1;
            self.0.retain(|_, value| used_at(value) > oldest_kept);
        }
        self.0.entry(key).or_insert_with(new)
    }

    /// Puts a value in the place of the one that is there, or of none if there is room.
    pub(crate) fn insert(&mut self, key: K, value: V, is_over: impl Fn(&V) -> bool) {
        if self.has_room_for(&key, is_over) {
            self.0.insert(key, value);
        }
    }

    /// A value, to be changed.
    pub(crate) fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
    }

    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Few = Bounded<u32, u32, 8>;

    fn full() -> Few {
        let mut few = Few::default();
        (0..8).for_each(|key| few.insert(key, key, |_| false));
        few
    }

    #[test]
    fn what_is_over_makes_room_and_what_is_there_has_it() {
        let mut few = full();
        few.insert(8, 8, |_| false);
        assert!(few.len() == 8 && !few.contains_key(&8));
        few.insert(3, 30, |_| true);
        assert_eq!((few.len(), few.get(&3)), (8, Some(&30)), "nothing goes for a key that is there");
        few.insert(8, 8, |value| *value < 2);
        assert_eq!((few.len(), few.contains_key(&0), few.contains_key(&8)), (7, false, true));
        assert_eq!(few.remove(&8), Some(8));
    }

    #[test]
    fn a_value_is_made_once_and_only_where_there_is_room() {
        let mut few = full();
        assert_eq!(few.entry(8, |_| false, || 8), None);
        *few.entry(7, |_| false, || 99).unwrap() += 1;
        assert_eq!(few.get(&7), Some(&8));
        assert_eq!(few.entry(8, |value| *value == 0, || 9), Some(&mut 9));
    }

    #[test]
    fn the_eighth_that_was_used_longest_ago_goes() {
        let mut few = full();
        assert_eq!(*few.entry_before_oldest(8, |_| false, |value| *value, || 8), 8);
        // The eighth of eight, and the one that is as old as the youngest of them.
        assert_eq!((few.len(), few.contains_key(&0), few.contains_key(&2)), (7, false, true));
    }
}
