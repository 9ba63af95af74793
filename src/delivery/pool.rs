//! The sessions with one destination, and the entries that wait for one of them.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::destination::mx::Route;
use crate::lane::Lane;
use crate::mail::id::EntryId;
use crate::queue::order::ReadyList;

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
    /// The caller has to start a session with it.
    Start,
    /// It waits; for a connection within the limit of the whole relay, or for a session here.
    Waits { for_connection: bool },
    /// The site is gone; ask for the new one.
    Retired,
}

/// One destination.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) destination: Arc<str>,
    sessions_max: usize,
    /// Sessions that entries of lower lanes may use; the rest is kept for codes.
    lower_max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    route: Arc<Route>,
    ready: ReadyList,
    /// Sessions without work, the one used last at the end.
    idle: Vec<oneshot::Sender<Taken>>,
    sessions: usize,
    /// Sessions busy with entries of lower lanes.
    busy_lower: usize,
    retired: bool,
}

impl State {
    fn next(&mut self, lower_max: usize) -> Option<Taken> {
        let (lane, entry) =
            if self.busy_lower < lower_max { self.ready.pop()? } else { (Lane::Otp, self.ready.pop_urgent()?) };
        self.started(lane);
        Some(Taken { entry, lane })
    }

    fn started(&mut self, lane: Lane) {
        self.busy_lower += usize::from(lane != Lane::Otp);
    }

    fn finished(&mut self, lane: Option<Lane>) {
        self.busy_lower -= usize::from(lane.is_some_and(|lane| lane != Lane::Otp));
    }
}

impl Site {
    /// A site without sessions.
    pub(super) fn new(route: Arc<Route>, sessions_max: usize) -> Self {
        let kept_for_codes = if sessions_max > 1 { (sessions_max / 4).max(1) } else { 0 };
        Self {
            destination: route.destination.clone(),
            sessions_max,
            lower_max: sessions_max - kept_for_codes,
            state: Mutex::new(State {
                route,
                ready: ReadyList::default(),
                idle: Vec::new(),
                sessions: 0,
                busy_lower: 0,
                retired: false,
            }),
        }
    }

    /// Hands an entry to an idle session, or finds it another way.
    pub(super) fn place(
        &self,
        mut taken: Taken,
        expires_at: Timestamp,
        route: &Arc<Route>,
        take_connection: impl FnOnce() -> bool,
    ) -> Placed {
        let mut state = self.state.lock();
        if state.retired {
            return Placed::Retired;
        }
        state.route = route.clone();
        let may_start = taken.lane == Lane::Otp || state.busy_lower < self.lower_max;
        while may_start && let Some(idle) = state.idle.pop() {
            match idle.send(taken) {
                Ok(()) => {
                    state.started(taken.lane);
                    return Placed::Handed;
                }
                Err(returned) => taken = returned,
            }
        }
        let has_slot = may_start && state.sessions < self.sessions_max;
        if has_slot && take_connection() {
            state.sessions += 1;
            state.started(taken.lane);
            return Placed::Start;
        }
        state.ready.insert(taken.lane, expires_at, taken.entry);
        Placed::Waits { for_connection: has_slot }
    }

    /// The next entry for a session that has finished one of `finished`, or a promise of one.
    pub(super) fn next_or_idle(&self, finished: Option<Lane>) -> Result<Taken, oneshot::Receiver<Taken>> {
        let mut state = self.state.lock();
        state.finished(finished);
        state.next(self.lower_max).ok_or_else(|| {
            let (sender, receiver) = oneshot::channel();
            // Those whose session has ended are of no use.
            state.idle.retain(|idle| !idle.is_closed());
            state.idle.push(sender);
            receiver
        })
    }

    /// The next entry for a session that has no connection; if there is none, the session is over.
    pub(super) fn next_or_leave(&self, finished: Option<Lane>) -> Option<Taken> {
        let mut state = self.state.lock();
        state.finished(finished);
        let next = state.next(self.lower_max);
        state.sessions -= usize::from(next.is_none());
        next
    }

    /// A session ended in the middle of its work.
    pub(super) fn leave(&self, busy: Option<Lane>) {
        let mut state = self.state.lock();
        state.finished(busy);
        state.sessions -= 1;
    }

    /// Starts a session for an entry that waits, if there may be one more.
    pub(super) fn start_waiting(&self, take_connection: impl FnOnce() -> bool) -> Option<Taken> {
        let mut state = self.state.lock();
        if state.ready.is_empty() || state.sessions >= self.sessions_max || !take_connection() {
            return None;
        }
        // The connection is counted; the session that starts without work gives it back.
        let next = state.next(self.lower_max)?;
        state.sessions += 1;
        Some(next)
    }

    /// Ends a session without work; whether there was one.
    pub(super) fn end_idle_session(&self) -> bool {
        let mut state = self.state.lock();
        while let Some(idle) = state.idle.pop() {
            if !idle.is_closed() {
                return true;
            }
        }
        false
    }

    /// The route to its hosts, as last found.
    pub(super) fn route(&self) -> Arc<Route> {
        self.state.lock().route.clone()
    }

    pub(super) fn is_retired(&self) -> bool {
        self.state.lock().retired
    }

    /// Retires a site with neither sessions nor entries.
    pub(super) fn retire_if_empty(&self) -> bool {
        let mut state = self.state.lock();
        state.retired = state.sessions == 0 && state.ready.is_empty();
        state.retired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::id::MessageId;

    fn taken(number: u8, lane: Lane) -> Taken {
        Taken { entry: EntryId { message: MessageId::from_bytes([number; 16]), index: 0 }, lane }
    }

    fn place(site: &Site, number: u8, lane: Lane) -> Placed {
        let route = site.route();
        site.place(taken(number, lane), Timestamp::from_millis(u64::from(number)), &route, || true)
    }

    fn site(sessions_max: usize) -> Site {
        Site::new(Arc::new(Route { destination: "mx.example".into(), hosts: Vec::new() }), sessions_max)
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
        assert_eq!(site.next_or_idle(Some(Lane::Otp)).unwrap().entry, taken(5, Lane::Otp).entry);
        assert!(site.next_or_idle(Some(Lane::Otp)).is_err());
        assert_eq!(site.next_or_leave(Some(Lane::Notice)).unwrap().entry, taken(3, Lane::Notice).entry);
    }

    #[test]
    fn an_idle_session_gets_the_next_entry() {
        let site = site(2);
        assert!(matches!(place(&site, 1, Lane::Otp), Placed::Start));
        let mut idle = site.next_or_idle(Some(Lane::Otp)).unwrap_err();
        assert!(matches!(place(&site, 2, Lane::Otp), Placed::Handed));
        assert_eq!(idle.try_recv().unwrap().entry, taken(2, Lane::Otp).entry);
        drop(site.next_or_idle(Some(Lane::Otp)).unwrap_err());
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
}
