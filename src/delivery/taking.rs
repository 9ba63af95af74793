//! From a wish for a session to a place for it, or to a turn among those that wait for one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Delivery;
use super::places::{Applicant, Held, Tenure};
use super::site::Site;
use super::waiting_sites::TRIES;
use super::worker::Beginning;
use crate::destination::route::Route;
use crate::destination::shares::Full;

/// How often room is made for those that still wait for a place.
const PRESS_EVERY: Duration = Duration::from_secs(1);

/// Places being taken for one site.
pub(super) struct Taking<'a> {
    delivery: &'a Arc<Delivery>,
    site: &'a Arc<Site>,
    route: &'a Route,
    taken: Vec<Tenure>,
    /// Why there was none, the last time.
    full: Option<(Applicant, Full)>,
}

impl Taking<'_> {
    /// One more place; whether there was one. It is called under the site's lock, and takes that of the places.
    pub(super) fn take(&mut self) -> bool {
        let applicant = match self.site.carrier {
            None => Applicant::of(self.route),
            Some(_) => Applicant::chosen(),
        };
        match self.delivery.places.take(&applicant, self.delivery.parts.clock.instant()) {
            Ok(tenure) => self.taken.push(tenure),
            Err(full) => {
                self.full = Some((applicant, full));
                return false;
            }
        }
        true
    }

    /// Starts a session for each place.
    pub(super) fn begin_all(self, beginning: impl Fn() -> Beginning) {
        for tenure in self.taken {
            self.delivery.clone().begin(self.site.clone(), beginning(), tenure);
        }
    }

    /// The one place that was taken.
    pub(super) fn one(mut self) -> Option<Tenure> {
        self.taken.pop()
    }

    /// If there was no place, somebody makes room if they can, and the site waits for it.
    pub(super) fn wait(self) {
        if let Some((applicant, full)) = &self.full {
            self.delivery.places.make_room(applicant, *full, self.delivery.parts.clock.instant());
        }
        self.wait_in_turn();
    }

    /// The same for a site that has waited before. Who is held to a share has had its own make room by then.
    pub(super) fn wait_again(self) {
        match self.full {
            Some((_, Full::Places)) => self.wait(),
            Some((_, Full::Share(_))) | None => self.wait_in_turn(),
        }
    }

    fn wait_in_turn(self) {
        let Some((applicant, full)) = self.full else { return };
        if self.site.begins_to_wait() {
            let is_known = self.delivery.places.knows(&applicant, self.delivery.parts.clock.instant());
            let group = applicant.short_of(full);
            self.delivery.waiting_sites[usize::from(!is_known)].lock().push(group, self.site.clone());
        }
        self.delivery.press();
    }
}

impl Delivery {
    pub(super) fn taking<'a>(self: &'a Arc<Self>, site: &'a Arc<Site>, route: &'a Route) -> Taking<'a> {
        Taking { delivery: self, site, route, taken: Vec::new(), full: None }
    }

    /// A session ended; its place goes to a site that waits for one.
    pub(super) fn connection_ended(self: &Arc<Self>, site: &Arc<Site>) {
        if self.waiting_groups() == 0 {
            if !self.start_waiting(site) {
                self.retire_if_empty(site);
            }
            return;
        }
        // Others waited before.
        self.feed();
        if site.wants_session() {
            self.start_waiting(site);
        } else {
            self.retire_if_empty(site);
        }
    }

    /// Whether sites wait that are short of what this session holds.
    pub(super) fn is_wanted(&self, held: &Held) -> bool {
        self.waiting_groups() > 0 && {
            let holders = held.holders();
            self.waiting_sites
                .iter()
                .any(|waiting_sites| holders.iter().any(|holder| waiting_sites.lock().contains(holder)))
        }
    }

    fn waiting_groups(&self) -> usize {
        self.waiting_sites.iter().map(|waiting_sites| waiting_sites.lock().groups()).sum()
    }

    /// Starts sessions for those that wait for a place, where there is one.
    fn feed(self: &Arc<Self>) {
        for waiting_sites in &self.waiting_sites {
            let groups = waiting_sites.lock().groups();
            for _ in 0..groups.min(TRIES) {
                let next = waiting_sites.lock().pop();
                let Some(site) = next else { break };
                site.ends_to_wait();
                if self.start_waiting(&site) && site.wants_session() {
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
        self.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(PRESS_EVERY) => {}
                    () = this.draining.cancelled() => return,
                }
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
}
