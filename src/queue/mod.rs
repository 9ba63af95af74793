//! The queue: what was accepted and has not ended, on disk and in memory.
//!
//! The store keeps messages; the schedule (who is due when, whose life ends when) lives in memory and is rebuilt at
//! start. Nothing but `intake` puts messages in; each leaves by exactly one end per recipient, said here.

mod admission;
pub mod claim;
mod effects;
mod ending;
mod index;
pub mod inspect;
mod offers;
pub(crate) mod order;
mod outbox;
pub mod owned;
mod risk;
mod schedule;
mod settlement;
mod slots;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::accounts::supersede::Supersede;
use crate::base::clock::{Clock, Timestamp};
use crate::base::lane::Lane;
use crate::base::shares::{Portion, Sharing};
use crate::event::{Attempted, Event, Happened, Head, Sink};
use crate::greylist::table::Greylists;
use crate::ledger::embedded::events::Events;
use crate::ledger::embedded::journal::{Activity, Journal, JournalError};
use crate::ledger::embedded::store::{Change, Found, Row, Store, StoreError, Table};
use crate::ledger::entry::{LEASE, LostClaim};
use crate::mail::id::EntryId;
use claim::Claim;
pub use effects::Offer;
pub(crate) use ending::Entail;
pub use ending::{Consequences, Ending, Telling};
use offers::OfferQueue;
pub(crate) use offers::{Offered, Offers};
use outbox::{Outbox, Patience};
pub use risk::Foreknowledge;
pub(crate) use risk::Risk;
pub(crate) use schedule::Depth;
use schedule::{Common, Schedule};

/// What the queue needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Live entries at most.
    pub entries_max: usize,
    /// Whether an attempt is noted on disk before its last bytes leave.
    pub deliver_at_most_once: bool,
    /// Which newer message takes the place of which older one.
    pub supersede: Supersede,
}

