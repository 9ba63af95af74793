//! Whether a smart host is worth trying: after a failure it rests for a moment, then one entry tries it; the others
//! follow when that one was answered.

use std::time::Duration;

use crate::clock::Timestamp;

/// How long it rests after the first failure; each time twice as long, up to the second.
const REST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));
/// How long the one that tries it is waited for; then another does.
const TRIAL: Duration = Duration::from_secs(10);
/// How long those wait who come while one tries it.
const BEHIND_TRIAL: Duration = Duration::from_secs(1);

/// The health of one smart host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Backoff {
    /// It works, as far as is known.
    #[default]
    Closed,
    /// It failed, and is left alone.
    Open { until: Timestamp, rest: Duration },
    /// One entry tries it.
    HalfOpen { until: Timestamp, rest: Duration },
}

impl Backoff {
    /// From when on it can be tried.
    pub(super) fn ready_at(&self, now: Timestamp) -> Timestamp {
        match *self {
            Self::Closed => Timestamp::default(),
            Self::Open { until, .. } => until,
            Self::HalfOpen { until, .. } => until.min(now.plus(BEHIND_TRIAL)),
        }
    }

    /// Asks to try it now.
    ///
    /// # Errors
    /// When to ask again.
    pub(super) fn enter(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        match *self {
            Self::Closed => Ok(()),
            Self::Open { until, rest } | Self::HalfOpen { until, rest } if until <= now => {
                *self = Self::HalfOpen { until: now.plus(TRIAL), rest };
                Ok(())
            }
            Self::Open { .. } | Self::HalfOpen { .. } => Err(self.ready_at(now)),
        }
    }

    /// It answered as a mail host does. Says whether that is news.
    pub(super) fn succeeded(&mut self) -> bool {
        std::mem::take(self) != Self::Closed
    }

    /// It did not answer, or not as it should. Says whether that is news.
    pub(super) fn failed(&mut self, now: Timestamp) -> bool {
        let (rest, is_news) = match *self {
            Self::Closed => (REST.0, true),
            // One of those that were under way already.
            Self::Open { .. } => return false,
            Self::HalfOpen { rest, .. } => ((rest * 2).min(REST.1), false),
        };
        *self = Self::Open { until: now.plus(rest), rest };
        is_news
    }

    /// For metrics: 0, 1 or 2.
    pub(super) fn level(&self) -> u64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen { .. } => 1,
            Self::Open { .. } => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + ms)
    }

    #[test]
    fn after_a_failure_one_tries_and_the_others_follow() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.enter(at(0)), Ok(()));
        assert!(backoff.failed(at(0)));
        assert!(!backoff.failed(at(500)), "those under way already count once");
        assert_eq!(backoff.enter(at(4999)), Err(at(5000)));
        assert_eq!(backoff.enter(at(5000)), Ok(()));
        assert_eq!(backoff.level(), 1);
        assert_eq!(backoff.enter(at(5001)), Err(at(6001)));
        assert!(backoff.succeeded());
        assert_eq!(backoff.enter(at(5002)), Ok(()));
        assert!(!backoff.succeeded());
    }

    #[test]
    fn it_is_tried_at_least_every_ten_seconds() {
        let mut backoff = Backoff::default();
        backoff.failed(at(0));
        let mut last = at(0);
        for _ in 0..10 {
            let next = backoff.ready_at(last);
            assert!(next.since(last) <= Duration::from_secs(10));
            assert_eq!(backoff.enter(next), Ok(()));
            backoff.failed(next);
            last = next;
        }
    }

    #[test]
    fn whoever_tries_it_and_vanishes_is_not_waited_for_for_long() {
        let mut backoff = Backoff::default();
        backoff.failed(at(0));
        assert_eq!(backoff.enter(at(5000)), Ok(()));
        assert!(backoff.enter(at(14_999)).is_err());
        assert_eq!(backoff.enter(at(15_000)), Ok(()));
    }
}
