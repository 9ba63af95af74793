//! Places for outgoing sessions, shared out by registrable domain and by network, so that nobody who chooses recipients,
//! domains and hosts can take the places of others.
//!
//! Each session counts for the registrable domain of the recipient, for that of its first host's name, and for the
//! network of its address. Who may have one more is decided by `destination::shares`. Where no place is left, a session
//! gives way: one without work, else the oldest of whoever holds most.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::destination::route::Route;
use crate::destination::shares::{Full, Shares, Standing};
use crate::mail::registrable::registrable_domain;

/// How long a domain is known whose hosts took mail.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Domains remembered at most.
const KNOWN_MAX: usize = 10_000;
/// An attempt that is older than this before its final dot may have to give way; the time to an answer is shorter.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same behind the final dot, where giving way leaves the outcome unknown.
const PATIENCE_SENT: Duration = Duration::from_secs(60);
/// From so many sessions on it is looked whether those of a known domain get on.
const LOOKED_AT: usize = 32;

/// What places are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// A registrable domain, of recipients or of mail hosts.
    Domain(Arc<str>),
    /// The addresses of a network: the first 24 bits of IPv4, 64 of IPv6.
    Network(IpAddr),
}

/// Who wants a place.
#[derive(Debug, Clone)]
pub(super) struct Applicant {
    holders: Vec<Holder>,
    /// The registrable domain of the hosts.
    hosts: Arc<str>,
    /// Named by whoever runs the relay.
    is_chosen: bool,
}

impl Applicant {
    /// A session with the hosts of a route.
    pub(super) fn of(route: &Route) -> Self {
        let host = route.hosts.first();
        let address = host.and_then(|host| host.addresses.first());
        Self::new(&route.domain, route.name(), address.copied())
    }

    /// A session for a recipient's domain with a host at an address.
    pub(super) fn new(domain: &str, host: &str, address: Option<IpAddr>) -> Self {
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
    pub(super) fn short_of(&self, full: Full) -> Holder {
        let of_share = match full {
            Full::Share(index) => self.holders.get(index),
            // The recipient's domain, if it is another than that of the hosts.
            Full::Places => self.holders.get(1).filter(|holder| matches!(holder, Holder::Domain(_))),
        };
        of_share.cloned().unwrap_or_else(|| Holder::Domain(self.hosts.clone()))
    }

    /// A session with a smart host, which counts for nobody.
    pub(super) fn chosen() -> Self {
        Self { holders: Vec::new(), hosts: "".into(), is_chosen: true }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) & !0xff).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
    }
}

/// What a session does, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// It waits for an entry.
    Rests(Instant),
    /// It is being opened, or carries an entry.
    Works(Instant),
    /// The content of its entry is out.
    Sent(Instant),
}

#[derive(Debug)]
struct Session {
    holders: Vec<Holder>,
    standing: Standing,
    work: Work,
    leaves: CancellationToken,
}

impl Session {
    /// From when on it may have to give way while it works; none: it rests, and may at once.
    fn patience_ends(&self) -> Option<Instant> {
        match self.work {
            Work::Rests(_) => None,
            Work::Works(since) => Some(since + PATIENCE),
            Work::Sent(since) => Some(since + PATIENCE_SENT),
        }
    }

    fn since(&self) -> Instant {
        match self.work {
            Work::Rests(since) | Work::Works(since) | Work::Sent(since) => since,
        }
    }
}

#[derive(Debug)]
struct State {
    shares: Shares<Holder>,
    sessions: HashMap<u64, Session>,
    next_id: u64,
    /// When hosts of a registrable domain last took mail.
    known: HashMap<Arc<str>, Instant>,
    /// Nobody can give way before.
    nobody_before: Option<Instant>,
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    state: Mutex<State>,
    /// Further connections in races for a session.
    beside: Mutex<Shares<Holder>>,
}

/// A session's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Tenure {
    held: Held,
}

/// What a session says of itself to the places.
#[derive(Debug, Clone)]
pub(super) struct Held {
    places: Arc<Places>,
    id: u64,
    leaves: CancellationToken,
}

impl Places {
    /// So many.
    pub(super) fn new(all: usize) -> Arc<Self> {
        let state = State {
            shares: Shares::new(all),
            sessions: HashMap::new(),
            next_id: 0,
            known: HashMap::new(),
            nobody_before: None,
        };
        Arc::new(Self { state: Mutex::new(state), beside: Mutex::new(Shares::new(all / 2)) })
    }

