//! Not asking again and again where nobody answers: after some failures in a row a destination counts as down. Then
//! attempts end before they begin, one connection now and then looks whether it is back, and whoever waited for that is
//! called at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::candidates::Caller;
use crate::mail::id::EntryId;
use crate::smtp::client_session::Failure;

/// Attempts in a row that nobody answered after which the destination counts as down.
const FAILURES_MAX: u32 = 3;
/// Pauses before each look whether it is back, the last one repeated.
const PAUSES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];
/// Entries remembered as waiting at most; others keep to their own times.
const WAITING_MAX: usize = 10_000;

/// One destination's.
#[derive(Debug, Default)]
pub(super) struct Outage {
    failures: u32,
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
    looks: usize,
}

impl Outage {
    /// Whether the destination counts as down.
    pub(super) fn down(&self) -> Option<&Down> {
        self.down.as_ref()
    }

    /// Nobody answered; says whether the destination counts as down from now on.
    pub(super) fn failed(&mut self, last: Option<(Arc<str>, Failure)>, caller: &Caller) -> bool {
        self.failures = self.failures.saturating_add(1);
        if let Some(down) = &mut self.down {
            down.last = last;
            return false;
        }
        if self.failures < FAILURES_MAX {
            return false;
        }
        self.down = Some(Down { last, caller: caller.clone(), looks: 0 });
        true
    }

    /// An entry waits for the destination to come back.
    pub(super) fn wait(&mut self, entry: EntryId) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.insert(entry);
        }
    }

    /// Somebody answered; whoever waited for it.
    pub(super) fn answered(&mut self) -> Vec<EntryId> {
        self.failures = 0;
        self.down = None;
        std::mem::take(&mut self.waiting).into_iter().collect()
    }

    /// How long to wait before the next look; none if the destination does not count as down.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let down = self.down.as_mut()?;
        let pause = PAUSES[down.looks.min(PAUSES.len() - 1)];
        down.looks += 1;
        Some(pause)
    }

    /// Those who wait, as far as `is_there` knows them. If nobody does, nobody looks any more, and the next attempt
    /// finds out by itself.
    pub(super) fn keep_waiting(&mut self, is_there: impl FnMut(&EntryId) -> bool) -> bool {
        self.waiting.retain(is_there);
        if self.waiting.is_empty() {
            self.down = None;
            self.failures = FAILURES_MAX - 1;
        }
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::id::MessageId;

    fn entry(number: u8) -> EntryId {
        EntryId { message: MessageId::from_bytes([number; 16]), index: 0 }
    }

    fn caller() -> Caller {
        let recipient = Mailbox::parse("user@example.test").unwrap();
        Caller::new(&ReversePath::parse("<otp@app.test>").unwrap(), &recipient)
    }

    #[test]
    fn some_failures_in_a_row_mean_down_and_an_answer_calls_who_waited() {
        let mut outage = Outage::default();
        assert!(!outage.failed(None, &caller()) && !outage.failed(None, &caller()));
        assert!(outage.answered().is_empty());
        let turned: Vec<bool> = (0..4).map(|_| outage.failed(None, &caller())).collect();
        assert_eq!(turned, [false, false, true, false]);
        outage.wait(entry(1));
        outage.wait(entry(1));
        let pauses: Vec<u64> = (0..4).map(|_| outage.pause().unwrap().as_secs()).collect();
        assert_eq!(pauses, [2, 5, 10, 10]);
        assert_eq!(outage.answered(), [entry(1)]);
        assert!(outage.down().is_none() && outage.pause().is_none());
    }

    #[test]
    fn nobody_looks_when_nobody_waits() {
        let mut outage = Outage::default();
        let _: Vec<bool> = (0..3).map(|_| outage.failed(None, &caller())).collect();
        outage.wait(entry(1));
        assert!(outage.keep_waiting(|_| true));
        assert!(!outage.keep_waiting(|_| false));
        assert!(outage.down().is_none(), "the next attempt looks itself");
        assert!(outage.failed(None, &caller()), "and one failure is enough");
    }
}
