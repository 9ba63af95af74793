//! From a recipient's domain to the hosts that take its mail (RFC 5321 section 5.1, RFC 7505), remembered for as long
//! as DNS allows, and a little longer while DNS itself is in trouble.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::dane::{self, Tlsa};
use super::policies::Policies;
use super::public::is_public;
use super::resolver::{Denial, Dns, MxRecord};
use super::route::{Asked, Host, Route, RouteError};
use super::shares::{Shares, Standing};
use crate::clock::{Clock, Timestamp};
use crate::mail::registrable::registrable_domain;

/// Hosts of one destination that are kept at most. An attempt tries some of them, the next one others.
const HOSTS_MAX: usize = 32;
/// Hosts that give a destination its name.
const NAMING_HOSTS_MAX: usize = 16;
/// Addresses of one family and host that are kept at least and at most: the fewer hosts, the more.
const ADDRESSES: (usize, usize) = (4, 32);
/// Addresses of one family that all hosts of a destination have together at most.
const ROUTE_ADDRESSES_MAX: usize = 128;
/// Routes kept at most.
const CACHE_MAX: usize = 20_000;
/// How often outdated routes are looked for where there is no room for another.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);
/// How long a found route holds at least and at most, whatever DNS says.
const FOUND_TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
/// "No such domain" and the like hold for as long as the answer says, but no longer than this.
const REFUSED_TTL_MAX: Duration = Duration::from_secs(600);
/// How long trouble with DNS is not looked into again.
const TROUBLE_TTL: Duration = Duration::from_secs(2);
/// How long an outdated route still serves while DNS is in trouble.
const STALE_MAX: Duration = Duration::from_secs(6 * 3600);

type Found = Result<Arc<Route>, RouteError>;

/// A route, or why there is none, and for how long that holds.
type LookedUp = Result<(Route, Duration), (RouteError, Duration)>;

/// Whether what the resolver remembers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    Remembered,
    Anew,
}

/// What a route is looked for to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought<'a> {
    /// The hosts that take a domain's mail. The domain is in lower case and A-labels.
    Domain(&'a str),
    /// One host, whatever domains it serves: a name in A-labels or an address. It was named by whoever runs the relay, so its
    /// address may be private.
    Host(&'a str),
}

impl<'a> Sought<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Domain(name) | Self::Host(name) => name,
        }
    }
}

/// One of each for domains and for hosts.
#[derive(Debug, Default)]
struct ByKind<T> {
    domains: T,
    hosts: T,
}

impl<T> ByKind<T> {
    fn of(&self, sought: Sought<'_>) -> &T {
        match sought {
            Sought::Domain(_) => &self.domains,
            Sought::Host(_) => &self.hosts,
        }
    }

    fn of_mut(&mut self, sought: Sought<'_>) -> &mut T {
        match sought {
            Sought::Domain(_) => &mut self.domains,
            Sought::Host(_) => &mut self.hosts,
        }
    }
}

#[derive(Debug, Clone)]
struct Cached {
    found: Found,
    valid_until: Timestamp,
    /// The last route that was found, while newer look-ups run into trouble.
    stale: Option<(Arc<Route>, Timestamp)>,
}

/// Routes, shared out by registrable domain: names made up in one zone do not push out those of others.
#[derive(Debug)]
struct Cache {
    routes: ByKind<HashMap<String, Cached>>,
    shares: Shares<Box<str>>,
    /// When outdated routes were last looked for, for want of room.
    swept_at: Timestamp,
}

impl Cache {
    fn new(most: usize) -> Self {
        Self { routes: ByKind::default(), shares: Shares::without_kept(most), swept_at: Timestamp::default() }
    }

    fn get(&self, sought: Sought<'_>) -> Option<&Cached> {
        self.routes.of(sought).get(sought.name())
    }

