//! The sessions with one destination, and the entries that wait for one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::backoff::Change;
use super::candidates::Caller;
use super::crowd::{Crowd, Waits};
use super::limits::LearnedLimits;
use super::outage::{Down, Outage};
use super::smart_host::Carrier;
use crate::clock::Timestamp;
use crate::destination::route::Route;
use crate::lane::Lane;
use crate::mail::id::EntryId;
use crate::mail::registrable::registrable_domain;
use crate::queue::order::ReadyList;
use crate::smtp::client_session::Failure;

/// Sessions being opened ahead of their entries at most, with one destination.
const OPENING_MAX: usize = 8;

/// An entry on its way to a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) entry: EntryId,
    pub(super) lane: Lane,
}

/// What became of an offered entry.
pub(super) enum Placed {
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
    /// It takes this entry.
    Entry(Taken),
    /// It waits for one.
    Idle(oneshot::Receiver<Taken>),
    /// It ends: there are more sessions than the destination bears.
    Leave,
}

/// One destination.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) destination: Arc<str>,
    /// The smart host that it is, if it is one.
    pub(super) carrier: Option<Arc<Carrier>>,
    /// It stands among those that wait for a place.
    is_hungry: AtomicBool,
    /// Sessions begun without an attempt so far.
    turns: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    route: Arc<Route>,
    ready: ReadyList,
    /// Sessions without work, the one used last at the end.
    idle: Vec<oneshot::Sender<Taken>>,
    /// All sessions, those being opened included.
    sessions: usize,
    /// Sessions being opened without an entry of their own.
    opening: usize,
    /// Sessions busy with entries, and with entries of lower lanes.
    busy: usize,
    busy_lower: usize,
    limits: LearnedLimits,
    outage: Outage,
    crowd: Crowd,
    /// For whom the last message was taken.
    last_caller: Option<Caller>,
    retired: bool,
}

impl State {
    fn next(&mut self) -> Option<Taken> {
        let (lane, entry) = if self.busy_lower < self.limits.lower_max() {
            self.ready.pop()?
        } else {
            (Lane::Otp, self.ready.pop_urgent()?)
        };
        self.started(lane);
        Some(Taken { entry, lane })
    }

    fn started(&mut self, lane: Lane) {
        self.busy += 1;
        self.busy_lower += usize::from(lane != Lane::Otp);
    }

    fn finished(&mut self, lane: Option<Lane>) {
        self.busy -= usize::from(lane.is_some());
        self.busy_lower -= usize::from(lane.is_some_and(|lane| lane != Lane::Otp));
    }

    /// Opens one more session, if there may be one.
    fn open(&mut self, take_connection: impl FnOnce() -> bool) -> bool {
        let may = self.sessions < self.limits.sessions_max() && take_connection();
        self.sessions += usize::from(may);
        may
    }

    /// Begins to open one more session ahead of its entry.
    fn prepare(&mut self, take_connection: impl FnOnce() -> bool) -> bool {
        let may =
            !self.retired && self.outage.down().is_none() && self.opening < OPENING_MAX && self.open(take_connection);
        self.opening += usize::from(may);
        may
    }

    fn wants_session(&self) -> bool {
        let has_next = self.busy_lower < self.limits.lower_max() || self.ready.most_urgent() == Some(Lane::Otp);
        self.ready.len() > self.opening && has_next
    }

    fn drop_ended(&mut self) {
        self.idle.retain(|idle| !idle.is_closed());
    }
}

impl Site {
    /// A site without sessions.
    pub(super) fn new(route: Arc<Route>, sessions_max: usize) -> Self {
        Self {
            destination: route.destination.clone(),
            carrier: None,
            is_hungry: AtomicBool::new(false),
            turns: AtomicU32::new(0),
            state: Mutex::new(State {
                route,
                ready: ReadyList::default(),
                idle: Vec::new(),
                sessions: 0,
                opening: 0,
                busy: 0,
                busy_lower: 0,
                limits: LearnedLimits::new(sessions_max),
                outage: Outage::default(),
                crowd: Crowd::default(),
                last_caller: None,
                retired: false,
            }),
        }
    }

