//! What a message has to expect at its acceptance, by what is known of its destination and of the wait that an older
//! message began. Its first attempt is made all the same; but an app that hears in time can offer another way.

use std::time::Duration;

use super::super::step::last_attempt;
use super::{Facts, HintWorth, OPEN_FOR};
use crate::base::clock::Timestamp;
use crate::greylist::pending::Wait;
use crate::greylist::retry::{MARGIN, SAME};

/// What a message has to expect; times count from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forecast {
    Unknown,
    AtOnce,
    /// It has to wait, for an unknown time.
    Waits,
    /// It passes after this time, as others did, or as was asked for.
    After(Duration),
    /// It has to wait longer than this: nothing ever passed, and others waited so long in vain.
    Longer(Duration),
}

impl Forecast {
    /// When it passes after a wait, if that is known.
    pub(crate) fn passes_at(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::After(span) => Some(now.plus(span)),
            Self::Unknown | Self::AtOnce | Self::Waits | Self::Longer(_) => None,
        }
    }

    /// Whether it comes too late for a message with this life: behind the last attempt that can still be typed, as the
    /// plan has it.
    pub(crate) fn is_too_late(self, accepted_at: Timestamp, expires_at: Timestamp, now: Timestamp) -> bool {
        let last = last_attempt(accepted_at, expires_at);
        match self {
            Self::Unknown | Self::AtOnce | Self::Waits => false,
            Self::After(span) => now.plus(span) > last,
            Self::Longer(span) => now.plus(span + SAME) >= last,
        }
    }

    pub fn text(self) -> String {
        match self {
            Self::Unknown => "it is not known whether it greylists".to_owned(),
            Self::AtOnce => "it takes mail at once".to_owned(),
            Self::Waits => "it greylists".to_owned(),
            Self::After(span) => format!("it greylists, this recipient for {} s from now", whole_seconds(span)),
            Self::Longer(span) => format!("it greylists, this recipient for more than {} s", span.as_secs()),
        }
    }
}

impl Facts {
    /// What a message has to expect whose triplet has this wait, if any.
    pub fn forecast(&self, wait: Option<&Wait>, sender: u64, now: Timestamp) -> Forecast {
        match wait.filter(|wait| wait.is_current(now)) {
            Some(wait) if wait.passed_at.is_some() => Forecast::AtOnce,
            Some(wait) => self.of_wait(wait, now),
            None => self.of_first_contact(sender, now),
        }
    }

    fn of_first_contact(&self, sender: u64, now: Timestamp) -> Forecast {
        let (for_sender, for_client) = self.opens();
        let is_open = self
            .last_pass
            .is_some_and(|(at, by)| now.since(at) < OPEN_FOR && (for_client || for_sender && by == sender));
        match () {
            () if self.contacts == 0 => Forecast::Unknown,
            () if is_open || self.contacts_refused * 2 < self.contacts => Forecast::AtOnce,
            () => self.restart_pause().or(self.passed).map_or_else(|| self.in_vain(now, now), Forecast::After),
        }
    }

    fn of_wait(&self, wait: &Wait, now: Timestamp) -> Forecast {
        match self.opens_at(wait) {
            Some(at) if at <= now => Forecast::AtOnce,
            Some(at) => Forecast::After(at.since(now)),
            None => self.in_vain(wait.first_refused_at, now),
        }
    }

    /// When a wait is over, as the plan would have its next attempt: by the pause where early attempts cost, by the wait
    /// that was asked for unless such ones are known to be wrong, by what was seen to pass.
    fn opens_at(&self, wait: &Wait) -> Option<Timestamp> {
        if let Some(pause) = self.restart_pause() {
            return Some(wait.last_refused_at.plus(pause));
        }
        let is_belied = wait.counted.1 || matches!(self.hints(), HintWorth::TooShort | HintWorth::TooLong);
        let asked = wait.asked.filter(|_| !is_belied).map(|asked| asked + MARGIN);
        asked.or(self.passed).map(|span| wait.first_refused_at.plus(span))
    }

    /// Where nothing ever passed.
    fn in_vain(&self, first_refused_at: Timestamp, now: Timestamp) -> Forecast {
        match self.refused_in_vain().map(|refused| first_refused_at.plus(refused)) {
            Some(at) if at > now => Forecast::Longer(at.since(now)),
            Some(_) | None => Forecast::Waits,
        }
    }
}

