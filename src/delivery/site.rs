//! One destination, or one smart host: its sessions, the entries that wait for one, and what is learned of it.
//!
//! Its locks are taken in the order in which they stand; that of the places comes behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::address_rotation::AddressRotation;
use super::caller::Caller;
use super::crowd::Crowd;
use super::limits::LearnedLimits;
use super::next_hop::{NextHop, SiteKey};
use super::outage::{NextProbe, Outage};
use super::sessions::{Assignment, Placement, Sessions};
use crate::base::clock::Timestamp;
use crate::destination::route::Route;
use crate::mail::id::EntryId;

#[derive(Debug)]
pub(super) struct Site {
    pub(super) key: SiteKey,
    pub(super) hop: NextHop,
    state: Mutex<State>,
    outage: Mutex<Outage>,
    crowd: Mutex<Crowd>,
    rotation: Mutex<AddressRotation>,
    /// It stands among those that wait for a place.
    is_waiting: AtomicBool,
}

#[derive(Debug)]
struct State {
    route: Arc<Route>,
    sessions: Sessions,
}

/// Whether a destination is probed now.
pub(super) enum Probe {
    /// Open a session, for this one.
    Open(Caller),
    /// There is no room for one.
    Later,
    /// It is back, or nobody waits.
    NoMore,
}

/// Whether there are other sessions than the one that was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherSessions {
    None,
    /// As many are taken from now on, which is news.
    NewlyCapped,
    /// As many are taken, as before.
    Capped,
}

impl Site {
    /// A site without sessions.
    pub(super) fn new(hop: NextHop, route: Arc<Route>, sessions_max: usize) -> Self {
        Self {
            key: hop.key(&route),
            hop,
            state: Mutex::new(State { route, sessions: Sessions::new(sessions_max) }),
            outage: Mutex::default(),
            crowd: Mutex::default(),
            rotation: Mutex::default(),
            is_waiting: AtomicBool::new(false),
        }
    }

    /// Hands an entry to an idle session, or finds it another way.
    pub(super) fn place(
        &self,
        taken: Assignment,
        expires_at: Timestamp,
        route: &Arc<Route>,
        now: Instant,
        take_connection: impl FnOnce() -> bool,
    ) -> Placement {
        let mut state = self.state.lock();
        if !state.sessions.is_retired() {
            state.route = route.clone();
        }
        state.sessions.place(taken, expires_at, now, take_connection)
    }

    /// Begins to open a session for an entry that is about to come, unless one is at hand. The caller opens it.
    pub(super) fn prepare(&self, take_connection: impl FnOnce() -> bool) -> bool {
        let sessions = &mut self.state.lock().sessions;
        !sessions.has_one_at_hand() && !self.is_down() && sessions.prepare(take_connection)
    }

    /// Begins to open sessions until as many are there as were needed of late. The caller opens them.
    pub(super) fn prepare_top_up(&self, mut take_connection: impl FnMut() -> bool) {
        let sessions = &mut self.state.lock().sessions;
        while sessions.are_too_few() && !self.is_down() && sessions.prepare(&mut take_connection) {}
    }

    /// Begins to open a session in place of the last one, which has ended at rest, where the next entry is to be
    /// expected. The caller opens it, as the last one whose message was taken would.
    pub(super) fn replace(
        &self,
        most: Duration,
        now: Instant,
        take_connection: impl FnOnce() -> bool,
    ) -> Option<Caller> {
        let sessions = &mut self.state.lock().sessions;
        let caller = sessions.wanted_by(most, now)?;
        (!self.is_down() && sessions.prepare(take_connection)).then_some(caller)
    }

    /// Begins to open a session that shows whether it is back, while somebody waits for that.
    pub(super) fn probe(
        &self,
        is_there: impl FnMut(&EntryId) -> bool,
        now: Instant,
        take_connection: impl FnOnce() -> bool,
    ) -> Probe {
        let sessions = &mut self.state.lock().sessions;
        let Some(caller) = self.outage.lock().probe(is_there, now) else { return Probe::NoMore };
        if sessions.prepare_probe(take_connection) { Probe::Open(caller) } else { Probe::Later }
    }

    /// Does something with its sessions, under their lock.
    pub(super) fn sessions<T>(&self, with: impl FnOnce(&mut Sessions) -> T) -> T {
        with(&mut self.state.lock().sessions)
    }

    /// The same with what was learned of how many there may be, and for how long.
    pub(super) fn limits<T>(&self, with: impl FnOnce(&mut LearnedLimits) -> T) -> T {
        self.sessions(|sessions| with(&mut sessions.limits))
    }

    /// The same with what is known of its being down.
    pub(super) fn outage<T>(&self, with: impl FnOnce(&mut Outage) -> T) -> T {
        with(&mut self.outage.lock())
    }

    /// The same with the addresses that were asked in vain, where there are many.
    pub(super) fn rotation<T>(&self, with: impl FnOnce(&mut AddressRotation) -> T) -> T {
        with(&mut self.rotation.lock())
    }

    /// The same with the entries that were turned away.
    pub(super) fn crowd<T>(&self, with: impl FnOnce(&mut Crowd) -> T) -> T {
        with(&mut self.crowd.lock())
    }

    /// Whether it counts as down.
    pub(super) fn is_down(&self) -> bool {
        self.outage.lock().down().is_some()
    }

    /// A message was taken, at an attempt that began at `began`; says whether one that waits may get a session more.
    pub(super) fn succeeded(&self, caller: Caller, began: Instant, now: Instant) -> bool {
        let domain = caller.registrable_domain();
        self.sessions(|sessions| {
            let is_full = sessions.took(caller);
            sessions.limits.window.succeeded(&domain, is_full, began, now)
        })
    }

    /// The host was overloaded at an attempt for this caller that began at `began`.
    pub(super) fn overloaded(&self, caller: &Caller, began: Instant, now: Instant) {
        let domain = caller.registrable_domain();
        self.limits(|limits| limits.window.overloaded(&domain, began, now));
    }

    /// A connection was turned away. If other sessions are there, as many are taken from now on.
    pub(super) fn turned_away(&self) -> OtherSessions {
        self.sessions(|sessions| match sessions.others() {
            0 => OtherSessions::None,
            others if sessions.limits.turned_away(others) => OtherSessions::NewlyCapped,
            _ => OtherSessions::Capped,
        })
    }

    /// When the next probe is due; none if it does not count as down.
    pub(super) fn next_probe_at(&self, now: Instant) -> Option<Instant> {
        let next = if self.rotation(|asked| asked.has_unasked()) { NextProbe::AtOthers } else { NextProbe::Again };
        self.outage(|outage| outage.next_probe_at(next, now))
    }

    /// Notes that it waits for a place; whether that is news.
    pub(super) fn begins_to_wait(&self) -> bool {
        !self.is_waiting.swap(true, Ordering::Relaxed)
    }

    /// Notes that it does not wait for a place any more.
    pub(super) fn ends_to_wait(&self) {
        self.is_waiting.store(false, Ordering::Relaxed);
    }

    /// The route to its hosts, as last found.
    pub(super) fn route(&self) -> Arc<Route> {
        self.state.lock().route.clone()
    }

    /// The route was found anew.
    pub(super) fn set_route(&self, route: Arc<Route>) {
        self.state.lock().route = route;
    }

    /// Retires it if it has neither sessions nor entries, and nobody waits for it to come back.
    pub(super) fn retire_if_empty(&self) -> bool {
        let sessions = &mut self.state.lock().sessions;
        let is_empty = sessions.is_empty() && !self.is_down();
        if is_empty {
            sessions.retire();
        }
        is_empty
    }
}
