//! When to try again where a host greylists: by the wait it asks for, by what it was seen to do, or by what
//! programs are known to do.

use std::time::Duration;

use super::step::{History, PAUSE_MIN, Reason, Step, finish_at, last_attempt_at, step};
use crate::base::clock::Timestamp;
use crate::greylist::facts::Facts;
use crate::greylist::facts::HintWorth;

/// Delays that greylisting software is known to use, in seconds; attempts come [`MARGIN`] behind them.
const DELAYS_S: [f64; 18] = [
    0.0, 15.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 720.0, 850.0, 900.0, 1200.0, 1500.0, 1565.0, 1800.0,
    2700.0, 3600.0,
];
/// For a short life, in which no more than half of a wait may be lost. Behind its end the others follow.
const SHORT_DELAYS_S: [f64; 8] = [0.0, 2.5, 6.0, 12.0, 20.0, 30.0, 45.0, 60.0];
/// What counts as short, from the first refusal to the end of life.
const SHORT_LIFE: Duration = Duration::from_secs(180);
/// Behind the end of a delay. The host began to count before its refusal arrived here, and it decides after an attempt has
/// begun; but some count whole seconds and let pass only what is later than the delay, which takes up to one more.
pub(crate) const MARGIN: Duration = Duration::from_millis(1200);
/// Attempts for different entries are spread over this time behind a delay that is only guessed, and behind one that was
/// named or seen here.
const SPREAD: Duration = Duration::from_millis(400);
pub(crate) const SPREAD_KNOWN: Duration = Duration::from_millis(100);
/// After so many attempts a host whose wait is over again and again without end is not believed any more.
const HINTS_BELIEVED_MAX: u32 = 4;
/// Attempts that follow one another where the wait that was asked for did not do, from its end.
const AFTER_HINT_S: [u64; 2] = [5, 35];
/// Attempts from the shortest wait that was seen to pass: clocks of whole seconds pass now a little earlier, now later.
const AGAIN_AFTER_S: [f64; 3] = [0.0, 1.5, 10.0];
/// Ages and pauses that differ by less are the same.
pub(crate) const SAME: Duration = Duration::from_secs(2);
/// The wait without early attempts that is tried first where these did not help.
const QUIET: Duration = Duration::from_secs(300);

/// After a refusal that is meant for first contacts, or may be. The first retry comes no later than the shortest wait that passed
/// lately for another domain behind the same hosts.
pub(crate) fn greylisted(hint: Option<Duration>, history: &History, facts: &Facts, now: Timestamp) -> Step {
    let step = by_facts(hint, history, facts, now);
    let soonest = facts.soonest().filter(|_| history.attempts <= 1 && quiet_pause(facts, history).is_none());
    let at = soonest.map(|wait| history.first_deferred_at.plus(wait + SPREAD_KNOWN.mul_f64(history.spread)));
    match at {
        Some(at) if at < step.at && at > now.plus(PAUSE_MIN / 2) => Step::new(at, Reason::Learned),
        Some(_) | None => step,
    }
}

/// The pause that it takes where early attempts begin the wait anew. For a short life it counts only if the recipient's own
/// domain was seen to do so.
pub(crate) fn quiet_pause(facts: &Facts, history: &History) -> Option<Duration> {
    facts.restart_pause().filter(|_| !(facts.is_of_others() && is_short(history)))
}

fn by_facts(hint: Option<Duration>, history: &History, facts: &Facts, now: Timestamp) -> Step {
    let first = history.first_deferred_at;
    let worth = facts.hints();
    if let Some(pause) = quiet_pause(facts, history) {
        // The wait began anew with the attempt that has just failed.
        let wait = hint.filter(|_| worth != HintWorth::TooShort).map_or(pause, |hint| hint + MARGIN);
        return Step::known(now.plus(wait + SPREAD_KNOWN.mul_f64(history.spread)), Reason::Quiet);
    }
    let learned = learned(facts, history, now);
    let single = learned.is_none().then(|| single(facts, history, now)).flatten();
    let is_belied = match worth {
        HintWorth::Unknown | HintWorth::Kept => false,
        HintWorth::TooShort => learned.is_some() || single.is_some(),
        HintWorth::TooLong => learned.is_some(),
    };
    if let Some(hint) = hint.filter(|_| !is_belied) {
        return after_hint(hint, history, now);
    }
    learned.or(single).unwrap_or_else(|| {
        let last = last_attempt_at(history);
        let hopeless = in_vain(facts, history).unwrap_or_default().as_secs_f64();
        let at = step(ladder(history).filter(|wait| *wait > hopeless), first, now);
        if is_short(history) && at > last && now.plus(PAUSE_MIN) > last {
            return Step::known(finish_at(history), Reason::Late);
        }
        Step::new(at.plus(SPREAD.mul_f64(history.spread)), Reason::Ladder)
    })
}

