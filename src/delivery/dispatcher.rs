//! From offers to sites: finds where an entry goes next, the route there, and hands the entry to the site. Begins sessions,
//! for entries and before them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::caller::Caller;
use super::environment::Environment;
use super::next_hop::NextHop;
use super::sessions::{Assignment, Placement};
use super::settle::EndedAttempt;
use super::site::{Probe, Site};
use super::sites::{Beginning, SessionRequest, SessionRequests, Start};
use super::worker::Worker;
use crate::destination::route::{Route, RouteError};
use crate::destination::shares::{Shares, Standing};
use crate::mail::address::{Mailbox, ReversePath};
use crate::queue::{Offer, Offered, Offers};

/// Entries handled before others get a turn.
const TURN_MAX: usize = 1024;
/// Entries taken in the place of whoever offered some; the task takes the rest.
const IN_PLACE_MAX: usize = 64;
/// Destinations that are looked up for entries that are about to come, at once.
const PREWARM_LOOKUPS_MAX: usize = 64;

/// What entries wait for that have no route yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum AwaitedRoute {
    /// The hosts of a domain.
    Domain(Arc<str>),
    /// A smart host, by its name: two can be at one host.
    SmartHost(Arc<str>),
}

/// Who hands entries to sites.
pub(super) struct Dispatcher {
    env: Arc<Environment>,
    /// What the queue offers, once the engine runs.
    offers: OnceLock<Offers>,
    /// Entries that wait for a route.
    looking_up: Mutex<HashMap<AwaitedRoute, Vec<Offer>>>,
    /// Look-ups for entries that are about to come, by registrable domain.
    prewarming: Mutex<Shares<Arc<str>>>,
}

/// A mistake about one entry keeps no other from being delivered, and is not held against who brought it.
fn guarded(begin: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(begin)).is_err() {
        tracing::error!("an entry could not be taken up; the next start tries it again");
    }
}

/// A look-up for an entry that is about to come, among a bounded number; counted until it is dropped.
struct Slot {
    dispatcher: Arc<Dispatcher>,
    zone: [Arc<str>; 1],
}

impl Slot {
    fn take(dispatcher: &Arc<Dispatcher>, caller: &Caller) -> Option<Self> {
        let zone = [caller.registrable_domain()];
        let taken = dispatcher.prewarming.lock().take(&zone, Standing::Unknown);
        taken.ok().map(|()| Self { dispatcher: dispatcher.clone(), zone })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.dispatcher.prewarming.lock().give_back(&self.zone, Standing::Unknown);
    }
}

impl Dispatcher {
    /// One that has nothing yet.
    pub(super) fn new(env: Arc<Environment>) -> Arc<Self> {
        let prewarming = Mutex::new(Shares::new(PREWARM_LOOKUPS_MAX));
        Arc::new(Self { env, offers: OnceLock::new(), looking_up: Mutex::default(), prewarming })
    }

    /// Begins what sites have asked for, until all tasks are over.
    pub(super) async fn run(self: Arc<Self>, mut begins: SessionRequests) {
        let mut over = std::pin::pin!(self.env.tasks.over());
        loop {
            let (begin, on_its_way) = tokio::select! {
                biased;
                begin = begins.recv() => match begin {
                    Some(begin) => begin,
                    None => return,
                },
                () = &mut over => return,
            };
            match begin {
                SessionRequest::Session(start) => self.begin(start),
                SessionRequest::Probes(site) => self.probe_while_down(site),
            }
            drop(on_its_way);
        }
    }

    /// From here on what the queue offers is for this one to take.
    pub(super) fn takes(&self, offers: Offers) {
        self.offers.get_or_init(|| offers);
    }

