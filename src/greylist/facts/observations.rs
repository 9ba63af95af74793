//! How one observation changes what is known of a destination.

use std::time::Duration;

use super::{COUNT_MAX, Facts, OPEN_FOR, RESTART_MIN, VAIN};
use crate::base::clock::Timestamp;
use crate::greylist::pending::{Refusal, Wait};

/// A refusal after such a pause, and later than everything that was seen to pass, begins a new wait: the first attempt
/// was forgotten. The shortest window known is a little longer.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3 * 3600);
/// Two measurements of the same delay differ by no more.
const SAME: Duration = Duration::from_millis(1000);

impl Facts {
    /// A triplet was greylisted. `wait` is what is remembered of it; what comes back takes its place.
    pub fn refused(&mut self, wait: Option<Wait>, refusal: Refusal, sender: u64) -> Wait {
        let Refusal { asked, by, began, ended } = refusal;
        self.last_seen = ended;
        let Some(mut wait) = wait.filter(|wait| self.still_counts(wait, began)) else {
            self.contact(true);
            self.not_opened += u16::from(self.is_just_open(sender, began));
            return Wait::new(asked, by, ended);
        };
        let (age, pause) = (began.since(wait.first_refused_at), began.since(wait.last_refused_at));
        wait.last_refused_at = ended;
        wait.refusals = wait.refusals.saturating_add(1);
        // The host that began the wait stays the one to ask, unless it has gone.
        wait.by = wait.by.or(by);
        if wait.asked.is_some_and(|asked| age > asked + SAME) && !std::mem::replace(&mut wait.counted.1, true) {
            count(&mut self.hints_short);
        }
        self.refused_after(age, pause);
        let is_vain = wait.refusals >= VAIN.0 && self.passed.is_none() && ended.since(self.vain_at) >= VAIN.1;
        if is_vain && !std::mem::replace(&mut wait.counted.0, true) {
            count(&mut self.vain);
            self.vain_at = ended;
        }
        wait
    }

    /// A triplet that had to wait was accepted in an attempt that began now.
    pub fn passed(&mut self, wait: &mut Wait, sender: u64, now: Timestamp) {
        self.last_seen = now;
        if wait.passed_at.replace(now).is_some() {
            return;
        }
        self.last_pass = Some((now, sender));
        let (age, pause) = (now.since(wait.first_refused_at), now.since(wait.last_refused_at));
        match wait.asked {
            Some(asked) if age + SAME < asked => count(&mut self.hints_long),
            Some(_) if !wait.counted.1 => count(&mut self.hints_kept),
            Some(_) | None => {}
        }
        self.window_min = self.window_min.max(Some(age));
        self.vain = 0;
        if self.refused.is_some_and(|refused| age <= refused) {
            self.agreeing = 0;
            if self.refused_pause.is_some_and(|refused| pause > refused) && pause >= RESTART_MIN {
                count(&mut self.restarts);
            } else {
                // The delay has become shorter, or was never a fixed one.
                (self.refused, self.refused_pause) = (None, None);
            }
        }
        self.agreeing = self.agreeing.saturating_add(1);
        self.passed = Some(self.passed.map_or(age, |passed| passed.min(age)));
        self.passed_pause = Some(self.passed_pause.map_or(pause, |passed| passed.min(pause)));
    }

    /// A triplet that never had to wait was accepted. Says whether that tells anything: only of a destination that is
    /// known to greylist, and not every one of many.
    pub fn accepted_at_once(&mut self, sender: u64, now: Timestamp) -> bool {
        if self.contacts_refused == 0 {
            return false;
        }
        // Once enough is known, every single one of very many is not worth writing down.
        let is_news = self.contacts < 64 || self.contacts.is_multiple_of(64);
        self.last_seen = now;
        self.contact(false);
        if let Some((_, by)) = self.last_pass.filter(|(at, _)| now.since(*at) < OPEN_FOR) {
            count(if by == sender { &mut self.opened_for_sender } else { &mut self.opened_for_client });
        }
        is_news
    }

