//! When to try again.

use std::time::Duration;

use super::action::Retry;
use super::cause::Verdict;
use crate::base::clock::Timestamp;
use crate::greylist::facts::Facts;
use crate::greylist::pending::Wait;
use crate::greylist::retry::{SPREAD_KNOWN, after_hint, greylisted, quiet_pause};
use crate::greylist::step::{History, PAUSE_MIN, Reason, Step, finish_at, last_attempt_at, step};

/// Attempts are spread over this share of a pause where there is no greylisting.
const SPREAD_SHARE: f64 = 0.1;
/// A wait that a reply asks for counts within these bounds; others are mistakes.
const HINT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(6 * 3600));
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
pub fn next(verdict: Verdict, history: &History, facts: &Facts, now: Timestamp) -> Next {
    decide(verdict, history, facts, now).0
}

/// As [`next`], with what it follows from. `facts` are those of the destination; the attempt that has just ended is
/// among them.
pub fn decide(verdict: Verdict, history: &History, facts: &Facts, now: Timestamp) -> (Next, Reason) {
    let last = last_attempt_at(history);
    let first = history.first_deferred_at;
    let hint = believable(verdict.hint);
    let step = match (verdict.action.retry, hint) {
        (Retry::Never, _) => return (Next::GiveUp, Reason::End),
        (Retry::Once, _) if history.attempts > 1 => return (Next::GiveUp, Reason::End),
        (Retry::Once, _) => Step::new(now.plus(last.since(now) / 2), Reason::Half),
        (Retry::Ladder, hint) => greylisted(hint, history, facts, now),
        (_, Some(hint)) => after_hint(hint, history, now),
        (Retry::Steps(steps), None) => spread(Step::new(step(delays(steps), first, now), Reason::Steps), history, now),
        (Retry::Pauses(pauses), None) => {
            spread(Step::new(now.plus(pause(pauses, history.attempts)), Reason::Steps), history, now)
        }
    };
    fit(Step { at: step.at.max(now.plus(PAUSE_MIN)), ..step }, history, now)
}

/// When the first attempt for a message is to be made whose triplet waits already, where an early one would begin the
/// wait anew; none: at once, because it does no harm, or because the wait ends too late for this message.
pub(crate) fn held_back(history: &History, facts: &Facts, wait: &Wait, now: Timestamp) -> Option<Timestamp> {
    let pause = quiet_pause(facts, history).filter(|_| wait.passed_at.is_none())?;
    let at = wait.last_refused_at.plus(pause + SPREAD_KNOWN.mul_f64(history.spread));
    (now < at && at <= last_attempt_at(history)).then_some(at)
}

/// The wait that counts of what a reply asks for.
pub fn believable(hint: Option<Duration>) -> Option<Duration> {
    hint.filter(|hint| (HINT.0..=HINT.1).contains(hint))
}

/// Puts a step into the life: a last attempt that can still be typed if it comes too late for that, and where nothing
/// passes before, also that one.
fn fit(step: Step, history: &History, now: Timestamp) -> (Next, Reason) {
    let (last, finish) = (last_attempt_at(history), finish_at(history));
    if step.at <= last {
        return (Next::At(step.at), step.reason);
    }
    let is_chance = last >= now.plus(PAUSE_MIN) && !step.is_known;
    let opens_late = step.at <= finish && (step.is_known || matches!(step.reason, Reason::Hint | Reason::Learned));
    match () {
        () if is_chance => (Next::At(last), Reason::LastChance),
        () if opens_late => (Next::At(step.at), Reason::Late),
        () => (Next::Expire, Reason::End),
    }
}

fn delays(steps: &[u16]) -> impl Iterator<Item = f64> {
    steps.iter().copied().map(f64::from)
}

/// Many entries that failed together do not come back together.
fn spread(step: Step, history: &History, now: Timestamp) -> Step {
    Step { at: step.at.plus(step.at.since(now).mul_f64(SPREAD_SHARE * history.spread)), ..step }
}

fn pause(pauses: &[u16], attempts: u32) -> Duration {
    let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let seconds = pauses.get(index).or(pauses.last()).copied().unwrap_or_default();
    Duration::from_secs(seconds.into())
}

