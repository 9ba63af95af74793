//! The sessions with one destination, and the entries that wait for one of them, as a value.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::caller::Caller;
use super::limits::LearnedLimits;
use crate::base::clock::Timestamp;
use crate::base::lane::Lane;
use crate::mail::id::EntryId;
use crate::queue::order::ReadyList;

/// Sessions being prewarmed at most, with one destination.
const OPENING_MAX: usize = 8;

/// An entry on its way to a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assignment {
    pub(super) entry: EntryId,
    pub(super) lane: Lane,
}

/// What became of an offered entry.
pub(super) enum Placement {
    /// An idle session has it.
    Handed,
    /// A session that is being opened will take it.
    Coming,
    /// The caller has to start a session with it.
    Start,
    /// It waits; for a connection within the limit of the whole relay, or for a session here.
    Waits { for_connection: bool },
    /// The site is gone; ask for the new one.
    Retired,
}

/// What a session without work does.
pub(super) enum Next {
    Entry(Assignment),
    Idle(oneshot::Receiver<Assignment>),
    /// It ends: there are more sessions than the destination allows.
    Leave,
}

#[derive(Debug)]
pub(super) struct Sessions {
    ready: ReadyList,
    /// Sessions without work, the one used last at the end.
    idle: Vec<oneshot::Sender<Assignment>>,
    /// All sessions, those being opened included.
    all: usize,
    /// Sessions being opened without an entry of their own.
    opening: usize,
    /// Sessions busy with entries, and with entries of lower lanes.
    busy: usize,
    busy_lower: usize,
    pub(super) limits: LearnedLimits,
    /// For whom the last message was taken.
    last_caller: Option<Caller>,
    is_retired: bool,
}

impl Sessions {
    /// None yet; so many at most.
    pub(super) fn new(most: usize) -> Self {
        Self {
            ready: ReadyList::default(),
            idle: Vec::new(),
            all: 0,
            opening: 0,
            busy: 0,
            busy_lower: 0,
            limits: LearnedLimits::new(most),
            last_caller: None,
            is_retired: false,
        }
    }

    /// Hands an entry to an idle session, or finds it another way.
    pub(super) fn place(
        &mut self,
        mut taken: Assignment,
        expires_at: Timestamp,
        now: Instant,
        take_connection: impl FnOnce() -> bool,
    ) -> Placement {
        if self.is_retired {
            return Placement::Retired;
        }
        let at_once = self.busy + self.ready.len() + 1;
        self.limits.came(at_once, now);
        let may_start = taken.lane.rules().has_reserved_sessions || self.busy_lower < self.limits.lower_max();
        while may_start && let Some(idle) = self.idle.pop() {
            match idle.send(taken) {
                Ok(()) => {
                    self.started(taken.lane);
                    return Placement::Handed;
                }
                Err(returned) => taken = returned,
            }
        }
        if may_start && self.opening > self.ready.len() {
            self.ready.insert(taken.lane, expires_at, taken.entry);
            return Placement::Coming;
        }
        let has_slot = may_start && self.all < self.limits.sessions_max();
        if has_slot && self.open(take_connection) {
            self.started(taken.lane);
            return Placement::Start;
        }
        self.ready.insert(taken.lane, expires_at, taken.entry);
        Placement::Waits { for_connection: has_slot }
    }

    /// Whether a session is there, or about to be, for one more entry.
    pub(super) fn has_one_at_hand(&mut self) -> bool {
        self.drop_ended();
        !self.idle.is_empty() || self.opening > self.ready.len()
    }

    /// Whether fewer are there than were needed of late.
    pub(super) fn are_too_few(&self) -> bool {
        self.all < self.limits.sessions_wanted()
    }

    /// Begins to prewarm one more session. The caller opens it.
    pub(super) fn prepare(&mut self, take_connection: impl FnOnce() -> bool) -> bool {
        let may = !self.is_retired && self.opening < OPENING_MAX && self.open(take_connection);
        self.opening += usize::from(may);
        may
    }

    /// Begins to open a session to look whether the destination is back. The caller opens it.
    pub(super) fn prepare_probe(&mut self, take_connection: impl FnOnce() -> bool) -> bool {
        let may = self.open(take_connection);
        self.opening += usize::from(may);
        may
    }

    /// For whom a session is to take the place of the last one, which has ended at rest: where the next entry is to be
    /// expected, for the last one whose message was taken. `most`: how long sessions are kept at most.
    pub(super) fn wanted_by(&self, most: Duration, now: Instant) -> Option<Caller> {
        let is_wanted = self.all == 0 && self.limits.allows_rest(now) && self.limits.expects_another(most, now);
        self.last_caller.clone().filter(|_| is_wanted)
    }