    /// The site of a smart host.
    pub(super) fn of_carrier(carrier: Arc<Carrier>, route: Arc<Route>, sessions_max: usize) -> Self {
        Self { destination: carrier.site(), carrier: Some(carrier), ..Self::new(route, sessions_max) }
    }

    /// Hands an entry to an idle session, or finds it another way.
    pub(super) fn place(
        &self,
        mut taken: Taken,
        expires_at: Timestamp,
        route: &Arc<Route>,
        now: Instant,
        take_connection: impl FnOnce() -> bool,
    ) -> Placed {
        let mut state = self.state.lock();
        if state.retired {
            return Placed::Retired;
        }
        state.route = route.clone();
        let at_once = state.busy + state.ready.len() + 1;
        state.limits.came(at_once, now);
        let may_start = taken.lane == Lane::Otp || state.busy_lower < state.limits.lower_max();
        while may_start && let Some(idle) = state.idle.pop() {
            match idle.send(taken) {
                Ok(()) => {
                    state.started(taken.lane);
                    return Placed::Handed;
                }
                Err(returned) => taken = returned,
            }
        }
        if may_start && state.opening > state.ready.len() {
            state.ready.insert(taken.lane, expires_at, taken.entry);
            return Placed::Coming;
        }
        let has_slot = may_start && state.sessions < state.limits.sessions_max();
        if has_slot && state.open(take_connection) {
            state.started(taken.lane);
            return Placed::Start;
        }
        state.ready.insert(taken.lane, expires_at, taken.entry);
        Placed::Waits { for_connection: has_slot }
    }

    /// Begins to open a session for an entry that is about to come, unless one is at hand. The caller opens it.
    pub(super) fn prepare(&self, take_connection: impl FnOnce() -> bool) -> bool {
        let mut state = self.state.lock();
        state.drop_ended();
        let is_at_hand = !state.idle.is_empty() || state.opening > state.ready.len();
        !is_at_hand && state.prepare(take_connection)
    }

    /// Begins to open sessions until as many are there as were needed of late; how many the caller has to open.
    pub(super) fn prepare_top_up(&self, mut take_connection: impl FnMut() -> bool) -> usize {
        let mut state = self.state.lock();
        let wanted = state.limits.sessions_wanted();
        let mut spares = 0;
        while state.sessions < wanted && state.prepare(&mut take_connection) {
            spares += 1;
        }
        spares
    }

    /// Begins to open a session in place of the last one, which has ended at rest, where the next entry is to be
    /// expected; `most`: how long sessions are kept at most. The caller opens it, as the last one whose message was
    /// taken would.
    pub(super) fn replace(
        &self,
        most: Duration,
        now: Instant,
        take_connection: impl FnOnce() -> bool,
    ) -> Option<Caller> {
        let mut state = self.state.lock();
        let is_wanted = state.sessions == 0 && state.limits.bears_rest(now) && state.limits.expects_another(most, now);
        let caller = state.last_caller.clone().filter(|_| is_wanted)?;
        state.prepare(take_connection).then_some(caller)
    }

    /// A session that was opened ahead is there.
    pub(super) fn opened(&self) {
        self.state.lock().opening -= 1;
    }

    /// A session that was opened ahead did not come about. Who waited for it takes its place, else it is over.
    pub(super) fn not_opened(&self) -> Option<Taken> {
        let mut state = self.state.lock();
        state.opening -= 1;
        let next = if state.sessions > state.limits.sessions_max() { None } else { state.next() };
        state.sessions -= usize::from(next.is_none());
        next
    }

    /// The next entry for a session that has finished one of `finished`, or a promise of one.
    pub(super) fn next_or_idle(&self, finished: Option<Lane>) -> Next {
        let mut state = self.state.lock();
        state.finished(finished);
        if state.sessions > state.limits.sessions_max() {
            return Next::Leave;
        }
        if let Some(next) = state.next() {
            return Next::Entry(next);
        }
        let (sender, receiver) = oneshot::channel();
        state.drop_ended();
        state.idle.push(sender);
        Next::Idle(receiver)
    }

    /// The next entry for a session that has no connection; if there is none, or there are too many sessions, it is
    /// over.
    pub(super) fn next_or_leave(&self, finished: Option<Lane>) -> Option<Taken> {
        let mut state = self.state.lock();
        state.finished(finished);
        let next = if state.sessions > state.limits.sessions_max() { None } else { state.next() };
        state.sessions -= usize::from(next.is_none());
        next
    }