    fn refused_after(&mut self, age: Duration, pause: Duration) {
        if self.passed.is_some_and(|passed| age > passed + SAME) {
            self.agreeing = 0;
            if self.passed_pause.is_some_and(|passed| pause + SAME < passed) {
                count(&mut self.restarts);
            } else {
                // The delay has become longer.
                (self.passed, self.passed_pause, self.restarts) = (None, None, 0);
            }
        } else if self.passed_pause.is_some_and(|passed| pause > passed + SAME) {
            self.restarts = 0;
            // Long waits were refused for another reason than early attempts.
            self.refused = self.refused.filter(|refused| self.passed.is_none_or(|passed| *refused < passed));
        }
        if self.passed.is_none_or(|passed| age < passed) {
            self.refused = self.refused.max(Some(age));
        }
        self.refused_pause = self.refused_pause.max(Some(pause));
    }

    /// Whether the host can be expected to remember the first attempt.
    fn still_counts(&mut self, wait: &Wait, now: Timestamp) -> bool {
        let (age, pause) = (now.since(wait.first_refused_at), now.since(wait.last_refused_at));
        if wait.passed_at.is_some() || !wait.is_current(now) || self.window_max.is_some_and(|window| age >= window) {
            return false;
        }
        let is_forgotten = pause >= FORGOTTEN_AFTER && self.passed.is_none_or(|passed| age > passed * 2);
        if is_forgotten {
            self.window_max = Some(self.window_max.map_or(age, |window| window.min(age)));
            self.window_min = self.window_min.filter(|least| *least < age);
        }
        !is_forgotten
    }

    fn is_just_open(&self, sender: u64, now: Timestamp) -> bool {
        self.last_pass.is_some_and(|(at, by)| by == sender && now.since(at) < OPEN_FOR)
    }

    /// Old ones count less.
    fn contact(&mut self, is_refused: bool) {
        const MANY: u16 = 1000;
        if self.contacts >= MANY {
            (self.contacts, self.contacts_refused) = (self.contacts / 2, self.contacts_refused / 2);
            for opened in [&mut self.opened_for_sender, &mut self.opened_for_client, &mut self.not_opened] {
                *opened /= 2;
            }
        }
        count(&mut self.contacts);
        self.contacts_refused += u16::from(is_refused);
    }
}

/// One more, within a bound that lets newer observations weigh as much as all older ones.
fn count(counter: &mut u16) {
    *counter = (*counter + 1).min(COUNT_MAX);
}

#[cfg(test)]
mod tests {
    use super::super::{Forecast, HintWorth};
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn refusal(asked_s: Option<u64>, now: Timestamp) -> Refusal {
        Refusal { asked: asked_s.map(s), by: None, began: now, ended: now }
    }

    /// One triplet's attempts at these seconds, the last of which passes if `passes`.
    fn contact(facts: &mut Facts, start: Timestamp, at_s: &[u64], asked: Option<u64>, passes: bool) -> Wait {
        let mut wait = None;
        for (index, at) in at_s.iter().enumerate() {
            let now = start.plus(s(*at));
            if passes && index + 1 == at_s.len() {
                facts.passed(wait.as_mut().unwrap(), 1, now);
            } else {
                wait = Some(facts.refused(wait, refusal(asked, now), 1));
            }
        }
        wait.unwrap()
    }

    #[test]
    fn the_delay_is_enclosed() {
        let mut facts = Facts::default();
        contact(&mut facts, START, &[0, 120, 240, 305], None, true);
        assert_eq!(facts.bounds(), (Some(s(240)), Some(s(305))));
        assert!(!facts.is_confirmed());
        assert_eq!(facts.between().count(), 3);
        contact(&mut facts, START, &[0, 272, 302], None, true);
        assert_eq!(facts.between().next(), Some(s(272) + s(30) / 4));
        assert_eq!(facts.bounds(), (Some(s(272)), Some(s(302))));
        assert!(facts.is_confirmed());
        assert_eq!(facts.forecast(None, 1, START), Forecast::After(s(302)));
    }

    #[test]
    fn what_does_not_hold_any_more_is_dropped() {
        let mut facts = Facts::default();
        contact(&mut facts, START, &[0, 240, 300], None, true);
        contact(&mut facts, START, &[0, 300, 600, 900], None, true);
        assert_eq!(facts.bounds(), (Some(s(600)), Some(s(900))), "it has become longer");
        contact(&mut facts, START, &[0, 60], None, true);
        assert_eq!(facts.bounds(), (None, Some(s(60))), "and shorter");
        assert_eq!(facts.restart_pause(), None);
    }

