//! A claim on an entry that others could take over: besides being ours it needs a lease, and content goes behind a gate.

use std::sync::Arc;

use super::Owned;
use crate::base::clock::Timestamp;
use crate::event::Attempted;
use crate::ledger::FRESH;
use crate::ledger::LedgerError;
use crate::ledger::attempt::{Attempt, Epoch, Lost, Mark};
use crate::ledger::entry::{LostClaim, Message, Progress, SignedContent};
use crate::ledger::rules::Delivery;
use crate::mail::id::EntryId;
use crate::mail::message::Content;
use crate::queue::effects::Effects;
use crate::queue::schedule::Hold;
use crate::queue::settlement::Settlement;

/// Why content must not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReleased {
    /// There is nothing to send any more.
    LostClaim(LostClaim),
    /// The lease is over, or the ledger does not answer: later perhaps.
    NotNow,
}

/// The right to make one attempt. Dropped without being settled, the attempt does not count.
#[derive(Debug)]
pub struct OwnedClaim {
    owned: Arc<Owned>,
    hold: Hold,
    content: Option<Arc<SignedContent>>,
    epoch: Epoch,
    is_settled: bool,
}

impl OwnedClaim {
    pub(super) fn new(owned: Arc<Owned>, hold: Hold, content: Option<Arc<SignedContent>>, epoch: Epoch) -> Self {
        Self { owned, hold, content, epoch, is_settled: false }
    }

    /// The entry.
    pub fn id(&self) -> EntryId {
        self.hold.id
    }

    /// Its message.
    pub fn message(&self) -> &Arc<Message> {
        &self.hold.message
    }

    /// How far it got, this attempt counted.
    pub fn progress(&self) -> &Progress {
        &self.hold.progress
    }

    /// Under which it is ours.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The content; none: it is gone, or its key is.
    ///
    /// # Errors
    /// When it cannot be read for now.
    pub async fn content(&self) -> Result<Option<Content>, LedgerError> {
        match &self.content {
            Some(signed) => Ok(Some(signed.content.clone())),
            None => self.owned.ledger.content(self.hold.id.message, self.hold.message.expires_at).await,
        }
    }

    /// Asked before each connection, and between the gate and the last octets of the content: whether the entry may still be
    /// sent.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), NotReleased> {
        if self.hold.message.expires_at <= self.owned.ledger.now() {
            return Err(NotReleased::LostClaim(LostClaim::Expired));
        }
        let held = self.owned.inner.lock().schedule.check(&self.hold);
        held.map_err(NotReleased::LostClaim)?;
        let lease = self.owned.ledger.lease();
        let is_ours = lease.epoch == self.epoch && self.owned.clock.instant() < lease.until;
        if is_ours { Ok(()) } else { Err(NotReleased::NotNow) }
    }

    /// To be called before the content leaves: the gate, unless the entry was accepted or gated a moment ago, and another look
    /// behind it.
    ///
    /// # Errors
    /// When the content must not be sent.
    pub async fn release_content(&mut self) -> Result<(), NotReleased> {
        self.check()?;
        let (owned, id) = (self.owned.clone(), self.hold.id);
        let fresh_until = owned.inner.lock().fresh.get(&id).copied();
        let is_fresh = fresh_until.is_some_and(|until| owned.clock.instant() < until);
        if !is_fresh || owned.delivery == Delivery::AtMostOnce {
            let mark = if owned.delivery == Delivery::AtMostOnce { Mark::Durable } else { Mark::Visible };
            let attempt = Attempt { entry: id, number: self.hold.progress.attempts };
            match owned.ledger.gate(attempt, mark).await {
                Ok(()) => drop(owned.inner.lock().fresh.insert(id, owned.clock.instant() + FRESH)),
                Err(Lost::Unavailable) => return Err(NotReleased::NotNow),
                Err(Lost::Ended(_) | Lost::TakenOver | Lost::Fenced) => {
                    self.is_settled = true;
                    owned.inner.lock().part_with(id);
                    return Err(NotReleased::LostClaim(LostClaim::Ended));
                }
            }
        }
        self.check()?;
        let released = owned.inner.lock().schedule.release_content(&mut self.hold);
        released.map_err(NotReleased::LostClaim)
    }

    /// Says how the attempt ended. If the entry was lost meanwhile, nothing changes.
    pub fn settle(mut self, settlement: Settlement) {
        let now = self.owned.ledger.now();
        self.settle_once(settlement, now);
    }

    fn settle_once(&mut self, settlement: Settlement, now: Timestamp) {
        self.is_settled = true;
        let mut effects = Effects::default();
        {
            let mut inner = self.owned.inner.lock();
            inner.fresh.remove(&self.hold.id);
            inner.schedule.settle(&mut self.hold, settlement, now, &mut effects);
            // What was released could not go now.
            inner.resting.append(&mut effects.offers);
        }
        self.owned.act(effects);
    }
}

impl Drop for OwnedClaim {
    fn drop(&mut self) {
        if !self.is_settled {
            let now = self.owned.ledger.now();
            self.settle_once(Settlement::Released(Attempted::default()), now);
        }
    }
}
