//! What DNS says of the hosts that take a domain's mail: their names, addresses and certificates.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::dane::{self, Tlsa};
use super::super::public::is_public;
use super::super::resolver::{Denial, Dns, DnsError, MxRecord};
use super::super::route::{Host, Part, Route, RouteError};
use super::parts::{addresses_of_part, hosts_of_part, parts};

/// Parts without an address that are passed over in one look-up at most.
const EMPTY_PARTS_MAX: u32 = 4;
/// Hosts that give a destination its name.
const NAMING_HOSTS_MAX: usize = 16;
/// Addresses of one family and host that a route holds at least and at most: the fewer hosts, the more.
const ADDRESSES: (usize, usize) = (4, 32);
/// Addresses of one family that all hosts of a destination have together at most.
const ROUTE_ADDRESSES_MAX: usize = 128;
/// How long a found route holds at least and at most, whatever DNS says.
pub(super) const FOUND_TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
/// How long trouble with DNS is not looked into again.
pub(super) const TROUBLE_TTL: Duration = Duration::from_secs(2);

/// A route, or why there is none, and for how long that holds.
pub(super) type LookedUp = Result<(Route, Duration), (RouteError, Duration)>;

/// What is told where the part that was looked up has no address, and others have not been looked up.
const NOT_YET: &str = "the hosts looked up so far have no address; others follow";

/// Whether what the resolver remembers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    Remembered,
    Anew,
}

/// How a domain's hosts are looked up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) asking: Freshness,
    /// The number of the part.
    pub(super) part: u32,
}

pub(super) struct Finder {
    pub(super) dns: Arc<dyn Dns>,
    /// Hosts at private and loopback addresses may be used.
    pub(super) allow_private: bool,
}

impl Finder {
    /// The hosts that take a domain's mail.
    pub(super) async fn of_domain(&self, domain: &str, terms: Terms) -> LookedUp {
        if terms.asking == Freshness::Anew {
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
        let names = Names { domain, destination: &destination_of(&records), is_secure, asking: terms.asking };
        let parts = parts(records.len());
        let tried = parts.min(EMPTY_PARTS_MAX);
        let mut problem = None;
        for part in terms.part..terms.part + tried {
            let host_parts = Part { number: part, of: parts };
            match self.hosts(&names, hosts_of_part(&records, part), ttl, host_parts).await {
                Err((error, ttl)) if tried > 1 && !error.is_temporary() => problem = Some((error, ttl)),
                found => return found,
            }
        }
        match problem {
            Some(problem) if tried == parts => Err(problem),
            _ => Err((RouteError::Trouble(DnsError::Failed(NOT_YET.to_owned())), TROUBLE_TTL)),
        }
    }

    /// One host, whatever domains it serves.
    pub(super) async fn of_host(&self, host: &str, terms: Terms) -> LookedUp {
        let route = |addresses| Route::new(host, host, vec![Host::new(host, 0, addresses)]);
        if let Ok(address) = host.parse() {
            return Ok((route(vec![address]), FOUND_TTL.1));
        }
        if terms.asking == Freshness::Anew {
            self.dns.forget(host);
        }
        let asked =
            AddressTerms { allow_private: true, is_name_secure: false, part: terms.part, addresses_max: ADDRESSES.1 };
        let found = host_facts(self.dns.as_ref(), host, asked).await;
        if found.usable.is_empty() {
            return Err((found.problem.unwrap_or(RouteError::NoHost), found.ttl));
        }
        let part = Part { number: terms.part, of: found.parts };
        Ok((Route { part, ..route(found.usable) }, found.ttl))
    }

    /// The route with one part of the hosts; `host_parts`: which of how many.
    async fn hosts(
        &self,
        &Names { domain, destination, is_secure, asking }: &Names<'_>,
        records: Vec<MxRecord>,
        ttl: Duration,
        host_parts: Part,
    ) -> LookedUp {
        let terms = AddressTerms {
            allow_private: self.allow_private,
            is_name_secure: is_secure,
            part: host_parts.number / host_parts.of,
            addresses_max: (ROUTE_ADDRESSES_MAX / records.len().max(1)).clamp(ADDRESSES.0, ADDRESSES.1),
        };
        let mut lookups = tokio::task::JoinSet::new();
        for (index, record) in records.iter().enumerate() {
            let (dns, host) = (self.dns.clone(), record.exchange.clone());
            if asking == Freshness::Anew && host != domain {
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
        let (mut addresses_are_secure, mut address_parts) = (true, 1);
        for (record, found) in records.into_iter().zip(found) {
            let Some(found) = found else { continue };
            denied_ttl = denied_ttl.min(found.ttl);
            if !found.usable.is_empty() {
                least_ttl = least_ttl.min(found.ttl);
                addresses_are_secure &= found.is_secure;
                address_parts = found.parts.max(address_parts);
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
        let route = Route::new(domain, destination, hosts);
        let part = Part { number: host_parts.number, of: host_parts.of.saturating_mul(address_parts) };
        Ok((Route { part, is_secure: is_secure && (!is_itself || addresses_are_secure), ..route }, least_ttl))
    }
}

/// What the hosts are called together: by the most preferred ones, whichever part is looked up.
fn destination_of(records: &[MxRecord]) -> String {
    let mut names: Vec<&str> = records.iter().take(NAMING_HOSTS_MAX).map(|record| record.exchange.as_str()).collect();
    names.sort_unstable();
    names.join(",")
}

/// Whose hosts they are, whether DNSSEC vouches for their names, and how they are looked up.
struct Names<'a> {
    domain: &'a str,
    destination: &'a str,
    is_secure: bool,
    asking: Freshness,
}

/// What counts of a host's addresses.
#[derive(Debug, Clone, Copy)]
struct AddressTerms {
    allow_private: bool,
    is_name_secure: bool,
    /// Which part of them, where there are more than `addresses_max` of one family.
    part: u32,
    addresses_max: usize,
}

struct HostFacts {
    usable: Vec<IpAddr>,
    ttl: Duration,
    is_secure: bool,
    tlsa: Tlsa,
    tlsa_base: Arc<str>,
    problem: Option<RouteError>,
    /// In how many parts all its addresses come.
    parts: u32,
}

/// Both families of a host's addresses, asked for at the same time; and what its certificates are, where DNSSEC vouches for
/// all that leads there (RFC 7672 section 2.2).
async fn host_facts(dns: &dyn Dns, host: &str, terms: AddressTerms) -> HostFacts {
    let AddressTerms { allow_private, is_name_secure, part, addresses_max } = terms;
    let (ipv4, ipv6) = tokio::join!(dns.ipv4(host), dns.ipv6(host));
    let mut all = Vec::new();
    let mut ttl = FOUND_TTL.1;
    let (mut problem, mut denied_ttl) = (None, None);
    let (mut is_secure, mut has_any, mut parts) = (true, false, 1);
    for answer in [ipv4, ipv6] {
        match answer {
            Ok(mut records) => {
                ttl = ttl.min(records.ttl);
                is_secure &= records.secure;
                has_any |= !records.records.is_empty();
                records.records.retain(|address| allow_private || is_public(*address));
                let (of_part, of) = addresses_of_part(records.records, part, addresses_max);
                parts = of.max(parts);
                all.extend(of_part);
            }
            Err(error) => match error.denial() {
                Some((_, denied)) => denied_ttl = Some(denied_ttl.map_or(denied, |ttl: Duration| ttl.min(denied))),
                None => problem = Some(RouteError::Trouble(error)),
            },
        }
    }
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
    HostFacts { usable: all, ttl, is_secure, tlsa, tlsa_base, problem, parts }
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
