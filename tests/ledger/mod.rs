//! One suite over every implementation of the ledger: every verb, every refusal, every repeat. `cargo test --test relay
//! ledger::` runs it. What needs several nodes is in `cluster`, what the ledger of one node keeps over restarts and a disk that
//! fails in `embedded`, eight writers on few keys in `contention`, who is not sent to in `suppression`; the queue over all of them
//! is in `queue`.

mod cluster;
mod contention;
mod embedded;
mod queue;
mod suppression;
mod verbs;

use std::sync::Arc;
use std::time::Duration;

use otp_relay::testing::base::clock::{Clock, ManualClock, Timestamp};
use otp_relay::testing::event::{Attempted, Event, Happened, Kind};
use otp_relay::testing::ledger::IDEMPOTENCY_MEMORY;
use otp_relay::testing::ledger::Ledger;
use otp_relay::testing::ledger::accept::{
    Accepted, BudgetAsk, BudgetLimit, Digest, Idempotency, KeyHash, KeyOf, NewMessage, slots_of,
};
use otp_relay::testing::ledger::attempt::{Attempt, End, Settled, Side};
use otp_relay::testing::ledger::cursor::Cursor;
use otp_relay::testing::ledger::embedded::key_ring::KeyRing;
use otp_relay::testing::ledger::embedded::node::{self as embedded_node, Node as OneNode, Storage};
use otp_relay::testing::ledger::embedded::store::memory::MemoryStore;
use otp_relay::testing::ledger::embedded::store::sled::SledStore;
use otp_relay::testing::ledger::entry::{Message, Progress};
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::ledger::memory::{Database, Node, Replication, Settings};
use otp_relay::testing::ledger::read::Page;
use otp_relay::testing::ledger::rules::Delivery;
use otp_relay::testing::mail::address::{Mailbox, ReversePath};
use otp_relay::testing::mail::envelope::{Envelope, MailParameters, Recipient};
use otp_relay::testing::mail::id::{EntryId, IdSource};
use otp_relay::testing::mail::message::Content;
use tempfile::TempDir;

const START: Timestamp = Timestamp::from_millis(1_795_255_200_000);
const LIFE: Duration = Duration::from_secs(600);
const SECRET: [u8; 32] = [7; 32];

/// One node with its ledger, whatever that is.
pub struct World {
    pub ledger: Arc<dyn Ledger>,
    pub ids: Arc<IdSource>,
    /// Goes with it.
    _folder: Option<TempDir>,
}

/// An implementation.
#[derive(Clone, Copy, Debug)]
pub enum Engine {
    /// The database of many nodes, with one.
    Memory,
    /// One node on a store in memory, commits in the caller's place.
    Embedded,
    /// One node on a real database, commits in the caller's place.
    Sled,
    /// One node on a real database, with its storage thread.
    SledOnAThread,
}

pub fn embedded_settings(entries_max: usize) -> embedded_node::Settings {
    let (name, egress) = ("node1".into(), "node1".into());
    embedded_node::Settings { name, egress, delivery: Delivery::AtLeastOnce, entries_max }
}

fn sled(folder: &TempDir) -> Box<SledStore> {
    Box::new(SledStore::open(&folder.path().join("queue"), KeyRing::none()).unwrap())
}

impl Engine {
    /// A new ledger with one node, which takes so many entries.
    pub async fn begin(self, entries_max: usize) -> World {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(START));
        let settings = embedded_settings(entries_max);
        let folder = matches!(self, Self::Sled | Self::SledOnAThread).then(|| tempfile::tempdir().unwrap());
        let ledger: Arc<dyn Ledger> = match (self, &folder) {
            (Self::Sled, Some(folder)) => {
                Arc::new(OneNode::open(sled(folder), Storage::Inline, clock, settings).unwrap())
            }
            (Self::SledOnAThread, Some(folder)) => {
                Arc::new(OneNode::open(sled(folder), Storage::Threaded, clock, settings).unwrap())
            }
            (Self::Embedded, _) => {
                let disk = Box::new(MemoryStore::default());
                Arc::new(OneNode::open(disk, Storage::Inline, clock, settings).unwrap())
            }
            (Self::Memory | Self::Sled | Self::SledOnAThread, _) => {
                let database = Database::new(clock.clone(), 1, Replication::Synchronous);
                let settings = Settings { entries_max, ..Settings::of(1) };
                Arc::new(Node::join(&database, clock, settings).await.unwrap())
            }
        };
        World { ledger, ids: Arc::new(IdSource::new()), _folder: folder }
    }
}

pub fn key(of: KeyOf, name: &str) -> KeyHash {
    KeyHash::of(&SECRET, of, name.as_bytes())
}

/// For a day, by the digest of a message.
pub fn known_by(key: KeyHash, day: u64, octet: u8) -> Idempotency {
    let digest = Some(Digest { day, octets: [octet; 32] });
    Idempotency { key, digest, span: IDEMPOTENCY_MEMORY, also: Vec::new() }
}

