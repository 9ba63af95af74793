//! Delivery: from an entry that is ready to the mail host's final answer.
//!
//! The stages are route, connect, transact, settle; `worker` alone knows their order. Each destination is a site with
//! its sessions and its list of entries that wait; a session that has finished takes the next entry itself.

mod address_health;
mod attempt;
mod backoff;
mod candidates;
mod connect;
mod crowd;
mod fallback;
mod lacking;
mod limits;
mod mask;
mod outage;
mod pace;
mod places;
mod prewarm;
mod quirks;
mod race;
mod security;
mod settle;
mod site;
pub mod smart_host;
mod steps;
mod taking;
mod transact;
mod waiting_sites;
mod window;
mod worker;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Timestamp};
use crate::destination::demand::Strictness;
use crate::destination::mx::{Router, key_of_host};
use crate::destination::route::{Route, RouteError};
use crate::destination::shares::Shares;
use crate::dkim::Keys;
use crate::dkim::pool::SigningPool;
use crate::event::Kind;
use crate::mail::address::{Mailbox, ReversePath, domain_pattern_covers};
use crate::net::Network;
use crate::queue::{Offer, Queue, Workers};
use crate::smtp::extension::Features;
use crate::tls::verify::Roots;
use address_health::AddressHealth;
use arc_swap::ArcSwap;
use candidates::Caller;
use pace::Paces;
use places::{Places, Tenure};
use quirks::Quirks;
use site::{Placed, Site, Taken};
use smart_host::{Carrier, SmartHosts, Ways};
use waiting_sites::WaitingSites;
use worker::Beginning;

/// Entries handled before others get a turn.
const TURN_MAX: usize = 1024;

/// Destinations remembered beyond the end of their last session.
const SITES_MAX: usize = 4096;

/// What delivery needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name for EHLO.
    pub hostname: String,
    /// The port of mail hosts: 25.
    pub port: u16,
    /// How long a TCP connection may take.
    pub connect_timeout: Duration,
    /// Sessions with one destination at most.
    pub connections_per_destination_max: usize,
    /// Sessions in all at most.
    pub connections_max: usize,
    /// How long a session without work is kept.
    pub idle_timeout: Duration,
    /// Addresses to send from; one is chosen for good by sender and recipient domain. Empty: the system chooses.
    pub source_addresses: Vec<IpAddr>,
    /// How strict sessions are where nobody else asks for more.
    pub tls: Strictness,
    /// For some recipient domains; the first that fits and says something counts.
    pub exceptions: Vec<Exception>,
    /// The reverse-path for all messages, in place of the client's; none: keep it.
    pub reverse_path: Option<Mailbox>,
}

/// What is different for some recipient domains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exception {
    /// Which: patterns.
    pub domains: Vec<String>,
    /// How strict sessions are.
    pub tls: Option<Strictness>,
    /// Sessions with the destination at most.
    pub connections_max: Option<usize>,
    /// What is not used there, although it is offered.
    pub avoid: Option<Features>,
}

impl Settings {
    /// How strict sessions are for a recipient domain.
    fn strictness(&self, domain: &str) -> Strictness {
        self.exception(domain, |exception| exception.tls).unwrap_or(self.tls)
    }

    /// Sessions at most with the destination of a recipient domain.
    fn sessions_max(&self, domain: &str) -> usize {
        let own = self.exception(domain, |exception| exception.connections_max);
        own.unwrap_or(self.connections_per_destination_max)
    }

    /// What is not used with the hosts of a recipient domain.
    fn avoid(&self, domain: &str) -> Features {
        self.exception(domain, |exception| exception.avoid).unwrap_or_default()
    }

    fn exception<T>(&self, domain: &str, told: impl Fn(&Exception) -> Option<T>) -> Option<T> {
        let covers =
            |exception: &&Exception| exception.domains.iter().any(|pattern| domain_pattern_covers(pattern, domain));
        self.exceptions.iter().filter(covers).find_map(told)
    }
}