    #[test]
    fn early_attempts_that_cost_are_noticed() {
        let mut facts = Facts::default();
        for start in [START, START.plus(s(600)), START.plus(s(3600))] {
            assert_eq!(facts.refused_in_vain(), None, "two that overlap are one");
            contact(&mut facts, start, &[0, 30, 60, 120, 240, 300, 420, 575], None, false);
        }
        assert_eq!((facts.refused_in_vain(), facts.refused_pause()), (Some(s(575)), Some(s(155))));
        contact(&mut facts, START, &[0, 302], None, true);
        assert_eq!(facts.restart_pause(), Some(s(302)));
        contact(&mut facts, START, &[0, 400], None, false);
        assert_eq!(facts.restart_pause(), None, "it was something else");
    }

    #[test]
    fn hints_are_put_to_the_test() {
        let mut facts = Facts::default();
        assert_eq!(facts.hints(), HintWorth::Unknown);
        contact(&mut facts, START, &[0, 301], Some(300), true);
        assert_eq!(facts.hints(), HintWorth::Kept);
        contact(&mut facts, START, &[0, 302, 305], Some(300), true);
        assert_eq!(facts.hints(), HintWorth::TooShort);
        contact(&mut facts, START, &[0, 100], Some(300), true);
        contact(&mut facts, START, &[0, 100], Some(300), true);
        assert_eq!(facts.hints(), HintWorth::TooLong);
    }

    #[test]
    fn a_first_attempt_that_was_forgotten_begins_a_new_wait() {
        let mut facts = Facts::default();
        contact(&mut facts, START, &[0, 300], None, true);
        let wait = contact(&mut facts, START, &[0, 5 * 3600], None, false);
        assert_eq!(wait.first_refused_at, START.plus(s(5 * 3600)));
        assert_eq!(facts.window(), (Some(s(300)), Some(s(5 * 3600))));
        let wait = contact(&mut facts, START, &[0, 600], None, false);
        assert_eq!(wait.first_refused_at, START);
    }

    #[test]
    fn that_a_pass_lets_others_in_is_seen() {
        let mut facts = Facts::default();
        assert!(!facts.accepted_at_once(1, START));
        contact(&mut facts, START, &[0, 300], None, true);
        let later = START.plus(s(400));
        assert!(facts.accepted_at_once(1, later));
        assert_eq!(facts.opens(), (true, false));
        assert_eq!(facts.forecast(None, 1, later), Forecast::AtOnce);
        assert_eq!(facts.forecast(None, 2, later), Forecast::After(s(300)));
        facts.accepted_at_once(2, later);
        assert_eq!(facts.opens(), (true, true));
        contact(&mut facts, later, &[0], None, false);
        contact(&mut facts, later, &[0], None, false);
        assert_eq!(facts.opens(), (false, false), "as often not");
    }

    #[test]
    fn facts_are_written_and_read() {
        let mut facts = Facts::default();
        let wait = contact(&mut facts, START, &[0, 30, 302], Some(300), true);
        let text = serde_json::to_string(&(&facts, &wait)).unwrap();
        assert_eq!(serde_json::from_str::<(Facts, Wait)>(&text).unwrap(), (facts, wait));
        assert_eq!(serde_json::from_str::<Facts>("{}").unwrap(), Facts::default());
    }

    proptest! {
        /// Whatever is observed, the bounds enclose something and nothing overflows.
        #[test]
        fn bounds_stay_in_order(steps in prop::collection::vec((0u64..40_000, any::<bool>(), prop::option::of(0u64..1000)), 0..80)) {
            let mut facts = Facts::default();
            let (mut now, mut wait) = (START, None::<Wait>);
            for (pause, passes, asked) in steps {
                now = now.plus(s(pause));
                match &mut wait {
                    Some(wait) if passes => facts.passed(wait, 1, now),
                    _ if passes => { facts.accepted_at_once(1, now); }
                    _ => wait = Some(facts.refused(wait.take(), refusal(asked, now), 1)),
                }
                if let (Some(refused), Some(passed)) = facts.bounds() {
                    prop_assert!(facts.restarts > 0 || refused <= passed + SAME, "{refused:?} {passed:?}");
                }
                let _ = facts.forecast(wait.as_ref(), 1, now);
            }
        }
    }
}
