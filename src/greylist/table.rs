//! what is known of the greylisting of destinations, by recipient domain, and which triplets wait since when: kept in memory, and
//! as rows of a side table that go to disk along with whatever else changes. `facts` and `retry` say what follows
//! from it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::learned_facts::{LearnedFacts, UNKNOWN_SOURCE, row_key};
use super::pending::{Refusal, Wait};
use crate::base::clock::Timestamp;
use crate::greylist::facts::Facts;
use crate::greylist::facts::Forecast;
use crate::mail::registrable::registrable_domain;

/// Facts and waits remembered at most; beyond, those used longest ago are forgotten.
const FACTS_MAX: usize = 10_000;
const WAITS_MAX: usize = 50_000;
/// How often what is too old is looked for.
const SWEEP: Duration = Duration::from_secs(3600);
/// A triplet that has passed is known for longer than this everywhere.
const KNOWN_FOR: Duration = Duration::from_secs(12 * 3600);
/// Longer names of destinations are cut, and told apart by a hash.
const NAME_LEN_MAX: usize = 200;
/// Key and value of a stored row.
pub(crate) type Row = (Box<[u8]>, Box<[u8]>);
/// A row is written, or removed.
pub type RowChange = (Box<[u8]>, Option<Box<[u8]>>);
/// Version of the rows.
const VERSION: u8 = 1;

/// Who sends to whom by which destination: what greylisting software tells senders apart by. The client is always the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Triplet {
    destination: Box<str>,
    /// The registrable part of the recipient's domain, whose facts these are.
    source: Box<str>,
    key: Box<str>,
    sender: u64,
}

impl Triplet {
    /// `reverse_path` as it is sent, `recipient` as `Mailbox::plain_key` writes it, `destination` as in the route.
    pub fn new(reverse_path: &str, recipient: &str, destination: &str) -> Self {
        let sender = reverse_path.to_ascii_lowercase();
        let destination = name(destination);
        let source = source(recipient.rsplit_once('@').map_or(recipient, |(_, domain)| domain));
        let key = format!("{sender}\n{recipient}\n{destination}").into();
        Self { destination, source, key, sender: hash(&sender) }
    }
}

#[derive(Debug, Default)]
struct Memory {
    facts: LearnedFacts,
    waits: HashMap<Box<str>, Wait>,
    swept_at: Timestamp,
}

/// The memory.
#[derive(Debug, Default)]
pub struct Greylists(Mutex<Memory>);

