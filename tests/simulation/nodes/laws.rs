//! What must hold over all nodes, whatever happens.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock, ManualClock, Timestamp};
use otp_relay::testing::ledger::FRESH;
use otp_relay::testing::ledger::accept::{Accepted, KeyHash, NewMessage};
use otp_relay::testing::ledger::attempt::Epoch;
use otp_relay::testing::ledger::heartbeat::Timing;
use otp_relay::testing::ledger::memory::{Database, Replication};
use otp_relay::testing::ledger::rules::Delivery;
use otp_relay::testing::mail::id::{EntryId, MessageId};
use parking_lot::Mutex;

use super::super::drawn::BUDGET_MOST;
use super::{LEASE, STILL_MAX, Terms};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a mail host said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Deferred,
    Failed,
}

/// Content on its way.
#[derive(Clone, Copy, Debug)]
struct Sending {
    entry: EntryId,
    epoch: Epoch,
    place: usize,
    from: Timestamp,
    to: Option<Timestamp>,
    outcome: Option<Outcome>,
    /// How long its node stood still between the last look and the first octet.
    stood: Duration,
}

#[derive(Default)]
struct Known {
    /// Of how many recipients, and by which node it was accepted.
    acknowledged: BTreeMap<MessageId, (u16, usize)>,
    keys: HashMap<KeyHash, Vec<MessageId>>,
    budgets: HashMap<KeyHash, u32>,
    /// Entries that took a slot, by their place in the order, and when that was acknowledged.
    slots: HashMap<KeyHash, Vec<(u64, EntryId, Timestamp)>>,
    sendings: Vec<Sending>,
    has_failed_over: bool,
    /// A node lost its memory: it crashed, or was fenced.
    has_forgotten: bool,
    broken: Option<String>,
}

/// What happened in all runs, so that laws that cannot be broken are noticed.
#[derive(Debug)]
pub struct Seen {
    pub taken_over: u64,
    pub fenced: u64,
    pub twice: u64,
}

static TAKEN_OVER: AtomicU64 = AtomicU64::new(0);
static FENCED: AtomicU64 = AtomicU64::new(0);
static TWICE: AtomicU64 = AtomicU64::new(0);

pub fn seen() -> Seen {
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    Seen { taken_over: of(&TAKEN_OVER), fenced: of(&FENCED), twice: of(&TWICE) }
}

pub struct Laws {
    terms: Terms,
    clock: Arc<ManualClock>,
    database: Database,
    known: Mutex<Known>,
}

impl Laws {
    pub fn new(terms: Terms, clock: Arc<ManualClock>, database: Database) -> Self {
        Self { terms, clock, database, known: Mutex::default() }
    }

    fn is_synchronous(&self, known: &Known) -> bool {
        self.terms.replication == Replication::Synchronous || !known.has_failed_over
    }

    pub fn acknowledged(&self, new: &NewMessage, accepted: &Accepted, place: usize) {
        let (mut known, now) = (self.known.lock(), self.clock.now());
        for (index, slot) in &new.slots {
            let entry = EntryId { message: new.message.id, index: *index };
            known.slots.entry(*slot).or_default().push((accepted.sequence, entry, now));
        }
        let count = u16::try_from(new.message.envelope.recipients.len()).unwrap();
        known.acknowledged.insert(new.message.id, (count, place));
        if let Some(known_by) = &new.idempotency {
            known.keys.entry(known_by.key).or_default().push(new.message.id);
        }
        for ask in &new.budgets {
            *known.budgets.entry(ask.key).or_default() += u32::from(count);
        }
    }

    pub fn some_message(&self, number: u64) -> Option<MessageId> {
        let known = self.known.lock();
        let count = known.acknowledged.len();
        (count > 0).then(|| *known.acknowledged.keys().nth(number as usize % count).unwrap())
    }

    pub fn crashed(&self, place: usize) {
        let mut known = self.known.lock();
        known.has_forgotten = true;
        // Its connections end with it.
        let now = self.clock.now();
        for sending in known.sendings.iter_mut().filter(|sending| sending.place == place) {
            sending.to.get_or_insert(now);
        }
    }

    pub fn failed_over(&self) {
        self.known.lock().has_failed_over = true;
    }

    pub fn was_fenced(&self) {
        FENCED.fetch_add(1, Ordering::Relaxed);
        self.known.lock().has_forgotten = true;
    }

