//! What must hold whatever happens.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use otp_relay::testing::base::clock::{Clock, ManualClock, Timestamp};
use otp_relay::testing::event::cause::Cause;
use otp_relay::testing::event::{Event, Kind, Sink};
use otp_relay::testing::mail::envelope::Recipient;
use otp_relay::testing::mail::id::MessageId;
use otp_relay::testing::queue::inspect::Cancelled;
use parking_lot::Mutex;

use crate::simulation::{Entries, key};

/// What is known of one entry.
#[derive(Default)]
struct Entry {
    ends: Vec<(Kind, u32)>,
    attempting: bool,
    /// When a newer one took its place, unless it was on its way already.
    superseded_at: Option<Timestamp>,
    /// It ended while its content was out.
    was_out: bool,
    next_attempt_at: Option<Timestamp>,
    /// The life in which it was told that it is at risk.
    at_risk_in: Option<u32>,
}

struct Acknowledged {
    id: MessageId,
    recipients: Vec<String>,
    expires_at: Timestamp,
    /// What a newer message replaces it by, and when the app knew that it was accepted.
    key: Option<Arc<str>>,
    at: Timestamp,
}

/// One arrival at a mail host.
struct Arrival {
    /// When the content left.
    at: Timestamp,
    life: u32,
    reply_lost: bool,
}

/// An entry that the app took back and was told would not arrive.
struct TakenBack {
    at: Timestamp,
    id: MessageId,
    index: u16,
}

/// Content that leaves, or has left.
struct UnderWay {
    number: u64,
    recipient: String,
}

#[derive(Default)]
struct Known {
    /// How many lives the relay has had.
    life: u32,
    acknowledged: HashMap<u64, Acknowledged>,
    entries: Entries<Entry>,
    arrivals: HashMap<(u64, String), Vec<Arrival>>,
    connections: HashMap<u8, usize>,
    taken_back: Vec<TakenBack>,
    /// The content that is under way in each connection.
    under_way: HashMap<u64, UnderWay>,
    /// When content last left in each connection, also where that has ended since.
    left_at: HashMap<u64, Timestamp>,
    /// Breaches seen inside tasks of the relay, where a panic would only end the task.
    broken: Option<String>,
}

impl Known {
    fn demand(&mut self, holds: bool, law: impl FnOnce() -> String) {
        if !holds {
            self.broken.get_or_insert_with(law);
        }
    }
}

/// In all runs.
static BY_SMART_HOSTS: AtomicU64 = AtomicU64::new(0);

/// How much they delivered so far.
pub fn delivered_by_smart_hosts() -> u64 {
    BY_SMART_HOSTS.load(Ordering::Relaxed)
}

/// Watches events and mail hosts.
pub struct Laws {
    clock: Arc<ManualClock>,
    sessions_max: usize,
    known: Mutex<Known>,
}

