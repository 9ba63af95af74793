//! What the checks share: whom they ask, what the configuration says of the relay, and what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::finding::{Check, Finding};
use super::world::{Kind, Names};
use crate::base::clock::Clock;
use crate::config::Config;
use crate::config::findings::Severity;
use crate::destination::public::is_public;
use crate::destination::resolver::DnsError;
use crate::mail::address::domain_key;
use crate::net::Network;
use crate::net::own_addresses::by_default_route;

/// From domains that are looked at.
const DOMAINS_MAX: usize = 100;

/// One run of the checks.
pub(crate) struct Look<'a> {
    pub(super) config: &'a Config,
    pub(super) names: &'a dyn Names,
    pub(super) network: &'a dyn Network,
    pub(super) clock: Arc<dyn Clock>,
    /// The full name in EHLO, if it has one.
    pub(super) hostname: Option<String>,
    /// The addresses from which the machine sends.
    own: Vec<IpAddr>,
    /// Those that providers saw.
    seen: Mutex<BTreeSet<IpAddr>>,
    /// The domains of From, without those that a pattern below names.
    pub(super) domains: Vec<String>,
    found: Mutex<Vec<Finding>>,
    /// Names for which nobody answered, and why.
    unanswered: Mutex<BTreeMap<String, DnsError>>,
    /// Domains whose trouble is reported by itself.
    reported: Mutex<BTreeSet<String>>,
    answered: AtomicUsize,
    /// Somebody said what time it is.
    knows_time: AtomicBool,
}

impl<'a> Look<'a> {
    /// For this configuration, by these means.
    pub(crate) fn new(
        config: &'a Config,
        names: &'a dyn Names,
        network: &'a dyn Network,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let configured = &config.delivery.source_addresses;
        let own = if configured.is_empty() { by_default_route() } else { configured.clone() };
        let patterns = config.sender_domains().into_iter().filter(|sender| !sender.is_below);
        let signing = config.keys.domains().map(str::to_owned);
        let domains: BTreeSet<String> = patterns.map(|sender| sender.domain).chain(signing).collect();
        Self {
            config,
            names,
            network,
            clock,
            hostname: domain_key(&config.hostname).filter(|name| name.contains('.') && !name.starts_with('[')),
            own,
            seen: Mutex::default(),
            domains: domains.into_iter().take(DOMAINS_MAX).collect(),
            found: Mutex::default(),
            unanswered: Mutex::default(),
            reported: Mutex::default(),
            answered: AtomicUsize::new(0),
            knows_time: AtomicBool::new(false),
        }
    }

    pub(super) fn add(&self, finding: Finding) {
        self.found.lock().push(finding);
    }

    /// The domain of the one reverse-path, where the relay has one.
    pub(super) fn bounce_domain(&self) -> Option<String> {
        self.config.delivery.reverse_path.as_ref().and_then(|path| domain_key(path.domain()))
    }

    /// Everything found so far, the worst first.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut found = self.found.lock().clone();
        found.sort_by(|a, b| (b.severity, a.check, &a.subject).cmp(&(a.severity, b.check, &b.subject)));
        found
    }

    pub(super) fn has(&self, check: Check, severity: Severity) -> bool {
        self.found.lock().iter().any(|finding| finding.check == check && finding.severity == severity)
    }

    /// Does some work until a moment; what is not done then is said.
    pub(super) async fn until(&self, deadline: Instant, check: Check, work: impl Future<Output = ()>) {
        if tokio::time::timeout_at(deadline.into(), work).await.is_err() {
            let text = "this was not looked at to its end: there was no answer in time";
            self.add(Finding::new(Severity::Note, check, "", text));
        }
    }

    /// The machine's addresses to send from.
    pub(super) fn own(&self) -> &[IpAddr] {
        &self.own
    }

    /// A provider saw the relay come from there.
    pub(super) fn saw(&self, address: IpAddr) {
        self.seen.lock().insert(address);
    }

    /// The addresses that SPF and PTR are about: those of the machine that others can see, else those that were seen, else
    /// private ones where they are allowed.
    pub(super) fn sources(&self) -> Vec<IpAddr> {
        let public: Vec<IpAddr> = self.own.iter().copied().filter(|address| is_public(*address)).collect();
        let seen: Vec<IpAddr> = self.seen.lock().iter().copied().filter(|address| is_public(*address)).collect();
        match (public.is_empty(), seen.is_empty()) {
            (false, _) => public,
            (true, false) => seen,
            (true, true) if self.config.delivery.allow_private_destinations => self.own.clone(),
            (true, true) => Vec::new(),
        }
    }

    /// Whether only the world can say which address it sees.
    pub(super) fn lacks_public_source(&self) -> bool {
        let is_private_world = self.config.delivery.allow_private_destinations;
        !is_private_world && !self.own.iter().any(|address| is_public(*address))
    }

    /// Records; an empty list where there are none, and none where nobody answers, which is reported once at the end.
    pub(super) async fn ask(&self, name: &str, kind: Kind) -> Option<Vec<String>> {
        let answer = self.names.ask(name, kind).await;
        if !answer.as_ref().is_err_and(|error| !error.is_answer()) {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        match answer {
            Ok(records) => Some(records),
            Err(error) if error.is_answer() => Some(Vec::new()),
            Err(error) => {
                self.unanswered.lock().insert(name.to_owned(), error);
                None
            }
        }
    }

    /// The addresses of a host in both families.
    pub(super) async fn addresses(&self, host: &str) -> Option<Vec<IpAddr>> {
        let (ipv4, ipv6) = tokio::join!(self.ask(host, Kind::A), self.ask(host, Kind::Aaaa));
        let both = [ipv4?, ipv6?].concat();
        Some(both.iter().filter_map(|text| text.parse().ok()).collect())
    }

    /// The trouble of this domain's name servers is reported by itself.
    pub(super) fn is_told(&self, domain: &str) {
        self.reported.lock().insert(domain.to_owned());
    }

    /// Names for which nobody answered, without those whose trouble is reported.
    pub(super) fn unanswered(&self) -> BTreeMap<String, DnsError> {
        let reported = self.reported.lock();
        let is_told = |name: &str| {
            reported.iter().any(|domain| {
                name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
        };
        self.unanswered.lock().clone().into_iter().filter(|(name, _)| !is_told(name)).collect()
    }

    /// Somebody said what time it is.
    pub(super) fn was_told_time(&self) {
        self.knows_time.store(true, Ordering::Relaxed);
    }

    /// Whether anybody did.
    pub(super) fn knows_time(&self) -> bool {
        self.knows_time.load(Ordering::Relaxed)
    }

    /// Whether everything was answered.
    pub(super) fn was_answered(&self) -> bool {
        self.unanswered.lock().is_empty() && self.reported.lock().is_empty()
    }

    /// Whether anybody answered anything.
    pub(super) fn has_answers(&self) -> bool {
        self.answered.load(Ordering::Relaxed) > 0
    }
}
