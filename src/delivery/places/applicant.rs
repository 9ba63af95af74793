//! Who wants a place for a session, and what that counts for.

use std::net::IpAddr;
use std::sync::Arc;

use crate::destination::route::Route;
use crate::destination::shares::Full;
use crate::mail::registrable::registrable_domain;

/// What places are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::delivery) enum Holder {
    /// A registrable domain, of recipients or of mail hosts.
    Domain(Arc<str>),
    /// The addresses of a network: the first 24 bits of IPv4, 64 of IPv6.
    Network(IpAddr),
}

#[derive(Debug, Clone)]
pub(in crate::delivery) struct Applicant {
    pub(super) holders: Vec<Holder>,
    /// The registrable domain of the hosts.
    pub(super) hosts: Arc<str>,
    /// Named by whoever runs the relay.
    pub(super) is_chosen: bool,
}

impl Applicant {
    /// A session with the hosts of a route.
    pub(in crate::delivery) fn of(route: &Route) -> Self {
        let host = route.hosts.first();
        let address = host.and_then(|host| host.addresses.first());
        Self::new(&route.domain, route.name(), address.copied())
    }

    /// A session for a recipient's domain with a host at an address.
    pub(in crate::delivery) fn new(domain: &str, host: &str, address: Option<IpAddr>) -> Self {
        let hosts = Arc::<str>::from(registrable_domain(host));
        let recipients = registrable_domain(domain);
        let mut holders = vec![Holder::Domain(hosts.clone())];
        if recipients != hosts.as_ref() {
            holders.push(Holder::Domain(recipients.into()));
        }
        holders.extend(address.map(|address| Holder::Network(network(address))));
        Self { holders, hosts, is_chosen: false }
    }

    /// What it is short of where there is no place for this reason: its share, or any place.
    pub(in crate::delivery) fn short_of(&self, full: Full) -> Holder {
        let of_share = match full {
            Full::Share(index) => self.holders.get(index),
            // The recipient's domain, if it is another than that of the hosts.
            Full::Places => self.holders.get(1).filter(|holder| matches!(holder, Holder::Domain(_))),
        };
        of_share.cloned().unwrap_or_else(|| Holder::Domain(self.hosts.clone()))
    }

    /// A session with a smart host, which counts for nobody.
    pub(in crate::delivery) fn chosen() -> Self {
        Self { holders: Vec::new(), hosts: "".into(), is_chosen: true }
    }
}

pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) & !0xff).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
    }
}
