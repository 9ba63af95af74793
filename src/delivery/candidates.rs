//! The addresses of a destination in the order in which one attempt tries them.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::address_rotation::{ALWAYS, AddressRotation, CANDIDATES_MAX};
use super::caller::Caller;
use super::crowd::is_turned_away;
use super::dialer::Dialer;
use super::fallback::Turn;
use super::judged_failure::JudgedFailure;
use super::next_hop::NextHop;
use super::places::Applicant;
use super::security::Demands;
use crate::destination::demand::Demand;
use crate::destination::route::{Host, Part, Route};
use crate::policy::cause::Outlook;
use crate::smtp::client_session::Fault;

pub(super) struct Candidate {
    pub(super) host: Arc<str>,
    pub(super) address: SocketAddr,
    /// The address to send from, where there is a choice.
    pub(super) source: Option<IpAddr>,
    /// What the session has to fulfil.
    pub(super) demand: Arc<Demand>,
    pub(super) turn: Turn,
}

/// Which addresses of many were asked.
pub(super) struct Turns {
    pub(super) all: Vec<SocketAddr>,
    pub(super) asked: Vec<SocketAddr>,
    pub(super) part: Part,
}

/// The addresses still to be tried in one attempt.
pub(super) struct Candidates {
    rest: VecDeque<(Arc<str>, SocketAddr)>,
    /// All of them, but for hosts that refused.
    all: Vec<(Arc<str>, SocketAddr)>,
    /// Those that other attempts try.
    later: Vec<(Arc<str>, SocketAddr)>,
    /// Where there are more than one attempt asks.
    turns: Option<Turns>,
    domain: Arc<str>,
    /// Those that go in clear text when nothing else is left, and why.
    in_clear: VecDeque<(Arc<str>, SocketAddr, Arc<str>)>,
    /// The IPv4 and the IPv6 address to send from, where there is a choice.
    sources: (Option<IpAddr>, Option<IpAddr>),
    /// Who makes the triplet wait.
    greylister: Option<(Arc<str>, IpAddr)>,
    /// What a session has to fulfil.
    demands: Demands,
    pub(super) hop: NextHop,
    /// What the last of them said, or did not say.
    pub(super) last_failure: Option<(Arc<str>, JudgedFailure)>,
    /// One of them has as many connections as it wants.
    was_turned_away: bool,
}

impl Candidates {
    /// The addresses of a route in the order of preference, those that did not answer lately behind the others. Among
    /// equals, and among several source addresses, the choice depends on sender and recipient only: a host that makes
    /// greylists must see the same one again. Hosts that cannot be used as strictly as is demanded are left out. A smart
    /// host has a port of its own, and only what is demanded of itself counts.
    pub(super) fn new(route: &Route, caller: &Caller, hop: NextHop, dialer: &Dialer) -> Self {
        let settings = dialer.settings.as_ref();
        let turn = hash(caller.sender(), caller.recipient());
        let turn_of_source = hash(caller.sender(), caller.domain());
        let chosen = |is_family: fn(&IpAddr) -> bool| {
            let family: Vec<IpAddr> = settings.source_addresses.iter().copied().filter(is_family).collect();
            family.get(index(turn_of_source, family.len())).copied()
        };
        let sources = (chosen(IpAddr::is_ipv4), chosen(IpAddr::is_ipv6));
        let mut demands = Demands::new(route, |host| hop.demand(route, host, caller, settings));
        let mut rest = in_order(route, turn, hop.port(settings));
        rest.retain(|(host, _)| demands.of(host).is_some());
        dialer.address_health.sort(&mut rest, dialer.instant());
        let last_failure = demands.refused.take().map(|(host, failure)| (host, failure.into()));
        let all_fit = rest.len() <= CANDIDATES_MAX && route.part == Part::WHOLE;
        let all = || rest.iter().map(|(_, address)| *address).collect();
        let turns = (!all_fit).then(|| Turns { all: all(), asked: Vec::new(), part: route.part });
        Self {
            domain: route.domain.clone(),
            all: rest.clone(),
            rest: rest.into(),
            in_clear: VecDeque::new(),
            later: Vec::new(),
            turns,
            sources,
            greylister: None,
            demands,
            hop,
            last_failure,
            was_turned_away: false,
        }
    }

    pub(super) fn next(&mut self) -> Option<Candidate> {
        let (host, address, turn) = match self.rest.pop_front() {
            Some((host, address)) => (host, address, Turn::Planned),
            None => {
                let (host, address, why) = self.in_clear.pop_front()?;
                (host, address, Turn::InClear(why))
            }
        };
        self.was_asked(address);
        let demand = self.demands.of(&host)?.clone();
        Some(Candidate { host, address, source: self.source_for(address), demand, turn })
    }

