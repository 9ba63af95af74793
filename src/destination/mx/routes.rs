//! Routes that are remembered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::route::{Route, RouteError};
use super::super::shares::{Shares, Standing};
use crate::base::clock::Timestamp;
use crate::mail::registrable::registrable_domain;

/// How often outdated routes are looked for where there is no room for another.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);

/// What a route is looked for to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sought<'a> {
    /// The hosts that take a domain's mail. The domain is in lower case and A-labels.
    Domain(&'a str),
    /// One host, whatever domains it serves: a name in A-labels or an address. It was named by whoever runs the relay, so its
    /// address may be private.
    Host(&'a str),
}

impl<'a> Sought<'a> {
    pub(super) fn name(self) -> &'a str {
        match self {
            Self::Domain(name) | Self::Host(name) => name,
        }
    }
}

/// One of each for domains and for hosts.
#[derive(Debug, Default)]
pub(super) struct ByKind<T> {
    pub(super) domains: T,
    hosts: T,
}

impl<T> ByKind<T> {
    pub(super) fn of(&self, sought: Sought<'_>) -> &T {
        match sought {
            Sought::Domain(_) => &self.domains,
            Sought::Host(_) => &self.hosts,
        }
    }

    pub(super) fn of_mut(&mut self, sought: Sought<'_>) -> &mut T {
        match sought {
            Sought::Domain(_) => &mut self.domains,
            Sought::Host(_) => &mut self.hosts,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct CachedRoute {
    pub(super) found: Result<Arc<Route>, RouteError>,
    pub(super) valid_until: Timestamp,
    /// The number of the part that is looked up next.
    pub(super) part: u32,
    /// The last route that was found, while newer look-ups run into trouble.
    pub(super) stale: Option<(Arc<Route>, Timestamp)>,
}

/// Routes, shared out by registrable domain: names made up in one zone do not push out those of others.
#[derive(Debug)]
pub(super) struct Cache {
    routes: ByKind<HashMap<String, CachedRoute>>,
    shares: Shares<Box<str>>,
    /// When outdated routes were last looked for, for want of room.
    swept_at: Timestamp,
}

impl Cache {
    pub(super) fn new(most: usize) -> Self {
        Self { routes: ByKind::default(), shares: Shares::without_kept(most), swept_at: Timestamp::default() }
    }

    pub(super) fn get(&self, sought: Sought<'_>) -> Option<&CachedRoute> {
        self.routes.of(sought).get(sought.name())
    }

    pub(super) fn get_mut(&mut self, sought: Sought<'_>) -> Option<&mut CachedRoute> {
        self.routes.of_mut(sought).get_mut(sought.name())
    }

    pub(super) fn insert(&mut self, sought: Sought<'_>, cached: CachedRoute, now: Timestamp) {
        if let Some(known) = self.get_mut(sought) {
            *known = cached;
            return;
        }
        let zone = [zone_of(sought.name())];
        let mut has_room = self.shares.take(&zone, Standing::Known).is_ok();
        if !has_room && now.since(self.swept_at) >= SWEEP_PAUSE {
            self.sweep(now);
            has_room = self.shares.take(&zone, Standing::Known).is_ok();
        }
        if has_room {
            self.routes.of_mut(sought).insert(sought.name().to_owned(), cached);
        }
    }

    fn sweep(&mut self, now: Timestamp) {
        self.swept_at = now;
        let ByKind { domains, hosts } = &mut self.routes;
        let is_over = |_: &String, cached: &mut CachedRoute| cached.valid_until <= now;
        for (name, _) in domains.extract_if(is_over).chain(hosts.extract_if(is_over)) {
            self.shares.give_back(&[zone_of(&name)], Standing::Known);
        }
    }
}

fn zone_of(name: &str) -> Box<str> {
    registrable_domain(name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_one_zone_leave_room_for_those_of_others() {
        let mut cache = Cache::new(300);
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let cached = |until| CachedRoute { found: Err(RouteError::NoHost), valid_until: until, part: 0, stale: None };
        (0..1000)
            .for_each(|number| cache.insert(Sought::Domain(&format!("{number}.zone.test")), cached(at(50)), at(20)));
        assert_eq!(cache.routes.domains.len(), 200);
        for number in 0..50 {
            let domain = format!("example{number}.test");
            cache.insert(Sought::Domain(&domain), cached(at(100)), at(21));
            assert!(cache.routes.domains.contains_key(&domain), "{domain}");
        }
        cache.insert(Sought::Domain("more.zone.test"), cached(at(100)), at(51));
        assert!(cache.routes.domains.contains_key("more.zone.test"), "the old ones are outdated");
        assert_eq!((cache.routes.domains.len(), cache.shares.used()), (51, 51));
    }
}