    fn insert(&mut self, sought: Sought<'_>, cached: Cached, now: Timestamp) {
        if let Some(known) = self.routes.of_mut(sought).get_mut(sought.name()) {
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
        let is_over = |_: &String, cached: &mut Cached| cached.valid_until <= now;
        for (name, _) in domains.extract_if(is_over).chain(hosts.extract_if(is_over)) {
            self.shares.give_back(&[zone_of(&name)], Standing::Known);
        }
    }
}

fn zone_of(name: &str) -> Box<str> {
    registrable_domain(name).into()
}

/// Finds routes and remembers them.
pub struct Router {
    dns: Arc<dyn Dns>,
    clock: Arc<dyn Clock>,
    allow_private: bool,
    policies: Option<Arc<Policies>>,
    cache: Mutex<Cache>,
    /// Look-ups under way, so that many messages for a domain ask once.
    flights: Mutex<ByKind<HashMap<String, Arc<OnceCell<Found>>>>>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Router")
    }
}

impl Router {
    /// A router with an empty memory. `allow_private`: hosts at private and loopback addresses may be used.
    pub fn new(dns: Arc<dyn Dns>, clock: Arc<dyn Clock>, allow_private: bool) -> Self {
        let cache = Mutex::new(Cache::new(CACHE_MAX));
        Self { dns, clock, allow_private, policies: None, cache, flights: Mutex::default() }
    }

    /// The same with MTA-STS.
    #[must_use]
    pub fn with_policies(self, policies: Arc<Policies>) -> Self {
        Self { policies: Some(policies), ..self }
    }

    /// What is remembered of a domain and still holds. The domain is in lower case and A-labels.
    pub fn remembered(&self, domain: &str) -> Option<Found> {
        self.remembered_to(Sought::Domain(domain))
    }