#[cfg(test)]
mod tests {
    use super::super::action::Finality;
    use super::*;
    use crate::event::cause::Cause;
    use crate::greylist::pending::Refusal;
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
            spread: 0.0,
        };
        let (mut now, mut age) = (START, 0.0);
        let mut times = Vec::new();
        while let Next::At(at) = next(verdict(age), &history, &Facts::default(), now) {
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
        assert_eq!(schedule(grey(None), 600), [1.2, 16.2, 31.2, 61.2, 91.2, 121.2, 181.2, 301.2, 575.0]);
        assert_eq!(schedule(grey(None), 60), [1.2, 3.7, 7.2, 13.2, 21.2, 31.2, 36.0, 55.0]);
        assert_eq!(schedule(grey(None), 10), [1.2, 3.7, 6.0, 9.0]);
        assert_eq!(schedule(temporary(Cause::DnsFailure), 60), [2.0, 7.0, 17.0, 36.0]);
        assert_eq!(schedule(temporary(Cause::ServerBusy), 300), [5.0, 20.0, 60.0, 120.0, 275.0]);
        assert_eq!(schedule(temporary(Cause::RateLimited), 120), [30.0, 75.0, 95.0]);
        assert_eq!(schedule(temporary(Cause::MailboxFull), 600), [287.5]);
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept() {
        assert_eq!(schedule(grey(Some(287)), 600)[0], 288.2);
        assert_eq!(schedule(grey(Some(300)), 600)[..3], [301.2, 306.2, 336.2], "a constant that was too short");
        assert_eq!(schedule(grey(Some(900)), 600), [575.0], "beyond the life: the last chance");
        let counting = |age: f64| grey(Some(if age < 100.0 { 100 - age as u64 } else { 60 }));
        assert_eq!(schedule_of(counting, 600)[..2], [101.2, 121.2]);
        let at_once = |age: f64| grey(Some(if age < 100.0 { 100 } else { 1 }));
        assert_eq!(schedule_of(at_once, 600)[..6], [101.2, 103.4, 105.6, 107.8, 121.2, 181.2], "and is not over yet");
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
            spread: 0.0,
        };
        let facts = Facts::default();
        let now = START.plus(Duration::from_secs(200));
        assert_eq!(next(grey(Some(300)), &history, &facts, now), Next::At(START.plus(Duration::from_millis(301_200))));
        // It counts down: 290 were left after 10.
        assert_eq!(next(grey(Some(100)), &history, &facts, now), Next::At(now.plus(Duration::from_millis(101_200))));
    }

    #[test]
    fn what_is_hopeless_is_not_tried_again() {
        assert!(schedule(Verdict::of(Cause::BadMailbox, Finality::Final), 600).is_empty());
    }

    fn plan_with(facts: &Facts, verdict: Verdict, life_s: u64) -> Vec<(f64, Reason)> {
        let expires_at = START.plus(Duration::from_secs(life_s));
        let mut history =
            History { accepted_at: START, expires_at, first_deferred_at: START, attempts: 1, spread: 0.0 };
        let (mut now, mut times) = (START, Vec::new());
        while let (Next::At(at), reason) = decide(verdict, &history, facts, now) {
            times.push((at.since(START).as_secs_f64(), reason));
            (now, history.attempts) = (at, history.attempts + 1);
        }
        times
    }

    /// What is known after a triplet was refused at these seconds, and passed at the last if that is meant.
    fn facts_of(contacts: &[(&[f64], bool)], asked_s: Option<u64>) -> Facts {
        let mut facts = Facts::default();
        for ((attempts, passes), hour) in contacts.iter().zip(1..) {
            let (mut wait, start) = (None, START.plus(Duration::from_secs(3600 * hour)));
            for (index, age) in attempts.iter().enumerate() {
                let at = start.plus(Duration::from_secs_f64(*age));
                if *passes && index + 1 == attempts.len() {
                    facts.passed(wait.as_mut().unwrap(), 1, at);
                } else {
                    let asked = asked_s.map(Duration::from_secs);
                    wait = Some(facts.refused(wait, Refusal { asked, by: None, began: at, ended: at }, 1));
                }
            }
        }
        facts
    }

    #[test]
    fn what_was_learned_is_used() {
        let first: (&[f64], bool) = (&[0.0, 1.5, 31.5, 61.5, 121.5, 181.5], true);
        let times = |facts: &Facts| plan_with(facts, grey(None), 600).iter().map(|(at, _)| *at).collect::<Vec<_>>();
        let once = facts_of(&[first], None);
        assert_eq!(times(&once)[..8], [1.2, 16.2, 31.2, 61.2, 91.2, 121.2, 136.5, 151.5], "between the bounds");
        let twice = facts_of(&[first, first], None);
        assert_eq!(
            times(&twice)[..7],
            [136.5, 151.5, 166.5, 181.5, 183.0, 191.5, 301.2],
            "what was always refused is left out"
        );
        let late = facts_of(&[(&[0.0, 1.5, 575.0, 9000.0], true)], None);
        assert!(times(&late).contains(&301.2), "a wide gap hides no known delay");
    }

    #[test]
    fn a_hint_that_was_belied_is_not_followed() {
        let early = facts_of(&[(&[0.0, 35.0], true)], Some(900));
        let times = plan_with(&early, grey(Some(900)), 600);
        assert_eq!(times[..4].iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1.2, 16.2, 31.2, 35.0]);
        let late = facts_of(&[(&[0.0, 61.5, 301.5], true)], Some(60));
        assert_eq!(plan_with(&late, grey(Some(60)), 600)[0].1, Reason::Learned);
        let vain: (&[f64], bool) = (&[0.0, 61.5, 66.5, 96.5, 301.5, 575.0], false);
        let never = facts_of(&[vain, vain], Some(60));
        assert_eq!(plan_with(&never, grey(Some(60)), 600)[0], (301.2, Reason::Quiet), "and nothing passed later");
        let kept = facts_of(&[(&[0.0, 121.5], true)], Some(120));
        assert_eq!(plan_with(&kept, grey(Some(120)), 600)[0], (121.2, Reason::Hint));
    }

    #[test]
    fn where_early_attempts_cost_there_are_none() {
        let vain: (&[f64], bool) = (&[0.0, 1.5, 31.5, 121.5, 241.5, 301.5, 421.5, 575.0], false);
        let facts = facts_of(&[vain, vain], None);
        let times = plan_with(&facts, grey(None), 600);
        assert_eq!(times[0], (301.2, Reason::Quiet));
        let quiet: (&[f64], bool) = (&[0.0, 301.2, 575.0], false);
        let facts_then = facts_of(&[vain, vain, quiet], None);
        let times = plan_with(&facts_then, grey(None), 600);
        assert_eq!(times[0], (574.5, Reason::Quiet), "one that waits as long as the life lets it");
        assert_eq!(
            plan_with(&facts_then, grey(None), 1200)[0],
            (601.2, Reason::Ladder),
            "what was refused is left out"
        );
        let begun = facts_of(&[vain, (&[0.0, 1.5, 31.5], false)], None);
        let history = History {
            accepted_at: START,
            expires_at: START.plus(Duration::from_secs(600)),
            first_deferred_at: START,
            attempts: 3,
            spread: 0.0,
        };
        let (_, reason) = decide(grey(None), &history, &begun, START.plus(Duration::from_millis(31_500)));
        assert_eq!(reason, Reason::Ladder, "a wait that has begun with early attempts goes on so");
        let facts = facts_of(&[vain, vain, (&[0.0, 301.5], true)], None);
        let times = plan_with(&facts, grey(None), 600);
        assert_eq!(times, [(301.5, Reason::Quiet)], "and none that begins the wait anew for nothing");
        assert_eq!(plan_with(&facts, grey(None), 300), [], "the next code finds the window open");
    }

    #[test]
    fn a_new_message_does_not_begin_the_wait_anew() {
        let vain: (&[f64], bool) = (&[0.0, 1.5, 31.5, 121.5, 241.5, 301.5, 421.5, 575.0], false);
        let mut facts = facts_of(&[vain, vain, (&[0.0, 301.5], true)], None);
        let wait = facts.refused(None, Refusal { asked: None, by: None, began: START, ended: START }, 1);
        let held_back = |facts: &Facts, after_s: u64, life_s: u64| {
            let accepted_at = START.plus(Duration::from_secs(after_s));
            let expires_at = accepted_at.plus(Duration::from_secs(life_s));
            let history = History { accepted_at, expires_at, first_deferred_at: START, attempts: 1, spread: 0.0 };
            held_back(&history, facts, &wait, accepted_at).map(|at| at.since(START).as_secs_f64())
        };
        assert_eq!(held_back(&facts, 100, 600), Some(301.5));
        assert_eq!(held_back(&facts, 310, 600), None, "the window is open");
        assert_eq!(held_back(&facts, 100, 200), None, "it opens too late for this one");
        assert_eq!(held_back(&Facts::default(), 100, 600), None, "it does no harm");
    }

    #[test]
    fn a_window_that_opens_late_is_still_used() {
        let times = plan_with(&Facts::default(), grey(Some(45)), 60);
        assert_eq!(times, [(36.0, Reason::LastChance), (46.2, Reason::Late)]);
        assert_eq!(plan_with(&Facts::default(), grey(Some(58)), 60), [(36.0, Reason::LastChance)]);
        assert!(Reason::Late.is_tight());
    }

    #[test]
    fn attempts_are_spread_only_to_later() {
        for verdict in [grey(None), grey(Some(100)), temporary(Cause::ServerBusy), temporary(Cause::DnsFailure)] {
            let history = |spread| History {
                accepted_at: START,
                expires_at: START.plus(Duration::from_secs(600)),
                first_deferred_at: START,
                attempts: 1,
                spread,
            };
            let at = |spread| match next(verdict, &history(spread), &Facts::default(), START) {
                Next::At(at) => at.since(START),
                other => panic!("{other:?}"),
            };
            assert!(at(0.0) < at(0.9) && at(0.9) < at(0.0) + Duration::from_secs(1));
        }
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
            prop_assert!(!times.is_empty());
        }
    }
}
