//! A claim on an entry: the right to make one attempt, and the duty to say how it ended.

use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use super::outbox::Patience;
use super::schedule::Hold;
pub use super::settlement::Settlement;
use crate::base::clock::Timestamp;
use crate::event::{Attempted, Happened};
use crate::greylist::table::{Greylists, RowChange};
use crate::ledger::attempt::{Attempt, Epoch, Lost, Mark};
use crate::ledger::entry::{LEASE, LostClaim, Message, Progress, SignedContent};
use crate::ledger::rules::Delivery;
use crate::ledger::side::{SideChange, SideTable};
use crate::ledger::{FRESH, LedgerError};
use crate::mail::id::EntryId;
use crate::mail::message::Content;
use crate::policy::failover::Relayed;

/// Why content must not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReleased {
    /// There is nothing to send any more.
    LostClaim(LostClaim),
    /// The note of the attempt could not be written.
    NotNoted,
}

/// How long an entry rests after an attempt that never said how it ended.
const LOST_ATTEMPT_PAUSE: Duration = Duration::from_secs(5);

/// The right to make one attempt. Dropped without being settled, as when the attempt panicked, it defers the entry.
#[derive(Debug)]
pub struct Claim {
    queue: Arc<Queue>,
    hold: Hold,
    content: Option<Arc<SignedContent>>,
    /// Under which it is ours.
    epoch: Epoch,
    is_settled: bool,
}

impl Claim {
    pub(super) fn new(queue: Arc<Queue>, hold: Hold, content: Option<Arc<SignedContent>>, epoch: Epoch) -> Self {
        Self { queue, hold, content, epoch, is_settled: false }
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

    /// The recipient's domain, as `domain_key` writes it.
    pub fn domain(&self) -> String {
        self.hold.message.recipient(self.hold.id.index).mailbox.domain_key()
    }

    /// Says by which way the next attempt goes, if the entry is put off next.
    pub(crate) fn go_by(&mut self, relayed: Option<Relayed>) {
        self.hold.progress.relayed = relayed.map(Box::new);
    }

    /// Whether an attempt with an unknown outcome must be the last.
    pub(crate) fn is_at_most_once(&self) -> bool {
        self.queue.settings.deliver_at_most_once
    }

    /// what is known of the greylisting of destinations.
    pub fn greylists(&self) -> &Greylists {
        &self.queue.greylists
    }

    /// Stores what was learned of greylisting soon, along with how the attempt ended if that is said next; also where the entry
    /// was taken away meanwhile.
    pub(crate) fn store_greylisting(&self, rows: Vec<RowChange>) {
        if !rows.is_empty() {
            let change = |(key, value)| SideChange(SideTable::Greylist, key, value);
            self.queue.ledger.store_soon(rows.into_iter().map(change).collect());
        }
    }

    /// Tells that the attempt begins.
    pub fn begins(&self, destination: Option<Arc<str>>, now: Timestamp) {
        self.queue.publish(self.hold.event(Happened::Attempted { destination }, now));
    }

    /// The content with its signatures, if it is still in memory.
    pub(crate) fn signed_content(&self) -> Option<&Arc<SignedContent>> {
        self.content.as_ref()
    }

    /// The content read back from the store, without signatures; none if it is gone for good.
    ///
    /// # Errors
    /// When it cannot be read for now.
    pub async fn stored_content(&self) -> Result<Option<Content>, LedgerError> {
        self.queue.ledger.content(self.hold.id.message, self.hold.message.expires_at).await
    }

    /// Whether the entry may still be sent: its life is not over, nobody took it away, and nobody can have.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now: Timestamp) -> Result<(), LostClaim> {
        if self.hold.message.expires_at <= now {
            return Err(LostClaim::Expired);
        }
        self.queue.outbox.schedule(|schedule| schedule.check(&self.hold))?;
        let lease = self.queue.ledger.lease();
        let is_ours = lease.epoch == self.epoch && self.queue.clock.instant() < lease.until;
        if is_ours { Ok(()) } else { Err(LostClaim::NotNow) }
    }

    /// Makes the lease outlast a wait of `wait` from now.
    pub(crate) fn renew(&mut self, now: Timestamp, wait: Duration) {
        let ends_at = now.plus(self.queue.clock.within(wait + LEASE));
        self.queue.outbox.schedule(|schedule| schedule.renew(&self.hold, ends_at));
    }

    /// To be called before the content leaves. From then on the entry may arrive, whatever happens to it here. It asks the
    /// ledger, unless the entry was accepted or the ledger asked a moment ago. With `deliver_at_most_once` it always does, and
    /// returns when a note of the attempt is on disk.
    ///
    /// # Errors
    /// When the content must not be sent: the life is over, the entry was taken away, or the note could not be written.
    pub async fn release_content(&mut self, now: Timestamp) -> Result<(), NotReleased> {
        let queue = self.queue.clone();
        self.check(now).map_err(NotReleased::LostClaim)?;
        let hold = &mut self.hold;
        let mark = match queue.settings.delivery() {
            Delivery::AtMostOnce => {
                queue.outbox.schedule(|schedule| schedule.record_content(hold)).map_err(NotReleased::LostClaim)?;
                Some(Mark::Durable)
            }
            Delivery::AtLeastOnce => {
                let is_fresh = queue.outbox.schedule(|schedule| schedule.is_fresh(hold, now));
                (!is_fresh).then_some(Mark::Visible)
            }
        };
        if let Some(mark) = mark {
            self.pass_gate(mark).await?;
        }
        self.check(now.max(queue.ledger.now())).map_err(NotReleased::LostClaim)?;
        let hold = &mut self.hold;
        queue.outbox.schedule(|schedule| schedule.release_content(hold)).map_err(NotReleased::LostClaim)
    }

    async fn pass_gate(&mut self, mark: Mark) -> Result<(), NotReleased> {
        let (queue, entry) = (&self.queue, self.hold.id);
        // What happened to the entry before is written before.
        drop(queue.pass_on(Patience::Wait));
        let attempt = Attempt { entry, number: self.hold.progress.attempts };
        match queue.ledger.gate(attempt, mark).await {
            Ok(()) => {
                let fresh_until = queue.ledger.now().plus(FRESH);
                queue.outbox.schedule(|schedule| schedule.gated(&self.hold, fresh_until));
                Ok(())
            }
            Err(Lost::Unavailable) => Err(NotReleased::NotNoted),
            Err(Lost::Ended(kind)) => {
                self.is_settled = true;
                queue.on_ended(entry, kind);
                Err(NotReleased::LostClaim(LostClaim::Ended))
            }
            Err(Lost::TakenOver | Lost::Fenced) => {
                self.is_settled = true;
                queue.outbox.schedule(|schedule| schedule.part_with(entry));
                Err(NotReleased::LostClaim(LostClaim::Ended))
            }
        }
    }

    /// Says how the attempt ended. If the lease was lost meanwhile, nothing changes.
    pub fn settle(mut self, settlement: Settlement, now: Timestamp) {
        self.settle_once(settlement, now);
    }

    fn settle_once(&mut self, settlement: Settlement, now: Timestamp) {
        self.is_settled = true;
        let hold = &mut self.hold;
        self.queue.apply(Patience::PassBy, |schedule, effects| schedule.settle(hold, settlement, now, effects));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_settled {
            let now = self.queue.ledger.now();
            self.settle_once(Settlement::put_off(Attempted::default(), now.plus(LOST_ATTEMPT_PAUSE)), now);
        }
    }
}