    /// The route to a domain, from memory or by asking.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn route(&self, domain: &str) -> Found {
        self.route_to(Sought::Domain(domain)).await
    }

    /// What is remembered of a domain or a host and still holds.
    pub fn remembered_to(&self, sought: Sought<'_>) -> Option<Found> {
        let now = self.clock.now();
        let cache = self.cache.lock();
        let cached = cache.get(sought).filter(|cached| cached.valid_until > now)?;
        Some(cached.found.clone())
    }

    /// The route to a domain or a host, from memory or by asking.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn route_to(&self, sought: Sought<'_>) -> Found {
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

    /// What ends an entry, and refuses codes of others for a while, is believed when a second look-up says it too.
    async fn ask(&self, sought: Sought<'_>) -> Found {
        let began = self.clock.now();
        let answer = match self.look_up(sought, Asking::Remembered).await {
            Err((error, first)) if !error.is_temporary() => {
                let again = self.look_up(sought, Asking::Anew).await;
                again.map_err(|(error, second)| (error, second.min(first)))
            }
            answer => answer,
        };
        let at = self.clock.now();
        let asked = |route| Ok(Arc::new(Route { asked: Some(Asked { at, took: at.since(began) }), ..route }));
        let (found, ttl) = match answer {
            Ok((route, _)) if route.has_trouble() => (asked(route), TROUBLE_TTL),
            Ok((route, ttl)) => (asked(route), ttl.clamp(FOUND_TTL.0, FOUND_TTL.1)),
            Err((error, _)) if error.is_temporary() => (Err(error), TROUBLE_TTL),
            Err((error, ttl)) => (Err(error), ttl.min(REFUSED_TTL_MAX)),
        };
        self.remember(sought, found, ttl)
    }

    fn remember(&self, sought: Sought<'_>, found: Found, ttl: Duration) -> Found {
        let now = self.clock.now();
        let mut cache = self.cache.lock();
        let stale = match (&found, cache.get(sought)) {
            (Ok(route), _) => Some((route.clone(), now.plus(ttl).plus(STALE_MAX))),
            (Err(error), Some(old)) if error.is_temporary() => old.stale.clone(),
            (Err(_), _) => None,
        };
        let found = match (found, &stale) {
            (Err(_), Some((route, until))) if *until > now => Ok(route.clone()),
            (found, _) => found,
        };
        cache.insert(sought, Cached { found: found.clone(), valid_until: now.plus(ttl), stale }, now);
        found
    }

    async fn look_up(&self, sought: Sought<'_>, asking: Asking) -> LookedUp {
        let domain = match sought {
            Sought::Domain(domain) => domain,
            Sought::Host(host) => return self.one_host(host, asking).await,
        };
        let policy = async {
            match &self.policies {
                Some(policies) => policies.of(domain).await,
                None => None,
            }
        };
        let (found, policy) = tokio::join!(self.hosts_of(domain, asking), policy);
        let (route, ttl) = found?;
        Ok((Route { policy, ..route }, ttl))
    }

    async fn hosts_of(&self, domain: &str, asking: Asking) -> LookedUp {
        if asking == Asking::Anew {
            self.dns.forget(domain);
        }
        let (mut records, ttl, is_secure) = match self.dns.mx(domain).await {
            Ok(found) => (found.records, found.ttl, found.secure),
            Err(error) => match error.denial() {
                // RFC 5321 section 5.1: without MX the domain itself is the host. Where DNSSEC vouches for its addresses, it
                // has vouched for there being no MX.
                Some((Denial::Records, _)) => {
                    (vec![MxRecord { preference: 0, exchange: domain.to_owned() }], FOUND_TTL.1, true)
                }
                Some((Denial::Name, ttl)) => return Err((RouteError::NoSuchDomain, ttl)),
                None => return Err((RouteError::Trouble(error), TROUBLE_TTL)),
            },
        };
        if records.iter().all(|record| record.exchange.is_empty()) {
            return Err((RouteError::NullMx, ttl));
        }
        records.retain(|record| !record.exchange.is_empty());
        records.sort_by(|a, b| (a.preference, &a.exchange).cmp(&(b.preference, &b.exchange)));
        // A host that is named several times counts as most preferred.
        let mut known = HashSet::new();
        records.retain(|record| known.insert(record.exchange.clone()));
        records.truncate(HOSTS_MAX);
        let names = Names { domain, is_secure, asking };
        self.hosts(names, records, ttl).await
    }

    async fn one_host(&self, host: &str, asking: Asking) -> LookedUp {
        let route = |addresses| Route::new(host, host, vec![Host::new(host, 0, addresses)]);
        if let Ok(address) = host.parse() {
            return Ok((route(vec![address]), FOUND_TTL.1));
        }
        if asking == Asking::Anew {
            self.dns.forget(host);
        }
        let terms = Terms { allow_private: true, is_name_secure: false, addresses_max: ADDRESSES.1 };
        let found = host_facts(self.dns.as_ref(), host, terms).await;
        if found.usable.is_empty() {
            return Err((found.problem.unwrap_or(RouteError::NoHost), found.ttl));
        }
        Ok((route(found.usable), found.ttl))
    }

    async fn hosts(
        &self,
        Names { domain, is_secure, asking }: Names<'_>,
        records: Vec<MxRecord>,
        ttl: Duration,
    ) -> LookedUp {
        let mut names: Vec<&str> = records.iter().map(|record| record.exchange.as_str()).collect();
        names.truncate(NAMING_HOSTS_MAX);
        names.sort_unstable();
        let destination = names.join(",");
        let addresses_max = (ROUTE_ADDRESSES_MAX / records.len().max(1)).clamp(ADDRESSES.0, ADDRESSES.1);
        let terms = Terms { allow_private: self.allow_private, is_name_secure: is_secure, addresses_max };
        let mut lookups = tokio::task::JoinSet::new();
        for (index, record) in records.iter().enumerate() {
            let (dns, host) = (self.dns.clone(), record.exchange.clone());
            if asking == Asking::Anew && host != domain {
                dns.forget(&host);
            }
            lookups.spawn(async move { (index, host_facts(dns.as_ref(), &host, terms).await) });
        }
        let mut found: Vec<Option<HostFacts>> = records.iter().map(|_| None).collect();
        while let Some(Ok((index, facts))) = lookups.join_next().await {
            found[index] = Some(facts);
        }
        let (mut least_ttl, mut denied_ttl) = (ttl, ttl);
        let mut hosts = Vec::new();
        let mut problem = None;
        let mut addresses_are_secure = true;
        for (record, found) in records.into_iter().zip(found) {
            let Some(found) = found else { continue };
            denied_ttl = denied_ttl.min(found.ttl);
            if !found.usable.is_empty() {
                least_ttl = least_ttl.min(found.ttl);
                addresses_are_secure &= found.is_secure;
            }
            problem = problem.or(found.problem);
            let host = Host::new(&record.exchange, record.preference, found.usable);
            hosts.push(Host { tlsa: found.tlsa, tlsa_base: found.tlsa_base, ..host });
        }
        if hosts.iter().all(|host| host.addresses.is_empty()) {
            return Err((problem.unwrap_or(RouteError::NoHost), denied_ttl));
        }
        // The domain itself was taken for the host: then its addresses say what there is to say.
        let is_itself = destination == domain;
        let route = Route::new(domain, &destination, hosts);
        Ok((Route { is_secure: is_secure && (!is_itself || addresses_are_secure), ..route }, least_ttl))
    }
}

