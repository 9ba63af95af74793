//! What recipient domains that share their hosts say together. Whoever points a domain at a shared host can have its mail
//! refused for as long as they like; so what one domain was seen to do counts for itself, and for others only what several agree
//! about, each of which took a code in the end.

use std::time::Duration;

use super::{CONFIRMED, COUNT_MAX, Facts, HintWorth};
use crate::base::clock::Timestamp;

/// So many domains, each registered by itself, have to agree.
const AGREEING_MIN: usize = 3;
/// Waits agree if the longest is no longer than the shortest by this share and this time: between them lies at most a step
/// of the ladder, or what different domains have narrowed it to.
const AGREEING: (f64, Duration) = (0.5, Duration::from_secs(15));
/// What passed within this time passed lately.
const LATELY: Duration = Duration::from_secs(7 * 86_400);

impl Facts {
    /// What counts for a recipient domain: its own facts if they tell anything, else what the other domains behind the same
    /// hosts agree about. With either the shortest wait that passed lately for one of those.
    pub(crate) fn for_domain<'a>(
        own: Option<&Self>,
        others: impl Iterator<Item = &'a Self> + Clone,
        now: Timestamp,
    ) -> Self {
        let lately = others.clone().filter(|facts| facts.last_pass.is_some_and(|(at, _)| now.since(at) < LATELY));
        let soonest = lately.filter_map(|facts| facts.passed).min();
        let tells = own.filter(|own| own.passed.is_some() || own.refused_in_vain().is_some());
        let facts = match tells {
            Some(own) => own.clone(),
            None => Self::agreed(others, own).or_else(|| own.cloned()).unwrap_or_default(),
        };
        Self { soonest, ..facts }
    }

    /// What several domains agree about, if there are enough: the shortest of their waits counts.
    fn agreed<'a>(others: impl Iterator<Item = &'a Self>, own: Option<&Self>) -> Option<Self> {
        let mut took: Vec<(Duration, &Self)> = others
            .filter_map(|facts| Some((facts.passed?, facts)))
            .filter(|(_, facts)| facts.last_pass.is_some())
            .collect();
        took.sort_by_key(|(passed, _)| *passed);
        let agreeing = |(shortest, _): &(Duration, &Self)| {
            let longest = *shortest + shortest.mul_f64(AGREEING.0) + AGREEING.1;
            took.iter().filter(|(passed, _)| (*shortest..=longest).contains(passed)).map(|(_, facts)| *facts).collect()
        };
        let agreeing: Vec<&Self> =
            took.iter().map(agreeing).find(|agreeing: &Vec<_>| agreeing.len() >= AGREEING_MIN)?;
        let sum = |count: fn(&Self) -> u16| {
            let sum: u32 = agreeing.iter().map(|facts| u32::from(count(facts))).sum();
            u16::try_from(sum).unwrap_or(COUNT_MAX).min(COUNT_MAX)
        };
        let do_all = |does: fn(&Self) -> bool| u16::from(agreeing.iter().all(|facts| does(facts)));
        let passed = agreeing.iter().filter_map(|facts| facts.passed).min();
        let facts = Self {
            // Of what was refused only as much as all of them saw.
            refused: agreeing.iter().map(|facts| facts.refused.unwrap_or_default()).min().filter(|s| Some(*s) < passed),
            passed,
            passed_pause: agreeing.iter().filter_map(|facts| facts.passed_pause).min(),
            agreeing: CONFIRMED,
            restarts: do_all(|facts| facts.restarts > 0),
            hints_kept: do_all(|facts| facts.hints() == HintWorth::Kept),
            hints_short: do_all(|facts| facts.hints() == HintWorth::TooShort),
            hints_long: do_all(|facts| facts.hints() == HintWorth::TooLong),
            contacts: sum(|facts| facts.contacts),
            contacts_refused: sum(|facts| facts.contacts_refused),
            opened_for_sender: sum(|facts| facts.opened_for_sender),
            opened_for_client: sum(|facts| facts.opened_for_client),
            not_opened: sum(|facts| facts.not_opened),
            last_seen: agreeing.iter().map(|facts| facts.last_seen).max().unwrap_or_default(),
            last_pass: agreeing.iter().filter_map(|facts| facts.last_pass).max_by_key(|(at, _)| *at),
            is_of_others: true,
            ..Self::default()
        };
        Some(match own.filter(|own| own.hints() != HintWorth::Unknown) {
            Some(Self { hints_kept, hints_short, hints_long, .. }) => {
                Self { hints_kept: *hints_kept, hints_short: *hints_short, hints_long: *hints_long, ..facts }
            }
            None => facts,
        })
    }

    /// The shortest wait that passed lately for another domain behind the same hosts.
    pub(crate) fn soonest(&self) -> Option<Duration> {
        self.soonest
    }

    /// Whether other domains were seen to do this, and not the one that it is about.
    pub(crate) fn is_of_others(&self) -> bool {
        self.is_of_others
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::greylist::pending::Refusal;

    const START: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Of a domain where a triplet was refused at these seconds, and passed at the last if that is meant.
    fn facts(at_s: &[u64], passes: bool) -> Facts {
        let (mut facts, mut wait) = (Facts::default(), None);
        let (last, before) = at_s.split_last().unwrap();
        let refusal = |at: u64| Refusal { asked: None, by: None, began: START.plus(s(at)), ended: START.plus(s(at)) };
        for at in before {
            wait = Some(facts.refused(wait, refusal(*at), 1));
        }
        match &mut wait {
            Some(wait) if passes => facts.passed(wait, 1, START.plus(s(*last))),
            _ => drop(facts.refused(wait, refusal(*last), 1)),
        }
        facts
    }

    fn bounds(own: Option<&Facts>, others: &[Facts]) -> (Option<Duration>, Option<Duration>) {
        let facts = Facts::for_domain(own, others.iter(), START.plus(s(3600)));
        (facts.bounds().1, facts.soonest())
    }

    #[test]
    fn three_that_agree_are_believed_and_the_shortest_counts() {
        let of = |passed: u64| facts(&[0, 1, passed], true);
        assert_eq!(bounds(None, &[of(300), of(310)]), (None, Some(s(300))), "two are not enough");
        assert_eq!(bounds(None, &[of(300), of(310), of(330)]), (Some(s(300)), Some(s(300))));
        assert_eq!(bounds(None, &[of(300), of(310), of(600)]), (None, Some(s(300))), "one means another delay");
        assert_eq!(bounds(None, &[of(45), of(300), of(310), of(330)]), (Some(s(300)), Some(s(45))));
        let late = [of(600), of(590), of(580), of(16), of(12), of(9)];
        assert_eq!(bounds(None, &late), (Some(s(9)), Some(s(9))), "the shorter of two agreements");
        let together = Facts::for_domain(None, [of(300), of(310), of(330)].iter(), START);
        assert!(together.is_of_others() && together.is_confirmed());
    }

    #[test]
    fn who_never_took_a_code_says_nothing_about_others() {
        let vain = || facts(&[0, 60, 300, 575], false);
        let others = [vain(), vain(), vain(), vain()];
        let facts = Facts::for_domain(None, others.iter(), START);
        assert_eq!((facts.bounds(), facts.refused_in_vain(), facts.soonest()), ((None, None), None, None));
    }

    #[test]
    fn own_facts_go_first() {
        let of = |passed: u64| facts(&[0, 1, passed], true);
        let others = [of(300), of(310), of(330)];
        assert_eq!(bounds(Some(&of(16)), &others), (Some(s(16)), Some(s(300))));
        assert_eq!(bounds(Some(&facts(&[0, 1], false)), &others).0, Some(s(300)), "they tell nothing yet");
        assert_eq!(bounds(Some(&of(16)), &[]), (Some(s(16)), None));
    }

    #[test]
    fn what_passed_long_ago_did_not_pass_lately() {
        let others = [facts(&[0, 1, 9], true)];
        let much_later = START.plus(LATELY + s(60));
        assert_eq!(Facts::for_domain(None, others.iter(), much_later).soonest(), None);
    }

    #[test]
    fn early_attempts_cost_only_where_all_that_agree_say_so() {
        let costly = || {
            let mut facts = facts(&[0, 30, 120, 310], true);
            facts.restarts = 1;
            facts
        };
        let restarts = |others: &[Facts]| Facts::for_domain(None, others.iter(), START).restart_pause().is_some();
        assert!(restarts(&[costly(), costly(), costly()]));
        assert!(!restarts(&[costly(), costly(), facts(&[0, 30, 120, 310], true)]));
    }
}