fn whole_seconds(span: Duration) -> u64 {
    span.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::greylist::pending::Refusal;

    const START: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn refused(facts: &mut Facts, wait: Option<Wait>, asked: Option<u64>, at: Timestamp) -> Wait {
        facts.refused(wait, Refusal { asked: asked.map(s), by: None, began: at, ended: at }, 1)
    }

    /// What is known when one triplet was refused at these seconds, and passed at the last if that is meant.
    fn seen(facts: &mut Facts, start: Timestamp, at_s: &[u64], asked: Option<u64>, passes: bool) {
        let (last, before) = at_s.split_last().unwrap();
        let mut wait = None;
        for at in before {
            wait = Some(refused(facts, wait, asked, start.plus(s(*at))));
        }
        match &mut wait {
            Some(wait) if passes => facts.passed(wait, 1, start.plus(s(*last))),
            _ => drop(refused(facts, wait, asked, start.plus(s(*last)))),
        }
    }

    fn is_too_late(forecast: Forecast, life_s: u64) -> bool {
        forecast.is_too_late(START, START.plus(s(life_s)), START)
    }

    #[test]
    fn a_first_contact_takes_as_long_as_the_shortest_that_passed() {
        let mut facts = Facts::default();
        assert_eq!(facts.forecast(None, 1, START), Forecast::Unknown);
        seen(&mut facts, START, &[0, 240, 300], None, true);
        let forecast = facts.forecast(None, 2, START);
        assert_eq!((forecast, forecast.passes_at(START)), (Forecast::After(s(300)), Some(START.plus(s(300)))));
        // The last attempt that can be typed comes 25 s before the end.
        assert_eq!([324, 325].map(|life_s| is_too_late(forecast, life_s)), [true, false]);
        for forecast in [Forecast::Unknown, Forecast::AtOnce, Forecast::Waits] {
            assert!(!is_too_late(forecast, 5) && forecast.passes_at(START).is_none());
        }
    }

    #[test]
    fn where_all_was_in_vain_it_takes_longer() {
        let mut facts = Facts::default();
        seen(&mut facts, START, &[0, 30, 120, 300, 574], None, false);
        assert_eq!(facts.forecast(None, 1, START), Forecast::Waits, "once is not enough");
        seen(&mut facts, START.plus(s(3600)), &[0, 30, 120, 300, 574], None, false);
        let forecast = facts.forecast(None, 1, START);
        assert_eq!((forecast, forecast.passes_at(START)), (Forecast::Longer(s(574)), None));
        assert_eq!([600, 700].map(|life_s| is_too_late(forecast, life_s)), [true, false]);
        let wait = refused(&mut facts, None, None, START);
        assert_eq!(facts.forecast(Some(&wait), 1, START.plus(s(500))), Forecast::Longer(s(74)));
        assert_eq!(facts.forecast(Some(&wait), 1, START.plus(s(600))), Forecast::Waits, "nobody knows beyond");
    }

    #[test]
    fn a_wait_that_runs_already_is_inherited() {
        let mut facts = Facts::default();
        let mut wait = refused(&mut facts, None, Some(300), START);
        let later = START.plus(s(100));
        let left = Duration::from_millis(201_200);
        assert_eq!(facts.forecast(Some(&wait), 1, later), Forecast::After(left), "by what was asked for");
        assert_eq!(facts.forecast(Some(&wait), 1, START.plus(s(302))), Forecast::AtOnce);
        wait = refused(&mut facts, Some(wait), Some(300), START.plus(s(303)));
        assert_eq!(facts.forecast(Some(&wait), 1, START.plus(s(304))), Forecast::Waits, "that was not true");
        facts.passed(&mut wait, 1, START.plus(s(400)));
        assert_eq!(facts.forecast(Some(&wait), 1, START.plus(s(401))), Forecast::AtOnce);
        let other = refused(&mut facts, None, Some(300), START);
        assert_eq!(facts.forecast(Some(&other), 1, later), Forecast::After(s(300)), "by what passed");
        let much_later = START.plus(s(3 * 86_400));
        assert_eq!(facts.forecast(Some(&other), 2, much_later), Forecast::After(s(400)), "it is forgotten");
    }

    #[test]
    fn where_early_attempts_cost_the_pause_counts() {
        let mut facts = Facts::default();
        for hour in [1, 2] {
            seen(&mut facts, START.plus(s(3600 * hour)), &[0, 30, 60, 120, 240, 300, 420, 575], None, false);
        }
        seen(&mut facts, START.plus(s(3 * 3600)), &[0, 302], None, true);
        assert_eq!(facts.forecast(None, 2, START), Forecast::After(s(302)));
        let mut wait = refused(&mut facts, None, None, START);
        wait = refused(&mut facts, Some(wait), None, START.plus(s(100)));
        assert_eq!(facts.forecast(Some(&wait), 1, START.plus(s(150))), Forecast::After(s(252)));
    }

    #[test]
    fn people_are_told_in_whole_seconds() {
        let text = Forecast::After(Duration::from_millis(201_200)).text();
        assert!(text.ends_with("for 202 s from now"), "{text}");
        assert!(Forecast::Longer(Duration::from_millis(574_900)).text().ends_with("more than 574 s"));
    }
}
