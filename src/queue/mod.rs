//! The queue: what was accepted and has not ended, on disk and in memory.
//!
//! The store keeps messages; the schedule (who is due when, whose life ends when) lives in memory and is rebuilt at
//! start. Nothing but `intake` puts messages in; each leaves by exactly one end per recipient, said here.

mod admission;
pub mod claim;
mod ending;
pub(crate) mod engine;
mod engine_log;
pub mod entry;
pub mod greylists;
mod inbox;
pub mod journal;
pub mod key_ring;
mod learned;
pub mod memory_store;
pub mod order;
pub mod record;
mod repair;
mod rows;
mod salvage;
mod schedule;
mod seal;
pub mod sled_store;
pub mod steer;
pub mod store;
mod supersede;
mod timers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::{Clock, Timestamp};
use crate::event::{Attempted, Event, Happened, Sink};
use crate::lane::Lane;
use crate::mail::address::{Mailbox, ReversePath};
use crate::mail::id::EntryId;
use crate::shares::{Portion, Shares, Sharing};
pub use admission::{Foreknowledge, Risk};
use claim::{Claim, Gone};
pub use ending::{Aftermath, Consequences, Ending, Telling};
use entry::{LEASE, Lease, Message, State};
use greylists::Greylists;
use journal::{Journal, JournalError};
use schedule::{Common, Restored, Schedule};
use store::{Change, Found, Row, Store, StoreError, Table};
pub use supersede::Supersede;
use timers::Timer;

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

/// Who delivers. Told of every entry that could be sent now; claims it when there is a free slot.
pub trait Workers: Send + Sync {
    /// An entry is ready.
    fn offer(&self, offer: Offer);

    /// A message with this reverse-path to this recipient is about to come: what can be done ahead, may be.
    fn expect(&self, _reverse_path: &ReversePath, _recipient: &Mailbox) {}
}

/// An entry that is ready.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Which.
    pub entry: EntryId,
    /// Its lane.
    pub lane: Lane,
    /// When its life ends.
    pub expires_at: Timestamp,
    /// Its message; the recipient's domain says where it goes.
    pub message: Arc<Message>,
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

/// Numbers about the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages with a live entry.
    pub messages: usize,
    /// Entries that wait for a slot, that are being sent, that wait for their next attempt.
    pub queued: usize,
    /// See above.
    pub sending: usize,
    /// See above.
    pub deferred: usize,
}