    /// A session ended in the middle of its work.
    pub(super) fn leave(&self, busy: Option<Lane>, is_opening: bool) {
        let mut state = self.state.lock();
        state.finished(busy);
        state.opening -= usize::from(is_opening);
        state.sessions -= 1;
    }

    /// Starts a session for an entry that waits, if there may be one more.
    pub(super) fn start_waiting(&self, take_connection: impl FnOnce() -> bool) -> Option<Taken> {
        let mut state = self.state.lock();
        if !state.wants_session() || !state.open(take_connection) {
            return None;
        }
        state.next()
    }

    /// Counts a session beside one that has an entry and is slow, if there may be one more. It need not be with the same
    /// host, so only the limits that the operator sets count.
    pub(super) fn join(&self, take_connection: impl FnOnce() -> bool) -> bool {
        let mut state = self.state.lock();
        let may = state.sessions < state.limits.window.most() && take_connection();
        state.sessions += usize::from(may);
        may
    }

    /// Whether an entry waits for a session that is being opened.
    pub(super) fn is_awaited(&self) -> bool {
        !self.state.lock().ready.is_empty()
    }

    /// Whether an entry waits that a session more could take.
    pub(super) fn wants_session(&self) -> bool {
        let state = self.state.lock();
        state.wants_session() && state.sessions < state.limits.sessions_max()
    }

    /// Notes that it waits for a place; whether that is news.
    pub(super) fn begins_to_wait(&self) -> bool {
        !self.is_hungry.swap(true, Ordering::Relaxed)
    }

    /// Notes that it does not wait for a place any more.
    pub(super) fn ends_to_wait(&self) {
        self.is_hungry.store(false, Ordering::Relaxed);
    }

    /// The route to its hosts, as last found.
    pub(super) fn route(&self) -> Arc<Route> {
        self.state.lock().route.clone()
    }

    pub(super) fn is_retired(&self) -> bool {
        self.state.lock().retired
    }

    /// Retires a site with neither sessions nor entries, and nobody who waits for it to come back.
    pub(super) fn retire_if_empty(&self) -> bool {
        let mut state = self.state.lock();
        state.retired = state.sessions == 0 && state.ready.is_empty() && state.outage.down().is_none();
        state.retired
    }
}

/// What is learned of it.
impl Site {
    /// A message was taken, at an attempt that began at `began`; says whether one that waits may get a session more.
    pub(super) fn succeeded(&self, caller: Caller, began: Instant, now: Instant) -> bool {
        let domain = registrable(&caller);
        let mut state = self.state.lock();
        state.last_caller = Some(caller);
        let is_full = state.busy >= state.limits.sessions_max() || !state.ready.is_empty();
        state.limits.window.succeeded(&domain, is_full, began, now)
    }

    /// It was too much for the host, at an attempt for this caller that began at `began`.
    pub(super) fn overloaded(&self, caller: &Caller, began: Instant, now: Instant) {
        let domain = registrable(caller);
        self.state.lock().limits.window.overloaded(&domain, began, now);
    }

    /// A connection was turned away. If other sessions are there, as many are taken from now on, and `tell` hears whether
    /// that is news; whether there are others.
    pub(super) fn turned_away(&self, tell: impl FnOnce(bool)) -> bool {
        let mut state = self.state.lock();
        // One is its own.
        let others = state.sessions.saturating_sub(1);
        if others > 0 {
            let is_news = state.limits.turned_away(others);
            drop(state);
            tell(is_news);
        }
        others > 0
    }

    /// An entry was turned away, whose next attempt would be due at `planned`; whether it waits.
    pub(super) fn waits(&self, entry: EntryId, planned: Instant, now: Instant) -> Waits {
        self.state.lock().crowd.turned_away(entry, planned, now)
    }

    /// Whether an entry waits since it was turned away.
    pub(super) fn was_turned_away(&self, entry: &EntryId) -> bool {
        self.state.lock().crowd.holds(entry)
    }

