//! By which way the next attempt goes: straight to the hosts of the destination, or by a smart host. Says so with a
//! reason; who keeps the answer, and whether a smart host is well, is the concern of others.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::action::{Action, Retry};
use super::cause::Verdict;
use super::next::Next;
use crate::base::clock::Timestamp;
use crate::base::named::named;
use crate::event::cause::Cause;
use crate::greylist::step::Reason;

/// Least life left for a hand-over to a smart host, from which mail still has to go on: the smaller of this span and this
/// share of the whole life.
const NEED: Duration = Duration::from_secs(10);
const NEED_SHARE: f64 = 0.3;
/// So many times what it took lately is what it may take now.
const MARGIN: u32 = 2;
/// Between two rounds of the smart hosts without direct delivery any more.
const ROUND: Duration = Duration::from_secs(10);

named! {
    /// When a smart host is used; whatever calls for one also calls for those behind it in this list.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum When: name {
        /// From the first attempt on.
        Always = "always",
        /// When direct delivery failed for a reason that another sender may not have.
        DirectFailed = "direct-failed",
        /// When direct delivery cannot make it in time.
        Deadline = "deadline",
    }
}

impl When {
    /// Why a smart host was chosen, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Always => "it takes all mail for this domain",
            Self::DirectFailed => "another sender may do better",
            Self::Deadline => "direct delivery cannot make it in time",
        }
    }
}

/// A smart host that may carry an entry.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// What it is for.
    pub when: When,
    /// From when on it can be tried; in the past, unless it failed lately.
    pub(crate) ready_at: Timestamp,
    /// How long it took lately to take a message, if it is known.
    pub takes: Option<Duration>,
    /// It failed with this entry since the last direct attempt.
    pub(crate) is_tried: bool,
}

/// The life of an entry.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// When it began.
    pub accepted_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What an entry knows of the smart host that its next attempt goes by; kept with it, also over a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relayed {
    /// The smart host, as `host:port`.
    pub host: Arc<str>,
    pub(crate) called_by: When,
    /// When direct delivery is to be tried again if no smart host takes it; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) direct_at: Option<Timestamp>,
    /// The smart hosts that failed since the last direct attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tried: Vec<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Direct delivery, as planned.
    Direct(Next),
    SmartHost {
        host: usize,
        at: Timestamp,
        called_by: When,
        /// When direct delivery would be tried again.
        direct_at: Option<Timestamp>,
    },
}

/// Whether another sender could do better than we did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Help {
    /// No: it is about the recipient or the message.
    None,
    /// Perhaps; but so could we, a little later.
    InTheEnd,
    /// Yes: it is about us.
    AtOnce,
}

fn help(verdict: &Verdict) -> Help {
    let Action { next_route, retry, .. } = verdict.action;
    if next_route {
        return Help::AtOnce;
    }
    match verdict.cause {
        // Refused for good, and not because of us.
        _ if retry == Retry::Never => Help::None,
        _ if retry == Retry::Ladder => Help::InTheEnd,
        Cause::Greylisted
        | Cause::ServerBusy
        | Cause::DnsFailure
        | Cause::OtherTemp
        | Cause::OtherPerm
        | Cause::TlsRequired
        | Cause::ProtocolError
        | Cause::Unreachable
        | Cause::ConnectionLost
        | Cause::RateLimited
        | Cause::ReputationBlocked
        | Cause::AuthFailed
        | Cause::PolicyRejected => Help::InTheEnd,
        // Where the content may have arrived, another way would make it arrive twice.
        Cause::OutcomeUnknown
        | Cause::MailboxFull
        | Cause::MailboxUnavailableTemp
        | Cause::BadMailbox
        | Cause::InactiveMailbox
        | Cause::BadDomain
        | Cause::ContentRejected
        | Cause::MessageTooLarge => Help::None,
    }
}

/// The smart host that the first attempt goes by, if there is one for all mail and it is well.
pub(crate) fn at_first(hosts: &[Candidate], now: Timestamp) -> Option<usize> {
    hosts.iter().position(|host| host.when == When::Always && host.ready_at <= now)
}

