//! Destinations that take few connections at once, and turn others away: before MAIL that is no outcome while a session
//! with the destination is there. The entry waits for that session, until its next attempt would be due at most, and the
//! number of sessions goes to what is there.

use std::time::Instant;

use super::judged_failure::JudgedFailure;
use crate::base::bounded::Bounded;
use crate::event::cause::Cause;
use crate::mail::id::EntryId;
use crate::smtp::client_session::{Fault, Stage};
use crate::smtp::reply::Severity;

/// Entries that wait at most; others are put off.
const WAITING_MAX: usize = 1_000;

/// The entries of one destination that were turned away.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    waiting: Bounded<EntryId, Instant, WAITING_MAX>,
}

/// Whether an entry that was turned away waits for a session that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    Until(Instant),
    /// It has begun to before.
    Still,
    /// It has waited long enough: that it was turned away is how its attempt ended.
    No,
}

impl Crowd {
    /// An entry was turned away, whose next attempt would be due at `planned`.
    pub(super) fn turned_away(&mut self, entry: EntryId, planned: Instant, now: Instant) -> Waits {
        if let Some(until) = self.waiting.get(&entry) {
            if *until > now {
                return Waits::Still;
            }
            self.waiting.remove(&entry);
            return Waits::No;
        }
        if planned <= now || !self.waiting.has_room_for(&entry, |until| *until <= now) {
            return Waits::No;
        }
        self.waiting.insert(entry, planned, |_| false);
        Waits::Until(planned)
    }

    /// Whether an entry waits.
    pub(super) fn holds(&self, entry: &EntryId) -> bool {
        self.waiting.contains_key(entry)
    }

    /// An attempt came to an outcome.
    pub(super) fn left(&mut self, entry: &EntryId) {
        self.waiting.remove(entry);
    }
}

/// The host has enough connections: 421, any refusal for now or for a rate, or a close, before MAIL.
pub(super) fn is_turned_away(JudgedFailure { failure, verdict }: &JudgedFailure) -> bool {
    let is_early = matches!(failure.stage, Stage::Banner | Stage::Ehlo);
    is_early
        && match &failure.fault {
            Fault::Reply(reply) => match reply.severity() {
                Severity::Transient => true,
                Severity::Success | Severity::Intermediate | Severity::Permanent => verdict.cause == Cause::RateLimited,
            },
            Fault::Closed => true,
            Fault::Timeout | Fault::Malformed(_) | Fault::Unsupported(_) | Fault::Tls(_) | Fault::Ours(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};
    use crate::mail::id::MessageId;
    use crate::smtp::client_session::Failure;
    use crate::smtp::reply::Reply;

    const LONG: Duration = Duration::from_secs(600);

    fn entry(number: u16) -> EntryId {
        EntryId { message: MessageId::from_bytes([7; 16]), index: number }
    }

    #[test]
    fn an_entry_waits_once_and_until_its_next_attempt_would_be_due() {
        let (mut crowd, start) = (Crowd::default(), SystemClock::default().instant());
        let later = start + Duration::from_secs(5);
        assert_eq!(crowd.turned_away(entry(1), later, start), Waits::Until(later));
        assert_eq!(crowd.turned_away(entry(1), later + LONG, start), Waits::Still);
        assert!(crowd.holds(&entry(1)));
        assert_eq!(crowd.turned_away(entry(1), later + LONG, later), Waits::No);
        assert!(!crowd.holds(&entry(1)), "the next attempt is another one");
        assert_eq!(crowd.turned_away(entry(2), start, start), Waits::No);
        crowd.turned_away(entry(3), later, start);
        crowd.left(&entry(3));
        assert!(!crowd.holds(&entry(3)));
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let (mut crowd, start) = (Crowd::default(), SystemClock::default().instant());
        let later = start + Duration::from_secs(5);
        let waits = (0..1005).filter(|n| crowd.turned_away(entry(*n), later, start) != Waits::No).count();
        assert_eq!(waits, WAITING_MAX);
        assert_eq!(crowd.turned_away(entry(2000), later + LONG, later), Waits::Until(later + LONG));
    }

    #[test]
    fn what_turns_a_connection_away() {
        let reply = |code, text: &'static str| Fault::Reply(Reply::plain(code, text));
        let cases = [
            (Stage::Banner, reply(421, "4.7.0 too many connections"), true),
            (Stage::Banner, reply(450, "later"), true),
            (Stage::Ehlo, reply(421, "4.7.0 too many connections"), true),
            (Stage::Banner, reply(554, "5.7.1 go away"), false),
            (Stage::Banner, Fault::Closed, true),
            (Stage::Ehlo, Fault::Closed, true),
            (Stage::Connect, Fault::Closed, false),
            (Stage::Banner, Fault::Timeout, false),
            (Stage::Mail, reply(421, "4.7.0 too many connections"), false),
        ];
        for (stage, fault, expected) in cases {
            assert_eq!(
                is_turned_away(&Failure { stage, fault: fault.clone() }.into()),
                expected,
                "{stage:?} {fault:?}"
            );
        }
    }
}