    /// An attempt came to an outcome.
    pub(super) fn concluded(&self, entry: &EntryId) {
        self.state.lock().crowd.left(entry);
    }

    /// Lets it have one session more than it took.
    pub(super) fn let_one_more(&self) {
        self.state.lock().limits.let_one_more();
    }

    /// What it took when it turned others away counts no more.
    pub(super) fn forget_cap(&self) {
        self.state.lock().limits.forget_cap();
    }

    /// There are to be so many sessions at most; more than before are not granted.
    pub(super) fn limit(&self, sessions_max: usize) {
        self.state.lock().limits.window.limit(sessions_max);
    }

    /// How long a session rests for the next entry; `most`: at most.
    pub(super) fn rest(&self, most: Duration, now: Instant) -> Duration {
        self.state.lock().limits.rest(most, now)
    }

    /// The host ended a session that had been idle for so long.
    pub(super) fn ended_at_rest(&self, after: Duration, now: Instant) {
        self.state.lock().limits.ended_at_rest(after, now);
    }

    /// A session that had been idle for so long still worked.
    pub(super) fn woke_after(&self, rest: Duration) {
        self.state.lock().limits.woke_after(rest);
    }

    /// The host ended a session after so many transactions.
    pub(super) fn ended_after(&self, transactions: u32) {
        self.state.lock().limits.ended_after(transactions);
    }

    /// Whether a session with so many transactions can carry another.
    pub(super) fn allows_another(&self, transactions: u32) -> bool {
        self.state.lock().limits.allows_another(transactions)
    }

    /// What the last attempt came to, if the destination counts as down.
    pub(super) fn down(&self) -> Option<Down> {
        self.state.lock().outage.down().cloned()
    }

    /// Whether the destination counts as down.
    pub(super) fn is_down(&self) -> bool {
        self.state.lock().outage.down().is_some()
    }

    /// Nobody answered. News: the destination counts as down from now on.
    pub(super) fn failed(&self, last: Option<(Arc<str>, Failure)>, caller: &Caller, now: Instant) -> Change {
        self.state.lock().outage.failed(last, caller, now)
    }

    /// The number of a session without an attempt of its own, as `Candidates::take_turn` counts attempts.
    pub(super) fn next_turn(&self) -> u32 {
        self.turns.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// An entry waits for the destination to come back.
    pub(super) fn wait(&self, entry: EntryId) {
        self.state.lock().outage.wait(entry);
    }

    /// Somebody answered; whoever waited for it.
    pub(super) fn answered(&self) -> Vec<EntryId> {
        self.state.lock().outage.answered()
    }

    /// When the next look whether it is back is due; none if it does not count as down.
    pub(super) fn next_look_at(&self, now: Instant) -> Option<Instant> {
        self.state.lock().outage.next_look_at(now)
    }

    /// Begins to open a session to look whether it is back, while somebody waits for that.
    pub(super) fn look(
        &self,
        is_there: impl FnMut(&EntryId) -> bool,
        now: Instant,
        take_connection: impl FnOnce() -> bool,
    ) -> Look {
        let mut state = self.state.lock();
        let Some(caller) = state.outage.look(is_there, now) else { return Look::NoMore };
        if !state.open(take_connection) {
            return Look::Later;
        }
        state.opening += 1;
        Look::Open(caller)
    }
}

fn registrable(caller: &Caller) -> Arc<str> {
    registrable_domain(caller.domain()).into()
}

/// Whether to look if a destination is back.
pub(super) enum Look {
    /// Open a session, for this one.
    Open(Caller),
    /// There is no room for one.
    Later,
    /// It is back, or nobody waits.
    NoMore,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::mail::address::{Mailbox, ReversePath};
    use crate::mail::id::MessageId;

    fn taken(number: u8, lane: Lane) -> Taken {
        Taken { entry: EntryId { message: MessageId::from_bytes([number; 16]), index: 0 }, lane }
    }

    fn place(site: &Site, number: u8, lane: Lane) -> Placed {
        let route = site.route();
        let now = SystemClock::default().instant();
        site.place(taken(number, lane), Timestamp::from_millis(u64::from(number)), &route, now, || true)
    }

