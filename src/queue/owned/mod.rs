//! What this node owns of a ledger that others share: the schedule over [`Ledger`], and nothing else. It names no engine.
//!
//! Whatever the schedule decides is a verb to the ledger, which may say that it is too late. Notices are heard in their order
//! and before anything new is held, so that nothing of a revoked epoch outlives it.

mod claim;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::effects::{Effects, Occurrence, Offer};
use super::schedule::{Again, Depth, Schedule};
use crate::accounts::supersede::Supersede;
use crate::base::clock::{Clock, Timestamp};
use crate::event::Event;
use crate::ledger::accept::{Accepted, NewMessage, Refused};
use crate::ledger::attempt::{Attempt, End, Epoch, Lost, Notice, Settled, Target};
use crate::ledger::embedded::store::Change;
use crate::ledger::entry::{LostClaim, Progress, SignedContent, State};
use crate::ledger::filter::Filter;
use crate::ledger::listing::{Cancelled, Snapshot};
use crate::ledger::rules::Delivery;
use crate::ledger::{FRESH, Ledger, LedgerError};
use crate::mail::id::EntryId;
pub use claim::{NotReleased, OwnedClaim};

/// How often entries that rest are looked at: those whose settlement was under way, and all while the lease is over.
const REST: Duration = Duration::from_millis(250);
/// Timers handled before others get a turn.
const TURN_MAX: usize = 256;

#[derive(Debug)]
struct Inner {
    schedule: Schedule,
    /// Under which all of it is ours.
    epoch: Epoch,
    /// Until then no gate is needed.
    fresh: HashMap<EntryId, Instant>,
    /// Entries of which the ledger has not answered the last verb: they are not attempted.
    pending: HashMap<EntryId, u32>,
    resting: Vec<Offer>,
}

/// What this node owns.
pub struct Owned {
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    delivery: Delivery,
    inner: Mutex<Inner>,
    /// Heard under this lock, so that their order is kept.
    notices: Mutex<mpsc::Receiver<Notice>>,
    offers: mpsc::UnboundedSender<Offer>,
    settlements: mpsc::UnboundedSender<(Attempt, Settled)>,
    settling: Mutex<Option<mpsc::UnboundedReceiver<(Attempt, Settled)>>>,
    changed: Notify,
}

impl std::fmt::Debug for Owned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owned").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

impl Owned {
    /// What the ledger says is ours, from now on; none where somebody else hears its notices. The entries that are ready
    /// come by the channel.
    pub fn of(
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
        delivery: Delivery,
    ) -> Option<(Arc<Self>, mpsc::UnboundedReceiver<Offer>)> {
        let notices = Mutex::new(ledger.notices()?);
        let ((offers, offered), (settlements, settling)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let inner = Inner {
            // Whose slot is whose, the ledger decides.
            schedule: Schedule::new(Supersede::Off),
            epoch: ledger.lease().epoch,
            fresh: HashMap::new(),
            pending: HashMap::new(),
            resting: Vec::new(),
        };
        let this = Self {
            ledger,
            clock,
            delivery,
            inner: Mutex::new(inner),
            notices,
            offers,
            settlements,
            settling: Mutex::new(Some(settling)),
            changed: Notify::new(),
        };
        Some((Arc::new(this), offered))
    }

    /// Messages and entries by state.
    pub fn depth(&self) -> Depth {
        self.inner.lock().schedule.depth()
    }

    /// Takes a message in, where the ledger accepts it; its entries are ready at once.
    ///
    /// # Errors
    /// Why it was not accepted.
    pub async fn accept(&self, new: NewMessage) -> Result<Accepted, Refused> {
        let epoch = self.ledger.lease().epoch;
        let accepted = self.ledger.accept(new.clone()).await?;
        self.hear_all();
        let now = self.ledger.now();
        let mut effects = Effects::default();
        {
            let mut inner = self.inner.lock();
            accepted.superseded.iter().for_each(|(id, _)| inner.part_with(*id));
            // Where our epoch was revoked meanwhile, others have it.
            if self.ledger.lease().epoch == epoch {
                inner.epoch = epoch;
                inner.admit(&new, &accepted, (now, self.clock.instant() + FRESH), &mut effects);
            }
        }
        // The ledger has told of it.
        effects.happened.clear();
        self.act(effects);
        Ok(accepted)
    }

    /// Ends entries whoever owns them.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn cancel(&self, which: Filter) -> Result<Vec<Cancelled>, LedgerError> {
        let cancelled = self.ledger.cancel(which).await?;
        let mut inner = self.inner.lock();
        cancelled.iter().for_each(|one| inner.part_with(one.id));
        Ok(cancelled)
    }

