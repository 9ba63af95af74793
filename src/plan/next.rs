//! When to try again.

use std::time::Duration;

use super::action::Retry;
use super::cause::Verdict;
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
/// A wait that a reply asks for counts within these bounds; others are mistakes.
const HINT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(6 * 3600));
/// After so many attempts a host that always asks for the same short wait is not believed any more.
const HINTS_BELIEVED_MAX: u32 = 10;
/// Attempts that follow one another where the wait that was asked for did not do, from its end.
const AFTER_HINT_S: [u64; 2] = [5, 35];
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

/// What the time of the next attempt follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The reply asked for it.
    Hint,
    /// The wait that was asked for is over, and did not do.
    AfterHint,
    /// A delay that greylisting software is known to use.
    Ladder,
    /// The steps of the cause.
    Steps,
    /// Half of what is left of the life.
    Half,
    /// The last attempt that can finish in time.
    LastChance,
    /// No attempt can, or may.
    End,
}

impl Reason {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Hint => "the reply asks for this wait",
            Self::AfterHint => "the wait that was asked for did not do",
            Self::Ladder => "behind a delay that greylisting software uses",
            Self::Steps => "the steps for this cause",
            Self::Half => "half of what is left",
            Self::LastChance => "the last one that can finish and be typed in time",
            Self::End => "no attempt can help any more",
        }
    }
}

/// Decides what follows an attempt that did not deliver.
pub fn next(verdict: Verdict, history: &History, now: Timestamp) -> Next {
    decide(verdict, history, now).0
}

/// As [`next`], with what it follows from.
pub fn decide(verdict: Verdict, history: &History, now: Timestamp) -> (Next, Reason) {
    let last = last_attempt_at(history);
    let first = history.first_deferred_at;
    let hint = verdict.hint.filter(|hint| (HINT.0..=HINT.1).contains(hint));
    let (planned, reason) = match (verdict.action.retry, hint) {
        (Retry::Never, _) => return (Next::GiveUp, Reason::End),
        (Retry::Once, _) if history.attempts > 1 => return (Next::GiveUp, Reason::End),
        (Retry::Once, _) => (now.plus(last.since(now) / 2), Reason::Half),
        (_, Some(hint)) => after_hint(hint, history, now),
        (Retry::Ladder, None) if history.expires_at.since(first) < SHORT_LIFE => {
            (step(SHORT_LADDER_S.iter().copied(), first, now), Reason::Ladder)
        }
        (Retry::Ladder, None) => (step(LADDER_S.iter().copied(), first, now), Reason::Ladder),
        (Retry::Steps(steps), None) => (step(steps.iter().copied().map(f64::from), first, now), Reason::Steps),
        (Retry::Pauses(pauses), None) => (now.plus(pause(pauses, history.attempts)), Reason::Steps),
    };
    let planned = planned.max(now.plus(PAUSE_MIN));
    if planned <= last {
        return (Next::At(planned), reason);
    }
    // One more, as late as it can still finish and be typed.
    if last >= now.plus(PAUSE_MIN) { (Next::At(last), Reason::LastChance) } else { (Next::Expire, Reason::End) }
}

/// When a reply asks for a wait. Some programs count down, others always name the whole delay. Before the whole delay
/// has passed since the first refusal its end is the right time either way, or an early one that costs little. Once it
/// has passed: soon, as clocks differ; but no later than if the program counts down.
fn after_hint(hint: Duration, history: &History, now: Timestamp) -> (Timestamp, Reason) {
    let first = history.first_deferred_at;
    let is_in_minutes = hint.as_secs().is_multiple_of(60);
    let end = first.plus(hint + Duration::from_secs(if is_in_minutes { 2 } else { 1 }));
    if end > now {
        return (end, Reason::Hint);
    }
    let counted_down = now.plus(hint + Duration::from_secs(1));
    let (soon, reason) = match AFTER_HINT_S.iter().map(|s| end.plus(Duration::from_secs(*s))).find(|at| *at > now) {
        Some(soon) => (soon, Reason::AfterHint),
        None => (step(LADDER_S.iter().copied(), first, now), Reason::Ladder),
    };
    let is_believed = history.attempts <= HINTS_BELIEVED_MAX;
    if is_believed && counted_down <= soon { (counted_down, Reason::Hint) } else { (soon, reason) }
}

/// The first step that is still to come; behind the last one, ever longer pauses.
fn step(steps: impl Iterator<Item = f64>, first_deferred_at: Timestamp, now: Timestamp) -> Timestamp {
    let margin = Duration::from_millis(500);
    let mut times = steps.map(|step| first_deferred_at.plus(Duration::from_secs_f64(step)));
    times.find(|at| *at > now.plus(margin)).unwrap_or_else(|| {
        let age = now.since(first_deferred_at);
        now.plus((age / 3).clamp(Duration::from_secs(20), PAUSE_MAX))
    })
}