    /// The entry that a session takes that has carried a code.
    fn next(site: &Site) -> Option<EntryId> {
        match site.next_or_idle(Some(Lane::Otp)) {
            Next::Entry(next) => Some(next.entry),
            Next::Idle(_) | Next::Leave => None,
        }
    }

    fn caller() -> Caller {
        let sender = ReversePath::parse("<otp@app.test>").unwrap();
        Caller::new(&sender, &Mailbox::parse("a@example").unwrap())
    }

    fn site(sessions_max: usize) -> Site {
        Site::new(Arc::new(Route::new("example", "mx.example", Vec::new())), sessions_max)
    }

    #[test]
    fn a_session_is_kept_for_codes() {
        let site = site(4);
        for number in 0..3 {
            assert!(matches!(place(&site, number, Lane::Notice), Placed::Start));
        }
        assert!(matches!(place(&site, 3, Lane::Notice), Placed::Waits { for_connection: false }));
        assert!(matches!(place(&site, 4, Lane::Otp), Placed::Start));
        assert!(matches!(place(&site, 5, Lane::Otp), Placed::Waits { .. }));
        // The session that carried a code takes the next code, then nothing while three carry notices.
        assert_eq!(next(&site), Some(taken(5, Lane::Otp).entry));
        assert_eq!(next(&site), None);
        assert_eq!(site.next_or_leave(Some(Lane::Notice)).unwrap().entry, taken(3, Lane::Notice).entry);
    }

    #[test]
    fn an_idle_session_gets_the_next_entry() {
        let site = site(2);
        assert!(matches!(place(&site, 1, Lane::Otp), Placed::Start));
        let Next::Idle(mut idle) = site.next_or_idle(Some(Lane::Otp)) else { panic!("there is no work") };
        assert!(matches!(place(&site, 2, Lane::Otp), Placed::Handed));
        assert_eq!(idle.try_recv().unwrap().entry, taken(2, Lane::Otp).entry);
        assert_eq!(next(&site), None);
        assert!(matches!(place(&site, 3, Lane::Otp), Placed::Start));
        assert!(!site.retire_if_empty());
    }

    #[test]
    fn a_site_without_sessions_retires() {
        let site = site(2);
        assert!(matches!(place(&site, 1, Lane::Otp), Placed::Start));
        assert!(site.next_or_leave(Some(Lane::Otp)).is_none());
        assert!(site.retire_if_empty());
        assert!(matches!(place(&site, 2, Lane::Otp), Placed::Retired));
    }

    #[test]
    fn an_entry_takes_the_session_that_is_being_opened() {
        let site = site(4);
        assert!(site.prepare(|| true));
        assert!(!site.prepare(|| true), "one is at hand");
        assert!(matches!(place(&site, 1, Lane::Otp), Placed::Coming));
        assert!(matches!(place(&site, 2, Lane::Otp), Placed::Start), "that one is spoken for");
        site.opened();
        let Next::Entry(next) = site.next_or_idle(None) else { panic!("an entry waits") };
        assert_eq!(next.entry, taken(1, Lane::Otp).entry);
    }

    #[test]
    fn an_entry_whose_session_did_not_open_makes_its_own_attempt() {
        let site = site(4);
        assert!(site.prepare(|| true));
        assert!(matches!(place(&site, 1, Lane::Otp), Placed::Coming));
        assert_eq!(site.not_opened().unwrap().entry, taken(1, Lane::Otp).entry);
        assert!(site.next_or_leave(Some(Lane::Otp)).is_none());
        assert!(site.prepare(|| true));
        assert!(site.not_opened().is_none());
        assert!(site.retire_if_empty());
    }

    #[test]
    fn spares_are_opened_where_several_entries_came_at_once() {
        let site = site(20);
        assert!(matches!(place(&site, 1, Lane::Otp), Placed::Start));
        assert_eq!(site.prepare_top_up(|| true), 0);
        assert!(matches!(place(&site, 2, Lane::Otp), Placed::Start));
        assert_eq!(site.prepare_top_up(|| true), 1);
        assert_eq!(site.prepare_top_up(|| true), 0);
        let now = SystemClock::default().instant();
        site.overloaded(&caller(), now, now);
        assert!(matches!(site.next_or_idle(Some(Lane::Otp)), Next::Leave), "more than it bears");
    }
}
