//! Finding a host that answers: the addresses of a destination, tried one after the other.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Delivery;
use super::steps::Steps;
use super::transact::Connection;
use crate::destination::mx::Route;
use crate::queue::claim::{Claim, Gone};
use crate::smtp::client_session::{ClientSettings, Failure, Fault, Stage, StartTls};

/// Addresses tried in one attempt at most.
const CANDIDATES_MAX: usize = 12;

/// The addresses still to be tried in one attempt.
pub(super) struct Candidates {
    rest: std::vec::IntoIter<(Arc<str>, SocketAddr)>,
    /// The IPv4 and the IPv6 address to send from, where there is a choice.
    sources: (Option<IpAddr>, Option<IpAddr>),
    /// Who makes the triplet wait.
    greylister: Option<(Arc<str>, IpAddr)>,
    /// What the last of them said, or did not say.
    pub(super) last_failure: Option<(Arc<str>, Failure)>,
}

impl Candidates {
    /// The addresses of a route in the order of preference. Among equals, and among several source addresses, the
    /// choice depends on sender and recipient only: a host that makes strangers wait must see the same one again.
    pub(super) fn new(route: &Route, claim: &Claim, delivery: &Delivery) -> Self {
        let recipient = &claim.message().recipient(claim.id().index).mailbox;
        let mut sender = claim.message().envelope.reverse_path.as_str().to_ascii_lowercase();
        sender.push('\n');
        let turn = hash(&(&sender, recipient.plain_key()));
        let turn_of_source = hash(&(&sender, recipient.domain_key()));
        let chosen = |is_family: fn(&IpAddr) -> bool| {
            let family: Vec<IpAddr> = delivery.settings.source_addresses.iter().copied().filter(is_family).collect();
            family.get(index(turn_of_source, family.len())).copied()
        };
        let sources = (chosen(IpAddr::is_ipv4), chosen(IpAddr::is_ipv6));
        let rest = in_order(route, turn, delivery.settings.port).into_iter();
        Self { rest, sources, greylister: None, last_failure: None }
    }

    /// Puts the host that makes the triplet wait in front, and there the address that was connected to: only there the
    /// wait goes on. The others follow, for when it is gone.
    pub(super) fn begin_with(&mut self, greylister: Option<(Arc<str>, IpAddr)>) {
        let Some((host, address)) = &greylister else { return };
        let mut rest: Vec<_> = self.rest.by_ref().collect();
        rest.sort_by_key(|(name, candidate)| (name != host, name == host && candidate.ip() != *address));
        if rest.first().is_some_and(|(name, _)| name == host) {
            self.greylister = greylister;
        }
        self.rest = rest.into_iter();
    }

    /// Whether a session that is there already is one that the host knows.
    pub(super) fn suit(&self, host: &Arc<str>, address: SocketAddr, source: Option<IpAddr>) -> bool {
        source == self.source_for(address) && self.greylister.as_ref().is_none_or(|(greylister, _)| greylister == host)
    }

    fn source_for(&self, address: SocketAddr) -> Option<IpAddr> {
        if address.is_ipv4() { self.sources.0 } else { self.sources.1 }
    }

    /// Leaves out an address that has just failed.
    pub(super) fn skip(&mut self, address: SocketAddr) {
        let rest: Vec<_> = self.rest.by_ref().filter(|(_, candidate)| *candidate != address).collect();
        self.rest = rest.into_iter();
    }

    /// Leaves out all addresses of a host; says whether others are left.
    pub(super) fn skip_host(&mut self, host: &Arc<str>) -> bool {
        let rest: Vec<_> = self.rest.by_ref().filter(|(candidate, _)| candidate != host).collect();
        self.rest = rest.into_iter();
        self.rest.len() > 0
    }
}

fn in_order(route: &Route, turn: u64, port: u16) -> Vec<(Arc<str>, SocketAddr)> {
    let mut ordered = Vec::new();
    for equals in route.hosts.chunk_by(|a, b| a.preference == b.preference) {
        let first = index(turn, equals.len());
        for host in equals[first..].iter().chain(&equals[..first]) {
            ordered.extend(host.addresses.iter().map(|address| (host.name.clone(), SocketAddr::new(*address, port))));
        }
    }
    ordered.truncate(CANDIDATES_MAX);
    ordered
}

fn hash(value: &impl Hash) -> u64 {
    // Fixed keys: the same choice in every process.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn index(hash: u64, len: usize) -> usize {
    usize::try_from(hash % len.max(1) as u64).unwrap_or(0)
}

/// How connecting ended.
pub(super) enum Connected {
    /// With a session.
    Session(Box<Connection>),
    /// No address is left; [`Candidates::last_failure`] says what the last one did.
    Nobody,
    /// The entry is not to be sent any more.
    Gone(Gone),
}

