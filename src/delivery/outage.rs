//! Not asking again and again where nobody answers: after some failures in a row a destination counts as down. Then
//! attempts end before they begin, one connection now and then probes whether it is back, and whoever waited for that is
//! called at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::{Backoff, Change, Terms};
use super::caller::Caller;
use crate::mail::id::EntryId;
use crate::smtp::client_session::Failure;

/// When a destination counts as down, and the pauses before each probe whether it is back.
static TERMS: Terms = Terms {
    failures_max: 3,
    pauses: &[Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)],
    trial: Duration::ZERO,
    behind_trial: Duration::ZERO,
};
/// How long after each other the probes are while there are addresses that were not asked, and how many at most.
const LOOKS_AT_OTHERS: (Duration, u32) = (Duration::from_secs(2), 100);
/// Entries remembered as waiting at most; others keep to their own times.
const WAITING_MAX: usize = 10_000;

#[derive(Debug)]
pub(super) struct Outage {
    backoff: Backoff<Instant>,
    /// What the last attempt came to, while the destination counts as down.
    down: Option<Down>,
    /// Entries that were put off because nobody answered.
    waiting: HashSet<EntryId>,
}

/// A destination that does not answer.
#[derive(Debug, Clone)]
pub(super) struct Down {
    /// What the last attempt came to, and the host.
    pub(super) last: Option<(Arc<str>, Failure)>,
    /// For whom that was.
    pub(super) caller: Caller,
    probes_at_others: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextProbe {
    /// Addresses that were not asked.
    AtOthers,
    /// All were asked, and perhaps one is back.
    Again,
}

impl Default for Outage {
    fn default() -> Self {
        Self { backoff: Backoff::new(&TERMS), down: None, waiting: HashSet::new() }
    }
}

impl Outage {
    /// Whether the destination counts as down.
    pub(super) fn down(&self) -> Option<&Down> {
        self.down.as_ref()
    }

    /// Nobody answered. News: the destination counts as down from now on.
    pub(super) fn failed(&mut self, last: Option<(Arc<str>, Failure)>, caller: &Caller, now: Instant) -> Change {
        if let Some(down) = &mut self.down {
            down.last = last;
            return Change::None;
        }
        let change = self.backoff.failed(now);
        if change == Change::News {
            self.down = Some(Down { last, caller: caller.clone(), probes_at_others: 0 });
        }
        change
    }

    /// An entry waits for the destination to come back.
    pub(super) fn wait(&mut self, entry: EntryId) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.insert(entry);
        }
    }

    /// Somebody answered; whoever waited for it.
    pub(super) fn answered(&mut self) -> Vec<EntryId> {
        self.backoff.succeeded();
        self.down = None;
        std::mem::take(&mut self.waiting).into_iter().collect()
    }

    /// When the next probe is due; none if the destination does not count as down. A probe that was made has not helped then.
    pub(super) fn next_probe_at(&mut self, next: NextProbe, now: Instant) -> Option<Instant> {
        if self.backoff.is_on_trial() {
            self.backoff.failed(now);
        }
        let (pause, most) = LOOKS_AT_OTHERS;
        if let Some(down) =
            self.down.as_mut().filter(|down| next == NextProbe::AtOthers && down.probes_at_others < most)
        {
            down.probes_at_others += 1;
            self.backoff.no_later_than(now + pause);
        }
        self.backoff.until()
    }

    /// Probes whether the destination is back, if it counts as down and any of those who wait is still there, as `is_there`
    /// knows. If none is, nobody probes any more, and the next attempt finds out by itself. For whom the session is to be.
    pub(super) fn probe(&mut self, is_there: impl FnMut(&EntryId) -> bool, now: Instant) -> Option<Caller> {
        let caller = self.down.as_ref()?.caller.clone();
        self.waiting.retain(is_there);
        if self.waiting.is_empty() {
            self.down = None;
            self.backoff.close_on_the_verge();
            return None;
        }
        // It is due, or it would not be made.
        let _ = self.backoff.enter(now);
        Some(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::id::MessageId;

    fn entry(number: u8) -> EntryId {
        EntryId { message: MessageId::from_bytes([number; 16]), index: 0 }
    }

    fn caller() -> Caller {
        let recipient = Mailbox::parse("user@example.test").unwrap();
        Caller::new(&ReversePath::parse("<otp@app.test>").unwrap(), &recipient, recipient.domain_key())
    }

    fn is_down_after(outage: &mut Outage, now: Instant) -> bool {
        outage.failed(None, &caller(), now) == Change::News
    }

    #[test]
    fn some_failures_in_a_row_mean_down_and_an_answer_calls_who_waited() {
        let (mut outage, start) = (Outage::default(), SystemClock::default().instant());
        assert!(!is_down_after(&mut outage, start) && !is_down_after(&mut outage, start));
        assert!(outage.answered().is_empty());
        let turned: Vec<bool> = (0..4).map(|_| is_down_after(&mut outage, start)).collect();
        assert_eq!(turned, [false, false, true, false]);
        outage.wait(entry(1));
        outage.wait(entry(1));
        let mut now = start;
        let pauses: Vec<u64> = (0..4)
            .map(|_| {
                let next = outage.next_probe_at(NextProbe::Again, now).unwrap();
                assert!(outage.probe(|_| true, next).is_some());
                (next - std::mem::replace(&mut now, next)).as_secs()
            })
            .collect();
        assert_eq!(pauses, [2, 5, 10, 10]);
        let pauses: Vec<u64> = (0..101)
            .map(|_| {
                let next = outage.next_probe_at(NextProbe::AtOthers, now).unwrap();
                assert!(outage.probe(|_| true, next).is_some());
                (next - std::mem::replace(&mut now, next)).as_secs()
            })
            .collect();
        assert!(pauses[..100].iter().all(|pause| *pause == 2), "{pauses:?}");
        assert_eq!(pauses[100], 10, "and no more than that");
        assert!(!is_down_after(&mut outage, now), "a probe that failed is no news");
        assert_eq!(outage.answered(), [entry(1)]);
        assert!(outage.down().is_none() && outage.next_probe_at(NextProbe::Again, now).is_none());
    }

    #[test]
    fn nobody_looks_when_nobody_waits() {
        let (mut outage, start) = (Outage::default(), SystemClock::default().instant());
        let _: Vec<bool> = (0..3).map(|_| is_down_after(&mut outage, start)).collect();
        outage.wait(entry(1));
        assert!(outage.probe(|_| true, start).is_some());
        assert!(outage.probe(|_| false, start).is_none());
        assert!(outage.down().is_none(), "the next attempt finds out itself");
        assert!(is_down_after(&mut outage, start), "and one failure is enough");
    }
}
