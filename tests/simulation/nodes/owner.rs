//! A node at work: it attempts what it owns, asks before content goes, and says how it ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use otp_relay::base::clock::{Clock, Timestamp};
use otp_relay::event::{Attempted, Event, Happened, Kind};
use otp_relay::ledger::accept::NewMessage;
use otp_relay::ledger::attempt::{Attempt, End, Epoch, Held, Lost, Mark, Notice, Settled, Target};
use otp_relay::ledger::entry::{Message, Progress};
use otp_relay::ledger::filter::Filter;
use otp_relay::ledger::memory::{Database, Node, Settings};
use otp_relay::ledger::rules::Delivery;
use otp_relay::ledger::{FRESH, Ledger};
use otp_relay::mail::id::EntryId;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::laws::{Laws, Outcome};
use super::{LEASE, Terms};
use crate::support::random::Random;

/// How often a node looks what is due.
const LOOK: Duration = Duration::from_millis(100);

/// One entry that this node owns.
struct Holding {
    message: Arc<Message>,
    attempts: u32,
    due_at: Timestamp,
    epoch: Epoch,
    /// Until then no gate is needed.
    fresh_until: Option<Instant>,
    is_attempted: bool,
}

struct Inner {
    place: usize,
    node: Node,
    clock: Arc<dyn Clock>,
    laws: Arc<Laws>,
    delivery: Delivery,
    held: Mutex<HashMap<EntryId, Holding>>,
    random: Mutex<Random>,
    still_until: Mutex<Option<Instant>>,
    attempts: Mutex<Vec<JoinHandle<()>>>,
}

/// A node, until it crashes.
pub struct Owner {
    inner: Arc<Inner>,
    work: JoinHandle<()>,
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
        let node = Node::join(database, clock.clone(), settings).await.ok()?;
        let inner = Arc::new(Inner {
            place,
            node,
            clock,
            laws,
            delivery: terms.delivery,
            held: Mutex::default(),
            random: Mutex::new(Random::new(seed)),
            still_until: Mutex::default(),
            attempts: Mutex::default(),
        });
        let work = tokio::spawn(inner.clone().work());
        Some(Self { inner, work })
    }

    pub fn crash(self, laws: &Laws) {
        laws.crashed(self.inner.place);
        self.work.abort();
        self.inner.attempts.lock().drain(..).for_each(|attempt| attempt.abort());
        self.inner.node.crash();
    }

    pub fn stand_still(&self, span: Duration) {
        *self.inner.still_until.lock() = Some(self.inner.clock.instant() + span);
        self.inner.node.stand_still(span);
    }

    pub async fn accept(&self, new: NewMessage, laws: &Laws) {
        let inner = &self.inner;
        let epoch = inner.node.lease().epoch;
        let Ok(accepted) = inner.node.accept(new.clone()).await else { return };
        laws.acknowledged(&new);
        laws.taken_away(accepted.superseded.iter().map(|(id, _)| *id));
        let mut held = inner.held.lock();
        for (id, _) in &accepted.superseded {
            held.remove(id);
        }
        let now = inner.clock.instant();
        for (index, _) in (0..).zip(&new.message.envelope.recipients) {
            if !accepted.overtaken.contains(&index) {
                let holding = Holding {
                    message: new.message.clone(),
                    attempts: 0,
                    due_at: Timestamp::default(),
                    epoch,
                    fresh_until: Some(now + FRESH),
                    is_attempted: false,
                };
                held.insert(EntryId { message: new.message.id, index }, holding);
            }
        }
    }

    /// Hands over an entry that is not being attempted. Whether it went may never be known, so it is not fresh any more.
    pub async fn hand_over(&self, number: u64, to: Target) {
        let entry = {
            let mut held = self.inner.held.lock();
            let mut idle: Vec<EntryId> =
                held.iter().filter(|(_, holding)| !holding.is_attempted).map(|(id, _)| *id).collect();
            idle.sort_unstable();
            if idle.is_empty() {
                return;
            }
            let entry = idle[number as usize % idle.len()];
            if let Some(holding) = held.get_mut(&entry) {
                holding.fresh_until = None;
                holding.is_attempted = true;
            }
            entry
        };
        match self.inner.node.hand_over(vec![entry], to).await {
            Ok(went) if went == [entry] => drop(self.inner.held.lock().remove(&entry)),
            Ok(_) | Err(_) => self.inner.put_back(entry, Duration::ZERO),
        }
    }

    pub async fn cancel(&self, filter: Filter) {
        let Ok(cancelled) = self.inner.node.cancel(filter).await else { return };
        self.inner.laws.taken_away(cancelled.iter().map(|one| one.id));
        let mut held = self.inner.held.lock();
        cancelled.iter().for_each(|one| drop(held.remove(&one.id)));
    }
}