impl Delivery {
    /// Connects to the first candidate that will talk.
    pub(super) async fn connect(&self, candidates: &mut Candidates, claim: &mut Claim, steps: &mut Steps) -> Connected {
        while let Some((host, address)) = candidates.rest.next() {
            if let Err(gone) = claim.check(self.parts.clock.now()) {
                return Connected::Gone(gone);
            }
            claim.renew(self.parts.clock.now(), self.settings.connect_timeout);
            let source = candidates.source_for(address);
            match self.open(&host, address, source, steps).await {
                Ok(connection) => return Connected::Session(Box::new(connection)),
                Err(failure) => {
                    steps.add_failure(&failure, &host, self.parts.clock.instant());
                    tracing::debug!(host = %host, %address, stage = failure.stage.name(), "no session");
                    // What a host said tells more than that another did not answer.
                    let is_reply = matches!(failure.fault, Fault::Reply(_));
                    let had_reply =
                        candidates.last_failure.as_ref().is_some_and(|(_, last)| matches!(last.fault, Fault::Reply(_)));
                    if is_reply || !had_reply {
                        candidates.last_failure = Some((host, failure));
                    }
                }
            }
        }
        Connected::Nobody
    }

    /// A session with one address. Where the handshake fails and nothing asks for encryption, a second connection goes
    /// without (RFC 3207 section 4.1 leaves it to the client; RFC 7435 section 3).
    async fn open(
        &self,
        host: &Arc<str>,
        address: SocketAddr,
        source: Option<IpAddr>,
        steps: &mut Steps,
    ) -> Result<Connection, Failure> {
        let starttls = if self.settings.starttls { StartTls::IfOffered } else { StartTls::Never };
        match self.open_with(host, address, source, starttls, steps).await {
            Err(Failure { stage: Stage::StartTls, fault: Fault::Tls(error) }) => {
                tracing::info!(host = %host, %address, error, "TLS failed; going on in clear text");
                self.open_with(host, address, source, StartTls::Never, steps).await
            }
            result => result,
        }
    }

    async fn open_with(
        &self,
        host: &Arc<str>,
        address: SocketAddr,
        source: Option<IpAddr>,
        starttls: StartTls,
        steps: &mut Steps,
    ) -> Result<Connection, Failure> {
        let connecting = self.parts.network.connect(address, source);
        let (result, connected) = match tokio::time::timeout(self.settings.connect_timeout, connecting).await {
            Err(_) => ("no answer", Err(Fault::Timeout)),
            Ok(Err(_)) => ("refused", Err(Fault::Closed)),
            Ok(Ok(stream)) => ("connected", Ok(stream)),
        };
        steps.add(Stage::Connect, host, format!("{address} {result}"), self.parts.clock.instant());
        let stream = connected.map_err(|fault| Failure { stage: Stage::Connect, fault })?;
        let settings = ClientSettings { hostname: self.settings.hostname.clone(), starttls };
        let host = (host.clone(), address, source);
        Connection::establish(stream, host, settings, &self.parts.tls, self.parts.clock.clone(), steps).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::mx::Host;

    #[test]
    fn equals_take_turns_by_recipient_and_preference_is_kept() {
        let host = |name: &str, preference, last| Host {
            name: name.into(),
            preference,
            addresses: vec![IpAddr::from([192, 0, 2, last])],
        };
        let route =
            Route { destination: "d".into(), hosts: vec![host("a", 10, 1), host("b", 10, 2), host("c", 20, 3)] };
        let names = |turn| in_order(&route, turn, 25).iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(0), ["a", "b", "c"]);
        assert_eq!(names(1), ["b", "a", "c"]);
        assert_eq!(names(1), names(3));
    }

    #[test]
    fn the_host_that_makes_a_triplet_wait_is_asked_first() {
        let [v4, v6, other]: [IpAddr; 3] = ["192.0.2.1", "2001:db8::1", "192.0.2.9"].map(|ip| ip.parse().unwrap());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let rest = vec![(b.clone(), other), (a.clone(), v4), (a.clone(), v6)];
        let rest: Vec<_> = rest.into_iter().map(|(name, ip)| (name, SocketAddr::new(ip, 25))).collect();
        let begun_with = |greylister: Option<(Arc<str>, IpAddr)>| {
            let rest = rest.clone().into_iter();
            let mut candidates = Candidates { rest, sources: (None, None), greylister: None, last_failure: None };
            candidates.begin_with(greylister);
            candidates
        };
        let order = |candidates: Candidates| candidates.rest.map(|(_, address)| address.ip()).collect::<Vec<_>>();
        assert_eq!(order(begun_with(None)), [other, v4, v6]);
        assert_eq!(order(begun_with(Some((a.clone(), v6)))), [v6, v4, other], "also by the same family");
        assert_eq!(order(begun_with(Some((a.clone(), "192.0.2.7".parse().unwrap())))), [v4, v6, other]);
        assert_eq!(order(begun_with(Some(("gone".into(), v4)))), [other, v4, v6]);
        let address = SocketAddr::new(v4, 25);
        assert!(begun_with(Some((a.clone(), v4))).suit(&a, address, None));
        assert!(!begun_with(Some((a.clone(), v4))).suit(&b, address, None), "a session with another host");
        assert!(begun_with(Some(("gone".into(), v4))).suit(&b, address, None));
        assert!(!begun_with(None).suit(&a, address, Some(other)), "from another address");
    }
}