/// What delivery works with.
pub struct Parts {
    /// Where entries come from.
    pub queue: Arc<Queue>,
    /// Where they go.
    pub router: Arc<Router>,
    /// How to get there.
    pub network: Arc<dyn Network>,
    /// For the handshake, which does not judge the certificate.
    pub tls: TlsConnector,
    /// Who is believed about names.
    pub roots: Roots,
    /// Who else carries mail.
    pub smart_hosts: SmartHosts,
    /// For content read back from the store, which has no signatures.
    pub keys: Arc<ArcSwap<Keys>>,
    /// Who signs.
    pub signing: Arc<SigningPool>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The delivery engine.
pub struct Delivery {
    this: Weak<Self>,
    parts: Parts,
    settings: Settings,
    sites: Mutex<HashMap<Arc<str>, Arc<Site>>>,
    /// Entries that wait for the route to a domain.
    looking_up: Mutex<HashMap<String, Vec<Offer>>>,
    /// Sites with entries that wait for a place among all sessions: those at hosts that are known, and the others.
    waiting_sites: [Mutex<WaitingSites<Site>>; 2],
    /// Somebody sees to it that room is made for them.
    is_pressing: AtomicBool,
    places: Arc<Places>,
    /// Look-ups for entries that are about to come, by registrable domain.
    prewarming: Mutex<Shares<Arc<str>>>,
    address_health: AddressHealth,
    paces: Arc<Paces>,
    quirks: Quirks,
    tasks: TaskTracker,
    /// No new attempts; sessions without work end.
    draining: CancellationToken,
    /// Attempts under way end now.
    aborting: CancellationToken,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

impl Delivery {
    /// An engine that waits for offers.
    pub fn new(parts: Parts, settings: Settings) -> Arc<Self> {
        let places = Places::new(settings.connections_max);
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            parts,
            settings,
            sites: Mutex::default(),
            looking_up: Mutex::default(),
            waiting_sites: Default::default(),
            is_pressing: AtomicBool::new(false),
            places,
            prewarming: Mutex::new(Shares::new(prewarm::LOOKUPS_MAX)),
            address_health: AddressHealth::default(),
            paces: Arc::default(),
            quirks: Quirks::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            aborting: CancellationToken::new(),
        })
    }

