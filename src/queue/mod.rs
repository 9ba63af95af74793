//! The queue: what was accepted and has not ended, on disk and in memory.
//!
//! The ledger keeps messages, and says what is ours of them; the schedule (who is due when, whose life ends when) lives in
//! memory and is built of that. What the schedule decides is a verb to the ledger, which may say that it is too late: others
//! may share it. Nothing but `intake` puts messages in; each leaves by exactly one end per recipient, said here.

mod admission;
pub mod claim;
mod effects;
mod ending;
mod everywhere;
mod index;
pub mod inspect;
mod notices;
mod offers;
pub(crate) mod order;
mod outbox;
mod schedule;
mod settlement;
mod tables;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timers;
mod verbs;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::base::clock::{Clock, Timestamp};
use crate::base::shares::{Portion, Sharing};
use crate::event::{Attempted, Event, Happened, Head, Sink};
use crate::greylist::table::Greylists;
use crate::ledger::accept::Refused;
use crate::ledger::attempt::Notice;
use crate::ledger::cursor::Cursor;
use crate::ledger::entry::{LEASE, LostClaim};
use crate::ledger::latest::Latest;
use crate::ledger::outbox::Read;
use crate::ledger::read::Activity;
use crate::ledger::rules::Delivery;
use crate::ledger::side::{SideChange, SideRow, SideTable};
use crate::ledger::{Ledger, LedgerError};
use crate::mail::id::EntryId;
pub use admission::Acceptance;
use claim::Claim;
pub use effects::Offer;
pub(crate) use ending::Entail;
pub use ending::{Consequences, Ending, Reporting};
use offers::OfferQueue;
pub(crate) use offers::Offered;
pub use offers::Offers;
use outbox::{Outbox, Patience};
pub(crate) use schedule::Depth;
use schedule::Schedule;
use verbs::Verbs;

/// What the queue needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Live entries at most.
    pub entries_max: usize,
    /// Whether an attempt is noted on disk before its last bytes leave.
    pub deliver_at_most_once: bool,
}