impl Greylists {
    /// Takes up the rows found at start.
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        let mut memory = Memory::default();
        for (key, value) in rows {
            let Ok(key) = String::from_utf8(key.into()) else { continue };
            let facts = || decode(&value).filter(Facts::is_plausible);
            match key.split_at_checked(1) {
                Some(("d", destination)) => memory.facts.take_up(destination, UNKNOWN_SOURCE, facts()),
                Some(("f", key)) => {
                    let Some((source, destination)) = key.split_once('\n') else { continue };
                    memory.facts.take_up(destination, source, facts());
                }
                Some(("w", key)) => {
                    let wait = decode(&value).filter(Wait::is_plausible);
                    memory.waits.extend(wait.map(|wait| (key.into(), wait)));
                }
                Some(_) | None => {}
            }
        }
        Self(Mutex::new(memory))
    }

    /// What was learned of destinations, as it is stored, for a backup. Who waits where is not in it: that is over soon.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let memory = self.0.lock();
        let all = memory.facts.of.iter().flat_map(|(name, sources)| sources.iter().map(move |of| (name, of)));
        let rows = all.map(|(name, (source, facts))| row(&row_key(name, source), Some(facts)));
        rows.filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// A triplet was greylisted. Returns its wait, what counts for its recipient's domain now, and what is to be
    /// stored.
    pub fn refused(&self, triplet: &Triplet, refusal: Refusal) -> (Wait, Facts, Vec<RowChange>) {
        let mut memory = self.0.lock();
        let now = refusal.ended;
        let mut changes = memory.make_room(now);
        let Memory { facts, waits, .. } = &mut *memory;
        changes.extend(facts.make_room_for(&triplet.destination, &triplet.source).map(|key| row::<Facts>(&key, None)));
        let before = waits.remove(&triplet.key);
        let own = facts.begin(&triplet.destination, &triplet.source);
        let wait = own.refused(before, refusal, triplet.sender);
        changes.extend([row(&row_key(&triplet.destination, &triplet.source), Some(own)), wait_row(triplet, &wait)]);
        waits.insert(triplet.key.clone(), wait.clone());
        let facts = facts.counting(&triplet.destination, &triplet.source, now).unwrap_or_default();
        (wait, facts, changes)
    }

    /// A triplet was accepted in an attempt that began now. Returns what is to be stored.
    pub fn accepted(&self, triplet: &Triplet, now: Timestamp) -> Vec<RowChange> {
        let mut memory = self.0.lock();
        let Memory { facts, waits, .. } = &mut *memory;
        let Some(facts) = facts.of_mut(&triplet.destination, &triplet.source) else { return Vec::new() };
        let key = row_key(&triplet.destination, &triplet.source);
        match waits.get_mut(&triplet.key) {
            Some(wait) if wait.passed_at.is_none() => {
                facts.passed(wait, triplet.sender, now);
                vec![row(&key, Some(facts)), wait_row(triplet, wait)]
            }
            Some(_) => Vec::new(),
            None if facts.accepted_at_once(triplet.sender, now) => vec![row(&key, Some(facts))],
            None => Vec::new(),
        }
    }

    /// Forgets who waits, or waited, for a recipient (`Mailbox::plain_key`). Returns what is to be stored.
    pub fn forget(&self, recipient: &str) -> Vec<RowChange> {
        let mut changes = Vec::new();
        self.0.lock().waits.retain(|key, _| {
            let is_kept = key.split('\n').nth(1) != Some(recipient);
            changes.extend((!is_kept).then(|| row::<Wait>(&format!("w{key}"), None)));
            is_kept
        });
        changes
    }

    /// The host that makes a triplet wait, or did.
    pub fn greylister(&self, triplet: &Triplet) -> Option<(Arc<str>, IpAddr)> {
        let by = self.0.lock().waits.get(&triplet.key)?.by.clone()?;
        Some((by.host, by.address))
    }

    /// What counts where a triplet waits.
    pub fn standing(&self, triplet: &Triplet, now: Timestamp) -> Option<(Facts, Wait)> {
        let memory = self.0.lock();
        let wait = memory.waits.get(&triplet.key).filter(|wait| wait.is_current(now))?;
        Some((memory.facts.counting(&triplet.destination, &triplet.source, now)?, wait.clone()))
    }

    /// Whether a triplet has passed lately: then it is known, whatever it is refused for now.
    pub(crate) fn has_passed(&self, triplet: &Triplet, now: Timestamp) -> bool {
        let memory = self.0.lock();
        let wait = memory.waits.get(&triplet.key).filter(|wait| wait.is_current(now));
        let passed_at = wait.and_then(|wait| wait.passed_at);
        passed_at.is_some_and(|at| now.since(at) < KNOWN_FOR)
    }

    /// What counts of a destination, by the name it has in routes, for a recipient domain.
    pub fn facts(&self, domain: &str, destination: &str, now: Timestamp) -> Option<Facts> {
        self.0.lock().facts.counting(&name(destination), &source(domain), now)
    }

    /// Whether something is known of a destination, by the name it has in routes.
    pub(crate) fn knows(&self, destination: &str) -> bool {
        let memory = self.0.lock();
        memory.facts.len > 0 && memory.facts.of.contains_key(&name(destination))
    }

    /// The shortest wait that each destination let pass, by the names that destinations have in routes.
    pub fn delays(&self) -> Vec<(Box<str>, Duration)> {
        let memory = self.0.lock();
        let all = memory.facts.of.iter().filter_map(|(name, sources)| {
            let passed = sources.values().filter_map(|facts| facts.bounds().1);
            Some((name.clone(), passed.min()?))
        });
        all.collect()
    }

    /// What a message has to expect.
    pub fn forecast(&self, triplet: &Triplet, now: Timestamp) -> Forecast {
        let memory = self.0.lock();
        let Some(facts) = memory.facts.counting(&triplet.destination, &triplet.source, now) else {
            return Forecast::Unknown;
        };
        facts.forecast(memory.waits.get(&triplet.key), triplet.sender, now)
    }
}