    /// A prewarmed session is there.
    pub(super) fn opened(&mut self) {
        self.opening -= 1;
    }

    /// A prewarmed session did not come about. Who waited for it takes its place, else it is over.
    pub(super) fn not_opened(&mut self) -> Option<Assignment> {
        self.opening -= 1;
        let next = if self.all > self.limits.sessions_max() { None } else { self.next() };
        self.all -= usize::from(next.is_none());
        next
    }

    /// The next entry for a session that has finished one of `finished`, or a promise of one.
    pub(super) fn next_or_idle(&mut self, finished: Option<Lane>) -> Next {
        self.finished(finished);
        if self.all > self.limits.sessions_max() {
            return Next::Leave;
        }
        if let Some(next) = self.next() {
            return Next::Entry(next);
        }
        let (sender, receiver) = oneshot::channel();
        self.drop_ended();
        self.idle.push(sender);
        Next::Idle(receiver)
    }

    /// The next entry for a session that has no connection; if there is none, or there are too many sessions, it is
    /// over.
    pub(super) fn next_or_leave(&mut self, finished: Option<Lane>) -> Option<Assignment> {
        self.finished(finished);
        let next = if self.all > self.limits.sessions_max() { None } else { self.next() };
        self.all -= usize::from(next.is_none());
        next
    }

    /// A session ended in the middle of its work.
    pub(super) fn leave(&mut self, busy: Option<Lane>, is_opening: bool) {
        self.finished(busy);
        self.opening -= usize::from(is_opening);
        self.all -= 1;
    }

    /// Starts a session for an entry that waits, if there may be one more.
    pub(super) fn start_waiting(&mut self, take_connection: impl FnOnce() -> bool) -> Option<Assignment> {
        if !self.has_next() || !self.open(take_connection) {
            return None;
        }
        self.next()
    }

    /// Counts a session beside one that has an entry and is slow, if there may be one more. It need not be with the same
    /// host, so only the limits that the operator sets count.
    pub(super) fn join(&mut self, take_connection: impl FnOnce() -> bool) -> bool {
        let may = self.all < self.limits.window.most() && take_connection();
        self.all += usize::from(may);
        may
    }