    /// Hands those of the entries over that are not being attempted; says which went.
    ///
    /// # Errors
    /// When the ledger does not answer. Who has them is known when it does.
    pub async fn hand_over(&self, mut entries: Vec<EntryId>, to: Target) -> Result<Vec<EntryId>, LedgerError> {
        {
            let mut inner = self.inner.lock();
            entries.retain(|id| inner.is_idle(*id));
            for id in &entries {
                inner.fresh.remove(id);
                *inner.pending.entry(*id).or_default() += 1;
            }
        }
        let went = self.ledger.hand_over(entries.clone(), to).await;
        let mut inner = self.inner.lock();
        entries.iter().for_each(|id| inner.answered(*id));
        let went = went?;
        went.iter().for_each(|id| inner.part_with(*id));
        Ok(went)
    }

    /// Entries that are ours, in the order of their messages; at most so many.
    pub fn entries(&self, most: usize) -> Vec<EntryId> {
        let inner = self.inner.lock();
        let (mut found, mut behind) = (Vec::new(), None);
        while found.len() < most {
            let (page, next) = inner.schedule.page(&Filter::default(), behind, most);
            found.extend(page);
            let Some(next) = next else { break };
            behind = Some(next);
        }
        found.truncate(most);
        found
    }

    /// Runs timers, hears notices and settles, until it is dropped or the ledger is gone.
    pub async fn run(self: Arc<Self>) {
        let Some(mut settling) = self.settling.lock().take() else { return };
        let mut under_way = JoinSet::new();
        loop {
            let wait = self.fire();
            tokio::select! {
                biased;
                is_open = std::future::poll_fn(|context| self.poll_notice(context)) => {
                    if !is_open {
                        return;
                    }
                }
                Some((attempt, settled)) = settling.recv() => {
                    under_way.spawn(self.clone().settle(attempt, settled));
                }
                Some(_) = under_way.join_next() => {}
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Fires what is due; says how long nothing else is.
    fn fire(&self) -> Duration {
        let now = self.ledger.now();
        let mut effects = Effects::default();
        let (next, rested) = {
            let mut inner = self.inner.lock();
            while inner.schedule.end_doomed(TURN_MAX, now, &mut effects) {}
            let next = inner.schedule.fire(TURN_MAX, now, &mut effects);
            let has_lease = self.clock.instant() < self.ledger.lease().until;
            let rested = if has_lease { std::mem::take(&mut inner.resting) } else { Vec::new() };
            (next, rested)
        };
        effects.offers.extend(rested);
        effects.wakes = false;
        self.act(effects);
        next.map_or(REST, |at| at.since(now).clamp(Duration::from_millis(1), REST))
    }

    fn poll_notice(&self, context: &mut std::task::Context<'_>) -> std::task::Poll<bool> {
        let mut notices = self.notices.lock();
        notices.poll_recv(context).map(|notice| {
            let is_open = notice.is_some();
            notice.into_iter().for_each(|notice| self.hear(notice));
            is_open
        })
    }

    fn hear_all(&self) {
        let mut notices = self.notices.lock();
        while let Ok(notice) = notices.try_recv() {
            self.hear(notice);
        }
    }

    fn hear(&self, notice: Notice) {
        let now = self.ledger.now();
        let mut effects = Effects::default();
        {
            let mut inner = self.inner.lock();
            match notice {
                Notice::Acquired(acquired) => {
                    inner.epoch = self.ledger.lease().epoch;
                    acquired.into_iter().for_each(|held| inner.schedule.acquire(held, now, &mut effects));
                    effects.wakes = true;
                }
                Notice::Ended(id, _) => inner.part_with(id),
                Notice::MakeDue(ids) => {
                    drop(inner.schedule.retry(&ids, Again::After(Duration::ZERO), now, &mut effects));
                }
                Notice::Fenced => inner.forget_all(),
                // New mail is refused by the ledger itself, and attempts end at their lease.
                Notice::Unavailable | Notice::Available => {}
            }
        }
        effects.happened.clear();
        self.act(effects);
    }

    fn act(&self, effects: Effects) {
        let Effects { happened, lost, offers, wakes } = effects;
        for (attempt, settled) in settlements(happened) {
            *self.inner.lock().pending.entry(attempt.entry).or_default() += 1;
            // Where nobody settles, nobody does anything else either.
            let _ = self.settlements.send((attempt, settled));
        }
        for entry in lost {
            tracing::error!(%entry, "an attempt did not renew its lease; the entry is offered again");
        }
        for offer in offers {
            let mut inner = self.inner.lock();
            let has_lease = self.clock.instant() < self.ledger.lease().until;
            if !has_lease || inner.pending.contains_key(&offer.entry) {
                inner.resting.push(offer);
            } else {
                drop(inner);
                let _ = self.offers.send(offer);
            }
        }
        if wakes {
            self.changed.notify_one();
        }
    }

    async fn settle(self: Arc<Self>, attempt: Attempt, settled: Settled) {
        let settled = self.ledger.settle(attempt, settled).await;
        let mut inner = self.inner.lock();
        inner.answered(attempt.entry);
        match settled {
            // What cannot be written now is kept by the ledger.
            Ok(()) | Err(Lost::Unavailable | Lost::Fenced) => {}
            Err(Lost::Ended(_) | Lost::TakenOver) => inner.part_with(attempt.entry),
        }
    }

    /// Takes an entry for an attempt.
    ///
    /// # Errors
    /// When there is nothing to claim (any more), or not yet: then it is offered again.
    pub fn claim(self: &Arc<Self>, id: EntryId) -> Result<OwnedClaim, LostClaim> {
        let now = self.ledger.now();
        let mut effects = Effects::default();
        let claimed = {
            let mut inner = self.inner.lock();
            if inner.pending.contains_key(&id) {
                let snapshot = inner.schedule.snapshot(id.message, None);
                let is_ready = |snapshot: &Snapshot| {
                    let entry = snapshot.entries.get(usize::from(id.index));
                    entry.is_some_and(|entry| entry.state == Some(State::Queued))
                };
                let ready = snapshot.filter(is_ready).map(|snapshot| Offer::of(id, snapshot.message));
                inner.resting.extend(ready);
                return Err(LostClaim::Ended);
            }
            let epoch = inner.epoch;
            inner.schedule.claim(id, epoch.0, now, &mut effects).map(|claimed| (claimed, epoch))
        };
        self.act(effects);
        claimed.map(|((hold, content), epoch)| OwnedClaim::new(self.clone(), hold, content, epoch))
    }
}

impl Inner {
    fn admit(
        &mut self,
        new: &NewMessage,
        accepted: &Accepted,
        (now, fresh_until): (Timestamp, Instant),
        effects: &mut Effects,
    ) {
        let message = &new.message;
        self.schedule.shares().add(&message.user, message.envelope.recipients.len());
        let content = SignedContent { signatures: bytes::Bytes::new(), content: new.content.clone() };
        let mut acceptance = new.event.clone();
        acceptance.head.time = now;
        self.schedule.accept(message, content, &new.risks, acceptance, effects);
        for (index, _) in (0..).zip(&message.envelope.recipients) {
            let id = EntryId { message: message.id, index };
            if accepted.overtaken.contains(&index) {
                self.part_with(id);
            } else {
                self.fresh.insert(id, fresh_until);
            }
        }
    }

    fn part_with(&mut self, id: EntryId) {
        self.fresh.remove(&id);
        self.schedule.part_with(id);
    }

    fn forget_all(&mut self) {
        self.schedule = Schedule::new(Supersede::Off);
        self.epoch = Epoch::UNOWNED;
        self.fresh.clear();
        self.resting.clear();
    }

    fn answered(&mut self, id: EntryId) {
        if let Some(count) = self.pending.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.pending.remove(&id);
            }
        }
    }

    fn is_idle(&self, id: EntryId) -> bool {
        let state = self.schedule.snapshot(id.message, None);
        let state = state.and_then(|snapshot| snapshot.entries.get(usize::from(id.index))?.state);
        matches!(state, Some(State::Queued | State::Deferred)) && !self.pending.contains_key(&id)
    }
}

/// What the schedule decided, as verbs to the ledger. That an entry is at risk goes with what it follows from.
fn settlements(happened: Vec<Occurrence>) -> Vec<(Attempt, Settled)> {
    let mut settlements: Vec<(Attempt, Settled)> = Vec::new();
    for occurrence in happened {
        match occurrence {
            Occurrence::Told(changes, event) => settlements.extend(deferral(changes, *event)),
            Occurrence::Ended(changes, ending) => {
                let (entry, event) = (ending.entry(), ending.event);
                if event.kind().is_end() {
                    let attempt = Attempt { entry, number: event.head.attempt };
                    let outcome = progress_of(changes).and_then(|(_, progress)| progress.outcome);
                    let end = End { kind: event.kind(), outcome };
                    let settled = Settled::End { end, events: vec![event], side: Vec::new(), notification: None };
                    settlements.push((attempt, settled));
                } else if let Some((attempt, Settled::Deferred { events, .. })) = settlements.last_mut()
                    && attempt.entry == entry
                {
                    events.push(event);
                }
            }
            // That it is claimed, its gate says; that it is accepted, the ledger has said.
            Occurrence::Stored(_) | Occurrence::Accepted(_) => {}
        }
    }
    settlements
}

fn deferral(changes: Vec<Change>, event: Event) -> Option<(Attempt, Settled)> {
    let (entry, progress) = progress_of(changes)?;
    let attempt = Attempt { entry, number: progress.attempts };
    Some((attempt, Settled::Deferred { progress, events: vec![event], side: Vec::new() }))
}

fn progress_of(changes: Vec<Change>) -> Option<(EntryId, Box<Progress>)> {
    changes.into_iter().find_map(|change| match change {
        Change::Update(entry, progress) => Some((entry, progress)),
        Change::Accept(..) | Change::Remove(_) | Change::Side(..) | Change::Event(_) => None,
    })
}