    /// Nothing but clear text will do with an address; it comes when no other is left.
    pub(super) fn later_in_clear(&mut self, host: Arc<str>, address: SocketAddr, why: Arc<str>) {
        self.in_clear.push_back((host, address, why));
    }

    /// The same address once more, behind the others.
    pub(super) fn once_more(&mut self, host: Arc<str>, address: SocketAddr) {
        self.rest.push_back((host, address));
    }

    /// The same address once more, before the others.
    pub(super) fn again(&mut self, host: &Arc<str>, address: SocketAddr) {
        self.skip(address);
        self.put_back(host.clone(), address);
    }

    /// The addresses of a host come after those of the others; says whether there are others.
    pub(super) fn put_last(&mut self, host: &Arc<str>, address: SocketAddr) -> bool {
        self.rest.retain(|(candidate, _)| candidate != host);
        let has_others = !self.rest.is_empty();
        self.rest.push_back((host.clone(), address));
        has_others
    }

    /// What a connection to the next one counts for.
    pub(super) fn applicant(&self) -> Option<Applicant> {
        let (host, address) = self.rest.front()?;
        Some(self.hop.applicant(|| Applicant::new(&self.domain, host, Some(address.ip()))))
    }

    /// What a session with this host has to fulfil; none if it is not to be used.
    pub(super) fn demand(&self, host: &str) -> Option<&Arc<Demand>> {
        self.demands.of(host)
    }

    /// Whether there is a next one that may be asked while others are still thinking. Where a host makes the triplet
    /// wait, another is asked only when that one is gone: it would begin to count anew.
    pub(super) fn may_race(&self) -> bool {
        let Some((host, _)) = self.rest.front() else { return false };
        self.greylister.as_ref().is_none_or(|(greylister, _)| greylister == host)
    }

    /// Remembers why there is no session with a host. What a host said tells more than what this machine lacks, and that
    /// more than that another did not answer.
    pub(super) fn failed(&mut self, host: Arc<str>, failure: impl Into<JudgedFailure>) {
        let judged = failure.into();
        self.was_turned_away |= is_turned_away(&judged);
        let tells = |judged: &JudgedFailure| match judged.failure.fault {
            Fault::Reply(_) => 2,
            Fault::Ours(_) => 1,
            Fault::Timeout | Fault::Closed | Fault::Malformed(_) | Fault::Unsupported(_) | Fault::Tls(_) => 0,
        };
        if self.last_failure.as_ref().is_none_or(|(_, last)| tells(&judged) >= tells(last)) {
            self.last_failure = Some((host, judged));
        }
    }

    /// Whether a host said, or showed, that it has connections enough.
    pub(super) fn was_turned_away(&self) -> bool {
        self.was_turned_away
    }

    /// Whether a host may answer another time that did not now.
    pub(super) fn has_unheard(&self) -> bool {
        let last = self.last_failure.as_ref();
        last.is_some_and(|(_, judged)| judged.verdict.outlook() == Outlook::Again)
    }

    /// Puts the host that makes the triplet wait in front, and there the address that was connected to: only there the
    /// wait goes on. The others follow, for when it is gone.
    pub(super) fn begin_with(&mut self, greylister: Option<(Arc<str>, IpAddr)>) {
        let Some((host, address)) = &greylister else { return };
        let rest = self.rest.make_contiguous();
        rest.sort_by_key(|(name, candidate)| (name != host, name == host && candidate.ip() != *address));
        if rest.first().is_some_and(|(name, _)| name == host) {
            self.greylister = greylister;
        }
        self.all = rest.to_vec();
    }

    /// Leaves for later those whose turn it is not.
    pub(super) fn take_turn(&mut self, rotation: &AddressRotation) {
        let (rest, later) = rotation.take_turn(self.rest.drain(..).collect());
        self.all = rest.clone();
        (self.rest, self.later) = (rest.into(), later);
    }

    /// Where there are more addresses than one attempt asks: which were asked, and all of the route.
    pub(super) fn turns(&self) -> Option<&Turns> {
        self.turns.as_ref()
    }

    /// Where all addresses of the attempt are slow, or their hosts lack something, some of the others are tried after all;
    /// says whether there are any.
    pub(super) fn take_more(&mut self) -> bool {
        let more = self.later.len().min(CANDIDATES_MAX - ALWAYS);
        self.rest.extend(self.later.drain(..more));
        more > 0
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
        self.was_asked(address);
        self.rest.retain(|(_, candidate)| *candidate != address);
    }

    /// An address is to be asked first, after all.
    pub(super) fn put_back(&mut self, host: Arc<str>, address: SocketAddr) {
        self.rest.push_front((host, address));
    }

