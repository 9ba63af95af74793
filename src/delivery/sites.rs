//! All sites, and the bound that their sessions share: from an option for a session to a place for it, or to a turn among
//! those that wait for one.
//!
//! Sessions run above. What is to be begun there goes out as a value ([`SessionRequest`]); also when a session has ended, whose place
//! then goes to a site that waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::caller::Caller;
use super::limits::LearnedLimits;
use super::next_hop::{NextHop, SiteKey};
use super::places::{Applicant, Beside, HeldPlace, Places, Tenure};
use super::sessions::Assignment;
use super::settings::Settings;
use super::site::Site;
use super::tasks::Tasks;
use super::waiting_sites::{TRIES, WaitingSites};
use crate::base::clock::Clock;
use crate::destination::route::Route;
use crate::destination::shares::Full;

/// Destinations remembered beyond the end of their last session.
const SITES_MAX: usize = 4096;
/// How often room is made for those that still wait for a place.
const PRESS_EVERY: Duration = Duration::from_secs(1);

/// What a session begins with.
#[derive(Debug)]
pub(super) enum Beginning {
    /// An entry, whose attempt opens the connection.
    Entry(Assignment),
    /// Nothing yet: the connection is opened before there is an entry, as this caller would.
    Prewarm(Caller),
}

/// A session to be begun, which is counted already.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) site: Arc<Site>,
    pub(super) beginning: Beginning,
    pub(super) tenure: Tenure,
}

/// What is to be begun above.
#[derive(Debug)]
pub(super) enum SessionRequest {
    Session(Start),
    /// Looks now and then whether a site is back that counts as down.
    Probes(Arc<Site>),
}

/// The same on its way. It counts as a task until it has become one.
pub(super) type SessionRequests = UnboundedReceiver<(SessionRequest, TaskTrackerToken)>;

pub(super) struct Sites {
    known: Mutex<HashMap<SiteKey, Arc<Site>>>,
    places: Arc<Places>,
    /// Sites with entries that wait for a place among all sessions: those at hosts that are known, and the others.
    waiting: [Mutex<WaitingSites<Site>>; 2],
    /// Somebody sees to it that room is made for them.
    is_pressing: AtomicBool,
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    begins: UnboundedSender<(SessionRequest, TaskTrackerToken)>,
}

impl Sites {
    /// None yet; and what will have to be begun.
    pub(super) fn new(settings: Arc<Settings>, clock: Arc<dyn Clock>, tasks: Tasks) -> (Arc<Self>, SessionRequests) {
        let (begins, to_begin) = unbounded_channel();
        let sites = Self {
            known: Mutex::default(),
            places: Places::new(settings.connections_max),
            waiting: Default::default(),
            is_pressing: AtomicBool::new(false),
            settings,
            clock,
            tasks,
            begins,
        };
        (Arc::new(sites), to_begin)
    }

    pub(super) fn sessions(&self) -> usize {
        self.places.used()
    }

    /// The same by the first host of each destination that has some.
    pub(super) fn sessions_by_host(&self) -> Vec<(Arc<str>, usize)> {
        let known: Vec<Arc<Site>> = self.known.lock().values().cloned().collect();
        let named = known.iter().filter_map(|site| {
            let count = site.sessions(|sessions| sessions.count());
            (count > 0).then(|| (site.route().name().clone(), count))
        });
        named.collect()
    }

    /// Destinations that count as down.
    pub(super) fn down(&self) -> usize {
        self.known.lock().values().filter(|site| site.is_down()).count()
    }

    /// The site that a route leads to.
    pub(super) fn site(&self, route: &Arc<Route>, hop: &NextHop) -> Arc<Site> {
        // Of domains that share their hosts, the one with the lowest limit counts.
        let limit = hop.sessions_max(route, &self.settings);
        let new = || Arc::new(Site::new(hop.clone(), route.clone(), limit));
        let mut known = self.known.lock();
        let site = known.entry(hop.key(route)).or_insert_with(new);
        // The sessions with a smart host that has other settings now end when they are done.
        if site.sessions(|sessions| sessions.is_retired()) || !site.hop.is(hop) {
            *site = new();
        }
        site.limits(|limits| limits.window.limit(limit));
        site.clone()
    }

    /// Forgets a destination that is not used, when there are many; what was learned of it goes too.
    fn retire_if_empty(&self, site: &Arc<Site>) {
        let mut known = self.known.lock();
        if known.len() <= SITES_MAX {
            return;
        }
        let is_current = known.get(&site.key).is_some_and(|current| Arc::ptr_eq(current, site));
        if is_current && site.retire_if_empty() {
            known.remove(&site.key);
        }
    }