impl Laws {
    pub fn new(clock: Arc<ManualClock>, sessions_max: usize) -> Self {
        Self { clock, sessions_max, known: Mutex::default() }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn acknowledged(
        &self,
        id: MessageId,
        number: u64,
        recipients: &[Recipient],
        expires_at: Timestamp,
        key: Option<Arc<str>>,
    ) {
        let recipients = recipients.iter().map(|recipient| recipient.mailbox.as_str().to_owned()).collect();
        let message = Acknowledged { id, recipients, expires_at, key, at: self.clock.now() };
        self.known.lock().acknowledged.insert(number, message);
    }

    /// A submission counted as a repeat of this message. One that was refused by a disk which kept it all the same, and
    /// which a restart found there, counts as accepted.
    pub fn repeated(&self, id: MessageId, is_stored: bool) {
        let mut known = self.known.lock();
        let was_acknowledged = known.acknowledged.values().any(|message| message.id == id);
        let has_events = known.entries.keys().any(|(message, _)| *message == id);
        known.demand(was_acknowledged || has_events || is_stored, || {
            format!("a repeat of {id}, which was never accepted")
        });
    }

    /// A message that was acknowledged, by its place.
    pub fn id(&self, place: usize) -> Option<MessageId> {
        let known = self.known.lock();
        let mut ids: Vec<_> = known.acknowledged.values().map(|message| message.id).collect();
        ids.sort_unstable();
        (!ids.is_empty()).then(|| ids[place % ids.len()])
    }

    /// The app took entries back, and that is on disk.
    pub fn taken_back(&self, cancelled: &[Cancelled]) {
        let at = self.clock.now();
        let for_good = cancelled.iter().filter(|cancelled| !cancelled.may_still_arrive);
        let entries = for_good.map(|cancelled| TakenBack { at, id: cancelled.id.message, index: cancelled.id.index });
        self.known.lock().taken_back.extend(entries);
    }

    /// Somebody did not want to wait for the time of the next attempt.
    pub fn hurried(&self, id: MessageId) {
        let mut known = self.known.lock();
        let entries = known.entries.iter_mut().filter(|((message, _), _)| *message == id);
        entries.for_each(|(_, entry)| entry.next_attempt_at = None);
    }

    pub fn crashed(&self) {
        let mut known = self.known.lock();
        known.life += 1;
        for entry in known.entries.values_mut() {
            entry.attempting = false;
            // That it was put off may not have been written down yet.
            entry.next_attempt_at = None;
        }
    }

    /// A host takes what came over a connection. A slow one does so some time after it was sent.
    pub fn arrived(&self, number: u64, recipient: &str, connection: u64) {
        let mut known = self.known.lock();
        let at = known.left_at.get(&connection).copied().unwrap_or_else(|| self.clock.now());
        let arrival = Arrival { at, life: known.life, reply_lost: false };
        known.arrivals.entry((number, recipient.to_owned())).or_default().push(arrival);
    }

    pub fn reply_lost(&self, number: u64, recipient: &str, is_lost: bool) {
        let mut known = self.known.lock();
        let arrivals = known.arrivals.get_mut(&(number, recipient.to_owned())).unwrap();
        arrivals.last_mut().unwrap().reply_lost = is_lost;
    }

    /// Content of a message leaves for a recipient.
    pub fn content_leaves(&self, connection: u64, number: u64, recipient: &str) {
        let mut known = self.known.lock();
        let is_elsewhere = known.under_way.iter().any(|(other, elsewhere)| {
            *other != connection && elsewhere.number == number && elsewhere.recipient == recipient
        });
        known.demand(!is_elsewhere, || format!("the content of message {number} is under way twice"));
        known.left_at.insert(connection, self.clock.now());
        known.under_way.insert(connection, UnderWay { number, recipient: recipient.to_owned() });
    }

    /// The host has said what became of it, or the relay has closed the connection.
    pub fn content_ended(&self, connection: u64) {
        self.known.lock().under_way.remove(&connection);
    }

    /// Two domains share a second choice, so a host can have the sessions of both.
    pub fn connected(&self, host: u8) {
        let mut known = self.known.lock();
        let count = known.connections.entry(host).or_default();
        *count += 1;
        let most = if host == 0 { 3 * self.sessions_max } else { self.sessions_max };
        let count = *count;
        known.demand(count <= most, || format!("{count} connections to host {host}"));
    }

    pub fn disconnected(&self, host: u8) {
        *self.known.lock().connections.get_mut(&host).unwrap() -= 1;
    }

    /// The entries that were acknowledged.
    pub fn acknowledged_entries(&self) -> Vec<(MessageId, u16)> {
        let known = self.known.lock();
        let entries = known.acknowledged.values().flat_map(|message| {
            let count = u16::try_from(message.recipients.len()).unwrap();
            (0..count).map(|index| (message.id, index))
        });
        entries.collect()
    }

    /// Whether all is well so far.
    pub fn check(&self) {
        if let Some(law) = &self.known.lock().broken {
            panic!("{law}");
        }
    }

    /// What was accepted ended, once; nothing came twice without a reason, and nothing dead.
    pub fn at_the_end(&self) {
        self.check();
        let known = self.known.lock();
        for (number, message) in &known.acknowledged {
            for (recipient, index) in message.recipients.iter().zip(0..) {
                let arrivals = known.arrivals.get(&(*number, recipient.clone())).map_or(&[][..], Vec::as_slice);
                for pair in arrivals.windows(2) {
                    let has_reason = pair[0].reply_lost || pair[0].life < pair[1].life;
                    assert!(has_reason, "message {number} arrived twice");
                }
                for arrival in arrivals {
                    let grace = std::time::Duration::from_millis(1500);
                    let late = arrival.at.since(message.expires_at);
                    assert!(late <= grace, "message {number} arrived {late:?} after its life");
                }
                let is_this = |taken: &&TakenBack| (taken.id, taken.index) == (message.id, index);
                for taken in known.taken_back.iter().filter(is_this) {
                    let came = arrivals.iter().any(|arrival| arrival.at > taken.at);
                    assert!(!came, "message {number} arrived after it was taken back");
                }
                let Some(entry) = known.entries.get(&(message.id, index)) else {
                    panic!("message {number} never ended")
                };
                assert!(!entry.ends.is_empty(), "message {number} never ended");
                let replaced_at = known
                    .acknowledged
                    .values()
                    .filter(|newer| newer.key.is_some() && newer.key == message.key && newer.id > message.id)
                    .filter(|newer| newer.recipients.contains(recipient))
                    .map(|newer| newer.at)
                    .min()
                    .filter(|_| !entry.was_out);
                let is_late =
                    |arrival: &Arrival| entry.superseded_at.into_iter().chain(replaced_at).any(|at| arrival.at > at);
                assert!(!arrivals.iter().any(is_late), "message {number} arrived after a newer one took its place");
                let same_life = entry.ends.windows(2).any(|pair| pair[0].1 == pair[1].1);
                assert!(!same_life, "message {number} ended twice: {:?}", entry.ends);
                let delivered = entry.ends.iter().any(|(kind, _)| *kind == Kind::Delivered);
                assert!(!delivered || !arrivals.is_empty(), "message {number} did not arrive, but was told delivered");
            }
        }
    }
}

impl Sink for Laws {
    fn emit(&self, event: Event) {
        let mut known = self.known.lock();
        let life = known.life;
        let Some(key) = key(&event) else { return };
        let entry = known.entries.entry(key).or_default();
        let (was_attempting, next_attempt_at) = (entry.attempting, entry.next_attempt_at);
        match event.kind() {
            Kind::Attempted => {
                entry.attempting = true;
                known.demand(!was_attempting, || format!("two attempts at once for {key:?}"));
                known.demand(event.head.time < event.head.expires_at, || {
                    format!("an attempt after the life of {key:?}")
                });
                let is_due = next_attempt_at.is_none_or(|at| event.head.time >= at);
                known.demand(is_due, || format!("an attempt before its time for {key:?}"));
            }
            Kind::Deferred | Kind::Greylisted => {
                entry.attempting = false;
                // Where nobody answered, the entry is called when somebody does.
                let may_be_called = matches!(event.cause(), Some(Cause::Unreachable | Cause::ConnectionLost));
                entry.next_attempt_at = event.next_attempt_at().filter(|_| !may_be_called);
                known.demand(was_attempting, || format!("{key:?} was put off without an attempt"));
            }
            // It was turned away, and waits for a session that is there.
            Kind::Queued if event.note().is_some() => {
                entry.attempting = false;
                known.demand(was_attempting, || format!("{key:?} was turned away without an attempt"));
            }
            Kind::AtRisk => {
                let is_first = entry.at_risk_in.replace(life) != Some(life);
                known.demand(is_first, || format!("{key:?} was told to be at risk twice"));
            }
            kind if kind.is_end() => {
                entry.attempting = false;
                entry.was_out |= event.may_have_arrived();
                let by_smart_host = event.note().is_some_and(|note| note.contains("smart host"));
                BY_SMART_HOSTS.fetch_add(u64::from(by_smart_host), Ordering::Relaxed);
                if kind == Kind::Superseded && !event.may_have_arrived() {
                    entry.superseded_at.get_or_insert(event.head.time);
                }
                entry.ends.push((kind, life));
            }
            _ => {}
        }
    }
}
