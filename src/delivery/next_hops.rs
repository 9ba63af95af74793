//! The next hops that an entry can take, and the one that it takes now.

use std::sync::Arc;

use super::next_hop::NextHop;
use super::smart_host::SmartHostState;
use crate::base::clock::Timestamp;
use crate::policy::failover::{Candidate, Relayed, When, at_first};
use crate::queue::claim::Claim;

/// All of one entry.
#[derive(Debug, Clone)]
pub(super) struct NextHops {
    smart_hosts: Vec<Arc<SmartHostState>>,
    /// The one that it takes now.
    pub(super) via: NextHop,
    pub(super) since: Timestamp,
}

impl NextHops {
    pub(super) fn new(smart_hosts: Vec<Arc<SmartHostState>>, via: NextHop, since: Timestamp) -> Self {
        Self { smart_hosts, via, since }
    }

    /// The smart host of a fail-over, or, before the first attempt, that for all mail; else the domain's own hosts.
    pub(super) fn first(&self, attempts: u32, failover: Option<&Relayed>, now: Timestamp) -> NextHop {
        let host = match failover {
            Some(failover) => self.smart_hosts.iter().find(|host| host.settings.name == failover.host),
            None if attempts == 0 => at_first(&self.candidates(&[], now), now).map(|index| &self.smart_hosts[index]),
            None => None,
        };
        host.cloned().map_or(NextHop::Direct, NextHop::SmartHost)
    }

    pub(super) fn failover(&self, claim: &Claim, now: Timestamp) -> Relayed {
        let host = self.via.smart_host().map_or_else(|| "".into(), |host| host.settings.name.clone());
        let kept = claim.progress().relayed.as_deref().filter(|failover| failover.host == host);
        let first = || Relayed { host: host.clone(), called_by: When::Always, direct_at: Some(now), tried: Vec::new() };
        kept.cloned().unwrap_or_else(first)
    }

    /// As `policy::failover` wants them.
    pub(super) fn candidates(&self, tried: &[Arc<str>], now: Timestamp) -> Vec<Candidate> {
        self.smart_hosts.iter().map(|host| host.candidate(tried, now)).collect()
    }

    /// The name of one of the candidates.
    pub(super) fn name(&self, index: usize) -> Option<&Arc<str>> {
        self.smart_hosts.get(index).map(|host| &host.settings.name)
    }
}
