//! The place of a session beside the first one of an attempt.

use std::net::SocketAddr;
use std::sync::Arc;

use super::super::places::Tenure;
use super::super::site::Site;
use super::super::sites::Sites;

/// A place within the limits of its destination and of the relay.
pub(super) struct Seat {
    sites: Arc<Sites>,
    site: Arc<Site>,
    /// Among all sessions. It is given back before the site is asked whether it needs another.
    tenure: Option<Tenure>,
}

impl Seat {
    pub(super) fn take(sites: &Arc<Sites>, site: &Arc<Site>) -> Option<Self> {
        let route = site.route();
        let mut taking = sites.taking(site, &route);
        let is_free = site.sessions(|sessions| sessions.join(|| taking.take()));
        let tenure = taking.tenure().filter(|_| is_free)?;
        Some(Self { sites: sites.clone(), site: site.clone(), tenure: Some(tenure) })
    }

    /// Whether others need it more.
    pub(super) fn has_to_go(&self) -> bool {
        self.tenure.as_ref().is_some_and(|tenure| tenure.held().has_to_go())
    }

    /// It is with a host at this address.
    pub(super) fn is_at(&self, address: SocketAddr) {
        if let Some(tenure) = &self.tenure {
            tenure.held().is_at(address.ip());
        }
    }
}

/// Given back, also where the attempt is dropped. That others may have it goes out as a value.
impl Drop for Seat {
    fn drop(&mut self) {
        self.site.sessions(|sessions| sessions.leave(None, false));
        drop(self.tenure.take());
        self.sites.session_ended(&self.site);
    }
}
