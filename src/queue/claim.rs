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
use crate::ledger::embedded::journal::JournalError;
use crate::ledger::embedded::store::{Change, Table};
use crate::ledger::entry::LostClaim;
use crate::ledger::entry::{LEASE, Message, Progress, SignedContent};
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
    is_settled: bool,
}

impl Claim {
    pub(super) fn new(queue: Arc<Queue>, hold: Hold, content: Option<Arc<SignedContent>>) -> Self {
        Self { queue, hold, content, is_settled: false }
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
            let change = |(key, value)| Change::Side(Table::Greylist, key, value);
            self.queue.journal.commit_later(rows.into_iter().map(change).collect());
        }
    }

    /// Tells that the attempt begins.
    pub fn begins(&self, destination: Option<Arc<str>>, now: Timestamp) {
        self.queue.tell(self.hold.event(Happened::Attempted { destination }, now));
    }

    /// The content with its signatures, if it is still in memory.
    pub(crate) fn signed_content(&self) -> Option<&Arc<SignedContent>> {
        self.content.as_ref()
    }

    /// The content read back from the store, without signatures; none if it is gone for good.
    ///
    /// # Errors
    /// When it cannot be read for now.
    pub(crate) async fn stored_content(&self) -> Result<Option<Content>, JournalError> {
        self.queue.journal.content(self.hold.message.lane, self.hold.id.message).await
    }

    /// Whether the entry may still be sent: its life is not over, and nobody took it away.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now: Timestamp) -> Result<(), LostClaim> {
        if self.hold.message.expires_at <= now {
            return Err(LostClaim::Expired);
        }
        self.queue.outbox.schedule(|schedule| schedule.check(&self.hold))
    }

    /// Makes the lease outlast a wait of `wait` from now.
    pub(crate) fn renew(&mut self, now: Timestamp, wait: Duration) {
        let ends_at = now.plus(self.queue.clock.within(wait + LEASE));
        self.queue.outbox.schedule(|schedule| schedule.renew(&self.hold, ends_at));
    }

    /// To be called before the content leaves. From then on the entry may arrive, whatever happens to it here. With
    /// `deliver_at_most_once` it returns when a note of the attempt is on disk.
    ///
    /// # Errors
    /// When the content must not be sent: the life is over, the entry was taken away, or the note could not be written.
    pub(crate) async fn release_content(&mut self, now: Timestamp) -> Result<(), NotReleased> {
        if self.queue.settings.deliver_at_most_once {
            self.check(now).map_err(NotReleased::LostClaim)?;
            let hold = &mut self.hold;
            self.queue.outbox.schedule(|schedule| schedule.note_content(hold)).map_err(NotReleased::LostClaim)?;
            let change = Change::Update(self.hold.id, Box::new(self.hold.progress.clone()));
            // What happened to the entry before is written before.
            drop(self.queue.pass_on(Patience::Wait));
            let noted = self.queue.journal.commit(self.hold.message.lane, vec![change]).await;
            noted.map_err(|_| NotReleased::NotNoted)?;
        }
        let now = now.max(self.queue.clock.now());
        if self.hold.message.expires_at <= now {
            return Err(NotReleased::LostClaim(LostClaim::Expired));
        }
        let hold = &mut self.hold;
        self.queue.outbox.schedule(|schedule| schedule.release_content(hold)).map_err(NotReleased::LostClaim)
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
            let now = self.queue.clock.now();
            self.settle_once(Settlement::put_off(Attempted::default(), now.plus(LOST_ATTEMPT_PAUSE)), now);
        }
    }
}
