//! what is known of the greylisting of destinations, and what that says about the next first contact.

mod forecast;
mod observations;
mod shared;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
pub(crate) use forecast::Forecast;

/// What is known of a destination is forgotten when it was not used for so long.
pub(crate) const FACTS_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// No observation counts for more.
const COUNT_MAX: u16 = 2000;
/// Longer than anything here is remembered.
const SPAN_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Clocks are set by less than this every now and then.
const AHEAD_MAX: Duration = Duration::from_secs(3600);
/// For so long after a pass, that others pass at once is put down to it.
const OPEN_FOR: Duration = Duration::from_secs(86_400);
/// So many passes that agree, and attempts that were always refused are not made any more.
const CONFIRMED: u16 = 2;
/// Shorter waits than this are no proof that early attempts begin the wait anew.
const RESTART_MIN: Duration = Duration::from_secs(20);
/// A wait is in vain after so many refusals; at most one in such a span is, so that an outage counts once.
const VAIN: (u16, Duration) = (3, Duration::from_secs(1800));
/// After so many waits in vain what was refused is not tried again.
const VAIN_MAX: u16 = 2;
/// Bounds closer than this are not narrowed further; those farther apart than that in smaller parts.
const NARROW: Duration = Duration::from_secs(4);
const WIDE: Duration = Duration::from_secs(20);

/// What the waits that a destination asks for are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintWorth {
    /// None was put to the test.
    Unknown,
    /// It passes when they are over.
    Kept,
    /// It passes later.
    TooShort,
    /// It passes earlier.
    TooLong,
}

/// Whether nobody can have waited for longer.
pub(super) fn is_plausible(span: Duration) -> bool {
    span <= SPAN_MAX
}

/// Whether something was seen so lately. What lies ahead was seen by a clock that was ahead, and says nothing about when.
pub(super) fn is_recent(at: Timestamp, kept: Duration, now: Timestamp) -> bool {
    now.since(at) < kept && at <= now.plus(AHEAD_MAX)
}

/// What is known of a destination, for one recipient domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The longest wait since a first refusal that was still refused, and the shortest that passed.
    refused: Option<Duration>,
    passed: Option<Duration>,
    /// The same, measured from the last attempt before.
    refused_pause: Option<Duration>,
    passed_pause: Option<Duration>,
    /// Passes in a row that agree with the bounds above.
    agreeing: u16,
    /// How often a wait was refused later than another had passed, after a shorter pause: early attempts cost.
    restarts: u16,
    /// Waits in a row with many attempts and no pass, and when the last of them was counted.
    vain: u16,
    vain_at: Timestamp,
    hints_kept: u16,
    hints_short: u16,
    hints_long: u16,
    /// First contacts, and how many of them were refused.
    contacts: u16,
    contacts_refused: u16,
    /// First contacts soon after a pass: accepted for the same sender, accepted for another one, refused.
    opened_for_sender: u16,
    opened_for_client: u16,
    not_opened: u16,
    /// Bounds of the time for which a first attempt is remembered.
    window_min: Option<Duration>,
    window_max: Option<Duration>,
    /// When something was last seen, when a wait last passed, and for which sender.
    last_seen: Timestamp,
    last_pass: Option<(Timestamp, u64)>,
    /// What [`Facts::for_domain`] adds: others' facts, and the shortest wait that passed lately for one of them.
    #[serde(skip)]
    is_of_others: bool,
    #[serde(skip)]
    soonest: Option<Duration>,
}

impl Facts {
    /// Whether they can have come about: what a damaged record says might not even fit into a sum.
    pub(crate) fn is_plausible(&self) -> bool {
        let spans =
            [self.refused, self.passed, self.refused_pause, self.passed_pause, self.window_min, self.window_max];
        let passes = [self.agreeing, self.restarts, self.vain, self.hints_kept, self.hints_short, self.hints_long];
        let contacts = [self.contacts, self.contacts_refused];
        let opened = [self.opened_for_sender, self.opened_for_client, self.not_opened];
        let mut counts = passes.iter().chain(&contacts).chain(&opened);
        spans.into_iter().flatten().all(is_plausible) && counts.all(|count| *count <= COUNT_MAX)
    }

    /// Whether they are worth keeping.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        is_recent(self.last_seen, FACTS_KEPT, now)
    }

    /// When something was last seen.
    pub(crate) fn last_seen(&self) -> Timestamp {
        self.last_seen
    }

    /// The longest wait that was refused, and the shortest that passed, both since the first refusal.
    pub fn bounds(&self) -> (Option<Duration>, Option<Duration>) {
        (self.refused, self.passed)
    }

    /// Whether what is known of the delay was confirmed often enough to leave out attempts that were always refused.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.agreeing >= CONFIRMED
    }

    /// What asked-for waits are worth.
    pub fn hints(&self) -> HintWorth {
        let (kept, short, long) = (self.hints_kept, self.hints_short, self.hints_long);
        match () {
            () if kept.max(short).max(long) == 0 => HintWorth::Unknown,
            () if kept > short.max(long) => HintWorth::Kept,
            () if short >= long => HintWorth::TooShort,
            () => HintWorth::TooLong,
        }
    }

    /// The pause that it takes where early attempts begin the wait anew.
    pub fn restart_pause(&self) -> Option<Duration> {
        self.passed_pause.filter(|pause| self.restarts > 0 && *pause >= RESTART_MIN)
    }

    /// The longest wait that was refused, where several waits were in vain and none ever passed.
    pub(crate) fn refused_in_vain(&self) -> Option<Duration> {
        self.refused.filter(|_| self.passed.is_none() && self.vain >= VAIN_MAX)
    }

    /// The longest pause between two attempts behind which the second was refused.
    pub(crate) fn refused_pause(&self) -> Option<Duration> {
        self.refused_pause
    }

    /// Waits between those refused and those passed, worth trying so that the next ones lose less.
    pub fn between(&self) -> impl Iterator<Item = Duration> + use<> {
        let (refused, passed) = (self.refused.unwrap_or_default(), self.passed.unwrap_or_default());
        let gap = passed.saturating_sub(refused);
        let parts = match gap {
            _ if gap <= NARROW => 1,
            _ if gap <= WIDE => 2,
            _ => 4,
        };
        (1..parts).map(move |part| refused + gap * part / parts)
    }

    /// Whether a pass lets others in at once: the same sender's mail to other recipients, anybody's from this client.
    pub fn opens(&self) -> (bool, bool) {
        let is_more = |opened: u16| opened > self.not_opened;
        (is_more(self.opened_for_sender + self.opened_for_client), is_more(self.opened_for_client))
    }

    /// Bounds of the time for which a first attempt is remembered: at least, and less than.
    pub(crate) fn window(&self) -> (Option<Duration>, Option<Duration>) {
        (self.window_min, self.window_max)
    }

    /// First contacts seen, and how many of them were refused.
    pub fn contacts(&self) -> (u16, u16) {
        (self.contacts, self.contacts_refused)
    }
}