fn pause(pauses: &[u16], attempts: u32) -> Duration {
    let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let seconds = pauses.get(index).or(pauses.last()).copied().unwrap_or_default();
    Duration::from_secs(seconds.into())
}

fn last_attempt_at(history: &History) -> Timestamp {
    let life = history.expires_at.since(history.accepted_at);
    history.expires_at.minus(LAST_MARGIN.min(life.mul_f64(LAST_SHARE)))
}

#[cfg(test)]
mod tests {
    use super::super::action::Finality;
    use super::super::cause::Cause;
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000);

    fn temporary(cause: Cause) -> Verdict {
        Verdict::of(cause, Finality::Temporary)
    }

    fn grey(hint_s: Option<u64>) -> Verdict {
        Verdict { hint: hint_s.map(Duration::from_secs), ..temporary(Cause::Greylisted) }
    }

    /// The attempts after the first, if each ends as `verdict` says for its second.
    fn schedule_of(verdict: impl Fn(f64) -> Verdict, life_s: u64) -> Vec<f64> {
        let mut history = History {
            accepted_at: START,
            expires_at: START.plus(Duration::from_secs(life_s)),
            first_deferred_at: START,
            attempts: 1,
        };
        let (mut now, mut age) = (START, 0.0);
        let mut times = Vec::new();
        while let Next::At(at) = next(verdict(age), &history, now) {
            age = at.since(START).as_secs_f64();
            times.push(age);
            (now, history.attempts) = (at, history.attempts + 1);
        }
        times
    }

    fn schedule(verdict: Verdict, life_s: u64) -> Vec<f64> {
        schedule_of(|_| verdict, life_s)
    }

    #[test]
    fn steps_are_fitted_into_the_life() {
        assert_eq!(schedule(grey(None), 600), [5.0, 35.0, 65.0, 125.0, 185.0, 245.0, 305.0, 425.0, 575.0]);
        assert_eq!(schedule(grey(None), 60), [3.0, 5.0, 8.5, 13.0, 20.0, 30.0, 36.0]);
        assert_eq!(schedule(grey(None), 10), [3.0, 5.0, 6.0]);
        assert_eq!(schedule(temporary(Cause::DnsFailure), 60), [2.0, 7.0, 17.0, 36.0]);
        assert_eq!(schedule(temporary(Cause::ServerBusy), 300), [5.0, 20.0, 60.0, 120.0, 275.0]);
        assert_eq!(schedule(temporary(Cause::RateLimited), 120), [30.0, 75.0, 95.0]);
        assert_eq!(schedule(temporary(Cause::MailboxFull), 600), [287.5]);
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept() {
        assert_eq!(schedule(grey(Some(287)), 600)[0], 288.0);
        assert_eq!(schedule(grey(Some(300)), 600)[..3], [302.0, 307.0, 337.0], "a constant that was too short");
        assert_eq!(schedule(grey(Some(900)), 600), [575.0], "beyond the life: the last chance");
        let counting = |age: f64| grey(Some(if age < 100.0 { 100 - age as u64 } else { 60 }));
        assert_eq!(schedule_of(counting, 600)[..2], [101.0, 125.0]);
        assert_eq!(schedule(grey(Some(0)), 600), schedule(grey(None), 600), "no wait");
        assert_eq!(schedule(grey(Some(30_000)), 600), schedule(grey(None), 600), "a mistake");
    }

    #[test]
    fn a_wait_counts_from_the_first_refusal() {
        let history = History {
            accepted_at: START.plus(Duration::from_secs(200)),
            expires_at: START.plus(Duration::from_secs(800)),
            first_deferred_at: START,
            attempts: 1,
        };
        let now = START.plus(Duration::from_secs(200));
        assert_eq!(next(grey(Some(300)), &history, now), Next::At(START.plus(Duration::from_secs(302))));
        // It counts down: 290 were left after 10.
        assert_eq!(next(grey(Some(100)), &history, now), Next::At(now.plus(Duration::from_secs(45))));
    }

    #[test]
    fn what_is_hopeless_is_not_tried_again() {
        assert!(schedule(Verdict::of(Cause::BadMailbox, Finality::Final), 600).is_empty());
    }

    proptest! {
        /// Attempts rise, stay within the life, and end, whatever the cause and the wait asked for.
        #[test]
        fn a_plan_ends(life_s in 5u64..100_000, cause in prop::sample::select(Cause::ALL), hint_s in prop::option::of(0u64..30_000)) {
            let hint = hint_s.map(Duration::from_secs);
            let times = schedule(Verdict { hint, ..temporary(cause) }, life_s);
            // DNS is asked every 20 s for as long as the life lasts.
            prop_assert!(cause == Cause::DnsFailure || times.len() < 120, "{} attempts", times.len());
            prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(times.iter().all(|at| *at < life_s as f64));
            prop_assert_eq!(times.is_empty(), cause == Cause::Accepted);
        }
    }
}