/// Decides what follows a direct attempt that did not deliver. `plan` is what the plan says for direct delivery.
pub(crate) fn after_direct(
    verdict: &Verdict,
    plan: (Next, Reason),
    life: Life,
    hosts: &[Candidate],
    now: Timestamp,
) -> Choice {
    let (next, reason) = plan;
    let direct_at = match next {
        Next::At(at) => Some(at),
        Next::Expire | Next::GiveUp => None,
    };
    let help = help(verdict);
    let called_by = |host: &Candidate| {
        // If the next direct attempt fails as well, it would be too late for this host.
        let is_last = direct_at.is_none_or(|at| reason.is_tight() || at > latest(host, life));
        match help {
            Help::None => None,
            Help::AtOnce if host.when <= When::DirectFailed => Some(When::DirectFailed),
            Help::AtOnce | Help::InTheEnd => is_last.then_some(When::Deadline),
        }
    };
    let fits = |host: &&(usize, &Candidate, Timestamp)| {
        let at = host.2;
        at <= latest(host.1, life) && direct_at.is_none_or(|direct_at| at < direct_at)
    };
    let called = hosts.iter().enumerate().map(|(index, host)| (index, host, host.ready_at.max(now)));
    let called: Vec<_> = called.filter(|(_, host, _)| called_by(host).is_some()).collect();
    match called.iter().filter(fits).min_by_key(|(index, _, at)| (*at, *index)) {
        Some((index, host, at)) => {
            let called_by = called_by(host).unwrap_or(When::Deadline);
            Choice::SmartHost { host: *index, at: *at, called_by, direct_at }
        }
        None => Choice::Direct(next),
    }
}

/// Decides what follows an attempt by a smart host that did not deliver: the next one in order that the same reason
/// calls for, then direct delivery, and where there is none, the smart hosts again. The candidates include the one that
/// was tried; `verdict` is what it said of the message or the recipient, and none if it said nothing of them.
pub(crate) fn after_smart_host(
    verdict: Option<&Verdict>,
    relayed: &Relayed,
    life: Life,
    hosts: &[Candidate],
    now: Timestamp,
) -> Choice {
    if verdict.is_some_and(|verdict| verdict.action.retry == Retry::Never && !verdict.action.next_route) {
        return Choice::Direct(Next::GiveUp);
    }
    let Relayed { called_by, direct_at, .. } = *relayed;
    let direct_at = direct_at.filter(|at| *at < life.expires_at);
    let earliest = |not_before: Timestamp, may_be_tried: bool| {
        let called = hosts.iter().enumerate().filter(|(_, host)| host.when <= called_by);
        let called = called.filter(|(_, host)| may_be_tried || !host.is_tried);
        let timed = called.map(|(index, host)| (host.ready_at.max(not_before), index));
        timed.filter(|(at, index)| *at <= latest(&hosts[*index], life)).min()
    };
    let chosen = |(at, host)| Choice::SmartHost { host, at, called_by, direct_at };
    let next = earliest(now, false);
    match (direct_at.map(|at| at.max(now)), next) {
        (Some(direct_at), Some(next)) if next.0 < direct_at || next.0 <= now => chosen(next),
        (Some(direct_at), _) => Choice::Direct(Next::At(direct_at)),
        (None, Some(next)) => chosen(next),
        (None, None) => earliest(now.plus(ROUND), true).map_or(Choice::Direct(Next::Expire), chosen),
    }
}

/// The last moment at which a smart host can be handed something that is to arrive in time.
fn latest(host: &Candidate, life: Life) -> Timestamp {
    let whole = life.expires_at.since(life.accepted_at);
    let floor = NEED.min(whole.mul_f64(NEED_SHARE));
    life.expires_at.minus(host.takes.map_or(floor, |takes| floor.max(takes * MARGIN)))
}

