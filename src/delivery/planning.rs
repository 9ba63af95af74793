//! When an entry is tried next, and what its destination was seen to do with unknown senders: what `plan` is asked for, of
//! a claim.

use super::judged_failure::JudgedFailure;
use super::next_hops::NextHops;
use super::peer::Lesson;
use crate::base::clock::Timestamp;
use crate::event::cause::Cause;
use crate::greylist::facts::Facts;
use crate::greylist::pending::{Greylister, Refusal};
use crate::greylist::step::{History, Reason};
use crate::greylist::table::Triplet;
use crate::policy::action::{Action, Finality, Retry, action};
use crate::policy::cause::Verdict;
use crate::policy::failover::{self, Choice, Life};
use crate::policy::next::{Next, believable, decide, held_back};
use crate::queue::claim::Claim;

/// When the next attempt would be made if the entry were put off for this now; none if there would be no other.
pub(super) fn planned_after(
    claim: &Claim,
    judged: &JudgedFailure,
    triplet: Option<&Triplet>,
    now: Timestamp,
) -> Option<Timestamp> {
    let standing = triplet.and_then(|triplet| claim.greylists().standing(triplet, now));
    let (facts, since) = standing.map_or_else(Default::default, |(facts, wait)| (facts, Some(wait.first_refused_at)));
    match plan_after(claim, &judged.verdict, since, &facts, now).0 {
        Next::At(at) => Some(at),
        Next::Expire | Next::GiveUp => None,
    }
}

/// Where a triplet waits already, and an attempt now would begin its wait anew: when the next one is due, and who makes it
/// wait.
pub(super) fn held_back_until(
    claim: &Claim,
    triplet: Option<&Triplet>,
    now: Timestamp,
) -> Option<(Timestamp, Option<Greylister>)> {
    let triplet = triplet.filter(|_| claim.progress().attempts == 1)?;
    let (facts, wait) = claim.greylists().standing(triplet, now)?;
    let next_attempt_at = held_back(&history(claim, wait.first_refused_at), &facts, &wait, now)?;
    Some((next_attempt_at, wait.by))
}

/// Whether the entry would take another next hop at once if the attempt ended with this now.
pub(super) fn fails_over(claim: &Claim, judged: &JudgedFailure, hops: &NextHops, now: Timestamp) -> bool {
    let verdict = &judged.verdict;
    let is_direct = hops.via.smart_host().is_none();
    let (choice, hosts) = if is_direct {
        let hosts = hops.candidates(&[], now);
        let plan = plan_after(claim, verdict, None, &Facts::default(), now);
        (failover::after_direct(verdict, plan, life(claim), &hosts, now), hosts)
    } else {
        let mut failover = hops.failover(claim, now);
        failover.tried.push(failover.host.clone());
        let hosts = hops.candidates(&failover.tried, now);
        (failover::after_smart_host(None, &failover, life(claim), &hosts, now), hosts)
    };
    match choice {
        Choice::SmartHost { host, at, .. } => at <= now && !hosts[host].is_tried,
        Choice::Direct(Next::At(at)) => !is_direct && at <= now,
        Choice::Direct(Next::Expire | Next::GiveUp) => false,
    }
}

/// What follows a verdict, and why.
pub(super) fn plan_after(
    claim: &Claim,
    verdict: &Verdict,
    waits_since: Option<Timestamp>,
    facts: &Facts,
    now: Timestamp,
) -> (Next, Reason) {
    let since = waits_since.or(claim.progress().first_deferred_at).unwrap_or(now);
    decide(*verdict, &history(claim, since), facts, now)
}

/// The life of its message.
pub(super) fn life(claim: &Claim) -> Life {
    Life { accepted_at: claim.message().accepted_at, expires_at: claim.message().expires_at }
}

/// Takes down that a triplet was greylisted: since when the triplet waits, for this message or an older one, and what is
/// known of the destination. A triplet that has passed lately is known; then the reply means only what it says.
pub(super) fn learn(
    claim: &Claim,
    verdict: Verdict,
    lesson: Option<Lesson>,
    now: Timestamp,
) -> (Verdict, Option<Timestamp>, Facts) {
    let Some(lesson) = lesson.filter(|_| verdict.action.retry == Retry::Ladder) else {
        return (verdict, None, Facts::default());
    };
    let greylists = claim.greylists();
    if verdict.cause != Cause::Greylisted && greylists.has_passed(&lesson.triplet, now) {
        let action = Action { next_mx: false, ..action(verdict.cause, Finality::Temporary) };
        return (Verdict { action, ..verdict }, None, Facts::default());
    }
    let Lesson { triplet, by, began, .. } = lesson;
    let refusal = Refusal { asked: believable(verdict.hint), by: Some(by), began, ended: now };
    let (wait, facts, rows) = greylists.refused(&triplet, refusal);
    claim.store_greylisting(rows);
    (verdict, Some(wait.first_refused_at), facts)
}

fn history(claim: &Claim, first_deferred_at: Timestamp) -> History {
    History {
        accepted_at: claim.message().accepted_at,
        expires_at: claim.message().expires_at,
        first_deferred_at,
        attempts: claim.progress().attempts,
        spread: spread(claim),
    }
}

/// From 0 to 1, another for each entry and attempt.
fn spread(claim: &Claim) -> f64 {
    let mixed = claim
        .id()
        .message
        .to_bytes()
        .iter()
        .fold(claim.progress().attempts, |mixed, byte| (mixed ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    f64::from(mixed) / f64::from(u32::MAX)
}