    /// Places to be taken for a site.
    pub(super) fn taking<'a>(self: &'a Arc<Self>, site: &'a Arc<Site>, route: &'a Route) -> Taking<'a> {
        Taking { sites: self, site, route, taken: Vec::new(), full: None }
    }

    /// Room for one more connection beside those of a session that is being opened.
    pub(super) fn beside(&self, applicant: &Applicant) -> Option<Beside> {
        self.places.beside(applicant)
    }

    /// Has somebody look whether a site is back that counts as down.
    pub(super) fn look_after(&self, site: &Arc<Site>) {
        self.begin(SessionRequest::Probes(site.clone()));
    }

    /// Starts a session for an entry that waits for one, if there may be one more; whether there was. If there is no
    /// place for it, the site waits for one.
    pub(super) fn start_waiting(self: &Arc<Self>, site: &Arc<Site>) -> bool {
        let route = site.route();
        let mut taking = self.taking(site, &route);
        let taken = site.sessions(|sessions| sessions.start_waiting(|| taking.take()));
        match taken {
            Some(taken) => taking.begin_all(|| Beginning::Entry(taken)),
            None => taking.wait_again(),
        }
        taken.is_some()
    }

    /// A session ended; its place goes to a site that waits for one.
    pub(super) fn session_ended(self: &Arc<Self>, site: &Arc<Site>) {
        if self.waiting_groups() == 0 {
            if !self.start_waiting(site) {
                self.retire_if_empty(site);
            }
            return;
        }
        // Others waited before.
        self.feed();
        if site.sessions(|sessions| sessions.wants_session()) {
            self.start_waiting(site);
        } else {
            self.retire_if_empty(site);
        }
    }

    /// Opens a session in place of an idle one that has ended, where the next entry is to be expected.
    pub(super) fn replace(self: &Arc<Self>, site: &Arc<Site>) {
        let now = self.clock.instant();
        let route = site.route();
        let mut taking = self.taking(site, &route);
        if let Some(caller) = site.replace(self.settings.idle_timeout, now, || taking.take()) {
            taking.begin_all(|| Beginning::Prewarm(caller.clone()));
        }
    }

    /// Lets a site have more sessions, at some time.
    pub(super) fn allow_at(self: &Arc<Self>, site: &Arc<Site>, at: Instant, allow: fn(&mut LearnedLimits)) {
        let (this, site) = (self.clone(), site.clone());
        self.tasks.spawn(async move {
            if this.tasks.sleep_until(at).await.is_ok() {
                site.limits(allow);
                this.start_waiting(&site);
            }
        });
    }

    /// Whether sites wait that are short of what this session holds.
    pub(super) fn are_short_of(&self, held: &HeldPlace) -> bool {
        self.waiting_groups() > 0 && {
            let holders = held.holders();
            self.waiting.iter().any(|waiting| holders.iter().any(|holder| waiting.lock().contains(holder)))
        }
    }

    fn waiting_groups(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.lock().groups()).sum()
    }

    /// Starts sessions for those that wait for a place, where there is one.
    fn feed(self: &Arc<Self>) {
        for waiting in &self.waiting {
            let groups = waiting.lock().groups();
            for _ in 0..groups.min(TRIES) {
                let next = waiting.lock().pop();
                let Some(site) = next else { break };
                site.ends_to_wait();
                if self.start_waiting(&site) && site.sessions(|sessions| sessions.wants_session()) {
                    // It has another one, or its next turn.
                    self.start_waiting(&site);
                }
                self.retire_if_empty(&site);
            }
        }
    }

    /// Asks again for those that wait, for as long as there are any: what could not give way then may have to by now.
    fn press(self: &Arc<Self>) {
        if self.is_pressing.swap(true, Ordering::Relaxed) {
            return;
        }
        let this = self.clone();
        self.tasks.spawn(async move {
            while this.tasks.sleep_until(this.clock.instant() + PRESS_EVERY).await.is_ok() {
                if this.waiting_groups() == 0 {
                    this.is_pressing.store(false, Ordering::Relaxed);
                    if this.waiting_groups() == 0 || this.is_pressing.swap(true, Ordering::Relaxed) {
                        return;
                    }
                }
                this.feed();
            }
        });
    }

    fn begin(&self, what: SessionRequest) {
        // Nobody begins anything any more when the relay has ended.
        let _ = self.begins.send((what, self.tasks.hold()));
    }
}

/// Places being taken for one site.
pub(super) struct Taking<'a> {
    sites: &'a Arc<Sites>,
    site: &'a Arc<Site>,
    route: &'a Route,
    taken: Vec<Tenure>,
    /// Why there was none, the last time.
    full: Option<(Applicant, Full)>,
}

impl Taking<'_> {
    /// One more place; whether there was one. It is called under the site's lock, and takes that of the places.
    pub(super) fn take(&mut self) -> bool {
        let applicant = self.site.hop.applicant(|| Applicant::of(self.route));
        match self.sites.places.take(&applicant, self.sites.clock.instant()) {
            Ok(tenure) => self.taken.push(tenure),
            Err(full) => {
                self.full = Some((applicant, full));
                return false;
            }
        }
        true
    }

    /// A session for each place.
    pub(super) fn starts(self, beginning: impl Fn() -> Beginning) -> impl Iterator<Item = Start> {
        let Self { site, taken, .. } = self;
        taken.into_iter().map(move |tenure| Start { site: site.clone(), beginning: beginning(), tenure })
    }

    /// Has a session begun for each place.
    fn begin_all(self, beginning: impl Fn() -> Beginning) {
        let sites = self.sites;
        self.starts(beginning).for_each(|start| sites.begin(SessionRequest::Session(start)));
    }

    /// The one place that was taken.
    pub(super) fn tenure(mut self) -> Option<Tenure> {
        self.taken.pop()
    }

    /// If there was no place, somebody makes room if they can, and the site waits for it.
    pub(super) fn wait(self) {
        if let Some((applicant, full)) = &self.full {
            self.sites.places.make_room(applicant, *full, self.sites.clock.instant());
        }
        self.wait_in_turn();
    }

    /// The same for a site that has waited before. Who is held to a share has had its own make room by then.
    fn wait_again(self) {
        match self.full {
            Some((_, Full::Places)) => self.wait(),
            Some((_, Full::Share(_))) | None => self.wait_in_turn(),
        }
    }

    fn wait_in_turn(self) {
        let Some((applicant, full)) = self.full else { return };
        if self.site.begins_to_wait() {
            let is_known = self.sites.places.knows(&applicant, self.sites.clock.instant());
            let group = applicant.short_of(full);
            self.sites.waiting[usize::from(!is_known)].lock().push(group, self.site.clone());
        }
        self.sites.press();
    }
}