    fn was_asked(&mut self, address: SocketAddr) {
        if let Some(turns) = &mut self.turns {
            turns.asked.push(address);
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// All are asked once more.
    pub(super) fn begin_anew(&mut self) {
        self.rest = self.all.iter().cloned().collect();
    }

    /// Leaves out all addresses of a host; says whether others are left.
    pub(super) fn skip_host(&mut self, host: &Arc<str>) -> bool {
        if let Some(turns) = &mut self.turns {
            let of_host = self.all.iter().chain(&self.later).filter(|(candidate, _)| candidate == host);
            turns.asked.extend(of_host.map(|(_, address)| *address));
        }
        self.rest.retain(|(candidate, _)| candidate != host);
        self.all.retain(|(candidate, _)| candidate != host);
        self.in_clear.retain(|(candidate, ..)| candidate != host);
        self.later.retain(|(candidate, _)| candidate != host);
        !self.rest.is_empty() || !self.in_clear.is_empty()
    }
}

/// Hosts by preference, equals by turn; of each host the families take turns (RFC 8305 section 4), IPv4 first.
fn in_order(route: &Route, turn: u64, port: u16) -> Vec<(Arc<str>, SocketAddr)> {
    let mut ordered = Vec::new();
    for equals in route.hosts.chunk_by(|a, b| a.preference == b.preference) {
        let first = index(turn, equals.len());
        for host in equals[first..].iter().chain(&equals[..first]) {
            ordered.extend(interleaved(host).map(|address| (host.name.clone(), SocketAddr::new(address, port))));
        }
    }
    ordered
}

fn interleaved(host: &Host) -> impl Iterator<Item = IpAddr> {
    let of = |is_family: fn(&&IpAddr) -> bool| host.addresses.iter().filter(is_family);
    let (mut ipv4, mut ipv6) = (of(|ip| ip.is_ipv4()), of(|ip| ip.is_ipv6()));
    (0..host.addresses.len()).flat_map(move |_| [ipv4.next(), ipv6.next()]).flatten().copied()
}

/// The same in every process and version (FNV-1a): what a host makes a triplet wait for must not change while it waits.
fn hash(sender: &str, to: &str) -> u64 {
    let octets = sender.bytes().chain([0]).chain(to.bytes());
    octets.fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3))
}

fn index(hash: u64, len: usize) -> usize {
    usize::try_from(hash % len.max(1) as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_take_turns_by_recipient_and_preference_is_kept() {
        let host = |name: &str, preference, last| Host::new(name, preference, vec![IpAddr::from([192, 0, 2, last])]);
        let route = Route::new("d.example", "d", vec![host("a", 10, 1), host("b", 10, 2), host("c", 20, 3)]);
        let names = |turn| in_order(&route, turn, 25).iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(0), ["a", "b", "c"]);
        assert_eq!(names(1), ["b", "a", "c"]);
        assert_eq!(names(1), names(3));
    }

    #[test]
    fn the_choice_is_the_same_in_every_version() {
        assert_eq!(hash("", ""), 0xaf63_bd4c_8601_b7df);
        let turns = |senders: usize| {
            let of = |number| index(hash("otp@app.test", &format!("user{number}@d.example")), senders);
            (0..1000).fold(vec![0; senders], |mut counts, number| {
                counts[of(number)] += 1;
                counts
            })
        };
        assert_eq!((turns(2), turns(3)), (vec![500, 500], vec![334, 342, 324]));
    }

    #[test]
    fn families_take_turns() {
        let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"];
        let addresses = addresses.map(|ip| ip.parse().unwrap());
        let host = Host::new("a", 0, addresses.to_vec());
        let [a, b, c, d, e] = addresses;
        assert_eq!(interleaved(&host).collect::<Vec<_>>(), [a, d, b, e, c]);
        let host = Host { addresses: vec![d, e], ..host };
        assert_eq!(interleaved(&host).collect::<Vec<_>>(), [d, e]);
    }

    #[test]
    fn the_host_that_makes_a_triplet_wait_is_asked_first() {
        let [v4, v6, other]: [IpAddr; 3] = ["192.0.2.1", "2001:db8::1", "192.0.2.9"].map(|ip| ip.parse().unwrap());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let rest = vec![(b.clone(), other), (a.clone(), v4), (a.clone(), v6)];
        let rest: Vec<_> = rest.into_iter().map(|(name, ip)| (name, SocketAddr::new(ip, 25))).collect();
        let begun_with = |greylister: Option<(Arc<str>, IpAddr)>| {
            let demands = Demands::default();
            let mut candidates = Candidates {
                rest: rest.clone().into(),
                all: rest.clone(),
                later: Vec::new(),
                turns: None,
                domain: "d.example".into(),
                in_clear: VecDeque::new(),
                sources: (None, None),
                greylister: None,
                demands,
                hop: NextHop::Direct,
                last_failure: None,
                was_turned_away: false,
            };
            candidates.begin_with(greylister);
            candidates
        };
        let order =
            |candidates: Candidates| candidates.rest.iter().map(|(_, address)| address.ip()).collect::<Vec<_>>();
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