    /// Sessions open.
    pub(super) fn used(&self) -> usize {
        self.state.lock().shares.used()
    }

    /// A place for a session that is about to be opened.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn take(self: &Arc<Self>, applicant: &Applicant, now: Instant) -> Result<Tenure, Full> {
        let leaves = CancellationToken::new();
        let id = self.state.lock().take(applicant, leaves.clone(), now)?;
        Ok(Tenure { held: Held { places: self.clone(), id, leaves } })
    }

    /// Whether the hosts are known to take mail.
    pub(super) fn knows(&self, applicant: &Applicant, now: Instant) -> bool {
        self.state.lock().standing(applicant, Some(now)) == Standing::Known
    }

    /// Has a session give way to one that found no place for this reason, if there is one that can.
    pub(super) fn make_room(&self, applicant: &Applicant, why: Full, now: Instant) {
        let leaves = self.state.lock().give_way(applicant, why, now);
        if let Some(leaves) = leaves {
            leaves.cancel();
        }
    }

    /// Room for one more connection beside those of a session that is being opened.
    pub(super) fn beside(self: &Arc<Self>, applicant: &Applicant) -> Option<Beside> {
        let standing = self.state.lock().standing(applicant, None);
        self.beside.lock().take(&applicant.holders, standing).ok()?;
        Some(Beside { places: self.clone(), holders: applicant.holders.clone(), standing })
    }
}

/// Room for a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Beside {
    places: Arc<Places>,
    holders: Vec<Holder>,
    standing: Standing,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.places.beside.lock().give_back(&self.holders, self.standing);
    }
}

impl Tenure {
    /// To be told what the session does.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        let mut state = self.held.places.state.lock();
        if let Some(session) = state.sessions.remove(&self.held.id) {
            state.shares.give_back(&session.holders, session.standing);
        }
    }
}

impl Held {
    /// It begins to carry an entry. If it was to go while it had none, it stays: the entry came first.
    pub(super) fn works(&mut self, now: Instant) {
        if self.leaves.is_cancelled() {
            self.leaves = CancellationToken::new();
            if let Some(session) = self.places.state.lock().sessions.get_mut(&self.id) {
                session.leaves = self.leaves.clone();
            }
        }
        self.does(Work::Works(now));
    }

    /// The content of its entry is out.
    pub(super) fn sent(&self, now: Instant) {
        self.does(Work::Sent(now));
    }

    /// It waits for an entry.
    pub(super) fn rests(&self, now: Instant) {
        self.does(Work::Rests(now));
    }

    /// It is with a host at this address.
    pub(super) fn is_at(&self, address: IpAddr) {
        self.places.state.lock().moved(self.id, network(address));
    }

    /// Its host took a message.
    pub(super) fn took_mail(&self, now: Instant) {
        self.places.state.lock().took_mail(self.id, now);
    }

    /// What it counts for.
    pub(super) fn holders(&self) -> Vec<Holder> {
        self.places.state.lock().sessions.get(&self.id).map(|session| session.holders.clone()).unwrap_or_default()
    }

    /// It gives way.
    pub(super) fn go(&self) {
        self.leaves.cancel();
    }

    /// Returns when it has to give way.
    pub(super) async fn gives_way(&self) {
        self.leaves.cancelled().await;
    }

    /// Whether it has to give way.
    pub(super) fn has_to_go(&self) -> bool {
        self.leaves.is_cancelled()
    }

    fn does(&self, work: Work) {
        let mut state = self.places.state.lock();
        state.nobody_before = state.nobody_before.filter(|_| !matches!(work, Work::Rests(_)));
        if let Some(session) = state.sessions.get_mut(&self.id) {
            session.work = work;
        }
    }
}

impl State {
    fn take(&mut self, applicant: &Applicant, leaves: CancellationToken, now: Instant) -> Result<u64, Full> {
        let standing = self.standing(applicant, Some(now));
        self.shares.take(&applicant.holders, standing)?;
        self.next_id += 1;
        let session = Session { holders: applicant.holders.clone(), standing, work: Work::Works(now), leaves };
        self.sessions.insert(self.next_id, session);
        Ok(self.next_id)
    }

