//! When to try again.

use std::time::Duration;

use super::cause::{Cause, Outlook, Verdict};
use crate::clock::Timestamp;

/// Attempts of a first contact that says nothing about the time, in seconds from the first refusal: five seconds behind
/// the delays that greylisting software is known to use.
const LADDER_S: [f64; 19] = [
    5.0, 35.0, 65.0, 125.0, 185.0, 245.0, 305.0, 425.0, 605.0, 725.0, 855.0, 905.0, 1205.0, 1505.0, 1570.0, 1805.0,
    2700.0, 3605.0, 3670.0,
];
/// The same for a short life, in which no more than half of the wait may be lost.
const SHORT_LADDER_S: [f64; 8] = [3.0, 5.0, 8.5, 13.0, 20.0, 30.0, 45.0, 65.0];
/// What counts as short, from the first refusal to the end of life.
const SHORT_LIFE: Duration = Duration::from_secs(180);
/// After trouble with DNS, by attempt.
const DNS_S: [f64; 4] = [2.0, 5.0, 10.0, 20.0];
/// The last attempt comes this long before the end, or this share of the life before it, whichever is less.
const LAST_MARGIN: Duration = Duration::from_secs(25);
const LAST_SHARE: f64 = 0.4;
/// Behind the ladder, and wherever else a pause is needed.
const PAUSE_MAX: Duration = Duration::from_secs(1800);
/// Two attempts are at least this far apart.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// What the plan needs to know of an entry.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When its life ends.
    pub expires_at: Timestamp,
    /// When an attempt was first put off; now, if this is the first.
    pub first_deferred_at: Timestamp,
    /// Attempts made.
    pub attempts: u32,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try again then.
    At(Timestamp),
    /// The life ends before another attempt could help; wait for its end.
    Expire,
    /// Never again.
    GiveUp,
}

/// Decides what follows an attempt that did not deliver.
pub fn next(verdict: Verdict, history: &History, now: Timestamp) -> Next {
    if verdict.outlook == Outlook::Never {
        return Next::GiveUp;
    }
    let last = last_attempt_at(history);
    let planned = if verdict.cause == Cause::DnsFailure {
        let step = usize::try_from(history.attempts.saturating_sub(1)).unwrap_or(usize::MAX).min(DNS_S.len() - 1);
        now.plus(Duration::from_secs_f64(DNS_S[step]))
    } else if history.expires_at.since(history.first_deferred_at) < SHORT_LIFE {
        ladder_step(&SHORT_LADDER_S, history.first_deferred_at, now)
    } else {
        ladder_step(&LADDER_S, history.first_deferred_at, now)
    };
    let planned = planned.max(now.plus(PAUSE_MIN));
    if planned <= last {
        return Next::At(planned);
    }
    // One more, as late as it can still finish and be typed.
    if last >= now.plus(PAUSE_MIN) { Next::At(last) } else { Next::Expire }
}

/// The first step of the ladder that is still to come; behind its end, ever longer pauses.
fn ladder_step(steps: &[f64], first_deferred_at: Timestamp, now: Timestamp) -> Timestamp {
    let at = |step: &f64| first_deferred_at.plus(Duration::from_secs_f64(*step));
    let margin = Duration::from_millis(500);
    steps.iter().map(at).find(|at| *at > now.plus(margin)).unwrap_or_else(|| {
        let age = now.since(first_deferred_at);
        now.plus((age / 3).clamp(Duration::from_secs(20), PAUSE_MAX))
    })
}

fn last_attempt_at(history: &History) -> Timestamp {
    let life = history.expires_at.since(history.accepted_at);
    history.expires_at.minus(LAST_MARGIN.min(life.mul_f64(LAST_SHARE)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000);
    const GREY: Verdict = Verdict { cause: Cause::Greylisted, outlook: Outlook::Again };

    fn schedule(verdict: Verdict, life_s: u64) -> Vec<f64> {
        let mut history = History {
            accepted_at: START,
            expires_at: START.plus(Duration::from_secs(life_s)),
            first_deferred_at: START,
            attempts: 1,
        };
        let mut now = START;
        let mut times = Vec::new();
        while let Next::At(at) = next(verdict, &history, now) {
            times.push(at.since(START).as_secs_f64());
            (now, history.attempts) = (at, history.attempts + 1);
        }
        times
    }

    #[test]
    fn steps_are_fitted_into_the_life() {
        assert_eq!(schedule(GREY, 600), [5.0, 35.0, 65.0, 125.0, 185.0, 245.0, 305.0, 425.0, 575.0]);
        assert_eq!(schedule(GREY, 60), [3.0, 5.0, 8.5, 13.0, 20.0, 30.0, 36.0]);
        assert_eq!(schedule(GREY, 10), [3.0, 5.0, 6.0]);
        let dns = Verdict { cause: Cause::DnsFailure, outlook: Outlook::Again };
        assert_eq!(schedule(dns, 60), [2.0, 7.0, 17.0, 36.0]);
    }

    #[test]
    fn what_is_hopeless_is_not_tried_again() {
        let never = Verdict { cause: Cause::BadMailbox, outlook: Outlook::Never };
        assert!(schedule(never, 600).is_empty());
    }

    proptest! {
        /// Attempts rise, stay within the life, and end.
        #[test]
        fn a_plan_ends(life_s in 5u64..100_000) {
            let times = schedule(GREY, life_s);
            prop_assert!(times.len() < 120, "{} attempts", times.len());
            prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(times.iter().all(|at| *at < life_s as f64));
            prop_assert!(!times.is_empty());
        }
    }
}
