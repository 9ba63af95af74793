//! Whether what failed is worth trying: after some failures in a row it is left alone for a while, then somebody tries
//! it; the others follow when that one was answered. One type for all that can fail: an address, a destination, a smart
//! host.

use std::time::{Duration, Instant};

use crate::base::clock::Timestamp;

/// How patient one is with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Failures in a row after which it is left alone.
    pub(super) failures_max: u32,
    /// How long each time, until it has answered; the last one repeated.
    pub(super) pauses: &'static [Duration],
    /// How long whoever tries it is waited for; then another does.
    pub(super) trial: Duration,
    /// How long those wait who come while somebody tries it.
    pub(super) behind_trial: Duration,
}

/// A time that back-off is counted by.
pub(super) trait Moment: Copy + Ord {
    /// This time plus `span`.
    fn after(self, span: Duration) -> Self;
}

impl Moment for Instant {
    fn after(self, span: Duration) -> Self {
        self + span
    }
}

impl Moment for Timestamp {
    fn after(self, span: Duration) -> Self {
        self.plus(span)
    }
}

/// What is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff<T> {
    terms: &'static Terms,
    state: State<T>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State<T> {
    /// It works, as far as is known; the last attempts failed, so many.
    Closed { failures: u32 },
    /// It failed, and is left alone; so many pauses were made before.
    Open { until: T, pauses: usize },
    /// Somebody tries it.
    HalfOpen { until: T, pauses: usize },
}

/// Whether the state is another one now, for those who tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is left alone from now on, or works again.
    News,
    /// As before.
    None,
}

impl Change {
    fn of(is_news: bool) -> Self {
        if is_news { Self::News } else { Self::None }
    }
}

impl<T: Moment> Backoff<T> {
    pub(super) fn new(terms: &'static Terms) -> Self {
        Self { terms, state: State::Closed { failures: 0 } }
    }

    /// Whether it is left alone, or tried after it was.
    pub(super) fn is_failing(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// Whether somebody tries it, or should be about to.
    pub(super) fn is_on_trial(&self) -> bool {
        matches!(self.state, State::HalfOpen { .. })
    }

    /// Until when it is left alone, or its trial is waited for; none: it works, as far as is known.
    pub(super) fn until(&self) -> Option<T> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } | State::HalfOpen { until, .. } => Some(until),
        }
    }

    /// From when on it can be tried; none: at any time.
    pub(super) fn ready_at(&self, now: T) -> Option<T> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } => Some(until),
            State::HalfOpen { until, .. } => Some(until.min(now.after(self.terms.behind_trial))),
        }
    }

    /// Asks to try it now.
    pub(super) fn enter(&mut self, now: T) -> Result<(), T> {
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { until, pauses } | State::HalfOpen { until, pauses } if until <= now => {
                self.state = State::HalfOpen { until: now.after(self.terms.trial), pauses };
                Ok(())
            }
            State::Open { .. } | State::HalfOpen { .. } => Err(self.ready_at(now).unwrap_or(now)),
        }
    }

    /// It answered.
    pub(super) fn succeeded(&mut self) -> Change {
        let change = Change::of(self.is_failing());
        self.state = State::Closed { failures: 0 };
        change
    }

    /// It did not answer, or not as it should.
    pub(super) fn failed(&mut self, now: T) -> Change {
        let (pauses, is_news) = match self.state {
            State::Closed { failures } if failures + 1 < self.terms.failures_max => {
                self.state = State::Closed { failures: failures + 1 };
                return Change::None;
            }
            State::Closed { .. } => (0, true),
            // One of those that were under way already.
            State::Open { .. } => return Change::None,
            State::HalfOpen { pauses, .. } => (pauses + 1, false),
        };
        self.state = State::Open { until: now.after(self.pause(pauses)), pauses };
        Change::of(is_news)
    }

    /// It is left alone no longer than until then.
    pub(super) fn no_later_than(&mut self, at: T) {
        if let State::Open { until, .. } = &mut self.state {
            *until = at.min(*until);
        }
    }

    /// It counts as working, but the next failure is enough.
    pub(super) fn close_on_the_verge(&mut self) {
        self.state = State::Closed { failures: self.terms.failures_max.saturating_sub(1) };
    }

    fn pause(&self, made_before: usize) -> Duration {
        let last = self.terms.pauses.last().copied().unwrap_or_default();
        self.terms.pauses.get(made_before).copied().unwrap_or(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    static ONE_FAILURE: Terms = Terms {
        failures_max: 1,
        pauses: &[Duration::from_secs(5), Duration::from_secs(10)],
        trial: Duration::from_secs(10),
        behind_trial: SECOND,
    };
    static THREE_FAILURES: Terms = Terms { failures_max: 3, ..ONE_FAILURE };

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + ms)
    }

    #[test]
    fn after_a_failure_one_tries_and_the_others_follow() {
        let mut backoff = Backoff::new(&ONE_FAILURE);
        assert_eq!(backoff.enter(at(0)), Ok(()));
        assert_eq!(backoff.failed(at(0)), Change::News);
        assert_eq!(backoff.failed(at(500)), Change::None, "those under way already count once");
        assert_eq!(backoff.enter(at(4999)), Err(at(5000)));
        assert_eq!(backoff.enter(at(5000)), Ok(()));
        assert!(backoff.is_on_trial());
        assert_eq!(backoff.enter(at(5001)), Err(at(6001)));
        assert_eq!(backoff.succeeded(), Change::News);
        assert_eq!(backoff.enter(at(5002)), Ok(()));
        assert_eq!(backoff.succeeded(), Change::None);
    }

    #[test]
    fn it_is_tried_after_the_last_pause_again_and_again() {
        let mut backoff = Backoff::new(&ONE_FAILURE);
        backoff.failed(at(0));
        let mut last = at(0);
        let pauses: Vec<u64> = (0..5)
            .map(|_| {
                let next = backoff.ready_at(last).unwrap();
                assert_eq!(backoff.enter(next), Ok(()));
                assert_eq!(backoff.failed(next), Change::None);
                next.since(std::mem::replace(&mut last, next)).as_secs()
            })
            .collect();
        assert_eq!(pauses, [5, 10, 10, 10, 10]);
    }

    #[test]
    fn whoever_tries_it_and_vanishes_is_not_waited_for_for_long() {
        let mut backoff = Backoff::new(&ONE_FAILURE);
        backoff.failed(at(0));
        assert_eq!(backoff.enter(at(5000)), Ok(()));
        assert!(backoff.enter(at(14_999)).is_err());
        assert_eq!(backoff.enter(at(15_000)), Ok(()));
    }

    #[test]
    fn some_failures_in_a_row_are_borne() {
        let mut backoff = Backoff::new(&THREE_FAILURES);
        let mut fail = |times: usize| (0..times).map(|_| backoff.failed(at(0)) == Change::News).collect::<Vec<_>>();
        assert_eq!(fail(2), [false, false]);
        assert_eq!(fail(2), [true, false]);
        assert_eq!(backoff.succeeded(), Change::News);
        assert_eq!(backoff.failed(at(0)), Change::None, "counted anew");
        backoff.close_on_the_verge();
        assert!(!backoff.is_failing());
        assert_eq!(backoff.failed(at(0)), Change::News, "one is enough");
    }
}
