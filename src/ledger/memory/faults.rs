//! What goes wrong between a node and the database, by a seed.

use std::time::Duration;

/// Whether the database may lose its last commits when it fails over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Replication {
    /// What was acknowledged stays.
    #[default]
    Synchronous,
    /// The last commits may be gone.
    Asynchronous,
}

/// How often what goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Each way takes up to so long.
    pub delay_max: Duration,
    /// Of 1,000 requests, how many never arrive.
    pub requests_lost: u64,
    /// Of 1,000, how many are done and never answered.
    pub answers_lost: u64,
    /// Of 1,000, how many arrive seconds later.
    pub delayed: u64,
}

impl Faults {
    /// Whether nothing goes wrong and nothing takes time.
    pub(super) fn are_none(&self) -> bool {
        let Self { delay_max, requests_lost, answers_lost, delayed } = self;
        delay_max.is_zero() && requests_lost + answers_lost + delayed == 0
    }
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    /// How long it takes to the database; none: it never comes there.
    pub(super) there: Option<Duration>,
    /// How long the answer takes; none: it never comes.
    pub(super) back: Option<Duration>,
    /// Whether a loss is noticed at once, as by a connection that breaks.
    pub(super) is_noticed: bool,
}

/// Numbers from a seed.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(most.saturating_add(1)))
    }

    /// What becomes of the next request.
    pub(super) fn fate(&mut self, faults: &Faults) -> Fate {
        let (there, back) = (self.up_to(faults.delay_max), self.up_to(faults.delay_max));
        let is_noticed = self.below(2) == 0;
        let mut roll = self.below(1000);
        let mut falls_to = |share: u64| {
            let is_hit = roll < share;
            roll = roll.saturating_sub(share);
            is_hit
        };
        if falls_to(faults.requests_lost) {
            return Fate { there: None, back: None, is_noticed };
        }
        if falls_to(faults.answers_lost) {
            return Fate { there: Some(there), back: None, is_noticed };
        }
        let late = if falls_to(faults.delayed) { self.up_to(Duration::from_secs(8)) } else { Duration::ZERO };
        Fate { there: Some(there + late), back: Some(back), is_noticed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_what_goes_wrong_and_how_often() {
        let faults = Faults { requests_lost: 100, answers_lost: 100, ..Faults::default() };
        let fates = |seed| {
            let mut dice = Dice::new(seed);
            (0..10_000).map(|_| dice.fate(&faults)).collect::<Vec<_>>()
        };
        let lost = |fates: &[Fate]| fates.iter().filter(|fate| fate.there.is_none()).count();
        let some = fates(1);
        assert!((700..1300).contains(&lost(&some)));
        assert!((1500..2500).contains(&some.iter().filter(|fate| fate.back.is_none()).count()));
        assert_eq!(lost(&some), lost(&fates(1)));
        assert!(Faults::default().are_none() && !faults.are_none());
    }
}