    /// Takes what the queue announces, until all tasks are over.
    pub(super) async fn take(self: Arc<Self>) {
        let Some(offers) = self.offers.get() else { return };
        let mut over = std::pin::pin!(self.env.tasks.over());
        loop {
            tokio::select! {
                biased;
                () = &mut over => return,
                () = offers.announced() => {}
            }
            while self.take_some(offers, TURN_MAX) == TURN_MAX {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes what the queue offers in the place of who has just been told so.
    pub(super) fn take_up(self: &Arc<Self>, offered: Offered) {
        let Some(offers) = self.offers.get().filter(|_| offered.is_any()) else { return };
        if self.take_some(offers, IN_PLACE_MAX) < IN_PLACE_MAX {
            offered.are_taken();
        }
    }

    /// Returns how many there were, so many at most.
    fn take_some(self: &Arc<Self>, offers: &Offers, most: usize) -> usize {
        let taken = std::iter::from_fn(|| offers.try_next()).take(most);
        taken.map(|offer| guarded(|| self.offer(offer))).count()
    }

    /// A message for this recipient is about to come.
    pub(super) fn prewarm(self: &Arc<Self>, reverse_path: &ReversePath, recipient: &Mailbox) {
        if self.offers.get().is_some() {
            guarded(|| self.prewarm_for(reverse_path, recipient));
        }
    }

    fn offer(self: &Arc<Self>, offer: Offer) {
        if self.env.tasks.is_draining() {
            return;
        }
        let domain = self.env.router.name(&offer.message.recipient(offer.entry.index).mailbox);
        let hop = self.next_hop(&offer, &domain);
        match self.env.router.remembered_to(hop.sought(&domain)) {
            Some(Ok(route)) => self.place(&offer, &route, &hop),
            Some(Err(error)) if !error.is_temporary() => self.unroutable(&offer, &error, &hop),
            Some(Err(_)) | None => self.look_up(domain, hop, offer),
        }
    }

    /// A message for this recipient is about to come: finds the route and opens a session, unless one is at hand.
    fn prewarm_for(self: &Arc<Self>, reverse_path: &ReversePath, recipient: &Mailbox) {
        if self.env.tasks.is_draining() {
            return;
        }
        let caller = self.env.caller(&self.env.settings.own_reverse_path(reverse_path), recipient);
        let now = self.env.clock.now();
        let hop = self.env.next_hops(caller.domain(), &NextHop::Direct, now).first(0, None, now);
        match (self.env.router.remembered_to(hop.sought(caller.domain())), &hop) {
            (Some(Ok(route)), _) => self.prewarm_at(&self.env.sites.site(&route, &hop), caller),
            (None, NextHop::Direct) => self.prewarm_after_lookup(caller),
            (Some(Err(_)), _) | (None, NextHop::SmartHost(_)) => {}
        }
    }

    /// Where an entry goes next.
    fn next_hop(&self, offer: &Offer, domain: &str) -> NextHop {
        if self.env.smart_hosts.is_empty() {
            return NextHop::Direct;
        }
        let now = self.env.clock.now();
        let Some(progress) = self.env.queue.progress(offer.entry) else { return NextHop::Direct };
        let hops = self.env.next_hops(domain, &NextHop::Direct, now);
        hops.first(progress.attempts, progress.relayed.as_deref(), now)
    }

    /// Gives an entry whose route is known to the site that it leads to.
    fn place(self: &Arc<Self>, offer: &Offer, route: &Arc<Route>, hop: &NextHop) {
        let taken = Assignment { entry: offer.entry, lane: offer.lane };
        let site = loop {
            let site = self.env.sites.site(route, hop);
            let now = self.env.clock.instant();
            let mut taking = self.env.sites.taking(&site, route);
            match site.place(taken, offer.expires_at, route, now, || taking.take()) {
                Placement::Retired => {}
                Placement::Handed | Placement::Coming => break site,
                Placement::Start => {
                    taking.starts(|| Beginning::Entry(taken)).for_each(|start| self.begin(start));
                    break site;
                }
                Placement::Waits { for_connection } => {
                    // That an entry was turned away has been told.
                    if !site.crowd(|crowd| crowd.holds(&offer.entry)) {
                        self.env.queue.waits_for_slot(offer.entry, route.name().clone());
                    }
                    if for_connection {
                        taking.wait();
                    }
                    return;
                }
            }
        };
        self.top_up(&site, route, offer);
    }

    /// Opens as many sessions as were needed of late, when an entry has come.
    fn top_up(self: &Arc<Self>, site: &Arc<Site>, route: &Route, offer: &Offer) {
        let mut taking = self.env.sites.taking(site, route);
        site.prepare_top_up(|| taking.take());
        let beginning = || {
            let reverse_path = self.env.settings.own_reverse_path(&offer.message.envelope.reverse_path);
            Beginning::Prewarm(self.env.caller(&reverse_path, &offer.message.recipient(offer.entry.index).mailbox))
        };
        taking.starts(beginning).for_each(|start| self.begin(start));
    }

    fn begin(&self, start: Start) {
        self.env.tasks.spawn(Worker::run(self.env.clone(), start));
    }

    /// Finds a route; all entries that come meanwhile wait for the same answer.
    fn look_up(self: &Arc<Self>, domain: String, hop: NextHop, offer: Offer) {
        let domain: Arc<str> = domain.into();
        let awaited = match &hop {
            NextHop::Direct => AwaitedRoute::Domain(domain.clone()),
            NextHop::SmartHost(host) => AwaitedRoute::SmartHost(host.settings.name.clone()),
        };
        match self.looking_up.lock().entry(awaited.clone()) {
            Entry::Occupied(mut waiting) => return waiting.get_mut().push(offer),
            Entry::Vacant(waiting) => waiting.insert(vec![offer]),
        };
        let this = self.clone();
        self.env.tasks.spawn(async move {
            let route = this.env.router.route_to(hop.sought(&domain)).await;
            let mut waiting = this.looking_up.lock().remove(&awaited).unwrap_or_default();
            waiting.sort_by_key(|offer| (offer.lane, offer.expires_at));
            for (number, offer) in waiting.iter().enumerate() {
                match &route {
                    Ok(route) => this.place(offer, route, &hop),
                    Err(error) => this.unroutable(offer, error, &hop),
                }
                if number % TURN_MAX == TURN_MAX - 1 {
                    // Where all are put off at once, what is to be written down must not pile up. Whether it could be
                    // written is not asked here.
                    let _ = this.env.queue.flush().await;
                }
            }
        });
    }

    /// An entry without a route.
    fn unroutable(&self, offer: &Offer, error: &RouteError, hop: &NextHop) {
        let now = self.env.clock.now();
        hop.not_found(error, now);
        if let Ok(mut claim) = self.env.queue.claim(offer.entry, now) {
            claim.begins(hop.host().cloned(), now);
            let hops = self.env.next_hops(&self.env.domain(&claim), hop, now);
            let settlement = EndedAttempt { claim: &mut claim, hops: &hops, now }.without_route(error);
            claim.settle(settlement, now);
        }
    }

    fn prewarm_at(&self, site: &Arc<Site>, caller: Caller) {
        let route = site.route();
        let mut taking = self.env.sites.taking(site, &route);
        if site.prepare(|| taking.take()) {
            taking.starts(|| Beginning::Prewarm(caller.clone())).for_each(|start| self.begin(start));
        }
    }

    fn prewarm_after_lookup(self: &Arc<Self>, caller: Caller) {
        let Some(slot) = Slot::take(self, &caller) else { return };
        let this = self.clone();
        self.env.tasks.spawn(async move {
            let found = this.env.router.route(caller.domain()).await;
            drop(slot);
            if let Ok(route) = found {
                this.prewarm_at(&this.env.sites.site(&route, &NextHop::Direct), caller);
            }
        });
    }

    /// Looks now and then whether a site is back, while somebody waits for it.
    fn probe_while_down(self: &Arc<Self>, site: Arc<Site>) {
        let env = self.env.clone();
        self.env.tasks.spawn(async move {
            while let Some(at) = site.next_probe_at(env.clock.instant()) {
                if env.tasks.sleep_until(at).await.is_err() {
                    return;
                }
                let (route, now) = (env.next_part(&site).await, env.clock.instant());
                let mut taking = env.sites.taking(&site, &route);
                match site.probe(|entry| env.queue.is_live(entry.message), now, || taking.take()) {
                    Probe::Open(caller) => {
                        for start in taking.starts(|| Beginning::Prewarm(caller.clone())) {
                            Worker::run(env.clone(), start).await;
                        }
                    }
                    Probe::Later => {}
                    Probe::NoMore => return,
                }
            }
        });
    }
}