impl Memory {
    /// Forgets what is too old now and then, and where there is too much, an eighth of it.
    fn make_room(&mut self, now: Timestamp) -> Vec<RowChange> {
        let mut changes = Vec::new();
        let is_full = self.facts.len >= FACTS_MAX || self.waits.len() >= WAITS_MAX;
        if !is_full && now.since(self.swept_at) < SWEEP {
            return changes;
        }
        self.swept_at = now;
        let (facts_oldest, waits_oldest) = (
            oldest_kept(self.facts.times(), FACTS_MAX),
            oldest_kept(self.waits.values().map(|wait| wait.last_refused_at), WAITS_MAX),
        );
        let is_over = |facts: &Facts| !facts.is_current(now) || facts.last_seen() < facts_oldest;
        let of_all = self.facts.of.iter().flat_map(|(name, sources)| sources.iter().map(move |of| (name, of)));
        let over: Vec<(Box<str>, Box<str>)> = of_all
            .filter(|(_, (_, facts))| is_over(facts))
            .map(|(name, (source, _))| (name.clone(), source.clone()))
            .collect();
        let gone = over.iter().filter_map(|(name, source)| self.facts.remove(name, source));
        changes.extend(gone.map(|key| row::<Facts>(&key, None)));
        self.waits.retain(|key, wait| {
            let is_kept = wait.is_current(now) && wait.last_refused_at >= waits_oldest;
            changes.extend((!is_kept).then(|| row::<Wait>(&format!("w{key}"), None)));
            is_kept
        });
        changes
    }
}

/// Where there are too many, the time before which an eighth was used last.
fn oldest_kept(times: impl Iterator<Item = Timestamp>, most: usize) -> Timestamp {
    let mut times: Vec<Timestamp> = times.collect();
    if times.len() < most {
        return Timestamp::default();
    }
    let eighth = times.len() / 8;
    // More than the eighth goes where many were used at the same moment.
    *times.select_nth_unstable(eighth).1
}

/// Whose facts those are that mail for a domain brings about.
fn source(domain: &str) -> Box<str> {
    registrable_domain(domain).into()
}

fn wait_row(triplet: &Triplet, wait: &Wait) -> RowChange {
    row(&format!("w{}", triplet.key), Some(wait))
}

fn name(destination: &str) -> Box<str> {
    if destination.len() <= NAME_LEN_MAX {
        return destination.into();
    }
    let end = destination.floor_char_boundary(NAME_LEN_MAX);
    format!("{}~{:016x}", &destination[..end], hash(destination)).into()
}

/// FNV-1a: stored, so it has to be the same in every version.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn row<T: Serialize>(key: &str, value: Option<&T>) -> RowChange {
    let value = value.map(|value| {
        let mut encoded = vec![VERSION];
        // Neither has a map with keys that are not text, nor anything else that could fail.
        let _ = serde_json::to_writer(&mut encoded, value);
        encoded.into_boxed_slice()
    });
    (key.as_bytes().into(), value)
}