    pub fn content_leaves(
        &self,
        (entry, epoch): (EntryId, Epoch),
        place: usize,
        number: u32,
        stood: Duration,
    ) -> usize {
        let mut known = self.known.lock();
        let from = self.clock.now();
        let margin = Timing::of(LEASE).margin();
        let (owner, is_alive) = self.database.standing(entry, epoch);
        let is_ours = is_alive && owner.is_none_or(|owner| owner == epoch);
        if !is_ours && stood <= margin && self.is_synchronous(&known) {
            let law =
                format!("{entry} leaves from {epoch:?} (alive: {is_alive}) of node {place}, its owner is {owner:?}");
            known.broken.get_or_insert(law);
        }
        // Somebody asked for this attempt, and not long ago; or it was accepted a moment ago.
        let allowed = self.database.allowed(entry);
        let is_allowed = allowed.is_some_and(|allowed| {
            let is_for_it = allowed.attempt.is_none_or(|attempt| attempt == (epoch, number));
            is_for_it && from.since(allowed.at) <= PATIENCE + STILL_MAX + FRESH * 2 + stood
        });
        if !is_allowed && stood <= margin {
            let law =
                format!("{entry} leaves from {epoch:?} of node {place} in attempt {number}, allowed was {allowed:?}");
            known.broken.get_or_insert(law);
        }
        let other = known.sendings.iter().find(|other| other.entry == entry && other.to.is_none()).copied();
        if let Some(other) = other {
            let may_overlap = stood > margin || other.stood > margin || !self.is_synchronous(&known);
            if !may_overlap {
                known
                    .broken
                    .get_or_insert(format!("{entry} leaves from node {place} in attempt {number} and as {other:?}"));
            }
        }
        let is_elsewhere = known.acknowledged.get(&entry.message).is_some_and(|(_, accepted)| *accepted != place);
        TAKEN_OVER.fetch_add(u64::from(is_elsewhere), Ordering::Relaxed);
        known.sendings.push(Sending { entry, epoch, place, from, to: None, outcome: None, stood });
        known.sendings.len() - 1
    }

    pub fn content_left(&self, sending: usize, outcome: Outcome) {
        let mut known = self.known.lock();
        let now = self.clock.now();
        let is_synchronous = self.is_synchronous(&known);
        let sending = &mut known.sendings[sending];
        if sending.to.is_some() {
            return;
        }
        (sending.to, sending.outcome) = (Some(now), Some(outcome));
        // Nobody else gets it meanwhile, unless the epoch was revoked.
        let (owner, is_alive) = self.database.standing(sending.entry, sending.epoch);
        let is_others = is_alive && owner.is_some_and(|owner| owner != sending.epoch);
        if is_others && sending.stood <= Timing::of(LEASE).margin() && is_synchronous {
            let law = format!("{owner:?} got it meanwhile: {sending:?}");
            known.broken.get_or_insert(law);
        }
    }

    pub fn check(&self) {
        if let Some(law) = &self.known.lock().broken {
            panic!("{law}");
        }
    }

    pub fn at_the_end(&self) {
        self.check();
        let database = &self.database;
        let known = self.known.lock();
        assert_eq!(database.owners(), [], "something is left");
        assert_eq!(database.ended_by_the_revoked(), [], "what is revoked has ended something");
        let mut ends: HashMap<EntryId, Vec<Timestamp>> = HashMap::new();
        for event in database.events().iter().filter(|event| event.kind().is_end()) {
            ends.entry(event.entry().unwrap()).or_default().push(event.head.time);
        }
        if let Some((entry, times)) = ends.iter().find(|(_, times)| times.len() > 1) {
            panic!("{entry} ended {} times", times.len());
        }
        // A commit that a fail-over lost is given back by its node while that lives.
        if self.is_synchronous(&known) || !known.has_forgotten {
            for (message, (count, _)) in &known.acknowledged {
                for index in 0..*count {
                    let entry = EntryId { message: *message, index };
                    assert!(ends.contains_key(&entry), "{entry} never ended");
                }
            }
        }
        if self.is_synchronous(&known) {
            self.check_slots(&known);
            assert!(known.keys.values().all(|taken| taken.len() == 1), "a key was taken twice");
            assert!(known.budgets.values().all(|taken| *taken <= BUDGET_MOST), "a budget was exceeded");
            self.check_repeats(&known);
        }
    }

    /// Whoever is told that a newer one has the slot knows that the older ones have ended.
    fn check_slots(&self, known: &Known) {
        let ended_at = self.database.ends();
        for holders in known.slots.values() {
            for (sequence, entry, told_at) in holders {
                let older = holders.iter().filter(|(other, id, _)| other < sequence && id.message != entry.message);
                for (_, older, _) in older {
                    let has_ended = ended_at.get(older).is_some_and(|at| at <= told_at);
                    assert!(has_ended, "{older} lived on when {entry} had its slot");
                }
            }
        }
    }

    /// What was delivered is sent again only where that was not known in time.
    fn check_repeats(&self, known: &Known) {
        let ended_at = self.database.ends();
        let entries: BTreeSet<EntryId> = known.sendings.iter().map(|sending| sending.entry).collect();
        for entry in entries {
            let of = || known.sendings.iter().filter(move |sending| sending.entry == entry);
            let delivered = of().filter(|sending| sending.outcome == Some(Outcome::Delivered)).count();
            TWICE.fetch_add(u64::from(delivered > 1), Ordering::Relaxed);
            let once = self.terms.delivery == Delivery::AtMostOnce;
            let has_stood = of().any(|sending| sending.stood > Timing::of(LEASE).margin());
            assert!(!once || delivered <= 1 || has_stood, "{entry} left twice: {:?}", of().collect::<Vec<_>>());
            let Some(end) = ended_at.get(&entry) else { continue };
            for sending in of() {
                let late = sending.from.since(*end);
                let most = PATIENCE + FRESH + LEASE + sending.stood;
                assert!(late <= most, "{entry} left {late:?} after its end: {sending:?}");
            }
        }
    }
}
