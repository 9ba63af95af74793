//! Hosts that are known to take mail, by their registrable domain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::bounded::Bounded;

/// How long a domain is known whose hosts took mail.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Domains remembered at most.
const KNOWN_MAX: usize = 10_000;

/// When hosts of each last took mail.
#[derive(Debug, Default)]
pub(super) struct KnownHosts {
    took_mail_at: Bounded<Arc<str>, Instant, KNOWN_MAX>,
}

impl KnownHosts {
    /// When they last took mail, if they are remembered.
    pub(super) fn took_mail_at(&self, hosts: &str) -> Option<Instant> {
        self.took_mail_at.get(hosts).copied()
    }

    pub(super) fn took_mail(&mut self, hosts: Arc<str>, now: Instant) {
        self.took_mail_at.insert(hosts, now, |at| now.saturating_duration_since(*at) >= KNOWN_FOR);
    }
}