/// For the first recipient, of one user, without a limit.
pub fn budget_ask(key: KeyHash) -> BudgetAsk {
    let whose = KeyHash([1; 16]);
    BudgetAsk { key, whose, entries: vec![0], own: None, total: None, own_min: 2, is_repeatable: false }
}

pub fn first(message: &NewMessage) -> EntryId {
    EntryId { message: message.message.id, index: 0 }
}

pub fn attempt(entry: EntryId, number: u32) -> Attempt {
    Attempt { entry, number }
}

impl World {
    pub fn of(ledger: Arc<dyn Ledger>, ids: Arc<IdSource>) -> Self {
        Self { ledger, ids, _folder: None }
    }

    /// A message to these recipients that nothing stands in the way of.
    pub fn message(&self, recipients: &[&str]) -> NewMessage {
        let now = self.ledger.now();
        let recipient = |text: &&str| Recipient::new(Mailbox::parse(text).unwrap());
        let envelope = Envelope {
            reverse_path: ReversePath::parse("<otp@app.test>").unwrap(),
            parameters: MailParameters::default(),
            recipients: recipients.iter().map(recipient).collect(),
        };
        let message = Arc::new(Message::new(self.ids.next(now), "shop".into(), envelope, now..now.plus(LIFE)));
        let event = Event { head: message.head(now), what: Happened::Accepted { note: None, others: Arc::default() } };
        let content = Content { head: "A: b\r\n".into(), body: "\r\ncode\r\n".into() };
        NewMessage::plain(message, content, event)
    }

    /// The same, under an idempotency key.
    pub fn keyed(&self, name: &str, octet: u8) -> NewMessage {
        let idempotency = Some(known_by(key(KeyOf::Idempotency, name), 1, octet));
        NewMessage { idempotency, ..self.message(&["a@one.test"]) }
    }

    /// The same, in this slot.
    pub fn in_slot(&self, slot: &str, recipients: &[&str]) -> NewMessage {
        self.taking_slot(slot, self.message(recipients))
    }

    /// This message, with a supersession key.
    pub fn taking_slot(&self, slot: &str, new: NewMessage) -> NewMessage {
        let message = Arc::new(Message { key: Some(slot.into()), ..Message::clone(&new.message) });
        let slots = slots_of(&message, |name| self.ledger.key_hash(KeyOf::Slot, name));
        NewMessage { message, slots, ..new }
    }

    /// The same, with a place for each recipient in one budget.
    pub fn within(&self, budget: &str, most: u32, recipients: &[&str]) -> NewMessage {
        let entries = (0..).zip(recipients).map(|(index, _)| index).collect();
        let own = Some(BudgetLimit { count: most, most, span: Duration::from_secs(60) });
        let ask = BudgetAsk { entries, own, ..budget_ask(key(KeyOf::Budget, budget)) };
        NewMessage { budgets: vec![ask], ..self.message(recipients) }
    }

    pub async fn accept(&self, message: &NewMessage) -> EntryId {
        let accepted = self.ledger.accept(message.clone()).await.unwrap();
        self.replaced(&accepted).await;
        first(message)
    }

    /// The entries that a message took the place of, after their owner has ended those that are left to it.
    pub async fn replaced(&self, accepted: &Accepted) -> Vec<EntryId> {
        let mut all: Vec<EntryId> = accepted.superseded.iter().map(|(id, _)| *id).collect();
        for (id, _) in &accepted.outlived {
            let page = Page { after: None, most: 1 };
            let found = self.ledger.find(Filter::of_message(id.message), page).await.unwrap();
            let Some(found) = found.messages.first() else { continue };
            let end = self.end(&found.message, id.index, Kind::Superseded, Vec::new());
            if self.ledger.settle(attempt(*id, 0), end).await.is_ok() {
                all.push(*id);
            }
        }
        all
    }

    pub fn end(&self, message: &Message, index: u16, kind: Kind, side: Vec<Side>) -> Settled {
        let event = Event {
            head: message.entry_head(index, 1, self.ledger.now()),
            what: Happened::of(kind, Attempted::default(), None),
        };
        Settled::End { end: End { kind, left: None }, events: vec![event], side, notification: None }
    }

    pub fn deferred(&self, message: &Message, number: u32, side: Vec<Side>) -> Settled {
        let at = self.ledger.now().plus(Duration::from_secs(60));
        let progress = Progress { attempts: number, next_attempt_at: at, ..Progress::default() };
        let what = Happened::Deferred { attempted: Attempted::default(), next_attempt_at: Some(at) };
        let event = Event { head: message.entry_head(0, number, self.ledger.now()), what };
        Settled::Deferred { progress: Arc::new(progress), events: vec![event], side, notification: None }
    }

    /// All that happened, in order.
    pub async fn kinds(&self) -> Vec<Kind> {
        self.ledger.flush().await.unwrap();
        let (mut kinds, mut at) = (Vec::new(), Cursor::default());
        loop {
            let read = self.ledger.events(at, usize::MAX).await.unwrap();
            kinds.extend(read.events.into_iter().map(|(_, event)| event.kind()));
            if read.at == at {
                return kinds;
            }
            at = read.at;
        }
    }
}