/// The one attempt for a message that would be refused at every step of its life, as others were that never passed: either
/// it can only be in vain, or early attempts begin the wait anew, and then one that waits longer than any before passes.
fn single(facts: &Facts, history: &History, now: Timestamp) -> Option<Step> {
    let (first, last) = (history.first_deferred_at, last_attempt_at(history));
    let refused = in_vain(facts, history).filter(|refused| first.plus(*refused + SAME) >= last)?;
    let pause = facts.refused_pause().unwrap_or_default();
    // No later than what was refused: if it passes, this was because of the pause.
    let longest = last.since(now).min(refused.saturating_sub(PAUSE_MIN / 2));
    let quiet = QUIET + MARGIN;
    let wait = match () {
        () if pause < QUIET && quiet <= longest => quiet,
        () if pause + SAME < longest => longest,
        () => finish_at(history).since(now),
    };
    Some(Step::known(now.plus(wait), Reason::Quiet))
}

/// The longest wait that was in vain. One that has begun with early attempts already goes on so: it is too late for quiet,
/// and what passes then says little of what would have passed without them.
fn in_vain(facts: &Facts, history: &History) -> Option<Duration> {
    facts.refused_in_vain().filter(|_| history.attempts <= 2)
}

/// The next attempt where it is known after which wait another passed; none if that one is over. On the way there: what
/// lies between the waits that were refused and those that passed, and until it is sure, also what was refused.
fn learned(facts: &Facts, history: &History, now: Timestamp) -> Option<Step> {
    let (refused, passed) = facts.bounds();
    let (refused, passed) = (refused.unwrap_or_default(), passed?);
    let first = history.first_deferred_at;
    let ladder = ladder(history).map(Duration::from_secs_f64).filter(|wait| *wait + MARGIN < passed);
    let (early, mut waits): (Vec<_>, Vec<_>) = ladder.partition(|wait| *wait <= refused);
    if waits.is_empty() {
        waits.extend(facts.between());
    }
    waits.extend(AGAIN_AFTER_S.map(|s| passed + Duration::from_secs_f64(s)));
    // For a short life a wrong delay is the end of it: what only others saw leaves nothing out.
    let is_sure = facts.is_confirmed() && !(facts.is_of_others() && is_short(history));
    let early = early.into_iter().filter(|_| !is_sure);
    let at = early.chain(waits).map(|wait| first.plus(wait)).find(|at| *at > now.plus(PAUSE_MIN / 2))?;
    Some(Step::new(at.plus(SPREAD_KNOWN.mul_f64(history.spread)), Reason::Learned))
}

/// When a reply asks for a wait. Some programs count down, others always name the whole delay. Before the whole delay
/// has passed since the first refusal its end is the right time either way, or an early one that costs little. Once it
/// has passed: soon, as clocks differ; but no later than if the program counts down.
pub(crate) fn after_hint(hint: Duration, history: &History, now: Timestamp) -> Step {
    let first = history.first_deferred_at;
    let spread = SPREAD_KNOWN.mul_f64(history.spread);
    let end = first.plus(hint + MARGIN + spread);
    if end > now {
        return Step::new(end, Reason::Hint);
    }
    let counted_down = now.plus(hint + MARGIN + spread);
    let (soon, reason) = match AFTER_HINT_S.iter().map(|s| end.plus(Duration::from_secs(*s))).find(|at| *at > now) {
        Some(soon) => (soon, Reason::AfterHint),
        None => (step(ladder(history), first, now).plus(spread), Reason::Ladder),
    };
    let is_believed = history.attempts <= HINTS_BELIEVED_MAX;
    let (at, reason) = if is_believed && counted_down <= soon { (counted_down, Reason::Hint) } else { (soon, reason) };
    Step::new(at, reason)
}

/// The attempts of a first contact that says nothing about the time, in seconds from the first refusal.
fn ladder(history: &History) -> impl Iterator<Item = f64> {
    let short: &[f64] = if is_short(history) { &SHORT_DELAYS_S } else { &[] };
    let covered = short.last().copied().unwrap_or(-1.0);
    let others = DELAYS_S.into_iter().filter(move |delay| *delay > covered);
    short.iter().copied().chain(others).map(|delay| delay + MARGIN.as_secs_f64())
}

fn is_short(history: &History) -> bool {
    history.expires_at.since(history.first_deferred_at) < SHORT_LIFE
}
