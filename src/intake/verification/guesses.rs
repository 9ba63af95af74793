//! Wrong checks, counted for each user and recipient, whatever the spelling.
//!
//! Those of recipients with a verification are on disk; those of others are counted here only, with the same answers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::rate::Rate;

/// Recipients that are counted at most.
const RECIPIENTS_MAX: usize = 100_000;

/// A user and the budget form of an address.
pub(super) type GuessKey = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Counter {
    /// Within the window, in order.
    wrong: VecDeque<Timestamp>,
    blocked_until: Option<Timestamp>,
}

impl Counter {
    fn is_blocked(&self, now: Timestamp) -> bool {
        self.blocked_until.is_some_and(|until| until > now)
    }

    fn is_over(&self, span: Duration, now: Timestamp) -> bool {
        !self.is_blocked(now) && self.wrong.back().is_none_or(|last| last.plus(span) <= now)
    }
}

#[derive(Debug)]
pub(super) struct Guesses {
    counters: HashMap<GuessKey, Counter>,
    recipients_max: usize,
}

impl Default for Guesses {
    fn default() -> Self {
        Self { counters: HashMap::new(), recipients_max: RECIPIENTS_MAX }
    }
}

impl Guesses {
    /// How long no new verification of this recipient starts.
    pub(super) fn blocked(&self, whose: &GuessKey, now: Timestamp) -> Option<Duration> {
        let until = self.counters.get(whose)?.blocked_until?;
        (until > now).then(|| until.since(now))
    }

    /// Counts a wrong check. While the recipient's are used up, none counts.
    pub(super) fn wrong(&mut self, whose: &GuessKey, limit: Rate, now: Timestamp) {
        if !self.counters.contains_key(whose) && !self.has_room(limit.span, now) {
            return;
        }
        let counter = self.counters.entry(whose.clone()).or_default();
        if counter.is_blocked(now) {
            return;
        }
        counter.wrong.retain(|at| at.plus(limit.span) > now);
        counter.wrong.push_back(now);
        if counter.wrong.len() >= limit.count as usize {
            counter.wrong.clear();
            counter.blocked_until = Some(now.plus(limit.span));
        }
    }

    /// Whether there is room for another; those go that count nothing any more, then those that refuse nobody. One in force is
    /// never let go.
    fn has_room(&mut self, span: Duration, now: Timestamp) -> bool {
        if self.counters.len() < self.recipients_max {
            return true;
        }
        self.counters.retain(|_, counter| !counter.is_over(span, now));
        if self.counters.len() >= self.recipients_max {
            // A tenth at once, so that it is not gone through for each.
            let mut idle: Vec<(Timestamp, GuessKey)> = self
                .counters
                .iter()
                .filter(|(_, counter)| !counter.is_blocked(now))
                .filter_map(|(whose, counter)| Some((*counter.wrong.back()?, whose.clone())))
                .collect();
            idle.sort_unstable();
            idle.truncate((self.recipients_max / 10).max(1));
            idle.iter().for_each(|(_, whose)| drop(self.counters.remove(whose)));
        }
        self.counters.len() < self.recipients_max
    }

    /// Lets those go that count nothing any more.
    pub(super) fn housekeep(&mut self, span: Duration, now: Timestamp) {
        self.counters.retain(|_, counter| !counter.is_over(span, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Rate = Rate { count: 20, span: Duration::from_secs(3600) };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    fn whose(name: &str) -> GuessKey {
        ("shop".into(), name.into())
    }

    #[test]
    fn twenty_in_an_hour_are_enough_for_an_hour() {
        let mut guesses = Guesses::default();
        for n in 0..19 {
            guesses.wrong(&whose("a"), LIMIT, at(n * 60));
        }
        assert_eq!(guesses.blocked(&whose("a"), at(1200)), None);
        guesses.wrong(&whose("a"), LIMIT, at(1200));
        assert_eq!(guesses.blocked(&whose("a"), at(1200)), Some(LIMIT.span));
        guesses.wrong(&whose("a"), LIMIT, at(2000));
        assert_eq!(guesses.blocked(&whose("a"), at(4799)), Some(Duration::from_secs(1)), "it is not made longer");
        assert_eq!(guesses.blocked(&whose("a"), at(4800)), None);
        assert_eq!(guesses.blocked(&whose("b"), at(1200)), None);
        for n in 0..100 {
            guesses.wrong(&whose("slow"), LIMIT, at(5000 + n * 200));
        }
        assert_eq!(guesses.blocked(&whose("slow"), at(30_000)), None, "eighteen in an hour");
    }

    #[test]
    fn one_in_force_is_never_let_go() {
        let mut guesses = Guesses { recipients_max: 10, ..Guesses::default() };
        for _ in 0..20 {
            guesses.wrong(&whose("victim"), LIMIT, at(0));
        }
        for n in 0..1000 {
            guesses.wrong(&whose(&n.to_string()), LIMIT, at(1 + n));
        }
        assert!(guesses.blocked(&whose("victim"), at(1001)).is_some() && guesses.counters.len() <= 10);
        let mut full = Guesses { recipients_max: 2, ..Guesses::default() };
        for name in ["a", "b", "c"] {
            for _ in 0..20 {
                full.wrong(&whose(name), LIMIT, at(0));
            }
        }
        assert!(full.blocked(&whose("a"), at(1)).is_some() && full.blocked(&whose("b"), at(1)).is_some());
        assert!(full.blocked(&whose("c"), at(1)).is_none());
        full.housekeep(LIMIT.span, at(4000));
        assert!(full.counters.is_empty());
    }
}
