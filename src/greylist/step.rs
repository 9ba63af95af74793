//! A time for an attempt, and what it follows from; the times at which a life still has room for one.

use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::named::named;

/// The last attempt comes this long before the end, or this share of the life before it, whichever is less.
const LAST_MARGIN: Duration = Duration::from_secs(25);
const LAST_SHARE: f64 = 0.4;
/// Where it is known that an attempt passes only after that, one more may come this long before the end.
const FINISH_MARGIN: Duration = Duration::from_secs(5);
const FINISH_SHARE: f64 = 0.1;
/// Behind the ladder, and wherever else a pause is needed.
const PAUSE_MAX: Duration = Duration::from_secs(1800);
/// Two attempts are at least this far apart.
pub(crate) const PAUSE_MIN: Duration = Duration::from_secs(1);

/// What the plan needs to know of an entry.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When its life ends.
    pub expires_at: Timestamp,
    /// When the wait began: an attempt was first put off; now, if this is the first. Where a host makes a triplet wait,
    /// that may have been an attempt for an older message.
    pub first_deferred_at: Timestamp,
    /// Attempts made.
    pub attempts: u32,
    /// From 0 to 1, another for each entry: where within the spread of a step its attempts lie.
    pub spread: f64,
}

named! {
    /// What the time of the next attempt follows from.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Reason: text {
        /// The reply asked for it.
        Hint = "the reply asks for this wait",
        /// The wait that was asked for is over, and did not do.
        AfterHint = "the wait that was asked for did not do",
        /// A delay that greylisting software is known to use.
        Ladder = "behind a delay that greylisting software uses",
        /// A delay that this destination was seen to use.
        Learned = "the delay that was seen here before",
        /// Early attempts make the wait longer here, or seem to.
        Quiet = "early attempts make the wait longer here",
        /// The steps of the cause.
        Steps = "the steps for this cause",
        /// Half of what is left of the life.
        Half = "half of what is left",
        /// The last attempt that can finish in time.
        LastChance = "the last one that can finish and be typed in time",
        /// The host lets it pass only after that.
        Late = "late, but nothing passes earlier",
        /// No attempt can, or may.
        End = "no attempt can help any more",
    }
}

impl Reason {
    /// Whether it may be too late for whoever waits for the code.
    pub(crate) fn is_tight(self) -> bool {
        matches!(self, Self::LastChance | Self::Late | Self::End)
    }
}

/// A time for an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) at: Timestamp,
    pub(crate) reason: Reason,
    /// Nothing passes before, and an earlier attempt does harm.
    pub(crate) is_known: bool,
}

impl Step {
    pub(crate) fn new(at: Timestamp, reason: Reason) -> Self {
        Self { at, reason, is_known: false }
    }

    pub(crate) fn known(at: Timestamp, reason: Reason) -> Self {
        Self { at, reason, is_known: true }
    }
}

/// The first step that is still to come; behind the last one, ever longer pauses.
pub(crate) fn step(steps: impl Iterator<Item = f64>, first_deferred_at: Timestamp, now: Timestamp) -> Timestamp {
    let margin = Duration::from_millis(500);
    let mut times = steps.map(|step| first_deferred_at.plus(Duration::from_secs_f64(step)));
    times.find(|at| *at > now.plus(margin)).unwrap_or_else(|| {
        let age = now.since(first_deferred_at);
        now.plus((age / 3).clamp(Duration::from_secs(20), PAUSE_MAX))
    })
}

pub(crate) fn last_attempt_at(history: &History) -> Timestamp {
    last_attempt(history.accepted_at, history.expires_at)
}

/// The last attempt of a life that can finish and be typed in time.
pub(crate) fn last_attempt(accepted_at: Timestamp, expires_at: Timestamp) -> Timestamp {
    expires_at.minus(LAST_MARGIN.min(expires_at.since(accepted_at).mul_f64(LAST_SHARE)))
}

pub(crate) fn finish_at(history: &History) -> Timestamp {
    let life = history.expires_at.since(history.accepted_at);
    history.expires_at.minus(FINISH_MARGIN.min(life.mul_f64(FINISH_SHARE)))
}