impl Default for Settings {
    fn default() -> Self {
        Self { entries_max: 200_000, deliver_at_most_once: false, supersede: Supersede::default() }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
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
    /// The store did not take it.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The queue. Of its locks `outbox` has its own order (at the head of `queue/outbox.rs`); the others are held for a look or a
/// push of a value.
pub struct Queue {
    journal: Journal,
    clock: Arc<dyn Clock>,
    events: Arc<dyn Sink>,
    /// As [`Entail`].
    entail: Box<dyn Fn(&Ending) -> Consequences + Send + Sync>,
    settings: Settings,
    outbox: Outbox,
    timers_changed: Notify,
    offering: Arc<OfferQueue>,
    greylists: Greylists,
    /// Rows of side tables found at start, until somebody takes them.
    side: Mutex<Vec<(Table, Row)>>,
    sharing: Mutex<Sharing>,
    owner: u64,
    /// No more entries are offered.
    stopped: AtomicBool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

/// How the storage thread does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On a thread of its own.
    Threaded,
    /// In the caller's place, for simulation.
    Inline,
}

impl Queue {
    /// Takes up what the store holds. `owner` is a number that no other process uses; whoever opens the store has
    /// shown by its lock that all former owners are gone, so their leases end here.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(
        mut store: Box<dyn Store>,
        storage: Storage,
        settings: Settings,
        clock: Arc<dyn Clock>,
        events: Arc<dyn Sink>,
        entail: Entail,
        owner: u64,
    ) -> Result<Arc<Self>, StoreError> {
        let now = clock.now();
        let mut schedule = Schedule::new(settings.supersede);
        let mut side = Vec::new();
        let mut common = Common::default();
        store.scan(&mut |found| match found {
            Found::Message(message, progress) => {
                let (mut message, mut progress) = crate::ledger::entry::taken_up(*message, progress, now);
                common.share(&mut message, &mut progress);
                schedule.restore(Arc::from(message), progress, now);
            }
            Found::Side(table, row) => side.push((table, row)),
            Found::Unreadable(name) => {
                tracing::error!(record = name, "a stored record cannot be read and was set aside; the rest is served");
            }
        })?;
        let journal = match storage {
            Storage::Threaded => Journal::start(store, clock.clone())?,
            Storage::Inline => Journal::inline(store, clock.clone())?,
        };
        let greylists = side.extract_if(.., |(of, _)| *of == Table::Greylist).map(|(_, row)| row).collect();
        Ok(Arc::new(Self {
            journal,
            clock,
            events,
            entail,
            settings,
            outbox: Outbox::new(schedule),
            timers_changed: Notify::new(),
            offering: Arc::default(),
            greylists: Greylists::new(greylists),
            side: Mutex::new(side),
            sharing: Mutex::default(),
            owner,
            stopped: AtomicBool::new(false),
        }))
    }

    /// The rows of a side table as they were at start; they can be taken once.
    pub(crate) fn take_side(&self, table: Table) -> Vec<Row> {
        let mut side = self.side.lock();
        side.extract_if(.., |(of, _)| *of == table).map(|(_, row)| row).collect()
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
    pub(crate) async fn store_side(&self, changes: Vec<Change>) -> Result<(), AppendError> {
        Ok(self.journal.commit(Lane::Otp, changes).await?)
    }

    /// Forgets at which hosts a recipient (`Mailbox::plain_key`) is greylisted, or was.
    ///
    /// # Errors
    /// When that could not be stored.
    pub(crate) async fn forget_waits(&self, recipient: &str) -> Result<(), AppendError> {
        let changed = |(key, value)| Change::Side(Table::Greylist, key, value);
        self.store_side(self.greylists.forget(recipient).into_iter().map(changed).collect()).await
    }

    /// Takes an entry for an attempt. It stays claimed until the claim is settled or dropped, or its lease ends.
    ///
    /// # Errors
    /// When there is nothing to claim (any more).
    pub fn claim(self: &Arc<Self>, id: EntryId, now: Timestamp) -> Result<Claim, LostClaim> {
        let claimed = self.apply(Patience::PassBy, |schedule, effects| schedule.claim(id, self.owner, now, effects));
        let mut claim = claimed.map(|(hold, content)| Claim::new(self.clone(), hold, content))?;
        if self.clock.within(LEASE) > LEASE {
            claim.renew(now, Duration::ZERO);
        }
        Ok(claim)
    }

    /// Tells that a live entry waits for a slot at this destination.
    pub(crate) fn waits_for_slot(&self, id: EntryId, destination: Arc<str>) {
        let now = self.clock.now();
        let known = self.outbox.schedule(|schedule| {
            let (message, progress) = schedule.progress(id)?;
            Some((message.entry_head(id.index, progress.attempts, now), progress.last_reply.clone()))
        });
        let Some((head, reply)) = known else { return };
        let attempted = Attempted { destination: Some(destination), reply, ..Attempted::default() };
        self.tell(Event { head, what: Happened::Queued(attempted) });
    }

    /// Tells what is only informative: it is stored soon, along with what else changes.
    pub(crate) fn tell(&self, event: Event) {
        self.journal.commit_later(vec![Change::Event(Arc::new(event.clone()))]);
        self.events.emit(event);
    }

    /// The app says that the code of a message was used.
    ///
    /// # Errors
    /// When that could not be stored.
    pub(crate) async fn verified(&self, head: Head, since_delivered: Option<Duration>) -> Result<(), JournalError> {
        self.commit_event(Event { head, what: Happened::Verified { since_delivered } }).await
    }

    /// Commits an event that changes nothing else.
    ///
    /// # Errors
    /// When that could not be stored.
    pub(crate) async fn commit_event(&self, event: Event) -> Result<(), JournalError> {
        let lane = event.head.lane;
        self.journal.commit(lane, vec![Change::Event(Arc::new(event.clone()))]).await?;
        self.events.emit(event);
        Ok(())
    }

    /// The events that were committed; who lags reads on by [`Queue::journal`].
    pub fn happened(&self) -> &Arc<Events> {
        self.journal.events()
    }

    /// Where events and content are read from the store.
    pub fn journal(&self) -> &Journal {
        &self.journal
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
        !self.journal.is_failing()
    }

    /// Why new mail cannot be stored, while it cannot.
    pub(crate) fn storage_fault(&self) -> Option<Arc<str>> {
        self.journal.fault()
    }

    /// What the storage thread is at.
    pub(crate) fn storage_activity(&self) -> Activity {
        self.journal.activity(self.clock.instant())
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

    /// Writes down what is left and closes the store.
    pub fn close(&self) {
        self.stop();
        drop(self.pass_on(Patience::Wait));
        self.journal.close();
    }

    /// Makes everything done so far durable.
    ///
    /// # Errors
    /// When it could not be.
    pub async fn flush(&self) -> Result<(), JournalError> {
        drop(self.pass_on(Patience::Wait));
        self.journal.flush().await
    }

    /// Looks at the timers anew: while the machine was suspended, more time passed than the runtime's timer knows of.
    pub fn look_at_timers(&self) {
        self.timers_changed.notify_one();
    }
}
