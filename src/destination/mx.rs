//! From a recipient's domain to the hosts that take its mail (RFC 5321 section 5.1, RFC 7505), remembered for as long
//! as DNS allows, and a little longer while DNS itself is in trouble.

mod hosts;
mod parts;
mod routes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use self::hosts::{FOUND_TTL, Finder, Freshness, LookedUp, TROUBLE_TTL, Terms};
pub(crate) use self::routes::Sought;
use self::routes::{ByKind, Cache, CachedRoute};
use super::policies::Policies;
use super::resolver::Dns;
use super::route::{DnsLookup, Route, RouteError};
use crate::base::clock::Clock;
use crate::mail::address::Mailbox;
use crate::mail::trial::RouteBy;

/// Routes kept at most.
const CACHE_MAX: usize = 20_000;
/// "No such domain" and the like hold for as long as the answer says, but no longer than this.
const REFUSED_TTL_MAX: Duration = Duration::from_secs(600);
/// How long an outdated route still serves while DNS is in trouble.
const STALE_MAX: Duration = Duration::from_secs(6 * 3600);

/// A route, or why there is none.
type RouteResult = Result<Arc<Route>, RouteError>;

/// Finds routes and remembers them.
pub struct Router {
    finder: Finder,
    clock: Arc<dyn Clock>,
    route_by: RouteBy,
    policies: Option<Arc<Policies>>,
    cache: Mutex<Cache>,
    /// Look-ups under way, so that many messages for a domain ask once.
    flights: Mutex<ByKind<HashMap<String, Arc<OnceCell<RouteResult>>>>>,
}

impl Router {
    /// A router with an empty memory. `allow_private`: hosts at private and loopback addresses may be used.
    pub fn new(dns: Arc<dyn Dns>, clock: Arc<dyn Clock>, allow_private: bool) -> Self {
        let cache = Mutex::new(Cache::new(CACHE_MAX));
        Self {
            finder: Finder { dns, allow_private },
            clock,
            route_by: RouteBy::Domain,
            policies: None,
            cache,
            flights: Mutex::default(),
        }
    }

    /// The same with another rule for the names that recipients are routed by.
    #[must_use]
    pub(crate) fn routing_by(self, route_by: RouteBy) -> Self {
        Self { route_by, ..self }
    }

    /// The name by which a recipient's mail finds its way: its domain, in lower case and A-labels.
    pub fn name(&self, recipient: &Mailbox) -> String {
        self.route_by.name(recipient)
    }

    #[must_use]
    pub(crate) fn with_policies(self, policies: Arc<Policies>) -> Self {
        Self { policies: Some(policies), ..self }
    }

    /// What is remembered of a domain and still holds. The domain is in lower case and A-labels.
    pub fn remembered(&self, domain: &str) -> Option<RouteResult> {
        self.remembered_to(Sought::Domain(domain))
    }

    /// The route to a domain, from memory or by asking.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn route(&self, domain: &str) -> RouteResult {
        self.route_to(Sought::Domain(domain)).await
    }

    /// What is remembered of a domain or a host and still holds.
    pub(crate) fn remembered_to(&self, sought: Sought<'_>) -> Option<RouteResult> {
        let now = self.clock.now();
        let cache = self.cache.lock();
        let cached = cache.get(sought).filter(|cached| cached.valid_until > now)?;
        Some(cached.found.clone())
    }

    /// The route to a domain or a host, from memory or by asking.
    pub(crate) async fn route_to(&self, sought: Sought<'_>) -> RouteResult {
        if let Some(found) = self.remembered_to(sought) {
            return found;
        }
        let name = sought.name();
        let flight = self.flights.lock().of_mut(sought).entry(name.to_owned()).or_default().clone();
        let found = flight.get_or_init(|| self.ask(sought)).await.clone();
        let mut flights = self.flights.lock();
        let flights = flights.of_mut(sought);
        if flights.get(name).is_some_and(|current| Arc::ptr_eq(current, &flight)) {
            flights.remove(name);
        }
        found
    }

    /// Nobody takes mail at the hosts and addresses of a route that is one part of many: the next look-up finds the next
    /// part. Where nothing can be remembered of it, the first part is all there is.
    pub(crate) fn pass_on(&self, sought: Sought<'_>, route: &Route) {
        if route.part.of <= 1 {
            return;
        }
        let now = self.clock.now();
        if let Some(cached) = self.cache.lock().get_mut(sought).filter(|cached| cached.part == route.part.number) {
            (cached.part, cached.valid_until) = (route.part.number.wrapping_add(1), now);
        }
    }

    /// What ends an entry, and refuses codes of others for a while, is believed when a second look-up says it too.
    async fn ask(&self, sought: Sought<'_>) -> RouteResult {
        let began = self.clock.now();
        let part = self.cache.lock().get(sought).map_or(0, |cached| cached.part);
        let answer = match self.look_up(sought, Terms { asking: Freshness::Remembered, part }).await {
            Err((error, first)) if !error.is_temporary() => {
                let again = self.look_up(sought, Terms { asking: Freshness::Anew, part }).await;
                again.map_err(|(error, second)| (error, second.min(first)))
            }
            answer => answer,
        };
        let at = self.clock.now();
        let asked = |route| Ok(Arc::new(Route { asked: Some(DnsLookup { at, took: at.since(began) }), ..route }));
        let (found, ttl) = match answer {
            Ok((route, _)) if route.has_trouble() => (asked(route), TROUBLE_TTL),
            Ok((route, ttl)) => (asked(route), ttl.clamp(FOUND_TTL.0, FOUND_TTL.1)),
            Err((error, _)) if error.is_temporary() => (Err(error), TROUBLE_TTL),
            Err((error, ttl)) => (Err(error), ttl.min(REFUSED_TTL_MAX)),
        };
        self.remember(sought, found, ttl, part)
    }

    fn remember(&self, sought: Sought<'_>, found: RouteResult, ttl: Duration, asked_part: u32) -> RouteResult {
        let now = self.clock.now();
        let mut cache = self.cache.lock();
        let stale = match (&found, cache.get(sought)) {
            (Ok(route), _) => Some((route.clone(), now.plus(ttl).plus(STALE_MAX))),
            (Err(error), Some(old)) if error.is_temporary() => old.stale.clone(),
            (Err(_), _) => None,
        };
        let part = match &found {
            Ok(route) => route.part.number,
            // The next part may be found.
            Err(error) if error.is_temporary() => asked_part.wrapping_add(1),
            Err(_) => 0,
        };
        let found = match (found, &stale) {
            (Err(_), Some((route, until))) if *until > now => Ok(route.clone()),
            (found, _) => found,
        };
        cache.insert(sought, CachedRoute { found: found.clone(), valid_until: now.plus(ttl), part, stale }, now);
        found
    }

    async fn look_up(&self, sought: Sought<'_>, terms: Terms) -> LookedUp {
        let domain = match sought {
            Sought::Domain(domain) => domain,
            Sought::Host(host) => return self.finder.of_host(host, terms).await,
        };
        let policy = async {
            match &self.policies {
                Some(policies) => policies.of(domain).await,
                None => None,
            }
        };
        let (found, policy) = tokio::join!(self.finder.of_domain(domain, terms), policy);
        let (route, ttl) = found?;
        Ok((Route { policy, ..route }, ttl))
    }
}
