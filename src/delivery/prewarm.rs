//! Sessions that are opened before there is an entry for them: while a client still sends its message, as many as were
//! needed of late, in place of one that a busy destination has closed, and to look whether a destination is back.

use std::sync::Arc;
use std::time::Duration;

use super::Delivery;
use super::candidates::{Caller, Candidates};
use super::places::Held;
use super::race::{Advance, Race};
use super::site::{Look, Site};
use super::transact::Connection;
use super::worker::Beginning;
use crate::destination::mx::key_of_host;
use crate::destination::route::Route;
use crate::destination::shares::Standing;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::registrable::registrable_domain;
use crate::queue::greylists::Triplet;

/// How long a slow host is waited for while there is no entry for the session.
const SLOW_MAX: Duration = Duration::from_secs(30);

/// What came of opening a session ahead.
pub(super) enum Prewarmed {
    /// It is there.
    Session(Box<Connection>),
    /// The hosts are slow, and an entry waits.
    Slow(Race),
    /// Nothing.
    Nobody,
}

/// Destinations that are looked up for entries that are about to come, at once.
pub(super) const LOOKUPS_MAX: usize = 64;

impl Delivery {
    /// A message for this recipient is about to come: finds the way and opens a session, unless one is at hand.
    pub(super) fn prewarm(self: Arc<Self>, reverse_path: &ReversePath, recipient: &Mailbox) {
        let own = self.own_reverse_path(reverse_path);
        let caller = Caller::new(&own, recipient);
        let now = self.parts.clock.now();
        if let Some(carrier) = self.ways(caller.domain(), None, now).first(0, None, now) {
            if let Some(Ok(route)) = self.parts.router.remembered(&key_of_host(&carrier.host.host)) {
                let site = self.site(&route, Some(&carrier));
                self.prewarm_at(&site, caller);
            }
            return;
        }
        match self.parts.router.remembered(caller.domain()) {
            Some(Ok(route)) => {
                let site = self.site(&route, None);
                self.prewarm_at(&site, caller);
            }
            Some(Err(_)) => {}
            None => self.prewarm_after_lookup(caller),
        }
    }

    fn prewarm_at(self: Arc<Self>, site: &Arc<Site>, caller: Caller) {
        let route = site.route();
        let mut taking = self.taking(site, &route);
        if site.prepare(|| taking.take()) {
            taking.begin_all(|| Beginning::Prewarm(caller.clone()));
        }
    }

    fn prewarm_after_lookup(self: Arc<Self>, caller: Caller) {
        let zone = [Arc::<str>::from(registrable_domain(caller.domain()))];
        if self.prewarming.lock().take(&zone, Standing::Unknown).is_err() {
            return;
        }
        let this = self.clone();
        self.spawn(async move {
            let found = this.parts.router.route(caller.domain()).await;
            this.prewarming.lock().give_back(&zone, Standing::Unknown);
            if let Ok(route) = found {
                let site = this.site(&route, None);
                this.prewarm_at(&site, caller);
            }
        });
    }

    /// Opens as many sessions as were needed of late, when an entry has come.
    pub(super) fn top_up(self: &Arc<Self>, site: &Arc<Site>, route: &Route, caller: impl Fn() -> Caller) {
        let mut taking = self.taking(site, route);
        site.prepare_top_up(|| taking.take());
        taking.begin_all(|| Beginning::Prewarm(caller()));
    }

    /// Opens a session in place of an idle one that has ended, where the next entry is to be expected.
    pub(super) fn replace(self: &Arc<Self>, site: &Arc<Site>) {
        let now = self.parts.clock.instant();
        let route = site.route();
        let mut taking = self.taking(site, &route);
        if let Some(caller) = site.replace(self.settings.idle_timeout, now, || taking.take()) {
            taking.begin_all(|| Beginning::Prewarm(caller.clone()));
        }
    }

    /// A session up to the point before MAIL, for nobody yet. While the hosts are slow and an entry waits, the race goes on
    /// as that entry's.
    pub(super) async fn open_before_entry(
        self: &Arc<Self>,
        site: &Arc<Site>,
        caller: &Caller,
        held: &Held,
    ) -> Prewarmed {
        let Ok(Some(route)) = self.route_at(site, caller.domain()).await else { return Prewarmed::Nobody };
        let mut candidates = Candidates::new(&route, caller, site.carrier.clone(), self);
        if site.carrier.is_none() {
            let triplet = Triplet::new(caller.sender(), caller.recipient(), &route.destination);
            candidates.begin_with(self.parts.queue.greylists().greylister(&triplet));
        }
        candidates.take_turn(site.next_turn());
        let mut race = Race::new(self, site);
        let began = self.parts.clock.instant();
        loop {
            let advance = tokio::select! {
                advance = race.advance(&mut candidates, || Ok(())) => advance,
                () = held.gives_way() => return Prewarmed::Nobody,
                () = self.draining.cancelled() => return Prewarmed::Nobody,
            };
            match advance {
                Advance::Session(mut runner) => {
                    race.close();
                    held.is_at(runner.connection.address.ip());
                    runner.connection.opened_by(race.steps);
                    self.answered(site);
                    return Prewarmed::Session(runner.connection);
                }
                Advance::Look if race.met_slow_hosts() && site.is_awaited() => return Prewarmed::Slow(race),
                Advance::Look => {
                    let took = self.parts.clock.instant().saturating_duration_since(began);
                    if race.met_slow_hosts() && took >= SLOW_MAX {
                        return Prewarmed::Nobody;
                    }
                }
                Advance::Nobody if race.met_slow_hosts() => return Prewarmed::Nobody,
                Advance::Nobody if self.turned_away(site, &candidates) => return Prewarmed::Nobody,
                Advance::Nobody | Advance::Content(..) | Advance::Refused(..) | Advance::Gone(_) => {
                    self.nobody_answered(site, candidates.last_failure, caller, None);
                    return Prewarmed::Nobody;
                }
            }
        }
    }

    /// The destination answers; whoever waited for that is tried now.
    pub(super) fn answered(&self, site: &Site) {
        let waited = site.answered();
        if !waited.is_empty() {
            tracing::info!(destination = %site.destination, entries = waited.len(), "answers again");
            self.parts.queue.retry_unreachable(&waited, self.parts.clock.now());
        }
    }

    /// Looks now and then whether a destination is back, while somebody waits for it.
    pub(super) fn look_after(self: &Arc<Self>, site: &Arc<Site>) {
        let (this, site) = (self.clone(), site.clone());
        self.spawn(async move {
            while let Some(at) = site.next_look_at(this.parts.clock.instant()) {
                tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    () = this.draining.cancelled() => return,
                }
                let route = site.route();
                let mut taking = this.taking(&site, &route);
                let now = this.parts.clock.instant();
                match site.look(|entry| this.parts.queue.is_live(entry.message), now, || taking.take()) {
                    Look::Open(caller) => {
                        if let Some(tenure) = taking.one() {
                            this.clone().run(site.clone(), Beginning::Prewarm(caller), tenure).await;
                        }
                    }
                    Look::Later => {}
                    Look::NoMore => return,
                }
            }
        });
    }
}
