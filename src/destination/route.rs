//! The hosts that take a domain's mail, as one answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::dane::Tlsa;
use super::mta_sts::Policy;
use super::resolver::DnsError;
use crate::base::clock::Timestamp;

/// Who takes mail for a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The domain, in lower case and A-labels.
    pub domain: Arc<str>,
    /// The set of hosts, by which domains served by the same hosts are one destination.
    pub destination: Arc<str>,
    /// By preference, then name.
    pub hosts: Vec<Host>,
    /// Which part of the hosts and addresses these are.
    pub part: Part,
    /// Whether DNSSEC vouches for the hosts' names.
    pub is_secure: bool,
    /// The domain's MTA-STS policy.
    pub policy: Option<Arc<Policy>>,
    /// When DNS was asked, and how long it took.
    pub asked: Option<DnsLookup>,
}

/// A part of the hosts and addresses that DNS names, where those are more than a route holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Counted from 0; beyond the last one they begin anew.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl Part {
    pub(crate) const WHOLE: Self = Self { number: 0, of: 1 };
}

/// A look-up that led to a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsLookup {
    /// When the answer was there.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
}

impl Route {
    /// A route that DNSSEC does not vouch for, without a policy.
    pub fn new(domain: &str, destination: &str, hosts: Vec<Host>) -> Self {
        Self {
            domain: domain.into(),
            destination: destination.into(),
            hosts,
            part: Part::WHOLE,
            is_secure: false,
            policy: None,
            asked: None,
        }
    }

    /// Whether something could not be looked up that it takes to use all hosts.
    pub(super) fn has_trouble(&self) -> bool {
        self.hosts.iter().any(|host| matches!(host.tlsa, Tlsa::Failed(_)))
    }

    /// The first host, for people.
    pub fn name(&self) -> &Arc<str> {
        self.hosts.first().map_or(&self.destination, |host| &host.name)
    }
}

/// One mail host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name in lower case.
    pub name: Arc<str>,
    /// Lower is preferred.
    pub preference: u16,
    /// Its addresses, IPv4 first; empty if it has none that may be used.
    pub addresses: Vec<IpAddr>,
    /// What DNS says of its certificates, if DNSSEC vouches for its name and its addresses.
    pub tlsa: Tlsa,
    /// The name at which the TLSA records are: its own, or the one that its CNAMEs lead to.
    pub(crate) tlsa_base: Arc<str>,
}

impl Host {
    /// A host to which DANE does not apply.
    pub fn new(name: &str, preference: u16, addresses: Vec<IpAddr>) -> Self {
        Self { name: name.into(), preference, addresses, tlsa: Tlsa::None, tlsa_base: name.into() }
    }
}

/// Why there is no way to a domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The domain does not exist.
    #[error("no such domain")]
    NoSuchDomain,
    /// The domain says that it takes no mail (RFC 7505).
    #[error("the domain takes no mail (null MX)")]
    NullMx,
    /// The domain exists, but no host with an address takes its mail.
    #[error("no host takes mail for the domain")]
    NoHost,
    /// All its hosts have private or loopback addresses, where mail is not sent.
    #[error("the domain's mail hosts have private addresses")]
    Private,
    /// DNS is in trouble; it may know later.
    #[error("DNS: {0}")]
    Trouble(DnsError),
}

impl RouteError {
    /// Whether asking again later can help.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self, Self::Trouble(_))
    }
}