    /// Known is a domain whose hosts took mail within the day, and whose sessions do not hang now, where that is looked at.
    fn standing(&self, applicant: &Applicant, look_at: Option<Instant>) -> Standing {
        if applicant.is_chosen {
            return Standing::Known;
        }
        let Some(at) = self.known.get(&applicant.hosts) else { return Standing::Unknown };
        let Some(now) = look_at else { return Standing::Known };
        if now.saturating_duration_since(*at) >= KNOWN_FOR || self.hangs(applicant, now) {
            return Standing::Unknown;
        }
        Standing::Known
    }

    /// Whether one holder has many sessions, a quarter of which wait for an answer for long.
    fn hangs(&self, applicant: &Applicant, now: Instant) -> bool {
        let is_slow = |session: &Session| {
            !matches!(session.work, Work::Rests(_)) && now.saturating_duration_since(session.since()) >= PATIENCE
        };
        applicant.holders.iter().any(|holder| {
            let held = self.shares.held(holder);
            let of_holder = self.sessions.values().filter(|session| session.holders.contains(holder));
            held >= LOOKED_AT && of_holder.filter(|session| is_slow(session)).count() > held / 4
        })
    }

    fn moved(&mut self, id: u64, network: IpAddr) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let new = Holder::Network(network);
        let Some(of_network) = session.holders.iter_mut().find(|holder| matches!(holder, Holder::Network(_))) else {
            return;
        };
        if *of_network != new {
            let old = std::mem::replace(of_network, new.clone());
            self.shares.moved(&old, &new);
        }
    }

    fn took_mail(&mut self, id: u64, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        // The domain of the hosts is the first; a smart host has none.
        let Some(Holder::Domain(hosts)) = session.holders.first() else { return };
        let hosts = hosts.clone();
        if session.standing != Standing::Known {
            session.standing = Standing::Known;
            self.shares.became_known();
        }
        if let Some(at) = self.known.get_mut(&hosts) {
            *at = now;
            return;
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.retain(|_, at| now.saturating_duration_since(*at) < KNOWN_FOR);
        }
        if self.known.len() < KNOWN_MAX {
            self.known.insert(hosts, now);
        }
    }

    /// The session that gives way; it counts until it is gone, but is not chosen twice.
    fn give_way(&mut self, applicant: &Applicant, why: Full, now: Instant) -> Option<CancellationToken> {
        if self.nobody_before.is_some_and(|at| now < at) {
            return None;
        }
        let standing = self.standing(applicant, Some(now));
        let only_unknown = self.shares.free(Standing::Known) > 0;
        let own = self.shares.held_most(&applicant.holders);
        let there = || self.sessions.values().filter(|session| !session.leaves.is_cancelled());
        let exceeds = there().filter(|session| session.standing == Standing::Known).count() > self.shares.kept();
        let helps = |session: &Session| match why {
            // A share is not made larger by what others hold, and its own work need not give way to more of it.
            Full::Share(index) => {
                matches!(session.work, Work::Rests(_)) && session.holders.contains(&applicant.holders[index])
            }
            Full::Places => standing == Standing::Known || !only_unknown || session.standing != Standing::Known,
        };
        let may_go = |session: &Session| {
            let Some(patience_ends) = session.patience_ends() else { return true };
            let is_kept = session.standing == Standing::Known && !exceeds;
            patience_ends <= now && !is_kept && self.shares.held_most(&session.holders) > own
        };
        // Those at rest first, then whoever holds most, then the oldest.
        let rank = |session: &&Session| {
            let rests = matches!(session.work, Work::Rests(_));
            (rests, self.shares.held_most(&session.holders), std::cmp::Reverse(session.since()))
        };
        let chosen = there().filter(|session| helps(session) && may_go(session)).max_by_key(rank);
        let chosen = chosen.map(|session| session.leaves.clone());
        // Unless there are some that are only not for this applicant.
        if chosen.is_none() && why == Full::Places && there().all(|session| session.patience_ends() > Some(now)) {
            self.nobody_before = there().filter_map(Session::patience_ends).min();
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Instant {
        SystemClock::default().instant()
    }

    fn session(domain: &str, host: &str, address: &str) -> Applicant {
        Applicant::new(domain, host, Some(address.parse().unwrap()))
    }

    /// The number of a zone's hosts, each with a name and a network of its own.
    fn of_zone(zone: &str, number: usize) -> Applicant {
        let address = format!("10.{}.{}.1", number / 250, number % 250);
        session(&format!("{number}.{zone}"), &format!("mx.{number}.{zone}"), &address)
    }

    /// As many as there are places for.
    fn fill(places: &Arc<Places>, now: Instant, applicant: impl Fn(usize) -> Applicant) -> Vec<Tenure> {
        (0..).map_while(|number| places.take(&applicant(number), now).ok()).collect()
    }

    #[test]
    fn one_zone_network_or_domain_leaves_room_for_others() {
        let now = start();
        let check = |what: &str, applicant: &dyn Fn(usize) -> Applicant| {
            let places = Places::new(1000);
            let taken = fill(&places, now, applicant);
            assert_eq!(taken.len(), 74, "{what}");
            assert!(places.take(&session("good.test", "mx.good.test", "192.0.2.1"), now).is_ok(), "{what}");
        };
        check("one zone", &|number| of_zone("zone.test", number));
        check("one domain at hosts of many", &|number| {
            of_zone(&format!("zone{number}.test"), number).at("a.evil.test")
        });
        check("many domains at one network", &|number| {
            session(
                &format!("zone{number}.test"),
                &format!("mx.zone{number}.test"),
                &format!("10.0.0.{}", number % 250),
            )
        });
        check("many domains at one network of IPv6", &|number| {
            session(&format!("zone{number}.test"), &format!("mx.zone{number}.test"), &format!("2001:db8::{number:x}"))
        });
    }

    impl Applicant {
        fn at(mut self, domain: &str) -> Self {
            self.holders[1..].iter_mut().for_each(|holder| {
                if matches!(holder, Holder::Network(_)) {
                    *holder = Holder::Domain(registrable_domain(domain).into());
                }
            });
            self
        }
    }

    #[test]
    fn a_provider_that_takes_mail_has_two_thirds_at_once() {
        let (places, now) = (Places::new(1000), start());
        let tenant = |number: usize| session(&format!("tenant{number}.test"), "mx.provider.test", "192.0.2.1");
        places.take(&tenant(0), now).unwrap().held().took_mail(now);
        let mut taken = fill(&places, now, tenant);
        assert_eq!(taken.len(), 667);
        // While a quarter of them hang, there are no more than for anybody.
        let later = now + PATIENCE;
        taken.drain(300..);
        taken[100..].iter().for_each(|one| one.held().clone().works(later));
        assert_eq!(places.take(&tenant(0), later).err(), Some(Full::Share(0)));
        taken.iter().for_each(|one| one.held().clone().works(later));
        assert!(places.take(&tenant(0), later).is_ok());
        let tomorrow = now + KNOWN_FOR;
        assert_eq!(places.take(&tenant(0), tomorrow).err(), Some(Full::Share(0)), "long ago");
    }

    #[test]
    fn the_oldest_of_whoever_holds_most_gives_way() {
        let (places, now) = (Places::new(12), start());
        let one = |number: u8| session("a.test", "mx.a.test", &format!("10.9.{number}.1"));
        places.take(&one(0), now).unwrap().held().took_mail(now);
        let most: Vec<_> =
            (0..7).map(|number| places.take(&one(number), now + SECOND * number.into()).unwrap()).collect();
        let others = fill(&places, now, |number| of_zone(&format!("zone{number}.test"), number));
        assert_eq!(others.len(), 5);
        let known = session("b.test", "mx.b.test", "192.0.2.1");
        let ask = |now| places.make_room(&known, Full::Places, now);
        ask(now + PATIENCE - SECOND);
        assert!(most.iter().all(|one| !one.held().has_to_go()), "none has waited for long enough");
        most[0].held().sent(now + PATIENCE);
        ask(now + PATIENCE + SECOND * 2);
        assert!(most[1].held().has_to_go(), "the oldest but one, whose content is out");
        assert!(!most[0].held().has_to_go());
        ask(now + PATIENCE + SECOND * 2);
        assert!(most[2].held().has_to_go(), "another one each time");
        others[4].held().rests(now + PATIENCE);
        ask(now + PATIENCE + SECOND * 2);
        assert!(others[4].held().has_to_go(), "one without work before all others");
        let left = |places: &[Tenure]| places.iter().filter(|one| !one.held().has_to_go()).count();
        (0..20).for_each(|_| ask(now + PATIENCE + SECOND * 70));
        assert_eq!((left(&most), left(&others)), (4, 0), "in the end all but the kept third");
        assert!(places.take(&known, now).is_err(), "they count until they are gone");
    }

    #[test]
    fn the_kept_third_never_gives_way() {
        let (places, now) = (Places::new(9), start());
        let known: Vec<_> = (0..3).map(|number| of_zone(&format!("known{number}.test"), number)).collect();
        for applicant in &known {
            places.take(applicant, now).unwrap().held().took_mail(now);
        }
        let kept: Vec<_> = known.iter().map(|applicant| places.take(applicant, now).unwrap()).collect();
        let others = fill(&places, now, |number| of_zone(&format!("zone{number}.test"), number + 10));
        assert_eq!(others.len(), 6);
        let later = now + PATIENCE_SENT * 2;
        (0..9).for_each(|_| places.make_room(&session("c.test", "mx.c.test", "192.0.2.1"), Full::Places, later));
        assert!(others.iter().all(|one| one.held().has_to_go()));
        assert!(kept.iter().all(|one| !one.held().has_to_go()));
    }

    #[test]
    fn who_holds_most_does_not_keep_others_from_asking() {
        let (places, now) = (Places::new(6), start());
        let taken = fill(&places, now, |number| of_zone(&format!("zone{number}.test"), number));
        assert_eq!(taken.len(), 4);
        places.make_room(&of_zone("zone0.test", 9), Full::Places, now + PATIENCE);
        assert!(taken.iter().all(|one| !one.held().has_to_go()), "it holds as many as any");
        places.make_room(&of_zone("new.test", 9), Full::Places, now + PATIENCE);
        assert!(taken.iter().any(|one| one.held().has_to_go()));
    }

    #[test]
    fn an_entry_that_comes_to_a_session_about_to_go_keeps_it() {
        let (places, now) = (Places::new(3), start());
        let tenure = places.take(&of_zone("zone.test", 1), now).unwrap();
        let mut held = tenure.held().clone();
        held.rests(now);
        let why = places.take(&of_zone("zone.test", 2), now).unwrap_err();
        places.make_room(&of_zone("zone.test", 2), why, now);
        assert!(held.has_to_go());
        held.works(now);
        assert!(!held.has_to_go());
        places.make_room(&of_zone("new.test", 2), Full::Places, now + PATIENCE);
        assert!(held.has_to_go(), "it can be asked again");
    }

    #[test]
    fn a_session_at_rest_makes_room_within_its_share() {
        let (places, now) = (Places::new(1000), start());
        let taken = fill(&places, now, |number| of_zone("zone.test", number));
        let applicant = of_zone("zone.test", 900);
        let why = places.take(&applicant, now).unwrap_err();
        places.make_room(&applicant, why, now + PATIENCE_SENT * 2);
        assert!(taken.iter().all(|one| !one.held().has_to_go()), "its own work does not give way");
        taken[7].held().rests(now);
        places.make_room(&applicant, why, now);
        assert!(taken[7].held().has_to_go());
    }

    #[test]
    fn a_place_follows_its_session_to_another_address() {
        let (places, now) = (Places::new(10), start());
        let tenure = places.take(&session("a.test", "mx.a.test", "192.0.2.1"), now).unwrap();
        tenure.held().is_at("192.0.2.9".parse().unwrap());
        tenure.held().is_at("2001:db8::1".parse().unwrap());
        let held = |address: &str| {
            let holder = Holder::Network(network(address.parse().unwrap()));
            places.state.lock().shares.held(&holder)
        };
        assert_eq!((held("192.0.2.1"), held("2001:db8::ffff")), (0, 1));
        drop(tenure);
        assert_eq!((held("2001:db8::1"), places.used()), (0, 0));
    }

    #[test]
    fn further_connections_have_shares_too() {
        let places = Places::new(1000);
        let taken: Vec<_> = (0..).map_while(|number| places.beside(&of_zone("zone.test", number))).collect();
        assert_eq!(taken.len(), 37);
        assert!(places.beside(&of_zone("good.test", 1)).is_some());
        drop(taken);
        assert_eq!(places.beside.lock().used(), 0);
    }
}