    /// Ends: no new attempts; those under way get `patience`, then they are put off.
    pub async fn drain(&self, patience: Duration) {
        self.draining.cancel();
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            self.aborting.cancel();
            self.tasks.wait().await;
        }
    }

    /// Connections open, idle ones included.
    pub fn connections(&self) -> usize {
        self.places.used()
    }

    /// Destinations where nobody answers for some time now.
    pub fn destinations_down(&self) -> usize {
        self.sites.lock().values().filter(|site| site.is_down()).count()
    }

    /// Who else carries mail.
    pub fn smart_hosts(&self) -> &SmartHosts {
        &self.parts.smart_hosts
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let aborting = self.aborting.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = work => {}
                () = aborting.cancelled() => {}
            }
        });
    }

    /// Gives an entry whose route is known to the site of its destination, or of the smart host that it goes by.
    fn place(self: Arc<Self>, offer: &Offer, route: &Arc<Route>, carrier: Option<&Arc<Carrier>>) {
        let taken = Taken { entry: offer.entry, lane: offer.lane };
        let site = loop {
            let site = self.site(route, carrier);
            let now = self.parts.clock.instant();
            let mut taking = self.taking(&site, route);
            match site.place(taken, offer.expires_at, route, now, || taking.take()) {
                Placed::Retired => {}
                Placed::Handed | Placed::Coming => break site,
                Placed::Start => {
                    taking.begin_all(|| Beginning::Entry(taken));
                    break site;
                }
                Placed::Waits { for_connection } => {
                    // That an entry was turned away has been told.
                    if !site.was_turned_away(&offer.entry) {
                        self.parts.queue.tell(offer.entry, Kind::Queued, Some(route.name().clone()));
                    }
                    if for_connection {
                        taking.wait();
                    }
                    return;
                }
            }
        };
        let envelope = &offer.message.envelope;
        let recipient = &offer.message.recipient(offer.entry.index).mailbox;
        self.top_up(&site, route, || Caller::new(&self.own_reverse_path(&envelope.reverse_path), recipient));
    }

    /// Starts a session.
    fn begin(self: Arc<Self>, site: Arc<Site>, beginning: Beginning, tenure: Tenure) {
        let worker = self.clone();
        self.spawn(async move { worker.run(site, beginning, tenure).await });
    }

    /// Starts a session for an entry that waits for one, if there may be one more; whether there was. If there is no
    /// place for it, the site waits for one.
    fn start_waiting(self: &Arc<Self>, site: &Arc<Site>) -> bool {
        let route = site.route();
        let mut taking = self.taking(site, &route);
        let taken = site.start_waiting(|| taking.take());
        match taken {
            Some(taken) => taking.begin_all(|| Beginning::Entry(taken)),
            None => taking.wait_again(),
        }
        taken.is_some()
    }

    fn site(&self, route: &Arc<Route>, carrier: Option<&Arc<Carrier>>) -> Arc<Site> {
        // Of domains that share their hosts, the one with the lowest limit counts.
        let limit = match carrier {
            None => self.settings.sessions_max(&route.domain),
            Some(_) => self.settings.connections_per_destination_max,
        };
        let new = || match carrier {
            None => Arc::new(Site::new(route.clone(), limit)),
            Some(carrier) => Arc::new(Site::of_carrier(carrier.clone(), route.clone(), limit)),
        };
        let name = carrier.map_or_else(|| route.destination.clone(), |carrier| carrier.site());
        let mut sites = self.sites.lock();
        let site = sites.entry(name).or_insert_with(new);
        // A smart host whose settings changed is another one; the sessions with the old one end when they are done.
        let is_other = carrier.is_some() && site.carrier.as_ref().map(Arc::as_ptr) != carrier.map(Arc::as_ptr);
        if site.is_retired() || is_other {
            *site = new();
        }
        site.limit(limit);
        site.clone()
    }

    /// Forgets a destination that is not used, when there are many; what was learned of it goes too.
    fn retire_if_empty(&self, site: &Arc<Site>) {
        let mut sites = self.sites.lock();
        if sites.len() <= SITES_MAX {
            return;
        }
        let is_current = sites.get(&site.destination).is_some_and(|current| Arc::ptr_eq(current, site));
        if is_current && site.retire_if_empty() {
            sites.remove(&site.destination);
        }
    }

    /// The smart host that an entry goes by now, if it goes by one.
    fn carrier(&self, offer: &Offer, domain: &str) -> Option<Arc<Carrier>> {
        if self.parts.smart_hosts.is_empty() {
            return None;
        }
        let now = self.parts.clock.now();
        let progress = self.parts.queue.progress(offer.entry)?;
        self.ways(domain, None, now).first(progress.attempts, progress.detour.as_deref(), now)
    }

    fn ways(&self, domain: &str, by: Option<Arc<Carrier>>, since: Timestamp) -> Ways {
        Ways::new(self.parts.smart_hosts.for_domain(domain), by, since)
    }

    /// Finds the route to a domain or a smart host; all entries that come meanwhile wait for the same answer.
    fn look_up(self: Arc<Self>, key: String, carrier: Option<Arc<Carrier>>, offer: Offer) {
        // Two smart hosts can be at one host.
        let waiting_for = carrier.as_ref().map_or_else(|| key.clone(), |carrier| carrier.site().to_string());
        match self.looking_up.lock().entry(waiting_for.clone()) {
            Entry::Occupied(mut waiting) => return waiting.get_mut().push(offer),
            Entry::Vacant(waiting) => waiting.insert(vec![offer]),
        };
        let this = self.clone();
        self.spawn(async move {
            let route = this.parts.router.route(&key).await;
            let mut waiting = this.looking_up.lock().remove(&waiting_for).unwrap_or_default();
            waiting.sort_by_key(|offer| (offer.lane, offer.expires_at));
            for (number, offer) in waiting.iter().enumerate() {
                match &route {
                    Ok(route) => this.clone().place(offer, route, carrier.as_ref()),
                    Err(error) => this.unroutable(offer, error, carrier.clone()),
                }
                if number % TURN_MAX == TURN_MAX - 1 {
                    // Where all are put off at once, what is to be written down must not pile up. Whether it could be
                    // written is not asked here.
                    let _ = this.parts.queue.flush().await;
                }
            }
        });
    }

    /// An entry without a route.
    fn unroutable(&self, offer: &Offer, error: &RouteError, carrier: Option<Arc<Carrier>>) {
        let now = self.parts.clock.now();
        if let Some(carrier) = &carrier {
            carrier.not_found(error, now);
        }
        if let Ok(claim) = self.parts.queue.claim(offer.entry, now) {
            claim.tell(Kind::Attempted, carrier.as_ref().map(|carrier| carrier.host.host.clone()), now);
            let domain = claim.domain();
            settle::without_route(claim, error, &self.ways(&domain, carrier, now), now);
        }
    }
}

impl Workers for Delivery {
    fn expect(&self, reverse_path: &ReversePath, recipient: &Mailbox) {
        if let Some(this) = self.this.upgrade().filter(|this| !this.draining.is_cancelled()) {
            this.prewarm(reverse_path, recipient);
        }
    }

    fn offer(&self, offer: Offer) {
        let Some(this) = self.this.upgrade() else { return };
        if self.draining.is_cancelled() {
            return;
        }
        let domain = offer.message.recipient(offer.entry.index).mailbox.domain_key();
        let carrier = self.carrier(&offer, &domain);
        let key = carrier.as_ref().map_or(domain, |carrier| key_of_host(&carrier.host.host));
        match self.parts.router.remembered(&key) {
            Some(Ok(route)) => this.place(&offer, &route, carrier.as_ref()),
            Some(Err(error)) if !error.is_temporary() => self.unroutable(&offer, &error, carrier),
            Some(Err(_)) | None => this.look_up(key, carrier, offer),
        }
    }
}