impl Settings {
    /// How often content may go.
    pub(crate) fn delivery(&self) -> Delivery {
        if self.deliver_at_most_once { Delivery::AtMostOnce } else { Delivery::AtLeastOnce }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { entries_max: 200_000, deliver_at_most_once: false }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// `queue.entries_max` is reached.
    #[error("the queue is full")]
    QueueFull {
        /// So many entries.
        entries_max: usize,
    },
    /// The user has its share of `queue.entries_max` already: so many.
    #[error("the user's share of the queue is full")]
    ShareFull(Portion),
    /// The ledger did not take it.
    #[error("the ledger refused it")]
    Refused(Refused),
}

/// The queue. Of its locks `outbox` has its own order (at the head of `queue/outbox.rs`); the others are held for a look or a
/// push of a value.
pub struct Queue {
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    events: Arc<dyn Sink>,
    /// As [`Entail`].
    entail: Box<dyn Fn(&Ending) -> Consequences + Send + Sync>,
    settings: Settings,
    outbox: Outbox,
    verbs: Verbs,
    /// Heard under this lock, so that their order is kept.
    notices: Mutex<mpsc::Receiver<Notice>>,
    timers_changed: Notify,
    offering: Arc<OfferQueue>,
    greylists: Greylists,
    sharing: Mutex<Sharing>,
    /// No more entries are offered.
    stopped: AtomicBool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

/// Somebody else hears what becomes of what the ledger says is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another queue is open on this ledger")]
pub struct AlreadyOpen;

impl Queue {
    /// Takes up what the ledger says is ours, now and from now on.
    ///
    /// # Errors
    /// Where another queue does already.
    pub fn open(
        ledger: Arc<dyn Ledger>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        events: Arc<dyn Sink>,
        entail: Entail,
    ) -> Result<Arc<Self>, AlreadyOpen> {
        let notices = Mutex::new(ledger.notices().ok_or(AlreadyOpen)?);
        let schedule = Schedule::new(ledger.lease().epoch);
        let greylists = Greylists::new(ledger.take_side(SideTable::Greylist));
        let queue = Arc::new(Self {
            ledger,
            clock,
            events,
            entail,
            settings,
            outbox: Outbox::new(schedule),
            verbs: Verbs::default(),
            notices,
            timers_changed: Notify::new(),
            offering: Arc::default(),
            greylists,
            sharing: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        queue.on_waiting_notices();
        Ok(queue)
    }

    /// The rows of a side table as they were at start; they can be taken once.
    pub(crate) fn take_side(&self, table: SideTable) -> Vec<SideRow> {
        self.ledger.take_side(table)
    }

    /// Says whether there are several users, none of whom may fill the queue.
    pub(crate) fn set_sharing(&self, sharing: Sharing) {
        *self.sharing.lock() = sharing;
    }

    /// what is known of the greylisting of destinations.
    pub fn greylists(&self) -> &Greylists {
        &self.greylists
    }

    /// Where entries that are ready are told; it can be taken once.
    pub fn take_offers(&self) -> Option<Offers> {
        self.offering.take()
    }

    /// Stores rows of side tables.
    ///
    /// # Errors
    /// When they could not be stored.
    pub(crate) async fn store_side(&self, changes: Vec<SideChange>) -> Result<(), LedgerError> {
        self.ledger.store(changes).await
    }

    /// Forgets at which hosts a recipient (`Mailbox::plain_key`) is greylisted, or was.
    ///
    /// # Errors
    /// When that could not be stored.
    pub(crate) async fn forget_waits(&self, recipient: &str) -> Result<(), LedgerError> {
        let changed = |(key, value)| SideChange(SideTable::Greylist, key, value);
        self.store_side(self.greylists.forget(recipient).into_iter().map(changed).collect()).await
    }

    /// Takes an entry for an attempt. It stays claimed until the claim is settled or dropped, or its lease ends.
    ///
    /// # Errors
    /// When there is nothing to claim (any more).
    pub fn claim(self: &Arc<Self>, id: EntryId, now: Timestamp) -> Result<Claim, LostClaim> {
        let claimed = self.apply(Patience::PassBy, |schedule, effects| {
            // Looked at under the schedule's lock, so that whoever hands it over sees one or the other.
            if self.verbs.is_pending(id) {
                return Err(LostClaim::NotNow);
            }
            let claimed = schedule.claim(id, now, effects)?;
            Ok((claimed, schedule.owner()))
        });
        if matches!(claimed, Err(LostClaim::NotNow)) {
            self.rest(id);
        }
        let ((hold, content), epoch) = claimed?;
        let mut claim = Claim::new(self.clone(), hold, content, epoch);
        if self.clock.within(LEASE) > LEASE {
            claim.renew(now, Duration::ZERO);
        }
        Ok(claim)
    }

    /// Tells that a live entry waits for a slot at this destination.
    pub(crate) fn waits_for_slot(&self, id: EntryId, destination: Arc<str>) {
        let now = self.ledger.now();
        let known = self.outbox.schedule(|schedule| {
            let (message, progress) = schedule.progress(id)?;
            Some((message.entry_head(id.index, progress.attempts, now), progress.last_reply.clone()))
        });
        let Some((head, reply)) = known else { return };
        let attempted = Attempted { destination: Some(destination), reply, ..Attempted::default() };
        self.publish(Event { head, what: Happened::Queued(attempted) });
    }

    /// Tells what is only informative: it is stored soon, along with what else changes.
    pub(crate) fn publish(&self, event: Event) {
        self.ledger.publish(event.clone());
        self.events.emit(event);
    }

    /// The app says that the code of a message was used.
    ///
    /// # Errors
    /// When that could not be stored.
    pub(crate) async fn verified(&self, head: Head, since_delivered: Option<Duration>) -> Result<(), LedgerError> {
        self.commit_event(Event { head, what: Happened::Verified { since_delivered } }).await
    }

    /// Commits an event that changes nothing else.
    ///
    /// # Errors
    /// When that could not be stored.
    pub(crate) async fn commit_event(&self, event: Event) -> Result<(), LedgerError> {
        self.ledger.record(event.clone()).await?;
        self.events.emit(event);
        Ok(())
    }

    /// The latest events that were committed; who lags reads on by [`Queue::events_after`].
    pub fn happened(&self) -> &Arc<Latest> {
        self.ledger.latest()
    }

    /// Up to `most` events behind a place, more where they come from the store.
    ///
    /// # Errors
    /// When they cannot be read for now.
    pub async fn events_after(&self, at: Cursor, most: usize) -> Result<Read, LedgerError> {
        self.ledger.events(at, most).await
    }

    /// The same, for threads that may wait.
    ///
    /// # Errors
    /// When they cannot be read for now.
    pub fn wait_for_events_after(&self, at: Cursor, most: usize) -> Result<Read, LedgerError> {
        futures_executor::block_on(self.ledger.events(at, most))
    }

    /// Takes a recipient's events out, wherever they are; their numbers stay. Says how many of those in memory.
    ///
    /// # Errors
    /// When the ledger failed; then there may be some left.
    pub async fn erase(&self, plain: &str) -> Result<usize, LedgerError> {
        self.ledger.erase(plain.into()).await
    }

    /// Messages and entries by state.
    pub fn depth(&self) -> Depth {
        self.outbox.schedule(|schedule| schedule.depth())
    }

    /// Live entries at most.
    pub fn entries_max(&self) -> usize {
        self.settings.entries_max
    }

    /// Whether new mail can be stored.
    pub(crate) fn is_able_to_store(&self) -> bool {
        self.storage_fault().is_none()
    }

    /// Why new mail cannot be stored, while it cannot.
    pub(crate) fn storage_fault(&self) -> Option<Arc<str>> {
        self.ledger.health().fault
    }

    /// What the ledger's storage is at.
    pub(crate) fn storage_activity(&self) -> Activity {
        self.ledger.health().activity
    }

    /// Whether entries are offered no more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Offers no more entries. Claims that are held can still be settled.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.timers_changed.notify_one();
    }

    /// As a crash would have it: from now on nothing that happens to claims is written down or told.
    pub fn freeze(&self) {
        self.stop();
        self.outbox.clear();
    }

    /// Writes down what is left and leaves the ledger.
    pub fn close(&self) {
        self.stop();
        drop(self.pass_on(Patience::Wait));
        futures_executor::block_on(self.ledger.shutdown(Duration::ZERO));
    }

    /// Makes everything done so far durable.
    ///
    /// # Errors
    /// When it could not be.
    pub async fn flush(&self) -> Result<(), LedgerError> {
        drop(self.pass_on(Patience::Wait));
        self.ledger.flush().await
    }

    /// Looks at the timers anew: while the machine was suspended, more time passed than the runtime's timer knows of.
    pub fn look_at_timers(&self) {
        self.timers_changed.notify_one();
    }
}
