//! Sites with entries that wait for a place for one more session. They are asked in turn, by what they are short of, so
//! that many sites of one zone stand in nobody's way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::places::Holder;

/// Groups asked for each place that comes free, of those at hosts that are known and of the others.
pub(super) const TRIES: usize = 16;

/// What waits, in groups that take turns.
#[derive(Debug)]
pub(super) struct WaitingSites<T> {
    ring: VecDeque<Holder>,
    groups: HashMap<Holder, VecDeque<Arc<T>>>,
}

impl<T> Default for WaitingSites<T> {
    fn default() -> Self {
        Self { ring: VecDeque::new(), groups: HashMap::new() }
    }
}

impl<T> WaitingSites<T> {
    /// One more, at the end of its group.
    pub(super) fn push(&mut self, group: Holder, waiting: Arc<T>) {
        let sites = self.groups.entry(group.clone()).or_default();
        if sites.is_empty() {
            self.ring.push_back(group);
        }
        sites.push_back(waiting);
    }

    /// The next one, which leaves.
    pub(super) fn pop(&mut self) -> Option<Arc<T>> {
        let group = self.ring.pop_front()?;
        let sites = self.groups.get_mut(&group)?;
        let next = sites.pop_front();
        if sites.is_empty() {
            self.groups.remove(&group);
        } else {
            self.ring.push_back(group);
        }
        next
    }

    /// Whether somebody of this group waits.
    pub(super) fn contains(&self, group: &Holder) -> bool {
        self.groups.contains_key(group)
    }

    pub(super) fn groups(&self) -> usize {
        self.ring.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_turns() {
        let mut waiting_sites = WaitingSites::default();
        let group = |name: &str| Holder::Domain(name.into());
        for (name, number) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            waiting_sites.push(group(name), Arc::new(number));
        }
        assert_eq!(waiting_sites.groups(), 3);
        let order: Vec<i32> = std::iter::from_fn(|| waiting_sites.pop()).map(|number| *number).collect();
        assert_eq!(order, [1, 4, 5, 2, 6, 3]);
        assert_eq!((waiting_sites.groups(), waiting_sites.groups.len()), (0, 0));
    }
}