/// Whose hosts they are, whether DNSSEC vouches for their names, and how they are looked up.
struct Names<'a> {
    domain: &'a str,
    is_secure: bool,
    asking: Asking,
}

/// What counts of a host's addresses.
#[derive(Debug, Clone, Copy)]
struct Terms {
    allow_private: bool,
    is_name_secure: bool,
    /// Of one family.
    addresses_max: usize,
}

struct HostFacts {
    usable: Vec<IpAddr>,
    ttl: Duration,
    is_secure: bool,
    tlsa: Tlsa,
    tlsa_base: Arc<str>,
    problem: Option<RouteError>,
}

/// Both families of a host's addresses, asked for at the same time; and what its certificates are, where DNSSEC vouches for
/// all that leads there (RFC 7672 section 2.2).
async fn host_facts(dns: &dyn Dns, host: &str, terms: Terms) -> HostFacts {
    let Terms { allow_private, is_name_secure, addresses_max } = terms;
    let (ipv4, ipv6) = tokio::join!(dns.ipv4(host), dns.ipv6(host));
    let mut all = Vec::new();
    let mut ttl = FOUND_TTL.1;
    let (mut problem, mut denied_ttl) = (None, None);
    let mut is_secure = true;
    for answer in [ipv4, ipv6] {
        match answer {
            Ok(records) => {
                ttl = ttl.min(records.ttl);
                is_secure &= records.secure;
                all.extend(records.records.into_iter().take(addresses_max));
            }
            Err(error) => match error.denial() {
                Some((_, denied)) => denied_ttl = Some(denied_ttl.map_or(denied, |ttl: Duration| ttl.min(denied))),
                None => problem = Some(RouteError::Trouble(error)),
            },
        }
    }
    let has_any = !all.is_empty();
    all.retain(|address| allow_private || is_public(*address));
    if has_any && all.is_empty() {
        problem = Some(RouteError::Private);
    }
    let (mut tlsa, mut tlsa_base) = (Tlsa::None, host.into());
    if is_name_secure && is_secure && !all.is_empty() {
        let tlsa_ttl;
        (tlsa, tlsa_base, tlsa_ttl) = tlsa_of(dns, host).await;
        ttl = ttl.min(tlsa_ttl);
    }
    // A family that a host does not have ends nothing while it has the other.
    if all.is_empty() {
        ttl = ttl.min(denied_ttl.unwrap_or(ttl));
    }
    HostFacts { usable: all, ttl, is_secure, tlsa, tlsa_base, problem }
}