    /// Whether an entry waits for a session that is being opened.
    pub(super) fn is_awaited(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether an entry waits that a session more could take.
    pub(super) fn wants_session(&self) -> bool {
        self.has_next() && self.all < self.limits.sessions_max()
    }

    /// A message was taken, for this caller. Whether all sessions are needed.
    pub(super) fn took(&mut self, caller: Caller) -> bool {
        self.last_caller = Some(caller);
        self.busy >= self.limits.sessions_max() || !self.ready.is_empty()
    }

    /// Sessions, those being opened included.
    pub(super) fn count(&self) -> usize {
        self.all
    }

    /// Sessions beside the one that asks.
    pub(super) fn others(&self) -> usize {
        self.all.saturating_sub(1)
    }

    /// Whether its site is to be used no more.
    pub(super) fn is_retired(&self) -> bool {
        self.is_retired
    }

    /// Whether there are neither sessions nor entries.
    pub(super) fn is_empty(&self) -> bool {
        self.all == 0 && self.ready.is_empty()
    }

    pub(super) fn retire(&mut self) {
        self.is_retired = true;
    }

    fn next(&mut self) -> Option<Assignment> {
        let may_be_lower = self.busy_lower < self.limits.lower_max();
        let (lane, entry) = if may_be_lower { self.ready.pop()? } else { self.ready.pop_reserved()? };
        self.started(lane);
        Some(Assignment { entry, lane })
    }

    fn started(&mut self, lane: Lane) {
        self.busy += 1;
        self.busy_lower += usize::from(!lane.rules().has_reserved_sessions);
    }

    fn finished(&mut self, lane: Option<Lane>) {
        self.busy -= usize::from(lane.is_some());
        self.busy_lower -= usize::from(lane.is_some_and(|lane| !lane.rules().has_reserved_sessions));
    }

    /// Opens one more session, if there may be one.
    fn open(&mut self, take_connection: impl FnOnce() -> bool) -> bool {
        let may = self.all < self.limits.sessions_max() && take_connection();
        self.all += usize::from(may);
        may
    }

    fn has_next(&self) -> bool {
        let has_next = self.busy_lower < self.limits.lower_max()
            || self.ready.most_urgent().is_some_and(|lane| lane.rules().has_reserved_sessions);
        self.ready.len() > self.opening && has_next
    }

    fn drop_ended(&mut self) {
        self.idle.retain(|idle| !idle.is_closed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock as _, SystemClock};
    use crate::mail::id::MessageId;

    fn taken(number: u8, lane: Lane) -> Assignment {
        Assignment { entry: EntryId { message: MessageId::from_bytes([number; 16]), index: 0 }, lane }
    }

    fn place(sessions: &mut Sessions, number: u8, lane: Lane) -> Placement {
        let now = SystemClock::default().instant();
        sessions.place(taken(number, lane), Timestamp::from_millis(u64::from(number)), now, || true)
    }

    /// The entry that a session takes that has carried a code.
    fn next(sessions: &mut Sessions) -> Option<EntryId> {
        match sessions.next_or_idle(Some(Lane::Otp)) {
            Next::Entry(next) => Some(next.entry),
            Next::Idle(_) | Next::Leave => None,
        }
    }

    #[test]
    fn a_session_is_kept_for_codes() {
        let mut sessions = Sessions::new(4);
        for number in 0..3 {
            assert!(matches!(place(&mut sessions, number, Lane::Notice), Placement::Start));
        }
        assert!(matches!(place(&mut sessions, 3, Lane::Notice), Placement::Waits { for_connection: false }));
        assert!(matches!(place(&mut sessions, 4, Lane::Otp), Placement::Start));
        assert!(matches!(place(&mut sessions, 5, Lane::Otp), Placement::Waits { .. }));
        // The session that carried a code takes the next code, then nothing while three carry notices.
        assert_eq!(next(&mut sessions), Some(taken(5, Lane::Otp).entry));
        assert_eq!(next(&mut sessions), None);
        assert_eq!(sessions.next_or_leave(Some(Lane::Notice)).unwrap().entry, taken(3, Lane::Notice).entry);
    }

    #[test]
    fn an_idle_session_gets_the_next_entry() {
        let mut sessions = Sessions::new(2);
        assert!(matches!(place(&mut sessions, 1, Lane::Otp), Placement::Start));
        let Next::Idle(mut idle) = sessions.next_or_idle(Some(Lane::Otp)) else { panic!("there is no work") };
        assert!(matches!(place(&mut sessions, 2, Lane::Otp), Placement::Handed));
        assert_eq!(idle.try_recv().unwrap().entry, taken(2, Lane::Otp).entry);
        assert_eq!(next(&mut sessions), None);
        assert!(matches!(place(&mut sessions, 3, Lane::Otp), Placement::Start));
        assert!(!sessions.is_empty());
    }

    #[test]
    fn a_site_without_sessions_retires() {
        let mut sessions = Sessions::new(2);
        assert!(matches!(place(&mut sessions, 1, Lane::Otp), Placement::Start));
        assert!(sessions.next_or_leave(Some(Lane::Otp)).is_none());
        assert!(sessions.is_empty());
        sessions.retire();
        assert!(matches!(place(&mut sessions, 2, Lane::Otp), Placement::Retired));
    }

    #[test]
    fn an_entry_takes_the_session_that_is_being_opened() {
        let mut sessions = Sessions::new(4);
        assert!(sessions.prepare(|| true));
        assert!(sessions.has_one_at_hand());
        assert!(matches!(place(&mut sessions, 1, Lane::Otp), Placement::Coming));
        assert!(matches!(place(&mut sessions, 2, Lane::Otp), Placement::Start), "that one is spoken for");
        sessions.opened();
        let Next::Entry(next) = sessions.next_or_idle(None) else { panic!("an entry waits") };
        assert_eq!(next.entry, taken(1, Lane::Otp).entry);
    }

    #[test]
    fn an_entry_whose_session_did_not_open_makes_its_own_attempt() {
        let mut sessions = Sessions::new(4);
        assert!(sessions.prepare(|| true));
        assert!(matches!(place(&mut sessions, 1, Lane::Otp), Placement::Coming));
        assert_eq!(sessions.not_opened().unwrap().entry, taken(1, Lane::Otp).entry);
        assert!(sessions.next_or_leave(Some(Lane::Otp)).is_none());
        assert!(sessions.prepare(|| true));
        assert!(sessions.not_opened().is_none());
        assert!(sessions.is_empty());
    }

    #[test]
    fn more_are_opened_where_several_entries_came_at_once() {
        let mut sessions = Sessions::new(20);
        assert!(matches!(place(&mut sessions, 1, Lane::Otp), Placement::Start));
        assert!(!sessions.are_too_few());
        assert!(matches!(place(&mut sessions, 2, Lane::Otp), Placement::Start));
        assert!(sessions.are_too_few() && sessions.prepare(|| true));
        assert!(!sessions.are_too_few());
        let now = SystemClock::default().instant();
        sessions.limits.window.overloaded(&"example".into(), now, now);
        assert!(matches!(sessions.next_or_idle(Some(Lane::Otp)), Next::Leave), "more than it allows");
    }
}