/// Whether a stored row can be read.
pub(crate) fn reads((key, value): &Row) -> bool {
    match key.first() {
        Some(b'd' | b'f') => decode::<Facts>(value).is_some(),
        Some(b'w') => decode::<Wait>(value).is_some(),
        _ => false,
    }
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    let (&version, value) = value.split_first()?;
    if version == VERSION { serde_json::from_slice(value).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::super::learned_facts::{DESTINATIONS_MAX, SOURCES_MAX};
    use super::*;
    use crate::greylist::pending::Greylister;

    const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);

    fn triplet(recipient: &str) -> Triplet {
        Triplet::new("<otp@app.example>", recipient, "mx.example.com,mx2.example.com")
    }

    fn refusal(by: Option<Greylister>, at: Timestamp) -> Refusal {
        Refusal { asked: None, by, began: at, ended: at }
    }

    fn rows(changes: Vec<RowChange>) -> Vec<Row> {
        changes.into_iter().map(|(key, value)| (key, value.unwrap())).collect()
    }

    #[test]
    fn a_newer_code_inherits_the_wait_also_after_a_restart() {
        let by = Greylister { host: "mx2.example.com".into(), address: IpAddr::from([192, 0, 2, 2]) };
        let memory = Greylists::default();
        let (wait, _, changes) = memory.refused(&triplet("a@example.com"), refusal(Some(by.clone()), START));
        assert_eq!(wait.first_refused_at, START);
        let memory = Greylists::new(rows(changes));
        let later = START.plus(Duration::from_secs(200));
        let (wait, facts, _) = memory.refused(&triplet("a@example.com"), refusal(None, later));
        assert_eq!((wait.first_refused_at, wait.refusals), (START, 2));
        assert_eq!(facts.bounds().0, Some(Duration::from_secs(200)));
        assert_eq!(memory.greylister(&triplet("a@example.com")), Some((by.host, by.address)));
        let (other, ..) = memory.refused(&triplet("b@example.com"), refusal(None, later));
        assert_eq!(other.first_refused_at, later);
    }

    #[test]
    fn what_was_learned_survives_a_restart_and_is_forgotten_in_the_end() {
        let memory = Greylists::default();
        memory.refused(&triplet("a@example.com"), refusal(None, START));
        let passed_at = START.plus(Duration::from_secs(300));
        let changes = memory.accepted(&triplet("a@example.com"), passed_at);
        let memory = Greylists::new(rows(changes));
        assert!(memory.has_passed(&triplet("a@example.com"), passed_at));
        assert_eq!(memory.forecast(&triplet("a@example.com"), passed_at), Forecast::AtOnce);
        let expected = Forecast::After(Duration::from_secs(300));
        assert_eq!(memory.forecast(&triplet("b@example.com"), passed_at), expected);
        assert!(memory.facts("example.com", "mx.example.com,mx2.example.com", passed_at).is_some());
        let much_later = START.plus(Duration::from_secs(40 * 86_400));
        let unknown = Triplet::new("<otp@app.example>", "c@example.org", "mx.example.org");
        let (_, _, changes) = memory.refused(&unknown, refusal(None, much_later));
        let removed = changes.iter().filter(|change| change.1.is_none()).count();
        assert_eq!(removed, 2);
        assert_eq!(memory.facts("example.com", "mx.example.com,mx2.example.com", much_later), None);
    }

    #[test]
    fn what_cannot_be_is_not_taken_up() {
        let row = |key: &str, json: &str| {
            let value = [&[VERSION], json.as_bytes()].concat();
            (key.as_bytes().into(), value.into_boxed_slice())
        };
        let rows = vec![
            row("dgood.example", "{\"contacts\":5,\"last_seen\":1795255200000}"),
            row("dmany.example", "{\"opened_for_sender\":65535,\"opened_for_client\":1,\"last_seen\":1795255200000}"),
            row(
                "dlong.example",
                "{\"passed\":{\"secs\":18446744073709551615,\"nanos\":0},\"last_seen\":1795255200000}",
            ),
            row(
                "w\nalice@example.com\nmx.example",
                "{\"first_refused_at\":0,\"last_refused_at\":1795255200000,\"refusals\":1,\
                 \"asked\":{\"secs\":18446744073709551615,\"nanos\":0}}",
            ),
        ];
        let greylists = Greylists::new(rows);
        let facts = |name: &str| greylists.facts(name, name, START);
        assert_eq!(facts("good.example").map(|facts| facts.contacts()), Some((5, 0)));
        assert_eq!((facts("many.example"), facts("long.example")), (None, None));
        let (wait, ..) = greylists.refused(&Triplet::new("", "alice@example.com", "mx.example"), refusal(None, START));
        assert_eq!(wait.refusals, 1);
    }

    #[test]
    fn what_a_clock_saw_that_was_ahead_does_not_count() {
        let (memory, triplet) = (Greylists::default(), triplet("a@example.com"));
        let ahead = START.plus(Duration::from_secs(7 * 86_400));
        memory.refused(&triplet, refusal(None, ahead));
        let changes = memory.accepted(&triplet, ahead.plus(Duration::from_secs(300)));
        let memory = Greylists::new(rows(changes));
        assert!(!memory.has_passed(&triplet, START) && memory.standing(&triplet, START).is_none());
        assert_eq!(memory.forecast(&triplet, START), Forecast::Unknown);
        let (wait, facts, changes) = memory.refused(&triplet, refusal(None, START));
        assert_eq!((wait.first_refused_at, facts.bounds()), (START, (None, None)));
        let removed = changes.iter().filter(|change| change.1.is_none()).count();
        assert_eq!(removed, 2, "it leaves the disk");
    }

    #[test]
    fn there_is_a_bound() {
        let memory = Greylists::default();
        for number in 0..FACTS_MAX as u64 + 10 {
            let destination = format!("mx{number}.example");
            let unknown = Triplet::new("<>", &format!("a@{destination}"), &destination);
            memory.refused(&unknown, refusal(None, START.plus(Duration::from_millis(number))));
        }
        assert!(memory.0.lock().facts.len <= FACTS_MAX);
        let facts = |name: &str| memory.facts(name, name, START);
        assert!(facts("mx0.example").is_none() && facts("mx9999.example").is_some());
    }

    #[test]
    fn one_zone_pushes_nothing_out() {
        let memory = Greylists::default();
        let refuse = |recipient: &str, destination: &str, at: u64| {
            let at = START.plus(Duration::from_millis(at));
            memory.refused(&Triplet::new("<>", recipient, destination), refusal(None, at)).2
        };
        refuse("a@honest.example", "mx.honest.example", 0);
        let mut removed = 0;
        for number in 1..FACTS_MAX as u64 {
            let host = format!("mx{number}.unknown.example");
            let changes = refuse(&format!("a@{number}.unknown.example"), &host, number);
            removed += changes.iter().filter(|change| change.1.is_none()).count();
        }
        assert_eq!(memory.0.lock().facts.len, 1 + DESTINATIONS_MAX);
        assert_eq!(removed, FACTS_MAX - 1 - DESTINATIONS_MAX, "and they leave the disk");
        for number in 0..1000 {
            refuse(&format!("a@unknown{number}.example"), "mx.shared.example", 20_000 + number);
        }
        let memory = memory.0.lock();
        assert_eq!(memory.facts.of["mx.shared.example"].len(), SOURCES_MAX);
        assert!(memory.facts.of.contains_key("mx.honest.example"));
        assert_eq!(memory.facts.counts.values().sum::<usize>(), memory.facts.len);
    }

    /// Rows of version 0.1 name a destination and nothing else.
    #[test]
    fn what_version_0_1_learned_is_taken_up() {
        let json = "{\"refused\":{\"secs\":240,\"nanos\":0},\"passed\":{\"secs\":300,\"nanos\":0},\"agreeing\":2,\
                    \"contacts\":3,\"contacts_refused\":3,\"last_seen\":1795255200000,\"last_pass\":[1795255200000,1]}";
        let row = |key: &str| (key.as_bytes().into(), [&[VERSION], json.as_bytes()].concat().into_boxed_slice());
        let memory = Greylists::new(vec![row("dmx.example.com,mx2.example.com"), row("dmx.shared.example")]);
        let passed = |domain: &str, destination: &str| memory.facts(domain, destination, START).unwrap().bounds().1;
        let s300 = Some(Duration::from_secs(300));
        assert_eq!(passed("example.com", "mx.example.com,mx2.example.com"), s300, "its own hosts");
        assert_eq!(passed("example.com", "mx.shared.example"), None, "one source among others");
        assert_eq!(memory.facts("example.com", "mx.shared.example", START).unwrap().soonest(), s300);
        let own = Triplet::new("<otp@app.example>", "a@example.com", "mx.example.com,mx2.example.com");
        let (_, facts, changes) = memory.refused(&own, refusal(None, START));
        assert_eq!(facts.bounds().1, s300);
        assert!(changes.iter().any(|change| change.1.is_some() && change.0.starts_with(b"fexample.com\n")));
    }

    #[test]
    fn long_names_are_told_apart() {
        let long = |last: &str| name(&format!("{}{last}", "mx.example.com,".repeat(100)));
        assert!(long("a").len() < NAME_LEN_MAX + 20);
        assert_ne!(long("a"), long("b"));
    }
}
