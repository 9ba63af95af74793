//! What delivery needs to know, and what is different for some recipient domains.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::destination::demand::Strictness;
use crate::mail::address::{Mailbox, ReversePath, domain_pattern_covers};
use crate::smtp::extension::Features;

/// Sessions with mail hosts in all.
const CONNECTIONS_MAX: usize = 1000;
/// How long a session without work is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What delivery needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name for EHLO.
    pub hostname: String,
    /// The port of mail hosts: 25.
    pub port: u16,
    /// How long a TCP connection may take.
    pub connect_timeout: Duration,
    /// Sessions with one destination at most.
    pub connections_per_destination_max: usize,
    /// Sessions in all at most.
    pub connections_max: usize,
    /// How long a session without work is kept.
    pub idle_timeout: Duration,
    /// Addresses to send from; one is chosen for good by sender and recipient domain. Empty: the system chooses.
    pub source_addresses: Vec<IpAddr>,
    /// How strict sessions are where nobody else asks for more.
    pub tls: Strictness,
    /// For some recipient domains; the first that fits and says something counts.
    pub exceptions: Vec<Exception>,
    /// The reverse-path for all messages, in place of the client's; none: keep it.
    pub reverse_path: Option<Mailbox>,
    /// Whether there is delivery to loopback and private addresses.
    pub allow_private_destinations: bool,
    /// More certificate authorities.
    pub ca_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            port: 25,
            connect_timeout: Duration::from_secs(5),
            connections_per_destination_max: 20,
            connections_max: CONNECTIONS_MAX,
            idle_timeout: IDLE_TIMEOUT,
            source_addresses: Vec::new(),
            tls: Strictness::default(),
            exceptions: Vec::new(),
            reverse_path: None,
            allow_private_destinations: false,
            ca_file: None,
        }
    }
}

/// What is different for some recipient domains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exception {
    /// Which: patterns.
    pub(crate) domains: Vec<String>,
    /// How strict sessions are.
    pub tls: Option<Strictness>,
    /// Sessions with the destination at most.
    pub connections_max: Option<usize>,
    /// What is not used there, although it is offered.
    pub avoid: Option<Features>,
}

impl Settings {
    /// Descriptors that connections take: those in use, and half as many beside others that are being opened.
    pub(crate) fn descriptors_max(&self) -> usize {
        self.connections_max.saturating_add(self.connections_max / 2)
    }

    /// How strict sessions are for a recipient domain.
    pub(super) fn strictness(&self, domain: &str) -> Strictness {
        self.exception(domain, |exception| exception.tls).unwrap_or(self.tls)
    }

    /// Sessions at most with the destination of a recipient domain.
    pub(super) fn sessions_max(&self, domain: &str) -> usize {
        let own = self.exception(domain, |exception| exception.connections_max);
        own.unwrap_or(self.connections_per_destination_max)
    }

    /// What is not used with the hosts of a recipient domain.
    pub(super) fn avoid(&self, domain: &str) -> Features {
        self.exception(domain, |exception| exception.avoid).unwrap_or_default()
    }

    /// The reverse-path that hosts are given, for a client's.
    pub(super) fn own_reverse_path(&self, reverse_path: &ReversePath) -> ReversePath {
        reverse_path.sent_as(self.reverse_path.as_ref())
    }

    fn exception<T>(&self, domain: &str, told: impl Fn(&Exception) -> Option<T>) -> Option<T> {
        let covers =
            |exception: &&Exception| exception.domains.iter().any(|pattern| domain_pattern_covers(pattern, domain));
        self.exceptions.iter().filter(covers).find_map(told)
    }
}