/// The queue.
pub struct Queue {
    journal: Journal,
    clock: Arc<dyn Clock>,
    events: Arc<dyn Sink>,
    settings: Settings,
    schedule: Mutex<Schedule>,
    timers_changed: Notify,
    workers: OnceLock<Weak<dyn Workers>>,
    aftermath: OnceLock<Weak<dyn Aftermath>>,
    greylists: Greylists,
    /// Rows of side tables found at start, until somebody takes them.
    side: Mutex<Vec<(Table, Row)>>,
    /// Live entries and those about to be accepted, by user. Locked last.
    entries: Mutex<Shares>,
    sharing: Mutex<Sharing>,
    owner: u64,
    /// What `open` found to have no future.
    restored: Mutex<Restored>,
    /// No more entries are offered.
    stopped: AtomicBool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

/// How the storage does its work.
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
        owner: u64,
    ) -> Result<Arc<Self>, StoreError> {
        let now = clock.now();
        let mut schedule = Schedule::default();
        let mut restored = Restored::default();
        let mut side = Vec::new();
        let mut common = Common::default();
        store.scan(&mut |found| match found {
            Found::Message(message, progress) => {
                let (mut message, mut progress) = entry::taken_up(*message, progress, now);
                common.share(&mut message, &mut progress);
                schedule.restore(Arc::from(message), progress, now, settings.supersede, &mut restored);
            }
            Found::Side(table, row) => side.push((table, row)),
            Found::Unreadable(name) => {
                tracing::error!(record = name, "a stored record cannot be read and was set aside; the rest is served");
            }
        })?;
        let journal = match storage {
            Storage::Threaded => Journal::start(store, clock.clone()).map_err(|e| StoreError::Failed(e.to_string()))?,
            Storage::Inline => Journal::inline(store, clock.clone()),
        };
        let mut entries = Shares::default();
        schedule.held.values().for_each(|held| entries.add(&held.message.user, usize::from(held.live)));
        let greylists = side.extract_if(.., |(of, _)| *of == Table::Greylist).map(|(_, row)| row).collect();
        let queue = Arc::new(Self {
            journal,
            clock,
            events,
            settings,
            schedule: Mutex::new(schedule),
            timers_changed: Notify::new(),
            workers: OnceLock::new(),
            aftermath: OnceLock::new(),
            greylists: Greylists::new(greylists),
            side: Mutex::new(side),
            restored: Mutex::new(restored),
            entries: Mutex::new(entries),
            sharing: Mutex::default(),
            owner,
            stopped: AtomicBool::new(false),
        });
        Ok(queue)
    }

    /// Says who does something about ends; once, before the timers run.
    pub fn set_aftermath(&self, aftermath: Weak<dyn Aftermath>) {
        if self.aftermath.set(aftermath).is_err() {
            tracing::error!("somebody sees to ends already");
        }
    }

    /// The rows of a side table as they were at start; they can be taken once.
    pub fn take_side(&self, table: Table) -> Vec<Row> {
        let mut side = self.side.lock();
        side.extract_if(.., |(of, _)| *of == table).map(|(_, row)| row).collect()
    }

    /// Says whether there are several users, none of whom may fill the queue.
    pub fn set_sharing(&self, sharing: Sharing) {
        *self.sharing.lock() = sharing;
    }

    /// What destinations were seen to do with strangers.
    pub fn greylists(&self) -> &Greylists {
        &self.greylists
    }

    /// Says who delivers; once, before the timers run.
    pub fn set_workers(&self, workers: Weak<dyn Workers>) {
        if self.workers.set(workers).is_err() {
            tracing::error!("the queue has workers already");
        }
    }

    /// Stores rows of side tables.
    ///
    /// # Errors
    /// When they could not be stored.
    pub async fn store_side(&self, changes: Vec<Change>) -> Result<(), AppendError> {
        Ok(self.journal.commit(Lane::Otp, changes).await?)
    }

    /// Takes an entry for an attempt. It stays claimed until the claim is settled or dropped, or its lease ends.
    ///
    /// # Errors
    /// When there is nothing to claim (any more).
    pub fn claim(self: &Arc<Self>, id: EntryId, now: Timestamp) -> Result<Claim, Gone> {
        let mut guard = self.schedule.lock();
        let schedule = &mut *guard;
        let Some(held) = schedule.held.get_mut(&id.message) else { return Err(Gone::Ended) };
        if held.message.expires_at <= now {
            return Err(Gone::Expired);
        }
        let message = held.message.clone();
        let content = held.content.clone();
        let entry = &mut held.entries[usize::from(id.index)];
        if entry.state != Some(State::Queued) {
            return Err(Gone::Ended);
        }
        schedule.next_token += 1;
        let lease = Lease { owner: self.owner, token: schedule.next_token, ends_at: now.plus(LEASE) };
        entry.state = Some(State::Sending);
        entry.is_out = false;
        entry.progress.lease = Some(lease);
        entry.progress.attempts = entry.progress.attempts.saturating_add(1);
        let progress = entry.progress.clone();
        let is_first = schedule.add_timer(lease.ends_at, id, Timer::Lease);
        drop(guard);
        if is_first {
            self.timers_changed.notify_one();
        }
        // A fresh entry's lease goes without saying: it belongs to whoever accepted it, and ends with the process.
        if progress.attempts > 1 {
            self.journal.commit_later(vec![Change::Update(id, Box::new(progress.clone()))]);
        }
        Ok(Claim::new(self.clone(), id, lease, message, content, progress))
    }

    /// Tells that a live entry waits for a slot at this destination.
    pub fn waits_for_slot(&self, id: EntryId, destination: Arc<str>) {
        let schedule = self.schedule.lock();
        let Some(held) = schedule.held.get(&id.message) else { return };
        let (message, progress) = (held.message.clone(), held.entries[usize::from(id.index)].progress.clone());
        drop(schedule);
        let head = message.entry_head(id.index, progress.attempts, self.clock.now());
        let (destination, reply) = (Some(destination), progress.last_reply);
        let attempted = Attempted { destination, reply, ..Attempted::default() };
        self.events.emit(Event { head, what: Happened::Queued(attempted) });
    }

    /// Messages and entries by state.
    pub fn depth(&self) -> Depth {
        let mut depth = Depth::default();
        self.in_slices(None, |schedule, ids| {
            depth.messages += ids.len();
            for entry in ids.iter().filter_map(|id| schedule.held.get(id)).flat_map(|held| held.entries.iter()) {
                match entry.state {
                    Some(State::Queued) => depth.queued += 1,
                    Some(State::Sending) => depth.sending += 1,
                    Some(State::Deferred) => depth.deferred += 1,
                    None => {}
                }
            }
        });
        depth
    }

    /// Whether new mail can be stored.
    pub fn is_able_to_store(&self) -> bool {
        !self.journal.is_failing()
    }

    /// Why new mail cannot be stored, while it cannot.
    pub fn storage_fault(&self) -> Option<Arc<str>> {
        self.journal.fault()
    }

    /// Offers no more entries. Claims that are held can still be settled.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.timers_changed.notify_one();
    }

    /// As a crash would have it: from now on nothing that happens to claims is written down or told.
    pub fn freeze(&self) {
        self.stop();
        *self.schedule.lock() = Schedule::default();
    }

    /// Writes down what is left and closes the store.
    pub fn close(&self) {
        self.stop();
        self.journal.close();
    }

    /// Makes everything done so far durable.
    ///
    /// # Errors
    /// When it could not be.
    pub async fn flush(&self) -> Result<(), JournalError> {
        self.journal.flush().await
    }

    /// Looks at the timers anew: while the machine was suspended, more time passed than the runtime's timer knows of.
    pub fn look_at_timers(&self) {
        self.timers_changed.notify_one();
    }

    /// Tells the workers that a message is about to come.
    pub fn expect(&self, reverse_path: &ReversePath, recipient: &Mailbox) {
        if let Some(workers) = self.workers.get().and_then(Weak::upgrade) {
            workers.expect(reverse_path, recipient);
        }
    }

    fn offer(&self, entry: EntryId, message: Arc<Message>) {
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        if let Some(workers) = self.workers.get().and_then(Weak::upgrade) {
            workers.offer(Offer { entry, lane: message.lane, expires_at: message.expires_at, message });
        }
    }
}
