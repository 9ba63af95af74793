//! Who goes next among the entries that wait for one destination: the lane whose turn it is, and in it the entry
//! whose life ends first.

use std::collections::BTreeSet;

use crate::base::clock::Timestamp;
use crate::base::lane::{LANES, Lane, PerLane, Turn};
use crate::mail::id::EntryId;

/// Entries that could be sent now, if there were a free slot.
#[derive(Debug, Default)]
pub(crate) struct ReadyList {
    waiting: PerLane<BTreeSet<(Timestamp, EntryId)>>,
    turn: Turn,
}

impl ReadyList {
    /// Adds an entry.
    pub(crate) fn insert(&mut self, lane: Lane, expires_at: Timestamp, entry: EntryId) {
        self.waiting[lane].insert((expires_at, entry));
    }

    /// Takes the entry that goes next.
    pub(crate) fn pop(&mut self) -> Option<(Lane, EntryId)> {
        let waiting = &self.waiting;
        let lane = self.turn.next(|lane| !waiting[lane].is_empty())?;
        self.waiting[lane].pop_first().map(|(_, entry)| (lane, entry))
    }

    /// Takes the entry that goes next of a lane that sessions are kept for.
    pub(crate) fn pop_reserved(&mut self) -> Option<(Lane, EntryId)> {
        let waiting = LANES.into_iter().filter(|lane| lane.rules().has_reserved_sessions);
        let mut entries = waiting.filter_map(|lane| Some((lane, self.waiting[lane].pop_first()?.1)));
        entries.next()
    }

    /// The most urgent lane that waits.
    pub(crate) fn most_urgent(&self) -> Option<Lane> {
        LANES.into_iter().find(|lane| !self.waiting[*lane].is_empty())
    }

    /// Entries waiting.
    pub(crate) fn len(&self) -> usize {
        self.waiting.iter().map(BTreeSet::len).sum()
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.iter().all(BTreeSet::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::id::MessageId;
    use proptest::prelude::*;

    fn entry(number: u8) -> EntryId {
        EntryId { message: MessageId::from_bytes([number; 16]), index: 0 }
    }

    #[test]
    fn the_earliest_end_of_life_goes_first_within_a_lane() {
        let mut ready = ReadyList::default();
        for (number, seconds) in [(1, 30), (2, 10), (3, 20)] {
            ready.insert(Lane::Otp, Timestamp::from_millis(seconds * 1000), entry(number));
        }
        ready.insert(Lane::Notice, Timestamp::from_millis(1), entry(4));
        assert_eq!(ready.most_urgent(), Some(Lane::Otp));
        let order: Vec<_> = std::iter::from_fn(|| ready.pop()).map(|(_, entry)| entry).collect();
        assert_eq!(order, [2, 3, 1, 4].map(entry));
    }

    proptest! {
        /// Whatever keeps arriving, an entry that waits in any lane is taken within a bounded number of turns.
        #[test]
        fn order_never_starves(arrivals in prop::collection::vec(0usize..3, 64), lane in 0usize..3) {
            let mut ready = ReadyList::default();
            ready.insert(LANES[lane], Timestamp::from_millis(5), entry(0));
            for (number, arriving) in (1..).zip(arrivals) {
                // Newcomers of the same lane end later; those of other lanes as they like.
                ready.insert(LANES[arriving], Timestamp::from_millis(6), entry(number));
                if ready.pop().is_some_and(|(_, taken)| taken == entry(0)) {
                    return Ok(());
                }
            }
            prop_assert!(false, "waited for 64 turns");
        }
    }
}
