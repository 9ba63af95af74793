//! Smart hosts: other servers that carry mail for us, when and for which domains the configuration says.

use std::sync::Arc;

use crate::mail::address::domain_pattern_covers;
use crate::plan::way::When;
use crate::smtp::client_session::Account;

/// How a session with a smart host is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// With the host that is named, as its certificate says; or not at all is there a session.
    Verify,
    /// If it is offered, with whoever answers.
    Opportunistic,
    /// Not.
    Never,
}

/// One `[[smart_host]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmartHost {
    /// `host:port`, by which entries and people know it.
    pub name: Arc<str>,
    /// Its name in A-labels, or its address.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// How sessions with it are encrypted.
    pub tls: Tls,
    /// Whom to log in.
    pub account: Option<Arc<Account>>,
    /// When it is used.
    pub when: When,
    /// For which recipient domains: patterns.
    domains: Vec<String>,
}

impl SmartHost {
    /// A smart host; `host` is a name in A-labels or an address.
    pub fn new(
        host: &str,
        port: u16,
        tls: Tls,
        account: Option<Arc<Account>>,
        when: When,
        domains: Vec<String>,
    ) -> Self {
        let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self { name: name.into(), host: host.into(), port, tls, account, when, domains }
    }

    /// Whether it may carry mail for this domain (as `domain_key` writes it).
    pub fn covers(&self, domain: &str) -> bool {
        self.domains.iter().any(|pattern| domain_pattern_covers(pattern, domain))
    }
}
