//! When the next address is asked in a race, when all of them once more, and when the caller looks.

use std::time::{Duration, Instant};

/// How often the caller looks whether the entry is still wanted.
pub(in super::super) const LOOK: Duration = Duration::from_secs(5);
/// How long after the last address was asked the addresses are asked again, while all sessions are slow.
pub(super) const ROUND: Duration = Duration::from_secs(45);

pub(super) struct Timing {
    is_next_due: bool,
    /// How long the one that began last is left alone.
    patience_ends: Option<Instant>,
    began_last_at: Instant,
    looked_at: Instant,
    /// A time at which the caller has to look.
    until: Option<Instant>,
    rounds: u32,
}

impl Timing {
    /// The first address is due.
    pub(super) fn new(now: Instant) -> Self {
        Self { is_next_due: true, patience_ends: None, began_last_at: now, looked_at: now, until: None, rounds: 0 }
    }

    /// Whether the next address is due.
    pub(super) fn is_next_due(&self) -> bool {
        self.is_next_due
    }

    /// The next address is due.
    pub(super) fn next_is_due(&mut self) {
        self.is_next_due = true;
    }

    /// The next address is not due until something happens.
    pub(super) fn next_is_not_due(&mut self) {
        self.is_next_due = false;
    }

    /// The next address is due at this time, if nothing happens before.
    pub(super) fn next_is_due_at(&mut self, at: Instant) {
        (self.is_next_due, self.patience_ends) = (false, Some(at));
    }

    /// The one that began last is left alone for so long.
    pub(super) fn be_patient_until(&mut self, at: Instant) {
        self.patience_ends = Some(at);
    }

    /// An address is being asked.
    pub(super) fn began(&mut self, now: Instant) {
        self.began_last_at = now;
    }

    /// Whether all were asked more than once.
    pub(super) fn has_gone_round(&self) -> bool {
        self.rounds > 0
    }

    /// The caller is to look at this time, if not before.
    pub(super) fn look_at(&mut self, at: Instant) {
        self.until = Some(self.until.map_or(at, |until| until.min(at)));
    }

    /// When something is due next. `may_race`: another address may be asked beside the others; `may_go_round`: all of them
    /// once more.
    pub(super) fn wake_at(&self, may_race: bool, may_go_round: bool) -> Instant {
        let patience_ends = self.patience_ends.filter(|_| !self.is_next_due && may_race);
        let round = may_go_round.then(|| self.began_last_at + ROUND);
        let others = [patience_ends, round, self.until];
        others.into_iter().flatten().fold(self.looked_at + LOOK, Instant::min)
    }

    /// Takes up that patience may have ended.
    pub(super) fn patience_may_end(&mut self, now: Instant) {
        if self.patience_ends.is_some_and(|at| at <= now) {
            self.patience_ends = None;
            self.is_next_due = true;
        }
    }

    /// Whether it is time to ask all once more; begins to.
    pub(super) fn goes_round(&mut self, now: Instant) -> bool {
        let is_due = self.began_last_at + ROUND <= now;
        if is_due {
            self.rounds += 1;
            self.began_last_at = now;
            self.is_next_due = true;
        }
        is_due
    }

    /// Whether the caller has to look now.
    pub(super) fn looks(&mut self, now: Instant) -> bool {
        let is_over = self.until.is_some_and(|until| until <= now);
        if is_over {
            self.until = None;
        }
        let looks = is_over || self.looked_at + LOOK <= now;
        if looks {
            self.looked_at = now;
        }
        looks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_next_address_is_due_when_patience_ends() {
        let start = SystemClock::default().instant();
        let mut timing = Timing::new(start);
        assert!(timing.is_next_due(), "the first");
        timing.next_is_due_at(start + SECOND);
        assert_eq!(timing.wake_at(true, false), start + SECOND);
        assert_eq!(timing.wake_at(false, false), start + LOOK, "there is no other address");
        timing.patience_may_end(start + SECOND / 2);
        assert!(!timing.is_next_due());
        timing.patience_may_end(start + SECOND);
        assert!(timing.is_next_due());
        assert_eq!(timing.wake_at(true, false), start + LOOK, "nothing is waited for");
    }

    #[test]
    fn all_are_asked_once_more_after_a_round() {
        let start = SystemClock::default().instant();
        let mut timing = Timing::new(start);
        timing.next_is_due_at(start + SECOND);
        timing.began(start + SECOND);
        assert!(!timing.goes_round(start + ROUND) && !timing.has_gone_round());
        assert!(timing.goes_round(start + ROUND + SECOND) && timing.has_gone_round() && timing.is_next_due());
        assert!(!timing.goes_round(start + ROUND + SECOND * 2), "counted from there");
    }

    #[test]
    fn the_caller_looks_now_and_then_and_when_it_has_to() {
        let start = SystemClock::default().instant();
        let mut timing = Timing::new(start);
        timing.look_at(start + SECOND * 3);
        timing.look_at(start + SECOND * 4);
        assert_eq!(timing.wake_at(true, true), start + SECOND * 3);
        let looks: Vec<u32> = (1..=9).filter(|second| timing.looks(start + SECOND * *second)).collect();
        assert_eq!(looks, [3, 8]);
    }
}