#[cfg(test)]
mod tests {
    use super::super::action::Finality;
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis((1_000 + seconds) * 1000)
    }

    fn life(seconds: u64) -> Life {
        Life { accepted_at: at(0), expires_at: at(seconds) }
    }

    fn host(when: When) -> Candidate {
        Candidate { when, ready_at: Timestamp::default(), takes: None, is_tried: false }
    }

    fn again(cause: Cause) -> Verdict {
        Verdict::of(cause, Finality::Temporary)
    }

    fn by(host: usize, seconds: u64, called_by: When, direct_at: Option<u64>) -> Choice {
        Choice::SmartHost { host, at: at(seconds), called_by, direct_at: direct_at.map(at) }
    }

    const NOW: u64 = 20;

    fn direct(cause: Cause, plan: (Next, Reason), life_s: u64, hosts: &[Candidate]) -> Choice {
        after_direct(&again(cause), plan, life(life_s), hosts, at(NOW))
    }

    #[test]
    fn a_host_for_all_mail_carries_the_first_attempt_if_it_is_well() {
        let ill = Candidate { ready_at: at(NOW + 5), ..host(When::Always) };
        assert_eq!(at_first(&[host(When::Deadline), host(When::Always)], at(NOW)), Some(1));
        assert_eq!(at_first(&[ill, host(When::Always)], at(NOW)), Some(1));
        assert_eq!(at_first(&[ill, host(When::DirectFailed)], at(NOW)), None);
        assert_eq!(at_first(&[], at(NOW)), None);
    }

    #[test]
    fn the_direct_way_stays_while_it_can_make_it() {
        let in_time = (Next::At(at(60)), Reason::Ladder);
        for cause in [Cause::Greylisted, Cause::ServerBusy, Cause::OtherTemp, Cause::DnsFailure] {
            for when in [When::Deadline, When::DirectFailed, When::Always] {
                assert_eq!(direct(cause, in_time, 120, &[host(when)]), Choice::Direct(in_time.0), "{cause:?} {when:?}");
            }
        }
    }

    #[test]
    fn a_deadline_calls_for_a_smart_host_while_there_is_time() {
        let hosts = [host(When::Deadline)];
        let last = (Next::At(at(95)), Reason::LastChance);
        assert_eq!(direct(Cause::Greylisted, last, 120, &hosts), by(0, NOW, When::Deadline, Some(95)));
        let never = (Next::Expire, Reason::End);
        assert_eq!(direct(Cause::Greylisted, never, 120, &hosts), by(0, NOW, When::Deadline, None));
        // Ten seconds are needed, or three tenths of a short life.
        assert_eq!(direct(Cause::Greylisted, never, 29, &hosts), by(0, NOW, When::Deadline, None));
        assert_eq!(direct(Cause::Greylisted, never, 28, &hosts), Choice::Direct(Next::Expire));
        assert_eq!(direct(Cause::Greylisted, never, 120, &[]), Choice::Direct(Next::Expire));
    }

    #[test]
    fn a_slow_host_is_handed_it_earlier() {
        let slow = Candidate { takes: Some(Duration::from_secs(35)), ..host(When::Deadline) };
        let plan = (Next::At(at(60)), Reason::Ladder);
        assert_eq!(direct(Cause::Greylisted, plan, 120, &[slow]), by(0, NOW, When::Deadline, Some(60)));
        assert_eq!(direct(Cause::Greylisted, plan, 140, &[slow]), Choice::Direct(plan.0));
        let too_slow = Candidate { takes: Some(Duration::from_secs(60)), ..slow };
        assert_eq!(direct(Cause::Greylisted, plan, 120, &[too_slow]), Choice::Direct(plan.0));
    }

    #[test]
    fn what_is_about_us_calls_for_another_sender_at_once() {
        let plan = (Next::At(at(60)), Reason::Steps);
        for cause in [Cause::ReputationBlocked, Cause::RateLimited, Cause::PolicyRejected, Cause::Unreachable] {
            let expected = by(0, NOW, When::DirectFailed, Some(60));
            assert_eq!(direct(cause, plan, 120, &[host(When::DirectFailed)]), expected, "{cause:?}");
            assert_eq!(direct(cause, plan, 120, &[host(When::Always)]), expected, "{cause:?}");
            assert_eq!(direct(cause, plan, 120, &[host(When::Deadline)]), Choice::Direct(plan.0), "{cause:?}");
        }
        let refused = Verdict::of(Cause::ReputationBlocked, Finality::Final);
        let given_up = (Next::GiveUp, Reason::End);
        for (when, called_by) in [(When::DirectFailed, When::DirectFailed), (When::Deadline, When::Deadline)] {
            let choice = after_direct(&refused, given_up, life(120), &[host(when)], at(NOW));
            assert_eq!(choice, by(0, NOW, called_by, None));
        }
    }

    #[test]
    fn what_is_about_the_recipient_or_the_message_goes_no_other_way() {
        let hosts = [host(When::Always), host(When::DirectFailed), host(When::Deadline)];
        let last = (Next::At(at(95)), Reason::LastChance);
        for cause in [Cause::MailboxFull, Cause::BadMailbox, Cause::ContentRejected, Cause::OutcomeUnknown] {
            assert_eq!(direct(cause, last, 120, &hosts), Choice::Direct(last.0), "{cause:?}");
        }
        for cause in [Cause::BadMailbox, Cause::BadDomain, Cause::OtherPerm, Cause::MessageTooLarge] {
            let verdict = Verdict::of(cause, Finality::Final);
            let choice = after_direct(&verdict, (Next::GiveUp, Reason::End), life(120), &hosts, at(NOW));
            assert_eq!(choice, Choice::Direct(Next::GiveUp), "{cause:?}");
        }
    }

    #[test]
    fn a_host_that_failed_lately_is_waited_for_only_if_nothing_else_is_sooner() {
        let ill = Candidate { ready_at: at(NOW + 8), ..host(When::Deadline) };
        let never = (Next::Expire, Reason::End);
        assert_eq!(direct(Cause::Greylisted, never, 120, &[ill]), by(0, NOW + 8, When::Deadline, None));
        let both = [ill, host(When::Deadline)];
        assert_eq!(direct(Cause::Greylisted, never, 120, &both), by(1, NOW, When::Deadline, None));
        let sooner = (Next::At(at(NOW + 5)), Reason::LastChance);
        assert_eq!(direct(Cause::Greylisted, sooner, 45, &[ill]), Choice::Direct(sooner.0));
    }

    fn relayed(called_by: When, direct_at: Option<u64>) -> Relayed {
        Relayed { host: "a".into(), called_by, direct_at: direct_at.map(at), tried: vec!["a".into()] }
    }

    #[test]
    fn after_a_smart_host_comes_the_next_and_then_the_direct_way() {
        let tried = |when| Candidate { is_tried: true, ..host(when) };
        let after = |called_by, direct_at, hosts: &[Candidate]| {
            after_smart_host(None, &relayed(called_by, direct_at), life(120), hosts, at(NOW))
        };
        let both = [tried(When::Deadline), host(When::Deadline)];
        assert_eq!(after(When::Deadline, Some(95), &both), by(1, NOW, When::Deadline, Some(95)));
        let all_tried = [tried(When::Deadline), tried(When::Deadline)];
        assert_eq!(after(When::Deadline, Some(95), &all_tried), Choice::Direct(Next::At(at(95))));
        assert_eq!(after(When::Deadline, None, &all_tried), by(0, NOW + 10, When::Deadline, None));
        // The first attempt went by a host for all mail: only another such one comes before direct delivery.
        let first = [tried(When::Always), host(When::Deadline)];
        assert_eq!(after(When::Always, Some(0), &first), Choice::Direct(Next::At(at(NOW))));
        let first = [tried(When::Always), host(When::Always)];
        assert_eq!(after(When::Always, Some(0), &first), by(1, NOW, When::Always, Some(0)));
        assert_eq!(after(When::Deadline, None, &[]), Choice::Direct(Next::Expire));
    }

    #[test]
    fn what_a_smart_host_refuses_for_good_is_over() {
        let hosts = [Candidate { is_tried: true, ..host(When::Deadline) }, host(When::Deadline)];
        let after =
            |verdict| after_smart_host(Some(&verdict), &relayed(When::Deadline, Some(95)), life(120), &hosts, at(NOW));
        assert_eq!(after(Verdict::of(Cause::BadMailbox, Finality::Final)), Choice::Direct(Next::GiveUp));
        // It does not relay for us: that is about us.
        let next = by(1, NOW, When::Deadline, Some(95));
        assert_eq!(after(Verdict::of(Cause::PolicyRejected, Finality::Final)), next);
        assert_eq!(after(again(Cause::MailboxFull)), next);
    }

    proptest! {
        /// Whatever is known: nothing is planned in the past or behind the end of life, and every host that is chosen
        /// was called for.
        #[test]
        fn choices_lie_within_the_life(
            life_s in 25_u64..900,
            plan in 0_u64..900,
            hosts in prop::collection::vec((0_usize..3, 0_u64..900, prop::option::of(0_u64..60), any::<bool>()), 0..4),
            cause in prop::sample::select(Cause::ALL),
            called in 0_usize..3,
        ) {
            const WHENS: [When; 3] = [When::Always, When::DirectFailed, When::Deadline];
            let hosts: Vec<Candidate> = hosts
                .into_iter()
                .map(|(when, ready, takes, is_tried)| Candidate {
                    when: WHENS[when],
                    ready_at: at(ready),
                    takes: takes.map(Duration::from_secs),
                    is_tried,
                })
                .collect();
            let direct_at = (NOW < plan && plan < life_s).then_some(plan);
            let next = direct_at.map_or(Next::Expire, |s| Next::At(at(s)));
            let reason = if plan % 2 == 0 { Reason::Ladder } else { Reason::LastChance };
            let relayed = relayed(WHENS[called], direct_at);
            for choice in [
                after_direct(&again(cause), (next, reason), life(life_s), &hosts, at(NOW)),
                after_smart_host(None, &relayed, life(life_s), &hosts, at(NOW)),
            ] {
                match choice {
                    Choice::SmartHost { host, at: time, called_by, .. } => {
                        prop_assert!(at(NOW) <= time && time < at(life_s));
                        prop_assert!(hosts[host].ready_at <= time && hosts[host].when <= called_by);
                    }
                    Choice::Direct(Next::At(time)) => prop_assert!(at(NOW) <= time && time < at(life_s)),
                    Choice::Direct(Next::Expire | Next::GiveUp) => {}
                }
            }
        }
    }
}
