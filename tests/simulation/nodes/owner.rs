//! A node at work: the queue's half above the seam, and mail hosts that say one thing or another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use otp_relay::testing::base::clock::Clock;
use otp_relay::testing::event::{Attempted, NoSink, Suppress};
use otp_relay::testing::ledger::Ledger;
use otp_relay::testing::ledger::accept::NewMessage;
use otp_relay::testing::ledger::attempt::{Epoch, Target};
use otp_relay::testing::ledger::filter::Filter;
use otp_relay::testing::ledger::memory::{Database, Node, Settings};
use otp_relay::testing::ledger::rules::Delivery;
use otp_relay::testing::mail::id::EntryId;
use otp_relay::testing::queue::claim::{Claim, Settlement};
use otp_relay::testing::queue::{self, Consequences, Ending, Offers, Queue};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::laws::{Laws, Outcome};
use super::{LEASE, Terms};
use crate::support::random::Random;

/// How often it is looked whether a node has a new epoch.
const LOOK: Duration = Duration::from_millis(100);
/// Entries that are looked at for one to be handed over.
const ENTRIES_MAX: usize = 1000;

struct Inner {
    place: usize,
    node: Arc<Node>,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    laws: Arc<Laws>,
    random: Mutex<Random>,
    still_until: Mutex<Option<Instant>>,
    attempts: Mutex<Vec<JoinHandle<()>>>,
}

/// A node, until it crashes.
pub struct Owner {
    inner: Arc<Inner>,
    work: [JoinHandle<()>; 2],
}

impl Owner {
    pub async fn join(
        place: usize,
        seed: u64,
        database: &Database,
        clock: Arc<dyn Clock>,
        terms: Terms,
        laws: Arc<Laws>,
    ) -> Option<Self> {
        let settings = Settings { lease: LEASE, delivery: terms.delivery, ..Settings::of(place as u64) };
        let node = Arc::new(Node::join(database, clock.clone(), settings).await.ok()?);
        let settings = queue::Settings {
            deliver_at_most_once: terms.delivery == Delivery::AtMostOnce,
            ..queue::Settings::default()
        };
        let entail = Box::new(|_: &Ending| Consequences::default());
        let queue = Queue::open(node.clone(), settings, clock.clone(), Arc::new(NoSink), entail).unwrap();
        let offers = queue.take_offers().unwrap();
        let inner = Arc::new(Inner {
            place,
            node,
            queue: queue.clone(),
            clock,
            laws,
            random: Mutex::new(Random::new(seed)),
            still_until: Mutex::default(),
            attempts: Mutex::default(),
        });
        let work = [tokio::spawn(queue.run()), tokio::spawn(inner.clone().work(offers))];
        Some(Self { inner, work })
    }

    pub fn crash(self, laws: &Laws) {
        laws.crashed(self.inner.place);
        self.work.iter().for_each(JoinHandle::abort);
        // Before the attempts end, so that what they let go of is not told.
        self.inner.queue.freeze();
        self.inner.node.crash();
        self.inner.attempts.lock().drain(..).for_each(|attempt| attempt.abort());
    }

    pub fn stand_still(&self, span: Duration) {
        *self.inner.still_until.lock() = Some(self.inner.clock.instant() + span);
        self.inner.node.stand_still(span);
    }

    pub async fn accept(&self, new: NewMessage, laws: &Laws) {
        let Ok(accepted) = self.inner.queue.accept(new.clone()).await else { return };
        laws.acknowledged(&new, &accepted, self.inner.place);
    }

    pub async fn hand_over(&self, number: u64, to: Target) {
        let entries = self.inner.queue.entries(ENTRIES_MAX);
        if !entries.is_empty() {
            let entry = entries[number as usize % entries.len()];
            // Where no answer came, a comparison tells later who has it.
            let _ = self.inner.queue.hand_over(vec![entry], to).await;
        }
    }

    pub async fn cancel(&self, filter: Filter) {
        let now = self.inner.node.now();
        self.inner.queue.cancel(&filter, now);
        // Where no answer came, it may have been done.
        let _ = self.inner.queue.cancel_everywhere(filter).await;
    }
}

impl Inner {
    async fn work(self: Arc<Self>, offers: Offers) {
        let mut epoch = self.node.lease().epoch;
        loop {
            tokio::select! {
                biased;
                () = offers.announced() => {
                    let mut attempts = self.attempts.lock();
                    attempts.retain(|attempt| !attempt.is_finished());
                    while let Some(offer) = offers.try_next() {
                        attempts.push(tokio::spawn(self.clone().attempt(offer.entry)));
                    }
                }
                () = tokio::time::sleep(LOOK) => {
                    let now = self.node.lease().epoch;
                    if now != Epoch::UNOWNED && std::mem::replace(&mut epoch, now) != now {
                        self.laws.was_fenced();
                    }
                }
            }
        }
    }

    /// A process that stands still does so here. How long it did.
    async fn stand(&self) -> Duration {
        let began = self.clock.instant();
        loop {
            let (now, until) = (self.clock.instant(), *self.still_until.lock());
            match until {
                Some(until) if until > now => tokio::time::sleep(until - now).await,
                Some(_) | None => return now - began,
            }
        }
    }

    async fn attempt(self: Arc<Self>, id: EntryId) {
        self.stand().await;
        let Ok(mut claim) = self.queue.claim(id, self.node.now()) else { return };
        if claim.check(self.node.now()).is_err() {
            return self.let_go(claim);
        }
        let connecting = self.random.lock().below(400);
        tokio::time::sleep(Duration::from_millis(connecting)).await;
        self.stand().await;
        if claim.release_content(self.node.now()).await.is_err() {
            return self.let_go(claim);
        }
        // Between the look and the last octet the process may stand still.
        let stood = self.stand().await;
        self.send(claim, stood).await;
    }

    /// Nothing came of it.
    fn let_go(&self, claim: Claim) {
        claim.settle(Settlement::Released(Attempted::default()), self.node.now());
    }

    async fn send(&self, claim: Claim, stood: Duration) {
        let takes = Duration::from_millis(self.random.lock().below(50));
        let (number, from) = (claim.progress().attempts, (claim.id(), claim.epoch()));
        let sending = self.laws.content_leaves(from, self.place, number, stood);
        tokio::time::sleep(takes).await;
        let outcome = match self.random.lock().below(10) {
            0..6 => Outcome::Delivered,
            6..9 => Outcome::Deferred,
            _ => Outcome::Failed,
        };
        self.laws.content_left(sending, outcome);
        self.stand().await;
        let attempted = Attempted::default();
        let settlement = match outcome {
            Outcome::Delivered => Settlement::Delivered { attempted, notifies: false },
            Outcome::Failed => Settlement::Failed { attempted, suppress: Suppress::No },
            Outcome::Deferred => {
                let wait = Duration::from_millis(300 + self.random.lock().below(5000));
                Settlement::put_off(attempted, self.node.now().plus(wait))
            }
        };
        claim.settle(settlement, self.node.now());
    }
}