impl Inner {
    async fn work(self: Arc<Self>) {
        let mut notices = self.node.notices().unwrap();
        loop {
            tokio::select! {
                biased;
                notice = notices.recv() => {
                    let Some(notice) = notice else { return };
                    self.stand().await;
                    self.hear(notice);
                }
                () = tokio::time::sleep(LOOK) => {
                    self.stand().await;
                    self.begin_what_is_due();
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

    fn hear(&self, notice: Notice) {
        let mut held = self.held.lock();
        match notice {
            Notice::Acquired(acquired) => {
                self.laws.took_over(acquired.len());
                let epoch = self.node.lease().epoch;
                for Held { message, entries, .. } in acquired {
                    for (index, Progress { attempts, next_attempt_at, .. }) in entries {
                        let holding = Holding {
                            message: message.clone(),
                            attempts,
                            due_at: next_attempt_at,
                            epoch,
                            fresh_until: None,
                            is_attempted: false,
                        };
                        held.insert(EntryId { message: message.id, index }, holding);
                    }
                }
            }
            Notice::Ended(id, _) => drop(held.remove(&id)),
            Notice::MakeDue(ids) => {
                for id in ids {
                    if let Some(holding) = held.get_mut(&id) {
                        holding.due_at = Timestamp::default();
                    }
                }
            }
            Notice::Fenced => {
                self.laws.was_fenced();
                held.clear();
            }
            Notice::Unavailable | Notice::Available => {}
        }
    }

    fn begin_what_is_due(self: &Arc<Self>) {
        let now = self.node.now();
        let mut held = self.held.lock();
        let mut attempts = self.attempts.lock();
        attempts.retain(|attempt| !attempt.is_finished());
        for (id, holding) in held.iter_mut().filter(|(_, holding)| !holding.is_attempted) {
            if holding.due_at <= now || holding.message.expires_at <= now {
                holding.is_attempted = true;
                attempts.push(tokio::spawn(self.clone().attempt(*id)));
            }
        }
    }

    /// Whether it may go on: it is still ours, and nobody can have revoked our epoch.
    fn may_go_on(&self, id: EntryId) -> bool {
        let lease = self.node.lease();
        let is_ours = self.held.lock().get(&id).is_some_and(|holding| holding.epoch == lease.epoch);
        is_ours && self.clock.instant() < lease.until
    }

    fn put_back(&self, id: EntryId, after: Duration) {
        if let Some(holding) = self.held.lock().get_mut(&id) {
            holding.is_attempted = false;
            holding.due_at = self.node.now().plus(after);
        }
    }

    async fn attempt(self: Arc<Self>, id: EntryId) {
        let known =
            self.held.lock().get(&id).map(|one| (one.message.clone(), one.attempts + 1, one.fresh_until, one.epoch));
        let Some((message, number, fresh_until, epoch)) = known else { return };
        if message.expires_at <= self.node.now() {
            return self.end(id, &message, number - 1, Kind::Expired).await;
        }
        if !self.may_go_on(id) {
            return self.put_back(id, Duration::from_millis(300));
        }
        let connecting = self.random.lock().below(400);
        tokio::time::sleep(Duration::from_millis(connecting)).await;
        self.stand().await;
        let is_fresh = fresh_until.is_some_and(|until| self.clock.instant() < until);
        if !is_fresh || self.delivery == Delivery::AtMostOnce {
            match self.node.gate(Attempt { entry: id, number }, Mark::Durable).await {
                Ok(()) => {}
                Err(Lost::Unavailable) => return self.put_back(id, Duration::from_millis(500)),
                Err(Lost::Ended(_) | Lost::TakenOver | Lost::Fenced) => return drop(self.held.lock().remove(&id)),
            }
        }
        if !self.may_go_on(id) {
            return self.put_back(id, Duration::from_millis(300));
        }
        // Between the look and the last octet the process may stand still.
        let stood = self.stand().await;
        let takes = Duration::from_millis(self.random.lock().below(50));
        let sending = self.laws.content_leaves((id, epoch), self.place, number, stood);
        tokio::time::sleep(takes).await;
        let outcome = match self.random.lock().below(10) {
            0..6 => Outcome::Delivered,
            6..9 => Outcome::Deferred,
            _ => Outcome::Failed,
        };
        self.laws.content_left(sending, outcome);
        self.stand().await;
        match outcome {
            Outcome::Delivered => self.end(id, &message, number, Kind::Delivered).await,
            Outcome::Failed => self.end(id, &message, number, Kind::Failed).await,
            Outcome::Deferred => self.defer(id, &message, number).await,
        }
    }

    async fn end(&self, id: EntryId, message: &Message, number: u32, kind: Kind) {
        self.held.lock().remove(&id);
        let head = message.entry_head(id.index, number, self.node.now());
        let event = Event { head, what: Happened::of(kind, Attempted::default(), None) };
        let end = End { kind, outcome: None };
        let settled = Settled::End { end, events: vec![event], side: Vec::new(), notification: None };
        // What was lost is somebody else's by now.
        let _ = self.node.settle(Attempt { entry: id, number }, settled).await;
    }

    async fn defer(&self, id: EntryId, message: &Message, number: u32) {
        let wait = Duration::from_millis(300 + self.random.lock().below(5000));
        let at = self.node.now().plus(wait);
        let progress = Progress { attempts: number, next_attempt_at: at, ..Progress::default() };
        let what = Happened::Deferred { attempted: Attempted::default(), next_attempt_at: Some(at) };
        let event = Event { head: message.entry_head(id.index, number, self.node.now()), what };
        let settled = Settled::Deferred { progress: Box::new(progress), events: vec![event], side: Vec::new() };
        let settled = self.node.settle(Attempt { entry: id, number }, settled).await;
        match settled {
            Ok(()) | Err(Lost::Unavailable) => {
                let mut held = self.held.lock();
                if let Some(holding) = held.get_mut(&id) {
                    (holding.attempts, holding.due_at, holding.is_attempted) = (number, at, false);
                    holding.fresh_until = None;
                }
            }
            Err(Lost::Ended(_) | Lost::TakenOver | Lost::Fenced) => drop(self.held.lock().remove(&id)),
        }
    }
}