/// The TLSA records of a host for which DNSSEC vouches, where they are, and for how long that holds: at the end of its CNAMEs, if
/// there are any, else at its own name (RFC 7672 section 2.2.2).
async fn tlsa_of(dns: &dyn Dns, host: &str) -> (Tlsa, Arc<str>, Duration) {
    let mut ttl = FOUND_TTL.1;
    let end = match dns.alias(host).await {
        Ok(found) => found.records.into_iter().next().filter(|_| found.secure),
        Err(error) if error.is_answer() => None,
        Err(error) => return (Tlsa::Failed(error), host.into(), ttl),
    };
    for name in end.as_deref().into_iter().chain([host]) {
        let answer = dns.tlsa(&dane::name_of(name)).await;
        ttl = answer.as_ref().map_or(ttl, |found| ttl.min(found.ttl));
        let tlsa = Tlsa::of(answer);
        if tlsa != Tlsa::None {
            return (tlsa, name.into(), ttl);
        }
    }
    (Tlsa::None, host.into(), ttl)
}

#[cfg(test)]
mod tests {
    use super::super::resolver::{Answer, DnsError, Records};
    use super::super::tlsa::TlsaRecord;
    use super::*;
    use crate::clock::ManualClock;

    type Rows = Result<Vec<String>, DnsError>;

    /// DNS from a table of `name type -> text`.
    #[derive(Default)]
    struct Table {
        rows: Mutex<HashMap<(String, &'static str), Rows>>,
        asked: Mutex<Vec<String>>,
        is_secure: bool,
    }

    impl Table {
        fn set(&self, name: &str, kind: &'static str, found: Result<&[&str], DnsError>) {
            let found = found.map(|rows| rows.iter().map(|row| (*row).to_owned()).collect());
            self.rows.lock().insert((name.to_owned(), kind), found);
        }

        fn get<T>(&self, name: &str, kind: &'static str, read: impl Fn(&str) -> T) -> Result<Records<T>, DnsError> {
            self.asked.lock().push(format!("{name} {kind}"));
            let rows = self.rows.lock();
            let found = rows.get(&(name.to_owned(), kind)).cloned().unwrap_or(Err(DnsError::NoRecords))?;
            Ok(Records {
                records: found.iter().map(|row| read(row)).collect(),
                ttl: Duration::from_secs(300),
                secure: self.is_secure,
            })
        }
    }

    impl Dns for Table {
        fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
            let found = self.get(domain, "MX", |row| {
                let (preference, exchange) = row.split_once(' ').unwrap();
                MxRecord { preference: preference.parse().unwrap(), exchange: exchange.to_owned() }
            });
            Box::pin(async move { found })
        }

        fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
            let found = self.get(host, "A", |row| row.parse().unwrap());
            Box::pin(async move { found })
        }

