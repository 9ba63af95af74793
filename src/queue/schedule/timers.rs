//! What becomes due when, the earliest first.

use std::collections::BTreeSet;

use crate::base::clock::Timestamp;
use crate::mail::id::{EntryId, MessageId};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Timer {
    /// The next attempt.
    Due,
    /// The end of life.
    Expiry,
    /// The end of a lease.
    Lease,
    /// The time of `BY=;N`.
    Late,
}

const TIMERS: [Timer; 4] = [Timer::Due, Timer::Expiry, Timer::Lease, Timer::Late];

/// A timer in bytes that have its order: the time, the message, the entry, what it is for. Each entry has one at least, so
/// there are no gaps in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Packed([u8; 27]);

impl Packed {
    fn new(at: Timestamp, entry: EntryId, timer: Timer) -> Self {
        let mut bytes = [0; 27];
        bytes[..8].copy_from_slice(&at.as_millis().to_be_bytes());
        bytes[8..24].copy_from_slice(&entry.message.to_bytes());
        bytes[24..26].copy_from_slice(&entry.index.to_be_bytes());
        bytes[26] = timer as u8;
        Self(bytes)
    }

    fn at(self) -> Timestamp {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        Timestamp::from_millis(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    fn entry(self) -> EntryId {
        let mut message = [0; 16];
        message.copy_from_slice(&self.0[8..24]);
        EntryId { message: MessageId::from_bytes(message), index: u16::from_be_bytes([self.0[24], self.0[25]]) }
    }

    fn timer(self) -> Timer {
        TIMERS[usize::from(self.0[26])]
    }
}

/// The timers of all live entries.
#[derive(Debug, Default)]
pub(in crate::queue) struct Timers(BTreeSet<Packed>);

impl Timers {
    pub(super) fn insert(&mut self, at: Timestamp, entry: EntryId, timer: Timer) {
        self.0.insert(Packed::new(at, entry, timer));
    }

    pub(super) fn remove(&mut self, at: Timestamp, entry: EntryId, timer: Timer) {
        self.0.remove(&Packed::new(at, entry, timer));
    }

    /// When the first is due.
    pub(super) fn first_at(&self) -> Option<Timestamp> {
        self.0.first().map(|first| first.at())
    }

    /// Takes the first, if it is due.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<(EntryId, Timer)> {
        self.first_at().filter(|at| *at <= now)?;
        self.0.pop_first().map(|first| (first.entry(), first.timer()))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: u8, index: u16) -> EntryId {
        EntryId { message: MessageId::from_bytes([message; 16]), index }
    }

    #[test]
    fn timers_come_back_in_their_order_as_they_were() {
        let at = Timestamp::from_millis;
        let inserted = [
            (at(256), entry(1, 0), Timer::Late),
            (at(255), entry(2, 256), Timer::Due),
            (at(255), entry(2, 255), Timer::Lease),
            (at(255), entry(1, 7), Timer::Expiry),
            (at(u64::MAX), entry(0, u16::MAX), Timer::Due),
        ];
        let mut timers = Timers::default();
        inserted.iter().for_each(|(at, entry, timer)| timers.insert(*at, *entry, *timer));
        timers.remove(at(u64::MAX), entry(0, u16::MAX), Timer::Due);
        timers.remove(at(255), entry(1, 7), Timer::Due);
        assert_eq!(timers.pop_due(at(254)), None);
        assert_eq!(timers.first_at(), Some(at(255)));
        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(at(256))).collect();
        let expected = [3, 2, 1, 0].map(|number| (inserted[number].1, inserted[number].2));
        assert_eq!(due, expected);
        assert!(timers.is_empty());
    }
}
