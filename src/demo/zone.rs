//! The names of the sandbox: every domain exists and has a mail host of its own, and every domain publishes the keys that
//! the relay signs with. Nothing outside is asked.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::dns::Answer as Published;
use crate::destination::resolver::{Answer, Denial, Dns, DnsError, MxRecord, Records};
use crate::mail::trial::{Asks, Trial};

/// How long answers hold.
const TTL: Duration = Duration::from_secs(3600);
/// Hosts that are known at once; of more the oldest are forgotten.
const HOSTS_MAX: usize = 65_536;
/// The first label of a mail host.
const HOST_PREFIX: &str = "mx.";
const KEY_INFIX: &str = "._domainkey.";

/// What is known of names.
#[derive(Debug, Default)]
pub(super) struct Zone {
    hosts: Mutex<Hosts>,
    /// Selectors, with the text of their records.
    keys: Mutex<Vec<(String, String)>>,
}

#[derive(Debug, Default)]
struct Hosts {
    by_name: HashMap<Arc<str>, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, Arc<str>>,
    in_order: VecDeque<Ipv4Addr>,
    made: u32,
}

impl Zone {
    /// Publishes a key under every domain.
    pub(super) fn publish(&self, selector: &str, record: &str) {
        self.keys.lock().push((selector.to_owned(), record.to_owned()));
    }

    pub(super) fn record(&self, selector: &str) -> Option<String> {
        self.keys.lock().iter().find(|(known, _)| known == selector).map(|(_, record)| record.clone())
    }

    pub(super) fn host_at(&self, address: IpAddr) -> Option<Arc<str>> {
        let IpAddr::V4(address) = address else { return None };
        self.hosts.lock().by_address.get(&address).cloned()
    }

    /// The address of a host: each has one of its own.
    fn address_of(&self, host: &str) -> Ipv4Addr {
        let mut hosts = self.hosts.lock();
        if let Some(address) = hosts.by_name.get(host) {
            return *address;
        }
        if hosts.in_order.len() >= HOSTS_MAX
            && let Some(oldest) = hosts.in_order.pop_front()
            && let Some(name) = hosts.by_address.remove(&oldest)
        {
            hosts.by_name.remove(&name);
        }
        hosts.made = (hosts.made + 1) % (1 << 24);
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + hosts.made);
        let name: Arc<str> = host.into();
        hosts.by_name.insert(name.clone(), address);
        hosts.by_address.insert(address, name);
        hosts.in_order.push_back(address);
        address
    }

    /// What the name server says of a name; none: it does not exist.
    pub(super) fn answers(&self, name: &str) -> Option<Vec<Published>> {
        if let Some((selector, _)) = name.split_once(KEY_INFIX) {
            return Some(self.record(selector).map(Published::Txt).into_iter().collect());
        }
        if name.starts_with(HOST_PREFIX) {
            return Some(vec![Published::A(self.address_of(name))]);
        }
        exists(name).then(|| vec![Published::Mx(10, format!("{HOST_PREFIX}{name}"))])
    }
}

fn exists(domain: &str) -> bool {
    Trial::of_domain(domain).is_none_or(|trial| trial.asks != Asks::NoDomain)
}

/// What the host of this name does out of the ordinary.
pub(super) fn trial_of_host(host: &str) -> Option<Trial> {
    Trial::of_domain(domain_of_host(host))
}

/// The domain that a host takes mail for.
pub(super) fn domain_of_host(host: &str) -> &str {
    host.strip_prefix(HOST_PREFIX).unwrap_or(host)
}

fn found<T>(records: Vec<T>) -> Result<Records<T>, DnsError> {
    Ok(Records { records, ttl: TTL, secure: false })
}

impl Dns for Zone {
    fn mx<'a>(&'a self, domain: &'a str) -> Answer<'a, MxRecord> {
        Box::pin(async move {
            if !exists(domain) {
                return Err(DnsError::Denied(Denial::Name, TTL));
            }
            found(vec![MxRecord { preference: 10, exchange: format!("{HOST_PREFIX}{domain}") }])
        })
    }

    fn ipv4<'a>(&'a self, host: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(async move { found(vec![self.address_of(host).into()]) })
    }

    fn ipv6<'a>(&'a self, _: &'a str) -> Answer<'a, IpAddr> {
        Box::pin(async { Err(DnsError::Denied(Denial::Records, TTL)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_an_address_of_its_own() {
        let zone = Zone::default();
        let one = zone.address_of("mx.example.test");
        assert_eq!(one, zone.address_of("mx.example.test"));
        assert_ne!(one, zone.address_of("mx.example.org"));
        assert_eq!(zone.host_at(one.into()).as_deref(), Some("mx.example.test"));
        for number in 0..HOSTS_MAX {
            zone.address_of(&format!("mx.x{number}.test"));
        }
        assert_eq!(zone.host_at(one.into()), None, "the oldest is forgotten");
    }

    #[test]
    fn one_key_is_served_under_every_domain() {
        let zone = Zone::default();
        zone.publish("otp1", "v=DKIM1; p=x");
        for domain in ["shop.test", "bank.example"] {
            let answers = zone.answers(&format!("otp1._domainkey.{domain}")).unwrap();
            assert_eq!(answers, [Published::Txt("v=DKIM1; p=x".to_owned())]);
        }
        assert_eq!(zone.answers("otp2._domainkey.shop.test"), Some(Vec::new()));
        assert_eq!(zone.answers("nodomain-x0123.sandbox"), None);
    }
}
