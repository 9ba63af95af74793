//! Verbs to the ledger that are not answered yet, and entries that rest meanwhile.
//!
//! A verb takes its place among others at its first poll, under the outbox's turn. A ledger of one node answers at once; of an
//! entry about which another has not answered nothing is offered or claimed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Queue;
use super::effects::Offer;
use crate::ledger::attempt::{Attempt, Epoch, Lost, Settled};
use crate::ledger::entry::State;
use crate::mail::id::EntryId;

/// A settlement, and what became of it.
pub(super) type Verb = BoxFuture<'static, (EntryId, Result<(), Lost>)>;

#[derive(Debug, Default)]
struct Unanswered {
    /// Entries of which the ledger has not answered so many verbs.
    pending: HashMap<EntryId, u32>,
    /// Entries that are ready, and may not be attempted now.
    resting: Vec<Offer>,
}

/// What the ledger has not answered yet.
pub(super) struct Verbs {
    unanswered: Mutex<Unanswered>,
    /// How many verbs are not answered, so that nobody has to look where there is none.
    count: AtomicUsize,
    sender: mpsc::UnboundedSender<Verb>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Verb>>>,
}

impl Default for Verbs {
    fn default() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { unanswered: Mutex::default(), count: AtomicUsize::new(0), sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl Verbs {
    /// Where verbs come that are to be waited for; it can be taken once.
    pub(super) fn take(&self) -> Option<mpsc::UnboundedReceiver<Verb>> {
        self.receiver.lock().take()
    }

    pub(super) fn is_pending(&self, id: EntryId) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.unanswered.lock().pending.contains_key(&id)
    }

    /// A verb about this entry begins.
    pub(super) fn begin(&self, id: EntryId) {
        *self.unanswered.lock().pending.entry(id).or_default() += 1;
        self.count.fetch_add(1, Ordering::Release);
    }

    /// It was answered.
    pub(super) fn answered(&self, id: EntryId) {
        let pending = &mut self.unanswered.lock().pending;
        if let Some(count) = pending.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&id);
            }
            self.count.fetch_sub(1, Ordering::Release);
        }
    }

    pub(super) fn rest(&self, offers: impl IntoIterator<Item = Offer>) {
        self.unanswered.lock().resting.extend(offers);
    }

    pub(super) fn take_rested(&self) -> Vec<Offer> {
        std::mem::take(&mut self.unanswered.lock().resting)
    }

    pub(super) fn has_resting(&self) -> bool {
        !self.unanswered.lock().resting.is_empty()
    }
}

impl Queue {
    /// Says how an attempt ended, or that an entry did without one. Called under the turn.
    pub(super) fn settle(&self, attempt: Attempt, settled: Settled) {
        let (ledger, entry) = (self.ledger.clone(), attempt.entry);
        let mut verb: Verb = async move { (entry, ledger.settle(attempt, settled).await) }.boxed();
        match verb.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((_, answer)) => self.settled(entry, answer),
            Poll::Pending => {
                // Nothing of it was offered since: that goes under the turn too.
                self.verbs.begin(entry);
                // Where nobody waits for it, nobody does anything else either.
                let _ = self.verbs.sender.send(verb);
            }
        }
    }

    /// What cannot be written now is kept by the ledger.
    pub(super) fn settled(&self, entry: EntryId, answer: Result<(), Lost>) {
        match answer {
            Ok(()) | Err(Lost::Unavailable | Lost::Fenced) => {}
            Err(Lost::Ended(_) | Lost::TakenOver) => self.outbox.schedule(|schedule| schedule.part_with(entry)),
        }
    }

    /// An entry that is ready is offered again, once it may be attempted.
    pub(super) fn rest(&self, id: EntryId) {
        let ready = self.outbox.schedule(|schedule| {
            let snapshot = schedule.snapshot(id.message, None)?;
            let entry = snapshot.entries.get(usize::from(id.index))?;
            (entry.state == Some(State::Queued)).then(|| Offer::of(id, snapshot.message.clone()))
        });
        self.verbs.rest(ready);
    }

    /// Of entries that are ready, those that may be attempted now; the others rest.
    pub(super) fn attemptable(&self, mut offers: Vec<Offer>, owner: Epoch) -> Vec<Offer> {
        let lease = self.ledger.lease();
        if self.clock.instant() >= lease.until || lease.epoch != owner {
            self.verbs.rest(offers);
            return Vec::new();
        }
        if self.verbs.count.load(Ordering::Acquire) > 0 {
            let mut unanswered = self.verbs.unanswered.lock();
            let resting: Vec<Offer> =
                offers.extract_if(.., |offer| unanswered.pending.contains_key(&offer.entry)).collect();
            unanswered.resting.extend(resting);
        }
        offers
    }

    /// What rests is offered, where it may be attempted now.
    pub(super) fn offer_rested(self: &Arc<Self>) {
        let owner = self.outbox.schedule(|schedule| schedule.owner());
        let rested = self.attemptable(self.verbs.take_rested(), owner);
        if !rested.is_empty() {
            drop(self.offer(rested));
        }
    }
}