        fn ipv6<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
            let found = self.get(host, "AAAA", |row| row.parse().unwrap());
            Box::pin(async move { found })
        }

        fn tlsa<'a>(&'a self, name: &'a str) -> Answer<'a, TlsaRecord> {
            let found = self.get(name, "TLSA", |row| row.parse().unwrap());
            Box::pin(async move { found })
        }

        fn alias<'a>(&'a self, host: &'a str) -> Answer<'a, String> {
            let found = self.get(host, "CNAME", str::to_owned);
            Box::pin(async move { found })
        }
    }

    fn router(table: &Arc<Table>, allow_private: bool) -> (Router, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)));
        (Router::new(table.clone(), clock.clone(), allow_private), clock)
    }

    #[tokio::test]
    async fn hosts_come_by_preference() {
        let table = Arc::new(Table::default());
        table.set("example.com", "MX", Ok(&["20 b.example.com", "10 z.example.com", "10 a.example.com"]));
        for (host, address) in [("a", "93.184.215.1"), ("b", "93.184.215.2"), ("z", "93.184.215.3")] {
            table.set(&format!("{host}.example.com"), "A", Ok(&[address]));
        }
        table.set("a.example.com", "AAAA", Ok(&["2606:2800::1"]));
        let (router, _) = router(&table, false);
        let route = router.route("example.com").await.unwrap();
        let names: Vec<&str> = route.hosts.iter().map(|host| host.name.as_ref()).collect();
        assert_eq!(names, ["a.example.com", "z.example.com", "b.example.com"]);
        assert_eq!(route.hosts[0].addresses.len(), 2);
        assert_eq!(route.destination.as_ref(), "a.example.com,b.example.com,z.example.com");
        assert_eq!(route.name().as_ref(), "a.example.com");
    }

    #[tokio::test]
    async fn more_hosts_and_addresses_are_kept_than_one_attempt_tries() {
        let table = Arc::new(Table::default());
        let of = async |hosts: usize, addresses: usize| {
            let rows: Vec<String> = (0..hosts).map(|number| format!("10 mx{number:02}.test")).collect();
            table.set("d.test", "MX", Ok(&rows.iter().map(String::as_str).collect::<Vec<_>>()));
            let ips: Vec<String> = (0..addresses).map(|number| format!("93.184.215.{number}")).collect();
            let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
            rows.iter().for_each(|row| table.set(row.split_once(' ').unwrap().1, "A", Ok(&ips)));
            let route = router(&table, false).0.route("d.test").await.unwrap();
            let all: usize = route.hosts.iter().map(|host| host.addresses.len()).sum();
            (route.hosts.len(), route.hosts[0].addresses.len(), all, route.destination.split(',').count())
        };
        assert_eq!(of(1, 9).await, (1, 9, 9, 1));
        assert_eq!(of(17, 1).await, (17, 1, 17, 16), "the name of the destination is as before");
        assert_eq!(of(1, 100).await, (1, 32, 32, 1));
        assert_eq!(of(16, 100).await, (16, 8, 128, 16));
        assert_eq!(of(100, 100).await, (32, 4, 128, 16));
    }

    #[tokio::test]
    async fn a_host_that_is_named_twice_is_one_host() {
        let table = Arc::new(Table::default());
        table.set("example.com", "MX", Ok(&["30 a.example.com", "20 b.example.com", "10 a.example.com"]));
        table.set("a.example.com", "A", Ok(&["93.184.215.1"]));
        table.set("b.example.com", "A", Ok(&["93.184.215.2"]));
        let route = router(&table, false).0.route("example.com").await.unwrap();
        let hosts: Vec<_> = route.hosts.iter().map(|host| (host.preference, host.name.as_ref())).collect();
        assert_eq!(hosts, [(10, "a.example.com"), (20, "b.example.com")]);
    }

    #[tokio::test]
    async fn a_host_that_was_named_may_be_private() {
        let table = Arc::new(Table::default());
        table.set("smtp.example.com", "A", Ok(&["10.0.0.1"]));
        table.set("smtp.example.com", "MX", Ok(&["10 other.example.com"]));
        let (router, _) = router(&table, false);
        let route = router.route_to(Sought::Host("smtp.example.com")).await.unwrap();
        assert_eq!(route.hosts[0].addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(router.route("smtp.example.com").await, Err(RouteError::NoHost));
        let route = router.route_to(Sought::Host("::1")).await.unwrap();
        assert_eq!(route.hosts[0].addresses, ["::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(router.route_to(Sought::Host("gone.example.com")).await, Err(RouteError::NoHost));
    }

    #[tokio::test]
    async fn domains_without_mx_and_without_mail() {
        let table = Arc::new(Table::default());
        table.set("implicit.example", "A", Ok(&["93.184.215.1"]));
        table.set("null.example", "MX", Ok(&["0 "]));
        table.set("gone.example", "MX", Err(DnsError::NoSuchName));
        table.set("inside.example", "A", Ok(&["10.0.0.1"]));
        table.set("ill.example", "MX", Err(DnsError::Timeout));
        table.set("lame.example", "MX", Ok(&["10 lame-mx.example"]));
        table.set("lame-mx.example", "A", Err(DnsError::Failed("SERVFAIL".into())));
        let (router, _) = router(&table, false);
        let route = router.route("implicit.example").await.unwrap();
        assert_eq!(route.hosts[0].name.as_ref(), "implicit.example");
        assert_eq!(router.route("null.example").await, Err(RouteError::NullMx));
        assert_eq!(router.route("gone.example").await, Err(RouteError::NoSuchDomain));
        assert_eq!(router.route("nothing.example").await, Err(RouteError::NoHost));
        assert_eq!(router.route("inside.example").await, Err(RouteError::Private));
        assert!(router.route("ill.example").await.unwrap_err().is_temporary());
        assert!(router.route("lame.example").await.unwrap_err().is_temporary());
    }

    #[test]
    fn routes_of_one_zone_leave_room_for_those_of_others() {
        let mut cache = Cache::new(300);
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let cached = |until| Cached { found: Err(RouteError::NoHost), valid_until: until, stale: None };
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

    #[tokio::test]
    async fn what_is_known_is_not_asked_again_and_outlives_trouble() {
        let table = Arc::new(Table::default());
        table.set("example.com", "MX", Ok(&["10 a.example.com"]));
        table.set("a.example.com", "A", Ok(&["93.184.215.1"]));
        let (router, clock) = router(&table, false);
        let first = router.route("example.com").await.unwrap();
        let asked = table.asked.lock().len();
        assert_eq!(router.route("example.com").await.unwrap(), first);
        assert_eq!(table.asked.lock().len(), asked);
        table.set("example.com", "MX", Err(DnsError::Timeout));
        clock.advance(Duration::from_secs(301));
        assert_eq!(router.remembered("example.com"), None);
        assert_eq!(router.route("example.com").await.unwrap(), first);
        assert!(table.asked.lock().len() > asked);
        clock.advance(Duration::from_secs(7 * 3600));
        assert!(router.route("example.com").await.is_err());
        table.set("example.com", "MX", Err(DnsError::NoSuchName));
        clock.advance(Duration::from_secs(3));
        assert_eq!(router.route("example.com").await, Err(RouteError::NoSuchDomain));
    }

    type Row<'a> = (&'a str, &'static str, Result<&'a [&'a str], DnsError>);

    #[tokio::test]
    async fn tlsa_records_are_looked_for_at_the_end_of_aliases_first() {
        let digest = |octet: &str| format!("3 1 1 {}", octet.repeat(32));
        let of = async |rows: &[Row]| {
            let table = Arc::new(Table { is_secure: true, ..Table::default() });
            table.set("example.com", "MX", Ok(&["10 mx.example.com"]));
            table.set("mx.example.com", "A", Ok(&["93.184.215.1"]));
            rows.iter().for_each(|(name, kind, found)| table.set(name, kind, found.clone()));
            let route = router(&table, false).0.route("example.com").await.unwrap();
            let Host { tlsa, tlsa_base, .. } = route.hosts[0].clone();
            let found = match tlsa {
                Tlsa::Usable(records) => records[0].to_string(),
                other => format!("{other:?}"),
            };
            (found, tlsa_base.to_string())
        };
        let (one, two) = (digest("01"), digest("02"));
        let (alias, at_end) = (("mx.example.com", "CNAME", Ok(&["host.example.net"][..])), "_25._tcp.host.example.net");
        let at_first = "_25._tcp.mx.example.com";
        let is = |found: &str, base: &str| (found.to_owned(), base.to_owned());
        let both = [alias.clone(), (at_end, "TLSA", Ok(&[&*one])), (at_first, "TLSA", Ok(&[&*two]))];
        assert_eq!(of(&both).await, is(&one, "host.example.net"));
        let first_only = [alias.clone(), (at_first, "TLSA", Ok(&[&*two]))];
        assert_eq!(of(&first_only).await, is(&two, "mx.example.com"));
        assert_eq!(of(&first_only[1..]).await, is(&two, "mx.example.com"), "no alias");
        assert_eq!(of(std::slice::from_ref(&alias)).await, is("None", "mx.example.com"));
        let hidden = [alias.clone(), (at_end, "TLSA", Err(DnsError::Timeout)), (at_first, "TLSA", Ok(&[&*two]))];
        assert_eq!(of(&hidden).await, is("Failed(Timeout)", "host.example.net"), "it never downgrades");
        let unknown = [("mx.example.com", "CNAME", Err(DnsError::Timeout)), (at_first, "TLSA", Ok(&[&*two][..]))];
        assert_eq!(of(&unknown).await, is("Failed(Timeout)", "mx.example.com"));
    }
}
