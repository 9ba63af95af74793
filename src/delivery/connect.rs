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
    source: Option<IpAddr>,
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
        let sources = &delivery.settings.source_addresses;
        let source = match sources.len() {
            0 => None,
            count => Some(sources[index(hash(&(&sender, recipient.domain_key())), count)]),
        };
        Self { rest: in_order(route, turn, delivery.settings.port).into_iter(), source, last_failure: None }
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
        for (host, address) in candidates.rest.by_ref() {
            if let Err(gone) = claim.check(self.parts.clock.now()) {
                return Connected::Gone(gone);
            }
            claim.renew(self.parts.clock.now(), self.settings.connect_timeout);
            match self.open(&host, address, candidates.source, steps).await {
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
        let source = source.filter(|source| source.is_ipv4() == address.is_ipv4());
        let connecting = self.parts.network.connect(address, source);
        let (result, connected) = match tokio::time::timeout(self.settings.connect_timeout, connecting).await {
            Err(_) => ("no answer", Err(Fault::Timeout)),
            Ok(Err(_)) => ("refused", Err(Fault::Closed)),
            Ok(Ok(stream)) => ("connected", Ok(stream)),
        };
        steps.add(Stage::Connect, host, format!("{address} {result}"), self.parts.clock.instant());
        let stream = connected.map_err(|fault| Failure { stage: Stage::Connect, fault })?;
        let settings = ClientSettings { hostname: self.settings.hostname.clone(), starttls };
        let host = (host.clone(), address);
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
}
